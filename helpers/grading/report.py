"""What grading writes: the gradebook, the sheet for points by hand, and a page for each student.

Every text of a submission is hostile until escaped: for HTML on the pages, for spreadsheets in the tables.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.images import atomic_path

from .lessons import Cell, LessonError
from .probe import Arrays, Probe

STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } td, th { padding: .4rem .6rem; border-bottom: 1px solid #ddd;
text-align: left; vertical-align: top } td.n { text-align: right; white-space: nowrap }
figure { display: inline-block; margin: .5rem 1rem .5rem 0 } figcaption { font-size: 13px; color: #666 }
img { image-rendering: pixelated; min-height: 96px } pre { background: #f6f6f6; padding: .6rem; white-space: pre-wrap;
font-size: 13px } .full { color: #1a7f37 } .none { color: #b42318 } .part { color: #9a6700 }
"""
MANUAL = ("student", "item", "question", "most", "points", "comment")
MOST_PICTURES, MOST_SIDE = 4, 256


def page(row: dict, scores: Sequence, pictures: dict[str, dict]) -> str:
    """A student's page, self-contained, with no script."""
    lines = ["".join(f"<tr>{_row(score)}</tr>" for score in scores)]
    head = "<tr><th>Exercise</th><th>Points</th><th>Why</th><th>Expected</th></tr>"
    body = [f"<h1>{escape(row['student'])}</h1>", f"<p>{_sum(row)}</p>", f"<table>{head}{''.join(lines)}</table>"]
    if any(pictures.values()):
        body.append("<h2>Results</h2><p>Curves: the reference as a line, yours as dots.</p>")
    for score in scores:
        if shown := pictures.get(score.item):
            body.append(f"<h3>{escape(score.item)} {escape(score.title)}</h3>{_figures(shown)}")
    for stem, kept in row["notebooks"].items():
        body += _notebook_notes(stem, kept)
    if row["remarks"]:
        body.append("<h2>Remarks</h2><ul>" + "".join(f"<li>{escape(r)}</li>" for r in row["remarks"]) + "</ul>")
    title = f"<title>{escape(row['student'])}</title>"
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    meta = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    head = f"<head>{meta}{title}<style>{STYLE}</style></head>"
    return f"<!doctype html><html lang=en>{head}<body>{''.join(body)}</body></html>"


def _sum(row: dict) -> str:
    parts = ", ".join(f"{escape(name)} {points:g}" for name, points in row["parts"].items())
    bonus = f", bonus {row['bonus']:g}" if row["bonus"] else ""
    todo = f" Still to be graded by hand: {', '.join(map(escape, row['open']))}." if row["open"] else ""
    return f"<b>{row['total']:g} of {row['of']:g} points</b> ({parts}{bonus}).{todo}"


def _row(score) -> str:
    points = "–" if score.points is None else f"{score.points:g}"
    share = (score.points or 0) / score.most if score.most else 0
    colour = "open" if score.points is None else "full" if share >= 1 else "none" if share == 0 else "part"
    why = score.reason or ("all right" if share >= 1 else "to be graded by hand" if score.points is None else "")
    name = f"{escape(score.item)} {escape(score.title)}{' (bonus)' if score.bonus else ''}"
    cells = f"<td>{name}</td><td class='n {colour}'>{points} / {score.most:g}</td>"
    return f"{cells}<td>{escape(why)}</td><td>{escape(score.expected)}</td>"


def _notebook_notes(stem: str, kept: dict) -> list[str]:
    if not kept:
        return []
    notes = [f"<h2>{escape(stem)}</h2>"]
    if kept.get("error"):
        return [*notes, f"<p>{escape(kept['error'])}</p>"]
    if kept["missing"]:
        notes.append(f"<p>Not found: {escape('; '.join(kept['missing']))}. Locked cells were put back.</p>")
    if kept["marks"]:
        notes.append(f"<p>{kept['marks']} marks that would skip or excuse a cell were dropped.</p>")
    for label, difference in kept["edited"]:
        notes.append(f"<p>Changed, graded as it was: {escape(label)}</p><pre>{escape(difference)}</pre>")
    if kept["texts"]:
        notes.append("<p>Written by the student:</p>" + "".join(f"<pre>{escape(text)}</pre>" for text in kept["texts"]))
    return notes if len(notes) > 1 else []


def _figures(pictures: dict) -> str:
    shown = []
    for name, value in pictures.items():
        content = value if isinstance(value, str) else f'<img alt="" src="{data_url(value)}">'
        shown.append(f"<figure>{content}<figcaption>{escape(name)}</figcaption></figure>")
    return "".join(shown)


