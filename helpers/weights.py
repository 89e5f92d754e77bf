"""Bundled and downloaded weights: one registry of SHA-256 sums, read and written as safetensors only."""

import hashlib
import json
import sys
from pathlib import Path

import pooch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from helpers.images import atomic_path

FOLDER = Path(__file__).resolve().parent.parent / "weights"

_sums: dict[tuple[str, int, int], str] = {}  # (path, size, mtime) -> SHA-256: a file is hashed once per process


class WeightsError(ValueError):
    """Weights that are unknown, missing, damaged or unreachable."""


def sha256(path: str | Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits; a file that did not change is read once per process."""
    stat = Path(path).stat()
    key = (str(Path(path).resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _sums:
        with open(path, "rb") as file:
            _sums[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _sums[key]


def registry() -> dict[str, dict]:
    """Entries of weights/registry.json by name: file, sha256, kind, summary, size in bytes and, if any, url.

    Raises WeightsError when the file is not JSON; an absent file is an empty registry.
    """
    path = FOLDER / "registry.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise WeightsError(
            f"{path} is not valid JSON ({error}); restore it with `git checkout {path.name}`."
        ) from error


def register(name: str, path: str | Path, *, kind: str, summary: str, url: str | None = None) -> dict:
    """Enter the file `path`, which lies in weights/, into the registry under `name`, and return its entry.

    `kind` says what reads it (generator, discriminator, features), `summary` is one line for lists,
    `url` is where to get it when it is not in the repository. Raises WeightsError for a file elsewhere.
    """
    path = Path(path).resolve()
    if not path.is_file() or not path.is_relative_to(FOLDER.resolve()):
        raise WeightsError(f"Expected a file in {FOLDER}, got {path}; move it there before it is registered.")
    entry = {"file": path.relative_to(FOLDER.resolve()).as_posix(), "sha256": sha256(path), "kind": kind}
    entry |= {"summary": summary, "size": path.stat().st_size} | ({"url": url} if url else {})
    entries = dict(sorted((registry() | {name: entry}).items()))
    with atomic_path(FOLDER / "registry.json") as partial:
        partial.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return entry


def download(url: str, path: str | Path, checksum: str) -> Path:
    """Fetch `url` to `path` unless it is there; its SHA-256 must begin with `checksum` (hexadecimal).

    The file gets its name only when it is whole and checked. Raises WeightsError when it cannot be
    fetched or differs.
    """
    path = Path(path)
    if path.exists():
        return path
    with atomic_path(path) as partial:
        try:
            pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)(url, str(partial), None)
        except (OSError, ValueError) as error:  # what requests raises are OSErrors
            reason = f"could not be fetched ({type(error).__name__})"
            raise WeightsError(f"{url} {reason}; check the network, or put the file at {path} by hand.") from error
        if not sha256(partial).startswith(checksum):
            raise WeightsError(f"{url} gave SHA-256 {sha256(partial)[:8]}…, expected {checksum[:8]}…; try again later.")
    return path


def weights_path(name: str) -> Path:
    """The file of a registered name, after its SHA-256 was compared with weights/registry.json.

    A file that has a url is downloaded the first time. Raises WeightsError for an unknown name (it lists
    the known ones), a missing file, or another checksum.
    """
    entries = registry()
    if name not in entries:
        raise WeightsError(f"Unknown weights {name!r}; known are: {', '.join(entries) or 'none yet'}.")
    entry = entries[name]
    path = FOLDER / entry["file"]
    if not path.exists() and entry.get("url"):
        download(entry["url"], path, entry["sha256"])
    if not path.is_file():
        raise WeightsError(
            f"Weights {name!r} should be in {path}, which is missing; get it with `git checkout {path}`."
        )
    if sha256(path) != entry["sha256"]:
        remedy = "delete it, it is then downloaded again" if entry.get("url") else f"restore it: `git checkout {path}`"
        raise WeightsError(
            f"{path} has SHA-256 {sha256(path)[:8]}…, the registry says {entry['sha256'][:8]}…: it is damaged or "
            f"was replaced; {remedy}."
        )
    return path


def read_config(name_or_path: str | Path) -> dict:
    """The config stored in a weights file: how to build the network, and the facts of its training."""
    return _read(name_or_path, tensors=False)[1]


def load_weights(name_or_path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors by name, floating ones as float32, and the config of a registered name or a safetensors file.

    A str without a suffix is a registered name. Nothing in the file is executed. Raises WeightsError for
    what `weights_path` refuses and for a file that is absent or is not safetensors with a config.
    """
    return _read(name_or_path, tensors=True)


def _read(name_or_path: str | Path, tensors: bool) -> tuple[dict[str, Tensor], dict]:
    is_name = isinstance(name_or_path, str) and not name_or_path.endswith(".safetensors")
    path = weights_path(name_or_path) if is_name else Path(name_or_path)
    if not path.is_file():
        raise WeightsError(f"Expected a safetensors file at {path}, found none; check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {})["config"])
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}); get or export it again.") from error
    except (KeyError, json.JSONDecodeError) as error:
        raise WeightsError(
            f'{path} has no JSON under "config" in its metadata; export it with save_weights.'
        ) from error
    return {name: t.float() if t.is_floating_point() else t for name, t in found.items()}, config


def save_weights(path: str | Path, tensors: dict[str, Tensor], config: dict) -> Path:
    """Write tensors, floating ones rounded to float16, and a JSON config as one safetensors file, atomically.

    Raises WeightsError when a value is not finite or leaves float16's range of ±65504.
    """
    path = Path(path)
    rounded = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        half = tensor.half() if tensor.is_floating_point() else tensor
        if not torch.isfinite(half).all():
            raise WeightsError(f"Tensor {name!r} has values that are not finite as float16; {path} was not written.")
        rounded[name] = half.clone(memory_format=torch.contiguous_format)
    with atomic_path(path) as partial:
        partial.write_bytes(serialize(rounded, metadata={"config": json.dumps(config)}))
    return path
