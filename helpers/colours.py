"""Colours of images: luminance and chroma, and matching the colours of one image to those of another."""

import functools

import skimage
import torch
from torch import Tensor

# ITU-R BT.601 luma, and the two colour differences of YIQ as in Gatys et al. 2016b
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def to_yiq(images: Tensor) -> Tensor:
    """RGB (B, 3, H, W) in [0, 1] to luminance in [0, 1] and two colour differences, about -0.6 to 0.6."""
    return torch.einsum("yc,bchw->byhw", _yiq(images.device, images.dtype), images)


@functools.cache
def _yiq(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(YIQ, device=device, dtype=dtype)


def grey(images: Tensor) -> Tensor:
    """Luminance in all three channels, (B, 3, H, W) in [0, 1]."""
    return to_yiq(images)[:, :1].expand(-1, 3, -1, -1).clamp(0, 1).contiguous()


def with_chroma(images: Tensor, photos: Tensor) -> Tensor:
    """The luminance of ``images`` with the colours of ``photos``: both (B, 3, H, W) in [0, 1]."""
    mixed = torch.cat([to_yiq(images)[:, :1], to_yiq(photos)[:, 1:]], 1)
    return torch.einsum("cy,byhw->bchw", torch.linalg.inv(_yiq(images.device, images.dtype)), mixed).clamp(0, 1)


def match_linear(image: Tensor, target: Tensor) -> Tensor:
    """Colours of ``image`` (1, 3, h, w), mapped linearly so that mean and covariance are those of ``target``.

    A = S_t^½ (S_t^½ S_i S_t^½)^-½ S_t^½ moves the colours least of all such maps (Pitié & Kokaram 2007).
    """

    def power(matrix: Tensor, exponent: float) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return vectors * values.clamp_min(1e-12).pow(exponent) @ vectors.T

    ours, theirs = (values[0].flatten(1).double() for values in (image, target))
    ridge = 1e-6 * torch.eye(3, dtype=torch.float64, device=image.device)
    root = power(torch.cov(theirs) + ridge, 0.5)
    turn = root @ power(root @ (torch.cov(ours) + ridge) @ root, -0.5) @ root
    mapped = turn @ (ours - ours.mean(1, keepdim=True)) + theirs.mean(1, keepdim=True)
    return mapped.view_as(image[0])[None].to(image.dtype).clamp(0, 1)


def match_histogram(image: Tensor, target: Tensor) -> Tensor:
    """``image`` (1, 3, h, w) with the histogram of ``target`` in every channel, in [0, 1]."""
    arrays = [values[0].permute(1, 2, 0).cpu().numpy() for values in (image, target)]
    matched = skimage.exposure.match_histograms(*arrays, channel_axis=-1)
    return torch.from_numpy(matched).permute(2, 0, 1)[None].to(image).clamp(0, 1).contiguous()


def match_luminance(image: Tensor, target: Tensor) -> Tensor:
    """Grey ``image`` (1, 3, h, w) with the mean and standard deviation of the luminance of ``target``, in [0, 1]."""
    ours, theirs = grey(image), grey(target)
    return ((ours - ours.mean()) / ours.std().clamp_min(1e-6) * theirs.std() + theirs.mean()).clamp(0, 1)
