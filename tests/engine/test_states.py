"""State files: what goes in comes out, also as plain latents."""

import json

import pytest
import torch
from safetensors.torch import save_file

from helpers.commands import states
from helpers.features import load_features
from helpers.generators import load_generator
from helpers.images import quantize, read_image
from helpers.latents import Latents, load_latents, save_latents
from helpers.photos import demo_cat
from helpers.states import State, load_state, plain, save_state
from helpers.widgets.blending import BlendingPanel
from helpers.widgets.inversion import InversionPanel
from helpers.widgets.noise import NoisePanel
from staff.grading.handins import HAND_INS
from tests.support import tiny


@pytest.fixture
def state():
    rng = torch.Generator().manual_seed(0)
    noise = [torch.randn(1, 1, 4, 4, generator=rng), torch.randn(1, 1, 8, 8, generator=rng)]
    pictures = {
        "image": torch.rand(1, 3, 8, 8, generator=rng),
        "drawing.mask": torch.randint(0, 256, (8, 8, 4), generator=rng, dtype=torch.uint8),
    }
    settings = {"space": "w+", "steps": 300, "layers": ["conv1_2", 3], "weights": {"l1": 1.0}, "start": None}
    return State(Latents("w+", torch.randn(1, 4, 8, generator=rng), noise), pictures, settings)


def assert_same(latents, others):
    assert latents.space == others.space and torch.equal(latents.code, others.code)
    assert all(torch.equal(a, b) for a, b in zip(latents.noise, others.noise, strict=True))


def test_a_state_comes_back_and_its_latents_are_latents(state, tmp_path):
    path = tmp_path / "a.safetensors"
    save_state(path, state, model="cats")
    again, metadata = load_state(path)
    assert again.settings == state.settings and metadata == {"model": "cats"}
    assert set(again.images) == set(state.images)
    assert all(torch.equal(again.images[name], state.images[name]) for name in state.images)
    latents, metadata = load_latents(path)
    assert metadata["model"] == "cats"
    for found in (again.latents, latents):
        assert_same(found, state.latents)


def test_latents_alone_are_a_state_and_a_state_needs_no_latents(state, tmp_path):
    path = tmp_path / "a.safetensors"
    save_latents(path, state.latents, model="cats")
    again, metadata = load_state(path)
    assert_same(again.latents, state.latents)
    assert (again.images, again.settings, metadata) == ({}, {}, {"model": "cats"})
    save_state(path, State(None, state.images, {"steps": 3}))
    again, _ = load_state(path)
    assert again.latents is None and torch.equal(again.images["image"], state.images["image"])
    with pytest.raises(ValueError, match="a.safetensors"):
        load_latents(path)


def test_settings_that_json_has_not_are_left_out():
    settings = {"features": object(), "lr": 0.1, "layers": ("a", 1), "bad": float("nan"), "weights": {"f": object()}}
    assert plain(settings) == {"lr": 0.1, "layers": ["a", 1], "weights": {}}


IMAGE = torch.zeros(1, 3, 2, 2)
SHAPES = r"image mask of this state must be \(B, 3 or 1, H, W\).*; got (float|uint8)"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weight", torch.zeros(2), "expected a state"),
        ("state.image", torch.full((1, 3, 2, 2), torch.nan), "holds NaN"),
        *((f"state.{name}", IMAGE, "name") for name in ("../a", "a/b", "", "a\\b", "..", "c:")),
        *(("state.mask", torch.ones(shape), SHAPES) for shape in ((1,), (8, 8), (1, 4, 8, 8))),
        ("state.mask", torch.zeros(1, 4, 8, 8, dtype=torch.uint8), SHAPES),
    ],
)
def test_files_without_a_state_are_refused(tmp_path, name, value, said):
    save_file({name: value}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=said):
        states.state(tmp_path / "a.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_and_folders_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("no state")
    save_file({"state.image": IMAGE}, tmp_path / "settings.safetensors", metadata={"settings": "{"})
    for name, said in ("missing", ""), ("text", ""), ("settings", ""), ("", "got the folder .*; name a file"):
        with pytest.raises(ValueError, match=said or "expected a state"):
            load_state(tmp_path / f"{name}.safetensors" if name else tmp_path)


def test_the_command_line_writes_what_is_in_it(tmp_path, monkeypatch):
    generator = tiny.stylegan2()
    monkeypatch.setattr("helpers.generators.load_generator", lambda name, device: {"tiny": generator}[name])
    latents = Latents("w", generator.sample("w", 1, 3))
    pictures = {"mask.a": torch.ones(1, 1, 8, 8), "drawing.a": torch.full((8, 8, 4), 77, dtype=torch.uint8)}
    save_state(tmp_path / "a.safetensors", State(latents, pictures, {"steps": 3}), model="tiny")
    states.state(tmp_path / "a.safetensors", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"mask.a.png", "drawing.a.png", "settings.json", "latents.png"}
    drawn = quantize(generator.synthesize(latents).clamp(0, 1)).detach()
    torch.testing.assert_close(read_image(tmp_path / "out" / "latents.png"), drawn, atol=1e-3, rtol=0)
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["settings"] == {"steps": 3}
    save_latents(tmp_path / "b.safetensors", latents)
    with pytest.raises(ValueError, match="--model"):
        states.state(tmp_path / "b.safetensors", tmp_path / "out")


@pytest.mark.parametrize("item", ["1.6", "2.4", "3.4"])
def test_a_panel_s_state_file_can_be_handed_in_and_opened(tmp_path, item):
    generator, cat, features = load_generator("stylegan2-cats-64"), demo_cat(64), load_features("vgg19-slim")
    photos, few = {"chelsea": cat, "other": cat.flip(-1)}, {"out": tmp_path, "steps": 4}
    start = {"chelsea": (cat, Latents("w+", generator.mean("w+")))}
    panel = {
        "1.6": lambda: InversionPanel({"a name of mine": generator}, features, photos, **few),
        "2.4": lambda: NoisePanel(generator, start, **few),
        "3.4": lambda: BlendingPanel(generator, features, photos, noise_steps=4, shape="ellipse", **few),
    }[item]()
    panel.start()
    assert panel.job.wait(120) and panel.job.error is None
    panel._frame()
    path = panel.save("safetensors")
    measured = HAND_INS[item].measure(path)
    torch.testing.assert_close(measured.images["yours"], panel.result.images, atol=1e-4, rtol=0)
    assert measured.verdicts
    if item == "3.4":
        assert torch.equal(measured.images["mask"][:, :1], panel.mask)
    states.state(path, tmp_path / "out")  # without --model
    again = read_image(tmp_path / "out" / "latents.png")
    torch.testing.assert_close(again, quantize(panel.result.images), atol=0.01, rtol=0)
    panel.close()
