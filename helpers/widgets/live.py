"""A view of something that runs: the browser asks for the next frame when it has painted the last.

No thread touches a widget, so nothing piles up on a slow link and the view works where only comm messages reach the
kernel. ``live_view`` takes anywidget where it is installed and core ipywidgets (7.7 or 8) elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets
import traitlets

try:
    import anywidget
except ImportError:  # the fall-back below needs core ipywidgets only
    anywidget = None

Frame = Callable[[], tuple[str, float]]  # the HTML of the next frame, and seconds to wait before the one after it

TICK = 200  # milliseconds between two frames of the fall-back

ESM = """
function render({ model, el }) {
  const me = String(Math.random());  // several views of one model: each asks for itself
  let open = true, asked = false;
  const paint = async (html) => {
    el.innerHTML = html;
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
    await paint(message.html);
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
    """The same with core widgets: a hidden ``Play`` is the clock; it, too, ticks in the browser."""

    def __init__(self, frame: Frame, **options):
        self.picture = widgets.HTML()
        self.clock = widgets.Play(min=0, max=1_000_000, interval=TICK, layout=widgets.Layout(display="none"))
        self.frame = frame
        super().__init__([self.picture, self.clock], **options)
        self._playing = "playing" if self.clock.has_trait("playing") else "_playing"  # ipywidgets 8 or 7
        self.clock.observe(self._tick, "value")

    def _tick(self, _) -> None:
        if self.running:
            self.html = self.frame()[0]

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


def live_view(frame: Frame, **options) -> widgets.DOMWidget:
    """A widget that shows ``html`` and, while ``running``, what ``frame()`` gives, as fast as the browser paints."""
    return (PlayView if anywidget is None else LiveView)(frame, **options)
