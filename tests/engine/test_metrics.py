import math

import numpy as np
import pytest
import torch

from helpers import metrics
from helpers.metrics import feature_distance, psnr, ssim
from tests.support import tiny


def noise(count=2, side=16, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


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


def test_ssim_by_hand():
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


def test_ssim_of_flat_images():
    """Without structure only the light term is left; what rounds to the same 8 bits is equal."""
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


def test_feature_distance_by_hand():
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


def test_feature_distance_asks_for_its_layers_and_ignores_the_strength_of_features():
    features = TwoLayers()
    assert feature_distance(features, noise(), noise()).tolist() == [0, 0]
    assert features.runs[0] == ("relu1_2", "relu2_2", "relu3_2")
    assert feature_distance(features, flat(200), flat(100), [2]).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least one layer"):
        feature_distance(features, noise(), noise(), [])


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


def test_diversity_is_the_mean_feature_distance_over_all_pairs():
    features, layers, images = tiny.Features(), ("conv1_1", "conv2_1"), noise(4)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    distances = [metrics.feature_distance(features, images[[i]], images[[j]], layers).item() for i, j in pairs]
    assert metrics.diversity(features, images, layers) == pytest.approx(sum(distances) / len(pairs), rel=1e-4)
    assert metrics.diversity(features, images[[0, 0]], layers) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least 2 images"):
        metrics.diversity(features, images[:1], layers)
