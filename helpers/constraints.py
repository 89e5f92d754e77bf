"""Constraints: what a sketch asks of an image, losses with masks and weights of their own (Zhu et al. 2016, sec. 4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.generators import Generator
from helpers.losses import LAYERS, WeightedSum, lp_loss, masked_mean, perceptual_loss
from helpers.masks import as_mask

ORIENTATIONS, CELL = 8, 8  # of histograms of oriented gradients: bins over half a turn, pixels of a cell's side
LUMA = (0.299, 0.587, 0.114)  # Rec. 601
WISHES = ("colour", "edge", "perceptual", "warp")  # what ties an image to a sketch


def hog(images: Tensor, mask: Tensor | None = None) -> Tensor:
    """Histograms of oriented gradients (Dalal and Triggs 2005), differentiable: (B, 8, H / 8, W / 8).

    Each pixel votes with the length of its gradient for the two bins nearest to its direction, modulo half a turn. A
    cell's value is the mean over its pixels, weighed by a mask (B or 1, 1, H, W). Raises ValueError below 8 pixels.
    """
    if min(images.shape[-2:]) < CELL:
        raise ValueError(f"edges need images of at least {CELL} pixels a side; got {tuple(images.shape)}.")
    light = sum(plane * share for plane, share in zip(images.split(1, 1), LUMA, strict=True))
    dy = F.pad(light[..., 2:, :] - light[..., :-2, :], (0, 0, 1, 1))
    dx = F.pad(light[..., 2:] - light[..., :-2], (1, 1))
    square = dy.square() + dx.square()
    flat = square < 1e-10  # where root and angle have no derivative
    length = torch.where(flat, square, (square + flat * 1.0).sqrt())
    angle = torch.atan2(dy, torch.where(flat, torch.ones_like(dx), dx)) / math.pi * ORIENTATIONS
    away = (angle - torch.arange(ORIENTATIONS, device=images.device).view(1, -1, 1, 1) - 0.5) % ORIENTATIONS
    away = torch.minimum(away, ORIENTATIONS - away)  # around the half turn
    votes = length * (1 - away).clamp_min(0)
    return F.avg_pool2d(votes if mask is None else votes * mask, CELL)


def normalised(histograms: Tensor, floor: float = 0.01) -> Tensor:
    """Histograms (B, bins, h, w) over their lengths; cells much flatter than ``floor`` (per pixel) go to 0."""
    return histograms / (histograms.square().sum(1, keepdim=True) + floor**2).sqrt()


@dataclass
class Constraint:
    """What all constraints share. ``met_at`` is the largest value at which it is met, ``name`` the key of its weight.

    mask: (1, 1, R, R) in [0, 1], None is everywhere. weight: a number, or (B,) for a table of settings. Raises
    ValueError for an empty mask.
    """

    mask: Tensor | None = None
    weight: float | Tensor = 1.0
    name, met_at = "", math.inf

    def __post_init__(self):
        if self.mask is not None:
            self.mask = as_mask(self.mask, name=f"the mask of {self.name}")
            if not (self.mask.sum((1, 2, 3)) > 0).all():
                raise ValueError(f"the mask of {self.name} is empty, so it asks for nothing; mark what counts.")

    def inside(self, images: Tensor) -> Tensor:
        """The images, without a gradient outside the mask."""
        return images if self.mask is None else torch.where(self.mask > 0, images, images.detach())

    def __call__(self, images: Tensor, codes: Tensor) -> Tensor:
        """The loss (B,) of images (B, 3, R, R) in [0, 1] with their codes (B, ...)."""


@dataclass
class Colour(Constraint):
    """Mean distance (L1) to the colours of the target (1, 3, R, R) in [0, 1]."""

    target: Tensor = field(kw_only=True)
    name, met_at = "colour", 0.06

    def __call__(self, images: Tensor, codes: Tensor) -> Tensor:
        return lp_loss(images, self.target, 1, self.mask)


@dataclass
class Edge(Constraint):
    """Squared distance of edge directions by cell (``hog``): 0 equal, 2 at right angles. ValueError without edges."""

    target: Tensor = field(kw_only=True)
    name, met_at = "edge", 0.35

    def __post_init__(self):
        super().__post_init__()
        found = hog(self.target, self.mask)
        self.directions = normalised(found)
        self.cells = found.square().sum(1, keepdim=True).sqrt()  # stronger edges count more
        if self.cells.max() < 1e-3:
            raise ValueError("the sketch has no edges under its mask; draw a line, or set the edge weight to 0.")

    def __call__(self, images: Tensor, codes: Tensor) -> Tensor:
        ours = normalised(hog(self.inside(images), self.mask))
        return masked_mean((ours - self.directions).square().sum(1, keepdim=True), self.cells)


@dataclass
class Perceptual(Constraint):
    """Relative distance of feature maps to those of the same image with the sketch, the target, painted in."""

    target: Tensor = field(kw_only=True)
    features: nn.Module = field(kw_only=True)
    layers: Sequence[str | int] = LAYERS
    name, met_at = "perceptual", 0.5

    def __call__(self, images: Tensor, codes: Tensor) -> Tensor:
        with torch.no_grad():
            everywhere = self.target.expand_as(images)
            painted = everywhere if self.mask is None else torch.lerp(images, everywhere, self.mask)
            theirs = self.features(painted, self.layers)
        return perceptual_loss(self.features(self.inside(images), self.layers), theirs, self.mask)


@dataclass
class Warp(Constraint):
    """Drag the source (1, 3, R, R) in the region (1, 1, R, R) by ``shift`` (x, y) pixels. ValueError if none stays."""

    source: Tensor = field(kw_only=True)
    region: Tensor = field(kw_only=True)
    shift: tuple[float, float] = field(kw_only=True)
    name, met_at = "warp", 0.06

    def __post_init__(self):
        region = as_mask(self.region, tuple(self.source.shape[-2:]), "the region of warp")
        self.target, self.mask = shifted(self.source, self.shift), shifted(region, self.shift)
        if self.mask.sum() == 0:
            raise ValueError(f"the region is empty, or {self.shift} drags all of it out of the image.")

    __call__ = Colour.__call__


@dataclass
class Realism(Constraint):
    """Does the discriminator take each image for a photo? softplus(-score), what the generator was trained with."""

    discriminator: nn.Module = field(kw_only=True)
    name = "realism"

    def __call__(self, images: Tensor, codes: Tensor) -> Tensor:
        return F.softplus(-self.discriminator(self.inside(images), group_size=1))


@dataclass
class Prior(Constraint):
    """Mean squared distance of the code from the mean of its space, in standard deviations: 1 is an ordinary sample."""

    generator: Generator = field(kw_only=True)
    space: str = field(kw_only=True)
    name = "prior"

    def __post_init__(self):
        self.mean, self.std = self.generator.mean(self.space), self.generator.std(self.space)

    def __call__(self, images: Tensor, codes: Tensor) -> Tensor:
        return ((codes - self.mean) / self.std).square().flatten(1).mean(1)


class Constraints(WeightedSum):
    """Weighted sum of constraints; a part is the unweighted value of one. ``weights`` may be changed during a search.

    ``start`` are the codes (B, ...) that the offsets of a search count from; None takes an offset as the code itself.
    One with a weight must tie the image to more than the model. Raises ValueError for two of one name.
    """

    def __init__(self, constraints: Sequence[Constraint]):
        self.constraints, self.start = {constraint.name: constraint for constraint in constraints}, None
        if len(self.constraints) < len(constraints):
            raise ValueError("two constraints have one name; give each kind once, with a mask that covers both.")
        weights = {name: constraint.weight for name, constraint in self.constraints.items()}
        super().__init__(weights, anchors=self.wishes or WISHES)

    @property
    def wishes(self) -> list[str]:
        """Names of those that the sketch makes; realism and prior are the model's."""
        return [name for name, constraint in self.constraints.items() if constraint.met_at < math.inf]

    def parts(self, images: Tensor, offset: Tensor, index) -> dict[str, Tensor]:
        codes = offset if self.start is None else self.start[index] + offset
        return {name: constraint(images, codes) for name, constraint in self.constraints.items() if self.on(name)}

    def met(self, parts: dict[str, Tensor]) -> Tensor:
        """(B,) bool: everything that the sketch wishes for is at or below its ``met_at``."""
        asked = [parts[name] <= self.constraints[name].met_at for name in self.wishes if name in parts]
        return torch.stack(asked).all(0)


def shifted(values: Tensor, shift: tuple[float, float]) -> Tensor:
    """Values (B, C, H, W) moved by (x, y) pixels, right and down, bilinear; 0 comes in from outside."""
    height, width = values.shape[-2:]
    move = values.new_tensor([[1, 0, -2 * shift[0] / width], [0, 1, -2 * shift[1] / height]])
    where = F.affine_grid(move.expand(len(values), 2, 3), list(values.shape), align_corners=False)
    return F.grid_sample(values, where, align_corners=False)
