"""Grade a folder of submissions: run what is new, judge from what the runs left, write table and reports.

Runs and judging are apart: ``raw/`` keeps everything that came out of a sandbox, so points can be given again without
running anything. Whatever goes wrong with one student is a sentence in that student's row.
"""

import fcntl
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from helpers.course import sandbox
from helpers.course.closed import close
from helpers.course.lessons import Cell, Lesson, LessonError, shown
from helpers.course.submission import Part, Submission, item_id
from helpers.files import atomic_path, sha256, write_json
from staff.grading import handins, manual, report
from staff.grading.authoring import ROOT, read_course
from staff.grading.probe import Arrays, Probe, Verdict, unpack
from staff.grading.probes import probes_of
from staff.grading.release import version_of
from staff.grading.run import CELL_SECONDS, Raw, Runner, read_raw, used_exercises
from staff.grading.students import Student, find_students

BONUS_CAP = 10.0  # points that all bonus items together can add
FULL = 1 - 1e-9  # share of the points from which an answer is right
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

    def judged(self, verdicts: list[Verdict]) -> "Score":
        """The same with the points of these verdicts."""
        points = round(self.most * sum(verdict.share * verdict.right for verdict in verdicts), 2)
        wrong = [v for v in verdicts if v.right < FULL or self.kind == "handin"]
        reason = "; ".join(f"{v.part}: {v.reason}" if v.part else v.reason for v in wrong)
        return replace(self, verdicts=verdicts, points=points, reason=reason)


@dataclass
class Job:
    """A notebook to be run: the attempt decides the inputs, ``place`` keeps what comes out."""

    lesson: Lesson
    submission: Submission
    place: Path
    attempt: int = 0

    @property
    def code(self) -> str:
        return _digest([str(self.submission.order), str(self.submission.own)])


