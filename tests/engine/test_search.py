"""The one loop: an optimisation, and a chain of them."""

import math
import threading
from dataclasses import dataclass, replace

import pytest
import torch

from helpers.losses import Loss
from helpers.optimizers import Optimization as optimize
from helpers.optimizers import constant, cosine
from helpers.search import Chain, Phase, Result, divide, marks

TARGETS = torch.tensor([[1.0, -2.0], [0.3, 0.5], [-1.5, 0.0]])
both_kinds = pytest.mark.parametrize("kind", ("adam", "lbfgs"))


def banana(parameters, index=slice(None)):
    """Rosenbrock's valley, bent towards each sample's own target."""
    x, y = (parameters[0] - TARGETS[index]).unbind(1)
    return Loss((1 - x).square() + 10 * (y - x.square()).square(), {"x": (1 - x).square()})


def bowl(parameters, index=slice(None)):
    return Loss((parameters[0] - TARGETS[index]).square().sum(1), {})


def start():
    return torch.zeros(3, 2)


def run(optimization):
    return torch.stack([step.total for step in optimization])


@both_kinds
def test_a_batch_gives_what_its_samples_give(kind):
    together = optimize([start()], banana, steps=30, optimizer=kind)
    totals = run(together)
    for i in range(3):
        one = slice(i, i + 1)
        alone = optimize([start()[one]], lambda p, _, one=one: banana(p, one), steps=30, optimizer=kind)
        assert torch.allclose(totals[:, one], run(alone), atol=1e-4)
        assert torch.allclose(together.parameters[0][i], alone.parameters[0][0], atol=1e-4)
        assert torch.allclose(together.best_total[i], alone.best_total[0], atol=1e-4)


def test_the_minimum_is_found_by_rates_that_follow_the_schedule():
    adam = optimize([start()], bowl, steps=150)
    lbfgs = optimize([start()], banana, steps=80, lr=0.5, optimizer="lbfgs")
    for optimization, minimum in ((adam, TARGETS), (lbfgs, TARGETS + 1)):
        run(optimization)
        assert torch.allclose(optimization.best[0], minimum, atol=0.02) and (optimization.best_total < 1e-3).all()

    def loss(parameters, index):
        return Loss(sum((p - 1).abs().flatten(1).sum(1) for p in parameters), {})

    pair = [torch.zeros(2, 3), torch.zeros(2, 1, 4, 4)]
    optimize(pair, loss, steps=5, lr=[0.1, 0.01], schedule=constant()).step()
    assert all(torch.allclose(p, torch.tensor(rate)) for p, rate in zip(pair, (0.1, 0.01), strict=True))  # Adam's first
    factor = cosine(ramp=0.1, decay=0.4)
    assert [factor(t) for t in (0, 0.05, 0.1, 0.3, 0.6, 0.8, 1)] == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0])
    assert cosine(ramp=0, decay=0)(0) == cosine(ramp=0, decay=0)(1) == constant()(0.3) == 1
    rates = [step.lr for step in optimize([start()], bowl, steps=10, lr=0.5, schedule=lambda progress: progress)]
    assert rates == pytest.approx([0.5 * (i + 0.5) / 10 for i in range(10)])
    rates = [step.lr for step in optimize([start()], bowl, steps=50, lr=0.5)]
    assert min(rates) > 0 and max(rates) == 0.5 and rates[0] < 0.5 > rates[-1]  # none is lost on a rate of 0


