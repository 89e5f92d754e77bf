"""Animations, read back from what was written."""

import subprocess

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.images import ImageError, from_uint8
from helpers.video import read_film, write_gif, write_mp4
from tests.support.spoil import smooth


def noise(height=20, width=30, count=1):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_gif_loops_with_its_frames_and_colours(tmp_path):
    frames = smooth(count=5)
    write_gif(tmp_path / "a.gif", (frame[None] for frame in frames), fps=30)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 5 and gif.info["loop"] == 0 and gif.size == (288, 288)
        durations = []
        for index in range(5):
            gif.seek(index)
            durations.append(gif.info["duration"])
            shown = from_uint8(np.asarray(gif.convert("RGB")))[..., 3::6, 3::6]
            assert (shown - frames[index]).square().mean().sqrt() < 0.02
    assert sum(durations) == 170  # 5 / 30 s in hundredths
    write_gif(tmp_path / "large.gif", noise(256, 300, count=2), fps=10)
    with Image.open(tmp_path / "large.gif") as gif:
        assert gif.size == (300, 256) and gif.info["duration"] == 100


def test_mp4_is_enlarged_even_yuv420p_and_faithful(tmp_path):
    frames = smooth(count=4)[..., :47]
    write_mp4(tmp_path / "a.mp4", (frame[None] for frame in frames), fps=24)
    video = iio.imread(tmp_path / "a.mp4")
    assert video.shape == (4, 288, 282, 3)
    for shown, frame in zip(video, frames, strict=True):
        error = from_uint8(shown)[0, :, 3::6, 3::6] - frame
        assert error.square().mean().sqrt() < 0.02
    assert iio.immeta(tmp_path / "a.mp4")["fps"] == 24
    asked = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "a.mp4"]
    shown = subprocess.run(asked, capture_output=True, text=True).stderr
    assert "h264" in shown and "yuv420p(tv, bt709" in shown  # without the tag players guess the colours


@pytest.mark.parametrize(("write", "name"), [(write_gif, "a.gif"), (write_mp4, "a.mp4")])
def test_animations_refuse(write, name, tmp_path):
    wrong = {"at least one frame": [], "frames of one size": [noise(), noise(16, 16)]}
    wrong |= {"NaN": [noise(), noise() * float("nan")], "frames per second": noise(), "ending in": noise()}
    for message, frames in wrong.items():
        with pytest.raises(ImageError, match=message):
            write(tmp_path / ("a.avi" if message == "ending in" else name), frames, 0 if "second" in message else 9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["12:30", "-x"])
def test_folders_that_ffmpeg_would_misread_and_odd_sides(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mp4(f"{folder}/-a.mp4", noise(257, 301, count=2))
    assert iio.imread(tmp_path / folder / "-a.mp4").shape == (2, 258, 302, 3)


def test_a_film_with_sound_leaves_the_next_one_as_it_is(tmp_path):
    silent, film = tmp_path / "silent.mp4", tmp_path / "film.mp4"
    tone = [imageio_ffmpeg.get_ffmpeg_exe(), "-f", "lavfi", "-i", "sine=d=0.2", tmp_path / "tone.wav"]
    subprocess.run(tone, check=True, capture_output=True)
    write_mp4(film, torch.rand(4, 3, 32, 32), sound=tmp_path / "tone.wav")
    write_mp4(silent, torch.rand(4, 3, 32, 32))
    assert [read_film(path, 32)[1] for path in (film, silent)] == [True, False]
