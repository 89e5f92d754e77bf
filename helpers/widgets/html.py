"""What the panels show, as strings: images as data URLs, loss curves as SVG, one frame as HTML.

The live curve is not drawn by matplotlib: a figure takes 50 ms and more, a string under 1 ms, and a run waits for it.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image
from torch import Tensor

from helpers.images import to_uint8

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: every eye can tell them
POINTS = 200  # of a curve: more cannot be seen, and would have to be sent


def data_url(pixels, kind: str = "JPEG", **options) -> str:
    """uint8 pixels (H, W, 3 or 4) as a ``data:`` URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def jpeg_url(image: Tensor) -> str:
    """An image (1, 3, H, W) in [0, 1] as a ``data:`` URL: JPEG, quality 90, colour at full resolution."""
    return data_url(to_uint8(image)[0], quality=90, subsampling=0)


def figure_html(title: str, image: Tensor | str | None, width: int, overlay: str = "") -> str:
    """An image or its URL with a title, ``width`` pixels on the screen, not smoothed; an empty square for None."""
    box = f"width:{width}px;max-width:100%;display:block;"
    if image is None:
        picture = f'<div style="{box}aspect-ratio:1;background:rgba(128,128,128,.15)"></div>'
    else:  # decoding=sync: no blank flash between two frames
        url = image if isinstance(image, str) else jpeg_url(image)
        picture = f'<img src="{url}" alt="{escape(title)}" decoding="sync" style="{box}image-rendering:pixelated">'
    caption = f'<div style="height:1.6em;overflow:hidden;white-space:nowrap">{escape(title)}</div>'
    return (
        f'<div style="width:{width}px;max-width:100%">{caption}<div style="position:relative">{picture}{overlay}</div>'
        "</div>"
    )


def row_html(*parts: str) -> str:
    """Parts side by side; they wrap if there is no room."""
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;line-height:1.5">{"".join(parts)}</div>'


def row_of(pictures: Mapping[str, Tensor | None], width: int) -> str:
    """Images by title side by side, each ``width`` pixels on the screen."""
    return row_html(*(figure_html(title, image, width) for title, image in pictures.items()))


def status_html(text: str, done: float) -> str:
    """A line of text under a progress bar, ``done`` in [0, 1]."""
    bar = f'<progress value="{done:.4f}" max="1" style="width:100%"></progress>'
    return f'{bar}<div style="min-height:1.5em;line-height:1.5;font-variant-numeric:tabular-nums">{escape(text)}</div>'


def text_html(text: str) -> str:
    """One sentence."""
    return f'<div style="line-height:1.5">{escape(text)}</div>'


def error_html(text: str) -> str:
    """One sentence in red, or nothing."""
    return f'<div role="alert" style="color:#e53935;line-height:1.5">{escape(text)}</div>' if text else ""


def sentence(error: Exception | None) -> str:
    """Our own errors are sentences for the reader; others are named."""
    own = error is None or isinstance(error, ValueError)
    return str(error or "") if own else f"{type(error).__name__}: {error}"


def frame_html(edges: Sequence[float], bend: str = "0", turn: float = 0.0) -> str:
    """The outline of (left, top, right, bottom), fractions of the image that it lies on, turned by degrees."""
    left, top, right, bottom = (100 * edge for edge in edges)
    return (
        '<div style="position:absolute;box-sizing:border-box;border:2px solid #fff;outline:1px dashed #000;'
        f"border-radius:{bend};transform:rotate({turn:.1f}deg);left:{left:.2f}%;top:{top:.2f}%;"
        f'width:{right - left:.2f}%;height:{bottom - top:.2f}%"></div>'
    )


def loss_curve(
    history: Sequence[Mapping[str, float]], width: int = 400, height: int = 200, labels: Mapping[str, str] | None = None
) -> str:
    """Losses over the steps as an SVG string: logarithmic axis, one line and its last value per loss.

    history: name to value of every step. A missing name, a zero and NaN leave a gap. labels: other names to show.
    """
    values = [v for losses in history for v in losses.values() if _drawable(v)]
    if not values:
        return f'<svg width="{width}" height="{height}" role="img" aria-label="no losses yet"></svg>'
    low = math.floor(math.log10(min(values)))
    high = max(low + 1, math.ceil(math.log10(max(values))))
    names = list(dict.fromkeys(name for losses in history for name in losses))
    left, right, top, bottom = 44, width - 8, 14 + 16 * math.ceil(len(names) / 2), height - 22

    def text(x: float, y: float, label: str, end: bool = False) -> str:
        anchor = "end" if end else "start"
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{label}</text>'

    def y(value: float) -> float:
        return bottom - (bottom - top) * (math.log10(value) - low) / (high - low)

    lines = [text(left, height - 5, "1"), text(right, height - 5, f"step {len(history)}", end=True)]
    for power in range(low, high + 1, math.ceil((high - low) / 5)):
        at = y(10.0**power)
        lines.append(f'<path d="M{left} {at:.1f}H{right}" stroke="currentColor" opacity=".2"/>')
        lines.append(text(left - 6, at + 4, f"{10.0**power:g}" if abs(power) < 4 else f"1e{power}", end=True))
    shown = sorted({*range(0, len(history), math.ceil(len(history) / POINTS)), len(history) - 1})
    for order, name in enumerate(names):
        colour, last = COLOURS[order % len(COLOURS)], history[-1].get(name)
        points = [(left + (right - left) * i / max(1, len(history) - 1), history[i].get(name)) for i in shown]
        path = _path([(x, y(value)) if _drawable(value) else None for x, value in points])
        lines.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"/>')
        key_x, key_y = left + (order % 2) * (right - left) / 2, 12 + 16 * (order // 2)
        lines.append(f'<path d="M{key_x:.0f} {key_y - 4}h14" stroke="{colour}" stroke-width="3"/>')
        lines.append(
            text(
                key_x + 19,
                key_y,
                f"{escape((labels or {}).get(name, name))} {f'{last:.3g}' if _drawable(last) else '–'}",
            )
        )
    style = f'style="max-width:100%" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12"'
    head = f'<svg width="{width}" height="{height}" role="img" aria-label="losses" fill="currentColor" {style}>'
    return f"{head}{''.join(lines)}</svg>"


def _drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _path(points: list[tuple[float, float] | None]) -> str:
    """SVG path through the points, interrupted at None."""
    path, pen = [], "M"
    for point in points:
        if point is not None:
            path.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "M" if point is None else "L"
    return "".join(path)
