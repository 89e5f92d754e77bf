"""The kinds of jobs that ``python -m helpers sweep`` can spread: plain functions from bytes to figures and bytes."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from .device import pick_device
from .features import load_features
from .generators import load_generator
from .images import read_image, write_image
from .inversion import project
from .latents import save_latents
from .runs import measure
from .sweep import Result, Task

INVERSION = frozenset({"model", "space", "weights", "layers", "steps", "optimizer", "start", "restarts", "lr", "seed"})


@functools.lru_cache(maxsize=2)  # a worker meets the same model again and again
def _generator(model: str, device: str):
    return load_generator(model, device)


@functools.lru_cache(maxsize=1)
def _features(device: str):
    return load_features(device=device)


def as_bytes(write, suffix: str) -> bytes:
    """What a function that writes a file would write."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        write(path)
        return path.read_bytes()


def invert(jobs: list[dict], data: list[dict[str, bytes]]) -> list[Result]:
    """Invert photos that share all settings, as one batch."""
    device = str(pick_device(None))
    settings = {name: value for name, value in jobs[0].items() if name in INVERSION}
    model = settings.pop("model", "stylegan2-cats-64")
    generator, features = _generator(model, device), _features(device)
    read = [
        read_image(files["photo"], generator.resolution, name=job["photo"])
        for job, files in zip(jobs, data, strict=True)
    ]
    targets = torch.cat(read).to(device)
    result = project(generator, targets, features=features, **settings)
    results = []
    for i, row in enumerate(measure(result, targets, features)):
        picture = as_bytes(lambda path, i=i: write_image(path, result.images[i : i + 1]), ".png")
        latents = as_bytes(lambda path, i=i: save_latents(path, result.latents[i], model=model), ".safetensors")
        results.append(Result(row, {"image.png": picture, "latents.safetensors": latents}))
    return results


TASKS = {"invert": Task({"photos": "photo"}, INVERSION, invert)}
