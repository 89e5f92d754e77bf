"""The registry, its checksums, and weights files."""

import hashlib

import pytest
import torch

from helpers import weights
from helpers.weights import WeightsError

TENSORS = {"a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), "count": torch.tensor([7])}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    weights.FOLDER.mkdir()
    return weights.FOLDER


@pytest.fixture
def registered(folder):
    path = weights.save_weights(folder / "toy.safetensors", TENSORS, {"width": 3})
    weights.register("toy", path, kind="generator", summary="A toy.")
    return path


def test_round_trip_through_the_registry(registered):
    tensors, config = weights.load_weights("toy")
    assert config == {"width": 3} == weights.load_weights(registered)[1]
    assert tensors["a"].dtype == torch.float32
    assert torch.equal(tensors["a"], TENSORS["a"].half().float())
    assert torch.equal(tensors["count"], TENSORS["count"])


def test_entry_holds_what_the_file_is(registered):
    entry = weights.registry()["toy"]
    assert entry["sha256"] == hashlib.sha256(registered.read_bytes()).hexdigest()
    assert entry["file"] == "toy.safetensors"
    assert entry["size"] == registered.stat().st_size
    assert (entry["kind"], entry["summary"]) == ("generator", "A toy.")


def test_register_keeps_other_entries(registered, folder):
    other = weights.save_weights(folder / "other.safetensors", TENSORS, {})
    weights.register("other", other, kind="features", summary="Another.")
    assert list(weights.registry()) == ["other", "toy"]


def test_damaged_file_is_refused(registered):
    data = bytearray(registered.read_bytes())
    data[-1] ^= 1
    registered.write_bytes(data)
    with pytest.raises(WeightsError, match="SHA-256.*restore it"):
        weights.weights_path("toy")


def test_unchanged_file_is_hashed_once(registered, monkeypatch):
    weights.weights_path("toy")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert weights.weights_path("toy") == registered


def test_unknown_name_lists_the_known_ones(registered):
    with pytest.raises(WeightsError, match="'nonsense'.*toy"):
        weights.load_weights("nonsense")


def test_missing_file_says_what_to_do(registered):
    registered.unlink()
    with pytest.raises(WeightsError, match="missing; get it"):
        weights.weights_path("toy")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_file_that_is_not_safetensors(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a whole safetensors"):
        weights.load_weights(path)


def test_truncated_file(registered):
    registered.write_bytes(registered.read_bytes()[:-4])
    with pytest.raises(WeightsError, match="not a whole safetensors"):
        weights.load_weights(registered)


def test_pickled_weights_are_never_opened(tmp_path):
    path = tmp_path / "pickle.pt"
    torch.save(TENSORS, path)
    with pytest.raises(WeightsError, match="not a whole safetensors"):
        weights.load_weights(path)


def test_absent_path_and_folder(tmp_path):
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(WeightsError, match="found none"):
            weights.load_weights(path)


def test_file_without_config(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": TENSORS["a"]}, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="config"):
        weights.load_weights(tmp_path / "bare.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_float16_cannot_hold_leave_the_old_file(tmp_path, value):
    path = weights.save_weights(tmp_path / "a.safetensors", TENSORS, {})
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="'bad'.*float16"):
        weights.save_weights(path, {"bad": torch.tensor([value])}, {})
    assert path.read_bytes() == before


def test_register_refuses_a_file_elsewhere(folder, tmp_path):
    path = weights.save_weights(tmp_path / "elsewhere.safetensors", TENSORS, {})
    with pytest.raises(WeightsError, match="move it there"):
        weights.register("x", path, kind="features", summary="")


def test_registry_that_is_not_json(folder):
    (folder / "registry.json").write_text("{")
    with pytest.raises(WeightsError, match="not valid JSON"):
        weights.registry()


def test_a_header_without_end_is_refused_unread(tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{" + b"[" * 100)
    with pytest.raises(WeightsError, match="its header is too long"):
        weights.load_weights(path)


def test_a_file_that_is_there_is_kept(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"kept")
    assert weights.download("http://nowhere.invalid/", tmp_path / "a.bin", "00").read_bytes() == b"kept"


def test_an_address_where_nobody_answers(tmp_path):
    with pytest.raises(WeightsError, match="could not be fetched.*by hand"):
        weights.download("http://127.0.0.1:9/closed", tmp_path / "got" / "x.bin", "00", tries=1)
    assert [path.suffix for path in (tmp_path / "got").iterdir()] == [".lock"]


def test_every_known_model_has_what_a_reader_must_know():
    for name, entry in weights.registry().items():
        assert {"file", "kind", "title", "summary", "licence", "restricted"} <= set(entry), name
        assert "url" in entry or len(entry["sha256"]) == 64, name
        assert "cite" in entry or not entry["restricted"], name
        assert entry["kind"] not in ("generator", "encoder") or {"resolution", "domain"} <= set(entry), name
