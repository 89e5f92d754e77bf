"""Hidden probes of lesson 3."""

from __future__ import annotations

import numpy as np

from staff.grading.probe import Arrays, Probe, all_close, close


def pyramid_inputs(random: np.random.Generator) -> Arrays:
    return {"mask": random.random((2, 1, 24, 24), dtype=np.float32)}


def pyramid_emit(function, inputs):
    import torch

    sizes = (24, 12, 8, 6, 2, 1)
    levels = function(torch.from_numpy(inputs["mask"]), sizes)
    return {f"level {size}": level for size, level in zip(sizes, levels, strict=True)}


def loss_inputs(random: np.random.Generator) -> Arrays:
    mask = np.clip(random.normal(0.5, 0.7, size=(1, 1, 12, 12)), 0, 1).astype(np.float32)
    mask[..., :2], mask[..., 10:] = 0, 1
    pictures = {"images": 3, "x": 1, "y": 1}
    drawn = {name: random.random((n, 3, 12, 12), dtype=np.float32) for name, n in pictures.items()}
    return drawn | {
        "mask": mask,
        "weights": random.uniform(0.3, 2, size=3).astype(np.float32),
        "network": random.integers(1 << 30, size=1),
    }


def loss_emit(function, inputs):
    import torch

    from helpers.course.expect import TinyFeatures

    images, x, y, mask = (torch.from_numpy(inputs[name]) for name in ("images", "x", "y", "mask"))
    features, layers = TinyFeatures(int(inputs["network"][0])), ("conv1_1", "conv2_1")
    names, values = ("first", "second", "perceptual"), {}
    for name, weight in zip(names, inputs["weights"], strict=True):
        only = dict.fromkeys(names, 0.0) | {name: float(weight)}
        values[name] = function(images, x, y, mask, features, only, layers)
    images.requires_grad_()
    together = function(
        images, x, y, mask, features, {n: float(w) for n, w in zip(names, inputs["weights"], strict=True)}, layers
    )
    (values["gradient"],) = torch.autograd.grad(together.sum(), images)
    every = {"first": 1.0, "second": 0.5, "perceptual": 1.0}
    values["empty"] = function(images.detach(), x, y, 0 * mask, features, every, layers)
    return values


def seam_inputs(random: np.random.Generator) -> Arrays:
    pictures = {name: random.random((1, 3, 11, 11), dtype=np.float32) for name in ("image", "x", "y")}
    top, left = random.integers(1, 4, size=2)
    mask = np.zeros((1, 1, 11, 11), np.float32)
    mask[..., top : top + 5, left:] = 0.7
    return pictures | {"mask": mask}


def seam_emit(function, inputs):
    import torch

    image, x, y, mask = (torch.from_numpy(inputs[name]) for name in ("image", "x", "y", "mask"))
    return {"seam": [function(image, x, y, mask)], "other side": [function(image, y, x, 1 - mask)]}


PROBES = (
    Probe(
        "3.1", "mask_pyramid", pyramid_inputs, pyramid_emit, all_close("levels", atol=1e-4),
        "A random soft mask at six sizes: each cell the mean of what it covers.",
        lambda values, inputs: values["level 12"],
    ),
    Probe(
        "3.2", "blend_loss", loss_inputs, loss_emit,
        close({"first": 0.25, "second": 0.2, "perceptual": 0.35, "gradient": 0.1, "empty": 0.1}),
        "Each term (B,) for random pictures and a soft mask, within 0.1 %, its gradient, and an empty mask.",
    ),
    Probe(
        "3.3", "seam", seam_inputs, seam_emit, all_close("both sides"),
        "The seam of random pictures along a random edge, within 0.1 %.",
    ),
)  # fmt: skip
