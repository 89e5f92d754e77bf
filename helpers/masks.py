"""Masks: where in an image something counts. float32 (B, 1, H, W) in [0, 1], 1 = this region.

Shapes take fractions of the image's sides, so one description fits every resolution; edges are anti-aliased.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from skimage.draw import polygon2mask
from torch import Tensor

from helpers.images import ROUNDING, Source, read_rgba, resize, square_crop

Size = int | tuple[int, int]
SIDES = ("left", "right", "top", "bottom")
SUPERSAMPLING = 8  # samples per pixel and axis, for the edges of ellipses and polygons
TRANSPARENT = 0.001  # share of a file's pixels from which its transparency counts, or its colours
COLOURED = 0.25  # difference of a pixel's channels; what a JPEG adds to grey is less
OVERLAY = (1.0, 0.15, 0.35)  # RGB of previews: a pink that no fur has


class MaskError(ValueError):
    """Not a mask, or one that does not fit its image; the message says what was expected and what to do."""


# --- checks ----------------------------------------------------------------------------------------------------------


def as_mask(values: Tensor | np.ndarray, size: Size | None = None, name: str = "the mask") -> Tensor:
    """A mask float32 (B, 1, H, W) in [0, 1] from what people have.

    Args:
        values: (H, W), (1, H, W), (H, W, 1) or (B, 1, H, W). Booleans become 0 and 1; whole numbers are 0 and 1, or
            0-255 where one is above 1; floats are in [0, 1]. A blank mask and one of ones are masks too: the terms of
            an empty region are 0.
        size: side or (height, width) that the mask must have.
        name: for the message.

    Raises:
        MaskError: for NaN, values outside [0, 1] (0-255 as floats too), another shape or size.
    """
    mask = _as_tensor(values, name)
    shape = tuple(mask.shape)
    if mask.ndim == 3 and shape[-1] == 1 and shape[0] != 1:
        mask = mask.movedim(-1, 0)
    mask = mask[None, None] if mask.ndim == 2 else mask[None] if mask.ndim == 3 else mask
    if mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
        raise MaskError(f"{name} must be of shape (B, 1, H, W) or (H, W); got {shape}; give one channel.")
    expected = None if size is None else _pair(size)
    if expected is not None and tuple(mask.shape[-2:]) != expected:
        raise MaskError(
            f"{name} must have the image's size, {expected[1]} x {expected[0]} pixels, but it has {mask.shape[-1]} x "
            f"{mask.shape[-2]}; make it at that size or read it with mask_from_file(path, size)."
        )
    return _unit_range(mask, name)


def _as_tensor(values, name: str) -> Tensor:
    """A tensor of real numbers from anything that can be one. Raises MaskError for ragged lists, texts, objects."""
    try:
        array = values if isinstance(values, Tensor) else np.asarray(values)
        if isinstance(array, np.ndarray):
            if array.dtype.kind not in "biuf":
                raise TypeError(f"numbers of type {array.dtype}")
            # torch knows neither views that run backwards, nor other byte orders, nor most unsigned types
            wide = {"b": np.bool_, "f": np.float64}.get(array.dtype.kind, np.int64)
            return torch.from_numpy(np.array(array, wide, order="C"))
        if array.is_complex() or array.is_quantized or array.layout != torch.strided:
            raise TypeError(f"a tensor of {array.dtype}, {array.layout}")
        return array.detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise MaskError(f"{name} must be an array of numbers in [0, 1]; got {error}.") from error


def _unit_range(mask: Tensor, name: str) -> Tensor:
    if mask.dtype == torch.bool:
        return mask.float()
    if not mask.is_floating_point():
        mask = mask.float()
        mask = mask / (255 if mask.max() > 1 else 1)
    if not mask.isfinite().all():
        raise MaskError(f"{name} holds NaN or infinity; give values in [0, 1], 1 for the region.")
    low, high = mask.min().item(), mask.max().item()
    if low < -ROUNDING or high > 1 + ROUNDING:
        hint = "divide it by 255" if high <= 255 and low >= 0 else "scale it to that range"
        raise MaskError(f"{name} must be in [0, 1], but its values reach from {low:g} to {high:g}; {hint}.")
    return mask.float().clamp(0, 1)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


# --- shapes ----------------------------------------------------------------------------------------------------------


def half(size: Size, side: str = "left", at: float = 0.5) -> Tensor:
    """Half plane (1, 1, H, W): everything on one side of a straight cut.

    side: "left", "right", "top" or "bottom". at: where the cut is, as a fraction of the width or height from the left
    or top. Raises MaskError for another side.
    """
    boxes = {"left": (0, 0, at, 1), "right": (at, 0, 1, 1), "top": (0, 0, 1, at), "bottom": (0, at, 1, 1)}
    if side not in boxes:
        raise MaskError(f"side must be one of {', '.join(SIDES)}; got {side!r}.")
    return box(size, boxes[side])


def box(size: Size, edges: Sequence[float]) -> Tensor:
    """Rectangle (1, 1, H, W); edges (left, top, right, bottom) as fractions of width and height.

    A pixel that the edge cuts has the value of the part inside. Raises MaskError unless left <= right, top <= bottom.
    """
    height, width = _pair(size)
    left, top, right, bottom = (float(edge) for edge in edges)
    if not (left <= right and top <= bottom):
        raise MaskError(f"a box is (left, top, right, bottom) with left <= right and top <= bottom; got {edges}.")
    return (_covered(height, top, bottom)[:, None] * _covered(width, left, right))[None, None]


def _covered(pixels: int, start: float, stop: float) -> Tensor:
    """Share of each of ``pixels`` cells that lies between two fractions of their sum."""
    cells = torch.arange(pixels, dtype=torch.float64)
    covered = torch.minimum(cells + 1, torch.tensor(stop * pixels)) - torch.maximum(cells, torch.tensor(start * pixels))
    return covered.clamp(0, 1).float()


def ellipse(size: Size, centre=(0.5, 0.5), radii=(0.25, 0.25), angle: float = 0.0) -> Tensor:
    """Ellipse (1, 1, H, W); centre (x, y) and radii (x, y) as fractions of width and height, angle in degrees.

    Positive angles turn clockwise on the screen. Raises MaskError for a radius that is not positive.
    """
    height, width = _pair(size)
    if min(radii) <= 0:
        raise MaskError(f"the radii of an ellipse must be positive; got {tuple(radii)}.")
    y = (torch.arange(height * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - centre[1] * height
    x = (torch.arange(width * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - centre[0] * width
    turn = np.deg2rad(angle)
    along = x[None] * np.cos(turn) + y[:, None] * np.sin(turn)
    across = y[:, None] * np.cos(turn) - x[None] * np.sin(turn)
    inside = (along / (radii[0] * width)) ** 2 + (across / (radii[1] * height)) ** 2 <= 1
    return _pooled(inside)


def polygon(size: Size, points: Sequence[tuple[float, float]]) -> Tensor:
    """Polygon (1, 1, H, W); at least three corners (x, y) as fractions of width and height, closed by itself."""
    height, width = _pair(size)
    if len(points) < 3:
        raise MaskError(f"a polygon needs at least 3 corners; got {len(points)}.")
    fine = (height * SUPERSAMPLING, width * SUPERSAMPLING)
    corners = [(y * fine[0] - 0.5, x * fine[1] - 0.5) for x, y in points]  # rows and columns of sample centres
    return _pooled(torch.from_numpy(polygon2mask(fine, corners)))


def brush(size: Size, points: Sequence[tuple[float, float]], width: float) -> Tensor:
    """A brush stroke (1, 1, H, W) with round ends through points (x, y); points and width as fractions of the side.

    size: of a square, or (height, width) where the width of the stroke is a fraction of the shorter side.
    """
    height, across = _pair(size)
    radius = width / 2 * min(height, across)
    y = ((torch.arange(height * SUPERSAMPLING) + 0.5) / SUPERSAMPLING)[:, None]
    x = ((torch.arange(across * SUPERSAMPLING) + 0.5) / SUPERSAMPLING)[None]
    corners = [(u * across, v * height) for u, v in points]
    inside = torch.zeros(y.shape[0], x.shape[1], dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] or corners, strict=False):
        length = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-12)
        along = (((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length).clamp(0, 1)
        inside |= (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2 <= radius**2
    return _pooled(inside)


def _pooled(samples: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(samples.float()[None, None], SUPERSAMPLING)


FARTHEST = 1000.0  # of a number in a description; beyond it the polygon's arithmetic overflows
# name to (size) -> mask; the faces' places are those of photos.FACE_LANDMARKS
SHAPES: dict[str, Callable[[Size], Tensor]] = {
    "half": half,
    **{side: partial(half, side=side) for side in SIDES},
    "ellipse": partial(ellipse, centre=(0.5, 0.52), radii=(0.28, 0.34)),  # eyes, nose and mouth
    "eyes": lambda size: union(*(ellipse(size, (x, 0.41), (0.16, 0.13)) for x in (0.29, 0.73))),
    "mouth": partial(box, edges=(0.25, 0.6, 0.75, 1.0)),
}
DESCRIBED = {  # what numbers, fractions of the sides, describe
    "box": lambda size, numbers: box(size, numbers),
    "ellipse": lambda size, numbers: ellipse(size, numbers[:2], numbers[2:4], *numbers[4:]),
    "polygon": lambda size, numbers: polygon(size, list(zip(numbers[::2], numbers[1::2], strict=True))),
}


def mask_from_text(text: str, size: int) -> Tensor:
    """A mask (1, 1, size, size) from what a command line says: a name, a description, or an image file.

    text: a name of ``SHAPES``; "box:LEFT,TOP,RIGHT,BOTTOM", "ellipse:X,Y,RADIUS,RADIUS[,DEGREES]" or
    "polygon:X,Y,X,Y,..." in fractions of the sides; else the path of a file for ``mask_from_file``.
    Raises MaskError for anything else, and for a region of less than a pixel.
    """
    mask = _described(text, size)
    _check_edge(mask, text[:60])
    return mask


def _described(text: str, size: int) -> Tensor:
    if text in SHAPES:
        return SHAPES[text](size)
    kind, _, numbers = text.partition(":")
    if kind in DESCRIBED and numbers:
        try:
            values = [float(number) for number in numbers.split(",")]
            if not all(abs(value) <= FARTHEST for value in values):
                raise ValueError(f"numbers must lie within {FARTHEST:g} of 0; they are fractions of the sides.")
            return DESCRIBED[kind](size, values)
        except (TypeError, ValueError, IndexError) as error:
            raise MaskError(f"{text[:60]!r} describes no {kind}: {error}") from error
    if not os.path.exists(os.path.expanduser(text)):
        raise MaskError(
            f"a mask is {', '.join(SHAPES)}, box:…, ellipse:…, polygon:… or an image file; {text[:60]!r} is "
            "none of them."
        )
    return mask_from_file(text, size)


# --- from files ------------------------------------------------------------------------------------------------------


def mask_from_file(source: Source, size: Size | None = None, name: str | None = None) -> Tensor:
    """A mask (1, 1, H, W) from an image file: what is opaque where parts are transparent, else what is white.

    A file is transparent where at least one pixel in a thousand is less than half opaque; its colours do not count
    then. Label maps of two values (0 and 1, black and one colour of a palette) become 0 and 1.

    Args:
        source: path, or the bytes of an upload.
        size: side to which its central square is resized, or (height, width) for the whole image.
        name: for messages; the file's name by default.

    Raises:
        MaskError: for a coloured image, one without edge, or one that selects (nearly) nothing or everything.
        ImageError: for a file that is not an image.
    """
    image, alpha = read_rgba(source, name=name)
    name = name or (Path(source).name if isinstance(source, str | os.PathLike) else "the mask")
    transparent = (alpha < 0.5).float().mean() >= TRANSPARENT
    mask = alpha if transparent else _lightness(image, name)
    _check_edge(mask, name, least=0)
    if size is not None:
        mask = resize(square_crop(mask) if isinstance(size, int) else mask, size)
    _check_edge(mask, name)
    return mask


def _lightness(image: Tensor, name: str) -> Tensor:
    """(1, 1, H, W): the lightness of a grey image; 0 and 1 for a label map of black and one other value."""
    light, spread = image.mean(1, keepdim=True), image.amax(1) - image.amin(1)
    coloured = (spread > COLOURED).float().mean() >= TRANSPARENT
    levels = (image * 255).round().flatten(2)[0].T.unique(dim=0) if coloured or light.max() < 0.5 else ()
    if len(levels) == 2 and levels[0].sum() == 0:
        return (light > 0).float()
    if coloured:
        raise MaskError(
            f"a mask is white where it selects and black elsewhere, or transparent; {name} has {len(levels)} colours; "
            "paint the region white on black."
        )
    return light


def _check_edge(mask: Tensor, name: str, least: float = 1.0) -> None:
    """Raise MaskError unless some pixels (``least`` of them in all) are selected and some are not."""
    low, high = mask.min().item(), mask.max().item()
    nothing = mask.sum() < least or (least == 0 and high < 0.5)
    if nothing or (1 - mask).sum() < least or (least == 0 and low > 0.5):
        raise MaskError(
            f"{name} selects (nearly) {'nothing' if nothing else 'everything'}, its values reach from {low:.3g} to "
            f"{high:.3g}; a mask is 1, white or opaque, where it selects, and 0 elsewhere."
        )


def mask_from_drawing(drawing: np.ndarray | Tensor, size: Size | None = None) -> Tensor:
    """A mask (1, 1, H, W) from a canvas: wherever something was drawn.

    Args:
        drawing: uint8 (H, W, 4): its opacity; (H, W, 3) or (H, W): darkness of the strokes on white paper.
        size: side or (height, width) to average it down to.

    Raises:
        MaskError: for another shape or type.
    """
    pixels = drawing.detach().cpu().numpy() if isinstance(drawing, Tensor) else drawing
    if not isinstance(pixels, np.ndarray):
        raise MaskError(f"a drawing must be an array of uint8; got a {type(drawing).__name__}.")
    channels = pixels.shape[-1] if pixels.ndim == 3 else 1
    known = pixels.ndim == 2 or (pixels.ndim == 3 and channels in (3, 4))
    if pixels.dtype != np.uint8 or not known or 0 in pixels.shape:
        raise MaskError(
            f"a drawing must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4); got {pixels.dtype} "
            f"{tuple(pixels.shape)}."
        )
    pixels = torch.from_numpy(np.array(pixels, order="C"))
    values = pixels.reshape(*pixels.shape[:2], channels).float() / 255
    mask = values[..., 3] if channels == 4 else 1 - values.mean(-1)
    mask = mask[None, None]
    return mask if size is None else mask_pyramid(mask, [_pair(size)])[0]


# --- algebra ---------------------------------------------------------------------------------------------------------


def invert(mask: Tensor) -> Tensor:
    """Everything else: 1 - mask."""
    return 1 - mask


def union(*masks: Tensor) -> Tensor:
    """In any of the masks: their maximum."""
    return torch.stack(torch.broadcast_tensors(*masks)).amax(0)


def intersect(*masks: Tensor) -> Tensor:
    """In all of the masks: their minimum."""
    return torch.stack(torch.broadcast_tensors(*masks)).amin(0)


def grow(mask: Tensor, radius: float) -> Tensor:
    """Widen the region by ``radius`` pixels in all directions (grey dilation by a disk); negative shrinks it.

    The image's own border is not an edge of the region: a half plane grows only at its cut.
    """
    if abs(radius) < 1:
        return mask
    reach = int(abs(radius))
    offsets = np.arange(-reach, reach + 1)
    disk = (offsets[:, None] ** 2 + offsets[None] ** 2 <= radius**2)[None, None]
    morph = ndimage.grey_dilation if radius > 0 else ndimage.grey_erosion
    return torch.from_numpy(morph(mask.cpu().numpy(), footprint=disk, mode="nearest")).to(mask.device)


def shrink(mask: Tensor, radius: float) -> Tensor:
    """Narrow the region by ``radius`` pixels from all its edges, not from the image's border."""
    return grow(mask, -radius)


