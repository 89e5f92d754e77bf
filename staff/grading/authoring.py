"""The authored lessons: one notebook holds lesson and solution; from it come stubs, the manifest, and what is graded.

An exercise is a code cell with ``course: {id, points}`` in its metadata that starts with ``# EXERCISE: name`` and holds
``### BEGIN SOLUTION`` … ``### END SOLUTION``; what is asked for in words or as a file is a cell whose ``course`` also
has ``kind``: "manual" or "handin".
"""

import ast
import hashlib
import re
from dataclasses import asdict
from pathlib import Path

from helpers.course.lessons import MARK, Cell, Lesson, LessonError, normal, read_cells, read_manifest

ROOT = Path(__file__).resolve().parents[2]
BEGIN = re.compile(r"^(\s*)### BEGIN SOLUTION\s*$")
END = re.compile(r"^\s*### END SOLUTION\s*$")


def read_course(root: str | Path = ROOT) -> list[Lesson]:
    """All lessons of an authored course, or of a student release. LessonError if there is none."""
    if (Path(root) / "manifest.json").is_file():
        return read_manifest(root)
    lessons = [read_lesson(path) for path in sorted((Path(root) / "notebooks").glob("*.ipynb"))]
    lessons = [lesson for lesson in lessons if lesson.items]
    if not lessons:
        raise LessonError(f"expected notebooks with exercises in {Path(root) / 'notebooks'}, got none.")
    return lessons


def read_lesson(path: str | Path) -> Lesson:
    """Read an authored notebook. LessonError for marks that do not pair, an id that comes twice, no points."""
    raw, cells = read_cells(path), []
    for number, cell in enumerate(raw):
        course, source = cell["metadata"].get("course") or {}, cell["source"]
        kind, about = _kind(cell, raw[number - 1] if number else None, cells), {}
        if kind == "exercise":
            about = {"name": MARK.match(source.split("\n", 1)[0])[1], "given": stub(source, str(course.get("id")))}
            if not course.get("points"):
                raise LessonError(f"exercise {about['name']} of {path} has no points; set course.points.")
        if course:
            about |= {"item": str(course.get("id", "")), "points": course.get("points", 0)}
        about |= {"title": course.get("title") or _title(raw[: number + 1]), "part": course.get("part", "")}
        cells.append(Cell(cell["id"] or f"cell-{number}", kind, source, bonus=bool(course.get("bonus")), **about))
    ids = [cell.item for cell in cells if cell.item]
    if twice := {i for i in ids if ids.count(i) > 1}:
        raise LessonError(f"{path} has more than one item with the id {', '.join(sorted(twice))}; ids are unique.")
    return Lesson(Path(path).stem, tuple(cells))


def _kind(cell: dict, above: dict | None, before: list[Cell]) -> str:
    course, first = cell["metadata"].get("course") or {}, cell["source"].split("\n", 1)[0]
    if course.get("kind") in ("manual", "handin"):
        return course["kind"]
    if cell["type"] != "code":
        return "text"
    if MARK.match(first):
        return "exercise"
    if above and "EXERCISE:" in above["source"].split("\n", 1)[0] and first.startswith("check."):
        return "check"
    imports = any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(cell["source"]).body)
    return "setup" if imports and not any(cell.kind == "exercise" for cell in before) else "lesson"


def _title(cells: list[dict]) -> str:
    """The nearest heading above, without number, points and minutes."""
    texts = [line for cell in cells if cell["type"] == "markdown" for line in cell["source"].split("\n")]
    heading = next((line.lstrip("# ") for line in reversed(texts) if line.startswith("#")), "")
    return re.sub(r"^(Exercise )?[\d.]+ · ", "", re.sub(r"\s*\([^()]*\)\s*$", "", heading))


def stub(source: str, item: str) -> str:
    """The exercise as students get it, each solution one NotImplementedError. LessonError unless the marks pair."""
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


def manifest_of(lessons: list[Lesson], version: str) -> dict:
    """What a release says about itself: version, and of every cell its id, kind, points, hash and student source."""
    return {"version": version, "lessons": [{"stem": x.stem, "cells": [_entry(c) for c in x.cells]} for x in lessons]}


def _entry(cell: Cell) -> dict:
    source = cell.given or cell.source
    digest = hashlib.sha256(normal(source).encode("utf-8", "replace")).hexdigest()[:16]
    return {k: v for k, v in asdict(cell).items() if v and k != "given"} | {"source": source, "hash": digest}
