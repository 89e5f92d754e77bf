"""What all commands share: the applications and common options; those of a dataclass are made by ``with_options``."""

from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.options import whole64

MASK_RULE = "white is inside; in a partly transparent file, what is opaque"
# rich takes longer to import than all the rest
PLAIN = {"no_args_is_help": True, "rich_markup_mode": None, "context_settings": {"max_content_width": 110}}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, **PLAIN)
weights_app = typer.Typer(help="List, fetch, check and convert weights.", **PLAIN)
data_app = typer.Typer(help="Style images: ours, and public-domain paintings.", **PLAIN)
app.add_typer(weights_app, name="weights")
app.add_typer(data_app, name="data")

DEVICE = "cpu, cuda or mps; by default the best there is."
LOG = "Losses, images and settings in OUT/log: jsonl, tensorboard, wandb or none."
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Device = Annotated[str | None, typer.Option(help=DEVICE)]
Model = Annotated[str, typer.Option(help="Registered name or file of a generator.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", callback=whole64)]
Log = Annotated[str, typer.Option(help=LOG)]


@app.callback()
def _group() -> None:
    """Edit photos with GANs: inversion, noise, blending, sketches, style."""


def device_of(name: str | None):
    """The device of that name, or the best there is, checked; else ValueError."""
    from helpers.device import check_device, pick_device

    return check_device(pick_device(name))
