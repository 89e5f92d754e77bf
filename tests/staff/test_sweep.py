"""Sweeps: what a table expands to, what is done again and what is not, and workers that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.images import read_image, write_image
from helpers.latents import load_latents
from staff.sweep import (
    Sweep,
    SweepError,
    Table,
    Task,
    dask_cluster,
    expand,
    job_key,
    local_processes,
    read_spec,
    visible_gpus,
)
from staff.sweep.tasks import TASKS
from tests.support.sweep_jobs import INPUTS, die, gpu, measure_length

OPTIONS = frozenset({"factor", "marks"})
LENGTH = {"length": Task(INPUTS, OPTIONS, measure_length), "die": Task(INPUTS, OPTIONS, die)}


def threads():
    return ThreadPoolExecutor(2)


@pytest.fixture
def folder(tmp_path):
    for name, text in {"a": "one", "b": "three", "c": "seven"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


def jobs_of(folder, task="length", **options):
    spec = {"task": task, "texts": "*.txt", "factor": [1, 10], "marks": str(folder / "marks")} | options
    return expand(spec, LENGTH, folder)


def marks(folder):
    return len((folder / "marks").read_text()) if (folder / "marks").exists() else 0


def run(folder, make_executor=threads, jobs=None, **options):
    jobs = jobs_of(folder) if jobs is None else jobs
    sweep = Sweep(jobs, LENGTH, folder / "out", make_executor, **options)
    new = list(sweep)
    return sweep.rows(), new


def test_a_specification_gives_every_combination(folder):
    jobs = jobs_of(folder)
    assert [(Path(job["text"]).name, job["factor"]) for job in jobs] == [
        (name, factor) for name in ("a.txt", "b.txt", "c.txt") for factor in (1, 10)
    ]


def test_jobs_are_made_when_they_are_asked_for(folder):
    jobs = jobs_of(folder, factor=list(range(10**6)))
    assert len(jobs) == 3 * 10**6 and "list" not in str(type(jobs))
    assert (Path(jobs[2 * 10**6 - 1]["text"]).name, jobs[2 * 10**6 - 1]["factor"]) == ("b.txt", 10**6 - 1)
    for place in (-1, len(jobs)):
        with pytest.raises(IndexError):
            jobs[place]


def test_a_list_as_value_stands_in_a_list_of_its_own(folder):
    assert [job["factor"] for job in jobs_of(folder, factor=[[1, 2]], texts="a.txt")] == [[1, 2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "fly"}, "one of die, length"),
        ({"speed": 3}, "does not know speed"),
        ({"factor": []}, "list of factor is empty"),
        ({"texts": "*.md"}, "no file fits"),
        ({"texts": None}, "must be a file pattern"),
    ],
)
def test_a_bad_specification_is_one_sentence(folder, change, message):
    spec = {"task": "length", "texts": "*.txt", "factor": 1, "marks": "m"} | change
    with pytest.raises(SweepError, match=message):
        expand(spec, LENGTH, folder)


@pytest.mark.parametrize("text", ["a: [", "just words", "- 1\n- 2", "\x00"])
def test_a_file_that_is_no_specification_is_refused(tmp_path, text):
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(SweepError):
        read_spec(tmp_path / "spec.yaml")


def test_rows_and_files_of_all_jobs(folder):
    rows, new = run(folder)
    assert [row["length"] for row in rows] == [3, 30, 5, 50, 5, 50]
    assert sorted(row["key"] for row in new) == sorted(row["key"] for row in rows)
    assert (folder / "out" / rows[2]["files"]["copy.txt"]).read_text() == "three"
    assert rows[2]["files"]["copy.txt"].startswith(f"files/{rows[2]['key'][:2]}/")


def test_a_finished_job_is_never_done_twice(folder):
    first, _ = run(folder)
    again, new = run(folder)
    assert (again, new, marks(folder)) == (first, [], 6)


def test_a_left_sweep_goes_on_where_it_was(folder):
    sweep = Sweep(jobs_of(folder), LENGTH, folder / "out", lambda: ThreadPoolExecutor(1))
    for _ in sweep:
        break
    assert 0 < len(sweep) < 6
    rows, new = run(folder)
    assert [row["length"] for row in rows] == [3, 30, 5, 50, 5, 50] and len(new) == len(sweep)


def test_the_same_bytes_under_another_name_are_the_same_job(folder):
    run(folder)
    (folder / "a.txt").rename(folder / "z.txt")
    _, new = run(folder)
    assert new == []


def test_another_content_is_another_job(folder):
    run(folder)
    (folder / "d.txt").write_text("eleven")
    _, new = run(folder)
    assert sorted(row["length"] for row in new) == [6, 60]


def test_twice_the_same_job_is_done_once(folder):
    rows, new = run(folder, jobs=list(jobs_of(folder)) * 2)
    assert (len(rows), len(new), marks(folder)) == (12, 6, 6)


def test_a_bad_job_is_a_row_with_its_error_and_is_tried_again(folder):
    (folder / "b.txt").write_text("bad")
    rows, _ = run(folder, batch=3)
    assert [row.get("length") for row in rows] == [3, 30, None, None, 5, 50]
    assert rows[2]["error"] == "expected another text; change it"
    (folder / "b.txt").write_text("three")
    _, new = run(folder)
    assert [row["length"] for row in new] == [5, 50]
    lines = (folder / "out" / "results.jsonl").read_text().splitlines()
    assert len(lines) == 6 and not any("error" in line for line in lines)


def test_of_two_sweeps_into_one_folder_the_second_says_so(folder):
    first = iter(Sweep(jobs_of(folder), LENGTH, folder / "out", threads))
    next(first)
    with pytest.raises(SweepError, match="another sweep writes into"):
        run(folder)
    first.close()
    assert len(run(folder)[0]) == 6


def test_more_jobs_are_in_flight_when_workers_have_come(folder):
    came, flying = [1], []

    class Growing(ThreadPoolExecutor):
        def submit(self, *arguments):
            future = super().submit(*arguments)
            flying.append(future)
            if len(flying) == 30:
                came[0] = 5
            return future

    for i in range(100):
        (folder / f"{i}.txt").write_text(f"text {i}")
    sweep = Sweep(jobs_of(folder, factor=1), LENGTH, folder / "out", lambda: Growing(1), workers=lambda: came[0])
    given = [(number, len(flying)) for number, _ in enumerate(sweep)]
    assert max(submitted - done for done, submitted in given[:20]) <= 4
    assert max(submitted - done for done, submitted in given[40:70]) >= 16


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_hold_jobs_that_differ_in_their_inputs_only(folder, batch):
    seen = []

    def spy(jobs, data):
        seen.append([job["factor"] for job in jobs])
        return measure_length(jobs, data)

    tasks = {"length": Task(INPUTS, OPTIONS, spy)}
    rows = list(Sweep(jobs_of(folder), tasks, folder / "out", threads, batch=batch))
    assert len(rows) == 6
    assert max(map(len, seen)) == min(batch, 3) and all(len(set(factors)) == 1 for factors in seen)


def test_few_jobs_are_in_flight(folder):
    flying = []

    class Counting(ThreadPoolExecutor):
        def submit(self, *arguments):
            flying.append(sum(not f.done() for f in self.futures))
            self.futures.append(super().submit(*arguments))
            return self.futures[-1]

        futures = []

    for i in range(60):
        (folder / f"{i}.txt").write_text(f"text {i}")
    list(Sweep(jobs_of(folder, factor=1), LENGTH, folder / "out", lambda: Counting(1), workers=1))
    assert len(flying) == 63 and max(flying) < 8


def test_a_line_that_a_kill_cut_off_is_dropped(folder):
    rows, _ = run(folder)
    table = folder / "out" / "results.jsonl"
    table.write_text(table.read_text()[:-20])
    again, new = run(folder)
    assert len(new) == 1 and [row["length"] for row in again] == [row["length"] for row in rows]
    assert all(json.loads(line) for line in table.read_text().splitlines())


def test_results_of_something_else_are_not_overwritten(folder):
    (folder / "out").mkdir()
    (folder / "out" / "results.jsonl").write_text('{"other": 1}\n{"other": 2}\n')
    with pytest.raises(SweepError, match="line 1 of .* no result of a sweep"):
        run(folder)
    assert "other" in (folder / "out" / "results.jsonl").read_text()


def test_a_row_is_on_disk_when_it_is_given(tmp_path):
    table = Table(tmp_path / "t.jsonl")
    table.add({"key": "1", "value": 2})
    assert json.loads((tmp_path / "t.jsonl").read_text()) == {"key": "1", "value": 2}


def test_each_process_has_a_gpu_of_its_own():
    with local_processes(2, ["5", "7"])() as pool:
        assert set(pool.map(gpu, [0.1] * 40)) == {"5", "7"}


@pytest.mark.parametrize(
    ("named", "count", "seen"), [("", 2, ["0", "1"]), ("3, 5", 2, ["3", "5"]), ("3", 0, []), ("", 0, [])]
)
def test_gpus_are_those_that_may_be_used(monkeypatch, named, count, seen):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == seen


def test_a_killed_process_costs_only_time(folder):
    (folder / "b.txt").write_text("once")
    rows, _ = run(folder, local_processes(2), jobs_of(folder, "die"), workers=2)
    assert [row["length"] for row in rows] == [3, 30, 4, 40, 5, 50]


def test_a_job_that_kills_its_worker_each_time_is_given_up_and_no_other(folder):
    (folder / "b.txt").write_text("always")
    rows, _ = run(folder, local_processes(2), jobs_of(folder, "die", factor=1), workers=2)
    assert [row.get("length") for row in rows] == [3, None, 5]
    assert "died 3 times" in rows[1]["error"]


STOPPED = """
import sys
from pathlib import Path
from staff.sweep import Sweep, Task, expand, local_processes
from tests.sweep_jobs import INPUTS, take_time
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tasks = {"slow": Task(INPUTS, frozenset({"factor", "marks"}), take_time)}
    spec = {"task": "slow", "texts": "*.txt", "factor": list(range(200)), "marks": str(folder / "marks")}
    list(Sweep(expand(spec, tasks, folder), tasks, folder / "out", local_processes(2), workers=2))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_ends_leaves_its_rows_and_no_process(folder, number):
    psutil = pytest.importorskip("psutil", reason="psutil is not installed: pip install psutil")
    script = folder / "script.py"
    script.write_text(STOPPED)
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    sweep = subprocess.Popen([sys.executable, script, folder], env=environment, stderr=subprocess.PIPE, text=True)
    table, deadline = folder / "out" / "results.jsonl", time.monotonic() + 60
    while not (table.exists() and table.read_text().count("\n") > 4) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(sweep.pid).children(recursive=True)
    sweep.send_signal(number)
    said = sweep.communicate(timeout=30)[1]
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert children and not alive
    assert "Process Spawn" not in said  # no traceback of a worker
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(rows) >= 4 and all("length" in row for row in rows)


