"""Hidden probes of lesson 3."""

import numpy as np
import torch

from helpers.course.expect import TinyFeatures
from staff.grading.probe import Arrays, Part, probe, within
from staff.grading.probes.inversion import network

LEVEL, AREA = "each cell should be the mean of the pixels that it covers", "the mean over channels and the mask's area"
EXACT = within(1e-4, 1e-6)


@probe("3.1", "mask_pyramid", "A random soft mask at six sizes: each cell the mean of what it covers.")
class MaskPyramid:
    def inputs(random: np.random.Generator) -> Arrays:
        return {"mask": random.random((2, 1, 24, 24), dtype=np.float32)}

    def emit(function, inputs):
        sizes = (24, 12, 8, 6, 2, 1)
        levels = function(torch.from_numpy(inputs["mask"]), sizes)
        return {f"level {size}": level for size, level in zip(sizes, levels, strict=True)}

    parts = {
        f"level {size}": Part(share, LEVEL, same=within(atol=1e-4))
        for size, share in {12: 0.3, 8: 0.2, 6: 0.2, 2: 0.2, 1: 0.1}.items()
    }


@probe("3.2", "blend_loss", "Each term (B,) for random images and a soft mask, its gradient, and an empty mask.")
class BlendLoss:
    def inputs(random: np.random.Generator) -> Arrays:
        mask = np.clip(random.normal(0.5, 0.7, size=(1, 1, 12, 12)), 0, 1).astype(np.float32)
        mask[..., :2], mask[..., 10:] = 0, 1
        batches = {"images": 3, "x": 1, "y": 1}
        drawn = {name: random.random((n, 3, 12, 12), dtype=np.float32) for name, n in batches.items()}
        weights = random.uniform(0.3, 2, size=3).astype(np.float32)
        return drawn | {"mask": mask, "weights": weights, "network": network(random)}

    def emit(function, inputs):
        images, x, y, mask = (torch.from_numpy(inputs[name]) for name in ("images", "x", "y", "mask"))
        features, layers = TinyFeatures(int(inputs["network"][0])), ("conv1_1", "conv2_1")
        names, values = ("first", "second", "perceptual"), {}
        weights = dict(zip(names, map(float, inputs["weights"]), strict=True))
        for name in names:
            only = dict.fromkeys(names, 0.0) | {name: weights[name]}
            values[name] = function(images, x, y, mask, features, only, layers)
        images.requires_grad_()
        together = function(images, x, y, mask, features, weights, layers)
        (values["gradient"],) = torch.autograd.grad(together.sum(), images)
        every = {"first": 1.0, "second": 0.5, "perceptual": 1.0}
        values["empty"] = function(images.detach(), x, y, 0 * mask, features, every, layers)
        return values

    parts = {
        "first": Part(0.25, f"the squared error to x inside the mask, {AREA}"),
        "second": Part(0.2, f"the squared error to y outside the mask, {AREA}"),
        "perceptual": Part(0.35, "features of the image inside the mask on x, relative to those of x"),
        "gradient": Part(0.1, "the gradient of the weighted sum"),
        "empty": Part(0.1, "an empty mask should cost nothing, not NaN", "second"),
    }


@probe("3.3", "seam", "The seam of random images along a random edge, within 0.1 %.")
class Seam:
    def inputs(random: np.random.Generator) -> Arrays:
        drawn = {name: random.random((1, 3, 11, 11), dtype=np.float32) for name in ("image", "x", "y")}
        drawn["y"] *= np.float32(random.uniform(0.1, 0.4))
        top, left = random.integers(1, 4, size=2)
        mask = np.zeros((1, 1, 11, 11), np.float32)
        mask[..., top : top + 5, left:] = 0.7
        return drawn | {"mask": mask}

    def emit(function, inputs):
        image, x, y, mask = (torch.from_numpy(inputs[name]) for name in ("image", "x", "y", "mask"))
        red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        return {
            "seam": [function(image, x, y, mask)],
            "other side": [function(image, y, x, 1 - mask)],
            "one source": [function(image, x, x, mask)],
            "red": [function(image * red, x * red, x * red, mask)],
        }

    parts = {
        "seam": Part(0.4, "the image's mean over the mean of x's and y's, both directions alike", same=EXACT),
        "other side": Part(0.2, "inside and outside exchanged give the same edge", same=EXACT),
        "one source": Part(0.2, "a length is the root of the sum of squares over the channels", same=EXACT),
        "red": Part(0.2, "every pair across the edge counts once, horizontal and vertical", same=EXACT),
    }
