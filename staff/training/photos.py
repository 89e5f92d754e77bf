"""Labelled photos for the feature network: read once into memory, cropped and recoloured at random."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2

from helpers.images import ImageError, read_image
from helpers.photos import open_set
from staff.training.loop import TrainingError

STORED = 128  # px: short side of the training photos in memory
TESTED = 112  # px: side of the centre square that the held-out photos are tested on
HELD_OUT = 0.1  # share of every class


@dataclass
class LabelledPhotos:
    """A zip or folder of CLASS/photo files: their names, the label of each, and the names of the classes."""

    path: Path
    names: list[str]
    labels: list[int]
    classes: list[str]

    def split(self, seed: int = 0) -> tuple[list[int], list[int]]:
        """Indices to train on and to hold out: a tenth of every class, at least one photo of each."""
        generator, train, held_out = torch.Generator().manual_seed(seed), [], []
        for label in range(len(self.classes)):
            members = [i for i, other in enumerate(self.labels) if other == label]
            order = [members[i] for i in torch.randperm(len(members), generator=generator)]
            count = max(1, round(HELD_OUT * len(members)))
            held_out += order[:count]
            train += order[count:]
        return sorted(train), sorted(held_out)

    def whole(self, indices: list[int]) -> list[Tensor]:
        """Photos of a short side of STORED, uint8 (3, H, W) each."""
        return [v2.functional.resize(photo, [STORED]) for photo in self._read(indices)]

    def squares(self, indices: list[int], size: int = TESTED) -> Tensor:
        """Centre squares, uint8 (N, 3, size, size)."""
        return torch.stack(list(self._read(indices, size)))

    def _read(self, indices: list[int], size: int | None = None) -> Iterator[Tensor]:
        with open_set(self.path) as (_, read):
            for name in (self.names[i] for i in indices):
                yield (read_image(read(name), size, name=name)[0] * 255).round().to(torch.uint8)


def find_labelled(data: str | Path) -> LabelledPhotos:
    """List the CLASS/photo files of a folder or a zip; damaged ones are named on stderr and left out.

    Raises ImageError when `data` is neither, TrainingError for fewer than 2 classes or a class of one photo.
    """
    names = []
    with open_set(Path(data)) as (found, read):
        for name in (name for name in found if "/" in name):
            try:
                read_image(read(name), name=name)
                names.append(name)
            except ImageError as error:
                print(f"left out: {error}", file=sys.stderr)
    owners = [name.split("/")[-2] for name in names]
    classes = sorted(set(owners))
    if len(classes) < 2:
        raise TrainingError(f"Expected CLASS/photo files of at least 2 classes, {data} has {len(classes)}; add some.")
    if single := [name for name in classes if owners.count(name) < 2]:
        raise TrainingError(f"Expected at least 2 photos in every class, {single[0]} has 1; add some or delete it.")
    return LabelledPhotos(Path(data), names, [classes.index(owner) for owner in owners], classes)


def augment(photos: list[Tensor], size: int) -> Tensor:
    """Random crops (B, 3, size, size) in [0, 1] of uint8 photos, in changed colours; by the global generator."""
    change = v2.Compose([
        v2.RandomApply([v2.RandomRotation(15)], 0.3),
        v2.RandomResizedCrop(size, (0.3, 1.0), (0.78, 1.28)),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=0.3, contrast=0.35, saturation=0.4, hue=0.03),
    ])  # fmt: skip
    return torch.stack([change(photo) for photo in photos]).float() / 255
