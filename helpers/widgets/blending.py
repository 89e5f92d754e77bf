"""The panel of the blending lesson: two photos, a mask to choose or draw, its feather, and the weights."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from helpers import masks
from helpers.blending import WEIGHTS, Edit, Editor, feather_of, hard_paste
from helpers.generators import Generator
from helpers.images import quantize, resize
from helpers.states import State
from helpers.widgets.canvas import drawing_canvas
from helpers.widgets.panel import COLUMN, RunPanel
from helpers.widgets.parts import dropdown, float_slider, int_slider

DRAWN = "drawn"
PRESETS = {
    "Exact colours": {"first": 1.0, "second": 1.0, "perceptual": 0.0, "style": 0.0},
    "Coat of the second": {"first": 0.1, "second": 1.0, "perceptual": 0.1, "style": 0.1, "noise_steps": 0},
}


class BlendingPanel(RunPanel):
    """Controls of a blend beside its live view; see ``blending_panel``.

    Attributes, beside those of RunPanel:
        x, y: the photos (1, 3, R, R) in [0, 1] that show inside and outside.
        mask: (1, 1, R, R) in [0, 1], what is on the canvas.
        settings: what the controls say, as options of ``Editor.crossover``.
    """

    def __init__(self, generator: Generator, features, photos: dict[str, Tensor], out: str | Path, **values):
        self.generator, self.photos, self.editor = generator, dict(photos), Editor(generator, features)
        names = list(photos)
        size, self._placing = generator.resolution, False
        self.canvas = drawing_canvas(self._photo(names[1]), "mask", width=COLUMN)
        self.canvas.set_mask(masks.half(size))
        controls = {
            "x": dropdown("inside", names),
            "y": dropdown("outside", names),
            "shape": dropdown("mask", [*masks.SHAPES, DRAWN]),
            "feather": float_slider("feather, px", feather_of(generator), 0, size / 4, size / 128),
            "steps": int_slider("w+ steps", self.editor.options.steps, 10, 1000, 10),
            "noise_steps": int_slider("noise steps", self.editor.options.noise_steps, 0, 1000, 10),
        }
        controls["y"].value = names[1]
        super().__init__(
            self._make,
            controls,
            weights=WEIGHTS["crossover"],
            presets=PRESETS,
            reference=lambda: hard_paste(self.x, self.y, self.mask),
            title="hard paste",
            canvases={"mask": self.canvas},
            call="Editor(generator, features).crossover(x, y, mask)",
            model=getattr(generator, "name", ""),
            out=out,
        )
        for name in ("x", "y", "shape"):
            self.controls[name].observe(functools.partial(self.box.guard, self._place), "value")
        self.canvas.on_change(lambda _: self._drew())
        if unknown := set(values) - set(self.controls):
            raise ValueError(f"the controls are {', '.join(self.controls)}, but {', '.join(unknown)} came.")
        self.set(values)
        self.presets["Reset"] |= values

    # --- what it says -----------------------------------------------------------------------------------------------

    def _photo(self, name: str) -> Tensor:
        return resize(self.photos[name], self.generator.resolution).to(self.generator.device)

    x = property(lambda self: self._photo(self.controls["x"].value))
    y = property(lambda self: self._photo(self.controls["y"].value))

    @property
    def mask(self) -> Tensor:
        return self.canvas.mask(self.generator.resolution).to(self.generator.device)

    @property
    def settings(self) -> dict:
        """Options for ``Editor(generator, features).crossover(panel.x, panel.y, panel.mask, **panel.settings)``."""
        return {name: value for name, value in super().settings.items() if name not in ("x", "y", "shape")}

    def add_photo(self, name: str, image: Tensor) -> None:
        """Offer one more photo (1, 3, H, W) in [0, 1] and show it inside the mask."""
        self.controls["x"].value = self._offer(name, image)

    def _make(self, settings: dict) -> Edit:
        return self.editor.crossover(self.x, self.y, self.mask, **settings)

    # --- the canvas -------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Put the chosen shape and photo on the canvas, and the hard paste beside it."""
        shape, before = self.controls["shape"].value, self._placing
        self.canvas.set_background(self.y)
        self._placing = True
        if shape != DRAWN:
            self.canvas.set_mask(masks.SHAPES[shape](self.generator.resolution))
        self._placing = before
        self.box.show_reference()

    def _drew(self) -> None:
        """After a stroke the mask is no longer the shape that was chosen."""
        if not self._placing:
            self.controls["shape"].value = DRAWN
            self.box.show_reference()

    # --- states -----------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """As of every panel, with both photos: the file needs nothing else to go on."""
        state = super().state()
        state.pictures |= {"x": self.x.cpu(), "y": self.y.cpu()}
        return state

    def restore(self, state: State) -> None:
        """Go back to a state: photos, mask, controls and picture; nothing runs."""
        settings = dict(state.settings)
        for name in ("x", "y"):
            if name in state.pictures:
                settings[name] = self._offer(str(settings.get(name, name)), state.pictures[name])
        self._placing = True  # the mask is the state's, whatever shape it is called
        try:
            super().restore(State(state.latents, state.pictures, settings))
        finally:
            self._placing = False

    def _offer(self, name: str, image: Tensor) -> str:
        """Have a photo to choose: under its name, or under another where that is taken by another photo."""
        while name in self.photos and not torch.equal(quantize(self._photo(name).cpu()), quantize(image)):
            name += "'"
        if name not in self.photos:
            self.photos[name] = image
            self._list_photos()
        return name

    def _list_photos(self) -> None:
        for control in (self.controls["x"], self.controls["y"]):
            chosen = control.value
            control.options = list(self.photos)
            control.value = chosen


def blending_panel(
    generator: Generator, features, photos: dict[str, Tensor], *, out: str | Path = "output/panels", **values
) -> BlendingPanel:
    """A panel that blends two photos: choose them and a mask, or draw it; start, stop, keep, compare, save, load.

    Args:
        generator: with noise maps.
        features: network of ``load_features``.
        photos: name to photo (1, 3, H, W) in [0, 1], at least two, resized to the generator.
        out: folder for what is saved; a state file holds picture, mask, photos, latents and settings.
        values: first values of controls by name, e.g. ``shape="ellipse", feather=2``.

    Raises ValueError for fewer photos, or a control that there is not.

    The same run without widgets:
    ``Editor(generator, features).crossover(panel.x, panel.y, panel.mask, **panel.settings).run()``.
    """
    if len(photos) < 2:
        raise ValueError(f"a blend needs two photos to choose from, but {len(photos)} came; give a dict of two.")
    return BlendingPanel(generator, features, photos, out, **values)
