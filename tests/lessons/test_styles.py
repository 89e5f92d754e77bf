"""Our own style images: stored, distinct, and what the script in tools/ paints."""

import importlib.util
from pathlib import Path

import pytest
import torch

from helpers.images import ImageError, resize
from helpers.metrics import psnr
from helpers.styles import FOLDER, NAMES, own_styles


@pytest.fixture(scope="module")
def tool():
    path = Path(__file__).resolve().parents[2] / "tools" / "draw_styles.py"
    spec = importlib.util.spec_from_file_location("draw_styles", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_are_stored_and_differ():
    stored = own_styles(64)
    assert tuple(stored) == NAMES and {path.stem for path in FOLDER.glob("*.jpg")} == set(NAMES)
    flat = torch.cat(list(stored.values()))
    apart = (flat[:, None] - flat[None]).square().mean((2, 3, 4)) + torch.eye(len(flat))
    assert apart.min() > 0.01


@pytest.mark.parametrize("name", ["glass", "marble", "waves"])  # the others take seconds each
def test_a_stored_image_is_what_the_script_paints(tool, name):
    assert psnr(resize(tool.paint(name, 100), 50), own_styles(50)[name]).item() > 20


def test_the_seed_decides(tool):
    assert torch.equal(tool.paint("glass", 48, seed=1), tool.paint("glass", 48, seed=1))
    assert not torch.equal(tool.paint("glass", 48, seed=1), tool.paint("glass", 48, seed=2))


def test_unknown_styles_and_sizes_are_refused(tool):
    with pytest.raises(ImageError, match="strokes, dots"):
        tool.paint("oil")
    with pytest.raises(ImageError, match="at least 32"):
        tool.paint("glass", 8)
