"""Sketch to image: find images of a generator that follow a drawing (Zhu et al., ECCV 2016, sec. 4)."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.constraints import Colour, Constraint, Constraints, Edge, Perceptual, Prior, Realism
from helpers.encoder import Encoder, load_encoder
from helpers.generators import Generator
from helpers.images import from_uint8, read_rgba
from helpers.inversion import LatentSearch
from helpers.latents import Latents
from helpers.losses import Loss
from helpers.masks import as_mask, grow, mask_from_file
from helpers.photos import has_ears
from helpers.search import Phase, Result, option

STARTS = ("sample", "best", "encoder")
TRUNCATION = 0.7  # keeps the starts inside the cloud of latents, where cats are surest
THRESHOLD = 0.1  # alpha below it is not a stroke
RATES = {"z": 0.1, "w": 0.2, "w+": 0.1}  # in standard deviations of the space
WEIGHTS = {"colour": 1.0, "edge": 0.1, "realism": 0.01, "prior": 0.02}
LINE_WEIGHTS = {"edge": 1.0, "realism": 0.05, "prior": 0.1}  # where one dark ink draws: it means edges, not black fur
EDGE_REACH = 2 / 64  # relative to the side: how far from a stroke's rim an edge still counts as its own
INK = 0.25  # largest lightness of an ink
INK_AREA = 0.25  # largest share of the paper under the ink of a line drawing


@dataclass
class Sketch:
    """A drawing: ``image`` (1, 3, R, R) in [0, 1], and ``mask`` (1, 1, R, R) in [0, 1], how much each pixel counts."""

    image: Tensor
    mask: Tensor

    @property
    def edges(self) -> Tensor:
        """The strokes on paper that is black or white, whichever is farther from their mean lightness: (1, 3, R, R)."""
        light = (self.image.mean(1, keepdim=True) * self.mask).sum() / self.mask.sum()
        return torch.lerp(torch.full_like(self.image, float(light < 0.5)), self.image, self.mask)

    @property
    def is_line_drawing(self) -> bool:
        """Whether all strokes are of one dark ink and cover little: then they mean edges, whatever their colour."""
        share = self.mask / self.mask.sum()
        ink = (self.image * share).sum((2, 3), keepdim=True)
        spread = ((self.image - ink).abs() * share).sum((1, 2, 3)).item() / 3
        return ink.mean().item() < INK and spread < 0.1 and self.mask.mean().item() < INK_AREA

    def on_paper(self) -> Tensor:
        """The strokes on grey paper, to look at: (1, 3, R, R)."""
        return torch.lerp(torch.full_like(self.image, 0.85), self.image, self.mask)


def sketch_folder(generator: Generator) -> Path:
    """The folder of drawings of this generator's kind of faces: whole, or tight crops at 64 or 256 pixels."""
    kind = "whole" if has_ears(generator.landmarks) else "64" if generator.resolution <= 64 else "256"
    return Path(__file__).resolve().parents[1] / "data" / "sketches" / kind


def read_sketch(source, size: int, mask=None) -> Sketch:
    """Read a sketch from an image file with transparency, or from one without and a mask, resized to ``size``.

    source: path or bytes of an image file, or uint8 (H, W, 4) or (H, W, 3) of a canvas. mask: a file, white where the
    sketch counts, or what ``as_mask`` takes, of the sketch's size; used instead of alpha.
    Raises ValueError where it is not square, all or nothing is drawn, or nothing is left at this size.
    """
    if isinstance(source, np.ndarray):
        image, alpha = from_uint8(source).split([3, source.shape[2] - 3], 1)
        name, drawn = "the drawing", bool(alpha.numel())
    else:
        image, alpha = read_rgba(source)
        name = os.path.basename(source) if isinstance(source, str | os.PathLike) else "the sketch"
        drawn = bool(alpha.min() < 1)
    height, width = image.shape[-2:]
    if height != width:
        found = f"{name} has {width} x {height} pixels"
        raise ValueError(f"expected a square sketch but {found}; crop it or extend its canvas.")
    if mask is not None:
        mask = mask_from_file(mask, height) if isinstance(mask, str | os.PathLike) else mask
        alpha = as_mask(mask, (height, width), "the sketch's mask")
    elif not drawn:
        advice = "save it with transparency, or give a mask file that is white where the sketch counts"
        raise ValueError(f"expected a transparent background or a mask, but {name} is opaque everywhere; {advice}.")
    alpha = torch.where(alpha < THRESHOLD, 0.0, alpha)
    if alpha.sum() == 0:
        what = "its mask is black everywhere" if mask is not None else "all of it is transparent"
        raise ValueError(f"expected at least one stroke in {name}, but {what}; draw something.")
    # bilinear: the overshoot of a cubic would differ between the two
    options = {"size": (size, size), "mode": "bilinear", "antialias": True}
    small, premultiplied = F.interpolate(alpha, **options), F.interpolate(image * alpha, **options)
    colours = (premultiplied / small.clamp_min(1e-4)).clamp(0, 1)
    small = torch.where(small < THRESHOLD, 0.0, small.clamp(0, 1))  # weights of a resize sum to 1 up to rounding
    if small.sum() == 0:
        raise ValueError(f"all strokes are too thin: nothing of them is left at {size} x {size} pixels; draw thicker.")
    return Sketch(colours * (small > 0), small)