def compare_pictures(probe: Probe, ours: Arrays, theirs: Arrays, inputs: Arrays) -> dict:
    """The student's result beside the reference: as pictures where it has some, else as curves."""
    if probe.show is None:
        name = max(theirs, key=lambda n: min(theirs[n].size, 64))
        return {name: curves(ours.get(name), theirs[name])}
    shown = {}
    for title, values in (("yours", ours), ("reference", theirs)):
        try:
            shown[title] = np.asarray(probe.show(values, inputs), dtype=np.float64)
        except Exception:  # a hostile array is simply not shown
            continue
    return shown


def data_url(images: np.ndarray) -> str:
    """PNG of up to four pictures (B, 3, H, W) in [0, 1] side by side."""
    images = np.nan_to_num(np.clip(images[:MOST_PICTURES, :3, :MOST_SIDE, :MOST_SIDE], 0, 1))
    images = np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
    framed = [np.pad(image.transpose(1, 2, 0), ((0, 0), (0, 1), (0, 0)), constant_values=1) for image in images]
    pixels = np.concatenate(framed, axis=1)
    buffer = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def curves(ours: np.ndarray | None, theirs: np.ndarray, width: int = 420, height: int = 110) -> str:
    """Up to 64 numbers of both as an SVG: the reference as a broad line, the student's as dots."""
    ours = None if ours is None or ours.shape != theirs.shape else _first_curve(ours)
    reference, mine = _first_curve(theirs), ours
    finite = reference[np.isfinite(reference)]
    if not finite.size:
        return ""
    low, high = finite.min(), finite.max()
    span, x = max(high - low, 1e-12), np.linspace(4, width - 4, max(len(reference), 2))[: len(reference)]

    def place(values: np.ndarray) -> list[str]:
        y = height - 8 - (height - 16) * np.clip((np.nan_to_num(values, nan=low) - low) / span, -0.07, 1.07)
        return [f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)]

    line = f'<polyline points="{" ".join(place(reference))}" fill="none" stroke="#bcd" stroke-width="5"/>'
    dots = [] if mine is None else [p.split(",") for p in place(mine)]
    circles = "".join(f'<circle cx="{a}" cy="{b}" r="2" fill="#b42318"/>' for a, b in dots)
    note = "" if dots else f'<text x="8" y="{height - 6}" font-size="12" fill="#666">no result of this shape</text>'
    return f'<svg width="{width}" height="{height}" role="img">{line}{circles}{note}</svg>'


def _first_curve(values: np.ndarray) -> np.ndarray:
    """Of a history (steps, B) the first sample, else the first numbers."""
    history = values.ndim == 2 and len(values) > 4 * values.shape[1]
    return (values[:, 0] if history else values.ravel())[:64]


# --- tables ---------------------------------------------------------------------------------------------------------


def write_table(path: Path, rows: list[dict]) -> None:
    """The gradebook: a row per student; points of every item, of every part, bonus, total, what is open."""
    items = [score["item"] for score in rows[0]["scores"]]
    parts = list(rows[0]["parts"])
    table = [["student", "total", *parts, "bonus", *items, "open", "remarks"]]
    for row in rows:
        points = ["" if s["points"] is None else f"{s['points']:g}" for s in row["scores"]]
        sums = [f"{row['parts'][part]:g}" for part in parts]
        notes = [" ".join(row["open"]), "; ".join(row["remarks"])]
        table.append([row["student"], f"{row['total']:g}", *sums, f"{row['bonus']:g}", *points, *notes])
    _write_csv(path, table)


def write_manual(path: Path, students: list[str], cells: list[Cell], known: dict) -> None:
    """The sheet for points by hand: a row per student and question; what was filled in stays."""
    table = [list(MANUAL)]
    for student in students:
        for cell in cells:
            points, comment = known.get((student, cell.item), (None, ""))
            filled = "" if points is None else f"{points:g}"
            table.append([student, cell.item, cell.title, f"{cell.points:g}", filled, comment])
    _write_csv(path, table)


def read_manual(path: Path) -> dict[tuple[str, str], tuple[float | None, str]]:
    """Points and comment by (student, item). LessonError for points that are no number from 0 to the most."""
    if not path.is_file():
        return {}
    found = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                text = row["points"].strip().replace(",", ".")
                points = float(text) if text else None
                if points is not None and not 0 <= points <= float(row["most"]):
                    raise ValueError
                found[row["student"], row["item"]] = (points, (row["comment"] or "").lstrip("'"))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise LessonError(
                    f"{path.name}, line {number}: points must be a number from 0 to most, or empty; columns are "
                    f"{', '.join(MANUAL)}."
                ) from error
    return found


def _write_csv(path: Path, table: list[list[str]]) -> None:
    with atomic_path(path) as temporary, Path(temporary).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[_harmless(cell) for cell in row] for row in table])


def _harmless(text: str) -> str:
    """A spreadsheet would run what starts like a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not _number(text) else text


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
