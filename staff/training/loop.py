"""The loop that all trainings share: a bar, a log, and a state on disk from which the same call continues."""

import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from helpers.files import clear_temporaries
from helpers.logs import RunLog, open_log
from helpers.progress import load_run, save_run, stopped_between_steps

STATE_FILE = "state.pt"
SLOWER = 0.5  # factor of the rates after each setback
SETBACKS = 4  # a training that diverges at a sixteenth of its rates does not do so because of them


class TrainingError(ValueError):
    """Training data or a training state that cannot be used, or a training that diverged."""


class Diverged(TrainingError):
    """Losses or weights are no longer finite; the message says when, without what to do."""


class Trainer:
    """What the loop needs, and what all trainings keep: settings (a dataclass or a dict), position, seconds, setbacks.

    A subclass takes a ``step``, multiplies every rate by ``SLOWER ** setbacks``, draws its random numbers by the seed,
    the position and ``setbacks``, and names the attributes with a ``state_dict`` in ``parts``.
    """

    unit = "steps"
    parts: tuple[str, ...] = ()
    may_change: tuple[str, ...] = ()  # settings of a run that is continued

    def __init__(self, settings):
        self.settings = settings
        self.step_number, self.seconds, self.setbacks, self.means = 0, 0.0, 0, {}

    @property
    def position(self) -> int:
        """Counts up to ``goal`` in ``unit``."""
        return self.step_number

    @property
    def goal(self) -> int:
        return self.settings.steps

    def step(self) -> dict[str, float]:
        """Take one step; its losses. Raises Diverged for those that are not finite."""
        raise NotImplementedError

    def descend(self, loss: Tensor, longest: float) -> None:
        """A step of ``optimizer`` down the gradient of ``net``, which is cut to a norm. Raises Diverged."""
        if not math.isfinite(loss.item()):
            raise Diverged(f"the loss became NaN or infinite after {self.step_number} steps")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), longest)
        self.optimizer.step()
        self.step_number += 1

    def rate(self) -> float:
        """``settings.rate``: up in the first twentieth, then down a cosine; lower after setbacks."""
        progress = self.step_number / self.settings.steps
        factor = min(progress * 20 + 0.01, 0.5 + 0.5 * math.cos(math.pi * progress) + 0.005)
        return self.settings.rate * factor * SLOWER**self.setbacks

    def reseed(self) -> None:
        """Draw other numbers from now on: the same ones led astray. Nothing to do where ``setbacks`` seed a step."""

    def report(self, losses: dict[str, float]) -> dict[str, float] | None:
        """What to log after a step, None where nothing is: moving means, every 100 steps and after the last."""
        self.means = {name: self.means.get(name, value) * 0.98 + value * 0.02 for name, value in losses.items()}
        return self.means if self.position % 100 == 0 or self.position == self.goal else None

    def state(self) -> dict:
        """All that ``load`` needs to continue exactly: tensors, numbers and strings only."""
        state = {name: getattr(self, name).state_dict() for name in self.parts}
        state |= {"step": self.step_number, "seconds": self.seconds, "setbacks": self.setbacks}
        return state | {"settings": self.described()}

    def load(self, state: dict) -> None:
        """Continue from a ``state()``; raises TrainingError when it belongs to other settings."""
        ours, theirs = json.loads(self.described()), json.loads(state["settings"])
        changed = [name for name in ours if ours[name] != theirs.get(name) and name not in self.may_change]
        if changed:
            raise TrainingError(
                f"the state was made with another {', '.join(changed)}; use the same or another folder (--out)."
            )
        for name in self.parts:
            getattr(self, name).load_state_dict(state[name])
        self.step_number, self.seconds = state["step"], state["seconds"]
        self.setbacks = state.get("setbacks", 0)

    def described(self) -> str:
        """The settings as JSON."""
        return json.dumps(asdict(self.settings) if is_dataclass(self.settings) else self.settings)

    def facts(self) -> dict:
        """What the exported weights say of their training."""
        about = {"steps": self.step_number, "seconds": round(self.seconds), "machine": platform.machine()}
        return about | {"settings": json.loads(self.described())}


def mirrored(photos: Tensor, n: int, random: torch.Generator, device: torch.device) -> Tensor:
    """Some of the photos, uint8 (N, 3, R, R), drawn and mirrored at random, as (n, 3, R, R) in [0, 1]."""
    index = torch.randint(len(photos), (n,), generator=random, device=random.device)
    images = photos[index.to(photos.device)].to(device).float() / 255
    flip = torch.rand(n, 1, 1, 1, generator=random, device=random.device) < 0.5
    return torch.where(flip.to(device), images.flip(3), images)


