"""Grade a folder of submissions: run what is new, judge from what the runs left, write table and reports.

Runs and judging are apart: ``raw/`` keeps everything that came out of a sandbox, so points can be given anew without
running anything. One submission's crash or hang is its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from helpers.course import sandbox
from helpers.course.lessons import Cell, Lesson, LessonError, read_course, stub
from helpers.course.run import CELL_SECONDS, Raw, Runner
from helpers.course.submission import Submission, item_id, pick_lesson, read_submission, used_exercises
from helpers.files import atomic_path
from staff.grading import handins, report
from staff.grading.probe import Probe, Verdict, unpack
from staff.grading.probes import probes_of
from staff.grading.release import ROOT, stage, version_of

BONUS_CAP = 10.0  # points that all bonus items together can add
PASSED = 1e-9
FOLLOW = "beside-"  # folders of the runs beside solutions of other exercises


@dataclass
class Score:
    """One row of a report; ``note`` is the part of ``reason`` that is no verdict's."""

    lesson: str
    item: str
    title: str
    kind: str
    most: float
    points: float | None
    part: str = ""
    bonus: bool = False
    verdicts: list[Verdict] = field(default_factory=list)
    reason: str = ""
    expected: str = ""
    note: str = ""


@dataclass
class Student:
    """A submission: who, where its files are, and for each lesson the notebook, or why there is none."""

    name: str
    folder: Path
    notebooks: dict[str, Path] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass
