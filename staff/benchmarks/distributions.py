"""How two sets of images compare: Fréchet distance of feature statistics, distance to the nearest image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from helpers.images import quantize
from helpers.metrics import DISTANCE_LAYERS, FeatureNetwork, Layer, checked_finite, same_shape, unit_features


@torch.no_grad()
def nearest_distance(
    features: FeatureNetwork, images: Tensor, others: Tensor, layers: Sequence[Layer] = DISTANCE_LAYERS, batch: int = 64
) -> Tensor:
    """Smallest feature distance of each image (N, 3, H, W) to any of the others (M, 3, H, W), all in [0, 1]: (N,).

    Raises ValueError for NaN and for sizes that differ.
    """
    same_shape(images[:1], others[:1])
    ours = _rows(features, images, layers)
    smallest = images.new_full((len(images),), float("inf"))
    for chunk in others.split(batch):
        smallest = torch.minimum(smallest, torch.cdist(ours, _rows(features, chunk, layers)).square().amin(1))
    return smallest


def _rows(features: FeatureNetwork, images: Tensor, layers: Sequence[Layer]) -> Tensor:
    """One row per image; the squared distance of two rows is the feature distance of their images."""
    found = unit_features(features, quantize(checked_finite(images)), layers).values()
    return torch.cat([unit.flatten(1) / (unit[0, 0].numel() * len(layers)) ** 0.5 for unit in found], 1)


@torch.no_grad()
def feature_statistics(features: FeatureNetwork, batches: Iterable[Tensor], layer: Layer) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C), float64, of a layer's activations averaged over the pixels of each image.

    batches: an iterable of (B, 3, H, W) in [0, 1], clamped and rounded to 8 bits here; at least two images in all, and
    more than C for a covariance of full rank. Raises ValueError for fewer than two images, and for NaN.
    """
    pooled = [next(iter(features(quantize(images), [layer]).values())).mean(dim=(2, 3)).cpu() for images in batches]
    vectors = torch.cat(pooled).double() if pooled else torch.empty(0, 1)
    if len(vectors) < 2:
        raise ValueError(f"expected at least 2 images for their statistics; got {len(vectors)}.")
    vectors = checked_finite(vectors)
    return vectors.mean(dim=0), torch.cov(vectors.T).reshape(vectors.shape[1], vectors.shape[1])


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Squared Fréchet distance of two Gaussians, |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½); FID in Heusel et al. 2017.

    mean: (C,), covariance: (C, C), as feature_statistics returns them; computed in float64. At least 0.
    Raises ValueError for shapes that do not fit, and for NaN.
    """
    given = (mean1, covariance1, mean2, covariance2)
    mean1, covariance1, mean2, covariance2 = (checked_finite(torch.as_tensor(v).double().cpu()) for v in given)
    same_shape(mean1, mean2)
    for covariance in (covariance1, covariance2):
        same_shape(covariance, torch.empty(len(mean1), len(mean1)))
    # tr (C1 C2)^½ from the symmetric C1^½ C2 C1^½, which has the same eigenvalues, all of them real
    values, vectors = torch.linalg.eigh(covariance1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * cross
    return max(0.0, distance.item())
