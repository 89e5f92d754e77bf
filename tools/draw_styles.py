"""Draw the style images of data/styles/: strokes, dots, glass, waves, marble, hatching. Free of anybody's rights.

python tools/draw_styles.py [FOLDER]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from helpers.images import ImageError, from_uint8, write_image
from helpers.styles import FOLDER

SIZE = 400  # pixels of the stored pictures
OVERSAMPLING = 3  # canvas pixels per picture pixel and axis

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def paint(name: str, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    """Draw the style picture of that name: (1, 3, size, size) in [0, 1].

    Strokes keep their share of the side, so the picture is the same at every size. Raises ImageError for a name not in
    PAINTERS, or a size below 32.
    """
    if name not in PAINTERS:
        raise ImageError(f"expected a style of {', '.join(PAINTERS)} but got {name!r}")
    if size < 32:
        raise ImageError(f"expected a size of at least 32 pixels but got {size}")
    canvas = PAINTERS[name](size * OVERSAMPLING, np.random.default_rng(seed))
    return from_uint8(np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.BOX)))


def write_styles(out: str | Path = FOLDER, size: int = SIZE) -> list[Path]:
    """Paint all styles into a folder; returns their paths."""
    paths = [Path(out) / f"{name}.jpg" for name in PAINTERS]
    for name, path in zip(PAINTERS, paths, strict=True):
        write_image(path, paint(name, size))
    return paths


# --- what is painted, on a canvas of sides 1 -------------------------------------------------------------------------


def _rgb(*codes: str) -> np.ndarray:
    return np.array([[int(code[at : at + 2], 16) for at in (0, 2, 4)] for code in codes], dtype=float)


def _ramp(colours: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Colours (n, 3) interpolated at t in [0, 1], (..., 3)."""
    t = np.clip(t, 0, 1) * (len(colours) - 1)
    return np.stack([np.interp(t, np.arange(len(colours)), channel) for channel in colours.T], -1)


def _noise(random: np.random.Generator, cells: int, octaves: int = 3) -> Field:
    """Smooth noise of about 0 ± 1 over the canvas."""
    fields = []
    for octave in range(octaves):
        grid = gaussian_filter(random.standard_normal((64, 64)), 64 / cells / 2**octave / 2, mode="wrap")
        fields.append(grid / grid.std() / 1.7**octave)
    total = sum(fields) / math.sqrt(sum(1.7 ** (-2 * octave) for octave in range(octaves)))

    def at(x, y):
        x, y = np.asarray(x) * 64 % 64, np.asarray(y) * 64 % 64
        left, top = x.astype(int), y.astype(int)
        u, v = x - left, y - top
        right, below = (left + 1) % 64, (top + 1) % 64
        upper = total[top, left] * (1 - u) + total[top, right] * u
        return upper * (1 - v) + (total[below, left] * (1 - u) + total[below, right] * u) * v

    return at


def _ink(colour: np.ndarray) -> tuple[int, int, int]:
    return tuple(int(value) for value in np.clip(colour, 0, 255))


def _mesh(size: int) -> tuple[np.ndarray, np.ndarray]:
    line = (np.arange(size) + 0.5) / size
    return np.meshgrid(line, line)