def default_weights(sketch: Sketch) -> dict[str, float]:
    """``LINE_WEIGHTS`` for a line drawing, else ``WEIGHTS``."""
    return dict(LINE_WEIGHTS if sketch.is_line_drawing else WEIGHTS)


def sketch_constraints(
    sketch: Sketch,
    generator: Generator,
    space: str | None = None,
    weights: dict[str, float | Tensor] | None = None,
    *,
    discriminator=None,
    features=None,
) -> list[Constraint]:
    """Constraints by name: weights are numbers or (B,), None the default. ValueError without its network."""
    if weights is None:
        weights = default_weights(sketch)
        weights = {k: v for k, v in weights.items() if k != "realism" or discriminator is not None}
    image, mask = sketch.image.to(generator.device), sketch.mask.to(generator.device)
    rim = grow((mask > 0).float(), max(1.0, EDGE_REACH * mask.shape[-1]))  # a line's edges lie next to it
    makers = {
        "colour": lambda w: Colour(mask, w, target=image),
        "edge": lambda w: Edge(rim, w, target=sketch.edges.to(image)),
        "perceptual": lambda w: Perceptual(mask, w, target=image, features=features),
        "realism": lambda w: Realism(None, w, discriminator=discriminator),
        "prior": lambda w: Prior(None, w, generator=generator, space=space_of(generator, space)),
    }
    for name in sorted(weights):
        if name not in makers:
            raise ValueError(f"unknown constraint {name}; a sketch has {', '.join(makers)}.")
    for name, network, what in (("perceptual", features, "features"), ("realism", discriminator, "discriminator")):
        if name in weights and network is None:
            needs = f"the {name} constraint needs a network"
            raise ValueError(f"{needs}; pass {what}=load_{what}(), or leave {name} out.")
    return [makers[name](weight) for name, weight in weights.items()]


@dataclass
class Candidates(Result):
    """What a search found, the best first; ``met`` (N,) bool: whether the sketch's constraints are met."""

    met: Tensor | None = None


@dataclass(frozen=True)
class SketchOptions:
    """How to search for a sketch; what has a help text is an option of the command line too.

    start: "sample", truncated; the "best" by the constraints of ``candidates`` samples; "encoder", half-way between
    samples and what it makes of the ``sketch``; or Latents. enough: share of the starts that must meet the sketch
    before the search ends; None: never.
    """

    space: str | None = option(None, "z, w or w+; by default w where there is one.")
    starts: int = option(16, "Starts, each of which becomes a candidate.", min=1)
    steps: int = option(80, "Most steps.", min=1)
    start: str | Latents = option("best", "sample, best (of 128 samples) or encoder.")
    lr: float | None = option(None, "Rate in standard deviations of the space.")
    seed: int = option(0, "Seed of whatever is random.")
    sketch: Sketch | None = None
    encoder: Encoder | None = None
    candidates: int = 128
    enough: float | None = 0.75


