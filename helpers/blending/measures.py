"""How good a blend is: its seam, its two sides. x and y are (B, 3, H, W) in [0, 1], masks (B or 1, 1, H, W)."""

import torch
from torch import Tensor

from helpers.images import quantize
from helpers.losses import lp_loss
from helpers.masks import as_mask, blur, edge_band, grow
from helpers.metrics import feature_distance, psnr

STEP = 1 / 255  # the smallest gradient that an 8-bit image can show: flatter photos count as this steep


def seam(images: Tensor, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """How visible the edge is: mean gradient magnitude across it over that of the same pixels in x and y, (B,).

    The gradient is the length of the difference in RGB of neighbours on both sides. Above 1 is a seam, NaN is no edge.
    """

    def crossing(values: Tensor) -> Tensor:
        total, count = 0.0, 0.0
        for dim in (2, 3):
            edge = hard.diff(dim=dim).expand(len(values), -1, -1, -1)
            total = total + (values.diff(dim=dim).norm(dim=1, keepdim=True) * edge).sum((1, 2, 3))
            count = count + edge.sum((1, 2, 3))
        return total / count

    hard = as_mask(mask, tuple(x.shape[-2:])).to(x) >= 0.5
    return crossing(images) / ((crossing(x) + crossing(y)) / 2).clamp_min(STEP)


def worst_seam(images: Tensor, x: Tensor, y: Tensor, mask: Tensor, reach: int = 8) -> Tensor:
    """The largest ``seam`` along the edge and its parallels up to ``reach`` pixels away: finds a seam moved aside."""
    edges = [grow((mask >= 0.5).float(), float(offset)) for offset in range(-reach, reach + 1)]
    values = [seam(images, x, y, edge) for edge in edges]
    return torch.stack(values).nan_to_num(0.0).amax(0)


def two_tone(images: Tensor, x: Tensor, y: Tensor, mask: Tensor, reach: float = 1 / 8) -> Tensor:
    """How two-coloured a blend is: the step between blurred bands, ``reach`` wide, on both sides, as in ``seam``."""
    hard, width = (mask >= 0.5).to(x), reach * x.shape[-1]
    bands, edge = (hard - grow(hard, -width), grow(hard, width) - hard), edge_band(hard)
    shares = [blur(band, 0.75 * width).clamp_min(1e-3) for band in bands]

    def step(values: Tensor) -> Tensor:
        inner, outer = (blur(values * band, 0.75 * width) / share for band, share in zip(bands, shares, strict=True))
        return ((inner - outer).norm(dim=1, keepdim=True) * edge).sum((1, 2, 3)) / edge.sum((1, 2, 3))

    return step(images) / ((step(x) + step(y)) / 2).clamp_min(STEP)


def region_psnr(images: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """PSNR (B,) in dB over the pixels of a mask (at least 0.5), after 8-bit rounding; inf where they are equal."""
    hard = (mask >= 0.5).to(images)
    return -10 * torch.log10(lp_loss(quantize(images), quantize(targets), 2, hard))


@torch.no_grad()
def measure(images: Tensor, x: Tensor, y: Tensor, mask: Tensor, features=None) -> dict[str, Tensor]:
    """Measures (B,) of a blend of x inside the mask (at least 0.5) and y outside, feature distances per side."""
    hard = (mask >= 0.5).to(x)
    sides = {"x": (x, hard), "y": (y, 1 - hard)}
    values = {"seam": seam(images, x, y, mask), "worst_seam": worst_seam(images, x, y, mask)}
    values["two_tone"] = two_tone(images, x, y, mask)
    values["psnr"] = psnr(images, torch.lerp(y, x, hard))
    values |= {f"psnr_{name}": region_psnr(images, *side) for name, side in sides.items()}
    if features is not None:
        for name, (source, where) in sides.items():
            continued = torch.lerp(source, images, where)
            values[f"feature_distance_{name}"] = feature_distance(features, continued, source)
    return values
