"""Sweeps: what a table expands to, what is done again and what is not, and workers that are killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers.images import read_image
from helpers.latents import load_latents
from staff.sweep import Sweep, Table, _chunks, cluster
from staff.sweep.spec import SweepError, expand, read_spec
from staff.sweep.tasks import TASKS
from tests.support.sweep_jobs import NUMBERS, TASKS_HERE, jobs_of

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'dask[distributed]'")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def client():
    """Dask in threads of this process: starts at once."""
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client:
        yield client


@pytest.fixture(scope="module")
def processes():
    with cluster(workers=2) as client:
        yield client


@pytest.fixture
def folder(tmp_path):
    for name, text in {"a": "one", "b": "three", "c": "seven"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


def marks(folder):
    return len((folder / "marks").read_text()) if (folder / "marks").exists() else 0


def run(client, folder, jobs=None, tasks=TASKS_HERE, **options):
    """All rows of the folder, and those that were computed now."""
    sweep = Sweep(jobs_of(folder) if jobs is None else jobs, tasks, folder / "out", **options)
    new = list(sweep.run(client))
    return sweep.rows(), new


def test_a_specification_gives_every_combination_and_what_is_not_one_is_refused(folder):
    jobs = [(Path(job["text"]).name, job["factor"]) for job in jobs_of(folder)]
    assert jobs == [(name, factor) for name in ("a.txt", "b.txt", "c.txt") for factor in (1, 10)]
    assert [job["factor"] for job in jobs_of(folder, factor=[[1, 2]], texts="a.txt")] == [[1, 2]]  # a list as value
    many = jobs_of(folder, factor=list(range(10**6)))
    assert len(many) == 3 * 10**6 and "list" not in str(type(many))
    assert (Path(many[2 * 10**6 - 1]["text"]).name, many[2 * 10**6 - 1]["factor"]) == ("b.txt", 10**6 - 1)
    for place in (-1, len(many)):
        with pytest.raises(IndexError):
            many[place]
    spec = {"task": "length", "texts": "a.txt", "factor": ["3e2", 1], "marks": ["300", 3e2]}
    jobs = list(expand(spec, NUMBERS, folder))
    assert [(job["factor"], job["marks"]) for job in jobs] == [(300.0, 300)] * 2 + [(1.0, 300)] * 2
    assert all(type(job["marks"]) is int for job in jobs)
    for text in ("a: [", "just words", "- 1\n- 2", "\x00"):
        (folder / "spec.yaml").write_text(text)
        with pytest.raises(SweepError):
            read_spec(folder / "spec.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "fly"}, "one of die, length, slow"),
        ({"speed": 3, 1: 2}, "does not know 1, speed"),
        ({"factor": []}, "list of factor is empty"),
        ({"texts": "*.md"}, "no file matches"),
        ({"texts": "/"}, r"it is a folder, so name what is in it \(//\*\)"),
        ({"texts": None}, "must be a file pattern"),
        ({"factor": "3e2x"}, "factor must be a number, got '3e2x'"),
        ({"marks": 2.5}, "marks must be a whole number, got 2.5"),
    ],
)
def test_a_bad_specification_is_one_sentence(folder, change, message):
    spec = {"task": "length", "texts": "*.txt", "factor": 1, "marks": 2} | change
    with pytest.raises(SweepError, match=message):
        expand(spec, TASKS_HERE | NUMBERS, folder)


def test_rows_and_files_of_all_jobs_and_none_is_done_twice(client, folder):
    rows, new = run(client, folder)
    assert [row["length"] for row in rows] == [3, 30, 5, 50, 5, 50]
    assert sorted(row["key"] for row in new) == sorted(row["key"] for row in rows)
    assert (folder / "out" / rows[2]["files"]["copy.txt"]).read_text() == "three"
    assert rows[2]["files"]["copy.txt"].startswith(f"files/{rows[2]['key'][:2]}/")
    assert run(client, folder) == (rows, []) and marks(folder) == 6
    (folder / "d.txt").write_text("eleven")  # another content is another job
    assert sorted(row["length"] for row in run(client, folder)[1]) == [6, 60]
    twice, new = run(client, folder, jobs=list(jobs_of(folder)) * 2)
    assert (len(twice), len(new), marks(folder)) == (16, 0, 8)


def test_a_sweep_that_was_left_continues_where_it_was_and_meanwhile_no_other_may_write(client, folder):
    sweep = Sweep(jobs_of(folder), TASKS_HERE, folder / "out")
    with contextlib.closing(sweep.run(client)) as rows:
        next(rows)
        with pytest.raises(SweepError, match="another sweep writes into"):
            run(client, folder)
    assert len(sweep) == 5
    rows, new = run(client, folder)
    assert [row["length"] for row in rows] == [3, 30, 5, 50, 5, 50] and len(new) == 5


def test_the_same_bytes_are_computed_once_and_have_a_row_for_each_name(client, folder):
    (folder / "b2.txt").write_text("three")
    rows, _ = run(client, folder)
    assert [Path(row["text"]).stem for row in rows] == ["a", "a", "b", "b", "b2", "b2", "c", "c"]
    assert rows[2]["files"] == rows[4]["files"] and marks(folder) == 6
    (folder / "a.txt").rename(folder / "z.txt")
    rows, new = run(client, folder)
    assert new == [] and marks(folder) == 6
    assert [(Path(row["text"]).name, row["length"]) for row in rows[-2:]] == [("z.txt", 3), ("z.txt", 30)]
    lines = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
    assert {Path(line["text"]).name for line in lines} == {"a.txt", "b.txt", "b2.txt", "c.txt", "z.txt"}


def test_a_bad_job_is_a_row_with_its_error_and_is_tried_again(client, folder):
    (folder / "b.txt").write_text("bad")
    rows, _ = run(client, folder, batch=3)
    assert [row.get("length") for row in rows] == [3, 30, None, None, 5, 50]
    assert rows[2]["error"] == "expected another text; change it"
    (folder / "b.txt").write_text("three")
    assert sorted(row["length"] for row in run(client, folder)[1]) == [5, 50]
    lines = (folder / "out" / "results.jsonl").read_text().splitlines()
    assert len(lines) == 6 and not any("error" in line for line in lines)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_hold_jobs_that_differ_in_their_inputs_only(folder, batch):
    chunks = _chunks(enumerate(jobs_of(folder)), {"text"}, batch)
    found = [[job["factor"] for _, job in chunk] for chunk in chunks]
    assert sum(map(len, found)) == 6 and max(map(len, found)) == min(batch, 3)
    assert all(len(set(factors)) == 1 for factors in found)


def test_few_jobs_are_in_flight_and_more_when_workers_have_come(client, folder, monkeypatch):
    threads, submitted, submit = [1], [], client.submit
    monkeypatch.setattr(client, "nthreads", lambda: {"one": threads[0]})
    monkeypatch.setattr(client, "submit", lambda *a, **k: (submitted.append(a), submit(*a, **k))[1])
    for i in range(97):
        (folder / f"{i}.txt").write_text(f"text {i}")
    ahead = []
    for number, _ in enumerate(Sweep(jobs_of(folder, factor=1), TASKS_HERE, folder / "out").run(client)):
        ahead.append(len(submitted) - number)
        threads[0] = 1 if number < 30 else 5
    assert max(ahead[:30]) == 4 and max(ahead[32:70]) == 20


def test_a_line_that_a_kill_cut_off_is_dropped(client, folder):
    rows, _ = run(client, folder)
    table = folder / "out" / "results.jsonl"
    table.write_text(table.read_text()[:-20])
    again, new = run(client, folder)
    assert len(new) == 1 and [row["length"] for row in again] == [row["length"] for row in rows]
    assert all(json.loads(line) for line in table.read_text().splitlines())
    table.write_text('{"other": 1}\n{"other": 2}\n')  # results of something else are not overwritten
    with pytest.raises(SweepError, match="line 1 of .* is not a result of a sweep"):
        run(client, folder)
    assert "other" in table.read_text()
    Table(folder / "t.jsonl").add({"key": "1", "value": 2})  # it is on disk when this returns
    assert json.loads((folder / "t.jsonl").read_text()) == {"key": "1", "value": 2}


@pytest.mark.parametrize("batch", [1, 3])
def test_a_job_that_kills_its_workers_is_given_up_and_no_other(processes, folder, batch):
    (folder / "a.txt").write_text("once")
    (folder / "b.txt").write_text("always")
    rows, _ = run(processes, folder, jobs_of(folder, "die", factor=1), batch=batch)
    assert [row.get("length") for row in rows] == [4, None, 5]
    assert "workers died over it" in rows[1]["error"]
    (folder / "b.txt").write_text("calm")
    assert [row["length"] for row in run(processes, folder, jobs_of(folder, "die", factor=1))[0]] == [4, 4, 5]


STOPPED = """
import signal
import sys
from pathlib import Path
from staff.sweep import Sweep, cluster
from tests.support.sweep_jobs import TASKS_HERE, jobs_of
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background inherits "ignore"
    folder = Path(sys.argv[1])
    with cluster(workers=1) as client:
        list(Sweep(jobs_of(folder, "slow", factor=list(range(10**4))), TASKS_HERE, folder / "out").run(client))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_ends_leaves_its_rows_and_no_process(folder, number):
    psutil = pytest.importorskip("psutil", reason="psutil is not installed: pip install psutil")
    (folder / "script.py").write_text(STOPPED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, folder / "script.py", folder]
    sweep = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    table = folder / "out" / "results.jsonl"
    while not (table.exists() and table.read_text().count("\n") > 4):
        assert sweep.poll() is None, sweep.stderr.read()
        time.sleep(0.05)
    children = psutil.Process(sweep.pid).children(recursive=True)
    os.killpg(sweep.pid, number) if number == signal.SIGINT else sweep.send_signal(number)  # Ctrl-C reaches them all
    said = sweep.communicate()[1]
    psutil.wait_procs(children)  # hangs where one outlives its parent
    assert children and "Process Spawn" not in said  # no traceback of a worker
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(rows) >= 4 and all("length" in row for row in rows[:-1])


