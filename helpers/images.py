"""Read, resize, crop and write images; grids. Knows nothing of models.

An image is a float32 tensor (B, 3, H, W), RGB, in [0, 1]. uint8 exists only at the file, by rounding.
"""

import importlib
import io
import logging
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, PngImagePlugin
from torchvision.utils import make_grid

from helpers.files import atomic_path

MAX_PIXELS = 50_000_000  # what a phone takes at its best; 600 MB as float32, 1.5 GB while it is read
MAX_BYTES = 200_000_000  # of a file
MIN_SIDE = 8  # pixels; below that there is nothing to see or to optimise
ROUNDING = 1e-3  # that a range check allows: an antialiased resize makes 1.0000002 of 1

# MPO: some phones' JPEG. HEIF: with the package pillow-heif. TGA has no mark at its start, so it is tried last.
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF")
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # what write_image writes
TGA_MARK = b"TRUEVISION-XFILE.\0"  # at the end of a TGA
ORIENTATION = 0x0112  # tag of EXIF
TURNS = {  # orientation: what makes the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# of a PNG's texts and profiles; Pillow's own limits, 1 and 64 MB, refuse the image for them
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 64 * 2**20, 128 * 2**20
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs about damaged files is in our errors

Source = str | os.PathLike | bytes | bytearray | memoryview
Box = tuple[int, int, int, int]


class ImageError(ValueError):
    """An image that cannot be read or used; the message is one sentence for the user."""


def _refused(expected: str, found: str, advice: str) -> ImageError:
    return ImageError(f"expected {expected} but {found}; {advice}")


# --- reading ---------------------------------------------------------------------------------------------------------


def read_image(
    source: Source, size: int | None = None, box: Box | None = None, name: str | None = None
) -> torch.Tensor:
    """Read a photo, upright, as float32 (1, 3, H, W), sRGB in [0, 1].

    source: path of a PNG, JPEG, WebP, GIF, TIFF, BMP, PPM, TGA, JPEG 2000, AVIF or (with the package pillow-heif) HEIC
    file, or its bytes (an upload). EXIF's orientation is applied, colours are converted to sRGB by the file's ICC
    profile, transparency is composited on white, grey becomes RGB, 16-bit samples are scaled by 1/65535 (colour with
    16 bits per channel keeps its high byte), of an animation the first frame is taken.
    box: (left, top, right, bottom) in pixels of the upright photo, at least MIN_SIDE wide and high: only this part.
    size: the central square (of the box, if given) is resized, antialiased, to (1, 3, size, size).
    name: what to call the image in an error; the file's name by default.

    Raises ImageError when there is no such file, it is not an image, is damaged, has a side below MIN_SIDE or more than
    MAX_PIXELS pixels (seen in the header, before anything is decoded), or when the box lies outside it.
    """
    name = name or _label(source)
    rgba = _decode(source, name)
    image = rgba if rgba.shape[1] == 3 else torch.lerp(torch.ones(()), rgba[:, :3], rgba[:, 3:])
    return _cut(image, size, box, name)


def read_rgba(
    source: Source, size: int | None = None, box: Box | None = None, name: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a photo as read_image does, but keep its transparency: (1, 3, H, W) and a mask (1, 1, H, W), 1 = opaque.

    The colours are those in the file, not composited; a file without transparency gives a mask of ones.
    Raises ImageError as read_image does.
    """
    name = name or _label(source)
    rgba = _decode(source, name)
    alpha = rgba[:, 3:] if rgba.shape[1] == 4 else torch.ones_like(rgba[:, :1])
    return _cut(rgba[:, :3], size, box, name), _cut(alpha, size, box, name)


def _cut(image: torch.Tensor, size: int | None, box: Box | None, name: str) -> torch.Tensor:
    image = image if box is None else cut_box(image, box, name)
    return image if size is None else resize(square_crop(image), size)


def cut_box(image: torch.Tensor, box: Box, name: str) -> torch.Tensor:
    """The box of a photo, as crop; the message of ImageError names the photo, and the box has at least MIN_SIDE."""
    try:
        image = crop(image, box)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    height, width = image.shape[-2:]
    if min(height, width) < MIN_SIDE:
        least = f"{name}: expected a box of at least {MIN_SIDE} x {MIN_SIDE} pixels"
        raise ImageError(f"{least} but got {width} x {height}; choose a larger one")
    return image


def _decode(source: Source, name: str) -> torch.Tensor:
    """The upright image as float32 (1, 3 or 4, H, W)."""
    uploaded = isinstance(source, bytes | bytearray | memoryview)
    data = bytes(source) if uploaded else _read_bytes(source, name)
    if not data:
        raise _refused("an image", f"{name} is empty (0 bytes)", "copy or download it again")
    _check_bytes(name, len(data))
    with warnings.catch_warnings(), _silent() if data[:2] in (b"II", b"MM") else nullcontext():
        warnings.simplefilter("ignore")  # Pillow warns of damage that it can live with
        return _to_tensor(_open(data, name), name)


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing reaches the standard error stream: libtiff writes all it meets there, past Python's warnings."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _label(source: Source) -> str:
    if isinstance(source, bytes | bytearray | memoryview):
        return "the uploaded file"
    return Path(source).name or str(source)


def _check_bytes(name: str, count: int) -> None:
    if count > MAX_BYTES:
        most = f"an image file of at most {MAX_BYTES // 10**6} MB"
        raise _refused(most, f"{name} has {count // 10**6} MB", "save a smaller copy")


def _read_bytes(path: str | os.PathLike, name: str) -> bytes:
    try:
        path = os.path.expanduser(path)
        status = os.stat(path)
    except FileNotFoundError:
        raise _refused("an image file", f"there is no {path}", "check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a 0 byte in it
        raise _refused("the path of an image file", f"{name!r} gives '{error}'", "check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise _refused("an image file", f"{name} is a folder", "name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise _refused("an image file", f"{name} is a device or a pipe", "save it to a file first")
    _check_bytes(name, status.st_size)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _refused("a readable image file", f"{name} gives '{error.strerror}'", "check it") from None


def _open(data: bytes, name: str) -> Image.Image:
    """The decoded, upright first frame in sRGB. The size in the header is checked before decoding."""
    Image.init()
    with suppress(ImportError):  # an optional package
        importlib.import_module("pillow_heif").register_heif_opener()
    formats = [known for known in FORMATS if known in Image.OPEN]  # an old Pillow has no AVIF
    if data.endswith(TGA_MARK) or name.lower().endswith(".tga"):
        formats.append("TGA")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        width, height = image.size
    except Image.DecompressionBombError:
        width = height = math.inf
    except Exception:  # damaged files make Pillow raise nearly everything
        raise _not_an_image(data, name) from None
    if width * height > MAX_PIXELS:
        most = f"an image of at most {MAX_PIXELS // 10**6} million pixels"
        raise _refused(most, f"{name} has {width} x {height}", "shrink or crop it first")
    if min(width, height) < MIN_SIDE:
        least = f"an image with sides of at least {MIN_SIDE} pixels"
        raise _refused(least, f"{name} has {width} x {height}", "choose a larger one")
    try:
        image.load()
        return _to_srgb(_upright(image))
    except Exception:
        found = f"{name} is a truncated or damaged {image.format} file"
        raise _refused("a whole image", found, "copy or download it again") from None


def _upright(image: Image.Image) -> Image.Image:
    """Turned by EXIF's orientation; any other tag may be damaged."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # damaged EXIF makes Pillow raise nearly everything, and does not belong to the image
        return image
    return image if turn is None else image.transpose(turn)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Converted by the ICC profile, with transparency kept; unchanged without one, or where it is damaged."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):  # a conversion would only round
            return image
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        grey = source.profile.xcolor_space.strip() == "GRAY"
        mode = "L" if grey else "CMYK" if image.mode == "CMYK" else "RGB"
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        image = ImageCms.profileToProfile(
            image.convert(mode), source, ImageCms.createProfile("sRGB"), intent, outputMode="RGB", flags=flags
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    if alpha is not None:
        image.putalpha(alpha)
    return image


def _not_an_image(data: bytes, name: str) -> ImageError:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return _refused("an image", f"{name} is a web page", "download the image itself")
    if data[4:8] == b"ftyp":
        return _refused("an image", f"{name} is HEIC or a video", "install pillow-heif, or export it as JPEG")
    known = "an image (PNG, JPEG, WebP, GIF, TIFF, BMP, PPM, TGA, JPEG 2000, AVIF or HEIC)"
    return _refused(known, f"{name} cannot be read as one", "open it in an image editor and save it as PNG")


def _to_tensor(image: Image.Image, name: str) -> torch.Tensor:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(np.asarray(image), name)
    try:
        return from_uint8(np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB")))
    except Exception:
        raise _refused("an RGB, grey, palette or CMYK image", f"{name} is {image.mode}", "save it as PNG") from None


def _deep_grey(pixels: np.ndarray, name: str) -> torch.Tensor:
    """Grey of 16 or 32 bits or floats as (1, 3, H, W); Pillow's own conversion would clip it at 255.

    Whole numbers up to 255 are 8-bit values in a larger file.
    """
    peak = 1 if pixels.dtype.kind == "f" else 255 if pixels.max() <= 255 else 65535
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= peak):
        found = f"{name} holds {pixels.min():g}…{pixels.max():g}"
        raise _refused(f"grey values in 0…{peak}", found, "save it as PNG")
    grey = torch.from_numpy(pixels.astype(np.float32) / peak)
    return grey[None, None].repeat(1, 3, 1, 1)


# --- tensors and arrays ----------------------------------------------------------------------------------------------


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Images (B, C, H, W) in [0, 1] as an array (B, H, W, C) of uint8, clamped and rounded; C is 3, or 1 for masks.

    Raises ImageError for another shape and for NaN.
    """
    _check(images)
    return (quantize(images) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def from_uint8(array: np.ndarray) -> torch.Tensor:
    """An array (H, W, C) or (B, H, W, C) of uint8 as float32 (B, C, H, W) in [0, 1]. Raises ImageError for others."""
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise ImageError(f"expected uint8 of shape (H, W, C) or (B, H, W, C) but got {array.dtype} {array.shape}")
    array = array[None] if array.ndim == 3 else array
    channels_first = torch.from_numpy(np.array(array.transpose(0, 3, 1, 2), order="C"))
    return channels_first.float().div_(255)


def quantize(images: torch.Tensor) -> torch.Tensor:
    """Images as a file would hold them: clamped to [0, 1], rounded to multiples of 1/255, float32, the same shape."""
    return (images.detach().float().clamp(0, 1) * 255).round() / 255


def shown(images: torch.Tensor) -> torch.Tensor:
    """A network's images clamped to [0, 1], black where they are NaN (a frozen sample, which is marked so)."""
    return images.nan_to_num(nan=0.0).clamp(0, 1)


def in_range(images: torch.Tensor) -> bool:
    """Whether all values are finite and, up to rounding, in [0, 1]."""
    return bool((images >= -ROUNDING).all() and (images <= 1 + ROUNDING).all())  # NaN is neither


def _check(images: torch.Tensor) -> None:
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise ImageError(f"expected images of shape (B, 3, H, W) but got {shape or type(images).__name__}")
    if not torch.isfinite(images).all():
        raise ImageError("expected images with finite values but got NaN or infinity; check the step that made them")


# --- geometry --------------------------------------------------------------------------------------------------------


def resize(images: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Images (B, C, H, W) at `size`: an int for a square, or (height, width); in [0, 1], differentiable.

    Bicubic with antialiasing: for any ratio each pixel averages what it covers, where area averaging does so only for
    whole ratios and plain bicubic would alias; the clamp removes the overshoot of the cubic.
    Raises ImageError for a size below 1.
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    if len(size) != 2 or min(size) < 1:
        raise ImageError(f"expected a size of at least 1 pixel but got {size}")
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def longer_side(image: torch.Tensor, size: int) -> torch.Tensor:
    """Images (B, C, H, W) resized so that the longer side has ``size`` pixels; the shape stays."""
    factor = size / max(image.shape[-2:])
    return resize(image, tuple(max(1, round(side * factor)) for side in image.shape[-2:]))


def crop(images: torch.Tensor, box: Box) -> torch.Tensor:
    """The part (left, top, right, bottom), in pixels, of images (B, C, H, W).

    Raises ImageError when the box is not four whole numbers, is empty or reaches over the edge.
    """
    height, width = images.shape[-2:]
    try:
        left, top, right, bottom = (int(edge) for edge in box)
        inside = 0 <= left < right <= width and 0 <= top < bottom <= height
    except (TypeError, ValueError):
        inside = False
    if not inside:
        raise ImageError(f"expected a box (left, top, right, bottom) within {width} x {height} pixels but got {box}")
    return images[..., top:bottom, left:right]


def square_crop(images: torch.Tensor) -> torch.Tensor:
    """The largest central square of images (B, C, H, W)."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


def grid(images: torch.Tensor, columns: int | None = None, padding: int = 2, background: float = 1.0) -> torch.Tensor:
    """Images (B, C, H, W) as one image (1, C, rows*(H+padding)-padding, columns*(W+padding)-padding), row by row.

    columns: as square as possible by default. background: grey value in [0, 1] between images and after the last.
    Raises ImageError for another shape, NaN, or fewer than one column.
    """
    _check(images)
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    if columns < 1 or padding < 0:
        raise ImageError(f"expected at least 1 column and a padding of 0 or more but got {columns} and {padding}")
    if len(images) == 1:
        return images
    joined = make_grid(images.expand(-1, 3, -1, -1), columns, padding, pad_value=background)[: images.shape[1]]
    height, width = joined.shape[-2:]
    return joined[None, :, padding : height - padding, padding : width - padding]


# --- writing ---------------------------------------------------------------------------------------------------------


def write_image(path: str | os.PathLike, image: torch.Tensor) -> None:
    """Write one image (1, 3, H, W) or mask (1, 1, H, W) in [0, 1], clamped and rounded to 8 bits, atomically.

    The suffix gives the format: .png, .webp (both lossless), .jpg, .jpeg (quality 95, full chroma).
    Raises ImageError for another suffix, more than one image or NaN, WriteError where the file cannot be written.
    """
    file_format = SUFFIXES.get(Path(path).suffix.lower())
    if file_format is None:
        raise ImageError(f"expected a file name ending in {', '.join(SUFFIXES)} but got {Path(path).name!r}")
    pixels = to_uint8(image)
    if len(pixels) != 1:
        raise ImageError(f"expected one image (1, 3, H, W) but got {len(pixels)}; join them with grid() first")
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}
    written = Image.fromarray(pixels[0, :, :, 0] if pixels.shape[3] == 1 else pixels[0])
    with atomic_path(path) as temporary:
        written.save(temporary, format=file_format, **options[file_format])
