"""Checkpoints of all known formats, recognised by their content; nothing in a file is ever executed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from helpers.weights import WeightsError, load_weights, page_or_pointer

MAX_BYTES = 8 * 2**30  # rosinality's with optimizers have 1 GB


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


def read_checkpoint(path: str | Path, *wanted: str) -> Checkpoint:
    """Read networks of a file of any known format; wanted: "generator" (the default), "discriminator".

    Raises CheckpointError, one sentence, for any file that is not a whole checkpoint. Nothing in it was run.
    """
    path = Path(path)
    with opened(path) as (file, head):
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            return _own(path)
        from helpers.generators.checkpoints import formats  # foreign files are rare, their readers long

        return formats.read(file, wanted or ("generator",))


def _own(path: Path) -> Checkpoint:
    """Of this project: tensors ``generator.…`` and ``discriminator.…``, and their arguments in the configuration."""
    tensors, config = load_weights(path)
    family = config.get("family") if isinstance(config, dict) else None
    if not isinstance(family, str):
        raise CheckpointError("it holds no generator of a known family.")

    def part(name: str) -> Part | None:
        own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        return Part(family, config[name], own) if isinstance(config.get(name), dict) else None

    generator, w_std = part("generator"), tensors.get("statistics.w_std")
    if generator and w_std is None and not generator.config.get("c_dim"):
        generator.tensors.pop("mapping.w_avg", None)  # as training left it: both are measured
    return Checkpoint("safetensors of this project", generator, part("discriminator"), w_std=w_std)


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, bytes]]:
    """A file of weights and its first bytes; whatever is wrong with it, inside the block too, is a CheckpointError."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise CheckpointError("it is not a file.")
        if size > MAX_BYTES:
            raise CheckpointError(f"it has {size / 2**30:.0f} GB, more than any checkpoint that is known.")
        with open(path, "rb") as file:
            head = file.read(4096)
            if reason := page_or_pointer(head) or ("" if head else "it is empty; get it again."):
                raise CheckpointError(reason)
            yield file, head
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file {path}; check the path.") from error
    except (OSError, RecursionError, MemoryError, CheckpointError) as error:
        reason = f"{error.strerror}." if isinstance(error, OSError) else str(error)
        if isinstance(error, RecursionError | MemoryError):
            reason = "it asks for more memory than there is."
        raise CheckpointError(f"Cannot read {path}: {reason}") from error
    except WeightsError as error:  # it names the file
        raise CheckpointError(str(error)) from error
