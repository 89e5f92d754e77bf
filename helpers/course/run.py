"""Run a submission's notebook by nbval in a sandbox: the student's cells, then the hidden probes.

What counts comes back as files of numbers, one per exercise. Cell outcomes only explain; test reports are not read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from helpers.course import recorder, sandbox
from helpers.course.lessons import Lesson
from helpers.course.submission import Submission, graded_cells, notebook_of
from staff.grading.probe import Probe, pack

CELL_SECONDS = 20.0
CONFIG = "[pytest]\naddopts =\n"
COMMAND = [
    "-m", "pytest", "-q", "-c", "pytest.ini", "--rootdir=.", "--noconftest", "-p", "no:cacheprovider",
    "-p", "no:faulthandler", "-p", "grading_recorder", "-p", "nbval.plugin",
    "--nbval-lax", "--nbval-current-env", "--tb=no", "--color=no", "graded.ipynb",
]  # fmt: skip
ENVIRONMENT = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "JUPYTER_PLATFORM_DIRS": "1"}


@dataclass
class Raw:
    """What a run left behind: files by name, how it ended, wall seconds, bytes of memory; a second run's are added."""

    files: dict[str, bytes] = field(default_factory=dict)
    ended: str = "done"
    seconds: float = 0.0
    memory: int = 0

    @property
    def cells(self) -> list[dict]:
        """Records of the cells, as far as the student's kernel left them readable; never a base of points."""
        return [*read_records(self.files.get("cells.jsonl")), *read_records(self.files.get("cells-2.jsonl"))]


def notebook_files(cells: list[dict]) -> dict[str, bytes]:
    """What ``COMMAND`` runs in its folder: the notebook, an empty configuration, and the recorder."""
    return {
        "graded.ipynb": json.dumps(notebook_of(cells)).encode(),
        "pytest.ini": CONFIG.encode(),
        "grading_recorder.py": Path(recorder.__file__).read_bytes(),
    }


def read_records(data: bytes | None) -> list[dict]:
    records = []
    for line in (data or b"").decode("utf-8", "replace").splitlines()[:2_000]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append({name: str(record.get(name, "")) for name in ("cell", "outcome", "error", "text")})
    return records


@dataclass(frozen=True)
class Runner:
    """How submissions are run: in which course folder, kind of sandbox and limits, with which seed."""

    course: Path
    kind: str
    seed: int
    limits: sandbox.Limits = sandbox.Limits()
    cell_seconds: float = CELL_SECONDS

    def run(
        self, lesson: Lesson, submission: Submission, probes: dict[str, Probe], references: Collection[str] = ()
    ) -> Raw:
        """Run it; where its further cells stopped that, run its exercises once more without them.

        references: exercises for which the solution stands in; raises ValueError where one of them has a probe, for
            a solution must never be where it could be handed in.
        """
        if both := sorted(set(probes) & set(references)):
            raise ValueError(f"{', '.join(both)} cannot be graded beside its own solution.")
        wanted = {e.item: probes[e.item] for e in lesson.exercises if e.item in probes and e.item in submission.answers}
        if not wanted:
            return Raw()
        raw = self._once(lesson, submission, wanted, False, references)
        left = {item: probe for item, probe in wanted.items() if probe.file not in raw.files}
        if left and _cut_short(raw):
            again = self._once(lesson, submission, left, True, references)
            files = again.files | raw.files | {"cells-2.jsonl": again.files.get("cells.jsonl", b"")}
            raw = Raw(files, raw.ended, raw.seconds + again.seconds, max(raw.memory, again.memory))
        return raw

    def _once(self, lesson: Lesson, submission: Submission, probes: dict, alone: bool, references: Collection) -> Raw:
        inserted = {item: probe.cell() for item, probe in probes.items()}
        cells = graded_cells(lesson, submission, inserted, alone, references)
        job = notebook_files(cells)
        job |= {f"inputs-{probe.file}": pack(probe.draw(self.seed)) for probe in probes.values()}
        fonts = self.course / ".matplotlib"
        job |= {f".matplotlib/{path.name}": path.read_bytes() for path in fonts.glob("*.json")}
        command = [sys.executable, *COMMAND, f"--nbval-cell-timeout={self.cell_seconds:g}"]
        out = sandbox.run(command, self.course, job, self.kind, self.limits, ENVIRONMENT)
        known = {"cells.jsonl", "log.txt", *(probe.file for probe in probes.values())}
        files = {name: data for name, data in out.files.items() if name in known}
        return Raw(files, out.ended, out.seconds, out.memory)


def _cut_short(raw: Raw) -> bool:
    """Whether the run ended early, or lost its kernel on the way."""
    return raw.ended != "done" or any("kernel" in cell["error"].lower() for cell in raw.cells)
