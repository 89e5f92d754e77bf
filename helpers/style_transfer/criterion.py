"""The loss of style transfer (Gatys et al., CVPR 2016) and all its options."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from helpers.losses import WeightedSum, perceptual_loss
from helpers.search import option
from helpers.style_transfer.patch_bank import PatchBank, octaves_of
from helpers.style_transfer.statistics import STATISTICS, StyleError, full, statistic_of

CONTENT_LAYERS = ("conv3_3", "conv4_2")
STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
STYLE_WEIGHT = 10.0  # with content 1; see the sweep of lesson 05
SMOOTHNESS = 3.0  # total variation, of the style's weight: grain of single pixels goes, strokes stay
PATCH_WEIGHT = 0.3  # a patch bank knows its image better than a network does: at 30 it copies whole objects
COARSE = 4.0  # content weighs as much more at coarse scales: there a style would draw shapes of its own
PYRAMID = 96  # pixels: at this size the network's view spans whole strokes and whole subjects
COLOURS = ("style", "luminance", "linear", "histogram")

Layers = str | int | Sequence[str | int] | Mapping[str | int, float | Tensor]


@dataclass(frozen=True)
class StyleOptions:
    """What a style transfer can be set to. Whatever is a tensor of length B makes a batch of B: a table, a grid.

    Layers are names, numbers, or a dict of layer to weight, a number or (B,); None is STYLE_LAYERS, or all octaves of a
    patch bank. style_weights: (S,) or (B, S), shares of the S styles, equal by default. init may be an image
    (1 or B, 3, H, W), and seed one for each sample.
    """

    content_layers: Layers = CONTENT_LAYERS
    style_layers: Layers | None = None
    style_weights: Tensor | Sequence[float] | None = None
    content_weight: float | Tensor = option(1.0, "Weight of the content.", min=0)
    style_weight: float | Tensor | None = option(None, "Weight of the style; 10, and 0.3 for patches.", min=0)
    tv_weight: float | Tensor | None = option(None, "Of total variation; 3 times the style's, 0 for patches.", min=0)
    statistic: str = option("moments", f"{', '.join(STATISTICS)}, or patches of the style instead of a network.")
    colour: str = option("style", "style, or to keep the photo's: luminance, linear or histogram.")
    style_scale: float = option(1.0, "Size of the style relative to the result, if it has the pixels; 2: wide strokes.")
    init: str | Tensor = option("content", "Start: content or noise.")
    pyramid: int | None = option(PYRAMID, "Short side of the coarsest scale; each at most doubles the last.", min=1)
    steps: int = option(100, "Steps at the coarsest scale; every finer one takes half of them.", min=1)
    optimizer: str = option("lbfgs", "lbfgs or adam.")
    lr: float | None = option(None, "Rate of the optimizer, by default its own.")
    precision: str = option("auto", "auto (bfloat16 where the processor multiplies it), bfloat16 or float32.")
    seed: int | Sequence[int] = option(0, "Seed of the noise.")

    @property
    def patches(self) -> bool:
        """Whether the style is compared by its own patches."""
        return self.statistic == "patches"

    @property
    def weights(self) -> dict[str, float | Tensor]:
        """Weights of the criterion by the names of its losses."""
        style = (PATCH_WEIGHT if self.patches else STYLE_WEIGHT) if self.style_weight is None else self.style_weight
        tv = (0.0 if self.patches else SMOOTHNESS * style) if self.tv_weight is None else self.tv_weight
        return {"content": self.content_weight, "style": style, "tv": tv}

    @property
    def lengths(self) -> dict[str, int]:
        """Lengths of all that can differ from sample to sample."""
        tables = {f"weights of {name}": weight for name, weight in self.weights.items()} | {"starts": self.init}
        for layers in (self.content_layers, self.style_layers):
            tables |= {f"weights of {k}": w for k, w in layers.items()} if isinstance(layers, Mapping) else {}
        if self.style_weights is not None:
            tables["weights of styles"] = torch.as_tensor(self.style_weights)[..., :1].squeeze(-1)
        tables["seeds"] = torch.as_tensor(self.seed)
        return {name: len(table) for name, table in tables.items() if isinstance(table, Tensor) and table.ndim}


class StyleCriterion(WeightedSum):
    """Weighted sum of content, style and total variation, one value per sample; targets are computed once, here.

    Content is the relative squared distance of feature maps, style that of a statistic of feature maps; both are
    weighted means over their layers. ``features`` may be None for patch banks alone, without content; else StyleError.
    """

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
        self.features, self.contents, self.patches = features, contents, options.patches
        self.masks = None if masks is None else masks.to(contents)
        self.statistic = statistic_of("moments" if self.patches else options.statistic)
        self.shares = _shares(options.style_weights, len(styles)).cpu()  # to look at without waiting for a card
        self.style_weights = self.shares.to(contents)
        self.networks, layers = [features] * len(styles), options.style_layers
        if self.patches:
            octaves = octaves_of(min(image.shape[-2:]) for image in (contents, *styles))
            self.networks = [PatchBank(style[:1], octaves=octaves) for style in styles]
        if layers is None:
            layers = self.networks[0].layers if self.patches and styles else STYLE_LAYERS
        self.content_layers, self.style_layers = layer_weights(options.content_layers), layer_weights(layers)
        if features is None and (self.on("content") or not self.patches):
            raise StyleError("content and style need a feature network; pass features=load_features().")
        self.content_targets = _each(features, contents, self.content_layers, full) if self.on("content") else {}
        pairs, describe = zip(self.networks, styles, strict=True), self.statistic.describe
        self.style_targets = [_each(network, style, self.style_layers, describe) for network, style in pairs]

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
        rows, total = torch.arange(max(len(images), index.stop or 0))[index], images.new_zeros(len(images))
        for number, targets in enumerate(self.style_targets):
            on = self.pick(self.shares[:, number], index).expand(len(images)) > 0
            if not on.any():
                continue
            every = bool(on.all())
            here, at = (slice(None), index) if every else (x.to(images.device) for x in (on.nonzero()[:, 0], rows[on]))
            ours = {k: v[here] for k, v in described.items()} or self._region(images[here], number, at)
            distances = {k: self.statistic.distance(v, self.pick(targets[k], at)) for k, v in ours.items()}
            share = self.pick(self.style_weights[:, number], index).expand(len(images))
            total[here] += share[here] * self._mean(distances, self.style_layers, at)
        return total

    def _region(self, images: Tensor, number: int, index: Tensor) -> dict:
        """Statistics of one style's region; the photo surrounds it, so that nothing leaks in or out."""
        mask = None
        if self.masks is not None:
            mask, photos = self.masks[number : number + 1], self.pick(self.contents, index)
            images = photos + (images - photos) * mask
        found = self.networks[number](images, list(self.style_layers))
        return {k: self.statistic.describe(v, mask) for k, v in found.items()}

    def _mean(self, distances: dict, weights: dict, index) -> Tensor:
        """Mean over layers with their weights, per sample."""
        given = {k: weights[k] for k in distances}
        tables = {k: weight.to(distances[k]).reshape(-1) for k, weight in given.items() if isinstance(weight, Tensor)}
        given |= {k: self.pick(table, index) for k, table in tables.items()}
        return sum(given[layer] * value for layer, value in distances.items()) / sum(given.values())


@torch.no_grad()
def _each(network, images: Tensor, layers: Sequence, describe: Callable[[Tensor], Tensor]) -> dict:
    """Layer to what describes the images, one after the other: a grid of them need not fit into memory at once."""
    single = [{k: describe(v) for k, v in network(image[None], list(layers)).items()} for image in images]
    return {layer: torch.cat([found[layer] for found in single]) for layer in single[0]}


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down plus across: (B, C, H, W) to (B,)."""
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.square().mean((1, 2, 3)) + across.square().mean((1, 2, 3))


def check_weights(weights: Mapping[str, float | Tensor]) -> None:
    """Raise ValueError unless the weights are finite, not negative, and content or style has one."""
    WeightedSum(dict(weights), anchors=("content", "style"))


def layer_weights(layers: Layers) -> dict[str | int, float | Tensor]:
    """Layer to weight. Raises StyleError where there is no layer, or none with a weight."""
    layers = [layers] if isinstance(layers, str | int) else layers
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
