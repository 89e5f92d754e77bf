"""A view of something that runs: the browser asks for the next frame once it has painted the last one.

No thread touches a widget, so nothing piles up on a slow link and the view works where only comm messages reach the
kernel. ``live_view`` uses anywidget if it is installed, otherwise core ipywidgets (7.7 or 8).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
import traitlets

from helpers.widgets.job import Job

try:
    import anywidget
except ImportError:  # the fallback below needs core ipywidgets only
    anywidget = None

# the HTML of the next frame, None if there is none yet, and seconds to wait before the one after it
Frame = Callable[[], tuple[str | None, float]]

TICK = 200  # milliseconds between two frames of the fallback


def source(name: str) -> str:
    """A file of this folder as text: anywidget watches a path, and the watcher would keep every widget alive."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


if anywidget is not None:

    class LiveView(anywidget.AnyWidget):
        """Shows ``html``; while ``running`` it asks for frames instead."""

        _esm = source("live.js")
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

    The Play of ipywidgets 7 starts only by its own button, so there it is shown during a run.
    """

    def __init__(self, frame: Frame, **options):
        hidden = {"display": "none"}
        self.picture, self.frame = widgets.HTML(), frame
        self.clock = widgets.Play(min=0, max=1_000_000, interval=TICK, layout=hidden)
        self.hint = widgets.HTML("Press ▶ to watch the run.", layout=hidden)
        super().__init__([self.hint, self.clock, self.picture], **options)
        self._starts = self.clock.has_trait("playing")  # since ipywidgets 8
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
    use its cores too. So the cost is read off the run itself: how much longer the steps just after a frame take than
    those in a gap; every ``EVERY``-th gap is made long enough for that. Both are averages, as steps vary by themselves.
    """

    SHARE = 0.06  # of the time may go into frames; a run should keep 90 % of its speed, and this is an estimate
    BESIDE, GAP, EVERY = 0.3, 0.7, 8  # seconds that count as just after a frame; seconds of a gap; frames
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
    """A widget that shows ``html`` and, while ``running``, what ``frame()`` returns, as fast as the browser paints."""
    return (PlayView if anywidget is None else LiveView)(frame, **options)
