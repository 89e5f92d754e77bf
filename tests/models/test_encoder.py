"""The encoder, its training, and the searches that start from it."""

import dataclasses
from pathlib import Path

import pytest
import torch

from helpers.constraints import Colour
from helpers.encoder import Encoder, load_encoder
from helpers.generators import load_generator
from helpers.inversion import Inversion, project
from helpers.latents import Latents
from helpers.masks import ellipse
from helpers.photos import demo_cat
from helpers.sketch import Sketch, SketchSearch
from helpers.weights import WeightsError
from staff.training import encoder as training
from staff.training.encoder import EncoderSettings, EncoderTrainer, random_codes, random_view
from staff.training.loop import TrainingError
from tests.support import tiny


@pytest.fixture(scope="module")
def generator():
    generator = tiny.stylegan2()
    generator.base = "tiny"
    return generator


@pytest.fixture
def encoder(generator):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = Encoder("w+", generator.code_shape("w+"), 16, (16, 16, 16), 32)
        torch.nn.init.normal_(encoder.out.weight, std=0.3)
    return encoder.eval().requires_grad_(False)


def random_images(n=2, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(4))


def test_codes_are_offsets_in_standard_deviations_of_what_the_mask_leaves_one_by_one(generator, encoder):
    images, mask = random_images(), (ellipse(16, (0.5, 0.5), (0.3, 0.3)) > 0.5).float()
    code = encoder.encode(generator, images, mask).code
    torch.testing.assert_close(code, encoder.encode(generator, images * mask, mask).code)
    assert (code - encoder.encode(generator, images).code).abs().max() > 1e-3
    images = random_images()
    expected = generator.mean("w+") + generator.std("w+") * encoder(images, torch.ones(2, 1, 16, 16))
    torch.testing.assert_close(encoder.encode(generator, images).code, expected)
    narrow = encoder.encode(generator, images, space="w")
    assert narrow.space == "w"
    torch.testing.assert_close(narrow.code, expected.mean(1))
    fresh = Encoder("w+", generator.code_shape("w+"), 16, (16, 16, 16)).encode(generator, images).code
    assert ((fresh - generator.mean("w+")) / generator.std("w+")).abs().max() < 0.1  # nearly the mean
    images = random_images(3, 32)
    together = encoder.encode(generator, images).code
    torch.testing.assert_close(together, torch.cat([encoder.encode(generator, i[None]).code for i in images]))


def test_what_does_not_fit_is_refused(generator, encoder):
    images, slim = random_images(), Path(__file__).resolve().parents[2] / "weights" / "vgg19-slim.safetensors"
    for error, message, call in (
        (ValueError, "cannot become z", lambda: encoder.encode(generator, images, space="z")),
        (ValueError, "use its own generator", lambda: encoder.encode(tiny.dcgan(), images)),
        (ValueError, "same size", lambda: encoder.encode(generator, images, torch.ones(1, 1, 8, 8))),
        (ValueError, "no encoder for the generator 'dcgan-cats-64'", lambda: load_encoder("dcgan-cats-64")),
        (ValueError, "without a name", lambda: load_encoder(tiny.stylegan2())),
        (WeightsError, "does not hold an encoder", lambda: load_encoder(slim)),
    ):
        with pytest.raises(error, match=message):
            call()


def test_an_inversion_starts_at_the_prediction_and_a_sketch_search_halfway_to_it(generator, encoder, monkeypatch):
    targets = random_images(2)
    with pytest.raises(ValueError, match="no encoder"):
        Inversion(generator, targets, start="encoder")
    monkeypatch.setattr("helpers.encoder.load_encoder", lambda _: encoder)
    for space in ("w", "w+"):
        inversion = Inversion(generator, targets, space, start="encoder", steps=3)
        torch.testing.assert_close(inversion.base.code, encoder.encode(generator, targets, space=space).code)
        assert [phase.space for phase in inversion.phases] == [space]
    with pytest.raises(ValueError, match="cannot become z"):
        Inversion(generator, targets, "z", start="encoder")
    sketch = Sketch(random_images(1), ellipse(16))
    terms, options = [Colour(sketch.mask, target=sketch.image)], {"starts": 4, "sketch": sketch, "encoder": encoder}
    samples, halfway = (SketchSearch(generator, terms, start=s, **options).base.code for s in ("sample", "encoder"))
    predicted = encoder.encode(generator, sketch.image, sketch.mask, "w").code
    torch.testing.assert_close(halfway, (samples + predicted) / 2)


