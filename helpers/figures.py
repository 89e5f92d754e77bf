"""Figures of the notebooks and the command line: sheets of images with captions, loss curves, tables."""

import io
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.files import atomic_path
from helpers.images import ImageError, to_uint8

DPI = 100
SHOWN, LARGEST = 192, 320  # pixels that a small image is enlarged to, and a large one is shrunk to, at most
NARROWEST = 96  # pixels of a cell that has text
LABEL_WIDTH, LINE = 150, 18  # pixels for row labels, at most, and for each of their lines
INK, FAINT, RIM = "#1b1b1b", "#5c5c5c", "#d0d0d0"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito 2008
STYLES = {  # of text, as matplotlib takes it; without mathtext, as a file name may hold a $
    "suptitle": {"fontsize": 12, "fontweight": "bold", "color": INK, "parse_math": False},
    "label": {"fontsize": 9, "fontweight": "bold", "color": INK, "parse_math": False},
    "title": {"fontsize": 9, "color": INK, "parse_math": False},
    "caption": {"fontsize": 8, "color": FAINT, "parse_math": False},
}

Figure = Any  # matplotlib's; see _figure
Images = torch.Tensor | Sequence[torch.Tensor | None]  # (B, 3, H, W) in [0, 1], or a list of them; None: an empty cell


def _figure(*inches: float) -> Figure:
    """A matplotlib figure that shows itself in a notebook, whether or not pyplot has been imported."""
    from matplotlib.figure import Figure  # half a second, which a command would wait for at its start

    class ShowsItself(Figure):
        def _repr_png_(self) -> bytes:
            out = io.BytesIO()
            self.savefig(out, format="png", dpi=self.dpi)
            return out.getvalue()

    return ShowsItself(figsize=inches, dpi=DPI, layout="constrained")


@dataclass
class _Cell:
    pixels: np.ndarray | None = None  # (H, W, 3) uint8, or None for an empty cell
    title: str = ""
    caption: str = ""
    label: str = ""  # at its left


def show_images(
    images: Images,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    scale: float | None = None,
    suptitle: str | None = None,
    captions: Sequence[str] | None = None,
) -> Figure:
    """Images side by side, each with its title above and its caption below; long text is wrapped.

    images: those of a list may differ in size, and be masks (1, 1, H, W). columns: at most 6 by default. scale: figure
    pixels per image pixel of the largest image in a column, by default whole for small images.
    """
    pixels = _pixels(images)
    texts = _as_many(titles, pixels), _as_many(captions, pixels)
    cells = [_Cell(*cell) for cell in zip(pixels, *texts, strict=True)]
    columns = columns or math.ceil(len(cells) / math.ceil(len(cells) / 6))  # the last line as full as can be
    return _sheet([cells[at : at + columns] for at in range(0, len(cells), columns)], scale, suptitle)


def labelled_grid(
    rows_of_images: Sequence[Images],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    scale: float | None = None,
) -> Figure:
    """A table of images, in rows, with labels at its left and top, and captions below."""
    rows = [_pixels(row) for row in rows_of_images] or [_pixels([])]
    texts = [_as_many(row or None, pixels) for row, pixels in zip(_as_many(captions, rows), rows, strict=True)]
    cells = [[_Cell(p, caption=text) for p, text in zip(*row, strict=True)] for row in zip(rows, texts, strict=True)]
    for cell, label in zip(cells[0], _as_many(column_labels, max(rows, key=len)), strict=False):
        cell.title = label
    for row, label in zip(cells, _as_many(row_labels, rows), strict=True):
        row[0].label = label
    return _sheet(cells, scale, None, "label")


