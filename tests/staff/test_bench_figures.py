"""What the benches measure, on tiny networks: the plain loop, speed, memory, noise stages."""

import types
from functools import partial

import pytest
import torch

from helpers.latents import Latents
from helpers.losses import lp_loss
from helpers.metrics import psnr
from staff.benchmarks import full_size, generator, inversion, noise, plain
from staff.benchmarks.common import Settings
from tests.support import tiny

CPU = torch.device("cpu")
WEIGHTS = {"l1": 1.0, "perceptual": 0.1}


def test_grouped_convolutions_draw_the_same_image():
    net = tiny.stylegan2(resolution=32)
    ws, maps = net.sample("w+", 2, seed=1), net.fresh_noise(2, seed=2)
    assert (plain.grouped_synthesis(net, ws, maps) - net.render(ws, "w+", maps)).abs().max() < 1e-5


def test_the_plain_loop_comes_closer_and_keeps_its_maps_normal():
    net, features, steps = tiny.stylegan2(), tiny.Features(), 40
    target = net.synthesize(net.sample("w", 1, seed=9)).clamp(0, 1)
    *_, last = plain.plain_projection(net, target, features, WEIGHTS, tiny.Features.layers, steps)
    assert features.calls == 2 * steps  # those of the target, too, at every step
    assert last.number == steps and all(abs(m.square().mean() - 1) < 1e-3 for m in last.noise)
    white = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert plain.self_correlation([white]) < 0.2 * plain.self_correlation([(white + white.roll(1, 3)) / 2**0.5])
    start = net.render(net.mean("w"), "w", net.fresh_noise(1, 0))
    assert lp_loss(last.images(), target) < 0.7 * lp_loss(start, target)


def test_the_comparison_counts_photos_that_were_reached():
    ours = [{"seconds": 2.0, "steps": 5, "psnr": 20.0, "feature_distance": 0.3, "reached": r} for r in (1.0, None)]
    loop = [{"seconds": 10.0, "steps": 9, "psnr": 19.0, "feature_distance": 0.4, "reached": 10.0}] * 2
    row = inversion.mean_row(ours, loop)
    assert row["reached_by"] == "1 of 2" and row["times_faster"] == 10.0 and row["psnr"] == 20.0


def test_operations_are_those_of_the_convolutions():
    net, widths = tiny.stylegan2(channel_base=64, channel_max=4), {4: 4, 8: 4, 16: 4}
    forward = sum(9 * c * c * (r * r + (r * r // 4 if r > 4 else 0)) + 3 * c * r * r for r, c in widths.items())
    assert generator.step_flops(net) == 4 * forward


def test_what_does_not_fit_is_not_run_and_says_so(tmp_path, monkeypatch):
    net = tiny.stylegan2()
    needs = {grouped: generator.needed_memory(net, 8, grouped) for grouped in (True, False)}
    assert needs[True] > needs[False] > 0
    monkeypatch.setattr(generator, "official_size", lambda *_, **__: net)
    monkeypatch.setattr(generator, "convolution_peak", lambda *_: 1e9)
    monkeypatch.setattr(generator, "shortest", partial(generator.shortest, seconds=0))
    monkeypatch.setattr(generator, "free_memory", lambda _: (needs[True] + needs[False]) / 2)
    rows = list(generator.speed(Settings(tmp_path, sizes=(16,))))
    one, eight, *ours = rows
    assert "GB are free" in eight["not_run"] and "ms" not in eight and one["times_grouped"] == 1
    assert [row["batch"] for row in rows] == [1, 8] * len(generator.WAYS)
    ours = [row for row in ours if row["way"] in ("float32", "bfloat16")]
    assert all(row["ms"] > 0 for row in ours) and ["times_grouped" in row for row in ours] == [True, False] * 2


def test_every_variant_of_full_size_is_measured_in_both_stages(tmp_path, monkeypatch):
    net, seen, steps = tiny.stylegan2(), [], full_size.time_steps
    timed = lambda *given: seen.append((net.dtype, net.checkpointing)) or steps(*given)  # noqa: E731
    replaced = {"load_features": lambda **_: tiny.vgg(), "official_size": lambda *_: net, "time_steps": timed}
    for name, value in replaced.items():
        monkeypatch.setattr(full_size, name, value)
    rows = list(full_size.stages(Settings(tmp_path, sizes=(16,))))
    named = [(variant, stage) for variant in full_size.VARIANTS for stage in ("w+", "noise")]
    assert [(row["variant"], row["stage"]) for row in rows] == named and seen[::2] == [*full_size.VARIANTS.values()]
    assert all(row["steps_per_second"] > 0 and row["peak_gb"] > 0 for row in rows)
    monkeypatch.setattr(full_size, "free_memory", lambda _: 1.0)
    with pytest.raises(ValueError, match="12 GB of free memory are needed on cpu at 1024 px, there are 1.0"):
        next(full_size.stages(Settings(tmp_path)))
    monkeypatch.setattr(full_size.time, "perf_counter", iter([0.0, 100.0, 102.0, 104.0]).__next__)
    assert steps(range(3), CPU)[0] == 2.0  # the first of several is not timed


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Faces that a tiny generator drew."""
    net = tiny.stylegan2()
    faces = net.synthesize(net.sample("w", 3, seed=1), net.fresh_noise(3, seed=8)).clamp(0, 1).detach()
    monkeypatch.setattr(Settings, "networks", lambda _: (net, tiny.vgg()))
    monkeypatch.setattr(Settings, "faces", lambda *_: faces)
    return Settings(tmp_path, quick=True)


def test_the_stages_are_measured_on_the_images_that_are_shown(settings, monkeypatch):
    found, figures = {}, noise.figures
    monkeypatch.setattr(noise, "figures", lambda *given: found.setdefault(len(found), given[3]) and figures(*given))
    named = {row["method"]: row for row in noise.stages(settings)}
    assert list(named) == ["w", "w+", *noise.STAGES] and (settings.out / "noise.png").is_file()
    for row, result in zip(named.values(), found.values(), strict=True):
        values = psnr(result.images, settings.faces())
        assert row["psnr"] == pytest.approx(values.mean().item()) and row["worst_psnr"] == values.min().item()
        assert 0 < row["colour_percent"] < 100
    both, code = named["w+ then noise"], named["w+"]
    assert both["psnr_fresh_noise"] == pytest.approx(code["psnr_fresh_noise"], abs=0.01)
    assert both["psnr"] > code["psnr"] and both["seconds_per_face"] > code["seconds_per_face"]


def test_a_later_stage_starts_from_its_part_of_the_earlier_and_counts_its_time(settings):
    starts, faces = [], settings.faces()

    def search(targets, start):
        starts.append(start)
        latents = Latents("w", tiny.stylegan2().sample("w", len(targets)))
        return types.SimpleNamespace(images=targets * 0.5, seconds=1.0, latents=latents)

    first = noise.in_batches(search, faces, None, 2)
    second = noise.in_batches(search, faces, first, 2)
    assert (first.seconds, second.seconds) == (2.0, 4.0) and second.cpu_seconds > first.cpu_seconds
    assert starts[:2] == [None, None] and [len(start) for start in starts[2:]] == [2, 1]
    assert torch.equal(starts[3].code, first.latents.code[2:]) and torch.equal(second.images, faces * 0.5)
