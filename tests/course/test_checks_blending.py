"""The checks of lesson 3 refuse wrong answers, each with a message that says in which respect."""

import pytest
import torch
import torch.nn.functional as F

from helpers import blending, masks
from helpers.course import check
from helpers.course.check import CheckFailed
from helpers.losses import masked_mean, perceptual_loss


def nearest(mask, sizes):
    return [F.interpolate(mask, size=size, mode="nearest") for size in sizes]


def flipped(mask, sizes):
    return [level.flip(3) for level in masks.mask_pyramid(mask, sizes)]


def test_mask_pyramid_is_checked(capsys):
    check.mask_pyramid(masks.mask_pyramid)
    assert capsys.readouterr().out == "mask_pyramid: passed\n"
    for wrong, message in (
        (nearest, "share of the area"),
        (flipped, "lies elsewhere"),
        (lambda mask, sizes: masks.mask_pyramid(mask, sizes)[:2], "for each of 4 sizes"),
        (lambda mask, sizes: [m[0] for m in masks.mask_pyramid(mask, sizes)], "shape"),
        (lambda mask, sizes: mask, "a list"),
    ):
        with pytest.raises(CheckFailed, match=message):
            check.mask_pyramid(wrong)


def make_loss(target=lambda x, mask: x, area=True, inside=True, mean=masked_mean):
    """A right answer, or one that is wrong in a way that students are."""

    def blend_loss(images, x, y, mask, features, weights, layers):
        def part(goal, where):
            error = (images - target(goal, where)).square()
            return mean(error, where) if area else (error * where).mean((1, 2, 3))

        seen = torch.lerp(x, images, mask) if inside else images
        perceptual = perceptual_loss(features(seen, layers), features(x, layers), mask)
        loss = weights["first"] * part(x, mask) + weights["second"] * part(y, 1 - mask)
        return loss + weights["perceptual"] * perceptual

    return blend_loss


def test_blend_loss_is_checked(capsys):
    check.blend_loss(make_loss())
    assert capsys.readouterr().out == "blend_loss: passed\n"

    def unguarded(values, mask):
        return (values.mean(1, keepdim=True) * mask).sum((1, 2, 3)) / mask.sum()

    def summed(*arguments):
        return make_loss()(*arguments).sum()

    for wrong, message in (
        (make_loss(area=False), "first term is too small"),
        (make_loss(target=lambda x, mask: x * mask), "first term is too large"),
        (make_loss(inside=False), "perceptual term"),
        (make_loss(mean=unguarded), "empty mask"),
        (summed, "shape"),
    ):
        with pytest.raises(CheckFailed, match=message):
            check.blend_loss(wrong)


def test_seam_is_checked(capsys):
    check.seam(lambda *arguments: blending.seam(*arguments).item())
    assert capsys.readouterr().out == "seam: passed\n"

    def horizontal(image, x, y, mask):
        across = mask[..., 1:] != mask[..., :-1]
        of = [(v[..., 1:] - v[..., :-1]).norm(dim=1, keepdim=True)[across].mean() for v in (image, x, y)]
        return float(of[0] / ((of[1] + of[2]) / 2))

    for wrong, message in (
        (blending.seam, "should be a float"),
        (horizontal, "horizontal and vertical"),
        (lambda *arguments: 2 * blending.seam(*arguments).item(), "seam of 1"),
    ):
        with pytest.raises(CheckFailed, match=message):
            check.seam(wrong)
