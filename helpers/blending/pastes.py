"""Edits without a generator, and the soft edges of all. x and y are (B, 3, H, W) in [0, 1], masks (B or 1, 1, H, W)."""

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers import masks
from helpers.losses import masked_mean
from helpers.masks import as_mask, invert

DETAILS, HAIR = 0.175, 1.2  # as a share of the feather; how much stronger the details are drawn at the edge
ROUNDS, SOLVER_STEPS = 13, 20  # of the search for the weights, and in each round


def hard_paste(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """x where the mask is at least 0.5, y elsewhere."""
    return torch.where(as_mask(mask, tuple(x.shape[-2:])).to(x) >= 0.5, x, y)


def poisson_blend(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Seamless cloning (Pérez et al., SIGGRAPH 2003): inside, the gradients of x with the border colours of y.

    At the image's border nothing is prescribed; a region without an edge stays x.
    """
    inside = (as_mask(mask, tuple(x.shape[-2:])) >= 0.5).expand(len(x), -1, -1, -1)[:, 0]
    if len(x) > 1:
        samples = zip(x.split(1), y.split(1), inside[:, None].split(1), strict=True)
        return torch.cat([poisson_blend(*sample) for sample in samples])
    flags = inside.flatten().cpu().numpy()
    if flags.all() or not flags.any():
        return x if flags.all() else y
    size, edges = tuple(x.shape[-2:]), {"boundary_conditions": "neumann", "dtype": np.float64}
    rows = scipy.sparse.linalg.LaplacianNd(size, **edges).tosparse().tocsr()[flags]
    source, result = (image[0].detach().flatten(1).T.double().cpu().numpy().copy() for image in (x, y))
    right = rows @ source - rows[:, ~flags] @ result[~flags]
    result[flags] = scipy.sparse.linalg.spsolve(rows[:, flags].tocsc(), right)
    return torch.from_numpy(result.T).view_as(x).clamp(0, 1).to(x)


def transition(mask: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Where each side of an edit is to be exact: masks (inside, outside), with a gap that belongs to the generator.

    Both are 0 at the region's edge and rise to 1 along a cosine within ``radius`` pixels on their own side, or within
    the depth of a thinner side. A radius of 0 leaves no gap: the two are the mask and its inverse.
    """
    if radius <= 0:
        return mask, invert(mask)
    hard = (mask >= 0.5).cpu().numpy()
    return tuple(torch.cat([_rise(sample, radius) for sample in side]).to(mask) for side in (hard, ~hard))


def _rise(side: np.ndarray, radius: float) -> Tensor:
    """0 at the edge of a side (1, R, R) to 1 deep inside it: (1, 1, R, R)."""
    if side.all() or not side.any():
        return torch.from_numpy(side[None].astype(np.float32))
    depth = _depth(side)
    return 0.5 - 0.5 * torch.cos(np.pi * (depth / min(radius, depth.max())).clamp(0, 1))


def _depth(side: np.ndarray) -> Tensor:
    """Distance in pixels from the edge of a side (1, R, R) to each pixel's centre, 0 beyond: (1, 1, R, R)."""
    if side.all():
        return torch.full((1, *side.shape), np.inf)
    return torch.from_numpy(scipy.ndimage.distance_transform_edt(side[0]) - 0.5).float().clamp_min(0)[None, None]


def join(image: Tensor, x: Tensor, y: Tensor, mask: Tensor, feather: float, fidelity: float) -> Tensor:
    """Poisson blending from both sides: the image's gradients at the mask's edge, the photos' colours farther away.

    The least |grad u - g|² + s |u - paste|² (Bhat et al., ECCV 2008), fine details of g always the photos'; s, a number
    for each side, is as small as leaves that side ``fidelity`` dB (PSNR) of its photo.
    """
    paste, hard = hard_paste(x, y, mask), (mask >= 0.5).to(image).expand(len(image), -1, -1, -1)
    pull = _against(_slopes_at_the_edge(image, x, y, hard, feather))
    goal, sides, screens = 10 ** (-fidelity / 10), torch.stack([hard, 1 - hard]), torch.full((2, len(x), 1, 1, 1), 0.3)
    blend, best, screens = paste, paste, screens.to(image)
    for _ in range(ROUNDS):
        blend = _screened(blend, paste, pull, (screens * sides).sum(0))
        errors = torch.stack([masked_mean((blend.clamp(0, 1) - paste).square(), side) for side in sides])
        best = torch.where((errors <= goal).all(0)[:, None, None, None], blend, best)
        change = (errors / (0.97 * goal + 1e-12)).clamp(0.2, 5)
        screens = (screens * change[..., None, None, None]).clamp(1e-4, 10)
    return best.clamp(0, 1)


def _slopes_at_the_edge(image: Tensor, x: Tensor, y: Tensor, hard: Tensor, feather: float) -> Tensor:
    """The gradients that a blend is asked for: (2, B, 3, R, R)."""
    depth = torch.cat([torch.maximum(_depth(side), _depth(~side)) for side in hard.bool().cpu().numpy()])
    near, share = torch.exp(-((depth / max(feather, 1e-6)) ** 2)).to(image), masks.feather(hard, feather / 4)
    details = [_slopes(photo - masks.blur(photo, feather * DETAILS)) for photo in (y, x)]
    drawn = _slopes(masks.blur(image, feather * DETAILS)) + HAIR * torch.lerp(*details, share)
    return torch.lerp(torch.lerp(_slopes(y), _slopes(x), share), drawn, near)


def _slopes(image: Tensor) -> Tensor:
    """Differences to the next pixel on the right and below, 0 at the border: (2, B, 3, R, R)."""
    return torch.stack([F.pad(image.diff(dim=3), (0, 1)), F.pad(image.diff(dim=2), (0, 0, 0, 1))])


def _against(slopes: Tensor) -> Tensor:
    return slopes[0].roll(1, 3) - slopes[0] + slopes[1].roll(1, 2) - slopes[1]


def _screened(start: Tensor, paste: Tensor, pull: Tensor, screen: Tensor) -> Tensor:
    """The images that solve (Laplacian + screen) u = pull + screen paste, approached by conjugate gradients."""
    blend, rest = start, pull - _against(_slopes(start)) + screen * (paste - start)
    step, size = rest, rest.square().sum((1, 2, 3), keepdim=True)
    for _ in range(SOLVER_STEPS):
        turned = _against(_slopes(step)) + screen * step
        length = size / (step * turned).sum((1, 2, 3), keepdim=True).clamp_min(1e-20)
        blend, rest = blend + length * step, rest - length * turned
        size, before = rest.square().sum((1, 2, 3), keepdim=True), size
        step = rest + size / before.clamp_min(1e-20) * step
    return blend
