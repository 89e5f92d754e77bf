"""Latents and states: batches, interpolation, files."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.commands import states
from helpers.features import load_features
from helpers.generators import load_generator
from helpers.images import quantize, read_image
from helpers.latents import SAMPLES, Latents, chosen_samples, interpolate, join, load_latents, save_latents
from helpers.photos import demo_cat
from helpers.states import State, load_state, plain, save_state
from helpers.widgets.blending import BlendingPanel
from helpers.widgets.inversion import InversionPanel
from helpers.widgets.noise import NoisePanel
from staff.grading.handins import HAND_INS
from tests.support import tiny


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noisy(n=3, space="w"):
    """Latents with two noise maps."""
    shape = {"z": (8,), "w": (8,), "w+": (6, 8)}[space]
    return Latents(space, random(n, *shape), [random(n, 1, 4, 4, seed=1), random(n, 1, 8, 8, seed=2)])


def same(a, b):
    noise = zip(a.noise or [], b.noise or [], strict=True)
    return a.space == b.space and torch.equal(a.code, b.code) and all(torch.equal(x, y) for x, y in noise)


@pytest.mark.parametrize(
    ("index", "rows"), [(0, [0]), (2, [2]), (-1, [2]), (-3, [0]), (slice(1, 3), [1, 2]), ([2, 0], [2, 0])]
)
def test_an_index_takes_the_noise_along(index, rows):
    latents = noisy()
    part = latents[index]
    assert len(part) == len(rows)
    assert same(part, Latents("w", latents.code[rows], [m[rows] for m in latents.noise]))
    for missing in (3, -4):
        with pytest.raises(IndexError, match="there are 3 latents"):
            latents[missing]


def test_latents_are_joined_and_copied_as_a_whole_and_only_those_of_one_kind():
    latents = noisy(space="w+")
    assert [len(one) for one in latents] == [1, 1, 1]
    assert same(join(list(latents)), latents)
    plain = Latents("w+", latents.code)
    assert same(join([plain[:2], plain[2]]), plain)
    latents = noisy()
    latents.code.requires_grad_()
    copy = latents.detach()
    assert same(copy, latents) and not copy.code.requires_grad
    with torch.no_grad():
        copy.code += 1
        copy.noise[0] += 1
    assert same(latents, Latents("w", random(3, 8), noisy().noise))
    moved = noisy().to("meta")
    assert {t.device.type for t in (moved.code, *moved.noise)} == {"meta"}
    for other, message in ((Latents("z", latents.code), "of one space .*; got w and z"),
                           (Latents("w", latents.code), "both or neither have noise")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            interpolate(latents, other, 0.5)
    for parts in ([latents, Latents("w", latents.code)], [latents, Latents("z", latents.code, latents.noise)], []):
        with pytest.raises(ValueError, match="only latents of one space"):
            join(parts)


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_interpolation_begins_and_ends_at_its_ends_and_is_linear_in_between_except_for_z(space):
    a, b = noisy(1, space), noisy(1, space).apply(lambda t: t.flip(-1) * 1.5)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    between = interpolate(a, b, t)
    assert between.space == space and len(between) == 4
    for i, weight in enumerate(t):
        for ours, x, y in zip([between.code, *between.noise], [a.code, *a.noise], [b.code, *b.noise], strict=True):
            if weight in (0, 1) or space != "z" or ours is not between.code:
                assert torch.allclose(ours[i], x[0] * (1 - weight) + y[0] * weight, atol=1e-5)


def test_z_follows_the_great_circle_and_its_length_goes_from_one_to_the_other():
    a, b = Latents("z", torch.tensor([[2.0, 0.0, 0.0]])), Latents("z", torch.tensor([[0.0, 4.0, 0.0]]))
    expected = torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6), 0.0]]) * (2 + 2 / 3)
    assert torch.allclose(interpolate(a, b, 1 / 3).code, expected, atol=1e-6)
    a, b = Latents("z", random(1, 64)), Latents("z", 2 * random(1, 64, seed=1))
    t = torch.linspace(0, 1, 9)
    codes = interpolate(a, b, t).code
    assert torch.allclose(codes.norm(dim=1), torch.lerp(a.code.norm(), b.code.norm(), t), rtol=1e-5)
    steps = torch.nn.functional.cosine_similarity(codes[1:], codes[:-1]).acos()
    assert torch.allclose(steps, steps.mean(), rtol=1e-2)  # equal angles
    zero, b = Latents("z", torch.zeros(1, 16)), random(1, 16)
    assert not interpolate(zero, zero, 0.5).code.any()
    assert interpolate(zero, Latents("z", b), 0.5).code.isfinite().all()
    assert torch.allclose(interpolate(zero, Latents("z", b), 1.0).code, b, atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_z_that_are_nearly_parallel_or_opposite(size):
    """Opposite ones turn instead of passing through zero."""
    a, aside = random(2, 16), size * random(2, 16, seed=1)
    assert torch.allclose(interpolate(Latents("z", a), Latents("z", a + aside), 0.5).code, a + aside / 2, atol=1e-5)
    b = aside - a
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        code = interpolate(Latents("z", a), Latents("z", b), t).code
        assert torch.allclose(code.norm(dim=1), torch.lerp(a.norm(dim=1), b.norm(dim=1), t), rtol=1e-2)
    assert torch.allclose(code, b, atol=1e-3)


@pytest.mark.parametrize("model", ["stylegan2-cats-64", "stylegan2-cats-128"])
def test_the_chosen_samples_are_the_images_next_to_them_and_a_model_without_any_draws_some(model):
    generator = load_generator(model)
    image = generator.synthesize(chosen_samples(generator)[4]).clamp(0, 1)
    assert (image - read_image(SAMPLES / model / "0004.png")).abs().max() < 2 / 255
    generator.base = "another"
    assert chosen_samples(generator).code.shape == (12, generator.w_dim)


@pytest.mark.parametrize(("space", "with_noise"), [("z", False), ("w", True), ("w+", True)])
def test_a_file_gives_back_what_was_saved(tmp_path, space, with_noise):
    latents = noisy(space=space) if with_noise else Latents(space, noisy(space=space).code)
    path = tmp_path / "new" / "cat.safetensors"
    save_latents(path, latents, model="stylegan2-cats-64")
    loaded, metadata = load_latents(path)
    assert same(loaded, latents) and (loaded.noise is None) == (not with_noise)
    assert metadata == {"model": "stylegan2-cats-64"}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_noise_maps_keep_their_order_and_projections_of_the_official_release_are_read(tmp_path):
    maps = [torch.full((1, 1, 4, 4), float(i)) for i in range(11)]  # more than one digit
    code = random(8, 1).double().t().requires_grad_()  # not contiguous
    save_latents(tmp_path / "cat.safetensors", Latents("w", code, maps))
    loaded, _ = load_latents(tmp_path / "cat.safetensors")
    assert [m.mean().item() for m in loaded.noise] == list(range(11))
    assert loaded.code.dtype == torch.float32 and torch.equal(loaded.code, code.float())
    with pytest.raises(ValueError, match=r"w latents of this generator have the shape \(B, 16\), got \(1, 8\)"):
        tiny.stylegan2().synthesize(loaded)
    codes = random(1, 6, 16).half().float()
    save_file({"code": codes.half()}, tmp_path / "half.safetensors", metadata={"space": "w+"})
    np.savez(tmp_path / "projected_w.npz", w=codes.numpy())
    torch.save(codes, tmp_path / "0.pt")
    for name in ("projected_w.npz", "0.pt", "half.safetensors"):
        latents, metadata = load_latents(tmp_path / name)
        assert (latents.space, latents.noise, metadata) == ("w+", None, {}) and torch.equal(latents.code, codes)


OTHERS = {
    "empty": lambda path: path.write_bytes(b""),
    "absent": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "no code": lambda path: save_file({"image": random(1, 8)}, path, metadata={"space": "w"}),
    "another space": lambda path: save_file({"code": random(1, 8)}, path, metadata={"space": "x"}),
    "other axes": lambda path: save_file({"code": random(1, 8)}, path, metadata={"space": "w+"}),
    "of nothing": lambda path: save_latents(path, noisy(0)),
    "NaN": lambda path: save_latents(path, noisy().apply(lambda code: code * math.nan)),
    "many": lambda path: save_file({f"noise.{i}": random(1) for i in range(20_000)}, path, metadata={"space": "w"}),
    "no space": lambda path: save_file({"code": random(1, 8)}, path, metadata={"model": "cats"}),
    "truncated": lambda path: (save_latents(path, noisy()), path.write_bytes(path.read_bytes()[:-20])),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_one_sentence(tmp_path, kind):
    path = tmp_path / "cat.safetensors"
    OTHERS[kind](path)
    with pytest.raises(ValueError, match="latents .*cat.safetensors") as error:
        load_latents(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_projection_of_rosinality(tmp_path, space):
    generator = tiny.stylegan2()
    code, noise = generator.sample(space, 2, seed=1), generator.fresh_noise(2, seed=2)
    found = [{"img": code, "latent": code[i], "noise": [m[i : i + 1] for m in noise]} for i in range(2)]
    torch.save(dict(zip(("0.png", "1.png"), found, strict=True)), tmp_path / "a.pt")
    latents, _ = load_latents(tmp_path / "a.pt")
    assert latents.space == space and len(latents) == 2
    assert torch.equal(generator.synthesize(latents), generator.synthesize(code, noise))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": np.array([{}], dtype=object)}, "Object arrays"),
        ({"w": np.arange(3)}, "holds int64"),
        ({"w": np.full((1, 2, 3), np.nan)}, "are not finite"),
        ({"x": np.zeros((1, 2, 3))}, "no item named .w.npy"),
        ({"w": np.zeros((1, 2**24), np.float16)}, "they are too many"),  # in a file of 33 kB
        ({"a.png": {"latent": 3}}, "holds no latents"),
        ({"a.png": {"latent": torch.zeros(3)}, "b.png": {"latent": torch.zeros(4)}}, "not all of one shape"),
    ],
)
def test_files_without_latents_are_one_sentence(tmp_path, content, message):
    path = tmp_path / ("a.pt" if "a.png" in content else "a.npz")
    torch.save(content, path) if path.suffix == ".pt" else np.savez_compressed(path, **content)
    with pytest.raises(ValueError, match=message) as error:
        load_latents(path)
    assert "\n" not in str(error.value)


@pytest.fixture
def state():
    rng = torch.Generator().manual_seed(0)
    pictures = {
        "image": torch.rand(1, 3, 8, 8, generator=rng),
        "drawing.mask": torch.randint(0, 256, (8, 8, 4), generator=rng, dtype=torch.uint8),
    }
    settings = {"space": "w+", "steps": 300, "layers": ["conv1_2", 3], "weights": {"l1": 1.0}, "start": None}
    return State(noisy(1, "w+"), pictures, settings)


def test_a_state_comes_back_its_latents_are_latents_and_latents_alone_are_a_state(state, tmp_path):
    path = tmp_path / "a.safetensors"
    save_state(path, state, model="cats")
    again, metadata = load_state(path)
    assert again.settings == state.settings and metadata == {"model": "cats"}
    assert set(again.images) == set(state.images)
    assert all(torch.equal(again.images[name], state.images[name]) for name in state.images)
    latents, metadata = load_latents(path)
    assert metadata["model"] == "cats"
    for found in (again.latents, latents):
        assert same(found, state.latents)
    save_latents(path, state.latents, model="cats")
    again, metadata = load_state(path)
    assert same(again.latents, state.latents)
    assert (again.images, again.settings, metadata) == ({}, {}, {"model": "cats"})
    save_state(path, State(None, state.images, {"steps": 3}))
    again, _ = load_state(path)
    assert again.latents is None and torch.equal(again.images["image"], state.images["image"])
    with pytest.raises(ValueError, match="a.safetensors"):
        load_latents(path)
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


def test_other_files_are_no_states_and_the_command_line_writes_what_is_in_one(tmp_path, monkeypatch):
    (tmp_path / "text.safetensors").write_text("no state")
    for name, text in ("settings", "{"), ("deep", "[" * 10**5):
        save_file({"state.image": IMAGE}, tmp_path / f"{name}.safetensors", metadata={"settings": text})
    refused = dict.fromkeys(("missing", "text", "settings", "deep"), "") | {"": "got the folder .*; name a file"}
    for name, said in refused.items():
        with pytest.raises(ValueError, match=said or "expected a state"):
            load_state(tmp_path / f"{name}.safetensors" if name else tmp_path)
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


@pytest.mark.parametrize("item", ["1.6", "2.5", "3.4"])
def test_a_panel_s_state_file_can_be_handed_in_and_opened(tmp_path, item):
    generator, cat, features = load_generator("stylegan2-cats-64"), demo_cat(64), load_features("vgg19-slim")
    photos, few = {"chelsea": cat, "other": cat.flip(-1)}, {"out": tmp_path, "steps": 4}
    start = {"chelsea": (cat, Latents("w+", generator.mean("w+")))}
    panel = {
        "1.6": lambda: InversionPanel({"a name of mine": generator}, features, photos, **few),
        "2.5": lambda: NoisePanel(generator, start, **few),
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
