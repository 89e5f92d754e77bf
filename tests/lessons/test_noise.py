"""The noise stage: what it may move, what it reaches, and that the counter-measure measures the code alone."""

import math

import pytest
import torch

from helpers import noise
from helpers.inversion import project
from helpers.latents import Latents
from helpers.metrics import psnr
from helpers.noise import noise_inversion, optimize_noise
from helpers.optimizers import constant
from tests.support import tiny

SIZE = 16


@pytest.fixture(scope="module")
def generator():
    network = tiny.stylegan2()
    # learned strengths differ by orders of magnitude between layers
    for i, strength in enumerate(network.noise_strengths):
        strength.data.fill_((0.1, -0.003, 0.05, 0.0005, -0.02)[i % 5])
    return network


@pytest.fixture(scope="module")
def targets():
    ramp = torch.linspace(0.2, 0.8, SIZE)
    texture = 0.1 * torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return (0.5 * ramp[:, None] + 0.5 * ramp[None]).expand(2, 3, -1, -1) * 0.8 + texture


@pytest.fixture(scope="module")
def start(generator, targets):
    return project(generator, targets, "w+", weights={"l2": 1.0}, steps=40).latents


@pytest.fixture(scope="module")
def fitted(generator, targets, start):
    return optimize_noise(generator, targets, start, steps=80)


def test_the_noise_adds_many_decibels_and_leaves_the_code(generator, targets, start, fitted):
    """At one rate for all maps those of weak layers stay where they are, and the fit is far worse."""
    alike = optimize_noise(generator, targets, start, steps=80, lr=0.01, per_layer=False).images
    images = (generator.synthesize(start).clamp(0, 1), fitted.images, alike)
    before, after, unscaled = (psnr(found, targets) for found in images)
    assert (after > before + 7).all() and (after > unscaled + 3).all()
    assert torch.equal(fitted.latents.code, start.code)
    assert torch.equal(generator.synthesize(fitted.latents).clamp(0, 1), fitted.images)
    assert fitted.steps == 80 and fitted.history["l2"].shape == (80, 2)


def test_the_gradient_is_that_of_the_sum_scaled_by_the_strength_of_each_layer(generator, targets, start):
    result = optimize_noise(generator, targets, start, steps=1, lr=0.25, per_layer=False, schedule=constant())
    for map_, fixed in zip(result.latents.noise, generator.fixed_noise(2), strict=True):
        assert (map_ - fixed).abs().median().item() == pytest.approx(0.25, rel=1e-2)
    search = noise_inversion(generator, targets, start, steps=2)
    first, maps = next(iter(search)), [m.requires_grad_() for m in generator.fixed_noise(2)]
    (generator.synthesize(start.code, maps) - targets).square().sum().backward()
    expected = maps[0].grad / generator.noise_strengths[0].abs()  # the map moves by as much for a unit of activations
    assert torch.allclose(search.runs[-1].parameters[0].grad, expected, rtol=1e-3)
    assert torch.allclose(first.total, first.parts["l2"])
    network = tiny.stylegan2()
    network.noise_strengths[1].data.fill_(0.0)
    result = optimize_noise(network, targets, Latents("w+", network.mean("w+")), steps=5)
    assert all(map_.isfinite().all() for map_ in result.latents.noise)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_batch_is_as_good_as_singles(generator, targets, start, optimizer):
    both = optimize_noise(generator, targets, start, steps=6, optimizer=optimizer)
    assert (both.total < 0.7 * both.history["total"][0]).all()
    for i in range(2):
        single = optimize_noise(generator, targets[i : i + 1], start[i], steps=6, optimizer=optimizer)
        assert torch.allclose(single.images, both.images[i : i + 1], atol=1e-3)  # Adam turns rounding into steps


def test_only_masked_pixels_count_and_maps_move_only_where_they_may(generator, targets, start):
    mask, middle = torch.zeros(1, 1, SIZE, SIZE), SIZE // 2
    mask[..., :middle] = 1
    result = optimize_noise(generator, targets, start, mask, steps=60)
    error = (result.images - targets).square().mean((1, 2))
    assert (error[:, :middle].mean(1) < 0.2 * error[:, middle:].mean(1)).all()
    assert torch.allclose(result.parts["l2"], error[:, :middle].mean(1), rtol=1e-3)
    result = optimize_noise(generator, targets, start, where=mask, steps=5)
    for map_, fixed in zip(result.latents.noise, generator.fixed_noise(2), strict=True):
        half = map_.shape[-1] // 2
        assert torch.equal(map_[..., half:], fixed[..., half:])
        assert not torch.equal(map_[..., :half], fixed[..., :half])


@pytest.mark.parametrize(
    ("order", "turns"), [("joint", [(True, True)] * 8), ("alternating", [(True, False), (False, True)] * 4)]
)
def test_joint_moves_code_and_noise_and_alternating_takes_turns(generator, targets, order, turns):
    mean, moved = Latents("w+", generator.mean("w+")), []
    before = Latents("w+", mean.code.expand(2, -1, -1), generator.fixed_noise(2))
    for step in noise_inversion(generator, targets, mean, order=order, steps=16):
        pairs = ((step.latents.code, before.code), (step.latents.noise[0], before.noise[0]))
        moved.append(tuple(not torch.equal(ours, theirs) for ours, theirs in pairs))
        before = step.latents
    # the first step after a change of turn starts from the best so far, which may differ in what moved last
    assert moved[1::2] == turns