def test_a_scheduler_that_ends_or_does_not_answer_is_one_sentence_and_costs_no_row(folder, monkeypatch):
    got = []
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as scheduler, distributed.Client(scheduler) as client:
        rows = Sweep(jobs_of(folder, factor=list(range(30))), TASKS_HERE, folder / "out").run(client)
        with pytest.raises(SweepError, match="same command again"):
            for row in rows:
                got.append(row)
                if len(got) == 3:
                    scheduler.close()
    table = (folder / "out" / "results.jsonl").read_text()
    assert [json.loads(line) for line in table.splitlines()][: len(got)] == got and len(got) < 90
    monkeypatch.setattr(distributed, "Client", lambda *_, **__: os.stat("nowhere"))  # an OSError
    with pytest.raises(SweepError, match="no Dask scheduler answers at tcp://nowhere:1"):
        cluster("tcp://nowhere:1").__enter__()


PHOTOS = ROOT / "data" / "generated" / "stylegan2-cats-64"


def test_styles_noise_maps_and_quick_inversions_are_jobs_too(client, tmp_path, monkeypatch):
    spec = {"task": "style", "contents": "0000.png", "styles": ["0001.png"], "size": "32", "features": "vgg19-slim"}
    spec |= {"steps": 6, "style_weight": [0.1, "5e2"], "precision": "float32"}
    rows, _ = run(client, tmp_path, expand(spec, TASKS, PHOTOS), TASKS)
    assert [row["style_weight"] for row in rows] == [0.1, 500.0] and all(row["frozen"] == 0 for row in rows)
    images = [read_image(tmp_path / "out" / row["files"]["image.png"]) for row in rows]
    assert images[0].shape == (1, 3, 32, 32) and not images[0].equal(images[1])
    assert run(client, tmp_path, expand(spec, TASKS, PHOTOS), TASKS) == (rows, [])
    monkeypatch.setattr("staff.sweep.tasks.fast_options", lambda generator, space: {"steps": 3})
    spec = {"task": "invert", "photos": "0000.png", "weights": {"l1": 1.0}, "fast": True, "noise_steps": [0, 5]}
    (code, noise), _ = run(client, tmp_path, expand(spec, TASKS, PHOTOS), TASKS)
    assert code["steps"] == noise["steps"] == 3 and noise["noise_steps"] == 5 and "psnr_fresh_noise" not in code
    assert noise["psnr"] > noise["psnr_before_noise"] == code["psnr"]
    maps = [load_latents(tmp_path / "out" / row["files"]["latents.safetensors"])[0].noise for row in (code, noise)]
    assert maps[0] is None and maps[1] is not None


