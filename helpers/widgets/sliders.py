"""Sliders that render at once: between two inversions, and the truncation of samples."""

from __future__ import annotations

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.generators import Generator
from helpers.latents import Latents, interpolate
from helpers.widgets.html import row_of
from helpers.widgets.parts import RESULT, float_slider, seed_box

SAMPLE = 128  # pixels on the screen of each of several samples


class Explorer(widgets.VBox):
    """Controls over images that are drawn at every move; ``shown()`` returns them by title."""

    width = RESULT  # pixels on the screen of each image

    def __init__(self, *controls: widgets.Widget):
        self.view = widgets.HTML()
        super().__init__([*controls, self.view])
        for control in controls:
            control.layout.width, control.layout.max_width = "auto", f"{2 * RESULT}px"
            control.observe(self._show, "value")
        self._show()

    def shown(self) -> dict[str, Tensor]:
        raise NotImplementedError

    @torch.no_grad()
    def _show(self, _=None) -> None:
        self.view.value = row_of(self.shown(), self.width)


class InterpolationSlider(Explorer):
    """A slider t that shows at once the image between the latents ``a`` (t = 0) and ``b`` (t = 1).

    a, b: latents of one space, e.g. ``result.latents``; the first of a batch is used. Raises LatentsError for two
    spaces. ``.image`` (1, 3, R, R) in [0, 1], ``.latents`` and ``.t`` are what is shown.
    """

    width = 192  # three fit next to each other

    def __init__(self, generator: Generator, a: Latents, b: Latents, steps: int = 50):
        self.generator, self.ends = generator, (a[0], b[0])
        self._cache: dict[float, Tensor] = {}
        self.slider = float_slider("t", 0.5, 0, 1, 1 / steps)
        super().__init__(self.slider)

    t = property(lambda self: self.slider.value)
    latents = property(lambda self: interpolate(*self.ends, self.t))
    image = property(lambda self: self._image(self.t))

    @torch.no_grad()
    def _image(self, t: float) -> Tensor:
        t = round(t, 4)
        if t not in self._cache:  # at most one for each stop of the slider
            self._cache[t] = self.generator.synthesize(interpolate(*self.ends, t)).clamp(0, 1)
        return self._cache[t]

    def shown(self) -> dict[str, Tensor]:
        places = {"a (t = 0)": 0.0, f"t = {self.t:.2f}": self.t, "b (t = 1)": 1.0}
        return {title: self._image(t) for title, t in places.items()}


class TruncationSlider(Explorer):
    """Samples of a generator, redrawn at every move: 0 is the mean of w, 1 all of it (Karras et al. 2019, app. B).

    ``.images`` (n, 3, R, R) in [0, 1] and ``.latents`` are what is shown. Raises ValueError without a w.
    """

    width = SAMPLE

    def __init__(self, generator: Generator, truncation: float = 0.7, n: int = 6, seed: int = 0):
        if "w" not in generator.spaces:
            raise ValueError(f"truncation pulls w to its mean, but this generator has only {generator.spaces[0]}.")
        self.generator, self.n = generator, n
        self.slider, self.seed = float_slider("truncation", truncation, 0.0, 1.5, 0.05), seed_box(seed)
        super().__init__(self.slider, self.seed)

    @property
    def latents(self) -> Latents:
        """w of the samples, (n, w_dim)."""
        z = self.generator.sample("z", self.n, self.seed.value)
        return Latents("w", self.generator.map(z, self.slider.value))

    def shown(self) -> dict[str, Tensor]:
        self.images = self.generator.synthesize(self.latents).clamp(0, 1)
        return {f"no. {number}": image for number, image in enumerate(self.images.split(1), 1)}
