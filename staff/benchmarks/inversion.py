"""Inversion against the published projector's plain loop, and what the encoder's start saves."""

import copy
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from helpers.encoder import load_encoder
from helpers.figures import labelled_grid, save_figure
from helpers.generators import Generator
from helpers.inversion import Inversion, fast_options, project
from helpers.losses import LAYERS, WEIGHTS, Criterion
from helpers.metrics import feature_distance, psnr
from helpers.noise import NoiseSearch
from helpers.search import Chain
from staff.benchmarks import plain
from staff.benchmarks.common import Settings

PLAIN = "plain loop, w and noise maps"
NOISE_STEPS = 300  # L-BFGS steps
GAIN_STEPS = (25, 50, 100, 200, 300)  # at which encoder start and mean start are compared


def encoder(settings: Settings) -> Iterator[dict]:
    """Loss and PSNR of w+ inversions from the mean and from the encoder's prediction, by the number of steps."""
    (generator, features), faces = settings.networks(), settings.faces(8)
    for steps in GAIN_STEPS[:1] if settings.quick else GAIN_STEPS:
        for start in ("mean", "encoder"):
            result = project(generator, faces, "w+", features=features, start=start, steps=steps)
            row = {"start": start, "steps": steps, "loss": result.total.mean().item()}
            yield row | {"psnr": psnr(result.images, faces).mean().item()}


def against_plain(settings: Settings) -> list[dict]:
    """Our searches until they are where the plain loop ends, photo by photo.

    Every way sees the same photo, feature network, weights of the loss and layers; the time spent on evaluating the
    images on the way is not counted. "reached" is the time at which the feature distance of the plain loop's end is
    met. Writes ``inversion-faces.png``, the results of the first photo.
    """
    generator, features = settings.networks()
    steps, found = 20 if settings.quick else plain.STEPS, {}
    for face in settings.faces(1 if settings.quick else 4).split(1):
        goal, shown = None, {"photo": face}
        for name, search in ways(generator, face, features, steps):
            points = []  # seconds and feature distance
            for step in search:
                last = step.number == steps and name == PLAIN
                if last or step.number % (25 if name == PLAIN else 5) == 0:
                    seconds = step.seconds if name == PLAIN else search.seconds
                    points.append((seconds, feature_distance(features, step.images(), face).item()))
            shown[name] = step.images() if name == PLAIN else search.result().images
            row = {"seconds": points[-1][0], "steps": step.number, "psnr": psnr(shown[name], face).item()}
            row["feature_distance"] = feature_distance(features, shown[name], face).item()
            if name == PLAIN:
                goal, row["reached"] = row["feature_distance"], row["seconds"]
            else:
                row["reached"] = next((seconds for seconds, distance in points if distance <= goal), None)
            found.setdefault(name, []).append(row)
        if len(found[PLAIN]) == 1:
            figure = labelled_grid([list(shown.values())], None, list(shown))
            save_figure(figure, settings.out / "inversion-faces.png")
    return [{"way": name, **mean_row(rows, found[PLAIN])} for name, rows in found.items()]


def ways(generator: Generator, face: Tensor, features, steps: int) -> Iterator[tuple[str, Chain | Iterator]]:
    """The plain loop, then our searches by name, its own variables last; each is made when it is asked for."""
    contiguous = copy.deepcopy(features).to(memory_format=torch.contiguous_format)  # as a plain loop has it
    yield PLAIN, plain.plain_projection(generator, face, contiguous, WEIGHTS, LAYERS, steps)
    default = {"start": "mean", "steps": 300}
    for space in ("w+", "w"):
        for name, options in (("fast", fast_options(generator, space)), ("default", default)):
            yield f"ours, {space}, {name}", Inversion(generator, face, space, features=features, **options)
    yield "ours, w and noise maps", with_noise(generator, face, features)


def with_noise(generator: Generator, face: Tensor, features) -> NoiseSearch:
    """Code in w and noise maps together, these held as the plain loop holds them; L-BFGS from the encoder's guess."""
    started = time.perf_counter()
    start = load_encoder(generator).encode(generator, face, None, "w")
    options = {"order": "joint", "steps": NOISE_STEPS, "regularise": plain.REGULARISE, "lr": 1.0, "code_lr": 1.0}
    search = NoiseSearch(generator, Criterion(face, features), start, optimizer="lbfgs", **options)
    search.prepared = time.perf_counter() - started
    return search


def mean_row(rows: list[dict], plain_rows: list[dict]) -> dict:
    """Means over the photos; the ratio is over those where the plain loop's distance was reached, which are counted."""
    mean = {k: sum(row[k] for row in rows) / len(rows) for k in ("seconds", "steps", "psnr", "feature_distance")}
    pairs = [(a["seconds"], b["reached"]) for a, b in zip(plain_rows, rows, strict=True) if b["reached"] is not None]
    mean |= {"reached_by": f"{len(pairs)} of {len(rows)}"}
    if pairs:
        times, ours = (sum(values) for values in zip(*pairs, strict=True))
        mean |= {"seconds_to_plain_end": ours / len(pairs), "times_faster": times / ours}
    return mean


PARTS = {"plain": against_plain, "encoder": encoder}
