"""Edits without a generator, and the soft edges of all. x and y are (B, 3, H, W) in [0, 1], masks (B or 1, 1, H, W)."""

import numpy as np
import torch
from scipy import ndimage
from scipy.fft import dctn, idctn
from scipy.sparse.linalg import LaplacianNd, spsolve
from torch import Tensor

from helpers import masks
from helpers.losses import masked_mean
from helpers.masks import as_mask, invert


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
    laplacian = LaplacianNd(tuple(x.shape[-2:]), boundary_conditions="neumann", dtype=np.float64).tosparse()
    rows = laplacian.tocsr()[flags]
    source, result = (image[0].detach().flatten(1).T.double().cpu().numpy().copy() for image in (x, y))
    right = rows @ source - rows[:, ~flags] @ result[~flags]
    result[flags] = spsolve(rows[:, flags].tocsc(), right)
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
    depth = np.clip(ndimage.distance_transform_edt(side[0]) - 0.5, 0, None)  # from the edge to the pixel's centre
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(depth / min(radius, depth.max()), 0, 1))
    return torch.from_numpy(rise.astype(np.float32))[None, None]


def exchange_details(image: Tensor, x: Tensor, y: Tensor, mask: Tensor, radius: float) -> Tensor:
    """The image with details below ``radius`` pixels of x under the mask and y elsewhere (Burt and Adelson 1983)."""
    share = masks.feather((mask >= 0.5).to(x), radius / 2)
    details = torch.lerp(y - masks.blur(y, radius), x - masks.blur(x, radius), share)
    return (masks.blur(image, radius) + details).clamp(0, 1)


def harmonise(image: Tensor, x: Tensor, y: Tensor, mask: Tensor, feather: float, fidelity: float) -> Tensor:
    """A blend of x under the mask and y elsewhere whose two coats approach each other towards the edge.

    A smooth field that closes the step of colour at the edge, half of it on each side, fades out within about twice
    ``feather`` pixels. As much of it is added as leaves each side ``fidelity`` dB (PSNR) from its photo.
    """
    hard = (mask >= 0.5).to(image).expand(len(x), -1, -1, -1)
    photos, offset = torch.lerp(y, x, hard), _closing(x, y, hard, 2 * feather) if feather > 0 else torch.zeros_like(x)
    within, beyond = (_continued(offset, side, feather) for side in (hard, 1 - hard))
    field = torch.lerp(beyond, within, masks.feather(hard, feather))
    amount = image.new_ones(len(x))
    for side in (hard, 1 - hard):  # the largest amount that solves a quadratic equation for the mean squared error
        products = (field * field, field * (image - photos), (image - photos).square())
        a, b, c = (masked_mean(product, side) for product in products)
        c = c - 10 ** (-fidelity / 10)
        root = ((b * b - a * c).clamp_min(0).sqrt() - b) / a.clamp_min(1e-12)
        amount = torch.minimum(amount, torch.where(c < 0, root, 0.0))
    return (image + amount.clamp(0, 1)[:, None, None, None] * field).clamp(0, 1)


def _closing(x: Tensor, y: Tensor, hard: Tensor, reach: float) -> Tensor:
    """Offsets within ``reach`` pixels that give a paste's edge the mean gradient of both (Bhat et al., ECCV 2008)."""
    paste, divergence = torch.lerp(y, x, hard), torch.zeros_like(x)
    for dim in (2, 3):
        x_slope, y_slope, slope, crossing = (values.diff(dim=dim) for values in (x, y, paste, hard))
        excess = ((x_slope + y_slope) / 2 - slope) * crossing.abs()
        divergence.narrow(dim, 1, excess.shape[dim]).add_(excess)
        divergence.narrow(dim, 0, excess.shape[dim]).sub_(excess)
    rows, columns = (2 - 2 * np.cos(np.pi * np.arange(size) / size) for size in x.shape[-2:])
    spectrum = dctn(divergence.double().cpu().numpy(), axes=(2, 3), norm="ortho")
    spectrum /= rows[:, None] + columns + 1 / reach**2
    return torch.from_numpy(idctn(spectrum, axes=(2, 3), norm="ortho")).to(x)


def _continued(values: Tensor, side: Tensor, radius: float) -> Tensor:
    """Values (B, C, H, W) on a side, smoothed there and continued beyond it: a step at the edge would be seen."""
    if radius <= 0:
        return values
    blurred = [
        ndimage.gaussian_filter(given.cpu().numpy(), (0, 0, radius, radius), mode="nearest", truncate=6)
        for given in (values * side, side)
    ]
    return torch.from_numpy(blurred[0] / blurred[1].clip(1e-4)).to(values)
