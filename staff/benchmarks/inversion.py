"""Inversion measured on validation faces: spaces, starts, optimizers, a batch against single runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from helpers.commands.shows import DEMO
from helpers.encoder import load_encoder
from helpers.features import load_features
from helpers.figures import COLOURS, Figure, labelled_grid, results_table, save_figure
from helpers.files import write_json
from helpers.generators import Generator, load_generator
from helpers.inversion import Inversion, fast_options, project
from helpers.losses import LAYERS, WEIGHTS, Criterion
from helpers.metrics import feature_distance, psnr, ssim
from helpers.noise import NoiseSearch
from helpers.photos import load_faces
from helpers.search import Chain, Result
from staff.benchmarks import plain
from staff.benchmarks.common import circumstances

FACES = 16
PARTS = ("spaces", "choices", "encoder", "batch", "plain")
CHOICES = {
    "w, mean, adam 300": {"space": "w", "start": "mean"},
    "w, best of 64, adam 300": {"space": "w", "start": "best"},
    "w, mean, lbfgs 15": {"space": "w", "start": "mean", "optimizer": "lbfgs", "steps": 15},
    "z, one sample, adam 300": {"space": "z", "start": "sample"},
    "z, best of 64, adam 300": {"space": "z", "start": "best"},
    "z, 8 restarts, adam 300": {"space": "z", "start": "best", "restarts": 8},
}
PLAIN = "plain loop, w and noise maps"
NOISE_STEPS = 300  # L-BFGS steps
GAIN_STEPS = (25, 50, 100, 200, 300)  # at which encoder start and mean start are compared


def summary(result: Result, faces: Tensor, features) -> dict:
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


def against_plain(
    generator: Generator, faces: Tensor, features, out: Path, steps: int = plain.STEPS
) -> Iterator[list[dict]]:
    """Our searches until they are where the plain loop ends, photo by photo; the rows so far after every photo.

    Every way sees the same photo, feature network, weights of the loss and layers; the time spent on evaluating the
    images on the way is not counted. "reached" is the time at which the feature distance of the plain loop's end is
    met. Writes ``inversion-plain.png``, the feature distance over the time, and ``inversion-faces.png``, both of the
    first.
    """
    found: dict[str, list[dict]] = {}
    for number, face in enumerate(faces.split(1)):
        curves, images = {PLAIN: []}, {"photo": face}
        for last in plain.plain_projection(generator, face, features, WEIGHTS, LAYERS, steps):
            if last.number % 25 == 0 or last.number == steps:
                images[PLAIN] = plain.image_of(generator, last)
                curves[PLAIN].append((last.seconds, feature_distance(features, images[PLAIN], face).item()))
        goal = curves[PLAIN][-1][1]
        row = {"seconds": last.seconds, "steps": steps, "psnr": psnr(images[PLAIN], face).item()}
        found.setdefault(PLAIN, []).append(row | {"feature_distance": goal, "reached": last.seconds})
        for name, search in ways(generator, face, features):
            curves[name] = [
                (search.seconds, feature_distance(features, step.images(), face).item())
                for step in search
                if step.number % 5 == 0
            ]
            images[name] = search.result().images
            row = {"seconds": search.seconds, "steps": search.number, "psnr": psnr(images[name], face).item()}
            row["feature_distance"] = feature_distance(features, images[name], face).item()
            row["reached"] = next((seconds for seconds, distance in curves[name] if distance <= goal), None)
            found.setdefault(name, []).append(row)
        if number == 0:
            save_figure(distance_plot(curves), out / "inversion-plain.png")
            save_figure(labelled_grid([list(images.values())], None, list(images)), out / "inversion-faces.png")
        yield [{"way": name, **_mean_of(rows, found[PLAIN])} for name, rows in found.items()]


def ways(generator: Generator, face: Tensor, features) -> Iterator[tuple[str, Chain]]:
    """Our searches by name, the plain loop's own variables last; each is made when it is asked for."""
    default = {"start": "mean", "steps": 300}
    for space in ("w+", "w"):
        for name, options in (("fast", fast_options(generator, space)), ("default", default)):
            yield f"ours, {space}, {name}", Inversion(generator, face, space, features=features, **options)
    yield "ours, w and noise maps", with_noise(generator, face, features)