class Grading:
    """One grading of one folder; ``run()`` runs what is new, ``judge()`` gives the points.

    Args:
        folder: holds a folder or a notebook for each student.
        out: where everything goes; with the same folder and seed a second call resumes.
        root: the authored course.
        seed: of the hidden inputs; None keeps the seed of ``out``, or draws one.
        probes_for: lesson to probes.
    """

    folder: Path
    out: Path
    root: Path = ROOT
    workers: int = 1
    seed: int | None = None
    unsafe: bool = False
    limits: sandbox.Limits = sandbox.Limits()
    cell_seconds: float = CELL_SECONDS
    probes_for: Callable[[Lesson], dict[str, Probe]] = probes_of
    tell: Callable[[str], None] = print

    def __post_init__(self):
        self.folder, self.out, self.root = Path(self.folder), Path(self.out), Path(self.root)
        if not self.folder.is_dir():
            raise LessonError(f"{self.folder} is no folder; name the folder that holds the submissions.")
        self.lessons = read_course(self.root)
        self.probes = {lesson.stem: self.probes_for(lesson) for lesson in self.lessons}
        handins.check_items({cell.item for lesson in self.lessons for cell in lesson.of_kind("handin")})
        self.out.mkdir(parents=True, exist_ok=True)
        self._settle_seed()
        self.students = find_students(self.folder, self.lessons)

    def _settle_seed(self) -> None:
        path = self.out / "run.json"
        known = json.loads(path.read_text())["seed"] if path.is_file() else None
        self.seed = next(s for s in (self.seed, known, secrets.randbits(31)) if s is not None)
        _write(path, {"seed": self.seed, "version": version_of(self.root)})

    # --- run --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run what has not been run: first the solutions, then the submissions, ``workers`` at a time."""
        kind = sandbox.choose(self.unsafe)
        with tempfile.TemporaryDirectory(prefix="course-") as folder:
            os.chmod(folder, 0o755)
            course = stage(self.root, Path(folder) / "course")
            runner = Runner(course, kind, self.seed, self.limits, self.cell_seconds)
            with ThreadPoolExecutor(self.workers) as pool:
                for _ in pool.map(lambda lesson: self._run_solution(runner, lesson), self.lessons):
                    pass
                jobs = {pool.submit(self._run_student, runner, student): student for student in self.students}
                for number, job in enumerate(as_completed(jobs), 1):
                    seconds = job.result()
                    self.tell(f"{number}/{len(jobs)} {jobs[job].name}  {seconds:.0f} s")

    def _run_solution(self, runner: Runner, lesson: Lesson) -> None:
        submission = Submission({e.item: [e.source] for e in lesson.exercises})
        submission.order = [(e.item, e.source) for e in lesson.exercises]
        place = self.out / "expected" / lesson.stem
        raw = self._run_once(runner, lesson, submission, place)
        wanted = [p.file for p in self.probes[lesson.stem].values()]
        if bad := [name for name in wanted if unpack(raw.files.get(name)) is None]:
            errors = [f"{c['cell']}: {c['error']}" for c in raw.cells if c["error"]]
            (place / "run.json").unlink(missing_ok=True)
            raise LessonError(
                f"the solution of {lesson.stem} gives no result for {', '.join(bad)}; run {raw.ended}, "
                f"{'; '.join(errors) or raw.files.get('log.txt', b'').decode(errors='replace')[-500:]}"
            )

    def _run_student(self, runner: Runner, student: Student) -> float:
        seconds = 0.0
        for lesson in self.lessons:
            path = student.notebooks.get(lesson.stem)
            if path is None:
                continue
            place = self._place(student, lesson)
            try:
                submission = read_submission(path, lesson)
            except LessonError as error:
                _write(place / "submission.json", {"error": str(error)})
                continue
            _write(place / "submission.json", _summary(submission, lesson))
            try:
                raw = self._run_once(runner, lesson, submission, place)
                seconds += raw.seconds
                if raw.ended != "time":  # what never ends would do so again
                    seconds += self._follow_through(runner, lesson, submission, place)
            except Exception as error:  # never stops the rest; it is told on the page, and tried again next time
                _write(place / "submission.json", {"error": f"could not be run: {type(error).__name__}: {error}"})
        return seconds

    def _place(self, student: Student, lesson: Lesson) -> Path:
        return self.out / "raw" / student.name / lesson.stem

    def _run_once(
        self, runner: Runner, lesson: Lesson, submission: Submission, place: Path, tested=None, references=()
    ) -> Raw:
        """Run unless the very same was run before; everything is on disk before ``run.json`` says so.

        tested: exercises whose probes run, None for all; of a run beside solutions nothing but their numbers is kept.
        """
        probes = {i: p for i, p in self.probes[lesson.stem].items() if tested is None or i in tested}
        same = [str(self.seed), *(cell.source for cell in lesson.cells), *(p.cell() for p in probes.values())]
        same += [*references, *(f"{i}\0{s}" for i, s in submission.order)]
        digest = hashlib.sha256("\0".join(same).encode()).hexdigest()
        if (place / "run.json").is_file() and json.loads((place / "run.json").read_text())["digest"] == digest:
            return read_raw(place)
        raw = runner.run(lesson, submission, probes, references)
        place.mkdir(parents=True, exist_ok=True)
        for old in [*place.glob("*.safetensors"), *place.glob("*.jsonl"), place / "run.json"]:
            old.unlink(missing_ok=True)
        for name, data in raw.files.items():
            if references and not name.endswith(".safetensors"):
                continue  # what was printed there could hold a solution, and the pages tell errors
            with atomic_path(place / name) as temporary:
                Path(temporary).write_bytes(data)
        about = {"digest": digest, "ended": raw.ended, "seconds": raw.seconds, "memory": raw.memory}
        _write(place / "run.json", about | {"tested": list(probes), "references": list(references)})
        return raw

    def _follow_through(self, runner: Runner, lesson: Lesson, submission: Submission, place: Path) -> float:
        """Run anew what is not right and uses an earlier exercise that is not: with the solution of that one.

        One run for each such earlier exercise at most. What is tested never has its own solution beside it, and of
        solutions only earlier ones, which hold nothing of a later exercise. No more is begun when these runs have taken
        as long as one may. Returns the seconds.
        """
        right, seconds, stubs = self._right(lesson, place), 0.0, _stubs(lesson, submission)
        used, wrong, kept = used_exercises(lesson, submission), [], set()
        items = [e.item for e in lesson.exercises]
        for number, item in enumerate(items):
            if item in right:
                continue
            wrong.append(item)
            later = [i for i in items[number + 1 :] if i in submission.answers and i not in right and i not in stubs]
            tested = [i for i in later if item in used[i]]
            if tested and seconds < runner.limits.seconds:
                folder = place / f"{FOLLOW}{item}"
                seconds += self._run_once(runner, lesson, submission, folder, tested, wrong).seconds
                right |= self._right(lesson, folder)
                kept.add(folder)
        for folder in set(place.glob(f"{FOLLOW}*")) - kept:
            shutil.rmtree(folder)
        return seconds

    def _right(self, lesson: Lesson, place: Path) -> set[str]:
        """Exercises that score full by what a run left."""
        raw, want = read_raw(place), read_raw(self.out / "expected" / lesson.stem)
        there = {item: probe for item, probe in self.probes[lesson.stem].items() if probe.file in raw.files}
        return {i for i, p in there.items() if all(v.right > 1 - PASSED for v in self._verdicts(p, raw, want))}

    def _verdicts(self, probe: Probe, raw: Raw, want: Raw) -> list[Verdict]:
        theirs = unpack(want.files.get(probe.file))
        if theirs is None:
            raise LessonError(f"{self.out} holds no result of the solution for {probe.item}; grade without --regrade.")
        return probe.verdicts(unpack(raw.files.get(probe.file)), theirs, probe.draw(self.seed))

    # --- judge ------------------------------------------------------------------------------------------------------

    def judge(self) -> list[dict]:
        """Give the points from what was kept; write grades.csv, grades.json, manual.csv and a page per student."""
        by_hand = report.read_manual(self.out / "manual.csv")
        seen: dict[str, str] = {}
        rows = []
        for student in self.students:
            self._remark_copies(student, seen)
            scores, pictures = self._scores(student, by_hand)
            row = {"student": student.name, **totals(scores), "remarks": student.remarks}
            row["scores"] = [asdict(score) for score in scores]
            row["notebooks"] = {x.stem: self._kept(student, x, "submission.json") for x in self.lessons}
            _write(self.out / "students" / f"{student.name}.json", row)
            with atomic_path(self.out / "students" / f"{student.name}.html") as temporary:
                Path(temporary).write_text(report.page(row, scores, pictures), encoding="utf-8")
            rows.append(row)
        manual = [cell for lesson in self.lessons for cell in lesson.of_kind("manual")]
        report.write_manual(self.out / "manual.csv", [s.name for s in self.students], manual, by_hand)
        report.write_table(self.out / "grades.csv", rows)
        _write(self.out / "grades.json", rows)
        return rows

    def _remark_copies(self, student: Student, seen: dict[str, str]) -> None:
        """A file of an optimisation that two students share to the last bit was not made twice."""
        for hand_in in handins.HAND_INS.values():
            for path in student.folder.rglob(hand_in.file) if student.folder.is_dir() else ():
                if path.is_symlink() or path.stat().st_size > handins.MOST_BYTES:
                    continue
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                first = seen.setdefault(digest, student.name)
                if first != student.name:
                    student.remarks.append(f"{hand_in.file} is the same file as that of {first}")

    def _kept(self, student: Student, lesson: Lesson, name: str) -> dict:
        path = self._place(student, lesson) / name
        return json.loads(path.read_text()) if path.is_file() else {}

    def _scores(self, student: Student, by_hand: dict) -> tuple[list[Score], dict]:
        scores, pictures = [], {}
        for lesson in self.lessons:
            place, want = self._place(student, lesson), read_raw(self.out / "expected" / lesson.stem)
            kept = self._kept(student, lesson, "submission.json")
            for cell in lesson.items:
                score = Score(
                    lesson.stem,
                    cell.item,
                    cell.title,
                    cell.kind,
                    cell.points,
                    0.0,
                    cell.part or lesson.stem,
                    cell.bonus,
                )
                if cell.kind == "manual":
                    score.points, score.reason = by_hand.get((student.name, cell.item), (None, ""))
                elif cell.kind == "handin":
                    pictures[cell.item] = self._judge_hand_in(score, student)
                else:
                    pictures[cell.item] = self._judge_exercise(score, cell, lesson, kept, place, want)
                scores.append(score)
        return scores, pictures

    def _judge_hand_in(self, score: Score, student: Student):
        hand_in = handins.HAND_INS[score.item]
        folder = student.folder if student.folder.is_dir() else self.folder / ".none"
        measured = handins.judge(hand_in, folder)
        score.verdicts, score.expected = measured.verdicts, hand_in.expected
        _sum_up(score)
        return {name: image.numpy() for name, image in measured.pictures.items()}

    def _judge_exercise(self, score: Score, cell: Cell, lesson: Lesson, kept: dict, place: Path, want: Raw):
        probe = self.probes[lesson.stem].get(cell.item)
        if probe is None:
            raise LessonError(f"exercise {cell.item} has no hidden probe; add it to staff/grading/probes.")
        raw, score.expected = read_raw(place), probe.expected
        score.verdicts = self._verdicts(probe, raw, want)
        theirs, ours = unpack(want.files.get(probe.file)), unpack(raw.files.get(probe.file))
        if ours is None:
            score.verdicts = [Verdict("", 1.0, 0.0, _why_nothing(cell, kept, raw))]
        _sum_up(score)
        self._forgive(score, probe, lesson, place, want)
        return report.compare_pictures(probe, ours, theirs, probe.draw(self.seed)) if ours else {}

    def _forgive(self, score: Score, probe: Probe, lesson: Lesson, place: Path, want: Raw) -> None:
        """Points of a run beside solutions of earlier exercises, where they are more; its result is not shown."""
        for path in sorted(place.glob(f"{FOLLOW}*/run.json")):
            about = json.loads(path.read_text())
            if score.item not in about["tested"] or score.item in about["references"]:
                continue
            again = replace(score, verdicts=self._verdicts(probe, read_raw(path.parent), want))
            _sum_up(again)
            if again.points > score.points:
                names = ", ".join(f"{e.item} {e.name}" for e in lesson.exercises if e.item in about["references"])
                score.points, score.verdicts = again.points, again.verdicts
                score.note = f"graded with the solution of {names} in place of yours"
                score.reason = "; ".join(filter(None, [again.reason, score.note]))


