"""Files: checksums. Needs no torch."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits; computed once for each state of the file."""
    status = os.stat(path)
    return _sha256(str(path), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2**16)
def _sha256(path: str, *_: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
