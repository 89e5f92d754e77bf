"""A hidden probe: calls the student's function on inputs of this run and emits numbers, nothing else.

Three parts that never meet: ``inputs`` are drawn outside from the run's seed; ``emit`` is source text that runs in the
student's kernel and knows no answer; ``judge`` compares outside, when the sandbox is dead, with what the solution
emitted for the same inputs. Whatever a submission does to the kernel, it can only change its own numbers.
"""

from __future__ import annotations

import inspect
import textwrap
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from helpers.metrics import psnr, ssim

Arrays = dict[str, np.ndarray]
MOST_NUMBERS = 2_000_000

CELL = """\
def _probe():
    import numpy
    from safetensors.numpy import load_file, save_file
{emit}
    inputs = load_file("inputs-{item}.safetensors")
    values = {function}(globals()["{name}"], inputs)
    plain = {{k: v.detach().cpu().numpy() if hasattr(v, "detach") else v for k, v in values.items()}}
    save_file({{k: numpy.array(v, dtype="float64") for k, v in plain.items()}}, "results/{item}.safetensors")
_probe()
"""


@dataclass(frozen=True)
class Verdict:
    """One part of an exercise: its share of the points, from 0 to 1 how much of it is right, and why not more."""

    part: str
    share: float
    right: float
    reason: str = ""


@dataclass(frozen=True)
class Probe:
    """How one exercise is graded.

    Attributes:
        item: id of the exercise.
        name: what the exercise defines.
        inputs: draws them: generator of random numbers to name: array.
        emit: ``emit(function, inputs)`` to name: array; imports what it needs inside, for only its source is sent.
        judge: ``judge(got, want, inputs)`` to the verdicts, whose shares add up to 1.
        expected: one sentence for the report, what kind of result was expected.
        show: ``show(values, inputs)`` to pictures (B, 3 or 1, H, W) for the report; None draws curves.
    """

    item: str
    name: str
    inputs: Callable[[np.random.Generator], Arrays]
    emit: Callable
    judge: Callable[[Arrays, Arrays, Arrays], list[Verdict]]
    expected: str
    show: Callable[[Arrays, Arrays], np.ndarray] | None = None

    @property
    def file(self) -> str:
        return f"{self.item}.safetensors"

    def draw(self, seed: int) -> Arrays:
        """Inputs of a run: the same for one seed, different for every exercise."""
        return self.inputs(np.random.default_rng([seed, zlib.crc32(self.item.encode())]))

    def cell(self) -> str:
        """Source of the cell that is inserted into the student's notebook."""
        source = textwrap.indent(textwrap.dedent(inspect.getsource(self.emit)), "    ")
        return CELL.format(emit=source, item=self.item, function=self.emit.__name__, name=self.name)

    def verdicts(self, got: Arrays | None, want: Arrays, inputs: Arrays) -> list[Verdict]:
        """Judge; what is missing, misshapen or makes the judge stumble is wrong."""
        if got is None:
            return [Verdict("", 1.0, 0.0, "nothing was returned")]
        if missing := sorted(set(want) - set(got)):
            return [Verdict("", 1.0, 0.0, f"not returned: {', '.join(missing)}")]
        try:
            with np.errstate(all="ignore"):
                return self.judge(got, want, inputs)
        except Exception as error:  # whatever a hostile array provokes is a wrong answer, not the end of grading
            return [Verdict("", 1.0, 0.0, f"the result does not fit ({type(error).__name__})")]


def pack(arrays: Arrays) -> bytes:
    return save({name: np.ascontiguousarray(value) for name, value in arrays.items()})


def unpack(data: bytes | None) -> Arrays | None:
    """Arrays of a file that a sandbox left; None for anything else. No code is run, nothing large is read."""
    if not data:
        return None
    try:
        arrays = {name: value.astype(np.float64) for name, value in load(data).items()}
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return arrays if sum(value.size for value in arrays.values()) < MOST_NUMBERS else None


def close(shares: dict[str, float], rtol: float = 1e-3, atol: float = 1e-5) -> Callable:
    """A judge for what has one right answer: each name's array equals the solution's, for its share of the points."""

    def judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
        return [Verdict(name, share, *agree(got[name], want[name], rtol, atol)) for name, share in shares.items()]

    return judge


def all_close(part: str, rtol: float = 1e-3, atol: float = 1e-5) -> Callable:
    """A judge that wants every array right: for parts of which one alone could be met by chance or for nothing."""

    def judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
        for name, value in want.items():
            right, why = agree(got[name], value, rtol, atol)
            if not right:
                return [Verdict(part, 1.0, 0.0, f"{name}: {why}")]
        return [Verdict(part, 1.0, 1.0)]

    return judge


def as_near(ours, theirs, targets, decibels: float = 1.5, structure: float = 0.1) -> tuple[float, str]:
    """1 if each picture is as near to its target as the solution's, by PSNR and by SSIM, else 0; and by how much.

    ours, theirs, targets: (B, 3, H, W) in [0, 1], sides of at least 11 pixels. decibels, structure: how much PSNR and
    SSIM may fall short.
    """
    pictures = [torch.as_tensor(p).float().clamp(0, 1) for p in (ours, theirs)]
    values = [(psnr(p, targets), ssim(p, targets)) for p in pictures]
    (db, alike), (best, most) = values
    why = (
        f"PSNR {db.mean():.1f} dB and SSIM {alike.mean():.2f}, the solution {best.mean():.1f} dB and {most.mean():.2f}"
    )
    right = bool((db > best - decibels).all() and (alike > most - structure).all())
    return float(right), "" if right else why


def agree(ours: np.ndarray, theirs: np.ndarray, rtol: float = 1e-3, atol: float = 1e-5) -> tuple[float, str]:
    """1 if two arrays have one shape and equal numbers, else 0 and in what they differ."""
    if ours.shape != theirs.shape:
        return 0.0, f"shape {ours.shape} instead of {theirs.shape}"
    if not np.isfinite(ours[np.isfinite(theirs)]).all():
        return 0.0, "NaN or infinite numbers"
    if np.allclose(ours, theirs, rtol=rtol, atol=atol):
        return 1.0, ""
    finite = np.isfinite(theirs) & np.isfinite(ours)
    off = np.abs(ours - theirs)[finite].mean() / max(np.abs(theirs[finite]).mean(), 1e-12) if finite.any() else 1.0
    side = "too large" if ours[finite].sum() > theirs[finite].sum() else "too small"
    return 0.0, f"off by {off:.2g} of its size on average, {side} in sum"
