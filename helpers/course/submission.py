"""A submission is data: its cells are matched to those of the lesson, and a notebook to be graded is built from both.

Cell metadata dies in copy and paste, cell ids die in format conversions, first lines die by hand; one of the three is
enough. What is not an exercise comes from the lesson, never from the submission.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import re
import symtable
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from helpers.course.lessons import MARK, Cell, Lesson, LessonError, hash_of, normal, read_cells

SIMILAR = 0.8  # share of equal text from which a cell without id counts as the lesson's, edited
NBVAL = re.compile(r"^\s*#+\s*(NBVAL_\w+|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$")
INDIRECT = {
    "exec",
    "eval",
    "globals",
    "locals",
    "vars",
    "get_ipython",
    "In",
    "sys",
    "importlib",
    "__import__",
    "helpers",
}
MOST_CELLS = 500
MOST_TEXT = 10_000  # characters of a text cell that the page shows


@dataclass
class Submission:
    """A student's notebook, taken apart.

    Attributes:
        answers: exercise id to the student's cells that belong to it, in order.
        order: the student's own code in order: (exercise id or "", source).
        edited: (title, difference) of each locked cell that was changed; it is graded as it was.
        missing: what is not there any more: an exercise's id or a locked cell's title.
        marks: number of nbval marks that were dropped.
        texts: what text cells hold that the lesson's do not.
    """

    answers: dict[str, list[str]] = field(default_factory=dict)
    order: list[tuple[str, str]] = field(default_factory=list)
    edited: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    marks: int = 0
    texts: list[str] = field(default_factory=list)


def read_submission(path: str | Path, lesson: Lesson) -> Submission:
    """Read and match a submitted notebook. LessonError for a file that is no notebook."""
    return match(read_cells(path), lesson)


def match(cells: list[dict], lesson: Lesson) -> Submission:
    """Match plain cells (of ``read_cells``) to a lesson."""
    if len(cells) > MOST_CELLS:
        raise LessonError(f"the notebook has {len(cells)} cells; {MOST_CELLS} are the most.")
    found, seen, edited = Submission(), {}, {}
    locked = _Locked(lesson)
    printed = {line.strip() for cell in lesson.of_kind("text", "manual") for line in cell.source.splitlines()}
    for cell in cells:
        written = [line for line in cell["source"].splitlines() if line.strip() not in printed]
        if cell["type"] == "markdown" and "".join(written).strip():
            found.texts.append("\n".join(written)[:MOST_TEXT].strip())
        source, dropped = drop_marks(cell["source"])
        found.marks += dropped + len(_tags(cell))
        if cell["type"] != "code" or not source.strip():
            continue
        if exercise := _exercise(cell, source, lesson):
            found.answers.setdefault(exercise.item, []).append(source)
            found.order.append((exercise.item, source))
        elif original := locked.find(cell, source):
            seen[original.id] = True
            if hash_of(source) != hash_of(original.source):
                edited[original.id] = (original, source)
            else:
                edited.pop(original.id, None)
        else:
            found.order.append(("", source))
    found.edited = [(_label(cell), _difference(cell.source, source)) for cell, source in edited.values()]
    found.missing = [cell.item for cell in lesson.exercises if cell.item not in found.answers]
    found.missing += [_label(cell) for cell in lesson.of_kind("setup", "check") if cell.id not in seen]
    return found


def _exercise(cell: dict, source: str, lesson: Lesson) -> Cell | None:
    """Which exercise a cell answers: by metadata, then id, then first line, then by what it defines."""
    course = cell["metadata"].get("course")
    item = str(course.get("id")) if isinstance(course, dict) and not course.get("kind") else None
    first = next((line for line in source.splitlines() if line.strip()), "")
    name = MARK.match(first)[1] if MARK.match(first) else None
    defined = _defined(source)
    tests = (
        lambda e: e.item == item,
        lambda e: e.id == cell["id"],
        lambda e: e.name == name,
        lambda e: e.name in defined,
    )
    return next((e for test in tests for e in lesson.exercises if test(e)), None)


def _defined(source: str) -> set[str]:
    """Names of functions and classes on the top level; none where the cell is no plain Python."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


class _Locked:
    """The cells that are the lesson's alone, found by id, by equal text, or by similar text."""

    def __init__(self, lesson: Lesson):
        self.cells = lesson.of_kind("setup", "lesson", "check", "handin")
        self.by_id = {cell.id: cell for cell in self.cells}
        self.by_hash = {hash_of(cell.source): cell for cell in self.cells}

    def find(self, cell: dict, source: str) -> Cell | None:
        if (known := self.by_hash.get(hash_of(source))) or (known := self.by_id.get(cell["id"])):
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
    lines = source.splitlines()
    kept = [line for line in lines if not NBVAL.match(line)]
    return "\n".join(kept), len(lines) - len(kept)


def _tags(cell: dict) -> list:
    tags = cell["metadata"].get("tags")
    names = [str(tag) for tag in tags] if isinstance(tags, list) else []
    return [tag for tag in names if tag.startswith(("nbval", "raises-exception", "skip"))]


def _label(cell: Cell) -> str:
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return f"{cell.title}: {first[:60]}" if cell.title else first[:60]


