"""The real lessons: what students get, and that every exercise can be graded."""

import importlib
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from helpers.course.check_notebook import _closed_course, check_notebook, table
from helpers.course.lessons import Lesson, LessonError, lessons_of, manifest_of, read_course, read_lesson, stub
from helpers.course.submission import match, pruned, read_submission
from helpers.latents import Latents, save_latents
from helpers.states import State, save_state
from staff.grading import cuts, handins
from staff.grading.grade import BONUS_CAP, Score, totals
from staff.grading.probe import as_near, pack, unpack
from staff.grading.probes import probes_of
from staff.grading.release import ROOT, release, solutions
from tests.support import tiny_course
from tests.support.tiny_course import Notebook

LESSONS = read_course(ROOT)
EXERCISES = [(lesson, exercise) for lesson in LESSONS for exercise in lesson.exercises]
NAMES = [f"{exercise.item}-{exercise.name}" for _, exercise in EXERCISES]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    out = tmp_path_factory.mktemp("release") / "course"
    release(out)
    return out


@pytest.fixture(scope="module")
def answers():
    return {lesson.stem: solutions(lesson) for lesson in LESSONS}


@pytest.fixture
def tiny(tmp_path):
    tiny_course.make_course(tmp_path / "tiny")
    return tmp_path / "tiny"


# --- exercises ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lesson", "exercise"), EXERCISES, ids=NAMES)
def test_a_stub_is_its_solution_without_the_answer(lesson, exercise):
    lines = stub(exercise.source, exercise.item).splitlines()
    raised = [line for line in lines if "NotImplementedError" in line]
    assert {line.strip() for line in raised} == {f'raise NotImplementedError("Exercise {exercise.item}")'}
    outside = re.sub(r"(?s) *### BEGIN SOLUTION.*?### END SOLUTION\n?", "", exercise.source + "\n").splitlines()
    assert [line for line in lines if line not in raised] == outside
    compile("\n".join(lines), exercise.item, "exec")


def emitted(probe, namespace, folder, seed=3):
    """What the inserted cell writes, run here as it is run in the kernel."""
    (folder / "results").mkdir(exist_ok=True)
    (folder / f"inputs-{probe.file}").write_bytes(pack(probe.draw(seed)))
    with redirect_stdout(StringIO()):
        exec(compile(probe.cell(), probe.item, "exec"), namespace)
    return unpack((folder / "results" / probe.file).read_bytes())


