"""Sheets of style transfers as one batch, and films."""

import pytest
import torch

from helpers.style_transfer import StyleError, sheets, stylize
from tests.lessons.test_style_transfer import LAYERS, pictures
from tests.support import tiny

NETWORK, PHOTO, STYLE = tiny.Features(), pictures(), pictures(seed=1)
BOTH = ["conv1_1", "conv2_1"]


def same(image, *arguments, **options):
    """Whether an image of a sheet is what a single run gives."""
    return torch.allclose(image, stylize(NETWORK, *arguments, **options).images[0], atol=1e-3)


def test_a_sheet_of_reconstructions_is_its_single_runs():
    result = sheets.reconstructions(NETWORK, PHOTO, BOTH, seeds=(3, 4), steps=6)
    assert len(result.images) == 4
    for image, (layer, seed) in zip(result.images, [(layer, seed) for layer in BOTH for seed in (3, 4)], strict=True):
        assert same(image, PHOTO, content_layers=layer, init="noise", seed=seed, steps=6)


def test_a_sheet_of_textures_is_its_single_runs():
    styles, groups, blank = [STYLE, pictures(seed=2)], [BOTH[:1], BOTH], torch.zeros(1, 3, 20, 20)
    result = sheets.textures(NETWORK, styles, groups, size=20, seeds=(0, 1), steps=5)
    options = {"content_weight": 0.0, "style_weight": 1.0, "init": "noise", "steps": 5}
    for i, image in enumerate(result.images):
        assert same(image, blank, [styles[i // 4]], style_layers=groups[i // 2 % 2], seed=i % 2, **options)


def test_a_grid_of_layers_does_not_depend_on_its_batches():
    groups = [BOTH[:1], BOTH]
    whole, parts = (sheets.layer_grid(NETWORK, PHOTO, STYLE, BOTH, groups, batch=batch, steps=4) for batch in (4, 2))
    assert whole.shape == (2, 2, 3, 24, 24) and torch.allclose(whole, parts, atol=1e-3)
    assert same(whole[1, 0], PHOTO, [STYLE], content_layers="conv2_1", style_layers=groups[0], steps=4)


def test_a_grid_has_contents_in_rows_and_styles_in_columns():
    contents, styles = pictures(2), [pictures(seed=seed) for seed in (1, 2, 3)]
    images, result = sheets.transfer_grid(NETWORK, contents, styles, steps=4, **LAYERS)
    assert images.shape == (2, 3, 3, 24, 24) and len(result.images) == 6
    assert same(images[1, 2], contents[1:], [styles[2]], steps=4, **LAYERS)


def film(count=4):
    """A window that moves over an image by one pixel a frame."""
    wide = pictures(1, (32, 48), seed=7)
    wide = wide + 0.1 * torch.randn(wide.shape, generator=torch.Generator().manual_seed(0))
    return [wide.clamp(0, 1)[..., start : start + 32] for start in range(4, 4 + count)]


def test_an_image_follows_the_motion_of_its_photo_but_for_new_things():
    first, second = film(2)
    moved, seen = sheets.follow(first, second, 1 - first)
    assert seen.mean() > 0.6 and ((moved - (1 - second)).abs() * seen).sum() / (3 * seen.sum()) < 0.01
    frame = first.clone()
    frame[..., 8:20, 8:20] = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    _, seen = sheets.follow(first, frame, frame)
    assert seen[..., 10:18, 10:18].mean() < 0.2 and seen.mean() > 0.5


def test_flicker_is_zero_for_the_film_itself_large_for_noise_and_less_with_a_warm_start():
    frames, options = film(), {"steps": 12, "init": "noise", "content_weight": 0.05, **LAYERS}
    noisy = [f + 0.2 * torch.rand(f.shape, generator=torch.Generator().manual_seed(i)) for i, f in enumerate(frames)]
    assert sheets.flicker(frames, frames) < 4 < sheets.flicker(frames, noisy)
    cold, warm = (list(sheets.stylize_frames(NETWORK, frames, [STYLE], warm=w, **options)) for w in (False, True))
    assert len(warm) == 4 and sheets.flicker(frames, warm) < 0.8 * sheets.flicker(frames, cold)
    with pytest.raises(StyleError, match="two frames"):
        sheets.flicker(frames[:1], frames[:1])
    with pytest.raises(StyleError, match="one size"):
        list(sheets.stylize_frames(NETWORK, [frames[0], frames[0][..., :30]], [STYLE], **options))
