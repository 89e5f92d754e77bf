"""The noise lesson: sliders for the amount of fitted noise, and the panel that fits it."""

from __future__ import annotations

from pathlib import Path

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.encoder import load_encoder
from helpers.generators import Generator
from helpers.latents import Latents
from helpers.metrics import psnr
from helpers.noise import (
    NOISE_LR,
    ORDERS,
    REGULARISATION,
    NoiseSearch,
    check_noise_maps,
    fresh_noise_psnr,
    noise_inversion,
    partly_fitted,
)
from helpers.optimizers import OPTIMIZERS
from helpers.weights import registry
from helpers.widgets.canvas import drawing_canvas
from helpers.widgets.html import text_html
from helpers.widgets.panel import COLUMN, OUT, RunPanel
from helpers.widgets.parts import dropdown, float_slider, int_slider, log_slider
from helpers.widgets.sliders import Explorer


class NoiseSlider(Explorer):
    """Two sliders, the amount of the fitted noise and the finest map that takes part, and the image of both.

    latents: with fitted noise maps; the first of a batch is used. target: (1, 3, R, R) in [0, 1]. Raises NoiseError
    for latents without maps. ``.image`` (1, 3, R, R) in [0, 1] and ``.latents`` are what is shown.
    """

    def __init__(self, generator: Generator, latents: Latents, target: Tensor):
        self.generator, self.fitted, self.target = generator, latents[0], target
        sizes = enumerate(generator.noise_shapes, 1)
        names = [("none", 0), *((f"{h}×{w}, map {number}", number) for number, (h, w) in sizes)]
        self.amount = float_slider("amount", 1.0, 0, 1, 0.05)
        self.levels = widgets.SelectionSlider(options=names, value=len(names) - 1, description="up to")
        self.levels.style.description_width = self.amount.style.description_width
        super().__init__(self.amount, self.levels)

    latents = property(lambda self: partly_fitted(self.generator, self.fitted, self.amount.value, self.levels.value))

    @property
    @torch.no_grad()
    def image(self) -> Tensor:
        return self.generator.synthesize(self.latents).clamp(0, 1)

    def shown(self) -> dict[str, Tensor]:
        image = self.image
        return {"photo": self.target, f"{psnr(image, self.target).item():.1f} dB": image}


class NoisePanel(RunPanel):
    """A panel that fits noise maps to a photo, and reports what the latents hold without them.

    Args:
        generator: with noise maps.
        photos: name to a photo (1, 3, R, R) in [0, 1] and the latents of one image to start from, e.g. in w+.
        out: folder for what is saved.
        values: first values of controls by name, e.g. ``steps=600``.

    Attributes, besides those of RunPanel: target and latents, the photo and where its fit starts; where, a mask
    (1, 1, R, R) of what is painted, None if nothing is.

    Raises NoiseError for a generator without noise maps. The same run without widgets:
    ``optimize_noise(generator, panel.target, panel.latents, where=panel.where, **panel.settings)``.
    """

    function, choosers = "helpers.noise.optimize_noise", ("photo",)
    presets = {"Unit variance": {"regularise": REGULARISATION}, "One rate for all": {"per_layer": False, "lr": 5.0}}

    def __init__(self, generator: Generator, photos: dict[str, tuple[Tensor, Latents]], *, out: str | Path = OUT,
                 **values):  # fmt: skip
        check_noise_maps(generator)
        self.generator, self.starts = generator, {name: latents for name, (_, latents) in photos.items()}
        self.canvas = drawing_canvas(next(iter(photos.values()))[0], "mask", width=COLUMN)
        controls = {
            "photo": dropdown("photo", list(photos)),
            "order": dropdown("order", ORDERS),
            "steps": int_slider("steps", 300, 10, 1000, 10),
            "lr": log_slider("learning rate", NOISE_LR, -3, 1, zero=False),
            "optimizer": dropdown("optimizer", OPTIMIZERS[:2]),
            "per_layer": dropdown("in units of", [("activations", True), ("noise", False)]),
        }
        images = {name: photo for name, (photo, _) in photos.items()}
        canvases = {"where": self.canvas}
        super().__init__(controls, {"regularise": 0.0}, canvases=canvases, photos=images, out=out, values=values)

    target = property(lambda self: self.chosen_photo("photo"))
    latents = property(lambda self: self.start_of(self.controls["photo"].value))

    @torch.no_grad()
    def start_of(self, name: str) -> Latents:
        """Latents from which the fit of a photo starts: those that were given, else the encoder's, else the mean."""
        if name not in self.starts:
            if f"{getattr(self.generator, 'name', '')}-encoder" in registry():
                self.starts[name] = load_encoder(self.generator).encode(self.generator, self.photo(name))
            else:
                self.starts[name] = Latents("w", self.generator.mean("w"))
        return self.starts[name]

    @property
    def where(self) -> Tensor | None:
        mask = self.canvas.mask(self.generator.resolution).to(self.generator.device)
        return mask if mask.any() else None

    @property
    def settings(self) -> dict:
        """Options for ``optimize_noise(generator, panel.target, panel.latents, where=panel.where, ...)``."""
        values = super().settings
        return values | values.pop("weights")

    def arguments(self) -> str:
        name = self.controls["photo"].value
        return f"panel.generator, panel.photo({name!r}), panel.start_of({name!r}), where=panel.where"

    def make(self, settings: dict) -> NoiseSearch:
        return noise_inversion(self.generator, self.target, self.latents, where=self.where, **settings)

    def reference(self) -> Tensor:
        return self.target

    def change(self, run: NoiseSearch, weights: dict[str, float]) -> None:
        run.regularise = weights["regularise"]
        run.forget_best()

    def add_photo(self, name: str, image: Tensor) -> None:
        self.starts.pop(name, None)
        super().add_photo(name, image)

    def photo_changed(self) -> None:
        self.canvas.set_background(self.target)
        self.show_reference()

    def remember(self, result) -> None:
        """As in every panel, and the measure of honesty: what the latents hold without their fitted maps."""
        super().remember(result)
        value = fresh_noise_psnr(self.generator, self.target, result.latents).item()
        self.message.value = text_html(f"With fresh noise instead of the fitted maps: {value:.1f} dB.")
