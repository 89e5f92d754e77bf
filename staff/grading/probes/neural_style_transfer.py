"""Hidden probes of lesson 5."""

from __future__ import annotations

import numpy as np
import torch

from helpers.course.expect import TinyFeatures
from helpers.losses import gram_matrix, perceptual_loss, style_loss
from staff.grading.probe import Arrays, Probe, Verdict, agree, all_close

STEPS, WEIGHT = 40, 3.0
LAYERS = ("conv1_1", "conv2_1")


def _activations(random: np.random.Generator, name: str, batch: int) -> Arrays:
    """Two layers of different sizes and magnitudes."""
    return {
        f"{name} conv1_1": 5 * random.normal(size=(batch, 4, 6, 8)).astype(np.float32),
        f"{name} conv2_1": 0.1 * random.normal(size=(batch, 7, 3, 4)).astype(np.float32),
    }


def losses_inputs(random: np.random.Generator) -> Arrays:
    return _activations(random, "ours", 3) | _activations(random, "theirs", 1)


def content_emit(function, inputs):
    import torch

    ours, theirs = (
        {layer: torch.from_numpy(inputs[f"{name} {layer}"]) for layer in ("conv1_1", "conv2_1")}
        for name in ("ours", "theirs")
    )
    one = {"conv2_1": theirs["conv2_1"]}
    return {"two layers": function(ours, theirs), "one layer": function(ours, one)}


def gram_emit(function, inputs):
    import torch

    first, second = (torch.from_numpy(inputs[f"ours {layer}"]) for layer in ("conv1_1", "conv2_1"))
    return {"first": function(first), "second": function(second)}


def style_emit(function, inputs):
    import torch

    layers = ("conv1_1", "conv2_1")
    ours = {layer: torch.from_numpy(inputs[f"ours {layer}"]) for layer in layers}
    rows = {layer: torch.from_numpy(inputs[f"theirs {layer}"]).flatten(2) for layer in layers}
    grams = {layer: r @ r.transpose(1, 2) for layer, r in rows.items()}  # of any scale
    one = {"conv1_1": grams["conv1_1"]}
    return {"two layers": function(ours, grams), "one layer": function(ours, one)}


def transfer_inputs(random: np.random.Generator) -> Arrays:
    return {
        "content": random.random((1, 3, 8, 8), dtype=np.float32),
        "style": random.random((1, 3, 10, 6), dtype=np.float32),
        "start": np.clip(0.5 + 0.1 * random.normal(size=(2, 3, 8, 8)), 0, 1).astype(np.float32),
        "network": random.integers(1 << 30, size=1),
    }


def transfer_emit(function, inputs):
    import torch

    from helpers.course.expect import TinyFeatures

    content, style, start = (torch.from_numpy(inputs[name]) for name in ("content", "style", "start"))
    features, layers = TinyFeatures(int(inputs["network"][0])), ("conv1_1", "conv2_1")
    images, history = function(features, content, style, start.clone(), layers, layers, style_weight=3.0, steps=40)
    return {"images": images, "history": history}


def transfer_judge(got: Arrays, want: Arrays, inputs: Arrays) -> list[Verdict]:
    if why := next((agree(got[k], want[k])[1] for k in want if got[k].shape != want[k].shape), ""):
        return [Verdict("shapes", 1.0, 0.0, why)]
    first, ours, theirs = (_total(a, inputs) for a in (inputs["start"], got["images"], want["images"]))
    inside = got["images"].min() >= 0 and got["images"].max() <= 1
    found = bool((ours <= np.maximum(1.3 * theirs, 0.02 * first)).all() and inside)
    told = np.allclose(got["history"][0], first, rtol=1e-2) and bool((got["history"].min(0) <= 1.3 * ours).all())
    why = "" if inside else "the picture leaves [0, 1]"
    why = why or f"loss {ours.mean():.2g}, the solution {theirs.mean():.2g}"
    return [
        Verdict("picture", 0.75, float(found), "" if found else why),
        Verdict("history", 0.25, float(found and told), "" if told else "the history is not the loss of each step"),
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
        "5.1", "content_loss", losses_inputs, content_emit, all_close("losses"),
        "The loss (B,) of random feature maps of one and of two layers, within 0.1 %.",
    ),
    Probe(
        "5.2", "gram_matrix", losses_inputs, gram_emit, all_close("matrices"),
        "Gram matrices (B, C, C) of random feature maps of two sizes, within 0.1 %.",
    ),
    Probe(
        "5.3", "style_loss", losses_inputs, style_emit, all_close("losses"),
        "The loss (B,) of random feature maps against random Gram matrices, within 0.1 %.",
    ),
    Probe(
        "5.4", "transfer", transfer_inputs, transfer_emit, transfer_judge,
        "Pictures in [0, 1] whose content and style loss is as low as the solution's, and the losses of all steps.",
        lambda values, inputs: values["images"],
    ),
)  # fmt: skip
