"""The bench of the official size, at a small one."""

import json

import pytest
import torch

from helpers.device import DeviceError
from staff.benchmarks import full_size
from tests.lessons.test_runs import AnyLayer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def generator():
    return full_size.official_size(16, CPU)


def test_every_setting_is_measured_in_both_stages(tmp_path, monkeypatch, generator):
    seen = []
    features = AnyLayer()
    features.name = "tiny"
    monkeypatch.setattr(full_size, "load_features", lambda **_: features)
    monkeypatch.setattr(full_size, "official_size", lambda *_: generator)
    monkeypatch.setattr(
        full_size,
        "time_steps",
        lambda search, device: seen.append((generator.dtype, generator.checkpointing)) or (len(list(search)), 1.0),
    )
    text = full_size.run(tmp_path, CPU, 16, steps=2, need_gb=0.1)
    report = json.loads((tmp_path / "full_size.json").read_text())
    assert [(row["setting"], row["stage"]) for row in report["rows"]] == [
        (setting, stage) for setting in full_size.SETTINGS for stage in ("w+", "noise")
    ]
    assert seen[::2] == [
        (torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.bfloat16, True)
    ]  # fmt: skip
    assert report["rows"][0]["steps_per_second"] == 0.5 and "bfloat16" in text
    (gradient,) = report["gradient"]
    ratio = gradient["median_gradient_sum"] / gradient["median_gradient_mean"]
    assert ratio == pytest.approx(3 * 16**2, rel=1e-3)


def test_the_first_of_several_steps_is_not_timed(monkeypatch):
    clock = iter([0.0, 100.0, 102.0, 104.0])
    monkeypatch.setattr(full_size.time, "perf_counter", lambda: next(clock))
    seconds, _ = full_size.time_steps(range(3), CPU)
    assert seconds == 2.0


def test_the_peak_is_that_of_the_block():
    before = torch.ones(2**27 // 4)  # 128 MB that are gone before the block
    del before
    with full_size.PeakMemory(CPU) as small:
        pass
    with full_size.PeakMemory(CPU) as large:
        kept = torch.ones(2**28 // 4)
        del kept
    assert large.gb - small.gb > 0.2


def test_too_little_memory_is_refused_before_the_start(tmp_path):
    with pytest.raises(DeviceError, match="free memory are needed"):
        full_size.run(tmp_path, CPU, 1024, need_gb=1e6)
