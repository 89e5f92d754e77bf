"""What a stop, a full disk or a closed folder leaves behind: all that was finished, and one sentence."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from helpers import progress
from helpers.commands import runs
from helpers.commands.runs import RunError
from helpers.files import WriteError
from helpers.images import read_image, write_image
from helpers.optimizers import Optimization
from helpers.progress import FILE, Progress, load_run
from tests.lessons import test_runs
from tests.lessons.test_runs import generator, photos  # noqa: F401  (fixtures: two photos, tiny networks)

pytestmark = pytest.mark.slow
TINY = ["--model", "tiny", "--device", "cpu"]


@pytest.fixture
def often(monkeypatch):
    """A state on disk after every step."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0)


def at_step(monkeypatch, number, action):
    """Do something at the start of a step of a search."""
    plain = Optimization.step

    def step(self):
        if self.number == number:
            action()
        return plain(self)

    monkeypatch.setattr(Optimization, "step", step)


def images_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def invert(photos, out, **options):  # noqa: F811
    return test_runs.invert(photos, out, **{"steps": 4, "batch": 1} | options)


def test_a_disk_that_fills_up_keeps_what_was_done_and_the_next_call_continues(photos, tmp_path, monkeypatch, capfd):  # noqa: F811
    whole, out = tmp_path / "whole", tmp_path / "out"
    invert(photos, whole)
    plain, written = runs.write_image, []

    def full(path, image):
        if len(written) == 1:
            raise WriteError(f"cannot write {path}: the disk is full; free some space")
        written.append(path)
        plain(path, image)

    monkeypatch.setattr(runs, "write_image", full)
    with pytest.raises(WriteError, match="the disk is full; free some space"):
        invert(photos, out)
    assert len(json.loads((out / "results.json").read_text())) == 1 and len(images_of(out)) == 1
    monkeypatch.setattr(runs, "write_image", plain)
    assert len(invert(photos, out)) == 2 and images_of(out) == images_of(whole)
    assert "1 done before" in capfd.readouterr().err and not (out / FILE).exists()


def test_a_state_that_finds_no_room_stops_the_run_with_the_last_one(photos, tmp_path, monkeypatch, often):  # noqa: F811
    plain, states = torch.save, []

    def full(state, path):
        states.append(path)
        if len(states) == 4:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WriteError, match=f"{FILE}: the disk is full"):
        invert(photos, tmp_path / "out")
    (state,) = load_run(tmp_path / "out" / FILE)["states"].values()
    assert state["search"]["runs"][-1]["number"] > 0
    assert len(list((tmp_path / "out").iterdir())) == 1  # no half files


def test_a_folder_that_may_not_be_written_to_is_known_before_anything_is_computed(photos, tmp_path, monkeypatch):  # noqa: F811
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    at_step(monkeypatch, 0, lambda: pytest.fail("it was computed all the same"))
    with pytest.raises(WriteError, match="the disk is read-only; choose another folder"):
        invert(photos, tmp_path / "out")


@pytest.mark.parametrize("change", ["steps", "photo", "nothing"])
def test_other_settings_or_other_photos_start_again_and_say_so(photos, tmp_path, monkeypatch, capfd, often, change):  # noqa: F811
    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 2, interrupt)
        invert(photos, tmp_path)
    if change == "photo":
        write_image(photos[0], read_image(photos[1]))
    steps = 6 if change == "steps" else 4
    assert invert(photos, tmp_path, steps=steps)[0]["steps"] == steps
    said = capfd.readouterr().err
    assert ("continuing at step" in said) == (change == "nothing")
    assert ("belongs to other settings; starting again" in said) == (change != "nothing")


def test_a_progress_that_cannot_be_read_is_no_obstacle(tmp_path):
    for content in (b"", b"garbage", b"PK\x03\x04 half a zip"):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ValueError, match="is not a saved state"):
            load_run(tmp_path / FILE)
        with Progress(tmp_path, {"a": 1}) as ours:
            assert ours.done("x") is None
            ours.finish("x", [{"file": "x"}])
        assert not (tmp_path / FILE).exists()


def test_rows_of_good_photos_are_shown_although_others_could_not_be_read(photos, tmp_path, program, capsys):  # noqa: F811
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths = [*photos, tmp_path / "bad.png"]
    with pytest.raises(RunError) as error:
        invert(paths, tmp_path / "out")
    assert len(error.value.rows) == 2
    assert program("invert", *paths, *TINY, "--out", tmp_path / "again", "--steps", "2") == 2
    said = capsys.readouterr()
    assert said.err.strip().splitlines()[-1].startswith("error: 2 of 3 photos done; not these")
    assert "one.png" in said.out and "two.png" in said.out


@pytest.mark.parametrize("name", [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)])
def test_a_command_that_is_stopped_keeps_its_state_and_says_so(photos, tmp_path, monkeypatch, program, capsys, name):  # noqa: F811
    before = signal.getsignal(getattr(signal, name))
    at_step(monkeypatch, 2, lambda: signal.raise_signal(getattr(signal, name)))
    assert program("invert", *photos, *TINY, "--out", tmp_path, "--steps", "9") == 130
    said = capsys.readouterr().err.strip()
    assert said.endswith("Stopped. Finished results are on disk; run the same command again to continue.")
    (state,) = load_run(tmp_path / FILE)["states"].values()
    assert state["search"]["runs"][0]["number"] == 3  # the step was finished
    assert signal.getsignal(getattr(signal, name)) == before
