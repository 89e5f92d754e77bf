"""Our own style images: stored, distinct, and what the script in tools/ paints."""

import importlib.util
from pathlib import Path

import pytest
import torch

from helpers.images import ImageError, resize
from helpers.metrics import psnr
from helpers.styles import FOLDER, NAMES, own_styles

SPEC = importlib.util.spec_from_file_location("tool", Path(__file__).resolve().parents[2] / "tools" / "draw_styles.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def test_all_are_stored_and_differ():
    stored = own_styles(64)
    assert tuple(stored) == NAMES and {path.stem for path in FOLDER.glob("*.jpg")} == set(NAMES)
    flat = torch.cat(list(stored.values()))
    assert ((flat[:, None] - flat[None]).square().mean((2, 3, 4)) + torch.eye(len(flat))).min() > 0.01


@pytest.mark.parametrize("name", ["glass", "marble", "waves"])  # the others take seconds each
def test_a_stored_image_is_what_the_script_paints(name):
    assert psnr(resize(tool.paint(name, 100), 50), own_styles(50)[name]).item() > 20


def test_the_seed_decides_and_unknown_styles_and_sizes_are_refused():
    first, again, other = (tool.paint("glass", 32, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    for arguments, message in ((("oil",), "strokes, dots"), (("glass", 8), "at least 32")):
        with pytest.raises(ImageError, match=message):
            tool.paint(*arguments)
