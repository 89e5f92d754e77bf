"""The checks of lesson 2 refuse the mistakes that are made, and say in which respect; the solutions pass elsewhere."""

import torch

from helpers.course import check
from helpers.latents import Latents
from tests.course.test_check import expect_refused, solution


def test_psnr_refuses_another_peak_no_rounding_and_no_clamping():
    def twice(images, targets):
        return solution("psnr")(images, targets) + 10 * torch.log10(torch.tensor(2.0))

    def unrounded(images, targets):
        return 10 * torch.log10(1 / (images.clamp(0, 1) - targets).square().mean((1, 2, 3)))

    def unclamped(images, targets):
        images, targets = ((t * 255).round() / 255 for t in (images, targets))
        return 10 * torch.log10(1 / (images - targets).square().mean((1, 2, 3)))

    expect_refused(check.psnr, twice, "too high", "the peak is 1")
    expect_refused(check.psnr, unrounded, "8-bit")
    expect_refused(check.psnr, unclamped, "clamped")
    expect_refused(check.psnr, lambda a, b: solution("psnr")(a, b).mean(), "one value per image")


def test_fit_noise_refuses_one_rate_for_all_a_code_that_moves_and_gradients_kept():
    right = solution("fit_noise")

    def alike(generator, targets, latents, steps=300, rate=0.1, per_layer=True):
        return right(generator, targets, latents, steps, 0.3, per_layer=False)

    def moves(generator, targets, latents, steps=300, rate=0.1, per_layer=True):
        found = right(generator, targets, latents, steps, rate)
        latents.code += 0.1
        return found

    def attached(generator, targets, latents, steps=300, rate=0.1, per_layer=True):
        maps, history = right(generator, targets, latents, steps, rate)
        return [m.requires_grad_() for m in maps], history

    def idle(generator, targets, latents, steps=300, rate=0.1, per_layer=True):
        return right(generator, targets, latents, steps, 1e-6)

    expect_refused(check.fit_noise, alike, "larger step")
    expect_refused(check.fit_noise, moves, "stay as it was")
    expect_refused(check.fit_noise, attached, "detached")
    expect_refused(check.fit_noise, idle, "rise by far more")


def test_fresh_noise_psnr_refuses_the_fitted_maps_one_seed_and_averaged_images():
    def fitted(generator, targets, latents, draws=8, seed=0):
        return solution("psnr")(generator.synthesize(latents), targets).clamp(max=99)

    def repeated(generator, targets, latents, draws=8, seed=0):
        return solution("fresh_noise_psnr")(generator, targets, latents, draws=1, seed=seed)

    def averaged(generator, targets, latents, draws=8, seed=0):
        code = Latents(latents.space, latents.code)
        images = [generator.synthesize(code, generator.fresh_noise(1, seed + i)) for i in range(draws)]
        return solution("psnr")(torch.stack(images).mean(0), targets)

    expect_refused(check.fresh_noise_psnr, fitted, "fitted maps")
    expect_refused(check.fresh_noise_psnr, repeated, "mean over the draws")
    expect_refused(check.fresh_noise_psnr, averaged, "average decibels")
