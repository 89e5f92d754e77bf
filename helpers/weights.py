"""Bundled and downloaded weights: one registry of SHA-256 sums, read and written as safetensors only."""

import json
import os
import sys
import time
from pathlib import Path

import pooch
import requests
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from helpers.files import atomic_path, sha256, write_json

MAX_HEADER = 2**22  # bytes of names, shapes and config; 1024 pixel generators have 30,000
FOLDER = Path(__file__).resolve().parent.parent / "weights"


class WeightsError(ValueError):
    """Weights that are unknown, missing, damaged or unreachable."""


def registry() -> dict[str, dict]:
    """Entries of weights/registry.json by name.

    Each has file, kind (generator, features), summary, licence and restricted (whether the licence restricts use).
    Where known: title, resolution in pixels, domain (what the photos must show), url, size in bytes, sha256 (64
    hexadecimal digits, or as many of the first as are known) and cite.

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
    """Enter the file `path`, which must be in weights/, into the registry under `name`, and return its entry.

    `kind` says what reads it (generator, discriminator, features), `summary` is one line for lists,
    `url` is where to get it when it is not in the repository. Raises WeightsError for a file elsewhere.
    """
    path = Path(path).resolve()
    if not path.is_file() or not path.is_relative_to(FOLDER.resolve()):
        raise WeightsError(f"Expected a file in {FOLDER}, got {path}; move it there before it is registered.")
    entry = {"file": path.relative_to(FOLDER.resolve()).as_posix(), "sha256": sha256(path), "kind": kind}
    entry |= {"summary": summary, "size": path.stat().st_size} | ({"url": url} if url else {})
    _enter(name, entry)
    return entry


def _enter(name: str, facts: dict) -> None:
    """Add facts to an entry of the registry."""
    entries = registry()
    entries = dict(sorted((entries | {name: entries.get(name, {}) | facts}).items()))
    write_json(FOLDER / "registry.json", entries)


def page_or_pointer(head: bytes) -> str | None:
    """A sentence if a file begins like a web page or a Git LFS pointer; None for anything else."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "it is a web page, not weights, as when a download quota is used up or a login is missing."
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the weights themselves; run `git lfs pull`."
    return None


def download(url: str, path: str | Path, checksum: str = "", *, seconds: float = 30, tries: int = 4) -> Path:
    """Fetch `url` to `path` unless the file is there; its SHA-256 must begin with `checksum` (hexadecimal).

    The file gets its name once it is complete and checked. If several processes ask for it, one fetches and the others
    wait. Proxies are taken from the usual environment variables.

    Args:
        checksum: without one, the SHA-256 is written to stderr, to be pinned in the registry.
        seconds: without any data before a try is given up.
        tries: while the server is busy or the connection breaks.

    Raises WeightsError when it cannot be fetched, is a web page, or differs.
    """
    path = Path(path)
    if path.exists():
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():  # another process may have fetched it while this one waited
                try:
                    _fetch(url, part, path, seconds, tries)
                    _check(url, part, path, checksum)
                    os.replace(part, path)
                finally:
                    part.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written: {error.strerror}; choose another folder or free space."
        ) from error
    return path


def _fetch(url: str, part: Path, path: Path, seconds: float, tries: int) -> None:
    shown = sys.stderr.isatty() or "ipykernel" in sys.modules
    options = {"headers": {"Accept-Encoding": "identity"}, "hooks": {"response": _refuse_page}, "timeout": seconds}
    downloader = pooch.HTTPDownloader(progressbar=shown, chunk_size=2**16, **options)
    for last in [False] * (tries - 1) + [True]:
        try:
            return downloader(url, str(part), None)
        except WeightsError as error:
            reason, last = str(error), True
        except requests.HTTPError as error:
            reason = f"HTTP {error.response.status_code}"
            last = last or error.response.status_code < 500  # asking again gives the same answer
        except (requests.RequestException, ValueError) as error:
            reason = type(error).__name__
        if last:
            raise WeightsError(
                f"{url} could not be fetched ({reason}); check the network, or put the file at {path} by hand."
            )
        time.sleep(1)


