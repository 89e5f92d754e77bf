"""Checks of lesson 4: the mask of a drawing, the ranking of candidates, what went wrong with them."""

import numpy as np
import torch

from helpers.course.expect import expect, expect_shape


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


def rank(function) -> None:
    """Exercise 4.2: ``rank(total, starts)``."""
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


def diagnose(function) -> None:
    """Exercise 4.3: ``diagnose(colour, away, met)``."""
    ends = torch.tensor([0.05, 0.05, 0.2, 0.2, 0.2, 0.2])
    colour = ends + torch.tensor([0.3, 0.3, 0, 0.3, 0, 0.3]) * torch.linspace(1, 0, 20)[:, None]
    colour[:12, 4] += 0.4  # fell long ago
    cases = [0, 1, 2, 3, 4, 3]
    for met, expected in ((0.06, cases), (0.04, [3, 3, *cases[2:]]), (0.3, [0, 1, 0, 0, 0, 1])):
        causes = function(colour, torch.tensor([1.3, 2.5, 0.2, 1.0, 1.0, 2.5]), met)
        whole = isinstance(causes, torch.Tensor) and tuple(causes.shape) == (6,) and not causes.is_floating_point()
        expect(whole, "diagnose should return a tensor of 6 whole numbers for 6 candidates.")
        for i, (cause, wanted) in enumerate(zip(causes.tolist(), expected, strict=True)):
            hint = f"candidate {i} with met = {met} has cause {wanted}, not {cause}; return the first that holds."
            expect(cause == wanted, hint)
