"""Panels for the lessons: thin, over plain functions that run without them."""

from .interpolation import interpolation_slider
from .inversion import InversionPanel, inversion_panel
from .job import Job
from .pictures import loss_curve
from .upload import photo_upload

__all__ = ["InversionPanel", "Job", "interpolation_slider", "inversion_panel", "loss_curve", "photo_upload"]
