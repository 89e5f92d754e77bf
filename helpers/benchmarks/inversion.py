"""Inversion measured on validation faces: spaces, starts, optimizers, a batch against single runs."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from helpers.features import load_features
from helpers.figures import labelled_grid, results_table, save_figure
from helpers.generators import Generator, load_generator
from helpers.inversion import InversionResult, project
from helpers.metrics import feature_distance, psnr, ssim
from helpers.photos import load_faces
from helpers.runs import DEMO, write_json

from .common import circumstances

FACES = 16
GAIN_STEPS = (25, 50, 100, 200, 300)  # of the comparison of the encoder with the mean


def summary(result: InversionResult, faces: Tensor, features) -> dict:
    """Means over the faces: PSNR, SSIM, feature distance, seconds per face."""
    images = result.images
    return {
        "psnr": psnr(images, faces).mean().item(),
        "ssim": ssim(images, faces).mean().item(),
        "feature_distance": feature_distance(features, images, faces).mean().item(),
        "seconds_per_face": result.seconds / len(faces),
    }


def single_against_batch(generator: Generator, faces: Tensor, features, steps: int = 60) -> dict:
    """Wall time of the faces one by one over that of the same faces as one batch."""
    started = time.perf_counter()
    for face in faces.split(1):
        project(generator, face, "w+", features=features, steps=steps)
    single = time.perf_counter() - started
    batch = project(generator, faces, "w+", features=features, steps=steps).seconds
    return {"faces": len(faces), "seconds_single": single, "seconds_batch": batch, "ratio": single / batch}


def encoder_gain(generator: Generator, faces: Tensor, features) -> list[dict]:
    """Loss and PSNR of w+ inversions from the mean and from the encoder's prediction, by the number of steps."""
    rows = []
    for steps in GAIN_STEPS:
        for start in ("mean", "encoder"):
            result = project(generator, faces, "w+", features=features, start=start, steps=steps)
            figures = {"loss": result.total.mean().item(), "psnr": psnr(result.images, faces).mean().item()}
            rows.append({"start": start, "steps": steps, **figures})
    return rows


def run(data: str | Path, out: str | Path, device: torch.device) -> str:
    """Measure; write ``inversion.json`` and a sheet of the faces; return the tables as text."""
    out, features = Path(out), load_features("vgg19-slim", device)
    faces = load_faces(data, n=FACES, split="validation").to(device)
    report, sheet = {"circumstances": circumstances(device), "spaces": [], "choices": []}, {"photo": faces[:8]}
    for model, space in DEMO:
        result = project(load_generator(model, device), faces, space, features=features)
        report["spaces"].append({"model": model, "space": space, **summary(result, faces, features)})
        sheet[f"{model.split('-')[0]} {space}"] = result.images[:8]
    generator = load_generator(DEMO[-1][0], device)
    few = faces[:4]
    for name, options in {
        "w, mean, adam 300": {"space": "w", "start": "mean"},
        "w, best of 64, adam 300": {"space": "w", "start": "best"},
        "w, mean, lbfgs 15": {"space": "w", "start": "mean", "optimizer": "lbfgs", "steps": 15},
        "z, one sample, adam 300": {"space": "z", "start": "sample"},
        "z, best of 64, adam 300": {"space": "z", "start": "best"},
        "z, 8 restarts, adam 300": {"space": "z", "start": "best", "restarts": 8},
    }.items():
        result = project(generator, few, features=features, **options)
        report["choices"].append({"choice": name, **summary(result, few, features)})
    report["encoder"] = encoder_gain(generator, faces[:8], features)
    report["batch"] = [single_against_batch(generator, faces, features)]
    write_json(out / "inversion.json", report)
    save_figure(labelled_grid(list(sheet.values()), list(sheet)), out / "inversion.png")
    return "\n\n".join(results_table(rows) for rows in report.values() if isinstance(rows, list))
