"""Points that are given by hand: ``manual.csv``, which is the instructor's, and the export to a course site.

A row or a point that was filled in is never lost: rows of students who are not in this call stay as they are.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from helpers.course.lessons import Cell, LessonError
from helpers.files import atomic_path

COLUMNS = ("student", "item", "question", "most", "points", "comment", "written")
MOST_WRITTEN = 5_000  # characters of a student's text in the sheet
FORMULA = ("=", "+", "-", "@", "\t", "\r")
ByHand = dict[tuple[str, str], tuple[float | None, str]]


class Known(dict):
    """Points and comment by (student, item); ``rows`` are the lines they came from."""

    def __init__(self):
        super().__init__()
        self.rows: dict[tuple[str, str], dict[str, str]] = {}


def read(path: Path) -> Known:
    """What was filled in, from whatever a spreadsheet has made of the file.

    Raises:
        LessonError: for points that are not a number from 0 to the most.
    """
    found = Known()
    for number, row in enumerate(read_table(path) if path.is_file() else [], 2):
        try:
            text, most = row["points"].replace(",", "."), float(row["most"].replace(",", ".") or "inf")
            points = float(text) if text else None
            if points is not None and not 0 <= points <= most:
                raise ValueError
            key = row["student"], row["item"]
        except (KeyError, ValueError) as error:
            raise LessonError(
                f"{path.name}, line {number}: points must be a number from 0 to most, or empty; columns are "
                f"{', '.join(COLUMNS)}."
            ) from error
        if key not in found or found[key][0] is None:  # a row that was doubled does not hide a point
            found[key], found.rows[key] = (points, row.get("comment", "")), row
    return found


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV in UTF-8, UTF-16 or cp1252, with or without a byte order mark, by commas, semicolons or tabs."""
    data = path.read_bytes()
    encodings = ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252", "latin-1"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise LessonError(f"{path.name} is neither UTF-8, UTF-16 nor cp1252; save it as CSV in UTF-8.")
    lines = text.removeprefix("sep=;").removeprefix("sep=,").lstrip("\r\n")
    head = lines.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(lines, newline=""), delimiter=separator)
    return [{str(k).strip(): _plain(str(v or "").strip()) for k, v in row.items() if k is not None} for row in rows]


def write(path: Path, rows: list[dict], questions: list[Cell], known: Known) -> None:
    """The sheet: a row per student and question, the student's text next to it; then the rows of everybody else."""
    table, left = [list(COLUMNS)], dict(known.rows)
    for row in rows:
        written = {score["item"]: score["written"] for score in row["scores"]}
        for cell in questions:
            points, comment = known.get((row["student"], cell.item), (None, ""))
            left.pop((row["student"], cell.item), None)
            filled = "" if points is None else f"{points:g}"
            text = written.get(cell.item, "")[:MOST_WRITTEN]
            table.append([row["student"], cell.item, cell.title, f"{cell.points:g}", filled, comment, text])
    table += [[row.get(column, "") for column in COLUMNS] for row in left.values()]
    write_csv(path, table)


def export(path: Path, rows: list[dict], roster: Path) -> list[str]:
    """The roster with a column of totals, for import into a course site; returns students whom it does not name.

    The roster's column with the most names of students is theirs; all its columns, ids among them, stay as they are.
    Who has handed in nothing gets no points.
    """
    people, totals = read_table(roster), {row["student"]: row for row in rows}
    columns = list(people[0]) if people else []
    hits = {column: sum(person.get(column) in totals for person in people) for column in columns}
    column = max(columns, key=hits.get, default=None)
    if column is None or not hits[column]:
        raise LessonError(f"no column of {roster.name} names a student as in grades.csv; add one with their folders.")
    table = [[*columns, "total", *(rows[0]["parts"] if rows else []), "bonus"]]
    for person in people:
        row = totals.get(person[column])
        points = [row["total"], *row["parts"].values(), row["bonus"]] if row else []
        table.append([*(person.get(c, "") for c in columns), *(f"{p:g}" for p in points)])
    write_csv(path, table)
    return sorted(set(totals) - {person.get(column) for person in people})


def write_csv(path: Path, table: list[list[str]]) -> None:
    """UTF-8 with a byte order mark, by which spreadsheets know it."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([[_harmless(cell) for cell in row] for row in table])


def _harmless(text: str) -> str:
    """A spreadsheet would run what starts like a formula; a text that starts like this mark gets one more."""
    text = text.encode("utf-8", "replace").decode().replace("\0", "")
    return f"'{text}" if text.startswith((*FORMULA, "'")) and not _number(text) else text


def _plain(text: str) -> str:
    return text[1:] if text[:1] == "'" and text[1:].startswith((*FORMULA, "'")) else text


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