def _difference(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "lesson", "submission", lineterm="", n=1)
    return "\n".join(line[:200] for _, line in zip(range(60), lines, strict=False))


def graded_cells(
    lesson: Lesson,
    submission: Submission,
    probes: dict[str, str],
    alone: bool = False,
    references: Collection[str] = (),
    whole_setup: bool = False,
) -> list[dict]:
    """Code cells of the notebook that is run: (id, source).

    Args:
        probes: exercise id to the source of its hidden probe.
        alone: without the student's further cells, each probe right below its exercise: for a submission whose other
            cells ended the first run.
        references: ids of exercises for which the lesson's solution stands in place of the student's.
        whole_setup: also what none of the other cells mentions; see ``pruned``.
    """
    solved = {e.item: e.source for e in lesson.exercises if e.item in references}
    order = submission.order
    if alone:
        order = [(e.item, source) for e in lesson.exercises for source in submission.answers.get(e.item, [])]
    # below each of the student's cells, which may define helpers too; and last, for a name may be defined again
    order = [part for item, source in order for part in ((item, source), (item, solved.get(item, ""))) if part[1]]
    order += solved.items()
    answers = [(item, {"id": item_id("answer", item, i), "source": s}) for i, (item, s) in enumerate(order)]
    setup = [cell.source for cell in lesson.of_kind("setup")]
    if not whole_setup:
        setup = pruned(setup, [source for _, source in order])
    cells = [{"id": f"setup-{i}", "source": source} for i, source in enumerate(setup)]
    if not alone:
        cells += [cell for _, cell in answers]
        return [*cells, *({"id": item_id("probe", item), "source": source} for item, source in probes.items())]
    for exercise in lesson.exercises:
        cells += [cell for item, cell in answers if item == exercise.item]
        if exercise.item in probes:
            cells.append({"id": item_id("probe", exercise.item), "source": probes[exercise.item]})
    return cells


def pruned(setup: list[str], code: list[str]) -> list[str]:
    """Setup cells without the imports and definitions that no cell of ``code`` uses; the first stays whole.

    A lesson loads networks, photos and figures that its exercises do not need: seconds for every submission. Where
    code may ask for names in other ways than by writing them down, everything stays.
    """
    used = [_used_names(source) for source in code]
    if None in used or INDIRECT & set().union(*used):
        return setup
    needed, cells = set().union(*used), []
    for source in reversed(setup[1:]):
        kept, lines = [], source.splitlines()
        for node in reversed(ast.parse(source).body):
            text = "\n".join(lines[_first_line(node) - 1 : node.end_lineno])
            bound, mentioned = _bound(node), _used_names(text) or set()
            if bound & needed or not bound and mentioned <= needed | set(dir(builtins)):
                needed |= mentioned
                kept.insert(0, text)
        cells.append("\n".join(kept) or "pass")
    return [*setup[:1], *reversed(cells)]


def _used_names(source: str) -> set[str] | None:
    """Global names that a cell asks for, also inside its functions; None where it is no plain Python."""
    try:
        tables = [symtable.symtable(source, "cell", "exec")]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found = {symbol.get_name() for symbol in tables[0].get_symbols() if symbol.is_referenced()}
    for table in tables:  # grows while it is walked
        tables += table.get_children()
        found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return found


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


def _bound(node: ast.stmt) -> set[str]:
    """Names that a statement gives a meaning to on the top level."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def used_exercises(lesson: Lesson, submission: Submission) -> dict[str, set[str]]:
    """Exercise id to those of the other exercises whose names its code mentions, itself or through other code."""
    scratch = [source for item, source in submission.order if not item]
    texts = {item: "\n".join([*sources, *scratch]) for item, sources in submission.answers.items()}
    names = {e.item: {e.name}.union(*map(_defined, submission.answers.get(e.item, []))) for e in lesson.exercises}
    words = {item: set(re.findall(r"\w+", text)) for item, text in texts.items()}
    used = {item: {other for other in names if other != item and names[other] & words[item]} for item in words}
    for _ in lesson.exercises:  # through exercises that use exercises
        used = {
            item: found.union(*(used.get(other, set()) for other in found)) - {item} for item, found in used.items()
        }
    return used


def item_id(*parts) -> str:
    """Cell id of a part of the graded notebook: letters, digits and hyphens only."""
    return "-".join(str(part).replace(".", "_") for part in parts if part != "")


def notebook_of(cells: list[dict]) -> dict:
    """A notebook in format 4.5 with these code cells, no outputs and no metadata but the kernel's."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    code = [
        {**cell, "cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
        for cell in cells
    ]  # fmt: skip
    return {"cells": code, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def pick_lesson(path: str | Path, lessons: list[Lesson]) -> Lesson | None:
    """The lesson that a notebook answers: most of its exercises, by name of the file where that is a draw."""
    cells = [cell for cell in read_cells(path) if cell["type"] == "code"][:MOST_CELLS]

    def hits(lesson: Lesson) -> tuple[int, bool]:
        found = {e.item for cell in cells if (e := _exercise(cell, cell["source"], lesson))}
        return len(found), lesson.stem in Path(path).stem

    best = max(lessons, key=hits, default=None)
    return best if best and hits(best)[0] else next((x for x in lessons if x.stem in Path(path).stem), None)
