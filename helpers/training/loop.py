"""The loop that all trainings share: a bar, a log, and a state on disk from which the same call goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from tqdm import tqdm

from helpers.images import clear_temporaries
from helpers.logs import RunLog
from helpers.progress import load_run, save_run, stopped_between_steps

STATE_FILE = "state.pt"


class TrainingError(ValueError):
    """Training data or a training state that cannot be used, or a training that diverged."""


class Trainer(Protocol):
    """What the loop needs: ``position`` counts up to ``goal`` in ``unit``, ``seconds`` is kept by the loop."""

    unit: str
    position: int
    goal: int
    seconds: float

    def step(self) -> dict[str, float]:
        """Take one step; its losses."""

    def report(self, losses: dict[str, float]) -> dict[str, float] | None:
        """What to log after a step, None where nothing is."""

    def state(self) -> dict:
        """All that ``load`` needs to go on exactly: tensors, numbers and strings only."""

    def load(self, state: dict) -> None:
        """Go on from a ``state()``; raises TrainingError when it belongs to other settings."""


def resume(trainer: Trainer, out: str | Path) -> None:
    """Go on from the state in a folder, if there is one. Raises ProgressError or TrainingError for one that is not."""
    path = Path(out) / STATE_FILE
    clear_temporaries(out)
    if not path.exists():
        return
    state = load_run(path)
    try:
        trainer.load(state)
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise TrainingError(f"{path} is no state of this training; delete it, or choose another folder.") from error
    print(f"going on at {trainer.position} of {trainer.goal} {trainer.unit}.", file=sys.stderr)


def train(
    trainer: Trainer,
    out: str | Path,
    log: RunLog,
    *,
    save_every: float,
    minutes: float | None = None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Take all steps that are left, or stop after so many minutes; the state is on disk afterwards.

    save_every: seconds between two states. after: called after every step.
    Raises TrainingError where the weights are no longer finite; the state before stays. Ctrl-C waits for the end of a
    step and leaves a state too.
    """
    path = Path(out) / STATE_FILE
    begun = last = saved = time.monotonic()
    interval = 1 if sys.stderr.isatty() else 60
    options = {"initial": trainer.position, "unit": trainer.unit, "mininterval": interval, "file": sys.stderr}
    with stopped_between_steps() as stopped, tqdm(total=trainer.goal, **options) as bar:
        while trainer.position < trainer.goal and not stopped():
            losses = trainer.step()
            now = time.monotonic()
            trainer.seconds, last = trainer.seconds + now - last, now
            bar.update(trainer.position - bar.n)
            if (row := trainer.report(losses)) is not None:
                bar.set_postfix({name: f"{value:.3g}" for name, value in row.items()}, refresh=False)
                log.scalars(trainer.position, {"seconds": round(trainer.seconds, 1), **_rounded(row)})
            after()
            if now - saved > save_every:
                _save(path, trainer)
                saved = now
            if minutes is not None and now - begun > minutes * 60:
                break
        _save(path, trainer)  # not after an error: amid a step the state is half old, half new
        if stopped():
            raise KeyboardInterrupt


def _save(path: Path, trainer: Trainer) -> None:
    state = trainer.state()
    if not _finite(state):
        raise TrainingError(
            f"the weights became NaN or infinite before {trainer.position} {trainer.unit}; {path.name} is the state "
            "before: start again with a lower rate in another folder."
        )
    save_run(path, state)


def _finite(state: object) -> bool:
    if isinstance(state, dict | list | tuple):
        return all(map(_finite, state.values() if isinstance(state, dict) else state))
    return not isinstance(state, torch.Tensor) or bool(state.isfinite().all())


def _rounded(row: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
