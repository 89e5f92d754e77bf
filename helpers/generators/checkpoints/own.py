"""What every reader gives, and the safetensors files of this project.

Their tensors are ``generator.…``, ``discriminator.…`` and ``statistics.w_std``; the metadata holds JSON under
``config``: ``family``, the arguments of ``generator`` and ``discriminator``, and facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from helpers.weights import WeightsError, load_weights


class CheckpointError(WeightsError):
    """A checkpoint that is damaged, hostile, or of a kind that is not read; the message says which."""


@dataclass
class Part:
    """One network of a checkpoint: the arguments to build ours with, and its state dict (float32)."""

    family: str
    config: dict
    tensors: dict[str, Tensor]


@dataclass
class Checkpoint:
    """What was read from a file of some ``format``.

    Networks are None unless asked for; noise maps and the mean of w may be missing. ``refused`` is a sentence on why
    the discriminator cannot be read, ``w_std`` the standard deviation of w, (w_dim,), if the file has it.
    """

    format: str
    generator: Part | None = None
    discriminator: Part | None = None
    refused: str = ""
    w_std: Tensor | None = None


def read(path: Path) -> Checkpoint:
    """Read both networks. Raises WeightsError."""
    tensors, config = load_weights(path)
    family = config.get("family") if isinstance(config, dict) else None
    if not isinstance(family, str):
        raise CheckpointError("it holds no generator of a known family.")

    def part(name: str) -> Part | None:
        own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        return Part(family, config[name], own) if isinstance(config.get(name), dict) else None

    generator = part("generator")
    if generator and "statistics.w_std" not in tensors and not generator.config.get("c_dim"):
        generator.tensors.pop("mapping.w_avg", None)  # as training left it: both are measured
    w_std = tensors.get("statistics.w_std")
    return Checkpoint("safetensors of this project", generator, part("discriminator"), w_std=w_std)
