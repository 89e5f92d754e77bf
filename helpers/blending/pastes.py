"""Edits without a generator, and the soft edges of all. x and y are (B, 3, H, W) in [0, 1], masks (B or 1, 1, H, W)."""

import numpy as np
import scipy
import torch
from torch import Tensor

from helpers import masks
from helpers.losses import masked_mean
from helpers.masks import as_mask, invert

LENGTHS = torch.logspace(-1, 2.5, 100).tolist()  # pixels


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


def exchange_details(image: Tensor, x: Tensor, y: Tensor, mask: Tensor, radius: float) -> Tensor:
    """The image with details below ``radius`` pixels of x under the mask and y elsewhere (Burt and Adelson 1983)."""
    share = masks.feather((mask >= 0.5).to(x), radius / 2)
    details = torch.lerp(y - masks.blur(y, radius), x - masks.blur(x, radius), share)
    return (masks.blur(image, radius) + details).clamp(0, 1)


def fade(image: Tensor, x: Tensor, y: Tensor, mask: Tensor, fidelity: float) -> Tensor:
    """The image at the mask's edge, away from it x inside and y outside: each side keeps ``fidelity`` dB (PSNR).

    The image's share falls exponentially with the distance to the edge, on each side as slowly as the fidelity allows.
    """
    paste, hard = hard_paste(x, y, mask), (mask >= 0.5).to(image).expand(len(image), -1, -1, -1)
    change, share = image - paste, torch.zeros_like(hard)
    for side in (hard, 1 - hard):
        depth = torch.cat([_depth(sample) for sample in side.bool().cpu().numpy()]).to(image)
        for length in LENGTHS:
            longer = side * torch.exp(-depth / length)
            fits = masked_mean((longer * change).square(), side) <= 10 ** (-fidelity / 10)
            share = torch.where(fits[:, None, None, None] & side.bool(), longer, share)
    return (paste + share * change).clamp(0, 1)
