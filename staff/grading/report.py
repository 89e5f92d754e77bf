"""What grading writes: the gradebook, and a page for each student.

Every text of a submission is hostile until escaped: for HTML by the template, for spreadsheets in the tables.
"""

import base64
import io
from pathlib import Path

import numpy as np
from jinja2 import Environment
from PIL import Image

from staff.grading.manual import write_csv

TEMPLATE = Path(__file__).with_name("page.html")


def page(row: dict, images: dict[str, dict]) -> str:
    """A student's page, self-contained, with no script: the sum, then a card for everything that scores."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": "{:g}".format, "name": _name, "png": data_url}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(row=row, scores=row["scores"], images=images)


def _name(stem: str) -> str:
    number, _, rest = stem.partition("_")
    return f"Lesson {int(number)} · {rest.replace('_', ' ')}" if number.isdigit() else stem


def data_url(images: np.ndarray) -> str:
    """PNG of the first image (B, 3, H, W) in [0, 1]."""
    buffer = io.BytesIO()
    pixels = np.nan_to_num(images[0].clip(0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "PNG")
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
