"""How much memory an optimisation step needs, known before it is run."""

from __future__ import annotations

import torch
from torch import Tensor

from .device import free_memory
from .generators import Generator
from .latents import Latents

OVERHEAD = 1.6  # of the activations: buffers and gradients under way; 4.4 GB then, where 4.3 GB were measured at 1024²
FIXED = 0.15  # GB, which torch takes on the way whatever the network
FEATURES = 90  # bytes per value of an image: vgg19-slim keeps 2 x 16 channels, a quarter of 2 x 32, a 16th of 4 x 64
SMALL = 128  # pixels; up to here everything fits, and is not worth seconds of counting


class NotEnoughMemory(ValueError):
    """A run that will not fit; the message says what makes it smaller."""


def step_memory(generator: Generator, space: str = "w+", batch: int = 1, noise: bool = False) -> float:
    """Memory in GB (2^30 bytes) that one step of an optimisation of latents takes, about.

    Weights, what autograd keeps of a forward pass, gradients and Adam's two moments. Nothing is computed: the pass runs
    on tensors without data, so that the generator's ``dtype`` and ``checkpointing`` count as they will.

    batch: problems that run together. noise: the noise maps are optimised as well.
    """
    weights = sum(p.numel() * p.element_size() for p in generator.parameters())
    with torch.device("meta"):
        twin = type(generator)(**generator.config).eval().requires_grad_(False)
    for name in ("dtype", "checkpointing"):
        if hasattr(generator, name):
            setattr(twin, name, getattr(generator, name))
    kept: dict[int, Tensor] = {}
    own = {p.untyped_storage()._cdata for p in [*twin.parameters(), *twin.buffers()]}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    code = torch.empty(batch, *generator.code_shape(space), device="meta", requires_grad=True)
    maps = [torch.empty(batch, 1, *s, device="meta", requires_grad=noise) for s in generator.noise_shapes] or None
    if twin.c_dim:
        twin.label = 0
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        images = twin.synthesize(Latents(space, code, maps))
    activations = sum(t.untyped_storage().nbytes() for t in kept.values())
    if getattr(twin, "checkpointing", False):
        activations += _largest_block(twin, code, maps, space)
    parameters = [code, *(maps or [] if noise else [])]
    state = 4 * sum(t.numel() * t.element_size() for t in parameters)  # value, gradient and two moments
    return FIXED + (weights + OVERHEAD * activations + FEATURES * images.numel() + state) / 2**30


def _largest_block(twin: Generator, code: Tensor, maps: list[Tensor] | None, space: str) -> int:
    """Bytes of the activations that come back at once for the backward pass: those of the last resolution."""
    twin.checkpointing, sizes = False, []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 4 and tensor.shape[-1] >= twin.resolution:
            sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        twin.synthesize(Latents(space, code, maps))
    return sum(sizes)


def check_memory(generator: Generator, space: str = "w+", batch: int = 1, noise: bool = False) -> None:
    """Raise NotEnoughMemory, one sentence, unless a run fits into what is free on the generator's device."""
    if generator.resolution <= SMALL:
        return
    needed, free = step_memory(generator, space, batch, noise), free_memory(generator.device)
    if needed <= free:
        return
    ways = []
    if getattr(generator, "dtype", None) == torch.float32:
        ways.append("--precision bf16")
    if getattr(generator, "checkpointing", None) is False:
        ways.append("--checkpointing")
    ways += ["a smaller --batch"] if batch > 1 else []
    problems = f"{generator.resolution}² {space}" + (f" of {batch} photos at once" if batch > 1 else "")
    raise NotEnoughMemory(
        f"{problems} needs about {needed:.1f} GB, {free:.1f} GB are free: use {' or '.join(ways) or 'another machine'}."
    )
