"""Checks of lesson 5: the loop over pixels, Gram matrix, style loss, transfer, colours."""

import torch
from torch import Tensor

from helpers.course.expect import LAYERS, TinyFeatures, expect, expect_close, expect_shape, random_images


def _activations(seed: int, batch: int = 3) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes, scales = ((batch, 4, 6, 8), (batch, 7, 3, 4)), (5, 0.1)
    return {n: c * torch.randn(*s, generator=random) for n, s, c in zip(LAYERS, shapes, scales, strict=True)}


def _grams(activations: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.einsum("bchw,bdhw->bcd", a, a) / a[0, 0].numel() for k, a in activations.items()}


def _relative(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    distances = [(ours[k] - theirs[k]).square().flatten(1).mean(1) / theirs[k].square().mean() for k in theirs]
    return torch.stack(distances).mean(0)


def optimize_pixels(function) -> None:
    """Exercise 5.1: ``optimize_pixels(loss_function, start, steps, lr)``."""
    goal, start = random_images(6, 2, 2)
    goal, kept, seen = 2 * goal - 0.5, start.clone(), []  # some of it lies beyond [0, 1]

    def loss_function(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return (images - goal).square().mean((1, 2, 3))

    images, history = function(loss_function, start, steps=50, lr=0.05)
    expect_shape("the image", images, (2, 3, 8, 8))
    expect(not images.requires_grad, "the image should be detached from the graph.")
    expect(torch.equal(start, kept), "the start was changed in place; optimise a copy of it.")
    expect(images.min() >= 0 and images.max() <= 1, "the image should stay in [0, 1]; clamp it.")
    steps = torch.stack(seen)
    first, last = loss_function(start), loss_function(images)
    expect(steps.min() >= 0 and steps.max() <= 1, "clamp the image to [0, 1] after every step.")
    expect_shape("the history (steps, B)", history, (50, 2))
    expect_close("the first loss", history[0], first, "it should be that of the start, one value per image.")
    near = loss_function(goal.clamp(0, 1)) + 0.05 * first
    expect((last < near).all(), "the loss should fall to nearly the least there is; check gradient and rate.")
    expect((history[-1] < near).all(), "the history should hold the loss of every step; its end is near the last.")


def gram_matrix(function) -> None:
    """Exercise 5.2: ``gram_matrix(activations)``."""
    activations = _activations(3)[LAYERS[0]].double()
    value = function(activations)
    expect_shape("gram_matrix", value, (3, 4, 4))
    expect(torch.allclose(value, value.transpose(1, 2)), "a Gram matrix is symmetric; yours is not.")
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    blind = torch.allclose(value, function(activations.flatten(2)[..., order].view_as(activations)))
    expect(blind, "moving the pixels around should change nothing; the sum runs over positions.")
    larger = torch.allclose(value, function(activations.repeat(1, 1, 2, 1)))
    expect(larger, "the same texture twice as large should have the same Gram matrix.")
    expect_close("the size of the entries", value, _grams({"": activations})[""], "divide by the number of positions.")


def style_loss(function) -> None:
    """Exercise 5.3: ``style_loss(ours, grams)``."""
    ours, grams = _activations(4), _grams(_activations(5, 1))
    value = function(ours, grams)
    expect_shape("style_loss", value, (3,))
    hint = "is each layer's squared distance divided by the squared length of the style's matrix?"
    expect_close("the loss", value, _relative(_grams(ours), grams), hint)


def transfer(function) -> None:
    """Exercise 5.4: ``transfer(features, content, style, start, content_layers, style_layers, weight, steps)``."""
    content, style, start = random_images(6, 1, 1, 2)
    start, weight, features = 0.3 + 0.4 * start, 3.0, TinyFeatures()
    kept = start.clone()
    images, history = function(features, content, style, start, LAYERS, LAYERS, style_weight=weight, steps=40)
    expect_shape("the image", images, (2, 3, 8, 8))
    expect(not images.requires_grad, "the image should be detached from the graph.")
    expect(torch.equal(start, kept), "the start was changed in place; optimise a copy of it.")
    expect(images.min() >= 0 and images.max() <= 1, "the image should stay in [0, 1]; clamp it.")
    expect(features.lowest >= 0 and features.highest <= 1, "clamp the image to [0, 1] after every step.")
    expect_shape("the history (steps, B)", history, (40, 2))
    expect(features.calls <= 44, "the features of content and style are needed once, before the loop.")
    targets, grams = features(content, LAYERS), _grams(features(style, LAYERS))

    def total(images: Tensor) -> Tensor:
        ours = features(images, LAYERS)
        return _relative(ours, targets) + weight * _relative(_grams(ours), grams)

    first, last = total(start), total(images)
    hint = "it should be content + style_weight * style of the start."
    expect_close("the first loss", history[0], first, hint, rtol=1e-2)
    expect((last < 0.5 * first).all(), "the loss should fall to less than half in 40 steps; check gradient and rate.")
    hint = "the history should hold the loss of every step; its end is near the loss of the image."
    expect((history[-1] < 0.7 * first).all() and (history > 0).all(), hint)


def keep_colours(function) -> None:
    """Exercise 5.5: ``keep_colours(painted, photo)``."""
    painted, photo = random_images(7, 2, 2)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    for middle in (True, False):
        pair = [0.4 + 0.2 * image if middle else image for image in (painted, photo)]
        image, (theirs, ours) = function(*pair), ((p * luma).sum(1, keepdim=True) for p in pair)
        expect_shape("the image", image, (2, 3, 8, 8))
        expect(image.min() >= 0 and image.max() <= 1, "the image should stay in [0, 1]; clamp it.")
        hint = "the luminance should be that of the painting, and what is left of each channel that of the photo."
        expect(torch.allclose(image, (pair[1] - ours + theirs).clamp(0, 1), atol=2e-3), hint)
