"""The masked criterion of an edit (Image2StyleGAN++, eq. 1): terms with a region each, and a prior on the latents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.generators import Generator
from helpers.losses import WeightedSum, gram_matrix, lp_loss, perceptual_loss, style_loss
from helpers.masks import as_mask

LAYERS = {"perceptual": ("conv1_1", "conv1_2", "conv2_2", "conv3_3")}
LAYERS["style"] = ("conv1_1", "conv2_1", "conv3_1", "conv3_3")
SMALLEST_VARIANCE = 1e-3  # relative to the largest


@dataclass
class Term:
    """One masked term of a criterion; terms of the same name share a weight.

    kind: "pixel" (mean squared error), "perceptual" or "style" (Gram matrices). target: (B or 1, 3, R, R) in [0, 1];
    for "style" any image of at least the layers' size, of which target_mask is taken, None is all of it. mask: (B or 1,
    1, R, R) in [0, 1], where the term counts in the generated image.
    """

    name: str
    kind: str
    target: Tensor
    mask: Tensor
    target_mask: Tensor | None = None


def photo_terms(photo: Tensor, mask: Tensor, name: str = "first") -> list[Term]:
    """Show this photo where the mask is 1: a pixel term ``name`` and a perceptual term."""
    return [Term(name, "pixel", photo, mask), Term("perceptual", "perceptual", photo, mask)]


class MaskedCriterion(WeightedSum):
    """Weighted sum of masked terms, one value per sample; each is a mean over its mask, with no gradient outside.

    To the perceptual term the network sees the target outside the mask, to the style term what is there. Missing
    ``weights`` are 1. ``prior`` is a function of the latents' offset (B, ...) from their start.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        features=None,
        weights: dict | None = None,
        prior: Callable[[Tensor], Tensor] | None = None,
    ):
        self.terms, self.features, self.prior = list(terms), features, prior
        weights = {} if weights is None else weights
        for name in [*(term.name for term in terms), *(["prior"] if prior else [])]:
            weights.setdefault(name, 1.0)
        super().__init__(weights)
        self.targets = [self._prepare(term) for term in self.terms]

    @torch.no_grad()
    def _prepare(self, term: Term) -> dict[str, Tensor] | None:
        """Features or Gram matrices of the target, computed once."""
        size = None if term.kind == "style" else tuple(term.target.shape[-2:])
        term.mask = as_mask(term.mask, size, f"the mask of {term.name}").to(term.target)
        if term.kind == "pixel":
            return None
        found = self.features(term.target, LAYERS[term.kind])
        if term.kind == "style":
            return {layer: gram_matrix(values, term.target_mask) for layer, values in found.items()}
        return found

    def parts(self, images: Tensor, offset: Tensor | None, index) -> dict[str, Tensor]:
        parts = {}
        for term, target in zip(self.terms, self.targets, strict=True):
            if self.on(term.name):  # both sides of a blend have a term of the same name
                parts[term.name] = parts.get(term.name, 0) + self._value(term, target, images, index)
        if self.prior is not None and offset is not None and self.on("prior"):
            parts["prior"] = self.prior(offset)
        return parts

    def _value(self, term: Term, target, images: Tensor, index) -> Tensor:
        image, mask = self.pick(term.target, index), self.pick(term.mask, index)
        if term.kind == "pixel":
            return lp_loss(images, image, 2, mask)
        target = {layer: self.pick(values, index) for layer, values in target.items()}
        around = image if term.kind == "perceptual" else images.detach()
        ours = self.features(torch.lerp(around, images, mask), LAYERS[term.kind])
        if term.kind == "perceptual":
            return perceptual_loss(ours, target, mask)
        value = style_loss({layer: gram_matrix(values, mask) for layer, values in ours.items()}, target)
        return value * mask.amax((1, 2, 3)).gt(0)  # an empty region has no texture that could be wrong


@torch.no_grad()
def whitening(generator: Generator, samples: int = 8000) -> Tensor:
    """The matrix W (w_dim, w_dim) for which the components of (w - mean) W are uncorrelated and of variance 1."""
    values, vectors = torch.linalg.eigh(torch.cov(generator.sample("w", samples).T.double()))
    # otherwise directions with almost no variance would be forbidden, and rounding error would choose which
    scales = values.clamp_min(SMALLEST_VARIANCE * values[-1]).sqrt()
    return (vectors / scales).to(generator.mean("w"))
