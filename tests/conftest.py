"""Common to all tests: no window system, and no more threads than a small machine has."""

import os
import sys

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("COURSE_MODEL", "stylegan2-cats-64")  # four times as fast; before helpers is imported
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture
def program(monkeypatch):
    """A function that runs the command line in this process, from words to the exit code."""

    from helpers import __main__ as main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["helpers", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        return stop.value.code or 0

    return run
