"""Directions in latent space: steps of w along which an image changes in a way that a person can name.

Directions are rows (K, w_dim), each as long as one standard deviation of w along it, so that strengths compare.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.cat_faces import aligned_landmarks
from helpers.colours import to_yiq
from helpers.figures import Figure, labelled_grid
from helpers.generators import Generator
from helpers.latents import Latents
from helpers.metrics import feature_distance


def principal_components(generator: Generator, count: int = 8) -> tuple[Tensor, Tensor]:
    """The directions in which w varies most (GANSpace: Härkönen et al. 2020), and each one's share of the variance."""
    directions, variances = _leading(generator, torch.cov(generator.sample("w", 10_000).double().T))
    return directions[:count], (variances / variances.sum())[:count]


def closed_form(generator: Generator, count: int = 8) -> Tensor:
    """The directions to which the styles of all convolutions respond most (SeFa: Shen and Zhou 2021), without samples.

    They are the eigenvectors of AᵀA; A stacks the weights (channels, w_dim) from w to the styles. ValueError without w.
    """
    generator.check_space("w")
    layers = [layer for _, layer in generator.synthesis.layers()]
    weights = torch.cat([getattr(layer, "affine", getattr(layer, "style", None)).weight for layer in layers]).double()
    return _leading(generator, weights.T @ weights)[0][:count]


def _leading(generator: Generator, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors of a symmetric matrix as directions, each with a positive largest component, and eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    return with_spread(generator, vectors.T.flip(0).float()), values.flip(0).float()


def regression(w: Tensor, values: Tensor, ridge: float = 1.0) -> tuple[Tensor, Tensor]:
    """Slopes (A, w_dim) of a linear fit of attributes (N, A), scaled to a standard deviation of 1, to w (N, w_dim).

    Also returns what share of each attribute's variance it predicts in samples left out, one at a time (A,). ridge: the
    penalty, relative to the mean variance of w. Raises ValueError for other shapes.
    """
    if w.ndim != 2 or values.ndim != 2 or len(w) != len(values) or len(w) < 3:
        shapes = f"{tuple(w.shape)} and {tuple(values.shape)}"
        raise ValueError(f"expected w (N, w_dim) and values (N, attributes) of at least 3 samples; got {shapes}.")
    x, y = (t.double() - t.double().mean(0) for t in (w, values))
    y = y / y.std(0).clamp_min(1e-12)
    solved = torch.linalg.solve(x.T @ x + ridge * len(x) * x.var(0).mean() * torch.eye(x.shape[1]).to(x), x.T)
    slopes, leverage = solved @ y, (x * solved.T).sum(1, keepdim=True) + 1 / len(x)
    left_out = (y - x @ slopes) / (1 - leverage)
    return slopes.T.float(), (1 - left_out.square().sum(0) / y.square().sum(0)).float()


def only_one(slopes: Tensor) -> Tensor:
    """The shortest steps (A, w_dim) of which each changes its own attribute alone, as far as the slopes are right."""
    return torch.linalg.pinv(slopes).T


def with_spread(generator: Generator, directions: Tensor) -> Tensor:
    """Directions (K, w_dim) of any length, each made as long as one standard deviation of w along it."""
    unit = F.normalize(directions, dim=1)
    return unit * (generator.sample("w", 10_000) @ unit.T).std(0)[:, None]


def move(generator: Generator, latents: Latents, direction: Tensor, strengths, rows: slice = slice(None)) -> Latents:
    """Latents of any space as w+, of which some rows are moved along a direction (w_dim,); noise maps stay.

    strengths: in standard deviations; one for all, or (T,) with a batch of 1 or T. ValueError for another w_dim.
    """
    if tuple(direction.shape) != (generator.w_dim,):
        raise ValueError(f"expected a direction of shape ({generator.w_dim},); got {tuple(direction.shape)}.")
    steps = torch.zeros(torch.as_tensor(strengths).numel(), generator.num_ws, generator.w_dim).to(direction)
    steps[:, rows] = torch.as_tensor(strengths).to(direction).reshape(-1, 1, 1) * direction
    code = generator.convert(latents.code, latents.space, "w+") + steps
    noise = latents.noise and [m.expand(len(code), -1, -1, -1) for m in latents.noise]
    return Latents("w+", code, noise)


def towards(generator: Generator, latents: Latents, others: Latents, share: float = 0.5) -> Latents:
    """w+ latents a share of the way from latents (a batch of 1) to others (B), both of any space; noise maps stay."""
    start, end = (generator.convert(each.code, each.space, "w+") for each in (latents, others))
    noise = latents.noise and [m.expand(len(end), -1, -1, -1) for m in latents.noise]
    return Latents("w+", torch.lerp(start, end, share), noise)


@torch.no_grad()
def direction_grid(generator: Generator, latents: Latents, directions: dict, strengths: Tensor) -> Figure:
    """A row for each named direction and a column for each strength of ``move``."""
    moved = [move(generator, latents, direction, strengths) for direction in directions.values()]
    images = [generator.synthesize(each).clamp(0, 1) for each in moved]
    heads = [f"{strength:+g}" if strength else "0" for strength in strengths.tolist()]
    return labelled_grid(images, list(directions), heads, scale=128 / generator.resolution)


@torch.no_grad()
def attributes(generator: Generator, images: Tensor) -> dict[str, Tensor]:
    """What is measured on images (B, 3, R, R), a number (B,) for each name. Warmth is red less blue.

    Of cats, turn and length are how far right of and below the eyes' middle the nose lies, in distances of the eyes.
    """
    values = {"brightness": to_yiq(images)[:, 0].mean((1, 2)), "warmth": (images[:, 0] - images[:, 2]).mean((1, 2))}
    if generator.landmarks:
        left, right, nose = torch.view_as_complex(aligned_landmarks(images.cpu(), generator.landmarks)[0]).unbind(1)
        place = (nose - (left + right) / 2) / (right - left)
        values |= {"turn": place.real.to(images), "length": place.imag.to(images)}
    return values


@torch.no_grad()
def changes(generator: Generator, latents: Latents, directions: Tensor, spread: dict[str, Tensor], features):
    """What one standard deviation along each direction changes, on average: attributes (K, A) and identity (K,).

    spread: the unit of each attribute's changes, its standard deviation over samples. Identity is the feature distance
    between one step forwards and one back.
    """
    matrix, identity = [], []
    for direction in directions:
        ends = [generator.synthesize(move(generator, latents, direction, by)).clamp(0, 1) for by in (-1.0, 1.0)]
        back, forth = (attributes(generator, images) for images in ends)
        matrix.append([((forth[name] - back[name]).mean() / 2 / spread[name]).item() for name in spread])
        identity.append(feature_distance(features, *ends).mean().item())
    return torch.tensor(matrix), torch.tensor(identity)
