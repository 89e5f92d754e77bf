"""Command of sketch to image, and the functions that write its files."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from helpers import features, generators
from helpers.commands.common import MASK_RULE, Device, Log, Model, Out, app, device_of
from helpers.commands.options import with_options
from helpers.commands.runs import check_all_done, noted, print_table
from helpers.figures import save_figure, show_images
from helpers.files import unique_stems, write_json
from helpers.images import write_image
from helpers.latents import save_latents
from helpers.losses import lp_loss
from helpers.metrics import diversity
from helpers.photos import photo_files
from helpers.progress import Progress
from helpers.search import marks
from helpers.sketch import Candidates, Sketch, SketchOptions, SketchSearch, read_sketch, sketch_constraints, space_of


@app.command()
@with_options
def sketch(
    sketches: Annotated[list[Path], typer.Argument(help="Square drawings with a transparent background.")],
    out: Out,
    options: SketchOptions,
    model: Model = generators.DEFAULT,
    constraints: Annotated[
        str | None, typer.Option(help="NAME=WEIGHT,… of colour, edge, perceptual, realism, prior.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help=f"Where the sketches count: {MASK_RULE}.")] = None,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Find images that follow a sketch; write candidates, latents, results. After a stop the same command continues."""
    weights, device, rows, bad = _weights(constraints), device_of(device), [], []
    sketches, generator = photo_files(sketches), generators.load_generator(model, device)
    options = replace(options, space=space_of(generator, options.space))
    networks = {"discriminator": _critic(model, device, weights), "features": features.load_features(device=device)}
    settings = {field.name: getattr(options, field.name) for field in fields(options) if field.metadata}
    settings |= {"command": "sketch", "model": str(model), "weights": weights, "device": str(device)}
    with Progress(out, settings, [*sketches, *([mask] if mask else [])], log) as progress:
        for path, stem in zip(sketches, unique_stems(sketches), strict=True):
            done = progress.done(stem)
            with noted(bad, path):
                if done is None:
                    drawing = read_sketch(path, generator.resolution, mask)
                    terms = sketch_constraints(drawing, generator, options.space, weights, **networks)
                    found = progress.run(SketchSearch(generator, terms, options, sketch=drawing), stem)
                    row = {"file": str(path), "model": str(model), "space": options.space}
                    row |= measure(drawing, found, **networks)
                    row |= {"constraints": {term.name: term.weight for term in terms}}
                    done = progress.finish(stem, [row | _write(out, stem, drawing, found, str(model))])
                rows += done
                write_json(out / "results.json", rows)
    print_table(lambda: check_all_done(bad, rows, len(sketches), "sketches") or rows, ("constraints", "latents"))


def _weights(text: str | None) -> dict[str, float] | None:
    """``colour=1,edge=0.2`` as a dict; None, the weights that suit the sketch, stays."""
    try:
        pairs = None if text is None else [part.split("=") for part in text.split(",")]
        return pairs and {name.strip(): float(weight) for name, weight in pairs}
    except ValueError:
        raise ValueError(f"--constraints must be NAME=WEIGHT with commas between; got {text!r}.") from None


def _critic(model: str, device, weights: dict | None):
    """The model's discriminator, if a weight asks for it; by default None where the model has none."""
    if weights is not None and not weights.get("realism", 0) > 0:
        return None
    try:
        return generators.load_discriminator(model, device)
    except generators.NoDiscriminator as error:
        if weights is not None:
            raise
        typer.echo(f"{error} Realism is left out.", err=True)
        return None


def _write(out: Path, stem: str, drawing: Sketch, found: Candidates, model: str) -> dict[str, str]:
    """Write the files of a search; their names for its row."""
    write_image(out / f"{stem}-best.png", found.images[:1])
    save_latents(out / f"{stem}.safetensors", found.latents, model=model)
    captions = ["", *(f"loss {v:.3f}{' ✓' * met}" for v, met in zip(found.total.tolist(), found.met, strict=True))]
    titles = ["sketch", *map(str, range(1, len(captions)))]
    images, scale = [drawing.on_paper().to(found.images), *found.images.split(1)], 2 * 64 / drawing.image.shape[-1]
    sheet = show_images(images, titles, columns=min(9, len(titles)), captions=captions, scale=scale)
    save_figure(sheet, out / f"{stem}-candidates.png")
    return {"image": f"{stem}-best.png", "latents": f"{stem}.safetensors"}


@torch.no_grad()
def measure(drawing: Sketch, found: Candidates, discriminator, features) -> dict:
    """Measures of one search; the L1 and the score are of the best candidate, by the loss."""
    best, image, mask = found.images[:1], drawing.image.to(found.images), drawing.mask.to(found.images)
    row = {"starts": len(found.images), "steps": found.steps, "seconds": round(found.seconds, 2), **marks(found)}
    row["masked_l1"] = round(lp_loss(best, image, 1, mask).item(), 4)
    if "edge" in found.parts:
        row["edge"] = round(found.parts["edge"][0].item(), 4)
    if discriminator is not None:
        row["realism"] = round(discriminator(best, group_size=1).item(), 3)
    row["met"] = int(found.met.sum())
    if len(found.images) > 1:
        row["diversity"] = round(diversity(features, found.images), 4)
    return row | {"losses": {name: round(values[0].item(), 5) for name, values in found.parts.items()}}
