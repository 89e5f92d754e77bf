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


@probe("4.2", "rank", "The order of random losses, within each block of starts.")
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


@probe("4.3", "diagnose", "The cause of each of 200 random searches, at a threshold of their own.")
class Diagnose:
    def inputs(random: np.random.Generator) -> Arrays:
        ends, falls = random.uniform(0.02, 0.3, size=200), random.uniform(0.2, 0.3, size=200)
        times = np.linspace(1, 0, 25)[:, None] ** random.choice([1, 9], size=200)
        colour, away = ends + falls * times, random.choice([0.2, 1, 1.3, 2, 4], size=200)
        return {"colour": np.float32(colour), "away": np.float32(away), "met": random.uniform(0.1, 0.2, size=1)}

    def emit(function, inputs):
        colour, away = torch.from_numpy(inputs["colour"]), torch.from_numpy(inputs["away"])
        causes = function(colour, away, float(inputs["met"][0]))
        return {f"cause {i}": causes == i for i in range(5)}

    parts = {f"cause {i}": Part(0.2, "the first cause that holds, with the threshold given") for i in range(5)}
