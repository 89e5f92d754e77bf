"""The one optimisation loop: an iterator over steps that knows nothing of images."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.losses import Loss


class OptimizationError(ValueError):
    """The optimisation cannot start or cannot go on; ``best`` parameters stay available on the Optimization."""


class OptimizationWarning(UserWarning):
    """A run went on after a setback: a loss that diverged, or memory that was too short."""


OPTIMIZERS = ("adam", "lbfgs", "lbfgs-batch")
SLOWER = 0.25  # of a sample's rate after each setback: Adam's first steps without moments are 3 times the rate
SETBACKS = 5  # a loss that is not finite at a thousandth of the rate is not the rate's fault
DIVERGED = 1000.0  # times the loss of the start: no search wanders so far and comes back
Schedule = Callable[[float], float]


def constant() -> Schedule:
    """Learning rate factor 1 throughout."""
    return lambda progress: 1.0


def cosine(ramp: float = 0.05, decay: float = 0.5) -> Schedule:
    """Factor of the learning rate over the progress in [0, 1]: linear up in ``ramp``, cosine down in ``decay``.

    The shape of the official StyleGAN2 projector (Karras et al. 2020, app. D: ramp 0.05, decay 0.25).
    """

    def factor(progress: float) -> float:
        up = min(1.0, progress / ramp) if ramp else 1.0
        down = min(1.0, (1.0 - progress) / decay) if decay else 1.0
        return up * (0.5 - 0.5 * math.cos(math.pi * down))

    return factor


@dataclass
class Step:
    """What one step of the loop tells.

    Attributes:
        number: 1 for the first step.
        total: (B,) loss of the parameters before this step's update.
        parts: named parts of it, unweighted, each (B,).
        lr: learning rate of the step.
    """

    number: int
    total: Tensor
    parts: dict[str, Tensor]
    lr: float


class BatchLBFGS(torch.optim.Optimizer):
    """L-BFGS without line search for B problems at once, none of which touches another.

    The two-loop recursion of Nocedal & Wright (2006, alg. 7.4) with inner products per sample. A step has the length
    that the curvature says, at most ``reach``; it costs one evaluation. A line search would stop at once where the
    gradient is noisy, as it is in bfloat16. Several parameters are taken as problems of their own.

    Args:
        parameters: tensors (B, ...); changed by others between two steps (a clamp), they are taken as they are.
        reach: longest step, root mean square over a sample's components.
        history: pairs of steps and gradient differences that are kept.
    """

    def __init__(self, parameters: list[Tensor], reach: float = 0.1, history: int = 12):
        super().__init__(parameters, {"reach": reach, "history": history})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self._move(p, self.state[p], group["reach"], group["history"])

    def _move(self, p: Tensor, state: dict, reach: float, history: int) -> None:
        x, g = p.flatten(1).clone(), p.grad.flatten(1).clone()
        if not state:
            state |= {"pairs": [], "scale": g.new_zeros(len(g), 1)}
        else:
            s, y = x - state["x"], g - state["g"]
            product, square = ((a * b).sum(1, keepdim=True) for a, b in ((s, y), (y, y)))
            # a pair of negative curvature has weight 0
            good = product > 1e-8 * square.sqrt() * s.norm(dim=1, keepdim=True)
            weight = torch.where(good, 1 / product, 0.0)
            state["scale"] = torch.where(good, product / square, state["scale"])
            state["pairs"] = [*state["pairs"], (s, y, weight)][-history:]
        state["x"], state["g"] = x, g
        step = -self._solve(g, state["pairs"], state["scale"])
        size = step.square().mean(1, keepdim=True).sqrt()
        p += (step * (reach / size.clamp_min(1e-30)).clamp_max(1.0)).view_as(p)

    @torch.no_grad()
    def forget(self, rows: Tensor) -> None:
        """Start anew for some samples (B,) bool, at the parameters as they are now."""
        for p, state in self.state.items():
            state["x"][rows] = p.flatten(1)[rows]
            for values in (state["g"], state["scale"], *(t for pair in state["pairs"] for t in pair)):
                values[rows] = 0

    @staticmethod
    def _solve(g: Tensor, pairs: list, scale: Tensor) -> Tensor:
        """The inverse Hessian's estimate times the gradient; a scale of 0, none known yet, makes a full step of it."""
        q, factors = g, []
        for s, y, weight in reversed(pairs):
            factors.append(weight * (s * q).sum(1, keepdim=True))
            q = q - factors[-1] * y
        q = q * torch.where(scale > 0, scale, 1 / g.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30))
        for (s, y, weight), factor in zip(pairs, reversed(factors), strict=True):
            q = q + s * (factor - weight * (y * q).sum(1, keepdim=True))
        return q


