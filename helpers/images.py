"""Read, resize, crop and write images; grids, GIF and MP4. Knows nothing of models.

An image is a float32 tensor (B, 3, H, W), RGB, in [0, 1]. uint8 exists only at the file, by rounding.
"""

import io
import itertools
import logging
import math
import os
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from helpers.files import WriteError, atomic_path, clear_temporaries  # noqa: F401

MAX_PIXELS = 50_000_000  # what a phone takes at its best; 600 MB as float32, 1.5 GB while it is read
MAX_BYTES = 200_000_000  # of a file
MIN_SIDE = 8  # pixels; below that there is nothing to see or to optimise

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF")  # MPO: some phones' JPEG
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # what write_image writes
WATCHABLE = 256  # pixels; videos with a shorter side are enlarged

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs of damaged files is in our errors

Source = str | os.PathLike | bytes | bytearray | memoryview
Box = tuple[int, int, int, int]


class ImageError(ValueError):
    """An image that cannot be read, written or used; the message is one sentence for the user."""


# --- reading ---------------------------------------------------------------------------------------------------------


def read_image(
    source: Source, size: int | None = None, box: Box | None = None, name: str | None = None
) -> torch.Tensor:
    """Read a photo, upright, as float32 (1, 3, H, W), RGB in [0, 1].

    source: path of a PNG, JPEG, WebP, GIF, TIFF, BMP, PPM or AVIF file, or its bytes (an upload). The orientation in
    EXIF is applied, transparency is composited on white, grey becomes RGB, 16-bit samples are scaled by 1/65535
    (colour with 16 bits per channel keeps its high byte), of an animation the first frame is taken. ICC profiles are
    ignored.
    box: (left, top, right, bottom) in pixels of the upright photo: only this part is returned.
    size: the central square (of the box, if given) is resized, antialiased, to (1, 3, size, size).
    name: what to call the image in an error; the file's name by default.

    Raises ImageError when there is no such file, it is no image, is damaged, has a side below MIN_SIDE or more than
    MAX_PIXELS pixels (seen in the header, before anything is decoded), or when the box lies outside it.
    """
    image = _composite(_decode(source, name))
    return _cut(image, size, box)


