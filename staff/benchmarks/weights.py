"""Figures of the model cards, measured on the validation photos of the training data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from helpers.features import load_features
from helpers.figures import results_table
from helpers.files import write_json
from helpers.generators import Generator, load_generator
from helpers.images import write_image
from helpers.inversion import project
from helpers.latents import Latents
from helpers.metrics import psnr
from helpers.photos import load_faces
from staff.benchmarks.common import circumstances
from staff.benchmarks.distributions import feature_statistics, frechet_distance
from staff.training.features import evaluate_features
from staff.training.gan import sample_grid

LAYER = "relu4_4"  # Fréchet distances: the deepest layer that still has cells at 64 px
SAMPLES = 5_000
FACES = 32


@torch.no_grad()
def samples(generator: Generator, n: int, seed: int = 1, batch: int = 100):
    """Yield batches of images of random z, without truncation."""
    for i in range(0, n, batch):
        z = generator.sample("z", min(batch, n - i), seed=seed + i)
        yield generator.synthesize(Latents("z", z)).clamp(0, 1)


def frechet_rows(data: str | Path, models: list[str], features, device) -> list[dict]:
    """Fréchet distance of each model's samples to the training photos, and of the validation photos as the floor."""
    real = feature_statistics(features, load_faces(data, split="train").to(device).split(100), LAYER)
    held_out = feature_statistics(features, load_faces(data, split="validation").to(device).split(100), LAYER)
    rows = [{"images": "validation photos (500)", "frechet_distance": frechet_distance(*held_out, *real)}]
    for model in models:
        generator = load_generator(model, device)
        # 500 samples too, because the distance of a small set is larger by its size alone
        for count in (SAMPLES, 500):
            ours = feature_statistics(features, samples(generator, count), LAYER)
            rows.append({"images": f"{model} ({count})", "frechet_distance": frechet_distance(*ours, *real)})
    return rows


def invert_faces(generator: Generator, faces: Tensor, space: str, features, batch: int = 16) -> Tensor:
    """PSNR (N,) of inversions with the defaults of ``python -m helpers invert``."""
    parts = []
    for chunk in faces.split(batch):
        result = project(generator, chunk, space, features=features)
        parts.append(psnr(result.images, chunk))
    return torch.cat(parts)


def nearest_pair(images: Tensor, features) -> float:
    """Smallest feature distance among all pairs of images: 0 would be two images that are the same."""
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(features(images, [LAYER])[LAYER].flatten(1), dim=1)
    distances = (2 - 2 * vectors @ vectors.t()).fill_diagonal_(9)
    return distances.min().item()


def run(data: str | Path, photos: str | Path | None, out: str | Path, device: torch.device) -> str:
    """Measure all bundled weights; write ``weights.json`` and sample grids; return the tables as text."""
    out = Path(out)
    features = load_features("vgg19-slim", device)
    models = ["dcgan-cats-64", "stylegan2-cats-64"]
    report = {"circumstances": circumstances(device), "frechet": frechet_rows(data, models, features, device)}
    faces = load_faces(data, n=FACES, split="validation").to(device)
    report["inversion"] = []
    for model, space in [("dcgan-cats-64", "z"), *(("stylegan2-cats-64", s) for s in ("z", "w", "w+"))]:
        values = invert_faces(load_generator(model, device), faces, space, features)
        row = {"model": model, "space": space, "faces": FACES, "mean_psnr": values.mean().item()}
        report["inversion"].append(row | {"worst_psnr": values.min().item()})
    real_pair = nearest_pair(load_faces(data, n=64, split="validation").to(device), features)
    report["diversity"] = [{"images": "64 validation photos", "nearest_pair": real_pair}]
    for model in models:
        generator = load_generator(model, device)
        write_image(out / f"{model}-samples.png", sample_grid(generator))
        pair = nearest_pair(next(samples(generator, 64)), features)
        report["diversity"].append({"images": f"64 samples of {model}", "nearest_pair": pair})
    if photos is not None:
        report["features"] = [evaluate_features(photos, device=device)]
    write_json(out / "weights.json", report)
    return "\n\n".join(results_table(rows) for rows in report.values() if isinstance(rows, list))
