"""Logs of runs, read back from what they wrote."""

import json

import pytest
import torch

from helpers.images import read_image, write_image
from helpers.logs import LogError, open_log

IMAGE = torch.linspace(0, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
SETTINGS = {"space": "w+", "steps": 3}


def fill(kind, folder):
    with open_log(kind, folder, SETTINGS) as log:
        log.scalars(1, {"loss": 0.5})
        log.scalars(2, {"loss": 0.25})
        log.picture(2, "image", IMAGE)


def test_json_lines_hold_settings_losses_and_pictures(tmp_path):
    fill("jsonl", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[:3] == [{"settings": SETTINGS}, {"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert (read_image(tmp_path / lines[3]["picture"]) - IMAGE).abs().max() <= 0.5 / 255 + 1e-6


def test_json_lines_are_there_while_the_run_goes_on_and_after_the_next(tmp_path):
    log = open_log("jsonl", tmp_path, SETTINGS)
    log.scalars(1, {"loss": 0.5})
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    log.close()
    fill("jsonl", tmp_path)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 6


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fill("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [event.step for event in events.Images("image")] == [2]
    assert "w+" in events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()


def test_weights_and_biases_write_a_run_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="Weights & Biases is not installed: pip install wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fill("wandb", tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"loss" in content and b"w+" in content
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))


def test_a_row_gives_its_numbers_and_its_pictures(tmp_path):
    write_image(tmp_path / "files" / "a-image.png", IMAGE)
    row = {
        "key": "a",
        "psnr": 20.0,
        "ok": True,
        "files": {"image.png": "files/a-image.png", "latents.safetensors": "x"},
    }
    with open_log("jsonl", tmp_path / "log", {}) as log:
        log.row(4, row, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log" / "log.jsonl").read_text().splitlines()]
    assert (
        lines[1] == {"step": 4, "psnr": 20.0}
        and lines[2] == {"step": 4, "picture": "../files/a-image.png"}
        and len(lines) == 3
    )


def test_no_log_writes_nothing(tmp_path):
    fill("none", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_names_the_known_ones(tmp_path):
    with pytest.raises(LogError, match="jsonl, tensorboard, wandb"):
        open_log("paper", tmp_path, {})
