"""Style transfer by optimisation of pixels (Gatys et al., CVPR 2016): reconstruction, texture and both together."""

from helpers.style_transfer.criterion import (
    COLOURS,
    CONTENT_LAYERS,
    PATCH_WEIGHT,
    STYLE_LAYERS,
    STYLE_WEIGHT,
    Layers,
    StyleCriterion,
    StyleError,
    StyleOptions,
    check_weights,
    total_variation,
)
from helpers.style_transfer.transfer import StyleTransfer, stylize

__all__ = [
    "COLOURS",
    "CONTENT_LAYERS",
    "PATCH_WEIGHT",
    "STYLE_LAYERS",
    "STYLE_WEIGHT",
    "Layers",
    "StyleCriterion",
    "StyleError",
    "StyleOptions",
    "StyleTransfer",
    "check_weights",
    "stylize",
    "total_variation",
]
