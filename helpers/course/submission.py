"""A submission is data: its cells are matched to the lesson's, and a notebook to be graded is built from both."""

import ast
import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from IPython.core.inputtransformer2 import TransformerManager

from helpers.course.lessons import MARK, Cell, Lesson, LessonError, normal

SIMILAR = 0.8  # share of equal text from which a cell without id counts as the lesson's, edited
NBVAL = re.compile(r"^[ \t]*#+[ \t]*(NBVAL_\w+|PYTEST_VALIDATE_IGNORE_OUTPUT)[ \t]*$", re.MULTILINE)
ODD_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
RESET, MAGIC = (re.compile(p, re.MULTILINE) for p in (r"^[ \t]*%reset", r"^[ \t]*[%!?]|\?[ \t]*$"))
KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)
OWN_MODULES = {"id": "setup-own", "source": 'import os, sys\nsys.path.append(os.environ["GRADING_WORK"] + "/own")'}
MOST_CELLS = 500
MOST_SOURCE, MOST_SHOWN = 50_000, 2_000  # characters of a cell that is looked into, or shown on a page


class Part(NamedTuple):
    """A cell of a submission that runs: its source, which exercises it answers, or which setup cell it is."""

    source: str
    items: tuple[str, ...] = ()
    setup: str = ""


@dataclass
class Submission:
    """A student's notebook, taken apart."""

    order: list[Part] = field(default_factory=list)  # what runs, in the student's order
    edited: list[str] = field(default_factory=list)  # what was changed in locked cells
    stubs: list[str] = field(default_factory=list)  # exercises that are as they were handed out
    own: dict[str, bytes] = field(default_factory=dict)  # Python files next to the notebook, which may be imported

    @property
    def answers(self) -> dict[str, list[str]]:
        """Exercise id to the student's cells that belong to it."""
        items = dict.fromkeys(item for part in self.order for item in part.items)
        return {item: [part.source for part in self.order if item in part.items] for item in items}


def match(cells: list[dict], lesson: Lesson) -> Submission:
    """Match plain cells (of ``read_cells``) to a lesson. LessonError for too many."""
    if len(cells) > MOST_CELLS:
        raise LessonError(f"the notebook has {len(cells)} cells; {MOST_CELLS} are the most.")
    found, edited = Submission(), {}
    locked = lesson.of_kind("setup", "lesson", "check", "handin")
    by_text = {normal(cell.source): cell for cell in locked}
    for cell in cells:
        source = NBVAL.sub("", cell["source"])
        if cell["type"] != "code" or not source.strip():
            continue
        original = by_text.get(normal(source))
        if original is None and (items := _items(cell, source, lesson)):
            found.order.append(Part(source, items))
        elif original or (original := _similar(cell, source, locked)):
            edited[original.id] = _changes(normal(original.source), normal(source))
            if original.kind == "setup":
                found.order.append(Part(original.source, setup=original.id))
            found.order += map(Part, _added(original.source, source) if edited[original.id] else [])
        else:
            found.order.append(Part(source))
    found.edited = [source[:MOST_SHOWN] for source in edited.values() if source]
    _sort_stubs(found, lesson)
    return found


def _sort_stubs(found: Submission, lesson: Lesson) -> None:
    """Name what is as it was handed out, and drop a stub that stands below an answer."""
    stubs, answers = {e.item: normal(e.given or e.source) for e in lesson.exercises}, found.answers
    found.stubs = [i for i, sources in answers.items() if all(normal(source) == stubs[i] for source in sources)]
    for item in set(answers) - set(found.stubs):
        left = re.compile(rf"""raise NotImplementedError\(["']Exercise {re.escape(item)}["']\)""")
        if not all(left.search(source) for source in answers[item]):
            found.order = [p for p in found.order if p.items != (item,) or not left.search(p.source)]


def _items(cell: dict, source: str, lesson: Lesson) -> tuple[str, ...]:
    """Which exercises a cell answers: by what it defines, else by first line, metadata or id; one usually is left."""
    names = defined(source)
    if items := tuple(e.item for e in lesson.exercises if e.name in names):
        return items
    course, mark = cell["metadata"].get("course"), MARK.match(source.strip().split("\n")[0])
    item = str(course.get("id")) if isinstance(course, dict) and not course.get("kind") else None
    tests = (lambda e: mark and e.name == mark[1], lambda e: e.item == item, lambda e: e.id == cell["id"])
    return next(((e.item,) for test in tests for e in lesson.exercises if test(e)), ())


