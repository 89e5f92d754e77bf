"""Checks of lesson 4: the mask of a drawing, the masked loss, the ranking of candidates."""

import numpy as np
import torch

from helpers.course.expect import expect, expect_close, expect_shape


def sketch_mask(function) -> None:
    """Exercise 4.1: ``sketch_mask(rgba, threshold)``."""
    rgba = np.zeros((6, 5, 4), np.uint8)
    rgba[..., :3], rgba[:3, :, 3] = (200, 100, 50), [[255], [128], [20]]
    before = rgba.copy()
    image, mask = function(rgba, threshold=0.1)
    expect_shape("the image", image, (1, 3, 6, 5))
    expect_shape("the mask", mask, (1, 1, 6, 5))
    expect(mask.max() <= 1 and image.max() <= 1, "image and mask should be in [0, 1].")
    expect((mask[0, 0, 0] == 1).all(), "an opaque pixel should count fully.")
    expect((mask[0, 0, 1] - 128 / 255).abs().max() < 1e-3, "a partly opaque pixel should count as much as its alpha.")
    expect((mask[0, 0, 2:] == 0).all(), "alpha below the threshold should not count at all.")
    expect((image[0, :, 2:] == 0).all(), "the colours of pixels that do not count should be 0.")
    right = (image[0, :, :2] - torch.tensor([200, 100, 50]).view(3, 1, 1) / 255).abs().max() < 1e-3
    expect(right, "the colours of pixels that count are off; check the axes, and do not multiply by alpha.")
    expect((function(rgba, threshold=0.6)[1][0, 0, 1] == 0).all(), "the threshold that is given should be used.")
    expect(np.array_equal(rgba, before), "the drawing itself should stay as it was.")


def masked_l1(function) -> None:
    """Exercise 4.2: ``masked_l1(images, target, mask)``."""
    target, images, mask = torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    images[0], images[1, 0] = 0.4, 0.6
    for pixels in (2, 6):
        mask[:, :, :pixels, :pixels] = 1
        value = function(images, target, mask)
        expect_shape("masked_l1", value, (2,))
        name = f"with {pixels * pixels} of 64 pixels it"
        expect_close(name, value, torch.tensor([0.4, 0.2]), "check what you divide by.", atol=1e-4)
    mask[..., :4], mask[..., 4:] = 1.0, 0.5
    images[0, :, :, 4:] = 0.1
    half = abs(float(function(images, target, mask)[0]) - 0.3) < 1e-4
    expect(half, "a mask of 0.5 should count half as much as one of 1, in the sum and the area.")
    mask[..., 4:] = 0
    (gradient,) = torch.autograd.grad(function(images.requires_grad_(), target, mask).sum(), images)
    expect((gradient[..., 4:] == 0).all(), "outside the mask the gradient should be 0.")
    expect((gradient[0, ..., :4] > 0).all(), "no gradient reaches the image under the mask.")


def rank(function) -> None:
    """Exercise 4.3: ``rank(total, starts)``."""
    total = torch.tensor([0.2, 0.9, 0.1, 0.5, 0.8, 0.3])
    for starts, expected in ((6, [2, 0, 5, 3, 4, 1]), (3, [2, 0, 1, 5, 3, 4]), (1, [0, 1, 2, 3, 4, 5])):
        order = function(total, starts)
        whole = isinstance(order, torch.Tensor) and tuple(order.shape) == (6,) and not order.is_floating_point()
        expect(whole, "rank should return a tensor of 6 whole numbers for 6 losses.")
        expect(sorted(order.tolist()) == list(range(6)), f"with {starts} starts every row should appear exactly once.")
        blocks = (order // starts).view(-1, starts)
        expect((blocks == blocks[:, :1]).all(), f"with {starts} starts a row left the block of its setting.")
        descending = "; the worst comes first" if order.tolist() == expected[::-1] else ""
        expect(order.tolist() == expected, f"with {starts} starts the order within the blocks is wrong{descending}.")