def test_submissions_are_graded_one_by_one(client, tmp_path, monkeypatch):
    calls = []

    def graded(handed, place, seed, unsafe, report):
        (entry,) = Path(handed).iterdir()
        calls.append((entry.name, entry.read_text()))
        (Path(place) / "students").mkdir(parents=True, exist_ok=True)
        (Path(place) / "students" / f"{entry.stem}.html").write_text(f"page of {entry.stem}, seed {seed}")
        scores = [{"item": "1.1", "points": 2.0}]
        return [{"student": entry.stem, "total": 2.0, "of": 4.0, "open": [], "remarks": [], "scores": scores}]

    monkeypatch.setattr("staff.grading.grade.grade", graded)
    for name in ("ann.ipynb", "ben.zip"):
        (tmp_path / name).write_text(f"what is in {name}")
    spec = {"task": "grade", "submissions": ["*.ipynb", "*.zip"], "seed": 3}
    (ann, ben), _ = run(client, tmp_path, expand(spec, TASKS, tmp_path), TASKS)
    assert ann["points"] == {"1.1": 2.0} and ben["student"] == "ben"
    assert calls == [(name, f"what is in {name}") for name in ("ann.ipynb", "ben.zip")]
    assert (tmp_path / "out" / ben["files"]["report.html"]).read_text() == "page of ben, seed 3"


def test_a_worker_in_a_process_of_its_own_gives_the_files_of_a_sequential_run(client, tmp_path):
    spec = {"task": "invert", "photos": "000[0-1].png", "space": ["z", "w"], "steps": 2, "start": "sample"}
    jobs, tables = expand(spec | {"weights": {"l1": 1.0}}, TASKS, PHOTOS), []
    with cluster(workers=1) as process:
        for name, workers, threads in (("one", client, None), ("other", process, 1)):
            rows, _ = run(workers, tmp_path / name, jobs, TASKS, threads=threads)
            tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert tables[0] == tables[1] and len(tables[0]) == 4
    places = [tmp_path / name / "out" for name in ("one", "other")]
    for row in tables[0]:
        images = [(place / row["files"]["image.png"]).read_bytes() for place in places]
        codes = [load_latents(place / row["files"]["latents.safetensors"])[0].code for place in places]
        assert images[0] == images[1] and torch.equal(*codes)