def _sum_up(score: Score) -> None:
    share = sum(verdict.share * verdict.right for verdict in score.verdicts)
    score.points = round(score.most * share, 2)
    wrong = [v for v in score.verdicts if v.right < 1 - PASSED or score.kind == "handin"]
    score.reason = "; ".join(f"{v.part}: {v.reason}" if v.part else v.reason for v in wrong)


def _why_nothing(cell: Cell, kept: dict, raw: Raw) -> str:
    """The student's own error where there is one, else how the run ended."""
    if kept.get("error"):
        return kept["error"]
    if not kept:
        return "the notebook was not handed in"
    if cell.item in kept["missing"]:
        return "the exercise's code cell is not there"
    if cell.item in kept["stubs"]:
        return "not done: the cell is as it was handed out"
    failed = [record for record in raw.cells if record["error"]]
    for kind in ("answer", "probe"):
        for record in failed:
            if record["cell"].startswith(item_id(kind, cell.item)):
                return record["error"][:300]
    reasons = {"time": "the time ran out", "memory": "too much memory", "processes": "too many processes"}
    reasons |= {"output": "too much output", "killed": "the run was killed", "broken": "the run ended without a result"}
    last = failed[-1]["error"] if failed else ""
    return reasons.get(raw.ended, last[:300] or "no result came out of the sandbox")


