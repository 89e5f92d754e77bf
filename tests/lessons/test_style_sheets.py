"""Sheets of style transfers as one batch, and films."""

import pytest
import torch

from helpers.style_transfer import StyleError, stylize
from helpers.style_transfer.sheets import (
    flicker,
    follow,
    layer_grid,
    reconstructions,
    stylize_frames,
    textures,
    transfer_grid,
)
from tests.lessons.test_style_transfer import LAYERS, pictures
from tests.support import tiny


@pytest.fixture
def network():
    return tiny.Features()


def test_a_sheet_of_reconstructions_is_its_single_runs(network):
    result = reconstructions(network, pictures(), ["conv1_1", "conv2_1"], seeds=(3, 4), steps=6)
    assert len(result.images) == 4
    for i, (layer, seed) in enumerate([("conv1_1", 3), ("conv1_1", 4), ("conv2_1", 3), ("conv2_1", 4)]):
        alone = stylize(network, pictures(), content_layers=layer, init="noise", seed=seed, steps=6)
        assert torch.allclose(result.images[i], alone.images[0], atol=1e-3)


def test_a_sheet_of_textures_is_its_single_runs(network):
    styles, groups = [pictures(seed=1), pictures(seed=2)], [["conv1_1"], ["conv1_1", "conv2_1"]]
    result = textures(network, styles, groups, size=20, seeds=(0, 1), steps=5)
    options = {"content_weight": 0.0, "style_weight": 1.0, "init": "noise", "steps": 5}
    for i in range(8):
        layers, seed = groups[i // 2 % 2], i % 2
        blank = torch.zeros(1, 3, 20, 20)
        alone = stylize(network, blank, [styles[i // 4]], style_layers=layers, seed=seed, **options)
        assert torch.allclose(result.images[i], alone.images[0], atol=1e-3)


def test_a_grid_of_layers_does_not_depend_on_its_batches(network):
    groups = [["conv1_1"], ["conv1_1", "conv2_1"]]
    photo, style = pictures(), pictures(seed=1)
    whole, parts = (
        layer_grid(network, photo, style, ["conv1_1", "conv2_1"], groups, batch=batch, steps=4) for batch in (4, 2)
    )
    assert whole.shape == (2, 2, 3, 24, 24) and torch.allclose(whole, parts, atol=1e-3)
    alone = stylize(network, photo, [style], content_layers="conv2_1", style_layers=groups[0], steps=4)
    assert torch.allclose(whole[1, 0], alone.images[0], atol=1e-3)


def test_a_grid_has_contents_in_rows_and_styles_in_columns(network):
    contents, styles = pictures(2), [pictures(seed=1), pictures(seed=2), pictures(seed=3)]
    images, result = transfer_grid(network, contents, styles, steps=4, **LAYERS)
    alone = stylize(network, contents[1:], [styles[2]], steps=4, **LAYERS)
    assert images.shape == (2, 3, 3, 24, 24) and len(result.images) == 6
    assert torch.allclose(images[1, 2], alone.images[0], atol=1e-3)


def film(count=4):
    """A window that moves over a picture by one pixel a frame."""
    wide = pictures(1, (32, 48), seed=7)
    wide = wide + 0.1 * torch.randn(wide.shape, generator=torch.Generator().manual_seed(0))
    return [wide.clamp(0, 1)[..., start : start + 32] for start in range(4, 4 + count)]


def test_a_picture_follows_the_motion_of_its_photo():
    frames = film(2)
    moved, same = follow(frames[0], frames[1], 1 - frames[0])
    assert same.mean() > 0.6
    assert ((moved - (1 - frames[1])).abs() * same).sum() / (3 * same.sum()) < 0.01


def test_new_things_are_not_followed():
    frame = film(1)[0].clone()
    frame[..., 8:20, 8:20] = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    _, same = follow(film(1)[0], frame, frame)
    assert same[..., 10:18, 10:18].mean() < 0.2 and same.mean() > 0.5


def test_flicker_is_zero_for_the_film_itself_and_large_for_noise():
    frames = film()
    noisy = [f + 0.2 * torch.rand(f.shape, generator=torch.Generator().manual_seed(i)) for i, f in enumerate(frames)]
    assert flicker(frames, frames) < 4 < flicker(frames, noisy)
    with pytest.raises(StyleError, match="two frames"):
        flicker(frames[:1], frames[:1])


def test_a_warm_start_flickers_less(network):
    frames, style = film(), pictures(seed=1)
    options = {"steps": 12, "init": "noise", "content_weight": 0.05, **LAYERS}
    cold, warm = (list(stylize_frames(network, frames, [style], warm=warm, **options)) for warm in (False, True))
    assert len(warm) == 4 and flicker(frames, warm) < 0.8 * flicker(frames, cold)
    with pytest.raises(StyleError, match="one size"):
        list(stylize_frames(network, [frames[0], frames[0][..., :30]], [style], **options))
