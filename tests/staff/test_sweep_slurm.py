"""The script of docs/reliability.md, word for word, on a Slurm cluster: yours where one answers, else one node here.

It takes a minute and a half, and runs with SLURM=1 only.
"""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.images import write_image
from staff.sweep import Sweep, expand, read_spec
from staff.sweep.tasks import TASKS
from tests.support.slurm_node import slurm_node, why_not

ROOT = Path(__file__).resolve().parents[2]
TABLE = "task: invert\nphotos: '*.png'\nspace: [z, w]\nsteps: [30, 31, 32]\n"


@pytest.fixture
def slurm(tmp_path):
    if not os.environ.get("SLURM"):
        pytest.skip("takes a minute and a half: SLURM=1 pytest tests/test_sweep_slurm.py")
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install '.[dask]'")
    try:
        answers = subprocess.run(["sinfo", "-h"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        answers = False
    if answers:
        yield dict(os.environ)
    elif reason := why_not():
        pytest.skip(f"no Slurm cluster answers, and none can be started: {reason}")
    else:
        with slurm_node(tmp_path / "node") as environment:
            yield environment


def script_of_the_docs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "reliability.md").read_text(), re.DOTALL)
    (script,) = [block for block in blocks if "SLURMCluster" in block]
    assert script.count("jobs=100") == 2
    return script.replace("jobs=100", "jobs=2")


def jobs_of(environment, state):
    command = ["squeue", "-h", "--me", "-n", "dask-worker", "-t", state, "-o", "%i"]
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split()


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_the_documented_sweep_loses_a_slurm_job_and_gives_the_table_of_a_sequential_run(slurm, tmp_path):
    import torch

    noise = torch.Generator().manual_seed(1)
    for i in range(4):
        write_image(tmp_path / f"{i}.png", torch.rand(1, 3, 64, 64, generator=noise))
    (tmp_path / "table.yaml").write_text(TABLE)
    (tmp_path / "cluster.py").write_text(script_of_the_docs())
    table, cancelled = tmp_path / "many" / "results.jsonl", None
    command = [sys.executable, "cluster.py", tmp_path / "table.yaml", "--out", tmp_path / "many"]
    with open(tmp_path / "said.txt", "w") as said:
        script = subprocess.Popen(
            command, env=slurm | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, stdout=said, stderr=said
        )
        while script.poll() is None:
            running = jobs_of(slurm, "running")
            if cancelled is None and len(running) == 2 and table.exists() and table.read_text().count("\n") > 1:
                cancelled = running[0]
                subprocess.run(["scancel", cancelled], env=slurm, check=True)
            time.sleep(0.2)
    assert script.returncode == 0, (tmp_path / "said.txt").read_text()
    assert cancelled is not None
    deadline = time.monotonic() + 30
    while jobs_of(slurm, "all") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not jobs_of(slurm, "pending,running")  # none is left when the script has ended

    jobs = expand(read_spec(tmp_path / "table.yaml"), TASKS, tmp_path)
    one = Sweep(jobs, TASKS, tmp_path / "one", lambda: ThreadPoolExecutor(1), threads=1)
    list(one)
    many = {row["key"]: row for row in map(json.loads, table.read_text().splitlines())}
    assert len(many) == 24
    assert without_times(one.rows()) == without_times([many[row["key"]] for row in one.rows()])
    for row in one.rows():
        pictures = [(tmp_path / out / row["files"]["image.png"]).read_bytes() for out in ("one", "many")]
        assert pictures[0] == pictures[1]
