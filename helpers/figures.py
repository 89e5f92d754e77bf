"""Figures of the notebooks and the command line: sheets of images with captions, loss curves, tables.

Laid out in whole pixels, so that small images are enlarged crisply; no axes, no text over text. Text is taken as it
is, without mathtext: a file name may hold a $.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D

from helpers.files import atomic_path
from helpers.images import ImageError, to_uint8

DPI = 100
GAP, MARGIN, PAD = 12, 14, 5  # pixels: between cells, around the figure, between an image and its text
SHOWN = 192  # pixels that a small image is enlarged to, at most; larger ones than LARGEST are shrunk
LARGEST = 320
NARROWEST = 96  # pixels of a cell that has text
LABEL_WIDTH = 150  # pixels for row labels, at most
INK, FAINT = "#1b1b1b", "#5c5c5c"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito 2008

STYLES = {  # points, weight, colour
    "suptitle": (12, "bold", INK),
    "label": (9, "bold", INK),
    "title": (9, "normal", INK),
    "caption": (8, "normal", FAINT),
}

_RENDERER = RendererAgg(8, 8, DPI)  # only measures text

Images = torch.Tensor | Sequence[torch.Tensor]


class Figure(MatplotlibFigure):
    """A matplotlib figure that shows itself in a notebook, whether or not pyplot has been imported."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=self.dpi)
        return out.getvalue()


@dataclass
class _Cell:
    pixels: np.ndarray | None  # (H, W, 3) uint8, or None for an empty cell
    title: str = ""
    caption: str = ""


# --- public ----------------------------------------------------------------------------------------------------------


def show_images(
    images: Images,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    scale: float | None = None,
    suptitle: str | None = None,
    captions: Sequence[str] | None = None,
) -> Figure:
    """Images side by side, each with its title above and its caption below; long text is wrapped.

    images: (B, 3, H, W) in [0, 1], or a list of (1, 3, H, W) that may differ in size; masks (1, 1, H, W) too.
    columns: at most 6 by default, rows as full as can be. scale: figure pixels per image pixel, by default
    a whole number for small images.
    Raises ImageError for other shapes, NaN, no images, or when there are not as many titles or captions as images.
    """
    pixels = _pixels(images)
    titles, captions = (_as_many(texts, pixels) for texts in (titles, captions))
    cells = [_Cell(*cell) for cell in zip(pixels, titles, captions, strict=True)]
    columns = _balanced(len(cells), 6) if columns is None else max(1, columns)
    return _sheet([cells[at : at + columns] for at in range(0, len(cells), columns)], scale, suptitle)


def labelled_grid(
    rows_of_images: Sequence[Images],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    scale: float | None = None,
    suptitle: str | None = None,
) -> Figure:
    """A table of images with labels at its left and top, and optional captions below each image.

    rows_of_images: a list of rows, each (B, 3, H, W) in [0, 1] or a list of (1, 3, H, W) or None for an empty cell.
    Raises ImageError for other shapes, NaN, no images, or when the labels or captions do not fit the rows and columns.
    """
    rows = [_pixels(row) for row in rows_of_images] or [_pixels([])]
    captions = _as_many(captions, rows, ())
    cells = [
        [_Cell(pixels, caption=text) for pixels, text in zip(row, _as_many(texts or None, row), strict=True)]
        for row, texts in zip(rows, captions, strict=True)
    ]
    row_labels = _as_many(row_labels, rows)
    column_labels = _as_many(column_labels, max(rows, key=len, default=[]))
    return _sheet(cells, scale, suptitle, row_labels, column_labels)


