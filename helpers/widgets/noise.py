"""The noise lesson: sliders for the amount of fitted noise, and the panel that fits it."""

from pathlib import Path

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers import noise
from helpers.generators import Generator
from helpers.latents import Latents
from helpers.metrics import psnr
from helpers.optimizers import OPTIMIZERS
from helpers.weights import registry
from helpers.widgets.canvas import DrawingCanvas
from helpers.widgets.html import text_html
from helpers.widgets.panel import OUT, RunPanel
from helpers.widgets.parts import COLUMN, control, log_slider
from helpers.widgets.sliders import Explorer


def noise_slider(generator: Generator, latents: Latents, target: Tensor) -> Explorer:
    """Sliders for the amount of the fitted noise, of the first of the latents, and the finest map that takes part."""

    def draw(amount: float, level: int) -> tuple[Latents, dict[str, Tensor]]:
        partly = noise.partly_fitted(generator, latents[0], amount, level)
        image = generator.synthesize(partly).clamp(0, 1)
        return partly, {"photo": target, f"{psnr(image, target).item():.1f} dB": image}

    maps = [(f"{h}×{w}, map {number}", number) for number, (h, w) in enumerate(generator.noise_shapes, 1)]
    levels = widgets.SelectionSlider(options=[("none", 0), *maps], value=len(maps))
    return Explorer(draw, control("amount", (0.0, 1.0, 0.05), 1.0), control("up to", levels))


class NoisePanel(RunPanel):
    """Fit noise maps to one of the photos, each with latents to start from; show what the latents hold without."""

    function, choosers, grouped = "helpers.noise.optimize_noise", ("photo",), False
    presets = {
        "Unit variance": {"regularise": noise.REGULARISATION},
        "One rate for all": {"per_layer": False, "lr": 5.0},
    }

    def __init__(self, generator: Generator, photos: dict[str, tuple[Tensor, Latents]], *, out: str | Path = OUT,
                 **values):  # fmt: skip
        noise.check_noise_maps(generator)
        self.generator, self.starts = generator, {name: latents for name, (_, latents) in photos.items()}
        images = {name: photo for name, (photo, _) in photos.items()}
        self.canvas = DrawingCanvas(next(iter(images.values())), "mask", width=COLUMN)
        controls = {
            "photo": control("photo", list(photos)),
            "order": control("order", list(noise.ORDERS)),
            "steps": control("steps", (10, 1000, 10), 300),
            "lr": log_slider("learning rate", noise.NOISE_LR, -3, 1, zero=False),
            "optimizer": control("optimizer", list(OPTIMIZERS[:2])),
            "per_layer": control("in units of", [("activations", True), ("noise", False)]),
        }
        canvases = {"where": self.canvas}
        super().__init__(controls, {"regularise": 0.0}, canvases=canvases, photos=images, out=out, values=values)

    latents = property(lambda self: self.start_of(self.controls["photo"].value))

    @torch.no_grad()
    def start_of(self, name: str) -> Latents:
        """Latents from which the fit of a photo starts: those that were given, else the encoder's, else the mean."""
        if name not in self.starts:
            if f"{getattr(self.generator, 'name', '')}-encoder" in registry():
                from helpers.encoder import load_encoder

                self.starts[name] = load_encoder(self.generator).encode(self.generator, self.photo(name))
            else:
                self.starts[name] = Latents("w", self.generator.mean("w"))
        return self.starts[name]

    @property
    def where(self) -> Tensor | None:
        """The mask (1, 1, R, R) of what is painted, None if nothing is."""
        mask = self.canvas.mask(self.generator.resolution).to(self.generator.device)
        return mask if mask.any() else None

    def arguments(self) -> str:
        name = self.controls["photo"].value
        return f"panel.generator, panel.photo({name!r}), panel.start_of({name!r}), where=panel.where"

    def make(self, settings: dict) -> noise.NoiseSearch:
        return noise.noise_inversion(self.generator, self.target, self.latents, where=self.where, **settings)

    def change(self, run: noise.NoiseSearch, weights: dict[str, float]) -> None:
        run.regularise = weights["regularise"]
        run.forget_best()

    def add_photo(self, name: str, image: Tensor) -> None:
        self.starts.pop(name, None)
        super().add_photo(name, image)

    def photo_changed(self) -> None:
        self.canvas.set_background(self.target)
        super().photo_changed()

    def remember(self, result) -> None:
        """As in every panel, and the measure of honesty: what the latents hold without their fitted maps."""
        super().remember(result)
        value = noise.fresh_noise_psnr(self.generator, self.target, result.latents).item()
        self.message.value = text_html(f"With fresh noise instead of the fitted maps: {value:.1f} dB.")
