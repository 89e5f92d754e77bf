"""The panel of the blending lesson: two photos, a mask to choose or draw, its feather, and the weights."""

from pathlib import Path

import torch
from torch import Tensor

from helpers import masks
from helpers.blending import WEIGHTS, Edit, Editor, feather_of, hard_paste
from helpers.generators import Generator
from helpers.images import resize
from helpers.widgets.canvas import DrawingCanvas
from helpers.widgets.panel import OUT, RunPanel
from helpers.widgets.parts import COLUMN, control

DRAWN = "drawn"


class BlendingPanel(RunPanel):
    """A panel that blends two photos (of two or more, else ValueError), ``.x`` inside and ``.y`` outside of a mask."""

    function, then = "helpers.blending.Editor(panel.generator, panel.features).crossover", ".run()"
    title, choosers, aside = "hard paste", ("x", "y"), ("shape",)
    labels = {"first": "match inside", "second": "match outside", "prior": "likely face"}
    presets = {
        "Exact colours": {"first": 1.0, "second": 1.0, "perceptual": 0.0, "style": 0.0},
        "Coat from outside": {"first": 0.1, "second": 1.0, "perceptual": 0.1, "style": 0.1, "noise_steps": 0},
    }

    def __init__(self, generator: Generator, features, photos: dict[str, Tensor], *, out: str | Path = OUT, **values):
        if len(photos) < 2:
            raise ValueError(f"a blend needs two photos to choose from; got {len(photos)}, give a dict of two.")
        self.generator, self.features, self.editor = generator, features, Editor(generator, features)
        names, size = list(photos), generator.resolution
        self.canvas = DrawingCanvas(resize(photos[names[1]], size), "mask", width=COLUMN, softens=False)
        controls = {
            "x": control("inside", names),
            "y": control("outside", names, names[1]),
            "shape": control("mask", [*masks.SHAPES, DRAWN]),
            "feather": control("feather, px", (0.0, size / 4, size / 128), feather_of(generator)),
            "steps": control("w+ steps", (10, 1000, 10), self.editor.options.steps),
            "noise_steps": control("noise steps", (0, 1000, 10), self.editor.options.noise_steps),
        }
        canvases = {"mask": self.canvas}
        super().__init__(controls, WEIGHTS["crossover"], canvases=canvases, photos=photos, out=out, values=values)
        self.canvas.on_change(lambda _: self._drew())
        self.photo_changed()

    x = property(lambda self: self.chosen_photo("x"))
    y = property(lambda self: self.chosen_photo("y"))

    @property
    def mask(self) -> Tensor:
        """What is drawn, (1, 1, R, R), not feathered."""
        return self.canvas.mask(self.generator.resolution).to(self.generator.device)

    def arguments(self) -> str:
        x, y = (f"panel.photo({self.controls[name].value!r})" for name in self.choosers)
        return f"{x}, {y}, panel.mask"

    def make(self, settings: dict) -> Edit:
        return self.editor.crossover(self.x, self.y, self.mask, **settings)

    def reference(self) -> Tensor:
        return hard_paste(self.x, self.y, self.mask)

    def react(self, name: str) -> None:
        super().react(name)
        if name == "shape":
            self.photo_changed()

    def photo_changed(self) -> None:
        """Put the chosen shape and photo on the canvas, and the hard paste next to it."""
        shape = self.controls["shape"].value
        self.canvas.set_background(self.y)
        if shape != DRAWN:
            self.canvas.set_mask(self._shape(shape))
        self.show()

    def _shape(self, name: str) -> Tensor:
        return masks.shapes(self.generator.landmarks)[name](self.generator.resolution)

    def _drew(self) -> None:
        """After a stroke the mask is no longer the shape that was chosen."""
        shape, mask = self.controls["shape"].value, self.mask.cpu()
        if shape != DRAWN and not torch.allclose(mask, self._shape(shape), atol=1 / 255):
            self.controls["shape"].value = DRAWN
        self.show()
