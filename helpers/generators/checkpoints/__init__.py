"""Checkpoints of all known formats, recognised by their content; nothing in a file is ever executed."""

import pickle
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from helpers.files import sha256
from helpers.weights import WeightsError, load_weights, page_or_pointer, registry, weights_path

MAX_BYTES = 8 * 2**30  # rosinality's with optimizers have 1 GB
UNFIT = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)  # what odd parts raise
UNFIT += (EOFError, struct.error, pickle.UnpicklingError, zipfile.BadZipFile)


class CheckpointError(WeightsError):
    """A checkpoint that is damaged, hostile, or of a kind that is not read; the message says which."""


class NoDiscriminator(WeightsError):
    """A checkpoint without a discriminator, or with one that is not read."""


def shown(text: str, most: int = 60) -> str:
    """Text from a file, made fit for an error message: printable and short."""
    text = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return text if len(text) <= most else text[:most] + "…"


@dataclass
class Part:
    """One network of a checkpoint: arguments of ours and a state dict (noise maps, mean of w may be missing)."""

    family: str
    config: dict
    tensors: dict[str, Tensor]
    format: str = ""
    w_std: Tensor | None = None  # standard deviation of w, (w_dim,), if the file has it
    base: str = ""  # of a tuned generator, the model that it was tuned from, as --model names it


def read_checkpoint(path: str | Path, kind: str = "generator") -> Part:
    """The "generator" or the "discriminator" of a file of any known format; CheckpointError for any other file."""
    path = Path(path)
    with opened(path) as (file, head):
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            return _own(path, kind)
        from helpers.generators.checkpoints import formats  # foreign files are rare, their readers long

        return formats.read(file, kind)


def _own(path: Path, kind: str) -> Part:
    """Of this project: tensors ``generator.…`` and ``discriminator.…``, and their arguments in the configuration."""
    tensors, config = load_weights(path)
    if isinstance(config, dict) and "tuned_from" in config:
        return _tuned(path, kind, tensors, config["tuned_from"])
    if not isinstance(config, dict) or not isinstance(config.get("family"), str):
        raise CheckpointError("it holds no generator of a known family.")
    if not isinstance(config.get(kind), dict):
        raise NoDiscriminator("") if kind == "discriminator" else CheckpointError("it holds no generator.")
    part = Part(config["family"], config[kind], {}, "safetensors of this project", tensors.get("statistics.w_std"))
    part.tensors = {k.removeprefix(f"{kind}."): v for k, v in tensors.items() if k.startswith(f"{kind}.")}
    if part.w_std is None and not part.config.get("c_dim"):
        part.tensors.pop("mapping.w_avg", None)  # as training left it: both are measured
    return part


def _tuned(path: Path, kind: str, changes: dict[str, Tensor], base: object) -> Part:
    """Of this project too: the weights of the model that ``base`` names, plus the changes in the file."""
    model, checksum = (base.get("model"), base.get("sha256")) if isinstance(base, dict) else (None, None)
    if not isinstance(model, str) or not isinstance(checksum, str):
        raise CheckpointError("it does not say which model it was tuned from.")
    part = read_checkpoint(_base_of(path, model, checksum), kind)
    part.base = model
    if kind == "generator":
        for key, change in changes.items():
            value = part.tensors.get(key)
            if value is None or value.shape != change.shape or not change.isfinite().all():
                fit = f"does not fit {shown(model)}, or is not finite"
                raise CheckpointError(f"its {shown(key)} {(*change.shape,)} {fit}; tune the model again.")
            part.tensors[key] = value + change
    return part


def _base_of(path: Path, model: str, checksum: str) -> Path:
    """The file of the model, NAME or NAME@3, that a file was tuned from."""
    name, _, label = model.rpartition("@")
    name = name if name and label.isdecimal() else model
    places = [weights_path(name)] if name in registry() else [Path(name), path.parent / Path(name).name]
    source = next((place for place in places if place.is_file()), None)
    if source is None:
        raise CheckpointError(f"it was tuned from {shown(name)}, which is not there; put that file next to it.")
    if sha256(source) != checksum:
        found = f"with the SHA-256 {shown(checksum, 8)}, and {source} is not that"
        raise CheckpointError(f"it was tuned from a model {found}; get that one, or tune again.")
    return source


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
    except (RecursionError, MemoryError) as error:
        raise CheckpointError(f"Cannot read {path}: it asks for more memory than there is.") from error
    except NoDiscriminator as error:
        reason = f" that is read: {error}" if str(error) else "; choose another file."
        raise NoDiscriminator(f"{path} holds no discriminator{reason}") from error
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except WeightsError as error:  # it names the file
        raise CheckpointError(str(error)) from error
    except UNFIT as error:
        reason = f"{type(error).__name__}, {shown(' '.join(str(error).split()), 100)}"
        odd = "it is damaged, or its parts are not what this format has"
        raise CheckpointError(f"Cannot read {path}: {odd}: {reason}.") from error
