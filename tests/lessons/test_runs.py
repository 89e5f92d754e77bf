"""What the command line writes for photos; what a stop, a full disk or a closed folder leaves behind."""

import dataclasses
import errno
import json
import os
import signal

import pytest
import torch
from typer.testing import CliRunner

from helpers import progress
from helpers.commands import inversion, runs
from helpers.commands.inversion import interpolation_frames
from helpers.commands.runs import RunError
from helpers.faces import FaceOptions
from helpers.files import WriteError, unique_stems
from helpers.images import ImageError, quantize, read_image, write_image
from helpers.inversion import InversionOptions
from helpers.latents import Latents, load_latents, save_latents
from helpers.metrics import psnr
from helpers.noise import fresh_noise_psnr
from helpers.optimizers import Optimization
from helpers.progress import FILE, Progress, load_run
from tests.support import tiny

SIZE = 16
FOUR = {"steps": 4, "batch": 1}


def options(**given):
    """Options of a run, of its search and of its photos, from the names of all three."""
    given = {"model": "tiny", "sheet": False, "log": "none", "noise": "noise_steps" in given} | given
    made = []
    for kind in (runs.RunOptions, InversionOptions, FaceOptions):
        names = {field.name for field in dataclasses.fields(kind)} & set(given)
        made.append(kind(**{name: given[name] for name in names}))
    return made


def invert(photos, out, **given):
    return runs.invert_photos(photos, out, *options(**given))


def interpolate(ends, out, fps=30, **given):
    """The MP4 and the GIF between two photos or latents, three frames there and back."""
    inversion.interpolate.__wrapped__(*ends, out, *options(**given), frames=3, fps=fps)
    return *out.glob("*.mp4"), *out.glob("*.gif")


def networks(monkeypatch, generator):
    for module in (runs, inversion):
        monkeypatch.setattr(module, "load_generator", lambda model, device=None: generator)
        monkeypatch.setattr(module, "load_features", lambda *_, **__: tiny.vgg())


@pytest.fixture(scope="module")
def generator():
    return tiny.stylegan2()


@pytest.fixture
def photos(tmp_path, monkeypatch, generator):
    """Two photos on disk that the generator nearly can draw; the runs use the tiny networks."""
    networks(monkeypatch, generator)
    images = generator.synthesize(generator.sample("w", 2, seed=1), generator.fresh_noise(2, seed=8)).clamp(0, 1)
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path, image in zip(paths, images.split(1), strict=True):
        write_image(path, image)
    return paths


def test_the_noise_stage_is_stored_with_its_maps_and_renders_the_written_image(photos, tmp_path, generator):
    rows = invert(photos, tmp_path / "out", steps=20, noise_steps=40, batch=2)
    assert rows == json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["noise_steps"] for row in rows] == [40, 40] and [row["steps"] for row in rows] == [20, 20]
    for path, row in zip(photos, rows, strict=True):
        target = read_image(path)
        latents, metadata = load_latents(tmp_path / "out" / row["image"].replace(".png", ".safetensors"))
        assert metadata["model"] == "tiny" and latents.space == "w+" and len(latents.noise) == 5
        written = read_image(tmp_path / "out" / row["image"])
        again = quantize(generator.synthesize(latents))
        assert (again - written).abs().max() < 1.5 / 255  # a batch may round the last digit otherwise
        assert row["psnr"] == pytest.approx(psnr(written, target).item(), abs=0.01)
        fixed = generator.synthesize(latents.code, generator.fixed_noise())
        assert row["psnr_before_noise"] == pytest.approx(psnr(fixed, target).item(), abs=0.05)
        fresh = fresh_noise_psnr(generator, target, latents).item()
        assert row["psnr_fresh_noise"] == pytest.approx(fresh, abs=0.01)
        assert row["psnr"] > row["psnr_before_noise"] + 3


def test_a_photo_that_cannot_be_inverted_is_marked_and_the_others_are_as_without_it(photos, tmp_path, generator):
    code = generator.mean("w+").repeat(2, 1, 1)
    code[1] = torch.nan
    options = {"steps": 6, "noise_steps": 4, "weights": {"l1": 1.0}}
    good = invert(photos, tmp_path / "one", start=Latents("w+", code[:1]), **options)
    with pytest.warns(UserWarning, match="sample 2 of 2 is NaN .* it is frozen at its best"):
        rows = invert(photos, tmp_path / "two", start=Latents("w+", code), log="jsonl", **options)
    assert [row["frozen"] for row in rows] == [0, 1] and "frozen" in runs.table(rows)
    assert rows[0] | {"seconds": 0} == good[0] | {"seconds": 0} and "frozen" not in runs.table(good)
    for folder in (tmp_path / "two", tmp_path / "two" / "log"):
        (file,) = folder.glob("*.json*")
        assert "NaN" not in file.read_text() and "Infinity" not in file.read_text()
    same = [(tmp_path / folder / good[0]["image"]).read_bytes() for folder in ("one", "two")]
    assert same[0] == same[1] and (tmp_path / "two" / rows[1]["image"]).exists()


