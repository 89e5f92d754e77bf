"""Generators of all families behind one interface, and how they are loaded."""

import importlib
import os
import warnings
from pathlib import Path

import torch
from torch import nn

from helpers.device import keep_freed_memory
from helpers.generators.base import Generator, enlarged  # noqa: F401  (part of the interface)
from helpers.generators.checkpoints import NoDiscriminator, Part, read_checkpoint
from helpers.generators.stylegan2 import StyleGAN2, fir_kernel  # noqa: F401
from helpers.photos import has_ears
from helpers.weights import WeightsError, registry, save_weights, weights_path

FAMILIES = {  # where the networks are; a module is imported with the first checkpoint of its family
    ("stylegan2", "generator"): ("stylegan2", "StyleGAN2"),
    ("stylegan2", "discriminator"): ("discriminator", "Discriminator"),
    ("stylegan1", "generator"): ("stylegan1", "StyleGAN1"),
    ("dcgan", "generator"): ("dcgan", "DCGAN"),
    ("dcgan", "discriminator"): ("dcgan", "DCGANDiscriminator"),
}
BUNDLED = "stylegan2-cats-128"
DEFAULT = os.environ.get("COURSE_MODEL") or BUNDLED  # "stylegan2-cats-64" is four times as fast
LARGE = 256  # pixels, from which on the memory of activations is worth keeping
NOISE_SEED = 0  # for fixed noise maps that a checkpoint lacks


def load_generator(name_or_path: str | Path = DEFAULT, device: torch.device | str | None = None) -> Generator:
    """A frozen generator of a registered name or a file of any format in docs/models.md. No code in the file is run.

    "NAME@3" is class 3 of a conditional generator; ``set_label`` changes it. Raises WeightsError for any other file.
    """
    name_or_path, label = _split_label(name_or_path)
    path = checkpoint_path(name_or_path)
    generator = _generator(path, str(name_or_path))
    base, its_label = _split_label(generator.base or str(name_or_path))
    label = its_label if label is None else label
    if generator.c_dim or label is not None:
        generator.set_label(label)
    generator.name, generator.base, generator.path = path.stem, Path(base).stem, path
    entry = registry().get(str(base), {})
    generator.domain, generator.landmarks = entry.get("domain", ""), entry.get("landmarks")
    if generator.resolution >= LARGE:
        keep_freed_memory()
    return generator.to(device or "cpu").eval().requires_grad_(False)


def vanilla(generator: Generator) -> Generator:
    """The bundled DCGAN whose faces lie where this generator's do, its images enlarged to the same size."""
    name = "dcgan-faces-64" if has_ears(generator.landmarks) else "dcgan-cats-64"
    return enlarged(load_generator(name, generator.device), generator.resolution)


def load_discriminator(name_or_path: str | Path = DEFAULT, device: torch.device | str | None = None) -> nn.Module:
    """The frozen discriminator trained with a generator: higher scores are more real. Raises NoDiscriminator."""
    name_or_path, label = _split_label(name_or_path)
    part = read_checkpoint(checkpoint_path(name_or_path), "discriminator")
    try:
        network = _build(str(name_or_path), "discriminator", part)
    except WeightsError as error:
        raise NoDiscriminator(f"{name_or_path} holds no discriminator that is read: {error}") from error
    network.label = label
    return network.to(device or "cpu").eval().requires_grad_(False)


def load_critic(name_or_path: str | Path = DEFAULT, device: torch.device | str | None = None) -> nn.Module:
    """The discriminator of a checkpoint, or with a warning the bundled one, as many files hold the generator alone."""
    try:
        return load_discriminator(name_or_path, device)
    except NoDiscriminator as error:
        name = DEFAULT if DEFAULT in registry() else BUNDLED
        warnings.warn(f"{error} Images are judged by that of {name}, which only knows cats.", stacklevel=2)
        return load_discriminator(name, device)


