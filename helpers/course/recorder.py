"""A pytest plugin beside nbval, inside the sandbox: keeps every cell's output and notices in seconds what hangs.

nbval waits the whole cell timeout for a kernel that is dead, and keeps whatever a cell prints. Outcomes go to
``results/cells.jsonl``: they explain a score, they never are one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from queue import Empty

import pytest

sys.modules["rfc3987_syntax"] = None  # an optional part of jsonschema that takes a second to import, for every run
import nbval.kernel  # noqa: E402

MOST_TEXT = 100_000  # bytes of a cell's output that are kept
MOST_OUTPUT = 5_000_000  # bytes from which a cell is interrupted
SETUP_SECONDS = 120.0
GRACE = 4.0  # seconds that an interrupted cell has


class KernelLost(RuntimeError):
    """The kernel is dead, or does not stop when told to."""


class PatientKernel(nbval.kernel.RunningKernel):
    """nbval's kernel, but it looks whether the process lives, reads output as it comes, and has a last moment."""

    deadline = float("inf")

    def __init__(self, *args, **options):
        self.waiting, self.received, self.interrupted = deque(), 0, False
        super().__init__(*args, **options)

    def _end(self) -> None:
        """Kill the kernel, and in a process namespace of our own everything that it started."""
        self.km.shutdown_kernel(now=True)
        if os.environ.get("GRADING_ALONE") and os.getppid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)

    def begin(self, seconds: float) -> None:
        self.waiting.clear()
        self.received, self.interrupted, self.deadline = 0, False, time.monotonic() + seconds + GRACE

    def get_message(self, stream, timeout=None):
        until = time.monotonic() + (timeout or 0)
        while True:
            self._drain()
            if stream == "iopub" and self.waiting:
                return self.waiting.popleft()
            if stream == "shell":
                try:
                    return self.kc.get_shell_msg(timeout=0.05)
                except Empty:
                    pass
            if time.monotonic() > self.deadline:
                self._end()
                raise KernelLost("the cell does not stop when it is interrupted; its kernel was ended")
            if not self.is_alive():
                raise KernelLost("the kernel died")
            if time.monotonic() > until:
                raise Empty
            if stream == "iopub":
                time.sleep(0.01)

    def _drain(self) -> None:
        """Take what the kernel has printed; drop what is too much and stop the cell that prints it."""
        for _ in range(1000):
            try:
                message = self.kc.get_iopub_msg(timeout=0)
            except Empty:
                return
            content = message["content"]
            size = len(content.get("text", "")) + sum(map(len, map(str, content.get("data", {}).values())))
            self.received += size
            if size == 0 or self.received < MOST_OUTPUT:
                self.waiting.append(message)
            elif not self.interrupted:
                self.interrupted = True
                self.interrupt()


nbval.kernel.RunningKernel = PatientKernel
import nbval.plugin  # noqa: E402

nbval.plugin.RunningKernel = PatientKernel


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    kernel, option, name = item.parent.kernel, item.config.option, item.cell.get("id", item.name)
    usual = option.nbval_cell_timeout
    if name.startswith("setup"):  # the lesson's own imports: slow on a busy machine, and nobody's loop
        option.nbval_cell_timeout = max(usual, SETUP_SECONDS)
    kernel.begin(option.nbval_cell_timeout)
    started = time.monotonic()
    record = {"cell": name, "outcome": "done"}
    try:
        return (yield)
    except BaseException as error:
        record |= {"outcome": "failed", "error": _reason(item, error)}
        item.parent.timed_out = False  # the next cell has its own chance
        raise
    finally:
        option.nbval_cell_timeout = usual
        record["seconds"] = round(time.monotonic() - started, 3)
        record["text"] = _text(item)
        if kernel.interrupted:
            record |= {"outcome": "failed", "error": "the cell prints too much; it was stopped"}
        with open(item.config.rootpath / "results" / "cells.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")


def _reason(item, error: BaseException) -> str:
    for output in item.test_outputs or []:
        if output["output_type"] == "error":
            if output["ename"] == "KeyboardInterrupt":
                return f"stopped after {item.config.option.nbval_cell_timeout:g} s"
            return f"{output['ename']}: {output['evalue']}"[:1000]
    return str(error).split("\n")[0][:1000]


def _text(item) -> str:
    streams = [str(o.get("text", "")) for o in item.test_outputs or [] if o["output_type"] == "stream"]
    return "".join(streams)[-MOST_TEXT:]
