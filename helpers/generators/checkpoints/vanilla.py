"""The vanilla GAN of the CMU 16-726 starters: ``torch.save`` of a state dict of ``DCGenerator``, a ``.ckpt``.

The shapes say the widths. The discriminator, ``conv1`` … ``conv5``, and the ``generator.`` of a wrapper are read too.
"""

from __future__ import annotations

from helpers.generators.checkpoints.layout import Contents, shape_of, to_tensor
from helpers.generators.checkpoints.own import CheckpointError, Part

FORMAT = "CMU 16-726 vanilla checkpoint"
LAYOUTS = {  # first weight: layout, the axes of a weight's (out, in), last weight
    "deconv1.0.weight": ("transposed", (1, 0), "deconv5.0.weight"),
    "up_conv1.0.weight": ("upsampled", (0, 1), "up_conv5.1.weight"),
}


def matches(contents: Contents) -> bool:
    return any(contents.network(first) for first in LAYOUTS)


def generator(contents: Contents) -> Part:
    first = next(name for name in LAYOUTS if contents.network(name))
    layout, (out, into), last = LAYOUTS[first]
    state, layer = contents.network(first).tensors, first.split(".")[0]
    shape = shape_of(state, first, 4)
    first_width, z_dim, conv_dim = shape[out], shape[into], shape_of(state, last, 4)[into]
    if not conv_dim or first_width % conv_dim:
        raise CheckpointError(f"its layers have {first_width} and {conv_dim} channels, which are not multiples.")
    config = {"z_dim": z_dim, "conv_dim": conv_dim, "first_multiplier": first_width // conv_dim}
    return _part(config | ({"layout": layout} if layout == "transposed" else {}), state, layer)


def discriminator(contents: Contents) -> Part | None:
    found = contents.network("conv5.0.weight")
    if found is None:
        return None
    config = {"conv_dim": shape_of(found.tensors, "conv1.0.weight", 4)[0], "norm": "instance"}
    return _part(config | {"bias": "conv5.0.bias" in found.tensors}, found.tensors, "conv1")


def _part(config: dict, state: dict, layer: str) -> Part:
    """All layers of the kind of one, without its number."""
    norm = {"norm": "batch"} if f"{layer}.1.running_mean" in state else {}
    tensors = {name: to_tensor(value) for name, value in state.items() if name.startswith(layer[:-1])}
    return Part("dcgan", config | norm, tensors)
