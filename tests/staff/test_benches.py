"""What the benches measure, on tiny networks, the frame that they share, and sets of images."""

import json
import re
import types
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.generators import load_generator
from helpers.images import read_image
from helpers.latents import Latents
from helpers.losses import lp_loss
from helpers.metrics import psnr
from helpers.photos import demo_cat
from staff.benchmarks import BENCHES, OF_FACES, common, full_size, generator, inversion, noise, plain, suite
from staff.benchmarks.cats import TRUNCATIONS, cat_rows, described, frechet_distance, samples
from staff.benchmarks.common import PeakMemory, Settings, circumstances, in_turns
from staff.benchmarks.style import style_distance
from tests.support import tiny

CPU = torch.device("cpu")
WEIGHTS = {"l1": 1.0, "perceptual": 0.1}


def test_grouped_convolutions_draw_the_same_image_and_operations_and_photos_are_counted():
    net = tiny.stylegan2(resolution=32)
    ws, maps = net.sample("w+", 2, seed=1), net.fresh_noise(2, seed=2)
    assert (plain.grouped_synthesis(net, ws, maps) - net.render(ws, "w+", maps)).abs().max() < 1e-5
    ours = [{"seconds": 2.0, "steps": 5, "psnr": 20.0, "feature_distance": 0.3, "reached": r} for r in (1.0, None)]
    loop = [{"seconds": 10.0, "steps": 9, "psnr": 19.0, "feature_distance": 0.4, "reached": 10.0}] * 2
    row = inversion.mean_row(ours, loop)
    assert row["reached_by"] == "1 of 2" and row["times_faster"] == 10.0 and row["psnr"] == 20.0
    net, widths = tiny.stylegan2(channel_base=64, channel_max=4), {4: 4, 8: 4, 16: 4}
    forward = sum(9 * c * c * (r * r + (r * r // 4 if r > 4 else 0)) + 3 * c * r * r for r, c in widths.items())
    assert generator.step_flops(net) == 4 * forward


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


def test_the_stages_are_measured_on_what_is_shown_and_each_starts_from_the_earlier(settings, monkeypatch):
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


def test_every_row_is_on_disk_when_the_next_is_measured_in_turns(tmp_path, monkeypatch):
    bench_settings = Settings(tmp_path / "bench")
    path, seen = bench_settings.out / "style.json", []

    def rows(_):
        yield {"way": "a | b", "ms": 1.5}
        seen.append(json.loads(path.read_text())["speed"]["rows"])
        yield {"way": "c", "ms": float("inf")}

    bench = types.SimpleNamespace(PARTS={"speed": rows, "other": lambda _: [{"n": 3}]}, DEFAULT=("speed",))
    monkeypatch.setattr(common.importlib, "import_module", lambda name: bench)
    text = "".join(common.run("style", bench_settings))
    assert seen == [[{"way": "a | b", "ms": 1.5}]] and "a \\| b" in text and circumstances(CPU)["processor"] in text
    assert "n" in [*common.run("style", bench_settings, ["other"])][1]  # what other parts found stays
    report = json.loads(path.read_text())
    assert list(report) == ["speed", "other"] and report["speed"]["circumstances"]["threads"]
    order = []
    found = in_turns({name: lambda name=name: order.append(name) for name in "ab"}, CPU, rounds=2, calls=2)
    assert "".join(order) == "aabbaabb" and set(found) == {"a", "b"} and min(found.values()) >= 0
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert circumstances("cpu")["processor"].endswith("oneDNN held to AVX2")
    before = torch.ones(2**27 // 4)  # 128 MB that are gone before the block
    del before
    with PeakMemory(CPU) as peak:
        kept = torch.ones(2**28 // 4)
        del kept
    assert 0.2 < peak.more < 0.35


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["speed"], "the benches are generator, .* and all; got 'speed'"),
        (["noise"], "bench noise needs photos of faces: add --data"),
        (["style", "--parts", "sped,pairs"], "the parts of bench style are speed, pairs, judge, lattice; got sped"),
        (["all", "--only", "speed"], "the benches are generator, .* got speed"),
        (["all", "--only", "noise,style"], "noise needs photos of faces"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(tmp_path, program, capsys, words, message):
    assert program("bench", *words, "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.match(f"error: {message}", error)


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """Replaces the processes: every bench writes a report, "blend" fails; gives the names of those that ran."""
    names, part = [], {"circumstances": {"date": "2000-01-01"}, "rows": [{"way": "a | b", "ms": 1.5}]}

    def run_one(name, out, words):
        names.append(name)
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps({"speed": part}))
        ended = {"ended": "failed (2)", "reason": "no <faces>"} if name == "blend" else {"ended": "done"}
        return {"bench": name, "words": words, "minutes": 1.0, **ended}

    monkeypatch.setattr(suite, "run_one", run_one)
    monkeypatch.setattr(suite, "PUBLISHED", tmp_path / "docs" / "benchmarks.md")
    return names


def test_a_failed_bench_does_not_stop_the_rest_and_is_run_again(ran, tmp_path):
    out, data = tmp_path / "bench", tmp_path / "secret" / "faces.zip"
    suite.run(out, [], data, publish=True)
    assert ran == [name for name in BENCHES if name != "weights"]
    page = (out / "benchmarks.md").read_text()
    assert "Not finished: failed (2)" in page and page.count("a \\| b") == len(ran) and "### speed" in page
    assert page == suite.PUBLISHED.read_text() and "secret" not in page and str(tmp_path) not in page
    assert "python -m helpers bench inversion --data FACES.zip" in page
    for expected, words, options in (
        (["blend"], [], {}),
        (["style"], ["--quick"], {"only": ["style"]}),  # other options are another measurement
        (["generator"], [], {"fresh": True, "only": ["generator"]}),
    ):
        ran.clear()
        suite.run(out, words, data, **options)
        assert ran == expected
    ran.clear()
    suite.run(tmp_path / "other", [], None)  # without faces the others run
    assert ran == [name for name in BENCHES if name not in OF_FACES]


def test_frechet_distance_agrees_with_the_matrix_square_root_and_samples_are_truncated():
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(9, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    first, second = (np.cov(vectors.numpy().T) for vectors in (ours, theirs))  # they do not commute
    trace = np.trace(first + second - 2 * sqrtm(first @ second).real)
    expected = (ours.mean(0) - theirs.mean(0)).square().sum() + trace
    assert frechet_distance(ours, theirs) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(theirs, ours) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(ours[:3], ours[:3]) == pytest.approx(0, abs=1e-6)  # fewer vectors than entries
    with pytest.raises(ValueError, match="at least 2 images for their statistics; got 1"):
        frechet_distance(ours[:1], theirs)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(ours * float("nan"), theirs)
    generator = load_generator("stylegan2-cats-64")
    plain, truncated, mean = (torch.cat(list(samples(generator, 3, psi, batch=2))) for psi in (1.0, 0.7, 0.0))
    assert plain.shape == (3, 3, 64, 64)
    assert (truncated - mean).abs().mean() < (plain - mean).abs().mean()
    assert torch.allclose(mean[:1], mean[1:2], atol=1e-5)


def test_a_cat_is_a_cat_and_noise_is_neither_a_cat_nor_its_style(efficientnet):
    net, cat = efficientnet, demo_cat(128)
    static = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    rows, likely = described(net, [cat, static])
    assert rows.shape == (2, 1280) and likely[0] > 0.5 > likely[1]
    assert style_distance(net, cat, cat) == 0 < style_distance(net, cat.flip(3), cat) < style_distance(net, static, cat)


def test_the_rows_of_a_model_and_its_sheet(tmp_path, efficientnet):
    generator = load_generator("stylegan2-cats-64")
    settings = Settings(tmp_path / "out", data=tmp_path / "photos", held_out=5)
    settings.data.mkdir()
    photos = torch.cat(list(samples(generator, 10, 0.7, seed=9)))
    for number, photo in enumerate((photos.permute(0, 2, 3, 1) * 255).round().byte().numpy()):
        Image.fromarray(np.ascontiguousarray(photo)).save(settings.data / f"{number}.png")
    rows = cat_rows("mine", generator, settings, 6)
    assert [row["truncation"] for row in rows] == list(TRUNCATIONS)
    assert all(0 <= row["cats"] <= 1 and row["frechet_ratio"] >= 0 for row in rows)
    assert rows[0]["nearest_photo"] > 0 and rows[0]["nearest_two_photos"] > 0
    assert read_image(settings.out / "mine-nearest.png").shape[2:] == (4 * 130 - 2, 16 * 66 - 2)
    assert len(replace(settings, held_out=3).faces()) == 3
