"""What the panels show, as HTML. The live curve is SVG: matplotlib takes 50 ms and more, and a run waits for it."""

import base64
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from helpers.images import grid, to_uint8
from helpers.metrics import psnr
from helpers.widgets.job import Job

RESULT = 256  # pixels on the screen of a result and of what it is compared with
CANDIDATE = 100  # pixels on the screen of each of several results, and of a thumbnail
PAGE = 2 * RESULT + 12  # pixels on the screen: a result and what it is compared with, side by side
MOST = 16  # images of a batch that are shown
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: distinct to every eye
POINTS = 200  # of a curve: more cannot be seen, and would have to be sent


def data_url(pixels, kind: str = "JPEG", **options) -> str:
    """uint8 pixels (H, W, 3 or 4) as a ``data:`` URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def jpeg_url(image: Tensor) -> str:
    """An image (1, 3, H, W) in [0, 1] as a ``data:`` URL: JPEG, quality 90, colour at full resolution."""
    return data_url(to_uint8(image)[0], quality=90, subsampling=0)


def figure_html(title: str, image: Tensor | None, width: int) -> str:
    """An image (1, 3, H, W) with a title, ``width`` pixels on the screen, not smoothed; an empty square for None."""
    box = f"width:{width}px;max-width:100%;display:block;"
    if image is None:
        shown = f'<div style="{box}aspect-ratio:1;background:rgba(128,128,128,.15)"></div>'
    else:  # decoding=sync: no blank flash between two frames
        style = f"{box}image-rendering:pixelated"
        shown = f'<img src="{jpeg_url(image)}" alt="{escape(title)}" decoding="sync" style="{style}">'
    caption = f'<div style="height:1.6em;overflow:hidden;white-space:nowrap">{escape(title)}</div>'
    return f'<div style="width:{width}px;max-width:100%">{caption}{shown}</div>'


def sheet_of(images: Tensor) -> Tensor:
    """One image of a batch: its only image, or a nearly square grid of the first ones."""
    return grid(images[:MOST], padding=1)


def width_of(images: Tensor) -> int:
    """Pixels on the screen of ``sheet_of(images)``, so that several can be distinguished."""
    return max(RESULT, math.ceil(math.sqrt(min(len(images), MOST))) * CANDIDATE)


def row_html(*parts: str) -> str:
    """Parts side by side; they wrap if there is no room."""
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;line-height:1.5">{"".join(parts)}</div>'


def status_html(text: str, done: float) -> str:
    """A line of text under a progress bar, ``done`` in [0, 1]."""
    bar = f'<progress value="{done:.4f}" max="1" style="width:100%"></progress>'
    return f'{bar}<div style="min-height:1.5em;line-height:1.5;font-variant-numeric:tabular-nums">{escape(text)}</div>'


def text_html(text: str) -> str:
    return f'<div style="line-height:1.5">{escape(text)}</div>'


def sentence(error: Exception | str | None) -> str:
    """Our own errors are sentences for the reader; others are named."""
    ours = error is None or isinstance(error, str | ValueError)
    return str(error or "") if ours else f"{type(error).__name__}: {error}"


def error_html(error: Exception | str | None) -> str:
    """One sentence in red, or nothing."""
    text = escape(sentence(error))
    return f'<div role="alert" style="color:#e53935;line-height:1.5">{text}</div>' if text else ""


def page_html(title: str, images: Tensor | None, name: str, reference: Tensor | None, below: str) -> str:
    """A result, the reference by its name, and what is under them."""
    width = RESULT if images is None else width_of(images)
    figures = [figure_html(title, None if images is None else sheet_of(images), width)]
    if reference is not None:
        figures.append(figure_html(name, reference, min(RESULT, PAGE - 12 - width)))
    return f'<div style="width:{PAGE}px;max-width:100%">{row_html(*figures)}{below}</div>'


def progress_html(job: Job, images: Tensor | None, reference: Tensor | None, labels: Mapping[str, str]) -> str:
    """How far a job is, its time left, the PSNR of its first image, its error and its losses."""
    if images is None:
        return status_html("preparing the start …" if job.alive else job.state, 0) + error_html(job.error)
    number, total, pace = job.latest.number, len(job.iterator), job.seconds / len(job.history)
    texts = {
        "running": f"{1000 * pace:.0f} ms a step, {pace * (total - number):.0f} s left",
        "paused": "paused",
        "stopped": f"stopped after {job.seconds:.1f} s, the best is kept",
        "finished": f"finished in {job.seconds:.1f} s",
        "failed": "failed, the best so far is kept",
    }
    quality = [f"PSNR {text}" for text in decibel(images, reference)]
    line = " · ".join([f"step {number} of {total}", *quality, texts[job.state]])
    return status_html(line, number / total) + error_html(job.error) + loss_curve(job.history, PAGE, labels=labels)


def decibel(images: Tensor, reference: Tensor | None) -> list[str]:
    """PSNR of the first image; none without a reference of its size."""
    if reference is None or reference.shape[-2:] != images.shape[-2:]:
        return []
    return [f"{psnr(images[:1], reference[:1]).item():.1f} dB"]


def loss_curve(
    history: Sequence[Mapping[str, float]], width: int = 400, height: int = 180, labels: Mapping[str, str] | None = None
) -> str:
    """Losses over the steps (name to value): a line each on a logarithmic axis (SVG), with gaps, and its last value."""
    steps = np.unique(np.linspace(0, len(history) - 1, POINTS).round().astype(int)) if history else []
    names = list(dict.fromkeys(name for step in steps for name in history[step]))
    values = np.array([[history[step].get(name, math.nan) for step in steps] for name in names], float)
    values[~((values > 0) & np.isfinite(values))] = math.nan
    low, high = (0, 1) if np.isnan(values).all() else (np.nanmin(values), np.nanmax(values))
    low = math.floor(math.log10(low)) if low else 0
    high = max(low + 1, math.ceil(math.log10(high)))
    left, right, top, bottom = 44, width - 8, 8, height - 22
    x = left + (right - left) * np.asarray(steps) / max(1, len(history) - 1)
    y = bottom - (bottom - top) * (np.log10(values) - low) / (high - low)
    parts = [f'<text x="{left}" y="{height - 5}">1</text>']
    parts.append(f'<text x="{right}" y="{height - 5}" text-anchor="end">step {len(history)}</text>')
    for power in range(low, high + 1, math.ceil((high - low) / 5)):
        at, text = bottom - (bottom - top) * (power - low) / (high - low), f"{10.0**power:g}"
        parts.append(f'<path d="M{left} {at:.1f}H{right}" stroke="currentColor" opacity=".2"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    keys = []
    for name, line, loss, colour in zip(names, y, values, itertools.cycle(COLOURS)):
        parts.append(f'<path d="{_path(x, line)}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        last = "–" if math.isnan(loss[-1]) else f"{loss[-1]:.3g}"
        keys.append(f'<span><b style="color:{colour}">—</b> {escape((labels or {}).get(name, name))} {last}</span>')
    style = f'style="max-width:100%" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12"'
    head = f'<svg width="{width}" height="{height}" role="img" aria-label="losses" fill="currentColor" {style}>'
    return f"<div>{row_html(*keys)}{head}{''.join(parts)}</svg></div>"


def _path(x: Iterable[float], y: Iterable[float]) -> str:
    """SVG path through the points, interrupted at NaN."""
    path, pen = "", "M"
    for across, down in zip(x, y, strict=True):
        path += "" if math.isnan(down) else f"{pen}{across:.1f} {down:.1f}"
        pen = "M" if math.isnan(down) else "L"
    return path
