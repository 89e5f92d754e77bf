"""The course graded against itself: solutions score full, what students are given scores nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from helpers.course.lessons import LessonError
from helpers.figures import results_table
from staff.grading.grade import Grading
from staff.grading.release import ROOT, student_notebook


def self_test(out: str | Path, root: str | Path = ROOT, report: Callable[[str], None] = print, **options) -> str:
    """Grade the authored notebooks and the student notebooks as two submissions; return the table.

    Raises:
        LessonError: if an exercise of the solutions is not full, one of the stubs scores, or a stub fails with
            anything but NotImplementedError.
    """
    out, root = Path(out), Path(root)
    submissions = out / "submissions"
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        (submissions / "solutions").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, submissions / "solutions" / path.name)
        student_notebook(path, submissions / "stubs" / path.name)
    grading = Grading(submissions, out, root=root, report=report, **options)
    grading.run()
    rows = {row["student"]: row for row in grading.judge()}
    table, wrong = [], []
    for good, bad in zip(rows["solutions"]["scores"], rows["stubs"]["scores"], strict=True):
        if good["kind"] == "exercise":
            table.append(
                {"exercise": good["item"], "title": good["title"], "points": good["most"],
                 "solution": good["points"], "stub": bad["points"]}
            )  # fmt: skip
            if good["points"] != good["most"] or bad["points"] != 0:
                wrong.append(f"{good['item']} ({good['reason'] or 'the stub scores'})")
    wrong += [f"{place}: {error}" for place, error in _errors(out) if not error.startswith("NotImplementedError")]
    if wrong:
        raise LessonError(f"the course does not grade itself correctly: {'; '.join(wrong)}")
    return results_table(table)


def _errors(out: Path) -> list[tuple[str, str]]:
    """Errors of the cells of the stubs' runs."""
    found = []
    for path in sorted((out / "raw" / "stubs").glob("*/cells.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record.get("error"):
                found.append((f"{path.parent.name} {record['cell']}", record["error"]))
    return found
