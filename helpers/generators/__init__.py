"""Generators of all families behind one interface, and how they are loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.weights import WeightsError, load_weights

from .base import Generator, GeneratorError
from .dcgan import DCGAN, DCGANDiscriminator
from .stylegan2 import Discriminator, StyleGAN2

FAMILIES = {"stylegan2": (StyleGAN2, Discriminator), "dcgan": (DCGAN, DCGANDiscriminator)}
DEFAULT = "stylegan2-cats-64"

__all__ = ["DCGAN", "DEFAULT", "Generator", "GeneratorError", "StyleGAN2", "load_discriminator", "load_generator"]


def load_generator(name_or_path: str | Path = DEFAULT, device: torch.device | str | None = None) -> Generator:
    """Load a generator in evaluation mode with frozen weights.

    Args:
        name_or_path: a registered name ("stylegan2-cats-64", "dcgan-cats-64"), a safetensors file that
            ``python -m helpers train`` exported, or a ``.pth``/``.pt`` state dict of the course's vanilla generator.
        device: where to put it; the CPU by default.

    Raises:
        WeightsError: for a name or file that holds no such generator.
    """
    path = Path(name_or_path)
    if path.suffix in (".pt", ".pth", ".pkl"):
        generator = _load_vanilla(path)
    else:
        tensors, config = load_weights(name_or_path)
        generator = _build(name_or_path, config, "generator", tensors)
        statistics = tensors.get("statistics.w_std")
        if statistics is not None:
            generator.w_std = statistics
        else:
            generator.compute_statistics()
    generator.name = path.stem
    return generator.to(device or "cpu").eval().requires_grad_(False)


def load_discriminator(name_or_path: str | Path = DEFAULT, device: torch.device | str | None = None) -> nn.Module:
    """Load the discriminator that was trained with a generator; higher scores are more real."""
    tensors, config = load_weights(name_or_path)
    return _build(name_or_path, config, "discriminator", tensors).to(device or "cpu").eval().requires_grad_(False)


def _build(name, config: dict, part: str, tensors: dict[str, Tensor]) -> nn.Module:
    if config.get("family") not in FAMILIES or part not in config:
        raise WeightsError(f"{name} holds no {part} of a known family ({', '.join(FAMILIES)}); choose another file.")
    state = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
    try:
        network = FAMILIES[config["family"]][part == "discriminator"](**config[part])
        network.load_state_dict(state)
    except (RuntimeError, TypeError, GeneratorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{name} does not fit the {part} that its config describes: {reason}") from error
    return network


def _load_vanilla(path: Path) -> DCGAN:
    """Read a state dict of the CMU 16-726 starter's ``DCGenerator`` (up_conv1 … up_conv5); shapes say the widths."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"there is no file {path}; check the path.") from error
    except Exception as error:  # torch.load raises nearly anything for a file that is none of its own
        raise WeightsError(
            f"{path} is damaged or holds more than tensors, so nothing in it was run; expected a state dict of the "
            "course's vanilla generator, saved with torch.save(generator.state_dict(), path)."
        ) from error
    try:
        first, last = state["up_conv1.0.weight"], state["up_conv5.1.weight"]
        multiplier = first.shape[0] // last.shape[1]
        generator = DCGAN(z_dim=first.shape[1], conv_dim=last.shape[1], first_multiplier=multiplier)
        generator.load_state_dict(state)
    except (KeyError, IndexError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(
            f"{path} is no state dict of the course's vanilla generator (up_conv1 to up_conv5): {reason}"
        ) from error
    return generator