# --- other kinds of jobs ---------------------------------------------------------------------------------------------


def test_every_photo_is_painted_in_every_style(photos, tmp_path):
    write_image(tmp_path / "style.png", read_image(photos / "1.png"))
    spec = {"task": "style", "contents": str(photos / "0.png"), "styles": [str(tmp_path / "style.png")], "size": 32}
    spec |= {"steps": 6, "features": "vgg19-slim", "style_weight": [0.1, 500.0], "precision": "float32"}
    sweep = Sweep(expand(spec, TASKS), TASKS, tmp_path / "out", lambda: ThreadPoolExecutor(1))
    rows = list(sweep)
    assert [row["style_weight"] for row in rows] == [0.1, 500.0] and all(row["frozen"] == 0 for row in rows)
    pictures = [read_image(tmp_path / "out" / row["files"]["image.png"]) for row in rows]
    assert pictures[0].shape == (1, 3, 32, 32) and not pictures[0].equal(pictures[1])
    assert not list(Sweep(expand(spec, TASKS), TASKS, tmp_path / "out", lambda: ThreadPoolExecutor(1)))


def test_submissions_are_graded_one_by_one(tmp_path, monkeypatch):
    calls = []

    def graded(handed, place, seed, unsafe, tell):
        (entry,) = Path(handed).iterdir()
        calls.append(sorted(path.name for path in entry.rglob("*")) if entry.is_dir() else entry.name)
        (Path(place) / "students").mkdir(parents=True, exist_ok=True)
        (Path(place) / "students" / f"{entry.stem}.html").write_text(f"page of {entry.stem}, seed {seed}")
        scores = [{"item": "1.1", "points": 2.0}]
        return [{"student": entry.stem, "total": 2.0, "of": 4.0, "open": [], "remarks": [], "scores": scores}]

    monkeypatch.setattr("staff.grading.grade.grade", graded)
    (tmp_path / "ann.ipynb").write_text("{}")
    with zipfile.ZipFile(tmp_path / "ben.zip", "w") as archive:
        archive.writestr("01.ipynb", "{}")
        archive.writestr("../outside.txt", "no")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", bytes(2**20) * 201)
    (tmp_path / "cut.zip").write_bytes(b"PK no zip")
    spec = {"task": "grade", "submissions": ["*.ipynb", "*.zip"], "seed": 3}
    sweep = Sweep(expand(spec, TASKS, tmp_path), TASKS, tmp_path / "out", lambda: ThreadPoolExecutor(1))
    list(sweep)
    ann, ben, bomb, cut = sweep.rows()
    assert (
        ann["points"] == {"1.1": 2.0}
        and ben["student"] == "ben"
        and calls == ["ann.ipynb", ["01.ipynb", "outside.txt"]]
    )
    assert (tmp_path / "out" / ben["files"]["report.html"]).read_text() == "page of ben, seed 3"
    assert "unpacks to 201 MiB" in bomb["error"] and "neither a notebook nor a zip" in cut["error"]
    assert not (tmp_path.parent / "outside.txt").exists()


