"""Commands of inversion: demo, invert, interpolate, sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.common import (
    Device,
    Log,
    Model,
    Out,
    Seed,
    Space,
    Steps,
    app,
    box_of,
    device_of,
    layers_of,
    print_table,
)

L1 = Annotated[float, typer.Option("--l1", min=0, help="Weight of the L1 loss.")]
L2 = Annotated[float, typer.Option("--l2", min=0, help="Weight of the L2 loss.")]
Perceptual = Annotated[float, typer.Option(min=0, help="Weight of the perceptual loss.")]
Delta = Annotated[float, typer.Option(min=0, help="Weight of the squared latent offset.")]
Layers = Annotated[str, typer.Option(help="Perceptual layers, names or numbers with commas between.")]
Optimizer = Annotated[str, typer.Option(help="adam, or lbfgs (each of its steps takes up to 20 evaluations).")]
Start = Annotated[
    str | None,
    typer.Option(help="mean (of w), sample, best (of 64 samples), or encoder; by default best for z, else mean."),
]
LearningRate = Annotated[float | None, typer.Option(help="Rate in standard deviations of the space (Adam).")]
Noise = Annotated[bool, typer.Option("--noise", help="Fit the noise maps too, after the code (StyleGAN2).")]
NoiseSteps = Annotated[int, typer.Option(min=1, help="Steps of the noise stage.")]
Restarts = Annotated[int, typer.Option(min=1, help="Starts per photo, of which the best is kept.")]


def _weights(l1: float, l2: float, perceptual: float, delta: float) -> dict[str, float]:
    return {"l1": l1, "l2": l2, "perceptual": perceptual, "delta": delta}


@app.command()
def demo(out: Out = Path("output/demo"), steps: Steps = 300, device: Device = None, log: Log = "jsonl") -> None:
    """Invert one real photo with every bundled model in every space: table and figure."""
    from helpers.commands import runs

    rows, _ = runs.demo(out, steps, device_of(device), log)
    typer.echo(runs.table(rows))
    typer.echo(f"\nThe picture: {out / 'demo.png'}")


@app.command()
def invert(
    photos: Annotated[list[Path], typer.Argument(help="Photo files.")],
    out: Out,
    model: Model = "stylegan2-cats-64",
    space: Space = "w+",
    steps: Steps = 300,
    optimizer: Optimizer = "adam",
    l1: L1 = 1.0,
    l2: L2 = 0.0,
    perceptual: Perceptual = 0.1,
    delta: Delta = 0.0,
    layers: Layers = "conv1_2,conv2_2,conv3_2",
    start: Start = None,
    restarts: Restarts = 1,
    lr: LearningRate = None,
    seed: Seed = 0,
    noise: Noise = False,
    noise_steps: NoiseSteps = 600,
    batch: Annotated[int, typer.Option(min=1, help="Photos that run together.")] = 8,
    box: Annotated[
        str | None, typer.Option(help="LEFT,TOP,RIGHT,BOTTOM of the face in pixels, for every photo.")
    ] = None,
    align: Annotated[bool, typer.Option(help="Align human faces as FFHQ models know them (extra `faces`).")] = False,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 for half the memory of a large generator.")] = "fp32",
    checkpointing: Annotated[bool, typer.Option(help="Less memory for a third more time.")] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="100 steps, from the encoder's guess where there is one.")
    ] = False,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Find the latents of photos; write images, latents and results.json. The same command goes on after a stop."""
    from helpers.commands import runs

    options = {"steps": steps, "optimizer": optimizer, "start": start, "restarts": restarts, "lr": lr, "seed": seed}
    options |= {
        "weights": _weights(l1, l2, perceptual, delta),
        "layers": layers_of(layers),
        "box": box_of(box),
        "batch": batch,
        "noise_steps": noise_steps if noise else 0,
        "align": align,
        "precision": precision,
        "checkpointing": checkpointing,
        "fast": fast,
        "log": log,
    }
    print_table(lambda: runs.invert_photos(photos, out, model, space, device=device_of(device), **options))


@app.command()
def interpolate(
    a: Annotated[Path, typer.Argument(help="First photo.")],
    b: Annotated[Path, typer.Argument(help="Second photo.")],
    out: Out,
    model: Model = "stylegan2-cats-64",
    space: Space = "w+",
    steps: Steps = 300,
    frames: Annotated[int, typer.Option(min=2, help="Pictures from one end to the other.")] = 60,
    fps: Annotated[int, typer.Option(min=1, help="Pictures per second.")] = 30,
    noise: Noise = False,
    noise_steps: NoiseSteps = 600,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Invert two photos and write the way between them as GIF and MP4."""
    from helpers.commands import runs

    options = {"frames": frames, "fps": fps, "steps": steps, "noise_steps": noise_steps if noise else 0, "log": log}
    for path in runs.interpolate_photos(a, b, out, model, space, device=device_of(device), **options):
        typer.echo(path)


@app.command()
def sample(
    out: Out,
    model: Model = "stylegan2-cats-64",
    n: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 12,
    truncation: Annotated[float, typer.Option(min=0, help="1 is the whole space, 0 the mean.")] = 0.7,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Draw pictures from a generator; write them with their latents."""
    from helpers.commands import runs

    typer.echo(runs.sample_images(out, model, n, truncation=truncation, seed=seed, device=device_of(device)))
