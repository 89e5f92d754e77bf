"""Losses: pure functions with one value per sample, and the weighted sum on which every criterion stands.

Images and targets are (B, 3, H, W) in [0, 1]; a target batch of 1 serves all. A mask (B or 1, 1, H, W) in [0, 1] is at
image size, 1 = counts, None counts all; a layer of a network gets its mean over the layer's cells.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.images import in_range

WEIGHTS = {"l1": 1.0, "l2": 0.0, "perceptual": 0.1, "delta": 0.0}
LAYERS = ("conv1_2", "conv2_2", "conv3_2")


def lp_loss(images: Tensor, targets: Tensor, p: int = 1, mask: Tensor | None = None) -> Tensor:
    """Mean of |images - targets|^p, p 1 or 2, over channels and the mask's area: (B,)."""
    return masked_mean((images - targets).abs() if p == 1 else (images - targets).square(), mask)


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over channels and pixels, weighted by the mask and divided by its area: (B, C, H, W) to (B,)."""
    if mask is None:
        return values.mean((1, 2, 3))
    area = mask.sum((1, 2, 3)).clamp_min(1e-8)
    return (values.mean(1, keepdim=True) * mask).sum((1, 2, 3)) / area


def mean_square(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """``masked_mean`` of the squares; without a mask in half the passes over memory, by the norms of the rows."""
    if mask is not None:
        return masked_mean(values.square(), mask)
    return torch.linalg.vector_norm(values, dim=(1, 3)).square().sum(1) / values[0].numel()


def perceptual_loss(ours: dict[str, Tensor], theirs: dict[str, Tensor], mask: Tensor | None = None) -> Tensor:
    """Squared distance of feature maps, layer to (B, C, h, w), over the target's square, mean over layers: (B,).

    After Johnson et al. (ECCV 2016): 0 is equal and about 1 is unrelated, in every layer of every network.
    """
    losses = []
    for layer, target in theirs.items():
        cells = None if mask is None else F.adaptive_avg_pool2d(mask, target.shape[-2:])
        losses.append(mean_square(ours[layer] - target, cells) / mean_square(target, cells).clamp_min(1e-8))
    return torch.stack(losses).mean(0)


def gram_matrix(activations: Tensor, mask: Tensor | None = None) -> Tensor:
    """Gram matrix (Gatys et al., CVPR 2016) over the number of cells: (B, C, h, w) to (B, C, C)."""
    rows, weight = activations.flatten(2), 1 / activations[0, 0].numel()
    if mask is not None:
        weight = F.adaptive_avg_pool2d(mask, activations.shape[-2:]).flatten(2)
        weight = weight / weight.sum(2, keepdim=True).clamp_min(1e-8)
    # one factor is fixed, and its share of the gradient comes by the transpose: a product less, and the gradient
    # has the memory layout of the activations, without which adding it to others takes as long as a convolution
    fixed = rows.detach() * weight
    products = fixed @ rows.mT if rows.stride(1) == 1 else rows @ fixed.mT
    return products + products.mT - products.detach()


def style_loss(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    """Relative squared distance of Gram matrices, layer to (B, C, C), mean over layers: (B,); about 1 is unrelated."""
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


class WeightedSum:
    """Weighted sum of named losses, one value per sample: what every criterion of a search stands on.

    A subclass computes ``parts(images, offset, index)``: the losses that are ``on``, unweighted. ``weights`` map names
    to a number, or (B,) for a table of settings; the dict is kept: it may be changed while a search runs. ``known`` are
    all names, ``anchors`` those that tie the result to something given: in every setting one of them needs a weight.
    Raises ValueError for other names, weights that are negative or not finite, and tables of different lengths.
    """

    repeats: int = 1  # rows of the batch per setting, where a search has several starts

    def __init__(self, weights: dict[str, float | Tensor], known: Collection[str] = (), anchors: Collection[str] = ()):
        self.weights = weights
        if unknown := sorted(set(weights) - set(known or weights)):
            raise ValueError(f"unknown loss {', '.join(unknown)}; the losses are {', '.join(known)}.")
        values = {name: torch.as_tensor(weight, dtype=torch.float32) for name, weight in weights.items()}
        if bad := [name for name, value in values.items() if not (value.isfinite() & (value >= 0)).all()]:
            raise ValueError(f"the weight of {', '.join(bad)} must be a finite number of at least 0.")
        if len(lengths := {len(value) for value in values.values() if value.ndim} - {1}) > 1:
            raise ValueError(f"tables of weights must have one length; got {' and '.join(map(str, sorted(lengths)))}.")
        self.settings = max(lengths, default=1)  # length of the tables, 1 where all are numbers
        if anchors and not torch.as_tensor(sum(values[name] for name in anchors if name in values) > 0).all():
            raise ValueError(f"nothing ties the result to what was given; set the weight of {' or '.join(anchors)}.")

    def __call__(self, images: Tensor, offset: Tensor | None = None, index=slice(None)) -> Loss:
        """Loss of images (b, 3, H, W) and latent offsets (b, ...), the samples ``index`` of the batch."""
        parts = self.parts(images, offset, index)
        if not parts:
            raise ValueError("every loss has weight 0, so there is nothing to minimise; raise a weight.")
        return Loss(sum(self.weight(name, value, index) * value for name, value in parts.items()), parts)

    def on(self, name: str) -> bool:
        """Whether a loss has a weight in any setting."""
        weight = self.weights.get(name, 0.0)
        return bool((weight > 0).any()) if isinstance(weight, Tensor) else weight > 0

    def fixed(self) -> tuple | None:
        """What the loss depends on besides tensors: see Optimization; None with tables of weights."""
        weights = tuple(self.weights.items())
        return None if any(isinstance(weight, Tensor) for _, weight in weights) else weights

    def weight(self, name: str, like: Tensor, index=slice(None)) -> Tensor | float:
        """A weight for the samples ``index``, a number or (b,), of the type of ``like``."""
        weight = self.weights[name]
        if not isinstance(weight, Tensor):
            return weight
        weight = weight.to(like)
        return self.pick(weight, index) if weight.ndim else weight

    def pick(self, values: Tensor, index=slice(None)) -> Tensor:
        """The samples ``index`` of values (B, ...), one for each setting; one of length 1 serves all."""
        if len(values) == 1:
            return values
        if self.repeats > 1:
            index = torch.arange(len(values) * self.repeats, device=values.device)[index] // self.repeats
        return values[index]


class Criterion(WeightedSum):
    """Weighted sum of an L1, an L2, a perceptual and a latent-offset loss against fixed targets.

    What is missing in ``weights`` is 0, None is ``WEIGHTS``. ``features``, a network of ``load_features``, is needed
    (else ValueError) where the perceptual weight is not 0; ``layers`` are its conv layers, numbers or names.
    """

    def __init__(
        self, targets: Tensor, features=None, weights: dict | None = None, layers=LAYERS, mask: Tensor | None = None
    ):
        super().__init__(dict(WEIGHTS if weights is None else weights), WEIGHTS, ("l1", "l2", "perceptual"))
        self.targets, self.features, self.layers, self.mask = targets, features, tuple(layers), mask
        self._check_features()
        if mask is not None:
            _check_mask(mask, targets)
        self.target_features = {}
        if features is not None:
            with torch.no_grad():  # one at a time: batched kernels round differently, and a search amplifies that
                single = [features(target[None], self.layers) for target in targets]
            self.target_features = {layer: torch.cat([found[layer] for found in single]) for layer in single[0]}

    def _check_features(self) -> None:
        if self.features is None and self.on("perceptual"):
            raise ValueError("the perceptual loss needs a feature network; pass features=load_features() or weight 0.")

    def parts(self, images: Tensor, offset: Tensor | None = None, index=slice(None)) -> dict[str, Tensor]:
        targets = self.pick(self.targets, index)
        mask = None if self.mask is None else self.pick(self.mask, index)
        self._check_features()  # the weights may have changed since
        parts = {name: lp_loss(images, targets, p, mask) for name, p in (("l1", 1), ("l2", 2)) if self.on(name)}
        if self.on("perceptual"):
            theirs = {layer: self.pick(values, index) for layer, values in self.target_features.items()}
            parts["perceptual"] = perceptual_loss(self.features(images, self.layers), theirs, mask)
        if self.on("delta") and offset is not None:
            parts["delta"] = delta_loss(offset)
        return parts


def _check_mask(mask: Tensor, targets: Tensor) -> None:
    if mask.ndim != 4 or mask.shape[1:] != (1, *targets.shape[2:]):
        wanted = f"(B or 1, 1, {targets.shape[2]}, {targets.shape[3]})"
        raise ValueError(f"the mask must be {wanted}; got {tuple(mask.shape)}.")
    if not in_range(mask):
        raise ValueError("the mask must be in [0, 1], 1 where the image counts.")
    if (mask.sum((1, 2, 3)) == 0).any():
        raise ValueError("the mask is 0 everywhere, so nothing ties the result to the photo; mark what counts.")