def test_joint_hides_the_image_in_the_noise_and_regularised_maps_stay_white(generator, targets, fitted, start):
    mean = Latents("w+", generator.mean("w+"))
    joint = optimize_noise(generator, targets, mean, order="joint", steps=30, code_lr=1e-4)
    fresh = noise.fresh_noise_psnr(generator, targets, joint.latents)
    assert (noise.fresh_noise_psnr(generator, targets, fitted.latents) > fresh + 3).all()
    tied = optimize_noise(generator, targets, start, steps=30, regularise=100.0)
    for map_ in tied.latents.noise:
        assert torch.allclose(map_.mean((1, 2, 3)), torch.zeros(2), atol=1e-4)
        assert torch.allclose(map_.square().mean((1, 2, 3)), torch.ones(2), atol=1e-3)
    assert (tied.parts["l2"] > fitted.parts["l2"]).all()
    assert fitted.latents.noise[1].std() > 3


def test_partly_fitted_maps_go_coarse_first_and_fresh_noise_psnr_is_a_mean_of_draws(generator, start, fitted, targets):
    fixed, latents = generator.fixed_noise(2), fitted.latents
    none, half, all_ = (noise.partly_fitted(generator, latents, amount).noise for amount in (0.0, 0.5, 1.0))
    two = noise.partly_fitted(generator, latents, levels=2).noise
    for i, (theirs, own) in enumerate(zip(fixed, latents.noise, strict=True)):
        assert torch.equal(none[i], theirs) and torch.equal(all_[i], own)
        assert torch.allclose(half[i], (theirs + own) / 2, rtol=1e-4, atol=1e-4)
        assert torch.equal(two[i], own if i < 2 else theirs)
    with pytest.raises(ValueError, match="no noise maps"):
        noise.partly_fitted(generator, start)
    value = noise.fresh_noise_psnr(generator, targets, start, draws=2, seed=5)
    by_hand = [psnr(generator.synthesize(start.code, generator.fresh_noise(1, seed=seed)), targets) for seed in (5, 6)]
    assert torch.allclose(value, (by_hand[0] + by_hand[1]) / 2)
    alone = noise.fresh_noise_psnr(generator, targets[1:], start[1], draws=2, seed=5)
    assert torch.allclose(alone, value[1:], atol=0.01)
    assert torch.equal(noise.fresh_noise_psnr(generator, targets, fitted.latents, draws=2, seed=5), value)
    assert (psnr(fitted.images, targets) > value).all()


def test_the_residual_report_adds_up_and_the_autocorrelation_is_small_for_white_noise(generator):
    targets = torch.full((1, 3, SIZE, SIZE), 0.5)
    checker = (torch.arange(SIZE)[:, None] + torch.arange(SIZE)[None]) % 2 * 0.2 - 0.1
    grey, red_green = torch.ones(3), torch.tensor([1.0, -1.0, 0.0])
    for colour, name in ((grey, "luminance"), (red_green, "chroma")):
        for pattern, band in ((torch.full((SIZE, SIZE), 0.1), "low"), (checker, "high")):
            images = targets + colour[:, None, None] * pattern
            parts = noise.residual_report(images, targets)
            mse = (images - targets).square().mean().item()
            assert parts[f"{name}_{band}"].item() == pytest.approx(mse, rel=1e-4)
            assert sum(value.item() for value in parts.values()) == pytest.approx(mse, rel=1e-4)
    white = noise.noise_autocorrelation([torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))])
    smooth = torch.linspace(-1, 1, 64).expand(1, 1, 64, 64)
    image = noise.noise_autocorrelation([noise.normalised(smooth)])
    assert white < 0.1 and image > 2
    checker = (torch.arange(8)[:, None] + torch.arange(8)[None]) % 2 * 2.0 - 1
    assert noise.noise_autocorrelation([checker[None, None]]).item() == pytest.approx(2)  # (-1)^2 in both directions


def test_what_does_not_fit_is_refused_in_one_sentence(generator, targets, start):
    dcgan = tiny.dcgan()
    other = {"generator": dcgan, "latents": Latents("z", dcgan.sample("z", 2)), "targets": torch.zeros(2, 3, 64, 64)}
    cases = [
        ({"targets": targets[..., :8]}, "targets must be"),
        ({"targets": targets * math.nan}, "must be finite"),
        ({"order": "backwards"}, "sequential, joint, alternating"),
        ({"targets": targets[[0, 1, 0]]}, "one per target"),
        (other, "no noise maps"),
    ]
    for changes, message in cases:
        arguments = {"generator": generator, "targets": targets, "latents": start} | changes
        with pytest.raises(ValueError, match=message) as caught:
            optimize_noise(**arguments, steps=1)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="at least one draw"):
        noise.fresh_noise_psnr(generator, targets, start, draws=0)
