"""The commands style, data and bench style: files, bad input as one sentence; our own style images."""

import dataclasses
import importlib.util
import json
import wave
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import requests
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from helpers import paintings
from helpers.commands import style as module
from helpers.commands.common import app
from helpers.features import CONFIGS, load_features
from helpers.images import ImageError, read_image, resize, write_image
from helpers.metrics import psnr
from helpers.style_transfer import StyleOptions
from helpers.styles import FOLDER, NAMES, own_styles
from helpers.video import read_film, write_mp4
from staff.benchmarks import style as bench
from staff.benchmarks.common import Settings
from tests.lessons.test_style_transfer import pictures

SPEC = importlib.util.spec_from_file_location("tool", Path(__file__).resolve().parents[2] / "tools" / "draw_styles.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def paint(photos, styles, out, *more):
    """The rows of the command, small and short; raises what it raises."""
    styles = [word for style in styles for word in ("--style", style)]
    common = ["--out", out, "--size", "32", "--steps", "2", "--features", "vgg19-slim", "--device", "cpu"]
    outcome = CliRunner().invoke(app, [str(word) for word in ("style", *photos, *styles, *common, *more)])
    if outcome.exception:
        raise outcome.exception
    return json.loads((out / "results.json").read_text())


@pytest.fixture
def photos(tmp_path):
    """A wide photo, one with an alpha channel, a grey one."""
    paths = [tmp_path / f"{name}.png" for name in ("wide", "alpha", "grey")]
    write_image(paths[0], pictures(1, (30, 60)))
    Image.new("RGBA", (40, 40), (200, 30, 30, 128)).save(paths[1])
    Image.new("L", (40, 40), 90).save(paths[2])
    return paths


def test_every_photo_gets_every_style(tmp_path, photos):
    out = tmp_path / "out"
    rows = paint(photos, ["glass", photos[0]], out)
    assert [(row["content"].split("/")[-1], row["style"]) for row in rows] == [
        (f"{name}.png", style) for name in ("wide", "alpha", "grey") for style in ("glass", "wide")
    ]
    assert read_image(out / "wide-glass.png").shape == (1, 3, 16, 32) and rows[0]["size"] == "32x16"
    assert not (out / "progress.pt").exists()
    assert not torch.equal(read_image(out / "alpha-glass.png"), read_image(out / "alpha-wide.png"))


def test_a_film_is_written_and_masks_leave_the_rest_alone(tmp_path, photos):
    more = ("--steps", 4, "--film", "--pyramid", 8, "--content-layers", 3, "--style-layers", "1,3")
    paint(photos[:1], ["glass"], tmp_path, *more)
    assert all((tmp_path / f"wide-glass.{suffix}").stat().st_size > 1000 for suffix in ("gif", "mp4"))
    write_image(tmp_path / "mask.png", torch.cat([torch.ones(1, 1, 30, 30), torch.zeros(1, 1, 30, 30)], 3))
    paint(photos[:1], ["glass"], tmp_path / "out", "--size", 60, "--mask", tmp_path / "mask.png")
    apart = (read_image(tmp_path / "out" / "wide-glass.png") - read_image(photos[0])).abs()
    assert apart[..., 32:].max() < 0.01 and apart[..., :28].mean() > 0.02


BAD = {  # message to arguments
    "weight of content or style": ["--style-weight", "0", "--content-weight", "0"],
    "conv5_4": ["--style-layers", "6_1"],
    "at least 8x8 pixels, got 6x12": ["--size", "12"],
    "luminance": ["--colour", "sepia"],
    "numbers with commas": ["--weights", "a,b"],
    "1 styles need 1 weights": ["--weights", "1,2"],
    "no-such-style": ["--style", "no-such-style"],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(program, tmp_path, photos, capsys, message):
    common = ["--style", "glass", "--size", "32", "--steps", "2", "--features", "vgg19-slim", "--out", tmp_path]
    assert program("style", photos[0], *common, *BAD[message]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_bad_photos_are_named_and_the_others_done(tmp_path, photos):
    (tmp_path / "empty.png").write_bytes(b"")
    write_image(tmp_path / "panorama.png", pictures(1, (8, 400)))  # too narrow for conv4_2
    bad = [tmp_path / "empty.png", tmp_path / "panorama.png"]
    with pytest.raises(ValueError, match="1 of 3 photos done.*empty.png.*panorama.png: conv.* needs images"):
        paint([*bad, photos[2]], ["glass"], tmp_path / "out")
    assert (tmp_path / "out" / "grey-glass.png").is_file()


def test_two_styles_of_one_name_give_two_images_and_patches_need_more_than_one_colour(tmp_path, photos):
    styles = [tmp_path / folder / "style.png" for folder in ("a", "b")]
    for seed, style in enumerate(styles, 1):
        write_image(style, pictures(seed=seed))
    rows = paint(photos[:1], styles, tmp_path / "out", "--steps", 6)
    assert [row["image"] for row in rows] == ["wide-style.png", "wide-style-2.png"]
    assert not torch.equal(*(read_image(tmp_path / "out" / row["image"]) for row in rows))
    write_image(tmp_path / "flat.png", torch.full((1, 3, 40, 40), 0.5))
    with pytest.raises(ValueError, match="single colour"):
        paint(photos[:1], [tmp_path / "flat.png"], tmp_path / "out", "--statistic", "patches")


def test_every_option_of_the_search_is_one_of_the_command_and_paintings_are_listed_with_a_link(program, capsys):
    assert module._named("4_2,relu3_1, 7,conv1_1") == ["conv4_2", "relu3_1", 7, "conv1_1"]
    shown = {flag for p in typer.main.get_command(app).commands["style"].params for flag in p.opts}
    fields = [field.name for field in dataclasses.fields(StyleOptions) if field.name != "style_weights"]
    assert {f"--{name.replace('_', '-')}" for name in fields} <= shown
    assert program("data", "list") == 0
    text = capsys.readouterr().out
    for painting in paintings.PAINTINGS.values():
        assert all(part in text for part in (painting.title, painting.painter, painting.year, painting.link))
        assert " " not in painting.link and painting.link.startswith("https://") and int(painting.year[-4:]) <= 1923
        page, query = painting.download.split("?")
        assert page.startswith("https://commons.wikimedia.org/wiki/Special:FilePath/") and query == "width=1024"
        assert unquote(page.rsplit("/", 1)[1]) == painting.file and " " not in page


@pytest.fixture
def commons(monkeypatch):
    """Instead of Wikimedia Commons: ``answer`` is what it sends, ``asked`` what it was asked for and by whom."""
    server = SimpleNamespace(asked=[], answer=(404, b""))

    def downloader(headers, **_):
        def download(url, path, _):
            server.asked.append((url, headers["User-Agent"]))
            if server.answer[0] != 200:
                raise requests.HTTPError(f"{server.answer[0]}")
            Path(path).write_bytes(server.answer[1])

        return download

    monkeypatch.setattr(paintings.pooch, "HTTPDownloader", downloader)
    return server


def test_a_painting_is_fetched_once_and_a_failure_names_it(commons, tmp_path, photos, monkeypatch, program, capsys):
    commons.answer = 200, photos[2].read_bytes()
    assert [paintings.fetch("kiss", tmp_path) for _ in range(2)] == [tmp_path / "kiss.jpg"] * 2
    ((asked, agent),) = commons.asked
    file = "The%20Kiss%20-%20Gustav%20Klimt%20-%20Google%20Cultural%20Institute.jpg"
    assert asked == f"https://commons.wikimedia.org/wiki/Special:FilePath/{file}?width=1024" and "course" in agent
    assert list(paintings.fetched(16, tmp_path)) == ["kiss"]
    folder = tmp_path / "paintings"
    monkeypatch.setattr(paintings, "FOLDER", folder)
    for commons.answer in ((429, b"slow down"), (200, b"<html>sign in</html>"), (404, b"")):
        with pytest.raises(ValueError, match="The Scream"):
            paintings.fetch("scream", folder)
        assert commons.asked and not list(folder.iterdir())
    commons.asked.clear()
    assert program("data", "fetch", "scream", "kiss") == 2
    error = capsys.readouterr().err.strip()
    assert "The Scream could not be fetched" in error and "The Kiss" in error and len(commons.asked) == 2
    commons.answer = 200, photos[2].read_bytes()
    assert program("data", "fetch", "scream") == 0 and (folder / "scream.jpg").is_file()


def test_the_plain_loop_is_the_tutorials_speeds_are_ratios_to_it_and_a_lattice_is_seen(monkeypatch, tmp_path):
    network = load_features("vgg19-slim", pooling="max")
    content, style = pictures(1, (32, 32)), pictures(1, (32, 32), 1)
    loop, first = bench.plain_loop(network, content, style), 0
    losses = [next(loop).item() for _ in range(8)]
    for pair in zip(*(network(image, [1, 3, 5, 9, 13]).values() for image in (content, style)), strict=True):
        found, goal = (rows @ rows.T / rows.numel() for rows in (values[0].flatten(1) for values in pair))
        first += 1e6 * (found - goal).square().mean().item()
    assert losses[0] == pytest.approx(first, rel=1e-3) and losses[-1] < losses[0]
    monkeypatch.setitem(CONFIGS, "vgg19", CONFIGS["vgg19-slim"])
    rows = list(bench.speed(Settings(tmp_path, sizes=(32,), quick=True)))
    assert [row["size"] for row in rows] == [32] * 3 and rows[0]["ratio"] == 1
    assert all(row["ratio"] == pytest.approx(rows[0]["ms"] / row["ms"]) for row in rows)
    grain = 0.5 + 0.05 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0)).expand(1, 3, -1, -1)
    for period in bench.PERIODS:
        found = bench.lattice(grain + 0.01 * torch.cos(2 * torch.pi * torch.arange(256) / period))
        assert found.pop(period) > 3 and max(found.values()) < 1.5 > max(bench.lattice(grain).values())


def test_our_own_styles_are_stored_and_differ_and_their_seed_decides():
    stored = own_styles(64)
    assert tuple(stored) == NAMES and {path.stem for path in FOLDER.glob("*.jpg")} == set(NAMES)
    flat = torch.cat(list(stored.values()))
    assert ((flat[:, None] - flat[None]).square().mean((2, 3, 4)) + torch.eye(len(flat))).min() > 0.01
    first, again, other = (tool.paint("glass", 32, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    for arguments, message in ((("oil",), "strokes, dots"), (("glass", 8), "at least 32")):
        with pytest.raises(ImageError, match=message):
            tool.paint(*arguments)


@pytest.mark.parametrize("name", ["glass", "marble", "waves"])  # the others take seconds each
def test_a_stored_image_is_what_the_script_paints(name):
    assert psnr(resize(tool.paint(name, 100), 50), own_styles(50)[name]).item() > 20


def test_a_film_becomes_a_film_with_its_sound(tmp_path, photos):
    sound, film, out = tmp_path / "tone.wav", tmp_path / "mine.mp4", tmp_path / "out"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0\x20\0\xe0" * 4000)
    frames = [pictures(size=(256, 272)).roll(8 * shift, -1) for shift in range(3)]
    write_mp4(film, frames, 12, sound)
    more = ("--steps", 2, "--pyramid", 16, "--size", 34, "--content-layers", 3, "--style-layers", "1,3")
    rows = paint([film], photos[1:], out, *more)
    assert rows[0]["frames"] == 3 and rows[0]["sound"]
    fps, has_sound, painted = read_film(out / "mine.mp4", 34)
    assert (fps, has_sound) == (12, True) and [frame.shape for frame in painted] == [(1, 3, 32, 34)] * 3
