"""No code of a checkpoint runs, memory stays bounded, and every bad file is one sentence."""

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from helpers.encoder import Encoder, load_encoder
from helpers.generators import load_generator
from helpers.generators.checkpoints import CheckpointError, read_checkpoint
from helpers.weights import WeightsError, save_weights
from tests.support import checkpoint_files as files
from tests.support import hostile

CATALOGUE = [*hostile.catalogue(), *hostile.misleading_zips()]


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


def test_python_would_have_run_them_and_source_text_is_never_executed(tmp_path, monkeypatch):
    """What the first file of the catalogue holds is executed by pickle itself."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(CATALOGUE[0][1])
    (tmp_path / hostile.MARK).rmdir()  # it is there
    monkeypatch.chdir(tmp_path)
    load_generator(files.official_pickle(tmp_path / "a.pkl", hostile.smallest()))
    load_generator(files.tensorflow_pickle(tmp_path / "b.pkl", hostile.smallest()))
    assert files.SOURCE.encode() in (tmp_path / "a.pkl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pkl", "b.pkl"]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is set through Linux's resource limits")
def test_files_of_hostile_structure_and_mutated_ones(tmp_path, count=1_000):
    """In a process with 300 MB above the file's size to spare and an audit hook that counts what code would do."""
    fuzz = Path(hostile.__file__).with_name("fuzz.py")
    done = subprocess.run([sys.executable, fuzz, tmp_path, str(count)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["other"] == [] and report["not one line"] == 0 and report["events"] == []
    assert report["refused"] + len(report["read"]) == report["shapes"] + count
    assert all(type(number) is int for number in report["read"]) and len(report["read"]) < 0.2 * count


def test_a_zip64_file_is_read(tmp_path, monkeypatch):
    path = files.rosinality_pt(tmp_path / "a.pt", hostile.smallest())
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 0)
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    first, again = (load_generator(p).synthesize(torch.zeros(1, 6, 2)) for p in (path, tmp_path / "b.pt"))
    assert torch.equal(first, again)


@pytest.mark.parametrize("changes", [{"hidden": 10**12}, {"widths": [10**9, 10**9]}, {"widths": [8] * 10**5}])
def test_numbers_of_an_encoder_are_limited(tmp_path, changes):
    encoder = Encoder("w", (8,), 16, (8, 8), 8)
    save_weights(tmp_path / "a.safetensors", encoder.state_dict(), {"encoder": encoder.config | changes})
    with pytest.raises(WeightsError, match="does not hold an encoder that fits its config"):
        load_encoder(tmp_path / "a.safetensors")
