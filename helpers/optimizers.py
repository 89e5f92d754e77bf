"""Optimization: the loop over steps that minimises B independent problems, with its schedules and batched L-BFGS."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from helpers.losses import Loss

if TYPE_CHECKING:  # a search of pixels needs no latents
    from helpers.latents import Latents

OPTIMIZERS = ("adam", "lbfgs", "lbfgs-batch")
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


class OptimizationError(ValueError):
    """The optimisation cannot start or cannot continue; ``best`` parameters stay available on the Optimization."""


class OptimizationWarning(UserWarning):
    """A run continues without a sample whose loss is not finite, or in smaller parts."""


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
        self.optimizers = [_line_search(sample) for sample in self.samples] or [self._joint()]

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
            loss, lr = self._lines_step() if self.kind == "lbfgs" else self._joint_step()
        self.number += 1
        for name, value in {"total": loss.total, **loss.parts}.items():
            self.history.setdefault(name, []).append(value)
        self.seconds += time.perf_counter() - started
        return Step(self.number, loss.total, loss.parts, lr)

    def _joint_step(self) -> tuple[Loss, float]:
        (optimizer,), factor = self.optimizers, 1.0
        if self.kind == "adam":
            factor = self.schedule((self.number + 0.5) / self.steps)
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
            index = slice(None) if whole else slice(start, start + self.chunk)
            part = self.parameters if whole else self._views(index)
            loss = self.loss(part, index)
            if backward:
                (loss.total * self.scale).sum().backward(inputs=part)
                for p, ours in zip(self.parameters, part, strict=True):
                    if not whole and ours.grad is not None:
                        p.grad[index] = ours.grad
            losses.append(_detached(loss))
        return _joined(losses)

    def _lines_step(self) -> tuple[Loss, float]:
        return _joined([self._search_line(i) for i in range(len(self.samples))]), 1.0

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
        device = self.frozen.device
        self.best_total, self.frozen = (state[name].to(device, copy=True) for name in ("best_total", "frozen"))
        self.history = {name: list(values) for name, values in state["history"].items()}


class BatchLBFGS(torch.optim.Optimizer):
    """L-BFGS without line search for B independent problems at once.

    The two-loop recursion of Nocedal & Wright (2006, alg. 7.4) with inner products per sample. A step has the length
    given by the curvature, at most ``reach``, and costs one evaluation. A line search would stop at once where the
    gradient is noisy, as it is in bfloat16. Several parameters are treated as separate problems.

    Args:
        parameters: tensors (B, ...); they may be changed between two steps, e.g. clamped.
        reach: longest step, root mean square over a sample's components.
        history: number of pairs of steps and gradient differences that are kept.
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

    @staticmethod
    def _solve(g: Tensor, pairs: list, scale: Tensor) -> Tensor:
        """The inverse Hessian's estimate times the gradient; with a scale of 0 (none known yet) a full step."""
        q, factors = g, []
        for s, y, weight in reversed(pairs):
            factors.append(weight * (s * q).sum(1, keepdim=True))
            q = q - factors[-1] * y
        q = q * torch.where(scale > 0, scale, 1 / g.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30))
        for (s, y, weight), factor in zip(pairs, reversed(factors), strict=True):
            q = q + s * (factor - weight * (y * q).sum(1, keepdim=True))
        return q


def _line_search(sample: list[Tensor]) -> torch.optim.LBFGS:
    """torch's L-BFGS with strong Wolfe line search: up to 20 evaluations a step."""
    return torch.optim.LBFGS(sample, lr=1.0, line_search_fn="strong_wolfe")


class _NotFinite(Exception):
    """A loss within a line search that is NaN or infinite."""


def _detached(loss: Loss) -> Loss:
    return Loss(loss.total.detach(), {name: value.detach() for name, value in loss.parts.items()})


def _joined(losses: list[Loss]) -> Loss:
    if len(losses) == 1:
        return losses[0]
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
