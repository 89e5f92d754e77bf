"""A submission is data: its cells are matched to those of the lesson, and a notebook to be graded is built from both.

An exercise is found by what a cell defines; else by its first line, its metadata or its id, of which copying, editing
and conversions usually leave one. What is not an exercise comes from the lesson; what a student adds to it counts too.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from IPython.core.inputtransformer2 import TransformerManager

from helpers.course.lessons import MARK, Cell, Lesson, LessonError, hash_of, normal, read_cells, stub

SIMILAR = 0.8  # share of equal text from which a cell without id counts as the lesson's, edited
NBVAL = re.compile(r"^\s*#+\s*(NBVAL_\w+|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$")
ODD_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
RESET = re.compile(r"^\s*%reset", re.MULTILINE)
KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)
OWN_MODULES = {"id": "setup-own", "source": 'import os, sys\nsys.path.append(os.environ["GRADING_WORK"] + "/own")'}
MOST_CELLS = 500
MOST_SOURCE = 50_000  # characters of a cell that is looked into
MOST_TEXT = 10_000  # characters of a text cell that the page shows


class Part(NamedTuple):
    """A cell of a submission that runs: its source, which exercises it answers, or which setup cell it is."""

    source: str
    items: tuple[str, ...] = ()
    setup: str = ""


@dataclass
class Submission:
    """A student's notebook, taken apart.

    Attributes:
        order: what runs, in the student's order.
        edited: (title, difference) of each locked cell that was changed.
        missing: what is not there any more: an exercise's id or a locked cell's title.
        stubs: exercises whose cells are as they were handed out.
        marks: number of nbval marks that were dropped.
        texts: what text cells hold that the lesson's do not, by the id of the question above ("" where there is none).
    """

    order: list[Part] = field(default_factory=list)
    edited: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    stubs: list[str] = field(default_factory=list)
    marks: int = 0
    texts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def answers(self) -> dict[str, list[str]]:
        """Exercise id to the student's cells that belong to it."""
        items = dict.fromkeys(item for part in self.order for item in part.items)
        return {item: [part.source for part in self.order if item in part.items] for item in items}


def read_submission(path: str | Path, lesson: Lesson) -> Submission:
    """Read and match a submitted notebook. LessonError for a file that is not a notebook."""
    return match(read_cells(path), lesson)


def match(cells: list[dict], lesson: Lesson) -> Submission:
    """Match plain cells (of ``read_cells``) to a lesson."""
    if len(cells) > MOST_CELLS:
        raise LessonError(f"the notebook has {len(cells)} cells; {MOST_CELLS} are the most.")
    found, seen, edited = Submission(), set(), {}
    locked, texts = _Locked(lesson), _Texts(lesson)
    for cell in cells:
        if written := texts.written(cell):
            found.texts.append((texts.question, written))
        source, dropped = drop_marks(cell["source"])
        found.marks += dropped + len(_tags(cell))
        if cell["type"] != "code" or not source.strip():
            continue
        original = locked.same(source)
        if original is None and (items := _items(cell, source, lesson)):
            found.order.append(Part(source, items))
        elif original or (original := locked.similar(cell, source)):
            seen.add(original.id)
            edited.pop(original.id, None)
            if hash_of(source) != hash_of(original.source):
                edited[original.id] = (original, source)
            if original.kind == "setup":
                found.order.append(Part(original.source, setup=original.id))
            if added := _added(original.source, source):
                found.order.append(Part(added))
        else:
            found.order.append(Part(source))
    found.edited = [(_label(cell), _difference(cell.source, source)) for cell, source in edited.values()]
    _sort_stubs(found, lesson)
    found.missing = [cell.item for cell in lesson.exercises if cell.item not in found.answers]
    found.missing += [_label(cell) for cell in lesson.of_kind("setup", "check") if cell.id not in seen]
    return found


def _sort_stubs(found: Submission, lesson: Lesson) -> None:
    """Name what is as it was handed out, and drop a stub that stands below an answer."""
    stubs = {e.item: hash_of(_stub(e)) for e in lesson.exercises}
    answers = found.answers
    found.stubs = [i for i, sources in answers.items() if all(hash_of(source) == stubs[i] for source in sources)]
    for item in set(answers) - set(found.stubs):
        left = re.compile(rf"""raise NotImplementedError\(["']Exercise {re.escape(item)}["']\)""")
        if not all(left.search(source) for source in answers[item]):
            found.order = [p for p in found.order if p.items != (item,) or not left.search(p.source)]


