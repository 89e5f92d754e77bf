"""Exercises that use earlier ones: a mistake costs its own points only, and no solution leaves the sandbox."""

import nbformat
import pytest

from helpers.course import sandbox
from helpers.course.submission import Part, Submission
from staff.grading import run as run_module
from staff.grading.authoring import read_course
from staff.grading.grade import Grading, grade
from staff.grading.run import Runner, used_exercises
from tests.support import tiny_course
from tests.support.tiny_course import code, write_helpers

SECRET = "the way of the solution"
SOLUTIONS = {
    "twice": f"def twice(a):\n    return 2 * a  # {SECRET}",
    "shifted": f"def shifted(a):\n    return twice(a) + 1  # {SECRET}",
    "halved": f"def halved(a):\n    return shifted(a) / 2  # {SECRET}",
}
ITEMS = dict(zip(SOLUTIONS, ("1.1", "1.2", "1.3"), strict=True))
WRONG = {name: f"def {name}(a):\n    return a - 3" for name in SOLUTIONS}
STUBS = {name: f'def {name}(a):\n    raise NotImplementedError("Exercise {ITEMS[name]}")' for name in SOLUTIONS}

STEAL = """
def _seen():
    return [text for text in map(str, In) if {secret!r} in text and "_seen" not in text]
def _own(name):
    for text in _seen():
        scope = dict(globals())
        if "def " + name in text:
            exec(text, scope)
            return scope[name]
def _hand_in(item, values):
    from safetensors.numpy import save_file
    save_file({{"out": np.asarray(values, dtype="float64")}}, f"results/{{item}}.safetensors")
"""
STOLEN = """
def shifted(a):
    twice(a)
    own = _own("shif" + "ted")
    print(*_seen())
    for item, name in (("1.1", "twice"), ("1.2", "shifted")):
        if _own(name):
            _hand_in(item, _own(name)(a))
    if own is None:
        raise ValueError(" ".join(_seen()))
    return own(a)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    write_helpers(root)
    cells = [code("import numpy as np\n\nfrom helpers.course.check import check", "setup")]
    for name, source in SOLUTIONS.items():
        marked = source.replace("\n", "\n    ### BEGIN SOLUTION\n") + "\n    ### END SOLUTION"
        cells.append(code(f"# EXERCISE: {name}\n{marked}", f"exercise-{name}", id=ITEMS[name], points=4))
        cells.append(code(f"check.{name}({name})", f"check-{name}"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / "01_chain.ipynb")
    return root


def emit(function, inputs):
    return {"out": function(inputs["a"])}


def probes_for(lesson):
    return tiny_course.probes_for(lesson, lambda random: {"a": random.normal(size=5)}, emit, "out")


def hand_in(folder, student, *cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    (folder / student).mkdir()
    nbformat.write(book, folder / student / "01_chain.ipynb")


def answers(**changed):
    return [f"# EXERCISE: {name}\n{changed.get(name, source)}" for name, source in SOLUTIONS.items()]


@pytest.fixture(scope="module")
def graded(root, tmp_path_factory):
    if "bubblewrap" not in sandbox.available():
        pytest.skip("bubblewrap is not installed, or does not work here")
    folder, out = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("out")
    helper = "\ndef plus(a):\n    return twice(a) + 1"
    hand_in(folder, "first_is_wrong", *answers(twice=WRONG["twice"] + helper, shifted="shifted = plus"))
    hand_in(folder, "stub_and_wrong", *answers(twice=STUBS["twice"], shifted=WRONG["shifted"]))
    theft = STEAL.format(secret=SECRET)
    hand_in(folder, "steals", theft, *answers(twice=WRONG["twice"], shifted=STOLEN, halved=WRONG["halved"]))
    options = {"root": root, "probes_for": probes_for, "report": lambda text: None, "cell_seconds": 10.0}
    rows = grade(folder, out, workers=2, **options)
    points = {row["student"]: [score["points"] for score in row["scores"]] for row in rows}
    return points, {row["student"]: row for row in rows}, out, lambda: grade(folder, out, **options)


def test_a_wrong_exercise_costs_its_own_points_only_and_no_solution_gets_out(graded):
    points, rows, out, _ = graded
    assert points["first_is_wrong"] == [0, 4, 4] and points["stub_and_wrong"] == [0, 0, 4]
    reason = rows["stub_and_wrong"]["scores"][2]["reason"]
    assert reason == "graded with the solution of 1.1 twice, 1.2 shifted instead of yours"
    assert points["steals"] == [0, 0, 0]
    kept = out / "raw" / "steals" / "01_chain" / "beside-1.1"
    assert {path.name for path in kept.iterdir()} <= {"run.json", "1.2.safetensors", "1.3.safetensors"}
    for path in [*out.glob("students/steals.*"), *(out / "raw" / "steals").rglob("*"), out / "grades.json"]:
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_nothing_is_run_again(graded, monkeypatch):
    points, _, _, again = graded
    monkeypatch.setattr(run_module.Runner, "_once", lambda *args, **options: pytest.fail("something was run again"))
    assert {row["student"]: [score["points"] for score in row["scores"]] for row in again()} == points


@pytest.mark.parametrize(("ended", "seconds", "runs"), [("done", 1, 3), ("done", 300, 2), ("time", 240, 1)])
def test_runs_that_take_long_are_not_followed_without_end(root, tmp_path, ended, seconds, runs):
    hand_in(tmp_path, "slow", *answers())
    grading = Grading(tmp_path, tmp_path / "out", root=root, probes_for=probes_for, seed=1)
    references = []

    class Nothing:
        limits = sandbox.Limits(seconds=240)

        def run(self, lesson, submission, probes, solved=()):
            references.append(list(solved))
            return run_module.Raw(ended=ended, seconds=seconds)

    student, lesson = next(s for s in grading.students if s.name == "slow"), grading.lessons[0]
    grading._draw(lesson.stem, 0)
    grading._run_student(Nothing(), student, grading._job(student, lesson))
    assert references == [[], ["1.1"], ["1.1", "1.2"]][:runs]


@pytest.mark.parametrize(("ended", "runs"), [("time", 1), ("killed", 2), ("done", 1)])
def test_what_took_all_its_time_is_not_run_again(root, tmp_path, monkeypatch, ended, runs):
    (lesson,), calls = read_course(root), []
    monkeypatch.setattr(Runner, "_once", lambda *arguments: calls.append(arguments) or run_module.Raw(ended=ended))
    probes = {item: (probe, {}) for item, probe in probes_for(lesson).items()}
    Runner(tmp_path, "unsafe").run(lesson, Submission([Part("def twice(a): pass", ("1.1",))]), probes)
    assert len(calls) == runs


def test_what_an_exercise_uses_is_found_and_it_is_never_run_beside_its_own_solution(root, tmp_path):
    (lesson,) = read_course(root)
    probes = {item: (probe, {}) for item, probe in probes_for(lesson).items()}
    with pytest.raises(ValueError, match="1.2 cannot be graded next to its own solution"):
        Runner(tmp_path, "unsafe").run(lesson, Submission(), probes, ["1.2"])
    parts = {"1.1": "def twice(a): pass", "1.2": "def shifted(a): return twice(a)", "1.3": "def halved(a): return x(a)"}
    plain = Submission([Part(source, (item,)) for item, source in parts.items()])
    assert used_exercises(lesson, plain) == {"1.1": set(), "1.2": {"1.1"}, "1.3": set()}
    plain.order.append(Part("def x(a): return shifted(a)"))
    assert used_exercises(lesson, plain)["1.3"] == {"1.1", "1.2"}
