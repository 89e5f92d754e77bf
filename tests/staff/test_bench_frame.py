"""The frame of the benches, the page of all of them, and the command."""

import json
import re
import types

import pytest
import torch

from staff.benchmarks import BENCHES, OF_FACES, common, suite
from staff.benchmarks.common import PeakMemory, Settings, circumstances, in_turns

CPU = torch.device("cpu")


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path / "bench")


def test_every_row_is_on_disk_when_the_next_is_measured(settings, monkeypatch):
    path, seen = settings.out / "style.json", []

    def rows(_):
        yield {"way": "a | b", "ms": 1.5}
        seen.append(json.loads(path.read_text())["speed"]["rows"])
        yield {"way": "c", "ms": float("inf")}

    bench = types.SimpleNamespace(PARTS={"speed": rows, "other": lambda _: [{"n": 3}]}, DEFAULT=("speed",))
    monkeypatch.setattr(common.importlib, "import_module", lambda name: bench)
    text = "".join(common.run("style", settings))
    assert seen == [[{"way": "a | b", "ms": 1.5}]] and "a \\| b" in text and circumstances(CPU)["processor"] in text
    assert "n" in [*common.run("style", settings, ["other"])][1]  # what other parts found stays
    report = json.loads(path.read_text())
    assert list(report) == ["speed", "other"] and report["speed"]["circumstances"]["threads"]


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


def test_the_median_of_turns_the_instruction_set_and_the_peak_of_the_block(monkeypatch):
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
