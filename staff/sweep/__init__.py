"""Sweeps: a table of jobs, spread over processes or machines; finished jobs are never done twice.

A job is a dict of plain values. Its worker gets the bytes of its input files with it and gives back a row of figures
and the bytes of its pictures: no shared disk is needed, and one process alone writes the results.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from helpers.files import json_safe, sha256

ATTEMPTS = 3  # of a job whose worker died; more often than that it is the job's own fault
AHEAD = 4  # chunks in flight per worker: enough to keep it busy, few enough for a million jobs
PATIENCE = 20  # seconds for a scheduler that does not answer
LOOK = 2.0  # seconds after which a cluster is asked anew how many workers it has


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
    return Jobs(axes)


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
    content = {name: sha256(job[name]) if name in inputs else value for name, value in job.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Table:
    """Rows as JSON lines, appended as they come; only the keys of finished jobs are kept in memory.

    At the opening a line that a kill cut off goes, and so do the rows of failed jobs, which are tried again: no key
    stands in the file twice.
    """

    def __init__(self, path: str | Path):
        from helpers.files import atomic_path, clear_temporaries  # not above: torch, which a worker may not need

        self.path, self.keys = Path(path), set()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.path.parent, *self.path.parent.glob("files/*/")):
            clear_temporaries(folder)
        whole = True
        for row in self._read():
            whole = whole and row is not None and "error" not in row
            if row is not None and "error" not in row:
                self.keys.add(row["key"])
        if not whole:
            with atomic_path(self.path) as temporary, open(temporary, "w") as file:
                file.writelines(_line(row) for row in self.rows() if "error" not in row)

    def _read(self) -> Iterator[dict | None]:
        """All rows; None for a last line that was cut off."""
        if not self.path.exists():
            return
        with open(self.path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    row["key"]
                except (ValueError, TypeError, KeyError) as error:
                    if not next(lines, None):
                        yield None
                        return
                    raise SweepError(
                        f"line {number} of {self.path} is no result of a sweep; choose another --out."
                    ) from error
                yield row if line.endswith("\n") else None

    def rows(self) -> Iterator[dict]:
        """What is on disk, in the order in which it came."""
        return (row for row in self._read() if row is not None)

    def add(self, row: dict) -> None:
        """Append a row; it is on disk when this returns."""
        with open(self.path, "a") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        if "error" not in row:
            self.keys.add(row["key"])


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

    Of a job only its key and its place among the jobs are kept, so that a million of them fit.

    Args:
        jobs: from ``expand``.
        make_executor: gives any ``concurrent.futures`` executor; called again when its processes were killed.
        workers: how many chunks it runs at a time; a function where that changes under way.
        batch: jobs, alike in all but their inputs, that run together as one chunk.
        threads: for torch in each worker. The last digits of a result depend on it.

    Raises:
        SweepError: for no jobs, a folder with results of something else, or one into which another sweep writes.
    """

    def __init__(
        self,
        jobs: Sequence[dict],
        tasks: dict[str, Task],
        out: str | Path,
        make_executor: Callable[[], Executor],
        *,
        workers: int | Callable[[], int] = 1,
        batch: int = 1,
        threads: int | None = None,
    ):
        if not jobs:
            raise SweepError("a sweep needs at least one job, but none came.")
        task = tasks[jobs[0]["task"]]
        self.run, self.inputs = task.run, set(task.inputs.values())
        self.out, self.jobs, self.batch, self.threads = Path(out), jobs, batch, threads
        self.make_executor, self.workers = make_executor, workers if callable(workers) else lambda: workers
        with _locked(self.out):
            self.table = Table(self.out / "results.jsonl")
        keys = ((job_key(job, self.inputs), place) for place, job in enumerate(jobs))
        self.left = {key: place for key, place in keys if key not in self.table.keys}

    def __len__(self) -> int:
        """Jobs that are still to do."""
        return len(self.left)

    def __iter__(self) -> Iterator[dict]:
        """New rows as they come; afterwards ``rows()`` has all."""
        suspects: dict[str, int] = {}
        with _locked(self.out):
            while self.left:
                # one at a time after a death, so that it is known whose it was
                alone = [key for key in suspects if key in self.left]
                pending = ((key, self.jobs[self.left[key]]) for key in alone or list(self.left))
                try:
                    yield from self._round(_chunks(pending, self.inputs, 1 if alone else self.batch), bool(alone))
                except _WorkersDied as death:
                    for key in death.keys:
                        suspects[key] = suspects.get(key, 0) + 1
                        if suspects[key] >= ATTEMPTS:
                            yield self._store(key, Result({"error": f"its worker died {ATTEMPTS} times (memory?)."}))

    def rows(self) -> list[dict]:
        """Rows of all jobs that are done or failed, in the jobs' order."""
        rows = {row["key"]: row for row in self.table.rows()}
        return [rows[key] for key in (job_key(job, self.inputs) for job in self.jobs) if key in rows]

    def _round(self, chunks: Iterator[list[tuple[str, dict]]], alone: bool) -> Iterator[dict]:
        flying: dict[Future, list[tuple[str, dict]]] = {}
        with self.make_executor() as executor:
            try:
                while True:
                    ahead = 1 if alone else AHEAD * max(1, self.workers())
                    for chunk in itertools.islice(chunks, max(0, ahead - len(flying))):
                        data = [{name: Path(job[name]).read_bytes() for name in self.inputs} for _, job in chunk]
                        jobs = [job for _, job in chunk]
                        flying[executor.submit(run_chunk, self.run, jobs, data, self.threads)] = chunk
                    if not flying:
                        return
                    for future in wait(flying, LOOK, FIRST_COMPLETED).done:
                        chunk = flying[future]
                        results = self._results(future, chunk)
                        del flying[future]
                        if results is None:
                            chunks = itertools.chain([[pair] for pair in chunk], chunks)
                        for (key, _), result in zip(chunk, results or (), strict=bool(results)):
                            yield self._store(key, result)
            except BrokenExecutor as error:
                raise _WorkersDied([key for chunk in flying.values() for key, _ in chunk]) from error

    def _results(self, future: Future, chunk: list[tuple[str, dict]]) -> list[Result] | None:
        """What a chunk gave; None where its workers died with it, and its jobs have to be done one by one.

        A job's own errors come as results, so that whatever is raised here is the executor's. Dask has lost several
        workers over a job before it says so.
        """
        try:
            return future.result()
        except BrokenExecutor:
            raise
        except CancelledError as error:
            raise SweepError(
                "the executor let its jobs fall (has the scheduler ended?); call again to go on."
            ) from error
        except ImportError as error:
            raise SweepError(f"a worker lacks a package ({error}); give it the same environment.") from error
        except Exception as error:
            reason = f"its worker died again and again (memory?): {' '.join(str(error).split())}"
            return [Result({"error": reason})] if len(chunk) == 1 else None

    def _store(self, key: str, result: Result) -> dict:
        """Files first, then the row: a row means that its files are whole."""
        from helpers.files import atomic_path

        # 256 folders: many file systems are slow with a million files in one
        names = {name: f"files/{key[:2]}/{key}-{name}" for name in result.files}
        for name, content in result.files.items():
            with atomic_path(self.out / names[name]) as temporary:
                Path(temporary).write_bytes(content)
        row = {"key": key, **self.jobs[self.left.pop(key)], **result.row} | ({"files": names} if names else {})
        self.table.add(row)
        return row


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process writes into a folder. Raises SweepError where another does."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SweepError(f"another sweep writes into {folder}; let it end, or choose another --out.") from error
    except NotImplementedError:
        pass  # a cluster's file system without locks
    try:
        yield
    finally:
        lock.release()


