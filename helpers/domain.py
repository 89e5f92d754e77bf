"""Is a photo of the kind that a model can show?"""

from __future__ import annotations

import torch
from torch import Tensor

from helpers.generators import Generator
from helpers.latents import Latents

LAYERS = ("conv2_2", "conv3_4", "conv4_4")
SAMPLES = 96  # of the model
SHRINKAGE = 0.1  # of the covariance towards its diagonal: there are more features than samples
FAR = 1.5  # nine of ten validation cats lie below 1.4, photos of coffee, rockets and people above 1.6


@torch.no_grad()
def domain_distance(generator: Generator, images: Tensor, features, samples: int = SAMPLES, seed: int = 0) -> Tensor:
    """How far images (B, 3, R, R) in [0, 1] are from what a model shows: (B,), about 1 for its own images.

    Mahalanobis distance (Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples, 2018) of the
    mean and deviation of each feature channel, to two thirds of some samples, divided by the mean of the same for the
    last third. It depends on content more than on position: a face that is slightly turned or shifted scores near 1.
    """
    z = generator.sample("z", samples, seed)
    shown = torch.cat([generator.synthesize(Latents("z", part)).clamp(0, 1) for part in z.split(8)])
    first, rest = _described(shown, features).split([samples * 2 // 3, samples - samples * 2 // 3])
    mean, covariance = first.mean(0), torch.cov(first.t())
    diagonal = covariance.diag()
    covariance = (1 - SHRINKAGE) * covariance + torch.diag(SHRINKAGE * diagonal + 1e-4 * diagonal.mean())
    precision = torch.linalg.inv(covariance)

    def distance(rows: Tensor) -> Tensor:
        return (((rows - mean) @ precision) * (rows - mean)).sum(1).clamp_min(0).sqrt()

    return distance(_described(images, features)) / distance(rest).mean()


def _described(images: Tensor, features) -> Tensor:
    """Mean and standard deviation of every channel of the layers: (B, n)."""
    layers = [layer for layer in LAYERS if layer in features.layers] or list(features.layers)[-1:]
    rows = []
    for part in images.split(8):
        maps = features(part, layers).values()
        rows.append(torch.cat([statistic for m in maps for statistic in (m.mean((2, 3)), m.std((2, 3)))], 1))
    return torch.cat(rows)


def out_of_domain(generator: Generator, images: Tensor, features) -> list[str | None]:
    """For each image None, or one sentence that says that the model does not show such images."""
    what = f" ({generator.domain})" if generator.domain else ""
    return [
        None
        if distance <= FAR
        else f"the photo is unlike what this model shows{what}, {distance:.1f} times as far off as its own images: "
        "crop or align it differently, or use another model."
        for distance in domain_distance(generator, images, features).tolist()
    ]
