"""Checks of lesson 1: codes, the criterion, one step, the search, interpolation."""

import torch
from torch import Tensor

from helpers.course.expect import LAYERS, TinyFeatures, TinyGenerator, expect, expect_close, expect_shape, random_images


def sample_noise(function) -> None:
    """Exercise 1.1: ``sample_noise(generator, space, n, seed)``."""
    generator, state = TinyGenerator(), torch.get_rng_state()
    with torch.no_grad():
        codes = {space: function(generator, space, 400, 5) for space in ("z", "w", "w+")}
        again, other = function(generator, "z", 400, 5), function(generator, "z", 400, 6)
        expect_shape("z of a generator without w", function(TinyGenerator(spaces=("z",)), "z", 2, 0), (2, 12))
    for space, code in codes.items():
        expect_shape(f"sample_noise(generator, {space!r}, 400)", code, (400, *generator.code_shape(space)))
    z, w, w_plus = codes["z"], codes["w"], codes["w+"]
    expect(torch.equal(z, again), "the same seed should give the same z.")
    expect(not torch.equal(z, other), "another seed should give another z.")
    expect(z.mean().abs() < 0.1 and (z.std() - 1).abs() < 0.1, "z should be standard normal; check mean and variance.")
    expect(torch.allclose(w, generator.map(z), atol=1e-4), "w should be what the mapping network makes of z.")
    expect((w_plus - w_plus[:, :1]).abs().max() == 0, "a sampled w+ should hold the same w in every row.")
    expect(torch.allclose(w_plus[:, 0], w, atol=1e-4), "the rows of w+ should be the w of the same seed.")
    expect(torch.equal(torch.get_rng_state(), state), "the global seed changed; draw from a generator of your own.")


def _criterion_terms(images, target, delta, features) -> dict[str, Tensor]:
    ours, theirs = features(images, LAYERS), features(target, LAYERS)
    relative = [(ours[k] - theirs[k]).square().mean((1, 2, 3)) / theirs[k].square().mean((1, 2, 3)) for k in LAYERS]
    l1, offset = (images - target).abs().mean((1, 2, 3)), delta.flatten(1).square().sum(1)
    return {"l1": l1, "perceptual": torch.stack(relative).mean(0), "delta": offset}


def criterion(cls) -> None:
    """Exercise 1.2: ``Criterion(target, features, weights, layers)(images, delta)``."""
    target, images = random_images(1, 1, 3)
    delta, features = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2)), TinyFeatures()
    terms = _criterion_terms(images.requires_grad_(), target, delta, features)
    for chosen in ({"l1": 1.0}, {"l1": 0.5, "perceptual": 2.0}, {"l1": 1.0, "perceptual": 0.3, "delta": 0.01}):
        weights = {"l1": 0.0, "perceptual": 0.0, "delta": 0.0} | chosen
        value, active = cls(target, features, weights, LAYERS)(images, delta), " + ".join(chosen)
        expect_shape(f"the loss ({active})", value, (3,))
        expected = sum(weight * terms[name] for name, weight in weights.items())
        expect_close(f"the loss with {active}", value, expected, "check means, sums and what you divide by.")
        gradient, right = (torch.autograd.grad(v.sum(), images, retain_graph=True)[0] for v in (value, expected))
        expect(torch.allclose(gradient, right, rtol=1e-2), f"not all of the gradient of {active} reaches the image.")
    module, features.calls = cls(target, features, weights, LAYERS), 0
    module(images, delta)
    expect(features.calls == 1, "ask for the features of the images only; the target's are kept already.")
    expect(float(module(target, torch.zeros(1, 5, 4))) < 1e-6, "the loss of the target itself should be 0.")


