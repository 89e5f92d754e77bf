"""The one loop: every search of the five lessons is a ``Chain`` of phases, and each phase is an ``Optimization``.

A search is a subclass of Chain with ``phases``, ``steps``, ``_begin``, ``_step`` and ``result`` (below); its criterion
is a subclass of ``losses.WeightedSum``, which only computes ``parts(images, offset, index)``.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from helpers.latents import Latents
from helpers.optimizers import Optimization, Step


@dataclass(frozen=True)
class Phase:
    """Part of a search."""

    space: str | None = None  # of the latents; None stays in the space of the start
    share: float = 1.0  # of the steps, in proportion to those of the other phases
    lr: float | None = None  # rate of the code in standard deviations of its space; None is the search's own
    free: tuple[str, ...] = ("code",)  # what moves: "code", "noise" or both


@dataclass
class Result:
    """What a search found, the best of each sample."""

    images: Tensor  # (B, 3, H, W) in [0, 1], exactly those of the latents
    total: Tensor  # (B,) their loss
    parts: dict[str, Tensor]  # its unweighted parts, each (B,)
    history: dict[str, Tensor]  # name to (steps, B), the losses along the way
    seconds: float  # wall time of the whole batch
    steps: int  # taken
    frozen: Tensor  # (B,) bool, samples that stopped at their best, or start, because their loss was not finite
    latents: Latents | None = None  # a batch of B; None for a search of pixels


def option(value, help: str, **facts):
    """A field of a search's options that is an option of the command line too, with its help and e.g. ``min=1``."""
    return field(default=value, metadata={"help": help, **facts})


class Chain:
    """A search: phases one after the other, each starting from the best of the one before.

    ``phases`` divide ``steps`` by their shares; where the steps of each phase are fixed, they are the shares and
    ``steps`` is their sum. Only the states of the runs are saved: with the same settings ``_begin`` makes the same run.
    """

    phases: Sequence[Phase]
    steps: int
    prepared: float = 0.0  # seconds spent before each phase
    done = False  # whether the search has nothing more to do before its last step; a search may make it a property

    def _begin(self, phase: Phase, steps: int) -> Optimization | Chain:
        """The run of a phase, from ``self.runs[-1]``, the phase before it, if any; it may be another search."""
        raise NotImplementedError

    def _step(self, phase: Phase, run: Optimization | Chain, step: Step) -> Step:
        """The step with what a viewer needs: ``latents``, ``render``."""
        return step

    def result(self) -> Result:
        """The best so far: ``Result(..., **self.facts())``. Raises ValueError before the first step."""
        raise NotImplementedError

    @cached_property
    def runs(self) -> list[Optimization | Chain]:
        """Runs of the phases begun so far, the current one last."""
        return []

    def __len__(self) -> int:
        return sum(divide(self.steps, [phase.share for phase in self.phases]))

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
        self.runs.append(self._begin(self.phases[i], divide(self.steps, [phase.share for phase in self.phases])[i]))
        self.prepared += time.perf_counter() - started

    def run(self) -> Result:
        """Take all steps and return the result."""
        collections.deque(self, maxlen=0)
        return self.result()

    def forget_best(self) -> None:
        """Forget the best so far; call it after a change of ``criterion.weights`` while it runs."""
        if self.runs:
            self.runs[-1].forget_best()

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
        """Name to the losses (B,) of every step; losses that the current phase does not have are left out."""
        return {name: [v for run in self.runs for v in run.history.get(name, [])] for name in self.runs[-1].history}

    def facts(self, keep=slice(None)) -> dict:
        """Fields of a Result that every search has, for the samples ``keep``. ValueError before the first step."""
        if not self.number:
            raise ValueError("the search has not taken a step yet; iterate over it first.")
        history = {name: torch.stack(values)[:, keep].cpu() for name, values in self.history.items()}
        return {"history": history, "seconds": self.seconds, "steps": self.number, "frozen": self.frozen[keep]}

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


def marks(result: Result, index=slice(None)) -> dict[str, int]:
    """The column of a row of results, that of the samples ``index``, that says how many of them are frozen."""
    return {"frozen": int(result.frozen[index].sum())}
