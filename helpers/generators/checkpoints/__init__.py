"""Checkpoints of all known formats, recognised by their content; nothing in a file is ever executed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from helpers.generators.checkpoints import own
from helpers.generators.checkpoints.own import Checkpoint, CheckpointError, Part
from helpers.weights import page_or_pointer

MAX_BYTES = 8 * 2**30  # rosinality's with optimizers have 1 GB

__all__ = ["Checkpoint", "CheckpointError", "Part", "opened", "read_checkpoint"]


def read_checkpoint(path: str | Path, *wanted: str) -> Checkpoint:
    """Read networks of a checkpoint of any known format: the arguments to build ours with, and tensors by our names.

    wanted: "generator", "discriminator"; the first by default. A discriminator that is not read is None, with the
    reason in ``refused``. Raises CheckpointError, one sentence, for a file that is missing, empty, damaged, hostile, a
    web page, or of no known format. Nothing in the file was run.
    """
    path = Path(path)
    with opened(path) as (file, head):
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            return own.read(path)
        from helpers.generators.checkpoints import formats  # foreign files are rare, their readers long

        return formats.interpret(formats.load(file), wanted or ("generator",))


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
            if not head:
                raise CheckpointError("it is empty; get it again.")
            if reason := page_or_pointer(head):
                raise CheckpointError(reason)
            yield file, head
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file {path}; check the path.") from error
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error
    except (RecursionError, MemoryError) as error:
        raise CheckpointError(f"Cannot read {path}: it asks for more memory than there is.") from error
    except CheckpointError as error:
        raise CheckpointError(f"Cannot read {path}: {error}") from error
