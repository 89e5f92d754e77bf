"""How close a result is to its target, and how diverse images are: (B, 3, H, W), clamped and rounded to 8 bits."""

import skimage
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.images import quantize

SSIM_WINDOW = 11  # pixels; the Gaussian of sigma 1.5 cut at 3.5 sigma
DISTANCE_LAYERS = ("relu1_2", "relu2_2", "relu3_2")


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB, 10 log10(1 / mse); inf for equal images, ValueError for other sizes."""
    images, targets = _checked(images, targets)
    mse = (images.double() - targets.double()).square().mean(dim=(1, 2, 3))
    return (-10 * torch.log10(mse)).float()


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity (B,) in [-1, 1] (Wang et al. 2004), mean over channels. ValueError below 11 pixels."""
    images, targets = _checked(images, targets)
    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"expected images of at least {SSIM_WINDOW} pixels a side; got {tuple(images.shape)}.")
    options = {"channel_axis": 0, "data_range": 1, "gaussian_weights": True, "sigma": 1.5}
    pairs = zip(images.double().cpu().numpy(), targets.double().cpu().numpy(), strict=True)
    values = [skimage.metrics.structural_similarity(a, b, use_sample_covariance=False, **options) for a, b in pairs]
    return torch.tensor(values, dtype=torch.float32, device=images.device)


@torch.no_grad()
def feature_distance(features, images: Tensor, targets: Tensor, layers=DISTANCE_LAYERS) -> Tensor:
    """How far images are from targets in the eyes of a network, as in LPIPS (Zhang et al. 2018) without its weights.

    Mean squared distance of activations scaled to length 1 per pixel: (B,) in [0, 2]. Raises ValueError without layers.
    """
    if not layers:
        raise ValueError(f"expected at least one layer; {', '.join(DISTANCE_LAYERS)} are the default.")
    ours, theirs = (unit_features(features, values, layers) for values in _checked(images, targets))
    distances = [(a - b).square().sum(1).mean((1, 2)) for a, b in zip(ours, theirs, strict=True)]
    return torch.stack(distances).mean(0)


@torch.no_grad()
def nearest_distance(features, images: Tensor, others: Tensor, layers=DISTANCE_LAYERS) -> Tensor:
    """Feature distance of each image (B, 3, H, W) to that of the others (N, 3, H, W) which is nearest: (B,)."""
    ours, theirs = (unit_features(features, quantize(values), layers) for values in (images, others))
    distances = [
        torch.cdist(a.flatten(1), b.flatten(1)).square() / a[0, 0].numel() for a, b in zip(ours, theirs, strict=True)
    ]
    return torch.stack(distances).mean(0).amin(1)


@torch.no_grad()
def diversity(features, images: Tensor, layers=DISTANCE_LAYERS) -> float:
    """Mean feature distance over all pairs of images, 0 where all are equal. ValueError for fewer than two."""
    if (count := len(images)) < 2:
        raise ValueError(f"expected at least 2 images to compare; got {count}.")
    distances = []
    for unit in unit_features(features, quantize(checked_finite(images)), layers):
        # sum of |u_i - u_j|² over all pairs: N Σ|u_i|² - |Σ u_i|²
        pairs = count * unit.square().sum((0, 1)) - unit.sum(0).square().sum(0)
        distances.append(pairs.mean().item() / (count * (count - 1) / 2))
    return sum(distances) / len(distances)


def unit_features(features, images: Tensor, layers) -> list[Tensor]:
    """Activations (B, C, h, w) of each layer, of length 1 over the channels of every pixel."""
    return [F.normalize(values.float(), dim=1) for values in features(images, layers).values()]


def _checked(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"expected images of shape (B, 3, H, W); got {tuple(images.shape)}.")
    if images.shape != targets.shape:
        shapes = f"{tuple(images.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"expected the same shape on both sides; got {shapes}: resize or repeat one of them.")
    return quantize(checked_finite(images)), quantize(checked_finite(targets))


def checked_finite(values: Tensor) -> Tensor:
    """The values; raises ValueError for NaN and infinity."""
    if not torch.isfinite(values).all():
        raise ValueError("expected finite values; got NaN or infinity: check the step that made them.")
    return values