def _refuse_page(response, **_) -> None:
    """Look at the answer before its body arrives."""
    if response.ok and not response.is_redirect and "html" in response.headers.get("Content-Type", ""):
        raise WeightsError("it is a web page, as when a download quota is used up or a login is missing")


def _check(url: str, part: Path, path: Path, checksum: str) -> None:
    with open(part, "rb") as file:
        page = page_or_pointer(file.read(512))
    found = sha256(part)
    if page:
        raise WeightsError(f"{url} gave no weights: {page}")
    if not found.startswith(checksum):
        raise WeightsError(f"{url} gave SHA-256 {found[:8]}…, expected {checksum[:8]}…; try again later.")
    if not checksum:
        print(f'{path.name} has "sha256": "{found}"; pin it in weights/registry.json.', file=sys.stderr)


def weights_path(name: str) -> Path:
    """The file of a registered name, after comparing its SHA-256 with weights/registry.json.

    A file that has a url is downloaded on first use. Raises WeightsError for an unknown name (it lists the known ones),
    a missing file, or another checksum.
    """
    entries = registry()
    if name not in entries:
        raise WeightsError(f"Unknown weights {name!r}; known are: {', '.join(entries) or 'none yet'}.")
    entry = entries[name]
    path, checksum = FOLDER / entry["file"], entry.get("sha256", "")
    if not path.exists() and entry.get("url"):
        download(entry["url"], path, checksum)
    if not path.is_file():
        raise WeightsError(
            f"Weights {name!r} should be in {path}, which is missing; get it with `git checkout {path}`."
        )
    if not sha256(path).startswith(checksum):
        remedy = "delete it to download it again" if entry.get("url") else f"restore it: `git checkout {path}`"
        raise WeightsError(
            f"{path} has SHA-256 {sha256(path)[:8]}…, the registry says {checksum[:8]}…: it is damaged or "
            f"was replaced; {remedy}."
        )
    return path


def pin(name: str) -> str:
    """Enter the SHA-256 of a fetched file into the registry; returns it. WeightsError for an unknown name."""
    path = weights_path(name)
    _enter(name, {"sha256": sha256(path), "size": path.stat().st_size})
    return sha256(path)


def load_weights(name_or_path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors by name, floating ones as float32, and the config of a registered name or a safetensors file.

    A str without a suffix is a registered name. Nothing in the file is executed. Raises WeightsError for whatever
    `weights_path` refuses and for a file that is absent or is not safetensors with a config.
    """
    is_name = isinstance(name_or_path, str) and not name_or_path.endswith(".safetensors")
    path = weights_path(name_or_path) if is_name else Path(name_or_path)
    if not path.is_file():
        raise WeightsError(f"Expected a safetensors file at {path}, found none; check the path.")
    try:
        with open(path, "rb") as raw:
            if int.from_bytes(raw.read(8), "little") > MAX_HEADER:
                raise WeightsError(f"{path} is not a whole safetensors file: its header is too long; export it again.")
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {})["config"])
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}); get or export it again.") from error
    except (KeyError, json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(
            f'{path} has no JSON under "config" in its metadata; export it with save_weights.'
        ) from error
    return {name: t.float() if t.is_floating_point() else t for name, t in found.items()}, config


def save_weights(
    path: str | Path, tensors: dict[str, Tensor], config: dict, dtype: torch.dtype = torch.float16
) -> Path:
    """Write tensors, floating ones rounded to `dtype`, and a JSON config as one safetensors file, atomically.

    Raises WeightsError when a value is not finite or leaves the range of the type (±65504 for float16).
    """
    path = Path(path)
    rounded = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        half = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if not torch.isfinite(half).all():
            kind = str(dtype).removeprefix("torch.")
            raise WeightsError(f"Tensor {name!r} has values that are not finite as {kind}; {path} was not written.")
        rounded[name] = half.clone(memory_format=torch.contiguous_format)
    with atomic_path(path) as partial:
        partial.write_bytes(serialize(rounded, metadata={"config": json.dumps(config)}))
    return path
