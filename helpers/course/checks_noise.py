"""Checks of lesson 2: PSNR, fitting noise maps, curves and their rates, new noise, drift."""

import torch
from torch import Tensor

from helpers.course.expect import TinyGenerator, expect, expect_shape, loss_curves
from helpers.latents import Latents


def _decibels(images: Tensor, targets: Tensor) -> Tensor:
    images, targets = ((t.clamp(0, 1) * 255).round() / 255 for t in (images, targets))
    return -10 * (images - targets).square().mean((1, 2, 3)).log10()


def psnr(function) -> None:
    """Exercise 2.1: ``psnr(images, targets)``."""
    targets = torch.full((3, 3, 4, 4), 0.4)
    images = targets.clone()
    images[0] += 0.1
    images[1] += 0.001  # vanishes in 8 bits of 0.4
    images[2] = 1.7  # clamped to 1
    value, expected = function(images, targets), _decibels(images, targets)
    expect(isinstance(value, Tensor) and value.shape == (3,), "psnr should return a tensor with one value per image.")
    expect(value[1].isinf(), "a difference that 8-bit rounding removes should give an infinite PSNR.")
    side = "too high" if value[0] > expected[0] else "too low"
    hint = f"the PSNR is {side}; the peak is 1, not the image's maximum, and the mean is over channels and pixels."
    expect((value[0] - expected[0]).abs() < 0.05, hint)
    expect((value[2] - expected[2]).abs() < 0.01, "images should be clamped to [0, 1] first.")


def _problem() -> tuple[TinyGenerator, Latents, Tensor]:
    """A generator with noise that shows, codes, and their images with other noise."""
    generator, random = TinyGenerator(noise=0.5), torch.Generator().manual_seed(3)
    code = generator.map(torch.randn(2, generator.z_dim, generator=random))
    targets = generator.synthesize(code, generator.fresh_noise(2, seed=9)).clamp(0, 1)
    return generator, Latents("w", code.clone()), targets


def fit_noise(function) -> None:
    """Exercise 2.2: ``fit_noise(generator, targets, latents, steps, rate, per_layer)``."""
    generator, latents, targets = _problem()
    code, fixed = latents.code.clone(), generator.fixed_noise(2)
    maps, history = function(generator, targets, latents, steps=40)
    shapes = [tuple(m.shape) for m in fixed]
    expect([tuple(m.shape) for m in maps] == shapes, f"the maps should have the shapes {shapes}.")
    expect(not any(m.requires_grad for m in maps), "the maps should be detached from the graph.")
    expect_shape("the history (steps, B)", history, (40, 2))
    expect(torch.equal(latents.code, code), "the code should stay as it was.")
    start = _decibels(generator.synthesize(latents), targets)
    expect((history[0] - start).abs().max() < 0.1, "the history should begin with the PSNR of the fixed maps.")
    gain = (_decibels(generator.synthesize(latents, maps), targets) - start).min()
    expect(gain > 3, f"the PSNR should rise by far more than {gain:.1f} dB in 40 steps; check the rates and the loss.")
    expect((history[-1] - start > 0.5 * gain).all(), "the history should hold the PSNR of every step, to the last.")
    for per_layer in (True, False):
        maps, _ = function(generator, targets, latents, steps=1, per_layer=per_layer)
        moved = [(a - b).abs().median().item() for a, b in zip(maps, fixed, strict=True)]
        hint = "a layer with a smaller strength should be given a larger step, and all the same with per_layer=False."
        expect((moved[-1] > 2 * moved[0]) == per_layer, hint)


def match_rates(function) -> None:
    """Exercise 2.3: ``match_rates(curves, rates)``."""
    rates = torch.tensor([0.005, 0.05, 0.5, 5.0])
    for seed, order in enumerate(([2, 0, 3, 1], [0, 3, 1, 2], [3, 1, 0, 2])):
        found = function(loss_curves(rates, seed)[order], rates)
        expect_shape("match_rates", found, (4,))
        expect(all(rate in rates for rate in found), "each value should be one of the rates.")
        expect(len(set(found.tolist())) == 4, "every rate belongs to one curve.")
        right = int((found == rates[order]).sum())
        expect(right == 4, f"{right} of 4 curves have the right rate; how far do the first steps go, and what follows?")


def fresh_noise_psnr(function) -> None:
    """Exercise 2.4: ``fresh_noise_psnr(generator, targets, latents, draws, seed)``."""
    generator, latents, targets = _problem()
    latents.noise = generator.fresh_noise(2, seed=9)
    value = function(generator, targets, latents, draws=6, seed=3)
    fitted = isinstance(value, Tensor) and value.isinf().any()
    expect(not fitted, "the fitted maps of the latents should not be used here.")
    expect_shape("fresh_noise_psnr", value, (2,))
    draws = [_decibels(generator.synthesize(latents, generator.fresh_noise(1, seed)), targets) for seed in range(3, 9)]
    right = torch.allclose(value, torch.stack(draws).mean(0), atol=0.05)
    expect(right, "the mean over the draws is off; average decibels, from the seed upwards.")


def drift(function) -> None:
    """Exercise 2.6: ``drift(before, after, latents)``."""
    before, latents, _ = _problem()
    after = TinyGenerator(noise=0.5)
    after.first = after.first + 0.1
    value = function(before, after, latents)
    expect_shape("drift", value, (2,))
    silent = [torch.zeros_like(m) for m in before.fixed_noise(1)]
    right = _decibels(*(network.synthesize(latents, silent) for network in (before, after)))
    hint = "the decibels are off; draw the same latents by both, with maps of zeros, and compare the two."
    expect(torch.allclose(value, right, atol=0.05), hint)