@dataclass
class Grading:
    """One grading of one folder; ``run()`` runs what is new, ``judge()`` gives the points.

    folder: holds a folder, a notebook or a zip for each student. out: where everything goes; with the same folder and
    seed a second call resumes. root: the authored course. seed: of the hidden inputs; None keeps the seed of ``out``,
    or draws one.
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
            missing = [e.item for e in lesson.exercises if e.item not in self.probes[lesson.stem]]
            missing += [cell.item for cell in lesson.of_kind("handin") if cell.item not in handins.HAND_INS]
            if missing:
                raise LessonError(f"nothing grades {', '.join(missing)}; add it to staff/grading.")
        self.out.mkdir(parents=True, exist_ok=True)
        known = _read(self.out / "run.json").get("seed")
        self.seed = next(s for s in (self.seed, known, secrets.randbits(31)) if s is not None)
        write_json(self.out / "run.json", {"seed": self.seed, "version": version_of(self.root)})
        self.students = find_students(self.folder, self.lessons, self.out / "unpacked")
        self.inputs: dict[tuple[str, int], dict[str, Arrays]] = {}

    # --- run --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run what has not been run: first the solutions, then the submissions, ``workers`` at a time."""
        kind, running = sandbox.choose(self.unsafe), self.out / "running"
        with open(self.out / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise LessonError(f"another grading is at work in {self.out}; wait for it.") from error
            sandbox.end_leftovers(running)  # of a run that was killed
            sandbox.remove(running)
            self._run_all(Runner(close(self.root, running / "course"), kind, self.limits, self.cell_seconds))
            sandbox.remove(running)

    def _run_all(self, runner: Runner) -> None:
        jobs = [(s, self._job(s, x)) for s in self.students for x in self.lessons if x.stem in s.submissions]
        attempts = {(lesson.stem, 0): lesson for lesson in self.lessons}
        attempts |= {(job.lesson.stem, job.attempt): job.lesson for _, job in jobs}
        for stem, attempt in attempts:  # all of them before anything runs
            self._draw(stem, attempt)
        with ThreadPoolExecutor(self.workers) as pool:
            for done in [pool.submit(self._run_solution, runner, x, n) for (_, n), x in attempts.items()]:
                done.result()
            futures = {pool.submit(self._run_student, runner, *job): job for job in jobs}
            for number, done in enumerate(as_completed(futures), 1):
                student, job = futures[done]
                self.report(f"{number}/{len(futures)} {student.name} {job.lesson.stem}  {done.result():.0f} s")

    def _draw(self, stem: str, attempt: int) -> dict[str, Arrays]:
        """Inputs of all exercises of a lesson."""
        if (stem, attempt) not in self.inputs:
            self.inputs[stem, attempt] = {i: probe.draw(self.seed, attempt) for i, probe in self.probes[stem].items()}
        return self.inputs[stem, attempt]

    def _job(self, student: Student, lesson: Lesson) -> Job:
        """A student's notebook; one that was changed since the last call is another attempt, with new inputs."""
        job = Job(lesson, student.submissions[lesson.stem], self.out / "raw" / student.name / lesson.stem)
        known = _read(job.place / "submission.json")
        job.attempt = known.get("attempt", 0) + (known.get("code", job.code) != job.code)
        return job

    def _solution(self, lesson: Lesson, attempt: int) -> Job:
        place = self.out / "expected" / (f"{lesson.stem}-{attempt}" if attempt else lesson.stem)
        return Job(lesson, Submission([Part(e.source, (e.item,)) for e in lesson.exercises]), place, attempt)

    def _run_solution(self, runner: Runner, lesson: Lesson, attempt: int) -> None:
        job = self._solution(lesson, attempt)
        raw = self._run_once(runner, job)
        if bad := [p.file for p in self.probes[lesson.stem].values() if unpack(raw.files.get(p.file)) is None]:
            errors = [f"{c['cell']}: {c['error']}" for c in raw.cells if c["error"]]
            (job.place / "run.json").unlink(missing_ok=True)
            raise LessonError(
                f"the solution of {lesson.stem} gives no result for {', '.join(bad)}; run {raw.ended}, "
                f"{'; '.join(errors) or raw.files.get('log.txt', b'').decode(errors='replace')[-500:]}"
            )

    def _run_student(self, runner: Runner, student: Student, job: Job) -> float:
        seconds = 0.0
        try:
            write_json(job.place / "submission.json", {"attempt": job.attempt, "code": job.code})
            raw = self._run_once(runner, job)
            seconds = raw.seconds
            if raw.ended != "time":  # what never ends would do so again
                seconds += self._follow_through(runner, job)
        except Exception as error:  # never stops the rest; the page says so, and the next call tries again
            student.errors[job.lesson.stem] = f"could not be graded: {type(error).__name__}: {shown(error)}"
        return seconds

    def _run_once(self, runner: Runner, job: Job, tested: Collection | None = None, references: Collection = ()) -> Raw:
        """Run with the probes of ``tested``, None for all, unless the very same was run before; run.json comes last."""
        lesson, place, inputs = job.lesson, job.place, self.inputs[job.lesson.stem, job.attempt]
        probes = {i: p for i, p in self.probes[lesson.stem].items() if tested is None or i in tested}
        same = [str(self.seed), str(job.attempt), job.code, *(cell.source for cell in lesson.cells), *references]
        same += [part.decode() for p in probes.values() for n, part in p.job({}).items() if n.endswith(".py")]
        if _read(place / "run.json").get("digest") == _digest(same):
            return read_raw(place)
        raw = runner.run(lesson, job.submission, {i: (p, inputs[i]) for i, p in probes.items()}, references)
        place.mkdir(parents=True, exist_ok=True)
        for old in [*place.glob("*.safetensors"), *place.glob("*.jsonl"), place / "run.json"]:
            old.unlink(missing_ok=True)
        for name, data in raw.files.items():
            if references and not name.endswith(".safetensors"):
                continue  # what was printed there could hold a solution, and the pages show errors
            with atomic_path(place / name) as temporary:
                temporary.write_bytes(data)
        about = {"digest": _digest(same), "ended": raw.ended, "seconds": raw.seconds, "memory": raw.memory}
        write_json(place / "run.json", about | {"tested": list(probes), "references": list(references)})
        return raw

    def _follow_through(self, runner: Runner, job: Job) -> float:
        """Run again what is not right and uses an earlier exercise that is not: with the solution of that one.

        One run for each at most, and none once they have taken as long as one may. What is tested never has its own
        solution next to it, only earlier ones, which hold nothing of a later exercise. Returns the seconds.
        """
        lesson, submission, place = job.lesson, job.submission, job.place
        right, seconds = self._right(job, read_raw(place)), 0.0
        used, wrong, kept = used_exercises(lesson, submission), [], set()
        items, answered = [e.item for e in lesson.exercises], set(submission.answers) - set(submission.stubs)
        for number, item in enumerate(items):
            if item in right:
                continue
            wrong.append(item)
            tested = [i for i in items[number + 1 :] if i in answered - right and item in used[i]]
            if tested and seconds < runner.limits.seconds:
                beside = replace(job, place=place / f"{FOLLOW}{item}")
                seconds += self._run_once(runner, beside, tested, tuple(wrong)).seconds
                right |= self._right(job, read_raw(beside.place))
                kept.add(beside.place)
        for folder in set(place.glob(f"{FOLLOW}*")) - kept:
            shutil.rmtree(folder)
        return seconds

    def _right(self, job: Job, raw: Raw) -> set[str]:
        """Exercises that score full by what a run left."""
        there = {i: p for i, p in self.probes[job.lesson.stem].items() if p.file in raw.files}
        return {i for i, probe in there.items() if all(v.right > FULL for v in self._verdicts(probe, raw, job))}

    def _verdicts(self, probe: Probe, raw: Raw, job: Job) -> list[Verdict]:
        """What a run left, judged by what the solution gave for the same inputs."""
        wanted = read_raw(self._solution(job.lesson, job.attempt).place).files.get(probe.file)
        if (theirs := unpack(wanted)) is None:
            raise LessonError(f"{self.out} holds no result of the solution for {probe.item}; grade without --regrade.")
        inputs = self._draw(job.lesson.stem, job.attempt)[probe.item]
        return probe.verdicts(unpack(raw.files.get(probe.file)), theirs, inputs)

    # --- judge ------------------------------------------------------------------------------------------------------

    def judge(self) -> list[dict]:
        """Give the points from what was kept; write grades.csv, grades.json, manual.csv and a page per student."""
        by_hand, seen, rows = manual.read(self.out / "manual.csv"), {}, []
        for student in self.students:
            try:
                self._remark_copies(student, seen)
                row = self._row(student, by_hand)
            except LessonError:
                raise  # the grading itself is not complete
            except Exception as error:  # this student's alone
                student.error = f"could not be graded: {type(error).__name__}: {shown(error)}"
                row = self._row(student, by_hand)
            rows.append(row)
        questions = [cell for lesson in self.lessons for cell in lesson.of_kind("manual")]
        manual.write(self.out / "manual.csv", rows, questions, by_hand)
        report.write_table(self.out / "grades.csv", rows)
        write_json(self.out / "grades.json", rows)
        return rows

    def _row(self, student: Student, by_hand: dict) -> dict:
        """Row and page of a student."""
        judged = [self._score(cell, lesson, student, by_hand) for lesson in self.lessons for cell in lesson.items]
        scores, images = [score for score, _ in judged], {score.item: found for score, found in judged}
        remarks = filter(None, [student.error, *student.errors.values(), *student.remarks])
        row = {"student": student.name, **totals(scores), "remarks": list(dict.fromkeys(map(shown, remarks)))}
        row["scores"] = [asdict(score) for score in scores]
        row["notebooks"] = {stem: {"edited": submission.edited} for stem, submission in student.submissions.items()}
        row["notebooks"] |= {stem: {"error": shown(error)} for stem, error in student.errors.items()}
        write_json(self.out / "students" / f"{student.name}.json", row)
        with atomic_path(self.out / "students" / f"{student.name}.html") as temporary:
            temporary.write_text(shown(report.page(row, images)), encoding="utf-8")
        return row

    def _remark_copies(self, student: Student, seen: dict[str, str]) -> None:
        """A file of an optimisation that two students share to the last bit was not made twice."""
        names = {hand_in.file for hand_in in handins.HAND_INS.values()}
        for path in student.files:
            if path.name in names and path.stat().st_size <= handins.MOST_BYTES:
                first = seen.setdefault(sha256(path), student.name)
                if first != student.name:
                    student.remarks.append(f"{path.name} is the same file as that of {first}")

    def _score(self, cell: Cell, lesson: Lesson, student: Student, by_hand: dict) -> tuple[Score, dict]:
        """Points of one item, and images for the page by name."""
        part = cell.part or lesson.stem
        score = Score(lesson.stem, cell.item, cell.title, cell.kind, cell.points, 0.0, part, cell.bonus)
        if cell.kind == "manual":
            score.written = student.written(lesson, cell.item)
            given = by_hand.get((student.name, cell.item), {"points": None, "comment": ""})
            score.points, score.reason = given["points"], given["comment"]
            if score.points is None and not score.written and not student.error:
                score.points, score.reason = 0.0, score.reason or "nothing was written"
        elif student.error:
            score.points, score.reason = None, student.error
        elif cell.kind == "handin":
            measured = handins.judge(cell.item, student.files)
            score.expected = handins.HAND_INS[cell.item].expected
            return score.judged(measured.verdicts), {n: image.numpy() for n, image in measured.images.items()}
        else:
            score = self._judge_exercise(score, cell, lesson, student)
        return score, {}

    def _judge_exercise(self, score: Score, cell: Cell, lesson: Lesson, student: Student) -> Score:
        probe = self.probes[lesson.stem][cell.item]
        score.expected = probe.expected
        if lesson.stem not in student.submissions or lesson.stem in student.errors:
            why = student.errors.get(lesson.stem, "the notebook was not handed in")
            return score.judged([Verdict("", 1.0, 0.0, why)])
        job = Job(lesson, student.submissions[lesson.stem], self.out / "raw" / student.name / lesson.stem)
        job.attempt, raw = _read(job.place / "submission.json").get("attempt", 0), read_raw(job.place)
        verdicts = self._verdicts(probe, raw, job)
        if unpack(raw.files.get(probe.file)) is None:
            verdicts = [Verdict("", 1.0, 0.0, _why_nothing(cell, job, raw))]
        return self._forgive(score.judged(verdicts), probe, job)

    def _forgive(self, score: Score, probe: Probe, job: Job) -> Score:
        """Points of a run next to solutions of earlier exercises, where they are more; its result is not shown."""
        for path in sorted(job.place.glob(f"{FOLLOW}*/run.json")):
            about = _read(path)
            if score.item in about["tested"] and score.item not in about["references"]:
                again = score.judged(self._verdicts(probe, read_raw(path.parent), job))
                if again.points > score.points:
                    names = [f"{e.item} {e.name}" for e in job.lesson.exercises if e.item in about["references"]]
                    note = f"graded with the solution of {', '.join(names)} instead of yours"
                    score = replace(again, note=note, reason="; ".join(filter(None, [again.reason, note])))
        return score


def _why_nothing(cell: Cell, job: Job, raw: Raw) -> str:
    """The student's own error where there is one, else how the run ended."""
    if cell.item not in job.submission.answers:
        return "the exercise's code cell is not there"
    if cell.item in job.submission.stubs:
        return "not done: the cell is as it was handed out"
    failed = [record for record in raw.cells if record["error"]]
    for kind in ("answer", "probe"):
        for record in failed:
            if record["cell"].startswith(item_id(kind, cell.item)):
                return record["error"][:300]
    reasons = {"time": "the time ran out", "memory": "too much memory", "processes": "too many processes"}
    reasons |= {"output": "too much output", "killed": "the run was killed"}
    last = failed[-1]["error"] if failed else ""
    return reasons.get(raw.ended, last[:300] or "no result came out of the sandbox")


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
    extra = [score for score in scores if score.bonus]
    bonus = min(BONUS_CAP, sum(score.points or 0.0 for score in extra))
    found = {"total": round(sum(parts.values()) + bonus, 2), "of": sum(s.most for s in scores if not s.bonus)}
    found |= {"parts": parts, "bonus": bonus, "bonus_of": min(BONUS_CAP, sum(score.most for score in extra))}
    return found | {"open": [score.item for score in scores if score.points is None]}


def grade(folder: str | Path, out: str | Path, *, regrade: bool = False, **options) -> list[dict]:
    """Grade a folder of submissions and return a row per student; with ``regrade`` nothing is run.

    LessonError for a folder without submissions, a course that does not grade, a gradebook that cannot be read;
    ValueError where no sandbox works and ``unsafe`` was not given.
    """
    grading = Grading(Path(folder), Path(out), **options)
    if not regrade:
        grading.run()
    return grading.judge()
