"""Differentiable augmentation for GAN training with little data.

The transformations are those of DiffAugment (Zhao et al., NeurIPS 2020): colour, translation, cutout. Each is applied
to a sample with probability p, which the rule of ADA adapts (Karras et al., "Training GANs with Limited Data",
NeurIPS 2020): p rises while the discriminator is sure of more than 60 % of the real images, and falls otherwise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TARGET = 0.6  # mean sign of D(real) that ADA holds


def adapt(p: float, real_sign: float, step: float) -> float:
    """Return the probability, changed by ``step``, after images with mean sign ``real_sign`` of the real scores."""
    return min(max(p + (step if real_sign > TARGET else -step), 0.0), 0.8)


def augment(images: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Augment images (B, 3, H, W) in [0, 1]; each of three transformations hits a sample with probability p."""
    if p <= 0:
        return images
    for transformation in (_colour, _translate, _cutout):
        changed = transformation(images, generator)
        hit = _uniform((len(images), 1, 1, 1), generator) < p
        images = torch.where(hit, changed, images)
    return images


def _uniform(shape, generator, low=0.0, high=1.0):
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def _colour(images, generator):
    shape = (len(images), 1, 1, 1)
    images = images + _uniform(shape, generator, -0.25, 0.25)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * _uniform(shape, generator, 0.0, 2.0)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * _uniform(shape, generator, 0.5, 1.5)


def _translate(images, generator):
    """Shift by up to an eighth of the side; what comes in is grey."""
    batch, _, height, width = images.shape
    theta = torch.eye(2, 3, dtype=images.dtype, device=images.device).repeat(batch, 1, 1)
    shift = _uniform((batch, 2), generator, -1, 1) * torch.tensor([width // 8, height // 8], device=images.device)
    theta[:, :, 2] = shift.round() * 2 / torch.tensor([width, height], device=images.device)
    where = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images - 0.5, where, mode="nearest", align_corners=False) + 0.5


def _cutout(images, generator):
    """Grey square of half the side at a random place."""
    batch, _, height, width = images.shape
    centre = _uniform((batch, 2, 1, 1), generator)
    ys = (torch.arange(height, device=images.device)[None, :, None] / height - centre[:, 0]).abs() < 0.25
    xs = (torch.arange(width, device=images.device)[None, None, :] / width - centre[:, 1]).abs() < 0.25
    return torch.where((ys & xs)[:, None], torch.full_like(images, 0.5), images)
