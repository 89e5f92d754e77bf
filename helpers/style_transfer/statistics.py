"""Statistics of style: what a texture keeps of an image's activations, forgetting where things are. One interface.

``describe`` turns activations (B, C, h, w), with an optional mask, into numbers; ``prepare`` turns the numbers of a
style image into a target, once; ``distance`` compares: (B,), 0 is the same texture and about 1 an unrelated one, in
every layer, at every size, of every network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.fast.features import half_gram
from helpers.losses import gram_matrix, style_loss

DIRECTIONS = 32  # directions of the sliced Wasserstein distance
RIDGE = 1e-4  # times the mean eigenvalue: keeps the gradient of a matrix root finite


class StatisticError(ValueError):
    """An unknown statistic."""


def _relative(ours: Tensor, target: Tensor, floor: float | Tensor = 1e-8) -> Tensor:
    """Squared distance over the squared length of the target, at least ``floor``; all but the first dimension: (B,)."""
    size = target.square().flatten(1).sum(1).clamp_min(1e-8).maximum(torch.as_tensor(floor).to(target))
    return (ours - target).square().flatten(1).sum(1) / size


def _weight(activations: Tensor, mask: Tensor | None) -> Tensor:
    """The mask's mean over each cell, scaled to a sum of 1 over cells: (B or 1, 1, h w)."""
    size = activations.shape[-2:]
    weight = activations.new_ones(1, 1, *size) if mask is None else F.adaptive_avg_pool2d(mask, size)
    weight = weight.flatten(2)
    return weight / weight.sum(2, keepdim=True).clamp_min(1e-8)


def full(activations: Tensor) -> Tensor:
    """Activations in float32 at least: sums over half precision would lose their last digits."""
    return activations.to(torch.promote_types(activations.dtype, torch.float32))


def _moments(activations: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean (B, C) and covariance (B, C, C) over the mask."""
    activations = full(activations)
    rows, weight = activations.flatten(2), _weight(activations, mask)
    mean = (rows * weight).sum(2)
    centred = rows - mean[..., None]
    return mean, (centred * weight) @ centred.transpose(1, 2)


class Gram:
    """Products of all pairs of channels, their mean over the cells (Gatys et al., CVPR 2016)."""

    def describe(self, activations: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, C)."""
        if activations.dtype == torch.bfloat16 and mask is None:
            return half_gram(activations)
        return gram_matrix(full(activations), mask)

    def prepare(self, described: Tensor) -> Tensor:
        return described

    def distance(self, ours: Tensor, target: Tensor) -> Tensor:
        return style_loss({0: ours}, {0: target})


class MeanVariance:
    """Mean and standard deviation of every channel (Huang & Belongie, ICCV 2017): 2 C numbers where Gram has C²."""

    def describe(self, activations: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, 2, C)."""
        activations = full(activations)
        rows, weight = activations.flatten(2), _weight(activations, mask)
        mean = (rows * weight).sum(2)
        variance = ((rows - mean[..., None]).square() * weight).sum(2)
        return torch.stack([mean, (variance + 1e-8).sqrt()], 1)

    def prepare(self, described: Tensor) -> Tensor:
        return described

    def distance(self, ours: Tensor, target: Tensor) -> Tensor:
        return _relative(ours, target)


class Moments:
    """Mean and covariance, each by its relative squared distance; in a Gram matrix the means drown the covariance."""

    def describe(self, activations: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C + 1, C): the mean above the covariance."""
        mean, covariance = _moments(activations, mask)
        return torch.cat([mean[:, None], covariance], 1)

    def prepare(self, described: Tensor) -> Tensor:
        return described

    def distance(self, ours: Tensor, target: Tensor) -> Tensor:
        flat = (0.01 * target[:, 0].square().sum(1)).square()  # a style of one colour has no covariance to divide by
        return (_relative(ours[:, :1], target[:, :1]) + _relative(ours[:, 1:], target[:, 1:], flat)) / 2


class Wasserstein:
    """Wasserstein-2 distance of the Gaussians with the activations' mean and covariance.

    |m - m'|² + tr(S + S' - 2 (S'^½ S S'^½)^½), over the style's |m'|² + tr S' (Dowson & Landau 1982, eq. 4).
    """

    def describe(self, activations: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C + 1, C): the mean above the covariance."""
        return Moments().describe(activations, mask)

    def prepare(self, described: Tensor) -> Tensor:
        """(B, C + 1, C): the mean above the covariance's root."""
        values, vectors = torch.linalg.eigh(described[:, 1:])
        root = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.transpose(1, 2)
        return torch.cat([described[:, :1], root], 1)

    def distance(self, ours: Tensor, target: Tensor) -> Tensor:
        root = target[:, 1:]
        spread = root.square().sum((1, 2))  # the trace of root²
        trace = ours[:, 1:].diagonal(dim1=1, dim2=2).sum(1)
        cross = root @ ours[:, 1:] @ root
        ridge = RIDGE * cross.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
        cross = (cross + cross.transpose(1, 2)) / 2 + ridge[:, None, None] * torch.eye(len(root[0])).to(cross)
        shared = torch.linalg.eigvalsh(cross).clamp_min(1e-20).sqrt().sum(1)
        means = (ours[:, 0] - target[:, 0]).square().sum(1)
        size = (target[:, 0].square().sum(1) + spread).clamp_min(1e-8)
        # the ridge makes the root slightly too large; clamped, so that an equal image gives 0
        return (means + trace + spread - 2 * shared).clamp_min(0) / size


class SlicedWasserstein:
    """Activations projected on random directions, sorted, and compared value by value (Heitz et al., CVPR 2021).

    The whole distribution is compared, not its first two moments. ``seed`` gives the directions, always the same.
    """

    def __init__(self, directions: int = DIRECTIONS, seed: int = 0):
        self.directions, self.seed = directions, seed

    def describe(self, activations: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, directions, cells): sorted projections of the cells that lie in the mask (one mask for the batch)."""
        rows = full(activations).flatten(2)
        if mask is not None:
            weight = F.adaptive_avg_pool2d(mask, activations.shape[-2:]).flatten()
            rows = rows[..., weight >= 0.5 * weight.max()]
        random = torch.Generator().manual_seed(self.seed)
        directions = F.normalize(torch.randn(self.directions, rows.shape[1], generator=random), dim=1).to(rows)
        return (directions @ rows).sort(2).values

    def prepare(self, described: Tensor) -> Tensor:
        return described

    def distance(self, ours: Tensor, target: Tensor) -> Tensor:
        cells = ours.shape[2]
        if target.shape[2] != cells:  # quantiles of an image of another size
            target = F.interpolate(target, size=cells, mode="linear", align_corners=False)
        return _relative(ours, target)


STATISTICS = {
    "gram": Gram,
    "mean-variance": MeanVariance,
    "moments": Moments,
    "wasserstein": Wasserstein,
    "sliced": SlicedWasserstein,
}


def statistic_of(name):
    """The statistic of a name in STATISTICS, or the object itself. Raises StatisticError for an unknown name."""
    if not isinstance(name, str):
        return name
    if name not in STATISTICS:
        raise StatisticError(f"the style statistic must be one of {', '.join(STATISTICS)}; got {name!r}.")
    return STATISTICS[name]()
