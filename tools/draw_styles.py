"""Paint the style images of data/styles/ over photos that scikit-image brings along: free of anybody's rights.

    python tools/draw_styles.py [FOLDER]

Strokes follow the photo's edges, large ones first, small ones where the painting still differs from the photo
(Hertzmann, "Painterly Rendering with Curved Brush Strokes of Multiple Sizes", SIGGRAPH 1998).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, sobel
from scipy.spatial import cKDTree

from helpers.images import ImageError, from_uint8, write_image
from helpers.photos import demo_photos
from helpers.styles import FOLDER

SIZE = 384  # pixels of the stored images
OVERSAMPLING = 2  # canvas pixels per image pixel and axis


def paint(name: str, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    """Paint the style image of that name: (1, 3, size, size) in [0, 1].

    Strokes keep their share of the side, so the image is the same at every size. Raises ImageError for a name not in
    PAINTERS, or a size below 32.
    """
    if name not in PAINTERS:
        raise ImageError(f"expected a style of {', '.join(PAINTERS)}; got {name!r}")
    if size < 32:
        raise ImageError(f"expected a size of at least 32 pixels; got {size}")
    canvas = PAINTERS[name](size * OVERSAMPLING, np.random.default_rng(seed))
    return from_uint8(np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.BOX)))


def write_styles(out: str | Path = FOLDER, size: int = SIZE) -> list[Path]:
    """Paint all styles into a folder; returns their paths."""
    paths = [Path(out) / f"{name}.jpg" for name in PAINTERS]
    for name, path in zip(PAINTERS, paths, strict=True):
        write_image(path, paint(name, size))
    return paths


# --- what strokes follow ---------------------------------------------------------------------------------------------


def _rgb(*codes: str) -> np.ndarray:
    return np.array([[int(code[at : at + 2], 16) for at in (0, 2, 4)] for code in codes], dtype=float)


def _ramp(colours: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Colours (n, 3) interpolated at t in [0, 1], (..., 3)."""
    t = np.clip(t, 0, 1) * (len(colours) - 1)
    return np.stack([np.interp(t, np.arange(len(colours)), channel) for channel in colours.T], -1)


def _photo(name: str, size: int) -> np.ndarray:
    """A demo photo, (size, size, 3) of 0 to 255."""
    return 255 * demo_photos(size, [name])[name][0].permute(1, 2, 0).double().numpy()


def _equalised(photo: np.ndarray) -> np.ndarray:
    """Lightness spread evenly over [0, 1], half way: dark photos keep their order, but not their darkness."""
    grey = photo @ [0.299, 0.587, 0.114] / 255
    ranks = np.searchsorted(np.sort(grey[::3, ::3].ravel()), grey) / grey[::3, ::3].size
    return 0.5 * grey + 0.5 * ranks


def _noise(random: np.random.Generator, size: int, cells: float) -> np.ndarray:
    """Smooth noise of about 0 ± 1, (size, size), with so many bumps along a side."""
    grid = gaussian_filter(random.standard_normal((64, 64)), 64 / cells / 2, mode="wrap")
    zoomed = Image.fromarray((grid / grid.std()).astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(zoomed, dtype=float)


def _directions(grey: np.ndarray, sigma: float, flow: np.ndarray, pull: float) -> np.ndarray:
    """Angle along the edges at every pixel: the structure tensor's, and that of ``flow`` where there is no edge."""
    smooth = gaussian_filter(grey, sigma / 3)
    dx, dy = sobel(smooth, 1), sobel(smooth, 0)
    xx, xy, yy = (gaussian_filter(values, sigma) for values in (dx * dx, dx * dy, dy * dy))
    weight = pull * np.mean(xx + yy)  # of the flow's tensor, whose normal is across the flow
    sin, cos = np.sin(flow), np.cos(flow)
    xx, xy, yy = xx + weight * sin**2, xy - weight * sin * cos, yy + weight * cos**2
    return 0.5 * np.arctan2(2 * xy, xx - yy) + math.pi / 2


def _whirls(size: int, random: np.random.Generator, count: int) -> np.ndarray:
    """Angles of a wind with whirls."""
    line = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(line, line)
    dx, dy = np.ones_like(x), 0.3 * _noise(random, size, 2)
    for cx, cy in random.uniform(0.1, 0.9, (count, 2)):
        turn, radius = random.choice((-1, 1)), random.uniform(0.08, 0.16)
        force = 4 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2) * turn
        dx, dy = dx - force * (y - cy) / radius, dy + force * (x - cx) / radius
    return np.arctan2(dy, dx)


