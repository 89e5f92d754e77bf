"""Command of state files: what a panel saved, as images."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from helpers import generators
from helpers.commands.common import Device, Out, app, device_of
from helpers.files import atomic_path, write_json
from helpers.images import grid, write_image
from helpers.states import load_state


@app.command()
@torch.no_grad()
def state(
    file: Annotated[Path, typer.Argument(help="State (.safetensors) that a panel saved, or latents.")],
    out: Out,
    model: Annotated[str | None, typer.Option(help="Generator of the latents; by default the one in the file.")] = None,
    device: Device = None,
) -> None:
    """Write what a state file holds: the image of its latents, saved images, masks, settings."""
    found, metadata = load_state(file)
    paths = [out / f"{name}.png" for name in found.images] + [out / "settings.json"]
    for path, image in zip(paths, found.images.values(), strict=False):
        if image.dtype == torch.uint8:  # a drawing with its transparent paper
            with atomic_path(path) as temporary:
                Image.fromarray(image.numpy()).save(temporary, "PNG")
        else:
            write_image(path, grid(image.expand(-1, 3, -1, -1), padding=1) if len(image) > 1 else image)
    write_json(paths[-1], {"metadata": metadata, "settings": found.settings})
    if found.latents is not None:
        name = model or metadata.get("model")
        if not name:
            raise ValueError(f"{file} does not name the generator of its latents; give --model.")
        generator = generators.load_generator(name, device_of(device))
        paths.append(out / "latents.png")
        write_image(paths[-1], grid(generator.synthesize(found.latents.to(generator.device)).clamp(0, 1), padding=1))
    typer.echo("\n".join(map(str, paths)))
