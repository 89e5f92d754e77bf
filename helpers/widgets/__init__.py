"""Panels for the lessons: thin, over plain functions that run without them. How to build one: panel.py."""

from helpers.widgets.blending import BlendingPanel, blending_panel
from helpers.widgets.canvas import CoreCanvas, drawing_canvas, photo_palette
from helpers.widgets.interpolation import interpolation_slider, truncation_slider
from helpers.widgets.inversion import InversionPanel, inversion_panel
from helpers.widgets.job import Job
from helpers.widgets.noise import NoisePanel, noise_panel, noise_slider
from helpers.widgets.panel import RunBox, RunPanel
from helpers.widgets.parts import (
    BeforeAfter,
    Gallery,
    dropdown,
    float_slider,
    int_slider,
    log_slider,
    seed_box,
    settings_code,
)
from helpers.widgets.pictures import loss_curve
from helpers.widgets.style import StylePanel, style_panel
from helpers.widgets.upload import photo_upload

__all__ = [
    "BeforeAfter",
    "BlendingPanel",
    "CoreCanvas",
    "Gallery",
    "InversionPanel",
    "Job",
    "NoisePanel",
    "RunBox",
    "RunPanel",
    "StylePanel",
    "blending_panel",
    "drawing_canvas",
    "dropdown",
    "float_slider",
    "int_slider",
    "interpolation_slider",
    "inversion_panel",
    "log_slider",
    "loss_curve",
    "noise_panel",
    "noise_slider",
    "photo_palette",
    "photo_upload",
    "seed_box",
    "settings_code",
    "style_panel",
    "truncation_slider",
]
