"""Labelled photos for the feature network: decoded once, then cropped and recoloured in batches on the device."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from helpers.images import ImageError, read_image, resize
from helpers.photos import open_set
from staff.training.loop import TrainingError

STORED = 128  # px: side of the squares that photos are squeezed to in memory
HELD_OUT = 0.1  # share of every class
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@dataclass
class LabelledPhotos:
    """Photos squeezed to squares, uint8 (N, 3, STORED, STORED); width / height and label of each; names of classes."""

    pixels: Tensor
    ratios: Tensor
    labels: Tensor
    classes: list[str]

    def split(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Indices to train on and to hold out: a tenth of every class, at least one photo of each."""
        generator, train, held_out = torch.Generator().manual_seed(seed), [], []
        for label in range(len(self.classes)):
            members = (self.labels == label).nonzero()[:, 0]
            order = members[torch.randperm(len(members), generator=generator)]
            count = max(1, round(HELD_OUT * len(members)))
            held_out.append(order[:count])
            train.append(order[count:])
        return torch.cat(train).sort().values, torch.cat(held_out).sort().values

    def crops(self, index: Tensor, size: int, random: torch.Generator | None = None) -> Tensor:
        """Squares (B, 3, size, size) in [0, 1] of these photos: the central ones, or random, turned, mirrored ones."""
        photos, ratios = (part[index.to(part.device)] for part in (self.pixels, self.ratios))
        count, edge = len(index), ratios.clamp(max=1)  # in heights of the photo
        corner, turn = torch.zeros(2, count, device=ratios.device), torch.zeros_like(ratios)
        width, height, mirror = edge, edge, torch.ones_like(ratios)
        if random:
            area, stretch = uniform(count, 0.3, 1, random) * ratios, uniform(count, -0.25, 0.25, random).exp()
            width, height = (area * stretch).sqrt(), (area / stretch).sqrt()
            excess = torch.maximum(width / ratios, height).clamp(min=1)
            width, height = width / excess, height / excess
            corner = torch.stack([uniform(count, -1, 1, random), uniform(count, -1, 1, random)])
            turn = uniform(count, -0.26, 0.26, random) * (uniform(count, 0, 1, random) < 0.3)
            mirror = uniform(count, -1, 1, random).sign()
        rows = [
            [width * turn.cos() * mirror / ratios, -height * turn.sin() / ratios, corner[0] * (1 - width / ratios)],
            [width * turn.sin() * mirror, height * turn.cos(), corner[1] * (1 - height)],
        ]
        where = torch.stack([torch.stack(row, -1) for row in rows], 1)
        where = F.affine_grid(where, [count, 3, size, size], align_corners=False)
        crops = F.grid_sample(photos.float() / 255, where, padding_mode="reflection", align_corners=False)
        return crops.clamp(0, 1).contiguous(memory_format=torch.channels_last)


def uniform(count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return torch.rand(count, generator=random, device=random.device) * (high - low) + low


def recoloured(images: Tensor, random: torch.Generator) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] in other brightness, contrast, saturation and hue, a tenth grey; some blurred."""
    count, yiq = len(images), torch.tensor(YIQ)
    grey = uniform(count, 0, 1, random) < 0.1
    saturation, hue = uniform(count, 0.5, 1.5, random) * ~grey, uniform(count, -0.2, 0.2, random)
    turn = torch.zeros(count, 3, 3, device=images.device)
    turn[:, 0, 0], turn[:, 1, 1], turn[:, 2, 2] = 1, saturation * hue.cos(), saturation * hue.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -saturation * hue.sin(), saturation * hue.sin()
    change = yiq.inverse().to(turn) @ turn @ yiq.to(turn) * uniform(count, 0.65, 1.35, random).view(-1, 1, 1)
    mean = images.mean((2, 3), keepdim=True)
    images = torch.einsum("nij,njhw->nihw", change, images - mean.mean(1, keepdim=True))
    images = images + mean.mean(1, keepdim=True) * uniform(count, 0.7, 1.3, random).view(-1, 1, 1, 1)
    share = uniform(count, 0, 1, random) * (uniform(count, 0, 1, random) < 0.3)
    blurred = gaussian_blur(images, [9, 9], [2.0])
    return torch.lerp(images, blurred, share.view(-1, 1, 1, 1)).clamp(0, 1)


def load_labelled(data: str | Path) -> LabelledPhotos:
    """Read the CLASS/photo files of a folder or a zip; damaged ones are named on stderr and left out.

    Raises ImageError when `data` is neither, TrainingError for fewer than 2 classes or a class of one photo.
    """

    def decode(name: str) -> tuple[str, Tensor, float] | None:
        try:
            photo = read_image(read(name), name=name)
        except ImageError as error:
            print(f"left out: {error}", file=sys.stderr)
            return None
        squeezed = resize(photo, (STORED, STORED))[0].mul(255).round().to(torch.uint8)
        return name.split("/")[-2], squeezed, photo.shape[3] / photo.shape[2]

    with open_set(Path(data)) as (found, read), ThreadPoolExecutor() as pool:
        photos = list(filter(None, pool.map(decode, [name for name in found if "/" in name])))
    owners = [owner for owner, _, _ in photos]
    classes = sorted(set(owners))
    if len(classes) < 2:
        raise TrainingError(f"Expected CLASS/photo files of at least 2 classes, {data} has {len(classes)}; add some.")
    if single := [name for name in classes if owners.count(name) < 2]:
        raise TrainingError(f"Expected at least 2 photos in every class, {single[0]} has 1; add some or delete it.")
    _, pixels, ratios = zip(*photos, strict=True)
    labels = torch.tensor([classes.index(owner) for owner in owners])
    return LabelledPhotos(torch.stack(pixels), torch.tensor(ratios), labels, classes)