def train(
    trainer: Trainer,
    out: str | Path,
    *,
    save_every: float = 120.0,
    minutes: float | None = None,
    log: str = "jsonl",
    after: Callable[[RunLog], None] = lambda lines: None,
) -> None:
    """Continue from ``out/state.pt``, if there is one, take all steps that are left, and leave a state.

    Where losses or weights are no longer finite it goes back to the state before with SLOWER times the rates, says so,
    and logs it. Ctrl-C waits for the end of a step and leaves a state too. save_every: seconds between two states.
    minutes: stop after so many. log: see ``open_log``. after: called after every step with the log.

    Raises ValueError for a ``state.pt`` that is not one or of other settings, and for losses or
    weights that are not finite after SETBACKS setbacks, while ``state.pt`` stays the last good one.
    """
    path = Path(out) / STATE_FILE
    end = math.inf if minutes is None else time.monotonic() + minutes * 60
    clear_temporaries(out)
    if path.exists():
        _resume(trainer, path)
    interval = 1 if sys.stderr.isatty() else 60
    options = {"initial": trainer.position, "unit": trainer.unit, "mininterval": interval, "file": sys.stderr}
    if trainer.position == 0:  # a state to go back to; and a folder that may not be written to is known at once
        _save(path, trainer)
    lines = open_log(log, out, json.loads(trainer.described()))
    with lines, stopped_between_steps() as stopped, tqdm(total=trainer.goal, **options) as bar:
        done = False
        while not done:
            try:
                _steps(trainer, path, lines, bar, after, save_every, lambda: stopped() or time.monotonic() > end)
                done = True
            except Diverged as error:
                _go_back(trainer, path, lines, error)
        if stopped():
            raise KeyboardInterrupt


def _resume(trainer: Trainer, path: Path) -> None:
    state = load_run(path)
    try:
        trainer.load(state)
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise TrainingError(f"{path} is not a state of this training; delete it, or choose another folder.") from error
    print(f"continuing at {trainer.position} of {trainer.goal} {trainer.unit}.", file=sys.stderr)


def _steps(trainer: Trainer, path: Path, log: RunLog, bar, after, save_every: float, stopped) -> None:
    """The steps that are left, until ``stopped``, with a state at least at the end."""
    last = saved = time.monotonic()
    while trainer.position < trainer.goal:
        losses = trainer.step()
        now = time.monotonic()
        trainer.seconds, last = trainer.seconds + now - last, now
        bar.update(trainer.position - bar.n)
        if (row := trainer.report(losses)) is not None:
            bar.set_postfix({name: f"{value:.3g}" for name, value in row.items()}, refresh=False)
            facts = {"seconds": round(trainer.seconds, 1), "setbacks": trainer.setbacks}
            log.scalars(trainer.position, facts | {name: round(value, 4) for name, value in row.items()})
        after(log)
        if now - saved > save_every:
            _save(path, trainer)
            saved = now
        if stopped():
            break
    _save(path, trainer)  # not after an error: in the middle of a step the state is only half updated


def _go_back(trainer: Trainer, path: Path, log: RunLog, error: Diverged) -> None:
    """To the state on disk with lower rates and other random numbers; both are kept in it."""
    seconds, setbacks = trainer.seconds, trainer.setbacks + 1
    if setbacks > SETBACKS:
        raise TrainingError(
            f"{error}, also with {SLOWER**SETBACKS:g} times the rates; {path.name} is the state before: start again "
            "with a lower rate in another folder."
        ) from error
    trainer.load(load_run(path))
    trainer.seconds, trainer.setbacks = seconds, setbacks
    trainer.reseed()
    _save(path, trainer)
    log.scalars(trainer.position, {"seconds": round(seconds, 1), "setbacks": setbacks})
    rates = f"{SLOWER**setbacks:g} times the rates"
    tqdm.write(f"{error}; going back to {trainer.position} {trainer.unit} with {rates}.", file=sys.stderr)


def _save(path: Path, trainer: Trainer) -> None:
    state = trainer.state()
    if not _finite(state):
        raise Diverged(f"the weights became NaN or infinite before {trainer.position} {trainer.unit}")
    save_run(path, state)


def _finite(state: object) -> bool:
    if isinstance(state, dict | list | tuple):
        return all(map(_finite, state.values() if isinstance(state, dict) else state))
    return not isinstance(state, Tensor) or bool(state.isfinite().all())
