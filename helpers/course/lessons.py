"""The authored lessons as data: which cell is an exercise, which may be changed, what scores how many points.

One notebook holds lesson and solution. An exercise is a code cell with ``course: {id, points}`` in its metadata that
starts with ``# EXERCISE: name`` and holds ``### BEGIN SOLUTION`` … ``### END SOLUTION``; what is asked for in words
or as a file is a cell whose ``course`` also has ``kind``: "manual" or "handin".
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path

MARK = re.compile(r"^\s*#+\s*EXERCISE:\s*(\w+)\s*$")
BEGIN = re.compile(r"^(\s*)### BEGIN SOLUTION\s*$")
END = re.compile(r"^\s*### END SOLUTION\s*$")
MOST_BYTES, MOST_PARTS, MOST_CODE = 100_000_000, 10_000_000, 400_000


class LessonError(ValueError):
    """A notebook that is not a lesson of the course, or whose exercises are marked up wrongly."""


@dataclass(frozen=True)
class Cell:
    """One cell of a lesson; ``item`` is the id of what it asks for ("1.2"), ``name`` what an exercise defines.

    kind: text, setup, lesson, exercise, check, manual or handin.
    """

    id: str
    kind: str
    source: str
    item: str = ""
    name: str = ""
    points: float = 0
    title: str = ""
    part: str = ""
    bonus: bool = False


@dataclass(frozen=True)
class Lesson:
    """A notebook's file stem and its cells in order."""

    stem: str
    cells: tuple[Cell, ...] = field(repr=False)

    def of_kind(self, *kinds: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind in kinds]

    @property
    def exercises(self) -> list[Cell]:
        return self.of_kind("exercise")

    @property
    def items(self) -> list[Cell]:
        """Everything that scores."""
        return self.of_kind("exercise", "handin", "manual")


