"""Hidden probes of lesson 1."""

import numpy as np
import torch

from helpers.course.checks_inversion import in_order
from helpers.course.expect import TinyFeatures, TinyGenerator
from staff.grading.probe import Arrays, Part, Verdict, equal, probe, verdict, within


def network(random: np.random.Generator) -> np.ndarray:
    """Seed of a tiny network's weights, which are no secret."""
    return random.integers(1 << 30, size=1)


def codes(random: np.random.Generator, generator: TinyGenerator, n: int) -> torch.Tensor:
    """w codes (n, w_dim) that no seed in the sandbox gives again."""
    with torch.no_grad():
        return generator.map(torch.from_numpy(random.normal(size=(n, generator.z_dim)).astype(np.float32)))


@probe("1.1", "sample_noise", "z (n, z_dim) standard normal and fixed by the seed, w its mapping, w+ rows of w.")
class SampleNoise:
    def inputs(random: np.random.Generator) -> Arrays:
        seeds = random.integers(1 << 30, size=3)
        return {"network": network(random), "seeds": seeds, "n": random.integers(300, 400, size=1)}

    def emit(function, inputs):
        generator = TinyGenerator(int(inputs["network"][0]))
        a, b, c = map(int, inputs["seeds"])
        n, before = int(inputs["n"][0]), torch.get_rng_state()
        draws = {"z": ("z", a), "z again": ("z", a), "z other": ("z", b), "w": ("w", a), "w+": ("w+", b)}
        with torch.no_grad():
            values = {name: function(generator, space, n, seed) for name, (space, seed) in draws.items()}
            values["z few"] = function(generator, "z", 2, c)
        return values | {"global": [float(not torch.equal(before, torch.get_rng_state()))]}

    def judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
        generator = TinyGenerator(int(inputs["network"][0]))
        z, other = got["z"], got["z other"]
        w, rows = (generator.map(torch.from_numpy(v).float()).double().numpy() for v in (z, other))
        few = 4 / z.size**0.5  # four standard errors of a mean
        normal = abs(z.mean()) < few and abs(z.var() - 1) < 2 * few and abs((z**4).mean() - 3) < 10 * few
        twice = np.array_equal(z, got["z again"]) and not np.allclose(z, other, atol=0.1)
        spread = abs(np.corrcoef(z.ravel(), other.ravel())[0, 1]) < few and len(np.unique(z)) > z.size * 0.99
        ok = bool(normal and spread and twice)
        mapped, repeated = ok and equal(got["w"], w), ok and equal(got["w+"], np.repeat(rows[:, None], 4, axis=1))
        seeded = ok and got["global"].ravel()[0] == 0
        return [
            verdict("z", 0.2, ok, "z should be standard normal and fixed by the seed"),
            verdict("seed", 0.2, seeded, "take a generator of your own, not the global seed"),
            verdict("w", 0.2, mapped, "w should be what the mapping network makes of z"),
            verdict("w+", 0.4, repeated, "every row should be the w of the same seed"),
        ]


@probe("1.2", "Criterion", "Losses (B,) and their gradient for random images and weights, within 0.1 %.")
class Criterion:
    def inputs(random: np.random.Generator) -> Arrays:
        return {
            "target": random.random((1, 3, 8, 8), dtype=np.float32),
            "images": random.random((4, 3, 8, 8), dtype=np.float32),
            "delta": random.normal(size=(4, 5, 3)).astype(np.float32),
            "weights": random.uniform(0.3, 2, size=(3, 4)).astype(np.float32),
            "network": network(random),
        }

    def emit(cls, inputs):
        target, images, delta, weights = (torch.from_numpy(inputs[k]) for k in ("target", "images", "delta", "weights"))
        features, layers = TinyFeatures(int(inputs["network"][0])), ("conv1_1", "conv2_1")
        names, values = ("l1", "perceptual", "delta"), {}
        for i, name in enumerate(names):
            only = dict.fromkeys(names, 0.0) | {name: float(weights[i, 0])}
            values[name] = cls(target, features, only, layers)(images, delta)
        images.requires_grad_()
        together = cls(target, features, dict(zip(names, weights, strict=True)), layers)
        before = features.calls
        values["together"] = together(images, delta)
        values["asked"] = [features.calls - before]
        (values["gradient"],) = torch.autograd.grad(values["together"].sum(), images)
        return values

    parts = {
        "l1": Part(0.2, "the mean over channels and pixels of the absolute difference"),
        "perceptual": Part(0.25, "each layer divided by the target's mean square, then the mean over layers"),
        "delta": Part(0.2, "the sum of the squares of delta"),
        "together": Part(0.15, "each term times its weight, which may be a number per sample"),
        "gradient": Part(0.1, "the gradient of the sum reaches the images", "together", within(1e-2, 1e-6)),
        "asked": Part(0.1, "forward should ask for the features of the images only", "perceptual"),
    }


