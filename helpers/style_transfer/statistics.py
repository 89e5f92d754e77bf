"""Statistics of style: what a texture keeps of an image's activations, forgetting where things are. One interface."""

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.losses import gram_matrix


class StyleError(ValueError):
    """A style transfer that cannot start, or a state that is not its own."""


def full(activations: Tensor) -> Tensor:
    """Activations in float32 at least: sums over half precision would lose their last digits."""
    return activations.to(torch.promote_types(activations.dtype, torch.float32))


def _relative(ours: Tensor, target: Tensor, floor: float | Tensor = 0.0) -> Tensor:
    """Squared distance over the squared length of the target, at least ``floor``: (B,)."""
    size = target.square().flatten(1).sum(1).clamp_min(1e-8).clamp_min(floor)
    return (ours - target).square().flatten(1).sum(1) / size


class Statistic:
    """A description of activations, and a distance (B,) of two: 0 is the same texture, about 1 an unrelated one."""

    def describe(self, activations: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, ...) of activations (B, C, h, w), within a mask (B or 1, 1, H, W)."""

    def distance(self, ours: Tensor, target: Tensor) -> Tensor:
        return _relative(ours, target)


class Gram(Statistic):
    """Products of all pairs of channels, their mean over the cells (Gatys et al., CVPR 2016): (B, C, C)."""

    def describe(self, activations: Tensor, mask: Tensor | None = None) -> Tensor:
        return gram_matrix(full(activations), mask)


def _mean(activations: Tensor, mask: Tensor | None) -> Tensor:
    """Mean (B, C) over the mask."""
    if mask is None:
        return activations.sum((2, 3)) / activations[0, 0].numel()  # the gradient of mean() is a pass more
    weight = F.adaptive_avg_pool2d(mask, activations.shape[-2:])
    return (activations * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-8)


class MeanVariance(Statistic):
    """Mean and standard deviation of every channel (Huang & Belongie, ICCV 2017): 2 C numbers where Gram has C²."""

    def describe(self, activations: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, 2, C)."""
        activations = full(activations)
        mean = _mean(activations, mask)
        variance = _mean((activations - mean[..., None, None]).square(), mask)
        return torch.stack([mean, (variance + 1e-8).sqrt()], 1)


class Moments(Statistic):
    """Mean and covariance, each by its relative squared distance; in a Gram matrix the means drown the covariance."""

    def describe(self, activations: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C + 1, C): the mean above the covariance."""
        activations = full(activations)
        mean = _mean(activations, mask)[:, None]
        return torch.cat([mean, gram_matrix(activations, mask) - mean.mT @ mean], 1)

    def distance(self, ours: Tensor, target: Tensor) -> Tensor:
        flat = (0.01 * target[:, 0].square().sum(1)).square()  # a style of one colour has no covariance to divide by
        return (_relative(ours[:, :1], target[:, :1]) + _relative(ours[:, 1:], target[:, 1:], flat)) / 2


STATISTICS = {"gram": Gram, "mean-variance": MeanVariance, "moments": Moments}


def statistic_of(name: str) -> Statistic:
    """The statistic of a name in STATISTICS. Raises StyleError for an unknown name."""
    if name not in STATISTICS:
        raise StyleError(f"the style statistic must be one of {', '.join(STATISTICS)}; got {name!r}.")
    return STATISTICS[name]()
