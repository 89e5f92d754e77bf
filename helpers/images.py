"""Read, resize, crop and write images. An image is float32 (B, 3, H, W), RGB, in [0, 1]; uint8 exists only at files."""

import importlib
import io
import logging
import math
import os
import stat
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, PngImagePlugin

from helpers.files import atomic_path

MAX_PIXELS = 50_000_000  # what a phone takes at its best; 600 MB as float32, 1.5 GB while it is read
MAX_BYTES = 200_000_000  # of a file
MIN_SIDE = 8  # pixels; below that there is nothing to see or to optimise
ROUNDING = 1e-3  # that a range check allows: an antialiased resize makes 1.0000002 of 1

# MPO: some phones' JPEG. HEIF: with the package pillow-heif. TGA has no mark at its start, so it is tried last.
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF")
KNOWN = "an image (PNG, JPEG, WebP, GIF, TIFF, BMP, PPM, TGA, JPEG 2000, AVIF or HEIC)"
TGA_MARK = b"TRUEVISION-XFILE.\0"  # at the end of a TGA
WRITTEN = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}  # format to options
ORIENTATION = 0x0112  # tag of EXIF; its values from 2 on are undone by these
TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")

# of a PNG's texts and profiles; Pillow's own limits, 1 and 64 MB, refuse the image for them
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 64 * 2**20, 128 * 2**20
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs about damaged files is in our errors

Source = str | os.PathLike | bytes | bytearray | memoryview
Box = tuple[int, int, int, int]


class ImageError(ValueError):
    """An image that cannot be read or used; the message is one sentence for the user."""


def _refused(expected: str, found: str, advice: str) -> ImageError:
    return ImageError(f"expected {expected} but {found}; {advice}")


def read_image(source: Source, size: int | None = None, name: str | None = None) -> torch.Tensor:
    """Read a photo, upright, as float32 (1, 3, H, W), sRGB in [0, 1]; transparency is composited on white.

    source: path of a file in one of the formats of KNOWN, or its bytes (an upload). EXIF's orientation and the ICC
    profile are applied, grey becomes RGB, 16-bit grey is scaled by 1/65535, of an animation the first frame is taken.
    size: the central square is resized, antialiased, to (1, 3, size, size). name: what errors call the image.
    """
    colours, alpha = read_rgba(source, name)
    image = colours if alpha.min() == 1 else torch.lerp(torch.ones(()), colours, alpha)
    return image if size is None else resize(square_crop(image), size)


def read_rgba(source: Source, name: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours (1, 3, H, W) as stored, and opacity (1, 1, H, W), of what ``read_image`` reads, with its ImageError."""
    is_path = isinstance(source, str | os.PathLike)
    name = name or (Path(source).name or str(source) if is_path else "the uploaded file")
    data = _read_bytes(source, name) if is_path else bytes(source)
    _check_bytes(name, len(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that it can live with
        image = _to_tensor(_open(data, name), name)
    return image[:, :3], image[:, 3:] if image.shape[1] == 4 else torch.ones_like(image[:, :1])


def _check_bytes(name: str, count: int) -> None:
    if not 0 < count <= MAX_BYTES:
        found = f"{name} has {count // 10**6} MB" if count else f"{name} is empty (0 bytes)"
        advice = "save it again, smaller, or download it again"
        raise _refused(f"an image file of 1 byte to {MAX_BYTES // 10**6} MB", found, advice)


def _read_bytes(path: str | os.PathLike, name: str) -> bytes:
    try:
        path = Path(os.path.expanduser(path))
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            _check_bytes(name, status.st_size)
            return path.read_bytes()
    except ImageError:
        raise
    except FileNotFoundError:
        raise _refused("an image file", f"there is no {path}", "check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a 0 byte in it
        raise _refused("the path of an image file", f"{name!r} gives '{error}'", "check the path") from None
    raise _refused("an image file", f"{name} is a folder, a device or a pipe", "name a file")


def _open(data: bytes, name: str) -> Image.Image:
    """The decoded, upright first frame: RGB(A) in sRGB, or grey of more than 8 bits."""
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
    if width * height > MAX_PIXELS or min(width, height) < MIN_SIDE:
        bounds = f"an image with sides of at least {MIN_SIDE} and at most {MAX_PIXELS // 10**6} million pixels"
        raise _refused(bounds, f"{name} has {width} x {height}", "resize it or choose another one")
    try:
        image.load()
        with suppress(Exception):  # damaged EXIF makes Pillow raise nearly everything; only the orientation matters
            turn = image.getexif().get(ORIENTATION, 1)
            image = image.transpose(Image.Transpose[TURNS[turn - 2]]) if turn in range(2, 9) else image
        image = _to_srgb(image)
        deep = image.mode.startswith("I") or image.mode == "F"
        return image if deep else image.convert("RGBA" if image.has_transparency_data else "RGB")
    except Exception:
        damaged = f"{name} is a truncated or damaged {image.format} file"
        raise _refused("a whole image", damaged, "copy or download it again") from None


def _to_srgb(image: Image.Image) -> Image.Image:
    """Converted by the ICC profile, with transparency kept; unchanged without one, or where it is damaged."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK"):
        return image
    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        if "sRGB" in ImageCms.getProfileDescription(source):  # a conversion would only round
            return image
        grey = source.profile.xcolor_space.strip() == "GRAY"
        plain = image.convert("L" if grey else "CMYK" if image.mode == "CMYK" else "RGB")
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        converted = ImageCms.profileToProfile(plain, source, target, intent, outputMode="RGB", flags=flags)
        if image.has_transparency_data:
            converted.putalpha(image.convert("RGBA").getchannel("A"))
        return converted
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def _not_an_image(data: bytes, name: str) -> ImageError:
    if data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return _refused("an image", f"{name} is a web page", "download the image itself")
    if data[4:8] == b"ftyp":
        return _refused("an image", f"{name} is HEIC or a video", "install pillow-heif, or export it as JPEG")
    return _refused(KNOWN, f"{name} cannot be read as one", "open it in an image editor and save it as PNG")


