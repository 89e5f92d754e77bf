"""The panel of a lesson: controls beside a run that can be watched, tuned, paused and stopped.

Everything that runs is a plain iterator of the lesson's module, with

- ``len(run)`` and steps that have ``number``, ``total`` (B,), ``parts`` and ``images()`` (B, 3, H, W) in [0, 1];
- ``run.result()`` with ``images`` and, where there are any, ``latents``;
- ``run.criterion.weights``, or else ``run.weights``, and ``run.forget_best()``, if the weights may change under way.

A lesson's panel is then little more than its controls:

    def crossover_panel(editor, x, y):
        canvas = drawing_canvas(x, "mask")                       # shown above the panel, kept in the state file
        canvas.set_mask(masks.half(generator.resolution))

        def make(settings):                                      # what runs; called in the job's thread
            return editor.crossover(x, y, canvas.mask(), **settings)

        return RunPanel(
            make,
            {"feather": float_slider("feather", 2, 0, 8, 0.5), "steps": int_slider("steps", 200, 10, 1000, 10)},
            weights=BLEND_WEIGHTS,                               # log sliders; they change the running objective
            presets={"pixels": {"perceptual": 0.0}, "layout": {"first": 0.1, "second": 0.1, "perceptual": 1.0}},
            reference=lambda: x,                                 # shown beside it; PSNR; before / after
            canvases={"mask": canvas},
            call="editor.crossover(x, y, mask).run()",
            model=generator.name,
        )

    panel = crossover_panel(...)
    panel                                                        # the last line of a cell
    panel.result, panel.settings, panel.state()                  # what it found, what it was set to, all of it

The same without widgets: ``make(panel.settings)`` is the iterator.
"""

from __future__ import annotations

import contextlib
import functools
import io
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.files import atomic_path
from helpers.images import write_image
from helpers.metrics import psnr
from helpers.states import State, load_state, plain, save_state
from helpers.video import write_gif, write_mp4
from helpers.widgets.canvas import Drawing
from helpers.widgets.job import ALIVE, Job
from helpers.widgets.live import Pace, live_view
from helpers.widgets.parts import (
    WRAP,
    BeforeAfter,
    Gallery,
    button_row,
    choose,
    download_html,
    log_slider,
    pictures_html,
    settings_code,
    sheet_of,
    values_of,
)
from helpers.widgets.pictures import error_html, error_sentence, loss_curve, row_html, status_html, text_html
from helpers.widgets.upload import uploaded_files

LATEST = "latest.safetensors"  # the state after every run: a restart of the kernel loses no result, ``load`` it
COLUMN, WIDTH, PAGE = 340, 192, 400  # pixels on the screen: of controls or a canvas, of each picture, of both
PATIENCE, AGAIN = 0.1, 0.05  # seconds to wait for the picture of a long step, and before it is asked for again
IDLE = 0.3  # seconds until the next question where there is nothing new, as in a pause
FEATHER = "feather of "  # a canvas, among the settings of a state
FRAMES = 120  # kept for a GIF or MP4; a longer run keeps every second, every fourth, ...


def change_weights(run, weights: dict[str, float]) -> None:
    """Change the weights of a running optimisation; the best under the old ones means nothing now."""
    getattr(run, "criterion", run).weights.update(weights)  # the criterion's where there is one: a run may keep its own
    if hasattr(run, "forget_best"):
        run.forget_best()


