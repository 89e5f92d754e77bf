"""Commands that are killed at random moments end, called again, with what they give when they are left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

KILLING = Path(__file__).parents[1] / "support" / "killing.py"
FAST = ["inversion", "noise", "sketch", "stylegan2", "sweep"]
SLOW = ["interpolate", "demo", "blend", "inpainting", "local_style", "style", "dcgan", "encoder", "classifier", "grade"]


def torment(folder, kills, *kinds):
    arguments = [sys.executable, KILLING, folder / "killed", kills, *kinds]
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Each kind killed once; all in one process, because a start of Python takes longer than they do."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here, with which the calls are started")
    return torment(tmp_path_factory.mktemp("reports"), 1, *FAST)


@pytest.mark.parametrize("kind", FAST)
def test_what_was_killed_ends_like_what_was_left_alone(reports, kind):
    assert reports[kind]["kills"] == 1 and not reports[kind]["different"], reports[kind]


def test_killed_calls_go_on_and_do_not_start_afresh(reports):
    assert sum(report["went on"] for report in reports.values()) >= 1, reports


@pytest.mark.skipif("KILLS" not in os.environ, reason="takes minutes; KILLS=20 kills every kind at 20 random moments")
@pytest.mark.parametrize("kind", [*FAST, *SLOW])
def test_many_kills(tmp_path, kind):
    kills = int(os.environ["KILLS"])
    report = torment(tmp_path, kills, kind)[kind]
    print(kind, report)
    assert report["kills"] == kills and not report["different"]