def _to_tensor(image: Image.Image, name: str) -> torch.Tensor:
    """The image as float32 (1, 3 or 4, H, W)."""
    pixels = np.asarray(image)
    if pixels.dtype == np.uint8:
        return from_uint8(pixels)
    # grey of 16 or 32 bits or floats: Pillow's own conversion would clip it at 255
    peak = 1 if pixels.dtype.kind == "f" else 255 if pixels.max() <= 255 else 65535  # 255: 8 bits in a larger file
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= peak):
        found = f"{name} holds {pixels.min():g}…{pixels.max():g}"
        raise _refused(f"grey values in 0…{peak}", found, "save it as PNG")
    return torch.from_numpy(pixels.astype(np.float32) / peak)[None, None].repeat(1, 3, 1, 1)


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Images (B, 3, H, W), or masks of one channel, as uint8 (B, H, W, C), rounded. ImageError for others and NaN."""
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise ImageError(f"expected images of shape (B, 3, H, W) but got {shape or type(images).__name__}")
    if not torch.isfinite(images).all():
        raise ImageError("expected images with finite values but got NaN or infinity; check the step that made them")
    return (quantize(images) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def from_uint8(array: np.ndarray) -> torch.Tensor:
    """An array (H, W, C) or (B, H, W, C) of uint8 as float32 (B, C, H, W) in [0, 1]. Raises ImageError for others."""
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.size == 0:
        raise ImageError(f"expected uint8 of shape (H, W, C) or (B, H, W, C) but got {array.dtype} {array.shape}")
    array = array[None] if array.ndim == 3 else array
    return torch.from_numpy(np.array(array.transpose(0, 3, 1, 2), order="C")).float().div_(255)


def quantize(images: torch.Tensor) -> torch.Tensor:
    """Images as a file would hold them: clamped to [0, 1], rounded to multiples of 1/255, float32, the same shape."""
    return (images.detach().float().clamp(0, 1) * 255).round() / 255


def shown(images: torch.Tensor) -> torch.Tensor:
    """A network's images clamped to [0, 1], black where they are NaN (a frozen sample, which is marked so)."""
    return images.nan_to_num(nan=0.0).clamp(0, 1)


def in_range(images: torch.Tensor) -> bool:
    """Whether all values are finite and, up to rounding, in [0, 1]."""
    return bool((images >= -ROUNDING).all() and (images <= 1 + ROUNDING).all())  # NaN is neither


def resize(images: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Images (B, C, H, W) at `size`, an int or (height, width): bicubic, antialiased, in [0, 1]. ImageError below 1."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    if min(size) < 1:
        raise ImageError(f"expected a size of at least 1 pixel but got {size}")
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def scaled(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Images (B, C, H, W) resized by a factor."""
    return resize(images, tuple(max(1, round(side * factor)) for side in images.shape[-2:]))


def longer_side(images: torch.Tensor, size: int) -> torch.Tensor:
    """Images (B, C, H, W) resized so that the longer side has ``size`` pixels; the shape stays."""
    return scaled(images, size / max(images.shape[-2:]))


def crop(images: torch.Tensor, box: Box) -> torch.Tensor:
    """The part (left, top, right, bottom), in pixels, of images (B, C, H, W). ImageError beyond the edges."""
    height, width = images.shape[-2:]
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ImageError(f"expected a box (left, top, right, bottom) within {width} x {height} pixels but got {box}")
    if min(right - left, bottom - top) < MIN_SIDE:
        least = f"a box of at least {MIN_SIDE} x {MIN_SIDE} pixels"
        raise ImageError(f"expected {least} but got {right - left} x {bottom - top}; choose a larger one")
    return images[..., top:bottom, left:right]


def central_box(images: torch.Tensor) -> Box:
    """The largest central square of images (B, C, H, W)."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return left, top, left + side, top + side


def square_crop(images: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) cut to their largest central square."""
    return crop(images, central_box(images))


def grid(images: torch.Tensor, columns: int | None = None, padding: int = 2) -> torch.Tensor:
    """Images (B, 3, H, W) as one image, row by row on white, as square as possible by default; one image stays."""
    if len(images) == 1:
        return images
    from torchvision.utils import make_grid  # takes a second to import, which commands would wait for at their start

    joined = make_grid(images, columns or math.ceil(math.sqrt(len(images))), padding, pad_value=1.0)
    height, width = joined.shape[-2:]
    return joined[None, :, padding : height - padding, padding : width - padding]


def write_image(path: str | os.PathLike, image: torch.Tensor) -> None:
    """Write one image (1, 3, H, W) or mask (1, 1, H, W) to .png, .jpg or .webp, atomically. ImageError for others."""
    file_format = Image.registered_extensions().get(Path(path).suffix.lower())
    if file_format not in WRITTEN:
        raise ImageError(f"expected a file name ending in .png, .jpg or .webp but got {Path(path).name!r}")
    pixels = to_uint8(image)
    if len(pixels) != 1:
        raise ImageError(f"expected one image (1, 3, H, W) but got {len(pixels)}; join them with grid() first")
    written = Image.fromarray(pixels[0, :, :, 0] if pixels.shape[3] == 1 else pixels[0])
    with atomic_path(path) as temporary:
        written.save(temporary, file_format, **WRITTEN[file_format])
