"""A hidden probe: calls the student's function on inputs of this run and emits numbers, nothing else.

Three parts that never meet: ``inputs`` are drawn outside, before anything runs, from the run's seed; ``emit`` is source
text that runs in the student's kernel and knows no answer; ``judge`` compares outside, when the sandbox is dead, with
what the solution emitted for the same inputs. Whatever a submission does to the kernel, it can only change its own
numbers.
"""

import inspect
import textwrap
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

Arrays = dict[str, np.ndarray]
MOST_NUMBERS = 2_000_000

# Runs in a module of its own: names that the student has given another meaning mean nothing there.
IMPORTS = """\
import torch
from helpers.course.expect import TinyFeatures, TinyGenerator
from helpers.latents import Latents
torch.set_grad_enabled(True)
torch.set_default_dtype(torch.float32)
"""
MODULE = """\
import os
import numpy
from safetensors.numpy import load_file, save_file
{imports}
{emit}
def run(function):
    folder = os.environ["GRADING_WORK"]
    values = {function}(function, load_file(os.path.join(folder, "inputs-{item}.safetensors")))
    plain = {{k: v.detach().cpu().numpy() if hasattr(v, "detach") else v for k, v in values.items()}}
    arrays = {{k: numpy.array(v, dtype="float64", order="C") for k, v in plain.items()}}
    save_file(arrays, os.path.join(folder, "results", "{item}.safetensors"))
"""
CELL = """\
import importlib.util as _util, os as _os
_spec = _util.spec_from_file_location("_probe", _os.environ["GRADING_WORK"] + "/probe-{item}.py")
_probe = _util.module_from_spec(_spec)
_spec.loader.exec_module(_probe)
_probe.run({name})
"""


@dataclass(frozen=True)
class Verdict:
    """One part of an exercise: its share of the points, from 0 to 1 how much of it is right, and what helps if not."""

    part: str
    share: float
    right: float
    reason: str = ""


def verdict(part: str, share: float, right: float | bool, hint: str) -> Verdict:
    """With the hint where the part is not all right."""
    return Verdict(part, share, float(right), "" if right == 1 else hint)


def equal(ours: np.ndarray, theirs: np.ndarray, rtol: float = 1e-3, atol: float = 1e-5) -> bool:
    return ours.shape == theirs.shape and bool(np.allclose(ours, theirs, rtol=rtol, atol=atol))


def within(rtol: float = 1e-3, atol: float = 1e-5) -> Callable[[np.ndarray, np.ndarray], bool]:
    """Equality with other tolerances, for a Part."""
    return lambda ours, theirs: equal(ours, theirs, rtol, atol)


@dataclass(frozen=True)
class Part:
    """A part of an exercise: its share, what helps where it is wrong, the part that must be right for it to count."""

    share: float
    hint: str
    after: str = ""
    same: Callable[[np.ndarray, np.ndarray], bool] = field(default=equal)


@dataclass(frozen=True)
class Probe:
    """How one exercise is graded.

    item: id of the exercise. name: what it defines. inputs: draws them, generator of random numbers to name: array.
    emit: ``emit(function, inputs)`` to name: array; only its source is sent, with ``imports`` above it. judge:
    ``judge(got, want, inputs)`` to the verdicts, whose shares add up to 1; or the parts of an exercise that has one
    right answer. expected: one sentence for the report.
    """

    item: str
    name: str
    inputs: Callable[[np.random.Generator], Arrays]
    emit: Callable
    judge: Callable[[Arrays, Arrays, Arrays], list[Verdict]] | dict[str, Part]
    expected: str
    imports: str = IMPORTS

    @property
    def file(self) -> str:
        return f"{self.item}.safetensors"

    def draw(self, seed: int, attempt: int = 0) -> Arrays:
        """Inputs of a run: the same for one seed and attempt, different for every exercise."""
        return self.inputs(np.random.default_rng([seed, attempt, zlib.crc32(self.item.encode())]))

    def cell(self) -> str:
        """Source of the cell that is inserted into the student's notebook."""
        return CELL.format(item=self.item, name=self.name)

    def job(self, inputs: Arrays) -> dict[str, bytes]:
        """Files that the cell needs."""
        emit = textwrap.dedent(inspect.getsource(self.emit))
        module = MODULE.format(imports=self.imports, emit=emit, item=self.item, function=self.emit.__name__)
        return {f"probe-{self.item}.py": module.encode(), f"inputs-{self.file}": pack(inputs)}

    def verdicts(self, got: Arrays | None, want: Arrays, inputs: Arrays) -> list[Verdict]:
        """Judge; what is missing, misshapen or makes the judge stumble is wrong."""
        got = got or {}
        why = [f"not returned: {name}" for name in sorted(set(want) - set(got))]
        shapes = {name: (got[name].shape, want[name].shape) for name in sorted(want) if name in got}
        why += [f"{name}: the shape should be {b}, not {a}" for name, (a, b) in shapes.items() if a != b]
        if why:
            return [Verdict("", 1.0, 0.0, "; ".join(why))]
        try:
            with np.errstate(all="ignore"):
                return compare(self.judge, got, want) if isinstance(self.judge, dict) else self.judge(got, want, inputs)
        except Exception as error:  # whatever a hostile array provokes is a wrong answer, not the end of grading
            return [Verdict("", 1.0, 0.0, f"the result does not fit ({type(error).__name__})")]


def probe(item: str, name: str, expected: str) -> Callable[[type], Probe]:
    """Makes a probe of a class that holds the functions inputs, emit and judge, or parts instead of the last."""
    return lambda cls: Probe(item, name, cls.inputs, cls.emit, getattr(cls, "judge", vars(cls).get("parts")), expected)


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


def compare(parts: dict[str, Part], got: Arrays, want: Arrays) -> list[Verdict]:
    """Each part's array equals the solution's, for its share of the points.

    The reason is the part's hint and never a number: a page must not say by how much a result is off.
    """
    right = {name: part.same(got[name], want[name]) for name, part in parts.items()} | {"": True}
    return [verdict(name, part.share, right[name] and right[part.after], part.hint) for name, part in parts.items()]


def ramp(value: float, none: float, full: float) -> float:
    """0 at ``none`` and beyond, 1 at ``full``, linear in between."""
    return float(np.clip((value - none) / (full - none), 0, 1))
