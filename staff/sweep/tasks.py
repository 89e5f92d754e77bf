"""The kinds of jobs that ``python -m helpers sweep`` can spread: plain functions from bytes to figures and bytes."""

import dataclasses
import functools
import shutil
import tempfile
import types
from pathlib import Path
from typing import get_args, get_type_hints

import torch

from helpers.commands.runs import measure, run_noise
from helpers.device import pick_device
from helpers.faces import read_face
from helpers.features import load_features
from helpers.generators import load_generator
from helpers.images import longer_side, read_image, write_image
from helpers.inversion import InversionOptions, fast_options, project
from helpers.latents import save_latents
from helpers.noise import NoiseOptions, check_noise_maps
from helpers.search import marks
from helpers.style_transfer import stylize
from helpers.style_transfer.criterion import StyleOptions
from staff.sweep.spec import Result, Task


def _options(kind: type) -> dict[str, type | None]:
    """The options of a search that its command has, with their types: numbers or whatever."""
    hints = get_type_hints(kind)
    members = {field.name: get_args(hints[field.name]) or (hints[field.name],) for field in dataclasses.fields(kind)}
    numbers = {name: next((t for t in (int, float) if t in kinds), None) for name, kinds in members.items()}
    return {field.name: numbers[field.name] for field in dataclasses.fields(kind) if field.metadata}


INVERSION = _options(InversionOptions) | {"model": None, "space": None, "fast": None, "noise_steps": int}
STYLE = _options(StyleOptions) | {"size": int, "features": None, "pooling": None}
STYLE |= {"content_layers": None, "style_layers": None}
_generator = functools.lru_cache(maxsize=4)(load_generator)  # a worker meets the same models again and again
_features = functools.lru_cache(maxsize=4)(load_features)


def as_bytes(write, suffix: str) -> bytes:
    """What a function that writes a file would write."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        write(path)
        return path.read_bytes()


def invert(jobs: list[dict], data: list[dict[str, bytes]]) -> list[Result]:
    """Invert photos that share all settings, as one batch; with ``noise_steps`` the noise maps too."""
    device = str(pick_device(None))
    settings = {name: value for name, value in jobs[0].items() if name in INVERSION}
    model = settings.pop("model", "stylegan2-cats-64")
    generator, features = _generator(model, device), _features(device=device)
    if noise_steps := settings.pop("noise_steps", 0):
        check_noise_maps(generator)
    if settings.pop("fast", False):
        settings = fast_options(generator, settings.get("space", "w+")) | settings
    cuts = [read_face(files["photo"], generator, name=job["photo"]) for job, files in zip(jobs, data, strict=True)]
    targets = torch.cat([cut.target for cut in cuts]).to(device)
    result, more = project(generator, targets, features=features, **settings), [{}] * len(jobs)
    if noise_steps:
        progress = types.SimpleNamespace(run=lambda search, label: search.run())
        result, more = run_noise(progress, generator, targets, result, NoiseOptions(noise_steps), "")
    results = []
    for i, row in enumerate(a | b for a, b in zip(measure(result, targets, features), more, strict=True)):
        image = as_bytes(lambda path, i=i: write_image(path, result.images[i : i + 1]), ".png")
        latents = as_bytes(lambda path, i=i: save_latents(path, result.latents[i], model=model), ".safetensors")
        results.append(Result(row, {"image.png": image, "latents.safetensors": latents}))
    return results


def style(jobs: list[dict], data: list[dict[str, bytes]]) -> list[Result]:
    """Paint each photo in its style; one after the other, for they are of different sizes."""
    device, results = str(pick_device(None)), []
    for job, files in zip(jobs, data, strict=True):
        settings = {name: value for name, value in job.items() if name in STYLE}
        network = _features(settings.pop("features", None), device, settings.pop("pooling", "blur"))
        content = longer_side(read_image(files["content"], name=job["content"]), settings.pop("size", 256)).to(device)
        found = stylize(network, content, [read_image(files["style"], name=job["style"]).to(device)], **settings)
        image = as_bytes(lambda path, found=found: write_image(path, found.images), ".png")
        row = {"network": network.name, "steps": found.steps, "seconds": round(found.seconds, 2)} | marks(found, 0)
        row |= {f"{name}_loss": round(value.item(), 5) for name, value in found.parts.items()}
        results.append(Result(row, {"image.png": image}))
    return results


@functools.cache
def _workplace() -> tempfile.TemporaryDirectory:
    """Where a worker grades: what the solutions give is computed once, not for every submission."""
    return tempfile.TemporaryDirectory(prefix="grade-")


def grade(jobs: list[dict], data: list[dict[str, bytes]]) -> list[Result]:
    """Grade submissions, each a notebook or a zip of a student's folder, in the sandbox of the worker's machine.

    One worker sees one submission: only the command ``grade`` reports that two hand in the same file.
    """
    from staff.grading.grade import grade as grade_folder

    results = []
    for job, files in zip(jobs, data, strict=True):
        place = Path(_workplace().name) / f"seed-{job.get('seed', 0)}"
        with tempfile.TemporaryDirectory() as handed:
            (Path(handed) / Path(job["submission"]).name).write_bytes(files["submission"])
            options = {"seed": job.get("seed", 0), "unsafe": job.get("unsafe", False), "report": lambda text: None}
            (row,) = grade_folder(handed, place, **options)
        page = (place / "students" / f"{row['student']}.html").read_bytes()
        shutil.rmtree(place / "raw" / row["student"], ignore_errors=True)
        figures = {key: row[key] for key in ("student", "total", "of", "open", "remarks")}
        figures["points"] = {score["item"]: score["points"] for score in row["scores"]}
        results.append(Result(figures, {"report.html": page}))
    return results


TASKS = {
    "invert": Task({"photos": "photo"}, INVERSION, invert),
    "style": Task({"contents": "content", "styles": "style"}, STYLE, style),
    "grade": Task({"submissions": "submission"}, {"seed": int, "unsafe": None}, grade),
}
