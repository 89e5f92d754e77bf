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

from helpers.course.lessons import Cell, LessonError
from helpers.files import atomic_path
from staff.grading.probe import Arrays, Probe, agree

STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { margin-bottom: 0 } h2 { margin: 2.5rem 0 .5rem; border-bottom: 2px solid #222 } h3 { margin: 0 0 .3rem }
.total { font-size: 1.3rem; margin: .2rem 0 1rem } a { color: inherit }
table { border-collapse: collapse; width: 100% } td, th { padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #ddd;
text-align: left; vertical-align: top } td.n { text-align: right; white-space: nowrap; width: 5.5rem }
td.bar { width: 11rem } .bar div { background: #eee; height: .6rem; margin-top: .45rem }
.bar div div { background: #1a7f37;
margin: 0 } section { border: 1px solid #ddd; border-left: .4rem solid #ccc; padding: .7rem 1rem; margin: .8rem 0 }
section.full { border-left-color: #1a7f37 } section.none { border-left-color: #b42318 }
section.part { border-left-color: #d29922 } section p { margin: .3rem 0 } .points { float: right; font-weight: 600 }
.full .points { color: #1a7f37 } .none .points { color: #b42318 } .part .points { color: #9a6700 } .open .points,
.grey { color: #666 } ul.parts { list-style: none; padding: 0; margin: .3rem 0 } figure { display: inline-block;
margin: .5rem 1rem 0 0; vertical-align: top } figcaption { font-size: 13px; color: #666 }
img { image-rendering: pixelated; height: 96px; border: 1px solid #ddd } pre { background: #f6f6f6; padding: .6rem;
white-space: pre-wrap; font-size: 13px } summary { cursor: pointer } @media print { section { break-inside: avoid } }
"""
MANUAL = ("student", "item", "question", "most", "points", "comment")
MOST_PICTURES, MOST_SIDE = 4, 256


def page(row: dict, scores: Sequence, pictures: dict[str, dict]) -> str:
    """A student's page, self-contained, with no script: the sum, then a card for everything that scores."""
    body = [f"<h1>{escape(row['student'])}</h1>", _sum(row, scores)]
    for stem in dict.fromkeys(score.lesson for score in scores):
        kept = row["notebooks"].get(stem, {})
        cards = [_card(score, pictures.get(score.item) or {}) for score in scores if score.lesson == stem]
        body += [f"<h2>{escape(_name(stem))}</h2>", *cards, *_notebook_notes(kept)]
    if row["remarks"]:
        body.append("<h2>Remarks</h2><ul>" + "".join(f"<li>{escape(r)}</li>" for r in row["remarks"]) + "</ul>")
    title = f"<title>{escape(row['student'])}</title>"
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    meta = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    head = f"<head>{meta}{title}<style>{STYLE}</style></head>"
    return f"<!doctype html><html lang=en>{head}<body>{''.join(body)}</body></html>"


def _name(stem: str) -> str:
    number, _, rest = stem.partition("_")
    return f"Lesson {int(number)} · {rest.replace('_', ' ')}" if number.isdigit() else stem


def _sum(row: dict, scores: Sequence) -> str:
    """Points of all and of each part of the rubric, as a table with bars."""
    todo = f" Still to be graded by hand: {', '.join(map(escape, row['open']))}." if row["open"] else ""
    lines = []
    for part, points in row["parts"].items():
        counted = [score for score in scores if score.part == part and not score.bonus]
        most = sum(score.most for score in counted)
        width = round(100 * points / most) if most else 0
        items = " ".join(f'<a href="#i{escape(s.item)}">{escape(s.item)}</a>' for s in counted)
        bar = f'<td class=bar><div><div style="width: {width}%"></div></div></td>'
        lines.append(f"<tr><td>{escape(part)}</td>{bar}<td class=n>{points:g} of {most:g}</td><td>{items}</td></tr>")
    if any(score.bonus for score in scores):
        items = " ".join(f'<a href="#i{escape(s.item)}">{escape(s.item)}</a>' for s in scores if s.bonus)
        lines.append(f"<tr><td>bonus</td><td></td><td class=n>{row['bonus']:g}</td><td>{items}</td></tr>")
    total = f"<p class=total><b>{row['total']:g} of {row['of']:g} points.</b>{todo}</p>"
    return f"{total}<table>{''.join(lines)}</table>"


def _card(score, pictures: dict) -> str:
    """One exercise: points, what was right and what was not, what was expected, and the results side by side."""
    points = "–" if score.points is None else f"{score.points:g}"
    share = (score.points or 0) / score.most if score.most else 0
    colour = "open" if score.points is None else "full" if share >= 1 else "none" if share == 0 else "part"
    said = score.reason or ("all right" if share >= 1 else "to be graded by hand" if score.points is None else "")
    bonus = " (bonus)" if score.bonus else ""
    lines = [
        f"<h3><span class=points>{points} / {score.most:g}</span>{escape(score.item)} {escape(score.title)}{bonus}"
    ]
    lines.append("</h3>")
    if len(score.verdicts) > 1:
        parts = "".join(f"<li>{_verdict(verdict, score.most)}</li>" for verdict in score.verdicts)
        lines.append(f"<ul class=parts>{parts}</ul>")
        said = score.note
    if said:
        lines.append(f"<p>{escape(said)}</p>")
    if score.expected:
        lines.append(f"<p class=grey>Expected: {escape(score.expected)}</p>")
    if pictures:
        lines.append(_figures(pictures))
        lines.append("<p class=grey>The figure shows your own run.</p>" if score.note else "")
    return f'<section class={colour} id="i{escape(score.item)}">{"".join(lines)}</section>'


def _verdict(verdict, most: float) -> str:
    mark = "✓" if verdict.right > 1 - 1e-9 else "✗" if verdict.right == 0 else "◐"
    reason = f": {escape(verdict.reason)}" if verdict.reason else ""
    points = f"{verdict.share * verdict.right * most:.3g} of {verdict.share * most:.3g}"
    return f"{mark} {escape(verdict.part)} <span class=grey>({points})</span>{reason}"


def _notebook_notes(kept: dict) -> list[str]:
    """What was done to the notebook itself: cells missing, skipped, changed; and what the student wrote."""
    if not kept:
        return ["<p class=grey>No notebook was handed in.</p>"]
    if kept.get("error"):
        return [f"<p>{escape(kept['error'])}</p>"]
    notes = []
    if kept["missing"]:
        notes.append(f"<p>Not found: {escape('; '.join(kept['missing']))}. Locked cells were put back.</p>")
    if kept["marks"]:
        notes.append(f"<p>Marks that would skip or excuse a cell, dropped: {kept['marks']}.</p>")
    for label, difference in kept["edited"]:
        notes.append(f"<p>Changed, graded as it was: {escape(label)}</p><pre>{escape(difference)}</pre>")
    if kept["texts"]:
        texts = "".join(f"<pre>{escape(text)}</pre>" for text in kept["texts"])
        notes.append(f"<details open><summary>Written by the student</summary>{texts}</details>")
    return notes


def _figures(pictures: dict) -> str:
    shown = []
    for name, value in pictures.items():
        content = value if isinstance(value, str) else f'<img alt="" src="{data_url(value)}">'
        shown.append(f"<figure>{content}<figcaption>{escape(name)}</figcaption></figure>")
    return "".join(shown)


def compare_pictures(probe: Probe, ours: Arrays, theirs: Arrays, inputs: Arrays) -> dict:
    """The student's result beside the reference: as pictures where it has some, else as curves."""
    if probe.show is None:
        wrong = [name for name in theirs if name in ours and not agree(ours[name], theirs[name])[0]]
        name = max(wrong or theirs, key=lambda n: min(theirs[n].size, 64))  # what is wrong says more
        return {f"{name}: the reference as a line, yours as dots": curves(ours.get(name), theirs[name])}
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
