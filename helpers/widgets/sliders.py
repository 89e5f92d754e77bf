"""Sliders that render at once: between two inversions, along directions, and the truncation of samples."""

import functools
from collections.abc import Callable

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.directions import move
from helpers.generators import Generator
from helpers.latents import Latents, interpolate
from helpers.widgets.html import RESULT, figure_html, row_html
from helpers.widgets.parts import control, seed_box


class Explorer(widgets.VBox):
    """Controls over images, each ``width`` pixels wide, that are drawn at every move.

    draw: from the controls' values to latents and images by title, which are then ``.latents`` and ``.images``.
    """

    def __init__(self, draw: Callable[..., tuple[Latents, dict[str, Tensor]]], *controls, width: int = RESULT):
        self.draw, self.controls, self.width, self.view = draw, controls, width, widgets.HTML()
        super().__init__([*controls, self.view])
        for each in controls:
            each.layout.max_width = f"{2 * RESULT}px"
            each.observe(self._show, "value")
        self._show()

    @torch.no_grad()
    def _show(self, _=None) -> None:
        self.latents, self.images = self.draw(*(each.value for each in self.controls))
        self.view.value = row_html(*(figure_html(title, image, self.width) for title, image in self.images.items()))


def interpolation_slider(generator: Generator, a: Latents, b: Latents, steps: int = 50) -> Explorer:
    """A slider t over the image between two latents (the first of a batch): ``a`` is t = 0, ``b`` is t = 1."""
    ends = a[0], b[0]

    @functools.cache  # at most one for each stop of the slider
    def image(t: float) -> Tensor:
        return generator.synthesize(interpolate(*ends, t)).clamp(0, 1)

    def draw(t: float) -> tuple[Latents, dict[str, Tensor]]:
        t = round(t, 4)
        return interpolate(*ends, t), {"a (t = 0)": image(0.0), f"t = {t:.2f}": image(t), "b (t = 1)": image(1.0)}

    return Explorer(draw, control("t", (0.0, 1.0, 1 / steps), 0.5), width=192)  # three fit side by side


def direction_slider(generator: Generator, latents: Latents, directions: dict[str, Tensor]) -> Explorer:
    """A slider, in standard deviations, for each named direction (w_dim,); the first of ``latents`` moves along all."""
    before = generator.synthesize(latents[0]).clamp(0, 1)

    def draw(*strengths: float) -> tuple[Latents, dict[str, Tensor]]:
        total = sum(by * direction for by, direction in zip(strengths, directions.values(), strict=True))
        moved = move(generator, latents[0], total, 1.0)
        return moved, {"before": before, "moved": generator.synthesize(moved).clamp(0, 1)}

    return Explorer(draw, *(control(name, (-4.0, 4.0, 0.25), 0.0) for name in directions))


def truncation_slider(generator: Generator, truncation: float = 0.7, n: int = 6, seed: int = 0) -> Explorer:
    """Samples of a generator: 0 is the mean of w, 1 all of it (Karras et al. 2019). ValueError without w."""
    if "w" not in generator.spaces:
        raise ValueError(f"truncation pulls w to its mean, but this generator has only {generator.spaces[0]}.")

    def draw(truncation: float, seed: int) -> tuple[Latents, dict[str, Tensor]]:
        latents = Latents("w", generator.map(generator.sample("z", n, seed), truncation))
        images = generator.synthesize(latents).clamp(0, 1).split(1)
        return latents, {f"no. {number}": image for number, image in enumerate(images, 1)}

    return Explorer(draw, control("truncation", (0.0, 1.5, 0.05), truncation), seed_box(seed), width=128)
