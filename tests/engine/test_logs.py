"""Logs of runs, read back from what they wrote."""

import json
import struct

import pytest
import torch

from helpers.images import read_image, write_image
from helpers.logs import open_log
from tests.support.waiting import until

IMAGE = torch.linspace(0, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
SETTINGS = {"space": "w+", "steps": 3}
ROW = {
    "key": "a", "photo": "b.png", "psnr": 20.0, "ok": True, "losses": {"l1": 0.5},
    "files": {"image.png": "files/a-image.png", "latents.safetensors": "x"},
}  # fmt: skip
WORDS = json.dumps({"key": "a", "photo": "b.png", "ok": True})


def fill(kind, folder):
    """Two steps and a row; the folder of the log."""
    write_image(folder / "files" / "a-image.png", IMAGE)
    with open_log(kind, folder / "log", SETTINGS) as log:
        log.scalars(10, {"loss": 0.5})
        log.scalars(20, {"loss": 0.25})
        log.row(1, ROW, folder)
    return folder / "log"


def test_json_lines_are_there_while_the_run_continues_and_no_log_writes_nothing(tmp_path):
    with open_log("jsonl", tmp_path / "log", SETTINGS) as log:
        log.scalars(1, {"loss": 0.5})
        assert len((tmp_path / "log" / "log.jsonl").read_text().splitlines()) == 2
    lines = [json.loads(line) for line in (fill("jsonl", tmp_path) / "log.jsonl").read_text().splitlines()]
    assert lines == [
        {"settings": SETTINGS},
        {"step": 1, "loss": 0.5},
        {"settings": SETTINGS},
        {"step": 10, "loss": 0.5},
        {"step": 20, "loss": 0.25},
        {"step": 1, "row": WORDS},
        {"step": 1, "psnr": 20.0, "losses/l1": 0.5},
        {"step": 1, "image": "../files/a-image.png"},
    ]
    assert not fill("none", tmp_path / "none").exists()
    with pytest.raises(ValueError, match="jsonl, tensorboard, wandb"):
        open_log("paper", tmp_path, {})


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(fill("tensorboard", tmp_path))).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 0.5), (20, 0.25)]
    assert [event.step for event in events.Images("image")] == [1]
    assert [event.value for event in events.Scalars("losses/l1")] == [0.5]
    for name, words in (("settings", "w+"), ("row", WORDS)):
        assert words in events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()


def records_of(file):
    """Settings and lines of the history in a run's file: records of LevelDB's log, each a protocol buffer."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, part, settings, history = file.read_bytes(), 7, b"", {}, []
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        if place + 7 + size > len(content):
            break
        part += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record, part = Record.FromString(part), b""
            for config in (record.config, record.run.config):
                settings |= {item.key: json.loads(item.value_json) for item in config.update if item.key}
            items = record.history.item
            if items:
                history.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return settings, history


def test_weights_and_biases_write_a_run_without_a_network(tmp_path, monkeypatch):
    """Of all that TensorBoard gets: rows that come after later steps too."""
    for package in ("wandb", "tensorboard"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install {package}")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (file,) = fill("wandb", tmp_path).glob("wandb/offline-run-*/*.wandb")
    until(lambda: len(records_of(file)[1]) >= 3)  # wandb's own process writes the last when the run has ended
    settings, history = records_of(file)
    assert settings["space"] == "w+"
    assert [(line["global_step"], line["loss"]) for line in history if "loss" in line] == [(10, 0.5), (20, 0.25)]
    (row,) = [line for line in history if "psnr" in line]
    assert (row["global_step"], row["psnr"], row["losses/l1"]) == (1, 20.0, 0.5)
    (image,) = [line["image/filenames"] for line in history if "image/filenames" in line]
    assert (read_image(file.parent / "files" / image[0]) - IMAGE).abs().max() <= 0.5 / 255 + 1e-6
