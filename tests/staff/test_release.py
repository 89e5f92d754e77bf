"""The real lessons: what students get, and that every exercise can be graded."""

import json
import re
import subprocess
import sys
from collections import Counter

import nbformat
import pytest
import torch

from helpers import masks
from helpers.commands import check as student_check
from helpers.course.check_notebook import check_notebook
from helpers.course.closed import KEPT, close
from helpers.course.lessons import LessonError, read_cells, read_manifest
from helpers.course.submission import match, setup_cells
from helpers.latents import Latents, save_latents
from helpers.states import State, save_state
from staff.grading import handins
from staff.grading.authoring import ROOT, read_course, read_lesson, stub
from staff.grading.grade import BONUS_CAP, Score, totals
from staff.grading.release import release
from staff.grading.students import texts_of
from tests.support import tiny_course
from tests.support.tiny_course import Notebook

LESSONS = read_course(ROOT)
EXERCISES = [exercise for lesson in LESSONS for exercise in lesson.exercises]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    out = tmp_path_factory.mktemp("release") / "course"
    release(out, repository="https://github.com/school/course.git", branch="autumn")
    return out


@pytest.fixture
def tiny(tmp_path):
    tiny_course.make_course(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.item)
def test_a_stub_is_its_solution_without_the_answer(exercise):
    lines = stub(exercise.source, exercise.item).splitlines()
    raised = [line for line in lines if "NotImplementedError" in line]
    assert {line.strip() for line in raised} == {f'raise NotImplementedError("Exercise {exercise.item}")'}
    outside = re.sub(r"(?s) *### BEGIN SOLUTION.*?### END SOLUTION\n?", "", exercise.source + "\n").splitlines()
    assert [line for line in lines if line not in raised] == outside
    compile("\n".join(lines), exercise.item, "exec")


def test_ids_are_unique_points_follow_the_rubric_and_a_graded_notebook_loads_nothing():
    items = [cell.item for lesson in LESSONS for cell in lesson.items]
    assert len(items) == len(set(items))
    parts = Counter()
    for cell in (cell for lesson in LESSONS for cell in lesson.items if not cell.bonus):
        parts[cell.part] += cell.points
    rubric = {"inversion": 30, "interpolation": 10, "sketch": 40, "content": 30, "texture": 30, "transfer": 40}
    assert {part: parts[part] for part in rubric} == rubric
    head = r"^### Exercise ([\d.]+) · .+ \((\d+) points, \d+ minutes, (?:easy|medium|hard)\)$"
    for lesson in LESSONS:
        texts = "\n".join(cell.source for cell in lesson.of_kind("text"))
        found = re.findall(head, texts, re.M)
        assert found == [(exercise.item, f"{exercise.points:g}") for exercise in lesson.exercises]
        assert 3 <= len(found) <= 5
        first, *others = setup_cells(lesson).values()
        assert "describe_session" in first
        assert not re.search(r"^\w+ = .*\(", "\n".join(others), re.MULTILINE) and "import torch" in "\n".join(others)
    scores = [Score("1", str(i), "", "manual", 8, 7.0, part="a", bonus=i > 0) for i in range(3)]
    assert (totals(scores)["total"], totals(scores)["bonus"], totals(scores)["of"]) == (7 + BONUS_CAP, BONUS_CAP, 8)


def test_a_release_holds_no_solution_no_staff_and_no_output(released):
    names = {path.relative_to(released).as_posix() for path in released.rglob("*")}
    assert not any(name.startswith(("tests", "staff", "docs", "tools/make", ".git/")) for name in names)
    for lesson in LESSONS:
        book = nbformat.read(released / "notebooks" / f"{lesson.stem}.ipynb", as_version=4)
        sources = {cell.id: cell.source for cell in book.cells}
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book.cells)
        for exercise in lesson.exercises:
            assert sources[exercise.id] == stub(exercise.source, exercise.item)
        assert "SOLUTION" not in "".join(sources.values())
    for path in (released / "helpers").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) staff", path.read_text(), re.MULTILINE), path


def test_a_release_points_at_its_own_repository_and_branch_or_where_the_course_does(released, tmp_path):
    readme = (released / "README.md").read_text()
    for text in (path.read_text() for path in (released / "notebooks").glob("*.ipynb")):
        assert "https://github.com/school/course" in text and "--branch=autumn" in text
        assert "gan-photo-editing/gan-photo-editing" not in text and "v0.1.0" not in text
    badges = re.findall(r"colab\.research\.google\.com/github/(\S+?)\)", readme)
    assert badges == [f"school/course/blob/autumn/notebooks/{lesson.stem}.ipynb" for lesson in LESSONS]
    assert "git clone --branch=autumn https://github.com/school/course" in readme and "{" not in readme
    release(tmp_path / "course")
    assert "https://github.com/gan-photo-editing/gan-photo-editing" in (tmp_path / "course" / "README.md").read_text()


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_notebook_as_it_was_released_counts_as_unchanged(released, lesson):
    found = match(read_cells(released / "notebooks" / f"{lesson.stem}.ipynb"), lesson)
    assert (found.edited, found.stubs) == ([], [exercise.item for exercise in lesson.exercises])
    assert all(part.items or part.setup for part in found.order)


