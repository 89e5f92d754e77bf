"""The noise stage measured on validation faces: orders, what fresh noise leaves, where the residual sits, choices."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from helpers.features import load_features
from helpers.figures import labelled_grid, results_table, save_figure
from helpers.files import atomic_path, write_json
from helpers.generators import Generator, load_generator
from helpers.inversion import project
from helpers.latents import Latents, join
from helpers.metrics import feature_distance, psnr, ssim
from helpers.noise import fresh_noise_psnr, optimize_noise, residual_report
from helpers.optimizers import constant
from helpers.photos import load_faces
from staff.benchmarks.common import circumstances

MODEL = "stylegan2-cats-64"
FACES, CHOICE_FACES, SINGLE_FACES, BATCH = 32, 8, 3, 16
EQUAL_STEPS = 300  # for w+, and for the noise where methods are compared: enough to separate them
REGULARISE = 10.0
PARTS = ("stages", "choices", "seconds")

# what decides the noise stage, each changed alone against the rate 0.1 / strength, cosine, sum, 300 steps
CHOICES = {
    "rate 0.1 / strength, cosine": {},
    "rate 0.01 for every map": {"lr": 0.01, "per_layer": False},
    "rate 1 for every map": {"lr": 1.0, "per_layer": False},
    "rate 5 for every map": {"lr": 5.0, "per_layer": False},
    "rate 5 for every map, constant (the paper's)": {"lr": 5.0, "per_layer": False, "schedule": constant()},
    "rate 0.2 / strength": {"lr": 0.2},
    "rate 0.1 / strength, constant": {"schedule": constant()},
    "mean instead of sum": {"reduction": "mean"},
    "100 steps": {"steps": 100},
    "600 steps": {"steps": 600},
    "L-BFGS, 15 steps": {"optimizer": "lbfgs", "steps": 15},
    "joint, from w+": {"order": "joint"},
    "after w instead of w+": {"space": "w"},
}


@dataclass
class Found:
    """Latents and images of all faces, and what they took: wall time, and time of all threads of the processor."""

    latents: Latents
    images: Tensor
    seconds: float
    cpu_seconds: float


def in_batches(function, faces: Tensor, before: Found | None, batch: int) -> Found:
    """``function(faces, start)`` over chunks of the faces, each from its part of what was found before."""
    results, cpu = [], time.process_time()
    for i in range(0, len(faces), batch):
        start = None if before is None else before.latents[i : i + batch]
        results.append(function(faces[i : i + batch], start))
    found = Found(
        join([result.latents for result in results]),
        torch.cat([result.images for result in results]),
        sum(result.seconds for result in results),
        time.process_time() - cpu,
    )
    if before is not None:
        found.seconds, found.cpu_seconds = found.seconds + before.seconds, found.cpu_seconds + before.cpu_seconds
    return found


def row_of(name: str, generator: Generator, faces: Tensor, features, found: Found) -> dict:
    """Means over the faces; ``worst_psnr`` is the smallest."""
    images = found.images
    values = psnr(images, faces)
    return {
        "method": name,
        "psnr": values.mean().item(),
        "worst_psnr": values.min().item(),
        "psnr_fresh_noise": fresh_noise_psnr(generator, faces, found.latents).mean().item(),
        "ssim": ssim(images, faces).mean().item(),
        "feature_distance": feature_distance(features, images, faces).mean().item(),
        "seconds_per_face": found.seconds / len(faces),
        "cpu_seconds_per_face": found.cpu_seconds / len(faces),
    }


def residual_row(name: str, images: Tensor, faces: Tensor) -> dict:
    """The residual's mean squared error times 10^6 and its shares by colour and frequency in percent, over faces."""
    parts = {part: values.mean().item() for part, values in residual_report(images, faces).items()}
    total = sum(parts.values())
    return {"method": name, "mse_e-6": total * 1e6} | {part: 100 * value / total for part, value in parts.items()}


def bench_stages(
    generator: Generator,
    faces: Tensor,
    features,
    *,
    batch: int = BATCH,
    inversion: dict | None = None,
    equal_steps: int = EQUAL_STEPS,
    **options,
) -> tuple[list[dict], list[dict], dict[str, Tensor]]:
    """Every order on the same faces.

    "w+ then noise" takes the default number of noise steps. The other orders are compared at ``equal_steps``: joint and
    alternating start from the mean and are given as many steps as w+ and ``equal_steps`` of noise have together.

    Args:
        faces: (N, 3, R, R) in [0, 1].
        features: network of ``load_features``.
        inversion: options of the w and w+ stages (``project``).
        equal_steps: of the noise stages that are compared.
        options: of the noise stages (``optimize_noise``).

    Returns:
        Rows of figures, rows of residual shares, and images (N, 3, R, R) by method.
    """
    inversion = {"steps": EQUAL_STEPS} | (inversion or {})
    equal, both = {"steps": equal_steps}, {"steps": inversion["steps"] + equal_steps}
    mean = Found(Latents("w+", generator.mean("w+").expand(len(faces), -1, -1)), faces, 0.0, 0.0)

    def invert(space):
        return lambda y, start: project(generator, y, space, features=features, **inversion)

    def fit(**changes):
        return lambda y, start: optimize_noise(generator, y, start, **options | changes)

    found = {space: in_batches(invert(space), faces, None, batch) for space in ("w", "w+")}
    for name, changes, before in (
        ("w+ then noise", {}, found["w+"]),
        (f"the same, {equal_steps} steps", equal, found["w+"]),
        ("joint", {"order": "joint"} | both, mean),
        ("alternating", {"order": "alternating"} | both, mean),
        ("w+ then regularised noise", {"regularise": REGULARISE} | equal, found["w+"]),
    ):
        found[name] = in_batches(fit(**changes), faces, before, batch)
    rows = [row_of(name, generator, faces, features, result) for name, result in found.items()]
    residuals = [residual_row(name, result.images, faces) for name, result in found.items()]
    return rows, residuals, {name: result.images for name, result in found.items()}


