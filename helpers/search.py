"""The one loop: every search of the five lessons is a ``Chain`` of phases, and each phase is an ``Optimization``.

To write a search, subclass Chain:

1. ``phases``: a sequence of Phase (or a subclass with more fields); ``share`` divides ``steps`` among them. Where the
   steps of each phase are fixed, they are the shares, and ``steps`` is their sum.
2. ``_begin(phase, steps)`` returns the phase's run, which starts from ``self.runs[-1]``, the phase before it (if any):
   an ``Optimization(parameters, loss, steps=steps, ...)``, or another search whose result the next phase builds on.
   ``loss(parameters, index)`` is a Loss of the samples ``index``; usually ``criterion(images, offset, index)``.
3. ``_step(phase, run, step)`` returns the Step with what a viewer needs (``latents``, ``render``).
4. ``result()`` returns Result(..., **self.facts()): facts are the history, seconds, steps and frozen samples.
5. ``done`` (optional) ends the search early.

The rest is inherited: ``len``, iterating, leaving the loop and continuing it, ``number``, ``seconds``, ``frozen``,
``forget_best()`` after a change of weights, ``run()``, ``state_dict`` and ``load_state_dict``. The criterion is a
subclass of ``losses.WeightedSum``: it only computes ``parts(images, offset, index)``.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from helpers.latents import Latents
from helpers.losses import Loss
from helpers.optimizers import OPTIMIZERS, BatchLBFGS, Schedule, cosine, line_search


class OptimizationError(ValueError):
    """The optimisation cannot start or cannot continue; ``best`` parameters stay available on the Optimization."""


class OptimizationWarning(UserWarning):
    """A run continues without a sample whose loss is not finite, or in smaller parts."""


@dataclass(frozen=True)
class Phase:
    """Part of a search.

    Attributes:
        space: of the latents; None stays in the space of the start.
        share: of the steps, in proportion to those of the other phases.
        lr: learning rate of the code in standard deviations of its space; None is the search's own.
        free: what moves, "code", "noise" or both.
    """

    space: str | None = None
    share: float = 1.0
    lr: float | None = None
    free: tuple[str, ...] = ("code",)


@dataclass
class Step:
    """One step of a search.

    Attributes:
        number: 1 for the first step.
        total: (B,) loss of the parameters before this step's update.
        parts: named parts of it, unweighted, each (B,).
        lr: learning rate of the step.
        latents: the current ones, after the update; None for a search of pixels.
        render: makes the current images.
    """

    number: int
    total: Tensor
    parts: dict[str, Tensor]
    lr: float
    latents: Latents | None = None
    render: Callable[[], Tensor] | None = None

    @torch.no_grad()
    def images(self) -> Tensor:
        """Current images (B, 3, H, W) in [0, 1]; made at each call."""
        return self.render().clamp(0, 1)


@dataclass
class Result:
    """What a search found, the best of each sample.

    Attributes:
        images: (B, 3, H, W) in [0, 1], exactly those of the latents.
        total: (B,) their loss.
        parts: its unweighted parts, each (B,).
        history: name to (steps, B), the losses along the way.
        seconds: wall time of the whole batch.
        steps: steps taken.
        frozen: (B,) bool, samples that stopped at their best, or at their start, because their loss was not finite.
        latents: a batch of B; None for a search of pixels.
    """

    images: Tensor
    total: Tensor
    parts: dict[str, Tensor]
    history: dict[str, Tensor]
    seconds: float
    steps: int
    frozen: Tensor
    latents: Latents | None = None


def option(value, help: str, **facts):
    """A field of a search's options that is an option of the command line too, with its help and e.g. ``min=1``."""
    return field(default=value, metadata={"help": help, **facts})


