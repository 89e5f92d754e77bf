"""The safetensors files of this project: tensors ``generator.…``, ``discriminator.…``, ``statistics.w_std``.

The metadata holds JSON under ``config``: ``family``, the arguments of ``generator`` and ``discriminator``, and facts.
"""

from __future__ import annotations

from pathlib import Path

from helpers.generators.checkpoints.layout import Checkpoint, Part
from helpers.generators.checkpoints.safe_pickle import CheckpointError
from helpers.weights import load_weights


def read(path: Path) -> Checkpoint:
    """Read both networks; see the module. Raises WeightsError."""
    tensors, config = load_weights(path)
    family = config.get("family") if isinstance(config, dict) else None

    def part(name: str) -> Part | None:
        if not isinstance(config.get(name), dict):
            return None
        return Part(
            config[name], {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        )

    if not isinstance(family, str):
        raise CheckpointError("it holds no generator of a known family.")
    generator, discriminator = part("generator"), part("discriminator")
    if generator and "statistics.w_std" not in tensors and not generator.config.get("c_dim"):
        generator.tensors.pop("mapping.w_avg", None)  # as training left it: both are measured
    return Checkpoint(
        format="safetensors of this project",
        family=family,
        generator=generator,
        read_discriminator=(lambda: discriminator) if discriminator else None,
        w_std=tensors.get("statistics.w_std"),
    )