@pytest.mark.parametrize(("lesson", "exercise"), EXERCISES, ids=NAMES)
def test_a_probe_gives_the_solution_full_points_and_nothing_to_others(lesson, exercise, answers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    probe = probes_of(lesson)[exercise.item]
    assert probe.name == exercise.name
    want, inputs = emitted(probe, dict(answers[lesson.stem]), tmp_path), probe.draw(3)
    verdicts = probe.verdicts(want, want, inputs)
    assert sum(v.share for v in verdicts) == pytest.approx(1) and all(v.right == 1 for v in verdicts), verdicts
    random = np.random.default_rng(0)
    wrong = {
        "zeros": {name: np.zeros_like(value) for name, value in want.items()},
        "ones": {name: np.ones_like(value) for name, value in want.items()},
        "noise": {name: random.normal(size=value.shape) for name, value in want.items()},
        "NaN": {name: value * np.nan for name, value in want.items()},
        "empty": {name: value.ravel()[:0] for name, value in want.items()},
        "other shape": {name: value[None] for name, value in want.items()},
        "nothing": {},
    }
    scored = {name: sum(v.share * v.right for v in probe.verdicts(got, want, inputs)) for name, got in wrong.items()}
    assert {name: score for name, score in scored.items() if score > 0} == {}
    assert probe.verdicts(None, want, inputs)[0].right == 0


def test_pictures_are_compared_by_psnr_and_by_ssim():
    texture = 0.02 * torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    target = 0.5 + texture
    brighter, flat = target + 0.02, torch.full_like(target, 0.5)  # of one PSNR, and only one has the texture
    assert as_near(brighter, brighter, target) == (1, "")
    right, why = as_near(flat, brighter, target)
    assert right == 0 and re.search(r"PSNR 33.* dB and SSIM 0.*, the solution 34.0 dB and 1.00", why)
    assert as_near(target + 0.03, brighter, target)[0] == 0


@pytest.mark.parametrize(("lesson", "exercise"), EXERCISES, ids=NAMES)
def test_a_stub_fails_with_not_implemented_alone(lesson, exercise, answers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = dict(answers[lesson.stem])
    exec(compile(stub(exercise.source, exercise.item), exercise.item, "exec"), namespace)
    with pytest.raises(NotImplementedError, match=f"Exercise {exercise.item}"):
        emitted(probes_of(lesson)[exercise.item], namespace, tmp_path)


def test_ids_are_unique_and_points_follow_the_rubric_of_the_assignment():
    items = [cell.item for lesson in LESSONS for cell in lesson.items]
    assert len(items) == len(set(items))
    parts: dict[str, float] = {}
    for lesson in LESSONS:
        for cell in lesson.items:
            if not cell.bonus:
                parts[cell.part] = parts.get(cell.part, 0) + cell.points
    rubric = {"inversion": 30, "interpolation": 10, "sketch": 40, "content": 30, "texture": 30, "transfer": 40}
    there = {part: points for part, points in rubric.items() if part in parts}
    assert {"inversion", "interpolation"} <= set(there) and {part: parts[part] for part in there} == there


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_has_three_to_five_exercises_whose_heads_tell_points_minutes_and_difficulty(lesson):
    assert 3 <= len(lesson.exercises) <= 5
    texts = "\n".join(cell.source for cell in lesson.of_kind("text"))
    heads = re.findall(r"^### Exercise ([\d.]+) · .+ \((\d+) points, \d+ minutes, (?:easy|medium|hard)\)$", texts, re.M)
    assert heads == [(exercise.item, f"{exercise.points:g}") for exercise in lesson.exercises]


def test_bonus_items_add_up_to_a_cap():
    scores = [Score("1", str(i), "", "manual", 8, 7.0, part="a", bonus=i > 0) for i in range(3)]
    assert (totals(scores)["total"], totals(scores)["bonus"], totals(scores)["of"]) == (7 + BONUS_CAP, BONUS_CAP, 8)


# --- release --------------------------------------------------------------------------------------------------------


def test_a_release_holds_no_solution_no_probe_and_no_output(released):
    names = {path.relative_to(released).as_posix() for path in released.rglob("*")}
    assert not any(name.startswith(("tests", "staff/grading/probes", ".git/")) for name in names)
    for lesson in LESSONS:
        book = nbformat.read(released / "notebooks" / f"{lesson.stem}.ipynb", as_version=4)
        sources = {cell.id: cell.source for cell in book.cells}
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book.cells)
        for exercise in lesson.exercises:
            assert sources[exercise.id] == stub(exercise.source, exercise.item)
        assert "SOLUTION" not in "".join(sources.values())


def test_the_manifest_tells_cells_points_and_version(released):
    manifest = json.loads((released / "manifest.json").read_text())
    assert manifest["version"] and [x["stem"] for x in manifest["lessons"]] == [x.stem for x in LESSONS]
    read = read_course(released)
    assert [(c.item, c.points, c.kind) for x in read for c in x.items] == [
        (c.item, c.points, c.kind) for x in LESSONS for c in x.items
    ]
    assert all(cell["hash"] for x in manifest["lessons"] for cell in x["cells"])
    assert "### BEGIN" not in (released / "manifest.json").read_text()


def test_the_checks_of_a_release_still_tell_right_from_wrong(released, tmp_path):
    """In the release itself, where the bodies that they compared with are gone."""
    lesson = LESSONS[0]
    cells = [c.source for c in lesson.exercises] + [c.source for c in lesson.of_kind("check")]
    imports = "import torch\nfrom tqdm.auto import tqdm\nfrom staff.grading import check\n"
    imports += "from helpers.latents import Latents\nfrom helpers.optimizers import cosine\n"
    wrong = "def interpolate(a, b, t, space):\n    return torch.lerp(a, b, t.reshape(-1, *[1] * (a.ndim - 1)))\n"
    wrong += "from helpers.metrics import psnr\nprint(psnr(torch.full((2, 3, 8, 8), 0.1), torch.zeros(2, 3, 8, 8)))\n"
    tail = "try:\n    check.interpolate(interpolate)\nexcept check.CheckFailed as error:\n    print(error)\n"
    (tmp_path / "run.py").write_text("\n".join([imports, *cells, wrong, tail]))
    done = subprocess.run(
        [sys.executable, tmp_path / "run.py"],
        env={"PYTHONPATH": str(released), "PATH": ""},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.endswith(": passed")] == [f"{e.name}: passed" for e in lesson.exercises], (
        done
    )
    assert lines[-2] == "tensor([19.8313, 19.8313])" and "sphere" in lines[-1]  # 26 / 255 in dB


def test_a_release_goes_only_to_a_new_folder_and_only_from_the_authored_course(released):
    with pytest.raises(LessonError, match="not empty"):
        release(released)
    with pytest.raises(LessonError, match="student release"):
        release(released.parent / "other", root=released)


def test_every_body_of_the_tables_is_there_and_is_closed(tmp_path):
    files = {*(cut.file for cut in cuts.CUTS), *cuts.CLOSED}
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / file).read_text())
    cuts.cut_release(tmp_path)
    cuts.close_for_grading(tmp_path)
    for file in files:
        compile((tmp_path / file).read_text(), file, "exec")
    closed = (tmp_path / "helpers/metrics.py").read_text()
    assert cuts.CLOSED_BODY in closed and "Peak signal-to-noise ratio" in closed
    with pytest.raises(LessonError, match="has no nothing"):
        cuts.replace_body(tmp_path / "helpers/metrics.py", "nothing", "pass")


