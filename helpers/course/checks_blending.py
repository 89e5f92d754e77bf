"""Checks of lesson 3: a mask in every layer, the masked loss, the seam."""

from __future__ import annotations

import torch

from helpers.blending import seam as reference_seam
from helpers.course.expect import TinyFeatures, expect, expect_shape, passed
from helpers.losses import masked_mean, perceptual_loss
from helpers.masks import mask_pyramid as reference_mask_pyramid

LAYERS = ("conv1_1", "conv2_1")


def mask_pyramid(function) -> None:
    """Exercise 3.1: ``mask_pyramid(mask, sizes)``."""
    mask = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    sizes = (16, 8, 4, 1)
    levels = function(mask, sizes)
    expect(isinstance(levels, list | tuple), f"expected a list of masks, but a {type(levels).__name__} came.")
    expect(len(levels) == len(sizes), f"there should be a mask for each of {len(sizes)} sizes, not {len(levels)}.")
    for level, expected in zip(levels, reference_mask_pyramid(mask, sizes), strict=True):
        side = expected.shape[-1]
        expect_shape(f"the mask at {side}", level, (2, 1, side, side))
        same_area = torch.allclose(level.mean((1, 2, 3)), mask.mean((1, 2, 3)), rtol=0.01)
        expect(same_area, f"at {side}x{side} the region's share of the area changed; do not pick pixels.")
        right = torch.allclose(level, expected, atol=1e-4)
        expect(right, f"at {side}x{side} the area is right, but it lies elsewhere than in the mask.")
    passed("mask_pyramid")


def blend_loss(function) -> None:
    """Exercise 3.2: ``blend_loss(images, x, y, mask, features, weights, layers)``."""
    random = torch.Generator().manual_seed(5)
    images = torch.rand(2, 3, 8, 8, generator=random).requires_grad_()
    x, y = torch.rand(2, 1, 3, 8, 8, generator=random)
    features, mask = TinyFeatures(), torch.zeros(1, 1, 8, 8)
    mask[..., :3], mask[..., 3] = 1, 0.5
    for name, expected in _terms(images, x, y, mask, features).items():
        weights = {"first": 0.0, "second": 0.0, "perceptual": 0.0} | {name: 2.0}
        loss = function(images, x, y, mask, features, weights, LAYERS)
        expect_shape(f"the {name} term", loss, (2,))
        direction = "too large" if (loss / expected).detach().mean() > 2 else "too small"
        hint = "is the target masked too, and is the sum divided by the mask's area?"
        expect(torch.allclose(loss, 2 * expected, rtol=1e-3), f"the {name} term is {direction}; {hint}")
        (gradient,) = torch.autograd.grad(loss.sum(), images, retain_graph=True)
        outside = gradient[..., :3] if name == "second" else gradient[..., 4:]
        expect(bool((outside == 0).all()), f"the {name} term sends a gradient outside its mask.")
    every = {"first": 1.0, "second": 0.0, "perceptual": 1.0}
    empty = function(images, x, y, 0 * mask, features, every, LAYERS)
    expect(bool(empty.isfinite().all()) and bool((empty == 0).all()), "an empty mask should cost 0, not NaN.")
    passed("blend_loss")


def _terms(images, x, y, mask, features) -> dict[str, torch.Tensor]:
    """The three terms by the course's own losses, each (B,)."""
    ours, theirs = features(torch.lerp(x, images, mask), LAYERS), features(x, LAYERS)
    return {
        "first": masked_mean((images - x).square(), mask),
        "second": masked_mean((images - y).square(), 1 - mask),
        "perceptual": perceptual_loss(ours, theirs, mask),
    }


def seam(function) -> None:
    """Exercise 3.3: ``seam(image, x, y, mask)``."""
    x, y, image = torch.rand(3, 1, 3, 9, 9, generator=torch.Generator().manual_seed(6))
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 2:6, 3:] = 1
    value = function(image, x, y, mask)
    expect(isinstance(value, float), f"the seam should be a float, but it is a {type(value).__name__}.")
    expect(abs(function(x, x, x, mask) - 1) < 1e-4, "a picture that is its own source should have a seam of 1.")
    error = value - reference_seam(image, x, y, mask).item()
    expect(
        abs(error) < 1e-3,
        f"the seam is {'too large' if error > 0 else 'too small'}; do horizontal and vertical pairs across the edge "
        "count alike, is the length taken over the channels, is the mean of both sources the divisor?",
    )
    passed("seam")
