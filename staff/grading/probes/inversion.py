"""Hidden probes of lesson 1."""

from __future__ import annotations

import numpy as np
import torch

from helpers.course.expect import tiny
from helpers.latents import Latents
from staff.grading.probe import Arrays, Probe, Verdict, agree, as_near, close


def _sizes(random: np.random.Generator) -> Arrays:
    return {"network": random.integers(1 << 30, size=1), "seeds": random.integers(1 << 30, size=3)}


def noise_inputs(random: np.random.Generator) -> Arrays:
    return _sizes(random) | {"n": random.integers(300, 400, size=1)}


def noise_emit(function, inputs):
    import torch

    from helpers.course.expect import tiny

    generator = tiny(int(inputs["network"][0]))
    generator.sample = generator.convert = None  # the exercise itself
    a, b, c = map(int, inputs["seeds"])
    n = int(inputs["n"][0])
    with torch.no_grad():
        return {
            "z": function(generator, "z", n, a),
            "z again": function(generator, "z", n, a),
            "z other": function(generator, "z", n, b),
            "z few": function(generator, "z", 2, c),
            "w": function(generator, "w", n, a),
            "w+": function(generator, "w+", n, b),
        }


def noise_judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
    generator = tiny(int(inputs["network"][0]))

    def mapped(z: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return generator.map(torch.from_numpy(z).float()).double().numpy()

    z, n = got["z"], int(inputs["n"][0])
    why = next((agree(got[k], want[k])[1] for k in want if got[k].shape != want[k].shape), "")
    if why:
        return [Verdict("shapes", 1.0, 0.0, why)]
    few = 4 / z.size**0.5  # four standard errors of a mean
    normal = abs(z.mean()) < few and abs(z.var() - 1) < 2 * few and abs((z**4).mean() - 3) < 10 * few
    twice = np.array_equal(z, got["z again"]) and not np.allclose(z, got["z other"], atol=0.1)
    spread = abs(np.corrcoef(z.ravel(), got["z other"].ravel())[0, 1]) < few and len(np.unique(z)) > z.size * 0.99
    ok = normal and twice and spread
    reason = "" if ok else "not standard normal, or not fixed by the seed and by nothing else"
    w = agree(got["w"], mapped(z))
    rows = np.repeat(mapped(got["z other"])[:, None], generator.num_ws, axis=1)
    w_plus = agree(got["w+"], rows)
    parts = [Verdict("z", 0.25, float(ok), reason)]
    parts += [Verdict("w", 0.25, w[0] * ok, w[1] or reason), Verdict("w+", 0.5, w_plus[0] * ok, w_plus[1] or reason)]
    assert n == len(z)
    return parts


def criterion_inputs(random: np.random.Generator) -> Arrays:
    return {
        "target": random.random((1, 3, 8, 8), dtype=np.float32),
        "images": random.random((4, 3, 8, 8), dtype=np.float32),
        "delta": random.normal(size=(4, 5, 3)).astype(np.float32),
        "weights": random.uniform(0.3, 2, size=(3, 4)).astype(np.float32),
        "network": random.integers(1 << 30, size=1),
    }


def criterion_emit(cls, inputs):
    import torch

    from helpers.course.expect import TinyFeatures

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


def criterion_judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
    shares = {"l1": 0.2, "perceptual": 0.3, "delta": 0.2, "together": 0.2}
    verdicts = close(shares)(got, want, inputs)
    right, why = agree(got["gradient"], want["gradient"], 1e-2, 1e-6)
    if right and got["asked"].ravel()[0] != 1:
        right, why = 0.0, "the features of the target are computed again at every call"
    return [*verdicts, Verdict("gradient", 0.1, right, why)]


def step_inputs(random: np.random.Generator) -> Arrays:
    return {
        "goal": random.normal(size=(3, 4)).astype(np.float32),
        "start": random.normal(size=(3, 4)).astype(np.float32),
        "rate": random.uniform(0.05, 0.3, size=1).astype(np.float32),
    }


def step_emit(function, inputs):
    import torch

    goal, rate, values = torch.from_numpy(inputs["goal"]), float(inputs["rate"][0]), {}
    for name in ("SGD", "Adam"):
        delta = torch.from_numpy(inputs["start"]).clone().requires_grad_()
        optimizer = getattr(torch.optim, name)([delta], lr=rate)
        losses = [function(optimizer, delta, lambda d: (d - goal).pow(4).sum(1) / 9) for _ in range(4)]
        values[f"{name} losses"] = torch.stack([loss.detach() for loss in losses])
        values[f"{name} delta"] = delta
        values[f"{name} graph"] = [float(losses[-1].requires_grad)]
    return values


def step_judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
    verdicts = []
    for name in ("SGD", "Adam"):
        moved = agree(got[f"{name} delta"], want[f"{name} delta"])
        loss = agree(got[f"{name} losses"], want[f"{name} losses"])
        if loss[0] and got[f"{name} graph"].any():
            loss = (0.0, "the returned loss is not detached from the graph")
        verdicts += [
            Verdict(f"{name}: delta", 0.3, *moved),
            Verdict(f"{name}: losses", 0.2, loss[0] * moved[0], loss[1]),
        ]
    return verdicts


PROJECT_STEPS = 60


def project_inputs(random: np.random.Generator) -> Arrays:
    """The picture is drawn here, so that its latent is nowhere in the sandbox."""
    sizes = _sizes(random)
    generator = tiny(int(sizes["network"][0]))
    with torch.no_grad():
        target = generator.synthesize(Latents("w", generator.sample("w", 2, int(sizes["seeds"][0]))))
        start = generator.sample("w", 2, int(sizes["seeds"][1]))
    return sizes | {"target": target.numpy(), "start": start.numpy(), "steps": np.array([PROJECT_STEPS])}


def project_emit(function, inputs):
    import torch

    from helpers.course.expect import tiny

    generator = tiny(int(inputs["network"][0]))
    target, start = torch.from_numpy(inputs["target"]), torch.from_numpy(inputs["start"])

    def loss(images, delta):
        return (images - target).square().mean((1, 2, 3)) + 1e-4 * delta.flatten(1).square().sum(1)

    values, steps = {}, int(inputs["steps"][0])
    for name, rate in (("calm", 0.1), ("wild", 2.0)):  # the wild run ends above its best
        code, history = function(generator, loss, start.clone(), "w", steps=steps, lr=rate)
        values |= {f"{name} code": code, f"{name} history": history}
    return values


def project_judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
    generator = tiny(int(inputs["network"][0]))
    target, start = torch.from_numpy(inputs["target"]), torch.from_numpy(inputs["start"])

    def loss(code: np.ndarray) -> np.ndarray:
        found = torch.from_numpy(code).float()
        with torch.no_grad():
            images = generator.synthesize(Latents("w", found))
        return ((images - target).square().mean((1, 2, 3)) + 1e-4 * (found - start).square().sum(1)).double().numpy()

    if why := next((agree(got[k], want[k])[1] for k in want if got[k].shape != want[k].shape), ""):
        return [Verdict("shapes", 1.0, 0.0, why)]
    first = loss(inputs["start"].astype(np.float64))
    ours, best = loss(got["calm code"]), loss(want["calm code"])
    found = bool((ours <= np.maximum(1.5 * best, 0.02 * first)).all() and (ours < 0.5 * first).all())
    near, why = as_near(*(project_pictures(v, inputs)[::2] for v in (got, want)), target.clamp(0, 1), 3.0, 0.2)
    if not found:
        why = "the found picture is farther from the target than it should be"
    found = bool(found and near)
    told = np.allclose(got["calm history"][0], first, rtol=1e-2) and np.allclose(
        ours, got["calm history"].min(0), rtol=0.05, atol=1e-6
    )
    wild = loss(got["wild code"])
    kept = bool(
        (wild <= got["wild history"].min(0) * 1.05 + 1e-6).all() and (wild <= 1.5 * loss(want["wild code"])).all()
    )
    return [
        Verdict("search", 0.5, float(found), why),
        Verdict(
            "history", 0.25, float(found and told), "" if told else "the history does not hold the losses of the run"
        ),
        Verdict("best", 0.25, float(found and kept), "" if kept else "not the best code of the run is returned"),
    ]


@torch.no_grad()
def project_pictures(values: Arrays, inputs: Arrays) -> torch.Tensor:
    """The found pictures, each with its target to the right."""
    generator = tiny(int(inputs["network"][0]))
    found = generator.synthesize(Latents("w", torch.from_numpy(values["calm code"]).float())).clamp(0, 1)
    return torch.stack([found, torch.from_numpy(inputs["target"]).clamp(0, 1)], 1).flatten(0, 1)


def interpolate_inputs(random: np.random.Generator) -> Arrays:
    shapes = {"z": (1, 9), "w": (1, 7), "w+": (1, 4, 7)}
    ends = {f"{s} {end}": random.normal(size=shape).astype(np.float32) for s, shape in shapes.items() for end in "ab"}
    return ends | {"t": np.sort(random.uniform(0, 1, size=6)).astype(np.float32)}


def interpolate_emit(function, inputs):
    import torch

    ends = {name: torch.from_numpy(value) for name, value in inputs.items()}
    return {s: function(ends[f"{s} a"], ends[f"{s} b"], ends["t"], s) for s in ("z", "w", "w+")}


PROBES = (
    Probe(
        "1.1", "sample_noise", noise_inputs, noise_emit, noise_judge,
        "Codes of a random network: z (n, z_dim) standard normal and fixed by the seed, w its mapping, w+ rows of w.",
    ),
    Probe(
        "1.2", "Criterion", criterion_inputs, criterion_emit, criterion_judge,
        "Losses (B,) and their gradient for random pictures and weights, equal to the formula's within 0.1 %.",
    ),
    Probe(
        "1.3", "optimization_step", step_inputs, step_emit, step_judge,
        "Four steps of SGD and Adam on a random problem: the losses before each step, and where delta ends.",
    ),
    Probe(
        "1.4", "project", project_inputs, project_emit, project_judge,
        "A code whose picture is as near to the target as the solution's, the losses of all steps, and the best code "
        "of a run that ends badly.",
        project_pictures,
    ),
    Probe(
        "1.5", "interpolate", interpolate_inputs, interpolate_emit, close({"z": 0.5, "w": 0.25, "w+": 0.25}, atol=1e-4),
        "Codes between two random codes at random t: along the great circle in z, straight in w and w+.",
    ),
)  # fmt: skip
