"""Commands that are killed at random moments end, called again, with what they give when they are left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

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
