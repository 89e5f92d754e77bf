"""The search of style transfer: pixels, scale after scale, towards a StyleCriterion."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from helpers import colours
from helpers.features import Features, fast_copy
from helpers.images import in_range, resize, scaled
from helpers.losses import Loss
from helpers.masks import as_mask
from helpers.optimizers import Optimization, Step
from helpers.search import Chain, Phase, Result
from helpers.style_transfer.criterion import COARSE, COLOURS, StyleCriterion, StyleError, StyleOptions

PRECISIONS = ("auto", "float32", "bfloat16")
RATES = {"adam": 0.03, "lbfgs": 0.1}


@dataclass(frozen=True)
class Scale(Phase):
    """A phase at one size (height, width) of the images."""

    size: tuple[int, int] = (0, 0)


class StyleTransfer(Chain):
    """Optimise B images as one batch; iterate for the steps, leave the loop to stop, then ask for ``result()``.

    contents: (B or 1, 3, H, W) in [0, 1]; the result has their size. styles: images (1, 3, h, w) in [0, 1] of any size.
    masks: (S, 1, H, W), the region of each style; where all are 0 the photo stays. Raises StyleError for misfits.
    """

    def __init__(
        self,
        features: Features | None,
        contents: Tensor,
        styles: Sequence[Tensor] = (),
        masks: Tensor | None = None,
        options: StyleOptions | None = None,
        **changes,
    ):
        started = time.perf_counter()
        self.options = options = replace(options or StyleOptions(), **changes)
        self.contents, self.styles = contents, [styles] if isinstance(styles, Tensor) else list(styles)
        self.masks = None if masks is None else as_mask(masks, tuple(contents.shape[-2:])).to(contents)
        self.batch = self._check()
        if options.precision not in PRECISIONS:
            raise StyleError(f"precision must be one of {', '.join(PRECISIONS)}; got {options.precision!r}.")
        known = isinstance(features, Features) and features.convs[0].weight.dtype != torch.float64
        self.features = fast_copy(features, options.precision) if known else features
        sizes = scales(tuple(contents.shape[-2:]), options.pyramid)
        self.phases = [Scale(share=max(1, options.steps // (2 if at else 1)), size=s) for at, s in enumerate(sizes)]
        self.steps = sum(phase.share for phase in self.phases)
        # what the search sees: each style is fitted to the colours of each photo
        self.photos, self.shown_styles = contents, self.styles
        if options.colour == "luminance":
            self.photos = colours.grey(contents)
        if options.colour != "style":
            match = getattr(colours, f"match_{options.colour}")
            self.shown_styles = [torch.cat([match(style, photo[None]) for photo in contents]) for style in self.styles]
        self.prepared = time.perf_counter() - started
        self._open()

    def _check(self) -> int:
        """The size of the batch. Raises StyleError for what does not fit."""
        options, count = self.options, len(self.styles)
        for name, images in [("contents", self.contents), *(("styles", style) for style in self.styles)]:
            if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
                got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
                raise StyleError(f"{name} must be (B, 3, H, W); got {got}. Read them with read_image().")
            if not in_range(images):
                raise StyleError(f"{name} must be finite and in [0, 1]; read them with read_image().")
        if options.colour not in COLOURS:
            raise StyleError(f"colour must be one of {', '.join(COLOURS)}; got {options.colour!r}.")
        if not (math.isfinite(options.style_scale) and options.style_scale > 0):
            raise StyleError(f"the style's scale must be a positive number; got {options.style_scale}.")
        if self.masks is not None and len(self.masks) != count:
            raise StyleError(f"{count} styles need as many masks; got {len(self.masks)}.")
        lengths = {"contents": len(self.contents)} | options.lengths
        batch = max(lengths.values())
        if any(length not in (1, batch) for length in lengths.values()):
            given = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise StyleError(f"all batches must have the same length or 1; got {given}.")
        return batch

    def _start(self, size: tuple[int, int]) -> Tensor:
        init, seed = self.options.init, self.options.seed
        if isinstance(init, Tensor):
            start = resize(init.to(self.contents), size)
        elif init == "content":
            start = resize(self.photos, size)
        elif init == "noise":
            randoms = [torch.Generator().manual_seed(n) for n in ([seed] if isinstance(seed, int) else seed)]
            noise = torch.cat([torch.randn(1, 3, *size, generator=random) for random in randoms])
            start = (0.5 + 0.15 * noise).clamp(0, 1).to(self.contents)
            start = colours.grey(start) if self.options.colour == "luminance" else start
        else:
            raise StyleError(f'init must be "content", "noise" or an image; got {init!r}.')
        return start.detach().expand(self.batch, -1, -1, -1).clone(memory_format=torch.contiguous_format)

    def _begin(self, phase: Scale, steps: int) -> Optimization:
        size, short = phase.size, min(phase.size)
        start = resize(self.runs[-1].best[0], size).contiguous() if self.runs else self._start(size)
        sides, wide = [min(style.shape[-2:]) for style in self.shown_styles], self.options.style_scale * short
        styles = [scaled(s, min(wide, max(short, n)) / n) for s, n in zip(self.shown_styles, sides, strict=True)]
        masks = None if self.masks is None else resize(self.masks, size)
        self.shown = None if masks is None else masks.sum(0, keepdim=True).clamp(0, 1)
        last = phase == self.phases[-1] or self.options.patches
        content = self.options.content_weight * (1.0 if last else COARSE)
        photos, options = resize(self.photos, size), replace(self.options, content_weight=content)
        self.criterion = StyleCriterion(self.features, photos, styles, masks, options)
        rate = RATES.get(self.options.optimizer, 1.0) if self.options.lr is None else self.options.lr
        run = Optimization([start], self._loss, steps=steps, lr=rate, optimizer=self.options.optimizer)
        run.fixed = self.criterion.fixed
        return run

    def _loss(self, parameters: list[Tensor], index: slice) -> Loss:
        images = self._kept(parameters[0], index)
        return self.criterion(colours.grey(images) if self.options.colour == "luminance" else images, index=index)

    def _kept(self, images: Tensor, index=slice(None)) -> Tensor:
        """Images with the photo where no style goes."""
        if self.shown is None:
            return images
        photos = self.criterion.pick(self.criterion.contents, index)
        return photos + (images - photos) * self.shown

    @torch.no_grad()
    def _step(self, phase: Scale, run: Optimization, step: Step) -> Step:
        run.parameters[0].clamp_(0, 1)
        return replace(step, render=self.images)

    @torch.no_grad()
    def images(self, parameters: Tensor | None = None) -> Tensor:
        """Images (B, 3, h, w) in [0, 1] of the current state, or of other parameters, in the colours asked for."""
        images = self._kept(self.runs[-1].parameters[0] if parameters is None else parameters).clamp(0, 1)
        if self.options.colour == "luminance":
            photos = resize(self.contents, tuple(images.shape[-2:])).expand_as(images)
            images = colours.with_chroma(images, photos)
        return images.detach().clone()

    @torch.no_grad()
    def result(self) -> Result:
        """The best images of the last scale so far, at full size, and their losses."""
        facts, best = self.facts(), self.runs[-1].best
        loss = self._loss(best, slice(None))
        return Result(resize(self.images(best[0]), self.phases[-1].size), loss.total, loss.parts, **facts)

    def state_dict(self) -> dict:
        return super().state_dict() | {"size": [self.batch, *self.phases[-1].size]}

    def load_state_dict(self, state: dict) -> None:
        ours = [self.batch, *self.phases[-1].size]
        if (theirs := state.get("size", ours)) != ours:
            raise StyleError(f"the state is of {theirs} (images, height, width), not {ours}; keep --size and photos.")
        self.runs.clear()  # the first scale is open already
        super().load_state_dict(state)


def stylize(features, contents: Tensor, styles: Sequence[Tensor] = (), **options) -> Result:
    """Run a style transfer and return its result; the options are those of ``StyleTransfer``."""
    return StyleTransfer(features, contents, styles, **options).run()


def scales(size: tuple[int, int], base: int | None) -> list[tuple[int, int]]:
    """Sizes from a short side of ``base`` to ``size`` by equal factors of at most 2. StyleError below 1."""
    short = min(size)
    if base is not None and base < 1:
        raise StyleError(f"the pyramid's coarsest scale must have at least 1 pixel; got {base}.")
    base = short if base is None else min(base, short)
    count = math.ceil(math.log2(short / base))
    factors = [(base / short) ** (1 - number / count) for number in range(count)]
    return [(round(size[0] * factor), round(size[1] * factor)) for factor in factors] + [size]