def test_a_cut_body_takes_the_students_function(monkeypatch):
    with pytest.raises(NotImplementedError, match="Exercise 9.9"):
        cuts.yours("not_there_yet", "9.9")
    monkeypatch.setattr(sys.modules["__main__"], "not_there_yet", abs, raising=False)
    assert cuts.yours("not_there_yet", "9.9") is abs


def test_every_exercise_has_its_body_cut_or_named_with_a_reason():
    cut = dict(re.findall(r'yours\("(\w+)", "([\d.]+)"\)', " ".join(c.body for c in cuts.CUTS)))
    known = {exercise.name: exercise.item for _, exercise in EXERCISES}
    assert cut.items() <= known.items()
    assert set(cut.values()) | set(cuts.KEPT) == set(known.values()) and not set(cut.values()) & set(cuts.KEPT)
    for name, reason in cuts.KEPT.values():
        file, _, function = name.replace(".", "/", name.count(".") - 1 - name.split(".")[-2][0].isupper()).partition(
            "."
        )
        closed = cuts.CLOSED.get(f"helpers/{file}.py", ())
        assert reason and (any(c.startswith(function) for c in closed) or function == "Generator.sample"), name
    for cut in cuts.CUTS:
        module, _, function = cut.reference.rpartition(".")
        assert not cut.reference or hasattr(importlib.import_module(module), function)


ASK = """
import numpy as np
import torch
from helpers import blending, latents, noise, sketch

z, pictures = torch.ones(1, 4), torch.rand(3, 1, 3, 8, 8)
mask = torch.zeros(1, 1, 8, 8)
mask[..., 4:] = 1
asked = {
    "1.5": lambda: latents.interpolate(latents.Latents("z", z), latents.Latents("z", -2 * z), 0.5),
    "2.3": lambda: noise.fresh_noise_psnr(None, pictures[0], None),
    "3.3": lambda: blending.seam(*pictures, mask),
    "4.1": lambda: sketch.read_sketch(np.full((8, 8, 4), 255, np.uint8), 8),
}
for item, ask in asked.items():
    try:
        print(item, type(ask()).__name__)
    except NotImplementedError as error:
        print(error)
"""


def ask(released, tmp_path):
    (tmp_path / "ask.py").write_text(ASK)
    environment = {"PYTHONPATH": str(released), "PATH": ""}
    done = subprocess.run([sys.executable, tmp_path / "ask.py"], env=environment, capture_output=True, text=True)
    return done.stdout.splitlines(), done.stderr


def test_a_cut_body_answers_with_the_students_saved_solution_or_not_at_all(released, tmp_path):
    lines, errors = ask(released, tmp_path)
    assert lines == [f"Exercise {item}" for item in ("1.5", "2.3", "3.3", "4.1")], errors
    path = released / "notebooks" / f"{LESSONS[2].stem}.ipynb"
    before = path.read_text()
    book = nbformat.reads(before, as_version=4)
    next(c for c in book.cells if "EXERCISE: seam" in c.source).source = EXERCISES[NAMES.index("3.3-seam")][1].source
    nbformat.write(book, path)
    lines, errors = ask(released, tmp_path)
    path.write_text(before)
    assert [line for line in lines if "3.3" in line] == ["3.3 Tensor"], errors