class Optimization:
    """Minimise B independent problems as one batch; iterate over it for the steps, leave the loop to stop.

    Adam treats every component separately and the losses are summed over the batch, so the B problems do not interact.
    L-BFGS would couple them through its line search, so it has one optimizer per sample.

    A sample whose loss becomes NaN or infinite is frozen at its best point (or its start); the others are unaffected.

    Args:
        parameters: tensors (B, ...) to optimise, changed in place.
        loss: ``loss(parameters, index)`` gives the Loss of the samples ``index`` of the batch.
        steps: number of steps; L-BFGS makes up to 20 evaluations in each.
        lr: learning rate, one number or one per parameter.
        optimizer: "adam", "lbfgs" (torch's, with strong Wolfe line search, sample by sample) or "lbfgs-batch" (all
            samples at once, one evaluation a step; see BatchLBFGS, whose longest step is ``lr``).
        schedule: factor of the learning rate over the progress (Adam only).
        chunk: samples that are evaluated at once, see ``memory.chunk_that_fits``; None is all.
        scale: factor of the loss in the gradient alone, against Adam's epsilon.

    Attributes:
        best: parameters of the smallest loss so far, per sample.
        best_total: (B,) that loss, infinite where none was ever finite.
        history: name to list of (B,) tensors, the losses of every step.
        frozen: (B,) bool, samples that stopped because their loss was not finite.
        seconds: wall time of the steps so far.

    Raises:
        OptimizationError: for an unknown optimizer, no steps, a rate that is not positive, or when all are frozen.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        loss: Callable[[list[Tensor], slice], Loss],
        *,
        steps: int = 500,
        lr: float | list[float] = 0.1,
        optimizer: str = "adam",
        schedule: Schedule | None = None,
        chunk: int | None = None,
        scale: float = 1.0,
    ):
        rates = [lr] * len(parameters) if isinstance(lr, int | float) else list(lr)
        _check(optimizer, steps, rates)
        self.parameters = [p.requires_grad_() for p in parameters]
        self.loss, self.steps, self.rates, self.kind = loss, steps, rates, optimizer
        self.schedule, self.scale = schedule or cosine(), scale
        self.number, self.history, self.seconds = 0, {}, 0.0
        batch, device = len(parameters[0]), parameters[0].device
        self.chunk = min(chunk or batch, batch)
        if self.chunk < batch:
            _warn(f"the memory is too short for all {batch} at once: now {self.chunk} at a time.")
        self.frozen = torch.zeros(batch, dtype=torch.bool, device=device)
        self.forget_best()
        self.samples = [self._views(slice(i, i + 1)) for i in range(batch)] if optimizer == "lbfgs" else []
        self.optimizers = [line_search(sample) for sample in self.samples] or [self._joint()]

    def _joint(self) -> torch.optim.Optimizer:
        if self.kind == "lbfgs-batch":
            return BatchLBFGS(self.parameters, reach=self.rates[0])
        groups = [{"params": [p], "lr": r} for p, r in zip(self.parameters, self.rates, strict=True)]
        return torch.optim.Adam(groups, betas=(0.9, 0.999))

    def _views(self, index: slice) -> list[Tensor]:
        """The parameters of some samples; an update of them writes into the batch."""
        return [p.detach()[index].requires_grad_() for p in self.parameters]

    def forget_best(self) -> None:
        """Forget the best so far; call it when the loss has changed its meaning, e.g. after a weight was moved."""
        self.best = [p.detach().clone() for p in self.parameters]
        self.best_total = torch.full(self.frozen.shape, math.inf, device=self.frozen.device)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Step]:
        while self.number < self.steps:
            yield self.step()
        self.finish()

    def step(self) -> Step:
        """Take one step and return it."""
        started = time.perf_counter()
        with torch.enable_grad():  # grad mode is per thread: a panel's worker may start without it
            loss, lr = self._lbfgs_step() if self.kind == "lbfgs" else self._joint_step()
        self.number += 1
        for name, value in {"total": loss.total, **loss.parts}.items():
            self.history.setdefault(name, []).append(value)
        self.seconds += time.perf_counter() - started
        return Step(self.number, loss.total, loss.parts, lr)

    def _joint_step(self) -> tuple[Loss, float]:
        (optimizer,) = self.optimizers
        factor = self.schedule((self.number + 0.5) / self.steps) if self.kind == "adam" else 1.0
        if self.kind == "adam":
            for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
        loss = self._evaluate()
        self._keep(self.parameters, loss, slice(None))
        self._freeze(~loss.total.isfinite())
        optimizer.step()
        self._hold()
        return loss, self.rates[0] * factor

    def _evaluate(self, backward: bool = True) -> Loss:
        """Loss of all samples, and its gradients, chunk by chunk."""
        batch, losses = len(self.frozen), []
        whole = self.chunk == batch
        for p in self.parameters if backward else ():
            p.grad = None if whole else torch.zeros_like(p)
        for start in range(0, batch, self.chunk):
            index = slice(None) if whole else slice(start, min(start + self.chunk, batch))
            part = self.parameters if whole else self._views(index)
            loss = self.loss(part, index)
            if backward:
                (loss.total * self.scale).sum().backward(inputs=part)
                for p, ours in zip(self.parameters, part, strict=True):
                    if not whole and ours.grad is not None:
                        p.grad[index] = ours.grad
            losses.append(_detached(loss))
        return losses[0] if len(losses) == 1 else _joined(losses)

    def _lbfgs_step(self) -> tuple[Loss, float]:
        losses = [self._search_line(i) for i in range(len(self.samples))]
        return _joined(losses), 1.0

    def _search_line(self, i: int) -> Loss:
        """One step of a sample; gives the loss before it."""
        sample, index, found = self.samples[i], slice(i, i + 1), []

        def closure() -> Tensor:
            self.optimizers[i].zero_grad(set_to_none=True)
            loss = self.loss(sample, index)
            found.append(_detached(loss))
            if not loss.total.isfinite().all():
                raise _NotFinite
            self._keep(sample, loss, index)
            total = (loss.total * self.scale).sum()
            total.backward(inputs=sample)
            return total

        if not self.frozen[i]:
            try:
                self.optimizers[i].step(closure)
                return found[0]
            except _NotFinite:
                self._freeze(torch.arange(len(self.frozen), device=self.frozen.device) == i)
        with torch.no_grad():
            return found[0] if found else self.loss(sample, index)

    # --- what is not finite -----------------------------------------------------------------------------------------

    def _freeze(self, lost: Tensor) -> None:
        """Freeze samples (B,) bool. Raises OptimizationError when none is left."""
        new = lost & ~self.frozen
        if not new.any():
            return
        self.frozen |= new
        self._hold()
        if self.frozen.all():
            raise OptimizationError(
                f"the loss became NaN or infinite at step {self.number + 1}; lower the learning rate "
                f"(now {self.rates[0]:g}) or check the target for NaN. The best result so far is kept."
            )
        names = ", ".join(str(i + 1) for i in new.nonzero().flatten().tolist())
        _warn(
            f"the loss of sample {names} of {len(new)} is NaN or infinite at step {self.number + 1}: it is frozen at "
            "its best point (or its start); the other samples are unaffected."
        )

    @torch.no_grad()
    def _hold(self) -> None:
        """Put frozen samples at their best."""
        if self.frozen.any():
            for p, best in zip(self.parameters, self.best, strict=True):
                p.copy_(torch.where(_like(self.frozen, p), best, p))

    # --- the best so far --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _keep(self, parameters, loss: Loss, index: slice) -> None:
        """Remember the parameters of the smallest loss, per sample."""
        better = loss.total.detach() < self.best_total[index]
        self.best_total[index] = torch.where(better, loss.total.detach(), self.best_total[index])
        for best, now in zip(self.best, parameters, strict=True):
            best[index] = torch.where(_like(better, now), now.detach(), best[index])

    @torch.no_grad()
    def finish(self) -> None:
        """Judge the parameters after the last update too, and let go of the optimizer's memory."""
        self._keep(self.parameters, self._evaluate(backward=False), slice(None))
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def state_dict(self) -> dict:
        """All that an exact continuation needs; the loss itself is not part of it."""
        return {
            "number": self.number,
            "seconds": self.seconds,
            "parameters": [p.detach().clone() for p in self.parameters],
            "best": [b.clone() for b in self.best],
            "best_total": self.best_total.clone(),
            "frozen": self.frozen.clone(),
            "history": {name: torch.stack(values) for name, values in self.history.items()},
            "optimizers": [copy.deepcopy(optimizer.state_dict()) for optimizer in self.optimizers],  # it is live
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Continue where ``state_dict`` was taken."""
        for ours, theirs in zip(self.parameters, state["parameters"], strict=True):
            ours.copy_(theirs)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(saved))  # it would continue in the saved tensors
        self.number, self.seconds = state["number"], state["seconds"]
        self.best = [theirs.to(ours, copy=True) for ours, theirs in zip(self.parameters, state["best"], strict=True)]
        for name in ("best_total", "frozen"):
            setattr(self, name, state[name].to(self.frozen.device, copy=True))
        self.history = {name: list(values) for name, values in state["history"].items()}


class Chain:
    """A search: phases one after the other, each starting from the best of the one before.

    The top of this module says how to write one. Only the states of the runs are saved: with the same settings
    ``_begin`` makes the same run from the same states.
    """

    phases: Sequence[Phase]
    steps: int
    prepared: float = 0.0  # seconds spent before each phase

    def _begin(self, phase: Phase, steps: int) -> Optimization | Chain:
        raise NotImplementedError

    def _step(self, phase: Phase, run: Optimization | Chain, step: Step) -> Step:
        return step

    def result(self) -> Result:
        """The best so far and its images. Raises OptimizationError before the first step."""
        raise NotImplementedError

    @property
    def done(self) -> bool:
        """Whether the search has nothing more to do before its last step."""
        return False

    # --- the loop ---------------------------------------------------------------------------------------------------

    @cached_property
    def runs(self) -> list[Optimization | Chain]:
        """Runs of the phases begun so far, the current one last."""
        return []

    @property
    def division(self) -> list[int]:
        """Steps of each phase."""
        return divide(self.steps, [phase.share for phase in self.phases])

    def __len__(self) -> int:
        return sum(self.division)

    def __iter__(self) -> Iterator[Step]:
        """All steps; a loop that was left continues where it stopped."""
        if self.runs and self.done:
            return
        for i, phase in enumerate(self.phases):
            if i == len(self.runs):
                self._open()
            if i < len(self.runs) - 1:
                continue
            run, before = self.runs[i], self.number - self.runs[i].number
            for step in run:
                yield self._step(phase, run, replace(step, number=before + step.number))
                if self.done:
                    return

    def _open(self) -> None:
        """Begin the next phase."""
        started, i = time.perf_counter(), len(self.runs)
        self.runs.append(self._begin(self.phases[i], self.division[i]))
        self.prepared += time.perf_counter() - started

    def run(self) -> Result:
        """Take all steps and return the result."""
        for _ in self:
            pass
        return self.result()

    def forget_best(self) -> None:
        """Forget the best so far; call it after a change of ``criterion.weights`` while it runs."""
        if self.runs:
            self.runs[-1].forget_best()

    # --- what happened ----------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Steps taken."""
        return sum(run.number for run in self.runs)

    @property
    def seconds(self) -> float:
        """Wall time of the steps so far and of the preparation."""
        return self.prepared + sum(run.seconds for run in self.runs)

    @property
    def frozen(self) -> Tensor:
        """(B,) bool, which samples are frozen in any of the phases; see Optimization."""
        return torch.stack([run.frozen for run in self.runs]).any(0)

    @property
    def history(self) -> dict[str, list[Tensor]]:
        """Name to the losses (B,) of every step; losses that the current phase has not are left out."""
        return {name: [v for run in self.runs for v in run.history.get(name, [])] for name in self.runs[-1].history}

    def facts(self, keep=slice(None)) -> dict:
        """Fields of a Result that every search has, for the samples ``keep``."""
        if not self.number:
            raise OptimizationError("the search has not taken a step yet; iterate over it first.")
        history = {name: torch.stack(values)[:, keep].cpu() for name, values in self.history.items()}
        return {"history": history, "seconds": self.seconds, "steps": self.number, "frozen": self.frozen[keep]}

    # --- interrupt and resume ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Tensors and numbers from which the same settings continue exactly; ``torch.save`` takes it."""
        return {"runs": [run.state_dict() for run in self.runs]}

    def load_state_dict(self, state: dict) -> None:
        """Continue where ``state_dict`` was taken, in a search that has not begun."""
        for saved in state["runs"]:
            self._open()
            self.runs[-1].load_state_dict(saved)


def divide(steps: int, shares: Sequence[float]) -> list[int]:
    """Divide steps by shares: at least one each, and exact in sum where there are enough."""
    counts = []
    for later, share in zip(range(len(shares) - 1, 0, -1), shares, strict=False):
        left = steps - sum(counts) - later  # one is kept for each later phase
        counts.append(max(1, min(round(steps * share / sum(shares)), left)))
    return [*counts, max(1, steps - sum(counts))]


def optimize(parameters: list[Tensor], loss, **options) -> Optimization:
    """An ``Optimization`` to iterate over: ``for step in optimize([code], loss, steps=500, lr=0.1): ...``."""
    return Optimization(parameters, loss, **options)


def marks(result: Result, index=slice(None)) -> dict[str, int]:
    """The column of a row of results that says how many of its samples are frozen.

    index: the sample or samples of the row.
    """
    return {"frozen": int(result.frozen[index].sum())}


class _NotFinite(Exception):
    """A loss within a line search that is NaN or infinite."""


def _detached(loss: Loss) -> Loss:
    return Loss(loss.total.detach(), {name: value.detach() for name, value in loss.parts.items()})


def _joined(losses: list[Loss]) -> Loss:
    parts = {name: torch.cat([loss.parts[name] for loss in losses]) for name in losses[0].parts}
    return Loss(torch.cat([loss.total for loss in losses]), parts)


def _like(values: Tensor, parameter: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to go with a parameter."""
    return values.reshape(-1, *[1] * (parameter.ndim - 1))


def _warn(sentence: str) -> None:
    warnings.warn(sentence, OptimizationWarning, stacklevel=4)


def _check(optimizer: str, steps: int, rates: list[float]) -> None:
    if optimizer not in OPTIMIZERS:
        raise OptimizationError(f"the optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer!r}.")
    if steps < 1:
        raise OptimizationError(f"the number of steps must be at least 1; got {steps}.")
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise OptimizationError(f"the learning rate must be a positive number; got {rates}.")