def with_noise(generator: Generator, face: Tensor, features) -> NoiseSearch:
    """Code in w and noise maps together, these held as the plain loop holds them; L-BFGS from the encoder's guess."""
    started = time.perf_counter()
    start = load_encoder(generator).encode(generator, face, None, "w")
    rates = {"lr": 1.0, "code_lr": 1.0, "optimizer": "lbfgs-batch", "reduction": "mean"}
    options = {"order": "joint", "steps": NOISE_STEPS, "regularise": plain.REGULARISE}
    search = NoiseSearch(generator, Criterion(face, features), start, **options, **rates)
    search.prepared = time.perf_counter() - started
    return search


def distance_plot(curves: dict[str, list[tuple[float, float]]]) -> Figure:
    """Feature distance over the seconds, one curve per way; the dashed line is where the first of them ends."""
    figure = Figure(figsize=(8, 3.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for colour, (name, points) in zip(COLOURS, curves.items(), strict=False):
        axes.plot(*zip(*points, strict=True), label=name, color=colour)
    axes.axhline(next(iter(curves.values()))[-1][1], color=COLOURS[0], linestyle="--", linewidth=0.8)
    axes.set(xscale="log", xlabel="seconds", ylabel="feature distance")
    axes.grid(True, color="#e4e4e4")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure


def _mean_of(rows: list[dict], plain_rows: list[dict]) -> dict:
    """Means over the photos; the ratio is over those where the plain loop's distance was reached, which are counted."""
    mean = {
        name: sum(row[name] for row in rows) / len(rows) for name in ("seconds", "steps", "psnr", "feature_distance")
    }
    pairs = [(a["seconds"], b["reached"]) for a, b in zip(plain_rows, rows, strict=True) if b["reached"] is not None]
    mean |= {"reached_by": f"{len(pairs)} of {len(rows)}"}
    if pairs:
        times, ours = (sum(values) for values in zip(*pairs, strict=True))
        mean |= {"seconds_to_plain_end": ours / len(pairs), "times_faster": times / ours}
    return mean


def spaces(faces: Tensor, features, device: torch.device, out: Path) -> list[dict]:
    """Every model and space of the demo on the same faces; writes a sheet of them."""
    rows, sheet = [], {"photo": faces[:8]}
    for model, space in DEMO:
        result = project(load_generator(model, device), faces, space, features=features)
        rows.append({"model": model, "space": space, **summary(result, faces, features)})
        sheet[f"{model.split('-')[0]} {space}"] = result.images[:8]
    save_figure(labelled_grid(list(sheet.values()), list(sheet)), out / "inversion.png")
    return rows


def choices(generator: Generator, faces: Tensor, features) -> list[dict]:
    """Starts, optimizers and restarts."""
    return [
        {"choice": name, **summary(project(generator, faces, features=features, **options), faces, features)}
        for name, options in CHOICES.items()
    ]


def run(
    data: str | Path,
    out: str | Path,
    device: torch.device,
    parts: Sequence[str] = PARTS,
    plain_faces: int = 4,
    plain_steps: int = plain.STEPS,
) -> str:
    """Measure the parts; write ``inversion.json`` as it grows; return the tables as text.

    Raises ValueError for an unknown part.
    """
    if set(parts) - set(PARTS) or not parts:
        raise ValueError(f"the parts are {', '.join(PARTS)}; got {', '.join(parts) or 'none'}.")
    out, features, generator = Path(out), load_features("vgg19-slim", device), load_generator(DEMO[-1][0], device)
    faces = load_faces(data, n=FACES, split="validation").to(device)
    path = out / "inversion.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report["circumstances"] = circumstances(device)
    measures = {
        "spaces": lambda: [spaces(faces, features, device, out)],
        "choices": lambda: [choices(generator, faces[:4], features)],
        "encoder": lambda: [encoder_gain(generator, faces[:8], features)],
        "batch": lambda: [[single_against_batch(generator, faces, features)]],
        "plain": lambda: against_plain(generator, faces[:plain_faces], features, out, plain_steps),
    }
    for part in parts:
        for rows in measures[part]():
            report[part] = rows
            write_json(path, report)
    return "\n\n".join(results_table(report[part]) for part in parts)