def test_a_step_reports_the_loss_before_its_update_and_the_best_of_each_sample_is_kept():
    parameter = start()
    expected = banana([parameter]).total
    optimization = optimize([parameter], banana, steps=4, lr=0.01, schedule=constant())
    for number, step in enumerate(optimization, 1):
        assert torch.equal(step.total, expected)
        expected = banana([parameter]).total.detach()
        assert step.number == number == optimization.number and step.lr == 0.01
        assert not step.total.requires_grad and not step.parts["x"].requires_grad
    assert number == len(optimization) == 4
    assert {name: len(values) for name, values in optimization.history.items()} == {"total": 4, "x": 4}
    assert torch.equal(optimization.best_total, expected) and torch.equal(optimization.best[0], parameter)
    totals, seen = torch.tensor([[3.0, 2, 9], [1, 4, 8], [2, 1, 7], [5, 6, 6]]), []

    def loss(parameters, index):
        (p,) = parameters
        seen.append(p.detach().clone())
        return Loss(totals[len(seen) - 1] + (p - p.detach()).sum(1), {})  # a gradient of 1

    optimization = optimize([start()], loss, steps=3)
    run(optimization)
    assert torch.equal(optimization.best_total, torch.tensor([1.0, 1, 6]))
    assert torch.equal(optimization.best[0], torch.stack([seen[1][0], seen[2][1], seen[3][2]]))
    assert len({tuple(p[0].tolist()) for p in seen}) == 4


def test_a_loss_may_change_under_way_and_smaller_parts_go_through_where_memory_runs_out(monkeypatch):
    parameter, goal, made, room = torch.zeros(1, 2), {"at": 1.0}, [], 2
    monkeypatch.setattr("helpers.optimizers.RECORDING", ("cpu",))  # as on a card
    monkeypatch.setattr("helpers.optimizers.Recording", lambda loss, _: made.append(goal["at"]) or loss)

    def loss(parameters, index):
        return Loss((parameters[0] - goal["at"]).square().sum(1), {})

    optimization = optimize([parameter], loss, steps=200, lr=0.1, schedule=constant())
    optimization.fixed = lambda: goal["at"]
    for step in optimization:
        if step.number == 60:
            assert torch.allclose(parameter, torch.tensor(1.0), atol=0.05)
            goal["at"] = 3.0
            optimization.forget_best()
            assert optimization.best_total.isinf().all()
    assert all(torch.allclose(p, torch.tensor(3.0), atol=0.05) for p in (parameter, optimization.best[0]))
    assert made == [1.0, 3.0] and optimization.recording is None

    def crowded(parameters, index):
        if len(parameters[0]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return bowl(parameters, index)

    free, short = (optimize([start()], loss, steps=5) for loss in (bowl, crowded))
    with pytest.warns(UserWarning, match="too short for all 3 at once: now 2 at a time"):
        run(free), run(short)
    assert torch.allclose(short.best_total, free.best_total, rtol=1e-5)
    room, short = 0, optimize([start()], crowded, steps=5)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="too short for one sample alone"):
        run(short)


@both_kinds
def test_gradients_flow_where_they_are_switched_off(kind):
    runs = [optimize([start()], banana, steps=3, optimizer=kind) for _ in range(3)]
    run(runs[0])
    with torch.no_grad():
        run(runs[1])
    thread = threading.Thread(target=torch.no_grad()(lambda: run(runs[2])))
    thread.start()
    thread.join()
    assert all(torch.equal(other.parameters[0], runs[0].parameters[0]) for other in runs)


def spoilt(parameters, index):
    """The valleys of ``banana``; sample 1 is never a number, nor is its gradient."""
    loss = banana(parameters, index)
    return Loss(loss.total * torch.where(torch.arange(3)[index] == 1, math.nan, 1.0), loss.parts)


def walled(parameters, index):
    """The valleys of ``banana``; sample 1 has no loss beyond a wall, which it meets after its first step."""
    loss, moved = banana(parameters, index), (parameters[0].detach() != 0).any(1)
    return Loss(torch.where((torch.arange(3)[index] == 1) & moved, math.inf, loss.total), loss.parts)


def others(parameters, index):
    """The valleys of samples 0 and 2 alone."""
    return banana(parameters, torch.tensor([0, 2])[index])


