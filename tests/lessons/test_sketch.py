"""Sketches, their constraints and the search."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from skimage.feature import hog as reference_hog
from typer.testing import CliRunner

from helpers import constraints as module
from helpers.commands.sketch import app
from helpers.constraints import Colour, Constraints, Edge, Perceptual, Prior, Realism, Warp
from helpers.generators import load_generator
from helpers.generators.discriminator import Discriminator
from helpers.images import read_image
from helpers.latents import Latents, load_latents
from helpers.losses import lp_loss
from helpers.masks import brush, ellipse
from helpers.photos import demo_cat
from helpers.sketch import Sketch, SketchSearch, default_weights, near, read_sketch, search
from helpers.sketch import sketch_constraints as ask
from tests.support import tiny

SKETCHES = Path(__file__).resolve().parents[2] / "data" / "sketches"
SIZES = [SKETCHES / "64", SKETCHES / "256"]


@pytest.fixture(scope="module")
def generator():
    return tiny.stylegan2()


@pytest.fixture(scope="module")
def discriminator():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Discriminator(16, channel_base=256, channel_max=16).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def drawing(generator):
    """The upper half of an image of the generator itself, as a sketch."""
    with torch.no_grad():
        image = generator.synthesize(Latents("w", generator.sample("w", 1, seed=21))).clamp(0, 1)
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, :8] = 1
    return Sketch(image, mask)


@pytest.fixture
def terms(drawing, generator):
    return ask(drawing, generator, "w", {"colour": 1.0})


def random_images(n=2, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def save_rgba(path, colour, alpha):
    """uint8 (H, W, 3) and (H, W) as a PNG."""
    Image.fromarray(np.dstack([colour, alpha]).astype(np.uint8), "RGBA").save(path)
    return path


def test_cell_histograms_are_those_of_scikit_image_and_their_gradients_finite():
    drawn = load_generator().synthesize(load_generator().sample("w", 1, seed=3)).clamp(0, 1)
    for image in (demo_cat(64), drawn):
        ours = module.hog(image)[0]
        ours = ours / ours.sum(0, keepdim=True)
        grey = (image[0] * torch.tensor(module.LUMA).view(3, 1, 1)).sum(0).double().numpy()
        cells = {"orientations": 8, "pixels_per_cell": (8, 8), "cells_per_block": (1, 1)}
        found = reference_hog(grey, **cells, block_norm="L1", feature_vector=False)
        theirs = torch.from_numpy(found[:, :, 0, 0]).permute(2, 0, 1).float()
        assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] >= 0.95
    flat = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    module.normalised(module.hog(flat)).sum().backward()
    assert flat.grad.isfinite().all()
    image = random_images(1, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module.normalised(module.hog(x)), image, eps=1e-7, atol=1e-4)
    with pytest.raises(ValueError, match="at least 8 pixels"):
        module.hog(torch.rand(1, 3, 6, 6))


TARGET = random_images(1, seed=5)
NETWORK = {"features": tiny.Features(), "layers": ("conv1_1", "conv2_1")}


MASKED = {
    "colour": lambda mask, critic: Colour(mask, target=TARGET),
    "edge": lambda mask, critic: Edge(mask, target=TARGET),
    "perceptual": lambda mask, critic: Perceptual(mask, target=TARGET, **NETWORK),
    "warp": lambda mask, critic: Warp(source=TARGET, region=mask, shift=(2, 1)),
    "realism": lambda mask, critic: Realism(mask, discriminator=critic),
}


@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)
def test_no_constraint_sends_a_gradient_outside_its_mask(make, discriminator):
    constraint, images = make(ellipse(16, (0.4, 0.5), (0.2, 0.3)), discriminator), random_images(3).requires_grad_()
    value = constraint(images, None)
    assert value.shape == (3,)
    (gradient,) = torch.autograd.grad(value.sum(), images)
    outside = (constraint.mask == 0).expand_as(gradient)
    assert gradient[outside].abs().max() == 0
    assert (gradient[~outside].abs() > 0).float().mean() > 0.5


@pytest.mark.parametrize("kind", [Colour, Edge, Perceptual])
def test_a_constraint_is_met_by_its_target_and_by_what_lies_outside_the_mask(kind):
    mask, options = brush(16, [(0.3, 0.3), (0.7, 0.6)], 0.3), NETWORK | {"layers": ("conv1_1",)}
    constraint = kind(mask, target=TARGET, **options if kind is Perceptual else {})
    assert constraint(TARGET, None).item() < 1e-6
    other = torch.lerp(random_images(1, seed=6), TARGET, (mask > 0).float())
    if kind is not Edge:  # the direction of an edge is read from both sides of it
        assert constraint(other, None).item() < 1e-6
    assert constraint(random_images(1, seed=6), None).item() > 0.01


def test_masks_weigh_the_same_and_every_constraint_measures_what_it_says(generator, discriminator):
    target, images = torch.zeros(1, 3, 16, 16), torch.full((2, 3, 16, 16), 0.3)
    for width in (0.1, 0.5):
        value = Colour(brush(16, [(0.2, 0.5), (0.8, 0.5)], width), target=target)(images, None)
        torch.testing.assert_close(value, torch.tensor([0.3, 0.3]))
    loss = Constraints([Colour(None, torch.tensor([1.0, 3.0]), target=target)])(images, None)
    torch.testing.assert_close(torch.stack([loss.total, loss.parts["colour"]]), torch.tensor([[0.3, 0.9], [0.3, 0.3]]))
    stripes = (0.5 + 0.4 * torch.sin(torch.arange(16.0))).expand(1, 3, 16, 16)
    edge = Edge(None, target=stripes)
    assert edge(0.5 + (stripes - 0.5) * 0.3, None).item() < 0.1
    assert edge(stripes.transpose(2, 3), None).item() > 1.5
    assert edge(torch.full_like(stripes, 0.5), None).item() == pytest.approx(1, abs=0.05)
    source, region, expected = random_images(1), torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    region[:, :, 4:8, 4:8] = expected[:, :, 6:10, 7:11] = 1
    warp = Warp(source=source, region=region, shift=(3, 2))
    torch.testing.assert_close(warp.mask, expected, atol=1e-5, rtol=0)
    moved = random_images(1, seed=8)
    moved[:, :, 6:10, 7:11] = source[:, :, 4:8, 4:8]
    assert warp(moved, None).item() < 1e-5 < warp(source, None).item()
    with pytest.raises(ValueError, match="out of the image"):
        Warp(source=source, region=region, shift=(40, 0))
    for space in generator.spaces:
        mean, std = generator.mean(space), generator.std(space)
        value = Prior(None, generator=generator, space=space)(None, torch.cat([mean, mean + 2 * std]))
        torch.testing.assert_close(value, torch.tensor([0.0, 4.0]))
    images = random_images(4)
    scores = torch.cat([discriminator(image[None]) for image in images])
    found = Realism(discriminator=discriminator)(images, None)
    torch.testing.assert_close(found, torch.nn.functional.softplus(-scores))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t, g: [Prior(None, generator=g, space="w")], "nothing ties"),
        (lambda t, g: [Colour(None, 0.0, target=t)], "nothing ties"),
        (lambda t, g: [Colour(None, -1.0, target=t)], "weight of colour"),
        (lambda t, g: [Colour(None, target=t), Colour(None, target=t)], "one name"),
        (lambda t, g: [Colour(torch.zeros(1, 1, 16, 16), target=t)], "mask of colour is empty"),
        (lambda t, g: [Edge(None, target=torch.full_like(t, 0.5))], "no edges"),
        (lambda t, g: ask(Sketch(t, t[:, :1]), g, "w", {"colour": 1.0, "realism": 1.0}), "load_discriminator"),
        (lambda t, g: ask(Sketch(t, t[:, :1]), g, "w", {"perceptual": 1.0}), "load_features"),
        (lambda t, g: ask(Sketch(t, t[:, :1]), g, "w", {"color": 1.0}), "constraint color; a sketch has colour, edge"),
    ],
)
def test_constraints_that_ask_for_nothing_are_refused(make, message, generator):
    with pytest.raises(ValueError, match=message):
        Constraints(make(random_images(1), generator))


def test_a_sketch_keeps_its_colours_its_strokes_are_weights_and_a_mask_replaces_transparency(tmp_path):
    colour, alpha = np.zeros((64, 64, 3)), np.zeros((64, 64))  # the paper is black under its transparency
    colour[16:48, 16:48], alpha[16:48, 16:48] = (200, 100, 50), 255
    sketch = read_sketch(save_rgba(tmp_path / "a.png", colour, alpha), 16)
    drawn = (sketch.mask > 0).expand_as(sketch.image)
    paint = torch.tensor([200, 100, 50]).view(1, 3, 1, 1) / 255
    torch.testing.assert_close(sketch.image[drawn], paint.expand_as(sketch.image)[drawn], atol=0.01, rtol=0)
    assert sketch.mask[0, 0, 4:12, 4:12].min() > 0.7 and sketch.mask[0, 0, :3].max() == 0
    alpha = np.zeros((16, 16))
    alpha[:4], alpha[4:8] = 128, 12
    sketch = read_sketch(save_rgba(tmp_path / "a.png", np.full((16, 16, 3), 90), alpha), 16)
    torch.testing.assert_close(sketch.mask[0, 0, :4], torch.full((4, 16), 128 / 255))
    assert sketch.mask[0, 0, 4:].max() == 0
    Image.new("RGB", (16, 16), (10, 20, 30)).save(tmp_path / "a.png")
    white = np.zeros((16, 16), np.uint8)
    white[:5] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    sketch = read_sketch(tmp_path / "a.png", 16, tmp_path / "mask.png")
    assert sketch.mask.sum() == 80
    Image.fromarray(white.repeat(3, 0).repeat(3, 1)).save(tmp_path / "mask.png")  # a file may have another size
    assert read_sketch(tmp_path / "a.png", 16, tmp_path / "mask.png").mask.sum() == pytest.approx(80, rel=0.05)
    again = read_sketch(np.asarray(Image.open(tmp_path / "a.png")), 16, torch.from_numpy(white))
    assert torch.equal(again.mask, sketch.mask) and torch.equal(again.image, sketch.image)


@pytest.mark.parametrize("size", [200, 500, 1000])
def test_a_drawing_of_any_size_is_accepted_whatever_its_resizing_rounds(tmp_path, generator, size):
    drawing = Image.new("RGBA", (size, size))
    ImageDraw.Draw(drawing).ellipse([size // 10, size // 8, 9 * size // 10, 7 * size // 8], fill=(230, 140, 60, 255))
    drawing.save(tmp_path / "a.png")
    for resolution in (16, 64):
        sketch = read_sketch(tmp_path / "a.png", resolution)
        assert 1 - 1e-5 < sketch.mask.max() <= 1 and sketch.image.max() <= 1
        assert len(ask(sketch, generator, weights={"colour": 1.0, "edge": 0.1})) == 2


PAPER, EMPTY = Image.new("RGB", (16, 16)), Image.new("RGBA", (16, 16))
SILENT = {  # message to image and mask
    "opaque everywhere": (PAPER, None),
    "all of it is transparent": (EMPTY, None),
    "square sketch.*32 x 16": (Image.new("RGBA", (32, 16)), None),
    "black everywhere": (PAPER, np.zeros((16, 16))),
    "sketch's mask must have the image's size": (PAPER, np.ones((8, 8))),
}


@pytest.mark.parametrize("message", SILENT)
def test_a_sketch_that_says_nothing_is_refused_in_one_sentence(tmp_path, message):
    image, mask = SILENT[message]
    image.save(tmp_path / "drawing.png")
    with pytest.raises(ValueError, match=message):
        read_sketch(tmp_path / "drawing.png", 16, mask)


def test_the_shipped_sketches_are_read_and_one_cut_out_of_an_image_is_found_again():
    names = [sorted(path.name for path in folder.glob("*.png")) for folder in SIZES]
    assert len(names[0]) >= 6 and names[0] == names[1]
    for name in names[0]:
        small, large = (read_sketch(folder / name, 64) for folder in SIZES)
        assert (small.mask - large.mask).abs().mean() < 0.05
        assert lp_loss(small.image, large.image, 1, torch.minimum(small.mask, large.mask)) < 0.06
        assert small.is_line_drawing == (name == "outline.png") == ("colour" not in default_weights(small))
    generator = load_generator()
    with torch.no_grad():
        image = generator.synthesize(Latents("w", generator.sample("w", 1, seed=5))).clamp(0, 1)
    sketch = Sketch(image, ellipse(64, (0.5, 0.5), (0.4, 0.3)))
    found = search(generator, sketch, weights={"colour": 1.0}, starts=2, steps=60, candidates=32, enough=None)
    start = SketchSearch(generator, ask(sketch, generator, "w", {"colour": 1.0}), starts=1, candidates=32)
    with torch.no_grad():
        before = lp_loss(generator.synthesize(start.base), image, 1, sketch.mask)
    assert found.parts["colour"][0] < 0.05 < 0.15 < before[0]


def run(generator, constraints, **options):
    return SketchSearch(generator, constraints, **{"steps": 12, "enough": None} | options).run()


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_a_batch_of_starts_equals_single_runs(space, generator, discriminator, drawing):
    weights = {"colour": 1.0, "edge": 0.2, "realism": 0.1, "prior": 0.1}
    terms = ask(drawing, generator, space, weights, discriminator=discriminator)
    codes = generator.sample(space, 3, seed=2)
    few = {"space": space, "steps": 6}  # a batch rounds otherwise, and Adam makes more of that at every step
    together = run(generator, terms, start=Latents(space, codes), **few)
    alone = [run(generator, terms, start=Latents(space, code[None]), **few) for code in codes]
    totals = torch.cat([result.total for result in alone])
    order = totals.argsort()
    torch.testing.assert_close(together.total, totals[order], rtol=1e-3, atol=1e-5)
    single = torch.cat([alone[i].images for i in order])
    torch.testing.assert_close(together.images, single, rtol=0, atol=5e-3)


def test_candidates_are_ranked_and_a_table_of_weights_is_one_batch(generator, drawing, terms):
    found = run(generator, ask(drawing, generator, "w", {"colour": 1.0, "prior": 0.1}), starts=4, candidates=8)
    assert found.total.tolist() == sorted(found.total.tolist())
    images = generator.synthesize(found.latents)
    assert torch.equal(images.clamp(0, 1), found.images)
    torch.testing.assert_close(found.parts["colour"], lp_loss(images, drawing.image, 1, drawing.mask))
    assert found.history["total"].shape == (12, 4)
    assert found.total[0] <= found.history["total"][0, 0]
    losses = {}
    for start in ("sample", "best"):
        base = SketchSearch(generator, terms, start=start, starts=4, candidates=64).base
        losses[start] = terms[0](generator.synthesize(base), base.code).mean()
    assert losses["best"] < losses["sample"]
    table = {"colour": torch.tensor([1.0, 1.0]), "prior": torch.tensor([0.0, 5.0])}
    found = run(generator, ask(drawing, generator, "w", table), starts=3, candidates=8)
    assert len(found.images) == 6
    for i, prior in enumerate((0.0, 5.0)):
        weights = {"colour": 1.0, "prior": prior}
        single = run(generator, ask(drawing, generator, "w", weights), starts=3, candidates=8)
        torch.testing.assert_close(found.total[3 * i : 3 * i + 3], single.total, rtol=1e-3, atol=1e-5)
    assert found.parts["prior"][3:].max() < found.parts["prior"][:3].min()


def test_a_search_stops_when_enough_are_met_continues_near_one_and_takes_a_dcgan(generator, terms, monkeypatch):
    monkeypatch.setattr(Colour, "met_at", 10.0)
    assert run(generator, terms, starts=2, enough=0.5).steps == 1
    monkeypatch.setattr(Colour, "met_at", 0.0)
    found = run(generator, terms, starts=2, enough=0.5, steps=5)
    assert found.steps == 5 and not found.met.any()
    found = run(generator, terms, starts=4)
    around = near(generator, found.latents[2], 200, radius=0.5)
    assert torch.equal(around.code[:1], found.latents.code[2:3])
    steps = (around.code[1:] - around.code[:1]) / generator.std("w")
    assert steps.std().item() == pytest.approx(0.5, rel=0.05)
    again = run(generator, terms, start=around[:3])
    assert len(again.images) == 3 and again.total[0] <= found.total[2] + 1e-6
    with pytest.raises(ValueError, match="pick one"):
        near(generator, found.latents)
    sketch, weights = Sketch(torch.full((1, 3, 64, 64), 0.4), ellipse(64)), {"colour": 1.0, "prior": 0.01}
    found = search(tiny.dcgan(), sketch, weights=weights, starts=2, steps=3, candidates=4)
    assert found.latents.space == "z" and found.images.shape == (2, 3, 64, 64)
    wrong = {"start must be one of": {"start": "mean"}, "at least 1 start": {"starts": 0}}
    for message, options in (wrong | {"needs the sketch itself": {"start": "encoder"}}).items():
        with pytest.raises(ValueError, match=message):
            SketchSearch(generator, terms, **options)


def test_the_command_writes_sheet_best_latents_and_table(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "opaque.png")
    arguments = ["sketch", str(SIZES[0] / "eyes-only.png"), str(tmp_path / "opaque.png")]
    arguments += ["--out", str(tmp_path / "out"), "--starts", "2", "--steps", "2", "--device", "cpu"]
    outcome = CliRunner().invoke(app, [*arguments, "--constraints", "colour=1,edge=0.2"])
    assert isinstance(outcome.exception, ValueError) and "opaque.png" in str(outcome.exception)
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert row["constraints"] == {"colour": 1.0, "edge": 0.2} and row["starts"] == 2 and row["steps"] == 2
    latents, metadata = load_latents(tmp_path / "out" / row["latents"])
    assert latents.code.shape == (2, 256) and metadata["model"] == "stylegan2-cats-64"
    best, again = read_image(tmp_path / "out" / row["image"]), load_generator().synthesize(latents[0]).clamp(0, 1)
    torch.testing.assert_close(best, again, atol=0.003, rtol=0)
    assert (tmp_path / "out" / "eyes-only-candidates.png").is_file()
    outcome = CliRunner().invoke(app, [*arguments, "--constraints", "colour"])
    assert "NAME=WEIGHT" in str(outcome.exception)
