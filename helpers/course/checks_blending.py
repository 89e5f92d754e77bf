"""Checks of lesson 3: a mask in every layer, the masked loss, the seam."""

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.course.expect import LAYERS, TinyFeatures, expect, expect_close, expect_shape, random_images


def mask_pyramid(function) -> None:
    """Exercise 3.1: ``mask_pyramid(mask, sizes)``."""
    mask, sizes = random_images(4, 2, side=16)[0][:, :1], (16, 8, 4, 1)
    levels = function(mask, sizes)
    expect(isinstance(levels, list | tuple), f"expected a list of masks, got a {type(levels).__name__}.")
    expect(len(levels) == len(sizes), f"there should be a mask for each of {len(sizes)} sizes, not {len(levels)}.")
    for level, side in zip(levels, sizes, strict=True):
        expect_shape(f"the mask at {side}", level, (2, 1, side, side))
        same_area = torch.allclose(level.mean((1, 2, 3)), mask.mean((1, 2, 3)), rtol=0.01)
        expect(same_area, f"at {side}x{side} the region's share of the area changed; do not pick pixels.")
        right = torch.allclose(level, F.adaptive_avg_pool2d(mask, side), atol=1e-4)
        expect(right, f"at {side}x{side} the area is right, but it lies elsewhere than in the mask.")


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    mask = F.adaptive_avg_pool2d(mask, values.shape[-1])
    return (values.mean(1, keepdim=True) * mask).sum((1, 2, 3)) / mask.sum().clamp_min(1e-8)


def _terms(images, x, y, mask, features) -> dict[str, Tensor]:
    """The three terms, each (B,)."""
    ours, theirs = features(torch.lerp(x, images, mask), LAYERS), features(x, LAYERS)
    relative = [_masked((ours[k] - theirs[k]).square(), mask) / _masked(theirs[k].square(), mask) for k in LAYERS]
    first, second = _masked((images - x).square(), mask), _masked((images - y).square(), 1 - mask)
    return {"first": first, "second": second, "perceptual": torch.stack(relative).mean(0)}


def blend_loss(function) -> None:
    """Exercise 3.2: ``blend_loss(images, x, y, mask, features, weights, layers)``."""
    images, x, y = random_images(5, 2, 1, 1)
    features, mask = TinyFeatures(), torch.zeros(1, 1, 8, 8)
    mask[..., :3], mask[..., 3] = 1, 0.5
    none = {"first": 0.0, "second": 0.0, "perceptual": 0.0}
    for name, expected in _terms(images.requires_grad_(), x, y, mask, features).items():
        loss = function(images, x, y, mask, features, none | {name: 2.0}, LAYERS)
        expect_shape(f"the {name} term", loss, (2,))
        hint = "is the target masked too, and is the sum divided by the mask's area?"
        expect_close(f"the {name} term", loss, 2 * expected, hint)
        (gradient,) = torch.autograd.grad(loss.sum(), images, retain_graph=True)
        outside = gradient[..., :3] if name == "second" else gradient[..., 4:]
        expect((outside == 0).all(), f"the {name} term sends a gradient outside its mask.")
    empty = function(images, x, y, 0 * mask, features, none | {"first": 1.0, "perceptual": 1.0}, LAYERS)
    expect(empty.isfinite().all() and (empty == 0).all(), "an empty mask should cost 0, not NaN.")


def _crossing(image: Tensor, inside: Tensor) -> Tensor:
    """Mean length (over the channels) of the differences of all pairs across the edge."""
    pairs = [(image.diff(dim=d).norm(dim=1, keepdim=True), inside.diff(dim=d) != 0) for d in (3, 2)]
    return torch.cat([length[crosses] for length, crosses in pairs]).mean()


def seam(function) -> None:
    """Exercise 3.3: ``seam(image, x, y, mask)``."""
    x, y, image = random_images(6, 1, 1, 1, side=9)
    y, mask = 0.2 * y, torch.zeros(1, 1, 9, 9)  # a mean of two ratios is another number than the ratio to the mean
    mask[..., 2:6, 3:] = 1
    value = function(image, x, y, mask)
    expect(isinstance(value, float), f"the seam should be a float, not a {type(value).__name__}.")
    expect(abs(function(x, x, x, mask) - 1) < 1e-4, "an image that is its own source should have a seam of 1.")
    expected = (2 * _crossing(image, mask) / (_crossing(x, mask) + _crossing(y, mask))).item()
    side = "too large" if value > expected else "too small"
    hint = "do horizontal and vertical pairs across the edge count alike, is the length the root of the sum of squares "
    hint += "over the channels, is the mean of both sources the divisor?"
    expect(abs(value - expected) < 1e-3, f"the seam is {side}; {hint}")
