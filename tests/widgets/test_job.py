"""Jobs: an iterator in a thread, its pauses, calls and errors; and the pace at which it is watched."""

import random
import threading
import time

import pytest
import torch

from helpers.widgets.job import Job
from helpers.widgets.live import Pace
from tests.support.waiting import PATIENCE, until


def counting():
    """A job that counts up to 100,000 and has begun."""

    def numbers():
        for number in range(1, 100_001):
            time.sleep(0.0005)
            yield number

    job = Job(numbers, record=int)
    job.start()
    until(job.latest)
    return job


def ended(iterator, record=int):
    """A job over what ``iterator()`` gives, after its end."""
    job = Job(iterator, record)
    job.start()
    assert job.wait(PATIENCE)
    return job


def test_a_job_runs_to_its_end_in_another_thread():
    threads = []

    def numbers():
        for number in range(5):
            threads.append(threading.current_thread())
            yield number

    job = Job(numbers, record=lambda number: 10 * number)
    assert (job.state, job.latest(), job.alive) == ("ready", None, False)
    job.start()
    assert job.wait(PATIENCE)
    assert (job.state, job.latest(), job.history) == ("finished", 4, [0, 10, 20, 30, 40])
    assert threading.current_thread() not in threads


@pytest.mark.parametrize("paused", [False, True])
def test_stop_ends_it_at_once_and_keeps_the_last_step(paused):
    job = counting()
    if paused:
        job.pause()
    assert job.stop(PATIENCE)
    assert job.state == "stopped" and 1 <= job.latest() == len(job.history) < 100_000


def test_a_pause_halts_it_and_start_continues():
    job = counting()
    job.pause()
    assert job.call(lambda: None).result(PATIENCE) is None  # the current step has ended
    number = job.latest()
    time.sleep(0.05)
    assert (job.state, job.latest()) == ("paused", number)
    job.start()
    until(lambda: job.latest() > number)
    assert job.history[: number + 1] == list(range(1, number + 2))


@pytest.mark.parametrize("steps", [0, 2])
def test_an_exception_is_kept(steps):
    def numbers():
        if not steps:
            raise ValueError("no start")
        yield from range(steps)
        raise ValueError("no end")

    job = ended(numbers)
    assert job.state == "failed" and isinstance(job.error, ValueError) and len(job.history) == steps


def test_calls_are_made_between_steps_in_order_and_after_the_end():
    state = {"in step": False}

    def numbers():
        for number in range(100_000):
            state["in step"] = True
            time.sleep(0.001)
            state["in step"] = False
            yield number

    job = Job(numbers, record=int)
    job.start()
    calls = [job.call(lambda i=i: (state["in step"], threading.current_thread().name, i)) for i in range(20)]
    assert [call.result(PATIENCE) for call in calls] == [(False, "job", i) for i in range(20)]
    job.stop(PATIENCE)
    assert job.call(lambda: "late").result(PATIENCE) == "late"
    with pytest.raises(ZeroDivisionError):
        job.call(lambda: 1 / 0).result(PATIENCE)


def test_starting_one_job_stops_the_other():
    first, second = counting(), counting()
    assert first.wait(PATIENCE) and first.state == "stopped" and second.alive


@pytest.mark.parametrize("enabled", [True, False])
def test_the_thread_has_the_grad_mode_of_its_maker(enabled):
    with torch.set_grad_enabled(enabled):
        job = ended(lambda: (torch.is_grad_enabled() for _ in range(1)), record=bool)
    assert job.history == [enabled]


def test_the_thread_has_the_autocast_of_its_maker():
    def dtype():
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    with torch.autocast("cpu", torch.bfloat16):
        job = ended(lambda: (dtype() for _ in range(1)), record=str)
    assert job.history == ["torch.bfloat16"] and dtype() == torch.float32


class Watched:
    """A run on a clock of its own: steps of about 20 ms, of which those just after a frame take longer."""

    def __init__(self, cost, jitter=0.0):
        self.now, self.cost, self.jitter, self.marks, self.seconds_of_calls = 0.0, cost, jitter, [], 0.0
        self.random = random.Random(0)

    def frames(self, count):
        pace = Pace(self, lambda: self.now)
        for _ in range(count):
            wait = pace.wait(0.004)
            end, debt = self.now + wait, self.cost
            while self.now < end:
                slower = min(debt, 0.03)
                debt -= slower
                seconds = 0.02 + slower + self.random.uniform(-self.jitter, self.jitter)
                self.now += seconds
                self.marks.append((self.now, seconds))
            yield wait


@pytest.mark.parametrize("jitter", [0.0, 0.012])
def test_frames_take_a_small_share_of_a_run_and_come_fast_if_they_cost_little(jitter):
    watched = Watched(0.05, jitter)
    list(watched.frames(100))
    assert 0.91 < 0.02 * len(watched.marks) / watched.now < 0.97
    waits = list(Watched(0.005, jitter).frames(100))
    assert sorted(waits)[len(waits) // 2] < 0.25 and max(waits) <= Pace.GAP
