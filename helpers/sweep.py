"""Sweeps: a table of jobs, spread over processes or machines; finished jobs are never done twice.

A job is a dict of plain values. Its worker gets the bytes of its input files with it and gives back a row of figures
and the bytes of its pictures: no shared disk is needed, and one process alone writes the results.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .logs import json_safe

ATTEMPTS = 3  # of a job whose worker died; more often than that it is the job's own fault
AHEAD = 4  # chunks in flight per worker: enough to keep it busy, few enough for a million jobs


class SweepError(ValueError):
    """A specification that cannot be read, or results that belong to something else."""


@dataclass
class Result:
    """What a job gives: its row of figures, and files by name."""

    row: dict
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A kind of job.

    Attributes:
        inputs: option of the specification to the name of one such file in a job, e.g. {"photos": "photo"}.
        options: names that a job may set.
        run: ``run(jobs, data)`` does jobs that differ in their inputs only; ``data[i]`` maps input name to bytes.
    """

    inputs: dict[str, str]
    options: frozenset[str]
    run: Callable[[list[dict], list[dict[str, bytes]]], list[Result]]


def expand(spec: dict, tasks: dict[str, Task], folder: Path = Path()) -> list[dict]:
    """All jobs of a specification: every combination of the values in its lists.

    Args:
        spec: ``task``, the task's inputs (file patterns, relative to ``folder``), and its options; a list is an axis,
            so a value that is itself a list stands in a list of its own.

    Raises:
        SweepError: for an unknown task or option, an axis without values, or a pattern without files.
    """
    spec = dict(spec)
    name = spec.pop("task", None)
    if name not in tasks:
        raise SweepError(f"a sweep needs a task, one of {', '.join(sorted(tasks))}, but {name!r} came.")
    task, axes = tasks[name], {"task": [name]}
    for option, one in task.inputs.items():
        axes[one] = [str(path) for path in _files(spec.pop(option, None), option, folder)]
    if unknown := sorted(set(spec) - task.options):
        known = ", ".join(sorted(task.options | set(task.inputs)))
        raise SweepError(f"the task {name} does not know {', '.join(unknown)}; it knows {known}.")
    axes |= {key: value if isinstance(value, list) else [value] for key, value in spec.items()}
    if empty := [key for key, values in axes.items() if not values]:
        raise SweepError(f"the list of {', '.join(empty)} is empty; give it at least one value.")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _files(patterns: object, option: str, folder: Path) -> list[Path]:
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise SweepError(f"{option} must be a file pattern or a list of them, but {patterns!r} came.")
    found = []
    for pattern in patterns:
        path = folder / pattern
        matches = [path] if path.is_file() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not matches:
            raise SweepError(f"{option}: no file fits {pattern!r} in {folder.resolve()}; check the pattern.")
        found += [match for match in matches if match.is_file()]
    return list(dict.fromkeys(found))


