"""Masks: where in an image something counts, float32 (B, 1, H, W) in [0, 1]. Shapes fit every resolution."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import scipy
import skimage
import torch
from torch import Tensor

from helpers.images import Source, from_uint8, in_range, read_rgba, resize, square_crop
from helpers.photos import FACE_LANDMARKS

Size = int | tuple[int, int]  # side or (height, width) in pixels
SUPERSAMPLING = 8  # samples per pixel and axis, for the edges of shapes
TRANSPARENT = 0.001  # share of a file's pixels from which its transparency counts, or its colours
COLOURED = 0.25  # difference of a pixel's channels; what a JPEG adds to grey is less
OVERLAY = (1.0, 0.15, 0.35)  # RGB of previews: a pink that no fur has
FARTHEST = 1000.0  # of a number in a description; beyond it the polygon's arithmetic overflows


def as_mask(values: Tensor | np.ndarray, size: Size | None = None, name: str = "the mask") -> Tensor:
    """A mask float32 (B, 1, H, W) in [0, 1] from (H, W), (1, H, W), (H, W, 1) or (B, 1, H, W).

    Whole numbers are 0 and 1, or 0-255 where one is above 1; floats are in [0, 1]. ``name`` is for the error.
    """
    try:
        array = values.detach() if isinstance(values, Tensor) else np.asarray(values)
        numbers = array if isinstance(array, Tensor) else array.astype(np.float64, casting="same_kind")
    except (TypeError, ValueError) as error:  # ragged lists, texts, objects
        raise ValueError(f"{name} must be an array of numbers in [0, 1]; got {error}.") from error
    mask, shape = torch.as_tensor(numbers).float(), tuple(numbers.shape)
    if mask.ndim == 3 and shape[-1] == 1 and shape[0] != 1:
        mask = mask.movedim(-1, 0)
    mask = mask[None, None] if mask.ndim == 2 else mask[None] if mask.ndim == 3 else mask
    if mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
        raise ValueError(f"{name} must be of shape (B, 1, H, W) or (H, W); got {shape}; give one channel.")
    (height, width), (h, w) = _pair(size or mask.shape[-2:]), mask.shape[-2:]
    if (h, w) != (height, width):
        advice = "make it at that size or read it with mask_from_file(path, size)"
        raise ValueError(f"{name} must have the image's size, {width} x {height} pixels; got {w} x {h}; {advice}.")
    if "int" in getattr(array.dtype, "name", str(array.dtype)) and mask.max() > 1:
        mask = mask / 255
    if not mask.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity; give values in [0, 1], 1 for the region.")
    if not in_range(mask):
        low, high = mask.min().item(), mask.max().item()
        hint = "divide it by 255" if high <= 255 and low >= 0 else "scale it to that range"
        raise ValueError(f"{name} must be in [0, 1]; got values from {low:g} to {high:g}; {hint}.")
    return mask.clamp(0, 1)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def half(size: Size, side: str = "left", at: float = 0.5) -> Tensor:
    """Half plane (1, 1, H, W): left, right, top or bottom (else ValueError) of a cut ``at`` a fraction of the side."""
    boxes = {"left": (0, 0, at, 1), "right": (at, 0, 1, 1), "top": (0, 0, 1, at), "bottom": (0, at, 1, 1)}
    if side not in boxes:
        raise ValueError(f"side must be one of {', '.join(boxes)}; got {side!r}.")
    return box(size, boxes[side])


def box(size: Size, edges: Sequence[float]) -> Tensor:
    """Rectangle (1, 1, H, W), antialiased; (left, top, right, bottom) as fractions, ValueError for another order."""
    height, width = _pair(size)
    left, top, right, bottom = (float(edge) for edge in edges)
    if not (left <= right and top <= bottom):
        raise ValueError(f"a box is (left, top, right, bottom) with left <= right and top <= bottom; got {edges}.")
    return (_covered(height, top, bottom)[:, None] * _covered(width, left, right))[None, None]


def _covered(pixels: int, start: float, stop: float) -> Tensor:
    """Share of each of ``pixels`` cells that lies between two fractions of their sum."""
    cells = torch.arange(pixels, dtype=torch.float64)
    covered = torch.minimum(cells + 1, torch.tensor(stop * pixels)) - torch.maximum(cells, torch.tensor(start * pixels))
    return covered.clamp(0, 1).float()


def ellipse(size: Size, centre=(0.5, 0.5), radii=(0.25, 0.25), angle: float = 0.0) -> Tensor:
    """Ellipse (1, 1, H, W); centre, radii > 0 (x, y) as fractions, else ValueError; angle in degrees, clockwise."""
    if min(radii) <= 0:
        raise ValueError(f"the radii of an ellipse must be positive; got {tuple(radii)}.")
    (height, width), (x, y), turn = _pair(size), _samples(size), np.deg2rad(angle)
    x, y = x - centre[0] * width, y - centre[1] * height
    along = x * np.cos(turn) + y * np.sin(turn)
    across = y * np.cos(turn) - x * np.sin(turn)
    return _pooled((along / (radii[0] * width)) ** 2 + (across / (radii[1] * height)) ** 2 <= 1)


def polygon(size: Size, points: Sequence[tuple[float, float]]) -> Tensor:
    """Closed polygon (1, 1, H, W); corners (x, y) as fractions of width and height. ValueError for fewer than 3."""
    if len(points) < 3:
        raise ValueError(f"a polygon needs at least 3 corners; got {len(points)}.")
    height, width = (side * SUPERSAMPLING for side in _pair(size))
    corners = [(y * height - 0.5, x * width - 0.5) for x, y in points]  # rows and columns of sample centres
    return _pooled(torch.from_numpy(skimage.draw.polygon2mask((height, width), corners)))


def brush(size: Size, points: Sequence[tuple[float, float]], width: float) -> Tensor:
    """A brush stroke (1, 1, H, W) with round ends; points (x, y) as fractions of the sides, width of the shorter."""
    (height, across), (x, y) = _pair(size), _samples(size)
    radius = width / 2 * min(height, across)
    corners = [(u * across, v * height) for u, v in points]
    inside = torch.zeros(len(y), x.shape[1], dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] or corners, strict=False):
        length = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-12)
        along = (((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length).clamp(0, 1)
        inside |= (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2 <= radius**2
    return _pooled(inside)


def _samples(size: Size) -> tuple[Tensor, Tensor]:
    """x (1, n) and y (m, 1) of all samples, in pixels."""
    y, x = ((torch.arange(side * SUPERSAMPLING) + 0.5) / SUPERSAMPLING for side in _pair(size))
    return x[None], y[:, None]


def _pooled(samples: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(samples.float()[None, None], SUPERSAMPLING)


def on_face(landmarks: Sequence | None, x: float, y: float) -> tuple[float, float]:
    """A tight crop's point (x, y) on faces with these landmarks, as photos.FACE_LANDMARKS; fractions of the sides."""
    (left, *_), scale = landmarks or FACE_LANDMARKS, face_scale(landmarks)
    return left[0] + scale * (x - FACE_LANDMARKS[0][0]), left[1] + scale * (y - FACE_LANDMARKS[0][1])


