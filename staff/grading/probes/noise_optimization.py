"""Hidden probes of lesson 2."""

import numpy as np
import torch

from helpers.course.expect import TinyGenerator, loss_curves
from helpers.latents import Latents
from helpers.metrics import psnr
from staff.grading.probe import Arrays, Part, Verdict, probe, ramp, verdict, within
from staff.grading.probes.inversion import codes, network

NOISE = 0.5  # strength of the first layer's noise, so that it shows
DECIBELS = within(rtol=0, atol=0.03)


@probe("2.1", "psnr", "PSNR (B,) in dB of random images, after clamping and rounding to 8 bits; infinite where equal.")
class Psnr:
    def inputs(random: np.random.Generator) -> Arrays:
        targets = random.random((5, 3, 12, 12), dtype=np.float32) * 0.8 + 0.1
        noise = random.normal(size=targets.shape).astype(np.float32)
        images = np.clip(targets + noise * np.float32([0.03, 0.02, 0.3, 0.5, 0])[:, None, None, None], 0, 1)
        images[2:4] = targets[2:4] + noise[2:4]  # far beyond 0 and 1
        images[4] = np.round(targets[4] * 255) / 255 + random.uniform(-0.001, 0.001, size=targets[4].shape)
        return {"images": images.astype(np.float32), "targets": np.round(targets * 255) / np.float32(255)}

    def emit(function, inputs):
        values = function(torch.from_numpy(inputs["images"]), torch.from_numpy(inputs["targets"]))
        return {"plain": values[:2], "clamped": values[2:4], "rounded": values[4:]}

    parts = {
        "plain": Part(0.5, "10 log10(1 / mean square error); the peak is 1, not the image's", same=within(0, 0.15)),
        "clamped": Part(0.25, "images should be clamped to [0, 1] first", same=DECIBELS),
        "rounded": Part(0.25, "differences that 8 bits cannot hold should not count", same=DECIBELS),
    }


def decibels(values: Arrays | None, inputs: Arrays) -> np.ndarray:
    """PSNR (B,) of fitted maps; of the generator's own with None."""
    generator = TinyGenerator(int(inputs["network"][0]), NOISE)
    maps = generator.fixed_noise(2)
    if values is not None:
        maps = [torch.from_numpy(values[f"map {i}"]).float() for i in range(len(maps))]
    images = generator.synthesize(Latents("w", torch.from_numpy(inputs["code"])), maps).clamp(0, 1)
    return psnr(images, torch.from_numpy(inputs["targets"])).clamp(max=99).double().numpy()


def steps_fit(values: Arrays, inputs: Arrays) -> bool:
    """Whether each map's median way in one step is rate / strength, and the same for all without ``per_layer``."""
    generator = TinyGenerator(int(inputs["network"][0]), NOISE)
    strengths = np.array([float(s) for s in generator.noise_strengths])
    for name, wanted in (("first", strengths[0] / strengths), ("alike", np.ones(len(strengths)))):
        moved = [np.abs(values[f"{name} {i}"] - m.numpy()) for i, m in enumerate(generator.fixed_noise(2))]
        ways = np.array([np.median(way) for way in moved])
        if not np.allclose(ways / ways[0], wanted, rtol=0.3):
            return False
    return True


def noisy_targets(random: np.random.Generator) -> Arrays:
    """Targets are drawn here, with noise that is nowhere in the sandbox."""
    seed = network(random)
    generator = TinyGenerator(int(seed[0]), NOISE)
    code = codes(random, generator, 2)
    noise = [torch.from_numpy(random.normal(size=(2, 1, *s)).astype(np.float32)) for s in generator.noise_shapes]
    targets = generator.synthesize(Latents("w", code), noise).clamp(0, 1)
    return {"network": seed, "code": code.numpy(), "targets": targets.numpy()}


