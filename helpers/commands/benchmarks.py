"""Commands of measuring: bench weights, inversion, ..."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Data, Device, Out, bench_app, device_of


@bench_app.command("weights")
def bench_weights(
    data: Data,
    photos: Annotated[Path | None, typer.Option(help="Zip or folder that the feature network was trained on.")] = None,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """Figures of the model cards: Fréchet distances, w+ PSNR over 32 validation faces, top-1 of the features."""
    from ..benchmarks.weights import run

    typer.echo(run(data, photos, out, device_of(device)))


@bench_app.command("inversion")
def bench_inversion(data: Data, out: Out = Path("output/bench"), device: Device = None) -> None:
    """Spaces, starts, optimizers and batch against single, on validation faces."""
    from ..benchmarks.inversion import run

    typer.echo(run(data, out, device_of(device)))


@bench_app.command("noise")
def bench_noise(
    data: Data,
    out: Out = Path("output/bench"),
    parts: Annotated[str, typer.Option(help="What to measure, with commas between.")] = "stages,choices,seconds",
    device: Device = None,
) -> None:
    """The noise stage on validation faces: orders with fresh-noise figures, residual, choices, seconds."""
    from ..benchmarks.noise import run

    typer.echo(run(data, out, device_of(device), [part.strip() for part in parts.split(",")]))


@bench_app.command("full-size")
def bench_full_size(
    resolution: Annotated[int, typer.Option(help="Side of the images: 256, 512 or 1024.")] = 1024,
    steps: Annotated[int, typer.Option(min=1, help="Steps per setting; of several the first is not timed.")] = 3,
    need_gb: Annotated[float, typer.Option(help="Do not begin with less free memory.")] = 12.0,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """Memory and steps per second of w+ and noise at the official size (random weights): bf16, checkpointing."""
    from ..benchmarks.full_size import run

    typer.echo(run(out, device_of(device), resolution, steps, need_gb))


@bench_app.command("blend")
def bench_blend(
    data: Data,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of validation faces.")] = 16,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """Hard paste, feathered paste, Poisson and ours under three masks: seam, fidelity, realism."""
    from ..benchmarks.blend import run

    typer.echo(run(data, out, device_of(device), pairs))


@bench_app.command("sketch")
def bench_sketch(data: Data, out: Out = Path("output/bench"), device: Device = None) -> None:
    """Every shipped sketch with the defaults; spaces, starts, realism and prior on three of them."""
    from ..benchmarks.sketch import run

    typer.echo(run(data, out, device_of(device)))


@bench_app.command("style")
def bench_style(
    out: Out = Path("output/bench"),
    parts: Annotated[
        str, typer.Option(help="speed, precision, starts, pairs, scales, film, with commas between.")
    ] = "speed",
    sizes: Annotated[str, typer.Option(help="Sides in pixels for the speed.")] = "256,512",
    network: Annotated[str, typer.Option(help="Network of all parts but the speed: vgg19-slim, vgg19.")] = "vgg19-slim",
    device: Device = None,
) -> None:
    """Style transfer: evaluations per second against a plain loop, bfloat16 against float32, starts, sizes, flicker."""
    from ..benchmarks.style import run

    typer.echo(run(out, parts.split(","), [int(size) for size in sizes.split(",")], device_of(device), network))


@bench_app.command("interaction")
def bench_interaction(out: Out = Path("output/bench"), device: Device = None) -> None:
    """Panels in a real browser: slider to new picture, live view beside a run, Stop, bytes per stroke."""
    try:
        from ..benchmarks.interaction import run
    except ImportError as error:
        raise ValueError(
            f"This measures in Chromium and needs playwright; pip install playwright ({error})."
        ) from error

    typer.echo(run(out, device_of(device)))
