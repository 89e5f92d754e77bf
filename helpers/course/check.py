"""Checks that a student runs below each exercise: quick, on a tiny random generator, with readable messages.

Each takes the student's function, prints one line when all is well and raises CheckFailed with what is wrong.
Those of lesson 3 are in ``checks_blending``, of lesson 4 in ``checks_sketch``, of lesson 5 in ``checks_style``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from helpers.course.checks_blending import blend_loss, mask_pyramid, seam  # noqa: F401  (checks of the notebooks, too)
from helpers.course.checks_sketch import masked_l1, rank, sketch_mask  # noqa: F401
from helpers.course.checks_style import content_loss, gram_matrix, style_loss, transfer  # noqa: F401
from helpers.course.expect import CheckFailed  # noqa: F401
from helpers.course.expect import TinyFeatures as _TinyFeatures
from helpers.course.expect import expect as _expect
from helpers.course.expect import expect_shape as _expect_shape
from helpers.course.expect import passed as _passed
from helpers.course.expect import tiny as _tiny
from helpers.generators.dcgan import DCGAN
from helpers.generators.stylegan2 import StyleGAN2
from helpers.latents import Latents
from helpers.latents import interpolate as reference_interpolate
from helpers.losses import Criterion as ReferenceCriterion
from helpers.noise import fresh_noise_psnr as reference_fresh_noise_psnr


def sample_noise(function) -> None:
    """Exercise 1.1: ``sample_noise(generator, space, n, seed)``."""
    generator = _tiny()
    with torch.no_grad():
        codes = {space: function(generator, space, 400, 5) for space in ("z", "w", "w+")}
        again, other = function(generator, "z", 400, 5), function(generator, "z", 400, 6)
    for space, code in codes.items():
        _expect_shape(f"sample_noise(generator, {space!r}, 400)", code, (400, *generator.code_shape(space)))
    z, w, w_plus = codes["z"], codes["w"], codes["w+"]
    _expect(torch.equal(z, again), "the same seed should give the same z.")
    _expect(not torch.equal(z, other), "another seed should give another z.")
    _expect(z.mean().abs() < 0.1 and (z.std() - 1).abs() < 0.1, "z should be standard normal; check mean and variance.")
    _expect(torch.allclose(w, generator.map(z), atol=1e-4), "w should be what the mapping network makes of z.")
    rows_differ = (w_plus - w_plus[:, :1]).abs().max()
    _expect(rows_differ == 0, "a sampled w+ should hold the same w in every row.")
    _expect(torch.allclose(w_plus[:, 0], w, atol=1e-4), "the rows of w+ should be the w of the same seed.")
    with torch.no_grad():
        _expect_shape("sample_noise(dcgan, 'z', 2)", function(DCGAN(9, 4), "z", 2, 0), (2, 9))
    _passed("sample_noise")


def criterion(cls) -> None:
    """Exercise 1.2: ``Criterion(target, features, weights, layers)(images, delta)``."""
    random = torch.Generator().manual_seed(1)
    target, images = (torch.rand(n, 3, 8, 8, generator=random) for n in (1, 3))
    delta = torch.randn(3, 5, 4, generator=random)
    layers, features = ("conv1_1", "conv2_1"), _TinyFeatures()
    for weights in ({"l1": 1.0}, {"l1": 0.5, "perceptual": 2.0}, {"l1": 1.0, "perceptual": 0.3, "delta": 0.01}):
        weights = {"l1": 0.0, "perceptual": 0.0, "delta": 0.0} | weights
        module = cls(target, features, weights, layers)
        images.requires_grad_()
        value = module(images, delta)
        active = " + ".join(name for name, weight in weights.items() if weight)
        _expect_shape(f"the loss ({active})", value, (3,))
        expected = ReferenceCriterion(target, features, weights, layers)(images, delta).total
        ratio = (value / expected).detach()
        direction = "too large" if ratio.mean() > 1 else "too small"
        right = torch.allclose(value, expected, rtol=1e-3)
        _expect(right, f"the loss with {active} is {direction}; check means, sums and what you divide by.")
        (gradient,) = torch.autograd.grad(value.sum(), images)
        _expect(bool(gradient.abs().sum() > 0), f"no gradient of {active} reaches the image.")
    module, features.calls = cls(target, features, weights, layers), 0
    module(images, delta)
    _expect(
        features.calls == 1, "forward should ask for the features of the images only; the target's are kept already."
    )
    _expect(float(module(target, torch.zeros(1, 5, 4))) < 1e-6, "the loss of the target itself should be 0.")
    _passed("Criterion")


def optimization_step(function) -> None:
    """Exercise 1.3: ``optimization_step(optimizer, delta, loss_function)``."""
    goal = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    delta = torch.zeros(2, 2, requires_grad=True)
    optimizer = torch.optim.SGD([delta], lr=0.25)
    losses = [function(optimizer, delta, lambda d: (d - goal).square().sum(1)) for _ in range(3)]
    _expect_shape("what the step returns", losses[0], (2,))
    _expect(not losses[0].requires_grad, "the returned loss should be detached from the graph.")
    _expect(torch.allclose(losses[0], goal.square().sum(1)), "return the loss before the update, one value per sample.")
    expected = goal * (1 - 0.5**3)
    if torch.allclose(delta, torch.zeros(2, 2)):
        raise CheckFailed("delta did not move; does the optimizer take a step?")
    _expect(
        torch.allclose(delta.detach(), expected, atol=1e-5),
        "delta moved by another amount than the gradient says; are old gradients cleared, is the loss summed?",
    )
    _passed("optimization_step")


def project(function) -> None:
    """Exercise 1.4: ``project(generator, criterion, start, space, steps, lr)``."""
    generator = _tiny()
    truth = generator.sample("w", 2, seed=11)
    target = generator.synthesize(truth)

    def loss(images: Tensor, delta: Tensor) -> Tensor:
        return (images - target).square().mean((1, 2, 3))

    start = generator.mean("w").repeat(2, 1)
    before = loss(generator.synthesize(start), start)
    code, history = function(generator, loss, start, "w", steps=60, lr=0.1)
    _expect_shape("the found code", code, tuple(start.shape))
    _expect(not code.requires_grad, "the found code should be detached from the graph.")
    _expect(history.shape == (60, 2), f"the history should be (steps, B) = (60, 2), but it is {tuple(history.shape)}.")
    _expect(torch.allclose(history[0], before, rtol=1e-3), "the first loss should be that of the start itself.")
    after = loss(generator.synthesize(code), code)
    _expect(bool((after < before * 0.5).all()), "the loss should fall well below that of the start; check the update.")
    _expect(
        bool((after <= history.min(0).values * 1.01 + 1e-7).all()),
        "the image of the returned code should have the smallest loss of the run; return the best code, not the last.",
    )
    _passed("project")


def interpolate(function) -> None:
    """Exercise 1.5: ``interpolate(a, b, t, space)``."""
    random = torch.Generator().manual_seed(2)
    t = torch.linspace(0, 1, 5)
    for space, shape in (("z", (6,)), ("w", (6,)), ("w+", (4, 6))):
        a, b = torch.randn(1, *shape, generator=random), torch.randn(1, *shape, generator=random)
        codes = function(a, b, t, space)
        _expect_shape(f"interpolate in {space}", codes, (5, *shape))
        _expect(torch.allclose(codes[:1], a, atol=1e-4), f"t = 0 should give a in {space}.")
        _expect(torch.allclose(codes[-1:], b, atol=1e-4), f"t = 1 should give b in {space}.")
        expected = reference_interpolate(Latents(space, a), Latents(space, b), t).code
        if not torch.allclose(codes, expected, atol=1e-3):
            shorter = codes[2].norm() < expected[2].norm() * 0.99
            why = (
                "the way cuts through the inside of the sphere"
                if space == "z" and shorter
                else "points in between are off"
            )
            raise CheckFailed(f"interpolation in {space}: {why}.")
    _passed("interpolate")


def psnr(function) -> None:
    """Exercise 2.1: ``psnr(images, targets)``."""
    targets = torch.full((3, 3, 4, 4), 0.4)
    images = targets.clone()
    images[0] += 0.1
    images[1] += 0.001  # vanishes in 8 bits of 0.4
    images[2] = 1.7  # clamped to 1
    value = function(images, targets)
    _expect(isinstance(value, Tensor) and value.shape == (3,), "psnr should return a tensor with one value per image.")
    _expect(bool(value[1].isinf()), "a difference that 8-bit rounding removes should give an infinite PSNR.")
    error = float(value[0] - 10 * torch.log10(1 / torch.tensor(26 / 255).square()))
    _expect(
        abs(error) < 0.05,
        f"the PSNR is {'too high' if error > 0 else 'too low'} by {abs(error):.1f} dB; check peak and mean.",
    )
    _expect(
        abs(value[2] - 10 * torch.log10(torch.tensor(1 / 0.36))) < 0.01, "images should be clamped to [0, 1] first."
    )
    _passed("psnr")


def _noisy() -> StyleGAN2:
    """The tiny generator with noise that shows, of a different strength in each layer."""
    generator = _tiny()
    for i, strength in enumerate(generator.noise_strengths):
        strength.fill_(0.5 / (i + 1))
    return generator


def fit_noise(function) -> None:
    """Exercise 2.2: ``fit_noise(generator, targets, latents, steps, rate, per_layer)``."""
    generator = _noisy()
    code = generator.sample("w", 2, seed=3)
    latents = Latents("w", code.clone())
    targets = generator.synthesize(code, generator.fresh_noise(2, seed=9)).clamp(0, 1)
    maps, history = function(generator, targets, latents, steps=40)
    shapes = [tuple(m.shape) for m in generator.fixed_noise(2)]
    _expect([tuple(m.shape) for m in maps] == shapes, f"the maps should have the shapes {shapes}.")
    _expect(not any(m.requires_grad for m in maps), "the maps should be detached from the graph.")
    _expect(tuple(history.shape) == (40, 2), f"the history should be (steps, B) = (40, 2), not {tuple(history.shape)}.")
    _expect(torch.equal(latents.code, code), "the code should stay as it was.")
    gain = (history[-1] - history[0]).min().item()
    _expect(gain > 3, f"the PSNR should rise by far more than {gain:.1f} dB in 40 steps; check the rates and the loss.")
    first, _ = function(generator, targets, latents, steps=1)
    moved = [(a - b).abs().median().item() for a, b in zip(first, generator.fixed_noise(2), strict=True)]
    _expect(moved[-1] > 2 * moved[0], "a layer with a smaller strength should be given a larger step.")
    _passed("fit_noise")


def fresh_noise_psnr(function) -> None:
    """Exercise 2.3: ``fresh_noise_psnr(generator, targets, latents, draws, seed)``."""
    generator = _noisy()
    code = generator.sample("w", 2, seed=3)
    latents = Latents("w", code, generator.fresh_noise(2, seed=77))
    targets = generator.synthesize(latents).clamp(0, 1)
    value = function(generator, targets, latents, draws=8, seed=0)
    _expect_shape("fresh_noise_psnr", value, (2,))
    expected = reference_fresh_noise_psnr(generator, targets, latents, draws=8, seed=0)
    _expect(bool((value < 60).all()), "the fitted maps of the latents should not be used here.")
    _expect(
        torch.allclose(value, expected, atol=0.05), "the mean over the draws is off; average decibels, seeds upwards."
    )
    _passed("fresh_noise_psnr")
