"""Jobs that the tests of sweeps spread over processes; a module without torch, so that a worker starts at once."""

import os
import signal
import time
from pathlib import Path

from staff.sweep.spec import Result, Task, expand

INPUTS = {"texts": "text"}


def measure_length(jobs, data):
    """Length of each text times a factor; leaves a mark for every time it is done."""
    results = []
    for job, files in zip(jobs, data, strict=True):
        with open(job["marks"], "a") as marks:
            marks.write("x")
        if files["text"] == b"bad":
            raise ValueError("expected another text; change it")
        results.append(Result({"length": len(files["text"]) * job["factor"]}, {"copy.txt": files["text"]}))
    return results


def die(jobs, data):
    """Kills its own process where the text says so: once, or every time."""
    for job, files in zip(jobs, data, strict=True):
        marker = Path(job["marks"] + ".died")
        if files["text"] == b"always" or (files["text"] == b"once" and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return measure_length(jobs, data)


def take_time(jobs, data):
    time.sleep(0.1)
    return measure_length(jobs, data)


OPTIONS = {"factor": None, "marks": None}
NUMBERS = {"length": Task(INPUTS, {"factor": float, "marks": int}, measure_length)}
RUNS = {"length": measure_length, "die": die, "slow": take_time}
TASKS_HERE = {name: Task(INPUTS, OPTIONS, run) for name, run in RUNS.items()}


def jobs_of(folder, task="length", **options):
    spec = {"task": task, "texts": "*.txt", "factor": [1, 10], "marks": str(folder / "marks")} | options
    return expand(spec, TASKS_HERE, folder)
