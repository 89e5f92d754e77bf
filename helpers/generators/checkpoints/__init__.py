"""Checkpoints of all known formats, recognised by their content; nothing in a file is ever executed."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

from helpers.generators.checkpoints import official, own, rosinality, stylegan1_pt, tensorflow, vanilla
from helpers.generators.checkpoints.layout import Checkpoint, Contents, Part, contents_of
from helpers.generators.checkpoints.safe_pickle import read_pickle
from helpers.generators.checkpoints.torch_file import is_legacy, is_zip, read_storage, read_torch_legacy, read_torch_zip
from helpers.generators.checkpoints.values import Budget, CheckpointError, Record
from helpers.weights import WeightsError, page_or_pointer

MAX_BYTES = 8 * 2**30  # rosinality's with optimizers have 1 GB
READERS = (official, tensorflow, rosinality, stylegan1_pt, vanilla)  # of pickles and torch files
KNOWN = "official StyleGAN2-ADA/3, StyleGAN1/2 (TensorFlow), rosinality, g_mapping/g_synthesis and vanilla checkpoints"

__all__ = ["Checkpoint", "CheckpointError", "Part", "read_checkpoint", "read_object"]


def read_checkpoint(path: str | Path, *wanted: str) -> Checkpoint:
    """Read networks of a checkpoint of any known format.

    Args:
        wanted: "generator", "discriminator"; the first by default.

    Returns:
        The arguments to build the networks with and their tensors, under our names. A discriminator that is not read
        is None, with the reason in ``refused``.

    Raises:
        CheckpointError: one sentence, for a file that is missing, empty, damaged, hostile, a web page, or of no known
            format. Nothing in the file was run.
    """
    return _read(Path(path), lambda root: _interpret(root, wanted or ("generator",)))


def read_object(path: str | Path, use: Callable[[object], object]) -> object:
    """What a function makes of the object in a pickle or torch file, while the file is open; raises CheckpointError."""
    return _read(Path(path), use)


def _read(path: Path, use: Callable[[object], object]):
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise CheckpointError("it is not a file.")
        if size > MAX_BYTES:
            raise CheckpointError(f"it has {size / 2**30:.0f} GB, more than any checkpoint that is known.")
        return _opened(path, size, use)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file {path}; check the path.") from error
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error
    except (RecursionError, MemoryError) as error:
        raise CheckpointError(f"Cannot read {path}: it asks for more memory than there is.") from error
    except CheckpointError as error:
        raise CheckpointError(f"Cannot read {path}: {error}") from error


def _opened(path: Path, size: int, use: Callable[[object], object]):
    with open(path, "rb") as file:
        head = file.read(4096)
        if not head:
            raise CheckpointError("it is empty; get it again.")
        reason = page_or_pointer(head)
        if reason:
            raise CheckpointError(reason)
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            return own.read(path)
        if is_zip(head):
            return use(read_torch_zip(file, size))
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last tensor that reads from it
        if is_legacy(head):
            return use(read_torch_legacy(memory, size))
        return use(read_pickle(memory, Budget(size), nested=read_storage))


def _interpret(root: object, wanted: tuple[str, ...]) -> Checkpoint:
    """Give the object of a file to the reader that knows its layout."""
    contents = contents_of(root)
    for reader in READERS:
        if reader.matches(contents):
            checkpoint = Checkpoint(reader.FORMAT)
            if "generator" in wanted:
                checkpoint.generator = _part(reader.generator, contents)
            if "discriminator" in wanted:
                try:
                    checkpoint.discriminator = _part(reader.discriminator, contents)
                except WeightsError as error:
                    checkpoint.refused = str(error)
            return checkpoint
    names = [name for name in root if isinstance(name, str)][:3] if isinstance(root, dict) else []
    kind = root.kind if isinstance(root, Record) else type(root).__name__
    found = f"a dict with {', '.join(names)[:80]}" if names else f"a {kind}"
    raise CheckpointError(f"it holds {found}, which is none of the formats that are read: {KNOWN}.")


def _part(read: Callable[[Contents], Part | None], contents: Contents) -> Part | None:
    try:
        return read(contents)
    except WeightsError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError("it is damaged: its parts are not what this format has.") from error