# --- the brush -------------------------------------------------------------------------------------------------------


class Canvas:
    """Paint and its thickness, side by side: what was painted last lies on top.

    target: (size, size, 3) of 0 to 255; angles: (size, size), where strokes go.
    """

    def __init__(self, target: np.ndarray, angles: np.ndarray, ground, random: np.random.Generator):
        self.target, self.angles, self.random, self.size = target, angles, random, len(target)
        self.image = Image.new("RGB", (self.size, self.size), _ink(np.array(ground, float)))
        self.relief = Image.new("L", (self.size, self.size), 128)
        self.draw, self.depth = ImageDraw.Draw(self.image), ImageDraw.Draw(self.relief)

    def places(self, spacing: float, threshold: float) -> np.ndarray:
        """Jittered grid of points (n, 2) in random order where the painting differs from the target."""
        cells = max(2, round(self.size / spacing))
        grid = (np.stack(np.meshgrid(*[np.arange(cells)] * 2), -1).reshape(-1, 2) + 0.5) / cells
        points = (grid + self.random.uniform(-0.5, 0.5, grid.shape) / cells) * self.size
        error = np.abs(np.asarray(self.image, float) - self.target).mean(-1)
        error = gaussian_filter(error, spacing / 2)
        x, y = np.clip(points, 0, self.size - 1).astype(int).T
        return self.random.permutation(points[error[y, x] >= threshold])

    def path(self, x: float, y: float, length: float, steps: int = 8, turn: float = 0.0) -> list[tuple[float, float]]:
        """A line of that length through the angles, always onwards."""
        points, before = [(x, y)], None
        for _ in range(steps):
            column, row = (int(min(max(value, 0), self.size - 1)) for value in (x, y))
            angle = self.angles[row, column] + turn
            if before is not None and math.cos(angle - before) < 0:
                angle += math.pi
            x, y, before = x + math.cos(angle) * length / steps, y + math.sin(angle) * length / steps, angle
            points.append((x, y))
        return points

    def colour(self, points: list[tuple[float, float]], spread: float) -> np.ndarray:
        x, y = np.clip(points[len(points) // 2], 0, self.size - 1).astype(int)
        return self.target[y, x] + self.random.normal(0, spread) + self.random.normal(0, 0.7 * spread, 3)

    def stroke(self, points: list[tuple[float, float]], width: float, ink: np.ndarray, bristles: int = 5) -> None:
        """A brush mark: bristles side by side, each with a little more or less paint."""
        line = np.array(points)
        along = np.gradient(line, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], 1) / np.maximum(np.hypot(*along.T), 1e-6)[:, None]
        for place in self.random.permutation(np.linspace(-0.5, 0.5, bristles) if bristles > 1 else np.zeros(1)):
            start, end = self.random.integers(0, 2), len(line) - self.random.integers(0, 2)
            mark = [tuple(point) for point in (line + across * place * width)[start:end]]
            shade = self.random.normal(0, 9) + 14 * abs(place)
            thick = max(1, round(1.5 * width / bristles))
            self.draw.line(mark, _ink(ink + shade), thick, joint="curve")
            self.depth.line(mark, int(np.clip(150 - 70 * abs(place) + self.random.normal(0, 22), 0, 255)), thick)

    def lit(self, strength: float) -> Image.Image:
        """The painting in light from the upper left, which shows the paint's thickness."""
        height = gaussian_filter(np.asarray(self.relief, float), 1.0)
        light = strength * (sobel(height, 0) + sobel(height, 1)) / 8
        return Image.fromarray(np.clip(np.asarray(self.image, float) - light[..., None], 0, 255).astype(np.uint8))


def _ink(colour: np.ndarray) -> tuple[int, int, int]:
    return tuple(int(value) for value in np.clip(colour, 0, 255))


# --- the six styles --------------------------------------------------------------------------------------------------


def _strokes(size: int, random: np.random.Generator) -> Image.Image:
    """Thick curved brush marks: a sky full of galaxies, blue against yellow."""
    light = _equalised(_photo("hubble_deep_field", size))
    light = np.clip(gaussian_filter(light, size / 130) * 1.25 - 0.1 + 0.06 * _noise(random, size, 3), 0, 1)
    target = _ramp(_rgb("101d4a", "1d3f86", "3f74b5", "86b4cf", "e9d79a", "f4b63f", "fdeec0"), light)
    angles = _directions(light, size / 55, _whirls(size, random, 7), 0.25)
    canvas = Canvas(target, angles, (24, 44, 98), random)
    for width, length, threshold in ((0.030, 0.16, 0), (0.018, 0.11, 0), (0.011, 0.07, 11), (0.006, 0.04, 20)):
        for x, y in canvas.places(0.8 * width * size, threshold):
            points = canvas.path(x, y, length * size * random.uniform(0.6, 1.2))
            canvas.stroke(points, width * size * random.uniform(0.7, 1.2), canvas.colour(points, 13))
    return canvas.lit(0.9)


def _dots(size: int, random: np.random.Generator) -> Image.Image:
    """Points of pure colour on pale ground: a cup of coffee, light against its complement."""
    photo = gaussian_filter(_photo("coffee", size), (size / 200, size / 200, 0))
    warm = _ramp(_rgb("2b2f74", "a33f2f", "e08a3c", "f2cf7e", "fbf3dc"), _equalised(photo))
    target = 0.45 * photo + 0.55 * warm
    pure = _rgb("1f3f99", "3d7fd0", "8cc5ea", "1d7a4b", "7fb33c", "f6d743", "f59a2b", "d8402f", "a12b63", "5a3390")
    pure = np.concatenate([pure, _rgb("fff6df", "2a1d3d", "f3b7a0")])
    canvas = Canvas(target, np.zeros((size, size)), (246, 238, 216), random)
    owed = np.zeros(3)  # what earlier points missed of their colour: together they mix to it
    for radius in (0.0125, 0.0095, 0.0075):
        for x, y in canvas.places(2.0 * radius * size, 0):
            column, row = (int(min(max(value, 0), size - 1)) for value in (x, y))
            wanted = target[row, column] + 0.6 * owed + random.normal(0, 16, 3)
            ink = pure[np.argmin(((pure - wanted) ** 2).sum(1))]
            owed = np.clip(target[row, column] + owed - ink, -90, 90)
            r = radius * size * random.uniform(0.75, 1.1)
            canvas.draw.ellipse((x - r, y - r, x + r, y + r), fill=_ink(ink + random.normal(0, 7, 3)))
    return canvas.image


def _waves(size: int, random: np.random.Generator) -> Image.Image:
    """Long curved lines, each with a dark contour: clouds of a launch in indigo, cream and red."""
    light = gaussian_filter(_equalised(_photo("rocket", size)), size / 90) + 0.05 * _noise(random, size, 3)
    target = _ramp(_rgb("16264f", "23497f", "4a86a8", "a9cbc4", "f3e4c0", "ee9a55", "c8402f"), 1.15 * light - 0.05)
    angles = _directions(light, size / 26, _whirls(size, random, 4), 0.6)
    canvas = Canvas(target, angles, (30, 52, 96), random)
    for width, length, threshold in ((0.030, 0.55, 0), (0.020, 0.42, 0), (0.012, 0.28, 14)):
        for x, y in canvas.places(1.5 * width * size, threshold):
            points = canvas.path(x, y, length * size * random.uniform(0.6, 1.2), steps=22)
            ink = canvas.colour(points, 7)
            canvas.draw.line(points, (17, 26, 52), round(1.35 * width * size), joint="curve")
            canvas.draw.line(points, _ink(ink), round(width * size), joint="curve")
            canvas.draw.line(points, _ink(ink + 26), max(1, round(0.22 * width * size)), joint="curve")
    return canvas.image


def _glass(size: int, random: np.random.Generator) -> Image.Image:
    """Leaded glass: pieces along the edges of a portrait, in jewel colours."""
    photo = gaussian_filter(_photo("astronaut", size), (size / 90, size / 90, 0))
    light = _equalised(photo)
    edges = np.hypot(sobel(gaussian_filter(light, size / 80), 0), sobel(gaussian_filter(light, size / 80), 1))
    chance = 0.25 + np.minimum(edges / np.quantile(edges, 0.9), 1.6)
    line = np.arange(size) + 0.5
    places = np.stack(np.meshgrid(line, line), -1)
    seeds = random.uniform(0, size, (9000, 2))
    kept, least = [], 0.034 * size
    for x, y in seeds:  # smaller pieces at edges
        gap = least / chance[int(y), int(x)] ** 0.7
        if all((x - a) ** 2 + (y - b) ** 2 > gap**2 for a, b in kept):
            kept.append((x, y))
    seeds = np.array(kept)
    distances, nearest = cKDTree(seeds).query(places, k=2)
    column, row = seeds.astype(int).T
    tones = 0.35 * photo[row, column] + 0.65 * _ramp(
        _rgb("1c1550", "2a4fa8", "1787a6", "2c9c69", "d43d3a", "ef8e2c", "f7c948", "fff0b8"), light[row, column]
    )
    tones += random.normal(0, 14, tones.shape)
    gap = (distances[..., 1] - distances[..., 0]) / size
    streaks = _noise(random, size, 24)[..., None]
    glass = tones[nearest[..., 0]] * (0.78 + 3.6 * np.clip(gap, 0, 0.05))[..., None] + 7 * streaks
    lead = np.clip((gap - 0.0055) / 0.003, 0, 1)[..., None]
    return Image.fromarray(np.clip(glass * lead + (24 + 8 * streaks) * (1 - lead), 0, 255).astype(np.uint8))


def _marble(size: int, random: np.random.Generator) -> Image.Image:
    """Marbled paper: thin veins of ink, drawn out by a comb."""
    line = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(line, line)
    a, b, c = (_noise(random, size, cells) for cells in (3, 4, 5))
    height = 0.9 * c + 0.9 * a + 5.0 * x + 0.35 * np.sin(38 * y + 2 * b) + 0.3 * b
    bands = (height * 1.9) % 1.0
    palette = _rgb("0f3b47", "13717a", "e9e2cf", "d9653b", "f0b24b", "f3ead7", "7b2235", "0f3b47")
    image = _ramp(palette, bands) * (1 + 0.03 * _noise(random, size, 20))[..., None]
    vein = np.minimum(bands, 1 - bands)
    image *= (0.35 + 0.65 * np.clip(vein / 0.03, 0, 1))[..., None]
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def _hatching(size: int, random: np.random.Generator) -> Image.Image:
    """Pen and ink: a cat in lines along its fur, crossed where it is dark."""
    light = gaussian_filter(_equalised(_photo("chelsea", size)), size / 260)
    angles = _directions(light, size / 60, np.full((size, size), 0.9), 0.4)
    canvas = Canvas(np.repeat(255 * light[..., None], 3, -1), angles, (245, 238, 222), random)
    for turn, limit, spacing in ((0.0, 0.66, 0.0105), (0.75, 0.34, 0.0125), (-0.75, 0.18, 0.0125)):
        for x, y in canvas.places(spacing * size, -1):
            column, row = (int(min(max(value, 0), size - 1)) for value in (x, y))
            dark = limit - light[row, column]
            if dark <= 0 or random.random() > 0.15 + 1.5 * dark:
                continue
            points = canvas.path(x, y, size * random.uniform(0.035, 0.07), turn=turn)
            width = round(size * (0.0016 + 0.0022 * min(dark, 0.5)))
            canvas.draw.line(points, _ink(np.array([40, 32, 44]) + random.normal(0, 10)), max(1, width), joint="curve")
    return canvas.image


PAINTERS = {
    "strokes": _strokes,
    "dots": _dots,
    "glass": _glass,
    "waves": _waves,
    "marble": _marble,
    "hatching": _hatching,
}

if __name__ == "__main__":
    for written in write_styles(*sys.argv[1:2]):
        print(written)
