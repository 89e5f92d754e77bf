"""Command line: ``python -m helpers COMMAND --help``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
train_app = typer.Typer(no_args_is_help=True, help="Train the bundled networks anew, or on your own photos.")
bench_app = typer.Typer(no_args_is_help=True, help="Measure, and write what README and model cards quote.")
weights_app = typer.Typer(no_args_is_help=True, help="List, check and add weights.")
app.add_typer(train_app, name="train")
app.add_typer(bench_app, name="bench")
app.add_typer(weights_app, name="weights")

Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the best there is.")]
Model = Annotated[str, typer.Option(help="Registered name or file of a generator.")]
Space = Annotated[str, typer.Option(help="Latent space: z, w or w+.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimisation steps.")]
Data = Annotated[Path, typer.Option(help="Zip or folder of aligned face photos.")]


def _device(name: str | None):
    from .device import check_device, pick_device

    device = pick_device(name)
    check_device(device)
    return device


def _weights(l1: float, l2: float, perceptual: float, delta: float) -> dict[str, float]:
    return {"l1": l1, "l2": l2, "perceptual": perceptual, "delta": delta}


L1 = Annotated[float, typer.Option("--l1", min=0, help="Weight of the L1 loss.")]
L2 = Annotated[float, typer.Option("--l2", min=0, help="Weight of the L2 loss.")]
Perceptual = Annotated[float, typer.Option(min=0, help="Weight of the perceptual loss.")]
Delta = Annotated[float, typer.Option(min=0, help="Weight of the squared latent offset.")]
Layers = Annotated[str, typer.Option(help="Perceptual layers, names or numbers with commas between.")]
Optimizer = Annotated[str, typer.Option(help="adam, or lbfgs (each of its steps takes up to 20 evaluations).")]
Start = Annotated[
    str | None, typer.Option(help="mean (of w), sample, or best (of 64 samples); by default best for z, else mean.")
]
LearningRate = Annotated[float | None, typer.Option(help="Rate in standard deviations of the space (Adam).")]
Restarts = Annotated[int, typer.Option(min=1, help="Starts per photo, of which the best is kept.")]
Seed = Annotated[int, typer.Option(help="Seed of the samples.")]


@app.command()
def demo(out: Out = Path("output/demo"), steps: Steps = 300, device: Device = None) -> None:
    """Invert one real photo with every bundled model in every space: table and figure."""
    from . import runs

    rows, _ = runs.demo(out, steps, _device(device))
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
    batch: Annotated[int, typer.Option(min=1, help="Photos that run together.")] = 8,
    box: Annotated[
        str | None, typer.Option(help="LEFT,TOP,RIGHT,BOTTOM of the face in pixels, for every photo.")
    ] = None,
    device: Device = None,
) -> None:
    """Find the latents of photos; write images, latents and results.json."""
    from . import runs

    options = {"steps": steps, "optimizer": optimizer, "start": start, "restarts": restarts, "lr": lr, "seed": seed}
    options |= {
        "weights": _weights(l1, l2, perceptual, delta),
        "layers": _layers(layers),
        "box": _box(box),
        "batch": batch,
    }
    rows = runs.invert_photos(photos, out, model, space, device=_device(device), **options)
    typer.echo(runs.table(rows))


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
    device: Device = None,
) -> None:
    """Invert two photos and write the way between them as GIF and MP4."""
    from . import runs

    for path in runs.interpolate_photos(
        a, b, out, model, space, frames=frames, fps=fps, steps=steps, device=_device(device)
    ):
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
    from . import runs

    typer.echo(runs.sample_images(out, model, n, truncation=truncation, seed=seed, device=_device(device)))


def _layers(text: str) -> list[str | int]:
    return [int(name) if name.strip().isdigit() else name.strip() for name in text.split(",")]


def _box(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().lstrip("-").isdigit() for part in parts):
        raise ValueError(f"--box must be LEFT,TOP,RIGHT,BOTTOM in whole pixels, but {text!r} came.")
    left, top, right, bottom = map(int, parts)
    return left, top, right, bottom


# --- train -----------------------------------------------------------------------------------------------------------

DataArgument = Annotated[Path, typer.Argument(help="Zip or folder of photos.")]
Images = Annotated[int | None, typer.Option(min=1, help="Real images to show in all.")]
Minutes = Annotated[float | None, typer.Option(help="Stop after so many minutes; the same command goes on later.")]
Split = Annotated[str, typer.Option(help="train leaves the last 500 photos out for validation; all uses every photo.")]


def _train_gan(family, data, out, images, minutes, split, seed, device, batch, channels=None) -> None:
    from .training.gan import DEFAULTS, GanSettings, train_gan

    defaults = DEFAULTS[family]
    changed = {"images": images, "batch": batch}
    settings = defaults | {name: value for name, value in changed.items() if value is not None}
    if channels:
        sizes = dict(zip(("resolution", "channel_base", "channel_max"), channels, strict=True))
        settings["generator"], settings["discriminator"] = settings["generator"] | sizes, sizes
    settings = GanSettings(family=family, seed=seed, **settings)
    typer.echo(train_gan(data, out, settings, device=_device(device), split=split, minutes=minutes))


@train_app.command()
def stylegan2(
    data: DataArgument,
    out: Out,
    resolution: Annotated[int, typer.Option(help="Side of the images, a power of two.")] = 64,
    channel_base: Annotated[int, typer.Option(help="Channels times resolution of the finest layers.")] = 1024,
    channel_max: Annotated[int, typer.Option(help="Most channels of a layer.")] = 128,
    images: Images = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    minutes: Minutes = None,
    split: Split = "train",
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train a StyleGAN2; call again to go on after a stop or a kill."""
    _train_gan(
        "stylegan2", data, out, images, minutes, split, seed, device, batch, (resolution, channel_base, channel_max)
    )


