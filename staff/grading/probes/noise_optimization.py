"""Hidden probes of lesson 2."""

from __future__ import annotations

import numpy as np
import torch

from helpers.course.expect import tiny
from helpers.latents import Latents
from helpers.metrics import psnr
from staff.grading.probe import Arrays, Probe, Verdict, agree, as_near, close

NOISE = 0.5  # strength of the first layer's noise, so that it shows
FIT_STEPS = 40


def psnr_inputs(random: np.random.Generator) -> Arrays:
    targets = random.random((5, 3, 12, 12), dtype=np.float32)
    images = (
        targets
        + random.normal(size=targets.shape).astype(np.float32)
        * np.float32([0.3, 0.1, 0.01, 0.003, 0])[:, None, None, None]
    )
    images[4] = np.round(targets[4] * 255) / 255  # equal once it is rounded
    return {"images": images.astype(np.float32), "targets": targets}


def psnr_emit(function, inputs):
    import torch

    return {"values": function(torch.from_numpy(inputs["images"]), torch.from_numpy(inputs["targets"]))}


def fit_inputs(random: np.random.Generator) -> Arrays:
    """Targets are drawn here, with noise that is nowhere in the sandbox."""
    network, seeds = random.integers(1 << 30, size=1), random.integers(1 << 30, size=2)
    generator = tiny(int(network[0]), NOISE)
    with torch.no_grad():
        code = generator.sample("w", 2, int(seeds[0]))
        targets = generator.synthesize(Latents("w", code), generator.fresh_noise(2, int(seeds[1]))).clamp(0, 1)
    return {"network": network, "code": code.numpy(), "targets": targets.numpy()}


def fit_emit(function, inputs):
    import torch

    from helpers.course.expect import tiny
    from helpers.latents import Latents

    generator = tiny(int(inputs["network"][0]), 0.5)
    targets, code = torch.from_numpy(inputs["targets"]), torch.from_numpy(inputs["code"])
    latents = Latents("w", code.clone())
    maps, history = function(generator, targets, latents, steps=40)
    first, _ = function(generator, targets, latents, steps=1)
    alike, _ = function(generator, targets, latents, steps=1, rate=0.05, per_layer=False)
    values = {"history": history, "code": latents.code}
    for name, found in (("map", maps), ("first", first), ("alike", alike)):
        values |= {f"{name} {i}": m for i, m in enumerate(found)}
    return values


def fit_judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
    if why := next((agree(got[k], want[k])[1] for k in want if got[k].shape != want[k].shape), ""):
        return [Verdict("shapes", 1.0, 0.0, why)]
    theirs = fitted_psnr(want, inputs)
    fits, why = as_near(*(fitted_pictures(v, inputs) for v in (got, want)), torch.from_numpy(inputs["targets"]))
    if not np.array_equal(got["code"], want["code"]):
        fits, why = 0.0, "the code was changed"
    start = fitted_psnr(got, inputs, start=True)
    told = np.allclose(got["history"][0], start, atol=0.2) and bool((got["history"].max(0) > theirs - 2).all())
    steps = {name: _moves(got, inputs, name) for name in ("first", "alike")}
    wanted = {name: _moves(want, inputs, name) for name in ("first", "alike")}
    rates = all(np.allclose(steps[name], wanted[name], rtol=0.3) for name in steps)
    return [
        Verdict("fit", 0.5, fits, why),
        Verdict("rates", 0.3, float(fits and rates), "" if rates else "a layer's first step is not rate / strength"),
        Verdict("history", 0.2, float(fits and told), "" if told else "the history is not the PSNR of each step"),
    ]


@torch.no_grad()
def fitted_pictures(values: Arrays, inputs: Arrays, start: bool = False) -> torch.Tensor:
    generator = tiny(int(inputs["network"][0]), NOISE)
    count = len(generator.noise_shapes)
    maps = [torch.from_numpy(values[f"map {i}"]).float() for i in range(count)]
    latents = Latents("w", torch.from_numpy(inputs["code"]))
    return generator.synthesize(latents, generator.fixed_noise(2) if start else maps).clamp(0, 1)


def fitted_psnr(values: Arrays, inputs: Arrays, start: bool = False) -> np.ndarray:
    return psnr(fitted_pictures(values, inputs, start), torch.from_numpy(inputs["targets"])).double().numpy()


def _moves(values: Arrays, inputs: Arrays, name: str) -> np.ndarray:
    """Median way of each map in one step."""
    fixed = tiny(int(inputs["network"][0]), NOISE).fixed_noise(2)
    return np.array([np.median(np.abs(values[f"{name} {i}"] - m.numpy())) for i, m in enumerate(fixed)])


def fresh_inputs(random: np.random.Generator) -> Arrays:
    inputs = fit_inputs(random)
    generator = tiny(int(inputs["network"][0]), NOISE)
    fitted = {f"map {i}": m.numpy() for i, m in enumerate(generator.fresh_noise(2, int(random.integers(1 << 30))))}
    return inputs | fitted | {"seeds": random.integers(1 << 20, size=2), "draws": random.integers(3, 7, size=1)}


def fresh_emit(function, inputs):
    import torch

    from helpers.course.expect import tiny
    from helpers.latents import Latents

    generator = tiny(int(inputs["network"][0]), 0.5)
    maps = [torch.from_numpy(inputs[f"map {i}"]) for i in range(len(generator.noise_shapes))]
    latents, targets = Latents("w", torch.from_numpy(inputs["code"]), maps), torch.from_numpy(inputs["targets"])
    draws = int(inputs["draws"][0])
    return {
        "values": function(generator, targets, latents, draws=draws, seed=int(inputs["seeds"][0])),
        "one draw": function(generator, targets, latents, draws=1, seed=int(inputs["seeds"][1])),
    }


PROBES = (
    Probe(
        "2.1", "psnr", psnr_inputs, psnr_emit, close({"values": 1.0}, rtol=0, atol=0.02),
        "PSNR (B,) in dB of random pictures, after clamping and rounding to 8 bits, to 0.02 dB; infinite where equal.",
    ),
    Probe(
        "2.2", "fit_noise", fit_inputs, fit_emit, fit_judge,
        "Maps whose pictures come as near to the targets as the solution's (PSNR within 1.5 dB, SSIM within 0.1), "
        "steps of rate / strength, and the PSNR of every step.",
        fitted_pictures,
    ),
    Probe(
        "2.3", "fresh_noise_psnr", fresh_inputs, fresh_emit,
        close({"values": 0.7, "one draw": 0.3}, rtol=0, atol=0.05),
        "Mean PSNR (B,) over the draws, without the fitted maps, to 0.05 dB.",
    ),
)  # fmt: skip
