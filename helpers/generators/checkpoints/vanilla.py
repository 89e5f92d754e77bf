"""The vanilla GAN of the CMU 16-726 starters: ``torch.save`` of a state dict of ``DCGenerator``, a ``.ckpt``.

Two layouts. Transposed convolutions, kernel 4, without bias: ``deconv1.0.weight`` (z_dim, C, 4, 4), which makes 4x4 of
1x1, to ``deconv5.0.weight``, stride 2 and padding 1. Up-sampling and convolutions: ``up_conv1.0.weight``, 4x4,
``up_conv2.1.weight`` … ``up_conv5.1.weight``. Each layer but the last has an instance norm, which has no parameters, or
a batch norm (``deconv1.1.weight``, ``.bias``, ``.running_mean``, ``.running_var``). The shapes say the widths.

The discriminator, ``conv1.0.weight`` … ``conv5.0.weight``, and the ``generator.`` of a wrapper are read too. The same
course's ``stylegan.ckpt`` is an official pickle.
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
    state = contents.network(first).tensors
    shape = shape_of(state, first, 4)
    first_width, z_dim, conv_dim = shape[out], shape[into], shape_of(state, last, 4)[into]
    if not conv_dim or first_width % conv_dim:
        raise CheckpointError(f"its layers have {first_width} and {conv_dim} channels, which are not multiples.")
    config = {"z_dim": z_dim, "conv_dim": conv_dim, "first_multiplier": first_width // conv_dim}
    config |= {"layout": layout} if layout == "transposed" else {}
    name = first.split(".")[0]
    return Part("dcgan", config | _norm(state, name), _tensors(state, name[:-1]))


def discriminator(contents: Contents) -> Part | None:
    found = contents.network("conv5.0.weight")
    if found is None:
        return None
    state = found.tensors
    config = {"conv_dim": shape_of(state, "conv1.0.weight", 4)[0], "norm": "instance"} | _norm(state, "conv1")
    return Part("dcgan", config | {"bias": "conv5.0.bias" in state}, _tensors(state, "conv"))


def _norm(state: dict, layer: str) -> dict:
    return {"norm": "batch"} if f"{layer}.1.running_mean" in state else {}


def _tensors(state: dict, prefix: str) -> dict:
    return {name: to_tensor(value) for name, value in state.items() if name.startswith(prefix)}
