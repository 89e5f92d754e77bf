"""The inputs of the lessons: demo photos, faces aligned as the training faces are, sets of photos in zip or folder."""

import importlib.util
import math
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from helpers.images import MAX_BYTES, ImageError, read_image, resize

VALIDATION = 500  # photos, or a tenth of a smaller set: held out where nobody says how many
SPLITS = ("train", "validation", "all")
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".ppm", ".tga", ".jp2")
PHOTO_SUFFIXES += (".avif", ".heic", ".heif")

# Where the average training face has the middle of its left eye, right eye and nose leather; (x, y), sides of length 1.
# The eyes are fixed within about 0.01 there, the nose moves by 0.05 with the pose: faces are aligned by their eyes.
FACE_LANDMARKS = ((0.287, 0.412), (0.727, 0.412), (0.505, 0.720))

DEMO_PHOTOS = {  # name in scikit-image: file in its package; origin and licence in data/SOURCES.md
    "chelsea": "chelsea.png",
    "astronaut": "astronaut.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
    "hubble_deep_field": "hubble_deep_field.jpg",
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
}
CHELSEA_EYES = ((171.5, 114.0), (317.0, 134.5))  # pixels; picked by hand


# --- demo photos and own photos --------------------------------------------------------------------------------------


def demo_photos(size: int = 256, names: Sequence[str] = tuple(DEMO_PHOTOS)) -> dict[str, torch.Tensor]:
    """Free photos that scikit-image brings along, by name: the central square as (1, 3, size, size) in [0, 1].

    Nothing is downloaded. Raises ImageError for a name not in DEMO_PHOTOS, or when scikit-image is not installed.
    """
    return {name: read_image(_demo_path(name), size) for name in names}


def demo_cat(size: int = 64) -> torch.Tensor:
    """scikit-image's photo "chelsea" (CC0), aligned as the training faces are: (1, 3, size, size) in [0, 1].

    A real photo that no bundled model has seen. The forehead and the chin touch the photo's edge: the last tenth of
    the crop above and below is mirrored.
    """
    return align(read_image(_demo_path("chelsea")), CHELSEA_EYES, size)


def _demo_path(name: str) -> Path:
    if name not in DEMO_PHOTOS:
        raise ImageError(f"expected a demo photo of {', '.join(DEMO_PHOTOS)} but got {name!r}")
    package = importlib.util.find_spec("skimage")
    if package is None:
        raise ImageError("expected scikit-image, which brings the demo photos, but it is missing: install scikit-image")
    return Path(package.origin).parent / "data" / DEMO_PHOTOS[name]


def align(image: torch.Tensor, landmarks: Sequence[tuple[float, float]], size: int = 64) -> torch.Tensor:
    """Turn, scale and cut a photo (1, 3, H, W) so that its face lies as the training faces do: (1, 3, size, size).

    landmarks: (x, y) in pixels of the middle of the eye on the left of the image, of the eye on the right and, if
    given, of the nose. Two eyes determine the similarity transform, as in the training faces; with the nose it is the
    least-squares one (Umeyama 1991), which suits a head turned far aside. Antialiased: the photo is sampled at least
    once per pixel and then averaged. What lies outside of the photo is mirrored at its edge.

    Raises ImageError for other landmarks, or landmarks outside of the photo.
    """
    points = _checked_landmarks(image, landmarks)
    template = np.array(FACE_LANDMARKS[: len(points)]) * size
    return cut_square(image, *fit_similarity(points, template), size)


def cut_square(
    image: torch.Tensor, scaled_turn: complex, shift: complex, size: int, outside: str = "reflection"
) -> torch.Tensor:
    """The square (1, 3, size, size) onto whose point t = scaled_turn p + shift the photo's point p (x + iy) falls.

    Antialiased: the photo is sampled at least once per pixel and then averaged; outside it is mirrored at its edge, or
    what else grid_sample's ``padding_mode`` offers.
    """
    factor = max(1, math.ceil(1 / abs(scaled_turn) - 0.01))  # photo pixels per output pixel; 1.001 are one
    centres = (np.arange(size * factor) + 0.5) / factor
    targets = centres[None, :] + 1j * centres[:, None]  # x + iy of every sample
    sources = (targets - shift) / scaled_turn
    height, width = image.shape[-2:]
    where = np.stack([2 * sources.real / width - 1, 2 * sources.imag / height - 1], axis=-1)
    where = torch.from_numpy(where).to(image)[None]
    return resize(F.grid_sample(image, where, padding_mode=outside, align_corners=False), size)


