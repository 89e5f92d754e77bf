"""Run a submission's notebook by nbval in a sandbox: the student's cells, then the hidden probes.

What counts comes back as files of numbers, one per exercise. Cell outcomes only explain; test reports are not read.
"""

import json
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from helpers.course import sandbox
from helpers.course.lessons import Lesson, shown
from helpers.course.submission import Submission, defined, graded_cells, notebook_of
from staff.grading.probe import Arrays, Probe

CELL_SECONDS = 20.0
COMMAND = [
    "-m", "pytest", "-q", "-c", "pytest.ini", "--rootdir=.", "--noconftest", "-p", "no:cacheprovider",
    "-p", "no:faulthandler", "-p", "grading_recorder", "-p", "nbval.plugin",
    "--nbval-lax", "--nbval-current-env", "--tb=no", "--color=no", "graded.ipynb",
]  # fmt: skip
ENVIRONMENT = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "JUPYTER_PLATFORM_DIRS": "1"}


@dataclass
class Raw:
    """What a run left: files by name, how it ended, seconds on the wall and of the processor, bytes of memory."""

    files: dict[str, bytes] = field(default_factory=dict)
    ended: str = "done"
    seconds: float = 0.0
    memory: int = 0
    cpu: float = 0.0

    @property
    def cells(self) -> list[dict]:
        """Records of the cells, as far as the student's kernel left them readable; never a base of points."""
        lines = b"\n".join(self.files.get(name, b"") for name in ("cells.jsonl", "cells-2.jsonl"))
        records = []
        for line in lines.decode("utf-8", "replace").split("\n")[:4_000]:
            try:
                record = dict(json.loads(line))
            except (ValueError, TypeError, RecursionError):
                continue
            records.append({name: shown(record.get(name, "")) for name in ("cell", "error")})
        return records


@dataclass(frozen=True)
class Runner:
    """How submissions are run: in which course folder, kind of sandbox and limits."""

    course: Path
    kind: str
    limits: sandbox.Limits = sandbox.Limits()
    cell_seconds: float = CELL_SECONDS

    def run(
        self,
        lesson: Lesson,
        submission: Submission,
        probes: dict[str, tuple[Probe, Arrays]],
        references: Collection[str] = (),
    ) -> Raw:
        """Run it; where its further cells stopped that, run its exercises once more without them.

        probes: exercise to its probe and the inputs of this run. references: exercises for which the solution stands
        in; ValueError where one has a probe, for a solution must never be where it could be handed in.
        """
        if both := sorted(set(probes) & set(references)):
            raise ValueError(f"{', '.join(both)} cannot be graded next to its own solution.")
        wanted = {item: probe for item, probe in probes.items() if item in submission.answers}
        if not wanted:
            return Raw()
        raw = self._once(lesson, submission, wanted, False, references)
        left = {item: probe for item, probe in wanted.items() if probe[0].file not in raw.files}
        lost = raw.ended != "done" or any("kernel" in cell["error"].lower() for cell in raw.cells)
        if left and lost and raw.ended != "time":  # what was given all its time is not run again
            again = self._once(lesson, submission, left, True, references)
            files = again.files | raw.files | {"cells-2.jsonl": again.files.get("cells.jsonl", b"")}
            raw = Raw(files, raw.ended, raw.seconds + again.seconds, max(raw.memory, again.memory), raw.cpu + again.cpu)
        return raw

    def _once(self, lesson: Lesson, submission: Submission, probes: dict, alone: bool, references: Collection) -> Raw:
        inserted = {item: probe.cell() for item, (probe, _) in probes.items()}
        cells = graded_cells(lesson, submission, inserted, alone, references)
        job = {"graded.ipynb": json.dumps(notebook_of(cells)).encode(), "pytest.ini": b"[pytest]\naddopts =\n"}
        job["grading_recorder.py"] = Path(__file__).with_name("recorder.py").read_bytes()
        job |= {f"own/{name}": data for name, data in submission.own.items()}
        for probe, inputs in probes.values():
            job |= probe.job(inputs)
        command = [sys.executable, *COMMAND, f"--nbval-cell-timeout={10 * self.cell_seconds:g}"]
        environment = ENVIRONMENT | {"GRADING_CELL_SECONDS": f"{self.cell_seconds:g}"}
        out = sandbox.run(command, self.course, job, self.kind, self.limits, environment)
        known = {"cells.jsonl", "log.txt", *(probe.file for probe, _ in probes.values())}
        files = {name: data for name, data in out.files.items() if name in known}
        return Raw(files, out.ended, out.seconds, out.memory, out.cpu)


def read_raw(place: Path) -> Raw:
    """What a run left in a folder; empty where there was none."""
    if not (place / "run.json").is_file():
        return Raw()
    about = json.loads((place / "run.json").read_text())
    kinds = (".safetensors", ".jsonl", ".txt")
    files = {path.name: path.read_bytes() for path in place.iterdir() if path.suffix in kinds}
    return Raw(files, about["ended"], about["seconds"], about["memory"])


def used_exercises(lesson: Lesson, submission: Submission) -> dict[str, set[str]]:
    """Exercise id to those of the other exercises whose names its code mentions, itself or through other code."""
    scratch = [part.source for part in submission.order if not part.items and not part.setup]
    words = {i: set(re.findall(r"\w+", "\n".join([*s, *scratch]))) for i, s in submission.answers.items()}
    names = {e.item: {e.name}.union(*map(defined, submission.answers.get(e.item, []))) for e in lesson.exercises}
    used = {item: {other for other in names if other != item and names[other] & words[item]} for item in words}
    for _ in lesson.exercises:  # through exercises that use exercises
        used = {i: found.union(*(used.get(other, set()) for other in found)) - {i} for i, found in used.items()}
    return used
