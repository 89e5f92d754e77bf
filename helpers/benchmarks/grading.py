"""Seconds to grade one submission: the course's own solutions, every lesson in its sandbox."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from helpers.figures import results_table
from helpers.grading import sandbox
from helpers.grading.lessons import read_course
from helpers.grading.probes import probes_of
from helpers.grading.release import ROOT, stage
from helpers.grading.run import Runner
from helpers.grading.submission import read_submission
from helpers.runs import write_json

from .common import circumstances


def run(out: str | Path) -> str:
    """Grade each lesson's solution once; write ``grading.json``; return the table, with the sum over the lessons."""
    rows, started = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        runner = Runner(stage(ROOT, Path(folder) / "course"), sandbox.choose(), seed=1)
        preparing = time.perf_counter() - started
        for lesson in read_course(ROOT):
            submission = read_submission(ROOT / "notebooks" / f"{lesson.stem}.ipynb", lesson)
            raw = runner.run(lesson, submission, probes_of(lesson))
            row = {"lesson": lesson.stem, "exercises": len(lesson.exercises), "seconds": raw.seconds}
            rows.append(row | {"memory_mb": raw.memory / 1e6, "ended": raw.ended})
    report = {"circumstances": circumstances("cpu"), "sandbox": runner.kind, "preparing": preparing, "lessons": rows}
    write_json(Path(out) / "grading.json", report)
    total = sum(row["seconds"] for row in rows)
    return f"{results_table(rows)}\n\n{total:.0f} s per submission, and {preparing:.0f} s once for all of them"
