"""A view of something that runs: the browser asks for the next frame when it has painted the last.

No thread touches a widget, so nothing piles up on a slow link and the view works where only comm messages reach the
kernel. ``live_view`` takes anywidget where it is installed and core ipywidgets (7.7 or 8) elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import ipywidgets as widgets
import traitlets

from helpers.widgets.job import Job

try:
    import anywidget
except ImportError:  # the fall-back below needs core ipywidgets only
    anywidget = None

# the HTML of the next frame, None where there is none yet, and seconds to wait before the one after it
Frame = Callable[[], tuple[str | None, float]]

TICK = 200  # milliseconds between two frames of the fall-back

ESM = """
function render({ model, el }) {
  const me = String(Math.random());  // several views of one model: each asks for itself
  let open = true, asked = false, painted = null;
  const paint = async (html) => {
    if (html === painted) return;
    el.innerHTML = painted = html;
    await Promise.all([...el.querySelectorAll("img")].map((image) => image.decode().catch(() => {})));
    await new Promise(requestAnimationFrame);
  };
  const ask = () => {
    if (open && !asked && model.get("running")) {
      asked = true;
      model.send({ ask: me });
    }
  };
  const answer = async (message) => {
    if (message.ask !== me) return;
    if (message.html !== null) await paint(message.html);
    asked = false;
    setTimeout(ask, message.wait);
  };
  const still = () => { if (!model.get("running")) paint(model.get("html")); };
  const run = () => {
    asked = false;
    ask();
    still();  // a last frame that was still being painted must not stay
  };
  model.on("msg:custom", answer);
  model.on("change:html", still);
  model.on("change:running", run);
  still();
  ask();
  return () => {
    open = false;
    model.off("msg:custom", answer);
    model.off("change:html", still);
    model.off("change:running", run);
  };
}
export default { render };
"""


if anywidget is not None:

    class LiveView(anywidget.AnyWidget):
        """Shows ``html``; while ``running`` it asks for frames instead."""

        _esm = ESM
        html = traitlets.Unicode().tag(sync=True)
        running = traitlets.Bool().tag(sync=True)

        def __init__(self, frame: Frame, **options):
            super().__init__(**options)
            self.frame = frame
            self.on_msg(self._answer)

        def _answer(self, _, content: dict, buffers) -> None:
            html, wait = self.frame()
            self.send({"ask": content.get("ask"), "html": html, "wait": round(1000 * wait)})


class PlayView(widgets.VBox):
    """The same with core widgets: a hidden ``Play`` is the clock; it, too, ticks in the browser.

    That of ipywidgets 7 starts by its own button only, so there it is shown during a run.
    """

    def __init__(self, frame: Frame, **options):
        self.picture = widgets.HTML()
        self.clock = widgets.Play(min=0, max=1_000_000, interval=TICK, layout=widgets.Layout(display="none"))
        self.hint = widgets.HTML("Press ▶ to watch the run.", layout=widgets.Layout(display="none"))
        self.frame = frame
        super().__init__([self.hint, self.clock, self.picture], **options)
        self._starts = self.clock.has_trait("playing")  # from here: ipywidgets 8
        self._playing = "playing" if self._starts else "_playing"
        self.clock.observe(self._tick, "value")

    def _tick(self, _) -> None:
        if self.running and (html := self.frame()[0]) is not None:
            self.html = html

    @property
    def html(self) -> str:
        return self.picture.value

    @html.setter
    def html(self, html: str) -> None:
        self.picture.value = html

    @property
    def running(self) -> bool:
        return getattr(self.clock, self._playing)

    @running.setter
    def running(self, running: bool) -> None:
        setattr(self.clock, self._playing, running)
        if not self._starts:
            self.hint.layout.display = self.clock.layout.display = None if running else "none"


class Pace:
    """Seconds to wait between two frames, so that the view takes a small share of a run's time.

    A frame costs the run more than its drawing: where browser, server and kernel share a machine, painting and sending
    take cores from it, too. So the cost is read from the run itself: how much longer the steps beside a frame take
    than those in a gap, of which every ``EVERY``-th is made long enough. Steps vary by themselves: both are averages.
    """

    SHARE = 0.06  # of the time may go into frames; a run shall keep 90 % of its speed, and this is an estimate
    BESIDE, GAP, EVERY = 0.3, 0.7, 8  # seconds after a frame that count as beside it; seconds of a gap; frames
    SHORTEST, LONGEST = 0.1, 1.0  # seconds
    FORGET = 0.2  # weight of the newest frame in the averages

    def __init__(self, job: Job, clock: Callable[[], float] = time.perf_counter):
        self.job, self.clock = job, clock
        self.bare = [0.0, 0.0]  # seconds of undisturbed steps, and their number
        self.cost, self.drawing = 0.0, 0.0
        self.frames, self.step, self.calls, self.at = 0, 0, 0.0, clock()

    def wait(self, drawing: float) -> float:
        """Seconds until the next frame; called with each frame and the seconds its drawing took."""
        marks, calls = self.job.marks[self.step :], self.job.seconds_of_calls
        beside = [seconds for end, seconds in marks if end - seconds <= self.at + self.BESIDE]
        gap = sum(seconds for _, seconds in marks) - sum(beside), len(marks) - len(beside)
        if gap[1]:
            self.bare = [(1 - self.FORGET) * old + new for old, new in zip(self.bare, gap, strict=True)]
        if self.bare[1]:
            lost = sum(beside) - len(beside) * self.bare[0] / self.bare[1] + calls - self.calls
            self.cost += self.FORGET * (lost - self.cost)
        self.drawing += self.FORGET * (drawing - self.drawing) if self.frames else drawing
        self.frames, self.step, self.calls, self.at = self.frames + 1, self.step + len(marks), calls, self.clock()
        shortest = self.GAP if self.frames % self.EVERY == 1 else self.SHORTEST
        return min(self.LONGEST, max(shortest, max(self.cost, self.drawing) * (1 - self.SHARE) / self.SHARE))


def live_view(frame: Frame, **options) -> widgets.DOMWidget:
    """A widget that shows ``html`` and, while ``running``, what ``frame()`` gives, as fast as the browser paints."""
    return (PlayView if anywidget is None else LiveView)(frame, **options)