@probe("1.3", "optimization_step", "Four steps of SGD and Adam: the losses before each step, and where delta ends.")
class OptimizationStep:
    def inputs(random: np.random.Generator) -> Arrays:
        goal, start = (random.normal(size=(3, 4)).astype(np.float32) for _ in range(2))
        return {"goal": goal, "start": start, "rate": random.uniform(0.05, 0.2, size=1).astype(np.float32)}

    def emit(function, inputs):
        goal, rate, values = torch.from_numpy(inputs["goal"]), float(inputs["rate"][0]), {}
        for name in ("SGD", "Adam"):
            delta = torch.from_numpy(inputs["start"]).clone().requires_grad_()
            optimizer = getattr(torch.optim, name)([delta], lr=rate)
            losses = [function(optimizer, delta, lambda d: (d - goal).square().sum(1)) for _ in range(4)]
            values[f"{name} losses"] = torch.stack([loss.detach() for loss in losses])
            values[f"{name} delta"] = delta
            values[f"{name} graph"] = [float(losses[-1].requires_grad)]
        return values

    parts = {
        "SGD delta": Part(0.35, "are old gradients cleared, and is the loss summed over the batch?"),
        "SGD losses": Part(0.2, "return the loss before the update, one value per sample", "SGD delta"),
        "Adam delta": Part(0.15, "are old gradients cleared?"),
        "Adam losses": Part(0.15, "return the loss before the update, one value per sample", "Adam delta"),
        "SGD graph": Part(0.15, "the returned loss should be detached from the graph", "SGD losses"),
    }


def project_losses(code: np.ndarray, inputs: Arrays) -> np.ndarray:
    generator = TinyGenerator(int(inputs["network"][0]))
    found, start = torch.from_numpy(code).float(), torch.from_numpy(inputs["start"])
    error = (generator.synthesize(found) - torch.from_numpy(inputs["target"])).square().mean((1, 2, 3))
    return (error + 1e-4 * (found - start).square().sum(1)).double().numpy()


def best_are_kept(got: Arrays, inputs: Arrays) -> bool:
    """Whether each code of the odd run is the one whose loss was the smallest of all, or of the history."""
    found, asked, lowest = got["odd code"] - inputs["start"], got["odd asked"], got["odd history"].min(0)
    for b in range(len(found)):
        rows = {int(asked[:, b].argmin()), int(np.abs(asked[:, b] - lowest[b]).argmin())}
        if not any(np.allclose(found[b], got["odd deltas"][row, b], rtol=0, atol=1e-4) for row in rows):
            return False
    return True


@probe("1.4", "project", "A code whose loss is far below the start's, all losses, each sample's best code.")
class Project:
    def inputs(random: np.random.Generator) -> Arrays:
        """The image is drawn here, so that its latent is not in the sandbox; ``extra`` decides where the best is."""
        seed = network(random)
        generator = TinyGenerator(int(seed[0]))
        with torch.no_grad():
            target = generator.synthesize(codes(random, generator, 3)).numpy()
        extra = random.uniform(1, 2, size=(200, 3)).astype(np.float32)
        extra[random.choice(np.arange(4, 16), 3, replace=False), np.arange(3)] = 0
        return {"network": seed, "target": target, "start": codes(random, generator, 3).numpy(), "extra": extra}

    def emit(function, inputs):
        generator = TinyGenerator(int(inputs["network"][0]))
        target, start, values = torch.from_numpy(inputs["target"]), torch.from_numpy(inputs["start"]), {}
        for name, more in (("calm", 0.0), ("odd", 1.0)):  # in the odd run each sample has its best elsewhere
            extra, asked, deltas = more * torch.from_numpy(inputs["extra"]), [], []

            def loss(images, delta, extra=extra, asked=asked, deltas=deltas):
                value = (images - target).square().mean((1, 2, 3)) + 1e-4 * delta.flatten(1).square().sum(1)
                value = value + extra[min(len(asked), 199)]
                asked.append(value.detach())
                deltas.append(delta.detach().clone())
                return value

            code, history = function(generator, loss, start.clone(), "w", steps=20, lr=0.1)
            values |= {f"{name} code": code, f"{name} history": history}
            for kept, what in ((asked, "asked"), (deltas, "deltas")):
                values[f"{name} {what}"] = torch.stack([*kept, *[kept[-1]] * 200][:200])
        return values

    def judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
        first = project_losses(inputs["start"].astype(np.float64), inputs)
        ours, best = (project_losses(values["calm code"], inputs) for values in (got, want))
        found = bool((ours <= np.maximum(3 * best, 0.35 * first)).all())
        kept = found and bool((ours <= 1.02 * got["calm asked"].min(0) + 1e-7).all()) and best_are_kept(got, inputs)
        told = found and np.allclose(got["calm history"][0], first, rtol=1e-2)
        for name in ("calm", "odd"):
            told = told and in_order(*(torch.from_numpy(got[f"{name} {what}"]) for what in ("history", "asked")))
        return [
            verdict("search", 0.5, found, "the loss should fall far below that of the start"),
            verdict("history", 0.25, told, "the history should hold the loss of every step"),
            verdict("best", 0.25, kept, "return the best code of each sample, not the last"),
        ]


@probe("1.5", "interpolate", "Codes between two random codes at random t: along the great circle in z, else straight.")
class Interpolate:
    def inputs(random: np.random.Generator) -> Arrays:
        shapes = {"z": (1, 9), "w": (1, 7), "w+": (1, 4, 7)}
        ends = {f"{s} {e}": random.normal(size=shape).astype(np.float32) for s, shape in shapes.items() for e in "ab"}
        ends["z b"] += ends["z a"]  # far from a right angle, where several formulas agree
        return ends | {"t": np.sort(random.uniform(0, 1, size=6)).astype(np.float32)}

    def emit(function, inputs):
        ends = {name: torch.from_numpy(value) for name, value in inputs.items()}
        return {s: function(ends[f"{s} a"], ends[f"{s} b"], ends["t"], s) for s in ("z", "w", "w+")}

    parts = {
        "z": Part(0.5, "along the great circle, its length from that of a to that of b", same=within(atol=1e-4)),
        "w": Part(0.25, "straight from a to b", same=within(atol=1e-4)),
        "w+": Part(0.25, "straight from a to b in every row", same=within(atol=1e-4)),
    }
