"""Grade a folder of submissions: run what is new, judge from what the runs left, write table and reports.

Runs and judging are apart: ``raw/`` keeps everything that came out of a sandbox, so points can be given again without
running anything. Whatever goes wrong with one student is a sentence in that student's row.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from helpers.course import sandbox
from helpers.course.closed import close
from helpers.course.lessons import Cell, Lesson, LessonError, read_course, shown
from helpers.course.submission import Part, Submission, item_id
from helpers.files import atomic_path, sha256, write_json
from staff.grading import handins, manual, report
from staff.grading.probe import Arrays, Probe, Verdict, unpack
from staff.grading.probes import probes_of
from staff.grading.release import ROOT, version_of
from staff.grading.run import CELL_SECONDS, Raw, Runner, read_raw, used_exercises
from staff.grading.students import Student, find_students

BONUS_CAP = 10.0  # points that all bonus items together can add
PASSED = 1e-9
FOLLOW = "beside-"  # folders of the runs next to solutions of other exercises


@dataclass
class Score:
    """One row of a report; ``note`` is the part of ``reason`` that is no verdict's, ``written`` a student's text."""

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
    written: str = ""


@dataclass
class Job:
    """A notebook to be run: the attempt decides the inputs, ``place`` keeps what comes out."""

    lesson: Lesson
    submission: Submission
    place: Path
    attempt: int
    own: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Grading:
    """One grading of one folder; ``run()`` runs what is new, ``judge()`` gives the points.

    Args:
        folder: holds a folder, a notebook or a zip for each student.
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
    report: Callable[[str], None] = print

    def __post_init__(self):
        self.folder, self.out, self.root = Path(self.folder), Path(self.out), Path(self.root)
        if not self.folder.is_dir():
            raise LessonError(f"{self.folder} is not a folder; name the folder that holds the submissions.")
        self.lessons = read_course(self.root)
        self.probes = {lesson.stem: self.probes_for(lesson) for lesson in self.lessons}
        for lesson in self.lessons:
            if missing := [e.item for e in lesson.exercises if e.item not in self.probes[lesson.stem]]:
                raise LessonError(f"no hidden probe for {', '.join(missing)}; add it to staff/grading/probes.")
        handins.check_items({cell.item for lesson in self.lessons for cell in lesson.of_kind("handin")})
        self.out.mkdir(parents=True, exist_ok=True)
        self._settle_seed()
        self.students = find_students(self.folder, self.lessons, self.out / "unpacked")
        self.inputs: dict[tuple[str, int], dict[str, Arrays]] = {}

    def _settle_seed(self) -> None:
        known = _read(self.out / "run.json").get("seed")
        self.seed = next(s for s in (self.seed, known, secrets.randbits(31)) if s is not None)
        write_json(self.out / "run.json", {"seed": self.seed, "version": version_of(self.root)})

    # --- run --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run what has not been run: first the solutions, then the submissions, ``workers`` at a time."""
        kind = sandbox.choose(self.unsafe)
        with self._only_one():
            shutil.rmtree(self.out / "course", ignore_errors=True)  # of a run that was killed
            runner = Runner(close(self.root, self.out / "course"), kind, self.limits, self.cell_seconds)
            jobs = [(s, self._job(s, x)) for s in self.students for x in self.lessons if x.stem in s.submissions]
            attempts = {(lesson.stem, 0): lesson for lesson in self.lessons}
            attempts |= {(job.lesson.stem, job.attempt): job.lesson for _, job in jobs}
            for stem, attempt in attempts:  # all of them before anything runs
                self._draw(stem, attempt)
            with ThreadPoolExecutor(self.workers) as pool:
                solutions = [pool.submit(self._run_solution, runner, x, n) for (_, n), x in attempts.items()]
                for solution in solutions:
                    solution.result()
                running = {pool.submit(self._run_student, runner, *job): job for job in jobs}
                for number, done in enumerate(as_completed(running), 1):
                    student, job = running[done]
                    self.report(f"{number}/{len(running)} {student.name} {job.lesson.stem}  {done.result():.0f} s")
            shutil.rmtree(self.out / "course", ignore_errors=True)

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        with open(self.out / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise LessonError(f"another grading is at work in {self.out}; wait for it.") from error
            yield

    def _draw(self, stem: str, attempt: int) -> dict[str, Arrays]:
        """Inputs of all exercises of a lesson."""
        if (stem, attempt) not in self.inputs:
            self.inputs[stem, attempt] = {i: probe.draw(self.seed, attempt) for i, probe in self.probes[stem].items()}
        return self.inputs[stem, attempt]

    def _job(self, student: Student, lesson: Lesson) -> Job:
        """A student's notebook; one that was changed since the last call is another attempt, with new inputs."""
        submission, own = student.submissions[lesson.stem], student.own[lesson.stem]
        place = self._place(student, lesson)
        known, code = _read(place / "submission.json"), _digest([str(submission.order), str(own)])
        attempt = known.get("attempt", 0) + (known.get("code", code) != code)
        return Job(lesson, submission, place, attempt, own)

    def _expected(self, lesson: Lesson, attempt: int) -> Path:
        return self.out / "expected" / (f"{lesson.stem}-{attempt}" if attempt else lesson.stem)

    def _run_solution(self, runner: Runner, lesson: Lesson, attempt: int) -> None:
        submission = Submission([Part(e.source, (e.item,)) for e in lesson.exercises])
        job = Job(lesson, submission, self._expected(lesson, attempt), attempt)
        raw = self._run_once(runner, job)
        wanted = [p.file for p in self.probes[lesson.stem].values()]
        if bad := [name for name in wanted if unpack(raw.files.get(name)) is None]:
            errors = [f"{c['cell']}: {c['error']}" for c in raw.cells if c["error"]]
            (job.place / "run.json").unlink(missing_ok=True)
            raise LessonError(
                f"the solution of {lesson.stem} gives no result for {', '.join(bad)}; run {raw.ended}, "
                f"{'; '.join(errors) or raw.files.get('log.txt', b'').decode(errors='replace')[-500:]}"
            )

    def _run_student(self, runner: Runner, student: Student, job: Job) -> float:
        seconds = 0.0
        try:
            code = _digest([str(job.submission.order), str(job.own)])
            write_json(job.place / "submission.json", {"attempt": job.attempt, "code": code})
            raw = self._run_once(runner, job)
            seconds = raw.seconds
            if raw.ended != "time":  # what never ends would do so again
                seconds += self._follow_through(runner, job)
        except Exception as error:  # never stops the rest; the page says so, and the next call tries again
            student.errors[job.lesson.stem] = f"could not be graded: {type(error).__name__}: {shown(error)}"
        return seconds

    def _place(self, student: Student, lesson: Lesson) -> Path:
        return self.out / "raw" / student.name / lesson.stem

    def _run_once(self, runner: Runner, job: Job, tested=None, references=()) -> Raw:
        """Run unless the very same was run before; everything is on disk before ``run.json`` says so.

        tested: exercises whose probes run, None for all; of a run next to solutions only their numbers are kept.
        """
        lesson, place = job.lesson, job.place
        probes = {i: p for i, p in self.probes[lesson.stem].items() if tested is None or i in tested}
        inputs = self.inputs[lesson.stem, job.attempt]
        same = [str(self.seed), str(job.attempt), *(cell.source for cell in lesson.cells), str(job.own)]
        same += [part.decode() for p in probes.values() for n, part in p.job({}).items() if n.endswith(".py")]
        digest = _digest([*same, *references, *map(str, job.submission.order)])
        if _read(place / "run.json").get("digest") == digest:
            return read_raw(place)
        pairs = {item: (probe, inputs[item]) for item, probe in probes.items()}
        raw = runner.run(lesson, job.submission, pairs, references, job.own)
        place.mkdir(parents=True, exist_ok=True)
        for old in [*place.glob("*.safetensors"), *place.glob("*.jsonl"), place / "run.json"]:
            old.unlink(missing_ok=True)
        for name, data in raw.files.items():
            if references and not name.endswith(".safetensors"):
                continue  # what was printed there could hold a solution, and the pages show errors
            with atomic_path(place / name) as temporary:
                temporary.write_bytes(data)
        about = {"digest": digest, "ended": raw.ended, "seconds": raw.seconds, "memory": raw.memory}
        write_json(place / "run.json", about | {"tested": list(probes), "references": list(references)})
        return raw

    def _follow_through(self, runner: Runner, job: Job) -> float:
        """Run again what is not right and uses an earlier exercise that is not: with the solution of that one.

        One run for each such earlier exercise at most. What is tested never has its own solution next to it, and of
        solutions only earlier ones, which hold nothing of a later exercise. No more is begun when these runs have taken
        as long as one may. Returns the seconds.
        """
        lesson, submission, place = job.lesson, job.submission, job.place
        right, seconds = self._right(lesson, place, job.attempt), 0.0
        used, wrong, kept = used_exercises(lesson, submission), [], set()
        items, answered = [e.item for e in lesson.exercises], set(submission.answers) - set(submission.stubs)
        for number, item in enumerate(items):
            if item in right:
                continue
            wrong.append(item)
            tested = [i for i in items[number + 1 :] if i in answered - right and item in used[i]]
            if tested and seconds < runner.limits.seconds:
                folder = place / f"{FOLLOW}{item}"
                seconds += self._run_once(runner, replace(job, place=folder), tested, tuple(wrong)).seconds
                right |= self._right(lesson, folder, job.attempt)
                kept.add(folder)
        for folder in set(place.glob(f"{FOLLOW}*")) - kept:
            shutil.rmtree(folder)
        return seconds

    def _right(self, lesson: Lesson, place: Path, attempt: int) -> set[str]:
        """Exercises that score full by what a run left."""
        raw, probes = read_raw(place), self.probes[lesson.stem].items()
        verdicts = {i: self._verdicts(p, raw, lesson, attempt) for i, p in probes if p.file in raw.files}
        return {item for item, found in verdicts.items() if all(v.right > 1 - PASSED for v in found)}

    def _verdicts(self, probe: Probe, raw: Raw, lesson: Lesson, attempt: int) -> list[Verdict]:
        theirs = unpack(read_raw(self._expected(lesson, attempt)).files.get(probe.file))
        if theirs is None:
            raise LessonError(f"{self.out} holds no result of the solution for {probe.item}; grade without --regrade.")
        inputs = self._draw(lesson.stem, attempt)[probe.item]
        return probe.verdicts(unpack(raw.files.get(probe.file)), theirs, inputs)

    # --- judge ------------------------------------------------------------------------------------------------------

    def judge(self) -> list[dict]:
        """Give the points from what was kept; write grades.csv, grades.json, manual.csv and a page per student."""
        by_hand = manual.read(self.out / "manual.csv")
        seen: dict[str, str] = {}
        rows = []
        for student in self.students:
            try:
                self._remark_copies(student, seen)
                row = self._row(student, *self._scores(student, by_hand))
            except LessonError:
                raise  # the grading itself is not complete
            except Exception as error:  # this student's alone
                student.error = f"could not be graded: {type(error).__name__}: {shown(error)}"
                row = self._row(student, *self._scores(student, by_hand))
            rows.append(row)
        questions = [cell for lesson in self.lessons for cell in lesson.of_kind("manual")]
        manual.write(self.out / "manual.csv", rows, questions, by_hand)
        report.write_table(self.out / "grades.csv", rows)
        write_json(self.out / "grades.json", rows)
        return rows

    def _row(self, student: Student, scores: list[Score], pictures: dict) -> dict:
        """Row and page of a student."""
        remarks = [*([student.error] if student.error else []), *student.errors.values(), *student.remarks]
        row = {"student": student.name, **totals(scores), "remarks": list(dict.fromkeys(map(shown, remarks)))}
        row["scores"] = [asdict(score) for score in scores]
        row["notebooks"] = {stem: _summary(submission) for stem, submission in student.submissions.items()}
        row["notebooks"] |= {stem: {"error": shown(error)} for stem, error in student.errors.items()}
        write_json(self.out / "students" / f"{student.name}.json", row)
        with atomic_path(self.out / "students" / f"{student.name}.html") as temporary:
            temporary.write_text(shown(report.page(row, scores, pictures)), encoding="utf-8")
        return row

    def _remark_copies(self, student: Student, seen: dict[str, str]) -> None:
        """A file of an optimisation that two students share to the last bit was not made twice."""
        names = {hand_in.file for hand_in in handins.HAND_INS.values()}
        for path in student.files:
            if path.name in names and path.stat().st_size <= handins.MOST_BYTES:
                first = seen.setdefault(sha256(path), student.name)
                if first != student.name:
                    student.remarks.append(f"{path.name} is the same file as that of {first}")

    def _scores(self, student: Student, by_hand: dict) -> tuple[list[Score], dict]:
        scores, pictures = [], {}
        for lesson in self.lessons:
            for cell in lesson.items:
                part = cell.part or lesson.stem
                score = Score(lesson.stem, cell.item, cell.title, cell.kind, cell.points, 0.0, part, cell.bonus)
                scores.append(score)
                if cell.kind == "manual":
                    score.written = student.written(lesson, cell.item)
                    score.points, score.reason = by_hand.get((student.name, cell.item), (None, ""))
                    if score.points is None and not score.written and not student.error:
                        score.points, score.reason = 0.0, score.reason or "nothing was written"
                elif student.error:
                    score.points, score.reason = None, student.error
                elif cell.kind == "handin":
                    pictures[cell.item] = self._judge_hand_in(score, student)
                else:
                    pictures[cell.item] = self._judge_exercise(score, cell, lesson, student)
        return scores, pictures

    def _judge_hand_in(self, score: Score, student: Student):
        hand_in = handins.HAND_INS[score.item]
        measured = handins.judge(hand_in, student.files)
        score.verdicts, score.expected = measured.verdicts, hand_in.expected
        _sum_up(score)
        return {name: image.numpy() for name, image in measured.pictures.items()}

    def _judge_exercise(self, score: Score, cell: Cell, lesson: Lesson, student: Student):
        probe, place = self.probes[lesson.stem][cell.item], self._place(student, lesson)
        raw, attempt = read_raw(place), _read(place / "submission.json").get("attempt", 0)
        score.expected, ours = probe.expected, unpack(raw.files.get(probe.file))
        if lesson.stem not in student.submissions or lesson.stem in student.errors:
            ours = None
        score.verdicts = self._verdicts(probe, raw if ours else Raw(), lesson, attempt)
        if ours is None:
            score.verdicts = [Verdict("", 1.0, 0.0, _why_nothing(cell, lesson, student, raw))]
        _sum_up(score)
        if lesson.stem in student.submissions:
            self._forgive(score, probe, lesson, place, attempt)
        theirs = unpack(read_raw(self._expected(lesson, attempt)).files.get(probe.file))
        inputs = self._draw(lesson.stem, attempt)[probe.item]
        return report.compare_pictures(probe, ours, theirs, inputs) if ours else {}

    def _forgive(self, score: Score, probe: Probe, lesson: Lesson, place: Path, attempt: int) -> None:
        """Points of a run next to solutions of earlier exercises, where they are more; its result is not shown."""
        for path in sorted(place.glob(f"{FOLLOW}*/run.json")):
            about = _read(path)
            if score.item not in about["tested"] or score.item in about["references"]:
                continue
            again = replace(score, verdicts=self._verdicts(probe, read_raw(path.parent), lesson, attempt))
            _sum_up(again)
            if again.points > score.points:
                names = ", ".join(f"{e.item} {e.name}" for e in lesson.exercises if e.item in about["references"])
                score.points, score.verdicts = again.points, again.verdicts
                score.note = f"graded with the solution of {names} instead of yours"
                score.reason = "; ".join(filter(None, [again.reason, score.note]))


def _sum_up(score: Score) -> None:
    share = sum(verdict.share * verdict.right for verdict in score.verdicts)
    score.points = round(score.most * share, 2)
    wrong = [v for v in score.verdicts if v.right < 1 - PASSED or score.kind == "handin"]
    score.reason = "; ".join(f"{v.part}: {v.reason}" if v.part else v.reason for v in wrong)


def _why_nothing(cell: Cell, lesson: Lesson, student: Student, raw: Raw) -> str:
    """The student's own error where there is one, else how the run ended."""
    if lesson.stem in student.errors:
        return student.errors[lesson.stem]
    submission = student.submissions.get(lesson.stem)
    if submission is None:
        return "the notebook was not handed in"
    if cell.item in submission.missing:
        return "the exercise's code cell is not there"
    if cell.item in submission.stubs:
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


def _summary(submission: Submission) -> dict:
    """What the page says about a notebook."""
    return {"edited": submission.edited, "missing": submission.missing, "marks": submission.marks}


def _read(path: Path) -> dict:
    """A JSON file of an earlier call; empty where it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _digest(parts) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()


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
