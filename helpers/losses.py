"""Losses of inversion: pure functions with one value per sample, and their weighted sum, the Criterion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTS = {"l1": 1.0, "l2": 0.0, "perceptual": 0.1, "delta": 0.0}
LAYERS = ("conv1_2", "conv2_2", "conv3_2")


class LossError(ValueError):
    """A loss that cannot be computed from what it was given."""


def lp_loss(images: Tensor, targets: Tensor, p: int = 1, mask: Tensor | None = None) -> Tensor:
    """Mean of |images - targets|^p over channels and the mask's area: (B,).

    Args:
        images, targets: (B, 3, H, W) in [0, 1]; a target batch of 1 serves all images.
        p: 1 or 2.
        mask: (B or 1, 1, H, W) in [0, 1], 1 = counts; None counts every pixel.
    """
    error = (images - targets).abs() if p == 1 else (images - targets).square()
    return masked_mean(error, mask)


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over channels and pixels, weighted by the mask and divided by its area: (B, C, H, W) to (B,)."""
    if mask is None:
        return values.mean((1, 2, 3))
    area = mask.sum((1, 2, 3)).clamp_min(1e-8)
    return (values.mean(1, keepdim=True) * mask).sum((1, 2, 3)) / area


def perceptual_loss(ours: dict[str, Tensor], theirs: dict[str, Tensor], mask: Tensor | None = None) -> Tensor:
    """Relative squared distance of feature maps, mean over layers: (B,).

    Each layer's mean squared difference (Johnson et al., ECCV 2016) is divided by the mean square of the target's
    features in that layer: 0 is equal and about 1 is unrelated, in every layer of every network.

    Args:
        ours, theirs: layer to (B, C, h, w); a target batch of 1 serves all.
        mask: (B or 1, 1, H, W) in [0, 1] at image size; each layer gets its mean over the layer's cells.
    """
    losses = []
    for layer, target in theirs.items():
        at_layer = None if mask is None else F.adaptive_avg_pool2d(mask, target.shape[-2:])
        distance = masked_mean((ours[layer] - target).square(), at_layer)
        losses.append(distance / masked_mean(target.square(), at_layer).clamp_min(1e-8))
    return torch.stack(losses).mean(0)