def read_rgba(
    source: Source, size: int | None = None, box: Box | None = None, name: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a photo as read_image does, but keep its transparency: (1, 3, H, W) and a mask (1, 1, H, W), 1 = opaque.

    The colours are those in the file, not composited; a file without transparency gives a mask of ones.
    Raises ImageError as read_image does.
    """
    rgba = _decode(source, name)
    image, alpha = (rgba[:, :3], rgba[:, 3:]) if rgba.shape[1] == 4 else (rgba, torch.ones_like(rgba[:, :1]))
    return _cut(image, size, box), _cut(alpha, size, box)


def _cut(image: torch.Tensor, size: int | None, box: Box | None) -> torch.Tensor:
    if box is not None:
        image = crop(image, box)
    return image if size is None else resize(square_crop(image), size)


def _composite(rgba: torch.Tensor) -> torch.Tensor:
    if rgba.shape[1] == 3:
        return rgba
    alpha = rgba[:, 3:]
    return rgba[:, :3].mul_(alpha).add_(1 - alpha).contiguous()


def _decode(source: Source, name: str | None) -> torch.Tensor:
    """The upright image as float32 (1, 3 or 4, H, W)."""
    data = bytes(source) if isinstance(source, bytes | bytearray | memoryview) else None
    name = name or ("the uploaded file" if data is not None else _label(source))
    if data is None:
        data = _read_bytes(source, name)
    if not data:
        raise ImageError(f"expected an image but {name} is empty (0 bytes); copy or download it again")
    if len(data) > MAX_BYTES:
        raise _too_many_bytes(name, len(data))
    with warnings.catch_warnings(), _silent() if data[:2] in (b"II", b"MM") else nullcontext():
        warnings.simplefilter("ignore")  # Pillow warns of damage that it can live with
        return _to_tensor(_open(data, name), name)


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing reaches the standard error stream: libtiff writes there of all it meets, past Python's warnings."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _label(path: str | os.PathLike) -> str:
    return Path(path).name or str(path)


def _too_many_bytes(name: str, count: int) -> ImageError:
    return ImageError(
        f"expected an image file of at most {MAX_BYTES // 10**6} MB but {name} has {count // 10**6} MB; "
        "save a smaller copy"
    )


def _read_bytes(path: str | os.PathLike, name: str) -> bytes:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"expected an image file but {name} is a folder; name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"expected an image file but {name} is a device or a pipe; save it to a file first")
        if status.st_size > MAX_BYTES:
            raise _too_many_bytes(name, status.st_size)
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"expected an image file but there is no {path}; check the path") from None
    except OSError as error:
        raise ImageError(f"expected a readable image file but {name} gives '{error.strerror}'; check it") from None
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"expected the path of an image file but got {path!r}; check the path") from None


def _open(data: bytes, name: str) -> Image.Image:
    """The decoded, upright first frame. The size in the header is checked before decoding."""
    Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]  # an old Pillow has no AVIF
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise _too_many_pixels(name, "far more") from None
    except Exception:  # damaged files make Pillow raise nearly everything
        raise _not_an_image(data, name) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(name, f"{width} x {height}")
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"expected an image with sides of at least {MIN_SIDE} pixels but {name} has {width} x {height}; "
            "choose a larger one"
        )
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception:
        raise ImageError(
            f"expected a whole image but {name} is a truncated or damaged {image.format} file; "
            "copy or download it again"
        ) from None


def _too_many_pixels(name: str, came: str) -> ImageError:
    return ImageError(
        f"expected an image of at most {MAX_PIXELS // 10**6} million pixels but {name} has {came}; "
        "shrink or crop it first"
    )


def _not_an_image(data: bytes, name: str) -> ImageError:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return ImageError(f"expected an image but {name} is a web page; download the picture itself")
    if data[4:8] == b"ftyp":
        return ImageError(f"expected an image but {name} is HEIC or a video; export it as JPEG or PNG")
    return ImageError(
        f"expected an image (PNG, JPEG, WebP, GIF, TIFF, BMP, PPM or AVIF) but {name} is none that can be read; "
        "open it in a picture editor and save it as PNG"
    )


def _to_tensor(image: Image.Image, name: str) -> torch.Tensor:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(np.asarray(image), name)
    transparent = image.has_transparency_data
    try:
        pixels = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    except Exception:
        raise ImageError(
            f"expected an RGB, grey, palette or CMYK image but {name} is {image.mode}; save it as PNG"
        ) from None
    return from_uint8(pixels)


def _deep_grey(pixels: np.ndarray, name: str) -> torch.Tensor:
    """16-bit or float grey as (1, 3, H, W); Pillow's own conversion would clip it at 255."""
    peak = 1 if pixels.dtype.kind == "f" else 65535
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= peak):
        raise ImageError(
            f"expected grey values in 0…{peak} but {name} holds {pixels.min():g}…{pixels.max():g}; save it as PNG"
        )
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
    """A network's images clamped to [0, 1], black where they are NaN: of a sample that gave up, and is marked so."""
    return images.nan_to_num(nan=0.0).clamp(0, 1)


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
    """Images (B, C, H, W) as one picture (1, C, rows*(H+padding)-padding, columns*(W+padding)-padding), row by row.

    columns: as square as possible by default. background: grey value in [0, 1] between images and after the last.
    Raises ImageError for another shape, NaN, or fewer than one column.
    """
    _check(images)
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    if columns < 1 or padding < 0:
        raise ImageError(f"expected at least 1 column and a padding of 0 or more but got {columns} and {padding}")
    rows = math.ceil(count / columns)
    out = images.new_full(
        (1, channels, rows * (height + padding) - padding, columns * (width + padding) - padding), background
    )
    for index, image in enumerate(images):
        top, left = index // columns * (height + padding), index % columns * (width + padding)
        out[0, :, top : top + height, left : left + width] = image
    return out


# --- writing ---------------------------------------------------------------------------------------------------------


def write_image(path: str | os.PathLike, image: torch.Tensor) -> None:
    """Write one image (1, 3, H, W) or mask (1, 1, H, W) in [0, 1], clamped and rounded to 8 bits, atomically.

    The suffix gives the format: .png, .webp (both lossless), .jpg, .jpeg (quality 95, full chroma).
    Raises ImageError for another suffix, more than one image, NaN, or where the file cannot be written.
    """
    file_format = SUFFIXES.get(Path(path).suffix.lower())
    if file_format is None:
        raise ImageError(f"expected a file name ending in {', '.join(SUFFIXES)} but got {Path(path).name!r}")
    pixels = to_uint8(image)
    if len(pixels) != 1:
        raise ImageError(f"expected one image (1, 3, H, W) but got {len(pixels)}; join them with grid() first")
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}
    picture = Image.fromarray(pixels[0, :, :, 0] if pixels.shape[3] == 1 else pixels[0])
    with atomic_path(path) as temporary:
        picture.save(temporary, format=file_format, **options[file_format])