def checkpoint_path(name_or_path: str | Path) -> Path:
    """The file of a registered name (a str without suffix that is not a file), or the path itself."""
    if isinstance(name_or_path, str) and not Path(name_or_path).suffix and not Path(name_or_path).is_file():
        return weights_path(name_or_path)
    return Path(name_or_path)


def _split_label(name_or_path: str | Path) -> tuple[str | Path, int | None]:
    """ "NAME@3" into NAME and 3."""
    name, at, number = str(name_or_path).rpartition("@")
    if at and number.isdecimal() and not Path(name_or_path).exists():
        return name, int(number)
    return name_or_path, None


def _generator(path: Path, name: str) -> Generator:
    """Our generator with the weights of a file; what it lacks of the statistics of w is measured, or by set_label."""
    part = read_checkpoint(path)
    has_mean = "mapping.w_avg" in part.tensors
    generator = _build(name, "generator", part)
    generator.has_mean, generator.name, generator.format = has_mean, name, part.format
    generator.base = part.base
    if part.w_std is not None and tuple(part.w_std.shape) == (generator.w_dim,):
        generator.w_std = part.w_std
    elif not generator.c_dim:
        generator.compute_statistics(keep_mean=has_mean)
    return generator


def convert_checkpoint(path: str | Path, out: str | Path, half: bool = False) -> Path:
    """Write generator and any discriminator as safetensors, ``half`` in float16. WeightsError if out is path."""
    if Path(path).resolve() == Path(out).resolve():
        raise WeightsError(f"{path} is safetensors already; name another file to write with --out.")
    generator = _generator(Path(path), str(path))
    networks, tensors = {"generator": generator}, {}
    try:
        networks["discriminator"] = load_discriminator(Path(path))
    except NoDiscriminator as error:
        warnings.warn(f"{error} Only the generator is written.", stacklevel=2)
    if "w" in generator.spaces and not generator.c_dim:
        tensors["statistics.w_std"] = generator.w_std
    for kind, network in networks.items():
        tensors |= {f"{kind}.{name}": value for name, value in network.state_dict().items()}
    config = {"family": generator.family, "source": generator.format}
    config |= {kind: network.config for kind, network in networks.items()}
    return save_weights(out, tensors, config, torch.float16 if half else torch.float32)


def _build(name: str, kind: str, part: Part) -> nn.Module:
    """Our network with the tensors of a part, checked by name and shape; missing filters, noise and w_avg are added."""
    if (part.family, kind) not in FAMILIES:
        known = ", ".join(family for family, other in FAMILIES if other == kind)
        raise WeightsError(f"{name} holds no {kind} of a known family ({known}); choose another file.")
    module, network = FAMILIES[part.family, kind]
    network = getattr(importlib.import_module(f"{__name__}.{module}"), network)
    try:
        with torch.device("meta"):
            built = network(**part.config)
        tensors, random = part.tensors, torch.Generator().manual_seed(NOISE_SEED)
        for key, value in built.state_dict().items():
            if key not in tensors and key.endswith("noise_const"):
                tensors[key] = torch.randn(value.shape, generator=random)
            elif key not in tensors and key.endswith("resample_filter"):
                tensors[key] = fir_kernel()
            elif key not in tensors and key == "mapping.w_avg":
                tensors[key] = torch.zeros(value.shape)
            if key not in tensors:
                raise WeightsError(f"{key} is missing.")
            if tensors[key].shape != value.shape:
                raise WeightsError(f"{key} has the shape {(*tensors[key].shape,)} instead of {(*value.shape,)}.")
            tensors[key] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).copy_(tensors[key])
        if extra := sorted(set(tensors) - set(built.state_dict())):
            raise WeightsError(f"{extra[0][:80]} is not part of it.")
        built.load_state_dict(tensors, assign=True)
    except (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{name} does not fit the {kind} that its config describes: {reason}") from error
    return built
