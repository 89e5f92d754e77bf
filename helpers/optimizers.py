"""The one optimisation loop: an iterator over steps that knows nothing of images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import Loss


class OptimizationError(ValueError):
    """The optimisation cannot start or cannot go on; ``best`` parameters stay available on the Optimization."""


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

    Raises:
        OptimizationError: for an unknown optimizer, no steps, a rate that is not positive, or a NaN loss.
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
        self.number, self.history = 0, {}
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
        self.samples = [[p.detach()[i : i + 1].requires_grad_() for p in self.parameters] for i in batch]
        return [torch.optim.LBFGS(sample, lr=1.0, line_search_fn="strong_wolfe") for sample in self.samples]

    def forget_best(self) -> None:
        """Start the best-so-far anew; call it when the loss has changed its meaning, e.g. after a weight moved."""
        self.best = [p.detach().clone() for p in self.parameters]
        batch = len(self.parameters[0])
        self.best_total = torch.full((batch,), math.inf, device=self.parameters[0].device)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Step]:
        while self.number < self.steps:
            yield self.step()
        self.finish()

    def step(self) -> Step:
        """Take one step and return it."""
        with torch.enable_grad():  # grad mode is per thread: a panel's worker may start without it
            loss, lr = self._lbfgs_step() if self.kind == "lbfgs" else self._joint_step()
        self.number += 1
        for name, value in {"total": loss.total, **loss.parts}.items():
            self.history.setdefault(name, []).append(value.detach())
        return Step(self.number, loss.total.detach(), {k: v.detach() for k, v in loss.parts.items()}, lr)

    def _joint_step(self) -> tuple[Loss, float]:
        (optimizer,) = self.optimizers
        factor = self.schedule((self.number + 0.5) / self.steps) if self.kind == "adam" else 1.0
        if self.kind == "adam":
            for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
        optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.parameters, slice(None))
        self._keep(self.parameters, loss, slice(None))
        loss.total.sum().backward(inputs=self.parameters)
        optimizer.step()
        return loss, self.rates[0] * factor

    def _lbfgs_step(self) -> tuple[Loss, float]:
        losses = []
        for i, (sample, optimizer) in enumerate(zip(self.samples, self.optimizers, strict=True)):
            index, first = slice(i, i + 1), []

            def closure(sample=sample, optimizer=optimizer, index=index, first=first):
                optimizer.zero_grad(set_to_none=True)
                loss = self.loss(sample, index)
                self._keep(sample, loss, index)
                loss.total.sum().backward(inputs=sample)
                first.append(loss)
                return loss.total.sum()

            optimizer.step(closure)
            losses.append(first[0])
        parts = {name: torch.cat([loss.parts[name] for loss in losses]) for name in losses[0].parts}
        return Loss(torch.cat([loss.total for loss in losses]), parts), 1.0

    @torch.no_grad()
    def _keep(self, parameters, loss: Loss, index: slice) -> None:
        """Remember the parameters of the smallest loss, per sample; stop at a loss that is no number."""
        if not loss.total.isfinite().all():
            raise OptimizationError(
                f"the loss became NaN or infinite at step {self.number + 1}; lower the learning rate "
                f"(now {self.rates[0]:g}) or check the target for NaN. The best result so far is kept."
            )
        better = loss.total.detach() < self.best_total[index]
        self.best_total[index] = torch.where(better, loss.total.detach(), self.best_total[index])
        for best, now in zip(self.best, parameters, strict=True):
            shape = (-1, *[1] * (now.ndim - 1))
            best[index] = torch.where(better.reshape(shape), now.detach(), best[index])

    @torch.no_grad()
    def finish(self) -> None:
        """Judge the parameters after the last update too."""
        self._keep(self.parameters, self.loss(self.parameters, slice(None)), slice(None))

    def state_dict(self) -> dict:
        """All that an exact continuation needs; the loss itself is not part of it."""
        return {
            "number": self.number,
            "parameters": [p.detach().clone() for p in self.parameters],
            "best": [b.clone() for b in self.best],
            "best_total": self.best_total.clone(),
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
        self.number, self.best = state["number"], [b.clone() for b in state["best"]]
        self.best_total = state["best_total"].clone()
        self.history = {name: list(values) for name, values in state["history"].items()}


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