def _frames(frames: Iterable[torch.Tensor] | torch.Tensor) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3), one by one, all of one size."""
    first = None
    for batch in [frames] if isinstance(frames, torch.Tensor) else frames:
        for pixels in to_uint8(batch):
            first = first or pixels.shape
            if pixels.shape != first:
                raise ImageError(f"expected frames of one size but got {first[:2]} and then {pixels.shape[:2]}")
            yield np.broadcast_to(pixels, (*first[:2], 3))


def _enlargement(shape: tuple[int, ...]) -> int:
    """The whole factor that gives a frame WATCHABLE pixels a side."""
    return math.ceil(WATCHABLE / min(shape[:2]))


def _checked_fps(fps: float, most: float) -> float:
    if not 0 < fps <= most:
        raise ImageError(f"expected between 0 and {most:g} frames per second but got {fps}")
    return fps


def write_gif(path: str | os.PathLike, frames: Iterable[torch.Tensor] | torch.Tensor, fps: float = 20) -> None:
    """Write an animation that loops for ever, atomically; each frame has its own 256 colours.

    frames: an iterable of (B, 3, H, W) in [0, 1] of one size, or one such batch; frames with a side below WATCHABLE
    are enlarged by a whole factor, nearest neighbour. fps: at most 50, the fastest that browsers play.
    Raises ImageError for no frames, frames that differ in size, NaN, a wrong suffix or where it cannot be written.
    """
    _check_suffix(path, ".gif")
    _checked_fps(fps, 50)
    pictures = [_palette(pixels) for pixels in _frames(frames)]
    if not pictures:
        raise ImageError("expected at least one frame but got none")
    ends = [round(100 * (index + 1) / fps) for index in range(len(pictures))]  # GIF counts hundredths of a second
    durations = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, disposal=1
        )


def _palette(pixels: np.ndarray) -> Image.Image:
    settled = 1 + pixels.size // 300  # k-means ends when fewer pixels change their colour: one in a hundred
    picture = Image.fromarray(pixels)
    picture = picture.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=settled, dither=Image.Dither.NONE)
    factor = _enlargement(pixels.shape)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _check_suffix(path: str | os.PathLike, suffix: str) -> None:
    if Path(path).suffix.lower() != suffix:
        raise ImageError(f"expected a file name ending in {suffix} but got {Path(path).name!r}")


def write_mp4(path: str | os.PathLike, frames: Iterable[torch.Tensor] | torch.Tensor, fps: float = 30) -> None:
    """Write a video (H.264, yuv420p, near lossless) that browsers and slides play, atomically.

    frames: an iterable of (B, 3, H, W) in [0, 1] of one size, or one such batch; it is consumed as it is written.
    Frames with a side below WATCHABLE are enlarged by a whole factor, nearest neighbour; odd sides are padded by one
    pixel, which the codec needs. fps: at most 120.
    Raises ImageError for no frames, frames that differ in size, NaN, a wrong suffix or where it cannot be written.
    """
    _check_suffix(path, ".mp4")
    _checked_fps(fps, 120)
    even = (_even(pixels) for pixels in _frames(frames))
    first = next(even, None)
    if first is None:
        raise ImageError("expected at least one frame but got none")
    with atomic_path(path) as temporary:
        _encode(temporary, itertools.chain([first], even), first.shape, fps)


def _even(pixels: np.ndarray) -> np.ndarray:
    factor = _enlargement(pixels.shape)
    pixels = pixels.repeat(factor, 0).repeat(factor, 1)
    return np.pad(pixels, [(0, side % 2) for side in pixels.shape[:2]] + [(0, 0)], "edge")


def _encode(path: Path, frames: Iterable[np.ndarray], shape: tuple[int, ...], fps: float) -> None:
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shape[1]}x{shape[0]}", "-r", f"{fps:g}", "-i", "-"]
    colours = [
        "-vf",
        "scale=out_color_matrix=bt709:flags=accurate_rnd+full_chroma_int",
    ]  # tagged: players need not guess
    h264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "12", "-movflags", "+faststart"]
    command = [_ffmpeg(), "-v", "error", "-y", *raw, *colours, *h264, str(path)]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages)
        try:
            with suppress(BrokenPipeError):  # ffmpeg has given up; its exit code and message say why
                for pixels in frames:
                    process.stdin.write(pixels.tobytes())
        except BaseException:
            process.kill()
            raise
        finally:
            process.communicate()
        if process.returncode:
            messages.seek(0)
            lines = messages.read().decode(errors="replace").split("\n")
            raise OSError(next((line for line in lines if line.strip()), "ffmpeg stopped"))


def _ffmpeg() -> str:
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise ImageError(
            "expected ffmpeg for an MP4 but there is none; install imageio-ffmpeg or write a GIF"
        ) from None
