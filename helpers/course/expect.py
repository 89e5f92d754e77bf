"""What the checks are built of: an error with a message, what it says of shapes, and tiny networks to run on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from helpers.generators.stylegan2 import StyleGAN2


class CheckFailed(AssertionError):
    """The exercise is not right yet; the message says in which respect."""


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise CheckFailed(message)


def expect_shape(name: str, value, shape: tuple[int, ...]) -> None:
    expect(isinstance(value, Tensor), f"{name} should be a torch.Tensor, but it is a {type(value).__name__}.")
    expect(tuple(value.shape) == shape, f"{name} should have the shape {shape}, but it has {tuple(value.shape)}.")
    expect(value.is_floating_point(), f"{name} should hold floating point numbers, but it holds {value.dtype}.")
    expect(bool(value.isfinite().all()), f"{name} holds NaN or infinite numbers.")


def passed(name: str) -> None:
    print(f"{name}: passed")


def tiny(seed: int = 7, noise: float | None = None) -> StyleGAN2:
    """A StyleGAN2 of 16 px with random weights; ``noise`` gives its layers strengths that fall from the first on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = StyleGAN2(16, z_dim=12, w_dim=8, mapping_layers=2, channel_base=128, channel_max=8)
    generator.compute_statistics(2_000)
    for i, strength in enumerate(generator.noise_strengths if noise else ()):
        strength.data.fill_(noise / (i + 1))
    return generator.eval().requires_grad_(False)


class TinyFeatures(nn.Module):
    """Two layers of random features that count how often they are asked."""

    def __init__(self, seed: int = 3):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kernels = [torch.randn(4, 3, 3, 3, generator=generator), torch.randn(6, 4, 3, 3, generator=generator)]
        self.calls = 0

    def forward(self, images: Tensor, layers) -> dict:
        self.calls += 1
        first = torch.relu(nn.functional.conv2d(images, self.kernels[0], padding=1))
        second = torch.relu(nn.functional.conv2d(nn.functional.avg_pool2d(first, 2), self.kernels[1], padding=1))
        return dict(zip(layers, (first, second), strict=False))
