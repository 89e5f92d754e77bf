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
from tqdm.auto import tqdm

from helpers.files import sha256
from helpers.images import atomic_path

FOLDER = Path(__file__).resolve().parent.parent / "weights"


class WeightsError(ValueError):
    """Weights that are unknown, missing, damaged or unreachable."""


def registry() -> dict[str, dict]:
    """Entries of weights/registry.json by name.

    Each has file, kind (generator, features), summary, licence and restricted (whether the licence restricts use).
    Where known: title, resolution in pixels, domain (what the photos must show), url, mirrors, size in bytes, sha256
    (64 hexadecimal digits, or as many as are known of its beginning) and cite.

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
    entries = dict(sorted((registry() | {name: registry().get(name, {}) | entry}).items()))
    with atomic_path(FOLDER / "registry.json") as partial:
        partial.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return entry


def page_or_pointer(head: bytes) -> str | None:
    """What a file is that begins like a web page or a Git LFS pointer, as a sentence; None for anything else."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "it is a web page, not weights, as comes when a download quota is used up or a login is missing."
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the weights themselves; run `git lfs pull`."
    return None


class _Progress:
    """A bar over the whole file, ``start`` bytes of which are there, for pooch, which knows of the rest alone."""

    def __init__(self, start: int):
        self.start, self.bar = start, None

    def begin(self, rest: int) -> None:
        total = self.start + rest if rest else None  # not every server says
        self.bar = tqdm(total=total, initial=self.start, unit="B", unit_scale=True, ncols=79)

    total = property(fset=begin)

    def update(self, count: int) -> None:
        left = count if self.bar.total is None else self.bar.total - self.bar.n
        self.bar.update(min(count, left))  # the last chunk is counted as a whole one

    def reset(self) -> None:
        """Called before the end, which ``update`` fills up."""

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class _Transfer:
    """One request into an open file: it goes on where the file ends if the server can, else it starts anew."""

    def __init__(self, file, seconds: float):
        self.file, self.start = file, file.seek(0, 2)
        self.progress = _Progress(self.start)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={self.start}-"} if self.start else {})
        options = {"timeout": seconds, "headers": headers, "hooks": {"response": self.look}, "chunk_size": 2**16}
        shown = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.downloader = pooch.HTTPDownloader(progressbar=self.progress if shown else False, **options)

    def run(self, url: str) -> None:
        try:
            self.downloader(url, self.file, None)
        finally:
            self.progress.close()

    def look(self, response, **_) -> None:
        """See the answer before its body: a page is no file, and not every server can go on in the middle."""
        if response.is_redirect or response.status_code >= 400:
            return
        if "html" in response.headers.get("Content-Type", ""):
            raise WeightsError("a web page came, as when a download quota is used up or a login is missing")
        if self.start and response.headers.get("Content-Range", "").split("-")[0] != f"bytes {self.start}":
            self.file.seek(0)
            self.file.truncate()
            self.progress.start = 0


def download(
    url: str | list[str], path: str | Path, checksum: str = "", *, seconds: float = 30, pause: float = 1, tries: int = 4
) -> Path:
    """Fetch `url` to `path` unless it is there; its SHA-256 must begin with `checksum` (hexadecimal).

    The file gets its name only when it is whole and checked; until then it is NAME.part, from which the next try, in
    this call or a later one, goes on. Of several processes one fetches while the others wait. Proxies are those of
    the usual environment variables.

    Args:
        url: one address, or several: the file and its mirrors, in their order.
        checksum: without one, the SHA-256 that came is written to stderr, to be pinned in the registry.
        seconds: without any data before a try is given up.
        pause: seconds before the second try, doubled before each further one.
        tries: of each address.

    Raises WeightsError when it cannot be fetched, is a web page, or differs.
    """
    path, urls = Path(path), [url] if isinstance(url, str) else list(url)
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():  # another process may have fetched it while this one waited
                _fetch(urls, path, checksum, seconds, pause, tries)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written: {error.strerror}; choose another folder or free space."
        ) from error
    return path


def _fetch(urls: list[str], path: Path, checksum: str, seconds: float, pause: float, tries: int) -> None:
    part, reasons = path.with_name(f"{path.name}.part"), []
    for url in urls:
        for attempt in range(tries):
            reason = _try(url, part, seconds)
            if reason is None:
                _accept(url, part, path, checksum)
                return
            reasons.append(f"{url} could not be fetched ({reason})")
            if reason.startswith(("a web page", "HTTP 4")):
                break  # asking again gives the same
            time.sleep(pause * 2**attempt if attempt < tries - 1 else 0)
    if part.exists() and not part.stat().st_size:
        part.unlink()
    raise WeightsError(f"{reasons[-1]}; check the network, or put the file at {path} by hand.")


def _try(url: str, part: Path, seconds: float) -> str | None:
    """One try; None when the file came to its end, else why it did not."""
    with open(part, "ab+") as file:
        try:
            _Transfer(file, seconds).run(url)
        except WeightsError as error:
            return str(error)
        except requests.HTTPError as error:
            if error.response.status_code == 416:  # what is there is longer than the file: another one
                file.truncate(0)
            return f"HTTP {error.response.status_code}"
        except (requests.RequestException, ValueError) as error:
            return type(error).__name__
    return None


def _accept(url: str, part: Path, path: Path, checksum: str) -> None:
    """Give a fetched file its name if it is what was expected; else delete it and raise WeightsError."""
    with open(part, "rb") as file:
        page = page_or_pointer(file.read(512))
    found = sha256(part)
    if page or not found.startswith(checksum):
        part.unlink()
        raise WeightsError(
            f"{url} gave no weights: {page}" if page
            else f"{url} gave SHA-256 {found[:8]}…, expected {checksum[:8]}…; try again later."
        )  # fmt: skip
    if not checksum:
        print(f'{path.name} has "sha256": "{found}"; pin it in weights/registry.json.', file=sys.stderr)
    os.replace(part, path)


def weights_path(name: str) -> Path:
    """The file of a registered name, after its SHA-256 was compared with weights/registry.json.

    A file that has a url is downloaded the first time. Raises WeightsError for an unknown name (it lists
    the known ones), a missing file, or another checksum.
    """
    entries = registry()
    if name not in entries:
        raise WeightsError(f"Unknown weights {name!r}; known are: {', '.join(entries) or 'none yet'}.")
    entry = entries[name]
    path, checksum = FOLDER / entry["file"], entry.get("sha256", "")
    if not path.exists() and entry.get("url"):
        download([entry["url"], *entry.get("mirrors", [])], path, checksum)
    if not path.is_file():
        raise WeightsError(
            f"Weights {name!r} should be in {path}, which is missing; get it with `git checkout {path}`."
        )
    if not sha256(path).startswith(checksum):
        remedy = "delete it, it is then downloaded again" if entry.get("url") else f"restore it: `git checkout {path}`"
        raise WeightsError(
            f"{path} has SHA-256 {sha256(path)[:8]}…, the registry says {checksum[:8]}…: it is damaged or "
            f"was replaced; {remedy}."
        )
    return path


def pin(name: str) -> str:
    """Enter the SHA-256 of a fetched file into the registry; returns it. WeightsError for an unknown name."""
    path, entries = weights_path(name), registry()
    entries[name] |= {"sha256": sha256(path), "size": path.stat().st_size}
    with atomic_path(FOLDER / "registry.json") as partial:
        partial.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return entries[name]["sha256"]


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