def _stubs(lesson: Lesson, submission: Submission) -> list[str]:
    """Exercises whose cells are as they were handed out."""
    stubs = {e.item: stub(e.source, e.item).strip() for e in lesson.exercises}
    return [i for i, sources in submission.answers.items() if all(s.strip() == stubs[i] for s in sources)]


def _summary(submission: Submission, lesson: Lesson) -> dict:
    return {
        "edited": submission.edited,
        "missing": submission.missing,
        "stubs": _stubs(lesson, submission),
        "marks": submission.marks,
        "texts": submission.texts[:50],
        "extra": sum(not item for item, _ in submission.order),
    }


def read_raw(place: Path) -> Raw:
    """What a run left in a folder; empty where there was none."""
    if not (place / "run.json").is_file():
        return Raw()
    about = json.loads((place / "run.json").read_text())
    files = {
        path.name: path.read_bytes() for path in place.iterdir() if path.suffix in (".safetensors", ".jsonl", ".txt")
    }
    return Raw(files, about["ended"], about["seconds"], about["memory"])


def totals(scores: list[Score]) -> dict:
    """Points of each part of the rubric, the bonus up to its cap, their sum, and what is still to be graded by hand."""
    parts: dict[str, float] = {}
    for score in scores:
        if not score.bonus:
            parts[score.part] = round(parts.get(score.part, 0.0) + (score.points or 0.0), 2)
    bonus = min(BONUS_CAP, sum(score.points or 0.0 for score in scores if score.bonus))
    most = sum(score.most for score in scores if not score.bonus)
    todo = [score.item for score in scores if score.points is None]
    return {"total": round(sum(parts.values()) + bonus, 2), "of": most, "parts": parts, "bonus": bonus, "open": todo}


