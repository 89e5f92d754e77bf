"""Sliders that render at once: between two inversions, and the truncation of samples."""

from __future__ import annotations

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.generators import Generator
from helpers.latents import Latents, interpolate
from helpers.widgets.parts import float_slider, seed_box
from helpers.widgets.pictures import figure_html, jpeg_url, row_html

WIDTH = 192  # pixels of each picture on the screen


class InterpolationSlider(widgets.VBox):
    """A slider from one latent to another; see ``interpolation_slider``."""

    def __init__(self, generator: Generator, a: Latents, b: Latents, steps: int = 50):
        self.generator, self.ends = generator, (a[0], b[0])
        self._cache: dict[float, Tensor] = {}
        self.slider = widgets.FloatSlider(0.5, min=0, max=1, step=1 / steps, description="t", readout_format=".2f")
        self.slider.layout.width, self.slider.style.description_width = f"{3 * WIDTH}px", "20px"
        self.view = widgets.HTML()
        super().__init__([self.slider, self.view])
        self.slider.observe(self._show, "value")
        self._show()

    @property
    def t(self) -> float:
        return self.slider.value

    @property
    def latents(self) -> Latents:
        return interpolate(*self.ends, self.t)

    @property
    def image(self) -> Tensor:
        """Image (1, 3, R, R) in [0, 1] at ``t``."""
        return self._image(self.t)

    @torch.no_grad()
    def _image(self, t: float) -> Tensor:
        t = round(t, 4)
        if t not in self._cache:  # at most one for each stop of the slider
            self._cache[t] = self.generator.synthesize(interpolate(*self.ends, t)).clamp(0, 1)
        return self._cache[t]

    def _show(self, _=None) -> None:
        pictures = {"a (t = 0)": 0.0, f"t = {self.t:.2f}": self.t, "b (t = 1)": 1.0}
        figures = (figure_html(title, jpeg_url(self._image(t)), WIDTH) for title, t in pictures.items())
        self.view.value = row_html(*figures)


def interpolation_slider(generator: Generator, a: Latents, b: Latents) -> InterpolationSlider:
    """A slider t that shows the image between the latents ``a`` (t = 0) and ``b`` (t = 1) at once.

    a, b: latents of one space, e.g. ``result.latents``; of a batch the first is taken. Raises LatentsError for two
    spaces. ``.image``, ``.latents`` and ``.t`` are what is shown.
    """
    return InterpolationSlider(generator, a, b)


class TruncationSlider(widgets.VBox):
    """Samples under a slider for their truncation; see ``truncation_slider``."""

    def __init__(self, generator: Generator, truncation: float = 0.7, n: int = 6, seed: int = 0):
        if "w" not in generator.spaces:
            raise ValueError(f"truncation pulls w to its mean, but this generator has only {generator.spaces[0]}.")
        self.generator, self.n = generator, n
        self.slider, self.seed = float_slider("truncation", truncation, 0.0, 1.5, 0.05), seed_box(seed)
        self.slider.layout.width = "480px"
        self.view = widgets.HTML()
        super().__init__([self.slider, self.seed, self.view])
        for control in (self.slider, self.seed):
            control.observe(self._show, "value")
        self._show()

    @property
    def latents(self) -> Latents:
        """w of the samples, (n, w_dim)."""
        z = self.generator.sample("z", self.n, self.seed.value)
        return Latents("w", self.generator.map(z, self.slider.value))

    @torch.no_grad()
    def _show(self, _=None) -> None:
        self.images = self.generator.synthesize(self.latents).clamp(0, 1)
        titles = [f"no. {number}" for number in range(self.n)]
        pictures = zip(titles, self.images.split(1), strict=True)
        self.view.value = row_html(*(figure_html(title, jpeg_url(i), WIDTH * 2 // 3) for title, i in pictures))


def truncation_slider(generator: Generator, truncation: float = 0.7, n: int = 6, seed: int = 0) -> TruncationSlider:
    """Samples of a generator, drawn anew at every move: 0 is the mean of w, 1 all of it (Karras et al. 2019, app. B).

    ``.images`` (n, 3, R, R) in [0, 1] and ``.latents`` are what is shown. Raises ValueError where there is no w.
    """
    return TruncationSlider(generator, truncation, n, seed)
