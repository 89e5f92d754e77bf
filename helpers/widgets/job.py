"""A run that can be watched, tuned, paused and stopped: an iterator in a thread. Knows nothing of widgets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

THREAD = ThreadPoolExecutor(1, "job")  # of all jobs: steps and calls take turns in it


def losses_of(step) -> dict[str, float]:
    """Mean over the batch of a step's losses: its parts, then their total."""
    return {name: float(value.mean()) for name, value in {**step.parts, "total": step.total}.items()}


class Job:
    """Runs an iterator in a thread; starting another job stops it, as two would share the cores.

    make_iterator: called in the thread, because the start may take long; so is ended, after a run that took a step.
    Attributes: state, "ready", "running", "paused", then "finished", "stopped" or "failed"; iterator and latest, its
    last step, both None at first; history, the losses of every step; seconds spent in steps; error that was raised.
    """

    current: Job | None = None

    def __init__(self, make_iterator: Callable[[], Iterable], ended: Callable[[Any], None] = lambda iterator: None):
        self.make_iterator, self.ended = make_iterator, ended
        self.state, self.iterator, self.latest, self.error = "ready", None, None, None
        self.history: list[dict[str, float]] = []
        self.seconds, self._turn = 0.0, 0  # a step of an earlier turn, from before a pause, is not taken
        self._done = threading.Event()

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")

    def start(self) -> None:
        """Start, or continue after a pause."""
        if self.state == "ready" and Job.current is not None:
            Job.current.stop()
        if self.state in ("ready", "paused"):
            Job.current, self.state = self, "running"
            self._turn += 1
            THREAD.submit(self._step, self._turn)

    def pause(self) -> None:
        """Halt after the current step, until ``start()`` or ``stop()``."""
        if self.state == "running":
            self.state = "paused"
            self._turn += 1

    def stop(self, timeout: float = 0.5) -> bool:
        """End after the current step; True if it ended within ``timeout`` seconds."""
        if self.alive:
            self._turn += 1
            THREAD.submit(self._end, "stopped")
        return self.wait(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; True if it came within ``timeout`` seconds."""
        return self._done.wait(timeout)

    def call(self, function: Callable[[], Any]) -> Future:
        """Call a function between two steps (at once if nothing runs): the way to change what the iterator uses."""
        return THREAD.submit(function)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _step(self, turn: int) -> None:
        """Take one step, then queue the next behind the calls that came meanwhile."""
        if turn != self._turn:
            return
        try:
            if self.iterator is None:
                self.iterator = self.make_iterator()
                self._steps = iter(self.iterator)
            else:
                started = time.perf_counter()
                step = next(self._steps, None)
                self.seconds += time.perf_counter() - started
                if step is None:
                    return self._end("finished")
                self.history.append(losses_of(step))
                self.latest = step
            THREAD.submit(self._step, turn)
        except Exception as error:  # would vanish with the thread; whoever watches shows it
            self.error = error
            self._end("failed")

    def _end(self, state: str) -> None:
        if not self.alive:
            return
        try:
            if self.latest is not None:
                self.ended(self.iterator)
        except Exception as error:
            self.error = error
        self.state = state
        if Job.current is self:
            Job.current = None
        self._done.set()
