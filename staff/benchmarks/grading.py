"""Seconds to grade one submission: the course's own solutions, every lesson in its sandbox."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from helpers.course import sandbox
from helpers.course.closed import close
from helpers.course.lessons import read_course
from helpers.course.submission import read_submission
from helpers.figures import results_table
from helpers.files import write_json
from staff.benchmarks.common import circumstances
from staff.grading.probes import probes_of
from staff.grading.release import ROOT
from staff.grading.run import Runner


def run(out: str | Path) -> str:
    """Grade each lesson's solution once; write ``grading.json``; return the table, with the sum over the lessons."""
    rows, started = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(close(ROOT, Path(folder) / "course"), sandbox.choose())
        preparing = time.perf_counter() - started
        for lesson in read_course(ROOT):
            submission = read_submission(ROOT / "notebooks" / f"{lesson.stem}.ipynb", lesson)
            probes = {item: (probe, probe.draw(1)) for item, probe in probes_of(lesson).items()}
            raw = runner.run(lesson, submission, probes)
            row = {"lesson": lesson.stem, "exercises": len(lesson.exercises), "seconds": raw.seconds}
            rows.append(row | {"memory_mb": raw.memory / 1e6, "ended": raw.ended})
    report = {"circumstances": circumstances("cpu"), "sandbox": runner.kind, "preparing": preparing, "lessons": rows}
    write_json(Path(out) / "grading.json", report)
    total = sum(row["seconds"] for row in rows)
    return f"{results_table(rows)}\n\n{total:.0f} s per submission, and {preparing:.0f} s once for all of them"
