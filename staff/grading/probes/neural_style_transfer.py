"""Hidden probes of lesson 5."""

from __future__ import annotations

import numpy as np
import torch

from helpers.course.expect import LAYERS, TinyFeatures
from helpers.losses import gram_matrix, perceptual_loss, style_loss
from staff.grading.probe import Arrays, Part, Probe, Verdict, close
from staff.grading.probes.inversion import network

STEPS, WEIGHT = 40, 30.0


def _activations(random: np.random.Generator, name: str, batch: int) -> Arrays:
    """Two layers of different sizes and magnitudes."""
    return {
        f"{name} conv1_1": 5 * random.normal(size=(batch, 4, 6, 8)).astype(np.float32),
        f"{name} conv2_1": 0.1 * random.normal(size=(batch, 7, 3, 4)).astype(np.float32),
    }


def losses_inputs(random: np.random.Generator) -> Arrays:
    return _activations(random, "ours", 3) | _activations(random, "theirs", 1)


def content_emit(function, inputs):
    layers = ("conv1_1", "conv2_1")
    ours, theirs = ({k: torch.from_numpy(inputs[f"{name} {k}"]) for k in layers} for name in ("ours", "theirs"))
    one, other = ({layer: theirs[layer]} for layer in layers)
    return {"two layers": function(ours, theirs), "one layer": function(ours, one), "other": function(ours, other)}


def gram_emit(function, inputs):
    first, second = (torch.from_numpy(inputs[f"ours {layer}"]) for layer in ("conv1_1", "conv2_1"))
    values = {"first": function(first), "second": function(second)}
    return values | {"form": torch.cat([(v / v.square().mean().sqrt()).flatten() for v in values.values()])}


def style_emit(function, inputs):
    layers = ("conv1_1", "conv2_1")
    ours = {layer: torch.from_numpy(inputs[f"ours {layer}"]) for layer in layers}
    rows = {layer: torch.from_numpy(inputs[f"theirs {layer}"]).flatten(2) for layer in layers}
    grams = {layer: r @ r.transpose(1, 2) for layer, r in rows.items()}  # of any scale
    one, other = ({layer: grams[layer]} for layer in layers)
    return {"two layers": function(ours, grams), "one layer": function(ours, one), "other": function(ours, other)}


RELATIVE = {
    "one layer": Part(0.3, "the squared distance over the square of the target's"),
    "other": Part(0.2, "the same for a layer of another size"),
    "two layers": Part(0.5, "each layer is divided by the target's square before the mean over layers"),
}
GRAM = {
    "form": Part(0.4, "the sum over positions of the products of all pairs of channels"),
    "first": Part(0.3, "divide by the number of positions", "form"),
    "second": Part(0.3, "divide by the number of positions", "form"),
}


def transfer_inputs(random: np.random.Generator) -> Arrays:
    return {
        "content": random.random((1, 3, 8, 8), dtype=np.float32),
        "style": random.random((1, 3, 10, 6), dtype=np.float32) ** 0.5,
        "start": random.random((2, 3, 8, 8), dtype=np.float32),
        "network": network(random),
    }


def transfer_emit(function, inputs):
    content, style, start = (torch.from_numpy(inputs[name]) for name in ("content", "style", "start"))
    features, layers, seen = TinyFeatures(int(inputs["network"][0])), ("conv1_1", "conv2_1"), [0.0, 1.0]

    def watched(images, layers):
        seen.extend((images.detach().min().item(), images.detach().max().item()))
        return features(images, layers)

    images, history = function(watched, content, style, start.clone(), layers, layers, style_weight=30.0, steps=40)
    return {"images": images, "history": history, "range": [min(seen), max(seen)]}


def transfer_judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
    first, ours, theirs = (_total(a, inputs) for a in (inputs["start"], got["images"], want["images"]))
    found = bool((ours <= np.maximum(1.5 * theirs, theirs + 0.07 * (first - theirs))).all())
    inside = bool(got["images"].min() >= 0 and got["images"].max() <= 1)
    clamped = found and inside and bool(got["range"].min() >= 0 and got["range"].max() <= 1)
    history = got["history"]
    told = found and np.allclose(history[0], first, rtol=1e-2) and len(np.unique(history)) > history.size / 2
    told = bool(told and (np.abs(history[-1] - ours) < 0.2 * ours + 0.05 * first).all())
    hint = "the loss is content + style_weight * style, and should fall as far as the solution's"
    return [
        Verdict("picture", 0.5, float(found and inside), "" if found and inside else hint),
        Verdict("clamped", 0.2, float(clamped), "" if clamped else "clamp the image to [0, 1] after every step"),
        Verdict("history", 0.3, float(told), "" if told else "the history should hold the loss of each step"),
    ]


@torch.no_grad()
def _total(images: np.ndarray, inputs: Arrays) -> np.ndarray:
    """Content and style loss (B,) of pictures, by the course's own losses."""
    features = TinyFeatures(int(inputs["network"][0]))
    arrays = (np.asarray(a, np.float32) for a in (images, inputs["content"], inputs["style"]))
    pictures, content, style = (features(torch.from_numpy(a), LAYERS) for a in arrays)
    grams = [{layer: gram_matrix(a) for layer, a in found.items()} for found in (pictures, style)]
    return (perceptual_loss(pictures, content) + WEIGHT * style_loss(*grams)).double().numpy()


PROBES = (
    Probe(
        "5.1", "content_loss", losses_inputs, content_emit, close(RELATIVE),
        "The loss (B,) of random feature maps of one and of two layers, within 0.1 %.",
    ),
    Probe(
        "5.2", "gram_matrix", losses_inputs, gram_emit, close(GRAM),
        "Gram matrices (B, C, C) of random feature maps of two sizes, within 0.1 %.",
    ),
    Probe(
        "5.3", "style_loss", losses_inputs, style_emit, close(RELATIVE),
        "The loss (B,) of random feature maps against random Gram matrices, within 0.1 %.",
    ),
    Probe(
        "5.4", "transfer", transfer_inputs, transfer_emit, transfer_judge,
        "Pictures in [0, 1] whose content and style loss is about as low as the solution's, and the loss of each step.",
        lambda values, inputs: values["images"],
    ),
)  # fmt: skip