def _strokes(size: int, random: np.random.Generator) -> Image.Image:
    """Short thick strokes along a flow with whirls: a warm evening above dark hills."""
    whirls = [(0.33, 0.30, 0.17, 1), (0.72, 0.20, 0.13, -1), (0.62, 0.50, 0.10, 1)]
    sky = _rgb("1c2c5b", "27509a", "4f86c0", "9cc3c9", "f2d48a", "f0a04b")
    land = _rgb("16302b", "245244", "5d7f3c", "b9a54a")
    wind, tint = _noise(random, 3), _noise(random, 6)

    def hill(x):
        return 0.76 + 0.05 * math.sin(5 * x + 1) + 0.03 * math.sin(13 * x)

    def angle(x, y):
        dx, dy = 1.0, 0.25 * float(wind(x, y))
        if y > hill(x):
            return math.atan2(0.25 * math.cos(5 * x + 1) + 0.3 * float(wind(x, y)), 1)
        for cx, cy, radius, turn in whirls:
            pull = 3 * math.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / radius**2))
            dx, dy = dx - turn * pull * (y - cy) / radius, dy + turn * pull * (x - cx) / radius
        return math.atan2(dy, dx)

    def colour(x, y):
        if y > hill(x):
            return _ramp(land, (y - hill(x)) * 2.6 + 0.28 * tint(x, y) + 0.1)
        glow = max(math.exp(-((math.hypot(x - cx, y - cy) / radius) ** 2 * 2.2)) for cx, cy, radius, _ in whirls)
        return _ramp(sky, 0.12 + 0.42 * y + 0.75 * glow + 0.12 * tint(x, y))

    canvas = Image.new("RGB", (size, size), _ink(sky[1]))
    draw = ImageDraw.Draw(canvas)
    for width, length, count in ((0.020, 0.09, 1800), (0.012, 0.07, 3600), (0.008, 0.045, 3000)):
        for x, y in random.uniform(-0.03, 1.03, (count, 2)):
            points, ink = [], colour(x, y) + random.normal(0, 13) + random.normal(0, 9, 3)
            for _ in range(8):
                points.append((x * size, y * size))
                turn = angle(x, y)
                x, y = x + math.cos(turn) * length / 8, y + math.sin(turn) * length / 8
            thick = width * size * random.uniform(0.7, 1.2)
            draw.line(points, _ink(ink), round(thick), joint="curve")
            for px, py in (points[0], points[-1]):
                draw.ellipse((px - thick / 2, py - thick / 2, px + thick / 2, py + thick / 2), fill=_ink(ink))
    return canvas


def _dots(size: int, random: np.random.Generator) -> Image.Image:
    """A bay at noon in dots of unmixed colour, light against its complement."""
    sky, sea = _rgb("8fc7ea", "cfe4ee", "fbe3b8"), _rgb("3aa0a8", "2f6fa8", "5bb6b0")
    sand, tree = _rgb("f3d9a0", "e8b56a", "d98b52"), _rgb("2f5d3a", "5f8c3a", "a8b545")
    cloud = _noise(random, 4)

    def colour(x, y):
        crown = math.hypot((x - 0.22) / 0.20, (y - 0.33) / 0.20) + 0.15 * float(cloud(x, y))
        if crown < 1:
            return _ramp(tree, 0.75 - 0.7 * (y - 0.15) / 0.4 + 0.3 * (x - 0.22) / 0.2)
        if abs(x - 0.22 - 0.03 * math.sin(7 * y)) < 0.018 and 0.3 < y < 0.85:
            return _rgb("6b3d4e")[0]
        if y < 0.45:
            return _ramp(sky, y / 0.45) + 26 * max(0.0, float(cloud(x, y)))
        shore = 0.62 + 0.1 * x + 0.02 * math.sin(9 * x)
        if y < shore:
            return _ramp(sea, (y - 0.45) / (shore - 0.45)) + 30 * (math.sin(90 * y + 5 * float(cloud(x, y))) > 0.8)
        shade = math.hypot((x - 0.34) / 0.26, (y - 0.84) / 0.06) < 1
        return _ramp(sand, (y - shore) / 0.4) * (0.62 if shade else 1) + (np.array([-20, -20, 50]) if shade else 0)

    canvas = Image.new("RGB", (size, size), (244, 236, 214))
    draw = ImageDraw.Draw(canvas)
    for radius, spread in ((0.0085, 18), (0.0062, 34), (0.0048, 46)):
        cells = round(0.62 / radius)
        places = (np.stack(np.meshgrid(*[np.arange(cells)] * 2), -1).reshape(-1, 2) + 0.5) / cells
        for x, y in random.permutation(places + random.uniform(-0.4, 0.4, places.shape) / cells):
            base = colour(x, y)
            if random.random() < 0.16:  # the complement makes the others glow
                base = 0.35 * base + 0.65 * (base.max() + base.min() - base)
            r = radius * size * random.uniform(0.75, 1.1)
            ink = _ink(base + random.normal(0, spread, 3))
            draw.ellipse((x * size - r, y * size - r, x * size + r, y * size + r), fill=ink)
    return canvas


