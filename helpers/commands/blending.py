"""Commands of local edits: blend, inpaint, scribble, local-style, transfer; and the function that runs and writes one.

An edit writes what ``invert`` writes, the picture, its latents with noise maps and ``results.json``, and a sheet that
compares it with a hard paste and with Poisson blending.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from helpers.commands.common import Device, Log, Model, Out, app, device_of, print_table

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.blending import Edit
    from helpers.generators import Generator

Mask = Annotated[
    str,
    typer.Option(help="half, left, right, top, bottom, ellipse, eyes, mouth, box:…, ellipse:…, polygon:… or a file."),
]
Feather = Annotated[float | None, typer.Option(min=0, help="Deviation of the mask's edge in pixels; 4 at 64 x 64.")]
CodeSteps = Annotated[int, typer.Option(min=1, help="Steps of each search of the w+ code.")]
NoiseSteps = Annotated[int, typer.Option(min=0, help="Steps of the noise maps; 0 leaves them out.")]
Photo = Annotated[Path, typer.Argument(help="Photo file.")]
First = Annotated[float, typer.Option(min=0, help="Weight of the photo's pixels; with two photos, of the first's.")]
Perceptual = Annotated[float, typer.Option(min=0, help="Weight of the perceptual loss.")]


Make = Callable[["Generator", "dict[str, Tensor]", object], "Edit"]


def edit_photos(
    files: dict[str, Path],
    out: Path,
    model: str,
    make: Make,
    columns: dict,
    *,
    settings: dict | None = None,
    device=None,
    log: str = "none",
) -> list[dict]:
    """Read photos, run an edit of them and write it; the rows of its table.

    Args:
        files: what they are ("x", "y", "style", ...) to photo files, cut to their central square.
        make: from the generator, the photos (1, 3, R, R) by name and the feature network to the ``Edit``.
        columns: of the table, that say how it was made.
        settings: all that decides the result: with the same ones the call goes on after a stop or a kill.
        log: see ``open_log``.
    """
    from helpers.commands.runs import model_stem
    from helpers.features import load_features
    from helpers.figures import save_figure, show_images
    from helpers.files import write_json
    from helpers.generators import load_generator
    from helpers.images import read_image, write_image
    from helpers.latents import save_latents
    from helpers.masks import overlay
    from helpers.progress import Progress
    from helpers.search import marks

    device = device_of(device)
    generator, features = load_generator(model, device), load_features(device=device)
    photos = {name: read_image(path, size=generator.resolution).to(device) for name, path in files.items()}
    edit = make(generator, photos, features)
    stem = "-".join([edit.name, *(path.stem for path in files.values()), model_stem(model)])
    with Progress(out, {"edit": edit.name, **(settings or {})}, files.values(), log) as progress:
        result = progress.run(edit, edit.name)
        write_image(out / f"{stem}.png", result.images)
        save_latents(out / f"{stem}.safetensors", result.latents, model=str(model))
        ways = edit.ways(result.images)
        pictures = {**photos, "mask": overlay(edit.outside, edit.mask), **ways}
        sheet = show_images(list(pictures.values()), list(pictures), columns=len(pictures))
        save_figure(sheet, out / f"{stem}-sheet.png")
        row = {"edit": edit.name, **{name: str(path) for name, path in files.items()}, "model": str(model), **columns}
        rows = [row | {"way": way} | _figures(edit, images, features) for way, images in ways.items()]
        losses = {name: round(value.mean().item(), 6) for name, value in result.parts.items()}
        rows[-1] |= {"steps": result.steps, "seconds": round(result.seconds, 2), **marks(result, 0)}
        rows[-1] |= {"losses": losses, "image": f"{stem}.png"}
        write_json(out / "results.json", progress.finish(edit.name, rows))
    return rows


def _run(context: typer.Context, files: dict[str, str], make: Make, columns: Sequence[str] = ()) -> None:
    """Run a command's edit and print its table; ``files``: name of a photo to the command's argument."""
    given = dict(context.params)
    photos = {name: given.pop(argument) for name, argument in files.items()}
    out, log, device = (given.pop(name) for name in ("out", "log", "device"))
    mask = f"not {given['mask']}" if given.get("invert_mask") else given["mask"]
    shown = {"mask": mask, **{name: given[name] for name in ("feather", *columns)}}
    options = {"settings": given, "device": device, "log": log}
    print_table(lambda: edit_photos(photos, out, given["model"], make, shown, **options), ("edit", "model"))
    typer.echo(f"\nThe pictures: {out}")


def _options(context: typer.Context, *names: str) -> dict:
    """Those of an edit that every command has, and others by name."""
    return {name: context.params[name] for name in ("feather", "steps", "noise_steps", *names)}


def _figures(edit: Edit, images: Tensor, features) -> dict[str, float]:
    """The measures that mean something: inside a hole or under a stroke there is no photo to be near to."""
    from helpers.blending import measure

    two = edit.name in ("crossover", "transfer")
    values = measure(images, edit.inside if two else edit.outside, edit.outside, edit.mask, features)
    kept = {name: round(value.item(), 4) for name, value in values.items() if two or not name.endswith(("_x", "psnr"))}
    return {name: None if value == float("inf") else value for name, value in kept.items()}


def _mask(text: str, generator: Generator, invert: bool = False) -> Tensor:
    from helpers.masks import invert as inverted
    from helpers.masks import mask_from_text

    mask = mask_from_text(text, generator.resolution).to(generator.device)
    return inverted(mask) if invert else mask


@app.command()
def blend(
    context: typer.Context,
    a: Annotated[Path, typer.Argument(help="Photo that shows inside the mask.")],
    b: Annotated[Path, typer.Argument(help="Photo that shows outside.")],
    out: Out,
    mask: Mask = "half",
    feather: Feather = None,
    invert_mask: Annotated[bool, typer.Option("--invert-mask", help="Exchange inside and outside.")] = False,
    model: Model = "stylegan2-cats-64",
    steps: CodeSteps = 200,
    noise_steps: NoiseSteps = 150,
    first: First = 1.0,
    second: Annotated[float, typer.Option(min=0, help="Weight of the second photo's pixels.")] = 1.0,
    perceptual: Perceptual = 0.1,
    style: Annotated[float, typer.Option(min=0, help="Weight of B's texture for what shows A.")] = 0.0,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Blend two photos in one face: A inside the mask, B outside."""
    from helpers.blending import crossover

    def make(generator, photos, features):
        weights = {"first": first, "second": second, "perceptual": perceptual, "style": style}
        region = _mask(mask, generator, invert_mask)
        return crossover(generator, photos["a"], photos["b"], region, features, weights=weights, **_options(context))

    _run(context, {"a": "a", "b": "b"}, make)


