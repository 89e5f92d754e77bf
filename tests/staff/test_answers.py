"""Every exercise's probe and visible check: what is right scores full, what is plausibly wrong its part, never full."""

import ast
import importlib
import inspect
import os
import re
from contextlib import redirect_stderr
from io import StringIO

import numpy as np
import pytest
import torch

from helpers.course import check
from helpers.course.closed import KEPT
from helpers.course.expect import CheckFailed
from staff.grading.authoring import read_course, stub
from staff.grading.probe import unpack
from staff.grading.probes import probes_of
from tests.support.answers import answers_of, changed, namespace_of

EXERCISES = {
    exercise.item: (lesson, exercise, below)
    for lesson in read_course()
    for exercise, below in zip(lesson.exercises, lesson.of_kind("check"), strict=True)
}
SEEDS = range(5)


@pytest.fixture
def emitted(tmp_path, monkeypatch):
    """What the inserted cell writes, run here as it is run in the kernel; None where it fails."""
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("GRADING_WORK", str(tmp_path))

    def run(probe, namespace, inputs, fails=True):
        for name, data in probe.job(inputs).items():
            (tmp_path / name).write_bytes(data)
        path = tmp_path / "results" / probe.file
        path.unlink(missing_ok=True)
        try:
            with redirect_stderr(StringIO()):
                exec(compile(probe.cell(), probe.item, "exec"), namespace)
        except Exception:
            if not fails:
                raise
            return None
        return unpack(path.read_bytes())

    return run


def share(verdicts):
    assert sum(v.share for v in verdicts) == pytest.approx(1)
    return sum(v.share * v.right for v in verdicts)


@pytest.mark.parametrize("item", EXERCISES)
def test_answers_get_the_points_that_they_must_get(item, emitted):
    lesson, exercise, _ = EXERCISES[item]
    probe, namespace = probes_of(lesson)[item], namespace_of(lesson)
    right = [low == 1 for low, *_ in answers_of(item)]
    assert probe.name == exercise.name and right.count(True) >= 5 and right.count(False) >= 8
    inputs = {seed: probe.draw(seed) for seed in SEEDS}
    want = {seed: emitted(probe, dict(namespace), drawn, fails=False) for seed, drawn in inputs.items()}
    off = []
    for low, high, changes, _ in answers_of(item):
        scope, said = dict(namespace), {}
        exec(compile(changed(exercise.source, changes), item, "exec"), scope)
        for seed in inputs if low is not None else ():
            verdicts = probe.verdicts(emitted(probe, scope, inputs[seed]), want[seed], inputs[seed])
            got = share(verdicts)
            if not low - 0.02 <= got <= high + 0.02 or (high < 1 and got > 0.99):
                off.append((changes, seed, round(got, 3), (low, high)))
            for part in verdicts:
                said.setdefault(part.part, set()).add(part.reason)
        hints = [{reason for reason in reasons if reason and "shape" not in reason} for reasons in said.values()]
        off += [f"a page says how far off an answer is: {hint}" for hint in hints if len(hint) > 1]
    assert not off, "\n".join(map(str, off))


def allowed():
    """Every function, class and method of what is there while grading."""
    for file, names in KEPT.items():
        module = importlib.import_module(f"helpers.{file.removesuffix('.py').replace('/', '.')}")
        for value in [getattr(module, name) for name in names or vars(module)]:
            if callable(value) and str(getattr(value, "__module__", "")).startswith("helpers."):
                yield value
                yield from (v for v in vars(value).values() if inspect.isclass(value) and inspect.isfunction(v))


@pytest.mark.parametrize("item", EXERCISES)
def test_made_up_numbers_and_stubs_score_nothing(item, emitted):
    lesson, exercise, _ = EXERCISES[item]
    probe, namespace = probes_of(lesson)[item], namespace_of(lesson)
    inputs = probe.draw(3)
    torch.set_grad_enabled(False)  # as a student may have left it
    try:
        want = emitted(probe, namespace, inputs, fails=False)
    finally:
        torch.set_grad_enabled(True)
    assert share(probe.verdicts(want, want, inputs)) == pytest.approx(1)
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
    scored = {name: share(probe.verdicts(got, want, inputs)) for name, got in wrong.items()}
    assert {name: score for name, score in scored.items() if score > 0} == {}
    assert len(list(allowed())) > 20
    for candidate in allowed():
        assert share(probe.verdicts(emitted(probe, {probe.name: candidate}, inputs), want, inputs)) == 0, candidate
    exec(compile(stub(exercise.source, exercise.item), exercise.item, "exec"), namespace)
    with pytest.raises(NotImplementedError, match=f"Exercise {exercise.item}"):
        emitted(probe, namespace, inputs, fails=False)


def test_inputs_are_drawn_from_generators_of_their_own_and_unknown_checks_are_named():
    """Nothing global is asked or set: threads cannot disturb each other, and a student's seed cannot matter."""
    probes = [probe for lesson in read_course() for probe in probes_of(lesson).values()]
    before = torch.get_rng_state()
    first = [probe.draw(7) for probe in probes]
    assert torch.equal(torch.get_rng_state(), before) and os.environ.get("PYTHONHASHSEED") is None
    torch.manual_seed(1)
    for probe, inputs, another in zip(probes, first, (probe.draw(7, attempt=1) for probe in probes), strict=True):
        again, other = probe.draw(7), probe.draw(8)
        assert any(not np.array_equal(other[name], value) for name, value in inputs.items()), probe.item
        assert all(np.array_equal(again[name], value) for name, value in inputs.items()), probe.item
        assert any(not np.array_equal(another[name], value) for name, value in inputs.items()), probe.item
    with pytest.raises(AttributeError, match="no check 'gram'; the checks are sample_noise, .*transfer"):
        check.gram  # noqa: B018


@pytest.mark.parametrize("item", EXERCISES)
def test_a_check_tells_right_from_wrong_and_says_why(item, capsys):
    lesson, exercise, below = EXERCISES[item]
    assert exercise.source.count("### BEGIN SOLUTION") == exercise.source.count("### END SOLUTION") == 1
    call, namespace, off = ast.parse(below.source).body[0].value, namespace_of(lesson), []
    assert below.source.startswith("check.") and call.args[0].id == exercise.name
    namespace["tqdm"] = lambda iterable, **_: iterable
    for *_, changes, expected in answers_of(item):
        scope = dict(namespace)
        exec(compile(changed(exercise.source, changes), item, "exec"), scope)
        try:
            getattr(check, call.func.attr)(scope[exercise.name])
            said = ""
        except (CheckFailed, TypeError) as error:  # the latter where a mistake ends an answer itself
            said = str(error)
        if bool(said) != bool(expected) or not re.search(expected, said):
            off.append((changes, said, expected))
    assert not off, "\n".join(map(str, off))
    assert set(capsys.readouterr().out.splitlines()) == {f"{call.func.attr}: passed"}