# --- the real thing: inversions on a Dask cluster ------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("photos")
    noise = torch.Generator().manual_seed(1)
    for i in range(3):
        write_image(folder / f"{i}.png", torch.rand(1, 3, 64, 64, generator=noise))
    return folder


def inversions(photos):
    spec = {"task": "invert", "photos": "*.png", "space": ["z", "w"], "steps": 4, "weights": {"l1": 1.0}}
    return expand(spec, TASKS, photos)


def test_noise_maps_and_quick_inversions_are_jobs_too(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("staff.sweep.tasks.fast_options", lambda generator, space: {"steps": 3})
    spec = {"task": "invert", "photos": "0.png", "weights": {"l1": 1.0}, "fast": True, "noise_steps": [0, 5]}
    sweep = Sweep(expand(spec, TASKS, photos), TASKS, tmp_path, lambda: ThreadPoolExecutor(1))
    list(sweep)
    code, noise = sweep.rows()
    assert code["steps"] == noise["steps"] == 3 and noise["noise_steps"] == 5 and "psnr_fresh_noise" not in code
    assert noise["psnr"] > noise["psnr_before_noise"] == code["psnr"]
    maps = [load_latents(tmp_path / row["files"]["latents.safetensors"])[0].noise for row in (code, noise)]
    assert maps[0] is None and maps[1] is not None


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def sequential(photos, out):
    sweep = Sweep(inversions(photos), TASKS, out, lambda: ThreadPoolExecutor(1), threads=1)
    list(sweep)
    return sweep.rows()


def test_a_dask_cluster_that_loses_a_worker_gives_the_table_of_a_sequential_run(photos, tmp_path):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'dask[distributed]'")
    one_by_one = sequential(photos, tmp_path / "one")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
        dask_cluster(cluster.scheduler_address) as (make_executor, workers),
    ):
        assert workers() == 2
        sweep = Sweep(inversions(photos), TASKS, tmp_path / "many", make_executor, workers=workers, threads=1)
        for number, _ in enumerate(sweep):
            if number == 2:
                pids = client.run(os.getpid)
                victim = pids[sorted(pids)[0]]
                os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while victim in client.run(os.getpid).values() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert victim not in client.run(os.getpid).values()
    assert without_times(sweep.rows()) == without_times(one_by_one)
    for row in one_by_one:
        image, latents = (row["files"][name] for name in ("image.png", "latents.safetensors"))
        assert (tmp_path / "many" / image).read_bytes() == (tmp_path / "one" / image).read_bytes()
        codes = [load_latents(tmp_path / out / latents)[0].code for out in ("many", "one")]
        assert codes[0].equal(codes[1])


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'dask[distributed]'")
    import dask

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    settings = {"distributed.scheduler.allowed-failures": 0}  # a job is given up when it has killed one worker
    with dask.config.set(settings), distributed.LocalCluster(**options) as cluster:
        yield cluster


