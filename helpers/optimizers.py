"""Optimization: the loop over steps that minimises B independent problems, with its schedules and batched L-BFGS."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.latents import Latents
from helpers.losses import Loss
from helpers.recording import Recording

OPTIMIZERS = ("adam", "lbfgs")
SETTLING = 20  # steps over which a loss is watched
RECORDING, BEFORE_RECORDING = ("cuda",), 3  # devices, and steps with the same settings before their work is recorded
Schedule = Callable[[float], float]


def constant() -> Schedule:
    """Factor 1 throughout."""
    return lambda progress: 1.0


def cosine(ramp: float = 0.05, decay: float = 0.5) -> Schedule:
    """Factor of the learning rate over the progress in [0, 1]: linear up in ``ramp``, cosine down in ``decay``."""

    def factor(progress: float) -> float:
        up, down = (min(1.0, way / part) if part else 1.0 for way, part in ((progress, ramp), (1.0 - progress, decay)))
        return up * (0.5 - 0.5 * math.cos(math.pi * down))

    return factor


@dataclass
class Step:
    """One step of a search; ``latents`` (None for a search of pixels) and ``render`` are those after its update."""

    number: int  # 1 for the first step
    total: Tensor  # (B,) loss before the update
    parts: dict[str, Tensor]  # name to its unweighted parts (B,)
    lr: float
    latents: Latents | None = None
    render: Callable[[], Tensor] | None = None

    @torch.no_grad()
    def images(self) -> Tensor:
        """Current images (B, 3, H, W) in [0, 1]; made at each call."""
        return self.render().clamp(0, 1)


class Optimization:
    """Minimise B independent problems as one batch; iterate over it for the steps, leave the loop to stop.

    The problems do not interact: Adam treats every component separately, L-BFGS every sample. A sample whose loss
    becomes NaN or infinite is frozen at its best point (or its start). Of each sample ``best`` are the parameters of
    the smallest loss so far, and ``best_total`` (B,) is that loss, infinite where none was ever finite.

    The list ``parameters`` (B, ...) is changed; ``loss(parameters, index)`` gives the Loss of the samples ``index``;
    ``lr`` is one number or one per parameter, for "lbfgs" (see BatchLBFGS) the longest step; ``schedule`` is the factor
    of Adam's rate over the progress; ``chunk`` samples are evaluated at once, None is all; ``scale`` is a factor of the
    loss in the gradient alone, against Adam's epsilon. ``fixed`` may be set to a function: while what it returns stays
    the same, and is not None, the loss depends on tensors alone, and a card replays a recording of it. Raises
    ValueError for bad options, or if all are frozen.
    """

    def __init__(self, parameters, loss, *, steps=500, lr=0.1, optimizer="adam", schedule=None, chunk=None, scale=1.0):
        rates = [lr] * len(parameters) if isinstance(lr, int | float) else list(lr)
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"the optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer!r}.")
        if steps < 1:
            raise ValueError(f"the number of steps must be at least 1; got {steps}.")
        if not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise ValueError(f"the learning rate must be a positive number; got {rates}.")
        self.parameters, self.loss, self.steps, self.rates = parameters, loss, steps, rates
        self.scale, self.schedule = scale, (schedule or cosine()) if optimizer == "adam" else constant()
        self.number, self.history, self.seconds = 0, {}, 0.0
        self.fixed, self.recording, self.recorded, self.same = None, None, None, 0
        batch = len(parameters[0])
        self.chunk = min(chunk or batch, batch)
        if self.chunk < batch:
            self._warn_of_parts()
        self.frozen, self.holding = torch.zeros(batch, dtype=torch.bool, device=parameters[0].device), False
        self.forget_best()
        members = {rate: [p for p, r in zip(parameters, rates, strict=True) if r == rate] for rate in rates}
        groups = [{"params": tensors, "rate": rate} for rate, tensors in members.items()]
        self.optimizer = torch.optim.Adam(groups) if optimizer == "adam" else BatchLBFGS(groups)

    def forget_best(self) -> None:
        """Forget the best so far; call it when the loss has changed its meaning."""
        self.best = [p.detach().clone() for p in self.parameters]
        self.best_total = torch.full(self.frozen.shape, math.inf, device=self.frozen.device)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Step]:
        while self.number < self.steps:
            yield self.step()
        self._keep(self._evaluate(gradients=False))  # judges the last update too
        self.optimizer.state.clear()
        self.recording = None  # it holds memory

    def step(self) -> Step:
        """Take one step and return it."""
        started, factor = time.perf_counter(), self.schedule((self.number + 0.5) / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        loss = self._evaluate()
        self._keep(loss)
        self._freeze(~loss.total.isfinite())
        self.optimizer.step()
        self._hold()
        self.number += 1
        for name, value in {"total": loss.total, **loss.parts}.items():
            self.history.setdefault(name, []).append(value)
        self.seconds += time.perf_counter() - started
        return Step(self.number, loss.total, loss.parts, self.rates[0] * factor)

    def _warn_of_parts(self) -> None:
        sentence = f"the memory is too short for all {len(self.parameters[0])} at once: now {self.chunk} at a time."
        warnings.warn(sentence, stacklevel=3)

    def settled(self, share: float) -> bool:
        """Whether the best loss of every sample fell by less than this share of it in the last SETTLING steps."""
        totals = self.history.get("total", [])
        if len(totals) <= SETTLING:
            return False
        before = torch.stack(totals[:-SETTLING]).nan_to_num(math.inf).amin(0)
        return bool((self.frozen | (self.best_total > (1 - share) * before)).all())

    def _evaluate(self, gradients: bool = True) -> Loss:
        """Loss of all samples, and its gradients; where the card's memory runs out, in chunks of half the size."""
        while True:
            try:
                return self._evaluate_chunks(gradients)
            except torch.OutOfMemoryError as error:
                if self.chunk == 1:
                    fix = "close other programs that use it, or choose smaller images, --precision bf16 or --device cpu"
                    raise ValueError(f"the device's memory is too short for one sample alone; {fix}.") from error
            self.chunk = (self.chunk + 1) // 2
            self._warn_of_parts()
            torch.cuda.empty_cache()

    def _evaluate_chunks(self, gradients: bool) -> Loss:
        batch, losses, found = len(self.frozen), [], []
        for start in range(0, batch, self.chunk):
            index = slice(None) if self.chunk == batch else slice(start, start + self.chunk)
            part, recording = [p.detach()[index] for p in self.parameters], self._record() if gradients else None
            loss, gradient = recording(part) if recording else self._evaluate_part(part, index, gradients)
            losses.append(loss)
            found.append(gradient)
        for p, *parts in zip(self.parameters, *found, strict=True) if gradients else ():
            p.grad = torch.cat(parts)
        parts = {name: torch.cat([loss.parts[name] for loss in losses]) for name in losses[0].parts}
        return Loss(torch.cat([loss.total for loss in losses]), parts)

    def _evaluate_part(self, part: list[Tensor], index=slice(None), gradients: bool = True) -> tuple[Loss, tuple]:
        part = [p.detach().requires_grad_() for p in part]
        with torch.set_grad_enabled(gradients):  # grad mode is per thread: a panel's worker may start without it
            loss, found = self.loss(part, index), ()
            if gradients:
                total = (loss.total * self.scale).sum()
                found = torch.autograd.grad(total, part, allow_unused=True, materialize_grads=True)
        return Loss(loss.total.detach(), {name: value.detach() for name, value in loss.parts.items()}), found

    def _record(self) -> Recording | None:
        """The recording of all samples on a card, made when some steps had the same settings."""
        if self.fixed is None or self.frozen.device.type not in RECORDING or self.chunk < len(self.frozen):
            return None
        if (settings := self.fixed()) is None or settings != self.recorded:
            self.recording, self.recorded, self.same = None, settings, 0
        self.same += 1
        if settings is not None and self.same == BEFORE_RECORDING and self.steps - self.number > SETTLING:
            try:
                self.recording = Recording(self._evaluate_part, [p.detach() for p in self.parameters])
            except RuntimeError:  # something in it waits for the card, or the memory is too short
                self.fixed = None
        return self.recording

    @torch.no_grad()
    def _keep(self, loss: Loss) -> None:
        """Remember the parameters of the smallest loss, per sample."""
        better = loss.total < self.best_total
        self.best_total = torch.where(better, loss.total, self.best_total)
        self.best = [torch.where(_like(better, p), p, best) for p, best in zip(self.parameters, self.best, strict=True)]

    def _freeze(self, lost: Tensor) -> None:
        """Freeze samples (B,) bool; an error when none is left."""
        new = lost & ~self.frozen
        if not new.any():
            return
        self.frozen |= new
        self.holding = True  # known without waiting for a card
        self._hold()
        if self.frozen.all():
            fix = f"lower the learning rate (now {self.rates[0]:g}) or check the target for NaN"
            raise ValueError(f"the loss became NaN or infinite at step {self.number + 1}; {fix}. The best is kept.")
        names = f"{', '.join(str(i + 1) for i in new.nonzero().flatten().tolist())} of {len(new)}"
        sentence = f"the loss of sample {names} is NaN or infinite at step {self.number + 1}: it is frozen at its best."
        warnings.warn(sentence, stacklevel=3)

    @torch.no_grad()
    def _hold(self) -> None:
        """Put frozen samples at their best."""
        if self.holding:
            for p, best in zip(self.parameters, self.best, strict=True):
                p.copy_(torch.where(_like(self.frozen, p), best, p))

    def state_dict(self) -> dict:
        """All that an exact continuation needs; the loss itself is not part of it."""
        state = {name: getattr(self, name) for name in ("number", "seconds", "best", "best_total", "frozen")}
        state["parameters"] = [p.detach() for p in self.parameters]
        state["history"] = {name: torch.stack(values) for name, values in self.history.items()}
        return copy.deepcopy(state | {"optimizer": self.optimizer.state_dict()})

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Continue where ``state_dict`` was taken."""
        state = copy.deepcopy(state)
        for ours, theirs in zip(self.parameters, state["parameters"], strict=True):
            ours.copy_(theirs)
        self.optimizer.load_state_dict(state["optimizer"])
        self.number, self.seconds = state["number"], state["seconds"]
        self.best = [theirs.to(ours) for ours, theirs in zip(self.parameters, state["best"], strict=True)]
        self.best_total, self.frozen = (state[name].to(self.frozen.device) for name in ("best_total", "frozen"))
        self.holding = bool(self.frozen.any())
        self.history = {name: list(values) for name, values in state["history"].items()}


class BatchLBFGS:
    """L-BFGS without line search for B independent problems at once.

    The two-loop recursion of Nocedal & Wright (2006, alg. 7.4) with inner products per sample. A step has the length
    given by the curvature, at most ``lr`` (root mean square over a sample's components); a line search would stop where
    the gradient is noisy, as in bfloat16, and couple the samples. Parameters (B, ...) of one rate are one problem.
    """

    HISTORY = {2**16: 30, 2**62: 12}  # pairs of steps and gradient differences kept, by the most components of a sample

    def __init__(self, groups: list[dict]):  # not a torch.optim.Optimizer, which would load a compiler for two seconds
        self.param_groups, self.state = groups, {}  # the latter from the number of a group

    def state_dict(self) -> dict:
        return {"state": self.state}

    def load_state_dict(self, state: dict) -> None:
        self.state = dict(enumerate(state["state"].values()))  # older files count parameters

    @torch.no_grad()
    def step(self) -> None:
        for number, group in enumerate(self.param_groups):
            parameters = group["params"]
            x, g = (torch.cat([t.flatten(1) for t in ts], 1) for ts in (parameters, [p.grad for p in parameters]))
            move = self._move(x, g, self.state.setdefault(number, {}))
            size = move.square().mean(1, keepdim=True).sqrt()
            move *= (group["lr"] / size.clamp_min(1e-30)).clamp_max(1.0)
            for p, part in zip(parameters, move.split([p[0].numel() for p in parameters], 1), strict=True):
                p += part.view_as(p)

    def _move(self, x: Tensor, g: Tensor, state: dict) -> Tensor:
        """Minus the inverse Hessian's estimate times the gradient; each loop is one triangular system."""
        most = next(pairs for components, pairs in self.HISTORY.items() if x.shape[1] <= components)
        if "products" not in state:
            pairs = {name: g.new_zeros(len(g), most, x.shape[1]) for name in ("steps", "changes")}
            state |= {**pairs, "products": g.new_zeros(len(g), most, most), "count": 0, "scale": g.new_zeros(len(g), 1)}
        else:
            self._remember(x - state["x"], g - state["g"], state["count"] % most, state)
        state["x"], state["g"], used = x, g, min(state["count"], most)
        first, scale, q = state["count"] % max(used, 1), state["scale"], g[:, None]  # first: where the oldest pair is
        steps, changes = (state[name][:, :used] for name in ("steps", "changes"))
        products = state["products"][:, :used, :used].roll((-first, -first), (1, 2))
        factors = torch.linalg.solve_triangular(products.mT, (q @ steps.mT).roll(-first, 2), upper=False, left=False)
        q = q - factors.roll(first, 2) @ changes
        # a full step where no scale is known yet
        q = q * torch.where(scale > 0, scale, 1 / g.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30))[..., None]
        rest = products.diagonal(dim1=1, dim2=2)[:, None] * factors - (q @ changes.mT).roll(-first, 2)
        factors = torch.linalg.solve_triangular(products, rest, upper=True, left=False)
        return -(q + factors.roll(first, 2) @ steps)[:, 0]

    def _remember(self, s: Tensor, y: Tensor, slot: int, state: dict) -> None:
        """Put a pair in the place of the oldest; zeros where its curvature is not positive."""
        product, square = _dot(s, y), _dot(y, y)
        good = product > 1e-8 * square.sqrt() * s.norm(dim=1, keepdim=True)
        state["scale"] = torch.where(good, product / square, state["scale"])
        state["steps"][:, slot], state["changes"][:, slot] = torch.where(good, s, 0.0), torch.where(good, y, 0.0)
        state["products"][:, :, slot] = (state["changes"][:, slot, None] @ state["steps"].mT)[:, 0]
        state["products"][:, slot, slot] = torch.where(good, product, 1.0)[:, 0]
        state["count"] += 1


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products per sample, (B, N) and (B, N) to (B, 1), in one pass without a copy."""
    return (a[:, None] @ b[..., None])[:, 0]


def _like(values: Tensor, parameter: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to go with a parameter."""
    return values.reshape(-1, *[1] * (parameter.ndim - 1))