def face_scale(landmarks: Sequence | None) -> float:
    """How large faces with these landmarks are, as a share of a tight crop's."""
    left, right = (landmarks or FACE_LANDMARKS)[:2]
    return (right[0] - left[0]) / (FACE_LANDMARKS[1][0] - FACE_LANDMARKS[0][0])


def shapes(landmarks: Sequence | None = None) -> dict[str, Callable[[Size], Tensor]]:
    """Named masks, name to (size) -> mask; parts of a face are where ``landmarks`` say, or as in a tight crop."""
    at, scale = partial(on_face, landmarks), face_scale(landmarks)
    eyes = [partial(ellipse, centre=at(x, 0.41), radii=(0.16 * scale, 0.13 * scale)) for x in (0.29, 0.73)]
    return {
        "half": half,
        **{side: partial(half, side=side) for side in ("left", "right", "top", "bottom")},
        "ellipse": partial(ellipse, centre=at(0.5, 0.52), radii=(0.28 * scale, 0.34 * scale)),  # eyes, nose and mouth
        "eyes": lambda size: union(*(eye(size) for eye in eyes)),
        "mouth": partial(box, edges=(*at(0.25, 0.6), *at(0.75, 1.0))),
    }


SHAPES = shapes()
DESCRIBED = {  # what numbers, fractions of the sides, describe
    "box": box,
    "ellipse": lambda size, numbers: ellipse(size, numbers[:2], numbers[2:4], *numbers[4:]),
    "polygon": lambda size, numbers: polygon(size, list(zip(numbers[::2], numbers[1::2], strict=True))),
}


def mask_from_text(text: str, size: int, landmarks: Sequence | None = None) -> Tensor:
    """A mask (1, 1, size, size) from what a command line says: a name, a description, or an image file.

    That is a name of ``SHAPES``; "box:LEFT,TOP,RIGHT,BOTTOM", "ellipse:X,Y,RADIUS,RADIUS[,DEGREES]" or
    "polygon:X,Y,X,Y,..." in fractions of the sides; else a path. A region of less than a pixel is an error.
    """
    kind, _, numbers = text.partition(":")
    if text in SHAPES:
        mask = shapes(landmarks)[text](size)
    elif kind in DESCRIBED and numbers:
        try:
            values = [float(number) for number in numbers.split(",")]
            if not all(abs(value) <= FARTHEST for value in values):
                raise ValueError(f"numbers must lie within {FARTHEST:g} of 0; they are fractions of the sides.")
            mask = DESCRIBED[kind](size, values)
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{text[:60]!r} describes no {kind}: {error}") from error
    elif os.path.exists(os.path.expanduser(text)):
        return mask_from_file(text, size)
    else:
        known = f"a mask is {', '.join(SHAPES)}, box:…, ellipse:…, polygon:… or an image file"
        raise ValueError(f"{known}; {text[:60]!r} is none of them.")
    _check_edge(mask, text[:60])
    return mask