def result_sheet(
    target: torch.Tensor,
    rows: Sequence[Mapping[str, Any]],
    columns: int | None = None,
    scale: float | None = None,
    suptitle: str | None = None,
) -> Figure:
    """The target at the left and the results beside it, each with what it is above and its figures below.

    target: (1, 3, H, W) in [0, 1]. rows: one dict per result: "image" (1, 3, H, W) and "label", a list of lines, such
    as ["StyleGAN2, w+", "PSNR 24.1 dB", "SSIM 0.81"]; the first is the title. columns: results per line, at most 5 by
    default. Raises ImageError as show_images does.
    """
    results = [
        _Cell(pixels, *_title_and_caption(row["label"]))
        for pixels, row in zip(_pixels([row["image"] for row in rows]), rows, strict=True)
    ]
    columns = _balanced(len(results), 5) if columns is None else max(1, columns)
    lines = [results[at : at + columns] for at in range(0, len(results), columns)]
    first = _Cell(_pixels(target)[0], "target")
    return _sheet([[first if index == 0 else _Cell(None), *line] for index, line in enumerate(lines)], scale, suptitle)


def plot_losses(
    history: Mapping[str, Sequence[float]], log: bool = True, suptitle: str | None = None, label: str = "loss"
) -> Figure:
    """Curves over the steps, one per name; `log` gives a logarithmic axis, on which values of 0 or less are gaps.

    history: name -> one value per step, in any unit; NaN is a gap. label: of the values. Raises ImageError when it
    holds no finite value.
    """
    curves = {name: np.asarray(values, dtype=float) for name, values in history.items()}
    curves = {name: np.where(values > 0, values, np.nan) if log else values for name, values in curves.items()}
    if not any(np.isfinite(values).any() for values in curves.values()):
        raise ImageError(
            f"expected at least one {'positive ' if log else ''}value to plot but got none in {list(history)}"
        )
    figure = Figure(figsize=(6.4, 3.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, values) in enumerate(curves.items()):
        marker = "o" if len(values) == 1 else None
        axes.plot(values, label=name, color=COLOURS[index % len(COLOURS)], linewidth=1.5, marker=marker)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=9, color=INK)
    axes.set_ylabel(label, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=FAINT, which="both")
    axes.grid(True, color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9a9a9a")
    if len(curves) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    if suptitle:
        points, weight, colour = STYLES["suptitle"]
        font = {"fontsize": points, "fontweight": weight, "color": colour, "parse_math": False}
        figure.suptitle(suptitle, x=0.01, ha="left", **font)
    return figure


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of figures as a Markdown table that also reads well as plain text; columns in the order they first appear.

    Numbers are right-aligned and have the same decimals throughout a column (about four digits in all); a missing
    value is a dash.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [_column([row.get(name) for row in rows]) for name in names]
    heads = [str(name).replace("_", " ") for name in names]
    widths = [max(map(len, [head, *texts, "---"])) for head, (texts, _) in zip(heads, columns, strict=True)]
    rights = [right for _, right in columns]
    rules = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, rights, strict=True)]
    lines = [heads, rules, *zip(*(texts for texts, _ in columns), strict=True)]
    return "\n".join(_table_line(line, widths, rights) for line in lines)


