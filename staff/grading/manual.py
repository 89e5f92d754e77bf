"""Points that are given by hand: ``manual.csv``, which is the instructor's, and the export to a course site.

A row or a point that was filled in is never lost: rows of students who are not in this call stay as they are.
"""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

from helpers.course.lessons import Cell, LessonError
from helpers.files import atomic_path

COLUMNS = ("student", "item", "question", "most", "points", "comment", "written")
MOST_WRITTEN = 5_000  # characters of a student's text in the sheet
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # a spreadsheet would run it; the mark before it would be lost
NUMBER = re.compile(r"[+-]?[\d.]+")


def read(path: Path) -> dict[tuple[str, str], dict]:
    """Rows by student and item, their points a number or None, from whatever a spreadsheet has made of the file.

    LessonError for points that are not a number from 0 to the most.
    """
    found = {}
    for number, row in enumerate(read_table(path) if path.is_file() else [], 2):
        try:
            text, most = row["points"].replace(",", "."), float(row["most"].replace(",", ".") or "inf")
            points, key = float(text) if text else None, (row["student"], row["item"])
            if points is not None and not 0 <= points <= most:
                raise ValueError
        except (KeyError, ValueError) as error:
            raise LessonError(
                f"{path.name}, line {number}: points must be a number from 0 to most, or empty; columns are "
                f"{', '.join(COLUMNS)}."
            ) from error
        if key not in found or found[key]["points"] is None:  # a row that was doubled does not hide a point
            found[key] = dict.fromkeys(COLUMNS, "") | row | {"points": points}
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
    separator = max(",;\t", key=lines.split("\n", 1)[0].count)
    rows = csv.DictReader(io.StringIO(lines, newline=""), delimiter=separator)
    return [{str(k).strip(): _plain(str(v or "").strip()) for k, v in row.items() if k is not None} for row in rows]


def write(path: Path, rows: list[dict], questions: list[Cell], known: dict[tuple[str, str], dict]) -> None:
    """The sheet: a row per student and question, the student's text next to it; then the rows of everybody else."""
    table = {}
    for row in rows:
        written = {score["item"]: score["written"] for score in row["scores"]}
        for cell in questions:
            given = known.get((row["student"], cell.item), {"points": None, "comment": ""})
            about = (row["student"], cell.item, cell.title, f"{cell.points:g}", given["points"], given["comment"])
            table[about[:2]] = dict(zip(COLUMNS, (*about, written.get(cell.item, "")[:MOST_WRITTEN]), strict=True))
    lines = [list(COLUMNS)]
    for row in (table | {key: row for key, row in known.items() if key not in table}).values():
        points = "" if row["points"] is None else f"{row['points']:g}"
        lines.append([points if column == "points" else row[column] for column in COLUMNS])
    write_csv(path, lines)


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
    sums = ["total", *(rows[0]["parts"] if rows else []), "bonus"]
    table = [[*columns, *sums]]
    for person in people:
        row = totals.get(person[column])
        points = [f"{p:g}" for p in (row["total"], *row["parts"].values(), row["bonus"])] if row else [""] * len(sums)
        table.append([*(person.get(c, "") for c in columns), *points])
    write_csv(path, table, str)  # an id is one to the letter
    return sorted(set(totals) - {person.get(column) for person in people})


def write_csv(path: Path, table: list[list[str]], clean: Callable[[str], str] | None = None) -> None:
    """UTF-8 with a byte order mark, by which spreadsheets know it; what looks like a formula gets a mark before it."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([[(clean or _harmless)(cell) for cell in row] for row in table])


def _harmless(text: str) -> str:
    text = text.encode("utf-8", "replace").decode().replace("\0", "")
    return f"'{text}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def _plain(text: str) -> str:
    return text[1:] if text[:1] == "'" and text[1:].startswith(FORMULA) else text
