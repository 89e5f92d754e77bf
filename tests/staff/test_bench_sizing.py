"""The page on sizing: its arithmetic, and one real measurement of a tiny job."""

import json
import multiprocessing.pool
import types

import pytest

from staff.benchmarks import sizing as bench

ONE = {"seconds": 3.0, "memory_gb": 0.91, "kb": 20.0, "files": 2.0}


def test_time_is_seconds_times_photos_over_cores():
    (row,) = bench.sizing({"w+": ONE}, [(1000, 1), (1_000_000, 100)])
    assert row["1,000 on 1 core"] == "50 min" and row["1,000,000 on 100 cores"] == "8.3 h"
    assert row["disk of 1,000,000"] == "20 GB" and row["files"] == "2,000,000" and row["memory"] == "0.9 GB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(75, "75 s"), (5700, "95 min"), (30000, "8.3 h"), (360000, "4.17 days"), (9e7, "1.04e+03 days")],
)
def test_durations_are_told_in_one_unit(seconds, text):
    assert bench.duration(seconds) == text


def test_ways_are_measured_one_by_one_and_grading_is_added(tmp_path, monkeypatch):
    threads = types.SimpleNamespace(Pool=multiprocessing.pool.ThreadPool)
    monkeypatch.setattr(bench.multiprocessing, "get_context", lambda _: threads)
    lessons = [{"seconds": 4.0, "memory_mb": 400.0}, {"seconds": 6.0, "memory_mb": 500.0}]
    assert "300 steps" in bench.run(tmp_path, ["w+"], lambda options, count: ONE)
    (tmp_path / "grading.json").write_text(json.dumps({"lessons": lessons}))
    bench.run(tmp_path, ["style"], lambda options, count: ONE | {"seconds": 7.0})
    report = json.loads((tmp_path / "sizing.json").read_text())
    assert [row["seconds"] for row in report["rows"]] == ["3", "7", "10"] and report["measured"]["w+"] == ONE
    assert report["rows"][2]["memory"] == "0.5 GB" and report["rows"][2]["disk of 1,000,000"] is None
    with pytest.raises(bench.SizingError, match="ways are fast"):
        bench.run(tmp_path, ["fly"])


def test_a_job_is_measured_as_a_worker_does_it():
    row = bench.measure_way({"task": "invert", "steps": 2, "weights": {"l1": 1.0}}, 2)
    assert row["files"] == 2 and 4 < row["kb"] < 100 and row["seconds"] > 0 and row["memory_gb"] > 0.1
