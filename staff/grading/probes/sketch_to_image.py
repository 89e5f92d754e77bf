"""Hidden probes of lesson 4."""

from __future__ import annotations

import numpy as np

from staff.grading.probe import Arrays, Probe, all_close, close


def mask_inputs(random: np.random.Generator) -> Arrays:
    rgba = random.integers(0, 256, size=(9, 7, 4)).astype(np.uint8)
    rgba[:2, :, 3], rgba[2:4, :, 3] = 255, 0
    return {"rgba": rgba, "thresholds": random.uniform(0.05, 0.7, size=2)}


def mask_emit(function, inputs):
    values = {}
    for i, threshold in enumerate(inputs["thresholds"]):
        image, mask = function(inputs["rgba"].copy(), threshold=float(threshold))
        values |= {f"image {i}": image, f"mask {i}": mask}
    return values


def l1_inputs(random: np.random.Generator) -> Arrays:
    mask = np.clip(random.normal(0.4, 0.7, size=(1, 1, 10, 10)), 0, 1).astype(np.float32)
    drawn = {name: random.random((n, 3, 10, 10), dtype=np.float32) for name, n in (("images", 4), ("target", 1))}
    return drawn | {"mask": mask}


def l1_emit(function, inputs):
    import torch

    images, target, mask = (torch.from_numpy(inputs[name]) for name in ("images", "target", "mask"))
    images.requires_grad_()
    loss = function(images, target, mask)
    (gradient,) = torch.autograd.grad(loss.sum(), images)
    return {"loss": loss, "small mask": function(images, target, mask * (mask > 0.9)), "gradient": gradient}


def rank_inputs(random: np.random.Generator) -> Arrays:
    return {"total": random.permutation(24).astype(np.float32) / 7, "starts": np.array([24, 8, 3, 2])}


def rank_emit(function, inputs):
    import torch

    total = torch.from_numpy(inputs["total"])
    return {f"{starts} starts": function(total, int(starts)) for starts in inputs["starts"]}


PROBES = (
    Probe(
        "4.1", "sketch_mask", mask_inputs, mask_emit, all_close("image and mask", atol=2e-3),
        "Image and soft mask of a random drawing, at two thresholds.",
        lambda values, inputs: values["image 0"],
    ),
    Probe(
        "4.2", "masked_l1", l1_inputs, l1_emit, close({"loss": 0.5, "small mask": 0.3, "gradient": 0.2}, atol=1e-6),
        "The loss (B,) of random pictures under soft masks of different areas, within 0.1 %, and its gradient.",
    ),
    Probe(
        "4.3", "rank", rank_inputs, rank_emit, all_close("orders"),
        "The order of random losses, within each block of starts.",
    ),
)  # fmt: skip