def gram_matrix(activations: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the mask's area of the products of all pairs of channels: (B, C, h, w) to (B, C, C).

    The Gram matrix of Gatys et al. (CVPR 2016) divided by the number of cells, so regions of any size compare.

    mask: (B or 1, 1, H, W) in [0, 1] at image size; the layer gets its mean over the layer's cells. None is everywhere.
    """
    rows = activations.flatten(2)
    if mask is None:  # without a copy of the activations
        return rows @ rows.transpose(1, 2) / rows.shape[2]
    weight = F.adaptive_avg_pool2d(mask, activations.shape[-2:])
    area = weight.sum((1, 2, 3)).clamp_min(1e-8)
    return (activations * weight).flatten(2) @ rows.transpose(1, 2) / area[:, None, None]


def style_loss(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    """Relative squared distance of Gram matrices, mean over layers: (B,); 0 is the same texture, about 1 unrelated.

    ours, theirs: layer to ``gram_matrix`` (B, C, C); a target batch of 1 serves all.
    """
    losses = [
        (ours[layer] - target).square().sum((1, 2)) / target.square().sum((1, 2)).clamp_min(1e-8)
        for layer, target in theirs.items()
    ]
    return torch.stack(losses).mean(0)


def delta_loss(delta: Tensor) -> Tensor:
    """Squared length of the latent's offset from its start, over all rows: (B, ...) to (B,)."""
    return delta.flatten(1).square().sum(1)


@dataclass
class Loss:
    """``total`` (B,) is what is minimised, the weighted sum of the unweighted ``parts``, each (B,)."""

    total: Tensor
    parts: dict[str, Tensor]


class Criterion:
    """Weighted sum of an L1, an L2, a perceptual and a latent-offset loss against fixed targets.

    The targets' features are computed once, here. ``weights`` may be changed while an optimisation runs.

    Args:
        targets: (B, 3, H, W) in [0, 1].
        features: a network of ``load_features``, needed where the perceptual weight is not 0.
        weights: of "l1", "l2", "perceptual" and "delta"; each a number or (B,) for a table of settings. What is
            missing is 0; None is ``WEIGHTS``.
        layers: conv layers of the perceptual loss, numbers or names.
        mask: (B or 1, 1, H, W) in [0, 1], where the image terms count; None counts every pixel.

    Raises:
        LossError: for an unknown or negative weight, no positive weight at all, missing features, or a mask that is
            of another size, outside [0, 1] or empty.
    """

    def __init__(
        self,
        targets: Tensor,
        features=None,
        weights: dict[str, float | Tensor] | None = None,
        layers: Sequence[str | int] = LAYERS,
        mask: Tensor | None = None,
    ):
        self.targets, self.features, self.layers, self.mask = targets, features, tuple(layers), mask
        self.weights = dict(WEIGHTS if weights is None else weights)
        _check_weights(self.weights)
        self._check_features()
        if mask is not None:
            _check_mask(mask, targets)
        self.target_features = None if features is None else self._features_of_targets()

    @torch.no_grad()
    def _features_of_targets(self) -> dict[str, Tensor]:
        # one by one: a batch rounds otherwise, and a line search would make that rounding visible
        single = [self.features(target[None], self.layers) for target in self.targets]
        return {layer: torch.cat([found[layer] for found in single]) for layer in single[0]}

    def _on(self, name: str) -> bool:
        return bool(torch.as_tensor(self.weights.get(name, 0.0)).gt(0).any())

    def _check_features(self) -> None:
        if self.features is None and self._on("perceptual"):
            raise LossError("the perceptual loss needs a feature network; pass features=load_features() or weight 0.")

    def __call__(self, images: Tensor, delta: Tensor | None = None, index=slice(None)) -> Loss:
        """Loss of images (b, 3, H, W) and latent offsets (b, ...) against the targets ``index`` of the batch."""
        targets = self.targets[index] if len(self.targets) > 1 else self.targets
        mask = self.mask[index] if self.mask is not None and len(self.mask) > 1 else self.mask
        self._check_features()  # the weights may have changed under way
        parts = {}
        for name, p in (("l1", 1), ("l2", 2)):
            if self._on(name):
                parts[name] = lp_loss(images, targets, p, mask)
        if self._on("perceptual"):
            theirs = {k: v[index] if len(v) > 1 else v for k, v in self.target_features.items()}
            parts["perceptual"] = perceptual_loss(self.features(images, self.layers), theirs, mask)
        if self._on("delta") and delta is not None:
            parts["delta"] = delta_loss(delta)
        if not parts:
            raise LossError("every loss has weight 0, so there is nothing to minimise; set l1, l2 or perceptual.")
        total = sum(self._weight(name, images, index) * value for name, value in parts.items())
        return Loss(total, parts)

    def _weight(self, name: str, images: Tensor, index) -> Tensor:
        weight = torch.as_tensor(self.weights[name], dtype=images.dtype, device=images.device)
        return weight[index] if weight.ndim and len(weight) > 1 else weight


def _check_mask(mask: Tensor, targets: Tensor) -> None:
    shape = tuple(mask.shape)
    if mask.ndim != 4 or shape[1] != 1 or shape[2:] != targets.shape[2:]:
        raise LossError(f"the mask must be (B or 1, 1, {targets.shape[2]}, {targets.shape[3]}), but {shape} came.")
    if not mask.isfinite().all() or mask.min() < 0 or mask.max() > 1:
        raise LossError("the mask must be in [0, 1], 1 where the image counts.")
    if (mask.sum((1, 2, 3)) == 0).any():
        raise LossError("the mask is 0 everywhere, so nothing ties the result to the photo; mark what counts.")


def _check_weights(weights: dict) -> None:
    unknown = sorted(set(weights) - set(WEIGHTS))
    if unknown:
        raise LossError(f"unknown loss {', '.join(unknown)}; the losses are {', '.join(WEIGHTS)}.")
    values = {name: torch.as_tensor(weight, dtype=torch.float32) for name, weight in weights.items()}
    bad = [name for name, value in values.items() if not (value.isfinite() & (value >= 0)).all()]
    if bad:
        raise LossError(f"the weight of {', '.join(bad)} must be a finite number of at least 0.")
    if not any(bool(value.gt(0).any()) for name, value in values.items() if name != "delta"):
        raise LossError("no image loss has a weight, so nothing ties the result to a photo; set l1, l2 or perceptual.")
