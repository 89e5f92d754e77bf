"""The self-check: a student's notebook in a fresh kernel, with the checks of its lesson, in the grader's sandbox."""

import json
import sys
import tempfile
from pathlib import Path

from helpers.course import sandbox
from helpers.course.closed import close
from helpers.course.lessons import Lesson, LessonError, read_cells, read_manifest, shown
from helpers.course.submission import graded_cells, item_id, match, notebook_of, pick_lesson

ROOT = Path(__file__).resolve().parents[2]
LIMITS = sandbox.Limits(seconds=600)
RUN = """\
import json, os, nbformat
from nbclient import NotebookClient
book = nbformat.read("graded.ipynb", 4)
client = NotebookClient(book, timeout=60, interrupt_on_timeout=True, allow_errors=True, kernel_name="python3")
try:
    client.execute()
finally:
    with open("results/cells.json", "w") as file:
        json.dump({c.id: next((o for o in c.outputs if o.output_type == "error"), None) if c.execution_count
                   else {"ename": "not run", "evalue": "the notebook did not get there"} for c in book.cells}, file)
"""


def check_notebook(path: str | Path, lessons: list[Lesson] | None = None, root: str | Path = ROOT) -> list[dict]:
    """A row per exercise: setup, the student's cells and the visible checks, as graded. LessonError for other files."""
    path, lessons = Path(path), lessons or read_manifest(root)
    cells = read_cells(path)
    lesson = pick_lesson(cells, path.name, lessons)
    if lesson is None:
        raise LessonError(f"{path.name} belongs to no lesson; expected one of {', '.join(x.stem for x in lessons)}.")
    submission = match(cells, lesson)
    checks = dict(zip((e.item for e in lesson.exercises), (c.source for c in lesson.of_kind("check")), strict=True))
    job = {"graded.ipynb": json.dumps(notebook_of(graded_cells(lesson, submission, checks))).encode()}
    job |= {f"own/{name}": data for name, data in own_modules(path).items()}
    with tempfile.TemporaryDirectory(prefix="check-") as place:
        course = close(root, Path(place) / "course", checks=True)
        outcome = sandbox.run([sys.executable, "-c", RUN], course, job, sandbox.available()[0], LIMITS)
    errors, rows = json.loads(outcome.files.get("cells.json", b"{}")), []
    for exercise in lesson.exercises:
        error = errors.get(item_id("probe", exercise.item), {"ename": outcome.ended, "evalue": "there is no result"})
        said = "passed" if error is None else shown(f"{error['ename']}: {error['evalue']}")
        if exercise.item not in submission.answers:
            said = "its code cell is not there"
        rows.append({"exercise": exercise.item, "title": exercise.title, "points": exercise.points, "result": said})
    return rows


def own_modules(notebook: Path) -> dict[str, bytes]:
    """Python files next to a notebook, which it may import, by name: at most 20 of 200 kB."""
    found = [p for p in sorted(notebook.parent.glob("*.py")) if p.stem.isidentifier() and p.is_file()]
    return {p.name: p.read_bytes() for p in found[:20] if not p.is_symlink() and p.stat().st_size < 200_000}
