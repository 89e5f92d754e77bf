"""The noise stage measured on validation faces: orders, what fresh noise leaves, choices, tuning instead, seconds."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.directions import towards
from helpers.figures import labelled_grid, save_figure
from helpers.generators import Generator
from helpers.images import shown
from helpers.inversion import project
from helpers.latents import Latents, chosen_samples, join
from helpers.metrics import feature_distance, nearest_distance, psnr, ssim
from helpers.noise import fresh_noise_psnr, optimize_noise, residual_report
from helpers.optimizers import constant
from helpers.tuning import Tuning
from staff.benchmarks.common import Settings

FACES, CHOICE_FACES, TUNED_FACES, SINGLE_FACES, BATCH = 32, 8, 4, 3, 16
EQUAL = {"steps": 300}  # for w+, and for the noise where methods are compared: enough to separate them
BOTH = {"steps": 600}  # what those have together
STAGES = {  # method: its noise stage, after w+ unless it has an order of its own
    "w+ then noise": {},
    "the same, 300 steps": EQUAL,
    "joint": {"order": "joint"} | BOTH,
    "alternating": {"order": "alternating"} | BOTH,
    "w+ then regularised noise": {"regularise": 10.0} | EQUAL,
}
CHOICES = {  # what decides the noise stage, each changed alone
    "rate 0.1 / strength, cosine": {},
    "rate 0.01 for every map": {"lr": 0.01, "per_layer": False},
    "rate 5 for every map, constant (the paper's)": {"lr": 5.0, "per_layer": False, "schedule": constant()},
    "600 steps": {"steps": 600},
    "L-BFGS": {"optimizer": "lbfgs"},
}
TUNED = {"w then tuned": 0.0, "w then tuned, locality 0.3": 0.3}  # method to its locality


@dataclass
class Found:
    """Latents and images of all faces, and what they took: wall time, and time of all threads of the processor."""

    latents: Latents
    images: Tensor
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def in_batches(function: Callable, faces: Tensor, before: Found | None, batch: int = BATCH) -> Found:
    """``function(faces, start)`` over chunks of the faces, each from its part of what was found before."""
    results, cpu = [], time.process_time()
    for i in range(0, len(faces), batch):
        start = None if before is None else before.latents[i : i + batch]
        results.append(function(faces[i : i + batch], start))
    seconds, cpu = sum(result.seconds for result in results), time.process_time() - cpu
    if before is not None:
        seconds, cpu = seconds + before.seconds, cpu + before.cpu_seconds
    images = torch.cat([result.images for result in results])
    return Found(join([result.latents for result in results]), images, seconds, cpu)


def figures(generator: Generator, faces: Tensor, features, found: Found) -> dict:
    """Means over the faces, the worst PSNR, and the share of the residual's energy that is colour."""
    images, values = found.images, psnr(found.images, faces)
    parts = {part: energy.mean().item() for part, energy in residual_report(images, faces).items()}
    colour = sum(energy for part, energy in parts.items() if part.startswith("chroma")) / sum(parts.values())
    return {
        "psnr": values.mean().item(),
        "worst_psnr": values.min().item(),
        "psnr_fresh_noise": fresh_noise_psnr(generator, faces, found.latents).mean().item(),
        "ssim": ssim(images, faces).mean().item(),
        "feature_distance": feature_distance(features, images, faces).mean().item(),
        "colour_percent": 100 * colour,
        "seconds_per_face": found.seconds / len(faces),
        "cpu_seconds_per_face": found.cpu_seconds / len(faces),
    }


def inverted(generator: Generator, faces: Tensor, space: str, features, batch: int = BATCH, **options) -> Found:
    return in_batches(lambda y, _: project(generator, y, space, features=features, **options), faces, None, batch)


def fitted(generator: Generator, faces: Tensor, before: Found, batch: int = BATCH, **options) -> Found:
    return in_batches(lambda y, start: optimize_noise(generator, y, start, **options), faces, before, batch)


def stages(settings: Settings) -> Iterator[dict]:
    """Every order on the same faces, and noise.png, a sheet; joint and alternating take all steps, from the mean."""
    generator, features = settings.networks()
    faces, equal = settings.faces(2 if settings.quick else FACES), {"steps": 2} if settings.quick else EQUAL
    mean = Found(Latents("w+", generator.mean("w+").expand(len(faces), -1, -1)), faces)
    found = {space: inverted(generator, faces, space, features, **equal) for space in ("w", "w+")}
    for method, options in STAGES.items():
        before = mean if "order" in options else found["w+"]
        found[method] = fitted(generator, faces, before, **options | (equal if settings.quick else {}))
    for method, result in found.items():
        yield {"method": method, **figures(generator, faces, features, result)}
    sheet = {"photo": faces[:8]} | {method: result.images[:8] for method, result in found.items()}
    save_figure(labelled_grid(list(sheet.values()), list(sheet), scale=2), settings.out / "noise.png")


def choices(settings: Settings) -> Iterator[dict]:
    """The noise stage with one choice changed at a time; seconds of both stages."""
    generator, features = settings.networks()
    faces = settings.faces(CHOICE_FACES)
    start = inverted(generator, faces, "w+", features)
    for choice, options in CHOICES.items():
        found = fitted(generator, faces, start, **EQUAL | options)
        yield {"choice": choice, **figures(generator, faces, features, found)}


def tuning(settings: Settings) -> Iterator[dict]:
    """Maps and tuned generators on the same faces; how far they are, half-way to cats, from the nearest of these."""
    generator, features = settings.networks()
    faces = settings.faces(1 if settings.quick else TUNED_FACES, generator.resolution)
    cats = generator.synthesize(chosen_samples(generator)).clamp(0, 1)
    found = {space: inverted(generator, faces, space, features) for space in ("z", "w", "w+")}
    found["w+ then noise"] = fitted(generator, faces, found["w+"], **EQUAL)
    for method in (*found, *TUNED):
        rows = []
        for face, latents in zip(faces.split(1), found.get(method, found["w"]).latents, strict=True):
            search = Tuning(generator, face, latents, locality=TUNED.get(method, 0.0))
            spent, network = (search.run().seconds, search.tuned()) if method in TUNED else (0.0, generator)
            row = figures(network, face, features, Found(latents, shown(network.synthesize(latents)), spent))
            edits = network.synthesize(towards(generator, latents, chosen_samples(generator))).clamp(0, 1)
            rows.append(row | {"half_way": nearest_distance(features, edits, cats).mean().item()})
        yield {"method": method} | {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def seconds(settings: Settings) -> Iterator[dict]:
    """w+ and then noise in batches, with the defaults of both."""
    generator, features = settings.networks()
    for count, batch in ((SINGLE_FACES, 1), (FACES, BATCH)):
        faces = settings.faces(count)
        code = inverted(generator, faces, "w+", features, batch)
        both = fitted(generator, faces, code, batch)
        row = {"batch": batch, "seconds_w_plus": code.seconds / count}
        yield row | figures(generator, faces, features, both)


PARTS = {"stages": stages, "choices": choices, "tuning": tuning, "seconds": seconds}
