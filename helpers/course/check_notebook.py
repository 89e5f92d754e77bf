"""The self-check: a student's notebook in a fresh kernel, with the lesson's own checks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.course.lessons import LessonError, read_course
from helpers.course.run import COMMAND, ENVIRONMENT, notebook_files, read_records
from helpers.course.submission import graded_cells, item_id, pick_lesson, read_submission
from helpers.figures import results_table
from staff.grading.cuts import close_for_notebooks
from staff.grading.release import ROOT

CELL_SECONDS = 60
RUN_SECONDS = 900


def check_notebook(path: str | Path, root: str | Path = ROOT) -> list[dict]:
    """Run setup, the student's cells and the visible checks, in this order, from a fresh kernel.

    What is closed while a submission is graded is closed here too.

    Returns:
        A row per exercise: exercise, title, points, result ("passed" or what the check says). Hidden probes decide the
        points; they use other inputs, but ask for nothing that the checks do not.

    Raises:
        LessonError: for a file that is no notebook, or no lesson's.
    """
    path, root, lessons = Path(path), Path(root), read_course(root)
    lesson = pick_lesson(path, lessons)
    if lesson is None:
        raise LessonError(f"{path.name} belongs to no lesson; expected one of {', '.join(x.stem for x in lessons)}.")
    submission = read_submission(path, lesson)
    checks = dict(zip((e.item for e in lesson.exercises), (c.source for c in lesson.of_kind("check")), strict=True))
    records = _execute(graded_cells(lesson, submission, checks, whole_setup=True), root)
    rows = []
    for exercise in lesson.exercises:
        record = records.get(
            item_id("probe", exercise.item), {"outcome": "", "error": "the notebook did not get there"}
        )
        said = "passed" if record["outcome"] == "done" else record["error"]
        if exercise.item not in submission.answers:
            said = "its code cell is not there"
        rows.append({"exercise": exercise.item, "title": exercise.title, "points": exercise.points, "result": said})
    return rows


def _closed_course(root: Path, out: Path) -> None:
    """The course as links, with its own ``helpers`` in which notebooks find no answers: as when it is graded."""
    out.mkdir()
    for path in root.resolve().iterdir():
        if path.name != "helpers" and not path.name.startswith("."):
            (out / path.name).symlink_to(path)
    shutil.copytree(root / "helpers", out / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    close_for_notebooks(out)


def _execute(cells: list[dict], root: Path) -> dict[str, dict]:
    """Records of the cells by id. No sandbox: it is the student's own code."""
    with tempfile.TemporaryDirectory(prefix="check-") as place:
        course, folder = Path(place) / "course", Path(place) / "course" / ".work"
        _closed_course(root, course)
        folder.mkdir()
        for name, data in notebook_files(cells).items():
            (Path(folder) / name).write_bytes(data)
        (Path(folder) / "results").mkdir()
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(course), "MPLBACKEND": "agg"}
        command = [sys.executable, *COMMAND, f"--nbval-cell-timeout={CELL_SECONDS}"]
        try:
            subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise LessonError(f"the notebook took more than {RUN_SECONDS} s; look for a loop without end.") from error
        found = Path(folder) / "results" / "cells.jsonl"
        return {record["cell"]: record for record in read_records(found.read_bytes() if found.is_file() else b"")}


def table(rows: list[dict]) -> str:
    """The rows as text, with the points that are within reach."""
    passed = sum(row["points"] for row in rows if row["result"] == "passed")
    return (
        f"{results_table(rows)}\n\n{passed:g} of {sum(row['points'] for row in rows):g} points pass the visible checks"
    )
