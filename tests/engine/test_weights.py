"""The registry, its checksums, and weights files."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from helpers import weights
from helpers.weights import WeightsError

TENSORS = {"a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), "count": torch.tensor([7])}


@pytest.fixture
def registered(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    path = weights.save_weights(tmp_path / "toy.safetensors", TENSORS, {"width": 3})
    (tmp_path / "registry.json").write_text('{"toy": {"file": "toy.safetensors", "kind": "generator"}}')
    assert weights.pin("toy") == hashlib.sha256(path.read_bytes()).hexdigest()
    return path


def test_round_trip_through_the_registry(registered):
    tensors, config = weights.load_weights("toy")
    assert config == {"width": 3} == weights.load_weights(registered)[1]
    assert tensors["a"].dtype == torch.float32
    assert torch.equal(tensors["a"], TENSORS["a"].half().float())
    assert torch.equal(tensors["count"], TENSORS["count"])
    facts = {"sha256": hashlib.sha256(registered.read_bytes()).hexdigest(), "size": registered.stat().st_size}
    assert weights.registry() == {"toy": {"file": "toy.safetensors", "kind": "generator"} | facts}


def test_unchanged_file_is_hashed_once(registered, monkeypatch):
    weights.weights_path("toy")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert weights.weights_path("toy") == registered


def test_what_is_wrong_with_registered_weights_is_one_sentence(registered):
    with pytest.raises(WeightsError, match="'nonsense'.*toy"):
        weights.load_weights("nonsense")
    data = bytearray(registered.read_bytes())
    data[-1] ^= 1
    registered.write_bytes(data)
    with pytest.raises(WeightsError, match="SHA-256.*restore it"):
        weights.weights_path("toy")
    registered.unlink()
    with pytest.raises(WeightsError, match="missing: run `git checkout"):
        weights.weights_path("toy")
    registered.with_name("registry.json").write_text("{")
    with pytest.raises(WeightsError, match="not valid JSON"):
        weights.registry()


def truncated(path):
    weights.save_weights(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:-4])


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "not a whole safetensors"),
    "text": (lambda path: path.write_bytes(b"not safetensors at all"), "not a whole safetensors"),
    "ones": (lambda path: path.write_bytes(b"\xff" * 64), "not a whole safetensors"),
    "long header": (lambda path: path.write_bytes((2**40).to_bytes(8, "little") + b"{["), "its header is too long"),
    "truncated": (truncated, "not a whole safetensors"),
    "pickle": (lambda path: torch.save(TENSORS, path), "not a whole safetensors"),
    "no config": (lambda path: save_file({"a": TENSORS["a"]}, path), "config"),
    "folder": (lambda path: path.mkdir(), "found none"),
    "absent": (lambda path: None, "found none"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_not_ours_is_one_sentence(tmp_path, kind):
    write, message = BAD[kind]
    write(tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=message) as error:
        weights.load_weights(tmp_path / "bad.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_float16_cannot_hold_leave_the_old_file(tmp_path, value):
    path = weights.save_weights(tmp_path / "a.safetensors", TENSORS, {})
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="'bad'.*float16"):
        weights.save_weights(path, {"bad": torch.tensor([value])}, {})
    assert path.read_bytes() == before


def test_every_known_model_has_what_a_reader_must_know():
    for name, entry in weights.registry().items():
        assert {"file", "kind", "title", "summary", "licence", "restricted"} <= set(entry), name
        assert "url" in entry or len(entry["sha256"]) == 64, name
        assert "cite" in entry or not entry["restricted"], name
        assert entry["kind"] not in ("generator", "encoder") or {"resolution", "domain"} <= set(entry), name
