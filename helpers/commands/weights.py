"""Commands of weights: list, fetch, verify, convert."""

from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.common import weights_app


@weights_app.command("list")
def weights_list() -> None:
    """Known weights: what they show, size, licence, and whether they are here."""
    from helpers.figures import results_table
    from helpers.weights import FOLDER, registry

    rows = [
        {"name": name, "kind": entry["kind"], "pixels": entry.get("resolution", "")}
        | {"MB": round(entry["size"] / 1e6, 1) if "size" in entry else "?", "here": (FOLDER / entry["file"]).is_file()}
        | {"use": "restricted" if entry.get("restricted") else "free", "licence": entry.get("licence", "")}
        | {"summary": entry["summary"]}
        for name, entry in registry().items()
    ]
    typer.echo(results_table(rows))


@weights_app.command("fetch")
def weights_fetch(
    name: Annotated[str, typer.Argument(help="A name of `weights list`.")],
    pin: Annotated[bool, typer.Option(help="Enter the file's SHA-256 into the registry.")] = False,
) -> None:
    """Download weights; a download that breaks is tried again."""
    from helpers import weights

    path, entry = weights.weights_path(name), weights.registry()[name]
    restricted = ", its use is restricted" if entry.get("restricted") else ""
    typer.echo(f"{name}: {path}\nlicence: {entry.get('licence', 'unknown')}{restricted}")
    if "cite" in entry:
        typer.echo(f"cite: {entry['cite']}")
    if pin:
        typer.echo(f"pinned: {weights.pin(name)}")


@weights_app.command("verify")
def weights_verify() -> None:
    """Check every file that is here against the registry."""
    from helpers.weights import FOLDER, registry, weights_path

    for name, entry in registry().items():
        state = "is whole" if "sha256" in entry else "is here; its SHA-256 is not pinned"
        absent = entry.get("url") and not (FOLDER / entry["file"]).exists()
        typer.echo(f"{name}: not fetched" if absent else f"{name}: {weights_path(name)} {state}")


@weights_app.command("convert")
def weights_convert(
    file: Annotated[str, typer.Argument(help="A checkpoint of any known format, or a registered name.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; by default next to the file.")] = None,
    half: Annotated[bool, typer.Option(help="Round to float16: images differ in their last bits.")] = False,
) -> None:
    """Write a checkpoint as safetensors of this project: smaller, faster to load, and no pickle any more."""
    from helpers.generators import checkpoint_path, convert_checkpoint

    source = checkpoint_path(file)
    typer.echo(convert_checkpoint(source, out or source.with_suffix(".safetensors"), half=half))