class _WorkersDied(Exception):
    def __init__(self, keys: list[str]):
        self.keys = keys


class LocalPool(ProcessPoolExecutor):
    """Fresh processes that end with the one that made them, killed or stopped; fork would copy torch's threads.

    gpus: what each of them in turn is to see as CUDA_VISIBLE_DEVICES; none leaves that as it is.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()):
        self.others = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        super().__init__(workers, mp_context=context, initializer=_begin, initargs=(context.Value("i", 0), gpus))

    def __exit__(self, kind, *rest) -> bool | None:
        if kind is not None:  # the jobs under way would be waited for, and their results thrown away
            self.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - self.others:
                process.terminate()
        return super().__exit__(kind, *rest)


def _begin(begun: Synchronized, gpus: Sequence[str]) -> None:
    """In a worker: Ctrl-C is the parent's affair, and its death, which nothing else would tell, is the end."""
    if gpus:
        with begun.get_lock():
            number, begun.value = begun.value, begun.value + 1
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def local_processes(workers: int, gpus: Sequence[str] = ()) -> Callable[[], Executor]:
    """Makes pools of processes on this machine, each with a GPU of its own where there are several."""
    return lambda: LocalPool(workers, gpus)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return ([name.strip() for name in named.split(",") if name.strip()] or [str(i) for i in range(count)])[:count]


@contextmanager
def dask_cluster(address: str) -> Iterator[tuple[Callable[[], Executor], Callable[[], int]]]:
    """Makers of a Dask cluster's executor, and of the number of its threads; Dask does a lost worker's jobs again."""
    try:
        from distributed import Client
    except ImportError as error:
        raise SweepError("--dask needs Dask: pip install 'dask[distributed]'.") from error
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, TimeoutError) as error:
        raise SweepError(f"no Dask scheduler answers at {address}; start one with: dask scheduler.") from error

    @functools.lru_cache(maxsize=1)
    def threads(_: int) -> int:
        return sum(client.nthreads().values())

    with client:
        # workers come and go: a queue starts them one after the other
        yield lambda: client.get_executor(pure=False, retries=ATTEMPTS), lambda: threads(time.monotonic() // LOOK)
