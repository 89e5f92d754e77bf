"""Sets of images: Fréchet distance and the nearest image."""

import numpy as np
import pytest
import torch

from helpers.metrics import feature_distance
from staff.benchmarks.distributions import feature_statistics, frechet_distance, nearest_distance
from tests.engine.test_metrics import TwoLayers, noise, some_images
from tests.support import tiny


def test_frechet_distance_by_hand():
    """Diagonal covariances commute: |m1 - m2|² + the sum of (s1 - s2)² over the standard deviations."""
    mean, other = torch.tensor([0.0, 1.0]), torch.tensor([3.0, 5.0])
    first, second = torch.diag(torch.tensor([4.0, 9.0])), torch.diag(torch.tensor([1.0, 25.0]))
    assert frechet_distance(mean, first, other, second) == pytest.approx(25 + 1 + 4, abs=1e-9)
    assert frechet_distance(mean, first, mean, first) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    first, second = a @ a.T, b @ b.T  # they do not commute
    mean, other = torch.zeros(6), torch.ones(6)
    root = sqrtm((first @ second).numpy()).real
    expected = 6 + np.trace(first.numpy() + second.numpy() - 2 * root)
    assert frechet_distance(mean, first, other, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(other, second, mean, first) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_rank_deficient_covariances():
    """Fewer images than channels."""
    vectors = torch.randn(4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = torch.cov(vectors.T)
    assert frechet_distance(torch.zeros(10), covariance, torch.zeros(10), covariance) == pytest.approx(0, abs=1e-6)


def test_feature_statistics_do_not_depend_on_the_batches():
    features, images = TwoLayers(), noise(7, 8)
    pooled = features((images * 255).round() / 255, [4])[4].mean(dim=(2, 3)).double().numpy()
    for sizes in ([7], [3, 4], [1] * 7):
        mean, covariance = feature_statistics(features, iter(images.split(sizes)), 4)
        assert mean.dtype == torch.float64 and covariance.shape == (7, 7)
        assert np.allclose(mean, pooled.mean(0)) and np.allclose(covariance, np.cov(pooled.T))


def test_feature_statistics_refuse_one_image():
    with pytest.raises(ValueError, match="at least 2 images"):
        feature_statistics(TwoLayers(), [noise(1)], 2)
    with pytest.raises(ValueError, match="at least 2 images"):
        feature_statistics(TwoLayers(), [], 2)


def test_frechet_distance_refuses():
    mean, covariance = torch.zeros(3), torch.eye(3)
    with pytest.raises(ValueError, match="same shape"):
        frechet_distance(mean, covariance, torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="same shape"):
        frechet_distance(mean, covariance, mean, torch.eye(2))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(mean, covariance, mean * float("nan"), covariance)


def test_the_nearest_distance_is_the_smallest_feature_distance():
    features, layers, images, others = tiny.Features(), ("conv1_1", "conv2_1"), some_images(3), some_images(5, 1)
    others[4] = images[1]
    expected = [min(feature_distance(features, a[None], b[None], layers).item() for b in others) for a in images]
    found = nearest_distance(features, images, others, layers, batch=2)
    assert found.tolist() == pytest.approx(expected, abs=1e-5) and found[1] < 1e-5 < found[0]