@both_kinds
@pytest.mark.parametrize("loss", [spoilt, walled])
def test_a_sample_without_a_finite_loss_is_frozen_and_no_other_notices(kind, loss):
    alone, held = (optimize([p], f, steps=8, optimizer=kind) for p, f in ((torch.zeros(2, 2), others), (start(), loss)))
    totals = run(alone)
    with pytest.warns(UserWarning, match=r"sample 2 of 3 is NaN or infinite at step \d+: it is frozen at its"):
        assert torch.equal(run(held)[:, ::2], totals)
    assert held.frozen.tolist() == [False, True, False]
    assert not held.best[0][1].any() and not held.parameters[0][1].any()
    assert held.best_total[1].isfinite() == (loss is walled)
    for ours, theirs in ((held.parameters[0], alone.parameters[0]), (held.best_total, alone.best_total)):
        assert torch.equal(ours[::2], theirs)


@both_kinds
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_without_a_finite_loss_stops_the_loop_and_keeps_the_best(kind, value):
    calls = []

    def loss(parameters, index):
        calls.append(1)
        loss = bowl(parameters, index)
        return Loss(loss.total * value, loss.parts) if len(calls) > 4 else loss

    optimization = optimize([start()], loss, steps=50, lr=0.1, optimizer=kind)
    with pytest.raises(ValueError, match="loss became NaN or infinite at step .* lower the") as error:
        run(optimization)
    assert "\n" not in str(error.value)
    assert torch.allclose(bowl(optimization.best).total, optimization.best_total)


@both_kinds
def test_in_chunks_the_result_is_the_same(kind):
    sizes = []

    def counted(parameters, index):
        sizes.append(len(parameters[0]))
        return bowl(parameters, index)

    free = optimize([start()], bowl, steps=5, optimizer=kind)
    with pytest.warns(UserWarning, match="too short for all 3 at once: now 2 at a time"):
        short = optimize([start()], counted, steps=5, optimizer=kind, chunk=2)
    assert torch.allclose(run(short), run(free), rtol=1e-4)
    assert sizes == [2, 1] * 6
    for ours, theirs in zip([*short.best, *short.parameters], [*free.best, *free.parameters], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5)


def make(kind, sample=banana):
    def loss(parameters, index):
        p, q = parameters
        bent = sample([p], index)
        return Loss(bent.total + (q.sum((1, 2)) - bent.parts["x"]).square(), bent.parts)

    return optimize([start(), torch.ones(3, 1, 2)], loss, steps=7, lr=[0.1, 0.05], optimizer=kind)


def everything(optimization):
    history = [torch.stack(optimization.history[name]) for name in ("total", "x")]
    return [*optimization.parameters, *optimization.best, optimization.best_total, optimization.frozen, *history]


@pytest.mark.filterwarnings("ignore:.*sample 2 of 3")
@both_kinds
@pytest.mark.parametrize("sample", [banana, walled])
def test_a_run_that_was_left_or_saved_continues_bitwise_and_its_state_is_not_touched(tmp_path, kind, sample):
    whole, first = make(kind, sample), make(kind, sample)
    run(whole)
    for step in first:
        if step.number == 3:
            break
    state = first.state_dict()
    torch.save(state, tmp_path / "state.pt")
    assert [step.number for step in first] == [4, 5, 6, 7]
    for saved in (None, state, torch.load(tmp_path / "state.pt", weights_only=True), state):
        other = make(kind, sample) if saved else first
        if saved:
            other.load_state_dict(saved)
            assert other.number == 3 and bool(other.frozen[1]) == (sample is walled) and len(run(other)) == 4
        for a, b in zip(everything(other), everything(whole), strict=True):
            assert torch.equal(a, b)


