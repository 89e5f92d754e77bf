"""The panel of the inversion lesson: controls and a live view over a plain ``Inversion``."""

from __future__ import annotations

import functools

import ipywidgets as widgets
from torch import Tensor

from helpers.generators import Generator
from helpers.images import resize
from helpers.inversion import Inversion
from helpers.losses import LAYERS, WEIGHTS
from helpers.optimizers import OPTIMIZERS
from helpers.weights import registry
from helpers.widgets.panel import RunPanel
from helpers.widgets.parts import dropdown, int_slider, log_slider, range_slider, seed_box, values_of

RANGE = "range"  # the layers are those of the slider
PRESETS = {
    "Pixels only": {"l1": 1.0, "perceptual": 0.0, "delta": 0.0},
    "Perceptual only": {"l1": 0.0, "perceptual": 1.0, "delta": 0.0},
    "Near the mean": {"l1": 1.0, "perceptual": 0.1, "delta": 0.01},
}


def starts_of(generator: Generator, space: str) -> tuple[str, ...]:
    """Where an inversion can start, its default first; the mean of z, 0, has no direction, and no encoder gives z."""
    if space == "z":
        return ("best", "sample")
    encoder = f"{getattr(generator, 'name', '')}-encoder" in registry()
    return ("mean", "best", "sample", *(["encoder"] if encoder else []))


class InversionPanel(RunPanel):
    """Controls of an inversion beside its live view; see ``inversion_panel``.

    Attributes, beside those of RunPanel:
        settings: what the controls say, as options of ``project``.
        generator, target: what they say to invert, and the photo at the generator's resolution, (1, 3, R, R).
        result: Result of the last run, the best so far while it runs, None before.
    """

    def __init__(self, generators: dict[str, Generator], features, targets: dict[str, Tensor], **values):
        self.generators, self.features, self.targets = dict(generators), features, dict(targets)
        names = [name for name in ("l1", "perceptual", "delta") if features is not None or name != "perceptual"]
        super().__init__(
            lambda settings: Inversion(self.generator, self.target, **settings),
            self._make_controls(),
            weights={name: WEIGHTS.get(name, 0.0) for name in names},
            powers={"delta": (-6, 0)},
            presets=PRESETS if features is not None else None,
            reference=lambda: self.target,
            call="project(generator, target)",
            model=lambda: getattr(self.generator, "name", self.controls["model"].value),
        )
        self._connect()
        if unknown := set(values) - set(self.controls):
            raise ValueError(f"the controls are {', '.join(self.controls)}, but {', '.join(unknown)} came.")
        self.set(values)
        self.presets["Reset"] |= values

    def _make_controls(self) -> dict[str, widgets.Widget]:
        generator = next(iter(self.generators.values()))
        spaces = generator.spaces
        controls = {
            "model": dropdown("model", list(self.generators)),
            "space": dropdown("space", spaces[::-1]),
            "target": dropdown("target", list(self.targets)),
        }
        if self.features is not None:
            names = self.features.layers
            layers = [(" + ".join(map(str, LAYERS)), LAYERS), ("a range of layers", RANGE), *((n, (n,)) for n in names)]
            controls["layers"] = dropdown("layers", layers)
            controls["convs"] = range_slider("from, to", [(n.removeprefix("conv"), i) for i, n in enumerate(names, 1)])
            controls["convs"].layout.display = "none"
        controls |= {
            "start": dropdown("start", starts_of(generator, spaces[-1])),
            "optimizer": dropdown("optimizer", OPTIMIZERS),
            "steps": int_slider("steps", 300, 10, 1000, 10),
            "lr": log_slider("learning rate", 0.1, -2, 0, zero=False),
            "seed": seed_box(),
        }
        return controls

    def _connect(self) -> None:
        guard = self.box.guard
        self.controls["model"].observe(functools.partial(guard, self._limit_spaces), "value")
        self.controls["space"].observe(functools.partial(guard, self._limit_starts), "value")
        if "layers" in self.controls:
            self.controls["layers"].observe(functools.partial(guard, self._show_range), "value")
        for name in ("model", "target"):
            self.controls[name].observe(functools.partial(guard, self.box.show_reference), "value")

    def _limit_spaces(self) -> None:
        control, spaces = self.controls["space"], self.generator.spaces[::-1]
        if tuple(control.options) != spaces:
            space = control.value
            control.options = spaces
            control.value = space if space in spaces else spaces[0]
        self._limit_starts()

    def _limit_starts(self) -> None:
        control, starts = self.controls["start"], starts_of(self.generator, self.controls["space"].value)
        if tuple(control.options) != starts:
            control.options = starts  # and chooses the first

    def _show_range(self) -> None:
        self.controls["convs"].layout.display = None if self.controls["layers"].value == RANGE else "none"

    # --- what it says -----------------------------------------------------------------------------------------------

    @property
    def generator(self) -> Generator:
        return self.generators[self.controls["model"].value]

    @property
    def target(self) -> Tensor:
        target = self.targets[self.controls["target"].value]
        return resize(target, self.generator.resolution).to(self.generator.device)

    @property
    def settings(self) -> dict:
        """Options for ``project(panel.generator, panel.target, **panel.settings)``."""
        names = [name for name in self.controls if name not in ("model", "target", "convs", *self.weight_names)]
        values, weights = values_of(self.controls, names), values_of(self.controls, self.weight_names)
        if values.get("layers") == RANGE:
            first, last = self.controls["convs"].value
            values["layers"] = tuple(range(first, last + 1))
        return {**values, "weights": weights, "features": self.features}

    def add_target(self, name: str, image: Tensor) -> None:
        """Offer one more photo (1, 3, H, W) in [0, 1] and choose it."""
        self.targets[name] = image
        self.controls["target"].options = list(self.targets)
        self.controls["target"].value = name
        self.box.show_reference()

    def _change_weights(self) -> None:
        if not any(self.controls[name].value for name in self.weight_names if name != "delta"):
            raise ValueError("Every image loss has weight 0, so nothing ties the result to the photo; raise one.")
        super()._change_weights()


def inversion_panel(generators: dict[str, Generator], features, targets: dict[str, Tensor], **values) -> InversionPanel:
    """A panel that inverts a photo and shows how: controls, start / pause / stop, live picture, loss curve.

    Args:
        generators: name to generator.
        features: network of ``load_features`` for the perceptual loss; None leaves that loss out.
        targets: name to photo (1, 3, H, W) in [0, 1], resized to the generator.
        values: first values of controls by name, e.g. ``space="w", steps=200``.

    The same run without widgets: ``project(panel.generator, panel.target, **panel.settings)``.
    """
    return InversionPanel(generators, features, targets, **values)