def parsed(source: str) -> list[ast.stmt]:
    """Statements of a cell, magics as calls; none where it is not Python, or too long to be looked into."""
    if len(source) > MOST_SOURCE:
        return []
    try:
        return ast.parse(TransformerManager().transform_cell(source) if MAGIC.search(source) else source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def defined(source: str) -> set[str]:
    """Functions and classes of the top level, and names that are given one (a lambda, another name, a call)."""
    names = set()
    for node in parsed(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda | ast.Name | ast.Attribute | ast.Call):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _changes(original: str, theirs: str) -> str:
    """Lines that are only in one of two sources."""
    old, new = original.split("\n"), theirs.split("\n")
    kept = {*old} & {*new}
    return "\n".join(f"{sign} {x}" for sign, lines in (("-", old), ("+", new)) for x in lines if x not in kept)


def _added(original: str, theirs: str) -> list[str]:
    """What an edited locked cell imports, defines or assigns more than the lesson's, each apart: one may fail."""
    known = {ast.dump(node) for node in parsed(original)}
    added = [ast.unparse(n) for n in parsed(theirs) if isinstance(n, KEPT) and ast.dump(n) not in known]
    return added if len(added) <= 20 else ["\n".join(added)]


def _similar(cell: dict, source: str, locked: list[Cell]) -> Cell | None:
    """The lesson's cell that this one is, edited: by its id, or by its text."""
    known, ours = next((other for other in locked if other.id == cell["id"]), None), normal(source)
    for other in locked if known is None and 60 <= len(ours) <= 20_000 else ():
        matcher = difflib.SequenceMatcher(None, normal(other.source), ours, autojunk=False)
        if matcher.real_quick_ratio() > SIMILAR and matcher.quick_ratio() > SIMILAR and matcher.ratio() > SIMILAR:
            return other
    return known


def graded_cells(
    lesson: Lesson, submission: Submission, probes: dict[str, str], alone: bool = False, references: Collection = ()
) -> list[dict]:
    """Code cells of the notebook that is run: id and source.

    probes: exercise id to the source of its check or hidden probe. alone: the exercises only, each with its probe right
    below it. references: exercises for which the lesson's solution stands instead of the student's.
    """
    solved = {e.item: e.source for e in lesson.exercises if e.item in references}
    items, order = [e.item for e in lesson.exercises], submission.order
    if alone:
        order = sorted((p for p in order if p.items), key=lambda p: items.index(p.items[0]))
    setup, reset, left = setup_cells(lesson), False, dict(probes)
    cells = [OWN_MODULES, *(_cell(source, "setup", name) for name, source in setup.items())]
    for number, part in enumerate(order):
        if part.setup:  # run already; once more only below a %reset
            cells += [_cell(setup[part.setup], "setup", number)] if reset else []
            continue
        reset = reset or bool(RESET.search(part.source))
        cells.append(_cell(_runnable(part.source), "answer", "+".join(part.items), number))
        # below each of the student's cells, which may define helpers too; and last, for a name may be defined again
        cells += [_cell(solved[i], "solution", i, number) for i in part.items if i in solved]
        if alone:
            below = [i for i in part.items if i in left and not any(i in p.items for p in order[number + 1 :])]
            cells += [_cell(left.pop(item), "probe", item) for item in below]
    cells += [_cell(source, "solution", item) for item, source in solved.items()]
    return [*cells, *(_cell(source, "probe", item) for item, source in left.items())]


def _cell(source: str, *parts) -> dict:
    return {"id": item_id(*parts), "source": source}


def item_id(*parts) -> str:
    """Cell id of a part of the graded notebook: letters, digits and hyphens only, 64 at most."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(str(part) for part in parts if part != ""))[:64]


def _runnable(source: str) -> str:
    """The source, or the same in a form that IPython can run where characters in it look like ends of lines to it."""
    return f"exec(compile({source!r}, 'cell', 'exec'))" if ODD_ENDS.search(source) and parsed(source) else source


def setup_cells(lesson: Lesson) -> dict[str, str]:
    """Setup cells by id, the first whole, of the others imports, definitions and constants: networks are not there."""
    cells = {cell.id: cell.source for cell in lesson.of_kind("setup")}
    for name in list(cells)[1:]:
        kept = [node for node in parsed(cells[name]) if isinstance(node, KEPT) and not _computes(node)]
        cells[name] = "\n".join(map(ast.unparse, kept)) or "pass"
    return cells


def _computes(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(x, ast.Call | ast.Attribute) for x in ast.walk(node))


def notebook_of(cells: list[dict]) -> dict:
    """A notebook in format 4.5 with these code cells."""
    empty = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": [cell | empty for cell in cells], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def pick_lesson(cells: list[dict], name: str, lessons: list[Lesson]) -> Lesson | None:
    """The lesson that a notebook answers: most of its exercises, by the name of the file where that is a draw."""
    code = [cell for cell in cells if cell["type"] == "code" and cell["source"].strip()][:MOST_CELLS]

    def hits(lesson: Lesson) -> tuple[int, bool]:
        return len({item for cell in code for item in _items(cell, cell["source"], lesson)}), lesson.stem in name

    best = max(lessons, key=hits, default=None)
    return best if best and hits(best)[0] else next((x for x in lessons if x.stem in name), None)