@probe("2.2", "fit_noise", "Maps nearly as good as the solution's, steps of rate / strength, the PSNR of every step.")
class FitNoise:
    inputs = noisy_targets

    def emit(function, inputs):
        generator = TinyGenerator(int(inputs["network"][0]), 0.5)
        targets, code = torch.from_numpy(inputs["targets"]), torch.from_numpy(inputs["code"])
        latents = Latents("w", code.clone())
        maps, history = function(generator, targets, latents, steps=15)
        first, _ = function(generator, targets, latents, steps=1)
        alike, _ = function(generator, targets, latents, steps=1, rate=0.05, per_layer=False)
        values = {"history": history, "code": latents.code}
        for name, found in (("map", maps), ("first", first), ("alike", alike)):
            values |= {f"{name} {i}": m for i, m in enumerate(found)}
        return values

    def judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
        start, ours, theirs = (decibels(v, inputs) for v in (None, got, want))
        gain, history = ((ours - start) / (theirs - start)).min(), got["history"]
        fits = ramp(gain, 0.25, 0.8) if np.array_equal(got["code"], want["code"]) else 0.0
        told = np.allclose(history[0], start, atol=0.2) and (np.abs(history[-1] - ours) < 2 + 0.1 * ours).all()
        told = bool(fits > 0 and told and len(np.unique(history.round(2))) > history.size / 4)
        return [
            verdict("fit", 0.5, fits, "the images should come near the targets, and the code should stay"),
            verdict("rates", 0.3, fits > 0 and steps_fit(got, inputs), "smaller strengths take larger steps"),
            verdict("history", 0.2, told, "the history should hold the PSNR of every step"),
        ]


@probe("2.3", "match_rates", "The rate of each curve, in five problems.")
class MatchRates:
    def inputs(random: np.random.Generator) -> Arrays:
        rates = np.float32(random.uniform(0.8, 1.25) * np.array([0.005, 0.05, 0.5, 5]))
        curves = [loss_curves(torch.from_numpy(rates), int(random.integers(1 << 30))).numpy() for _ in range(5)]
        return {"rates": rates, "curves": np.stack([random.permutation(four) for four in curves])}

    def emit(function, inputs):
        curves, rates = torch.from_numpy(inputs["curves"]), torch.from_numpy(inputs["rates"])
        return {f"problem {i + 1}": function(four, rates) for i, four in enumerate(curves)}

    parts = {f"problem {i}": Part(0.2, "how far do the first steps go, and what follows?") for i in range(1, 6)}


@probe("2.4", "fresh_noise_psnr", "Mean PSNR (B,) over the draws, without the fitted maps.")
class FreshNoisePsnr:
    def inputs(random: np.random.Generator) -> Arrays:
        inputs, shapes = noisy_targets(random), TinyGenerator.noise_shapes
        inputs |= {f"map {i}": random.normal(size=(2, 1, *s)).astype(np.float32) for i, s in enumerate(shapes)}
        return inputs | {"seeds": random.integers(1 << 20, size=2), "draws": random.integers(3, 7, size=1)}

    def emit(function, inputs):
        generator = TinyGenerator(int(inputs["network"][0]), 0.5)
        maps = [torch.from_numpy(inputs[f"map {i}"]) for i in range(len(generator.noise_shapes))]
        latents, targets = Latents("w", torch.from_numpy(inputs["code"]), maps), torch.from_numpy(inputs["targets"])
        draws, (first, second) = int(inputs["draws"][0]), map(int, inputs["seeds"])
        return {
            "values": function(generator, targets, latents, draws=draws, seed=first),
            "one draw": function(generator, targets, latents, draws=1, seed=second),
        }

    parts = {
        "values": Part(0.7, "average decibels over the draws, seeds upwards", same=DECIBELS),
        "one draw": Part(0.3, "new noise of the seed given, not the fitted maps", same=DECIBELS),
    }


@probe("2.6", "drift", "PSNR (B,) between what two networks draw of random codes, without noise.")
class Drift:
    inputs = noisy_targets

    def emit(function, inputs):
        before, after = (TinyGenerator(int(inputs["network"][0]), 0.5) for _ in range(2))
        after.first = after.first + 0.1
        return {"values": function(before, after, Latents("w", torch.from_numpy(inputs["code"])))}

    parts = {"values": Part(1, "the same latents by both, with maps of zeros", same=DECIBELS)}
