"""No code of a checkpoint runs, memory stays bounded, and every bad file is one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.generators import load_generator
from helpers.generators.checkpoints import CheckpointError, read_checkpoint
from tests.support import hostile

CATALOGUE = list(hostile.catalogue())


def test_the_catalogue_is_long_and_its_files_differ():
    assert len(CATALOGUE) >= 30
    assert len({data for _, data, _ in CATALOGUE}) == len(CATALOGUE) == len({name for name, _, _ in CATALOGUE})


@pytest.mark.parametrize(("data", "message"), [c[1:] for c in CATALOGUE], ids=[c[0] for c in CATALOGUE])
def test_hostile_file_is_refused_in_one_sentence(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pkl"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as error:
        read_checkpoint(path)
    text = str(error.value)
    assert text.startswith(f"Cannot read {path}: ") and "\n" not in text and len(text) < len(str(path)) + 300
    assert not (tmp_path / hostile.MARK).exists()


def test_python_would_have_run_them(tmp_path, monkeypatch):
    """The catalogue is no straw man: what the first entry holds is executed by pickle itself."""
    monkeypatch.chdir(tmp_path)
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    subprocess.run([sys.executable, "-c", code], input=CATALOGUE[0][1], check=True)
    assert (tmp_path / hostile.MARK).is_dir()


def test_source_text_of_a_file_is_never_executed(tmp_path, monkeypatch):
    from tests.support import checkpoint_files as files

    monkeypatch.chdir(tmp_path)
    load_generator(files.official_pickle(tmp_path / "a.pkl", hostile.smallest()))
    load_generator(files.tensorflow_pickle(tmp_path / "b.pkl", hostile.smallest()))
    assert files.SOURCE.encode() in (tmp_path / "a.pkl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pkl", "b.pkl"]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is set through Linux's resource limits")
def test_ten_thousand_mutated_files(tmp_path):
    """In a process with 300 MB to spare and an audit hook that counts what code would do."""
    tests = Path(__file__).resolve().parent
    command = [sys.executable, str(tests / "fuzz.py"), str(tmp_path), "10000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["files"] == 10_000 and report["other"] == [] and report["not one line"] == 0
    assert report["events"] == []
    assert report["refused"] > 8_000
