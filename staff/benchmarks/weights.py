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
from helpers.metrics import psnr
from helpers.noise import fresh_noise_psnr, optimize_noise
from helpers.photos import load_faces
from staff.benchmarks.cats import PAIRS, cat_rows, samples
from staff.benchmarks.common import circumstances
from staff.benchmarks.distributions import feature_statistics, frechet_distance
from staff.training.features import evaluate_features
from staff.training.gan import sample_grid

LAYER = "relu4_4"  # Fréchet distances: the deepest layer that still has cells at 64 px
SAMPLES = 5_000
FACES = 32
MODELS = ["dcgan-cats-64", "stylegan2-cats-64"]


def frechet_rows(data: str | Path, held_out: int | None, models: list[str], features, device) -> list[dict]:
    """Fréchet distance of each model's samples to the training photos, and of the validation photos as the floor."""
    rows = []
    for model in models:
        generator = load_generator(model, device)
        real, kept = (
            load_faces(data, size=generator.resolution, split=split, held_out=held_out).to(device)
            for split in ("train", "validation")
        )
        photos, floor = (feature_statistics(features, part.split(100), LAYER) for part in (real, kept))
        name = f"validation photos ({len(kept)}), {generator.resolution} px"
        rows.append({"images": name, "frechet_distance": frechet_distance(*floor, *photos)})
        # as few samples too, because the distance of a small set is larger by its size alone
        for count in (SAMPLES, len(kept)):
            ours = feature_statistics(features, samples(generator, count), LAYER)
            rows.append({"images": f"{model} ({count})", "frechet_distance": frechet_distance(*ours, *photos)})
    return rows


def invert_faces(generator: Generator, faces: Tensor, space: str, features, noise: bool, batch: int = 16) -> dict:
    """PSNR of inversions with the defaults of ``helpers invert``, after the noise maps too, and with fresh ones."""
    found = []
    for chunk in faces.split(batch):
        result = project(generator, chunk, space, features=features)
        values = {"psnr": psnr(result.images, chunk)}
        if noise:
            fitted = optimize_noise(generator, chunk, result.latents)
            values["after_noise"] = psnr(fitted.images, chunk)
            values["fresh_noise"] = fresh_noise_psnr(generator, chunk, fitted.latents)
        found.append(values)
    joined = {name: torch.cat([values[name] for values in found]) for name in found[0]}
    row = {f"mean_{name}": values.mean().item() for name, values in joined.items()}
    return row | {f"worst_{name}": values.min().item() for name, values in joined.items()}


def nearest_pair(images: Tensor, features) -> float:
    """Smallest feature distance among all pairs of images: 0 would be two images that are the same."""
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(features(images, [LAYER])[LAYER].flatten(1), dim=1)
    distances = (2 - 2 * vectors @ vectors.t()).fill_diagonal_(9)
    return distances.min().item()


def run(
    data: str | Path,
    photos: str | Path | None,
    out: str | Path,
    device: torch.device,
    models: list[str] | None = None,
    held_out: int | None = None,
) -> str:
    """Measure bundled weights; write ``weights.json`` and sheets; return the tables as text.

    data, held_out: the photos of the models and how many, the last ones, are for validation. photos: those of the
    feature network, which is measured then.
    """
    out, models = Path(out), models or MODELS
    features = load_features("vgg19-slim", device)
    report = {"circumstances": circumstances(device)}
    report["frechet"] = frechet_rows(data, held_out, models, features, device)
    report |= {"cats": [], "inversion": [], "diversity": []}
    for model in models:
        generator = load_generator(model, device)
        faces = load_faces(data, PAIRS, generator.resolution, held_out=held_out).to(device)
        report["cats"] += cat_rows(model, generator, data, held_out, out, SAMPLES)
        for space in generator.spaces:
            row = {"model": model, "space": space, "faces": len(faces[:FACES])}
            found = invert_faces(generator, faces[:FACES], space, features, noise=space == "w+")
            report["inversion"].append(row | found)
        write_image(out / f"{model}-samples.png", sample_grid(generator))
        shown = next(samples(generator, PAIRS, batch=PAIRS))
        for name, images in ((f"{len(faces)} validation photos", faces), (f"{PAIRS} samples of {model}", shown)):
            report["diversity"].append({"images": name, "nearest_pair": nearest_pair(images, features)})
    if photos is not None:
        report["features"] = [evaluate_features(photos, device=device)]
    write_json(out / "weights.json", report)
    return "\n\n".join(results_table(rows) for rows in report.values() if isinstance(rows, list))
