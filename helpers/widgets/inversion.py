"""The panel of the inversion lesson: controls and a live view over a plain ``Inversion``."""

from __future__ import annotations

import functools
from pathlib import Path

import ipywidgets as widgets
from torch import Tensor

from helpers.generators import Generator
from helpers.inversion import Inversion
from helpers.losses import LAYERS, WEIGHTS
from helpers.optimizers import OPTIMIZERS
from helpers.weights import registry
from helpers.widgets.panel import OUT, RunPanel
from helpers.widgets.parts import dropdown, int_slider, log_slider, range_slider, reoption, seed_box

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
    """A panel that inverts a photo and shows how: controls, start / pause / stop, live image, loss curve.

    Args:
        generators: name to generator.
        features: network of ``load_features`` for the perceptual loss; None leaves that loss out.
        photos: name to photo (1, 3, H, W) in [0, 1], resized to the generator.
        out: folder for what is saved.
        values: first values of controls by name, e.g. ``space="w", steps=200``.

    The same run without widgets: ``project(panel.generator, panel.target, **panel.settings)``.
    """

    function, choosers = "helpers.inversion.project", ("target",)
    powers = {"delta": (-6, 0)}

    def __init__(self, generators: dict, features, photos: dict[str, Tensor], *, out: str | Path = OUT, **values):
        self.generators, self.features = dict(generators), features
        names = [name for name in ("l1", "perceptual", "delta") if features is not None or name != "perceptual"]
        self.presets = PRESETS if features is not None else {}
        weights = {name: WEIGHTS.get(name, 0.0) for name in names}
        super().__init__(self._make_controls(photos), weights, photos=photos, out=out, values=values)

    def _make_controls(self, photos: dict[str, Tensor]) -> dict[str, widgets.Widget]:
        generator = next(iter(self.generators.values()))
        spaces = generator.spaces
        controls = {
            "model": dropdown("model", list(self.generators)),
            "space": dropdown("space", spaces[::-1]),
            "target": dropdown("target", list(photos)),
        }
        if self.features is not None:
            names = self.features.layers
            usual = "conv " + " + ".join(name.removeprefix("conv") for name in LAYERS)
            layers = [(usual, LAYERS), ("a range of layers", RANGE), *((n, (n,)) for n in names)]
            controls["layers"] = dropdown("layers", layers)
            controls["convs"] = range_slider("from, to", [(n.removeprefix("conv"), i) for i, n in enumerate(names, 1)])
            controls["convs"].layout.display = "none"
        return controls | {
            "start": dropdown("start", starts_of(generator, spaces[-1])),
            "optimizer": dropdown("optimizer", OPTIMIZERS),
            "steps": int_slider("steps", 300, 10, 1000, 10),
            "lr": log_slider("learning rate", 0.1, -2, 0, zero=False),
            "seed": seed_box(),
        }

    def connect(self) -> None:
        effects = {"model": self._limit, "space": self._limit, "layers": self._show_range}
        for name in effects.keys() & self.controls.keys():
            self.controls[name].observe(functools.partial(self.guard, effects[name]), "value")

    def _limit(self) -> None:
        """Offer the spaces of the model and the starts of the space."""
        reoption(self.controls["space"], self.generator.spaces[::-1])
        starts = starts_of(self.generator, self.controls["space"].value)
        if tuple(self.controls["start"].options) != starts:
            self.controls["start"].options = starts  # and chooses the first
        self.show_reference()

    def _show_range(self) -> None:
        self.controls["convs"].layout.display = None if self.controls["layers"].value == RANGE else "none"

    # --- what it says -----------------------------------------------------------------------------------------------

    generator = property(lambda self: self.generators[self.controls["model"].value])
    target = property(lambda self: self.chosen_photo("target"))

    def arguments(self) -> str:
        return f"panel.generators[{self.controls['model'].value!r}], panel.photo({self.controls['target'].value!r})"

    @property
    def settings(self) -> dict:
        """Options for ``project(panel.generator, panel.target, **panel.settings)``."""
        values = {name: value for name, value in super().settings.items() if name not in ("model", "convs")}
        if values.get("layers") == RANGE:
            first, last = self.controls["convs"].value
            values["layers"] = tuple(range(first, last + 1))
        return {**values, "features": self.features}

    def make(self, settings: dict) -> Inversion:
        return Inversion(self.generator, self.target, **settings)

    def reference(self) -> Tensor:
        return self.target

    def _change_weights(self) -> None:
        if not any(self.controls[name].value for name in self.weight_names if name != "delta"):
            raise ValueError("Every image loss has weight 0, so nothing ties the result to the photo; raise one.")
        super()._change_weights()
