"""What all commands share: the applications, common options, and the reading of their text.

Options that are fields of a dataclass are made by ``with_options`` of options.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.options import whole64

MASK_RULE = "white is inside; in a partly transparent file, what is opaque"
# rich takes longer to import than all the rest
PLAIN = {"no_args_is_help": True, "rich_markup_mode": None, "context_settings": {"max_content_width": 110}}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, **PLAIN)
weights_app = typer.Typer(help="List, check and add weights.", **PLAIN)
data_app = typer.Typer(help="Style images: ours, and public-domain paintings.", **PLAIN)
app.add_typer(weights_app, name="weights")
app.add_typer(data_app, name="data")


@app.callback()
def _group() -> None:
    """Edit photos with GANs: inversion, noise, blending, sketches, style."""


Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the best there is.")]
Model = Annotated[str, typer.Option(help="Registered name or file of a generator.")]
Space = Annotated[str, typer.Option(help="Latent space: z, w or w+.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimisation steps.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", callback=whole64)]
Log = Annotated[str, typer.Option(help="Losses, images and settings in OUT/log: jsonl, tensorboard, wandb or none.")]
Data = Annotated[Path, typer.Option(help="Zip or folder of aligned face photos.")]


def print_table(run: Callable[[], list[dict]], hidden: Sequence[str] = ()) -> None:
    """Print the table of the rows a function returns; where some inputs went wrong, that of the others first."""
    from helpers.commands.runs import RunError, table

    try:
        rows = run()
    except RunError as error:
        if error.rows:
            typer.echo(table(error.rows, hidden))
        raise
    typer.echo(table(rows, hidden))


def device_of(name: str | None):
    from helpers.device import check_device, pick_device

    device = pick_device(name)
    check_device(device)
    return device


def layers_of(text: str) -> list[str | int]:
    return [int(name) if name.strip().isdigit() else name.strip() for name in text.split(",")]
