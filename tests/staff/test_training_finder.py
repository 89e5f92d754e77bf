"""Training of the finder: landmarks stay on the image, targets say where they are, a run continues exactly."""

import csv
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.cat_faces import STRIDE, UNIT, FinderNetwork
from staff.training import finder
from staff.training.finder import CatPhoto, FinderSettings, FinderTrainer, TrainingError, read_cats, targets

EYES_NOSE = np.array([[60.0, 50.0], [90.0, 46.0], [77.0, 70.0]])


def marked_photo():
    """A red, a green and a blue dot at the landmarks of a black photo."""
    image = torch.zeros(1, 3, 120, 160)
    for channel, (x, y) in enumerate(EYES_NOSE.astype(int)):
        image[0, channel, y - 4 : y + 4, x - 4 : x + 4] = 1
    return CatPhoto(finder._levels(image), EYES_NOSE)


def test_landmarks_follow_the_image_into_every_crop(monkeypatch):
    monkeypatch.setattr(finder, "_recoloured", lambda image, _: image)
    mirrored, grid = [], torch.arange(160).double() + 0.5
    for seed in range(40):
        crop, landmarks = finder.random_crop(marked_photo(), 160, np.random.default_rng(seed))
        if landmarks.min() < 30 or landmarks.max() > 130:
            continue
        bright = (crop[0] > 0.6).double()  # outside of the photo it is grey
        sums = torch.stack([bright.sum(1) @ grid, bright.sum(2) @ grid], 1) / bright.sum((1, 2))[:, None]
        found = sums.numpy()
        mirrored.append(np.abs(found[0] - landmarks[0]).max() > 4)
        assert np.abs(found[[1, 0, 2] if mirrored[-1] else [0, 1, 2]] - landmarks).max() < 4
        assert landmarks[0, 0] < landmarks[1, 0] or abs(landmarks[0, 1] - landmarks[1, 1]) > 5
    assert len(mirrored) > 5 and 0 < sum(mirrored) < len(mirrored)


def test_targets_point_from_the_cells_to_the_landmarks_and_the_focal_loss_is_least_for_them():
    heat, offsets, weights = targets([EYES_NOSE, None], 160)
    assert heat.shape == (2, 1, 20, 20) and offsets.shape == (2, 6, 20, 20)
    column, row = (EYES_NOSE.mean(0) // STRIDE).astype(int)
    assert heat[0, 0, row, column] == 1 and (heat[0] == 1).sum() == 1 and heat[1].max() < 1e-6
    centre = (np.array([column, row]) + 0.5) * STRIDE
    assert np.allclose(offsets[0, :, row, column].reshape(3, 2) * UNIT + centre, EYES_NOSE, atol=1e-3)
    assert weights[0, 0, row, column] > 0 and not weights[1].any()
    sure = torch.ones(2, 1, 1, 1)
    right = torch.where(heat >= 1, 6.0, -6.0)
    losses = [finder.focal_loss(scores, heat, sure).item() for scores in (right, -right, torch.zeros_like(heat))]
    assert losses[0] < 0.1 < losses[2] < losses[1]


def write_set(folder):
    """Photos and their table; the second one's eyes are unsure."""
    rows = []
    with zipfile.ZipFile(folder / "cats.zip", "w") as archive:
        for name in ("a.png", "b.png", "c.png"):
            Image.fromarray(marked_photo().levels[0][0].permute(1, 2, 0).numpy()).save(folder / name)
            archive.write(folder / name, name)
            rows.append({"file": name, "width": 160, "height": 120, "kept": "1"})
            for point, (x, y) in zip(finder.POINTS, EYES_NOSE, strict=True):
                sure = 0.3 if name == "b.png" else 0.9
                rows[-1] |= {f"{point}_x": x, f"{point}_y": y, f"{point}_confidence": sure}
    with open(folder / "cats.tsv", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0], delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    return folder / "cats.zip"


def test_photos_that_are_unsure_or_left_out_are_not_read(tmp_path):
    data = write_set(tmp_path)
    assert len(read_cats(data)) == 2 and len(read_cats(data, ["c"])) == 1
    assert np.array_equal(read_cats(data)[0].landmarks, EYES_NOSE)
    data.with_suffix(".tsv").unlink()
    with pytest.raises(TrainingError, match="Expected the landmarks of .*cats.zip in .*cats.tsv"):
        read_cats(data)


def trainer_of(**changes):
    settings = FinderSettings(**{"steps": 8, "batch": 2, "others": 1, "side": 64} | changes)
    other = CatPhoto(finder._levels(torch.rand(1, 3, 60, 80, generator=torch.Generator().manual_seed(0))), None)
    return FinderTrainer(settings, [marked_photo()], [other], torch.device("cpu"))


def test_a_run_continues_exactly(monkeypatch):
    monkeypatch.setattr(finder, "from_efficientnet", lambda net: net)
    straight, first, second = (trainer_of() for _ in range(3))
    for _ in range(3):
        straight.step()
    first.step()
    second.load(first.state())
    for _ in range(2):
        second.step()
    ours, theirs = second.net.state_dict(), straight.net.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and second.position == 3
    with pytest.raises(TrainingError, match="made with another rate;"):
        trainer_of(rate=0.5).load(first.state())


def test_the_first_stages_compute_what_efficientnet_does(efficientnet):
    ours, theirs = finder.from_efficientnet(FinderNetwork()), efficientnet
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        a, b = torch.nn.functional.relu6(ours.stem(x)), theirs.bn1(theirs.conv_stem(x))
        for stage, other in zip(ours.stages, theirs.blocks, strict=False):
            a, b = stage(a), other(b)
    assert torch.allclose(a, b, atol=1e-3 * b.abs().max().item())
