"""Generators of all families behind one interface, and how they are loaded."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.device import keep_freed_memory
from helpers.generators.base import Generator, GeneratorError, enlarged
from helpers.generators.checkpoints import Checkpoint, Part, read_checkpoint
from helpers.generators.dcgan import DCGAN, DCGANDiscriminator
from helpers.generators.discriminator import Discriminator
from helpers.generators.stylegan1 import StyleGAN1
from helpers.generators.stylegan2 import StyleGAN2, fir_kernel
from helpers.weights import WeightsError, registry, save_weights, weights_path

FAMILIES = {
    "stylegan2": (StyleGAN2, Discriminator),
    "stylegan1": (StyleGAN1, None),
    "dcgan": (DCGAN, DCGANDiscriminator),
}
DEFAULT = "stylegan2-cats-64"
LARGE = 256  # pixels, from which the memory of activations is worth keeping
NOISE_SEED = 0  # of fixed noise maps where a checkpoint has none

__all__ = [
    "DCGAN",
    "DEFAULT",
    "Generator",
    "GeneratorError",
    "LARGE",
    "NoDiscriminator",
    "StyleGAN1",
    "StyleGAN2",
    "build_generator",
    "checkpoint_path",
    "convert_checkpoint",
    "enlarged",
    "load_critic",
    "load_discriminator",
    "load_generator",
]


class NoDiscriminator(WeightsError):
    """A checkpoint without a discriminator, or with one of a kind that is not read."""


def load_generator(
    name_or_path: str | Path = DEFAULT, device: torch.device | str | None = None, label: int | None = None
) -> Generator:
    """Load a generator of any known format, in evaluation mode with frozen weights. No code of the file is run.

    Args:
        name_or_path: a registered name (``python -m helpers weights list``) or a file: safetensors of this project,
            pickles of the official StyleGAN, StyleGAN2, StyleGAN2-ADA and StyleGAN3 releases (StyleGAN2 there),
            rosinality's .pt, the .pt conversion of StyleGAN, the course's vanilla .ckpt. "NAME@3" is label 3.
        device: where to put it; the CPU by default.
        label: the class of a conditional generator; it can be changed with ``set_label``.

    Raises:
        WeightsError: for a name or file that holds no such generator.
        GeneratorError: for a conditional generator without a label, or a label that does not exist.
    """
    name_or_path, label = _split_label(name_or_path, label)
    path = checkpoint_path(name_or_path)
    generator = build_generator(read_checkpoint(path), str(name_or_path))
    if generator.c_dim or label is not None:
        if label is None:
            raise GeneratorError(
                f"{name_or_path} knows {generator.c_dim} classes; choose one: {name_or_path}@0 to "
                f"{name_or_path}@{generator.c_dim - 1}."
            )
        generator.set_label(label)
    generator.name = path.stem
    generator.domain = registry().get(str(name_or_path), {}).get("domain", "")
    if generator.resolution >= LARGE:
        keep_freed_memory()
    return generator.to(device or "cpu").eval().requires_grad_(False)


def load_discriminator(
    name_or_path: str | Path = DEFAULT, device: torch.device | str | None = None, label: int | None = None
) -> nn.Module:
    """Load the discriminator that was trained with a generator; higher scores are more real.

    name_or_path: a registered name or file of this project, an official PyTorch pickle, an official TensorFlow pickle
        of StyleGAN2, or rosinality's .pt of a training. "NAME@3" judges pictures as those of class 3.
    label: the same as a number.
    Raises NoDiscriminator, which is a WeightsError, for a file that holds none.
    """
    name_or_path, label = _split_label(name_or_path, label)
    checkpoint = read_checkpoint(checkpoint_path(name_or_path))
    if checkpoint.read_discriminator is None:
        raise NoDiscriminator(f"{name_or_path} holds no discriminator; choose another file.")
    try:
        part = _with_filters(checkpoint.read_discriminator())
    except WeightsError as error:
        raise NoDiscriminator(f"{name_or_path} holds no discriminator that is read: {error}") from error
    network = _build(str(name_or_path), checkpoint.family, "discriminator", part)
    network.label = label
    return network.to(device or "cpu").eval().requires_grad_(False)


class Resized(nn.Module):
    """A discriminator that sees pictures (B, 3, H, W) of any size at its own, (B, 3, size, size)."""

    def __init__(self, inner: nn.Module, size: int):
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, images: Tensor, *args, **options) -> Tensor:
        size = (self.size, self.size)
        images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return self.inner(images, *args, **options)


def load_critic(name_or_path: str | Path = DEFAULT, device: torch.device | str | None = None) -> nn.Module:
    """The discriminator of a checkpoint as a judge of pictures, or a stand-in where it has none, with a warning.

    Many published files hold the generator alone. The stand-in is the bundled one, which knows cats, on pictures
    resized to its 64 pixels. Raises WeightsError for a file that is not read.
    """
    try:
        return load_discriminator(name_or_path, device)
    except NoDiscriminator as error:
        warnings.warn(f"{error} Pictures are judged by that of {DEFAULT}, which knows cats alone.", stacklevel=2)
        return Resized(load_discriminator(DEFAULT, device), registry()[DEFAULT]["resolution"])


def checkpoint_path(name_or_path: str | Path) -> Path:
    """The file of a registered name (a str without suffix, and no file), or the path itself."""
    if isinstance(name_or_path, str) and not Path(name_or_path).suffix and not Path(name_or_path).is_file():
        return weights_path(name_or_path)
    return Path(name_or_path)


def _split_label(name_or_path: str | Path, label: int | None) -> tuple[str | Path, int | None]:
    """ "NAME@3" into NAME and 3; an own argument wins."""
    if isinstance(name_or_path, str) and not Path(name_or_path).exists():
        name, at, number = name_or_path.rpartition("@")
        if at and number.isdecimal():
            return name, int(number) if label is None else label
    return name_or_path, label


def build_generator(checkpoint: Checkpoint, name: str) -> Generator:
    """Our generator with the weights of a checkpoint, and what its format lacks.

    Noise maps that are not stored are drawn with a fixed seed. The mean of w is the stored one, else it is measured as
    its standard deviation is; of a generator with classes both wait for ``set_label``.
    """
    if checkpoint.generator is None:
        raise WeightsError(f"{name} holds no generator of a known family ({', '.join(FAMILIES)}); choose another file.")
    part = checkpoint.generator
    has_mean = "mapping.w_avg" in part.tensors
    if checkpoint.family in ("stylegan1", "stylegan2"):
        part = Part(part.config, _with_noise(part, checkpoint.family))
    generator = _build(name, checkpoint.family, "generator", part)
    generator.has_mean = has_mean
    if checkpoint.w_std is not None:
        generator.w_std = checkpoint.w_std
    elif not generator.c_dim:
        generator.compute_statistics(keep_mean=has_mean)
    return generator


def convert_checkpoint(path: str | Path, out: str | Path, half: bool = False) -> Path:
    """Write the generator of a checkpoint (and its discriminator, if it is read) as safetensors; returns ``out``.

    half: round to float16; without it the images are the same. Raises WeightsError for a file that is not read, or
    when ``out`` is the file itself.
    """
    if Path(path).resolve() == Path(out).resolve():
        raise WeightsError(f"{path} is safetensors already; name another file to write with --out.")
    checkpoint = read_checkpoint(path)
    generator = build_generator(checkpoint, str(path))
    tensors = {f"generator.{name}": value for name, value in generator.state_dict().items()}
    if "w" in generator.spaces and not generator.c_dim:
        tensors["statistics.w_std"] = generator.w_std
    config = {"family": generator.family, "generator": generator.config, "source": checkpoint.format}
    if checkpoint.read_discriminator is not None:
        try:
            part = _with_filters(checkpoint.read_discriminator())
            config["discriminator"] = part.config
            tensors |= {f"discriminator.{name}": value for name, value in part.tensors.items()}
        except WeightsError as error:
            warnings.warn(f"The discriminator of {path} is left out: {error}", stacklevel=2)
    return save_weights(out, tensors, config, torch.float16 if half else torch.float32)


def _with_noise(part: Part, family: str) -> dict[str, Tensor]:
    """The tensors with a map for every layer and a mean of w, as the network has them."""
    tensors, random = dict(part.tensors), torch.Generator().manual_seed(NOISE_SEED)
    for name in [n for n in part.tensors if n.endswith("noise_strength")]:
        size = int(name.split(".")[1].removeprefix("b"))
        tensors.setdefault(name.replace("strength", "const"), torch.randn(size, size, generator=random))
    if "w_dim" in part.config:
        tensors.setdefault("mapping.w_avg", torch.zeros(part.config["w_dim"]))
    for r in [n.split(".")[1] for n in part.tensors if n.endswith("conv1.weight")]:
        if family == "stylegan2":  # the low-pass filters, fixed ones, are not in all formats
            for layer in ("", "conv0.", "conv1.") if r != "b4" else ("", "conv1."):
                tensors.setdefault(f"synthesis.{r}.{layer}resample_filter", fir_kernel())
    return tensors


def _with_filters(part: Part) -> Part:
    """A StyleGAN2 discriminator with its low-pass filters, fixed ones, which are not in all formats."""
    tensors = dict(part.tensors)
    for name in [n for n in tensors if n.startswith("b") and n.endswith(("conv1.weight", "skip.weight"))]:
        tensors.setdefault(name.replace("weight", "resample_filter"), fir_kernel())
    return Part(part.config, tensors)


def _build(name: str, family: str, kind: str, part: Part) -> nn.Module:
    """Our network for a part, checked by name and shape before any memory is taken for it."""
    network = FAMILIES.get(family, (None, None))[kind == "discriminator"]
    if network is None:
        raise WeightsError(f"{name} holds no {kind} of a known family ({', '.join(FAMILIES)}); choose another file.")
    try:
        with torch.device("meta"):
            expected = {k: tuple(v.shape) for k, v in network(**part.config).state_dict().items()}
        _compare(expected, {k: tuple(v.shape) for k, v in part.tensors.items()})
        with torch.random.fork_rng(devices=[]):
            built = network(**part.config)
        built.load_state_dict(part.tensors)
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{name} does not fit the {kind} that its config describes: {reason}") from error
    return built


def _compare(expected: dict[str, tuple], found: dict[str, tuple]) -> None:
    """WeightsError that names the first tensor that is missing, too many or of another shape."""
    for name, shape in expected.items():
        if name not in found:
            raise WeightsError(f"{name} is missing.")
        if found[name] != shape:
            raise WeightsError(f"{name} has the shape {found[name]} in place of {shape}.")
    extra = next((name for name in found if name not in expected), None)
    if extra is not None:
        raise WeightsError(f"{extra[:80]} has no place in it.")
