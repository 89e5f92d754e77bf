"""A run that can be watched, tuned, paused and stopped: an iterator in a thread. Knows nothing of widgets."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import torch

ALIVE = ("running", "paused")
END = object()


def losses_of(step) -> dict[str, float]:
    """Mean over the batch of a step's losses: its parts, then their total."""
    return {name: float(value.mean()) for name, value in {**step.parts, "total": step.total}.items()}


class Job:
    """Run an iterator in a thread; whoever watches asks for ``latest()``, the thread itself shows nothing.

    Only one job of a process runs: starting another one stops it. Two would share the cores, and a panel whose cell
    was run again would continue unseen.

    Args:
        make_iterator: called in the thread, because the start may take long; returns the iterable of steps.
        record: what ``history`` keeps of each step.
        ended: called in the thread with the iterator after a run that took a step, even if it was stopped or failed:
            for what must be done whether or not anybody watches.

    Attributes: state, "ready", "running", "paused", then "finished", "stopped" or "failed"; iterator, None until it is
    made; history; error, the exception of a failed job; ended_error, that of ``ended``; seconds in steps, and
    seconds_of_calls in what ``call()`` asked for; marks, (end by ``time.perf_counter``, seconds) of every step.
    """

    current: Job | None = None

    def __init__(
        self,
        make_iterator: Callable[[], Iterable],
        record: Callable[[Any], Any] = losses_of,
        ended: Callable[[Any], None] = lambda iterator: None,
    ):
        self.make_iterator, self.record, self.ended = make_iterator, record, ended
        self.state, self.iterator, self.error, self.ended_error = "ready", None, None, None
        self.history: list = []
        self.marks: list[tuple[float, float]] = []
        self.seconds = self.seconds_of_calls = 0.0
        self._latest, self._stop = None, False
        self._calls: deque[tuple[Future, Callable]] = deque()
        self._wake = threading.Condition()
        # the caller's modes: a new thread would have grad mode on and autocast off
        self._grad = torch.is_grad_enabled()
        self._autocast = {d: torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)}
        self._thread = threading.Thread(target=self._run, name="job", daemon=True)

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    def start(self) -> None:
        """Start, or continue after a pause."""
        with self._wake:
            if self.state == "ready":
                if Job.current is not None:
                    Job.current.stop()
                Job.current, self.state = self, "running"
                self._thread.start()
            elif self.state == "paused":
                self.state = "running"
                self._wake.notify_all()

    def pause(self) -> None:
        """Halt after the current step, until ``start()`` or ``stop()``."""
        with self._wake:
            if self.state == "running":
                self.state = "paused"

    def stop(self, timeout: float = 0.5) -> bool:
        """End after the current step; True if the thread ended within ``timeout`` seconds."""
        with self._wake:
            self._stop = True
            self._wake.notify_all()
        return self.wait(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; True if it came within ``timeout`` seconds."""
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self.alive

    def latest(self):
        """The last step, or None before the first."""
        return self._latest

    def call(self, function: Callable[[], Any]) -> Future:
        """Call a function between two steps (at once if nothing runs): the way to change what the iterator uses."""
        future = Future()
        with self._wake:
            self._calls.append((future, function))
            self._wake.notify_all()
            waiting = self.alive
        if not waiting:
            self._make_calls()
        return future

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.ExitStack() as modes:
            modes.enter_context(torch.set_grad_enabled(self._grad))
            for device, dtype in self._autocast.items():
                modes.enter_context(torch.autocast(device, dtype=dtype))
            self._iterate()

    def _iterate(self) -> None:
        state = "finished"
        try:
            self.iterator = self.make_iterator()
            steps = iter(self.iterator)
            while self._may_continue():
                started = time.perf_counter()
                step = next(steps, END)
                ended = time.perf_counter()
                self.seconds += ended - started
                if step is END:
                    break
                self.marks.append((ended, ended - started))
                self.history.append(self.record(step))
                self._latest = step
            else:
                state = "stopped"
        except Exception as error:  # would vanish with the thread; whoever watches shows it
            self.error, state = error, "failed"
        try:
            if self._latest is not None:
                self.ended(self.iterator)
        except Exception as error:  # not a step's; whoever watches shows it
            self.ended_error = error
        with self._wake:
            self.state = state
            if Job.current is self:
                Job.current = None
        self._make_calls()

    def _may_continue(self) -> bool:
        """Make the waiting calls, then wait for the end of a pause; False if the run is to end."""
        while True:
            self._make_calls()
            with self._wake:
                if self._stop or self.state == "running":
                    return not self._stop
                if not self._calls:
                    self._wake.wait()

    def _make_calls(self) -> None:
        while True:
            with self._wake:
                if not self._calls:
                    return
                future, function = self._calls.popleft()
            started = time.perf_counter()
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)
            self.seconds_of_calls += time.perf_counter() - started


@atexit.register
def _stop_current() -> None:
    """No thread may be inside torch while the interpreter shuts down."""
    if Job.current is not None:
        Job.current.stop(timeout=2)
