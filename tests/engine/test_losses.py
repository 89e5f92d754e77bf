"""Losses and metrics: one value for each sample."""

import math

import numpy as np
import pytest
import torch

from helpers import metrics
from helpers.losses import WEIGHTS, Criterion, delta_loss, lp_loss, masked_mean, perceptual_loss
from helpers.metrics import feature_distance, psnr, ssim
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


def test_perceptual_loss_is_relative_to_the_target_and_within_a_mask():
    theirs = {"a": random(1, 4, 8, 8) * 100, "b": random(1, 6, 4, 4, seed=1) / 100}
    for a, b, expected in ((1, 1, 0), (2, 2, 1), (1.5, 1.5, 0.25), (1, 2, 0.5)):  # the last: the mean over layers
        ours = {"a": theirs["a"] * a, "b": theirs["b"] * b}
        assert perceptual_loss(ours, theirs).item() == pytest.approx(expected)
    nothing = {layer: torch.zeros_like(value) for layer, value in theirs.items()}
    assert perceptual_loss(theirs, nothing).isfinite().all()
    theirs, ours = {"a": torch.ones(1, 2, 4, 4)}, {"a": torch.ones(1, 2, 4, 4)}
    ours["a"][..., :2], ours["a"][..., 2:] = 1.5, 3.0
    assert perceptual_loss(ours, theirs, left_half(16)).item() == pytest.approx(0.25)
    assert perceptual_loss(ours, theirs, 1 - left_half(16)).item() == pytest.approx(4)
    assert torch.equal(delta_loss(torch.tensor([[3.0, 4.0], [0.0, 1.0]])), torch.tensor([25.0, 1.0]))
    assert torch.equal(delta_loss(torch.ones(2, 6, 16)), torch.tensor([96.0, 96.0]))


def criterion_of(targets, weights=None, **options):
    features = tiny.Features()
    return Criterion(targets, features, weights, layers=features.layers, **options)


def test_total_is_the_weighted_sum_of_its_parts_for_each_sample():
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


def test_features_of_the_target_are_computed_once_and_weights_may_change_under_way():
    target = random(1, 3, 8, 8)
    criterion = criterion_of(target)
    assert criterion.features.calls == 1
    assert set(criterion(target, torch.ones(1, 4)).parts) == {name for name, weight in WEIGHTS.items() if weight}
    assert criterion.features.calls == 2  # one for each batch of images
    assert not any(value.requires_grad for value in criterion.target_features.values())
    criterion.weights["perceptual"] = 0
    criterion(target)
    assert criterion.features.calls == 2  # no weight, no work
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


def noise(count=2, side=16, seed=0):
    return random(count, 3, side, side, seed=seed)


def flat(value, side=16):
    return torch.full((1, 3, side, side), value / 255)


def one_off():
    """One value in 768 is 51/255 = 0.2."""
    image = flat(0)
    image[0, 1, 3, 4] = 0.2
    return image


CHECKS = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2 - 1) * 20 / 255


@pytest.mark.parametrize(
    ("image", "target", "expected"),
    [
        (flat(100), flat(110), 20 * math.log10(255 / 10)),
        (flat(0), flat(255), 0),  # an error of 1, the peak
        (one_off(), flat(0), 10 * math.log10(768 / 0.04)),
        (flat(100) + 0.4 / 255, flat(100), math.inf),  # rounded to 8 bits
        (flat(255) + 0.3, flat(255), math.inf),  # clamped
        (flat(100) + 0.6 / 255, flat(100), 20 * math.log10(255)),
        (flat(100) + CHECKS, flat(100), 20 * math.log10(255 / 20)),  # at native size: shrinking would average it away
    ],
)
def test_psnr_of_known_pairs(image, target, expected):
    values = psnr(torch.cat([target, image]), torch.cat([target, target]))  # per sample
    assert values.shape == (2,) and values[0] == math.inf and values[1].item() == pytest.approx(expected, abs=1e-3)