def save_figure(figure: MatplotlibFigure, path: str | os.PathLike, zoom: float = 1) -> None:
    """Write a figure to .png, .jpg, .pdf or .svg, atomically; `zoom` times as many pixels as on the screen.

    Raises ImageError for another suffix, or where the file cannot be written.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "jpg", "pdf", "svg"):
        raise ImageError(f"expected a file name ending in .png, .jpg, .pdf or .svg but got {Path(path).name!r}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=zoom * figure.dpi)


# --- images and text -------------------------------------------------------------------------------------------------


def _pixels(images: Images) -> list[np.ndarray | None]:
    batches = [images] if isinstance(images, torch.Tensor) else images
    out = []
    for batch in batches:
        out += [None] if batch is None else [_rgb(pixels) for pixels in to_uint8(batch)]
    if not out:
        raise ImageError("expected at least one image but got none")
    return out


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _balanced(count: int, most: int) -> int:
    """Columns, `most` of them at most, so that the last row is as full as can be."""
    return math.ceil(count / math.ceil(count / most))


def _as_many(texts: Sequence | None, others: Sequence, missing: Any = "") -> Sequence:
    if texts is None:
        return [missing] * len(others)
    if len(texts) != len(others):
        raise ImageError(f"expected one text for each of {len(others)} but got {len(texts)}: {list(texts)}")
    return texts


def _title_and_caption(label: str | Sequence[str]) -> tuple[str, str]:
    lines = label.split("\n") if isinstance(label, str) else list(label)
    return (lines[0] if lines else ""), "\n".join(lines[1:])


def _line_height(style: str) -> int:
    return round(STYLES[style][0] * DPI / 72 * 1.4)


def _text_width(text: str, style: str) -> float:
    points, weight, _ = STYLES[style]
    font = FontProperties(size=points, weight=weight)
    return _RENDERER.get_text_width_height_descent(text, font, ismath=False)[0]


def _wrap(text: str, style: str, width: float) -> list[str]:
    """The lines of a text, none wider than `width` pixels; a word that is wider by itself is cut."""
    lines = []
    for paragraph in str(text).split("\n") if text else []:
        line = ""
        for word in paragraph.split():
            while _text_width(word, style) > width and len(word) > 1:
                fits = max(1, sum(_text_width(word[:end], style) <= width for end in range(1, len(word))))
                lines += [line] * bool(line) + [word[:fits]]
                line, word = "", word[fits:]
            joined = f"{line} {word}".strip()
            if line and _text_width(joined, style) > width:
                lines.append(line)
                joined = word
            line = joined
        lines.append(line)
    return lines


# --- the sheet -------------------------------------------------------------------------------------------------------


def _shown(pixels: np.ndarray | None, scale: float | None) -> tuple[int, int]:
    """Width and height in figure pixels; by default a whole multiple for small images."""
    if pixels is None:
        return 0, 0
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if scale is None:
        scale = max(1, SHOWN // longest) if longest <= LARGEST else LARGEST / longest
    return max(1, round(width * scale)), max(1, round(height * scale))


def _sheet(
    rows: list[list[_Cell]],
    scale: float | None,
    suptitle: str | None,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Figure:
    count = max(map(len, rows))
    worded = any(column_labels) or any(cell.title or cell.caption for row in rows for cell in row)
    sizes = [[_shown(cell.pixels, scale) for cell in row] for row in rows]
    widths = [
        max([row[column][0] for row in sizes if column < len(row)] + [NARROWEST * worded]) for column in range(count)
    ]
    left = MARGIN + _label_width(row_labels)
    lefts = [left + sum(widths[:column]) + GAP * column for column in range(count)]
    right = lefts[-1] + widths[-1]
    texts: list[tuple[float, float, str, str, str]] = []  # x, y of the line's middle, line, style, alignment
    pictures: list[tuple[float, float, tuple[int, int], np.ndarray]] = []

    top = MARGIN
    if suptitle:
        right = max(right, MARGIN + min(_text_width(suptitle, "suptitle"), 480))
        top = _lines(texts, MARGIN, top, _wrap(suptitle, "suptitle", right - MARGIN), "suptitle", "left") + PAD
    heads = [_wrap(text, "label", width) for text, width in zip(column_labels, widths, strict=False)]
    top = _bottom_aligned(texts, lefts, widths, top, heads, "label")
    for index, (row, row_sizes) in enumerate(zip(rows, sizes, strict=True)):
        titles = [_wrap(cell.title, "title", width) for cell, width in zip(row, widths, strict=False)]
        top = _bottom_aligned(texts, lefts, widths, top, titles, "title")
        height = max(size[1] for size in row_sizes)
        for cell, size, x, width in zip(row, row_sizes, lefts, widths, strict=False):
            if cell.pixels is not None:
                pictures.append((x + (width - size[0]) // 2, top, size, cell.pixels))
        label = _wrap(row_labels[index], "label", LABEL_WIDTH) if row_labels else []
        height = max(height, len(label) * _line_height("label"))
        middle = top + (height - len(label) * _line_height("label")) / 2
        _lines(texts, left - GAP, middle, label, "label", "right")
        top += height
        below = [_wrap(cell.caption, "caption", width) for cell, width in zip(row, widths, strict=False)]
        ends = [
            _lines(texts, x + width / 2, top + PAD, lines, "caption", "center")
            for x, width, lines in zip(lefts, widths, below, strict=False)
            if lines
        ]
        top = max([top, *ends]) + GAP
    return _draw(right + MARGIN, top - GAP + MARGIN, pictures, texts)


def _label_width(labels: Sequence[str]) -> int:
    lines = [line for label in labels for line in _wrap(label, "label", LABEL_WIDTH)]
    return math.ceil(max(_text_width(line, "label") for line in lines)) + GAP if lines else 0


def _lines(texts: list, x: float, top: float, lines: list[str], style: str, align: str) -> float:
    """Note the lines of a block that starts at `top`; returns where it ends."""
    height = _line_height(style)
    texts += [(x, top + (index + 0.5) * height, line, style, align) for index, line in enumerate(lines)]
    return top + height * len(lines)


def _bottom_aligned(texts: list, lefts: list, widths: list, top: float, blocks: list[list[str]], style: str) -> float:
    """Note blocks of text side by side that end at the same height; returns where the images below may start."""
    height = _line_height(style)
    most = max(map(len, blocks), default=0)
    for x, width, lines in zip(lefts, widths, blocks, strict=False):
        _lines(texts, x + width / 2, top + (most - len(lines)) * height, lines, style, "center")
    return top + most * height + PAD * bool(most)


def _draw(width: float, height: float, pictures: list, texts: list) -> Figure:
    width, height = math.ceil(width), math.ceil(height)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    to_figure = Affine2D().scale(1 / width, -1 / height).translate(0, 1) + figure.transFigure
    for x, y, size, pixels in pictures:
        rim = Rectangle((x - 1, y - 1), size[0] + 2, size[1] + 2)  # one pixel, so that a white image has an edge
        figure.add_artist(rim)
        rim.set(transform=to_figure, facecolor="#d0d0d0", edgecolor="none", zorder=-1)
        axes = figure.add_axes((x / width, 1 - (y + size[1]) / height, size[0] / width, size[1] / height))
        axes.imshow(pixels, interpolation="nearest" if size[0] >= pixels.shape[1] else "antialiased", aspect="auto")
        axes.set_axis_off()
    for x, y, line, style, align in texts:
        points, weight, colour = STYLES[style]
        baseline = y + 0.36 * points * DPI / 72  # half of a capital's height below the middle
        font = {"fontsize": points, "fontweight": weight, "color": colour, "parse_math": False}
        figure.text(x, baseline, line, ha=align, va="baseline", transform=to_figure, **font)
    return figure


# --- tables ----------------------------------------------------------------------------------------------------------


def _table_line(texts: Sequence[str], widths: Sequence[int], rights: Sequence[bool]) -> str:
    padded = [
        text.rjust(width) if right else text.ljust(width)
        for text, width, right in zip(texts, widths, rights, strict=True)
    ]
    return "| " + " | ".join(padded) + " |"


def _column(values: list) -> tuple[list[str], bool]:
    """The texts of a column and whether it holds numbers."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    decimals = _decimals([abs(value) for value in numbers if isinstance(value, float) and math.isfinite(value)])
    return [_cell_text(value, decimals) for value in values], bool(numbers)


def _decimals(sizes: list[float]) -> int | None:
    """How many decimals give the largest about four digits; None where only an exponent would tell."""
    largest = max(sizes, default=0.0)
    if 0 < largest < 0.01:
        return None
    return min(4, max(0, 3 - math.floor(math.log10(largest)))) if largest else 1


def _cell_text(value: Any, decimals: int | None) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value).replace("|", "\\|").replace("\n", " ")
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    return f"{value:.2e}" if decimals is None else f"{value:.{decimals}f}"
