"""Sliders for how much of the fitted noise is shown; they render at once."""

from __future__ import annotations

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.generators import Generator
from helpers.latents import Latents
from helpers.metrics import psnr
from helpers.noise import partly_fitted

from .pictures import figure_html, jpeg_url, row_html

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
