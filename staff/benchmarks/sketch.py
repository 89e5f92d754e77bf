"""Sketch to image measured: every sketch with the defaults; spaces, starts, realism, prior and number of starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.features import load_features
from helpers.figures import labelled_grid, results_table, save_figure
from helpers.files import write_json
from helpers.generators import Generator, load_discriminator, load_generator
from helpers.latents import Latents
from helpers.losses import lp_loss
from helpers.metrics import diversity
from helpers.photos import load_faces
from helpers.sketch import Candidates, Sketch, default_weights, read_sketch, search
from staff.benchmarks.common import circumstances
from staff.benchmarks.distributions import nearest_distance

MODEL = "stylegan2-cats-64"
FOLDER = Path(__file__).resolve().parent.parent.parent / "data" / "sketches"
FACES = 256  # real faces among which the nearest is looked for
VARIED = ("sparse-lines", "eyes-only", "wrong-colours")  # the sketches of the comparisons
STARTS, STEPS = 8, 60  # for the comparisons


@torch.no_grad()
def judged(images: Tensor, critic: nn.Module, features, faces: Tensor) -> dict:
    """Of images (N, 3, R, R): mean score of the discriminator, mean feature distance to the nearest face, diversity."""
    row = {"realism": critic(images, group_size=1).mean().item()}
    row["nearest_face"] = nearest_distance(features, images, faces).mean().item()
    return row | ({"diversity": diversity(features, images)} if len(images) > 1 else {})


def candidate_row(sketch: Sketch, found: Candidates, critic: nn.Module, features, faces: Tensor) -> dict:
    """One search: the best candidate's masked L1 and the mean's, what ``judged`` says of all, how many met, seconds."""
    l1 = lp_loss(found.images, sketch.image, 1, sketch.mask)
    row = {"masked_l1": l1[0].item(), "mean_masked_l1": l1.mean().item()}
    row |= judged(found.images, critic, features, faces)
    return row | {"met": found.met.float().mean().item(), "steps": found.steps, "seconds": found.seconds}


def references(generator: Generator, critic: nn.Module, features, faces: Tensor, photos: Tensor) -> list[dict]:
    """What the judges say of photos and of random samples."""
    with torch.no_grad():
        w = generator.sample("w", len(photos), seed=1)
        mean = generator.mean("w")
        sets = {"photos": photos}
        for psi in (1.0, 0.7):
            images = generator.synthesize(Latents("w", mean + psi * (w - mean)))
            sets[f"random samples, truncation {psi:g}"] = images.clamp(0, 1)
    return [{"images": name, **judged(images, critic, features, faces)} for name, images in sets.items()]


def comparisons(sketch: Sketch) -> dict[str, dict]:
    """Name to the options of ``search`` that differ from the defaults."""
    weights = default_weights(sketch)
    alone = {name: weights[name] for name in ("colour", "edge") if name in weights}
    return {
        "w (default)": {},
        "z": {"space": "z"},
        "w+": {"space": "w+"},
        "w+ without prior and realism": {"space": "w+", "weights": alone},
        "w without realism": {"weights": weights | {"realism": 0.0}},
        "w without prior": {"weights": weights | {"prior": 0.0}},
        "start: samples": {"start": "sample"},
        "start: encoder": {"start": "encoder"},
        "1 start": {"starts": 1},
        "4 starts": {"starts": 4},
        "16 starts": {"starts": 16},
    }


def mean_rows(rows: Sequence[dict]) -> dict:
    """Means of the figures of several rows."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


def run(data: str | Path, out: str | Path, device: torch.device, quick: bool = False) -> str:
    """Measure; write ``sketch.json`` and a sheet of all candidates; return the tables as text. Quick: one sketch."""
    out, features, started = Path(out), load_features("vgg19-slim", device), time.perf_counter()
    generator, critic = load_generator(MODEL, device), load_discriminator(MODEL, device)
    photos = load_faces(data, n=FACES + 64, split="validation").to(device)
    photos, faces = photos[:64], photos[64:]
    paths = sorted((FOLDER / str(generator.resolution)).glob("*.png"))
    varied, steps, first = (VARIED[:1], 2, {"steps": 2}) if quick else (VARIED, STEPS, {})
    paths = [path for path in paths if not quick or path.stem in varied]
    sketches = {path.stem: read_sketch(path, generator.resolution) for path in paths}
    sketches = {name: Sketch(s.image.to(device), s.mask.to(device)) for name, s in sketches.items()}
    report = {"circumstances": circumstances(device), "sketches": [], "comparisons": []}
    report["references"] = references(generator, critic, features, faces, photos)
    sheet = []
    for name, sketch in sketches.items():
        found = search(generator, sketch, discriminator=critic, **first)
        row = candidate_row(sketch, found, critic, features, faces)
        report["sketches"].append({"sketch": name, **row})
        sheet.append([sketch.on_paper(), *found.images.split(1)])
        write_json(out / "sketch.json", report)
    save_figure(labelled_grid(sheet, list(sketches), scale=1.5), out / "sketch-candidates.png")
    for kind in comparisons(sketches[varied[0]]):
        rows = []
        for name in varied:
            options = {"starts": STARTS, "steps": steps, "enough": None} | comparisons(sketches[name])[kind]
            found = search(generator, sketches[name], discriminator=critic, **options)
            rows.append(candidate_row(sketches[name], found, critic, features, faces))
        report["comparisons"].append({"search": kind, **mean_rows(rows)})
        write_json(out / "sketch.json", report)
    report["circumstances"]["minutes"] = round((time.perf_counter() - started) / 60, 1)
    write_json(out / "sketch.json", report)
    return "\n\n".join(results_table(part) for part in report.values() if isinstance(part, list))