def find_students(folder: Path, lessons: list[Lesson]) -> list[Student]:
    """Submissions of a folder: each subfolder or notebook is a student; links and hidden files are none."""
    students, taken = [], set()
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or not (entry.is_dir() or entry.suffix == ".ipynb"):
            continue
        name = re.sub(r"[^\w.-]+", "_", entry.stem if entry.suffix == ".ipynb" else entry.name).lstrip(".") or "_"
        while name in taken:
            name += "_"
        taken.add(name)
        student = Student(name, entry)
        if entry.is_symlink():
            student.folder = folder / ".none"
            student.remarks.append("a link was handed in, not a file")
        else:
            _find_notebooks(student, [entry] if entry.is_file() else _notebooks(entry), lessons)
        students.append(student)
    if not students:
        raise LessonError(f"{folder} holds no submissions; it should hold a folder or a notebook for each student.")
    return students


def _notebooks(folder: Path) -> list[Path]:
    """Plain notebook files, the newest first, without those of Jupyter's checkpoints."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in names if name.endswith(".ipynb")]
    return sorted((p for p in found[:200] if p.is_file() and not p.is_symlink()), key=lambda p: -p.stat().st_mtime)


def _find_notebooks(student: Student, paths: list[Path], lessons: list[Lesson]) -> None:
    for path in paths:
        try:
            lesson = pick_lesson(path, lessons)
        except LessonError as error:
            lesson = next((x for x in lessons if x.stem in path.stem), None)
            student.remarks.append(str(error))
        if lesson is None:
            student.remarks.append(f"{path.name} belongs to no lesson")
        elif lesson.stem in student.notebooks:
            student.remarks.append(f"{path.name} is an older notebook of {lesson.stem} and was left out")
        else:
            student.notebooks[lesson.stem] = path


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def grade(folder: str | Path, out: str | Path, *, regrade: bool = False, **options) -> list[dict]:
    """Grade a folder of submissions and return a row per student; with ``regrade`` nothing is run.

    Raises:
        LessonError: for a folder without submissions, a course that does not grade, a gradebook that cannot be read.
        SandboxError: where no sandbox works and ``unsafe`` was not given.
    """
    grading = Grading(Path(folder), Path(out), **options)
    if not regrade:
        grading.run()
    return grading.judge()
