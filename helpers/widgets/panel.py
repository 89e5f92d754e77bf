"""The panel of a lesson: controls next to a run that can be watched, tuned, paused and stopped.

Everything that runs is a plain iterator of the lesson's module, with

- ``len(run)`` and steps that have ``number``, ``total`` (B,), ``parts`` and ``images()`` (B, 3, H, W) in [0, 1];
- ``run.result()`` with ``images`` and, if there are any, ``latents``;
- ``run.criterion.weights``, or else ``run.weights``, and ``run.forget_best()``, if the weights may change under way.

A lesson's panel is then little more than its controls:

    class CrossoverPanel(RunPanel):
        def __init__(self, generator, features, photos, **values):
            self.editor = Editor(generator, features)
            controls = {"x": dropdown("inside", list(photos)), "steps": int_slider("steps", 200, 10, 1000, 10)}
            super().__init__(controls, WEIGHTS["crossover"], photos=photos, values=values)

        def make(self, settings):              # what runs; called in the job's thread
            return self.editor.crossover(self.chosen_photo("x"), y, half(64), **settings)

The same without widgets: ``panel.make(panel.settings)`` is the iterator.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.files import atomic_path
from helpers.images import quantize, resize, write_image
from helpers.states import State, load_state, plain, save_state
from helpers.video import write_gif, write_mp4
from helpers.widgets.canvas import Drawing
from helpers.widgets.parts import (
    WRAP,
    BeforeAfter,
    Gallery,
    button_row,
    choose,
    download_html,
    log_slider,
    reoption,
    settings_code,
    sheet_of,
)
from helpers.widgets.run import PAGE, RunBox, decibel
from helpers.widgets.upload import PhotoUpload, Square, face_square, uploaded_files

LATEST = "latest.safetensors"  # the state after every run: restarting the kernel loses no result, ``load`` it
COLUMN = 300  # pixels on the screen: of controls or a canvas
FEATHER = "feather of "  # a canvas, among the settings of a state
OUT = "output/panels"


class RunPanel(RunBox):
    """Controls around a run, and below it: before and after, history, candidates, code, files. See the module.

    A panel sets: function, the full name of what does the same without the panel, and then, code after the call, e.g.
    ".run()"; presets, name to values of controls and weights ("Reset" is always there); choosers, names of the controls
    that choose a photo; labels of weights, if not their names; powers, lowest and highest power of ten of each weight.

    Args:
        controls: name to widget with a ``value``; they are disabled during a run.
        weights: name to first value of the loss weights: log sliders that stay enabled.
        canvases: name to canvas of ``drawing_canvas``, shown on top and kept in the state file.
        photos: name to photo (1, 3, H, W) in [0, 1]; others can be uploaded.
        out: folder for what is saved.
        values: first values of controls by name. Raises ValueError for a control that does not exist.

    Attributes: controls, all of them by name, weights too; settings, what they say, as the options of ``function``;
    history and candidates, galleries; compare, before and after; chosen, index of the candidate that was clicked.
    """

    function, then = "", ""
    presets: Mapping[str, Mapping[str, Any]] = {}
    powers: Mapping[str, tuple[int, int]] = {}
    choosers: tuple[str, ...] = ()

    def __init__(
        self,
        controls: Mapping[str, widgets.Widget],
        weights: Mapping[str, float] | None = None,
        *,
        canvases: Mapping[str, Drawing] | None = None,
        photos: Mapping[str, Tensor] | None = None,
        out: str | Path = OUT,
        values: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.canvases, self.photos, self.out = dict(canvases or {}), dict(photos or {}), Path(out)
        self.weight_names = list(weights or {})
        sliders = {
            name: log_slider(self.labels.get(name, name), weight, *self.powers.get(name, (-2, 2)))
            for name, weight in (weights or {}).items()
        }
        self.controls, self.chosen, self._ended, self._restored = {**controls, **sliders}, 0, None, None
        if unknown := set(values or {}) - set(self.controls):
            raise ValueError(f"the controls are {', '.join(self.controls)}; got {', '.join(sorted(unknown))}.")
        self.candidates, self.history = Gallery(self.choose_candidate), Gallery(self.restore)
        self.compare, self.saved = BeforeAfter(), widgets.HTML()
        self.code = widgets.Textarea(layout=widgets.Layout(width="100%", height="260px"))
        self.code.add_class("settings-code")
        self.add_class("run-panel")
        self.connect()
        self.set(values or {})
        self.presets = {"Reset": self.values, **self.presets}
        self._show_all()

    # --- what a panel may say besides -------------------------------------------------------------------------------

    def arguments(self) -> str:
        """Positional arguments of ``function`` as code, in which ``panel`` is this panel."""
        return ""

    def connect(self) -> None:
        """Observe controls, before their first values are set."""

    def photo_changed(self) -> None:
        """Called after a choice of another photo."""
        self.show_reference()

    def change(self, run: Any, weights: dict[str, float]) -> None:
        """Change the weights of a running search; the best under the old ones means nothing now."""
        owner = getattr(run, "criterion", run)  # the criterion, if there is one: a run may keep weights of its own
        owner.weights.update(weights)
        if hasattr(run, "forget_best"):
            run.forget_best()

    def find_square(self, photo: Tensor) -> Square:
        """Where the box of an uploaded photo starts."""
        return face_square(photo, self.generator)

    # --- layout -----------------------------------------------------------------------------------------------------

    def _show_all(self) -> None:
        """Start and the result at the top, next to the canvas or the controls."""
        for name, control in self.controls.items():
            control.observe(functools.partial(self.guard, self._write_code), "value")
            if name in self.choosers:
                control.observe(functools.partial(self.guard, self.photo_changed), "value")
            if name in self.weight_names:
                control.observe(functools.partial(self.guard, self._change_weights), "value")
        presets = {name: functools.partial(self.set, values) for name, values in self.presets.items()}
        settings = [control for name, control in self.controls.items() if name not in self.weight_names]
        weights = [*(self.controls[name] for name in self.weight_names), button_row(presets, self.guard)]
        run = _column(*self.children, width=PAGE)
        if self.canvases:
            rows = [_columns(_column(*self.canvases.values()), run), _columns(_column(*settings), _column(*weights))]
        else:
            rows = [_columns(run, _column(*settings, *weights), run_first=True)]
        if self.photos:
            self.upload = PhotoUpload(find=self.find_square)
            self.upload.observe(lambda change: self.add_photo(self.upload.name, change["new"]), "image")
            rows.insert(0, self.upload)
        self.children = [*rows, self._make_pages()]
        self._write_code()
        self.show_reference()

    def _make_pages(self) -> widgets.Tab:
        kinds = {"PNG": "png", "GIF": "gif", "MP4": "mp4", "State": "safetensors"}
        actions = {text: functools.partial(self.save, kind) for text, kind in kinds.items()}
        load = widgets.FileUpload(accept=".safetensors", multiple=False, description="Load state")
        load.observe(lambda change: self.guard(functools.partial(self._receive, change["new"])), "value")
        files = widgets.VBox([button_row(actions, self.guard), load, self.saved])
        pages = {"Before / after": self.compare, "History": self.history, "Candidates": self.candidates}
        pages |= {"Code": self.code, "Save": files}
        tab = widgets.Tab(children=list(pages.values()), layout=widgets.Layout(width="auto"))
        for index, title in enumerate(pages):
            tab.set_title(index, title)
        return tab

    # --- what it says -----------------------------------------------------------------------------------------------

    @property
    def values(self) -> dict[str, Any]:
        """Values of all controls by name."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """Options of ``function``: all values but the photos; the weights are a dictionary among them."""
        values = {name: value for name, value in self.values.items() if name not in self.choosers}
        weights = {name: values.pop(name) for name in self.weight_names}
        return {**values, "weights": weights} if weights else values

    def set(self, values: Mapping[str, Any]) -> None:
        """Set controls by name; "weights" may be a dictionary among them, other names are ignored."""
        flat = {**values, **values.get("weights", {})} if isinstance(values.get("weights", {}), Mapping) else values
        for name in [name for name in self.controls if name in flat]:  # in their order: one may limit another
            if not (self.alive and name not in self.weight_names):
                choose(self.controls[name], flat[name])

    def _write_code(self) -> None:
        self.code.value = settings_code(self.function, self.arguments(), self.settings, self.then)

    def _change_weights(self) -> None:
        if self.alive:
            job, weights = self.job, {name: self.controls[name].value for name in self.weight_names}
            job.call(lambda: self.change(job.iterator, weights))

    # --- photos -----------------------------------------------------------------------------------------------------

    def photo(self, name: str) -> Tensor:
        """A photo by name as the run takes it, (1, 3, R, R) in [0, 1]."""
        return resize(self.photos[name], self.generator.resolution).to(self.generator.device)

    def chosen_photo(self, chooser: str) -> Tensor:
        """The photo that a control chooses."""
        return self.photo(self.controls[chooser].value)

    def add_photo(self, name: str, image: Tensor) -> None:
        """Offer one more photo (1, 3, H, W) in [0, 1], or another under its name, and choose it."""
        self.photos[name] = image
        self._list_photos()
        if self.controls[self.choosers[0]].value != name:
            self.controls[self.choosers[0]].value = name  # which calls photo_changed
        else:
            self.photo_changed()

    def _offer(self, name: str, image: Tensor) -> str:
        """Have a photo to choose: under its name, or under another if that belongs to another photo."""
        while name in self.photos and not _same(self.photos[name], image):
            name += "'"
        if name not in self.photos:
            self.photos[name] = image
            self._list_photos()
        return name

    def _list_photos(self) -> None:
        for chooser in self.choosers:
            reoption(self.controls[chooser], list(self.photos))

    # --- run --------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Only the weights may change while a job runs; its end goes to the history."""
        for name, control in self.controls.items():
            control.disabled = self.alive and name not in self.weight_names
        if self.alive:
            self._restored = None
        elif self.job is not None and self._ended is not self.job:
            self._ended = self.job
            if self.result is not None:
                self.remember(self.result)

    def remember(self, result) -> None:
        """The result of a run as an entry of the history, and its candidates."""
        state, quality = self.state(), decibel(result.images, self.before)
        text = f"{len(self.history.entries) + 1}" + ("" if quality is None else f": {quality:.1f} dB")
        self.history.add(sheet_of(result.images), text, state, str(state.settings))
        self.candidates.clear()
        self.chosen = 0
        if len(result.images) > 1:
            for index, image in enumerate(result.images.split(1)):
                self.candidates.add(image, f"no. {index + 1}", index)
        if self.before is not None:
            self.compare.show(self.before[:1], result.images[:1])
        if self.job.ended_error is not None:
            raise self.job.ended_error

    def ended(self, run: Any) -> None:
        """Write the result of a run in its thread: the browser may have been closed, the cell run again."""
        self._write(self.out / LATEST, self._state_of(run.result()))

    def choose_candidate(self, index: int) -> None:
        """Take one of a batch of results: it is shown and compared, and ``chosen`` is its index."""
        self.chosen = index
        image = self.result.images[index : index + 1]
        self.show(image, f"no. {index + 1}")
        if self.before is not None:
            self.compare.show(self.before[:1], image)

    # --- states and files -------------------------------------------------------------------------------------------

    def state(self) -> State:
        """All of it: latents and image of the result (or of what was restored since), photos, drawings, settings."""
        return self._state_of(self.result) if self._restored is None else self._state(self._restored)

    def _state_of(self, result) -> State:
        image = getattr(result, "images", None)
        return self._state(State(getattr(result, "latents", None), {} if image is None else {"image": image}))

    def _state(self, found: State) -> State:
        """What was found, with the photos, drawings and settings as they are now."""
        latents, image = found.latents, found.pictures.get("image")
        settings = self.values | {FEATHER + name: canvas.feather for name, canvas in self.canvases.items()}
        pictures = {} if image is None else {"image": image.cpu()}
        pictures |= {name: self.chosen_photo(name).cpu() for name in self.choosers}
        for name, canvas in self.canvases.items():
            pictures[f"drawing.{name}"] = torch.from_numpy(canvas.rgba().copy())
            if canvas.mode == "mask":
                pictures[name] = canvas.mask()
        return State(None if latents is None else latents.detach().to("cpu"), pictures, plain(settings))

    def restore(self, state: State) -> None:
        """Go back to a state: photos, controls and drawings are set, its image is shown; nothing runs."""
        if self.alive:
            raise ValueError("A run is under way; press Stop, then restore.")
        settings = dict(state.settings)
        for name in self.choosers:
            if name in state.pictures:
                settings[name] = self._offer(str(settings.get(name, name)), state.pictures[name])
        self.set(settings)
        for name, canvas in self.canvases.items():
            if f"drawing.{name}" in state.pictures:
                canvas.set_rgba(state.pictures[f"drawing.{name}"].numpy())
                canvas.feather = float(settings.get(FEATHER + name, canvas.feather))
        self._restored = state
        if "image" in state.pictures:
            self.show(state.pictures["image"], "restored")

    def load(self, path: str | Path) -> State:
        """Restore a state file; it joins the history. Raises StateError for another file."""
        state, _ = load_state(path)
        self.restore(state)
        if "image" in state.pictures:
            self.history.add(sheet_of(state.pictures["image"]), "loaded", state, str(state.settings))
        return state

    def save(self, kind: str) -> Path:
        """Write the result to the folder ``out`` and offer it for download; returns the path.

        kind: "png", "gif" or "mp4" (the images that were shown along the way), "safetensors" (the state).
        """
        path = self.out / f"{datetime.now():%Y%m%d-%H%M%S}.{kind}"
        if kind == "safetensors":
            self._write(path, self.state())
        elif (image := self.state().pictures.get("image")) is None:
            raise ValueError("There is no result to save yet; press Start first.")
        elif kind == "png":
            write_image(path, sheet_of(image))
        else:
            (write_gif if kind == "gif" else write_mp4)(path, self.frames)
        self.saved.value = f"Written to {path}; download: {download_html(path)}"
        return path

    def _write(self, path: Path, state: State) -> None:
        save_state(path, state, model=getattr(getattr(self, "generator", None), "name", ""))

    def _receive(self, value) -> None:
        for _, content in uploaded_files(value)[-1:]:
            with atomic_path(self.out / "uploaded.safetensors") as temporary:
                temporary.write_bytes(content)
            self.load(self.out / "uploaded.safetensors")


def _column(*children: widgets.Widget, width: int = COLUMN) -> widgets.VBox:
    layout = widgets.Layout(width=f"{width}px", max_width="100%", margin="0 12px 8px 0")
    return widgets.VBox(children, layout=layout)


def _columns(*columns: widgets.Widget, run_first: bool = False) -> widgets.HBox:
    """Side by side; they wrap if there is no room. ``run_first``: the first is on the right, or on top."""
    reverse = {"flex_flow": "row-reverse wrap", "justify_content": "flex-end"} if run_first else {}
    return widgets.HBox(columns, layout=widgets.Layout(**WRAP | reverse))


def _same(photo: Tensor, image: Tensor) -> bool:
    """Whether an image is a photo, as it was resized for a run and stored."""
    return torch.equal(quantize(resize(photo, tuple(image.shape[-2:])).cpu()), quantize(image))
