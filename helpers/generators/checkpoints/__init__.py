"""Checkpoints of all known formats, recognised by their content; nothing in a file is ever executed."""

from __future__ import annotations

import mmap
from pathlib import Path

from helpers.generators.checkpoints import official, own, rosinality, stylegan1_pt, tensorflow, vanilla
from helpers.generators.checkpoints.layout import Checkpoint, Part
from helpers.generators.checkpoints.safe_pickle import SPARE_BYTES, Budget, CheckpointError, read_pickle
from helpers.generators.checkpoints.torch_file import is_legacy, is_zip, read_storage, read_torch_legacy, read_torch_zip
from helpers.weights import WeightsError, page_or_pointer

MAX_BYTES = 8 * 2**30  # rosinality's with optimizers have 1 GB
READERS = (official, tensorflow, rosinality, stylegan1_pt, vanilla)  # of pickles and torch files
KNOWN = "official StyleGAN2-ADA/3, StyleGAN1/2 (TensorFlow), rosinality, g_mapping/g_synthesis and vanilla checkpoints"

__all__ = ["Checkpoint", "CheckpointError", "Part", "read_checkpoint"]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of any known format.

    Returns:
        The arguments to build its networks with and their tensors, under our names.

    Raises:
        CheckpointError: one sentence, for a file that is missing, empty, damaged, hostile, a web page, or of no known
            format. Nothing in the file was run.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise CheckpointError("it is no file.")
        if size > MAX_BYTES:
            raise CheckpointError(f"it has {size / 2**30:.0f} GB, more than any checkpoint that is known.")
        return _read(path, size)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file {path}; check the path.") from error
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error
    except (RecursionError, MemoryError) as error:
        raise CheckpointError(f"Cannot read {path}: it asks for more memory than there is.") from error
    except CheckpointError as error:
        raise CheckpointError(f"Cannot read {path}: {error}") from error


def _read(path: Path, size: int) -> Checkpoint:
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
            return _interpret(read_torch_zip(file, size))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            if is_legacy(head):
                return _interpret(read_torch_legacy(memory, size))
            root = read_pickle(memory, budget=Budget(4 * size + SPARE_BYTES), nested=read_storage)
            return _interpret(root)


def _interpret(root: object) -> Checkpoint:
    """Give the object of a file to the reader that knows its layout."""
    for reader in READERS:
        if reader.matches(root):
            try:
                return reader.read(root)
            except WeightsError:
                raise
            except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
                raise CheckpointError("it is damaged: its parts are not what this format has.") from error
    names = [name for name in root if isinstance(name, str)][:3] if isinstance(root, dict) else []
    found = f"a dict with {', '.join(names)[:80]}" if names else f"a {type(root).__name__}"
    raise CheckpointError(f"it holds {found}, which is none of the formats that are read: {KNOWN}.")
