"""Command of sketch to image, and the functions that write its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from helpers import features as feature_networks
from helpers import generators
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
    """Find images that follow a sketch; write all candidates, the best, their latents and results.json."""
    weights = None
    if constraints is not None:
        try:
            pairs = (part.split("=") for part in constraints.split(","))
            weights = {name.strip(): float(weight) for name, weight in pairs}
        except ValueError:
            raise ValueError(f"--constraints must be NAME=WEIGHT with commas between; got {constraints!r}.") from None
    rows = partial(sketch_files, sketches, out, model, weights, options, mask=mask, device=device_of(device), log=log)
    print_table(rows, ("constraints", "latents"))


def sketch_files(
    sketches: Sequence[str | Path],
    out: str | Path,
    model: str = generators.DEFAULT,
    weights: dict[str, float] | None = None,
    options: SketchOptions | None = None,
    *,
    mask: str | Path | None = None,
    device: str | torch.device = "cpu",
    log: str = "none",
) -> list[dict]:
    """Search for each sketch; write a sheet of its candidates, the best image, the latents and ``results.json``.

    After a stop or a kill the same call continues where it was. The weights of the constraints are by default those
    that suit the sketch (``default_weights``).

    Returns one row per sketch: how well the best candidate follows it (masked L1, edge distance), how real the
    discriminator finds it, how many candidates met the constraints, how much they differ, and seconds. Raises RunError
    when sketches could not be used, after all others are done; it names each with its reason.
    """
    sketches = photo_files(sketches)
    out, generator, features = (
        Path(out),
        generators.load_generator(model, device),
        feature_networks.load_features(device=device),
    )
    options = options or SketchOptions()
    options = replace(options, space=space_of(generator, options.space))
    networks = {"discriminator": _critic(model, device, weights), "features": features}
    rows, bad, stems = [], [], unique_stems(sketches)
    settings = {field.name: getattr(options, field.name) for field in fields(options) if field.metadata}
    settings |= {"command": "sketch", "model": str(model), "weights": weights, "device": str(device)}
    with Progress(out, settings, [*sketches, *([mask] if mask else [])], log) as progress:
        for path, stem in zip(sketches, stems, strict=True):
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
    check_all_done(bad, rows, len(sketches), "sketches")
    return rows


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
