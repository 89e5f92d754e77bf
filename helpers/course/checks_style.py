"""Checks of lesson 5: content loss, Gram matrix, style loss, the transfer loop."""

from __future__ import annotations

import torch

from helpers.course.expect import TinyFeatures, expect, expect_shape, passed
from helpers.losses import gram_matrix as reference_gram_matrix
from helpers.losses import perceptual_loss
from helpers.losses import style_loss as reference_style_loss

LAYERS = ("conv1_1", "conv2_1")


def _activations(seed: int, batch: int = 3) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "conv1_1": 5 * torch.randn(batch, 4, 6, 8, generator=random),
        "conv2_1": 0.1 * torch.randn(batch, 7, 3, 4, generator=random),
    }


def _direction(value: torch.Tensor, expected: torch.Tensor) -> str:
    return "too large" if (value / expected).detach().mean() > 1 else "too small"


def content_loss(function) -> None:
    """Exercise 5.1: ``content_loss(ours, theirs)``."""
    ours, theirs = _activations(1), {layer: value[:1] for layer, value in _activations(2).items()}
    value = function(ours, theirs)
    expect_shape("content_loss", value, (3,))
    expected = perceptual_loss(ours, theirs)
    hint = "is each layer divided by the target's mean square before the mean over layers?"
    expect(torch.allclose(value, expected, rtol=1e-3), f"the loss is {_direction(value, expected)}; {hint}")
    same = {layer: value[:1] for layer, value in ours.items()}
    expect(float(function(same, same)) < 1e-6, "equal features should have the loss 0.")
    passed("content_loss")


def gram_matrix(function) -> None:
    """Exercise 5.2: ``gram_matrix(activations)``."""
    activations = _activations(3)["conv1_1"].double()
    value = function(activations)
    expect_shape("gram_matrix", value, (3, 4, 4))
    expect(torch.allclose(value, value.transpose(1, 2)), "a Gram matrix is symmetric; yours is not.")
    expected = reference_gram_matrix(activations)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    shuffled = function(activations.flatten(2)[..., order].view_as(activations))
    blind = torch.allclose(value, shuffled)
    expect(blind, "moving the pixels around should change nothing; the sum runs over positions.")
    larger = function(activations.repeat(1, 1, 2, 1))
    expect(torch.allclose(larger, value), "the same texture twice as large should have the same Gram matrix.")
    right = torch.allclose(value, expected)
    expect(right, f"the entries are {_direction(value.abs(), expected.abs())}; divide by the number of positions.")
    passed("gram_matrix")


def style_loss(function) -> None:
    """Exercise 5.3: ``style_loss(ours, grams)``."""
    ours = _activations(4)
    grams = {layer: reference_gram_matrix(value[:1]) for layer, value in _activations(5).items()}
    value = function(ours, grams)
    expect_shape("style_loss", value, (3,))
    expected = reference_style_loss({layer: reference_gram_matrix(a) for layer, a in ours.items()}, grams)
    hint = "is each layer's squared distance divided by the squared length of the style's matrix?"
    expect(torch.allclose(value, expected, rtol=1e-3), f"the loss is {_direction(value, expected)}; {hint}")
    passed("style_loss")


def transfer(function) -> None:
    """Exercise 5.4: ``transfer(features, content, style, start, content_layers, style_layers, weight, steps)``."""
    random = torch.Generator().manual_seed(6)
    content, style = torch.rand(2, 1, 3, 8, 8, generator=random)
    start, features = 0.5 + 0.1 * torch.randn(2, 3, 8, 8, generator=random), TinyFeatures()
    kept = start.clone()
    images, history = function(features, content, style, start, LAYERS, LAYERS, style_weight=3.0, steps=40)
    expect_shape("the picture", images, (2, 3, 8, 8))
    expect(not images.requires_grad, "the picture should be detached from the graph.")
    expect(torch.equal(start, kept), "the start was changed in place; optimise a copy of it.")
    expect(bool(images.min() >= 0 and images.max() <= 1), "the picture should stay in [0, 1]; clamp it.")
    expect(tuple(history.shape) == (40, 2), f"the history should be (steps, B) = (40, 2), not {tuple(history.shape)}.")
    expect(features.calls <= 44, "the features of content and style are needed once, before the loop.")
    targets = features(content, LAYERS)
    grams = {layer: reference_gram_matrix(a) for layer, a in features(style, LAYERS).items()}

    def total(pictures: torch.Tensor) -> torch.Tensor:
        ours = features(pictures, LAYERS)
        found = {layer: reference_gram_matrix(a) for layer, a in ours.items()}
        return perceptual_loss(ours, targets) + 3.0 * reference_style_loss(found, grams)

    first = total(start)
    expect(
        torch.allclose(history[0], first, rtol=1e-2),
        f"the first loss is {_direction(history[0], first)}; it should be content + style_weight * style of the start.",
    )
    fell = bool((total(images) < 0.5 * first).all())
    expect(fell, "the loss should fall to less than half in 40 steps; check the gradient and the rate.")
    passed("transfer")