def test_ssim_by_hand_and_of_flat_images():
    """At 11 x 11 pixels there is one window: equation 13 of Wang et al. 2004 in plain numpy."""
    images, targets = (np.round(noise(1, 11, seed).numpy()[0] * 255) / 255 for seed in (1, 2))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    expected = []
    for x, y in zip(images, targets, strict=True):
        mean_x, mean_y = (window * x).sum(), (window * y).sum()
        var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
        covariance = (window * (x - mean_x) * (y - mean_y)).sum()
        light = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        expected.append(light * (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2))
    value = ssim(torch.from_numpy(images)[None].float(), torch.from_numpy(targets)[None].float())
    assert value.item() == pytest.approx(np.mean(expected), abs=1e-5)
    # Without structure only the light term is left; what rounds to the same 8 bits is equal.
    a, b = 51 / 255, 153 / 255
    expected = (2 * a * b + 0.01**2) / (a**2 + b**2 + 0.01**2)
    assert ssim(flat(51), flat(153)).item() == pytest.approx(expected, abs=1e-6)
    assert ssim(flat(100) + 0.4 / 255, flat(100)).item() == 1
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(noise(side=10), noise(side=10))
    images, targets = noise(3), torch.cat([noise(1), noise(1, seed=9), noise(3)[2:]])  # per sample
    values = ssim(images, targets)
    assert values.shape == (3,) and values[0] == 1 and values[2] == 1 and values[1] < 0.5
    assert values[1].item() == pytest.approx(ssim(images[1:2], targets[1:2]).item(), abs=1e-6)


class TwoLayers:
    """Stands in for a network: two fixed random layers, and the layers that it was asked for."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.weights, self.runs = [torch.randn(n, 3, generator=generator) for n in (5, 7)], []

    def __call__(self, images, layers):
        self.runs.append(tuple(layers))
        numbers = {"relu1_2": 0, "relu2_2": 1, "relu3_2": 1, 2: 0, 4: 1}
        return {k: torch.einsum("oc,bchw->bohw", self.weights[numbers[k]], images).relu() for k in layers}


def test_feature_distance_by_hand_and_diversity_is_its_mean_over_all_pairs():
    features, images, targets = TwoLayers(), noise(2, 8), noise(2, 8, seed=1)
    images, targets = (images * 255).round() / 255, (targets * 255).round() / 255
    expected = torch.zeros(2)
    for layer in (2, 4):
        ours, theirs = features(images, [layer])[layer], features(targets, [layer])[layer]
        for y in range(8):
            for x in range(8):
                a, b = ours[:, :, y, x], theirs[:, :, y, x]
                a, b = (v / v.norm(dim=1, keepdim=True).clamp(min=1e-12) for v in (a, b))
                expected += ((a - b) ** 2).sum(dim=1) / 64 / 2
    values = feature_distance(features, images, targets, [2, 4])
    assert values.shape == (2,) and torch.allclose(values, expected, atol=1e-6)
    features = TwoLayers()
    assert feature_distance(features, noise(), noise()).tolist() == [0, 0]
    assert features.runs[0] == ("relu1_2", "relu2_2", "relu3_2")
    assert feature_distance(features, flat(200), flat(100), [2]).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least one layer"):
        feature_distance(features, noise(), noise(), [])
    features, layers, images = tiny.Features(), ("conv1_1", "conv2_1"), noise(4)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    distances = [metrics.feature_distance(features, images[[i]], images[[j]], layers).item() for i, j in pairs]
    assert metrics.diversity(features, images, layers) == pytest.approx(sum(distances) / len(pairs), rel=1e-4)
    nearest = metrics.nearest_distance(features, images[:2], images[2:], layers).tolist()
    assert nearest == pytest.approx([min(distances[1], distances[3]), min(distances[2], distances[4])], rel=1e-3)
    assert metrics.diversity(features, images[[0, 0]], layers) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least 2 images"):
        metrics.diversity(features, images[:1], layers)


@pytest.mark.parametrize("metric", [psnr, ssim, lambda a, b: feature_distance(TwoLayers(), a, b, [2])])
def test_refused(metric):
    spoiled = noise()
    spoiled[1, 2, 3, 4] = float("nan")
    for pair in [(noise(), spoiled), (spoiled, noise())]:
        with pytest.raises(ValueError, match="expected finite values"):
            metric(*pair)
    with pytest.raises(ValueError, match=r"same shape .*\(2, 3, 16, 16\) and \(1, 3, 16, 16\)"):
        metric(noise(), noise(1))
    with pytest.raises(ValueError, match="expected images of shape"):
        metric(noise()[0], noise()[0])
