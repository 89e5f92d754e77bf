"""Labelled photos for the feature network: read once into memory, cropped and recoloured as whole batches."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.images import ImageError, read_image, resize
from helpers.photos import open_set
from staff.training.loop import TrainingError

STORED = 128  # px: training photos are kept squashed to this square, their aspect ratio next to them
TESTED = 112  # px: side of the centre square that the held-out photos are tested on
HELD_OUT = 0.1  # of every class


# --- photos ----------------------------------------------------------------------------------------------------------


@dataclass
class LabelledPhotos:
    """A zip or folder of CLASS/photo files: their names, the label of each, and the names of the classes."""

    path: Path
    names: list[str]
    labels: list[int]
    classes: list[str]

    def split(self, seed: int = 0) -> tuple[list[int], list[int]]:
        """Indices to train on and to hold out: a tenth of every class, at least one photo of each."""
        generator = torch.Generator().manual_seed(seed)
        train, held_out = [], []
        for label in range(len(self.classes)):
            members = [i for i, other in enumerate(self.labels) if other == label]
            order = [members[i] for i in torch.randperm(len(members), generator=generator)]
            count = max(1, round(HELD_OUT * len(members)))
            held_out += order[:count]
            train += order[count:]
        return sorted(train), sorted(held_out)

    def squashed(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Whole photos squashed to a square, uint8 (N, 3, 128, 128), and their aspect ratio width / height (N,)."""
        images, aspects = torch.empty(len(indices), STORED, STORED, 3, dtype=torch.uint8), torch.empty(len(indices))
        for place, photo in enumerate(self._read(indices)):
            aspects[place] = photo.shape[3] / photo.shape[2]
            images[place] = _to_bytes(resize(photo, STORED))
        return images.permute(0, 3, 1, 2), aspects

    def squares(self, indices: list[int], size: int = TESTED) -> Tensor:
        """Centre squares, uint8 (N, 3, size, size)."""
        images = torch.empty(len(indices), size, size, 3, dtype=torch.uint8)
        for place, photo in enumerate(self._read(indices, size)):
            images[place] = _to_bytes(photo)
        return images.permute(0, 3, 1, 2)

    def _read(self, indices: list[int], size: int | None = None) -> Iterator[Tensor]:
        with open_set(self.path) as (_, read):
            for name in (self.names[i] for i in indices):
                yield read_image(read(name), size, name=name)


def _to_bytes(image: Tensor) -> Tensor:
    return (image[0] * 255).round().to(torch.uint8).permute(1, 2, 0)


def _is_readable(content: bytes, name: str) -> bool:
    try:
        read_image(content, name=name)
    except ImageError as error:
        print(f"left out: {error}", file=sys.stderr)
        return False
    return True


def find_labelled(data: str | Path) -> LabelledPhotos:
    """List the CLASS/photo files of a folder or a zip; damaged ones are named on stderr and left out.

    Raises ImageError when `data` is neither, TrainingError for fewer than 2 classes or a class of one photo.
    """
    with open_set(Path(data)) as (found, read):
        names = [name for name in found if "/" in name and _is_readable(read(name), name)]
    owners = [name.split("/")[-2] for name in names]
    classes = sorted(set(owners))
    if len(classes) < 2:
        raise TrainingError(f"Expected CLASS/photo files of at least 2 classes, {data} has {len(classes)}; add some.")
    single = [name for name in classes if owners.count(name) < 2]
    if single:
        raise TrainingError(f"Expected at least 2 photos in every class, {single[0]} has 1; add some or delete it.")
    return LabelledPhotos(Path(data), names, [classes.index(owner) for owner in owners], classes)


# --- augmentation, on whole batches ----------------------------------------------------------------------------------


def augment(images: Tensor, aspects: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Random crops (B, 3, size, size) in [0, 1] of squashed uint8 photos (B, 3, 128, 128), in changed colours."""
    count, device = len(images), images.device
    where = F.affine_grid(random_affine(aspects, generator).to(device), [count, 3, size, size], align_corners=False)
    crops = F.grid_sample(images.float() / 255, where, padding_mode="reflection", align_corners=False)
    matrix, offset = (part.to(device) for part in random_colour(count, generator))
    crops = torch.baddbmm(offset, matrix, crops.flatten(2)).view(count, 3, size, size).clamp_(0, 1)
    return crops.contiguous(memory_format=torch.channels_last)


def random_affine(aspects: Tensor, generator: torch.Generator) -> Tensor:
    """Affine matrices (B, 2, 3) of random crops of squashed photos: place, size, shape, rotation and flip."""
    count = len(aspects)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    side = uniform(0.3, 1.0).sqrt()  # of the photo's short side; the crop's area is uniform
    stretch = uniform(-0.25, 0.25).exp()
    angle = uniform(-0.26, 0.26) * (torch.rand(count, generator=generator) < 0.5)  # ±15° for every second photo
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    short = aspects.clamp(max=1)
    # Half extents of the crop in the squashed photo, which is [-1, 1] x [-1, 1].
    half_x, half_y = (side * stretch * short / aspects).clamp(max=1), (side / stretch * short).clamp(max=1)
    x, y = uniform(-1, 1) * (1 - half_x), uniform(-1, 1) * (1 - half_y)
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack((half_x * cos * flip, -half_x * sin, x), 1)
    second = torch.stack((half_y * sin * flip, half_y * cos, y), 1)
    return torch.stack((first, second), 1)


def random_colour(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Matrices (count, 3, 3) and offsets (count, 3, 1) that change brightness, contrast, saturation and hue."""

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator)).view(count, 1, 1)

    eye, axis = torch.eye(3), torch.full((3, 3), 1 / 3)
    turn = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    grey = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)
    hue, saturation = uniform(-0.2, 0.2), uniform(0.6, 1.4)  # hue in radians, around the grey axis
    matrix = axis + hue.cos() * (eye - axis) + hue.sin() * turn
    matrix = (saturation * eye + (1 - saturation) * grey) @ matrix
    gain, offset = uniform(0.65, 1.35), uniform(-0.1, 0.1)
    return gain * matrix, (0.45 * (1 - gain) + offset).expand(count, 3, 1)  # 0.45: the mean of natural photos


def cutmix(images: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Paste a random box of the batch in reverse order into the batch (CutMix, Yun et al. 2019).

    Takes and returns (B, 3, H, W), and the share of each image that is still its own.
    """
    size = images.shape[-1]
    share, x, y = torch.rand(3, generator=generator).tolist()
    half = math.sqrt(1 - share) * size / 2
    left, right = max(0, round(x * size - half)), min(size, round(x * size + half))
    top, bottom = max(0, round(y * size - half)), min(size, round(y * size + half))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return mixed, 1 - (right - left) * (bottom - top) / size**2
