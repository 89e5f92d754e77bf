"""The panel of the inversion lesson: controls and a live view over a plain ``Inversion``."""

from pathlib import Path

import ipywidgets as widgets
from torch import Tensor

from helpers.generators import Generator
from helpers.inversion import Inversion
from helpers.losses import LAYERS, WEIGHTS
from helpers.optimizers import OPTIMIZERS
from helpers.weights import registry
from helpers.widgets.panel import OUT, RunPanel
from helpers.widgets.parts import control, log_slider, reoption, seed_box

RANGE = "range"  # the layers are those of the slider
PRESETS = {
    "Pixels only": {"l1": 1.0, "perceptual": 0.0, "delta": 0.0},
    "Perceptual only": {"l1": 0.0, "perceptual": 1.0, "delta": 0.0},
    "Near the mean": {"l1": 1.0, "perceptual": 0.1, "delta": 0.01},
}


def starts_of(generator: Generator, space: str) -> tuple[str, ...]:
    """Where an inversion can start, its default first; z = 0 has no direction, and no encoder predicts z."""
    if space == "z":
        return ("best", "sample")
    encoder = f"{getattr(generator, 'name', '')}-encoder" in registry()
    return ("mean", "best", "sample", *(["encoder"] if encoder else []))


class InversionPanel(RunPanel):
    """Inverts a photo in one of the generators, given by name; features None leaves the perceptual loss out."""

    function, choosers, aside = "helpers.inversion.project", ("target",), ("model", "convs")
    powers = {"delta": (-6, 0)}

    def __init__(self, generators: dict, features, photos: dict[str, Tensor], *, out: str | Path = OUT, **values):
        self.generators, self.features = dict(generators), features
        generator = next(iter(generators.values()))
        controls = {
            "model": control("model", list(generators)),
            "space": control("space", list(generator.spaces[::-1])),
            "target": control("target", list(photos)),
            **self._layer_controls(),
            "start": control("start", list(starts_of(generator, generator.spaces[-1]))),
            "optimizer": control("optimizer", list(OPTIMIZERS)),
            "steps": control("steps", (10, 1000, 10), 300),
            "lr": log_slider("learning rate", 0.1, -2, 0, zero=False),
            "seed": seed_box(),
        }
        self.presets = {} if features is None else PRESETS
        names = [name for name in ("l1", "perceptual", "delta") if features is not None or name != "perceptual"]
        weights = {name: WEIGHTS.get(name, 0.0) for name in names}
        super().__init__(controls, weights, photos=photos, out=out, values=values)

    def _layer_controls(self) -> dict[str, widgets.Widget]:
        """A choice of layers, and a slider for a range of them."""
        if self.features is None:
            return {}
        names = self.features.layers
        usual = "conv " + " + ".join(name.removeprefix("conv") for name in LAYERS)
        layers = [(usual, LAYERS), ("a range of layers", RANGE), *((name, (name,)) for name in names)]
        ends = [(name.removeprefix("conv"), number) for number, name in enumerate(names, 1)]
        convs = control("from, to", widgets.SelectionRangeSlider(options=ends, index=(0, len(ends) - 1)))
        convs.layout.display = "none"
        return {"layers": control("layers", layers), "convs": convs}

    generator = property(lambda self: self.generators[self.controls["model"].value])

    def arguments(self) -> str:
        return f"panel.generators[{self.controls['model'].value!r}], panel.photo({self.controls['target'].value!r})"

    @property
    def settings(self) -> dict:
        values = super().settings
        if values.get("layers") == RANGE:
            first, last = self.controls["convs"].value
            values["layers"] = tuple(range(first, last + 1))
        return {**values, "features": self.features}

    def make(self, settings: dict) -> Inversion:
        return Inversion(self.generator, self.target, **settings)

    def react(self, name: str) -> None:
        super().react(name)
        if name in ("model", "space"):
            reoption(self.controls["space"], self.generator.spaces[::-1])
            starts = starts_of(self.generator, self.controls["space"].value)
            if self.controls["start"].options != starts:
                self.controls["start"].options = starts  # and chooses the first
            self.show()
        if name == "layers":
            self.controls["convs"].layout.display = None if self.controls["layers"].value == RANGE else "none"
        if name in self.weight_names and not any(self.values[loss] for loss in self.weight_names if loss != "delta"):
            raise ValueError("Every image loss has weight 0, so nothing ties the result to the photo; raise one.")
