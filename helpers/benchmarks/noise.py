"""The noise stage measured on validation faces: orders, what fresh noise leaves, where the residual sits, time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from helpers.features import load_features
from helpers.figures import labelled_grid, results_table, save_figure
from helpers.generators import Generator, load_generator
from helpers.inversion import InversionResult, project
from helpers.latents import Latents, join
from helpers.metrics import feature_distance, psnr, ssim
from helpers.noise import fresh_noise_psnr, optimize_noise, residual_report
from helpers.photos import load_faces
from helpers.runs import write_json

from .common import circumstances

MODEL = "stylegan2-cats-64"
FACES, BATCH = 32, 16
REGULARISE = 10.0


def joined(results: list[InversionResult]) -> tuple[Latents, Tensor, float]:
    """Latents and images of several batches as one, and their seconds."""
    images = torch.cat([result.images for result in results])
    return join([result.latents for result in results]), images, sum(result.seconds for result in results)


def in_batches(function, faces: Tensor, starts: Latents | None, batch: int) -> tuple[Latents, Tensor, float]:
    """``function(faces, start)`` over chunks of the faces, each with its own part of the starts."""
    chunks = range(0, len(faces), batch)
    return joined([function(faces[i : i + batch], None if starts is None else starts[i : i + batch]) for i in chunks])


def row_of(
    stage: str, generator: Generator, faces: Tensor, features, latents: Latents, images: Tensor, seconds
) -> dict:
    """Means over the faces; ``worst_psnr`` is the smallest."""
    values = psnr(images, faces)
    return {
        "stage": stage,
        "psnr": values.mean().item(),
        "worst_psnr": values.min().item(),
        "psnr_fresh_noise": fresh_noise_psnr(generator, faces, latents).mean().item(),
        "ssim": ssim(images, faces).mean().item(),
        "feature_distance": feature_distance(features, images, faces).mean().item(),
        "seconds_per_face": seconds / len(faces),
    }


def residual_row(stage: str, images: Tensor, faces: Tensor) -> dict:
    """Shares of the residual's energy by colour and frequency, in percent, mean over the faces."""
    parts = residual_report(images, faces)
    total = sum(parts.values())
    return {"stage": stage} | {name: (100 * values / total).mean().item() for name, values in parts.items()}


def bench_noise(
    generator: Generator,
    faces: Tensor,
    features,
    *,
    batch: int = BATCH,
    regularise: float = REGULARISE,
    inversion: dict | None = None,
    **options,
) -> tuple[list[dict], list[dict], dict[str, Tensor]]:
    """Every order on the same faces.

    Args:
        faces: (N, 3, R, R) in [0, 1].
        features: network of ``load_features``.
        inversion: options of the w and w+ stages (``project``).
        options: of the noise stages (``optimize_noise``).

    Returns:
        Rows of figures, rows of residual shares, and images (N, 3, R, R) by stage.
    """
    inversion = {"start": "best"} | (inversion or {})
    mean = Latents("w+", generator.mean("w+").expand(len(faces), -1, -1))

    def invert(space):
        return lambda y, start: project(generator, y, space, features=features, **inversion)

    def fit(**changes):
        return lambda y, start: optimize_noise(generator, y, start, **options | changes)

    found = {space: in_batches(invert(space), faces, None, batch) for space in ("w", "w+")}
    code, _, before = found["w+"]
    for stage, changes, start, earlier in (
        ("w+ then noise", {}, code, before),
        ("joint", {"order": "joint"}, mean, 0.0),
        ("alternating", {"order": "alternating"}, mean, 0.0),
        ("w+ then regularised noise", {"regularise": regularise}, code, before),
    ):
        latents, images, seconds = in_batches(fit(**changes), faces, start, batch)
        found[stage] = latents, images, earlier + seconds
    rows = [row_of(stage, generator, faces, features, *result) for stage, result in found.items()]
    residuals = [residual_row(stage, images, faces) for stage, (_, images, _) in found.items()]
    return rows, residuals, {stage: images for stage, (_, images, _) in found.items()}


def time_single(generator: Generator, faces: Tensor, features) -> dict:
    """Seconds of w+ and then noise for faces one by one."""
    results = []
    for face in faces.split(1):
        code = project(generator, face, "w+", features=features, start="best")
        noise = optimize_noise(generator, face, code.latents)
        results.append((code.seconds, noise.seconds, psnr(noise.images, face).item()))
    code, noise, values = map(torch.tensor, zip(*results, strict=True))
    seconds = {"seconds_w_plus": code.mean().item(), "seconds_noise": noise.mean().item()}
    return {"faces": len(faces), **seconds, "seconds": (code + noise).mean().item(), "psnr": values.mean().item()}


def run(data: str | Path, out: str | Path, device: torch.device, faces: int = FACES) -> str:
    """Measure; write ``noise.json`` and a sheet of the faces; return the tables as text."""
    out, features, generator = Path(out), load_features("vgg19-slim", device), load_generator(MODEL, device)
    photos = load_faces(data, n=faces, split="validation").to(device)
    rows, residuals, images = bench_noise(generator, photos, features)
    strengths = [{"layer": i, "strength": value.item()} for i, value in enumerate(generator.noise_strengths)]
    report = {"circumstances": circumstances(device), "stages": rows, "residual_percent": residuals}
    report |= {"single": [time_single(generator, photos[:3], features)], "strengths": strengths}
    write_json(out / "noise.json", report)
    sheet = {"photo": photos[:8]} | {stage: values[:8] for stage, values in images.items()}
    save_figure(labelled_grid(list(sheet.values()), list(sheet)), out / "noise.png")
    return "\n\n".join(results_table(part) for part in report.values() if isinstance(part, list))
