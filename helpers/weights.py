"""Bundled and downloaded weights: one registry of SHA-256 sums, read and written as safetensors only."""

import json
import sys
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
PAGE = "it is a web page, not weights, as when a download quota is used up or a login is missing."
FOLDER = Path(__file__).resolve().parent.parent / "weights"


class WeightsError(ValueError):
    """Weights that are unknown, missing, damaged or unreachable."""


class _Final(Exception):
    """What asking a server again would not change."""


def registry() -> dict[str, dict]:
    """Entries of weights/registry.json by name: file, kind, summary, licence, restricted (by the licence).

    Where known: title, resolution in pixels, domain (what the photos must show), url, size in bytes, cite and sha256,
    64 hexadecimal digits, or as many of the first as are known. Raises WeightsError for damaged JSON.
    """
    path = FOLDER / "registry.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path} is not valid JSON ({error}); restore it with `git checkout {path}`.") from error


def pin(name: str) -> str:
    """Enter checksum and size of a registered file into the registry; returns the checksum."""
    entries = registry()
    path = FOLDER / entries[name]["file"]
    entries[name] |= {"sha256": sha256(path), "size": path.stat().st_size}
    write_json(FOLDER / "registry.json", entries)
    return entries[name]["sha256"]


def page_or_pointer(head: bytes) -> str | None:
    """A sentence if a file begins like a web page or a Git LFS pointer; None for anything else."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return PAGE
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the weights themselves; run `git lfs pull`."
    return None


def download(url: str, path: Path, checksum: str = "", *, seconds: float = 30, tries: int = 4) -> Path:
    """Fetch `url` to `path` unless there; its SHA-256 begins with `checksum`, else WeightsError. Others wait."""
    if path.exists():
        return path
    shown = sys.stderr.isatty() or "ipykernel" in sys.modules
    options = {"headers": {"Accept-Encoding": "identity"}, "hooks": {"response": _refuse}, "timeout": seconds}
    fetch = pooch.HTTPDownloader(progressbar=shown, chunk_size=2**16, **options)

    def fetch_whole(address: str, part: str, store: pooch.Pooch) -> None:
        fetch(address, part, store)
        found = sha256(part)
        with open(part, "rb") as file:
            if page := page_or_pointer(file.read(512)):
                raise _Final(page.rstrip("."))
        if not found.startswith(checksum):
            raise _Final(f"its SHA-256 is {found[:8]}…, expected {checksum[:8]}…")
        if not checksum:
            print(f'{path.name} has "sha256": "{found}"; pin it in weights/registry.json.', file=sys.stderr)

    store = pooch.Pooch(path.parent, "", {path.name: None}, {path.name: url}, retry_if_failed=tries - 1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            store.fetch(path.name, downloader=fetch_whole)
    except (_Final, requests.RequestException, ValueError) as error:
        reason = f"{url} could not be fetched ({error if isinstance(error, _Final) else type(error).__name__})"
        raise WeightsError(f"{reason}; check the network, or put the file at {path} by hand.") from error
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror}"
        raise WeightsError(f"{reason}; choose another folder or free space.") from error
    return path


def _refuse(response: requests.Response, **_) -> None:
    """Look at the answer before its body arrives."""
    if 400 <= response.status_code < 500:
        raise _Final(f"HTTP {response.status_code}")
    if response.ok and not response.is_redirect and "html" in response.headers.get("Content-Type", ""):
        raise _Final(PAGE.rstrip("."))


def weights_path(name: str) -> Path:
    """The file of a registered name, downloaded on first use, its SHA-256 compared. WeightsError if it differs."""
    entries = registry()
    if name not in entries:
        raise WeightsError(f"Unknown weights {name!r}; known are: {', '.join(entries) or 'none yet'}.")
    entry = entries[name]
    path, checksum, url = FOLDER / entry["file"], entry.get("sha256", ""), entry.get("url")
    if url:
        download(url, path, checksum)
    if not path.is_file():
        raise WeightsError(f"Weights {name!r} should be in {path}, which is missing: run `git checkout {path}`.")
    if not sha256(path).startswith(checksum):
        remedy = "delete it to download it again" if url else f"restore it: `git checkout {path}`"
        differs = f"{path} has SHA-256 {sha256(path)[:8]}…, the registry says {checksum[:8]}…"
        raise WeightsError(f"{differs}: it is damaged or was replaced; {remedy}.")
    return path


def check_header(path: str | Path, most: int = MAX_HEADER) -> None:
    """Raise WeightsError where a safetensors file claims more bytes of names: each tensor costs time and memory."""
    with open(path, "rb") as file:
        if int.from_bytes(file.read(8), "little") > most:
            raise WeightsError(f"{path} is not a whole safetensors file: its header is too long; export it again.")


def load_weights(name_or_path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors (floating ones float32) and config of a registered name or a safetensors file; else WeightsError."""
    is_name = isinstance(name_or_path, str) and not name_or_path.endswith(".safetensors")
    path = weights_path(name_or_path) if is_name else Path(name_or_path)
    if not path.is_file():
        raise WeightsError(f"Expected a safetensors file at {path}, found none; check the path.")
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {})["config"])
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}); get or export it again.") from error
    except (KeyError, json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(f'{path} has no JSON under "config"; export it with save_weights.') from error
    return {name: t.float() if t.is_floating_point() else t for name, t in found.items()}, config


def save_weights(path: str | Path, tensors: dict[str, Tensor], config: dict, dtype=torch.float16) -> Path:
    """Write tensors, rounded to `dtype` (float16: ±65504, else WeightsError), and a JSON config as one file."""
    rounded = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        half = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if not torch.isfinite(half).all():
            raise WeightsError(f"Tensor {name!r} has values that are not finite as {dtype}; {path} was not written.")
        rounded[name] = half.clone(memory_format=torch.contiguous_format)
    with atomic_path(path) as partial:
        partial.write_bytes(serialize(rounded, metadata={"config": json.dumps(config)}))
    return Path(path)
