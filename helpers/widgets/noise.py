"""The noise lesson: sliders for how much of the fitted noise is shown, and the panel that fits it."""

from __future__ import annotations

import functools
from pathlib import Path

import ipywidgets as widgets
import torch
from torch import Tensor

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
from helpers.widgets.canvas import drawing_canvas
from helpers.widgets.panel import COLUMN, RunPanel
from helpers.widgets.parts import dropdown, int_slider, log_slider
from helpers.widgets.pictures import figure_html, jpeg_url, row_html, text_html

WIDTH = 192  # pixels of each picture on the screen


class NoiseSlider(widgets.VBox):
    """Sliders over ``partly_fitted``; see ``noise_slider``."""

    def __init__(self, generator: Generator, latents: Latents, target: Tensor):
        self.generator, self.fitted, self.target = generator, latents[0], target
        count = len(generator.noise_shapes)
        names = [("none", 0), *((f"{h}×{w}, map {i + 1}", i + 1) for i, (h, w) in enumerate(generator.noise_shapes))]
        self.amount = widgets.FloatSlider(1.0, min=0, max=1, step=0.05, description="amount", readout_format=".2f")
        self.levels = widgets.SelectionSlider(options=names, value=count, description="up to")
        self.view = widgets.HTML()
        for slider in (self.amount, self.levels):
            slider.layout.width = f"{2 * WIDTH}px"
            slider.observe(self._show, "value")
        super().__init__([self.amount, self.levels, self.view])
        self._show()

    @property
    def latents(self) -> Latents:
        return partly_fitted(self.generator, self.fitted, self.amount.value, self.levels.value)

    @property
    def image(self) -> Tensor:
        """Image (1, 3, R, R) in [0, 1] of what the sliders say."""
        with torch.no_grad():
            return self.generator.synthesize(self.latents).clamp(0, 1)

    def _show(self, _=None) -> None:
        image = self.image
        title = f"{psnr(image, self.target).item():.1f} dB"
        pictures = {"photo": self.target, title: image}
        self.view.value = row_html(*(figure_html(name, jpeg_url(p), WIDTH) for name, p in pictures.items()))


def noise_slider(generator: Generator, latents: Latents, target: Tensor) -> NoiseSlider:
    """Two sliders, the amount of the fitted noise and the finest map that takes part, and the image of both.

    latents: with fitted noise maps; of a batch the first is taken. target: (1, 3, R, R) in [0, 1]. Raises NoiseError
    for latents without maps. ``.image`` and ``.latents`` are what is shown.
    """
    return NoiseSlider(generator, latents, target)


class NoisePanel(RunPanel):
    """Controls of a noise stage beside its live view; see ``noise_panel``.

    Attributes, beside those of RunPanel:
        target, latents: the photo (1, 3, R, R) in [0, 1] that the controls say, and where its noise stage starts.
        where: (1, 1, R, R) in [0, 1], where the maps may change: what is on the canvas; None where it is empty.
        settings: what the controls say, as options of ``optimize_noise``.
    """

    def __init__(self, generator: Generator, photos: dict[str, tuple[Tensor, Latents]], out: str | Path, **values):
        self.generator, self.photos = generator, dict(photos)
        self.canvas = drawing_canvas(next(iter(photos.values()))[0], "mask", width=COLUMN)
        controls = {
            "photo": dropdown("photo", list(photos)),
            "order": dropdown("order", ORDERS),
            "steps": int_slider("steps", 300, 10, 1000, 10),
            "lr": log_slider("rate", NOISE_LR, -3, 1, zero=False),
            "optimizer": dropdown("optimizer", OPTIMIZERS[:2]),
            "per_layer": dropdown("in units of", [("activations", True), ("noise", False)]),
        }
        super().__init__(
            lambda settings: noise_inversion(generator, self.target, self.latents, where=self.where, **settings),
            controls,
            weights={"regularise": 0.0},
            presets={
                "Unit variance": {"regularise": REGULARISATION},
                "One rate for all": {"per_layer": False, "lr": 5.0},
            },
            reference=lambda: self.target,
            canvases={"where": self.canvas},
            call="optimize_noise(generator, target, latents, where=where)",
            model=getattr(generator, "name", ""),
            out=out,
            change=_regularise,
        )
        self.controls["photo"].observe(functools.partial(self.box.guard, self._choose_photo), "value")
        if unknown := set(values) - set(self.controls):
            raise ValueError(f"the controls are {', '.join(self.controls)}, but {', '.join(unknown)} came.")
        self.set(values)
        self.presets["Reset"] |= values

    target = property(lambda self: self.photos[self.controls["photo"].value][0])
    latents = property(lambda self: self.photos[self.controls["photo"].value][1])

    @property
    def where(self) -> Tensor | None:
        mask = self.canvas.mask(self.generator.resolution).to(self.generator.device)
        return mask if mask.any() else None

    @property
    def settings(self) -> dict:
        """Options for ``optimize_noise(generator, panel.target, panel.latents, where=panel.where, ...)``."""
        values = super().settings
        return {name: value for name, value in values.items() if name not in ("photo", "weights")} | values["weights"]

    def _choose_photo(self) -> None:
        self.canvas.set_background(self.target)
        self.box.show_reference()

    def _remember(self, result) -> None:
        """As of every panel, and the measure of honesty: what the code holds without its fitted maps."""
        super()._remember(result)
        value = fresh_noise_psnr(self.generator, self.target, result.latents).item()
        self.message.value = text_html(f"With fresh noise in place of the fitted maps: {value:.1f} dB.")


def _regularise(run: NoiseSearch, weights: dict[str, float]) -> None:
    run.regularise = weights["regularise"]
    run.forget_best()


def noise_panel(
    generator: Generator,
    photos: dict[str, tuple[Tensor, Latents]],
    *,
    out: str | Path = "output/panels",
    **values,
) -> NoisePanel:
    """A panel that fits noise maps to a photo, everywhere or where one paints, and tells what the code holds alone.

    Args:
        generator: with noise maps.
        photos: name to a photo (1, 3, R, R) in [0, 1] and the latents of one picture to start from, e.g. of w+.
        out: folder for what is saved.
        values: first values of controls by name, e.g. ``steps=600``.

    Raises NoiseError for a generator without noise maps, ValueError for a control that there is not.

    The same run without widgets:
    ``optimize_noise(generator, panel.target, panel.latents, where=panel.where, **panel.settings)``.
    """
    check_noise_maps(generator)
    return NoisePanel(generator, photos, out, **values)
