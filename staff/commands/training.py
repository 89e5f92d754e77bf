"""Commands of training: train stylegan2, dcgan, features, encoder, finder."""

from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.common import PLAIN, Device, Log, Model, Out, Seed, app, device_of

train_app = typer.Typer(help="Train the bundled networks again, or on your own photos.", **PLAIN)
app.add_typer(train_app, name="train")
DataArgument = Annotated[Path, typer.Argument(help="Zip or folder of photos.")]
Minutes = Annotated[float | None, typer.Option(help="Stop after so many minutes; the same command continues later.")]
HeldOut = Annotated[
    int | None, typer.Option(min=0, help="Last photos to keep for validation, 0 for none [default: 500, or a tenth].")
]
Steps = Annotated[int, typer.Option(min=1, help="Steps in all.")]
SIZES = ("resolution", "channel_base", "channel_max")


@train_app.command("dcgan", help="Train a DCGAN at 64x64; run it again to continue after a stop or a kill.")
@train_app.command("stylegan2", help="Train a StyleGAN2; run it again to continue after a stop or a kill.")
def gan(
    context: typer.Context,
    data: DataArgument,
    out: Out,
    resolution: Annotated[int, typer.Option(help="Side of a StyleGAN2's images, a power of two.")] = 64,
    channel_base: Annotated[int, typer.Option(help="Channels times resolution of its finest layers.")] = 1024,
    channel_max: Annotated[int, typer.Option(help="Most channels of a layer of it.")] = 128,
    start: Annotated[str, typer.Option(help="StyleGAN2 to start from, of this resolution or of half of it.")] = "",
    pretrained: Annotated[float, typer.Option(min=0, help="Weight of the pretrained discriminator, 0 for none.")] = 0.0,
    judge_every: Annotated[int, typer.Option(min=1, help="Steps of it for one of the ordinary discriminator.")] = 1,
    images: Annotated[int | None, typer.Option(min=1, help="Real images to show in all.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    minutes: Minutes = None,
    held_out: HeldOut = None,
    seed: Seed = 0,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    from staff.training.gan import DEFAULTS, GanSettings, train_gan

    family, given = context.info_name, context.params
    chosen = ("images", "batch", "start", "pretrained", "judge_every", "seed")
    settings = DEFAULTS[family] | {name: given[name] for name in chosen if given[name] is not None}
    if family == "stylegan2":
        sizes = {name: given[name] for name in SIZES}
        settings |= {"generator": settings["generator"] | sizes, "discriminator": sizes}
    options = {"device": device_of(device), "held_out": held_out, "minutes": minutes, "log": log}
    typer.echo(train_gan(data, out, GanSettings(family=family, **settings), **options))


@train_app.command()
def features(
    data: DataArgument,
    out: Out,
    network: Annotated[str, typer.Option(help="vgg19-slim or vgg19-half.")] = "vgg19-slim",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the photos.")] = 60,
    minutes: Annotated[float | None, typer.Option(help="Length of the training instead of epochs.")] = None,
    batch: Annotated[int, typer.Option(min=2, help="Photos per step.")] = 64,
    teacher: Annotated[bool, typer.Option(help="Learn from EfficientNet-Lite0 too, not from labels alone.")] = True,
    seed: Seed = 0,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Train a small VGG19 on CLASS/photo folders; run it again to continue after a stop or a kill."""
    from helpers.features import CONFIGS
    from staff.training.features import train_features

    if network not in CONFIGS:
        raise ValueError(f"Expected a network of {', '.join(CONFIGS)}; got {network!r}.")
    settings = {"epochs": epochs, "minutes": minutes, "batch": batch, "teacher": teacher, "seed": seed}
    typer.echo(train_features(data, out, config=CONFIGS[network], device=device_of(device), log=log, **settings))


@train_app.command()
def encoder(
    out: Out,
    model: Model = "stylegan2-cats-64",
    data: Annotated[Path | None, typer.Option(help="Zip or folder of aligned photos, to learn from them too.")] = None,
    steps: Steps = 4000,
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 16,
    minutes: Minutes = None,
    held_out: HeldOut = None,
    seed: Seed = 0,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Train an encoder that predicts a generator's latents; run it again to continue after a stop or a kill."""
    from staff.training.encoder import EncoderSettings, train_encoder

    settings = EncoderSettings(model, steps=steps, batch=batch, seed=seed)
    options = {"device": device_of(device), "held_out": held_out, "minutes": minutes, "log": log}
    typer.echo(train_encoder(out, settings, data, **options))


@train_app.command()
def finder(
    data: Annotated[Path, typer.Argument(help="Zip of whole cat photos, next to its table of landmarks (.tsv).")],
    out: Out,
    others: Annotated[Path | None, typer.Option(help="Zip or folder of CLASS/photo files without cats.")] = None,
    leave_out: Annotated[Path | None, typer.Option(help="Text file: names of photos for validation.")] = None,
    steps: Steps = 1500,
    minutes: Minutes = None,
    seed: Seed = 0,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Train the finder of cat faces; run it again to continue after a stop or a kill."""
    from staff.training.finder import FinderSettings, train_finder

    names = leave_out.read_text(encoding="utf-8").split() if leave_out else ()
    options = {"leave_out": names, "device": device_of(device), "minutes": minutes, "log": log}
    typer.echo(train_finder(data, out, FinderSettings(steps=steps, seed=seed), others, **options))
