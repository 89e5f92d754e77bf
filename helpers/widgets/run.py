"""Start, Pause and Stop over a plain iterator, with its image, progress, time left, PSNR and losses."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import wait
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.metrics import psnr
from helpers.widgets.html import error_html, figure_html, loss_curve, row_html, status_html, text_html
from helpers.widgets.job import Job
from helpers.widgets.live import LiveView
from helpers.widgets.parts import RESULT, button_row, sheet_of, width_of

PAGE = 2 * RESULT + 12  # pixels on the screen: the result and what it is compared with, side by side
PATIENCE, AGAIN = 0.1, 0.05  # seconds to wait for the image of a long step, and before it is asked for again
PACE = 0.3  # seconds between two frames, so that a run that is watched keeps nearly all of its speed
FRAMES = 120  # kept for a GIF or MP4; a longer run keeps every second, every fourth, ...


class RunBox(widgets.VBox):
    """Buttons and live image of a run; a panel is one with controls.

    Attributes: settings, what ``make`` is called with; title of the reference; labels of losses, if not their names;
    job, the last run, None before; result of it, the best so far while it runs; before, the reference when it started;
    frames, the images that were shown, for a film; buttons, view and message, widgets.
    """

    title = "target"
    labels: Mapping[str, str] = {}
    settings: dict = {}
    job: Job | None = None

    def __init__(self):
        self.frames: list[Tensor] = []
        self.before: Tensor | None = None
        self._html, self._drawn, self._coming = "", None, None
        row = button_row({"Start": self.start, "Pause": self.pause, "Stop": self.stop}, self.guard)
        row.layout.max_width = f"{RESULT}px"
        for button in row.children:
            button.layout.flex = "1 1 0"
        self.buttons = dict(zip(("start", "pause", "stop"), row.children, strict=True))
        self.buttons["start"].button_style = "primary"
        self.view, self.message = LiveView(self._frame), widgets.HTML()
        super().__init__([row, self.message, self.view])

    # --- what a panel says ------------------------------------------------------------------------------------------

    def make(self, settings: dict) -> Iterable:
        """The iterator that runs; called in the job's thread at every start."""
        raise NotImplementedError

    def reference(self) -> Tensor | None:
        """The image (1, 3, H, W) in [0, 1] to show with the result and to take the PSNR to, or None."""

    def changed(self) -> None:
        """Called after Start and Pause, and when a browser sees the end of a run."""

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
            self.message.value = error_html(error)
        if text := printed.getvalue().strip():
            self.message.value += text_html(text)

    @property
    def alive(self) -> bool:
        return self.job is not None and self.job.alive

    @property
    def result(self):
        if self.job is None or self.job.latest is None:
            return None
        return self.job.call(self.job.iterator.result).result()

    def start(self) -> None:
        """Start a run, or continue after a pause."""
        if not self.alive:
            self._frame()  # of a run whose end no browser saw
            self.frames, self.before, self._coming = [], self.reference(), None
            self.job = Job(lambda: self.make(self.settings), ended=self.ended)
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
        state = self.job.state
        self.buttons["start"].disabled = state == "running"
        self.buttons["start"].description = "Continue" if state == "paused" else "Start"
        self.buttons["pause"].disabled = state != "running"
        self.buttons["stop"].disabled = not self.alive
        self.changed()

    # --- images -----------------------------------------------------------------------------------------------------

    def show(self, images: Tensor | None = None, title: str = "result") -> None:
        """Images next to the reference, or the reference alone, unless something runs."""
        if not self.alive:
            below = status_html("Press Start.", 0) if images is None else ""
            self.view.html = self._page(title, images, self.reference(), below)

    def _page(self, title: str, images: Tensor | None, reference: Tensor | None, below: str) -> str:
        """The result, the reference, and what is under them."""
        width = RESULT if images is None else width_of(images)
        figures = [figure_html(title, None if images is None else sheet_of(images), width)]
        if reference is not None:
            figures.append(figure_html(self.title, reference, min(RESULT, PAGE - 12 - width)))
        return f'<div style="width:{PAGE}px;max-width:100%">{row_html(*figures)}{below}</div>'

    def _frame(self) -> tuple[str | None, float]:
        """The next frame, None if a long step keeps it, and the seconds until it makes sense to ask for another.

        Drawn between two steps by the job's thread: in parallel, both are slower.
        """
        job = self.job
        if job is None or self._drawn == (now := (job, job.state, len(job.history))):
            return self._html, PACE
        try:
            if job.latest is None or not job.alive:
                self._html = self._draw(job)
            else:
                self._coming = self._coming or job.call(functools.partial(self._draw, job))
                if not wait([self._coming], PATIENCE).done:
                    return None, AGAIN
                coming, self._coming = self._coming, None
                self._html = coming.result()
        except Exception as error:  # would vanish, as in any callback
            self._html = error_html(error)
        self._drawn = now
        if now[1] == job.state and not job.alive:
            self.guard(self._enable)
            self.view.html, self.view.running = self._html, False
        return self._html, PACE

    @torch.no_grad()
    def _draw(self, job: Job) -> str:
        state, ended, error = job.state, not job.alive, error_html(job.error)
        if job.latest is None:
            text = state if ended else "preparing the start …"
            return self._page("result", None, self.before, status_html(text, 0) + error)
        number, total, pace = job.latest.number, len(job.iterator), job.seconds / len(job.history)
        images = job.iterator.result().images if ended else job.latest.images()
        self.frames.append(sheet_of(images).cpu())
        if len(self.frames) > FRAMES:
            self.frames = self.frames[::2]
        texts = {
            "running": f"{1000 * pace:.0f} ms a step, {pace * (total - number):.0f} s left",
            "paused": "paused",
            "stopped": f"stopped after {job.seconds:.1f} s, the best is kept",
            "finished": f"finished in {job.seconds:.1f} s",
            "failed": "failed, the best so far is kept",
        }
        quality = [f"PSNR {text}" for text in decibel(images, self.before)]
        below = status_html(" · ".join([f"step {number} of {total}", *quality, texts[state]]), number / total)
        below += error + loss_curve(job.history, PAGE, labels=self.labels)
        return self._page("best result" if ended else f"step {number}", images, self.before, below)


def decibel(images: Tensor, reference: Tensor | None) -> list[str]:
    """PSNR of the first image; none without a reference of its size."""
    if reference is None or reference.shape[-2:] != images.shape[-2:]:
        return []
    return [f"{psnr(images[:1], reference[:1]).item():.1f} dB"]