def read_cells(path: str | Path) -> list[dict]:
    """Cells of a notebook file as plain dictionaries, ``source`` joined to one string; formats 3 and 4.

    Outputs are dropped. Characters that no text can hold (lone surrogates) become question marks.

    Raises:
        LessonError: for anything that is not a notebook, or larger than may be parsed.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise LessonError(f"{shown(path.name)} is not a plain file.")
        if path.stat().st_size > MOST_BYTES:
            raise LessonError(f"{shown(path.name)} has {path.stat().st_size / 1e6:.0f} MB; clear its outputs.")
        data = path.read_bytes()
        if sum(map(data.count, (b"[", b"{", b","))) > MOST_PARTS:
            raise LessonError(f"{shown(path.name)} has too many parts to be read; clear its outputs.")
        content = json.loads(data.decode("utf-8-sig"))
        sheets = content.get("worksheets") or [content]
        cells = [_plain(cell) for sheet in sheets for cell in sheet["cells"]]
    except LessonError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise LessonError(f"{shown(path.name)} is not a notebook that can be read ({type(error).__name__}).") from error
    if sum(len(cell["source"]) for cell in cells if cell["type"] == "code") > MOST_CODE:
        raise LessonError(f"{shown(path.name)} holds more than {MOST_CODE // 1000} kB of code.")
    return cells


def _plain(cell: dict) -> dict:
    source = cell.get("source", cell.get("input", ""))
    source = source if isinstance(source, str) else "".join(map(str, source))
    metadata = cell.get("metadata")
    return {
        "type": shown(cell.get("cell_type", "")),
        "id": shown(cell.get("id", "")),
        "source": shown(source).replace("\r\n", "\n"),
        "metadata": metadata if isinstance(metadata, dict) else {},
    }


def shown(text: object) -> str:
    """Text that any file can hold."""
    return str(text).encode("utf-8", "replace").decode()


def read_lesson(path: str | Path) -> Lesson:
    """Read an authored notebook.

    Raises:
        LessonError: for solution marks that do not pair, ids that come twice, or an exercise without points.
    """
    raw, cells, before = read_cells(path), [], True
    for number, cell in enumerate(raw):
        course = cell["metadata"].get("course") or {}
        kind, name = _kind(cell, raw[number - 1] if number else None, before), ""
        if kind == "exercise":
            before, name = False, MARK.match(cell["source"].split("\n", 1)[0])[1]
            stub(cell["source"], str(course.get("id")))
            if not course.get("points"):
                raise LessonError(f"exercise {name} of {path} has no points; set course.points in its metadata.")
        title = course.get("title") or _title(raw, number)
        about = {"title": title, "part": course.get("part", ""), "bonus": bool(course.get("bonus"))}
        about |= {"item": str(course.get("id", "")), "points": course.get("points", 0)} if course else {}
        cells.append(Cell(cell["id"] or f"cell-{number}", kind, cell["source"], name=name, **about))
    ids = [cell.item for cell in cells if cell.item]
    if twice := {i for i in ids if ids.count(i) > 1}:
        raise LessonError(f"{path} has more than one item with the id {', '.join(sorted(twice))}; ids are unique.")
    return Lesson(Path(path).stem, tuple(cells))


def _kind(cell: dict, above: dict | None, before: bool) -> str:
    course = cell["metadata"].get("course") or {}
    if course.get("kind") in ("manual", "handin"):
        return course["kind"]
    if cell["type"] != "code":
        return "text"
    if MARK.match(cell["source"].split("\n", 1)[0]):
        return "exercise"
    if above and "EXERCISE:" in above["source"].split("\n", 1)[0] and cell["source"].startswith("check."):
        return "check"
    return "setup" if before and _imports(cell["source"]) else "lesson"


def _imports(source: str) -> bool:
    return any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(source).body)


def _title(raw: list[dict], number: int) -> str:
    """The nearest heading above, without number, points and minutes."""
    for cell in reversed(raw[: number + 1]):
        headings = [line for line in cell["source"].split("\n") if line.startswith("#")]
        if cell["type"] == "markdown" and headings:
            heading = re.sub(r"\s*\([^()]*\)\s*$", "", headings[-1].lstrip("# "))
            return re.sub(r"^(Exercise )?[\d.]+ · ", "", heading)
    return ""


def stub(source: str, item: str) -> str:
    """The exercise as students get it: every solution region becomes one NotImplementedError.

    Raises:
        LessonError: unless the marks pair.
    """
    lines, inside = [], False
    for line in source.split("\n"):
        begin, end = BEGIN.match(line), END.match(line)
        if bool(begin) and inside or bool(end) and not inside:
            raise LessonError(f"exercise {item}: ### BEGIN SOLUTION and ### END SOLUTION do not pair.")
        if begin:
            lines.append(f'{begin[1]}raise NotImplementedError("Exercise {item}")')
        inside = bool(begin) or inside and not end
        if not (begin or end or inside):
            lines.append(line)
    if inside or len(lines) == len(source.split("\n")):
        raise LessonError(f"exercise {item}: expected ### BEGIN SOLUTION … ### END SOLUTION in its cell.")
    return "\n".join(lines)


def hash_of(source: str) -> str:
    """Short hash of a cell that ignores blank lines and trailing spaces."""
    return hashlib.sha256(normal(source).encode("utf-8", "replace")).hexdigest()[:16]


def normal(source: str) -> str:
    return "\n".join(line.rstrip() for line in source.split("\n") if line.strip())


def read_course(root: str | Path) -> list[Lesson]:
    """All lessons of a course: from its notebooks, or from the manifest where it is a student release.

    Raises:
        LessonError: if there is none.
    """
    manifest = Path(root) / "manifest.json"
    if manifest.is_file():
        return lessons_of(json.loads(manifest.read_text()))
    lessons = [read_lesson(path) for path in sorted((Path(root) / "notebooks").glob("*.ipynb"))]
    lessons = [lesson for lesson in lessons if lesson.items]
    if not lessons:
        raise LessonError(f"expected notebooks with exercises in {Path(root) / 'notebooks'}, got none.")
    return lessons


def manifest_of(lessons: list[Lesson], version: str) -> dict:
    """What a release says about itself: version, and of every cell its id, kind, points, hash and student source."""
    return {"version": version, "lessons": [{"stem": x.stem, "cells": [_entry(c) for c in x.cells]} for x in lessons]}


def _entry(cell: Cell) -> dict:
    source = stub(cell.source, cell.item) if cell.kind == "exercise" else cell.source
    entry = {name: value for name, value in asdict(cell).items() if value}
    return entry | {"source": source, "hash": hash_of(source)}


def lessons_of(manifest: dict) -> list[Lesson]:
    return [
        Lesson(entry["stem"], tuple(Cell(**{k: v for k, v in cell.items() if k != "hash"}) for cell in entry["cells"]))
        for entry in manifest["lessons"]
    ]