class SketchSearch(LatentSearch):
    """Look for images that follow a sketch from N >= 1 starts, else ValueError; weights (B,) make a table of B × N."""

    def __init__(
        self, generator: Generator, constraints: Sequence[Constraint], options: SketchOptions | None = None, **changes
    ):
        began = time.perf_counter()
        self.options = options = replace(options or SketchOptions(), **changes)
        self.generator, self.space = generator, space_of(generator, options.space)
        self.criterion = Constraints(constraints)
        if options.starts < 1:
            raise ValueError(f"at least 1 start is needed; got {options.starts}.")
        codes = self._first_codes()
        self.starts = self.criterion.repeats = len(codes) // self.criterion.settings
        self.criterion.start = codes
        phases = (Phase(self.space, lr=RATES[self.space]),)
        super().__init__(generator, self.criterion, Latents(self.space, codes), phases, options.steps, options.lr)
        self.met = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
        self.prepared = time.perf_counter() - began

    @torch.no_grad()
    def _first_codes(self) -> Tensor:
        """The starts of the first setting, then those of the second, ..."""
        start = self.options.start
        if start == "best":
            return self._best_samples()
        if isinstance(start, Latents):
            code = self.generator.convert(start.code.detach(), start.space, self.space)
        elif start in STARTS:
            code = self._samples(self.options.starts)
            code = torch.lerp(code, self._encoded(), 0.5) if start == "encoder" else code
        else:
            raise ValueError(f"start must be one of {', '.join(STARTS)}, or Latents; got {start!r}.")
        return code.repeat(self.criterion.settings, *[1] * (code.ndim - 1))

    def _samples(self, n: int) -> Tensor:
        code = self.generator.sample(self.space, n, self.options.seed)
        mean = code if self.space == "z" else self.generator.mean(self.space)  # that of z is not a cat
        return torch.lerp(mean.expand_as(code), code, TRUNCATION)

    def _best_samples(self) -> Tensor:
        codes = self._samples(max(self.options.candidates, self.options.starts))
        chunks = [(self.generator.synthesize(Latents(self.space, c)), c) for c in codes.split(32)]
        chosen = []
        for setting in range(self.criterion.settings):
            rows = (torch.full((len(c),), setting) for _, c in chunks)
            totals = [self.criterion(images, c, r).total for (images, c), r in zip(chunks, rows, strict=True)]
            chosen.append(codes[torch.cat(totals).argsort()[: self.options.starts]])
        return torch.cat(chosen)

    def _encoded(self) -> Tensor:
        if self.options.sketch is None:
            raise ValueError('start="encoder" needs the sketch itself; pass sketch=..., or choose another start.')
        encoder = self.options.encoder or load_encoder(self.generator)
        image, mask = (part.to(self.generator.device) for part in vars(self.options.sketch).values())
        return encoder.encode(self.generator, image, mask, self.space).code

    def _loss(self, variables, parameters: list[Tensor], index) -> Loss:
        loss = super()._loss(variables, parameters, index)
        self.met[index] |= self.criterion.met(loss.parts)
        return loss

    @property
    def done(self) -> bool:
        """Whether ``enough`` candidates of every setting have met what the sketch asks for, now or before."""
        enough = self.options.enough
        return enough is not None and bool((self.met.view(-1, self.starts).float().mean(1) >= enough).all())

    def forget_best(self) -> None:
        super().forget_best()
        self.met.zero_()

    def _chosen(self) -> Tensor | slice:
        """All starts, ranked within each setting."""
        if not self.runs:
            return slice(None)
        totals = self.runs[-1].best_total.view(-1, self.starts)
        first = torch.arange(len(totals), device=totals.device)[:, None] * self.starts
        return (totals.argsort(1) + first).flatten()

    def result(self) -> Candidates:
        """The best of each start so far, ranked within each setting."""
        found = super().result()
        return Candidates(**vars(found), met=self.criterion.met(found.parts))

    def state_dict(self) -> dict:
        return super().state_dict() | {"met": self.met.clone()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.met.copy_(state["met"])


def space_of(generator: Generator, space: str | None = None) -> str:
    """A space of the generator, else ValueError; None is w, or z where there is no w."""
    return generator.check_space(space or ("w" if "w" in generator.spaces else "z"))


def near(generator: Generator, latents: Latents, n: int = 16, radius: float = 0.3, seed: int = 0) -> Latents:
    """``n`` latents: the given one (ValueError for several), then random ones at ``radius`` standard deviations."""
    if len(latents) != 1:
        raise ValueError(f"pick one candidate, latents[i]; got {len(latents)}.")
    latents, random = latents.to(generator.device), torch.Generator().manual_seed(seed)
    offsets = torch.randn(n, *latents.code.shape[1:], generator=random).to(latents.code)
    offsets[0] = 0
    return Latents(latents.space, latents.code + radius * generator.std(latents.space) * offsets)


def search(
    generator: Generator, sketch: Sketch, weights: dict | None = None, discriminator=None, features=None, **options
) -> Candidates:
    """Search for a sketch, by ``sketch_constraints`` of these weights and networks, and return the candidates."""
    networks = {"discriminator": discriminator, "features": features}
    constraints = sketch_constraints(sketch, generator, options.get("space"), weights, **networks)
    return SketchSearch(generator, constraints, sketch=sketch, **options).run()
