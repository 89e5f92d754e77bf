"""The panel of the blending lesson: two photos, a mask to choose or draw, its feather, and the weights."""

from __future__ import annotations

import functools
from pathlib import Path

from torch import Tensor

from helpers import masks
from helpers.blending import WEIGHTS, Edit, Editor, feather_of, hard_paste
from helpers.generators import Generator
from helpers.images import resize
from helpers.states import State
from helpers.widgets.canvas import drawing_canvas
from helpers.widgets.panel import COLUMN, OUT, RunPanel
from helpers.widgets.parts import dropdown, float_slider, int_slider

DRAWN = "drawn"


class BlendingPanel(RunPanel):
    """A panel that blends two photos: choose them and a mask, or draw it; start, stop, keep, compare, save, load.

    Args:
        generator: with noise maps.
        features: network of ``load_features``.
        photos: name to photo (1, 3, H, W) in [0, 1], at least two, resized to the generator.
        out: folder for what is saved; a state file holds image, mask, photos, latents and settings.
        values: first values of controls by name, e.g. ``shape="ellipse", feather=2``.

    Attributes, besides those of RunPanel: x and y, the photos (1, 3, R, R) inside and outside; mask (1, 1, R, R).

    Raises ValueError for fewer photos. The same run without widgets:
    ``Editor(generator, features).crossover(panel.x, panel.y, panel.mask, **panel.settings).run()``.
    """

    function, then = "helpers.blending.Editor(panel.generator, panel.features).crossover", ".run()"
    title, choosers = "hard paste", ("x", "y")
    labels = {"first": "match inside", "second": "match outside"}
    presets = {
        "Exact colours": {"first": 1.0, "second": 1.0, "perceptual": 0.0, "style": 0.0},
        "Coat from outside": {"first": 0.1, "second": 1.0, "perceptual": 0.1, "style": 0.1, "noise_steps": 0},
    }

    def __init__(self, generator: Generator, features, photos: dict[str, Tensor], *, out: str | Path = OUT, **values):
        if len(photos) < 2:
            raise ValueError(f"a blend needs two photos to choose from; got {len(photos)}, give a dict of two.")
        self.generator, self.features, self._placing = generator, features, False
        self.editor = Editor(generator, features)
        names, size = list(photos), generator.resolution
        self.canvas = drawing_canvas(resize(photos[names[1]], size), "mask", width=COLUMN, softens=False)
        self.canvas.set_mask(masks.half(size))
        controls = {
            "x": dropdown("inside", names),
            "y": dropdown("outside", names, names[1]),
            "shape": dropdown("mask", [*masks.SHAPES, DRAWN]),
            "feather": float_slider("feather, px", feather_of(generator), 0, size / 4, size / 128),
            "steps": int_slider("w+ steps", self.editor.options.steps, 10, 1000, 10),
            "noise_steps": int_slider("noise steps", self.editor.options.noise_steps, 0, 1000, 10),
        }
        canvases = {"mask": self.canvas}
        super().__init__(controls, WEIGHTS["crossover"], canvases=canvases, photos=photos, out=out, values=values)

    def connect(self) -> None:
        self.controls["shape"].observe(functools.partial(self.guard, self.photo_changed), "value")
        self.canvas.on_change(lambda _: self._drew())

    # --- what it says -----------------------------------------------------------------------------------------------

    x = property(lambda self: self.chosen_photo("x"))
    y = property(lambda self: self.chosen_photo("y"))

    @property
    def mask(self) -> Tensor:
        return self.canvas.mask(self.generator.resolution).to(self.generator.device)

    @property
    def settings(self) -> dict:
        """Options for ``Editor(generator, features).crossover(panel.x, panel.y, panel.mask, **panel.settings)``."""
        return {name: value for name, value in super().settings.items() if name != "shape"}

    def arguments(self) -> str:
        x, y = (f"panel.photo({self.controls[name].value!r})" for name in self.choosers)
        return f"{x}, {y}, panel.mask"

    def make(self, settings: dict) -> Edit:
        return self.editor.crossover(self.x, self.y, self.mask, **settings)

    def reference(self) -> Tensor:
        return hard_paste(self.x, self.y, self.mask)

    # --- the canvas -------------------------------------------------------------------------------------------------

    def photo_changed(self) -> None:
        """Put the chosen shape and photo on the canvas, and the hard paste next to it."""
        shape, before = self.controls["shape"].value, self._placing
        self.canvas.set_background(self.y)
        self._placing = True
        if shape != DRAWN:
            self.canvas.set_mask(masks.SHAPES[shape](self.generator.resolution))
        self._placing = before
        self.show_reference()

    def _drew(self) -> None:
        """After a stroke the mask is no longer the shape that was chosen."""
        if not self._placing:
            self.controls["shape"].value = DRAWN
            self.show_reference()

    def restore(self, state: State) -> None:
        self._placing = True  # the mask is the state's, whatever shape it is called
        try:
            super().restore(state)
        finally:
            self._placing = False
