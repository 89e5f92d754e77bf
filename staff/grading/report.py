"""What grading writes: the gradebook, and a page for each student.

Every text of a submission is hostile until escaped: for HTML by the template, for spreadsheets in the tables.
"""

from __future__ import annotations

import base64
import difflib
import io
from pathlib import Path

import numpy as np
from jinja2 import Environment
from PIL import Image

from helpers.course.lessons import Cell
from helpers.course.submission import Submission
from staff.grading.manual import write_csv
from staff.grading.probe import Arrays, Probe

TEMPLATE = Path(__file__).with_name("page.html")
MOST_PICTURES, MOST_SIDE, MOST_TEXT = 4, 256, 10_000


def page(row: dict, pictures: dict[str, dict]) -> str:
    """A student's page, self-contained, with no script: the sum, then a card for everything that scores."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": "{:g}".format, "name": _name, "png": data_url}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(row=row, scores=row["scores"], pictures=pictures)


def _name(stem: str) -> str:
    number, _, rest = stem.partition("_")
    return f"Lesson {int(number)} · {rest.replace('_', ' ')}" if number.isdigit() else stem


def notes(submission: Submission) -> dict:
    """What the page says about a notebook: cells that are missing or changed, marks that were dropped."""
    edited = [(_label(cell), _difference(cell.source, source)) for cell, source in submission.edited]
    missing = [cell.item if cell.kind == "exercise" else _label(cell) for cell in submission.missing]
    return {"edited": edited, "missing": missing, "marks": submission.marks}


def _label(cell: Cell) -> str:
    first = next((line for line in cell.source.split("\n") if line.strip()), "")
    return f"{cell.title}: {first[:60]}" if cell.title else first[:60]


def _difference(before: str, after: str) -> str:
    before, after = (text[:MOST_TEXT].split("\n")[:200] for text in (before, after))
    lines = difflib.unified_diff(before, after, "lesson", "submission", lineterm="", n=1)
    return "\n".join(line[:200] for _, line in zip(range(60), lines, strict=False))


def compare_pictures(probe: Probe, ours: Arrays, theirs: Arrays, inputs: Arrays) -> dict:
    """The student's images next to the reference, where a probe has some."""
    shown = {}
    for title, values in (("yours", ours), ("reference", theirs)) if probe.show else ():
        try:
            images = np.asarray(probe.show(values, inputs), dtype=np.float64)
            shown |= {title: images} if images.ndim == 4 and images.size else {}
        except Exception:  # a hostile array is simply not shown
            continue
    return shown


def data_url(images: np.ndarray) -> str:
    """PNG of up to four images (B, 3, H, W) in [0, 1] side by side."""
    images = np.nan_to_num(np.clip(images[:MOST_PICTURES, :3, :MOST_SIDE, :MOST_SIDE], 0, 1))
    images = np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
    framed = [np.pad(image.transpose(1, 2, 0), ((0, 0), (0, 1), (0, 0)), constant_values=1) for image in images]
    buffer = io.BytesIO()
    Image.fromarray((np.concatenate(framed, axis=1) * 255).round().astype(np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_table(path: Path, rows: list[dict]) -> None:
    """The gradebook: a row per student; points of every item, of every part, bonus, total, what is open."""
    items, parts = [score["item"] for score in rows[0]["scores"]], list(rows[0]["parts"])
    table = [["student", "total", *parts, "bonus", *items, "open", "remarks"]]
    for row in rows:
        points = ["" if s["points"] is None else f"{s['points']:g}" for s in row["scores"]]
        sums = [f"{row['total']:g}", *(f"{row['parts'][part]:g}" for part in parts), f"{row['bonus']:g}"]
        table.append([row["student"], *sums, *points, " ".join(row["open"]), "; ".join(row["remarks"])])
    write_csv(path, table)
