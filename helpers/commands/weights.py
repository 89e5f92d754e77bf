"""Commands of weights: list, verify, add."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import weights_app


@weights_app.command("list")
def weights_list() -> None:
    """Known weights with size and state."""
    from ..figures import results_table
    from ..weights import FOLDER, registry

    rows = [
        {"name": name, "kind": entry["kind"], "MB": entry["size"] / 1e6, "here": (FOLDER / entry["file"]).is_file()}
        | {"summary": entry["summary"]}
        for name, entry in registry().items()
    ]
    typer.echo(results_table(rows))


@weights_app.command("verify")
def weights_verify() -> None:
    """Check every bundled file against the registry."""
    from ..weights import registry, weights_path

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

    from ..images import atomic_path
    from ..weights import FOLDER, load_weights, register

    load_weights(file)
    with atomic_path(FOLDER / f"{name}.safetensors") as temporary:
        shutil.copyfile(file, temporary)
    register(name, FOLDER / f"{name}.safetensors", kind=kind, summary=summary)
