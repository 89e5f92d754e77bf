"""What a sweep is made of: its tasks, and the table of jobs that a specification spells out."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path


class SweepError(ValueError):
    """A specification that cannot be read, results of something else, or a cluster that ended."""


@dataclass
class Result:
    """What a job returns: its row of figures, and files by name."""

    row: dict
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A kind of job: ``run(jobs, data)`` does jobs that differ in their inputs only; data[i]: input name to bytes."""

    inputs: dict[str, str]  # option of the specification to the name of one such file, e.g. {"photos": "photo"}
    options: dict[str, type | None]  # names that a job may set, with their types; None takes any value
    run: Callable[[list[dict], list[dict[str, bytes]]], list[Result]]


class Jobs(Sequence):
    """Every combination of the values of some axes, the last one varying fastest; each is made when it is asked for."""

    def __init__(self, axes: dict[str, list]):
        self.axes = axes

    def __len__(self) -> int:
        return math.prod(map(len, self.axes.values()))

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        job = dict.fromkeys(self.axes)
        for name, values in reversed(self.axes.items()):
            index, place = divmod(index, len(values))
            job[name] = values[place]
        return job


def expand(spec: dict, tasks: dict[str, Task], folder: Path = Path()) -> Jobs:
    """All jobs of a specification: ``task``, its inputs (file patterns, relative to ``folder``), and its options.

    A list is an axis, so a value that is itself a list stands in a list of its own. Raises SweepError for an unknown
    task or option, a value of the wrong type, an axis without values, or a pattern without files.
    """
    spec = dict(spec)
    name = spec.pop("task", None)
    if name not in tasks:
        raise SweepError(f"a sweep needs a task, one of {', '.join(sorted(tasks))}; got {name!r}.")
    task, axes = tasks[name], {"task": [name]}
    for option, one in task.inputs.items():
        axes[one] = _files(spec.pop(option, None), option, folder)
    if unknown := sorted(map(str, set(spec) - set(task.options))):
        known = ", ".join(sorted(set(task.options) | set(task.inputs)))
        raise SweepError(f"the task {name} does not know {', '.join(unknown)}; it knows {known}.")
    for key, value in spec.items():
        axes[key] = [_typed(key, one, task.options[key]) for one in (value if isinstance(value, list) else [value])]
    if empty := [key for key, values in axes.items() if not values]:
        raise SweepError(f"the list of {', '.join(empty)} is empty; give it at least one value.")
    return Jobs(axes)


def _typed(name: str, value: object, kind: type | None) -> object:
    """The value as its option's type: YAML reads 3e2 as text and 300.0 as a float."""
    if kind not in (int, float):
        return value
    try:
        number = float(value)
        if isinstance(value, bool) or (kind is int and number != int(number)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise SweepError(f"{name} must be a {'whole ' * (kind is int)}number, got {value!r}.") from None
    return value if type(value) is kind else kind(number)


def _files(patterns: object, option: str, folder: Path) -> list[str]:
    patterns, found = [patterns] if isinstance(patterns, str) else patterns, []
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise SweepError(f"{option} must be a file pattern or a list of them, got {patterns!r}.")
    for pattern in patterns:
        path = os.path.expanduser(pattern)
        matches = (str(folder / match) for match in [path, *sorted(glob(path, root_dir=folder, recursive=True))])
        if not (matches := [match for match in matches if os.path.isfile(match)]):
            whole = os.path.isdir(os.path.join(folder, path))
            advice = f"it is a folder, so name what is in it ({pattern}/*)" if whole else "check the pattern"
            raise SweepError(f"{option}: no file matches {pattern!r} in {folder.resolve()}; {advice}.")
        found += matches
    return list(dict.fromkeys(found))


def read_spec(path: str | Path) -> dict:
    """The specification in a YAML file; SweepError for anything else."""
    import yaml

    try:
        spec = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SweepError(f"{path} is not a YAML file: {error}") from error
    if not isinstance(spec, dict):
        raise SweepError(f"{path} must hold names with values (task: invert, photos: ...), got {type(spec)}.")
    return spec
