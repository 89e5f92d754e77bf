"""Is a photo of the kind that a model can show?"""

import hashlib
from contextlib import suppress

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from helpers import weights
from helpers.files import WriteError
from helpers.generators import LARGE, Generator
from helpers.latents import Latents, save_tensors

LAYERS = ("conv2_2", "conv3_4", "conv4_4")
SAMPLES, FEW = 96, 16  # of the model; few of a large one, which take a minute at 1024 pixels and say as much
SEED = 1  # of the samples
SIZE = 256  # pixels at which images are described; more changes nothing but the time
SHRINKAGE = 0.1  # of the covariance towards its diagonal: there are more features than samples
FAR = 1.7  # nine of ten validation cats lie below 1.4 (1.6 at 128 px), photos of coffee, rockets and people above 1.8


@torch.no_grad()
def domain_distance(generator: Generator, images: Tensor, features) -> Tensor:
    """How far images (B, 3, R, R) in [0, 1] are from what a model shows: (B,), about 1 for its own images.

    Mahalanobis distance (Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples, 2018) of the
    mean and deviation of each feature channel to two thirds of some samples, over the mean of that for the last third.
    """
    rows = _samples(generator, features)
    first, rest = rows.tensor_split([len(rows) * 2 // 3])
    mean, covariance = first.mean(0), torch.cov(first.t())
    diagonal = covariance.diag()
    covariance = (1 - SHRINKAGE) * covariance + torch.diag(SHRINKAGE * diagonal + 1e-4 * diagonal.mean())
    precision = torch.linalg.inv(covariance)
    offsets = (part - mean for part in (_described(images, features), rest))
    ours, usual = (((offset @ precision) * offset).sum(1).clamp_min(0).sqrt() for offset in offsets)
    return ours / usual.mean()


def _samples(generator: Generator, features) -> Tensor:
    """Samples of the model, described: (samples, n). Those of a named model are drawn once and kept on disk."""
    large, name = generator.resolution >= LARGE, getattr(generator, "name", "")
    settings = [SAMPLES, FEW, SIZE, SEED, generator.label, generator.resolution, getattr(features, "pooling", "")]
    found = hashlib.sha256(str(settings).encode())
    for key, value in [*generator.state_dict().items(), *features.state_dict().items()]:
        found.update(f"{key} {tuple(value.shape)} {value.double().sum().item()!r}".encode())
    path = weights.FOLDER / "downloads" / f"domain-{found.hexdigest()[:16]}.safetensors"
    if name:
        with suppress(OSError, SafetensorError, KeyError):  # absent or damaged
            return load_file(path)["rows"].to(generator.device)
    z = generator.sample("z", FEW if large else SAMPLES, seed=SEED)
    parts = tqdm(z.split(1 if large else 8), "what the model shows", leave=False, disable=None if large else True)
    rows = torch.cat([_described(generator.synthesize(Latents("z", part)).clamp(0, 1), features) for part in parts])
    if name:
        with suppress(WriteError):  # they are then drawn again next time
            save_tensors(path, {"rows": rows.cpu()}, {"generator": name})
    return rows


def _described(images: Tensor, features) -> Tensor:
    """Mean and standard deviation of every channel of the layers, of images at SIZE at most: (B, n)."""
    layers = [layer for layer in LAYERS if layer in features.layers] or list(features.layers)[-1:]
    if images.shape[-1] > SIZE:
        images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
    rows = []
    for part in images.split(8):
        maps = features(part, layers).values()
        rows.append(torch.cat([statistic for m in maps for statistic in (m.mean((2, 3)), m.std((2, 3)))], 1))
    return torch.cat(rows)


def out_of_domain(generator: Generator, images: Tensor, features) -> list[str | None]:
    """For each image None, or one sentence that says that the model does not show such images."""
    what = f" ({generator.domain})" if generator.domain else ""
    fix = "crop or align it differently, or use another model"
    unlike, found = f"the photo is unlike what this model shows{what}", domain_distance(generator, images, features)
    return [f"{unlike}, {far:.1f} times as far off as its own images: {fix}." if far > FAR else None for far in found]