class Optimization:
    """Minimise B independent problems as one batch; iterate over it for the steps, leave the loop to stop.

    Adam treats every component by itself and the losses are summed over the batch, so the B problems do not touch.
    L-BFGS would couple them through its line search, so it keeps one optimizer per sample.

    A sample whose loss becomes NaN or infinite, or DIVERGED times that of its start, goes back to its best and on from
    there with a quarter of the rate. One that is NaN from the start, or after SETBACKS of them, gives up: it rests at
    its best, or at its start, and the others go on as if it were not there. Where the memory of a GPU is too short for
    all samples at once, they go through in chunks, each time halved. All of it is told by an OptimizationWarning.

    Args:
        parameters: tensors (B, ...) to optimise, changed in place.
        loss: ``loss(parameters, index)`` gives the Loss of the samples ``index`` of the batch.
        steps: number of steps; L-BFGS makes up to 20 evaluations in each.
        lr: learning rate, one number or one per parameter.
        optimizer: "adam", "lbfgs" (torch's, with strong Wolfe line search, sample by sample) or "lbfgs-batch" (all
            samples at once, one evaluation a step; see BatchLBFGS, of which ``lr`` is the longest step).
        schedule: factor of the learning rate over the progress (Adam only).

    Attributes:
        best: parameters of the smallest loss so far, per sample.
        best_total: (B,) that loss.
        history: name to list of (B,) tensors, the losses of every step.
        setbacks: (B,) how often each sample went back to its best.
        gave_up: (B,) bool, which samples rest because no rate gave them a finite loss; ``best_total`` is infinite where
            none was ever finite.
        chunk: samples that are evaluated at once; None is all.
        seconds: wall time of the steps so far.

    Raises:
        OptimizationError: for an unknown optimizer, no steps, a rate that is not positive, or when all samples gave up.
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
    ):
        rates = [lr] * len(parameters) if isinstance(lr, int | float) else list(lr)
        _check(optimizer, steps, rates)
        self.parameters = [p.requires_grad_() for p in parameters]
        self.loss, self.steps, self.rates, self.kind = loss, steps, rates, optimizer
        self.schedule = schedule or cosine()
        self.number, self.history, self.chunk, self.seconds = 0, {}, None, 0.0
        self.setbacks = torch.zeros(len(parameters[0]), dtype=torch.int64, device=parameters[0].device)
        self.gave_up = self.setbacks.bool()
        self.forget_best()
        self.optimizers = self._lbfgs() if optimizer == "lbfgs" else [self._joint()]

    def _joint(self):
        return self._adam() if self.kind == "adam" else BatchLBFGS(self.parameters, reach=self.rates[0])

    def _adam(self):
        groups = [{"params": [p], "lr": r} for p, r in zip(self.parameters, self.rates, strict=True)]
        return torch.optim.Adam(groups, betas=(0.9, 0.999))

    def _lbfgs(self):
        # views of one sample each: an update writes into the batch
        batch = range(len(self.parameters[0]))
        self.samples = [self._views(slice(i, i + 1)) for i in batch]
        return [_line_search(sample) for sample in self.samples]

    def _views(self, index: slice) -> list[Tensor]:
        return [p.detach()[index].requires_grad_() for p in self.parameters]

    def forget_best(self) -> None:
        """Start the best-so-far anew; call it when the loss has changed its meaning, e.g. after a weight moved."""
        self.best = [p.detach().clone() for p in self.parameters]
        batch = len(self.parameters[0])
        self.best_total = torch.full((batch,), math.inf, device=self.parameters[0].device)
        self.limit = self.best_total.clone()

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
            self.history.setdefault(name, []).append(value.detach())
        self.seconds += time.perf_counter() - started
        return Step(self.number, loss.total.detach(), {k: v.detach() for k, v in loss.parts.items()}, lr)

    def _joint_step(self) -> tuple[Loss, float]:
        (optimizer,) = self.optimizers
        factor = self.schedule((self.number + 0.5) / self.steps) if self.kind == "adam" else 1.0
        if self.kind == "adam":
            for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
        loss = self._evaluate()
        if (lost := self._lost(loss.total)).any():
            self._go_back(lost)
            loss = self._evaluate()
            self._give_up(~loss.total.isfinite())  # not even at its best
        self._keep(self.parameters, loss, slice(None))
        self._move(optimizer)
        return loss, self.rates[0] * factor

    def _evaluate(self, backward: bool = True) -> Loss:
        """Loss of all samples, and its gradients; in chunks where the memory is too short for all at once."""
        while True:
            try:
                return self._in_chunks(backward)
            except torch.cuda.OutOfMemoryError as error:
                if self.chunk == 1 or len(self.best_total) == 1:
                    raise OptimizationError(
                        "the memory of the GPU is too short for a single sample; close what else uses it, or take a "
                        "smaller network, bf16 or checkpointing."
                    ) from error
            # here, because the traceback of the exception holds the whole graph
            torch.cuda.empty_cache()
            self.limit_chunk(((self.chunk or len(self.best_total)) + 1) // 2)

    def limit_chunk(self, count: int) -> None:
        """Evaluate at most so many samples at once, and say so if that is not all of them."""
        if count < len(self.best_total):
            self.chunk = count
            _warn(f"the memory is too short for all {len(self.best_total)} at once: now {count} at a time.")

    def _in_chunks(self, backward: bool) -> Loss:
        batch, losses = len(self.best_total), []
        chunk = min(self.chunk or batch, batch)
        for p in self.parameters if backward else ():
            p.grad = None if chunk == batch else torch.zeros_like(p)
        for start in range(0, batch, chunk):
            whole = chunk == batch
            index = slice(None) if whole else slice(start, min(start + chunk, batch))
            part = self.parameters if whole else self._views(index)
            loss = self.loss(part, index)
            if backward:
                loss.total.sum().backward(inputs=part)
                for p, ours in zip(self.parameters, part, strict=True):
                    if not whole and ours.grad is not None:
                        p.grad[index] = ours.grad
            losses.append(Loss(loss.total.detach(), {name: value.detach() for name, value in loss.parts.items()}))
        return losses[0] if len(losses) == 1 else _joined(losses)

    def _lbfgs_step(self) -> tuple[Loss, float]:
        losses = [self._search_line(i) for i in range(len(self.samples))]
        return _joined(losses), 1.0

    def _search_line(self, i: int) -> Loss:
        """One step of a sample; after a setback the same step again. The loss is that before it."""
        sample, index = self.samples[i], slice(i, i + 1)
        while not self.gave_up[i]:
            optimizer, first = self.optimizers[i], []

            def closure(optimizer=optimizer, first=first):
                optimizer.zero_grad(set_to_none=True)
                loss = self.loss(sample, index)
                if not loss.total.isfinite().all():  # a large one is a trial of the line search
                    raise _NotFinite
                self._keep(sample, loss, index)
                loss.total.sum().backward(inputs=sample)
                first.append(loss)
                return loss.total.sum()

            try:
                optimizer.step(closure)
                return first[0]
            except _NotFinite:
                lost = torch.zeros_like(self.setbacks, dtype=torch.bool)
                lost[i] = True
            self._go_back(lost)
            self.optimizers[i] = _line_search(sample, SLOWER ** int(self.setbacks[i]))
        with torch.no_grad():
            return self.loss(sample, index)

    # --- setbacks ---------------------------------------------------------------------------------------------------

    def _lost(self, total: Tensor) -> Tensor:
        """Which samples have no finite loss, or one far beyond that of their start."""
        first = torch.where(total > 0, DIVERGED * total, math.inf)  # a loss below 0 has no scale
        self.limit = torch.where(self.best_total.isinf(), first, self.limit)
        far = (total > self.limit) & (self.setbacks < SETBACKS)
        return (~total.isfinite() | far) & ~self.gave_up

    @torch.no_grad()
    def _go_back(self, lost: Tensor) -> None:
        """Set lost samples (B,) to their best, without memory of what led astray, at a quarter of their rate."""
        for p, best in zip(self.parameters, self.best, strict=True):
            p.copy_(torch.where(_rows(lost, p), best, p))
        if self.kind == "adam":
            for state in self.optimizers[0].state.values():
                state["exp_avg"][lost] = 0
                state["exp_avg_sq"][lost] = 0
        elif self.kind == "lbfgs-batch":
            self.optimizers[0].forget(lost)
        self._give_up(lost & (self.best_total.isinf() | (self.setbacks >= SETBACKS)))
        lost = lost & ~self.gave_up
        self.setbacks += lost
        if lost.any():
            _warn(
                f"the loss of sample {_names(lost)} diverged at step {self.number + 1}; "
                f"it goes on from its best with {SLOWER:g} times the rate."
            )

    def _give_up(self, hopeless: Tensor) -> None:
        """Leave samples (B,) bool where they are from now on. Raises OptimizationError when none is left."""
        new = hopeless & ~self.gave_up
        if not new.any():
            return
        self.gave_up |= new
        if self.gave_up.all():
            raise self._hopeless()
        _warn(
            f"the loss of sample {_names(new)} is NaN or infinite at step {self.number + 1} at any rate; "
            "it rests at its best, or at its start, and the others go on."
        )

    def _hopeless(self) -> OptimizationError:
        return OptimizationError(
            f"the loss became NaN or infinite at step {self.number + 1}; lower the learning rate "
            f"(now {self.rates[0]:g}) or check the target for NaN. The best result so far is kept."
        )

    def _move(self, optimizer) -> None:
        """The optimizer's step, shortened for samples that went back; those that gave up have no gradient."""
        for p in self.parameters:
            if p.grad is not None:
                p.grad.masked_fill_(_rows(self.gave_up, p), 0.0)
        slow = self.setbacks if self.setbacks.any() else None
        before = [p.detach().clone() for p in self.parameters] if slow is not None else []
        optimizer.step()
        with torch.no_grad():
            for p, old in zip(self.parameters, before, strict=False):
                factor = _rows(SLOWER ** slow.to(p), p)
                p.copy_(torch.where(factor < 1, old + factor * (p - old), p))

    @torch.no_grad()
    def _keep(self, parameters, loss: Loss, index: slice) -> None:
        """Remember the parameters of the smallest loss, per sample."""
        better = loss.total.detach() < self.best_total[index]
        self.best_total[index] = torch.where(better, loss.total.detach(), self.best_total[index])
        for best, now in zip(self.best, parameters, strict=True):
            best[index] = torch.where(_rows(better, now), now.detach(), best[index])

    @torch.no_grad()
    def finish(self) -> None:
        """Judge the parameters after the last update too."""
        self._keep(self.parameters, self._evaluate(backward=False), slice(None))

    def state_dict(self) -> dict:
        """All that an exact continuation needs; the loss itself is not part of it."""
        return {
            "number": self.number,
            "seconds": self.seconds,
            "parameters": [p.detach().clone() for p in self.parameters],
            "best": [b.clone() for b in self.best],
            "best_total": self.best_total.clone(),
            "limit": self.limit.clone(),
            "setbacks": self.setbacks.clone(),
            "gave_up": self.gave_up.clone(),
            "history": {name: torch.stack(values) for name, values in self.history.items()},
            "optimizers": [copy.deepcopy(optimizer.state_dict()) for optimizer in self.optimizers],  # it is live
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Continue where ``state_dict`` was taken."""
        for ours, theirs in zip(self.parameters, state["parameters"], strict=True):
            ours.copy_(theirs)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(saved))  # it would go on in the saved tensors
        self.number, self.seconds = state["number"], state["seconds"]
        self.best = [theirs.to(ours, copy=True) for ours, theirs in zip(self.parameters, state["best"], strict=True)]
        for name in ("best_total", "limit", "setbacks", "gave_up"):
            setattr(self, name, state[name].to(self.best_total.device, copy=True))
        self.history = {name: list(values) for name, values in state["history"].items()}


class Chain:
    """Runs of which each begins from the result of the one before; what is saved is the runs' states alone.

    ``_begin()`` appends the next one to ``runs``: with the same settings it makes the same run of the same states.
    """

    runs: list
    prepared: float = 0.0  # seconds spent before the first run

    def _begin(self) -> None:
        raise NotImplementedError

    @property
    def seconds(self) -> float:
        """Wall time of the steps so far and of the preparation."""
        return self.prepared + sum(run.seconds for run in self.runs)

    @property
    def number(self) -> int:
        """Steps taken."""
        return sum(run.number for run in self.runs)

    @property
    def setbacks(self) -> Tensor | int:
        """(B,) how often each sample went back to its best; see Optimization."""
        return sum(run.setbacks for run in self.runs)

    @property
    def gave_up(self) -> Tensor | bool:
        """(B,) bool, which samples gave up in any of the runs; see Optimization."""
        return sum(run.gave_up for run in self.runs) > 0

    def state_dict(self) -> dict:
        """Tensors and numbers from which the same settings go on exactly; ``torch.save`` takes it."""
        return {"runs": [run.state_dict() for run in self.runs]}

    def load_state_dict(self, state: dict) -> None:
        """Go on where ``state_dict`` was taken, in a chain that has not begun."""
        for saved in state["runs"]:
            self._begin()
            self.runs[-1].load_state_dict(saved)


class _NotFinite(Exception):
    """A loss within a line search that is NaN or infinite."""


def _line_search(sample: list[Tensor], rate: float = 1.0) -> torch.optim.LBFGS:
    return torch.optim.LBFGS(sample, lr=rate, line_search_fn="strong_wolfe")


def _joined(losses: list[Loss]) -> Loss:
    parts = {name: torch.cat([loss.parts[name] for loss in losses]) for name in losses[0].parts}
    return Loss(torch.cat([loss.total for loss in losses]), parts)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to go with a parameter."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _names(rows: Tensor) -> str:
    """Samples (B,) bool by their numbers, as a sentence has them: "2, 5 of 8"."""
    return f"{', '.join(str(i + 1) for i in rows.nonzero().flatten().tolist())} of {len(rows)}"


def marks(result, index=slice(None)) -> dict[str, int]:
    """The columns of a row of results that tell of setbacks: how many there were, how many samples gave up.

    result: anything with ``setbacks`` and ``gave_up`` (B,); index: the sample or samples of the row.
    """
    return {name: int(getattr(result, name)[index].sum()) for name in ("setbacks", "gave_up")}


def _warn(sentence: str) -> None:
    warnings.warn(sentence, OptimizationWarning, stacklevel=4)


def optimize(parameters: list[Tensor], loss, **options) -> Optimization:
    """An ``Optimization`` to iterate over: ``for step in optimize([code], loss, steps=500, lr=0.1): ...``."""
    return Optimization(parameters, loss, **options)


def _check(optimizer: str, steps: int, rates: list[float]) -> None:
    if optimizer not in OPTIMIZERS:
        raise OptimizationError(f"the optimizer must be one of {', '.join(OPTIMIZERS)}, but {optimizer!r} came.")
    if steps < 1:
        raise OptimizationError(f"the number of steps must be at least 1, but {steps} came.")
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise OptimizationError(f"the learning rate must be a positive number, but {rates} came.")
