"""Command of sketch to image, and the functions that write its files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from helpers.commands.common import Device, Log, Model, Out, Seed, app, device_of, print_table


@app.command()
def sketch(
    sketches: Annotated[list[Path], typer.Argument(help="Square drawings with a transparent background.")],
    out: Out,
    model: Model = "stylegan2-cats-64",
    space: Annotated[str | None, typer.Option(help="z, w or w+; by default w where there is one.")] = None,
    starts: Annotated[int, typer.Option(min=1, help="Starts, each of which becomes a candidate.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Most optimisation steps.")] = 80,
    constraints: Annotated[
        str | None, typer.Option(help="NAME=WEIGHT,… of colour, edge, perceptual, realism, prior.")
    ] = None,
    start: Annotated[str, typer.Option(help="sample, best (of 128 samples) or encoder.")] = "best",
    mask: Annotated[Path | None, typer.Option(help="Image that is white where the sketches count.")] = None,
    lr: Annotated[float | None, typer.Option(help="Rate in standard deviations of the space.")] = None,
    seed: Seed = 0,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Find pictures that follow a sketch; write all candidates, the best, their latents and results.json."""
    options = {"starts": starts, "steps": steps, "start": start, "lr": lr, "seed": seed}
    options |= {"mask": mask, "device": device_of(device), "log": log}
    rows = partial(sketch_files, sketches, out, model, space, weights_of(constraints), **options)
    print_table(rows, ("constraints", "latents"))


def weights_of(text: str | None) -> dict[str, float] | None:
    """``colour=1,edge=0.2`` as a dict; None stays. Raises ValueError for anything else."""
    if text is None:
        return None
    try:
        return {name.strip(): float(weight) for name, weight in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise ValueError(f"--constraints must be NAME=WEIGHT with commas between, but {text!r} came.") from None


def sketch_files(
    sketches: Sequence[str | Path],
    out: str | Path,
    model: str = "stylegan2-cats-64",
    space: str | None = None,
    weights: dict[str, float] | None = None,
    *,
    mask: str | Path | None = None,
    device: str | torch.device = "cpu",
    log: str = "none",
    **options,
) -> list[dict]:
    """Search for each sketch; write a sheet of its candidates, the best picture, the latents and ``results.json``.

    After a stop or a kill the same call goes on where it was.

    Args:
        weights: of the constraints, by default those that suit the sketch (``default_weights``).
        log: see ``open_log``.
        options: of ``SketchSearch`` (starts, start, steps, lr, seed).

    Returns:
        One row per sketch: how well the best candidate follows it (masked L1, edge distance), how real the
        discriminator finds it, how many candidates met the constraints, how much they differ, and seconds.

    Raises:
        RunError: when sketches could not be used, after all others are done; it names each with its reason.
    """
    from helpers.commands.runs import RunError, unique_stems
    from helpers.features import load_features
    from helpers.figures import save_figure
    from helpers.files import write_json
    from helpers.generators import NoDiscriminator, load_discriminator, load_generator
    from helpers.images import ImageError, write_image
    from helpers.latents import save_latents
    from helpers.masks import MaskError
    from helpers.optimizers import OptimizationError
    from helpers.progress import Progress
    from helpers.sketch import SketchError, SketchSearch, default_weights, read_sketch, sketch_constraints

    out, generator, features = Path(out), load_generator(model, device), load_features(device=device)
    space = space or ("w" if "w" in generator.spaces else "z")
    wanted = weights is None or weights.get("realism", 0) > 0
    try:
        discriminator = load_discriminator(model, device) if wanted else None
    except NoDiscriminator as error:
        if weights is not None:
            raise
        discriminator = None
        typer.echo(f"{error} Realism is left out.", err=True)
    good, bad = [], []
    for path in map(Path, sketches):
        try:
            good.append((path, read_sketch(path, generator.resolution, mask)))
        except (SketchError, ImageError, MaskError) as error:
            bad.append(str(error))
    rows, stems = [], unique_stems(path for path, _ in good)
    settings = {"command": "sketch", "model": str(model), "space": space, "weights": weights, **options}
    files = [*sketches, *([mask] if mask else [])]
    with Progress(out, settings | {"device": str(device)}, files, log) as progress:
        for (path, drawing), stem in zip(good, stems, strict=True):
            done = progress.done(stem)
            if done is None:
                chosen = default_weights(drawing) if weights is None else weights
                if discriminator is None and weights is None:
                    chosen = {name: weight for name, weight in chosen.items() if name != "realism"}
                networks = {"discriminator": discriminator, "features": features}
                terms = sketch_constraints(drawing, generator, space, chosen, **networks)
                try:
                    found = progress.run(SketchSearch(generator, terms, space, sketch=drawing, **options), stem)
                except OptimizationError as error:
                    bad.append(f"{path}: {error}")
                    continue
                write_image(out / f"{stem}-best.png", found.images[:1])
                save_latents(out / f"{stem}.safetensors", found.latents, model=str(model))
                save_figure(candidate_sheet(drawing, found), out / f"{stem}-candidates.png")
                row = {"file": str(path), "model": str(model), "space": space}
                row |= measure(drawing, found, discriminator, features) | {"constraints": chosen}
                row |= {"image": f"{stem}-best.png", "latents": f"{stem}.safetensors"}
                done = progress.finish(stem, [row])
            rows += done
            write_json(out / "results.json", rows)
    if bad:
        raise RunError(f"{len(rows)} of {len(sketches)} sketches done; not these: " + " | ".join(bad), rows)
    return rows


def candidate_sheet(drawing, found):
    """The sketch and its candidates, the best first, each with its loss below; met ones are marked."""
    from helpers.figures import show_images

    captions = ["", *(f"loss {v:.3f}{' ✓' * met}" for v, met in zip(found.total.tolist(), found.met, strict=True))]
    titles = ["sketch", *(f"{i + 1}" for i in range(len(found.images)))]
    columns = min(9, len(titles))
    pictures = [drawing.on_paper().to(found.images), *found.images.split(1)]
    return show_images(pictures, titles, columns=columns, captions=captions, scale=2 * 64 / drawing.image.shape[-1])


@torch.no_grad()
def measure(drawing, found, discriminator, features) -> dict:
    """Figures of one search; the L1 and the score are of the best candidate, by the loss."""
    from helpers.losses import lp_loss
    from helpers.metrics import diversity
    from helpers.search import marks

    best, image, mask = found.images[:1], drawing.image.to(found.images), drawing.mask.to(found.images)
    row = {"starts": len(found.images), "steps": found.steps, "seconds": round(found.seconds, 2)}
    row |= marks(found)
    row["masked_l1"] = round(lp_loss(best, image, 1, mask).item(), 4)
    if "edge" in found.parts:
        row["edge"] = round(found.parts["edge"][0].item(), 4)
    if discriminator is not None:
        row["realism"] = round(discriminator(best, group_size=1).item(), 3)
    row["met"] = int(found.met.sum())
    if len(found.images) > 1:
        row["diversity"] = round(diversity(features, found.images), 4)
    row["losses"] = {name: round(values[0].item(), 5) for name, values in found.parts.items()}
    return row
