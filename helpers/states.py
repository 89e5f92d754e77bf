"""One file for everything that a session with a panel made: latents, drawings, images and settings."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from helpers.latents import MAX_HEADER, Latents, load_latents, save_latents, save_tensors
from helpers.weights import check_header

PREFIX = "state."  # before the names of images and drawings in the file


@dataclass
class State:
    """What a panel was set to and what it found."""

    latents: Latents | None = None
    images: dict[str, Tensor] = field(default_factory=dict)  # float (B, 3 or 1, H, W) in [0, 1], uint8 (H, W, 4)
    settings: dict = field(default_factory=dict)  # numbers, texts and lists of them by name, as JSON has them


def plain(settings: dict) -> dict:
    """The settings that JSON can hold; other values are left out, tuples become lists."""
    kept = {}
    for name, value in settings.items():
        try:
            kept[name] = json.loads(json.dumps(plain(value) if isinstance(value, dict) else value, allow_nan=False))
        except (TypeError, ValueError):
            continue
    return kept


def save_state(path: str | Path, state: State, **metadata: str) -> None:
    """Write a state, and metadata such as the model's name, as safetensors; ``load_latents`` reads its latents too."""
    extra = {PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in state.images.items()}
    metadata["settings"] = json.dumps(plain(state.settings))
    if state.latents is None:
        save_tensors(path, extra, metadata)
    else:
        save_latents(path, state.latents, extra=extra, **metadata)


def load_state(path: str | Path) -> tuple[State, dict[str, str]]:
    """The state and the other metadata of a file of ``save_state`` or ``save_latents``; ValueError for any other."""
    wanted = "expected a state that a panel saved (.safetensors), got"
    if Path(path).is_dir():  # for which safetensors says "No such device"
        raise ValueError(f"{wanted} the folder {path}; name a file.")
    try:
        check_header(path, MAX_HEADER)
        with safe_open(path, "pt") as file:
            metadata, names = dict(file.metadata() or {}), list(file.keys())
            images = {n.removeprefix(PREFIX): file.get_tensor(n) for n in names if n.startswith(PREFIX)}
        settings = json.loads(metadata.pop("settings", "{}"))
        latents = load_latents(path)[0] if "code" in names else None
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{wanted} {path}: {error}") from error
    if latents is None and not images or not isinstance(settings, dict):
        raise ValueError(f"{wanted} {path} without one.")
    metadata.pop("space", None)
    for name, image in images.items():
        if not re.fullmatch(r"[\w -]+(\.[\w -]+)*", name):  # it becomes a file name
            raise ValueError(f"expected an image's name of letters, digits, spaces, - and dots, got {name!r}.")
        is_drawing = image.dtype == torch.uint8 and image.ndim == 3 and image.shape[2] == 4
        is_image = image.is_floating_point() and image.ndim == 4 and image.shape[1] in (1, 3)
        if not (is_drawing or is_image) or 0 in image.shape:
            wanted = "(B, 3 or 1, H, W), or uint8 (H, W, 4) for a drawing"
            found = f"{image.dtype} {tuple(image.shape)}".removeprefix("torch.")
            raise ValueError(f"the image {name} of this state must be {wanted}; got {found}.")
        if not image.isfinite().all():
            raise ValueError(f"the image {name} of this state holds NaN or infinity; save it again.")
    return State(latents, images, settings), metadata
