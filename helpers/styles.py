"""Our own style images, free of anybody's rights; `tools/draw_styles.py` paints them into data/styles/."""

from pathlib import Path

import torch

from helpers.images import read_image

FOLDER = Path(__file__).resolve().parent.parent / "data" / "styles"
NAMES = ("strokes", "dots", "glass", "waves", "marble", "hatching")


def own_styles(size: int | None = None) -> dict[str, torch.Tensor]:
    """The images in data/styles/ by name, (1, 3, H, W) in [0, 1], or their squares of that size."""
    return {name: read_image(FOLDER / f"{name}.jpg", size) for name in NAMES}
