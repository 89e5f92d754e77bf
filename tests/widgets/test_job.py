"""Jobs: an iterator in a thread, its pauses, calls and errors."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from helpers.widgets.job import Job
from tests.support.waiting import PATIENCE, until


def steps(count=100_000):
    for number in range(1, count + 1):
        time.sleep(0.0005)
        yield SimpleNamespace(number=number, parts={}, total=torch.tensor([number - 1.0, number + 1.0]))


@pytest.fixture
def counting():
    """A job that counts up to 100,000 and has begun."""
    job = Job(steps)
    job.start()
    until(lambda: job.latest)
    return job


def test_a_job_runs_in_another_thread_and_calls_are_made_between_its_steps():
    threads = []
    job = Job(lambda: (threads.append(threading.current_thread()) or step for step in steps(5)))
    assert (job.state, job.latest, job.alive) == ("ready", None, False)
    job.start()
    assert job.wait(PATIENCE) and job.state == "finished" and job.latest.number == 5 and job.seconds > 0
    assert job.history == [{"total": number} for number in (1, 2, 3, 4, 5)]  # the mean of the batch
    assert threading.current_thread() not in threads and len(set(threads)) == 1
    state = {"in step": False}

    def run():
        for step in steps():
            state["in step"] = False
            yield step
            state["in step"] = True

    job = Job(run)
    job.start()
    calls = [job.call(lambda i=i: (state["in step"], i)) for i in range(20)]
    assert [call.result(PATIENCE) for call in calls] == [(False, i) for i in range(20)]
    job.stop(PATIENCE)
    assert job.call(lambda: "late").result(PATIENCE) == "late"
    with pytest.raises(ZeroDivisionError):
        job.call(lambda: 1 / 0).result(PATIENCE)


@pytest.mark.parametrize("before", [lambda job: None, Job.pause])
def test_stop_ends_it_at_once_and_keeps_the_last_step(counting, before):
    before(counting)
    assert counting.stop(PATIENCE) and counting.stop(PATIENCE)
    assert counting.state == "stopped" and 1 <= counting.latest.number == len(counting.history) < 100_000


def test_a_pause_halts_it_and_start_continues(counting):
    for _ in range(3):  # in quick succession no step is taken twice
        counting.pause()
        counting.start()
    counting.pause()
    assert counting.call(lambda: None).result(PATIENCE) is None  # the current step has ended
    number = counting.latest.number
    time.sleep(0.05)
    assert (counting.state, counting.latest.number) == ("paused", number)
    counting.start()
    until(lambda: counting.latest.number > number)
    assert [losses["total"] for losses in counting.history[: number + 1]] == list(range(1, number + 2))
    second = Job(steps)  # starting one job stops the other
    second.start()
    assert counting.wait(PATIENCE) and counting.state == "stopped" and second.alive


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("ended", [list, lambda _: 1 / 0])
def test_an_exception_is_kept(count, ended):
    def run():
        yield from steps(count)
        raise ValueError("no end")

    job = Job(run, ended)
    job.start()
    assert job.wait(PATIENCE) and job.state == "failed" and len(job.history) == count
    assert isinstance(job.error, ValueError if ended is list or not count else ZeroDivisionError)