def feather(mask: Tensor, radius: float) -> Tensor:
    """Soften the edge: Gaussian blur with a standard deviation of ``radius`` pixels; 0 changes nothing.

    Outside the image the border's values continue. Raises MaskError for a negative radius.
    """
    if radius < 0:
        raise MaskError(f"the feather radius must be 0 or more pixels; got {radius}.")
    return blur(mask, radius)


def blur(values: Tensor, radius: float) -> Tensor:
    """Gaussian blur of masks or images (B, C, H, W) in [0, 1], standard deviation ``radius`` pixels; no gradient."""
    if radius <= 0:
        return values
    blurred = ndimage.gaussian_filter(values.detach().cpu().numpy(), (0, 0, radius, radius), mode="nearest", truncate=3)
    return torch.from_numpy(blurred).clamp(0, 1).to(values.device)


def edge_band(mask: Tensor, width: float = 1.0) -> Tensor:
    """The pixels within ``width`` of the region's edge, on both sides, as a mask of 0 and 1."""
    hard = (mask >= 0.5).float()
    return grow(hard, width) - shrink(hard, width)


# --- sizes and previews ----------------------------------------------------------------------------------------------


def mask_pyramid(mask: Tensor, sizes: Iterable[Size]) -> list[Tensor]:
    """The mask at other sizes, for feature layers, activations and noise maps: each cell is the mean of what it covers.

    Area resampling keeps the mean of the mask, so a region keeps its share of every layer.

    Args:
        mask: (B, 1, H, W).
        sizes: sides or (height, width) of the layers.

    Returns:
        One (B, 1, h, w) in [0, 1] for each size.
    """
    return [_resample(_resample(mask, h, -2), w, -1) for h, w in map(_pair, sizes)]


def _resample(mask: Tensor, cells: int, dim: int) -> Tensor:
    count = mask.shape[dim]
    if cells == count:
        return mask
    edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64).tolist()
    rows = [_covered(count, a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    weight = (torch.stack(rows) * (cells / count)).to(mask)
    return (mask.movedim(dim, -1) @ weight.t()).movedim(-1, dim).clamp(0, 1)


def overlay(image: Tensor, mask: Tensor, colour: Sequence[float] = OVERLAY, opacity: float = 0.5) -> Tensor:
    """Preview (B, 3, H, W): the image with the region tinted.

    image: (B, 3, H, W) in [0, 1]. mask: (B or 1, 1, H, W). colour: RGB in [0, 1]. opacity: of the tint where the mask
    is 1. Raises MaskError for a mask of another size.
    """
    mask = as_mask(mask, tuple(image.shape[-2:])).to(image.device)
    return torch.lerp(image, image.new_tensor(colour).view(1, 3, 1, 1), mask * opacity)