def test_the_bundled_encoder_is_a_better_start_than_the_mean():
    generator, cat = load_generator(), demo_cat(64)
    start = load_encoder(generator).encode(generator, cat)
    with torch.no_grad():
        predicted, mean = (generator.synthesize(c) for c in (start, Latents("w+", generator.mean("w+"))))
    assert (predicted - cat).abs().mean() < 0.7 * (mean - cat).abs().mean()
    assert project(generator, cat, start="encoder", steps=1).total < (predicted - cat).abs().mean() + 1e-4


@pytest.fixture
def small(monkeypatch, generator):
    """The training of a tiny encoder."""
    monkeypatch.setattr(training, "load_generator", lambda name, device=None: generator)
    monkeypatch.setattr(training, "load_features", lambda device=None: tiny.Features())
    monkeypatch.setattr(training, "LAYERS", tiny.Features.layers)
    monkeypatch.setattr(training, "Encoder", lambda space, shape, *_: Encoder(space, shape, 16, (16, 16, 16), 32))
    return EncoderSettings("tiny", steps=6, latent_share=0.5, batch=4)


def trainer_of(settings):
    return EncoderTrainer(settings, (random_images(6) * 255).to(torch.uint8), torch.device("cpu"))


def test_training_lowers_the_latent_loss_and_its_result_is_an_encoder_that_is_loaded(small, tmp_path, generator):
    settings = dataclasses.replace(small, steps=60, latent_share=1.0, batch=16, whole=1.0, rate=3e-3)
    trainer = EncoderTrainer(settings, None, torch.device("cpu"))
    losses = [trainer.step()["latent"] for _ in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    path = training.train_encoder(tmp_path, small, save_every=0)
    encoder = load_encoder(path)
    assert encoder.encode(generator, random_images()).code.shape == (2, *generator.code_shape("w+"))
    assert training.train_encoder(tmp_path, small) == path  # nothing is left to do


def test_the_second_part_uses_photos_and_a_run_that_was_killed_continues_exactly(small, tmp_path):
    trainer, again = trainer_of(small), trainer_of(small)
    steps = [trainer.step() for _ in range(4)]
    torch.save(trainer.state(), tmp_path / "state.pt")
    steps += [trainer.step() for _ in range(2)]
    assert [sorted(step) for step in steps] == [["latent"]] * 3 + [["l1", "latent", "perceptual", "prior"]] * 3
    again.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [again.step() for _ in range(2)] == steps[4:]
    for ours, theirs in zip(again.average.parameters(), trainer.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(TrainingError, match="made with another rate;"):
        trainer_of(dataclasses.replace(small, rate=0.1)).load(trainer.state())


def test_random_codes_part_at_a_row_in_half_of_the_cases_and_views_keep_some_images_whole(generator):
    space, codes = random_codes(generator, 400, torch.Generator().manual_seed(1))
    assert space == "w+" and codes.shape == (400, generator.num_ws, 16)
    whole = (codes == codes[:, :1]).flatten(1).all(1)
    assert 0.4 < whole.float().mean() < 0.65
    spread = ((codes - generator.mean("w+")) / generator.std("w+")).square().mean()
    assert spread.item() == pytest.approx(0.58, rel=0.15)  # the mean square of a truncation of 0.5 … 1
    images = random_images(64, 32)
    seen, mask = random_view(images, 0.5, torch.Generator().manual_seed(0))
    whole = mask.flatten(1).all(1)
    assert 0.3 < whole.float().mean() < 0.7
    assert torch.equal(seen[whole], images[whole])
    kept = mask[~whole].mean((1, 2, 3))
    assert kept.min() > 0.02 and kept.max() <= 1 and kept.std() > 0.1
