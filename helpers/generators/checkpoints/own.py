"""The safetensors files of this project: tensors ``generator.…``, ``discriminator.…``, ``statistics.w_std``.

The metadata holds JSON under ``config``: ``family``, the arguments of ``generator`` and ``discriminator``, and facts.
"""

from __future__ import annotations

from pathlib import Path

from helpers.generators.checkpoints.layout import Checkpoint, Part
from helpers.generators.checkpoints.values import CheckpointError
from helpers.weights import load_weights


def read(path: Path) -> Checkpoint:
    """Read both networks; see the module. Raises WeightsError."""
    tensors, config = load_weights(path)
    family = config.get("family") if isinstance(config, dict) else None
    if not isinstance(family, str):
        raise CheckpointError("it holds no generator of a known family.")

    def part(name: str) -> Part | None:
        own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        return Part(family, config[name], own) if isinstance(config.get(name), dict) else None

    generator = part("generator")
    if generator and "statistics.w_std" not in tensors and not generator.config.get("c_dim"):
        generator.tensors.pop("mapping.w_avg", None)  # as training left it: both are measured
    return Checkpoint(
        "safetensors of this project", generator, part("discriminator"), w_std=tensors.get("statistics.w_std")
    )
