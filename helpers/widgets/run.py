"""Start, Pause and Stop over a plain iterator, with its image, progress, time left, PSNR and losses."""

from __future__ import annotations

import contextlib
import functools
import io
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import wait
from typing import Any, NamedTuple

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.metrics import psnr
from helpers.widgets.html import error_html, figure_html, loss_curve, row_html, sentence, status_html, text_html
from helpers.widgets.job import ALIVE, Job
from helpers.widgets.live import Pace, live_view
from helpers.widgets.parts import RESULT, sheet_of, width_of

PAGE = 2 * RESULT + 12  # pixels on the screen: the result and what it is compared with, side by side
PATIENCE, AGAIN = 0.1, 0.05  # seconds to wait for the image of a long step, and before it is asked for again
IDLE = 0.3  # seconds until the next question if there is nothing new, as in a pause
FRAMES = 120  # kept for a GIF or MP4; a longer run keeps every second, every fourth, ...


class Seen(NamedTuple):
    """A step as it is shown: its number, its images as one sheet and the sheet's width, the PSNR of the first image."""

    number: int
    sheet: Tensor
    width: int
    decibel: float | None


def decibel(images: Tensor, reference: Tensor | None) -> float | None:
    """PSNR of the first image, None without a reference of its size."""
    if reference is None or reference.shape[-2:] != images.shape[-2:]:
        return None
    return psnr(images[:1], reference[:1]).item()


