"""What it costs to grade one submission: the course's own solutions, every lesson in its sandbox."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from helpers.course import sandbox
from helpers.course.closed import close
from helpers.course.lessons import read_cells
from helpers.course.submission import match
from staff.benchmarks.common import Settings
from staff.grading.authoring import ROOT, read_course
from staff.grading.probes import probes_of
from staff.grading.run import Runner


def lessons(settings: Settings) -> Iterator[dict]:
    """Seconds of the processor and on the wall, and memory, of each lesson's solution, graded once."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(close(ROOT, Path(folder) / "course"), sandbox.choose())
        for lesson in read_course(ROOT):
            submission = match(read_cells(ROOT / "notebooks" / f"{lesson.stem}.ipynb"), lesson)
            probes = {item: (probe, probe.draw(1)) for item, probe in probes_of(lesson).items()}
            raw = runner.run(lesson, submission, probes)
            row = {"lesson": lesson.stem, "exercises": len(lesson.exercises), "seconds": raw.cpu, "wall": raw.seconds}
            yield row | {"memory_mb": raw.memory / 1e6, "ended": raw.ended}


PARTS = {"lessons": lessons}
