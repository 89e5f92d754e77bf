"""Learning rate schedules and a batched L-BFGS; the loop that uses them is in ``search.py``."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

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


def line_search(sample: list[Tensor]) -> torch.optim.LBFGS:
    """torch's L-BFGS with strong Wolfe line search: up to 20 evaluations a step."""
    return torch.optim.LBFGS(sample, lr=1.0, line_search_fn="strong_wolfe")