def _glass(size: int, random: np.random.Generator) -> Image.Image:
    """Leaded glass: cells of jewel colours in rings around a light."""
    x, y = _mesh(size)
    seeds = [(0.5, 0.46)]
    for ring, count in enumerate((7, 12, 17, 22, 28, 34), 1):
        turns = (np.arange(count) + random.uniform(0, 1)) / count * 2 * math.pi + random.normal(0, 0.05, count)
        reach = 0.115 * ring + random.normal(0, 0.008, count)
        seeds += list(zip(0.5 + reach * np.cos(turns), 0.46 + reach * np.sin(turns), strict=True))
    seeds = np.array(seeds)
    distances, nearest = cKDTree(seeds).query(np.stack([x, y], -1), k=2)
    palette = _rgb("f7c948", "ef8e2c", "d43d3a", "a3215f", "5b2a86", "2a4fa8", "1787a6", "2c9c69")
    far = np.hypot(*(seeds - [0.5, 0.46]).T)
    tones = _ramp(palette, far / 0.62 + random.normal(0, 0.09, len(seeds))) + random.normal(0, 12, (len(seeds), 3))
    gap = distances[..., 1] - distances[..., 0]
    streaks = _noise(random, 9)(x + 0.05 * np.sin(9 * y), y)
    light = 0.72 + 5.0 * np.clip(gap, 0, 0.07) + 0.07 * streaks
    picture = tones[nearest[..., 0]] * light[..., None]
    lead = np.clip((gap - 0.008) / 0.004, 0, 1)[..., None]
    picture = picture * lead + (26 + 30 * np.clip(streaks, 0, 1))[..., None] * (1 - lead)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _waves(size: int, random: np.random.Generator) -> Image.Image:
    """A print of rolling waves: flat indigo tones, dark contours, foam, a red sun."""
    canvas = Image.new("RGB", (size, size), (240, 226, 196))
    draw = ImageDraw.Draw(canvas)
    for row in range(60):  # the paper's sky, paler towards the sea
        tone = _ramp(_rgb("d9c7a0", "f3e6c8", "f6ead2"), np.array(row / 60))
        draw.rectangle((0, row * size / 100, size, (row + 1) * size / 100), fill=_ink(tone))
    r = 0.115 * size
    draw.ellipse((0.68 * size - r, 0.2 * size - r, 0.68 * size + r, 0.2 * size + r), fill=(205, 66, 50))
    tones = _rgb("b9cfce", "7fa9b8", "4b7f9f", "2c5a86", "1c3c68", "142a4e")
    x = np.linspace(-0.05, 1.05, 500)
    for row in range(11):
        base, high = 0.36 + 0.066 * row, 0.028 + 0.0045 * row
        phase, length = random.uniform(0, 1), 0.30 + 0.02 * row
        t = ((x / length + phase) % 1.0) - 0.5
        crest = np.exp(-((t / 0.20) ** 2)) + 0.35 * np.exp(-(((t - 0.2) / 0.09) ** 2))
        line = base - high * crest * (1 + 0.3 * np.sin(7 * x + row)) + 0.008 * np.sin(11 * x + 2 * row)
        tone = _ramp(tones, np.array(row / 10))
        for stripe in range(7):
            shift = stripe * (0.011 + 0.0012 * row)
            ink = tone * (1.0 - 0.07 * (stripe % 2)) + (12 if stripe % 3 == 0 else 0)
            edge = [(px * size, (py + shift) * size) for px, py in zip(x, line, strict=True)]
            draw.polygon([*edge, (1.1 * size, 1.1 * size), (-0.1 * size, 1.1 * size)], fill=_ink(ink))
            draw.line(edge, (18, 34, 60) if stripe else (16, 28, 50), round(size * (0.0065 if not stripe else 0.0024)))
        for at in np.flatnonzero(crest > 0.55):  # foam along the crest
            if random.random() < 0.5:
                r = size * random.uniform(0.003, 0.010)
                cx, cy = x[at] * size, (line[at] + random.uniform(-0.006, 0.012)) * size
                draw.ellipse(
                    (cx - r, cy - r, cx + r, cy + r),
                    fill=(247, 241, 226),
                    outline=(28, 50, 84),
                    width=round(size / 600),
                )
    return canvas


