"""The vanilla generator of the CMU 16-726 starter (``DCGenerator``): ``torch.save`` of its state dict, a ``.ckpt``.

Names: ``up_conv1.0.weight`` (first convolution, 4x4), ``up_conv2.1.weight`` … ``up_conv5.1.weight`` (behind an
up-sampling); instance norms have no parameters, biases are only in the last layer. The shapes say the widths. The same
course's ``stylegan.ckpt`` is an official pickle.
"""

from __future__ import annotations

from helpers.generators.checkpoints.layout import Checkpoint, Part, flatten, shape_of, to_tensor
from helpers.generators.checkpoints.safe_pickle import CheckpointError


def matches(root) -> bool:
    return isinstance(root, dict) and "up_conv1.0.weight" in flatten(root, 0)


def read(root: dict) -> Checkpoint:
    """Read the generator; see the module. Raises CheckpointError."""
    state = flatten(root, 0)
    first_width, z_dim = shape_of(state, "up_conv1.0.weight", 4)[:2]
    conv_dim = shape_of(state, "up_conv5.1.weight", 4)[1]
    if not conv_dim or first_width % conv_dim:
        raise CheckpointError(f"its layers have {first_width} and {conv_dim} channels, which are no multiples.")
    config = {"z_dim": z_dim, "conv_dim": conv_dim, "first_multiplier": first_width // conv_dim}
    tensors = {name: to_tensor(value) for name, value in state.items()}
    return Checkpoint("CMU 16-726 vanilla checkpoint", "dcgan", Part(config, tensors))
