"""The checks of the sketch lesson: right solutions pass, wrong ones are told in which respect."""

import pytest
import torch

from helpers.course import check
from helpers.course.check import CheckFailed


def sketch_mask(rgba, threshold=0.1):
    values = torch.from_numpy(rgba.copy()).permute(2, 0, 1)[None].float() / 255
    mask = torch.where(values[:, 3:] < threshold, 0.0, values[:, 3:])
    return values[:, :3] * (mask > 0), mask


def masked_l1(images, target, mask):
    return ((images - target).abs().mean(1, keepdim=True) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))


def rank(total, starts):
    blocks = total.view(-1, starts)
    return (blocks.argsort(1) + torch.arange(len(blocks))[:, None] * starts).flatten()


def test_right_solutions_pass(capsys):
    check.sketch_mask(sketch_mask), check.masked_l1(masked_l1), check.rank(rank)
    assert capsys.readouterr().out.splitlines() == ["sketch_mask: passed", "masked_l1: passed", "rank: passed"]


def in_place(rgba, threshold=0.1):
    result = sketch_mask(rgba, threshold)
    rgba[0] = 0
    return result


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda rgba, threshold=0.1: sketch_mask(rgba, 0.1), "threshold that is given"),
        (lambda rgba, threshold=0.1: sketch_mask(rgba, 0.0), "below the threshold"),
        (
            lambda rgba, threshold=0.1: (sketch_mask(rgba, threshold)[0], sketch_mask(rgba, threshold)[1].ceil()),
            "alpha",
        ),
        (lambda rgba, threshold=0.1: [t * 255 for t in sketch_mask(rgba, threshold)], r"in \[0, 1\]"),
        (lambda rgba, threshold=0.1: [t[0] for t in sketch_mask(rgba, threshold)], "shape"),
        (in_place, "stay as it was"),
    ],
)
def test_a_wrong_mask_is_named(wrong, message):
    with pytest.raises(CheckFailed, match=message):
        check.sketch_mask(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda i, t, m: ((i - t).abs() * m).mean((1, 2, 3)), "too small; check what you divide by"),
        (lambda i, t, m: ((i - t).abs() * m).sum((1, 2, 3)) / m.sum(), "too large"),
        (lambda i, t, m: masked_l1(i, t, (m > 0).float()), "half as much"),
        (lambda i, t, m: masked_l1(i, t, m).mean(), "shape"),
        (lambda i, t, m: masked_l1(i, t, m).detach() + 0 * i.sum((1, 2, 3)), "no gradient"),
    ],
)
def test_a_wrong_loss_is_named(wrong, message):
    with pytest.raises(CheckFailed, match=message):
        check.masked_l1(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda total, starts: total.argsort(), "left the block"),
        (lambda total, starts: total.view(-1, starts).argsort(1).flatten(), "exactly once"),
        (lambda total, starts: rank(-total, starts), "worst comes first"),
        (lambda total, starts: total, "whole numbers"),
    ],
)
def test_a_wrong_order_is_named(wrong, message):
    with pytest.raises(CheckFailed, match=message):
        check.rank(wrong)