def test_a_release_has_no_dead_links_and_says_how_to_hand_in(released):
    texts = {path: path.read_text() for path in released.rglob("*.md")}
    for path in released.glob("notebooks/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for path, text in texts.items():
        for target in re.findall(r"\]\((?!https?:|#|attachment:|data:|mailto:)([^)\s#]+)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
    readme = (released / "README.md").read_text()
    assert all(hand_in.file in readme for hand_in in handins.HAND_INS.values()) and "helpers check" in readme
    makefile = (released / "Makefile").read_text()
    assert all((released / name).is_file() for name in re.findall(r"bash (\S+)", makefile))


CALLS = """
import sys
from helpers.__main__ import main
for words in ("check x", "bench", "grade x", "report x", "report README.md", "report notebooks/report.md", "--help"):
    sys.argv = ["helpers", *words.split()]
    try:
        main()
    except SystemExit as stop:
        print("code", stop.code)
"""


def test_no_command_of_a_release_ends_in_a_traceback(released):
    command, environment = [sys.executable, "-c", CALLS], {"PYTHONPATH": str(released), "PATH": ""}
    done = subprocess.run(command, cwd=released, env=environment, capture_output=True, text=True)
    assert re.findall(r"^code (\d)$", done.stdout, re.M) == [*"2222200"] and "Traceback" not in done.stderr
    assert "README.md shows https://" in done.stderr  # an image that the page would not hold
    assert (released / "output" / "report.html").read_text().count('src="data:image/png;base64,') == 1


def test_the_manifest_holds_the_course_and_a_release_goes_only_to_a_new_folder_and_from_the_authored_one(released):
    manifest, read = json.loads((released / "manifest.json").read_text()), read_manifest(released)
    assert manifest["version"] and all(cell["hash"] for lesson in manifest["lessons"] for cell in lesson["cells"])
    assert [lesson.stem for lesson in read] == [lesson.stem for lesson in LESSONS] and read_course(released) == read
    for ours, theirs in zip(LESSONS, read, strict=True):
        assert [c.kind for c in theirs.cells] == [c.kind for c in ours.cells]
        assert [(c.item, c.points, c.kind) for c in theirs.items] == [(c.item, c.points, c.kind) for c in ours.items]
        assert [e.source for e in theirs.exercises] == [stub(e.source, e.item) for e in ours.exercises]
    with pytest.raises(LessonError, match="not empty"):
        release(released)
    with pytest.raises(LessonError, match="student release"):
        release(released.parent / "other", root=released)


ASK = """
from helpers import blending, latents, metrics, noise, sketch
from helpers.course import check
from helpers.latents import Latents, load_latents
from helpers.notebooks import describe_session
from helpers.optimizers import cosine
from helpers.losses import *
print(Latents("w", 1), cosine()(0.5), describe_session()[:14])
for ask in (latents.interpolate, noise.fresh_noise_psnr, blending.seam, metrics.psnr, load_latents, check.psnr):
    try:
        print(ask(), "is open")
    except NotImplementedError as error:
        print(error)
"""


def test_the_closed_course_answers_no_exercise(tmp_path):
    close(ROOT, tmp_path / "course")
    files = {path.relative_to(tmp_path / "course" / "helpers").as_posix() for path in tmp_path.rglob("*.py")}
    assert files == {"__init__.py", "notebooks.py", *KEPT}
    done = subprocess.run([sys.executable, "-c", ASK], cwd=tmp_path / "course", capture_output=True, text=True)
    first, *lines = done.stdout.splitlines()
    assert first == "Latents(space='w', code=1, noise=None) 1.0 Exercises only", done.stderr
    assert len(lines) == 6 and all(line.endswith("write it yourself") for line in lines)


@pytest.mark.parametrize(
    ("source", "points", "says"),
    [
        ("# EXERCISE: f\ndef f():\n    pass", {"points": 1}, "BEGIN SOLUTION"),
        ("# EXERCISE: f\n### BEGIN SOLUTION\npass", {"points": 1}, "END SOLUTION"),
        ("# EXERCISE: f\n### END SOLUTION\n### BEGIN SOLUTION", {"points": 1}, "do not pair"),
        ("# EXERCISE: f\n### BEGIN SOLUTION\n### END SOLUTION", {}, "no points"),
        (None, {}, "not a notebook that can be read"),
    ],
)
def test_wrong_mark_up_is_refused(tmp_path, source, points, says):
    cell = {"cell_type": "code", "source": source, "metadata": {"course": {"id": "1"} | points}}
    text = json.dumps({"cells": [cell], "nbformat": 4}) if source else "not json"
    (tmp_path / "01_x.ipynb").write_text(text)
    with pytest.raises(LessonError, match=says):
        read_lesson(tmp_path / "01_x.ipynb")
    with pytest.raises(LessonError, match="notebooks with exercises"):
        read_course(tmp_path)


def test_changed_missing_and_written_cells_are_reported_and_the_self_check_says_what_passes(tiny):
    (lesson,) = read_course(tiny)
    book = Notebook(tiny)
    changed = book.find("lesson-1")
    changed["source"] = changed["source"].replace("0.5", "0.75")
    changed["id"] = "lost"  # found by its text all the same
    book.cells.remove(book.find("check-3"))
    book.find("question")["source"] += "\n\nBecause."
    book.find("exercise-2")["cell_type"] = "markdown"
    book.write(tiny / "student.ipynb")
    cells = read_cells(tiny / "student.ipynb")
    found = match(cells, lesson)
    assert [[line[:2] for line in changes.split("\n")] for changes in found.edited] == [["- ", "+ "]]
    assert "np.ones(2), 0.75)" in found.edited[0] and "1.2" not in found.answers
    assert texts_of(cells, lesson)[-1] == ("1.Q", "Because.")
    assert [p.items for p in found.order if not p.setup] == [(f"1.{n}",) for n in (1, *range(3, 11))]
    with pytest.raises(LessonError, match="500"):
        match([{"type": "code", "id": "", "source": "1", "metadata": {}}] * 501, lesson)
    book = Notebook(tiny)
    book.answer(2, 'raise NotImplementedError("Exercise 1.2")')
    book.answer(3, "return a")
    book.cells.remove(book.find("exercise-4"))
    book.write(tiny / "student.ipynb")
    rows = {row["exercise"]: row["result"] for row in check_notebook(tiny / "student.ipynb", read_course(tiny), tiny)}
    assert rows["1.1"] == "passed" and rows["1.2"] == "NotImplementedError: Exercise 1.2"
    assert rows["1.3"] == "AssertionError: mix3 is wrong" and rows["1.4"] == "its code cell is not there"


@pytest.mark.parametrize(("kinds", "warned"), [(["unsafe"], 1), (["bubblewrap", "unsafe"], 0)])
def test_the_self_check_says_where_there_is_no_sandbox(kinds, warned, monkeypatch, capsys):
    monkeypatch.setattr(student_check, "available", lambda: kinds)
    monkeypatch.setattr(student_check, "check_notebook", lambda *_: [{"points": 5, "result": "passed"}])
    student_check.show_checks("x.ipynb")
    said = capsys.readouterr()
    assert said.err.count("your code runs with your own rights") == warned and "5 of 5 points" in said.out


@pytest.mark.parametrize("rows", handins.MODELS)
def test_handed_in_latents_are_measured_and_a_blend_under_the_mask_that_comes_with_it(rows, tmp_path):
    generator = handins._generator(rows)
    paths = [tmp_path / "01_inversion.safetensors", tmp_path / "02_noise.safetensors"]
    for path, noise in zip(paths, (None, generator.fresh_noise(1, 5)), strict=True):
        save_latents(path, Latents("w+", generator.mean("w+"), noise))
    measured = handins.judge("1.6", paths)
    assert set(measured.images) == {"yours", "photo"} and 0 <= measured.verdicts[0].right < 1
    assert all(image.shape[2:] == (generator.resolution,) * 2 for image in measured.images.values())
    assert ["dB" in verdict.reason for verdict in handins.judge("2.5", paths).verdicts] == [True, True]
    path = tmp_path / "03_blending.safetensors"
    latents = Latents("w+", generator.mean("w+"), generator.fixed_noise(1))
    half = masks.half(generator.resolution)
    save_state(path, State(latents, {"mask": half}))
    measured = handins.judge("3.4", [path])
    assert set(measured.images) == {"yours", "chelsea", "the drawn face", "mask"} and len(measured.verdicts) == 2
    for kept, says in (({}, "a mask"), ({"mask": half * 0}, "covers 0 %"), ({"mask": half * 3}, "in [0, 1]")):
        save_state(path, State(latents, kept))
        (verdict,) = handins.judge("3.4", [path]).verdicts
        assert verdict.right == 0 and says in verdict.reason


def test_what_cannot_be_measured_scores_nothing(tmp_path):
    path, code, reasons = tmp_path / "01_inversion.safetensors", handins._generator(10).mean("w+"), []

    def judge(*files):
        (verdict,) = handins.judge("1.6", list(files)).verdicts
        assert verdict.right == 0
        reasons.append(verdict.reason)

    judge()
    for bad in (Latents("w", code[:, 0]), Latents("w+", code.repeat(3, 1, 1)), Latents("w+", code * torch.nan)):
        save_latents(path, bad)
        judge(path)
    for content in (b"\xff" * 100, bytes(handins.MOST_BYTES + 1)):
        path.write_bytes(content)
        judge(path)
    path.unlink()
    path.symlink_to(ROOT / "data" / "generated" / "stylegan2-cats-64" / "latents.safetensors")
    judge(path)
    assert "not handed in" in reasons[0] and "NaN" in reasons[3] and all("plain file" in r for r in reasons[5:])
