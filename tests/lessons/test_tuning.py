"""Tuning: what it reaches, what it leaves alone, and the file of it that names its model."""

import dataclasses
import json
import math

import pytest
import torch

from helpers.commands import runs
from helpers.commands.runs import RunError
from helpers.encoder import load_encoder
from helpers.faces import FaceOptions
from helpers.files import sha256
from helpers.generators import load_discriminator, load_generator
from helpers.images import read_image, write_image
from helpers.inversion import InversionOptions, project
from helpers.latents import Latents, chosen_samples, load_latents, save_tensors
from helpers.metrics import psnr
from helpers.noise import fresh_noise_psnr
from helpers.tuning import Tuning
from helpers.weights import WeightsError, save_weights
from tests.support import tiny

GENERATOR, MODEL = tiny.stylegan2(), "stylegan2-cats-64"


@pytest.fixture(scope="module")
def photo():
    return tiny.images(1, seed=9)


@pytest.fixture(scope="module")
def pivot(photo):
    return project(GENERATOR, photo, "w", weights={"l2": 1.0}, steps=40).latents


@pytest.mark.parametrize("family", [tiny.stylegan2, tiny.stylegan1])
def test_the_weights_draw_the_photo_from_the_code_that_stays_and_the_generator_does_not_change(photo, pivot, family):
    generator = family()
    before, image = {k: v.clone() for k, v in generator.state_dict().items()}, generator.synthesize(pivot)
    search = Tuning(generator, photo, pivot, steps=60)
    result = search.run()
    tuned, code = search.tuned(), Latents("w", pivot.code)
    assert (psnr(result.images, photo) > psnr(image, photo) + 6).all()
    assert (fresh_noise_psnr(tuned, photo, code) > fresh_noise_psnr(generator, photo, code) + 5).all()
    assert torch.equal(tuned.synthesize(result.latents).clamp(0, 1), result.images)
    assert torch.equal(result.latents.code, pivot.code) and result.history["l2"].shape == (60, 1)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert torch.equal(generator.synthesize(pivot), image)  # nor what was prepared of its weights
    assert not any(parameter.requires_grad for parameter in tuned.parameters())


def test_one_generator_draws_several_photos_and_locality_keeps_the_others(photo, pivot):
    photos, others = torch.cat([photo, photo.flip(3)]), GENERATOR.sample("w", 8, seed=5)
    both = project(GENERATOR, photos, "w", weights={"l2": 1.0}, steps=20).latents
    result = Tuning(GENERATOR, photos, both, steps=40).run()
    assert (psnr(result.images, photos) > psnr(GENERATOR.synthesize(both), photos) + 3).all()
    assert result.total.shape == result.frozen.shape == (2,)
    free, tied = (Tuning(GENERATOR, photo, pivot, steps=40, locality=weight) for weight in (0.0, 1.0))
    results, before = [search.run() for search in (free, tied)], GENERATOR.synthesize(others)
    drift = [psnr(search.tuned().synthesize(others), before).mean() for search in (free, tied)]
    assert drift[1] > drift[0] + 2 and "locality" in results[1].history
    assert (psnr(results[1].images, photo) > psnr(GENERATOR.synthesize(pivot), photo) + 3).all()


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
    images = base.synthesize(code)
    assert torch.equal(load_discriminator(path)(images), load_discriminator(MODEL)(images))


def test_a_model_of_a_file_is_found_where_it_was_or_next_to_it_with_its_label(tmp_path):
    network, base = tiny.stylegan2(c_dim=3), tmp_path / "a" / "cats.safetensors"
    tensors = {f"generator.{name}": value for name, value in network.state_dict().items()}
    save_weights(base, tensors, {"family": "stylegan2", "generator": network.config})
    generator = load_generator(f"{base}@2")
    search = Tuning(generator, torch.full((1, 3, 16, 16), 0.4), Latents("w", generator.mean("w")), steps=2)
    search.run()
    path = search.save(tmp_path / "b" / "tuned.safetensors")
    images = search.tuned().synthesize(Latents("z", generator.sample("z")))
    for _ in range(2):
        tuned = load_generator(path)
        assert tuned.label == 2 and torch.equal(tuned.synthesize(Latents("z", tuned.sample("z"))), images)
        base.replace(base := path.with_name("cats.safetensors"))
    base.unlink()
    with pytest.raises(WeightsError, match=r"tuned from .*cats.safetensors, which is not there; put that file next"):
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
    loaded_from_nothing = Tuning(GENERATOR, torch.rand(1, 3, 16, 16), Latents("w", GENERATOR.mean("w")), steps=1)
    loaded_from_nothing.run()
    with pytest.raises(ValueError, match="was not loaded from one"):
        loaded_from_nothing.save(path)
    with pytest.raises(ValueError, match="dcgan generator cannot be tuned"):
        Tuning(tiny.dcgan(), torch.rand(1, 3, 64, 64), Latents("z", torch.ones(1, 8)))


def test_the_command_writes_a_model_next_to_each_result_that_draws_it(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "load_features", lambda *_, **__: tiny.vgg())
    photos, out = [tmp_path / "one.png", tmp_path / "two.png"], tmp_path / "out"
    for number, path in enumerate(photos):
        write_image(path, torch.full((1, 3, 64, 64), 0.3 + 0.3 * number))
    run = runs.InvertOptions(MODEL, "w", tune=True, tuning_steps=3, sheet=False, log="none")
    search = InversionOptions(steps=2, weights={"l1": 1.0}, start="mean", optimizer="adam")
    faces = FaceOptions(box="whole")
    for row in runs.invert_photos(photos, out, run, search, faces):
        latents, metadata = load_latents(out / row["image"].replace(".png", ".safetensors"))
        assert row["psnr"] > row["psnr_before_tuning"] and metadata["model"] == row["tuned_model"]
        again = load_generator(row["tuned_model"]).synthesize(latents).clamp(0, 1)
        assert (again - read_image(out / row["image"])).abs().max() < 1 / 255
    with pytest.raises(RunError, match="choose --noise or --tune"):
        runs.invert_photos(photos, out, dataclasses.replace(run, noise=True), search, faces)
