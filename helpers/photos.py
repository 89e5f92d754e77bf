"""The inputs of the lessons: demo photos, faces aligned as the training faces are, sets of photos in zip or folder."""

import math
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import skimage
import torch
import torch.nn.functional as F

from helpers.images import MAX_BYTES, ImageError, read_image, resize

VALIDATION = 500  # photos, or a tenth of a smaller set: held out by default
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".ppm", ".tga", ".jp2")
PHOTO_SUFFIXES += (".avif", ".heic", ".heif", ".mpo", ".jpe", ".j2k", ".jpf", ".pgm", ".pnm")

# Where the average training face has the middle of its left eye, right eye and nose leather; (x, y), sides of length 1.
# The eyes are fixed within about 0.01 there, the nose moves by 0.05 with the pose: faces are aligned by their eyes.
FACE_LANDMARKS = ((0.287, 0.412), (0.727, 0.412), (0.505, 0.720))
WITH_EARS = ((0.356, 0.534), (0.643, 0.534), (0.500, 0.722))  # the same in whole faces

# Photos in scikit-image's package; origin and licence in data/SOURCES.md.
DEMO_PHOTOS = ("chelsea", "astronaut", "coffee", "rocket", "hubble_deep_field", "brick", "grass", "gravel")
CHELSEA_EYES = ((171.5, 114.0), (317.0, 134.5))  # pixels; picked by hand


def demo_photos(size: int | None = 256, names: Sequence[str] = DEMO_PHOTOS) -> dict[str, torch.Tensor]:
    """Free photos of scikit-image: central squares (1, 3, size, size), or whole. ImageError for an unknown name."""
    for name in set(names) - set(DEMO_PHOTOS):
        raise ImageError(f"expected a demo photo of {', '.join(DEMO_PHOTOS)} but got {name!r}")
    folder = Path(skimage.__file__).parent / "data"
    return {name: read_image(next(folder.glob(f"{name}.*g")), size) for name in names}


def demo_cat(size: int = 64, landmarks: Sequence | None = None) -> torch.Tensor:
    """scikit-image's photo "chelsea" (CC0), which no model has seen, aligned to a generator's ``landmarks``.

    As a tight crop, the default, a tenth above and below is mirrored. As a whole face, what the
    photo does not show (ears, chest, background) was drawn by a model: tools/complete_chelsea.py.
    """
    if has_ears(landmarks):
        return read_image(Path(__file__).parents[1] / "data" / "chelsea-whole.png", size)
    photo = demo_photos(None, ["chelsea"])["chelsea"]
    return cut_square(photo, *fit_similarity(CHELSEA_EYES, np.array(FACE_LANDMARKS[:2]) * size), size)


def has_ears(landmarks: Sequence | None) -> bool:
    """Whether a generator with these landmarks shows whole faces, the eyes in the middle of the image."""
    return landmarks is not None and tuple(landmarks[0]) == WITH_EARS[0]


def cut_square(
    image: torch.Tensor, scaled_turn: complex, shift: complex, size: int, outside: str = "reflection"
) -> torch.Tensor:
    """The antialiased square (1, 3, size, size) onto whose t = scaled_turn p + shift the photo's p (x + iy) falls."""
    factor = max(1, math.ceil(1 / abs(scaled_turn) - 0.01))  # photo pixels per output pixel; 1.001 are one
    centres = (np.arange(size * factor) + 0.5) / factor
    sources = (centres[None, :] + 1j * centres[:, None] - shift) / scaled_turn  # x + iy of every sample
    height, width = image.shape[-2:]
    where = np.stack([2 * sources.real / width - 1, 2 * sources.imag / height - 1], axis=-1)
    where = torch.from_numpy(where).to(image)[None]
    return resize(F.grid_sample(image, where, padding_mode=outside, align_corners=False), size)


def fit_similarity(points: Sequence, template: Sequence) -> tuple[complex, complex]:
    """The complex a, b that minimise |a p + b - t|² for points p and t, both (n, 2): a similarity (Umeyama 1991)."""
    points, template = np.asarray(points) @ [1, 1j], np.asarray(template) @ [1, 1j]
    system = np.stack([points, np.ones_like(points)], axis=1)
    (a, b), *_ = np.linalg.lstsq(system, template, rcond=None)
    return a, b


def load_uint8(
    path: str | os.PathLike, size: int = 64, split: str = "all", n: int | None = None, held_out: int | None = None
) -> torch.Tensor:
    """Decode a zip or folder of photos once, into uint8 (N, 3, size, size), RGB: the central square of each.

    The names, sub-folders included, are sorted; "validation" is the last ``held_out`` of them (by default VALIDATION,
    or a tenth of a set below 5,000), "train" the others, "all" both. Damaged photos are named on stderr and left out.
    Raises ImageError where none is left.
    """
    with open_set(Path(path)) as (names, read):
        names = _split(names, split, path, held_out)[:n]
        out, count = torch.empty(len(names), 3, size, size, dtype=torch.uint8), 0
        for name in names:
            try:
                out[count] = (read_image(read(name), size, name)[0] * 255).round().to(torch.uint8)
                count += 1
            except ImageError as error:
                print(f"left out: {error}", file=sys.stderr)
    if not count:
        raise ImageError(f"expected photos in {path} but none of {len(names)} can be read")
    return out[:count]


def load_faces(path: str | os.PathLike, n: int | None = None, size: int = 64, split: str = "validation", **options):
    """Photos of a zip or folder as float32 (N, 3, size, size) in [0, 1]; the arguments are those of load_uint8."""
    return load_uint8(path, size, split, n, **options).float() / 255


def photo_files(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Paths with ~ expanded and each folder replaced by the photos in it; one without photos stays."""
    files = []
    for path in (Path(os.path.expanduser(path)) for path in paths):  # which leaves ~name.jpg as it is
        files += [path / name for name in _photos_in(path)] or [path]
    return files


def _photos_in(folder: Path) -> list[str]:
    files = [found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file()]
    return sorted(filter(_is_photo, files))


def _is_photo(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return name.lower().endswith(PHOTO_SUFFIXES) and not hidden


@contextmanager
def open_set(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes | Path]]]:
    """The sorted names in a zip or folder, else ImageError, and a function from a name to what read_image reads."""
    if path.is_dir():
        yield _photos_in(path), lambda name: path / name
    elif not path.exists():
        raise ImageError(f"expected a zip or folder of photos but there is no {path}; check the path")
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                yield sorted(filter(_is_photo, archive.namelist())), lambda name: _member(archive, name)
        except (OSError, zipfile.BadZipFile):
            raise ImageError(f"expected a zip or folder of photos but {path} is neither; zip the photos") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_BYTES:  # before it is unpacked into memory
        raise ImageError(f"expected photos of at most {MAX_BYTES // 10**6} MB but {name} has more; leave it out")
    try:
        return archive.read(name)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ImageError(f"cannot unpack {name} of the zip: {error}; zip the photos again, without password") from None


def _split(names: list[str], split: str, path: str | os.PathLike, held_out: int | None = None) -> list[str]:
    if not names:
        raise ImageError(f"expected photos ({', '.join(PHOTO_SUFFIXES)}) in {path} but there are none; check the path")
    first = max(0, len(names) - (min(VALIDATION, len(names) // 10) if held_out is None else held_out))
    parts = {"train": names[:first], "validation": names[first:], "all": names}
    if split not in parts:
        raise ImageError(f"expected a split of {', '.join(parts)} but got {split!r}")
    if not parts[split]:
        raise ImageError(f"expected at least 10 photos for a validation split but {path} has {len(names)}; add some")
    return parts[split]
