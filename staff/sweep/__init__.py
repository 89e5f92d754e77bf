"""Sweeps: a table of jobs, spread by Dask over processes or machines; a finished job is never computed twice.

A job is a dict of plain values. Its worker gets the bytes of its input files with it and returns a row of figures and
the bytes of its images: no shared disk is needed, and one process alone writes the results.
"""

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from helpers.files import atomic_path, clear_temporaries, json_safe, sha256
from staff.sweep.spec import Result, SweepError, Task

AHEAD = 4  # chunks in flight per thread: enough to keep it busy, few enough for a million jobs
PATIENCE = 20  # seconds to wait for a scheduler that does not answer
DEATHS = 2  # that many workers lost over one job make it the job's own fault


def job_key(job: dict, inputs: set[str]) -> str:
    """16 hexadecimal digits: the same for the same settings on the same bytes, wherever the files lie."""
    content = {name: sha256(job[name]) if name in inputs else value for name, value in job.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Table:
    """Rows as JSON lines, appended as they come; only the finished jobs' keys and names are kept in memory.

    On opening, a line that a kill cut off is dropped, and so are the rows of failed jobs, which are tried again.
    """

    def __init__(self, path: str | Path, inputs: set[str] = frozenset()):
        self.path, self.inputs = Path(path), sorted(inputs)
        self.keys: set[str] = set()
        self.jobs: set[tuple] = set()  # key and input names: two files of the same bytes have a row each
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.path.parent, *self.path.parent.glob("files/*/")):
            clear_temporaries(folder)
        dropped = False
        for row in self._read():
            if row is None or "error" in row:
                dropped = True
            else:
                self._remember(row)
        if dropped:
            with atomic_path(self.path) as temporary, open(temporary, "w") as file:
                file.writelines(_line(row) for row in self.rows() if "error" not in row)

    def name(self, row: dict) -> tuple:
        """What makes a row one of its own: the job's key and the names of its inputs."""
        return row["key"], *map(row.get, self.inputs)

    def _remember(self, row: dict) -> None:
        self.keys.add(row["key"])
        self.jobs.add(self.name(row))

    def _read(self) -> Iterator[dict | None]:
        """All rows; None for a last line that was cut off."""
        with open(self.path) if self.path.exists() else io.StringIO() as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    row["key"]
                except (ValueError, TypeError, KeyError) as error:
                    if next(lines, None):
                        message = f"line {number} of {self.path} is not a result of a sweep; choose another --out."
                        raise SweepError(message) from error
                    row = None
                yield row if line.endswith("\n") else None

    def rows(self) -> Iterator[dict]:
        """What is on disk, in the order in which it came."""
        return filter(None, self._read())

    def add(self, row: dict) -> None:
        """Append a row; it is on disk when this returns."""
        with open(self.path, "a") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        if "error" not in row:
            self._remember(row)


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
    if threads:  # in a worker: its share of the cores, and of several GPUs its own
        import torch
        from distributed import get_worker

        torch.set_num_threads(threads)
        if (gpus := torch.cuda.device_count()) > 1 and str(name := get_worker().name).isdigit():
            torch.cuda.set_device(int(name) % gpus)
    try:
        return run(jobs, data)
    except Exception as error:  # whatever one job of a million does, the others continue
        if len(jobs) == 1:
            kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
            return [Result({"error": kind + " ".join(str(error).split())})]
        return [run_chunk(run, [job], [files], None)[0] for job, files in zip(jobs, data, strict=True)]


