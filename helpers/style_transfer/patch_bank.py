"""A feature network made from one image: its own whitened patches are the filters. Nothing is trained."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

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


class PatchBank:
    """Filters that are patches of an image (1, 3, H, W), on its octaves; layers are 1…4 or "octave1"….

    At each octave all 7×7 patches are whitened (ZCA), then 128 of them are drawn at random and scaled to length 1. The
    response to an image is the ReLU of the product of its whitened patches with these. ValueError for a flat image.
    """

    def __init__(self, image: Tensor, filters: int = FILTERS, octaves: int = OCTAVES):
        self.layers = tuple(f"octave{number}" for number in range(1, octaves + 1))
        self._check(image, octaves)
        if image.var((2, 3), correction=0).sum() < FLAT:
            raise ValueError("this style has a single colour, so it has no patches to compare; use statistic gram.")
        self.filters, random = [], torch.Generator().manual_seed(0)
        for _ in range(octaves):
            self.filters.append(_filters(image, filters, random))
            image = halve(image)

    def _check(self, images: Tensor, octave: int) -> None:
        least, (height, width) = LEAST * 2 ** (octave - 1), images.shape[-2:]
        if min(height, width) < least:
            needed = f"octave{octave} needs images of at least {least}x{least} pixels"
            raise ValueError(f"{needed}, got {height}x{width}; enlarge them or ask for fewer octaves.")

    def __call__(self, images: Tensor, layers: Sequence[int | str]) -> dict[int | str, Tensor]:
        """Responses (B, filters, h - 6, w - 6) ≥ 0 of the octaves asked for, h = H / 2^(octave - 1)."""
        octaves = {name: number for number, name in enumerate(self.layers, 1)}
        octaves |= {number: number for number in octaves.values()}
        for layer in layers:
            if layer not in octaves:
                raise ValueError(f"a patch bank has no layer {layer!r}; it has 1…{len(self.layers)} or octave1….")
        last, found = max(octaves[layer] for layer in layers), {}
        self._check(images, last)
        for number, filters in enumerate(self.filters[:last], 1):
            kernel, bias = (values.to(images.dtype) for values in filters)
            found[number] = F.relu(F.conv2d(images, kernel, bias))
            images = halve(images)
        return {layer: found[octaves[layer]] for layer in layers}


@torch.no_grad()
def _filters(image: Tensor, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Kernels (count, 3, 7, 7) and biases (count,) of whitened patches, for unwhitened input."""
    patches = F.unfold(image.double(), PATCH)[0].T
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    scale = (values.clamp_min(0) + SHRINK * values.max()).rsqrt()
    whiten = vectors * scale @ vectors.T
    chosen = torch.randperm(len(patches), generator=random)[:count].to(image.device)
    kernels = F.normalize((patches[chosen] - mean) @ whiten, dim=1) @ whiten
    return kernels.reshape(-1, 3, PATCH, PATCH).to(image.dtype), -(kernels @ mean).to(image.dtype)
