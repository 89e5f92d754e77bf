"""A feature network made from one image: its own whitened patches are the filters. Nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.features import FeatureError

PATCH = 7  # pixels
LEAST = 12  # pixels per side at an octave: 36 patches
ROOM = 24  # pixels per side at which an octave has more patches than filters; with fewer, matching copies the layout
FILTERS, OCTAVES = 128, 4
SHRINK = 1e-3  # times the largest variance: directions below it are noise, which whitening must not amplify
FLAT = 1e-6  # variance of the pixels below which an image has no patches to tell apart


def halve(images: Tensor) -> Tensor:
    """The next octave: antialiased to half the size, (B, 3, H, W) to (B, 3, H // 2, W // 2)."""
    size = [max(1, side // 2) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def octaves_of(sides: Iterable[int]) -> int:
    """How many octaves, 1 to OCTAVES, have at least ROOM pixels per side in images with these shortest sides."""
    return max(1, min(OCTAVES, math.floor(math.log2(max(1.0, min(sides) / ROOM))) + 1))


class PatchBank(nn.Module):
    """Filters that are patches of an image, on its octaves; used instead of a VGG, with layers 1…4 or "octave1"….

    At each octave all 7×7 patches are whitened (ZCA: unit variance in all directions, with the smallest change),
    then 128 of them are drawn at random and scaled to length 1. The response to an image is the ReLU of
    the product of its whitened patches with these: large where the image has the same stroke.

    Args:
        image: (1, 3, H, W) in [0, 1], the style, at the size at which it will be compared.
        filters, octaves: how many.
        seed: which patches.

    Raises:
        FeatureError: for an image with sides below 12 * 2^(octaves - 1) pixels, or of a single colour.
    """

    LAYERS = tuple(f"octave{number}" for number in range(1, OCTAVES + 1))
    pooling = "avg"
    name = "patches"

    def __init__(self, image: Tensor, filters: int = FILTERS, octaves: int = OCTAVES, seed: int = 0):
        super().__init__()
        self.layers = tuple(f"octave{number}" for number in range(1, octaves + 1))
        self.check(image, octaves - 1)
        if image.var((2, 3), correction=0).sum() < FLAT:
            raise FeatureError("this style has a single colour, so it has no patches to compare; use statistic gram.")
        random = torch.Generator().manual_seed(seed)
        for number in range(octaves):
            kernel, bias = _filters(image, filters, random)
            self.register_buffer(f"kernel{number}", kernel)
            self.register_buffer(f"bias{number}", bias)
            image = halve(image)

    def locate(self, layer: int | str) -> tuple[int, bool]:
        """Index of the octave from 0, and True: responses are after their ReLU. Raises FeatureError for others."""
        names = dict(zip(self.layers, range(len(self.layers)), strict=True)) | {
            number: number - 1 for number in range(1, len(self.layers) + 1)
        }
        if layer not in names:
            raise FeatureError(f"a patch bank has no layer {layer!r}; it has 1…{len(self.layers)} or octave1….")
        return names[layer], True

    def check(self, images: Tensor, last: int) -> None:
        """Raise FeatureError unless images are large enough for the octave of index ``last``."""
        least, (height, width) = LEAST * 2**last, images.shape[-2:]
        if min(height, width) < least:
            raise FeatureError(
                f"{self.layers[last]} needs images of at least {least}x{least} pixels, got {height}x{width}; "
                "enlarge them or ask for fewer octaves."
            )

    def forward(self, images: Tensor, layers) -> dict[int | str, Tensor]:
        """Responses (B, filters, h - 6, w - 6) ≥ 0 of the octaves asked for, h = H / 2^(octave - 1)."""
        places = {layer: self.locate(layer)[0] for layer in ([layers] if isinstance(layers, int | str) else layers)}
        if not places:
            return {}
        self.check(images, max(places.values()))
        found = {}
        for number in range(max(places.values()) + 1):
            images = halve(images) if number else images
            if number in places.values():
                kernel, bias = (getattr(self, f"{name}{number}").to(images.dtype) for name in ("kernel", "bias"))
                found[number] = F.relu(F.conv2d(images, kernel, bias))
        return {layer: found[number] for layer, number in places.items()}


@torch.no_grad()
def _filters(image: Tensor, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Kernels (count, 3, 7, 7) and biases (count,) of whitened patches, for unwhitened input."""
    patches = F.unfold(image.double(), PATCH)[0].T
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    scale = (values.clamp_min(0) + SHRINK * values.max()).rsqrt()
    whiten = vectors * scale @ vectors.T
    chosen = torch.randperm(len(patches), generator=random)[:count].to(image.device)
    directions = F.normalize((patches[chosen] - mean) @ whiten, dim=1)
    kernels = directions @ whiten
    return kernels.reshape(-1, 3, PATCH, PATCH).to(image.dtype), -(kernels @ mean).to(image.dtype)
