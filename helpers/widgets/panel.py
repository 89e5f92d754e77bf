"""The panel of a lesson: controls next to a run that can be watched, tuned, paused and stopped.

What runs is a plain iterator of the lesson's module, with

- ``len(run)`` and steps that have ``number``, ``total`` (B,), ``parts`` and ``images()`` (B, 3, H, W) in [0, 1];
- ``run.result()`` with ``images`` and, if there are any, ``latents``;
- ``run.criterion.weights``, or else ``run.weights``, and ``run.forget_best()``, if the weights may change under way.

A lesson's panel is little more than its controls; style.py is the shortest. Without widgets, the iterator is
``panel.make(panel.settings)``.
"""

import contextlib
import functools
import io
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import wait
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.images import quantize, resize, write_image
from helpers.states import State, load_state, plain, save_state
from helpers.widgets import parts
from helpers.widgets.canvas import DrawingCanvas
from helpers.widgets.html import PAGE, decibel, error_html, page_html, progress_html, sheet_of, status_html, text_html
from helpers.widgets.job import Job
from helpers.widgets.live import LiveView
from helpers.widgets.parts import button_row, column, columns
from helpers.widgets.upload import PhotoUpload, Square, face_square, uploaded_files

LATEST = "latest.safetensors"  # the state after every run: restarting the kernel loses no result, ``load`` it
OUT = "output/panels"
PATIENCE, AGAIN = 0.1, 0.05  # seconds to wait for the image of a long step, and before it is asked for again
PACE = 0.3  # seconds between two frames, so that a run that is watched keeps nearly all of its speed
FRAMES = 120  # kept for a GIF or MP4; a longer run keeps every second, every fourth, ...
FEATHER = "feather of "  # a canvas, among the settings of a state


