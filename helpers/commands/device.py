"""The command device: what runs here, and which ways of computing were found to be the fastest."""

from typing import Annotated

import torch
import typer

from helpers import convolution, features, trials
from helpers.commands.common import DEVICE, app, device_of
from helpers.device import describe_device
from helpers.figures import results_table


@app.command()
def device(
    name: Annotated[str | None, typer.Option("--device", help=DEVICE)] = None,
    choose: Annotated[list[str] | None, typer.Option(help="KIND=WAY of the table, KIND= for the fastest.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Try again, for instance when the machine is quiet.")] = False,
) -> None:
    """Show the device, and which ways of computing were found to be the fastest on it; choose others."""
    where = device_of(name)
    kinds = trials.known(where)
    if fresh:
        kinds.clear()
    for width in (16, 64):  # of vgg19-slim, and of vgg19
        features.fastest_way(where, width)
    for channels in convolution.TRIED if where.type == "cpu" else ():
        convolution.chosen(channels, torch.get_num_threads())
    for text in choose or ():
        kind, _, way = text.partition("=")
        if kind not in kinds or way not in ("", *kinds[kind]["ms"]):
            raise ValueError(f"--choose takes KIND=WAY with a kind and a way of the table; got {text!r}.")
        kinds[kind]["chosen"] = way
        trials.keep()
    taken = {kind: trials.fastest(kind, where, dict) for kind in kinds}
    rows = [
        {"kind": kind, "way": way, "ms": ms, "taken": "yes" if way == taken[kind] else ""}
        for kind, found in kinds.items()
        for way, ms in found["ms"].items()
    ]
    typer.echo(f"{describe_device(where)}\n{trials.machine(where)}\n\n{results_table(rows)}\n\nKept in {trials.FILE}")
