"""Files: written whole or not at all, with the umask's mode; JSON."""

import errno
import json
import math
import os
import sys

import pytest
import torch
from PIL import Image

from helpers.files import WriteError, atomic_path, clear_temporaries, sha256, write_json
from helpers.images import write_image
from helpers.latents import Latents, save_latents
from helpers.video import write_gif, write_mp4

NOISE = torch.rand(2, 1, 3, 20, 30, generator=torch.Generator().manual_seed(0))


def test_a_path_appears_only_when_it_is_written_and_json_has_no_nan(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("done")
        assert not (tmp_path / "a.txt").exists() and temporary.parent == tmp_path
    assert (tmp_path / "a.txt").read_text() == "done"
    with pytest.raises(KeyError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["done"]
    for name in (".0123456789ab.png", ".0123456789ab", ".gitignore"):
        (tmp_path / name).touch()
    clear_temporaries(tmp_path)  # of killed writers
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", "a.txt"]
    path = tmp_path / "a.json"
    write_json(path, {"a": [math.nan, 1.5], "b": {"c": -math.inf}, "path": tmp_path, "ü\udce9": (1,)})
    assert json.loads(path.read_text()) == {"a": [None, 1.5], "b": {"c": None}, "path": str(tmp_path), "ü\udce9": [1]}
    before = sha256(path)
    write_json(path, "another")
    assert sha256(path) != before and len(before) == 64


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_the_mode_is_the_umasks(tmp_path):
    before = os.umask(0o027)
    try:
        save_latents(tmp_path / "a.safetensors", Latents("w", torch.zeros(1, 4)), model="tiny")
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o640, 0o640]


def test_what_the_system_refuses_is_one_sentence_and_keeps_the_old_file(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", NOISE[0])
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(WriteError, match="a part of the path is a file"):
        write_image(tmp_path / "a.png" / "b.png", NOISE[0])
    with pytest.raises(WriteError, match="name is too long; choose a shorter one"):
        write_image(tmp_path / f"{'a' * 300}.png", NOISE[0])

    def refuse(path, number):
        path.write_bytes(b"half")
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.raises(WriteError, match="disk is full"):
        patch.setattr(Image.Image, "save", lambda self, path, *_, **__: refuse(path, errno.ENOSPC))
        write_image(tmp_path / "a.png", NOISE[1])
    with monkeypatch.context() as patch, pytest.raises(WriteError, match="may not be written to"):
        patch.setattr(os, "replace", lambda source, target: refuse(source, errno.EACCES))
        write_image(tmp_path / "a.png", NOISE[1])
    assert (tmp_path / "a.png").read_bytes() == before and list(tmp_path.iterdir()) == [tmp_path / "a.png"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what a writer says when it is dropped
def test_writes_that_the_system_stops(tmp_path):
    resource = pytest.importorskip("resource", reason="file size limits are POSIX")
    frames, before = torch.rand(3, 3, 300, 300), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        for write, suffix in ((write_image, "png"), (write_gif, "gif"), (write_mp4, "mp4")):
            with pytest.raises(WriteError, match=f"cannot write {tmp_path}/a.{suffix}: "):
                write(tmp_path / f"a.{suffix}", frames[:1] if suffix == "png" else frames)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
