"""The commands of local edits: what they write, and one clear sentence for what cannot be."""

import json

import pytest
import torch

from helpers import features, generators, masks
from helpers.blending import seam
from helpers.images import read_image, write_image
from helpers.latents import load_latents
from tests.support import tiny

SHORT = ["--steps", "3", "--noise-steps", "2", "--device", "cpu"]
GENERATOR, NETWORK = tiny.stylegan2(), tiny.vgg()


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """Tiny networks instead of the bundled ones."""
    monkeypatch.setattr(generators, "load_generator", lambda *_: GENERATOR)
    monkeypatch.setattr(features, "load_features", lambda **_: NETWORK)


@pytest.fixture
def photos(tmp_path):
    """Two photos, and the first one with strokes painted on it."""
    paths = [str(tmp_path / f"{name}.png") for name in ("a", "b", "drawn")]
    for seed, path in enumerate(paths[:2]):
        write_image(path, tiny.images(seed=seed))
    image = read_image(paths[0])
    image[..., 4:9, 6:12] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    write_image(paths[2], image)
    return paths


@pytest.mark.parametrize("name", ["blend", "inpaint", "scribble", "local-style", "transfer"])
def test_each_command_writes_image_latents_table_and_sheet(name, photos, tmp_path, program, capsys):
    second, out = {"inpaint": [], "scribble": photos[2:]}.get(name, photos[1:2]), tmp_path / "out"
    assert program(name, photos[0], *second, "--out", out, *SHORT) == 0
    rows = json.loads((out / "results.json").read_text())
    assert [row["way"] for row in rows] == ["hard paste", "Poisson", "ours"]
    stem = rows[-1]["image"].removesuffix(".png")
    written = {path.name for path in out.iterdir()}
    assert written == {"log", "results.json", f"{stem}-sheet.png", f"{stem}.png", f"{stem}.safetensors"}
    latents, metadata = load_latents(out / f"{stem}.safetensors")
    image = read_image(out / f"{stem}.png")
    again = GENERATOR.synthesize(latents).clamp(0, 1)
    assert (image - again).abs().max() < 1 / 255 and metadata["model"] == "stylegan2-cats-64"
    assert rows[-1]["seam"] > 0 and rows[-1]["seconds"] > 0
    assert ("psnr_x" in rows[-1]) == (name in ("blend", "transfer")) and "hard paste" in capsys.readouterr().out
    if name == "inpaint":  # what a paste shows inside is no photo: the edge is compared with that of the only one
        photo, region = read_image(photos[0]), masks.mask_from_text("mouth", 16)
        assert rows[-1]["seam"] == pytest.approx(seam(image, photo, photo, region).item(), rel=0.05)


@pytest.mark.parametrize("extra", [(), ("--invert-mask",)])
def test_the_mask_decides_which_photo_shows_where(extra, photos, tmp_path, program):
    arguments = ["blend", *photos[:2], "--mask", "top", "--feather", "1", "--out", tmp_path / "out", *extra]
    program(*arguments, "--steps", "10", "--noise-steps", "20", "--device", "cpu")
    image = read_image(next((tmp_path / "out").glob("*cats-64.png")))
    inside, outside = [read_image(path) for path in photos[:2]][:: -1 if extra else 1]
    for photo, other, rows in ((inside, outside, slice(0, 5)), (outside, inside, slice(11, 16))):
        near, far = ((image - shown)[..., rows, :].square().mean() for shown in (photo, other))
        assert near < far


def test_bad_input_is_one_sentence_and_exit_code_2(photos, tmp_path, program, capsys):
    code = program("blend", *photos[:2], "--mask", "circle", "--out", tmp_path / "out", *SHORT)
    error = capsys.readouterr().err.strip()
    assert code == 2 and "half, left" in error and error.startswith("error: ") and "\n" not in error
    assert not (tmp_path / "out").exists()
