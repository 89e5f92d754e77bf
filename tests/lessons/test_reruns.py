"""Cells run many times in one kernel leave what one run leaves; commands that are killed end as if left alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

KERNEL = """
import gc, json, sys
from pathlib import Path
import comm, psutil, torch
sys.path[:0] = {paths}
from IPython.core.interactiveshell import InteractiveShell
torch.set_num_threads(1)
shell = InteractiveShell.instance()

def count():
    gc.collect()
    from ipywidgets.widgets import widget
    living = widget._instances if hasattr(widget, "_instances") else widget.Widget.widgets
    objects = gc.get_objects()
    tensors = [o for o in objects if isinstance(o, torch.Tensor)]
    comms = sum(isinstance(o, comm.base_comm.BaseComm) for o in objects)  # open or not
    numbers = {{"tensors": len(tensors), "widgets": len(living), "out": len(shell.user_ns["_oh"])}}
    numbers["shown"] = sum(map(len, getattr(shell.history_manager, "outputs", {{}}).values()))
    numbers |= {{"comms": len(comm.get_comm_manager().comms), "comm objects": comms}}
    return numbers | {{"rss": psutil.Process().memory_info().rss / 2**20}}

cells, counts = json.loads(Path(sys.argv[1]).read_text()), []
for number in range(int(sys.argv[2])):
    for source in cells:
        shell.run_cell(source, store_history=True).raise_error()
    counts.append(count())
print("COUNTS " + json.dumps(counts))
"""

LESSON = [
    "from helpers.notebooks import describe_session\nprint(describe_session())",
    """
import torch
from tests.support import tiny
from helpers.figures import show_images
from helpers.inversion import project
from helpers.masks import half
from helpers.noise import optimize_noise
from helpers.sketch import Sketch, search
from helpers.widgets.inversion import InversionPanel
from helpers.widgets.sliders import interpolation_slider
from helpers.widgets.sketch import SketchPanel
generator = tiny.stylegan2()
target = generator.synthesize(generator.sample("w", 1, seed=3)).clamp(0, 1)
""",
    "found = project(generator, target, 'w+', steps=3)\nshow_images([target, found.images], ['target', 'found'])",
    "fitted = optimize_noise(generator, target, found.latents, steps=4)\nfitted.images",
    "search(generator, Sketch(target, half(16)), weights={'colour': 1.0}, starts=2, steps=3, candidates=4)",
    "from IPython.display import display\ndisplay(interpolation_slider(generator, found.latents, found.latents))",
    "panel = InversionPanel({'tiny': generator}, None, {'target': target})\npanel",
    "drawn = SketchPanel(generator)\ndrawn",
]
COUNTED = ("tensors", "widgets", "comms", "comm objects", "out", "shown")


def run(cells, times, folder):
    """Counts after each of several runs of cells in one kernel, of which those after the second are the same."""
    (folder / "cells.json").write_text(json.dumps(cells))
    command = [sys.executable, "-c", KERNEL.format(paths=[str(ROOT)]), str(folder / "cells.json"), str(times)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, (done.stderr + done.stdout)[-3000:]
    counts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("COUNTS"))[7:])
    for name in COUNTED:
        assert counts[-1][name] <= counts[1][name], (name, [c[name] for c in counts])
    return counts


def test_runs_in_one_kernel_do_not_grow(tmp_path):
    counts = run(LESSON, 3, tmp_path)
    assert counts[0]["widgets"] > 20 and counts[0]["tensors"] > 20 and counts[0]["out"] >= 3
    assert counts[0]["comms"] >= counts[0]["widgets"] - 1  # a comm each


@pytest.mark.skipif("RERUNS" not in os.environ, reason="takes minutes; RERUNS=20 runs every lesson so many times")
@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "notebooks").glob("0*.ipynb"))])
def test_a_lesson_run_many_times_does_not_grow(tmp_path, name):
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    sources = [source.replace("Path.cwd()", f"Path({str(ROOT)!r})") for source in sources]
    sources = [re.sub(r"steps( ?= ?)\d\d+", r"steps\g<1>2", source) for source in sources]  # two instead of many
    counts = run(sources, int(os.environ["RERUNS"]), tmp_path)
    print(name, counts[1], counts[-1])
    assert counts[-1]["rss"] < counts[1]["rss"] + 100


KILLING = Path(__file__).parents[1] / "support" / "killing.py"
FAST = ["noise", "sketch", "stylegan2", "sweep"]
SLOW = ["inversion", "interpolate", "demo", "blend", "inpainting", "local_style", "style", "dcgan", "grade"]


def torment(folder, kills, *kinds):
    arguments = [sys.executable, KILLING, folder / "killed", kills, *kinds]
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = json.loads(done.stdout)
    assert [kind for kind, report in reports.items() if report["kills"] != kills or report["different"]] == [], reports
    return reports


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here, with which the calls are started")
def test_what_was_killed_continues_and_ends_like_what_was_left_alone(tmp_path):
    """Each kind killed once; all in one process, because a start of Python takes longer than they do."""
    reports = torment(tmp_path, 1, *FAST)
    assert sum(report["continued"] for report in reports.values()) >= 1, reports


@pytest.mark.skipif("KILLS" not in os.environ, reason="takes minutes; KILLS=20 kills every kind at 20 random moments")
@pytest.mark.parametrize("kind", [*FAST, *SLOW])
def test_many_kills(tmp_path, kind):
    print(torment(tmp_path, int(os.environ["KILLS"]), kind))
