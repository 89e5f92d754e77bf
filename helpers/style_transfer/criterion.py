"""The loss of style transfer (Gatys et al., CVPR 2016) and all its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from helpers.losses import WeightedSum, perceptual_loss
from helpers.style_transfer.patch_bank import PatchBank, octaves_of
from helpers.style_transfer.statistics import full, statistic_of

CONTENT_LAYERS = ("conv3_3", "conv4_2")
STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
STYLE_WEIGHT = 8.0  # with content 1; see the sweep of lesson 05
PATCH_WEIGHT = 0.3  # a patch bank knows its image better than a network does: at 30 it copies whole objects
PYRAMID = 96  # pixels: at this size the network's view spans whole strokes and whole subjects
COLOURS = ("style", "luminance", "linear", "histogram")

Layers = str | int | Sequence[str | int] | Mapping[str | int, float | Tensor]


class StyleError(ValueError):
    """A style transfer that cannot start, or a state that is not its own."""


@dataclass(frozen=True)
class StyleOptions:
    """What a style transfer can be set to. Whatever is a tensor of length B makes a batch of B: a table, a grid.

    Attributes:
        content_layers: layers that hold the content, names or numbers, or a dict of layer to weight, a number or (B,).
        style_layers: the same for the style; None is STYLE_LAYERS, or all octaves of a patch bank.
        content_weight: weight of the content, a number or (B,).
        style_weight: weight of the style, 8 by default, and 0.3 for patches.
        tv_weight: weight of the total variation, by default that of the style; without a style, and for patches, 0.
        style_weights: (S,) or (B, S), how much of each of the S styles; divided by their sum. Equal by default.
        statistic: gram, mean-variance, moments, wasserstein, sliced, or patches: a bank of each style's own patches
            instead of the network, on as many of four octaves as have at least 24 pixels a side.
        colour: style takes the style's colours; the photo's are kept by luminance (only the luminance is transferred),
            linear or histogram (the style is first given the photo's colours).
        style_scale: size of the style relative to the result; 2 makes strokes twice as wide.
        init: start from content or noise; or from an image (1 or B, 3, H, W).
        pyramid: short side in pixels of the coarsest scale; each next one starts from the scale before, and they at
            most double. None is a single scale.
        steps: steps at the coarsest scale; every finer one takes half of them.
        optimizer: lbfgs-batch, adam or lbfgs.
        lr: its rate, by default from RATES.
        precision: auto (bfloat16 where the processor multiplies it), bfloat16 or float32, of the convolutions.
        seed: seed of the noise; one number, or one per sample.
    """

    content_layers: Layers = CONTENT_LAYERS
    style_layers: Layers | None = None
    content_weight: float | Tensor = field(default=1.0, metadata={"min": 0})
    style_weight: float | Tensor | None = field(default=None, metadata={"min": 0})
    tv_weight: float | Tensor | None = field(default=None, metadata={"min": 0})
    style_weights: Tensor | Sequence[float] | None = field(default=None, metadata={"option": False})
    statistic: str = "moments"
    colour: str = "style"
    style_scale: float = 1.0
    init: str | Tensor = "content"
    pyramid: int | None = field(default=PYRAMID, metadata={"min": 1})
    steps: int = field(default=120, metadata={"min": 1})
    optimizer: str = "lbfgs-batch"
    lr: float | None = None
    precision: str = "auto"
    seed: int | Sequence[int] = 0

    @property
    def patches(self) -> bool:
        """Whether the style is compared by its own patches."""
        return self.statistic == "patches"

    @property
    def weights(self) -> dict[str, float | Tensor]:
        """Weights of the criterion by the names of its losses."""
        style = (PATCH_WEIGHT if self.patches else STYLE_WEIGHT) if self.style_weight is None else self.style_weight
        tv = (0.0 if self.patches else style) if self.tv_weight is None else self.tv_weight
        return {"content": self.content_weight, "style": style, "tv": tv}

    @property
    def lengths(self) -> dict[str, int]:
        """Lengths of all that can differ from sample to sample."""
        tables = {f"weights of {name}": weight for name, weight in self.weights.items()} | {"starts": self.init}
        for layers in (self.content_layers, self.style_layers):
            tables |= {f"weights of {k}": w for k, w in layers.items()} if isinstance(layers, Mapping) else {}
        mixture = torch.as_tensor(0.0 if self.style_weights is None else self.style_weights)
        tables |= {"weights of styles": mixture} if mixture.ndim == 2 else {}
        found = {name: len(table) for name, table in tables.items() if isinstance(table, Tensor) and table.ndim}
        return found | ({} if isinstance(self.seed, int) else {"seeds": len(self.seed)})


class StyleCriterion(WeightedSum):
    """Weighted sum of content, style and total variation, one value per sample; targets are computed once, here.

    Content is the relative squared distance of feature maps, style that of a statistic of feature maps; both are
    weighted means over their layers, so that the weights mean the same for any layers, size and network.

    features: network of ``load_features``; None where every style is a patch bank and content has weight 0.
    contents: (B or 1, 3, H, W) in [0, 1]. styles: images (1 or B, 3, h, w) in [0, 1] of any size. masks: (S, 1, H, W)
    in [0, 1], where each style goes; None is everywhere. ``changes`` are fields of the options.

    Raises StyleError for weights that are negative or all 0, no style or layer, or lengths that do not agree, and
    FeatureError for an unknown layer or images that are too small for one.
    """

    error = StyleError

    def __init__(
        self,
        features,
        contents: Tensor,
        styles: Sequence[Tensor] = (),
        masks: Tensor | None = None,
        options: StyleOptions | None = None,
        **changes,
    ):
        options = replace(options or StyleOptions(), **changes)
        weights = options.weights if styles else options.weights | {"style": 0.0, "tv": options.tv_weight or 0.0}
        super().__init__(weights, options.weights, ("content", "style"))
        self.features, self.contents, self.masks, self.patches = features, contents, masks, options.patches
        self.statistic = statistic_of("moments" if self.patches else options.statistic)
        self.style_weights = _shares(options.style_weights, len(styles))
        self.networks, layers = self._networks(styles), options.style_layers
        if layers is None:
            layers = self.networks[0].layers if self.patches and styles else STYLE_LAYERS
        self.content_layers, self.style_layers = layer_weights(options.content_layers), layer_weights(layers)
        if features is None and (self.on("content") or not self.patches):
            raise StyleError("content and style need a feature network; pass features=load_features().")
        with torch.no_grad():
            content = self._targets(self.features, contents, self.content_layers, full) if self.on("content") else {}
            self.content_targets, self.style_targets = (
                content,
                [
                    self._targets(network, style, self.style_layers, self._prepared)
                    for network, style in zip(self.networks, styles, strict=True)
                ],
            )

    def _networks(self, styles: Sequence[Tensor]) -> list:
        """The network that describes each style."""
        if not self.patches:
            return [self.features] * len(styles)
        octaves = octaves_of(min(image.shape[-2:]) for image in (self.contents, *styles))
        return [PatchBank(style[:1], octaves=octaves) for style in styles]

    def _prepared(self, activations: Tensor) -> Tensor:
        return self.statistic.prepare(self.statistic.describe(activations))

    @staticmethod
    def _targets(network, images: Tensor, layers: Sequence, describe: Callable[[Tensor], Tensor]) -> dict:
        """Layer to what describes the images, one after the other: a grid of them need not fit into memory at once."""
        single = [{k: describe(v) for k, v in network(image[None], list(layers)).items()} for image in images]
        return {layer: torch.cat([found[layer] for found in single]) for layer in single[0]}

    def parts(self, images: Tensor, offset: Tensor | None = None, index=slice(None)) -> dict[str, Tensor]:
        """Unweighted content, style and total variation (b,) of images (b, 3, H, W), where they have a weight."""
        parts, content = {}, self.on("content")
        shared = self.on("style") and self.masks is None and not self.patches
        layers = (self.content_layers if content else {}) | (self.style_layers if shared else {})
        found = self.features(images, list(layers)) if layers else {}
        if content:
            parts["content"] = self._content(found, index)
        if self.on("style"):
            parts["style"] = self._style(images, found if shared else None, index)
        if self.on("tv"):
            parts["tv"] = total_variation(images)
        return parts

    def _content(self, found: dict, index) -> Tensor:
        distances = {
            layer: perceptual_loss({layer: full(found[layer])}, {layer: self.pick(target, index)})
            for layer, target in self.content_targets.items()
        }
        return self._mean(distances, self.content_layers, index)

    def _style(self, images: Tensor, found: dict | None, index) -> Tensor:
        """Sum over the styles of their share times their distance; a style is only compared where it has a share."""
        described = {} if found is None else {k: self.statistic.describe(found[k]) for k in self.style_layers}
        rows = torch.arange(max(len(images), index.stop or 0), device=images.device)[index]
        total = images.new_zeros(len(images))
        for number, targets in enumerate(self.style_targets):
            share = self.pick(self.style_weights[:, number].to(images), index).expand(len(images))
            here = share.nonzero()[:, 0]
            if not len(here):
                continue
            ours = {k: v[here] for k, v in described.items()} or self._region(images[here], number, rows[here])
            distances = {k: self.statistic.distance(v, self.pick(targets[k], rows[here])) for k, v in ours.items()}
            value = share[here] * self._mean(distances, self.style_layers, rows[here])
            total = total.index_add(0, here, value)
        return total

    def _region(self, images: Tensor, number: int, index: Tensor) -> dict:
        """Statistics of one style's region; the photo surrounds it, so that nothing leaks in or out."""
        mask = None
        if self.masks is not None:
            mask = self.masks[number : number + 1].to(images)
            photos = self.pick(self.contents, index).to(images)
            images = photos + (images - photos) * mask
        found = self.networks[number](images, list(self.style_layers))
        return {k: self.statistic.describe(v, mask) for k, v in found.items()}

    def _mean(self, distances: dict, weights: dict, index) -> Tensor:
        """Mean over layers with their weights, per sample."""
        given = {k: self.pick(torch.as_tensor(weights[k]).to(v).reshape(-1), index) for k, v in distances.items()}
        return sum(given[layer] * value for layer, value in distances.items()) / sum(given.values())


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down plus across: (B, C, H, W) to (B,)."""
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.square().mean((1, 2, 3)) + across.square().mean((1, 2, 3))


class _Weights(WeightedSum):
    error = StyleError


def check_weights(weights: Mapping[str, float | Tensor]) -> None:
    """Raise StyleError unless the weights are finite, not negative, and content or style has one."""
    _Weights(dict(weights), anchors=("content", "style"))


def layer_weights(layers: Layers) -> dict[str | int, float | Tensor]:
    """Layer to weight. Raises StyleError where there is no layer, or none with a weight."""
    if isinstance(layers, str | int):
        layers = [layers]
    table = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
    if not table:
        raise StyleError("at least one layer is needed; name layers such as conv4_2, or their numbers.")
    if not bool((sum(torch.as_tensor(w, dtype=torch.float32) for w in table.values()) > 0).all()):
        raise StyleError("the weights of all layers are 0; give at least one layer a weight.")
    return table


def _shares(weights, styles: int) -> Tensor:
    """Shares of the styles, (B or 1, S), rows that add up to 1."""
    if not styles:
        return torch.zeros(1, 0)
    given = torch.ones(styles) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
    given = given if given.ndim == 2 else given[None]
    if given.shape[1] != styles:
        raise StyleError(f"{styles} styles need {styles} weights; got {given.shape[1]}.")
    if not (given.isfinite() & (given >= 0)).all() or not (given.sum(1) > 0).all():
        raise StyleError(f"the weights of the styles must be at least 0 and not all 0; got {given.tolist()}.")
    return given / given.sum(1, keepdim=True)
