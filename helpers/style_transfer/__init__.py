"""Style transfer by optimisation of pixels (Gatys et al., CVPR 2016): reconstruction, texture and both together."""

# ruff: noqa: F401
from helpers.style_transfer.criterion import COLOURS, CONTENT_LAYERS, STYLE_LAYERS, StyleOptions, check_weights
from helpers.style_transfer.statistics import StyleError
from helpers.style_transfer.transfer import StyleTransfer, stylize