def _marble(size: int, random: np.random.Generator) -> Image.Image:
    """Marbled paper: thin veins of ink, drawn out by a comb."""
    x, y = _mesh(size)
    a, b, c = (_noise(random, cells, 4) for cells in (3, 4, 5))
    u = x + 0.06 * a(x, y) + 0.018 * np.sin(38 * y + 2 * b(x, y))
    v = y + 0.07 * b(x, y)
    height = 1.1 * c(u % 1, v % 1) + 0.8 * a(v % 1, u % 1) + 5.0 * u
    bands = (height * 1.9) % 1.0
    palette = _rgb("0f3b47", "13717a", "e9e2cf", "d9653b", "f0b24b", "f3ead7", "7b2235", "0f3b47")
    picture = _ramp(palette, bands) * (1 + 0.04 * c(3 * x % 1, 3 * y % 1))[..., None]
    vein = np.minimum(bands, 1 - bands)
    picture *= (0.35 + 0.65 * np.clip(vein / 0.03, 0, 1))[..., None]
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _hatching(size: int, random: np.random.Generator) -> Image.Image:
    """Pen and ink: rolling fields under a moon, shade by layers of crossing lines."""
    x, y = _mesh(size)
    bumps = _noise(random, 3)
    moon = np.hypot(x - 0.68, y - 0.25)
    dark = 0.66 - 0.5 * np.exp(-((moon / 0.30) ** 2)) + 0.1 * bumps(x, y)
    dark = np.where(moon < 0.105, 0.02 + 1.1 * np.clip(moon - 0.07, 0, 1), dark)
    slope = 0.9 * np.ones_like(x)
    for row, base in enumerate((0.52, 0.64, 0.76, 0.90)):
        edge = base + 0.05 * np.sin(6 * x + 2.1 * row) + 0.02 * np.sin(17 * x + row)
        inside = y > edge
        dark = np.where(inside, 0.12 + 1.0 * np.clip(1 - (y - edge) / 0.16, 0, 1) ** 1.5 * (0.6 + 0.1 * row), dark)
        slope = np.where(inside, 0.35 + 0.5 * np.cos(6 * x + 2.1 * row), slope)
    wobble = 0.006 * bumps(2 * x % 1, 2 * y % 1)
    ink = np.zeros_like(x)
    for layer, turn in enumerate((0.0, 0.55, -0.6, 1.5)):
        theta = turn + 0.7 * slope
        along = (np.cos(theta) * y - np.sin(theta) * x + wobble) * 62
        line = np.abs((along % 1) - 0.5) * 2
        width = np.clip((dark - 0.20 * layer) * 1.5, 0, 0.8)
        ink = np.maximum(ink, np.clip((width - line) / 0.12, 0, 1) * (width > 0.04))
    paper = np.array([245, 238, 222]) + 3 * bumps(5 * x % 1, 5 * y % 1)[..., None]
    picture = paper * (1 - ink[..., None]) + np.array([44, 34, 40]) * ink[..., None]
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


PAINTERS = {
    "strokes": _strokes,
    "dots": _dots,
    "glass": _glass,
    "waves": _waves,
    "marble": _marble,
    "hatching": _hatching,
}


if __name__ == "__main__":
    for path in write_styles(*sys.argv[1:2]):
        print(path)
