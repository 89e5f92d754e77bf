"""Hidden probes of lesson 5."""

import numpy as np
import torch

from helpers.course.expect import LAYERS, TinyFeatures
from helpers.losses import gram_matrix, perceptual_loss, style_loss
from staff.grading.probe import Arrays, Part, Verdict, probe, verdict, within
from staff.grading.probes.inversion import network

WEIGHT = 30.0
COLOURS = within(atol=2e-3)


def activations(random: np.random.Generator) -> Arrays:
    """Two layers of different sizes and magnitudes, of three images and of one."""
    return {
        f"{name} {layer}": scale * random.normal(size=(batch, *shape)).astype(np.float32)
        for name, batch in (("ours", 3), ("theirs", 1))
        for layer, scale, shape in (("conv1_1", 5, (4, 6, 8)), ("conv2_1", 0.1, (7, 3, 4)))
    }


@probe("5.1", "optimize_pixels", "Where Adam ends for random goals, in [0, 1] all the way, and the loss of each step.")
class OptimizePixels:
    def inputs(random: np.random.Generator) -> Arrays:
        goal, start = random.random((2, 3, 3, 6, 6), dtype=np.float32)
        return {"goal": 2 * goal - np.float32(0.5), "start": start}

    def emit(function, inputs):
        goal, seen = torch.from_numpy(inputs["goal"]), []

        def loss(images):
            seen.extend([images.min().item(), images.max().item()])
            return (images - goal).square().mean((1, 2, 3))

        images, history = function(loss, torch.from_numpy(inputs["start"]), steps=90, lr=0.05)
        return {"image": images, "clamped": [min(seen), max(seen)], "history": history}

    parts = {
        "image": Part(0.5, "the loss of every image should fall as far as it can", same=within(atol=0.02)),
        "clamped": Part(0.2, "clamp the image to [0, 1] after every step", "image"),
        "history": Part(0.3, "the loss of each image before each step", "image", within(rtol=0.02)),
    }


@probe("5.2", "gram_matrix", "Gram matrices (B, C, C) of random feature maps of two sizes, within 0.1 %.")
class GramMatrix:
    inputs = activations

    def emit(function, inputs):
        first, second = (torch.from_numpy(inputs[f"ours {layer}"]) for layer in ("conv1_1", "conv2_1"))
        values = {"first": function(first), "second": function(second)}
        return values | {"form": torch.cat([(v / v.square().mean().sqrt()).flatten() for v in values.values()])}

    parts = {
        "form": Part(0.4, "the sum over positions of the products of all pairs of channels"),
        "first": Part(0.3, "divide by the number of positions", "form"),
        "second": Part(0.3, "divide by the number of positions", "form"),
    }


@probe("5.3", "style_loss", "The loss (B,) of random feature maps against random Gram matrices, within 0.1 %.")
class StyleLoss:
    inputs = activations

    def emit(function, inputs):
        layers = ("conv1_1", "conv2_1")
        ours = {layer: torch.from_numpy(inputs[f"ours {layer}"]) for layer in layers}
        rows = {layer: torch.from_numpy(inputs[f"theirs {layer}"]).flatten(2) for layer in layers}
        grams = {layer: r @ r.transpose(1, 2) for layer, r in rows.items()}  # of any scale
        one, other = ({layer: grams[layer]} for layer in layers)
        return {"two layers": function(ours, grams), "one layer": function(ours, one), "other": function(ours, other)}

    parts = {
        "one layer": Part(0.3, "the squared distance over the square of the target's"),
        "other": Part(0.2, "the same for a layer of another size"),
        "two layers": Part(0.5, "each layer is divided by the target's square before the mean over layers"),
    }


@torch.no_grad()
def total_of(images: np.ndarray, inputs: Arrays) -> np.ndarray:
    """Content and style loss (B,) of images, by the course's own losses."""
    features = TinyFeatures(int(inputs["network"][0]))
    arrays = (np.asarray(a, np.float32) for a in (images, inputs["content"], inputs["style"]))
    ours, content, style = (features(torch.from_numpy(a), LAYERS) for a in arrays)
    grams = [{layer: gram_matrix(a) for layer, a in found.items()} for found in (ours, style)]
    return (perceptual_loss(ours, content) + WEIGHT * style_loss(*grams)).double().numpy()


@probe("5.4", "transfer", "Images in [0, 1] with a loss about as low as the solution's, and the loss of each step.")
class Transfer:
    def inputs(random: np.random.Generator) -> Arrays:
        return {
            "content": random.random((1, 3, 8, 8), dtype=np.float32),
            "style": random.random((1, 3, 10, 6), dtype=np.float32) ** 0.5,
            "start": random.random((2, 3, 8, 8), dtype=np.float32),
            "network": network(random),
        }

    def emit(function, inputs):
        content, style, start = (torch.from_numpy(inputs[name]) for name in ("content", "style", "start"))
        features, layers = TinyFeatures(int(inputs["network"][0])), ("conv1_1", "conv2_1")
        images, history = function(features, content, style, start.clone(), layers, layers, style_weight=30.0, steps=20)
        return {"images": images, "history": history, "range": [features.lowest, features.highest]}

    def judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
        history = got["history"]
        first, ours, theirs = (total_of(a, inputs) for a in (inputs["start"], got["images"], want["images"]))
        found = bool((ours <= np.maximum(1.5 * theirs, theirs + 0.07 * (first - theirs))).all())
        inside = found and bool(got["images"].min() >= 0 and got["images"].max() <= 1)
        clamped = inside and bool(got["range"].min() >= 0 and got["range"].max() <= 1)
        told = found and np.allclose(history[0], first, rtol=1e-2) and len(np.unique(history)) > history.size / 2
        told = bool(told and (np.abs(history[-1] - ours) < 0.2 * ours + 0.05 * first).all())
        hint = "the loss is content + style_weight * style, and should fall as far as the solution's"
        return [
            verdict("image", 0.5, inside, hint),
            verdict("clamped", 0.2, clamped, "clamp the image to [0, 1] after every step"),
            verdict("history", 0.3, told, "the history should hold the loss of each step"),
        ]


@probe("5.5", "keep_colours", "The luminance of random images with the colours of others, near grey and far from it.")
class KeepColours:
    def inputs(random: np.random.Generator) -> Arrays:
        return {name: random.random((3, 3, 5, 6), dtype=np.float32) for name in ("painted", "photo")}

    def emit(function, inputs):
        painted, photo = torch.from_numpy(inputs["painted"]), torch.from_numpy(inputs["photo"])
        return {"near": function(0.4 + 0.2 * painted, 0.4 + 0.2 * photo), "far": function(painted, photo)}

    parts = {
        "near": Part(0.7, "the painting's luminance, and the rest of each channel from the photo", same=COLOURS),
        "far": Part(0.3, "the result should stay in [0, 1]", "near", COLOURS),
    }
