"""What a live view shows, as strings: pictures as data URLs, loss curves as SVG, a frame as HTML."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image
from torch import Tensor

from helpers.images import to_uint8

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: told apart by all eyes
POINTS = 200  # of a curve: more cannot be seen, and would have to be sent


def jpeg_url(image: Tensor) -> str:
    """An image (1, 3, H, W) in [0, 1] as a ``data:`` URL: JPEG, quality 90, colour at full resolution."""
    file = io.BytesIO()
    Image.fromarray(to_uint8(image)[0]).save(file, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def figure_html(title: str, url: str | None, width: int, overlay: str = "") -> str:
    """A picture with a title, enlarged to ``width`` pixels, nearest neighbour; an empty square for None."""
    box = f"width:{width}px;display:block;"
    if url is None:
        picture = f'<div style="{box}height:{width}px;background:rgba(128,128,128,.15)"></div>'
    else:  # decoding=sync: no blank flash between two frames
        picture = f'<img src="{url}" alt="{escape(title)}" decoding="sync" style="{box}image-rendering:pixelated">'
    caption = f'<div style="height:1.6em;overflow:hidden;white-space:nowrap">{escape(title)}</div>'
    return f'<div style="width:{width}px">{caption}<div style="position:relative">{picture}{overlay}</div></div>'


def row_html(*parts: str) -> str:
    """Parts side by side; they wrap where there is no room."""
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;line-height:1.5">{"".join(parts)}</div>'


def status_html(text: str, done: float) -> str:
    """A line of text under a progress bar, ``done`` in [0, 1]."""
    bar = f'<progress value="{done:.4f}" max="1" style="width:100%"></progress>'
    return f'{bar}<div style="min-height:3em;line-height:1.5;font-variant-numeric:tabular-nums">{escape(text)}</div>'


def text_html(text: str) -> str:
    """One sentence."""
    return f'<div style="line-height:1.5">{escape(text)}</div>'


def error_html(text: str) -> str:
    """One sentence in red, or nothing."""
    return f'<div role="alert" style="color:#d32f2f;line-height:1.5">{escape(text)}</div>' if text else ""


def error_sentence(error: Exception | None) -> str:
    """Our own errors are sentences for the reader; others are named."""
    if error is None:
        return ""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def loss_curve(history: Sequence[Mapping[str, float]], width: int = 400, height: int = 200) -> str:
    """Losses over the steps as an SVG string: logarithmic axis, one line and its last value per loss.

    history: name to value of every step. A name that is missing in a step, a zero and NaN leave a gap.
    """
    values = [v for losses in history for v in losses.values() if _drawable(v)]
    if not values:
        return f'<svg width="{width}" height="{height}" role="img" aria-label="no losses yet"></svg>'
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    names = list(dict.fromkeys(name for losses in history for name in losses))
    left, right, top, bottom = 44, width - 8, 14 + 16 * math.ceil(len(names) / 2), height - 22

    def x(index: int) -> float:
        return left + (right - left) * index / max(1, len(history) - 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (math.log10(value) - low) / (high - low)

    lines = []
    for power in range(low, high + 1, math.ceil((high - low) / 5)):
        at = y(10.0**power)
        lines.append(f'<path d="M{left} {at:.1f}H{right}" stroke="currentColor" opacity=".2"/>')
        lines.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{_power_of_ten(power)}</text>')
    lines.append(f'<text x="{left}" y="{height - 5}">1</text>')
    lines.append(f'<text x="{right}" y="{height - 5}" text-anchor="end">step {len(history)}</text>')
    every = max(1, math.ceil(len(history) / POINTS))
    shown = sorted({*range(0, len(history), every), len(history) - 1})
    for order, name in enumerate(names):
        colour = COLOURS[order % len(COLOURS)]
        path = _path([(x(i), y(v)) if _drawable(v := history[i].get(name)) else None for i in shown])
        lines.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"/>')
        key_x, key_y = left + (order % 2) * (right - left) / 2, 12 + 16 * (order // 2)
        last = history[-1].get(name)
        label = f"{escape(name)} {last:.3g}" if _drawable(last) else f"{escape(name)} –"
        lines.append(f'<path d="M{key_x:.0f} {key_y - 4}h14" stroke="{colour}" stroke-width="3"/>')
        lines.append(f'<text x="{key_x + 19:.0f}" y="{key_y}">{label}</text>')
    style = 'font-family="sans-serif" font-size="12" fill="currentColor"'
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-label="losses" {style}>'
        f"{''.join(lines)}</svg>"
    )


def _drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _power_of_ten(power: int) -> str:
    return f"{10.0**power:g}" if -3 <= power <= 3 else f"1e{power}"


def _path(points: list[tuple[float, float] | None]) -> str:
    """SVG path through the points, interrupted at None."""
    path, pen = [], "M"
    for point in points:
        if point is not None:
            path.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "M" if point is None else "L"
    return "".join(path)
