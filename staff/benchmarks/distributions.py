"""How two sets of vectors compare: their Fréchet distance."""

from __future__ import annotations

import torch
from torch import Tensor

from helpers.metrics import checked_finite, same_shape

Statistics = tuple[Tensor, Tensor]  # mean (C,) and covariance (C, C)


def statistics(vectors: Tensor) -> Statistics:
    """Mean and covariance, float64, of vectors (N, C). Raises ValueError for fewer than two, and for NaN."""
    if len(vectors) < 2:
        raise ValueError(f"expected at least 2 images for their statistics; got {len(vectors)}.")
    vectors = checked_finite(vectors.double().cpu())
    return vectors.mean(0), torch.cov(vectors.T).reshape(vectors.shape[1], vectors.shape[1])


def frechet_distance(ours: Statistics, theirs: Statistics) -> float:
    """Squared Fréchet distance of two Gaussians, |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½); FID in Heusel et al. 2017.

    Raises ValueError for shapes that do not fit, and for NaN.
    """
    (mean1, cov1), (mean2, cov2) = ((checked_finite(part.double()) for part in pair) for pair in (ours, theirs))
    same_shape(mean1, mean2)
    for covariance in (cov1, cov2):
        same_shape(covariance, torch.empty(len(mean1), len(mean1)))
    # tr (C1 C2)^½ from the symmetric C1^½ C2 C1^½, which has the same eigenvalues, all of them real
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return max(0.0, ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross).item())
