"""Images judged by a network that knows ImageNet's photos: is it a cat, is it as varied, is it a copy?"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.generators import Generator
from helpers.images import grid, quantize, write_image
from helpers.latents import Latents
from helpers.metrics import checked_finite
from staff.benchmarks.common import Settings
from staff.training.pretrained import CATS, load_efficientnet

TRUNCATIONS = (0.7, 1.0)
PAIRS = 64  # samples that are shown next to their nearest photos


@torch.no_grad()
def described(net, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Pooled features (N, 1280) and the probability (N,) of any of ImageNet's domestic cats, at the images' size."""
    rows, likely = [], []
    for images in batches:
        x = (quantize(images).cpu() * 2 - 1).contiguous(memory_format=torch.channels_last)
        rows.append(net.forward_head(net.forward_features(x), pre_logits=True))
        likely.append(net.classifier(rows[-1]).softmax(1)[:, CATS].sum(1))
    return torch.cat(rows), torch.cat(likely)


@torch.no_grad()
def samples(generator: Generator, n: int, truncation: float = 1.0, seed: int = 1, batch: int = 50) -> Iterator[Tensor]:
    """Batches of images of random z; truncation applies where there is a w."""
    for i in range(0, n, batch):
        latents = Latents("z", generator.sample("z", min(batch, n - i), seed=seed + i))
        if "w" in generator.spaces and truncation != 1:
            mean, w = generator.mean("w"), generator.map(latents.code)
            latents = Latents("w", mean + truncation * (w - mean))
        yield generator.synthesize(latents).clamp(0, 1)


def frechet_distance(ours: Tensor, theirs: Tensor) -> float:
    """Squared Fréchet distance of two sets of vectors (N, C): |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), as in FID.

    Raises ValueError for fewer than two vectors in a set, and for NaN.
    """
    if (least := min(len(ours), len(theirs))) < 2:
        raise ValueError(f"expected at least 2 images for their statistics; got {least}.")
    ours, theirs = (checked_finite(vectors.double().cpu()) for vectors in (ours, theirs))
    first, second = torch.cov(ours.T), torch.cov(theirs.T)
    # tr (C1 C2)^½ from the symmetric C1^½ C2 C1^½, which has the same eigenvalues, all of them real
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return max(0.0, ((ours.mean(0) - theirs.mean(0)).square().sum() + (first + second).trace() - 2 * cross).item())


def cat_rows(name: str, generator: Generator, settings: Settings, n: int) -> list[dict]:
    """Share of samples that are a cat (P > 0.5), as it is and as a part of that of the validation photos; Fréchet
    distance to all photos as a multiple of that between halves of them; distance of 64 samples to the nearest photo.

    Writes a sheet of the 64 samples, each over its nearest photo.
    """
    net, size = load_efficientnet(), generator.resolution
    photos, kept = settings.faces(size=size, split="all"), len(settings.faces(size=size))
    rows, likely = described(net, photos.split(50))
    real_share = (likely[-kept:] > 0.5).double().mean().item()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    halves = frechet_distance(*(rows[half] for half in order.tensor_split(2)))
    report = []
    for truncation in TRUNCATIONS if "w" in generator.spaces else (1.0,):
        ours, likely = described(net, samples(generator, n, truncation))
        share = (likely > 0.5).double().mean().item()
        row = {"model": name, "truncation": truncation, "samples": n, "cats": share}
        ratio = frechet_distance(ours, rows) / halves
        report.append(row | {"of_photos_share": share / real_share, "frechet_ratio": ratio})
    shown = torch.cat(list(samples(generator, PAIRS, TRUNCATIONS[0])))
    ours, known = F.normalize(described(net, shown.split(50))[0], dim=1), F.normalize(rows, dim=1)
    nearest, which = torch.cdist(ours, known).min(1)
    between = torch.cdist(known, known).fill_diagonal_(9).min(1).values
    report[0] |= {"nearest_photo": nearest.min().item(), "nearest_two_photos": between.min().item()}
    pairs = torch.cat([shown, photos[which.to(photos.device)]], 2)
    write_image(Path(settings.out) / f"{name}-nearest.png", grid(pairs, columns=16))
    return report