def test_the_way_between_fitted_photos_starts_and_ends_at_them(photos, tmp_path, generator):
    mp4, gif = interpolate(photos, tmp_path / "out", steps=5, noise_steps=5)
    assert gif.name == "one-to-two-wplus-noise.gif" and mp4.exists()
    assert all(load_latents(path)[0].noise for path in (tmp_path / "out").glob("*-noise.safetensors"))
    first = read_image(tmp_path / "out" / "one-tiny-wplus-noise.png")
    files = [tmp_path / "out" / f"{name}-tiny-wplus-noise.safetensors" for name in ("one", "two")]
    frames = interpolation_frames(generator, *(load_latents(file)[0] for file in files), frames=3)
    assert (frames[:1] - first).abs().max() < 1.5 / 255


def test_latents_are_ends_of_a_way_too_and_the_frames_are_checked_before_anything_is_run(photos, tmp_path, generator):
    save_latents(tmp_path / "found.safetensors", Latents("w", generator.mean("w")), model="tiny")
    ends = (tmp_path / "found.safetensors", photos[0])
    with pytest.raises(ImageError, match="between 0 and 50 frames per second for MP4 and GIF but got 60"):
        interpolate(ends, tmp_path / "out", steps=3, fps=60)
    assert not (tmp_path / "out").exists()
    mp4, gif = interpolate(ends, tmp_path / "out", steps=3)
    assert gif.name == "found-to-one-wplus.gif" and mp4.exists() and not list((tmp_path / "out").glob("two*"))
    assert (read_image(gif)[..., 8::16, 8::16] - generator.synthesize(generator.mean("w+"))).abs().mean() < 0.05
    save_latents(tmp_path / "two.safetensors", Latents("w", generator.sample("w", 2)), model="tiny")
    for end, said in ("two.safetensors", r"shape \(1, 16\) in .*two.safetensors, got \(2"), ("", "got the folder"):
        with pytest.raises(ValueError, match=said):
            interpolate((tmp_path / end, photos[0]), tmp_path / "out")
    with pytest.raises(runs.RunError, match="holds latents of tiny, not of other; give it as --model"):
        interpolate(ends[:1] * 2, tmp_path / "out", model="other")


def test_equal_names_get_results_of_their_own_and_long_ones_are_shortened(photos, tmp_path):
    paths = [tmp_path / "a" / "1.png", tmp_path / "b" / "1.PNG", tmp_path / "1-2.png"]
    for path, value in zip(paths, (0.2, 0.5, 0.8), strict=True):
        write_image(path, torch.full((1, 3, SIZE, SIZE), value))
    rows = invert([tmp_path / "a", *paths[1:]], tmp_path / "out", steps=2)  # a folder stands for its photos
    assert [row["file"] for row in rows] == [str(path) for path in paths]
    assert len({row["image"] for row in rows}) == 3
    assert len(list((tmp_path / "out").glob("*.png"))) == len(list((tmp_path / "out").glob("*.safetensors"))) == 3
    path = tmp_path / f"{'猫' * 80}.png"  # 240 bytes, of 255 that a file system allows
    photos[0].rename(path)
    (row,) = invert([path], tmp_path / "out", steps=2)
    assert row["image"].startswith("猫猫") and (tmp_path / "out" / row["image"]).exists()
    long = ["猫" * 80, "猫" * 79 + "x", "A", "a", "a", "a-2"]
    stems = unique_stems(f"{name}.png" for name in long)
    assert len({stem.casefold() for stem in stems}) == 6 and max(len(stem.encode()) for stem in stems) <= 84


