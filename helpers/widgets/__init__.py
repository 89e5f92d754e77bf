"""Panels for the lessons: thin, over plain functions that run without them."""

from .canvas import CoreCanvas, drawing_canvas, photo_palette
from .interpolation import interpolation_slider
from .inversion import InversionPanel, inversion_panel
from .job import Job
from .pictures import loss_curve
from .upload import photo_upload

__all__ = [
    "CoreCanvas",
    "InversionPanel",
    "Job",
    "drawing_canvas",
    "interpolation_slider",
    "inversion_panel",
    "loss_curve",
    "photo_palette",
    "photo_upload",
]