def test_what_answers_an_exercise_is_closed_to_notebooks_and_open_to_the_course(tmp_path):
    _closed_course(ROOT, tmp_path / "course")
    code = f"""
import importlib, inspect
for file, names in {cuts.CLOSED!r}.items():
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    for name in names:
        function = module
        for part in name.split("."):
            function = getattr(function, part)
        needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty and p.kind < 2]
        for scope in ("__main__", "helpers.x"):
            try:
                scope_of_call = {{"__name__": scope, "f": function, "n": [None] * len(needed)}}
                eval("[*v] if hasattr(v := f(*n), '__next__') else v", scope_of_call)
                print(scope, name, "open")
            except NotImplementedError as error:
                print(scope, name, "closed")
            except Exception:
                print(scope, name, "open")
"""
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "PATH": ""}
    command, course = [sys.executable, "-c", code], tmp_path / "course"
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)
    seen = [line.split() for line in done.stdout.splitlines()]
    assert len(seen) == 2 * sum(map(len, cuts.CLOSED.values())), done.stderr
    assert [line for line in seen if (line[0] == "__main__") != (line[2] == "closed")] == []


# --- marking up -----------------------------------------------------------------------------------------------------


def lesson_of(tmp_path, *cells):
    path = tmp_path / "01_x.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", **cell} for cell in cells], "nbformat": 4}))
    return read_lesson(path)


@pytest.mark.parametrize(
    ("source", "course", "says"),
    [
        ("# EXERCISE: f\ndef f():\n    pass", {"id": "1", "points": 1}, "BEGIN SOLUTION"),
        ("# EXERCISE: f\n### BEGIN SOLUTION\npass", {"id": "1", "points": 1}, "END SOLUTION"),
        ("# EXERCISE: f\n### END SOLUTION\n### BEGIN SOLUTION", {"id": "1", "points": 1}, "do not pair"),
        ("# EXERCISE: f\n### BEGIN SOLUTION\n### END SOLUTION", {"id": "1"}, "no points"),
    ],
)
def test_wrong_mark_up_is_refused(tmp_path, source, course, says):
    with pytest.raises(LessonError, match=says):
        lesson_of(tmp_path, {"source": source, "metadata": {"course": course}})


def test_no_notebook_no_course_and_no_submissions_are_one_sentence(tmp_path):
    (tmp_path / "x.ipynb").write_text("not json")
    with pytest.raises(LessonError, match="no notebook that can be read"):
        read_lesson(tmp_path / "x.ipynb")
    with pytest.raises(LessonError, match="notebooks with exercises"):
        read_course(tmp_path)


def test_a_manifest_is_read_back(tiny):
    (lesson,) = read_course(tiny)
    (again,) = lessons_of(json.loads(json.dumps(manifest_of([lesson], "1"))))
    assert isinstance(again, Lesson) and [c.kind for c in again.cells] == [c.kind for c in lesson.cells]
    assert again.exercises[0].source == stub(lesson.exercises[0].source, "1.1")


# --- submissions ----------------------------------------------------------------------------------------------------


def test_changed_missing_and_written_cells_are_told(tiny):
    (lesson,) = read_course(tiny)
    book = Notebook(tiny)
    changed = book.find("lesson-1")
    changed["source"] = changed["source"].replace("0.5", "0.75")
    changed["id"] = "lost"  # found by its text all the same
    book.cells.remove(book.find("check-3"))
    book.find("question")["source"] += "\n\nBecause."
    book.find("exercise-2")["cell_type"] = "markdown"
    book.write(tiny / "student.ipynb")
    found = read_submission(tiny / "student.ipynb", lesson)
    assert ["+print(mix1(np.zeros(2), np.ones(2), 0.75)" in d for _, d in found.edited] == [True]
    assert found.missing[0] == "1.2" and "check.mix3" in found.missing[1] and len(found.missing) == 2
    assert found.texts[-1].endswith("Because.")
    assert [item for item, _ in found.order] == [f"1.{n}" for n in (1, *range(3, 11))]
    with pytest.raises(LessonError, match="500"):
        match([{"type": "code", "id": "", "source": "1", "metadata": {}}] * 501, lesson)


