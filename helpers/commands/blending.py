"""Commands of local edits, which also compare with pastes: blend, inpaint, scribble, local-style, transfer."""

from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from helpers import features, generators, masks
from helpers.blending import WEIGHTS, Edit, EditOptions, Editor, measure
from helpers.commands.common import DEVICE, LOG, MASK_RULE, app, device_of
from helpers.commands.options import with_options
from helpers.commands.runs import model_stem, print_table, read_or_show
from helpers.faces import FaceOptions
from helpers.figures import save_figure, show_images
from helpers.files import short_name, unique_stems, write_json
from helpers.images import read_image, write_image
from helpers.latents import save_latents
from helpers.progress import Progress
from helpers.search import marks, option

MASK = f"half, left, right, top, bottom, ellipse, eyes, mouth, box:…, ellipse:…, polygon:… or a file ({MASK_RULE})."
Mask = Annotated[str, typer.Option(help=MASK)]
Hole = Annotated[str, typer.Option(help=f"The hole: {MASK}")]
Strokes = Annotated[str, typer.Option(help="Where the strokes are: auto finds them, or as for blend.")]
Invert = Annotated[bool, typer.Option("--invert-mask", help="Exchange inside and outside.")]
Photo = Annotated[Path, typer.Argument(help="Photo, or latents (.safetensors).")]
Inside = Annotated[Path, typer.Argument(help="Photo that shows inside the mask.")]
Outside = Annotated[Path, typer.Argument(help="Photo that shows outside.")]
Drawn = Annotated[Path, typer.Argument(help="The same photo with strokes painted on it.")]
Style = Annotated[Path, typer.Argument(help="Image whose texture and colours are taken.")]
WEIGHT_HELP = {
    "first": "Weight of the photo's pixels; with two photos, of the first's.",
    "second": "Weight of the second photo's pixels.",
    "perceptual": "Weight of the perceptual loss.",
    "style": "Weight of the style, or of B's texture for what shows A.",
    "stroke": "Weight of the strokes' colours.",
    "content": "Weight of what the region showed.",
    "mirror": "Weight of looking like the other half of the face.",
    "prior": "Weight of how likely the face is, or of staying near the photo's latents.",
}


@dataclass(frozen=True, kw_only=True)
class Run(FaceOptions):
    """How a command runs."""

    out: Path = field(metadata={"help": "Folder for the results."})
    model: str = option(generators.DEFAULT, "Registered name or file of a generator.")
    device: str | None = option(None, DEVICE)
    log: str = option("jsonl", LOG)


def _weights(edit: str) -> type:
    """A dataclass with one option for each weight of an edit."""
    facts = {name: {"help": WEIGHT_HELP[name], "min": 0} for name in WEIGHTS[edit]}
    options = [(name, float, field(default=WEIGHTS[edit][name], metadata=facts[name])) for name in facts]
    return make_dataclass(edit, options)


BlendWeights, InpaintWeights, ScribbleWeights = _weights("crossover"), _weights("inpaint"), _weights("scribble")
StyleWeights = _weights("local-style")


def _read(files: dict[str, Path], generator, run: Run) -> dict[str, Tensor]:
    """The part of each photo that shows the face; what was drawn on a photo is cut as the photo, a style centrally."""
    images, cut = {}, None
    for name, path in files.items():
        if name == "style":
            images[name] = read_image(path, size=generator.resolution)
        elif name == "drawn":
            images[name] = cut.again(read_image(path), path.name)
        else:
            cut = read_or_show(path, generator, run, Path(run.out) / f"{short_name(path.stem)}-looked-at.png")
            images[name] = cut.target
    return images


def _measures(edit: Edit, images: Tensor, network) -> dict[str, float | None]:
    """The measures that mean something: inside a hole or under a stroke there is no photo to compare with."""
    two = edit.name in ("crossover", "transfer")
    values = measure(images, edit.inside if two else edit.outside, edit.outside, edit.mask, network)
    kept = {name: round(value.item(), 4) for name, value in values.items() if two or not name.endswith(("_x", "psnr"))}
    return {name: None if value == float("inf") else value for name, value in kept.items()}


