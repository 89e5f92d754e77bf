"""Jobs that the tests of sweeps spread over processes; a module without torch, so that a worker starts at once."""

import os
import signal
import time
from pathlib import Path

from staff.sweep.spec import Result

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
    """Length of each text times a factor, slowly."""
    time.sleep(0.1)
    return measure_length(jobs, data)
