"""Hidden probes of lesson 4."""

import numpy as np
import torch

from staff.grading.probe import Arrays, Part, probe, within

LEVELS = within(atol=2e-3)


@probe("4.1", "sketch_mask", "Image and soft mask of a random drawing, at two thresholds.")
class SketchMask:
    def inputs(random: np.random.Generator) -> Arrays:
        rgba = random.integers(1, 256, size=(9, 7, 4)).astype(np.uint8)
        rgba[:2, :, 3], rgba[2:4, :, 3] = 255, 0
        return {"rgba": rgba, "thresholds": np.array([0.1, random.uniform(0.2, 0.7)])}

    def emit(function, inputs):
        values = {}
        for i, threshold in enumerate(inputs["thresholds"]):
            image, mask = function(inputs["rgba"].copy(), threshold=float(threshold))
            values |= {f"image {i}": image, f"mask {i}": mask}
        return values | {"opaque": values["mask 0"][..., :2, :], "counted": values["mask 0"] > 0}

    parts = {
        "counted": Part(0.2, "alpha below the threshold should not count at all", same=LEVELS),
        "mask 0": Part(0.3, "alpha as it is, or 0 where it is below the threshold", same=LEVELS),
        "mask 1": Part(0.1, "the threshold that is given should be used", "mask 0", LEVELS),
        "image 0": Part(0.3, "colours in [0, 1], channels first, and 0 where nothing counts", same=LEVELS),
        "image 1": Part(0.1, "the threshold that is given should be used", "image 0", LEVELS),
    }


@probe("4.2", "masked_l1", "The loss (B,) of random images under soft masks, within 0.1 %, and its gradient.")
class MaskedL1:
    def inputs(random: np.random.Generator) -> Arrays:
        mask = np.clip(random.normal(0.4, 0.7, size=(1, 1, 10, 10)), 0, 1).astype(np.float32)
        drawn = {name: random.random((n, 3, 10, 10), dtype=np.float32) for name, n in (("images", 4), ("target", 1))}
        return drawn | {"mask": mask}

    def emit(function, inputs):
        images, target, mask = (torch.from_numpy(inputs[name]) for name in ("images", "target", "mask"))
        images.requires_grad_()
        loss = function(images, target, mask)
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        return {"loss": loss, "hard mask": function(images, target, (mask > 0.9).float()), "gradient": gradient}

    parts = {
        "loss": Part(0.5, "a mask of 0.5 counts half, in the sum and in the area", same=within(atol=1e-6)),
        "hard mask": Part(0.3, "the mean over channels, and over the area of the mask", same=within(atol=1e-6)),
        "gradient": Part(0.2, "the gradient reaches the image under the mask", "loss", within(1e-2, 1e-7)),
    }


@probe("4.3", "rank", "The order of random losses, within each block of starts.")
class Rank:
    def inputs(random: np.random.Generator) -> Arrays:
        return {"total": random.permutation(24).astype(np.float32) / 7, "starts": np.array([24, 8, 3, 2])}

    def emit(function, inputs):
        total = torch.from_numpy(inputs["total"])
        return {f"{starts} starts": function(total, int(starts)) for starts in inputs["starts"]}

    parts = {
        "24 starts": Part(0.3, "indices that sort ascending"),
        "8 starts": Part(0.3, "every block is sorted on its own, and its indices are those of the whole batch"),
        "3 starts": Part(0.2, "every block is sorted on its own", "8 starts"),
        "2 starts": Part(0.2, "every block is sorted on its own", "8 starts"),
    }