def _run(
    name: str, files: dict[str, Path], mask: str, run: Run, options: EditOptions, weights=None, invert=False, **more
) -> None:
    """Run a method of the editor on photo files, or latents, and the mask; write the results and print their table."""
    device, out, weights = device_of(run.device), run.out, {} if weights is None else {"weights": asdict(weights)}
    generator, network = generators.load_generator(run.model, device), features.load_features(device=device)
    photos, region = {key: image.to(device) for key, image in _read(files, generator, run).items()}, None
    if (name, mask) != ("scribble", "auto"):
        region = masks.mask_from_text(mask, generator.resolution, generator.landmarks).to(device)
        region = masks.invert(region) if invert else region
    edit = getattr(Editor(generator, network, options), name)(*photos.values(), region, **more, **weights)
    settings = {"mask": f"not {mask}" if invert else mask, **more, **asdict(options), **weights}
    about = {"edit": name, "model": run.model, "box": run.box, "face": run.face, "align": run.align, **settings}
    stem = "-".join([edit.name, *unique_stems(files.values(), 60), model_stem(run.model)])
    with Progress(out, about, files.values(), run.log) as progress:
        result = progress.run(edit, edit.name)
        write_image(out / f"{stem}.png", result.images)
        save_latents(out / f"{stem}.safetensors", result.latents, model=str(run.model))
        ways = edit.ways(result.images)
        images = {**photos, "mask": masks.overlay(edit.outside, edit.mask), **ways}
        save_figure(show_images(list(images.values()), list(images), columns=len(images)), out / f"{stem}-sheet.png")
        row = {"edit": edit.name, **{key: str(path) for key, path in files.items()}, "model": str(run.model)}
        row |= {key: settings[key] for key in ("mask", "feather", "layer", "amount") if key in settings}
        rows = [row | {"way": way} | _measures(edit, images, network) for way, images in ways.items()]
        losses = {key: round(value.mean().item(), 6) for key, value in result.parts.items()}
        rows[-1] |= {"steps": result.steps, "seconds": round(result.seconds, 2), **marks(result, 0), "losses": losses}
        rows[-1]["image"] = f"{stem}.png"
        write_json(out / "results.json", progress.finish(edit.name, rows))
    print_table(lambda: rows, ("edit", "model"))
    typer.echo(f"\nThe images: {out}")


@app.command()
@with_options
def blend(
    a: Inside, b: Outside, run: Run, options: EditOptions, weights: BlendWeights, mask: Mask = "half",
    invert_mask: Invert = False,
) -> None:  # fmt: skip
    """Blend two photos in one face: A inside the mask, B outside."""
    _run("crossover", {"a": a, "b": b}, mask, run, options, weights, invert_mask)


@app.command()
@with_options
def inpaint(photo: Photo, run: Run, options: EditOptions, weights: InpaintWeights, mask: Hole = "mouth") -> None:
    """Fill a hole in a photo with a likely face."""
    _run("inpaint", {"photo": photo}, mask, run, options, weights)


@app.command()
@with_options
def scribble(
    photo: Photo, drawn: Drawn, run: Run, options: EditOptions, weights: ScribbleWeights, mask: Strokes = "auto"
) -> None:
    """Turn strokes painted on a photo into a likely change of the face."""
    _run("scribble", {"photo": photo, "drawn": drawn}, mask, run, options, weights)


@app.command("local-style")
@with_options
def local_style(
    photo: Photo, style_image: Style, run: Run, options: EditOptions, weights: StyleWeights, mask: Mask = "ellipse",
    invert_mask: Invert = False,
) -> None:  # fmt: skip
    """Give a region the texture and colours of a second image."""
    _run("local_style", {"photo": photo, "style": style_image}, mask, run, options, weights, invert_mask)


@app.command()
@with_options
def transfer(
    a: Annotated[Path, typer.Argument(help="Photo that an attribute is taken from.")],
    b: Annotated[Path, typer.Argument(help="Photo that gets it.")],
    run: Run,
    options: EditOptions,
    mask: Mask = "eyes",
    layer: Annotated[str, typer.Option(help="Layer whose activations are copied, e.g. b8.conv1.")] = "b16.conv0",
    amount: Annotated[float, typer.Option(min=0, max=1, help="1 copies, 0.5 averages.")] = 1.0,
) -> None:
    """Carry an attribute of A, e.g. its eyes, into B by copying activations."""
    _run("transfer", {"a": a, "b": b}, mask, run, options, layer=layer, amount=amount)