class RunBox(widgets.VBox):
    """Buttons and live image of a run; a panel is one with controls.

    Attributes: settings, what ``make`` is called with; title of the reference; labels of losses, if not their names;
    job, the last run, None before; result of it, the best so far while it runs; buttons, view and message, widgets;
    frames, the images that were shown, for a film; before, the reference when the run started.
    """

    title = "target"
    labels: Mapping[str, str] = {}
    settings: dict = {}
    job: Job | None = None

    def __init__(self):
        self.frames: list[Tensor] = []
        self.before: Tensor | None = None
        self._drawn, self._html, self._wait, self._coming = None, "", 0.0, None
        layout = widgets.Layout(width="auto", flex="1 1 0")
        texts = {"start": "Start", "pause": "Pause", "stop": "Stop"}
        self.buttons = {name: widgets.Button(description=text, layout=layout) for name, text in texts.items()}
        self.buttons["start"].button_style = "primary"
        for name, button in self.buttons.items():
            button.on_click(functools.partial(self.guard, getattr(self, name)))
        self.view, self.message = live_view(self._frame), widgets.HTML()
        buttons = widgets.HBox(list(self.buttons.values()), layout=widgets.Layout(max_width=f"{RESULT}px"))
        super().__init__([buttons, self.message, self.view])

    # --- what a panel says ------------------------------------------------------------------------------------------

    def make(self, settings: dict) -> Iterable:
        """The iterator that runs; called in the job's thread at every start."""
        raise NotImplementedError

    def reference(self) -> Tensor | None:
        """The image (1, 3, H, W) in [0, 1] to show with the result and to take the PSNR to, or None."""

    def changed(self) -> None:
        """Called after every change of the status, and when a browser sees the end of a run."""

    def ended(self, run: Any) -> None:
        """Called with the iterator at the end of a run, seen or not, in the job's thread."""

    # --- run --------------------------------------------------------------------------------------------------------

    def guard(self, function: Callable[[], Any], _=None) -> None:
        """Call it from a callback, where what it prints and raises would vanish: show that instead."""
        self.message.value, printed = "", io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                function()
        except Exception as error:
            self.message.value = error_html(sentence(error))
        if text := printed.getvalue().strip():
            self.message.value += text_html(text)

    @property
    def status(self) -> str:
        """ "ready", "running", "paused", "finished", "stopped" or "failed"."""
        return self.job.state if self.job else "ready"

    @property
    def alive(self) -> bool:
        return self.status in ALIVE

    @property
    def result(self):
        if self.job is None or self.job.latest() is None:
            return None
        return self.job.call(self.job.iterator.result).result()

    def start(self) -> None:
        """Start a run, or continue after a pause."""
        if not self.alive:
            self._frame()  # of a run whose end no browser saw
            self.frames, self.before = [], self.reference()
            self.job, self._coming = Job(lambda: self.make(self.settings), ended=self.ended), None
            self._pace = Pace(self.job)
        self.job.start()
        self._enable()
        self.view.running = True

    def pause(self) -> None:
        """Halt after the current step."""
        if self.job:
            self.job.pause()
            self._enable()

    def stop(self) -> None:
        """End after the current step; the best so far is kept."""
        if self.job:
            self.job.stop()
            self._frame()

    def close(self) -> None:
        if self.job:
            self.job.stop()
        super().close()

    def _enable(self) -> None:
        self.buttons["start"].disabled = self.status == "running"
        self.buttons["start"].description = "Continue" if self.status == "paused" else "Start"
        self.buttons["pause"].disabled = self.status != "running"
        self.buttons["stop"].disabled = not self.alive
        self.changed()

    # --- images ---------------------------------------------------------------------------------------------------

    def show_reference(self, text: str = "Press Start.") -> None:
        """The reference alone, unless something runs."""
        if not self.alive:
            self.view.html = self._page("result", None, RESULT, self.reference(), status_html(text, 0))

    def show(self, images: Tensor, text: str) -> None:
        """Another result, e.g. an older one, unless something runs."""
        if not self.alive:
            self.view.html = self._page(text, sheet_of(images), width_of(images), self.reference(), "")

    def _frame(self) -> tuple[str | None, float]:
        """The next frame, None if a long step keeps it, and the seconds until it makes sense to ask for another."""
        if self.job is None:
            return self.view.html, 1.0
        job, state = self.job, self.job.state
        if self._drawn == (job, state, len(job.history)):
            self._wait = max(self._wait, IDLE)
        else:
            try:
                seen = self._look(job) if state in ALIVE and job.latest() is not None else None
                started = time.perf_counter()
                self._html = self._draw(job, state, seen)
                self._wait = self._pace.wait(time.perf_counter() - started)
            except TimeoutError:
                return None, AGAIN
            except Exception as error:  # would vanish, as in any callback
                self._html, self._wait = error_html(sentence(error)), 1.0
            self._drawn = job, state, len(job.history)
            if state not in ALIVE:
                self.guard(self._enable)
                self.view.html, self.view.running = self._html, False
        return self._html, self._wait

    def _look(self, job: Job) -> Seen:
        """The latest step as it is shown, made between two steps by the job's thread: in parallel, both are slower.

        Raises TimeoutError if the current step takes long; the image is there when it is asked for again.
        """
        if self._coming is None:
            self._coming = job.call(lambda: self._see(job.latest().number, job.latest().images()))
        if not wait([self._coming], PATIENCE).done:
            raise TimeoutError
        coming, self._coming = self._coming, None
        return coming.result()

    @torch.no_grad()
    def _see(self, number: int, images: Tensor) -> Seen:
        return Seen(number, sheet_of(images).cpu(), width_of(images), decibel(images, self.before))

    def _draw(self, job: Job, state: str, seen: Seen | None) -> str:
        error, ended = error_html(sentence(job.error)), state not in ALIVE
        if ended and job.latest() is not None:
            seen = self._see(job.latest().number, self.result.images)
        if seen is None:
            text = state if ended else "preparing the start …"
            return self._page("result", None, RESULT, self.before, status_html(text, 0) + error)
        self._keep(seen.sheet)
        below = status_html(_status(job, state, seen), seen.number / len(job.iterator))
        below += error + loss_curve(job.history, PAGE, labels=self.labels)
        title = "best result" if ended else f"step {seen.number}"
        return self._page(title, seen.sheet, seen.width, self.before, below)

    def _page(self, title: str, sheet: Tensor | None, width: int, reference: Tensor | None, below: str) -> str:
        """The result, the reference, and what is under them."""
        figures = [figure_html(title, sheet, width)]
        if reference is not None:
            figures.append(figure_html(self.title, reference, min(RESULT, PAGE - 12 - width)))
        return f'<div style="width:{PAGE}px;max-width:100%">{row_html(*figures)}{below}</div>'

    def _keep(self, sheet: Tensor) -> None:
        """One more image of the film; of many, every second is dropped."""
        self.frames.append(sheet)
        if len(self.frames) > FRAMES:
            self.frames = self.frames[::2]


def _status(job: Job, state: str, seen: Seen) -> str:
    total, pace = len(job.iterator), job.seconds / len(job.history)
    texts = {
        "running": f"{1000 * pace:.0f} ms a step, {pace * (total - seen.number):.0f} s left",
        "paused": "paused",
        "stopped": f"stopped after {job.seconds:.1f} s, the best is kept",
        "finished": f"finished in {job.seconds:.1f} s",
        "failed": "failed, the best so far is kept",
    }
    quality = [] if seen.decibel is None else [f"PSNR {seen.decibel:.1f} dB"]
    return " · ".join([f"step {seen.number} of {total}", *quality, texts[state]])