@app.command()
def inpaint(
    context: typer.Context,
    photo: Photo,
    out: Out,
    mask: Annotated[str, typer.Option(help="The hole: a shape as for blend, or a file (white is filled).")] = "mouth",
    feather: Feather = None,
    model: Model = "stylegan2-cats-64",
    steps: CodeSteps = 200,
    noise_steps: NoiseSteps = 150,
    perceptual: Perceptual = 0.02,
    prior: Annotated[float, typer.Option(min=0, help="Weight of how likely the face is.")] = 0.03,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Fill a hole in a photo with a likely face."""
    from helpers import blending

    def make(generator, photos, features):
        weights = blending.RECONSTRUCTION_WEIGHTS | {"perceptual": perceptual}
        options = _options(context, "prior")
        return blending.inpaint(
            generator, photos["photo"], _mask(mask, generator), features, weights=weights, **options
        )

    _run(context, {"photo": "photo"}, make)


@app.command()
def scribble(
    context: typer.Context,
    photo: Photo,
    drawn: Annotated[Path, typer.Argument(help="The same photo with strokes painted on it.")],
    out: Out,
    mask: Annotated[str, typer.Option(help="Where the strokes are: auto finds it, or as for blend.")] = "auto",
    feather: Feather = None,
    prior: Annotated[float, typer.Option(min=0, help="Weight of staying near the photo's code.")] = 0.01,
    model: Model = "stylegan2-cats-64",
    steps: CodeSteps = 200,
    noise_steps: NoiseSteps = 150,
    perceptual: Perceptual = 0.02,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Turn strokes painted on a photo into a likely change of the face."""
    from helpers import blending

    def make(generator, photos, features):
        x, painted = photos["photo"], photos["drawn"]
        region = blending.stroke_mask(x, painted) if mask == "auto" else _mask(mask, generator)
        weights = blending.SCRIBBLE_WEIGHTS | {"perceptual": perceptual}
        return blending.scribble(generator, x, painted, region, features, weights=weights, **_options(context, "prior"))

    _run(context, {"photo": "photo", "drawn": "drawn"}, make, ["prior"])


@app.command("local-style")
def local_style(
    context: typer.Context,
    photo: Photo,
    style_image: Annotated[Path, typer.Argument(help="Image whose texture and colours are taken.")],
    out: Out,
    mask: Mask = "ellipse",
    invert_mask: Annotated[bool, typer.Option("--invert-mask", help="Style everything but the shape.")] = False,
    feather: Feather = None,
    model: Model = "stylegan2-cats-64",
    steps: CodeSteps = 200,
    noise_steps: NoiseSteps = 150,
    style: Annotated[float | None, typer.Option(min=0, help="Weight of the style.")] = None,
    content: Annotated[float | None, typer.Option(min=0, help="Weight of what the region showed.")] = None,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Give a region the texture and colours of a second image."""
    from helpers import blending

    def make(generator, photos, features):
        given = {"style": style, "content": content}
        weights = blending.STYLE_WEIGHTS | {name: value for name, value in given.items() if value is not None}
        region, options = _mask(mask, generator, invert_mask), _options(context)
        return blending.local_style(
            generator, photos["photo"], photos["style"], region, features, weights=weights, **options
        )

    _run(context, {"photo": "photo", "style": "style_image"}, make)


@app.command()
def transfer(
    context: typer.Context,
    a: Annotated[Path, typer.Argument(help="Photo that an attribute is taken from.")],
    b: Annotated[Path, typer.Argument(help="Photo that gets it.")],
    out: Out,
    mask: Mask = "eyes",
    feather: Feather = None,
    layer: Annotated[str, typer.Option(help="Layer whose activations are copied, e.g. b8.conv1.")] = "b16.conv0",
    amount: Annotated[float, typer.Option(min=0, max=1, help="1 copies, 0.5 averages.")] = 1.0,
    model: Model = "stylegan2-cats-64",
    steps: CodeSteps = 200,
    noise_steps: NoiseSteps = 150,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Carry an attribute of A, e.g. its eyes, into B by copying activations."""
    from helpers import blending

    def make(generator, photos, features):
        options = _options(context, "layer", "amount")
        return blending.transfer(generator, photos["a"], photos["b"], _mask(mask, generator), features, **options)

    _run(context, {"a": "a", "b": "b"}, make, ["layer", "amount"])
