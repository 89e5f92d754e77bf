"""Common to all tests: no window system, and no more threads than a small machine has."""

import os
import sys

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("COURSE_MODEL", "stylegan2-cats-64")  # four times as fast; before helpers is imported
torch.set_num_threads(min(2, torch.get_num_threads()))
LONGEST = ("test_grading.py", "test_widgets.py", "test_answers.py", "test_sweep.py", "test_reruns.py", "test_memory.py")


def pytest_collection_modifyitems(items):
    """The lessons first and the longest files after them, so that of two processes neither is alone at the end."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: -1 if item.path.suffix == ".ipynb" else ranks.get(item.path.name, len(LONGEST)))


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