def _stub(exercise: Cell) -> str:
    return stub(exercise.source, exercise.item) if "### BEGIN SOLUTION" in exercise.source else exercise.source


def _items(cell: dict, source: str, lesson: Lesson) -> tuple[str, ...]:
    """Which exercises a cell answers: by what it defines, else by first line, metadata or id."""
    names = defined(source)
    if items := tuple(e.item for e in lesson.exercises if e.name in names):
        return items
    course, first = cell["metadata"].get("course"), next(line for line in source.split("\n") if line.strip())
    item = str(course.get("id")) if isinstance(course, dict) and not course.get("kind") else None
    name = MARK.match(first)[1] if MARK.match(first) else None
    tests = (lambda e: e.name == name, lambda e: e.item == item, lambda e: e.id == cell["id"])
    return next(((e.item,) for test in tests for e in lesson.exercises if test(e)), ())


def parsed(source: str) -> list[ast.stmt] | None:
    """Statements of a cell, magics as calls; None where it is not Python, or too long to be looked into."""
    try:
        return ast.parse(plain_python(source)).body if len(source) <= MOST_SOURCE else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def plain_python(source: str) -> str:
    return TransformerManager().transform_cell(source) if re.search(r"^\s*[%!?]|\?\s*$", source, re.M) else source


def defined(source: str) -> set[str]:
    """Functions and classes of the top level, and names that are given one (a lambda, another name, a call)."""
    names = set()
    for node in parsed(source) or []:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda | ast.Name | ast.Attribute | ast.Call):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _added(original: str, theirs: str) -> str:
    """Imports, definitions and assignments of an edited locked cell that the lesson's does not have."""
    known = {ast.dump(node) for node in parsed(original) or []}
    nodes = [n for n in parsed(theirs) or [] if isinstance(n, KEPT) and ast.dump(n) not in known]
    lines = plain_python(theirs).split("\n") if nodes else []
    return "\n".join("\n".join(lines[_first_line(n) - 1 : n.end_lineno]) for n in nodes)


class _Texts:
    """What students write into text cells; ``question`` is the last question above."""

    def __init__(self, lesson: Lesson):
        cells = lesson.of_kind("text", "manual")
        self.printed = {line.strip() for cell in cells for line in cell.source.split("\n")}
        self.heads = {cell.source.strip().split("\n")[0].strip(): cell.item for cell in lesson.of_kind("manual")}
        self.ends = {cell.source.strip().split("\n")[0].strip() for cell in lesson.of_kind("text")}
        self.question = ""

    def written(self, cell: dict) -> str:
        if cell["type"] == "code":
            return ""
        lines = cell["source"].split("\n")
        for line in map(str.strip, lines):
            self.question = self.heads.get(line, "" if line in self.ends else self.question)
        return "\n".join(line for line in lines if line.strip() not in self.printed)[:MOST_TEXT].strip()


class _Locked:
    """The cells that are the lesson's alone, found by id, by equal text, or by similar text."""

    def __init__(self, lesson: Lesson):
        self.cells = lesson.of_kind("setup", "lesson", "check", "handin")
        self.by_id = {cell.id: cell for cell in self.cells}
        self.by_hash = {hash_of(cell.source): cell for cell in self.cells}

    def same(self, source: str) -> Cell | None:
        return self.by_hash.get(hash_of(source))

    def similar(self, cell: dict, source: str) -> Cell | None:
        if known := self.by_id.get(cell["id"]):
            return known
        ours = normal(source)
        for other in self.cells:
            theirs = normal(other.source)
            longest, shortest = max(len(ours), len(theirs)), min(len(ours), len(theirs))
            if longest > 20_000 or shortest < 60 or shortest < SIMILAR * longest / (2 - SIMILAR):
                continue
            matcher = difflib.SequenceMatcher(None, theirs, ours, autojunk=False)
            if matcher.real_quick_ratio() > SIMILAR and matcher.quick_ratio() > SIMILAR and matcher.ratio() > SIMILAR:
                return other
        return None


def drop_marks(source: str) -> tuple[str, int]:
    """Without the comments by which nbval would skip a cell or let it fail, and how many there were."""
    lines = source.split("\n")
    kept = [line for line in lines if not NBVAL.match(line)]
    return "\n".join(kept), len(lines) - len(kept)


def _tags(cell: dict) -> list:
    tags = cell["metadata"].get("tags")
    names = [str(tag) for tag in tags] if isinstance(tags, list) else []
    return [tag for tag in names if tag.startswith(("nbval", "raises-exception", "skip"))]


