"""A pytest plugin next to nbval, inside the sandbox: keeps every cell's error and notices in seconds what hangs.

nbval waits the whole cell timeout for a kernel that is dead, and keeps whatever a cell prints. Errors go to
``results/cells.jsonl``: they explain a score, they never are one.
"""

import contextlib
import json
import os
import sys
import time
from collections import deque
from queue import Empty

import psutil
import pytest

sys.modules["rfc3987_syntax"] = None  # an optional part of jsonschema that takes a second to import, for every run
import nbval.kernel  # noqa: E402

MOST_OUTPUT = 5_000_000  # bytes from which a cell is interrupted
SETUP_SECONDS = 120.0
SECONDS = float(os.environ["GRADING_CELL_SECONDS"])  # of the processor, or in which nothing moves
GRACE = 4.0  # seconds that an interrupted cell has


class KernelLost(RuntimeError):
    """The kernel is dead, or does not stop when it is interrupted."""


class PatientKernel(nbval.kernel.RunningKernel):
    """nbval's kernel, but it looks whether the process lives, reads output as it comes, and has a last moment.

    A cell is stopped after so many seconds of the processor, or of wall time in which it used none: a busy neighbour
    costs it nothing.
    """

    def __init__(self, *args, **options):
        self.waiting, self.received, self.interrupted, self.said = deque(), 0, False, ""
        self.deadline = self.looked = float("inf")  # not before a cell begins
        super().__init__(*args, **options)

    def begin(self, seconds: float, wall: float) -> None:
        self.waiting.clear()
        self.received, self.interrupted, self.said, self.seconds = 0, False, "", seconds
        self.deadline = time.monotonic() + wall + GRACE
        self.looked = self.moved = time.monotonic()
        self.first = self.last = self._used()

    def _used(self) -> float:
        """Seconds of the processor of the kernel and what it has started."""
        with contextlib.suppress(psutil.Error, AttributeError):
            kernel = psutil.Process(self.km.provisioner.pid)
            times = [process.cpu_times() for process in (kernel, *kernel.children(recursive=True))]
            return sum(t.user + t.system for t in times) + times[0].children_user + times[0].children_system
        return 0.0

    def _look(self) -> None:
        now = time.monotonic()
        if self.interrupted or now < self.looked + 0.2:  # too often would cost what it counts
            return
        self.looked, used = now, self._used()
        if used > self.last + 0.01:
            self.last, self.moved = used, now
        if used - self.first > self.seconds or now - self.moved > self.seconds:
            self._stop(f"stopped after {self.seconds:g} s")

    def _stop(self, why: str) -> None:
        self.interrupted, self.said = True, why
        self.deadline = min(self.deadline, time.monotonic() + GRACE)
        self.interrupt()

    def get_message(self, stream, timeout=None):
        until = time.monotonic() + (timeout or 0)
        while True:
            self._drain()
            self._look()
            if stream == "iopub" and self.waiting:
                return self.waiting.popleft()
            with contextlib.suppress(Empty):
                if stream == "shell":
                    return self.kc.get_shell_msg(timeout=0.05)
                time.sleep(0.01)
            if time.monotonic() > self.deadline:
                self.km.shutdown_kernel(now=True)
                raise KernelLost("the cell does not stop when it is interrupted; its kernel was ended")
            if not self.is_alive():
                raise KernelLost("the kernel died")
            if time.monotonic() > until:
                raise Empty

    def _drain(self) -> None:
        """Take what the kernel has printed; drop what is too much and stop the cell that prints it."""
        with contextlib.suppress(Empty):
            for _ in range(1000):
                message = self.kc.get_iopub_msg(timeout=0)
                content = message["content"]
                size = len(content.get("text", "")) + sum(map(len, map(str, content.get("data", {}).values())))
                self.received += size
                if size == 0 or self.received < MOST_OUTPUT:
                    self.waiting.append(message)
                elif not self.interrupted:
                    self._stop("the cell prints too much; it was stopped")


nbval.kernel.RunningKernel = PatientKernel  # the plugin, which is loaded next, takes it from there


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    kernel, option, name = item.parent.kernel, item.config.option, item.cell.get("id", item.name)
    usual, seconds = option.nbval_cell_timeout, SECONDS
    if name.startswith("setup"):  # the lesson's own imports: slow on a busy machine, and nobody's loop
        option.nbval_cell_timeout, seconds = max(usual, SETUP_SECONDS), max(seconds, SETUP_SECONDS)
    kernel.begin(seconds, option.nbval_cell_timeout)
    error = ""
    try:
        return (yield)
    except BaseException as failure:
        error = _reason(item.test_outputs or [], failure)
        item.parent.timed_out = False  # the next cell has its own chance
        raise
    finally:
        option.nbval_cell_timeout = usual
        if kernel.said and "kernel" not in error:
            error = kernel.said
        with open(item.config.rootpath / "results" / "cells.jsonl", "a") as file:
            file.write(json.dumps({"cell": name, "error": error}) + "\n")


def _reason(outputs: list, failure: BaseException) -> str:
    for output in outputs:
        if output["output_type"] == "error" and output["ename"] == "KeyboardInterrupt":
            return f"stopped after {SECONDS:g} s"
        if output["output_type"] == "error":
            return f"{output['ename']}: {output['evalue']}"[:1000]
    return str(failure).split("\n")[0][:1000]