def fit_similarity(points: np.ndarray, template: np.ndarray) -> tuple[complex, complex]:
    """The complex a, b that minimise |a p + b - t|²: in the plane a similarity transform is a complex line."""
    points, template = points @ [1, 1j], template @ [1, 1j]
    system = np.stack([points, np.ones_like(points)], axis=1)
    (a, b), *_ = np.linalg.lstsq(system, template, rcond=None)
    return a, b


def _checked_landmarks(image: torch.Tensor, landmarks: Sequence[tuple[float, float]]) -> np.ndarray:
    height, width = image.shape[-2:]
    try:
        points = np.array(landmarks, dtype=float)
        fits = points.shape in ((2, 2), (3, 2)) and bool(((points >= 0) & (points <= (width, height))).all())
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ImageError(
            f"expected (x, y) of the left eye, the right eye and perhaps the nose within {width} x {height} pixels "
            f"but got {landmarks}"
        )
    if points[1, 0] - points[0, 0] < 1:
        raise ImageError(f"expected first the eye on the left of the image, then the right one, but got {landmarks}")
    return points


# --- sets of photos --------------------------------------------------------------------------------------------------


def load_uint8(
    path: str | os.PathLike, size: int = 64, split: str = "all", n: int | None = None, held_out: int | None = None
) -> torch.Tensor:
    """Decode a zip or folder of photos once, into uint8 (N, 3, size, size), RGB.

    Each photo's central square is resized to `size`. The names, sub-folders included, are sorted; "validation" is the
    last ``held_out`` of them (without a number VALIDATION, or a tenth of a set below 5,000), "train" the others, "all"
    both. n: only the first n.

    Raises ImageError when the path is missing, holds no photos or too few for the split. Damaged photos are named on
    stderr and left out.
    """
    with open_set(Path(path)) as (names, read):
        names = _split(names, split, path, held_out)[:n]
        out, count = torch.empty(len(names), 3, size, size, dtype=torch.uint8), 0
        for name in names:
            try:
                out[count] = (read_image(read(name), size, name=name)[0] * 255).round().to(torch.uint8)
                count += 1
            except ImageError as error:
                print(f"left out: {error}", file=sys.stderr)
    if not count:
        raise ImageError(f"expected photos in {path} but none of {len(names)} can be read")
    return out[:count]


def load_faces(
    path: str | os.PathLike,
    n: int | None = None,
    size: int = 64,
    split: str = "validation",
    held_out: int | None = None,
) -> torch.Tensor:
    """Photos of a zip or folder as float32 (N, 3, size, size) in [0, 1]; the arguments are those of load_uint8."""
    return load_uint8(path, size, split, n, held_out).float() / 255


def photo_files(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Paths with ~ expanded and each folder replaced by the photos in it; one without photos stays."""
    files = []
    for path in (Path(path).expanduser() for path in paths):
        inside = [found for found in path.rglob("*") if found.is_file()] if path.is_dir() else []
        photos = sorted(found for found in inside if _is_photo(found.relative_to(path).as_posix()))
        files += photos or [path]
    return files


@contextmanager
def open_set(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes | Path]]]:
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


def _split(names: list[str], split: str, path: str | os.PathLike, held_out: int | None = None) -> list[str]:
    if split not in SPLITS:
        raise ImageError(f"expected a split of {', '.join(SPLITS)} but got {split!r}")
    if not names:
        raise ImageError(f"expected photos ({', '.join(PHOTO_SUFFIXES)}) in {path} but there are none; check the path")
    held_out = min(VALIDATION, len(names) // 10) if held_out is None else held_out
    first = max(0, len(names) - held_out)
    chosen = {"train": names[:first], "validation": names[first:], "all": names}[split]
    if not chosen:
        raise ImageError(f"expected at least 10 photos for a validation split but {path} has {len(names)}; add some")
    return chosen
