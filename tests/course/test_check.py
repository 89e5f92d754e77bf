"""The self-checks pass the solutions of the notebooks and refuse wrong ones with a message that helps."""

import ast
import io
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import pytest
import torch

from helpers.course import check
from helpers.course.check import CheckFailed
from helpers.latents import Latents, load_latents
from helpers.optimizers import cosine

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def exercises(path: Path) -> list[tuple[str, str, dict, str]]:
    """(name, source, metadata, source of the cell below) of every exercise cell."""
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    found = []
    for cell, below in zip(code, [*code[1:], None], strict=True):
        if cell.source.startswith("# EXERCISE: "):
            name = cell.source.splitlines()[0].removeprefix("# EXERCISE: ")
            found.append((name, cell.source, cell.metadata, below.source))
    return found


ALL = [(path.stem, *exercise) for path in NOTEBOOKS for exercise in exercises(path)]


def solution(name: str) -> object:
    """The authored solution, run in a namespace with what its notebook imports."""
    namespace = {"torch": torch, "Latents": Latents, "load_latents": load_latents, "cosine": cosine}
    namespace["tqdm"] = lambda iterable, **_: iterable
    notebook = next(stem for stem, other, *_ in ALL if other == name)
    for stem, _, source, *_ in ALL:
        if stem == notebook:
            exec(compile(source, name, "exec"), namespace)
    return namespace[name]


@pytest.mark.parametrize("exercise", ALL, ids=[f"{stem}-{name}" for stem, name, *_ in ALL])
def test_an_exercise_is_marked_up_and_its_solution_passes(exercise):
    _, name, source, metadata, below = exercise
    assert source.count("### BEGIN SOLUTION") == source.count("### END SOLUTION") == 1
    assert metadata["course"]["points"] > 0 and metadata["course"]["id"]
    call = ast.parse(below).body[0].value
    assert below.startswith("check.") and call.args[0].id == name
    with redirect_stdout(io.StringIO()) as out:
        getattr(check, call.func.attr)(solution(name))
    assert out.getvalue().endswith("passed\n")


def expect_refused(checker, wrong, *words):
    with pytest.raises(CheckFailed) as caught:
        checker(wrong)
    assert all(word in str(caught.value) for word in words), caught.value


def test_sample_noise_refuses_a_global_seed_and_rows_that_differ():
    right = solution("sample_noise")

    def unseeded(generator, space, n=1, seed=0):
        return right(generator, space, n, seed=torch.randint(1 << 30, ()).item())

    def parted(generator, space, n=1, seed=0):
        code = right(generator, space, n, seed)
        return code + torch.randn(code.shape) if space == "w+" else code

    def uniform(generator, space, n=1, seed=0):
        return torch.rand(n, *generator.code_shape(space), generator=torch.Generator().manual_seed(seed))

    expect_refused(check.sample_noise, unseeded, "seed")
    expect_refused(check.sample_noise, parted, "every row")
    expect_refused(check.sample_noise, uniform, "standard normal")
    expect_refused(check.sample_noise, lambda *_: None, "Tensor")


def test_criterion_refuses_a_mean_over_the_batch_a_lost_weight_and_target_features_at_every_step():
    right = solution("Criterion")

    class Mean(right):
        def forward(self, images, delta):
            return super().forward(images, delta).mean()

    class Halved(right):
        def forward(self, images, delta):
            return super().forward(images, delta) / 2

    class Wasteful(right):
        def forward(self, images, delta):
            self.features(self.target, self.layers)
            return super().forward(images, delta)

    expect_refused(check.criterion, Mean, "shape", "(3,)")
    expect_refused(check.criterion, Halved, "too small")
    expect_refused(check.criterion, Wasteful, "kept already")


def test_optimization_step_refuses_gradients_that_pile_up_and_the_mean():
    def piling(optimizer, delta, loss_function):
        loss = loss_function(delta)
        loss.sum().backward()
        optimizer.step()
        return loss.detach()

    def mean(optimizer, delta, loss_function):
        optimizer.zero_grad()
        loss = loss_function(delta)
        loss.mean().backward()
        optimizer.step()
        return loss.detach()

    def idle(optimizer, delta, loss_function):
        return loss_function(delta).detach()

    expect_refused(check.optimization_step, piling, "old gradients")
    expect_refused(check.optimization_step, mean, "summed")
    expect_refused(check.optimization_step, idle, "did not move")


def test_project_refuses_the_start_and_a_worse_code_than_the_best():
    right = solution("project")

    def returns_start(generator, criterion, start, space, steps=150, lr=0.1):
        return start, right(generator, criterion, start, space, steps, lr)[1]

    def returns_worse(generator, criterion, start, space, steps=150, lr=0.1):
        code, history = right(generator, criterion, start, space, steps, lr)
        return start + 0.8 * (code - start), history

    expect_refused(check.project, returns_start, "fall well below")
    expect_refused(check.project, returns_worse, "best")


def test_interpolate_refuses_the_straight_line_in_z():
    def straight(a, b, t, space):
        t = t.reshape(-1, *[1] * (a.ndim - 1))
        return a + t * (b - a)

    expect_refused(check.interpolate, straight, "sphere")