class RunBox(widgets.VBox):
    """Start, Pause and Stop over a plain iterator, with its picture, progress, time left, PSNR and losses.

    Args:
        make: gives the iterator; called in the job's thread at every start.
        reference: gives the image (1, 3, H, W) in [0, 1] to show beside it and to take the PSNR to, or None.
        title: of the reference.
        changed: called after every change of the state, e.g. to disable controls, and when a browser sees a run's end.
        ended: called with the iterator at a run's end, seen or not, in the job's thread.

    Attributes:
        job: the last run, None before. result: of it, the best so far while it runs.
        buttons, view, message: widgets, to place elsewhere. frames: the pictures that were shown, for a film.
    """

    def __init__(
        self,
        make: Callable[[], Iterable],
        reference: Callable[[], Tensor | None] = lambda: None,
        changed: Callable[[], None] = lambda: None,
        title: str = "target",
        ended: Callable[[Any], None] = lambda run: None,
    ):
        self.make, self.reference, self.changed, self.title, self.ended = make, reference, changed, title, ended
        self.job: Job | None = None
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
        super().__init__([widgets.HBox(list(self.buttons.values())), self.message, self.view])
        self._enable()
        self.show_reference()

    def guard(self, function: Callable[[], Any], _=None) -> None:
        """Call it from a callback, where what it prints and raises would vanish: show that instead."""
        self.message.value, printed = "", io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                function()
        except Exception as error:
            self.message.value = error_html(error_sentence(error))
        if text := printed.getvalue().strip():
            self.message.value += text_html(text)

    # --- run --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """ "ready", "running", "paused", "finished", "stopped" or "failed"."""
        return self.job.state if self.job else "ready"

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    @property
    def result(self):
        if self.job is None or self.job.latest() is None:
            return None
        return self.job.call(self.job.iterator.result).result()

    def start(self) -> None:
        """Start a run, or go on after a pause."""
        if not self.alive:
            self._frame()  # of a run whose end no browser saw
            self.frames, self.before = [], self.reference()
            self.job, self._coming = Job(self.make, ended=self.ended), None
            self._pace = Pace(self.job)
        self.job.start()
        self._enable()
        self.view.running = True

    def pause(self) -> None:
        """Halt after the step under way."""
        if self.job is not None:
            self.job.pause()
            self._enable()

    def stop(self) -> None:
        """End after the step under way; the best so far is kept."""
        if self.job is not None:
            self.job.stop()
            self._frame()

    def close(self) -> None:
        if self.job is not None:
            self.job.stop()
        super().close()

    def _enable(self) -> None:
        self.buttons["start"].disabled = self.state == "running"
        self.buttons["start"].description = "Continue" if self.state == "paused" else "Start"
        self.buttons["pause"].disabled = self.state != "running"
        self.buttons["stop"].disabled = not self.alive
        self.changed()

    # --- pictures ---------------------------------------------------------------------------------------------------

    def show_reference(self, text: str = "Press Start.") -> None:
        """The reference alone, unless something runs."""
        if not self.alive:
            self.view.html = self._page({"result": None}, self.reference(), status_html(text, 0))

    def show(self, images: Tensor, text: str) -> None:
        """Another result, e.g. an older one, unless something runs."""
        if not self.alive:
            self.view.html = self._page({text: sheet_of(images)}, self.reference(), "")

    def _frame(self) -> tuple[str | None, float]:
        """The next frame, None where a long step keeps it, and the seconds until it makes sense to ask for another."""
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
                self._html, self._wait = error_html(error_sentence(error)), 1.0
            self._drawn = job, state, len(job.history)
            if state not in ALIVE:
                self.guard(self._enable)
                self.view.html, self.view.running = self._html, False
        return self._html, self._wait

    def _look(self, job: Job) -> Seen:
        """The picture of the step just taken, made between two steps by the job's thread: beside it, each slows both.

        Raises TimeoutError where the step under way takes long; the picture is there when it is asked for again.
        """
        if self._coming is None:
            self._coming = job.call(lambda: self._see(job.latest().number, job.latest().images()))
        if not wait([self._coming], PATIENCE).done:
            raise TimeoutError
        coming, self._coming = self._coming, None
        return coming.result()

    @torch.no_grad()
    def _see(self, number: int, images: Tensor) -> Seen:
        return Seen(number, sheet_of(images).cpu(), decibel(images, self.before))

    def _draw(self, job: Job, state: str, seen: Seen | None) -> str:
        error, ended = error_html(error_sentence(job.error)), state not in ALIVE
        if ended and job.latest() is not None:
            seen = self._see(job.latest().number, self.result.images)
        if seen is None:
            text = state if ended else "preparing the start …"
            return self._page({"result": None}, self.before, status_html(text, 0) + error)
        self._keep(seen.sheet)
        status = _status(job, state, seen)
        below = status_html(status, seen.number / len(job.iterator)) + error + loss_curve(job.history, PAGE)
        title = "best result" if ended else f"step {seen.number}"
        return self._page({title: seen.sheet}, self.before, below)

    def _page(self, pictures: dict[str, Tensor | None], reference: Tensor | None, below: str) -> str:
        if reference is not None:
            pictures[self.title] = reference
        return f'<div style="width:{PAGE}px;max-width:100%">{row_html(*pictures_html(pictures, WIDTH))}{below}</div>'

    def _keep(self, sheet: Tensor) -> None:
        """One more picture of the film; of many, every second is dropped."""
        self.frames.append(sheet)
        if len(self.frames) > FRAMES:
            self.frames = self.frames[::2]