def mask_from_file(source: Source, size: Size | None = None, name: str | None = None) -> Tensor:
    """A mask (1, 1, H, W) from an image file: what is opaque where parts are transparent, else what is white.

    A file is transparent where at least one pixel in a thousand is less than half opaque. Label maps of two values (0
    and 1, black and a colour) become 0 and 1. size: side to which its central square is resized, or (height, width) for
    the whole image. Colours, and what selects (nearly) nothing or everything, are errors.
    """
    image, alpha = read_rgba(source, name)
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
        kinds = "a mask is white where it selects and black elsewhere, or transparent"
        raise ValueError(f"{kinds}; {name} has {len(levels)} colours; paint the region white on black.")
    return light


def _check_edge(mask: Tensor, name: str, least: float = 1.0) -> None:
    """Raise ValueError unless some pixels (``least`` of them in all) are selected and some are not."""
    low, high = mask.min().item(), mask.max().item()
    nothing = mask.sum() < least or (least == 0 and high < 0.5)
    if nothing or (1 - mask).sum() < least or (least == 0 and low > 0.5):
        found = f"{name} selects (nearly) {'nothing' if nothing else 'everything'}"
        rule = "a mask is 1, white or opaque, where it selects, and 0 elsewhere"
        raise ValueError(f"{found}, its values reach from {low:.3g} to {high:.3g}; {rule}.")


def mask_from_drawing(drawing: np.ndarray) -> Tensor:
    """Where something was drawn: opacity of uint8 (H, W, 4), darkness of (H, W, 3) or (H, W); (1, 1, H, W)."""
    pixels = from_uint8(drawing[..., None] if drawing.ndim == 2 else drawing)
    return pixels[:, 3:] if pixels.shape[1] == 4 else 1 - pixels.mean(1, keepdim=True)


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
    """Widen the region by ``radius`` pixels on all sides but the image's border; a negative one shrinks it."""
    if abs(radius) < 1:
        return mask
    offsets = np.arange(-int(abs(radius)), int(abs(radius)) + 1)
    disk = (offsets[:, None] ** 2 + offsets[None] ** 2 <= radius**2)[None, None]
    morph = scipy.ndimage.grey_dilation if radius > 0 else scipy.ndimage.grey_erosion
    return torch.from_numpy(morph(mask.cpu().numpy(), footprint=disk, mode="nearest")).to(mask.device)


def feather(mask: Tensor, radius: float) -> Tensor:
    """Soften the edge by ``blur``. Raises ValueError for a negative radius."""
    if radius < 0:
        raise ValueError(f"the feather radius must be 0 or more pixels; got {radius}.")
    return blur(mask, radius)


def blur(values: Tensor, radius: float) -> Tensor:
    """Gaussian blur of masks or images (B, C, H, W) in [0, 1], standard deviation ``radius`` pixels; no gradient."""
    if radius <= 0:
        return values
    smooth = scipy.ndimage.gaussian_filter(values.numpy(force=True), (0, 0, radius, radius), mode="nearest", truncate=3)
    return torch.from_numpy(smooth).clamp(0, 1).to(values.device)


def edge_band(mask: Tensor, width: float = 1.0) -> Tensor:
    """The pixels within ``width`` of the region's edge, on both sides, as a mask of 0 and 1."""
    hard = (mask >= 0.5).float()
    return grow(hard, width) - grow(hard, -width)


def mask_pyramid(mask: Tensor, sizes: Iterable[Size]) -> list[Tensor]:
    """The mask (B, 1, H, W) at other sizes: each cell is the mean of what it covers, so a region keeps its share."""
    return [_resample(_resample(mask, h, -2), w, -1) for h, w in map(_pair, sizes)]


def _resample(mask: Tensor, cells: int, dim: int) -> Tensor:
    count = mask.shape[dim]
    if cells == count:
        return mask
    edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64).tolist()
    rows = [_covered(count, a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    weight = (torch.stack(rows) * (cells / count)).to(mask)
    return (mask.movedim(dim, -1) @ weight.t()).movedim(-1, dim).clamp(0, 1)


def overlay(image: Tensor, mask: Tensor, opacity: float = 0.5) -> Tensor:
    """Preview (B, 3, H, W): the image in [0, 1] with the region (B or 1, 1, H, W) tinted."""
    mask = as_mask(mask, tuple(image.shape[-2:])).to(image.device)
    return torch.lerp(image, image.new_tensor(OVERLAY).view(1, 3, 1, 1), mask * opacity)