class RunPanel(widgets.VBox):
    """Controls around a run, and below it: before and after, history, candidates, code, files.

    A panel sets: function, the full name of what does the same without the panel, and then, code after the call;
    choosers, controls that choose a photo; aside, controls that are not options of the function; grouped, whether the
    weights are one option; presets, values of controls by name ("Reset" is always there); title of the reference;
    labels of weights, if not their names; powers, lowest and highest power of ten of each weight.

    controls: name to widget with a ``value``; disabled during a run. weights: name to first value of the loss weights:
    log sliders that stay enabled. out: folder for what is saved. values: first values of controls by name. photos of
    any panel are (1, 3, H, W) in [0, 1] by name, and are resized to the generator.

    Attributes: job, the last run, None before; result, the best so far while it runs; before, the reference when it
    started; frames, the images that were shown, for a film.
    """

    function, then, title = "", "", "target"
    choosers, aside = (), ()
    presets: Mapping[str, Mapping[str, Any]] = {}
    labels: Mapping[str, str] = {}
    powers: Mapping[str, tuple[int, int]] = {}
    grouped = True
    job: Job | None = None

    def __init__(
        self,
        controls: Mapping[str, widgets.Widget],
        weights: Mapping[str, float] | None = None,
        *,
        canvases: Mapping[str, DrawingCanvas] | None = None,
        photos: Mapping[str, Tensor] | None = None,
        out: str | Path = OUT,
        values: Mapping[str, Any] | None = None,
    ):
        self.canvases, self.photos, self.out = dict(canvases or {}), dict(photos or {}), Path(out)
        self.weight_names, self.controls = list(weights or {}), dict(controls)
        for name, weight in (weights or {}).items():
            self.controls[name] = parts.log_slider(self.labels.get(name, name), weight, *self.powers.get(name, (-2, 2)))
        if unknown := set(values or {}) - set(self.controls):
            raise ValueError(f"the controls are {', '.join(self.controls)}; got {', '.join(sorted(unknown))}.")
        super().__init__()
        self.frames: list[Tensor] = []
        self.before: Tensor | None = None
        self._restored = self._ended = self._drawn = self._coming = None
        self._html, self.view, self.message = "", LiveView(self._frame), widgets.HTML()
        self.candidates, self.history = parts.Gallery(self.choose_candidate), parts.Gallery(self.restore)
        self.compare, self.saved = parts.BeforeAfter(), widgets.HTML()
        self.code = widgets.Textarea(layout=widgets.Layout(width="auto", height="260px"))
        self.add_class("run-panel")
        for name, control in self.controls.items():
            control.observe(functools.partial(self.guard, functools.partial(self.react, name)), "value")
        self.set(values or {})
        self.presets = {"Reset": self.values, **self.presets}
        self._lay_out()
        self._write_code()
        self.show()

    # --- what a panel says ------------------------------------------------------------------------------------------

    def make(self, settings: dict) -> Iterable:
        """The iterator that runs; called in the job's thread at every start."""
        raise NotImplementedError

    def arguments(self) -> str:
        """Positional arguments of ``function`` as code, in which ``panel`` is this panel."""
        return ""

    def reference(self) -> Tensor | None:
        """The image (1, 3, H, W) in [0, 1] to show with the result and to take the PSNR to, or None."""
        return self.target if self.choosers else None

    def react(self, name: str) -> None:
        """Called after a change of a control."""
        self._write_code()
        if name in self.choosers:
            self.photo_changed()
        if name in self.weight_names and self.alive:
            job, weights = self.job, {name: self.controls[name].value for name in self.weight_names}
            job.call(lambda: self.change(job.iterator, weights))

    def photo_changed(self) -> None:
        """Called after a choice of another photo."""
        self.show()

    def change(self, run: Any, weights: dict[str, float]) -> None:
        """Change the weights of a running search; the best under the old ones means nothing now."""
        getattr(run, "criterion", run).weights.update(weights)
        run.forget_best()

    def find_square(self, photo: Tensor) -> Square:
        """Where the box of an uploaded photo starts."""
        return face_square(photo, self.generator)

    # --- layout -----------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Start and the result at the top, next to the canvas or the controls; the pages below."""
        row = button_row({"Start": self.start, "Pause": self.pause, "Stop": self.stop}, self.guard)
        row.layout.max_width = f"{PAGE // 2}px"
        for button in row.children:
            button.layout.flex = "1 1 0"
        self.buttons = dict(zip(("start", "pause", "stop"), row.children, strict=True))
        self.buttons["start"].button_style = "primary"
        run = column(row, self.message, self.view, width=PAGE)
        presets = {name: functools.partial(self.set, values) for name, values in self.presets.items()}
        settings = [control for name, control in self.controls.items() if name not in self.weight_names]
        weights = [*(self.controls[name] for name in self.weight_names), button_row(presets, self.guard)]
        if self.canvases:
            rows = [columns(column(*self.canvases.values()), run), columns(column(*settings), column(*weights))]
        else:
            rows = [columns(run, column(*settings, *weights), reverse=True)]
        if self.photos:
            self.upload = PhotoUpload(find=self.find_square)
            self.upload.observe(lambda change: self.add_photo(self.upload.name, change["new"]), "image")
            rows.insert(0, self.upload)
        self.children = [*rows, self._make_pages()]

    def _make_pages(self) -> widgets.Tab:
        kinds = {"PNG": "png", "GIF": "gif", "MP4": "mp4", "State": "safetensors"}
        actions = {text: functools.partial(self.save, kind) for text, kind in kinds.items()}
        load = widgets.FileUpload(accept=".safetensors", multiple=False, description="Load state")
        load.observe(lambda change: self.guard(lambda: self._receive(change["new"])), "value")
        files = widgets.VBox([button_row(actions, self.guard), load, self.saved])
        pages = {"Before / after": self.compare, "History": self.history, "Candidates": self.candidates}
        pages |= {"Code": self.code, "Save": files}
        tab = widgets.Tab(children=list(pages.values()), layout=widgets.Layout(width="auto"))
        for index, title in enumerate(pages):
            tab.set_title(index, title)
        return tab

    # --- controls and photos ----------------------------------------------------------------------------------------

    @property
    def values(self) -> dict[str, Any]:
        """Values of all controls by name."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """What the controls say, as options of ``function``."""
        values = {name: value for name, value in self.values.items() if name not in (*self.choosers, *self.aside)}
        if self.grouped and self.weight_names:
            values["weights"] = {name: values.pop(name) for name in self.weight_names}
        return values

    def set(self, values: Mapping[str, Any]) -> None:
        """Set controls by name; "weights" may be a dictionary among them, other names are ignored."""
        flat = {**values, **values.get("weights", {})}
        for name in [name for name in self.controls if name in flat]:  # in their order: one may limit another
            if name in self.weight_names or not self.alive:
                parts.choose(self.controls[name], flat[name])

    def _write_code(self) -> None:
        self.code.value = parts.settings_code(self.function, self.arguments(), self.settings, self.then)

    def photo(self, name: str) -> Tensor:
        """A photo by name as the run takes it, (1, 3, R, R) in [0, 1]."""
        return resize(self.photos[name], self.generator.resolution).to(self.generator.device)

    def chosen_photo(self, chooser: str) -> Tensor:
        """The photo that a control chooses."""
        return self.photo(self.controls[chooser].value)

    target = property(lambda self: self.chosen_photo(self.choosers[0]), doc="The photo that the first chooser names.")

    def add_photo(self, name: str, image: Tensor) -> None:
        """Offer one more photo (1, 3, H, W) in [0, 1], or another under its name, and choose it."""
        self._add(name, image)
        if self.controls[self.choosers[0]].value != name:
            self.controls[self.choosers[0]].value = name  # which calls photo_changed
        else:
            self.photo_changed()

    def _add(self, name: str, image: Tensor) -> None:
        self.photos[name] = image
        for chooser in self.choosers:
            parts.reoption(self.controls[chooser], list(self.photos))

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
        result = self.job.iterator.result
        return self.job.call(result).result() if self.alive else result()  # no other panel's step is waited for

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
        """What can be pressed now; a result that is new goes to the history."""
        state = self.job.state
        self.buttons["start"].disabled = state == "running"
        self.buttons["start"].description = "Continue" if state == "paused" else "Start"
        self.buttons["pause"].disabled = state != "running"
        self.buttons["stop"].disabled = not self.alive
        for name, control in self.controls.items():
            control.disabled = self.alive and name not in self.weight_names
        if self.alive:
            self._restored = None
        elif self._ended is not self.job:
            self._ended = self.job
            if self.job.latest is not None:
                self.remember(self.result)

    def show(self, images: Tensor | None = None, title: str = "result") -> None:
        """Images next to the reference, or the reference alone, unless something runs."""
        if not self.alive:
            below = status_html("Press Start.", 0) if images is None else ""
            self.view.html = page_html(title, images, self.title, self.reference(), below)

    def _frame(self) -> tuple[str | None, float]:
        """The next frame, None if a long step keeps it, and the seconds until it makes sense to ask for another."""
        job = self.job
        if job is None or self._drawn == (now := (job, job.state, len(job.history))):
            return self._html, PACE
        try:
            if job.latest is None or not job.alive:
                self._html = self._draw(job)
            else:
                # between two steps, by the job's thread: in parallel, both are slower
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
        title, images = "result", None
        if job.latest is not None:
            title = f"step {job.latest.number}" if job.alive else "best result"
            images = job.latest.images() if job.alive else job.iterator.result().images
            self.frames.append(sheet_of(images).cpu())
            if len(self.frames) > FRAMES:
                self.frames = self.frames[::2]
        below = progress_html(job, images, self.before, self.labels)
        return page_html(title, images, self.title, self.before, below)

    # --- results ----------------------------------------------------------------------------------------------------

    def remember(self, result) -> None:
        """The result of a run as an entry of the history, and its candidates."""
        quality = decibel(result.images, self.before)
        self._add_to_history(": ".join([str(len(self.history.entries) + 1), *quality]), self.state())
        self.candidates.clear()
        if len(result.images) > 1:
            for index, image in enumerate(result.images.split(1)):
                self.candidates.add(image, f"no. {index + 1}", index)
        self.compare.show(self.before, result.images[:1])

    def choose_candidate(self, index: int) -> None:
        """Show and compare one of a batch of results."""
        image = self.result.images[index : index + 1]
        self.show(image, f"no. {index + 1}")
        self.compare.show(self.before, image)

    def _add_to_history(self, text: str, state: State) -> None:
        if "image" in state.images:
            self.history.add(sheet_of(state.images["image"]), text, state, str(state.settings))

    # --- states and files -------------------------------------------------------------------------------------------

    def state(self, result: Any = None) -> State:
        """Latents and image of a result, by default the last or restored one, with photos, drawings and settings."""
        if result is None:
            result = self._restored or self.result
        latents, image = getattr(result, "latents", None), getattr(result, "images", None)
        images = {} if image is None else {"image": image.cpu()}
        images |= {name: self.chosen_photo(name).cpu() for name in self.choosers}
        for name, canvas in self.canvases.items():
            images[f"drawing.{name}"] = torch.from_numpy(canvas.rgba().copy())
            if canvas.mode == "mask":
                images[name] = canvas.mask()
        settings = self.values | {FEATHER + name: canvas.feather for name, canvas in self.canvases.items()}
        return State(None if latents is None else latents.detach().to("cpu"), images, plain(settings))

    def restore(self, state: State) -> None:
        """Go back to a state: photos, controls and drawings are set, its image is shown. ValueError during a run."""
        if self.alive:
            raise ValueError("A run is under way; press Stop, then restore.")
        settings = dict(state.settings)
        for chooser in self.choosers:
            if chooser in state.images:
                settings[chooser] = self._offer(str(settings.get(chooser, chooser)), state.images[chooser])
        self.set(settings)
        for name, canvas in self.canvases.items():
            if f"drawing.{name}" in state.images:
                canvas.set_rgba(state.images[f"drawing.{name}"].numpy())
                canvas.feather = float(settings.get(FEATHER + name, canvas.feather))
        self._restored = SimpleNamespace(latents=state.latents, images=state.images.get("image"))
        if "image" in state.images:
            self.show(state.images["image"], "restored")

    def _offer(self, name: str, image: Tensor) -> str:
        """The name under which a photo can be chosen; it is added if the photo of its own name is another one."""
        known = self.photos.get(name)
        if known is None or not torch.equal(quantize(resize(known, tuple(image.shape[-2:])).cpu()), quantize(image)):
            name += "" if known is None else " (restored)"
            self._add(name, image)
        return name

    def load(self, path: str | Path) -> State:
        """Restore a state file; it joins the history."""
        state, _ = load_state(path)
        self.restore(state)
        self._add_to_history("loaded", state)
        return state

    def _receive(self, value) -> None:
        for _, content in uploaded_files(value)[-1:]:
            path = self.out / "uploaded.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.load(path)

    def save(self, kind: str) -> Path:
        """Write the result ("png"), the way ("gif", "mp4") or the state ("safetensors"). ValueError without one."""
        path, state = self.out / f"{datetime.now():%Y%m%d-%H%M%S}.{kind}", self.state()
        if kind == "safetensors":
            self._write(path, state)
        elif "image" not in state.images:
            raise ValueError("There is no result to save yet; press Start first.")
        elif kind == "png":
            write_image(path, sheet_of(state.images["image"]))
        else:
            from helpers import video

            (video.write_gif if kind == "gif" else video.write_mp4)(path, self.frames)
        self.saved.value = f"Written to {path}; download: {parts.download_html(path)}"
        return path

    def _write(self, path: Path, state: State) -> None:
        save_state(path, state, model=getattr(getattr(self, "generator", None), "name", ""))

    def ended(self, run: Any) -> None:
        """The browser may have been closed, the cell run again."""
        self._write(self.out / LATEST, self.state(run.result()))
