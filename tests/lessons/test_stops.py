"""What a stop, a full disk or a closed folder leaves behind: all that was finished, and one sentence."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers import __main__ as program
from helpers import progress
from helpers.commands import runs
from helpers.commands.runs import RunError
from helpers.files import WriteError
from helpers.images import read_image, write_image
from helpers.optimizers import Optimization
from helpers.progress import FILE, Progress, ProgressError, load_run
from tests.lessons import test_runs
from tests.lessons.test_runs import generator, photos  # noqa: F401  (fixtures: two photos, tiny networks)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def stems(folder):
    return sorted(path.name for path in folder.glob("*.png"))


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def invert(photos, out, **options):  # noqa: F811
    return test_runs.invert(photos, out, **{"steps": 4, "batch": 1} | options)


# --- disks -----------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_keeps_what_was_done_and_the_next_call_goes_on(photos, tmp_path, monkeypatch, capfd):  # noqa: F811
    invert(photos, tmp_path / "whole")
    plain, written = runs.write_image, []

    def full(path, image):
        if len(written) == 1:
            raise WriteError(f"cannot write {path}: the disk is full; free some space")
        written.append(path)
        plain(path, image)

    monkeypatch.setattr(runs, "write_image", full)
    with pytest.raises(WriteError, match="the disk is full; free some space"):
        invert(photos, tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 1 and len(stems(tmp_path / "out")) == 1
    monkeypatch.setattr(runs, "write_image", plain)
    rows = invert(photos, tmp_path / "out")
    assert len(rows) == 2 and files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert "1 done before" in capfd.readouterr().err and not (tmp_path / "out" / FILE).exists()


def test_a_state_that_finds_no_room_stops_the_run_with_the_last_one(photos, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0)
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
    monkeypatch.setattr(Optimization, "step", lambda self: pytest.fail("it was computed all the same"))
    with pytest.raises(WriteError, match="the disk is read-only; choose another folder"):
        invert(photos, tmp_path / "out")


# --- what a progress belongs to --------------------------------------------------------------------------------------


def test_other_settings_or_other_photos_start_afresh_and_say_so(photos, tmp_path, monkeypatch, capfd):  # noqa: F811
    def stop(self):
        if self.number == 2:
            raise KeyboardInterrupt
        return plain(self)

    plain = Optimization.step
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0)
    for change in ("steps", "photo", "nothing"):
        monkeypatch.setattr(Optimization, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            invert(photos, tmp_path / change)
        monkeypatch.setattr(Optimization, "step", plain)
        if change == "photo":
            write_image(photos[0], read_image(photos[1]))
        capfd.readouterr()
        (first, _) = invert(photos, tmp_path / change, steps=6 if change == "steps" else 4)
        said = capfd.readouterr().err
        assert ("continuing at step" in said) == (change == "nothing")
        assert ("belongs to other settings; starting again" in said) == (change != "nothing")
        assert first["steps"] == (6 if change == "steps" else 4)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 half a zip"])
def test_a_progress_that_cannot_be_read_is_no_obstacle(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ProgressError, match="is not a saved state"):
        load_run(tmp_path / FILE)
    with Progress(tmp_path, {"a": 1}) as ours:
        assert ours.done("x") is None
        ours.finish("x", [{"file": "x"}])
    assert not (tmp_path / FILE).exists()


def test_rows_of_good_photos_are_shown_although_others_could_not_be_read(photos, tmp_path, monkeypatch, capsys):  # noqa: F811
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(RunError) as error:
        invert([*photos, tmp_path / "bad.png"], tmp_path / "out")
    assert len(error.value.rows) == 2
    arguments = ["helpers", "invert", *map(str, photos), str(tmp_path / "bad.png"), "--steps", "2", "--model", "tiny"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--device", "cpu", "--out", str(tmp_path / "again")])
    with pytest.raises(SystemExit) as stop:
        program.main()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.err.strip().splitlines()[-1].startswith("error: 2 of 3 photos done; not these")
    assert "one.png" in said.out and "two.png" in said.out


# --- signals ---------------------------------------------------------------------------------------------------------

COMMAND = """
import sys, torch
sys.path.insert(0, {root!r})
torch.set_num_threads(1)
from tests.support import killing
killing.networks()
from helpers import __main__ as program
sys.argv = ["helpers", "invert", *sys.argv[2:], "--out", sys.argv[1], "--steps", "200000", "--batch", "1",
            "--model", "tiny", "--device", "cpu", "--restarts", "2"]
program.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that waits")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_keeps_its_state_and_says_so(photos, tmp_path, number):  # noqa: F811
    out = tmp_path / "out"
    code = COMMAND.format(root=str(ROOT))
    command = subprocess.Popen([sys.executable, "-c", code, out, *photos], stderr=subprocess.PIPE, text=True)
    log = out / "log" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") > 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    command.send_signal(number)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 130, said
    last = said.strip().splitlines()[-1]
    assert last.endswith("Stopped. Finished results are on disk; run the same command again to continue.")
    assert "Traceback" not in said
    (state,) = load_run(out / FILE)["states"].values()
    assert state["search"]["runs"][0]["number"] >= 10
