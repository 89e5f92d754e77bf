"""The inputs of the lessons: demo photos, aligned faces, and sets of photos in a zip or folder."""

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from helpers.images import MAX_BYTES, ImageError, read_image

VALIDATION = 500  # photos, or a tenth of a smaller set: held out from training, used for every reported figure
SPLITS = ("train", "validation", "all")
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".ppm", ".avif")


# --- sets of photos --------------------------------------------------------------------------------------------------


def load_uint8(path: str | os.PathLike, size: int = 64, split: str = "all", n: int | None = None) -> torch.Tensor:
    """Decode a zip or folder of photos once, into uint8 (N, 3, size, size), RGB.

    Each photo's central square is resized to `size`. The names, sub-folders included, are sorted; "validation" is the
    last VALIDATION of them (a tenth of a set below 5,000), "train" the others, "all" both. n: only the first n.

    Raises ImageError when the path is missing, holds no photos or too few for the split, or when a photo is damaged.
    """
    with _open_set(Path(path)) as (names, read):
        names = _split(names, split, path)[:n]
        out = torch.empty(len(names), 3, size, size, dtype=torch.uint8)
        for index, name in enumerate(names):
            out[index] = (read_image(read(name), size, name=name)[0] * 255).round().to(torch.uint8)
    return out


def load_faces(
    path: str | os.PathLike, n: int | None = None, size: int = 64, split: str = "validation"
) -> torch.Tensor:
    """Photos of a zip or folder as float32 (N, 3, size, size) in [0, 1]; the arguments are those of load_uint8."""
    return load_uint8(path, size, split, n).float() / 255


@contextmanager
def _open_set(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes | Path]]]:
    """The sorted names of the photos in a zip or folder, and a function from a name to what read_image reads."""
    if path.is_dir():
        names = [found.relative_to(path).as_posix() for found in path.rglob("*") if found.is_file()]
        yield sorted(filter(_is_photo, names)), lambda name: path / name
    elif not path.exists():
        raise ImageError(f"expected a zip or folder of photos but there is no {path}; check the path")
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                yield sorted(filter(_is_photo, archive.namelist())), lambda name: _member(archive, name)
        except (OSError, zipfile.BadZipFile):
            raise ImageError(f"expected a zip or folder of photos but {path} is neither; zip the photos") from None


def _is_photo(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return name.lower().endswith(PHOTO_SUFFIXES) and not hidden


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_BYTES:  # before it is unpacked into memory
        raise ImageError(f"expected photos of at most {MAX_BYTES // 10**6} MB but {name} has more; leave it out")
    try:
        return archive.read(name)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ImageError(f"cannot unpack {name} of the zip: {error}; zip the photos again, without password") from None


def _split(names: list[str], split: str, path: str | os.PathLike) -> list[str]:
    if split not in SPLITS:
        raise ImageError(f"expected a split of {', '.join(SPLITS)} but got {split!r}")
    if not names:
        raise ImageError(f"expected photos ({', '.join(PHOTO_SUFFIXES)}) in {path} but there are none; check the path")
    held_out = min(VALIDATION, len(names) // 10)
    first = len(names) - held_out
    chosen = {"train": names[:first], "validation": names[first:], "all": names}[split]
    if not chosen:
        raise ImageError(f"expected at least 10 photos for a validation split but {path} has {len(names)}; add some")
    return chosen
