"""Sketch to image: find pictures of a generator that follow a drawing (Zhu et al., ECCV 2016, sec. 4)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.constraints import (
    Colour,
    Constraint,
    ConstraintError,
    Constraints,
    Edge,
    Perceptual,
    Prior,
    Realism,
    edge_mask,
)
from helpers.encoder import Encoder, load_encoder
from helpers.generators import Generator
from helpers.images import from_uint8, read_rgba, shown
from helpers.latents import Latents
from helpers.losses import Loss
from helpers.masks import as_mask
from helpers.optimizers import Optimization, Step, cosine

STARTS = ("sample", "best", "encoder")
TRUNCATION = 0.7  # of the starts: inside the cloud of codes, where cats are surest
THRESHOLD = 0.1  # alpha below it is no stroke
RATES = {"z": 0.1, "w": 0.2, "w+": 0.1}  # standard deviations of the space
WEIGHTS = {"colour": 1.0, "edge": 0.1, "realism": 0.01, "prior": 0.02}
LINE_WEIGHTS = {"edge": 1.0, "realism": 0.05, "prior": 0.1}  # where one dark ink draws: it means edges, not black fur
INK = 0.25  # lightness of an ink, at most
INK_AREA = 0.25  # share of the paper under the ink of a line drawing, at most


class SketchError(ValueError):
    """A sketch that says nothing or does not fit, or a search that cannot start."""


# --- sketches --------------------------------------------------------------------------------------------------------


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

    def on_paper(self, grey: float = 0.85) -> Tensor:
        """The strokes on grey paper, to look at: (1, 3, R, R)."""
        return torch.lerp(torch.full_like(self.image, grey), self.image, self.mask)


def read_sketch(source, size: int, mask=None, threshold: float = THRESHOLD, name: str | None = None) -> Sketch:
    """Read a sketch from an image file with transparency, or from one without and a mask.

    Where the alpha is below ``threshold`` nothing was drawn; above it, it is the weight of the pixel, so a partly
    transparent stroke is a soft wish. Sketches of any size are resized to the generator's, colours weighted by alpha:
    nothing of the paper mixes into the strokes.

    Args:
        source: path or bytes of an image file, or uint8 (H, W, 4) or (H, W, 3) of a canvas.
        size: the generator's resolution, pixels.
        mask: path of an image file, white where the sketch counts, or an array or tensor as ``as_mask`` takes it, of
            the size of the sketch; it is used in the place of alpha.
        name: what to call the sketch in an error.

    Raises:
        SketchError: for a sketch that is not square, has neither transparency nor a mask, or an empty one.
        ImageError, MaskError: for files and arrays that are no image and no mask.
    """
    if isinstance(source, np.ndarray):
        rgba, name = from_uint8(source), name or "the drawing"
        drawn = rgba.shape[1] == 4
        image, alpha = rgba[:, :3], rgba[:, 3:] if drawn else torch.ones_like(rgba[:, :1])
    else:
        image, alpha = read_rgba(source, name=name)
        name = name or (os.path.basename(source) if isinstance(source, str | os.PathLike) else "the sketch")
        drawn = bool(alpha.min() < 1)
    height, width = image.shape[-2:]
    if height != width:
        raise SketchError(
            f"expected a square sketch, because the generator draws squares, but {name} has {width} x {height} pixels; "
            "crop it or extend its canvas."
        )
    if mask is not None:
        alpha = _mask_of(mask, (height, width))
    elif not drawn:
        raise SketchError(
            f"expected a sketch with a transparent background or a mask, but {name} is opaque everywhere; save it with "
            "transparency, or give a mask file that is white where the sketch counts."
        )
    alpha = _counted(image, alpha, threshold)
    if alpha.sum() == 0:
        what = "its mask is black everywhere" if mask is not None else "all of it is transparent"
        raise SketchError(f"expected at least one stroke in {name}, but {what}; draw something.")
    return _resized(image, alpha, size, threshold)


def _counted(image: Tensor, alpha: Tensor, threshold: float) -> Tensor:
    """Mask (1, 1, H, W) of a drawing (1, 3, H, W): its alpha, without what is below the threshold."""
    return torch.where(alpha < threshold, 0.0, alpha)


def _mask_of(mask, size: tuple[int, int]) -> Tensor:
    if isinstance(mask, str | os.PathLike):
        from helpers.masks import mask_from_file

        mask = mask_from_file(mask)
    return as_mask(mask, size, "the sketch's mask")


def _resized(image: Tensor, alpha: Tensor, size: int, threshold: float) -> Sketch:
    # bilinear: the overshoot of a cubic would differ between the two
    options = {"size": (size, size), "mode": "bilinear", "antialias": True}
    small, premultiplied = F.interpolate(alpha, **options), F.interpolate(image * alpha, **options)
    colours = (premultiplied / small.clamp_min(1e-4)).clamp(0, 1)
    small = torch.where(small < threshold, 0.0, small)
    if small.sum() == 0:
        raise SketchError(f"all strokes are too thin: nothing of them is left at {size} x {size} pixels; draw thicker.")
    return Sketch(colours * (small > 0), small)


def default_weights(sketch: Sketch) -> dict[str, float]:
    """``LINE_WEIGHTS`` for a line drawing, else ``WEIGHTS``."""
    return dict(LINE_WEIGHTS if sketch.is_line_drawing else WEIGHTS)


def sketch_constraints(
    sketch: Sketch,
    generator: Generator,
    space: str = "w",
    weights: dict[str, float | Tensor] | None = None,
    *,
    discriminator=None,
    features=None,
) -> list[Constraint]:
    """The constraints of a sketch by the weights of their names; a weight of 0 may be raised while a search runs.

    Args:
        weights: of "colour", "edge", "perceptual", "realism" and "prior", each a number or (B,) for a table of
            settings. None is ``default_weights(sketch)``, without realism where there is no discriminator.
        discriminator: of ``load_discriminator``, for realism.
        features: of ``load_features``, for perceptual.

    Raises:
        ConstraintError: for an unknown name, a missing network, or edges in a sketch that has none.
    """
    if weights is None:
        weights = default_weights(sketch)
        weights = {k: v for k, v in weights.items() if k != "realism" or discriminator is not None}
    device = generator.device
    image, mask = sketch.image.to(device), sketch.mask.to(device)
    makers = {
        "colour": lambda w: Colour(mask, w, target=image),
        "edge": lambda w: Edge(edge_mask(mask), w, target=sketch.edges.to(device)),
        "perceptual": lambda w: Perceptual(mask, w, target=image, features=_given(features, "perceptual")),
        "realism": lambda w: Realism(None, w, discriminator=_given(discriminator, "realism")),
        "prior": lambda w: Prior(None, w, generator=generator, space=space),
    }
    unknown = sorted(set(weights) - set(makers))
    if unknown:
        raise ConstraintError(f"unknown constraint {', '.join(unknown)}; a sketch has {', '.join(makers)}.")
    return [makers[name](weight) for name, weight in weights.items()]


def _given(network, name: str):
    if network is None:
        what = "features=load_features()" if name == "perceptual" else "discriminator=load_discriminator()"
        raise ConstraintError(f"the {name} constraint needs a network; pass {what}, or leave {name} out.")
    return network


# --- search ----------------------------------------------------------------------------------------------------------


@dataclass
class Candidates:
    """What a search found, the best first.

    Attributes:
        latents: of all candidates, a batch of N.
        images: (N, 3, R, R) in [0, 1], exactly of these latents.
        total: (N,) their loss, ascending.
        parts: its unweighted parts, each (N,).
        met: (N,) bool, whether the sketch's constraints are met.
        history: name to (steps, N), the losses along the way.
        seconds: wall time, the start included.
        steps: steps taken.
        frozen: (N,) bool, which stopped at their best, or at their start, because their loss was not finite.
    """

    latents: Latents
    images: Tensor
    total: Tensor
    parts: dict[str, Tensor]
    met: Tensor
    history: dict[str, Tensor]
    seconds: float
    steps: int
    frozen: Tensor


@dataclass
class SketchSearch:
    """Look for pictures that follow a sketch from N starts as one batch; iterate, leave to stop, ask for ``result()``.

    Every start is an independent problem: a batch gives what single runs give.

    Args:
        generator: from ``load_generator``.
        constraints: see ``sketch_constraints``. Weights of shape (B,) make a table: B settings with ``starts`` each.
        space: "z", "w" or "w+".
        starts: number of starts.
        start: "sample" at random, truncated to TRUNCATION; the "best" by the constraints of ``candidates`` such
            samples; "encoder", half-way between samples and what the encoder makes of the sketch; or Latents, e.g.
            ``near`` a candidate.
        sketch: for start="encoder".
        encoder: of ``load_encoder``, by default the generator's own.
        steps: most steps; a start that meets its constraints before is done.
        lr: rate in standard deviations of the space.
        candidates: number of samples for start="best".
        enough: share of the starts; the search ends as soon as so many of them have met all that the sketch asks for.
            None takes all steps.
        seed: of all samples.

    Raises:
        SketchError: for an unknown start, or fewer than one step or start.
        ConstraintError: for constraints that ask for nothing.
        GeneratorError: for a space that the generator does not have.
        OptimizationError: when the losses of all starts became NaN; ``result()`` still gives the best so far.
    """

    generator: Generator
    constraints: Sequence[Constraint]
    space: str = "w"
    starts: int = 16
    start: str | Latents = "best"
    sketch: Sketch | None = None
    encoder: Encoder | None = None
    steps: int = 80
    lr: float | None = None
    candidates: int = 128
    enough: float | None = 0.75
    seed: int = 0
    criterion: Constraints = field(init=False)

    def __post_init__(self):
        began = time.perf_counter()
        self.generator.check_space(self.space)
        self.criterion = Constraints(self.constraints)
        if self.starts < 1:
            raise SketchError(f"at least 1 start is needed, but {self.starts} came.")
        self.base = self._first_codes()
        self.starts = len(self.base) // self.criterion.settings
        self.criterion.setting_of = torch.arange(self.criterion.settings).repeat_interleave(self.starts)
        lr = (RATES[self.space] if self.lr is None else self.lr) * self.generator.std(self.space).mean().item()
        code = self.base.clone()
        self.run = Optimization([code], self._loss, steps=self.steps, lr=lr, schedule=cosine(0.05, 0.5))
        self.met = torch.zeros(len(code), dtype=torch.bool, device=code.device)
        self.prepared = time.perf_counter() - began

    # --- start ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _first_codes(self) -> Tensor:
        """The starts of the first setting, then those of the second, ..."""
        if isinstance(self.start, Latents):
            code = self.generator.convert(self.start.code.detach(), self.start.space, self.space)
        elif self.start == "best":
            return self._best_samples()
        elif self.start == "sample":
            code = self._samples(self.starts)
        elif self.start == "encoder":
            code = torch.lerp(self._samples(self.starts), self._encoded(), 0.5)
        else:
            raise SketchError(f"start must be {', '.join(STARTS)} or Latents, but {self.start!r} came.")
        return code.repeat(self.criterion.settings, *[1] * (code.ndim - 1))

    def _samples(self, n: int) -> Tensor:
        code = self.generator.sample(self.space, n, self.seed)
        if self.space == "z":  # its mean is no cat
            return code
        return torch.lerp(self.generator.mean(self.space).expand_as(code), code, TRUNCATION)

    def _best_samples(self) -> Tensor:
        codes = self._samples(max(self.candidates, self.starts))
        chunks = [(self.generator.synthesize(Latents(self.space, c)), c) for c in codes.split(32)]
        chosen = []
        for setting in range(self.criterion.settings):
            rows = (torch.full((len(c),), setting) for _, c in chunks)
            totals = [self.criterion(images, c, r).total for (images, c), r in zip(chunks, rows, strict=True)]
            chosen.append(codes[torch.cat(totals).argsort()[: self.starts]])
        return torch.cat(chosen)

    def _encoded(self) -> Tensor:
        if self.sketch is None:
            raise SketchError('start="encoder" needs the sketch itself; pass sketch=..., or choose another start.')
        encoder, device = self.encoder or load_encoder(self.generator), self.generator.device
        image, mask = self.sketch.image.to(device), self.sketch.mask.to(device)
        return encoder.encode(self.generator, image, mask, self.space).code

    # --- run --------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Step]:
        """All steps, or until ``enough`` candidates are met; a loop that was left is taken up where it stopped."""
        if self.number and self.done:
            return
        for step in self.run:
            latents = Latents(self.space, self.run.parameters[0].detach())
            yield replace(step, latents=latents, render=partial(self.generator.synthesize, latents))
            if self.done:
                return

    @property
    def number(self) -> int:
        """Steps taken."""
        return self.run.number

    def _loss(self, parameters: list[Tensor], index: slice) -> Loss:
        (code,) = parameters
        loss = self.criterion(self.generator.synthesize(Latents(self.space, code)), code, index)
        self.met[index] |= self.criterion.met(loss.parts)
        return loss

    @property
    def done(self) -> bool:
        """Whether ``enough`` candidates of every setting have met what the sketch asks for, now or before."""
        return self.enough is not None and bool((self.met.view(-1, self.starts).float().mean(1) >= self.enough).all())

    def forget_best(self) -> None:
        """Start the best-so-far anew; call it after a change of a weight under way."""
        self.run.forget_best()
        self.met.zero_()

    @torch.no_grad()
    def result(self) -> Candidates:
        """The best of each start so far, ranked within each setting. Raises SketchError before the first step."""
        if self.number == 0:
            raise SketchError("the search has not taken a step yet; iterate over it first.")
        totals = self.run.best_total.view(-1, self.starts)
        first = torch.arange(len(totals), device=totals.device)[:, None] * self.starts
        order = (totals.argsort(1) + first).flatten()
        latents = Latents(self.space, self.run.best[0][order].clone())
        images = self.generator.synthesize(latents)
        loss = self.criterion(images, latents.code, order)
        return Candidates(
            latents=latents,
            images=shown(images),
            total=loss.total,
            parts=loss.parts,
            met=self.criterion.met(loss.parts),
            history={name: torch.stack(values)[:, order].cpu() for name, values in self.run.history.items()},
            seconds=self.prepared + self.run.seconds,
            steps=self.number,
            frozen=self.run.frozen[order],
        )

    def state_dict(self) -> dict:
        """Tensors and numbers from which the same settings go on exactly; ``torch.save`` takes it."""
        return {"run": self.run.state_dict(), "met": self.met.clone()}

    def load_state_dict(self, state: dict) -> None:
        """Go on where ``state_dict`` was taken."""
        self.run.load_state_dict(state["run"])
        self.met.copy_(state["met"])


def near(generator: Generator, latents: Latents, n: int = 16, radius: float = 0.3, seed: int = 0) -> Latents:
    """``n`` codes to go on from: the given one first, then random ones around it.

    latents: a batch of 1. radius: standard deviation of the offsets, in standard deviations of the space.
    Raises SketchError for another number of latents.
    """
    if len(latents) != 1:
        raise SketchError(f"pick one candidate, latents[i]; {len(latents)} came.")
    random = torch.Generator().manual_seed(seed)
    offsets = torch.randn(n, *latents.code.shape[1:], generator=random).to(latents.code)
    offsets[0] = 0
    return Latents(latents.space, latents.code + radius * generator.std(latents.space) * offsets)


def search(generator: Generator, sketch: Sketch, space: str = "w", weights=None, **options) -> Candidates:
    """Search for a sketch and return the candidates.

    weights, discriminator, features: of ``sketch_constraints``; all other options are those of ``SketchSearch``.
    """
    networks = {name: options.pop(name, None) for name in ("discriminator", "features")}
    constraints = sketch_constraints(sketch, generator, space, weights, **networks)
    found = SketchSearch(generator, constraints, space, sketch=sketch, **options)
    for _ in found:
        pass
    return found.result()