@train_app.command()
def dcgan(
    data: DataArgument,
    out: Out,
    images: Images = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    minutes: Minutes = None,
    split: Split = "train",
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train a DCGAN at 64x64; call again to go on after a stop or a kill."""
    _train_gan("dcgan", data, out, images, minutes, split, seed, device, batch)


@train_app.command()
def features(
    data: DataArgument,
    out: Out,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the photos.")] = 60,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train the slim VGG19 on CLASS/photo folders; call again to go on after a stop or a kill."""
    from .training.features import train_features

    typer.echo(train_features(data, out, epochs=epochs, seed=seed, device=_device(device)))


# --- bench -----------------------------------------------------------------------------------------------------------


@bench_app.command("weights")
def bench_weights(
    data: Data,
    photos: Annotated[Path | None, typer.Option(help="Zip or folder that the feature network was trained on.")] = None,
    out: Out = Path("output/bench"),
    device: Device = None,
) -> None:
    """Figures of the model cards: Fréchet distances, w+ PSNR over 32 validation faces, top-1 of the features."""
    from .benchmarks.weights import run

    typer.echo(run(data, photos, out, _device(device)))


@bench_app.command("inversion")
def bench_inversion(data: Data, out: Out = Path("output/bench"), device: Device = None) -> None:
    """Spaces, starts, optimizers and batch against single, on validation faces."""
    from .benchmarks.inversion import run

    typer.echo(run(data, out, _device(device)))


# --- weights ---------------------------------------------------------------------------------------------------------


@weights_app.command("list")
def weights_list() -> None:
    """Known weights with size and state."""
    from .figures import results_table
    from .weights import FOLDER, registry

    rows = [
        {"name": name, "kind": entry["kind"], "MB": entry["size"] / 1e6, "here": (FOLDER / entry["file"]).is_file()}
        | {"summary": entry["summary"]}
        for name, entry in registry().items()
    ]
    typer.echo(results_table(rows))


@weights_app.command("verify")
def weights_verify() -> None:
    """Check every bundled file against the registry."""
    from .weights import registry, weights_path

    for name in registry():
        typer.echo(f"{name}: {weights_path(name)} is whole")


@weights_app.command("add")
def weights_add(
    file: Annotated[Path, typer.Argument(help="Exported safetensors file of a training.")],
    name: Annotated[str, typer.Argument(help="Name to load it by.")],
    kind: Annotated[str, typer.Option(help="generator or features.")],
    summary: Annotated[str, typer.Option(help="One line for the list.")],
) -> None:
    """Copy a file into weights/ and enter it into the registry."""
    import shutil

    from .images import atomic_path
    from .weights import FOLDER, load_weights, register

    load_weights(file)
    with atomic_path(FOLDER / f"{name}.safetensors") as temporary:
        shutil.copyfile(file, temporary)
    register(name, FOLDER / f"{name}.safetensors", kind=kind, summary=summary)


def main() -> None:
    """Run a command; bad input is one sentence and exit code 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is on disk.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
