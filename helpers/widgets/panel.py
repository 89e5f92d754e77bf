"""The panel of a lesson: controls next to a run that can be watched, tuned, paused and stopped.

What runs is a plain iterator of the lesson's module, with

- ``len(run)`` and steps that have ``number``, ``total`` (B,), ``parts`` and ``images()`` (B, 3, H, W) in [0, 1];
- ``run.result()`` with ``images`` and, if there are any, ``latents``;
- ``run.criterion.weights``, or else ``run.weights``, and ``run.forget_best()``, if the weights may change under way.

A lesson's panel is little more than its controls; style.py is the shortest. Without widgets, the iterator is
``panel.make(panel.settings)``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.images import quantize, resize, write_image
from helpers.states import State, load_state, plain, save_state
from helpers.video import write_gif, write_mp4
from helpers.widgets import parts
from helpers.widgets.canvas import DrawingCanvas
from helpers.widgets.parts import button_row, column, columns, sheet_of
from helpers.widgets.run import PAGE, RunBox, decibel
from helpers.widgets.upload import PhotoUpload, Square, face_square, uploaded_files

UPLOADED = "uploaded.safetensors"
LATEST = "latest.safetensors"  # the state after every run: restarting the kernel loses no result, ``load`` it
OUT = "output/panels"
FEATHER = "feather of "  # a canvas, among the settings of a state


class RunPanel(RunBox):
    """Controls around a run, and below it: before and after, history, candidates, code, files.

    A panel sets: function, the full name of what does the same without the panel, and then, code after the call;
    choosers, controls that choose a photo; aside, controls that are not options of the function; presets, values of
    controls by name ("Reset" is always there); powers, lowest and highest power of ten of each weight.

    controls: name to widget with a ``value``; disabled during a run. weights: name to first value of the loss weights:
    log sliders that stay enabled. out: folder for what is saved. values: first values of controls by name; raises
    ValueError for an unknown name.
    """

    function, then = "", ""
    choosers: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = {}
    powers: Mapping[str, tuple[int, int]] = {}

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
        self._restored = self._ended = None
        self.candidates, self.history = parts.Gallery(self.choose_candidate), parts.Gallery(self.restore)
        self.compare, self.saved = parts.BeforeAfter(), widgets.HTML()
        self.code = widgets.Textarea(layout=widgets.Layout(width="100%", height="260px"))
        self.add_class("run-panel")
        for name, control in self.controls.items():
            control.observe(functools.partial(self.guard, functools.partial(self.react, name)), "value")
        self.set(values or {})
        self.presets = {"Reset": self.values, **self.presets}
        self._lay_out()
        self._write_code()
        self.show()

    # --- what a panel says ------------------------------------------------------------------------------------------

    def arguments(self) -> str:
        """Positional arguments of ``function`` as code, in which ``panel`` is this panel."""
        return ""

    def reference(self) -> Tensor | None:
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
        run = column(*self.children, width=PAGE)
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
        """Options of ``function``: the values, of which the weights are a dictionary, without photos and ``aside``."""
        values = {name: value for name, value in self.values.items() if name not in (*self.choosers, *self.aside)}
        weights = {name: values.pop(name) for name in self.weight_names}
        return {**values, "weights": weights} if weights else values

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

    # --- results ----------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        for name, control in self.controls.items():
            control.disabled = self.alive and name not in self.weight_names
        if self.alive:
            self._restored = None
        elif self._ended is not self.job:
            self._ended = self.job
            if self.job.latest is not None:
                self.remember(self.result)

    def remember(self, result) -> None:
        """The result of a run as an entry of the history, and its candidates."""
        quality = decibel(result.images, self.before)
        self._add_to_history(": ".join([str(len(self.history.entries) + 1), *quality]), self.state())
        self.candidates.clear()
        if len(result.images) > 1:
            for index, image in enumerate(result.images.split(1)):
                self.candidates.add(image, f"no. {index + 1}", index)
        self._show_before(result.images[:1])

    def choose_candidate(self, index: int) -> None:
        """Show and compare one of a batch of results."""
        image = self.result.images[index : index + 1]
        self.show(image, f"no. {index + 1}")
        self._show_before(image)

    def _show_before(self, image: Tensor) -> None:
        if self.before is not None:
            self.compare.show(self.before[:1], image)

    def _add_to_history(self, text: str, state: State) -> None:
        if "image" in state.pictures:
            self.history.add(sheet_of(state.pictures["image"]), text, state, str(state.settings))

    # --- states and files -------------------------------------------------------------------------------------------

    def state(self, result: Any = None) -> State:
        """Latents and image of a result, by default the last or restored one, with photos, drawings and settings."""
        if result is None:
            result = self._restored or self.result
        latents, image = getattr(result, "latents", None), getattr(result, "images", None)
        pictures = {} if image is None else {"image": image.cpu()}
        pictures |= {name: self.chosen_photo(name).cpu() for name in self.choosers}
        for name, canvas in self.canvases.items():
            pictures[f"drawing.{name}"] = torch.from_numpy(canvas.rgba().copy())
            if canvas.mode == "mask":
                pictures[name] = canvas.mask()
        settings = self.values | {FEATHER + name: canvas.feather for name, canvas in self.canvases.items()}
        return State(None if latents is None else latents.detach().to("cpu"), pictures, plain(settings))

    def restore(self, state: State) -> None:
        """Go back to a state: photos, controls and drawings are set, its image is shown; nothing runs."""
        if self.alive:
            raise ValueError("A run is under way; press Stop, then restore.")
        settings = dict(state.settings)
        for chooser in self.choosers:
            if chooser in state.pictures:
                settings[chooser] = self._offer(str(settings.get(chooser, chooser)), state.pictures[chooser])
        self.set(settings)
        for name, canvas in self.canvases.items():
            if f"drawing.{name}" in state.pictures:
                canvas.set_rgba(state.pictures[f"drawing.{name}"].numpy())
                canvas.feather = float(settings.get(FEATHER + name, canvas.feather))
        self._restored = SimpleNamespace(latents=state.latents, images=state.pictures.get("image"))
        if "image" in state.pictures:
            self.show(state.pictures["image"], "restored")

    def _offer(self, name: str, image: Tensor) -> str:
        """The name under which a photo can be chosen; it is added if the photo of its own name is another one."""
        known = self.photos.get(name)
        if known is None or not torch.equal(quantize(resize(known, tuple(image.shape[-2:])).cpu()), quantize(image)):
            name += "" if known is None else " (restored)"
            self._add(name, image)
        return name

    def load(self, path: str | Path) -> State:
        """Restore a state file; it joins the history. Raises StateError for another file."""
        state, _ = load_state(path)
        self.restore(state)
        self._add_to_history("loaded", state)
        return state

    def _receive(self, value) -> None:
        for _, content in uploaded_files(value)[-1:]:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / UPLOADED).write_bytes(content)
            self.load(self.out / UPLOADED)

    def save(self, kind: str) -> Path:
        """Write the result to the folder ``out`` and offer it for download; returns the path.

        kind: "png", "gif" or "mp4" (the images that were shown along the way), "safetensors" (the state).
        """
        path, state = self.out / f"{datetime.now():%Y%m%d-%H%M%S}.{kind}", self.state()
        if kind == "safetensors":
            self._write(path, state)
        elif "image" not in state.pictures:
            raise ValueError("There is no result to save yet; press Start first.")
        elif kind == "png":
            write_image(path, sheet_of(state.pictures["image"]))
        else:
            (write_gif if kind == "gif" else write_mp4)(path, self.frames)
        self.saved.value = f"Written to {path}; download: {parts.download_html(path)}"
        return path

    def _write(self, path: Path, state: State) -> None:
        save_state(path, state, model=getattr(getattr(self, "generator", None), "name", ""))

    def ended(self, run: Any) -> None:
        """The browser may have been closed, the cell run again."""
        self._write(self.out / LATEST, self.state(run.result()))