def result_sheet(target: torch.Tensor, rows: Sequence[Mapping[str, Any]], columns: int | None = None) -> Figure:
    """The target and results: dicts of "image" (1, 3, H, W) and "label", lines of text, the first on top."""
    labels = [["target"], *(list(row["label"]) or [""] for row in rows)]
    titles, captions = zip(*((first, "\n".join(rest)) for first, *rest in labels), strict=True)
    return show_images([target, *(row["image"] for row in rows)], titles, columns and columns + 1, captions=captions)


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure to .png, .jpg, .pdf or .svg, atomically. Raises ImageError for another suffix, or WriteError."""
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "jpg", "pdf", "svg"):
        raise ImageError(f"expected a file name ending in .png, .jpg, .pdf or .svg but got {Path(path).name!r}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=figure.dpi)


def _pixels(images: Images) -> list[np.ndarray | None]:
    out = []
    for batch in [images] if isinstance(images, torch.Tensor) else images:
        out += [None] if batch is None else list(np.broadcast_to(p := to_uint8(batch), (*p.shape[:3], 3)))
    if not out:
        raise ImageError("expected at least one image but got none")
    return out


def _as_many(texts: Sequence | None, others: Sequence) -> Sequence:
    """The texts, or as many empty ones as there are others."""
    if texts is not None and len(texts) != len(others):
        raise ImageError(f"expected one text for each of {len(others)} but got {len(texts)}: {list(texts)}")
    return [""] * len(others) if texts is None else texts


def _wrapped(text: str, width: float, style: str) -> str:
    """The text in lines of about ``width`` pixels."""
    letter = STYLES[style]["fontsize"] * DPI / 72 * (0.65 if "fontweight" in STYLES[style] else 0.58)  # its mean width
    letters = max(1, int(width / letter))
    return "\n".join(line for part in str(text).split("\n") for line in textwrap.wrap(part, letters) or [""])


def _shown(pixels: np.ndarray | None, scale: float | None) -> tuple[int, int]:
    """Width and height in figure pixels; by default a whole multiple for small images."""
    if pixels is None:
        return 0, 0
    height, width = pixels.shape[:2]
    longest = max(height, width)
    scale = scale or (max(1, SHOWN // longest) if longest <= LARGEST else LARGEST / longest)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _sheet(rows: list[list[_Cell]], scale: float | None, suptitle: str | None, title_style: str = "title") -> Figure:
    """Rows of cells; those below each other have one width, those next to each other one height."""
    count = max(map(len, rows))
    rows = [row + [_Cell()] * (count - len(row)) for row in rows]
    sizes = [[_shown(cell.pixels, scale) for cell in row] for row in rows]
    least = NARROWEST if any(cell.title or cell.caption for row in rows for cell in row) else 1
    widths = [max(least, *(row[column][0] for row in sizes)) for column in range(count)]
    labels = [_wrapped(row[0].label, LABEL_WIDTH, "label").count("\n") for row in rows]
    heights = [max(LINE * lines + 1, *(size[1] for size in row)) for row, lines in zip(sizes, labels, strict=True)]
    space = sum(widths) / DPI + 2 * count + 2, sum(heights) / DPI + 2 * len(rows) + 2  # inches; more than it will need
    figure = _figure(*space)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05, wspace=0, hspace=0)
    axes = figure.subplots(len(rows), count, squeeze=False, width_ratios=widths, height_ratios=heights)
    for (row, column), ax in np.ndenumerate(axes):
        _fill(ax, rows[row][column], widths[column], title_style)
    if suptitle:
        text = _wrapped(suptitle, max(sum(widths), 480), "suptitle")
        figure.suptitle(text, x=0.01, ha="left", **STYLES["suptitle"])
    _fit(figure, axes, widths, heights)
    return figure


def _fill(ax, cell: _Cell, width: int, title_style: str) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color=RIM, visible=cell.pixels is not None)  # so that a white image has an edge
    if cell.pixels is not None:
        small = cell.pixels.shape[1] <= width
        ax.imshow(cell.pixels, interpolation="nearest" if small else "antialiased", aspect="auto")
    ax.set_title(_wrapped(cell.title, width, title_style), **STYLES[title_style])
    ax.set_xlabel(_wrapped(cell.caption, width, "caption"), **STYLES["caption"])
    ax.set_ylabel(_wrapped(cell.label, LABEL_WIDTH, "label"), rotation=0, ha="right", va="center", **STYLES["label"])


def _fit(figure: Figure, axes: np.ndarray, widths: list[int], heights: list[int]) -> None:
    """Make the figure so large that the axes have these pixels: matplotlib knows what the texts take."""
    layout = figure.get_layout_engine()
    layout.execute(figure)
    boxes = [ax.get_position(original=True) for ax in axes.flat]
    free = (1 - sum(box.width for box in boxes) / len(axes), 1 - sum(box.height for box in boxes) / axes.shape[1])
    across, down = (math.ceil(share * side * DPI) for share, side in zip(free, figure.get_size_inches(), strict=True))
    width, height = across + sum(widths), down + sum(heights)
    figure.set_size_inches(width / DPI, height / DPI)
    layout.execute(figure)
    figure.set_layout_engine("none")
    for (row, column), ax in np.ndenumerate(axes):  # to whole pixels: small images stay crisp
        box = ax.get_position(original=True)
        place = round(box.x0 * width) / width, round(box.y0 * height) / height
        ax.set_position((*place, widths[column] / width, heights[row] / height))
        ax.set_aspect("equal" if ax.images else "auto")  # not before: texts do not count where it shrinks the axes


def plot_losses(
    history: Mapping[str, Sequence[float]], log: bool = True, suptitle: str | None = None, label="loss", along="step"
) -> Figure:
    """Curves of name to one value per step, or per ``along``; NaN, or 0 on a log axis, is a gap. ImageError if all."""
    curves = {name: np.asarray(values, dtype=float) for name, values in history.items()}
    curves = {name: np.where(values > 0, values, np.nan) if log else values for name, values in curves.items()}
    if not any(np.isfinite(values).any() for values in curves.values()):
        kind = "positive " if log else ""
        raise ImageError(f"expected at least one {kind}value to plot but got none in {list(history)}")
    figure = _figure(6.4, 3.2)
    axes = figure.add_subplot()
    axes.set_prop_cycle(color=COLOURS)
    for name, values in curves.items():
        axes.plot(values, label=name, linewidth=1.5, marker="o" if len(values) == 1 else None)
    axes.set(yscale="log" if log else "linear", xlabel=along, ylabel=label)
    _plain(axes)
    if len(curves) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    if suptitle:
        figure.suptitle(suptitle, x=0.01, ha="left", **STYLES["suptitle"])
    return figure


def plot_points(points: Mapping[str, tuple[float, float]], x: str, y: str) -> Figure:
    """A mark for each name at its place (x, y), with the name next to it."""
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    for number, (name, place) in enumerate(points.items()):
        axes.plot(*place, "o", color=COLOURS[number % len(COLOURS)], markersize=8)
        axes.annotate(name, place, (7, 5), textcoords="offset points", fontsize=9, color=INK)
    axes.set(xlabel=x, ylabel=y)
    axes.margins(x=0.2, y=0.15)
    _plain(axes)
    return figure


def _plain(axes) -> None:
    """A light grid behind the marks, and no frame."""
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=FAINT, which="both")
    axes.grid(True, color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9a9a9a")


def matrix_figure(values: torch.Tensor, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """A table of numbers (R, C), blue below and red above 0."""
    figure = _figure(2 + 0.9 * len(columns), 0.5 + 0.4 * len(rows))
    axes, most = figure.add_subplot(), 1.5 * values.abs().max().item()  # not so dark that the text cannot be read
    axes.imshow(values.numpy(), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    for (row, column), value in np.ndenumerate(values.numpy()):
        axes.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=9)
    return figure


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of results as a Markdown table that also reads well as plain text: about four digits, a dash for None."""
    columns = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        head, decimals = str(name).replace("_", " "), _decimals(values)
        texts = [head, *(_cell_text(value, decimals) for value in values)]
        number = any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        width = max(3, *map(len, texts))
        texts = [text.rjust(width) if number else text.ljust(width) for text in texts]
        columns.append([texts[0], "-" * (width - 1) + (":" if number else "-"), *texts[1:]])
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))


def _decimals(values: list) -> int | None:
    """How many decimals give the largest float about four digits; None where that needs an exponent."""
    largest = max((abs(value) for value in values if isinstance(value, float) and math.isfinite(value)), default=0)
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
