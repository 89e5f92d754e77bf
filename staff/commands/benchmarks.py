"""Commands of measuring: bench weights, inversion, ..."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.common import Data, Device, Out, device_of
from staff.commands import grading  # noqa: F401  (has a bench of its own)
from staff.commands.common import bench_app


@bench_app.command("weights")
def bench_weights(
    data: Data,
    photos: Annotated[Path | None, typer.Option(help="Zip or folder that the feature network was trained on.")] = None,
    models: Annotated[list[str] | None, typer.Option("--model", help="Models of these photos.")] = None,
    held_out: Annotated[int | None, typer.Option(min=1, help="Last photos that are for validation.")] = None,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """Figures of the model cards: Fréchet distances, shares of cats, PSNR of inversions, top-1 of the features."""
    from staff.benchmarks.weights import run

    typer.echo(run(data, photos, out, device_of(device), models, held_out))


@bench_app.command("inversion")
def bench_inversion(
    data: Data,
    out: Out = Path("output/bench"),
    parts: Annotated[str, typer.Option(help="What to measure, with commas between.")] = (
        "spaces,choices,encoder,batch,plain"
    ),
    plain_faces: Annotated[int, typer.Option(min=1, help="Photos that the plain projector loop gets too.")] = 4,
    plain_steps: Annotated[int, typer.Option(min=1, help="Steps of the plain projector loop.")] = 1000,
    device: Device = None,
) -> None:
    """Spaces, starts, optimizers, batch against single, and ours against the plain projector loop."""
    from staff.benchmarks.inversion import run

    names = [part.strip() for part in parts.split(",")]
    typer.echo(run(data, out, device_of(device), names, plain_faces, plain_steps))


@bench_app.command("generator")
def bench_generator(
    resolutions: Annotated[str, typer.Option(help="Sides in pixels, with commas between.")] = "64,256,1024",
    batches: Annotated[str, typer.Option(help="Batches, with commas between.")] = "1,8",
    photos: Annotated[int, typer.Option(min=2, help="Photos inverted together and one by one.")] = 32,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """StyleGAN2 forward and backward against the machine's convolutions; a batch of inversions against single ones."""
    from staff.benchmarks.generator import run_speed

    sides, counts = ([int(n) for n in text.split(",")] for text in (resolutions, batches))
    typer.echo(run_speed(out, device_of(device), sides, counts, photos))


@bench_app.command("growth")
def bench_growth(
    quick: Annotated[bool, typer.Option("--quick", help="Few small values.")] = False,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """Time and memory over resolution, batch, steps and number of targets, next to what arithmetic predicts."""
    from staff.benchmarks.generator import run_growth

    typer.echo(run_growth(out, device_of(device), quick))


@bench_app.command("all")
def bench_all(
    data: Annotated[
        Path | None, typer.Option(help="Zip or folder of aligned face photos, for what needs them.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small settings: whether all runs, not how fast.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is finished.")] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Also write the tables to docs/benchmarks.md.")] = False,
    only: Annotated[str | None, typer.Option(help="Names of benches, with commas between.")] = None,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """Every bench, one after the other, into one page: OUT/benchmarks.md. The same command resumes after a stop."""
    from staff.benchmarks.suite import run

    names = None if only is None else [name.strip() for name in only.split(",")]
    typer.echo(run(out, data, device, quick=quick, fresh=fresh, publish=publish, only=names))


@bench_app.command("noise")
def bench_noise(
    data: Data,
    out: Out = Path("output/bench"),
    parts: Annotated[str, typer.Option(help="What to measure, with commas between.")] = "stages,choices,seconds",
    device: Device = None,
) -> None:
    """The noise stage on validation faces: orders with fresh-noise figures, residual, choices, seconds."""
    from staff.benchmarks.noise import run

    typer.echo(run(data, out, device_of(device), [part.strip() for part in parts.split(",")]))


@bench_app.command("sizing")
def bench_sizing(
    ways: Annotated[str, typer.Option(help="What to measure, with commas between; the rest stays.")] = (
        "fast,w+,noise,style"
    ),
    out: Out = Path("output/bench"),
) -> None:
    """What sweeps over 10^3 to 10^6 photos take, from one measured job each; grading as `bench grade` measured it."""
    from staff.benchmarks.sizing import run

    typer.echo(run(out, [way.strip() for way in ways.split(",")]))


@bench_app.command("full-size")
def bench_full_size(
    resolution: Annotated[int, typer.Option(help="Side of the images: 256, 512 or 1024.")] = 1024,
    steps: Annotated[int, typer.Option(min=1, help="Steps per setting; of several the first is not timed.")] = 3,
    need_gb: Annotated[float, typer.Option(help="Do not begin with less free memory.")] = 12.0,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """Memory and steps per second of w+ and noise at the official size (random weights): bf16, checkpointing."""
    from staff.benchmarks.full_size import run

    typer.echo(run(out, device_of(device), resolution, steps, need_gb))


@bench_app.command("blend")
def bench_blend(
    data: Data,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of validation faces.")] = 16,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """Hard paste, feathered paste, Poisson and ours under three masks: seam, fidelity, realism."""
    from staff.benchmarks.blend import run

    typer.echo(run(data, out, device_of(device), pairs))


@bench_app.command("sketch")
def bench_sketch(
    data: Data,
    quick: Annotated[bool, typer.Option("--quick", help="One sketch, few steps.")] = False,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """Every shipped sketch with the defaults; spaces, starts, realism and prior on three of them."""
    from staff.benchmarks.sketch import run

    typer.echo(run(data, out, device_of(device), quick))


@bench_app.command("style")
def bench_style(
    out: Out = Path("output/bench"),
    parts: Annotated[
        str, typer.Option(help="speed, precision, starts, pairs, lattice, scales, film, with commas between.")
    ] = "speed",
    sizes: Annotated[str, typer.Option(help="Sides in pixels for the speed.")] = "256,512",
    network: Annotated[str, typer.Option(help="Network of all parts but the speed: vgg19-slim, vgg19.")] = "vgg19-slim",
    device: Device = None,
) -> None:
    """Style transfer: evaluations per second against a plain loop, bfloat16 against float32, starts, sizes, flicker."""
    from staff.benchmarks.style import run

    typer.echo(run(out, parts.split(","), [int(size) for size in sizes.split(",")], device_of(device), network))


@bench_app.command("determinism")
def bench_determinism(
    quick: Annotated[bool, typer.Option("--quick", help="Few steps, small images.")] = False,
    out: Out = Path("output/bench"),
) -> None:
    """The same seed again, with other threads, batches, precisions, instruction sets and devices."""
    from staff.benchmarks.determinism import run

    typer.echo(run(out, quick))


@bench_app.command("interaction")
def bench_interaction(out: Out = Path("output/bench"), device: Device = None) -> None:
    """Panels in a real browser: slider to new image, live view during a run, Stop, bytes per stroke."""
    try:
        from staff.benchmarks.interaction import run
    except ImportError as error:
        raise ValueError(
            f"This measures in Chromium and needs playwright; pip install playwright ({error})."
        ) from error

    typer.echo(run(out, device_of(device)))
