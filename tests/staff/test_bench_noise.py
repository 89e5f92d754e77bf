"""The bench of the noise stage: one row per method, figures of the images shown, and parts that come one by one."""

import json

import pytest
import torch

from helpers.latents import Latents
from helpers.metrics import psnr
from staff.benchmarks import noise as bench
from tests.lessons.test_runs import AnyLayer
from tests.support import tiny

FAST = {"steps": 4}


@pytest.fixture(scope="module")
def generator():
    return tiny.stylegan2()


@pytest.fixture(scope="module")
def faces(generator):
    drawn = generator.synthesize(generator.sample("w", 3, seed=1), generator.fresh_noise(3, seed=8))
    return drawn.clamp(0, 1).detach()


def test_the_stages_are_measured_on_the_images_that_are_shown(generator, faces):
    rows, residuals, images = bench.bench_stages(
        generator, faces, AnyLayer(), batch=2, inversion=FAST, equal_steps=4, steps=8
    )
    named = {row["method"]: row for row in rows}
    assert list(named) == list(images) == [row["method"] for row in residuals]
    for name, row in named.items():
        values = psnr(images[name], faces)
        assert row["psnr"] == pytest.approx(values.mean().item()) and row["worst_psnr"] == values.min().item()
    assert named["w+ then noise"]["psnr_fresh_noise"] == pytest.approx(named["w+"]["psnr_fresh_noise"], abs=0.01)
    assert named["w+ then noise"]["psnr"] > named["w+"]["psnr"]
    assert named["w+ then noise"]["seconds_per_face"] > named["w+"]["seconds_per_face"]
    for row in residuals:
        parts = [value for name, value in row.items() if name.startswith(("luminance", "chroma"))]
        assert sum(parts) == pytest.approx(100, abs=0.01)


def test_a_later_stage_starts_from_its_part_of_the_earlier_and_counts_its_time(faces):
    starts = []

    def search(targets, start):
        starts.append(start)
        return _Nothing(targets)

    first = bench.in_batches(search, faces, None, 2)
    second = bench.in_batches(search, faces, first, 2)
    assert (first.seconds, second.seconds) == (2.0, 4.0) and second.cpu_seconds > first.cpu_seconds
    assert starts[:2] == [None, None] and [len(start) for start in starts[2:]] == [2, 1]
    assert torch.equal(starts[3].code, first.latents.code[2:]) and torch.equal(second.images, faces * 0.5)


def test_a_choice_is_made_alone(generator, faces, monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "optimize_noise", lambda g, y, start, **o: seen.append((start.space, o)) or _Nothing(y))
    choices = {"default": {}, "rate": {"lr": 3.0}, "after w": {"space": "w"}}
    rows = bench.bench_choices(generator, faces, AnyLayer(), choices, inversion=FAST)
    assert [row["choice"] for row in rows] == list(choices)
    plain = {"steps": bench.EQUAL_STEPS}
    assert seen == [("w+", plain), ("w+", plain | {"lr": 3.0}), ("w", plain)]


class _Nothing:
    """A result that found the mean."""

    def __init__(self, targets):
        self.images, self.seconds = targets * 0.5, 1.0
        self.latents = Latents("w", tiny.stylegan2().sample("w", len(targets)))


def test_parts_come_one_by_one_into_one_report(tmp_path, monkeypatch, generator, faces):
    monkeypatch.setattr(bench, "load_generator", lambda *_: generator)
    monkeypatch.setattr(bench, "load_features", lambda *_: AnyLayer())
    monkeypatch.setattr(bench, "load_faces", lambda *_, **__: faces)
    monkeypatch.setattr(bench, "time_two_stages", lambda *_: {"batch": 1, "psnr": 30.0})
    monkeypatch.setattr(bench, "bench_choices", lambda *_: [{"choice": "default", "psnr": 31.0}])
    bench.run("faces", tmp_path, torch.device("cpu"), ["seconds"])
    text = bench.run("faces", tmp_path, torch.device("cpu"), ["choices"])
    report = json.loads((tmp_path / "noise.json").read_text())
    assert report["seconds"]["rows"] and report["choices"]["rows"] and report["choices"]["circumstances"]
    assert (tmp_path / "noise.md").read_text().strip() == text and "default" in text and "batch" in text
    with pytest.raises(ValueError, match="stages, choices, seconds"):
        bench.run("faces", tmp_path, torch.device("cpu"), ["times"])