def optimization_step(function) -> None:
    """Exercise 1.3: ``optimization_step(optimizer, delta, loss_function)``."""
    goal, delta = torch.tensor([[1.0, -2.0], [3.0, 0.5]]), torch.zeros(2, 2, requires_grad=True)
    optimizer = torch.optim.SGD([delta], lr=0.25)
    losses = [function(optimizer, delta, lambda d: (d - goal).square().sum(1)) for _ in range(3)]
    expect_shape("what the step returns", losses[0], (2,))
    expect(not losses[0].requires_grad, "the returned loss should be detached from the graph.")
    expect(torch.allclose(losses[0], goal.square().sum(1)), "return the loss before the update, one value per sample.")
    expect(delta.detach().abs().sum() > 0, "delta did not move; does the optimizer take a step?")
    hint = "delta moved by another amount than the gradient says; are old gradients cleared, is the loss summed?"
    expect(torch.allclose(delta.detach(), goal * (1 - 0.5**3), atol=1e-5), hint)


def project(function) -> None:
    """Exercise 1.4: ``project(generator, criterion, start, space, steps, lr)``; in the second run the best is early."""
    generator, seen = TinyGenerator(), []
    with torch.no_grad():
        z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(11))
        target, start = generator.synthesize(generator.map(z)), generator.mean("w").repeat(2, 1)

    def distance(images: Tensor) -> Tensor:
        return (images - target).square().mean((1, 2, 3))

    for late in (0.0, 1.0):

        def loss(images: Tensor, delta: Tensor, late: float = late) -> Tensor:
            value = distance(images) + late * torch.tensor([abs(len(seen) - 10.0), abs(len(seen) - 20.0)])
            seen.append((value.detach(), delta.detach().clone()))
            return value

        seen.clear()
        code, history = function(generator, loss, start.clone(), "w", steps=30, lr=0.1)
        expect_shape("the found code", code, tuple(start.shape))
        expect(not code.requires_grad, "the found code should be detached from the graph.")
        expect_shape("the history (steps, B)", history, (30, 2))
        losses, deltas = (torch.stack(part) for part in zip(*seen, strict=True))
        expect(torch.allclose(history[0], losses[0], rtol=1e-3), "the first loss should be that of the start itself.")
        expect(in_order(history, losses), "the history should hold the loss of every step, not the best so far.")
        before, after = (distance(generator.synthesize(found)) for found in (start, code))
        expect(late > 0 or (after < before * 0.5).all(), "the loss should fall well below that of the start.")
        hint = "return the best code of each sample, whose loss is the smallest of the run: "
        hint += "not the last, and not that after its update."
        expect(torch.allclose(code - start, deltas[losses.argmin(0), torch.arange(2)], atol=1e-4), hint)


def in_order(history: Tensor, asked: Tensor) -> bool:
    """Whether each row (B,) of a history is a loss that was asked for, each later than the one before."""
    rows = iter(asked)
    return all(any(torch.allclose(row, other, rtol=1e-4, atol=1e-7) for other in rows) for row in history)


def _between(a: Tensor, b: Tensor, t: Tensor, space: str) -> Tensor:
    t = t.reshape(-1, *[1] * (a.ndim - 1))
    if space != "z":
        return torch.lerp(a, b, t)
    u, v = a / a.norm(), b / b.norm()
    angle = torch.acos((u * v).sum())
    direction = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / torch.sin(angle)
    return direction * torch.lerp(a.norm(), b.norm(), t)


def interpolate(function) -> None:
    """Exercise 1.5: ``interpolate(a, b, t, space)``."""
    random, t = torch.Generator().manual_seed(2), torch.linspace(0, 1, 5)
    for space, shape in (("z", (6,)), ("w", (6,)), ("w+", (4, 6))):
        a, b = (torch.randn(1, *shape, generator=random) for _ in range(2))
        codes = function(a, b, t, space)
        expect_shape(f"interpolate in {space}", codes, (5, *shape))
        expect(torch.allclose(codes[:1], a, atol=1e-4), f"t = 0 should give a in {space}.")
        expect(torch.allclose(codes[-1:], b, atol=1e-4), f"t = 1 should give b in {space}.")
        expected = _between(a, b, t, space)
        shorter = space == "z" and codes[2].norm() < expected[2].norm() * 0.99
        why = "the way cuts through the inside of the sphere" if shorter else "points in between are off"
        expect(torch.allclose(codes, expected, atol=1e-3), f"interpolation in {space}: {why}.")