@pytest.mark.parametrize("batch", [1, 3])
def test_a_job_that_kills_every_dask_worker_is_given_up_and_the_sweep_goes_on(cluster, folder, batch):
    (folder / "b.txt").write_text("always")
    with dask_cluster(cluster.scheduler_address) as (make_executor, workers):
        jobs = jobs_of(folder, "die", factor=1)
        rows, _ = run(folder, make_executor, jobs, workers=workers, batch=batch)
    errors = [row["error"] for row in rows if "error" in row]
    assert "length" not in rows[1] and all("worker died again and again" in error for error in errors)
    (folder / "b.txt").write_text("calm")
    with dask_cluster(cluster.scheduler_address) as (make_executor, workers):
        rows, _ = run(folder, make_executor, jobs_of(folder, "die", factor=1), workers=workers)
    assert [row["length"] for row in rows] == [3, 4, 5]


def test_a_scheduler_that_ends_is_one_sentence_and_costs_no_row(folder, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'dask[distributed]'")
    monkeypatch.setattr("staff.sweep.PATIENCE", 2)
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
    got = []
    with (
        pytest.raises(SweepError, match="call again to go on"),
        dask_cluster(cluster.scheduler_address) as (make_executor, workers),
    ):
        for row in Sweep(
            jobs_of(folder, factor=list(range(30))), LENGTH, folder / "out", make_executor, workers=workers
        ):
            got.append(row)
            if len(got) == 3:
                cluster.close()
    table = (folder / "out" / "results.jsonl").read_text()
    assert [json.loads(line) for line in table.splitlines()][: len(got)] == got and len(got) < 90


def test_a_scheduler_that_does_not_answer_is_one_sentence(monkeypatch):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'dask[distributed]'")

    def refuse(*_, **__):
        raise OSError("refused")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(SweepError, match="no Dask scheduler answers at tcp://nowhere:1"):
        dask_cluster("tcp://nowhere:1").__enter__()


def test_the_key_depends_on_every_setting(folder):
    job = jobs_of(folder)[0]
    keys = {job_key(job | change, {"text"}) for change in ({}, {"factor": 2}, {"marks": "m"}, {"task": "die"})}
    assert len(keys) == 4
