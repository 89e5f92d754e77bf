"""What grading writes: the gradebook, and a page for each student.

Every text of a submission is hostile until escaped: for HTML on the pages, for spreadsheets in the tables.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from staff.grading.manual import write_csv
from staff.grading.probe import Arrays, Probe

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
    """One item: points, what was right and what was not, what was expected or written, and pictures side by side."""
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
    if score.written:
        lines.append(f"<pre>{escape(score.written)}</pre>")
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
        said = "Changed; what was added counts, the rest was graded as it was"
        notes.append(f"<p>{said}: {escape(label)}</p><pre>{escape(difference)}</pre>")
    return notes


def _figures(pictures: dict) -> str:
    shown = []
    for name, value in pictures.items():
        shown.append(f'<figure><img alt="" src="{data_url(value)}"><figcaption>{escape(name)}</figcaption></figure>')
    return "".join(shown)


def compare_pictures(probe: Probe, ours: Arrays, theirs: Arrays, inputs: Arrays) -> dict:
    """The student's pictures next to the reference, where a probe has some."""
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
    pixels = np.concatenate(framed, axis=1)
    buffer = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


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
    write_csv(path, table)
