"""What every reader gives, and the small steps that all of them share."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from helpers.generators.checkpoints.safe_pickle import CheckpointError, Record, shown
from helpers.generators.checkpoints.torch_file import LazyTensor

RESOLUTIONS = tuple(2**i for i in range(2, 11))


@dataclass
class Part:
    """One network of a checkpoint: the arguments to build ours with, and its state dict (float32)."""

    config: dict
    tensors: dict[str, Tensor]


@dataclass
class Checkpoint:
    """What was read from a file.

    Attributes:
        format: the kind of file, for people.
        family: "stylegan1", "stylegan2" or "dcgan".
        generator: as Part; noise maps and the mean of w may be missing where the format has none.
        read_discriminator: gives the discriminator as Part, or None for a file without one.
        w_std: standard deviation of w, (w_dim,), where the file has it.
    """

    format: str
    family: str
    generator: Part | None = None
    read_discriminator: Callable[[], Part] | None = None
    w_std: Tensor | None = None


def to_tensor(value) -> Tensor:
    """A float32 tensor of a lazy tensor, an array or a number; CheckpointError for anything else or NaN."""
    if isinstance(value, LazyTensor):
        tensor = value.read()
    elif isinstance(value, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="))).copy())
    elif isinstance(value, int | float):
        tensor = torch.tensor(float(value))
    else:
        raise CheckpointError(f"it holds a {shown(type(value).__name__)} where a tensor belongs.")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise CheckpointError("it holds values that are NaN or infinite: its training failed, or it is damaged.")
    return tensor


def is_tensor(value) -> bool:
    return isinstance(value, LazyTensor | np.ndarray)


def flatten(tree: Mapping, depth: int = 4) -> dict[str, LazyTensor]:
    """Tensors by dotted name of dicts in dicts, without DataParallel's "module."; other values are left out."""

    def walk(prefix: str, branch: Mapping, depth: int) -> Iterator[tuple[str, LazyTensor]]:
        for name, value in branch.items():
            if is_tensor(value):
                yield f"{prefix}{name}".removeprefix("module."), value
            elif isinstance(value, dict) and depth:
                yield from walk(f"{prefix}{name}.", value, depth - 1)

    return dict(walk("", tree, depth))


def state_of(record) -> dict:
    """The state of a record; CheckpointError for anything that is none."""
    if not isinstance(record, Record) or type(record.state) is not dict:
        raise CheckpointError("it is damaged: a network has no state.")
    return record.state


def take(tensors: Mapping, name: str):
    """An entry; CheckpointError, which names it, when it is missing."""
    if name not in tensors:
        raise CheckpointError(f"it lacks {shown(name)}, so it is no whole network of this kind.")
    return tensors[name]


def shape_of(tensors: Mapping, name: str, dims: int) -> tuple[int, ...]:
    """Shape of an entry; CheckpointError unless it has so many axes."""
    shape = tuple(getattr(take(tensors, name), "shape", ()))
    if len(shape) != dims:
        raise CheckpointError(f"its {shown(name)} has {len(shape)} axes in place of {dims}.")
    return shape


def count(tensors: Container, name: str, first: int = 0, most: int = 64) -> int:
    """How many of name.format(first), name.format(first + 1), … there are, at least 1."""
    found = next((i for i in range(most) if name.format(first + i) not in tensors), most)
    if not found:
        raise CheckpointError(f"it lacks {name.format(first)}, so it is no whole network of this kind.")
    return found


def channel_rule(widths: dict[int, int]) -> dict[str, int]:
    """The channel_base and channel_max of which ``min(channel_base // r, channel_max)`` gives the widths.

    Raises CheckpointError where there are none.
    """
    most = max(widths.values())
    base = next((width * r for r, width in widths.items() if width < most), most * max(widths))
    if any(width != min(base // r, most) for r, width in widths.items()):
        listed = ", ".join(f"{width} at {r}" for r, width in widths.items())
        raise CheckpointError(f"its numbers of channels follow no rule that is known here: {listed}.")
    return {"channel_base": base, "channel_max": most}


def side(resolutions) -> int:
    """The image side of a network that has blocks for these resolutions; CheckpointError where one is missing."""
    found = sorted(resolutions)
    if not found or found != list(RESOLUTIONS[: len(found)]) or len(found) < 3:
        raise CheckpointError(f"its resolutions are {found[:12]}; 4, 8, 16, … up to 1024 were expected.")
    return found[-1]


def expect(condition: bool, what: str) -> None:
    """Raise CheckpointError: the network differs from ours in a way that changes its pictures."""
    if not condition:
        raise CheckpointError(f"its network is of a kind that is not read: {what}.")


def log2(resolution: int) -> int:
    return int(math.log2(resolution))
