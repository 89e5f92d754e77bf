"""Command of state files: what a panel saved, as images; and the function that writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from helpers.commands.common import Device, Out, app, device_of


@app.command()
def state(
    file: Annotated[Path, typer.Argument(help="State (.safetensors) that a panel saved, or latents.")],
    out: Out,
    model: Annotated[str | None, typer.Option(help="Generator of the latents; by default the one in the file.")] = None,
    device: Device = None,
) -> None:
    """Write what a state file holds: the image of its latents, saved images, masks, settings."""
    for path in state_files(file, out, model, device_of(device)):
        typer.echo(path)


@torch.no_grad()
def state_files(file: str | Path, out: str | Path, model: str | None = None, device="cpu") -> list[Path]:
    """Write ``latents.png``, drawn again, a PNG for each image and mask, and ``settings.json``; returns the paths.

    Raises StateError for a file without a state, CheckpointError for a model that is missing.
    """
    from PIL import Image

    from helpers.files import atomic_path, write_json
    from helpers.generators import load_generator
    from helpers.images import grid, write_image
    from helpers.states import load_state

    out, paths = Path(out), []
    found, metadata = load_state(file)
    name = model or metadata.get("model")
    for key, image in found.pictures.items():
        paths.append(out / f"{key}.png")
        if image.dtype == torch.uint8:  # a drawing with its transparent paper
            with atomic_path(paths[-1]) as temporary:
                Image.fromarray(image.numpy()).save(temporary, "PNG")
        else:
            write_image(paths[-1], grid(image.expand(-1, 3, -1, -1), padding=1) if len(image) > 1 else image)
    write_json(out / "settings.json", {"metadata": metadata, "settings": found.settings})
    paths.append(out / "settings.json")
    if found.latents is not None:
        if not name:
            raise ValueError(f"{file} does not name the generator of its latents; give --model.")
        generator = load_generator(name, device)
        images = generator.synthesize(found.latents.to(generator.device)).clamp(0, 1)
        write_image(out / "latents.png", grid(images, padding=1) if len(images) > 1 else images)
        paths.append(out / "latents.png")
    return paths
