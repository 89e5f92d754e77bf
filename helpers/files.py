"""Files: checksums, writing whole or not at all, JSON. Needs no torch."""

import errno
import functools
import hashlib
import itertools
import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.EISDIR: "it is a folder; add a file name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "the folder may not be written to; choose another folder"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of the path is a file, not a folder; choose another path"),
}


class WriteError(ValueError):
    """A file that cannot be written; the message is one sentence for the user."""


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal digits; computed once for each state of the file."""
    status = os.stat(path)
    return _sha256(str(path), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2**16)
def _sha256(path: str, *_: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path that is moved to ``path`` when the block ends, and removed when it fails. Raises WriteError."""
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix[:20]}")  # same folder: the move is atomic
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        with suppress(OSError):  # a file system without modes
            temporary.chmod(mode)
        os.replace(temporary, path)
    except OSError as error:
        reason = REASONS.get(error.errno, f"{error.strerror or str(error).splitlines()[0]}; choose another folder")
        raise WriteError(f"cannot write {path}: {reason}") from error
    finally:
        with suppress(OSError):  # the folder itself is gone or closed to us; the first error says so
            temporary.unlink(missing_ok=True)


def clear_temporaries(folder: str | os.PathLike) -> None:
    """Remove the unfinished files that killed writers left in a folder; only where no other writer is at work."""
    for path in Path(folder).glob(".*"):
        if re.fullmatch(r"\.[0-9a-f]{12}(\.\w+)?", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def json_safe(value: object) -> object:
    """A value for JSON, which has no NaN and no infinity: they become None."""
    if isinstance(value, dict):
        return {name: json_safe(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write a value as JSON, atomically; NaN and infinity become null, an object that JSON does not know its text."""
    text = json.dumps(json_safe(value), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")  # names of files may be bytes


def short_name(name: str, most: int = 80) -> str:
    """A part of a file name of at most ``most`` bytes: a longer one keeps its start, and a checksum of the whole."""
    encoded = os.fsencode(name)
    start, checksum = encoded[: most - 7].decode("utf-8", "ignore"), hashlib.sha256(encoded).hexdigest()[:6]
    return name if len(encoded) <= most else f"{start}-{checksum}"


def unique_stems(paths: Iterable[str | os.PathLike], most: int = 80) -> list[str]:
    """Names of results, one for each path: its name without suffix, short enough, numbered where it is taken."""
    stems: dict[str, str] = {}  # by their key: some file systems do not distinguish A from a
    for path in paths:
        name = stem = short_name(Path(path).stem, most)
        numbers = itertools.count(2)
        while name.casefold() in stems:
            name = f"{stem}-{next(numbers)}"
        stems[name.casefold()] = name
    return list(stems.values())