def bench_choices(
    generator: Generator, faces: Tensor, features, choices: dict[str, dict] = CHOICES, inversion: dict | None = None
) -> list[dict]:
    """Rows of the noise stage with one choice changed at a time; seconds of the noise stage alone."""
    starts = {s: project(generator, faces, s, features=features, **inversion or {}).latents for s in ("w", "w+")}
    rows = []
    for choice, changes in choices.items():
        changes = {"steps": EQUAL_STEPS} | changes
        result = optimize_noise(generator, faces, starts[changes.pop("space", "w+")], **changes)
        values = psnr(result.images, faces)
        rows.append({"choice": choice, "psnr": values.mean().item(), "worst_psnr": values.min().item()})
        rows[-1]["psnr_fresh_noise"] = fresh_noise_psnr(generator, faces, result.latents).mean().item()
        rows[-1]["seconds_per_face"] = result.seconds / len(faces)
    return rows


def time_two_stages(generator: Generator, faces: Tensor, features, batch: int) -> dict:
    """Seconds per face of w+ and then noise in batches, with the defaults of both, and what they reach."""
    code = in_batches(lambda y, _: project(generator, y, "w+", features=features), faces, None, batch)
    both = in_batches(lambda y, start: optimize_noise(generator, y, start), faces, code, batch)
    row = {"batch": batch, "faces": len(faces), "seconds_w_plus": code.seconds / len(faces)}
    values, fresh = psnr(both.images, faces), fresh_noise_psnr(generator, faces, both.latents)
    row |= {"seconds_both": both.seconds / len(faces), "psnr_w_plus": psnr(code.images, faces).mean().item()}
    row |= {"psnr": values.mean().item(), "worst_psnr": values.min().item()}
    return row | {"psnr_fresh_noise": fresh.mean().item()}


def run(
    data: str | Path, out: str | Path, device: torch.device, parts: Sequence[str] = PARTS, faces: int = FACES
) -> str:
    """Measure the parts, each into its place of ``noise.json`` as soon as it is done; return the tables as text.

    Also writes ``noise.md`` with all tables, and with the stages ``noise.png``, a sheet of faces. Raises ValueError for
    an unknown part.
    """
    if set(parts) - set(PARTS) or not parts:
        raise ValueError(f"the parts are {', '.join(PARTS)}; got {', '.join(parts) or 'none'}.")
    out, features, generator = Path(out), load_features("vgg19-slim", device), load_generator(MODEL, device)
    photos = load_faces(data, n=max(faces, CHOICE_FACES), split="validation").to(device)
    path = out / "noise.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report["strengths"] = [{"layer": i, "strength": s.item()} for i, s in enumerate(generator.noise_strengths)]
    for part in parts:
        report[part] = {"circumstances": circumstances(device)}
        if part == "stages":
            rows, residuals, images = bench_stages(generator, photos[:faces], features)
            report[part] |= {"rows": rows, "residual_percent": residuals}
            sheet = {"photo": photos[:8]} | {name: values[:8] for name, values in images.items()}
            save_figure(labelled_grid(list(sheet.values()), list(sheet), scale=2), out / "noise.png")
        elif part == "choices":
            report[part]["rows"] = bench_choices(generator, photos[:CHOICE_FACES], features)
        else:
            sizes = ((SINGLE_FACES, 1), (faces, BATCH))
            report[part]["rows"] = [time_two_stages(generator, photos[:n], features, batch) for n, batch in sizes]
        write_json(path, report)
    text = tables(report)
    with atomic_path(out / "noise.md") as temporary:
        Path(temporary).write_text(text + "\n")
    return text


def tables(report: dict) -> str:
    """All tables of a report, each under the name of its part."""
    texts = [f"strengths\n\n{results_table(report['strengths'])}"]
    for part in PARTS:
        for name in ("rows", "residual_percent"):
            if name in report.get(part, {}):
                texts.append(f"{part}, {name.replace('_', ' ')}\n\n{results_table(report[part][name])}")
    return "\n\n".join(texts)
