"""Sets of images: Fréchet distance, and the network of ImageNet's photos that says what is a cat."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.generators import load_generator
from helpers.images import read_image
from helpers.photos import demo_cat
from staff.benchmarks.cats import TRUNCATIONS, cat_rows, described, frechet_distance, samples
from staff.benchmarks.common import Settings
from staff.benchmarks.style import style_distance


def test_frechet_distance_agrees_with_the_matrix_square_root():
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(9, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    first, second = (np.cov(vectors.numpy().T) for vectors in (ours, theirs))  # they do not commute
    expected = (ours.mean(0) - theirs.mean(0)).square().sum() + np.trace(
        first + second - 2 * sqrtm(first @ second).real
    )
    assert frechet_distance(ours, theirs) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(theirs, ours) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(ours[:3], ours[:3]) == pytest.approx(0, abs=1e-6)  # fewer vectors than entries
    with pytest.raises(ValueError, match="at least 2 images for their statistics; got 1"):
        frechet_distance(ours[:1], theirs)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(ours * float("nan"), theirs)


def test_samples_are_truncated_where_there_is_a_w():
    generator = load_generator("stylegan2-cats-64")
    plain, truncated, mean = (torch.cat(list(samples(generator, 3, psi, batch=2))) for psi in (1.0, 0.7, 0.0))
    assert plain.shape == (3, 3, 64, 64)
    assert (truncated - mean).abs().mean() < (plain - mean).abs().mean()
    assert torch.allclose(mean[:1], mean[1:2], atol=1e-5)


def test_a_cat_is_a_cat_and_noise_is_neither_a_cat_nor_its_style(efficientnet):
    net, cat = efficientnet, demo_cat(128)
    static = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    rows, likely = described(net, [cat, static])
    assert rows.shape == (2, 1280) and likely[0] > 0.5 > likely[1]
    assert style_distance(net, cat, cat) == 0 < style_distance(net, cat.flip(3), cat) < style_distance(net, static, cat)


def test_the_rows_of_a_model_and_its_sheet(tmp_path, efficientnet):
    generator = load_generator("stylegan2-cats-64")
    settings = Settings(tmp_path / "out", data=tmp_path / "photos", held_out=5)
    settings.data.mkdir()
    photos = torch.cat(list(samples(generator, 10, 0.7, seed=9)))
    for number, photo in enumerate((photos.permute(0, 2, 3, 1) * 255).round().byte().numpy()):
        Image.fromarray(np.ascontiguousarray(photo)).save(settings.data / f"{number}.png")
    rows = cat_rows("mine", generator, settings, 6)
    assert [row["truncation"] for row in rows] == list(TRUNCATIONS)
    assert all(0 <= row["cats"] <= 1 and row["frechet_ratio"] >= 0 for row in rows)
    assert rows[0]["nearest_photo"] > 0 and rows[0]["nearest_two_photos"] > 0
    assert read_image(settings.out / "mine-nearest.png").shape[2:] == (4 * 130 - 2, 16 * 66 - 2)
    assert len(replace(settings, held_out=3).faces()) == 3
