"""The course graded against itself: solutions score full, what students are given scores nothing."""

import shutil
from pathlib import Path

from helpers.course.lessons import LessonError
from helpers.figures import results_table
from staff.grading.authoring import ROOT
from staff.grading.grade import Grading
from staff.grading.release import student_notebook
from staff.grading.run import read_raw


def self_test(out: str | Path, root: str | Path = ROOT, **options) -> str:
    """Grade the authored notebooks and the student notebooks as two submissions; return the table.

    LessonError if a solution is not full, a stub scores, or a stub fails with anything but NotImplementedError.
    """
    submissions = Path(out) / "submissions"
    for path in sorted((Path(root) / "notebooks").glob("*.ipynb")):
        (submissions / "solutions").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, submissions / "solutions" / path.name)
        student_notebook(path, submissions / "stubs" / path.name)
    grading = Grading(submissions, out, root=root, **options)
    grading.run()
    rows, table, wrong = {row["student"]: row for row in grading.judge()}, [], []
    for good, bad in zip(rows["solutions"]["scores"], rows["stubs"]["scores"], strict=True):
        if good["kind"] == "exercise":
            row = {"exercise": good["item"], "title": good["title"], "points": good["most"]}
            table.append(row | {"solution": good["points"], "stub": bad["points"]})
            if good["points"] != good["most"] or bad["points"] != 0:
                wrong.append(f"{good['item']} ({good['reason'] or 'the stub scores'})")
    for lesson in grading.lessons:
        cells = read_raw(Path(out) / "raw" / "stubs" / lesson.stem).cells
        failed = [c for c in cells if c["error"] and not c["error"].startswith("NotImplementedError")]
        wrong += [f"{lesson.stem} {cell['cell']}: {cell['error']}" for cell in failed]
    if wrong:
        raise LessonError(f"the course does not grade itself correctly: {'; '.join(wrong)}")
    return results_table(table)
