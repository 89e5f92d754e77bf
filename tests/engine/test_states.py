"""State files: what goes in comes out, also as plain latents."""

import json

import pytest
import torch
from safetensors.torch import save_file

from helpers.commands.states import state_files
from helpers.features import load_features
from helpers.generators import load_generator
from helpers.images import quantize, read_image
from helpers.latents import Latents, LatentsError, load_latents, save_latents
from helpers.photos import demo_cat
from helpers.states import State, StateError, load_state, plain, save_state
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


def test_a_state_comes_back(state, tmp_path):
    save_state(tmp_path / "a.safetensors", state, model="cats")
    again, metadata = load_state(tmp_path / "a.safetensors")
    assert again.settings == state.settings and metadata == {"model": "cats"}
    assert again.latents.space == "w+" and torch.equal(again.latents.code, state.latents.code)
    assert all(torch.equal(a, b) for a, b in zip(again.latents.noise, state.latents.noise, strict=True))
    assert set(again.pictures) == set(state.pictures)
    assert all(torch.equal(again.pictures[name], state.pictures[name]) for name in state.pictures)


def test_its_latents_are_latents(state, tmp_path):
    save_state(tmp_path / "a.safetensors", state, model="cats")
    latents, metadata = load_latents(tmp_path / "a.safetensors")
    assert torch.equal(latents.code, state.latents.code) and len(latents.noise) == 2
    assert metadata["model"] == "cats"


def test_latents_alone_are_a_state(state, tmp_path):
    save_latents(tmp_path / "a.safetensors", state.latents, model="cats")
    again, metadata = load_state(tmp_path / "a.safetensors")
    assert torch.equal(again.latents.code, state.latents.code) and len(again.latents.noise) == 2
    assert again.pictures == {} and again.settings == {} and metadata == {"model": "cats"}


def test_a_state_needs_no_latents(state, tmp_path):
    save_state(tmp_path / "a.safetensors", State(None, state.pictures, {"steps": 3}))
    again, _ = load_state(tmp_path / "a.safetensors")
    assert again.latents is None and torch.equal(again.pictures["image"], state.pictures["image"])
    with pytest.raises(LatentsError, match="a.safetensors"):
        load_latents(tmp_path / "a.safetensors")


def test_settings_that_json_has_not_are_left_out():
    settings = {"features": object(), "lr": 0.1, "layers": ("a", 1), "bad": float("nan"), "weights": {"f": object()}}
    assert plain(settings) == {"lr": 0.1, "layers": ["a", 1], "weights": {}}


def test_other_files_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "text.safetensors").write_text("no state")
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    save_file({"state.image": torch.full((1, 3, 2, 2), torch.nan)}, tmp_path / "nan.safetensors")
    save_file({"state.image": torch.zeros(1)}, tmp_path / "settings.safetensors", metadata={"settings": "{"})
    for name in ("missing", "text", "weights", "nan", "settings"):
        with pytest.raises(StateError, match="expected a state|NaN"):
            load_state(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("name", ["../a", "a/b", "", "a\\b", "..", "c:"])
def test_the_name_of_an_image_is_not_a_path(name, tmp_path):
    save_file({f"state.{name}": torch.zeros(1, 3, 2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(StateError, match="name"):
        load_state(tmp_path / "a.safetensors")


def test_the_command_line_writes_what_is_in_it(tmp_path, monkeypatch):
    generator = tiny.stylegan2()
    monkeypatch.setattr("helpers.generators.load_generator", lambda name, device: {"tiny": generator}[name])
    latents = Latents("w", generator.sample("w", 1, 3))
    pictures = {"mask.a": torch.ones(1, 1, 8, 8), "drawing.a": torch.full((8, 8, 4), 77, dtype=torch.uint8)}
    save_state(tmp_path / "a.safetensors", State(latents, pictures, {"steps": 3}), model="tiny")
    names = {path.name for path in state_files(tmp_path / "a.safetensors", tmp_path / "out")}
    assert names == {"mask.a.png", "drawing.a.png", "settings.json", "latents.png"}
    drawn = quantize(generator.synthesize(latents).clamp(0, 1)).detach()
    torch.testing.assert_close(read_image(tmp_path / "out" / "latents.png"), drawn, atol=1e-3, rtol=0)
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["settings"] == {"steps": 3}
    save_latents(tmp_path / "b.safetensors", latents)
    with pytest.raises(ValueError, match="--model"):
        state_files(tmp_path / "b.safetensors", tmp_path / "out")


@pytest.mark.parametrize(
    "value", [torch.ones(8, 8), torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8, dtype=torch.uint8)]
)
def test_images_of_odd_shapes_are_one_sentence(tmp_path, value):
    save_state(tmp_path / "a.safetensors", State(None, {"mask": value}))
    with pytest.raises(StateError, match=r"image mask of this state must be \(B, 3 or 1, H, W\).*; got (float|uint8)"):
        state_files(tmp_path / "a.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_not_a_state(tmp_path):
    with pytest.raises(StateError, match="got the folder .*; name a file"):
        state_files(tmp_path, tmp_path / "out")


@pytest.fixture(scope="module")
def cats():
    return load_generator("stylegan2-cats-64")


def chelsea_panels(generator, out):
    """A panel for each hand-in, of the fewest steps."""
    cat, features = demo_cat(64), load_features("vgg19-slim")
    photos = {"chelsea": cat, "other": cat.flip(-1)}
    mean = Latents("w+", generator.mean("w+"))
    inversion = InversionPanel({"a name of mine": generator}, features, photos, out=out, steps=10)
    return {
        "1.6": inversion,
        "2.4": NoisePanel(generator, {"chelsea": (cat, mean)}, out=out, steps=10),
        "3.4": BlendingPanel(generator, features, photos, out=out, steps=10, noise_steps=10, shape="ellipse"),
    }


@pytest.mark.parametrize("item", ["1.6", "2.4", "3.4"])
def test_a_panel_s_state_file_can_be_handed_in_and_opened(cats, tmp_path, item):
    panel = chelsea_panels(cats, tmp_path)[item]
    panel.start()
    assert panel.job.wait(120) and panel.job.error is None
    panel._frame()
    path = panel.save("safetensors")
    measured = HAND_INS[item].measure(path)
    torch.testing.assert_close(measured.pictures["yours"], panel.result.images, atol=1e-4, rtol=0)
    assert measured.verdicts
    if item == "3.4":
        assert torch.equal(measured.pictures["mask"][:, :1], panel.mask)
    state_files(path, tmp_path / "out")  # without --model
    torch.testing.assert_close(
        read_image(tmp_path / "out" / "latents.png"), quantize(panel.result.images), atol=0.01, rtol=0
    )
    panel.close()
