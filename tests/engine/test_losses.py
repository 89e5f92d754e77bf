"""Losses with one value per sample, and their weighted sum."""

import pytest
import torch

from helpers.losses import WEIGHTS, Criterion, delta_loss, lp_loss, masked_mean, perceptual_loss
from tests.support import tiny


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def left_half(size=8):
    mask = torch.zeros(1, 1, size, size)
    mask[..., : size // 2] = 1
    return mask


def test_lp_by_hand():
    target = torch.full((2, 3, 4, 4), 0.25)
    images = torch.stack([torch.full((3, 4, 4), 0.75), torch.full((3, 4, 4), 0.25)])
    images[1, 0, 2, 3] = 1.0  # one of 48 numbers is 0.75 off
    assert torch.allclose(lp_loss(images, target, p=1), torch.tensor([0.5, 0.75 / 48]))
    assert torch.allclose(lp_loss(images, target, p=2), torch.tensor([0.25, 0.5625 / 48]))
    values = torch.tensor([[[[1.0, 2.0]], [[3.0, 6.0]]]])  # two channels of two pixels
    assert masked_mean(values).item() == 3
    assert masked_mean(values, torch.tensor([[[[1.0, 0.5]]]])).item() == pytest.approx((2 + 0.5 * 4) / 1.5)


@pytest.mark.parametrize("p", [1, 2])
def test_what_lies_outside_of_the_mask_does_not_count(p):
    images, target = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    images[..., :4], images[..., 4:] = 0.2, 0.8
    soft = left_half() * 0.75 + 0.25  # 1 on the left, 1/4 on the right
    for mask, value in ((left_half(), 0.2**p), (1 - left_half(), 0.8**p), (soft, (0.2**p + 0.25 * 0.8**p) / 1.25)):
        assert torch.allclose(lp_loss(images, target, p, mask), torch.tensor([value]))
    images, target = random(2, 3, 8, 8).requires_grad_(), random(2, 3, 8, 8, seed=1)
    lp_loss(images, target, p, left_half()).sum().backward()
    assert (images.grad[..., :4] != 0).all() and not images.grad[..., 4:].any()


def test_perceptual_loss_is_relative_to_the_target():
    theirs = {"a": random(1, 4, 8, 8) * 100, "b": random(1, 6, 4, 4, seed=1) / 100}
    for a, b, expected in ((1, 1, 0), (2, 2, 1), (1.5, 1.5, 0.25), (1, 2, 0.5)):  # the last: the mean over layers
        ours = {"a": theirs["a"] * a, "b": theirs["b"] * b}
        assert perceptual_loss(ours, theirs).item() == pytest.approx(expected)
    nothing = {layer: torch.zeros_like(value) for layer, value in theirs.items()}
    assert perceptual_loss(theirs, nothing).isfinite().all()


def test_perceptual_loss_within_a_mask_and_the_squared_length_of_an_offset():
    theirs, ours = {"a": torch.ones(1, 2, 4, 4)}, {"a": torch.ones(1, 2, 4, 4)}
    ours["a"][..., :2], ours["a"][..., 2:] = 1.5, 3.0
    assert perceptual_loss(ours, theirs, left_half(16)).item() == pytest.approx(0.25)
    assert perceptual_loss(ours, theirs, 1 - left_half(16)).item() == pytest.approx(4)
    assert torch.equal(delta_loss(torch.tensor([[3.0, 4.0], [0.0, 1.0]])), torch.tensor([25.0, 1.0]))
    assert torch.equal(delta_loss(torch.ones(2, 6, 16)), torch.tensor([96.0, 96.0]))


def criterion_of(targets, weights=None, **options):
    features = tiny.Features()
    return Criterion(targets, features, weights, layers=features.layers, **options)


def test_total_is_the_weighted_sum_of_its_parts():
    images, target, delta = random(2, 3, 8, 8), random(2, 3, 8, 8, seed=1), random(2, 5, 4, seed=2)
    weights = {"l1": 2.0, "l2": 0.5, "perceptual": 3.0, "delta": 0.1}
    for mask in (left_half(), None):
        criterion = criterion_of(target, weights, mask=mask)
        features, loss = criterion.features, criterion(images, delta)
        expected = {
            "l1": lp_loss(images, target, 1, mask),
            "l2": lp_loss(images, target, 2, mask),
            "perceptual": perceptual_loss(features(images, features.layers), features(target, features.layers), mask),
            "delta": delta.square().sum((1, 2)),
        }
        assert loss.parts.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(loss.parts[name], value, rtol=1e-5), name
        assert torch.allclose(loss.total, sum(weights[name] * value for name, value in expected.items()), rtol=1e-5)


def test_weights_per_sample_are_separate_criteria_and_one_target_serves_all():
    images, target, delta = random(3, 3, 8, 8), random(1, 3, 8, 8, seed=1), random(3, 4, seed=2)
    table = {"l1": [1.0, 0.0, 2.0], "perceptual": [0.0, 1.0, 0.5], "delta": [0.0, 0.1, 0.0]}
    together = criterion_of(target, {name: torch.tensor(w) for name, w in table.items()})(images, delta)
    for i in range(3):
        alone = criterion_of(target, {name: w[i] for name, w in table.items()})(images[i : i + 1], delta[i : i + 1])
        assert torch.allclose(together.total[i], alone.total[0], rtol=1e-5)


@pytest.mark.parametrize("index", [slice(1, 2), slice(0, 3), torch.tensor([2, 0])])
def test_an_index_takes_part_of_the_batch(index):
    images, targets, delta = random(3, 3, 8, 8), random(3, 3, 8, 8, seed=1), random(3, 4, seed=2)
    masks = random(3, 1, 8, 8, seed=3)
    weights = {"l1": torch.tensor([1.0, 2.0, 3.0]), "perceptual": 1.0, "delta": torch.tensor([0.5])}
    criterion = criterion_of(targets, weights, mask=masks)
    whole, part = criterion(images, delta), criterion(images[index], delta[index], index)
    assert torch.allclose(part.total, whole.total[index], rtol=1e-5)
    assert part.parts["perceptual"].shape == part.total.shape


def test_rows_of_several_starts_share_their_setting():
    images, targets = random(6, 3, 8, 8), random(2, 3, 8, 8, seed=1)
    criterion = criterion_of(
        targets, {"l1": torch.tensor([1.0, 2.0]), "perceptual": 1.0}, mask=random(2, 1, 8, 8, seed=2)
    )
    criterion.repeats = 3
    loss, part = criterion(images), criterion(images[[1, 4]], None, torch.tensor([1, 4]))
    criterion.repeats = 1
    for row, setting in enumerate((0, 0, 0, 1, 1, 1)):
        alone = criterion(images[row : row + 1], None, slice(setting, setting + 1)).total
        assert torch.allclose(loss.total[row], alone[0], rtol=1e-5)
    assert torch.allclose(part.total, loss.total[[1, 4]], rtol=1e-5) and criterion.settings == 2


def test_features_of_the_target_are_computed_once():
    target = random(1, 3, 8, 8)
    criterion = criterion_of(target)
    assert criterion.features.calls == 1
    assert set(criterion(target, torch.ones(1, 4)).parts) == {name for name, weight in WEIGHTS.items() if weight}
    assert criterion.features.calls == 2  # one for each batch of images
    assert not any(value.requires_grad for value in criterion.target_features.values())
    criterion.weights["perceptual"] = 0
    criterion(target)
    assert criterion.features.calls == 2  # no weight, no work


def test_weights_may_change_under_way():
    images, target = random(1, 3, 8, 8), random(1, 3, 8, 8, seed=1)
    criterion = Criterion(target, weights={"l1": 1.0})
    before = criterion(images).total
    criterion.weights["l1"] = 3.0
    assert torch.allclose(criterion(images).total, 3 * before)
    criterion.weights["l2"] = 1.0
    assert set(criterion(images).parts) == {"l1", "l2"}
    for changes, message in (({"perceptual": 1.0}, "needs a feature"), (dict.fromkeys(WEIGHTS, 0.0), "nothing to min")):
        criterion.weights.update(changes)
        with pytest.raises(ValueError, match=message):
            criterion(images)


BAD_WEIGHTS = [
    ({"l3": 1.0, "tv": 1.0}, "unknown loss l3, tv; the losses are l1, l2, perceptual, delta"),
    ({"l1": -1.0}, "weight of l1 must be a finite number of at least 0"),
    ({"l1": 1.0, "l2": float("nan")}, "weight of l2 must be a finite"),
    ({"l1": torch.tensor([1.0, -1.0])}, "weight of l1 must be a finite"),
    ({"l1": 0.0}, "nothing ties the result"),
    ({"delta": 1.0}, "nothing ties the result"),
    ({}, "nothing ties the result"),
    ({"l1": torch.tensor([1.0, 0.0])}, "nothing ties the result"),  # in the second setting
    ({"l1": torch.ones(2), "l2": torch.ones(3)}, "tables of weights must have one length; got 2 and 3"),
    ({"perceptual": 1.0}, "needs a feature network"),
]
BAD_MASKS = [
    (torch.ones(1, 1, 4, 8), r"mask must be \(B or 1, 1, 8, 8\); got \(1, 1, 4, 8\)"),
    (torch.ones(1, 3, 8, 8), "mask must be"),
    (torch.ones(8, 8), "mask must be"),
    (torch.ones(1, 1, 8, 8) * 255, "mask must be in \\[0, 1\\]"),
    (torch.full((1, 1, 8, 8), float("nan")), "mask must be in \\[0, 1\\]"),
    (torch.zeros(1, 1, 8, 8), "mask is 0 everywhere"),
    (torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)]), "mask is 0 everywhere"),
]


@pytest.mark.parametrize(
    ("weights", "mask", "message"),
    [*((w, None, message) for w, message in BAD_WEIGHTS), *(({"l1": 1.0}, m, message) for m, message in BAD_MASKS)],
)
def test_bad_weights_and_masks_are_one_sentence(weights, mask, message):
    with pytest.raises(ValueError, match=message) as error:
        Criterion(random(1, 3, 8, 8), weights=weights, mask=mask)
    assert "\n" not in str(error.value)