def read_spec(path: str | Path) -> dict:
    """The specification in a YAML file; SweepError where it is none."""
    import yaml

    try:
        spec = yaml.safe_load(Path(path).read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SweepError(f"{path} is no YAML file: {error}") from error
    if not isinstance(spec, dict):
        raise SweepError(f"{path} must hold names with values (task: invert, photos: ...), but a {type(spec)} came.")
    return spec


def job_key(job: dict, inputs: set[str]) -> str:
    """16 hexadecimal digits: the same for the same settings on the same bytes, wherever the files lie."""
    content = {name: file_digest(job[name]) if name in inputs else value for name, value in job.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_digest(path: str) -> str:
    """SHA-256 of a file, in hexadecimal digits; computed anew when the file was changed."""
    status = os.stat(path)
    return _digest(path, status.st_mtime_ns, status.st_size)


@functools.cache
def _digest(path: str, *_: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Table:
    """Rows as JSON lines, appended as they come; a line that a kill cut off is dropped at the next opening."""

    def __init__(self, path: str | Path):
        from .images import atomic_path, clear_temporaries  # not above: torch, which a worker may not need

        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        clear_temporaries(self.path.parent), clear_temporaries(self.path.parent / "files")
        self.rows = {row["key"]: row for row in self._read()}
        with atomic_path(self.path) as temporary:
            Path(temporary).write_text("".join(map(_line, self.rows.values())))

    def _read(self) -> Iterator[dict]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                row["key"]
            except (ValueError, TypeError, KeyError) as error:
                if number == len(lines):
                    return
                raise SweepError(
                    f"line {number} of {self.path} is no result of a sweep; choose another --out."
                ) from error
            yield row

    def add(self, row: dict) -> None:
        """Append a row; it is on disk when this returns."""
        self.rows[row["key"]] = row
        with open(self.path, "a") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())

    def done(self, key: str) -> bool:
        return key in self.rows and "error" not in self.rows[key]


def _line(row: dict) -> str:
    return json.dumps(json_safe(row), default=str, allow_nan=False) + "\n"


def _chunks(pending: Iterable[tuple[str, dict]], inputs: set[str], size: int) -> Iterator[list[tuple[str, dict]]]:
    """Jobs in groups that agree in everything but their inputs."""
    waiting: dict[str, list] = {}
    for key, job in pending:
        rest = json.dumps({k: v for k, v in job.items() if k not in inputs}, sort_keys=True, default=str)
        group = waiting.setdefault(rest, [])
        group.append((key, job))
        if len(group) == size:
            yield waiting.pop(rest)
    yield from waiting.values()


def run_chunk(run: Callable, jobs: list[dict], data: list[dict[str, bytes]], threads: int | None) -> list[Result]:
    """Do a chunk where a worker is; a bad job becomes a row with its error and does not take the others with it."""
    if threads:
        import torch

        torch.set_num_threads(threads)
    try:
        return run(jobs, data)
    except Exception as error:  # whatever one job of a million does, the others go on
        if len(jobs) == 1:
            kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
            return [Result({"error": kind + " ".join(str(error).split())})]
        return [run_chunk(run, [job], [files], threads)[0] for job, files in zip(jobs, data, strict=True)]


class Sweep:
    """Jobs of one task into a folder: rows stream into ``results.jsonl``, files into ``files/``.

    Args:
        jobs: from ``expand``.
        make_executor: gives any ``concurrent.futures`` executor; called again when its processes were killed.
        workers: how many chunks it runs at a time.
        batch: jobs, alike in all but their inputs, that run together as one chunk.
        threads: for torch in each worker. The last digits of a result depend on it.
    """

    def __init__(
        self,
        jobs: Sequence[dict],
        tasks: dict[str, Task],
        out: str | Path,
        make_executor: Callable[[], Executor],
        *,
        workers: int = 1,
        batch: int = 1,
        threads: int | None = None,
    ):
        if not jobs:
            raise SweepError("a sweep needs at least one job, but none came.")
        task = tasks[jobs[0]["task"]]
        self.run, self.inputs = task.run, set(task.inputs.values())
        self.out, self.table = Path(out), Table(Path(out) / "results.jsonl")
        self.make_executor, self.workers, self.batch, self.threads = make_executor, workers, batch, threads
        self.keyed = [(job_key(job, self.inputs), job) for job in jobs]
        self.left = {key: job for key, job in self.keyed if not self.table.done(key)}

    def __len__(self) -> int:
        """Jobs that are still to do."""
        return len(self.left)

    def __iter__(self) -> Iterator[dict]:
        """New rows as they come; afterwards ``rows()`` has all."""
        suspects: dict[str, int] = {}
        while self.left:
            # one at a time after a death, so that it is known whose it was
            jobs = {key: self.left[key] for key in suspects if key in self.left} or self.left
            alone = jobs is not self.left
            chunks = _chunks(list(jobs.items()), self.inputs, 1 if alone else self.batch)
            try:
                yield from self._round(chunks, 1 if alone else self.workers * AHEAD)
            except _WorkersDied as death:
                for key in death.keys:
                    suspects[key] = suspects.get(key, 0) + 1
                    if suspects[key] >= ATTEMPTS:
                        yield self._store(key, Result({"error": f"its worker died {ATTEMPTS} times (memory?)."}))

    def rows(self) -> list[dict]:
        """Rows of all jobs that are done or failed, in the jobs' order."""
        return [self.table.rows[key] for key, _ in self.keyed if key in self.table.rows]

    def _round(self, chunks: Iterator[list[tuple[str, dict]]], ahead: int) -> Iterator[dict]:
        flying: dict[Future, list[str]] = {}
        with self.make_executor() as executor:
            try:
                while True:
                    for chunk in itertools.islice(chunks, ahead - len(flying)):
                        data = [{name: Path(job[name]).read_bytes() for name in self.inputs} for _, job in chunk]
                        future = executor.submit(run_chunk, self.run, [job for _, job in chunk], data, self.threads)
                        flying[future] = [key for key, _ in chunk]
                    if not flying:
                        return
                    for future in wait(flying, return_when=FIRST_COMPLETED).done:
                        results = future.result()
                        for key, result in zip(flying.pop(future), results, strict=True):
                            yield self._store(key, result)
            except BrokenExecutor as error:
                raise _WorkersDied([key for keys in flying.values() for key in keys]) from error

    def _store(self, key: str, result: Result) -> dict:
        """Files first, then the row: a row means that its files are whole."""
        from .images import atomic_path

        names = {name: f"files/{key}-{name}" for name in result.files}
        for name, content in result.files.items():
            with atomic_path(self.out / names[name]) as temporary:
                Path(temporary).write_bytes(content)
        row = {"key": key, **self.left.pop(key), **result.row} | ({"files": names} if names else {})
        self.table.add(row)
        return row


class _WorkersDied(Exception):
    def __init__(self, keys: list[str]):
        self.keys = keys


class LocalPool(ProcessPoolExecutor):
    """Fresh processes that end with the one that made them, killed or stopped; fork would copy torch's threads."""

    def __init__(self, workers: int):
        self.others = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        super().__init__(workers, mp_context=context, initializer=_leave_with_parent)

    def __exit__(self, kind, *rest) -> bool | None:
        if kind is not None:  # the jobs under way would be waited for, and their results thrown away
            self.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - self.others:
                process.terminate()
        return super().__exit__(kind, *rest)


def _leave_with_parent() -> None:
    """In a worker: Ctrl-C is the parent's affair, and its death, which nothing else would tell, is the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def local_processes(workers: int) -> Callable[[], Executor]:
    """Makes pools of processes on this machine."""
    return lambda: LocalPool(workers)


@contextmanager
def dask_cluster(address: str) -> Iterator[tuple[Callable[[], Executor], int]]:
    """Makers of a Dask cluster's executor, and the number of its workers; Dask does a lost worker's jobs again."""
    try:
        from distributed import Client
    except ImportError as error:
        raise SweepError("--dask needs Dask: pip install 'dask[distributed]'.") from error
    try:
        client = Client(address, timeout="20s")
    except (OSError, TimeoutError) as error:
        raise SweepError(f"no Dask scheduler answers at {address}; start one with: dask scheduler.") from error
    with client:
        workers = max(1, len(client.scheduler_info()["workers"]))
        yield lambda: client.get_executor(pure=False, retries=ATTEMPTS), workers
