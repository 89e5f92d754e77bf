"""Local edits with masks: blend, fill, restyle, transfer (Abdal et al., Image2StyleGAN++, CVPR 2020)."""

# ruff: noqa: F401
from helpers.blending.blocks import copy_activations, embed, fit_noise
from helpers.blending.criterion import MaskedCriterion, Term, photo_terms
from helpers.blending.editor import WEIGHTS, Edit, EditOptions, Editor, feather_of, inpainting_rows, stroke_mask
from helpers.blending.measures import measure, region_psnr, seam, two_tone, worst_seam
from helpers.blending.pastes import hard_paste, join, poisson_blend, transition