def test_a_box_that_is_none_is_one_sentence_and_so_is_a_seed_of_23_digits(photos, tmp_path):
    for box in ("0,0,16", "a,b,c,d"):
        with pytest.raises(ImageError, match=f"auto, none or LEFT,TOP,RIGHT,BOTTOM in pixels; got '{box}'"):
            FaceOptions(box=box)
    write_image(photos[0], torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(runs.RunError, match="1 of 2 photos done; not these: .*two.png: expected a box") as error:
        invert(photos, tmp_path / "out", steps=2, box="20,20,40,40")
    assert len(error.value.rows) == 1
    for seed in ("9" * 23, "-" + "9" * 23):
        printed = CliRunner().invoke(inversion.app, ["sample", "--out", "nowhere", "--seed", seed])
        assert printed.exit_code == 2 and "expected a whole number below 2^63" in printed.output


def test_a_sheet_shows_the_photo_with_its_box_and_what_became_of_it(photos, tmp_path):
    write_image(photos[0], torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0)))
    (row,) = invert(photos[:1], tmp_path / "out", steps=2, noise_steps=2, sheet=True, box="20,10,40,30")
    sheet = read_image(tmp_path / "out" / row["image"].replace(".png", "-sheet.png"))
    assert sheet.shape[-1] > 3 * 192  # the photo, its target, the result and what the noise adds
    red = (sheet[0, 0] > 0.75) & (sheet[0, 1] < 0.1) & (sheet[0, 2] < 0.4)  # the frame
    rows, columns = red.nonzero().unbind(1)
    assert len(rows) > 150 and columns.max() < 340


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


def test_a_disk_that_fills_up_keeps_what_was_done_and_the_next_call_continues(photos, tmp_path, monkeypatch, capfd):
    whole, out = tmp_path / "whole", tmp_path / "out"
    invert(photos, whole, **FOUR)
    plain, written = runs.write_image, []

    def full(path, image):
        if len(written) == 1:
            raise WriteError(f"cannot write {path}: the disk is full; free some space")
        written.append(path)
        plain(path, image)

    monkeypatch.setattr(runs, "write_image", full)
    with pytest.raises(WriteError, match="the disk is full; free some space"):
        invert(photos, out, **FOUR)
    assert len(json.loads((out / "results.json").read_text())) == 1 and len(images_of(out)) == 1
    monkeypatch.setattr(runs, "write_image", plain)
    assert len(invert(photos, out, **FOUR)) == 2 and images_of(out) == images_of(whole)
    assert "1 done before" in capfd.readouterr().err and not (out / FILE).exists()


def test_a_folder_that_may_not_be_written_to_is_known_before_anything_is_computed(photos, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    at_step(monkeypatch, 0, lambda: pytest.fail("it was computed all the same"))
    with pytest.raises(WriteError, match="the disk is read-only; choose another folder"):
        invert(photos, tmp_path / "out", **FOUR)


@pytest.mark.parametrize("change", ["steps", "photo", "nothing"])
def test_other_settings_or_other_photos_start_again_and_say_so(photos, tmp_path, monkeypatch, capfd, often, change):
    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 2, interrupt)
        invert(photos, tmp_path, **FOUR)
    if change == "photo":
        write_image(photos[0], read_image(photos[1]))
    steps = 6 if change == "steps" else 4
    assert invert(photos, tmp_path, **FOUR | {"steps": steps})[0]["steps"] == steps
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


def test_rows_of_good_photos_are_shown_although_others_could_not_be_read(photos, tmp_path, program, capsys):
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths = [*photos, tmp_path / "bad.png"]
    with pytest.raises(RunError) as error:
        invert(paths, tmp_path / "out", **FOUR)
    assert len(error.value.rows) == 2
    assert program("invert", *paths, *TINY, "--out", tmp_path / "again", "--steps", "2") == 2
    said = capsys.readouterr()
    assert said.err.strip().splitlines()[-1].startswith("error: 2 of 3 photos done; not these")
    assert "one.png" in said.out and "two.png" in said.out


@pytest.mark.parametrize("name", [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)])
def test_a_command_that_is_stopped_keeps_its_state_and_says_so(photos, tmp_path, monkeypatch, program, capsys, name):
    before = signal.getsignal(getattr(signal, name))
    at_step(monkeypatch, 2, lambda: signal.raise_signal(getattr(signal, name)))
    assert program("invert", *photos, *TINY, "--out", tmp_path, "--steps", "9") == 130
    said = capsys.readouterr().err.strip()
    assert said.endswith("Stopped. Finished results are on disk; run the same command again to continue.")
    (state,) = load_run(tmp_path / FILE)["states"].values()
    assert state["search"]["runs"][0]["number"] == 3  # the step was finished
    assert signal.getsignal(getattr(signal, name)) == before