def _column(*children: widgets.Widget, width: int = COLUMN) -> widgets.VBox:
    return widgets.VBox(children, layout=widgets.Layout(width=f"{width}px", margin="0 24px 8px 0"))


def _in_columns(columns: list[widgets.Widget]) -> widgets.HBox:
    """Side by side; they wrap where there is no room."""
    return widgets.HBox(columns, layout=widgets.Layout(**WRAP))


def decibel(images: Tensor, reference: Tensor | None) -> float | None:
    """PSNR of the first image, None where there is no reference of its size."""
    if reference is None or reference.shape[-2:] != images.shape[-2:]:
        return None
    return psnr(images[:1], reference[:1]).item()


@dataclass(frozen=True)
class Seen:
    """A step as it is shown: its number, one picture (1, 3, H, W) in [0, 1] of its batch, PSNR of the first image."""

    number: int
    sheet: Tensor
    decibel: float | None


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


class RunPanel(widgets.VBox):
    """Controls, a run box, and under it: before and after, history, candidates, code, files. See the module.

    Args:
        make: settings to the iterator; called in the job's thread.
        controls: name to widget with a ``value``; they are disabled during a run.
        weights: name to first value of the loss weights: log sliders that stay enabled.
        presets: name to values of controls and weights; "Reset" is always there.
        reference: gives the image (1, 3, H, W) in [0, 1] to compare with, or None.
        title: of the reference.
        canvases: name to canvas of ``drawing_canvas``, shown on top and kept in the state file.
        call: the code that does the same, for ``settings_code``.
        model: name for the state file, or a function that gives it.
        out: folder for what is saved.
        powers: lowest and highest power of ten of each weight, where not (-2, 2).
        change: how weights reach the run.

    Attributes:
        controls: all of them by name, weights too. settings: what they say; weights are one dictionary among them.
        job, result, buttons, view, message: of the run. history: a Gallery. compare: a BeforeAfter.
        chosen: number of the candidate that was clicked, 0 before.
    """

    def __init__(
        self,
        make: Callable[[dict], Iterable],
        controls: Mapping[str, widgets.Widget],
        *,
        weights: Mapping[str, float] | None = None,
        presets: Mapping[str, Mapping[str, Any]] | None = None,
        reference: Callable[[], Tensor | None] = lambda: None,
        title: str = "target",
        canvases: Mapping[str, Drawing] | None = None,
        call: str = "",
        model: str | Callable[[], str] = "",
        out: str | Path = "output/panels",
        powers: Mapping[str, tuple[int, int]] | None = None,
        change: Callable[[Any, dict], None] = change_weights,
    ):
        self.make, self.canvases, self.call, self.model = make, dict(canvases or {}), call, model
        self.out, self.change, self.chosen = Path(out), change, 0
        self.weight_names = list(weights or {})
        sliders = {name: log_slider(name, weights[name], *(powers or {}).get(name, (-2, 2))) for name in weights or {}}
        self.controls = {**controls, **sliders}
        self.presets = {"Reset": values_of(self.controls), **(presets or {})}
        self.candidates = Gallery(self.choose_candidate)
        self.history = Gallery(self.restore)
        self.compare = BeforeAfter()
        self.code = widgets.Textarea(layout=widgets.Layout(width="100%", height="220px"))
        self.code.add_class("settings-code")
        self.saved, self._ended, self._restored = widgets.HTML(), None, None
        self.box = RunBox(self._run, reference, self._follow, title, self._write_latest)
        self.more = self._make_more()
        super().__init__([self._make_top(), self.more])
        for name in self.controls:
            self.controls[name].observe(functools.partial(self.box.guard, self._write_code), "value")
        for name in self.weight_names:
            self.controls[name].observe(functools.partial(self.box.guard, self._change_weights), "value")
        self._write_code()

    def _make_top(self) -> widgets.Box:
        """Controls beside the view; where one draws, the canvas is beside the view, and the controls are under both."""
        presets = {name: functools.partial(self.set, values) for name, values in self.presets.items()}
        bar = button_row(presets, self.box.guard)
        buttons = widgets.HBox(list(self.box.buttons.values()))
        run = [*(self.controls[name] for name in self.weight_names), bar, buttons, self.box.message]
        settings = [control for name, control in self.controls.items() if name not in self.weight_names]
        if not self.canvases:
            return _in_columns([_column(*settings, *run), self.box.view])
        canvas, right = _column(*self.canvases.values()), _column(*run, width=PAGE)
        return widgets.VBox([_in_columns([canvas, self.box.view]), _in_columns([_column(*settings), right])])

    def _make_more(self) -> widgets.Tab:
        actions = {
            "PNG": lambda: self.save("png"),
            "GIF": lambda: self.save("gif"),
            "MP4": lambda: self.save("mp4"),
            "State": lambda: self.save("safetensors"),
        }
        load = widgets.FileUpload(accept=".safetensors", multiple=False, description="Load state")
        load.observe(lambda change: self.box.guard(functools.partial(self._receive, change["new"])), "value")
        files = widgets.VBox([button_row(actions, self.box.guard), load, self.saved])
        pages = {"Before / after": self.compare, "History": self.history, "Candidates": self.candidates}
        pages |= {"Code": self.code, "Save": files}
        tab = widgets.Tab(children=list(pages.values()), layout=widgets.Layout(width="auto"))
        for index, title in enumerate(pages):
            tab.set_title(index, title)
        return tab

    # --- what it says -----------------------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """What ``make`` is called with."""
        values = values_of(self.controls)
        weights = {name: values.pop(name) for name in self.weight_names}
        return {**values, "weights": weights} if weights else values

    def set(self, values: Mapping[str, Any]) -> None:
        """Set controls by name; "weights" may be a dictionary among them, other names are left."""
        flat = {**values, **values.get("weights", {})} if isinstance(values.get("weights", {}), Mapping) else values
        for name in [name for name in self.controls if name in flat]:  # in their order: one may limit another
            if not (self.box.alive and name not in self.weight_names):
                choose(self.controls[name], flat[name])

    def _write_code(self) -> None:
        self.code.value = settings_code(self.call, self.settings) if self.call else str(plain(self.settings))

    def _change_weights(self) -> None:
        if self.box.alive:
            run, weights = self.box.job, {name: self.controls[name].value for name in self.weight_names}
            run.call(lambda: self.change(run.iterator, weights))

    # --- run --------------------------------------------------------------------------------------------------------

    job = property(lambda self: self.box.job)
    result = property(lambda self: self.box.result)
    buttons = property(lambda self: self.box.buttons)
    view = property(lambda self: self.box.view)
    message = property(lambda self: self.box.message)

    def start(self) -> None:
        """Start a run, or go on after a pause."""
        self.box.start()

    def pause(self) -> None:
        """Halt after the step under way."""
        self.box.pause()

    def stop(self) -> None:
        """End after the step under way; the best so far is kept."""
        self.box.stop()

    def close(self) -> None:
        self.box.close()
        super().close()

    def _run(self) -> Iterable:
        return self.make(self.settings)

    def _follow(self) -> None:
        """Only the weights may change while a job runs; its end goes to the history."""
        if not hasattr(self, "box"):
            return
        for name, control in self.controls.items():
            control.disabled = self.box.alive and name not in self.weight_names
        if self.box.alive:
            self._restored = None
        elif self.job is not None and self._ended is not self.job:
            self._ended = self.job
            if self.result is not None:
                self._remember(self.result)

    def _remember(self, result) -> None:
        """The result of a run as an entry of the history, and its candidates."""
        before, state = self.box.before, self.state()
        quality = decibel(result.images, before)
        text = f"{len(self.history.entries) + 1}" + ("" if quality is None else f": {quality:.1f} dB")
        self.history.add(sheet_of(result.images), text, state, str(state.settings))
        self.candidates.clear()
        self.chosen = 0
        if len(result.images) > 1:
            for number, image in enumerate(result.images.split(1)):
                self.candidates.add(image, f"no. {number}", number)
        if before is not None:
            self.compare.show(before[:1], result.images[:1])
        if self.job.ended_error is not None:
            raise self.job.ended_error

    def _write_latest(self, run: Any) -> None:
        """Write the result of a run that has ended, in its thread: the browser may be closed, the cell run again."""
        self._write(self.out / LATEST, self._state_of(run.result()))

    def choose_candidate(self, number: int) -> None:
        """Take one of a batch of results: it is shown and compared, and ``chosen`` is its number."""
        self.chosen = number
        image = self.result.images[number : number + 1]
        self.box.show(image, f"no. {number}")
        if self.box.before is not None:
            self.compare.show(self.box.before[:1], image)

    # --- states and files -------------------------------------------------------------------------------------------

    def _drawings(self) -> dict[str, Tensor]:
        drawings = {}
        for name, canvas in self.canvases.items():
            drawings[f"drawing.{name}"] = torch.from_numpy(canvas.rgba().copy())
            if canvas.mode == "mask":
                drawings[name] = canvas.mask()
        return drawings

    def state(self) -> State:
        """All of it: latents and image of the result (or of what was restored since), drawings and masks, settings."""
        return self._state_of(self.result) if self._restored is None else self._state(self._restored)

    def _state_of(self, result) -> State:
        image = getattr(result, "images", None)
        return self._state(State(getattr(result, "latents", None), {} if image is None else {"image": image}))

    def _state(self, found: State) -> State:
        """What was found, with the drawings and settings as they are now."""
        settings = values_of(self.controls) | {FEATHER + name: c.feather for name, c in self.canvases.items()}
        latents, image = found.latents, found.pictures.get("image")
        pictures = self._drawings() | ({} if image is None else {"image": image.cpu()})
        return State(None if latents is None else latents.detach().to("cpu"), pictures, plain(settings))

    def restore(self, state: State) -> None:
        """Go back to a state: controls and drawings are set, its image is shown; nothing runs."""
        if self.box.alive:
            raise ValueError("A run is under way; press Stop, then restore.")
        self.set(state.settings)
        for name, canvas in self.canvases.items():
            if f"drawing.{name}" in state.pictures:
                canvas.set_rgba(state.pictures[f"drawing.{name}"].numpy())
                canvas.feather = float(state.settings.get(FEATHER + name, canvas.feather))
        self._restored = state
        if "image" in state.pictures:
            self.box.show(state.pictures["image"], "restored")

    def load(self, path: str | Path) -> State:
        """Restore a state file; it joins the history. Raises StateError for another file."""
        state, _ = load_state(path)
        self.restore(state)
        if "image" in state.pictures:
            self.history.add(sheet_of(state.pictures["image"]), "loaded", state, str(state.settings))
        return state

    def save(self, kind: str) -> Path:
        """Write the result to the folder ``out`` and offer it for download; returns the path.

        kind: "png", "gif" or "mp4" (the pictures that were shown along the way), "safetensors" (the state).
        """
        path = self.out / f"{datetime.now():%Y%m%d-%H%M%S}.{kind}"
        if kind == "safetensors":
            self._write(path, self.state())
        elif (image := self.state().pictures.get("image")) is None:
            raise ValueError("There is no result to save yet; press Start first.")
        elif kind == "png":
            write_image(path, sheet_of(image))
        else:
            (write_gif if kind == "gif" else write_mp4)(path, self.box.frames)
        self.saved.value = f"Written to {path}; download: {download_html(path)}"
        return path

    def _write(self, path: Path, state: State) -> None:
        save_state(path, state, model=self.model() if callable(self.model) else self.model)

    def _receive(self, value) -> None:
        for _, content in uploaded_files(value)[-1:]:
            with atomic_path(self.out / "uploaded.safetensors") as temporary:
                temporary.write_bytes(content)
            self.load(self.out / "uploaded.safetensors")
