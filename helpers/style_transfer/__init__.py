"""Style transfer by optimisation of pixels (Gatys et al., CVPR 2016): reconstruction, texture and both together."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from helpers import colours
from helpers.fast.features import FastFeatures, GraphedFeatures
from helpers.features import Features, fast_copy, fast_dtype
from helpers.images import resize
from helpers.losses import Loss, perceptual_loss
from helpers.masks import as_mask
from helpers.optimizers import Optimization
from helpers.style_transfer.patch_bank import OCTAVES, PatchBank, octaves_of
from helpers.style_transfer.statistics import full, statistic_of

CONTENT_LAYERS = ("conv4_2",)
STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
STYLE_WEIGHT = 10.0  # with content 1; see the sweep of lesson 05
PATCH_WEIGHT = 0.3  # of a patch bank: its moments hold more than a Gram matrix, at 30 it copies whole objects
COLOURS = ("style", "luminance", "linear", "histogram")
RATES = {"adam": 0.03, "lbfgs": 1.0, "lbfgs-batch": 0.1}
BASE = 128  # pixels, short side of the coarsest scale of a pyramid

Layers = str | int | Sequence[str | int] | Mapping[str | int, float | Tensor]


class StyleError(ValueError):
    """A style transfer that cannot start, or a state that is not its own."""


# --- the loss --------------------------------------------------------------------------------------------------------


class StyleCriterion:
    """Weighted sum of content, style and total variation, one value per sample; targets are computed once, here.

    Content is the relative squared distance of feature maps, style that of a statistic of feature maps; both are
    weighted means over their layers, so that the weights mean the same for any layers, size and network.

    Args:
        features: network of ``load_features``; None where every style is a patch bank and content has weight 0.
        contents: (B or 1, 3, H, W) in [0, 1].
        styles: pictures (1 or B, 3, h, w) in [0, 1] of any size; a picture of length B differs from sample to sample.
        content_layers, style_layers: numbers or names, or a dict of layer to weight, a number or (B,).
        content_weight, style_weight, tv_weight: numbers or (B,). The style's is STYLE_WEIGHT, PATCH_WEIGHT for patches.
        style_weights: (S,) or (B, S), how much of each of the S styles; divided by their sum. Equal by default.
        masks: (S, 1, H, W) in [0, 1], where each style goes; None is everywhere.
        statistic: name in STATISTICS, or "patches": a bank of each style's own patches in the place of the network, on
            as many of four octaves as have at least 24 pixels a side.

    Raises:
        StyleError: for weights that are negative or all 0, no style or layer, or lengths that do not agree.
        FeatureError: for an unknown layer or pictures that are too small for one.
    """

    def __init__(
        self,
        features,
        contents: Tensor,
        styles: Sequence[Tensor] = (),
        *,
        content_layers: Layers = CONTENT_LAYERS,
        style_layers: Layers | None = None,
        content_weight: float | Tensor = 1.0,
        style_weight: float | Tensor | None = None,
        tv_weight: float | Tensor = 0.0,
        style_weights: Tensor | Sequence[float] | None = None,
        masks: Tensor | None = None,
        statistic: str = "gram",
    ):
        self.features, self.contents, self.masks = features, contents, masks
        self.patches = statistic == "patches"
        if style_weight is None:
            style_weight = PATCH_WEIGHT if self.patches else STYLE_WEIGHT
        self.weights = {"content": content_weight, "style": style_weight, "tv": tv_weight}
        if not styles:
            self.weights["style"] = 0.0
        check_weights(self.weights)
        octaves = OCTAVES
        if style_layers is None and self.patches:
            octaves = octaves_of(min(picture.shape[-2:]) for picture in (contents, *styles))
        if style_layers is None:
            style_layers = PatchBank.LAYERS[:octaves] if self.patches else STYLE_LAYERS
        self.content_layers, self.style_layers = _layer_weights(content_layers), _layer_weights(style_layers)
        self.statistic = statistic_of("moments" if self.patches else statistic)
        self.style_weights = _style_weights(style_weights, len(styles))
        self.networks = [PatchBank(style[:1], octaves=octaves) if self.patches else features for style in styles]
        self._check_features()
        with torch.no_grad():
            self.content_targets = self._content_targets() if self._on("content") else {}
            self.style_targets = [
                self._style_targets(network, style) for network, style in zip(self.networks, styles, strict=True)
            ]

    def _check_features(self) -> None:
        if self.features is None and (self._on("content") or not self.patches):
            raise StyleError("content and style need a feature network; pass features=load_features().")

    def _on(self, name: str) -> bool:
        return bool(torch.as_tensor(self.weights[name]).gt(0).any())

    def _content_targets(self) -> dict:
        single = [self.features(content[None], list(self.content_layers)) for content in self.contents]
        return {layer: full(torch.cat([found[layer] for found in single])) for layer in single[0]}

    def _style_targets(self, network, style: Tensor) -> dict:
        single = []
        for picture in style:
            found = network(picture[None], list(self.style_layers))
            single.append({k: self.statistic.prepare(self.statistic.describe(v)) for k, v in found.items()})
        return {layer: torch.cat([found[layer] for found in single]) for layer in single[0]}

    def __call__(self, images: Tensor, index=slice(None)) -> Loss:
        """Loss of images (b, 3, H, W) against the targets ``index`` of the batch."""
        parts, found = {}, {}
        shared = self._on("style") and self.masks is None and not self.patches
        if shared or self._on("content"):
            layers = [*(self.content_layers if self._on("content") else ()), *(self.style_layers if shared else ())]
            found = self.features(images, list(dict.fromkeys(layers)))
        if self._on("content"):
            parts["content"] = self._content(found, index)
        if self._on("style"):
            parts["style"] = self._style(images, found if shared else None, index)
        if self._on("tv"):
            parts["tv"] = total_variation(images)
        if not parts:
            raise StyleError("every loss has weight 0, so there is nothing to minimise; set content or style.")
        total = sum(_at(self.weights[name], value, index) * value for name, value in parts.items())
        return Loss(total, parts)

    def _content(self, found: dict, index) -> Tensor:
        distances = {
            layer: perceptual_loss({layer: full(found[layer])}, {layer: _rows(target, index)})
            for layer, target in self.content_targets.items()
        }
        return _mean(distances, self.content_layers, index)

    def _style(self, images: Tensor, found: dict | None, index) -> Tensor:
        """Sum over the styles of their share times their distance; a style is compared where it has a share only."""
        described = None if found is None else {k: self.statistic.describe(found[k]) for k in self.style_layers}
        rows = torch.arange(self._length(images, index), device=images.device)[index]
        total = images.new_zeros(len(images))
        for number, targets in enumerate(self.style_targets):
            share = _at(self.style_weights[:, number], images, index).expand(len(images))
            here = share.nonzero()[:, 0]
            if not len(here):
                continue
            if described is None:
                ours = self._region(images, number, here, rows)
            else:  # without a copy where all samples have a share
                ours = {k: v if len(here) == len(v) else v[here] for k, v in described.items()}
            distances = {
                layer: self.statistic.distance(ours[layer], _rows(targets[layer], rows[here]))
                for layer in self.style_layers
            }
            value = share[here] * _mean(distances, self.style_layers, rows[here])
            total = total.index_add(0, here, value)
        return total

    def _length(self, images: Tensor, index) -> int:
        """Length of the whole batch, of which ``images`` are the samples ``index``."""
        return max(len(images), index.stop or 0)

    def _region(self, images: Tensor, number: int, here: Tensor, rows: Tensor) -> dict:
        """Statistics of one style's region; around it stands the photo, so that nothing leaks in or out."""
        network, mask, images = self.networks[number], None, images[here]
        if self.masks is not None:
            mask = self.masks[number : number + 1].to(images)
            photos = _rows(self.contents, rows[here]).to(images)
            images = photos + (images - photos) * mask
        found = network(images, list(self.style_layers))
        return {k: self.statistic.describe(v, mask) for k, v in found.items()}


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down plus across: (B, C, H, W) to (B,)."""
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.square().mean((1, 2, 3)) + across.square().mean((1, 2, 3))


def check_weights(weights: Mapping[str, float | Tensor]) -> None:
    """Raise StyleError unless the weights are finite, not negative, and content or style has one."""
    values = {name: torch.as_tensor(weight, dtype=torch.float32) for name, weight in weights.items()}
    bad = [name for name, value in values.items() if not (value.isfinite() & (value >= 0)).all()]
    if bad:
        raise StyleError(f"the weight of {', '.join(bad)} must be a finite number of at least 0.")
    if not bool((values["content"] + values["style"] > 0).all()):
        raise StyleError("content and style both have weight 0, so nothing ties the result to a picture; raise one.")


def _layer_weights(layers: Layers) -> dict[str | int, float | Tensor]:
    if isinstance(layers, str | int):
        layers = [layers]
    table = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
    if not table:
        raise StyleError("at least one layer is needed; name layers such as conv4_2, or their numbers.")
    if not bool((sum(torch.as_tensor(w, dtype=torch.float32) for w in table.values()) > 0).all()):
        raise StyleError("the weights of all layers are 0; give at least one layer a weight.")
    return table


def _style_weights(weights, styles: int) -> Tensor:
    """(B or 1, S), rows that add up to 1."""
    if not styles:
        return torch.zeros(1, 0)
    given = torch.ones(styles) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
    given = given if given.ndim == 2 else given[None]
    if given.shape[1] != styles:
        raise StyleError(f"{styles} styles need {styles} weights, but {given.shape[1]} came.")
    if not (given.isfinite() & (given >= 0)).all() or not (given.sum(1) > 0).all():
        raise StyleError(f"the weights of the styles must be at least 0 and not all 0, but {given.tolist()} came.")
    return given / given.sum(1, keepdim=True)


def _rows(values: Tensor, index) -> Tensor:
    return values[index] if len(values) > 1 else values


def _at(weight: float | Tensor, like: Tensor, index) -> Tensor:
    weight = torch.as_tensor(weight, dtype=like.dtype, device=like.device)
    return weight[index] if weight.ndim and len(weight) > 1 else weight


def _mean(distances: dict, weights: dict, index) -> Tensor:
    """Mean over layers with their weights, per sample."""
    given = {layer: _at(weights[layer], value, index) for layer, value in distances.items()}
    return sum(given[layer] * value for layer, value in distances.items()) / sum(given.values())


# --- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class StyleStep:
    """One step: its number (1 is the first), the losses (B,) before its update, scale and images."""

    number: int
    total: Tensor
    parts: dict[str, Tensor]
    lr: float
    transfer: StyleTransfer

    def images(self) -> Tensor:
        """Current images (B, 3, h, w) in [0, 1], at the size of the current scale."""
        return self.transfer.images()


@dataclass
class StyleResult:
    """What a style transfer found.

    Attributes:
        images: (B, 3, H, W) in [0, 1], the best of each sample.
        total: (B,) their loss at the last scale.
        parts: its unweighted parts, each (B,).
        history: name to (steps, B), the losses along the way, scale after scale.
        seconds: wall time of the whole batch.
        steps: steps taken.
        frozen: (B,) bool, which stopped at their best, or at their start, because their loss was not finite.
    """

    images: Tensor
    total: Tensor
    parts: dict[str, Tensor]
    history: dict[str, Tensor]
    seconds: float
    steps: int
    frozen: Tensor


@dataclass
class StyleTransfer:
    """Optimise B pictures as one batch; iterate for the steps, leave the loop to stop, then ask for ``result()``.

    Args:
        features: network of ``load_features``.
        contents: (B or 1, 3, H, W) in [0, 1]; they give the size too.
        styles: pictures (1, 3, h, w) in [0, 1] of any size; they are resized to the short side of the contents.
        content_layers, style_layers, content_weight, style_weight, tv_weight, style_weights, statistic: see
            StyleCriterion. Whatever has a length of B there makes a batch of B: a table of settings, a grid.
        masks: (S, 1, H, W), the region of each style; where all are 0 the photo stays as it is.
        colour: "style" takes the style's colours; the photo's are kept by "luminance" (only the luminance is
            transferred), "linear" or "histogram" (the style is first given the photo's colours).
        style_scale: size of the style relative to the result: 2 makes strokes twice as wide.
        init: "content", "noise", or a picture (1 or B, 3, H, W) to start from.
        pyramid: short side in pixels of the coarsest scale; each next one starts from the scale before, and they
            at most double. None is a single scale.
        steps: at the coarsest scale; every finer one takes half of them.
        optimizer: "lbfgs-batch", "adam" or "lbfgs" (see Optimization); lr: its rate, by default from RATES.
        precision: "auto" (see fast_dtype), "bfloat16" or "float32", of the convolutions. float64 networks stay so.
        seed: of the noise; one number, or one per sample.
        graphs: on a CUDA device, run the network as CUDA graphs, which saves the launches of small kernels.

    Raises:
        StyleError: for settings that do not fit; FeatureError: for layers that there are not, or small pictures;
        OptimizationError: when the losses of all pictures became NaN; ``result()`` still gives the best so far.
    """

    features: Features | None
    contents: Tensor
    styles: Sequence[Tensor] = ()
    content_layers: Layers = CONTENT_LAYERS
    style_layers: Layers | None = None
    content_weight: float | Tensor = 1.0
    style_weight: float | Tensor | None = None
    tv_weight: float | Tensor = 0.0
    style_weights: Tensor | Sequence[float] | None = None
    masks: Tensor | None = None
    statistic: str = "gram"
    colour: str = "style"
    style_scale: float = 1.0
    init: str | Tensor = "content"
    pyramid: int | None = None
    steps: int = 100
    optimizer: str = "lbfgs-batch"
    lr: float | None = None
    precision: str = "auto"
    seed: int | Sequence[int] = 0
    graphs: bool = False
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self):
        started = time.perf_counter()
        self._check()
        self.network = _prepared(self.features, self.precision, self.contents.device, self.graphs)
        self.batch = self._batch()
        self.sizes = _scales(tuple(self.contents.shape[-2:]), self.pyramid)
        self.photos, self.pictures = self.contents, list(self.styles)
        if self.colour != "style":
            self._keep_colours()
        self.scale, self.past = 0, []
        self.frozen = torch.zeros(self.batch, dtype=torch.bool, device=self.contents.device)
        self._begin(0, self._start())
        self.seconds = time.perf_counter() - started

    def _check(self) -> None:
        self.styles = [self.styles] if isinstance(self.styles, Tensor) else list(self.styles)
        for name, picture in [("contents", self.contents), *(("styles", style) for style in self.styles)]:
            _check_pictures(name, picture)
        if self.colour not in COLOURS:
            raise StyleError(f"colour must be one of {', '.join(COLOURS)}, but {self.colour!r} came.")
        if not (math.isfinite(self.style_scale) and self.style_scale > 0):
            raise StyleError(f"the style's scale must be a positive number, but {self.style_scale} came.")
        if self.masks is not None:
            self.masks = as_mask(self.masks, tuple(self.contents.shape[-2:]))
            if len(self.masks) != len(self.styles):
                raise StyleError(f"{len(self.styles)} styles need as many masks, but {len(self.masks)} came.")

    def _batch(self) -> int:
        weights = {"content": self.content_weight, "style": self.style_weight, "tv": self.tv_weight}
        for layers in (self.content_layers, self.style_layers):
            weights |= {f"layer {k}": w for k, w in layers.items()} if isinstance(layers, Mapping) else {}
        lengths = {"contents": len(self.contents)}
        tables = {k: w for k, w in weights.items() if isinstance(w, Tensor) and w.ndim}
        lengths |= {f"weights of {k}": len(w) for k, w in tables.items()}
        mixture = None if self.style_weights is None else torch.as_tensor(self.style_weights)
        lengths |= {"weights of styles": len(mixture)} if mixture is not None and mixture.ndim == 2 else {}
        lengths |= {"starts": len(self.init)} if isinstance(self.init, Tensor) else {}
        lengths |= {} if isinstance(self.seed, int) else {"seeds": len(self.seed)}
        batch = max(lengths.values())
        if any(length not in (1, batch) for length in lengths.values()):
            given = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise StyleError(f"all batches must have the same length or 1, but {given} came.")
        return batch

    def _keep_colours(self) -> None:
        """Photos and styles as the optimisation sees them; each style is fitted to each photo."""
        if self.colour == "luminance":
            self.photos = colours.grey(self.contents)
        match = {
            "luminance": colours.match_luminance,
            "linear": colours.match_linear,
            "histogram": colours.match_histogram,
        }[self.colour]
        self.pictures = [torch.cat([match(style, photo[None]) for photo in self.contents]) for style in self.styles]

    def _start(self) -> Tensor:
        size = self.sizes[0]
        if isinstance(self.init, Tensor):
            start = resize(self.init.to(self.contents), size)
        elif self.init == "content":
            start = resize(self.photos, size)
        elif self.init == "noise":
            seeds = [self.seed] if isinstance(self.seed, int) else self.seed
            start = torch.cat([_noise(size, seed) for seed in seeds]).to(self.contents)
            start = colours.grey(start) if self.colour == "luminance" else start
        else:
            raise StyleError(f'init must be "content", "noise" or a picture, but {self.init!r} came.')
        return start.detach().expand(self.batch, -1, -1, -1).clone(memory_format=torch.contiguous_format)

    def _begin(self, scale: int, start: Tensor) -> None:
        """Make the optimisation of a scale."""
        size, short = self.sizes[scale], min(self.sizes[scale])
        photos = resize(self.photos, size)
        styles = [_fitted(picture, round(self.style_scale * short)) for picture in self.pictures]
        self.criterion = StyleCriterion(
            self.network,
            photos,
            styles,
            content_layers=self.content_layers,
            style_layers=self.style_layers,
            content_weight=self.content_weight,
            style_weight=self.style_weight,
            tv_weight=self.tv_weight,
            style_weights=self.style_weights,
            masks=None if self.masks is None else resize(self.masks, size),
            statistic=self.statistic,
        )
        self.shown = None if self.criterion.masks is None else self.criterion.masks.sum(0, keepdim=True).clamp(0, 1)
        steps = self.steps if scale == 0 else max(1, self.steps // 2)
        lr = RATES.get(self.optimizer, 1.0) if self.lr is None else self.lr
        self.run = Optimization([start], self._loss, steps=steps, lr=lr, optimizer=self.optimizer)
        self.scale = scale

    def _loss(self, parameters: list[Tensor], index: slice) -> Loss:
        return self.criterion(self._kept(parameters[0], index), index)

    def _kept(self, images: Tensor, index=slice(None)) -> Tensor:
        """Images with the photo where no style goes."""
        if self.shown is None:
            return images
        photos = _rows(self.criterion.contents, index)
        return photos + (images - photos) * self.shown.to(images)

    # --- run --------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.steps + (len(self.sizes) - 1) * max(1, self.steps // 2)

    @property
    def number(self) -> int:
        """Steps taken."""
        return sum(len(history["total"]) for history in self.past) + self.run.number

    def __iter__(self) -> Iterator[StyleStep]:
        """All steps; a loop that was left is taken up where it stopped."""
        while True:
            started = time.perf_counter()
            for step in self.run:
                with torch.no_grad():
                    self.run.parameters[0].clamp_(0, 1)
                self.seconds += time.perf_counter() - started
                yield StyleStep(self.number, step.total, step.parts, step.lr, self)
                started = time.perf_counter()
            if self.scale + 1 == len(self.sizes):
                self.seconds += time.perf_counter() - started
                return
            self.past.append(self.run.history)
            self.frozen = self.frozen | self.run.frozen
            start = resize(self.run.best[0], self.sizes[self.scale + 1]).contiguous()
            self._begin(self.scale + 1, start)
            self.seconds += time.perf_counter() - started

    def forget_best(self) -> None:
        """Start the best-so-far anew; call it after a change of ``criterion.weights`` under way."""
        self.run.forget_best()

    @torch.no_grad()
    def images(self, parameters: Tensor | None = None) -> Tensor:
        """Images (B, 3, h, w) in [0, 1] of the current state, or of other parameters, in the colours asked for."""
        images = self._kept(self.run.parameters[0] if parameters is None else parameters).clamp(0, 1)
        if self.colour == "luminance":
            photos = resize(self.contents, tuple(images.shape[-2:])).expand_as(images)
            images = colours.with_chroma(images, photos)
        return images.detach().clone()

    @torch.no_grad()
    def result(self) -> StyleResult:
        """The best images so far, at full size, and their losses."""
        if not self.number:
            raise StyleError("the transfer has not taken a step yet; iterate over it first.")
        loss = self._loss(self.run.best, slice(None))
        histories = [*self.past, self.run.history]
        return StyleResult(
            images=resize(self.images(self.run.best[0]), self.sizes[-1]),
            total=loss.total,
            parts=loss.parts,
            history={name: torch.stack([v for h in histories for v in h.get(name, [])]) for name in self.run.history},
            seconds=self.seconds,
            steps=self.number,
            frozen=self.frozen | self.run.frozen,
        )

    # --- interrupt and resume ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Tensors and numbers from which the same settings go on exactly; ``torch.save`` takes it."""
        past = [{name: torch.stack(values) for name, values in history.items()} for history in self.past]
        return {"scale": self.scale, "sizes": self.sizes, "run": self.run.state_dict(), "past": past} | {
            "seconds": self.seconds,
            "frozen": self.frozen,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where ``state_dict`` was taken. Raises StyleError for a state of other sizes."""
        sizes = [tuple(size) for size in state["sizes"]]
        shape = (self.batch, 3, *self.sizes[min(state["scale"], len(self.sizes) - 1)])
        if sizes != self.sizes or tuple(state["run"]["parameters"][0].shape) != shape:
            raise StyleError(f"the saved state is of sizes {sizes}, this transfer of {self.sizes}; use its settings.")
        self.past = [{name: list(values) for name, values in history.items()} for history in state["past"]]
        self._begin(state["scale"], torch.zeros(shape).to(self.contents))
        self.run.load_state_dict(state["run"])
        self.seconds = state["seconds"]
        self.frozen = state["frozen"].to(self.contents.device)


def stylize(features, contents: Tensor, styles: Sequence[Tensor] = (), **options) -> StyleResult:
    """Run a style transfer and return its result; the options are those of ``StyleTransfer``."""
    transfer = StyleTransfer(features, contents, styles, **options)
    for _ in transfer:
        pass
    return transfer.result()


def _prepared(features, precision: str, device: torch.device, graphs: bool = False):
    """The network in the precision asked for; what is no VGG (a tiny network of a test) is taken as it is."""
    dtypes = {"auto": fast_dtype(device), "bfloat16": torch.bfloat16, "float32": torch.float32}
    if precision not in dtypes:
        raise StyleError(f"precision must be one of {', '.join(dtypes)}, but {precision!r} came.")
    if not isinstance(features, Features) or features.convs[0].weight.dtype == torch.float64:
        return features
    if device.type == "cpu":
        return FastFeatures(features, dtypes[precision])
    copied = fast_copy(features, dtypes[precision])
    return GraphedFeatures(copied) if graphs and device.type == "cuda" else copied


def _noise(size: tuple[int, int], seed: int) -> Tensor:
    """Grey with normal noise, (1, 3, H, W) in [0, 1]."""
    random = torch.Generator().manual_seed(seed)
    return (0.5 + 0.15 * torch.randn(1, 3, *size, generator=random)).clamp(0, 1)


def _fitted(picture: Tensor, short: int) -> Tensor:
    """A picture resized to that short side."""
    height, width = picture.shape[-2:]
    factor = max(1, short) / min(height, width)
    return resize(picture, (max(1, round(height * factor)), max(1, round(width * factor))))


def _scales(size: tuple[int, int], base: int | None) -> list[tuple[int, int]]:
    """Sizes from a short side of ``base`` to ``size`` by equal factors of at most 2."""
    short = min(size)
    if base is not None and base < 1:
        raise StyleError(f"the pyramid's coarsest scale must have at least 1 pixel, but {base} came.")
    if base is None or base >= short:
        return [size]
    count = math.ceil(math.log2(short / base))
    factors = [(base / short) ** (1 - number / count) for number in range(count)]
    return [(round(size[0] * factor), round(size[1] * factor)) for factor in factors] + [size]


def _check_pictures(name: str, pictures: Tensor) -> None:
    if not isinstance(pictures, Tensor) or pictures.ndim != 4 or pictures.shape[1] != 3 or 0 in pictures.shape:
        came = tuple(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
        raise StyleError(f"{name} must be (B, 3, H, W), but {came} came; read them with read_image().")
    if not pictures.isfinite().all() or pictures.min() < 0 or pictures.max() > 1:
        raise StyleError(f"{name} must be finite and in [0, 1]; read them with read_image().")