class Sweep:
    """Jobs (of ``expand``) of one task into a folder: rows stream into ``results.jsonl``, files into ``files/``.

    Only a job's key and its places among the jobs are kept in memory, so that a million of them fit. batch: jobs, alike
    in all but their inputs, that run together. threads: for torch in each worker; last digits depend on it.

    Raises SweepError for no jobs, a folder with results of something else, or one into which another sweep writes.
    """

    def __init__(
        self, jobs: Sequence[dict], tasks: dict[str, Task], out: str | Path, batch: int = 1, threads: int | None = None
    ):
        if not jobs:
            raise SweepError("a sweep needs at least one job, got none.")
        task = tasks[jobs[0]["task"]]
        self.task_run, self.inputs = task.run, set(task.inputs.values())
        self.out, self.jobs, self.batch, self.threads = Path(out), jobs, batch, threads
        self.left: dict[str, list[int]] = {}  # key to the places of its jobs
        copies: dict[str, list[int]] = {}  # inputs whose bytes were done before under another name
        with _locked(self.out):
            self.table = Table(self.out / "results.jsonl", self.inputs)
            for place, job in enumerate(jobs):
                key = job_key(job, self.inputs)
                if self.table.name({"key": key, **job}) not in self.table.jobs:
                    (copies if key in self.table.keys else self.left).setdefault(key, []).append(place)
            for row in [row for row in self.table.rows() if row["key"] in copies] if copies else ():
                for place in copies.pop(row["key"], ()):
                    self.table.add(row | {name: jobs[place][name] for name in self.inputs})

    def __len__(self) -> int:
        """Jobs that are still to do."""
        return sum(map(len, self.left.values()))

    def run(self, client) -> Iterator[dict]:
        """New rows as they come, from the workers of a ``distributed.Client``; afterwards ``rows()`` has all."""
        with _locked(self.out):
            try:
                suspects = yield from self._round(client, _chunks(self._pending(self.left), self.inputs, self.batch))
                if suspects:  # one at a time, so that it is known whose fault a death is
                    chunks = ([pair] for pair in self._pending(suspects))
                    for key in (yield from self._round(client, chunks, ahead=1)):
                        reason = f"its workers died over it {DEATHS} times and more (too little memory?)."
                        yield from self._store(key, Result({"error": reason}))
            except SweepError:
                raise
            except Exception as error:  # its type depends on what was under way
                if client.scheduler is not None and client.status == "running":
                    raise
                raise SweepError("the scheduler ended; run the same command again to continue.") from error

    def _pending(self, keys: Iterable[str]) -> Iterator[tuple[str, dict]]:
        return ((key, self.jobs[self.left[key][0]]) for key in list(keys))

    def _round(self, client, chunks: Iterator[list[tuple[str, dict]]], ahead: int | None = None):
        """Do chunks and yield their rows; returns the keys of the jobs over which workers died."""
        from distributed import KilledWorker, as_completed

        flying, suspects, completed = {}, [], as_completed(loop=client.loop)  # another client may be the default
        try:
            while True:
                most = ahead or AHEAD * max(1, sum(client.nthreads().values()))
                for chunk in itertools.islice(chunks, max(0, most - len(flying))):
                    jobs = [job for _, job in chunk]
                    data = [{name: Path(job[name]).read_bytes() for name in self.inputs} for job in jobs]
                    future = client.submit(run_chunk, self.task_run, jobs, data, self.threads, pure=False)
                    flying[future] = [key for key, _ in chunk]
                    completed.add(future)
                if not flying:
                    return suspects
                future = next(completed)
                keys = flying.pop(future)
                if future.status == "cancelled":
                    raise ConnectionError("the scheduler is gone")
                try:
                    for key, result in zip(keys, future.result(), strict=True):
                        yield from self._store(key, result)
                except KilledWorker:
                    suspects += keys
                except ImportError as error:
                    raise SweepError(f"a worker lacks a package ({error}); give it the same environment.") from error
                future.release()  # otherwise Dask would compute it again when its worker is lost
        finally:
            if client.status == "running":
                client.cancel(list(flying))

    def rows(self) -> list[dict]:
        """Rows of all jobs that are done or failed, in the jobs' order."""
        rows = {self.table.name(row): row for row in self.table.rows()}
        names = (self.table.name({"key": job_key(job, self.inputs), **job}) for job in self.jobs)
        return [rows[name] for name in names if name in rows]

    def _store(self, key: str, result: Result) -> Iterator[dict]:
        """Files first, then the rows: a row means that its files are whole."""
        # 256 folders: many file systems are slow with a million files in one
        names = {name: f"files/{key[:2]}/{key}-{name}" for name in result.files}
        for name, content in result.files.items():
            with atomic_path(self.out / names[name]) as temporary:
                Path(temporary).write_bytes(content)
        for place in dict.fromkeys(self.left.pop(key)):
            row = {"key": key, **self.jobs[place], **result.row} | ({"files": names} if names else {})
            if self.table.name(row) not in self.table.jobs:  # the same file may stand in the table of jobs twice
                self.table.add(row)
                yield row


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


@contextmanager
def cluster(address: str | None = None, workers: int = 1) -> Iterator:
    """A ``distributed.Client``: of the scheduler at ``address``, or of this many fresh processes on this machine.

    Raises SweepError where Dask is missing or no scheduler answers.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise SweepError('a sweep needs Dask: pip install "dask[distributed]".') from error
    if address:
        try:
            client = Client(address, timeout=PATIENCE)
        except (OSError, TimeoutError) as error:
            raise SweepError(f"no Dask scheduler answers at {address}; start one with: dask scheduler.") from error
        with client:
            yield client
        return
    settings = {"distributed.scheduler.allowed-failures": DEATHS - 1, "distributed.worker.memory.terminate": False}
    settings["distributed.deploy.lost-worker-timeout"] = "1 day"  # a busy machine is slow to start a worker again
    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with dask.config.set(settings), LocalCluster(**options) as processes, Client(processes) as client:
        client.run(_ignore_interrupt)  # Ctrl-C is the parent's affair
        try:
            yield client
        except BaseException:  # Dask would wait for the jobs under way and then discard their results
            for nanny in processes.workers.values():
                nanny.auto_restart = False
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _ignore_interrupt() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
