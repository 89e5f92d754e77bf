"""Sets of images: Fréchet distance, and the ImageNet network that says what is a cat."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.generators import load_generator
from helpers.images import read_image
from helpers.photos import demo_cat
from staff.benchmarks.cats import TRUNCATIONS, cat_rows, described, samples
from staff.benchmarks.common import Settings
from staff.benchmarks.distributions import frechet_distance, statistics
from staff.benchmarks.style import style_distance


def test_frechet_distance_by_hand():
    """Diagonal covariances commute: |m1 - m2|² + the sum of (s1 - s2)² over the standard deviations."""
    ours = torch.tensor([0.0, 1.0]), torch.diag(torch.tensor([4.0, 9.0]))
    theirs = torch.tensor([3.0, 5.0]), torch.diag(torch.tensor([1.0, 25.0]))
    assert frechet_distance(ours, theirs) == pytest.approx(25 + 1 + 4, abs=1e-9)
    assert frechet_distance(ours, ours) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    ours, theirs = (torch.zeros(6), a @ a.T), (torch.ones(6), b @ b.T)  # they do not commute
    root = sqrtm((ours[1] @ theirs[1]).numpy()).real
    expected = 6 + np.trace(ours[1].numpy() + theirs[1].numpy() - 2 * root)
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(theirs, ours) == pytest.approx(expected, rel=1e-6)


def test_what_has_no_distance_is_refused():
    few = statistics(torch.randn(4, 10, generator=torch.Generator().manual_seed(0)))  # fewer than channels
    assert few[0].dtype == torch.float64 and frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least 2 images"):
        statistics(torch.ones(1, 10))
    mean, covariance = torch.zeros(3), torch.eye(3)
    for other, message in (
        ((torch.zeros(2), torch.eye(2)), "same shape"), ((mean, torch.eye(2)), "same shape"),
        ((mean * float("nan"), covariance), "finite"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            frechet_distance((mean, covariance), other)


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