def _label(cell: Cell) -> str:
    first = next((line for line in cell.source.split("\n") if line.strip()), "")
    return f"{cell.title}: {first[:60]}" if cell.title else first[:60]


def _difference(before: str, after: str) -> str:
    before, after = (text[:MOST_TEXT].split("\n")[:200] for text in (before, after))
    lines = difflib.unified_diff(before, after, "lesson", "submission", lineterm="", n=1)
    return "\n".join(line[:200] for _, line in zip(range(60), lines, strict=False))


def graded_cells(
    lesson: Lesson, submission: Submission, probes: dict[str, str], alone: bool = False, references: Collection = ()
) -> list[dict]:
    """Code cells of the notebook that is run: (id, source).

    Args:
        probes: exercise id to the source of its check or hidden probe.
        alone: without the student's further cells, each probe right below its exercise: for a submission whose other
            cells ended the first run.
        references: ids of exercises for which the lesson's solution stands in place of the student's.
    """
    solved = {e.item: e.source for e in lesson.exercises if e.item in references}
    order = submission.order
    if alone:
        items = [e.item for e in lesson.exercises]
        order = sorted((p for p in order if p.items), key=lambda p: items.index(p.items[0]))
    setup = {i: {"id": item_id("setup", i), "source": source} for i, source in setup_cells(lesson).items()}
    cells, reset, left = [OWN_MODULES, *setup.values()], False, dict(probes)
    for number, part in enumerate(order):
        if part.setup:  # run already; once more only below a %reset
            cells += [setup[part.setup] | {"id": item_id("setup", number)}] if reset else []
            continue
        reset = reset or bool(RESET.search(part.source))
        cells.append({"id": item_id("answer", "+".join(part.items), number), "source": runnable(part.source)})
        # below each of the student's cells, which may define helpers too; and last, for a name may be defined again
        cells += [{"id": item_id("solution", i, number), "source": solved[i]} for i in part.items if i in solved]
        if alone:
            below = [i for i in part.items if i in left and not any(i in p.items for p in order[number + 1 :])]
            cells += [{"id": item_id("probe", item), "source": left.pop(item)} for item in below]
    cells += [{"id": item_id("solution", item), "source": source} for item, source in solved.items()]
    return [*cells, *({"id": item_id("probe", item), "source": source} for item, source in left.items())]


def runnable(source: str) -> str:
    """The source, or the same in a form that IPython can run where characters in it look like ends of lines to it."""
    return f"exec(compile({source!r}, 'cell', 'exec'))" if ODD_ENDS.search(source) and parsed(source) else source


def setup_cells(lesson: Lesson) -> dict[str, str]:
    """Setup cells by id, the first whole, of the others imports, definitions and constants.

    What else they do is to load networks and photos, which are not there while an exercise is checked or graded.
    """
    first, *others = lesson.of_kind("setup") or [None]
    cells = {first.id: first.source} if first else {}
    for cell in others:
        lines, kept = cell.source.split("\n"), []
        for node in parsed(cell.source) or []:
            asks = any(isinstance(part, ast.Call | ast.Attribute) for part in ast.walk(node))
            if isinstance(node, KEPT) and not (asks and isinstance(node, ast.Assign)):
                kept.append("\n".join(lines[_first_line(node) - 1 : node.end_lineno]))
        cells[cell.id] = "\n".join(kept) or "pass"
    return cells


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


def item_id(*parts) -> str:
    """Cell id of a part of the graded notebook: letters, digits and hyphens only, 64 at most."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(str(part) for part in parts if part != ""))[:64]


def notebook_of(cells: list[dict]) -> dict:
    """A notebook in format 4.5 with these code cells, no outputs and no metadata but the kernel's."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    code = [
        {**cell, "cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
        for cell in cells
    ]  # fmt: skip
    return {"cells": code, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def pick_lesson(cells: list[dict], name: str, lessons: list[Lesson]) -> Lesson | None:
    """The lesson that a notebook answers: most of its exercises, by the name of the file where that is a draw."""
    code = [cell for cell in cells if cell["type"] == "code" and cell["source"].strip()][:MOST_CELLS]

    def hits(lesson: Lesson) -> tuple[int, bool]:
        return len({item for cell in code for item in _items(cell, cell["source"], lesson)}), lesson.stem in name

    best = max(lessons, key=hits, default=None)
    return best if best and hits(best)[0] else next((x for x in lessons if x.stem in name), None)
