"""Tuning: what it reaches, what it leaves alone, and the file of it that names its model."""

import dataclasses
import json
import math

import pytest
import torch

from helpers.commands import runs
from helpers.encoder import load_encoder
from helpers.faces import FaceOptions
from helpers.files import sha256
from helpers.generators import load_discriminator, load_generator
from helpers.images import read_image, write_image
from helpers.inversion import InversionOptions
from helpers.latents import Latents, chosen_samples, load_latents, save_tensors
from helpers.metrics import psnr
from helpers.noise import fresh_noise_psnr
from helpers.tuning import Tuning
from helpers.weights import WeightsError, save_weights
from tests.support import tiny

GENERATOR, MODEL = tiny.stylegan2(), "stylegan2-cats-64"
PHOTOS, PIVOT = tiny.images(2, seed=9), Latents("w", GENERATOR.mean("w"))


@pytest.mark.parametrize("family", [tiny.stylegan2, tiny.stylegan1])
def test_the_weights_draw_the_photos_from_the_code_that_stays_and_the_generator_does_not_change(family):
    generator = family()
    before, images = {k: v.clone() for k, v in generator.state_dict().items()}, generator.synthesize(PIVOT)
    search = Tuning(generator, PHOTOS[:1], PIVOT, steps=60)
    result, tuned = search.run(), search.tuned()
    fresh = fresh_noise_psnr(tuned, PHOTOS[:1], PIVOT)
    assert fresh > psnr(images, PHOTOS[:1]) + 6 and (psnr(result.images, PHOTOS[:1]) - fresh).abs() < 0.1
    assert torch.equal(tuned.synthesize(result.latents).clamp(0, 1), result.images)
    assert torch.equal(result.latents.code, PIVOT.code) and result.history["l2"].shape == (60, 1)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert torch.equal(generator.synthesize(PIVOT), images)  # nor what was prepared of its weights
    assert not any(parameter.requires_grad for parameter in tuned.parameters())


def test_one_generator_draws_several_photos_and_locality_keeps_others_as_they_were():
    codes, others = Latents("w", GENERATOR.sample("w", 2, seed=2)), GENERATOR.sample("w", 8, seed=5)
    result = Tuning(GENERATOR, PHOTOS, codes, steps=40).run()
    assert (psnr(result.images, PHOTOS) > psnr(GENERATOR.synthesize(codes), PHOTOS) + 3).all()
    assert result.total.shape == result.frozen.shape == (2,)
    drift = []
    for locality in (0.0, 1.0):
        search = Tuning(GENERATOR, PHOTOS[:1], PIVOT, steps=40, locality=locality)
        assert psnr(search.run().images, PHOTOS[:1]) > psnr(GENERATOR.synthesize(PIVOT), PHOTOS[:1]) + 3
        drift.append(psnr(search.tuned().synthesize(others), GENERATOR.synthesize(others)).mean())
    assert drift[1] > drift[0] + 2
    with pytest.raises(ValueError, match="was not loaded from one"):
        search.save("nowhere.safetensors")
    with pytest.raises(ValueError, match="dcgan generator cannot be tuned"):
        Tuning(tiny.dcgan(), torch.rand(1, 3, 64, 64), Latents("z", torch.ones(1, 8)))


@pytest.fixture(scope="module")
def cat():
    generator = load_generator(MODEL)
    search = Tuning(generator, torch.full((1, 3, 64, 64), 0.4), Latents("w", generator.mean("w")), steps=3)
    search.run()
    return search


def test_the_file_of_a_tuned_generator_is_small_and_stands_for_it_wherever_a_model_is_named(cat, tmp_path):
    path, base = cat.save(tmp_path / "tuned.safetensors"), load_generator(MODEL)
    tuned, code = load_generator(path), base.sample("w", 2)
    assert path.stat().st_size < 4e6 and tuned.name == "tuned" and tuned.base == MODEL
    assert torch.equal(tuned.synthesize(code), cat.tuned().synthesize(code))
    assert not torch.equal(tuned.synthesize(code), base.synthesize(code))
    assert (tuned.domain, tuned.landmarks) == (base.domain, base.landmarks)
    assert torch.equal(chosen_samples(tuned).code, chosen_samples(base).code) and load_encoder(tuned)
    assert torch.equal(load_discriminator(path)(tuned(code)), load_discriminator(MODEL)(tuned(code)))


def test_a_model_of_a_file_is_found_where_it_was_or_next_to_it_with_its_label(tmp_path):
    network, base = tiny.stylegan2(c_dim=3), tmp_path / "a" / "cats.safetensors"
    tensors = {f"generator.{name}": value for name, value in network.state_dict().items()}
    save_weights(base, tensors, {"family": "stylegan2", "generator": network.config})
    generator = load_generator(f"{base}@2")
    search = Tuning(generator, PHOTOS[:1], Latents("w", generator.mean("w")), steps=2)
    search.run()
    path, z = search.save(tmp_path / "b" / "tuned.safetensors"), Latents("z", generator.sample("z"))
    for _ in range(2):
        assert torch.equal(load_generator(path).synthesize(z), search.tuned().synthesize(z))
        base.replace(base := path.with_name("cats.safetensors"))
    base.unlink()
    with pytest.raises(WeightsError, match="tuned from .* which is not there; put that file next to it"):
        load_generator(path)


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({}, {"sha256": "0" * 64}, "SHA-256 00000000….*; get that one"),
        ({}, {"model": "lions"}, "lions, which is not there"),
        ({}, {"model": ["a"]}, "does not say which model"),
        ({"mapping.fc9.weight": torch.ones(2)}, {}, "mapping.fc9.weight .2,. does not fit"),
        ({"synthesis.b4.const": torch.ones(2, 4, 4)}, {}, "const .2, 4, 4. does not fit"),
        ({"synthesis.b4.conv1.noise_strength": torch.tensor(math.inf)}, {}, "not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(cat, tmp_path, changes, config, message):
    path, base = tmp_path / "tuned.safetensors", {"model": MODEL, "sha256": sha256(cat.generator.path)} | config
    save_tensors(path, cat.changes() | changes, {"config": json.dumps({"tuned_from": base})})
    with pytest.raises(WeightsError, match=f"{path}: it.*{message}") as caught:
        load_generator(path)
    assert "\n" not in str(caught.value)


def test_the_command_writes_a_model_next_to_each_result_that_draws_it(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "load_features", lambda *_, **__: tiny.vgg())
    photo, out, faces = tmp_path / "one.png", tmp_path / "out", FaceOptions(box="none")
    write_image(photo, torch.full((1, 3, 64, 64), 0.3))
    run = runs.InvertOptions(MODEL, "w", tune=True, tuning_steps=20, sheet=False, log="none")
    search = InversionOptions(steps=2, weights={"l1": 1.0}, start="mean", optimizer="adam")
    (row,) = runs.invert_photos([photo], out, run, search, faces)
    latents, metadata = load_latents(out / row["image"].replace(".png", ".safetensors"))
    assert row["psnr"] > row["psnr_before_tuning"] and metadata["model"] == row["tuned_model"]
    again, written = load_generator(row["tuned_model"]).synthesize(latents), read_image(out / row["image"])
    assert (again.clamp(0, 1) - written).abs().max() < 1 / 255
    with pytest.raises(runs.RunError, match="choose --noise or --tune"):
        runs.invert_photos([photo], out, dataclasses.replace(run, noise=True), search, faces)
