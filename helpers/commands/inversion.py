"""Commands of inversion: demo, invert, interpolate, sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from helpers.commands import runs, shows
from helpers.commands.common import Device, Log, Model, Out, Seed, Space, Steps, app, device_of, print_table
from helpers.commands.options import with_options
from helpers.commands.runs import RunOptions
from helpers.faces import FaceOptions
from helpers.generators import DEFAULT
from helpers.inversion import InversionOptions

Noise = Annotated[bool, typer.Option("--noise", help="Fit the noise maps too, after the code (StyleGAN2).")]
NoiseSteps = Annotated[int, typer.Option(min=1, help="Steps of the noise search.")]


@app.command()
def demo(out: Out = Path("output/demo"), steps: Steps = 300, device: Device = None, log: Log = "jsonl") -> None:
    """Invert one real photo with every bundled model in every space: table and figure."""
    rows, _ = shows.demo(out, steps, device_of(device), log)
    typer.echo(runs.table(rows))
    typer.echo(f"\nThe figure: {out / 'demo.png'}")


@app.command()
@with_options
def invert(
    photos: Annotated[list[Path], typer.Argument(help="Photo files, or folders of them.")],
    out: Out,
    run: RunOptions,
    search: InversionOptions,
    faces: FaceOptions,
    noise: Noise = False,
    noise_steps: NoiseSteps = 600,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Find the latents of photos; write images, latents and results.json. The same command continues after a stop."""
    run = replace(run, noise_steps=noise_steps if noise else 0, device=device_of(device), log=log)
    print_table(lambda: runs.invert_photos(photos, out, run, search, faces))


@app.command()
@with_options
def interpolate(
    a: Annotated[Path, typer.Argument(help="First photo, or latents (.safetensors, .npz, .pt).")],
    b: Annotated[Path, typer.Argument(help="Second photo, or latents.")],
    out: Out,
    faces: FaceOptions,
    model: Model = DEFAULT,
    space: Space = "w+",
    steps: Steps = 300,
    frames: Annotated[int, typer.Option(min=2, help="Images from one end to the other.")] = 60,
    fps: Annotated[int, typer.Option(min=1, help="Images per second, at most 50.")] = 30,
    noise: Noise = False,
    noise_steps: NoiseSteps = 600,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Morph between two photos, which are inverted first, or two latents; write MP4 and GIF."""
    run = RunOptions(model, space, noise_steps=noise_steps if noise else 0, device=device_of(device), log=log)
    search = InversionOptions(steps=steps)
    for path in shows.interpolate_photos((a, b), out, run, search, faces, frames=frames, fps=fps):
        typer.echo(path)


@app.command()
def sample(
    out: Out,
    model: Model = DEFAULT,
    n: Annotated[int, typer.Option(min=1, help="Number of images.")] = 12,
    truncation: Annotated[float, typer.Option(min=0, help="1 is the whole space, 0 the mean.")] = 0.7,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Draw images from a generator; write them with their latents."""
    typer.echo(shows.sample_images(out, model, n, truncation=truncation, seed=seed, device=device_of(device)))
