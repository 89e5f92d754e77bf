"""The page of all benches, the plain projector loop and the figures of speed, on tiny networks."""

import json

import pytest
import torch

from helpers.losses import lp_loss
from staff.benchmarks import generator as bench_generator
from staff.benchmarks import inversion as bench_inversion
from staff.benchmarks import plain, suite
from staff.benchmarks.suite import SuiteError
from tests.support import tiny

WEIGHTS = {"l1": 1.0, "perceptual": 0.1}


def test_grouped_convolutions_draw_the_same_image():
    generator = tiny.stylegan2(resolution=32)
    ws, noise = generator.sample("w+", 2, seed=1), generator.fresh_noise(2, seed=2)
    assert (plain.grouped_synthesis(generator, ws, noise) - generator.render(ws, "w+", noise)).abs().max() < 1e-5


def test_the_plain_loop_comes_closer_and_keeps_its_maps_normal():
    generator = tiny.stylegan2()
    target = generator.synthesize(generator.sample("w", 1, seed=9)).clamp(0, 1)
    features, steps = tiny.Features(), 40
    *_, last = plain.plain_projection(generator, target, features, WEIGHTS, tiny.Features.layers, steps)
    assert features.calls == 2 * steps  # those of the target, too, at every step
    assert last.number == steps and all(abs(m.square().mean() - 1) < 1e-3 for m in last.noise)
    found = plain.grouped_synthesis(generator, generator.convert(last.w, "w", "w+"), last.noise)
    start = generator.render(generator.mean("w"), "w", generator.fresh_noise(1, 0))
    assert lp_loss(found, target) < 0.7 * lp_loss(start, target)


def test_white_noise_is_less_correlated_with_itself_than_a_smooth_map():
    white = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = (white + white.roll(1, 3)) / 2**0.5
    assert plain.self_correlation([white]) < 0.2 * plain.self_correlation([smooth])


def test_the_comparison_counts_photos_that_were_reached():
    ours = [{"seconds": 2.0, "steps": 5, "psnr": 20.0, "feature_distance": 0.3, "reached": r} for r in (1.0, None)]
    loop = [{"seconds": 10.0, "steps": 9, "psnr": 19.0, "feature_distance": 0.4, "reached": 10.0}] * 2
    row = bench_inversion._mean_of(ours, loop)
    assert row["reached_by"] == "1 of 2" and row["times_faster"] == 10.0 and row["psnr"] == 20.0


def test_operations_are_those_of_the_convolutions():
    generator = tiny.stylegan2(channel_base=64, channel_max=4)
    widths = {4: 4, 8: 4, 16: 4}
    forward = sum(9 * c * c * (r * r + (r * r // 4 if r > 4 else 0)) + 3 * c * r * r for r, c in widths.items())
    assert bench_generator.step_flops(generator) == 4 * forward


def test_what_does_not_fit_is_not_run_and_says_so(monkeypatch):
    generator = tiny.stylegan2()
    needs = {grouped: bench_generator.needed_memory(generator, 8, grouped) for grouped in (True, False)}
    assert needs[True] > needs[False] > 0
    monkeypatch.setattr(bench_generator, "official_size", lambda *_, **__: generator)
    monkeypatch.setattr(bench_generator, "convolution_peak", lambda *_: 1e9)
    monkeypatch.setattr(bench_generator, "free_memory", lambda _: (needs[True] + needs[False]) / 2)
    (one,), (grouped,) = (bench_generator.speed_rows(16, (n,), torch.device("cpu"), True) for n in (1, 8))
    assert "GB are free" in grouped["not_run"] and "ms" not in grouped
    ours = bench_generator.speed_rows(16, (1, 8), torch.device("cpu"), False)
    rows = bench_generator.against_grouped([one, grouped, *ours])
    assert [row["batch"] for row in rows] == [1, 1, 1, 8, 8, 8] and rows[0]["times_grouped"] == 1
    assert all(row["ms"] > 0 for row in ours) and not any("times_grouped" in row for row in rows[3:])


# --- the page --------------------------------------------------------------------------------------------------------

REPORT = {"circumstances": {"date": "2000-01-01"}, "speed": [{"way": "a | b", "ms": 1.5}], "part": {"rows": [{"n": 3}]}}


@pytest.fixture
def ran(monkeypatch):
    """Replaces the processes: every bench writes REPORT, "blend" fails; gives the names of those that ran."""
    names = []

    def run_one(bench, out, words):
        names.append(bench.name)
        out.mkdir(parents=True, exist_ok=True)
        (out / bench.file).write_text(json.dumps(REPORT))
        for name in bench.plots:
            (out / name).write_bytes(b"plot")
        ended = {"ended": "failed (2)", "reason": "no <faces>"} if bench.name == "blend" else {"ended": "done"}
        return {"bench": bench.name, "words": words, "minutes": 1.0, "date": "2000-01-02", **ended}

    monkeypatch.setattr(suite, "run_one", run_one)
    return names


def test_a_failed_bench_does_not_stop_the_rest_and_is_run_again(ran, tmp_path):
    out, data = tmp_path / "bench", tmp_path / "secret" / "faces.zip"
    suite.run(out, data)
    assert ran == [bench.name for bench in suite.BENCHES]
    page = (out / "benchmarks.md").read_text()
    assert "Not finished: failed (2)" in page and page.count("a \\| b") == len(ran) and "### part" in page
    ran.clear()
    suite.run(out, data)
    assert ran == ["blend"]
    suite.run(out, data, quick=True, only=["style"])
    assert ran == ["blend", "style"]  # other arguments are another measurement
    suite.run(out, data, fresh=True, only=["growth"])
    assert ran == ["blend", "style", "growth"]


def test_without_faces_the_others_run(ran, tmp_path):
    suite.run(tmp_path)
    assert ran == [bench.name for bench in suite.BENCHES if not bench.data]
    with pytest.raises(SuiteError, match="inversion needs photos of faces"):
        suite.run(tmp_path, only=["inversion"])
    with pytest.raises(SuiteError, match="the benches are generator, .* got 'speed'"):
        suite.run(tmp_path, only=["speed"])


def test_what_is_published_holds_no_path(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "PUBLISHED", tmp_path / "benchmarks.md")
    suite.run(tmp_path / "bench", tmp_path / "secret" / "faces.zip", publish=True)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "secret" not in text and str(tmp_path) not in text
    assert "python -m helpers bench inversion --out output/bench --data FACES.zip" in text and "a \\| b" in text


def test_plots_are_published_with_the_tables(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "PUBLISHED", tmp_path / "benchmarks.md")
    suite.run(tmp_path / "bench", tmp_path / "faces.zip", publish=True)
    files = {path.name for path in (tmp_path / "benchmarks").iterdir()}
    assert files == {name for bench in suite.BENCHES for name in bench.plots} and "growth.png" in files
    text = (tmp_path / "benchmarks.md").read_text()
    assert all(f"](benchmarks/{name})" in text for name in files)