def test_steps_of_lbfgs_are_bounded_and_a_flat_place_and_a_saddle_do_not_break_them():
    optimization = optimize([start()], banana, steps=20, lr=0.05, optimizer="lbfgs")
    before, lengths = start(), []
    for _ in optimization:
        lengths.append((optimization.parameters[0] - before).square().mean(1).sqrt())
        before = optimization.parameters[0].clone()
    assert max(length.max().item() for length in lengths) <= 0.05 * 1.0001
    assert lengths[0].min().item() == pytest.approx(0.05, rel=1e-4)  # nothing is known of the curvature yet

    def loss(parameters, index):
        (p,) = parameters
        return Loss(torch.stack([p[0].sum() * 0, p[1].cos().sum(), p[2].square().sum()]), {})

    p = torch.tensor([[0.2, 0.1]]).repeat(3, 1)
    run(optimize([p], loss, steps=60, lr=0.3, optimizer="lbfgs"))
    assert torch.equal(p[0], torch.tensor([0.2, 0.1])) and p[2].abs().max() < 1e-3
    assert torch.allclose(p[1].cos(), torch.tensor(-1.0), atol=1e-3)  # from the top, where the curvature is negative


@dataclass
class Descent(Chain):
    """One parameter (3, 2) down the bowl, in phases of which each starts where the one before was best."""

    phases: tuple = (Phase(share=1), Phase(share=3))
    steps: int = 8
    stop: int = 99

    def _begin(self, phase, steps):
        found = self.runs[-1].best[0].clone() if self.runs else start()
        return optimize([found], bowl, steps=steps, lr=0.1, schedule=constant())

    def _step(self, phase, run, step):
        return replace(step, parts={"share": phase.share})

    @property
    def done(self):
        return self.number >= self.stop

    def result(self):
        loss = bowl(self.runs[-1].best)
        return Result(self.runs[-1].best[0], loss.total, loss.parts, **self.facts())


class Outer(Descent):
    """The same with a search in each phase."""

    def _begin(self, phase, steps):
        return Descent(steps=steps)


@pytest.mark.parametrize("kind", [Descent, Outer])
def test_a_chain_counts_through_its_phases_and_continues_where_it_was_left(kind):
    whole, parts, again = kind(), kind(), kind()
    steps = list(whole)
    assert [step.number for step in steps] == list(range(1, 9)) and len(whole) == whole.number == 8
    assert [step.parts["share"] for step in steps] == [1] * 2 + [3] * 6
    assert list(whole) == []  # there are no more
    with pytest.raises(ValueError, match="has not taken a step yet"):
        parts.facts()
    for step in parts:
        if step.number == 3:
            break
    again.load_state_dict(parts.state_dict())
    assert again.number == 3 and [step.number for step in again] == [4, 5, 6, 7, 8]
    assert torch.equal(again.facts()["history"]["total"], whole.facts()["history"]["total"])


def test_a_phase_starts_from_the_best_of_the_one_before_takes_its_share_and_marks_what_froze():
    search = Descent()
    result = search.run()
    assert torch.equal(result.history["total"][2], search.runs[0].best_total)
    assert result.steps == 8 and result.history["total"].shape == (8, 3) and not result.frozen.any()
    early = Descent(stop=4)
    assert len(list(early)) == 4 and list(early) == [] and early.result().steps == 4

    class Spoilt(Descent):
        def _begin(self, phase, steps):
            return optimize([start()], walled if not self.runs else bowl, steps=steps)

    with pytest.warns(UserWarning, match="sample 2 of 3"):
        result = Spoilt().run()
    assert result.frozen.tolist() == [False, True, False] and marks(result) == marks(result, 1) == {"frozen": 1}
    for steps, shares, expected in (
        (10, (0.3, 0.7), [3, 7]),
        (7, (1,), [7]),
        (2, (0.3, 0.7), [1, 1]),
        (3, (0.99, 0.01), [2, 1]),
        (4, (0.9, 0.05, 0.05), [2, 1, 1]),
        (1, (0.3, 0.7), [1, 1]),  # each phase needs a step
        (12, (1,) * 8, [2, 2, 2, 2, 1, 1, 1, 1]),
        (500, (200, 200, 100), [200, 200, 100]),
    ):
        assert divide(steps, shares) == expected
