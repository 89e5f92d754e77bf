"""Our own style pictures: made by the script, the stored files are what it makes, they differ."""

import pytest
import torch

from helpers.images import ImageError, resize
from helpers.metrics import psnr
from helpers.styles import FOLDER, own_styles, paint


def test_there_are_at_least_four_and_all_are_stored():
    stored = own_styles(64)
    assert len(stored) >= 4 and {path.stem for path in FOLDER.glob("*.jpg")} == set(stored)
    flat = torch.cat(list(stored.values()))
    apart = (flat[:, None] - flat[None]).square().mean((2, 3, 4)) + torch.eye(len(flat))
    assert apart.min() > 0.01


@pytest.mark.parametrize("name", ["glass", "marble", "waves"])  # the others take seconds each
def test_a_stored_picture_is_what_the_script_paints(name):
    assert psnr(resize(paint(name, 100), 50), own_styles(50)[name]).item() > 20


def test_the_seed_decides():
    assert torch.equal(paint("glass", 48, seed=1), paint("glass", 48, seed=1))
    assert not torch.equal(paint("glass", 48, seed=1), paint("glass", 48, seed=2))


def test_unknown_styles_and_sizes_are_refused():
    with pytest.raises(ImageError, match="strokes, dots"):
        paint("oil")
    with pytest.raises(ImageError, match="at least 32"):
        paint("glass", 8)