def test_a_graded_notebook_sets_up_what_its_cells_use_and_nothing_else():
    lines = ["import numpy as np", "import torch", "A = load(np)", "A.freeze()", "def f(x):\n    return torch.abs(x)"]
    setup = ["first()", "\n".join(lines)]
    assert pruned(setup, ["def g(np, A):\n    return f(np)"]) == ["first()", "\n".join([lines[1], lines[4]])]
    assert pruned(setup, ["def g(x):\n    return x + A"]) == ["first()", "\n".join([lines[0], *lines[2:4]])]
    assert pruned(setup, ["x = 1"]) == ["first()", "pass"]
    for code in ("eval('A')", "%timeit A", "this is no Python", "import helpers"):
        assert pruned(setup, [code]) == (setup if code != "import helpers" else ["first()", "pass"])
    assert pruned(setup, ["import helpers\nhelpers.x"]) == setup


def test_the_self_check_says_what_passes_and_what_does_not(tiny):
    book = Notebook(tiny)
    book.answer(2, 'raise NotImplementedError("Exercise 1.2")')
    book.answer(3, "return a")
    book.cells.remove(book.find("exercise-4"))
    book.write(tiny / "student.ipynb")
    rows = {row["exercise"]: row["result"] for row in check_notebook(tiny / "student.ipynb", tiny)}
    assert rows["1.1"] == "passed" and rows["1.2"] == "NotImplementedError: Exercise 1.2"
    assert rows["1.3"] == "AssertionError: mix3 is wrong" and rows["1.4"] == "its code cell is not there"
    assert table([{"exercise": "1.1", "title": "t", "points": 2, "result": "passed"}]).endswith(
        "2 of 2 points pass the visible checks"
    )


# --- hand-ins -------------------------------------------------------------------------------------------------------


def test_handed_in_latents_are_drawn_and_measured(tmp_path):
    generator = handins._generator()
    target = Latents("w+", generator.mean("w+"))
    save_latents(tmp_path / "handin" / "01_inversion.safetensors", target)
    measured = handins.judge(handins.HAND_INS["1.6"], tmp_path)
    assert set(measured.pictures) == {"yours", "photo"} and 0 <= measured.verdicts[0].right < 1
    noise = Latents("w+", generator.mean("w+"), generator.fresh_noise(1, 5))
    save_latents(tmp_path / "02_noise.safetensors", noise)
    fitted, fresh = handins.judge(handins.HAND_INS["2.4"], tmp_path).verdicts
    assert "dB" in fitted.reason and "dB" in fresh.reason


def test_a_blend_is_measured_under_the_mask_that_comes_with_it(tmp_path):
    generator, path = handins._generator(), tmp_path / "03_blending.safetensors"
    latents = Latents("w+", generator.mean("w+"), generator.fixed_noise(1))
    half = torch.zeros(1, 1, 64, 64)
    half[..., :32] = 1
    save_state(path, State(latents, {"mask": half}))
    measured = handins.judge(handins.HAND_INS["3.4"], tmp_path)
    assert set(measured.pictures) == {"yours", "chelsea", "the drawn face", "mask"} and len(measured.verdicts) == 2
    for masks, says in (
        ({}, "expected a mask"),
        ({"mask": half * 0}, "covers 0 %"),
        ({"mask": half * 3}, "in \\[0, 1\\]"),
    ):
        save_state(path, State(latents, masks))
        (verdict,) = handins.judge(handins.HAND_INS["3.4"], tmp_path).verdicts
        assert verdict.right == 0 and re.search(says, verdict.reason)


def test_what_cannot_be_measured_scores_nothing(tmp_path):
    hand_in, path = handins.HAND_INS["1.6"], tmp_path / "01_inversion.safetensors"
    assert "not handed in" in handins.judge(hand_in, tmp_path).verdicts[0].reason
    code = handins._generator().mean("w+")
    for bad in (Latents("w", code[:, 0]), Latents("w+", code.repeat(3, 1, 1)), Latents("w+", code * torch.nan)):
        save_latents(path, bad)
        assert handins.judge(hand_in, tmp_path).verdicts[0].right == 0
    path.write_bytes(b"\xff" * 100)
    assert handins.judge(hand_in, tmp_path).verdicts[0].right == 0
    path.write_bytes(bytes(handins.MOST_BYTES + 1))
    assert "plain file" in handins.judge(hand_in, tmp_path).verdicts[0].reason
    path.unlink()
    path.symlink_to(Path(ROOT / "data" / "generated" / "stylegan2-cats-64" / "latents.safetensors"))
    assert "not handed in" in handins.judge(hand_in, tmp_path).verdicts[0].reason
