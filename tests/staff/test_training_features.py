"""Training of the feature network and of the finder: folding, targets, augmentation, exact resume, export."""

import csv
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.cat_faces import STRIDE, UNIT, FinderNetwork
from helpers.features import CONFIGS, FeatureConfig, Features, load_features
from helpers.images import ImageError
from helpers.progress import save_run
from helpers.weights import load_weights
from staff.training import features as training
from staff.training import finder, loop
from staff.training import photos as sets
from staff.training.finder import CatPhoto, read_cats, targets
from staff.training.photos import TrainingError

TINY = FeatureConfig((4, 6), (2, 2))
SHORT = training.SETTINGS | {"epochs": 3, "batch": 4, "sizes": [16, 24], "teacher": False}
SETTINGS = SHORT | {"config": TINY, "device": "cpu"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes, plain red and plain blue photos with noise, of different shapes."""
    root = tmp_path_factory.mktemp("photos")
    for label, channel in (("blue", 2), ("red", 0)):
        (root / label).mkdir()
        for i in range(12):
            pixels = torch.rand(30, 40 + i, 3, generator=generator(i)) * 0.5
            pixels[..., channel] += 0.5
            Image.fromarray((pixels * 255).byte().numpy()).save(root / label / f"{i:02}.jpg")
    return root


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    before = torch.random.get_rng_state()
    path = training.train_features(data, tmp_path_factory.mktemp("run"), **SETTINGS)
    assert torch.equal(torch.random.get_rng_state(), before)  # nothing global is drawn from
    return path


def test_folded_network_equals_the_trained_one():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = training.Classifier(FeatureConfig((4, 4, 6), (2, 1, 3)), 5)
        for norm in net.norms:
            torch.nn.init.uniform_(norm.weight, 0.5, 2)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
            for values in (norm.bias, norm.running_mean):
                torch.nn.init.normal_(values)
    images = torch.rand(2, 3, 20, 24, generator=generator())
    folded = training.FoldedClassifier(training.fold(net.eval()), net.config)
    torch.testing.assert_close(folded(images), net(images), atol=1e-4, rtol=1e-4)
    assert {name.split(".")[0] for name in folded.features.state_dict()} == {"convs"}
    vgg19s = Features(FeatureConfig((1,) * 5, CONFIGS["vgg19"].depths)).layers
    assert Features(CONFIGS["vgg19-slim"]).layers == vgg19s  # what ships


def test_recalibration_measures_whole_images(data):
    photos, net = sets.load_labelled(data), training.Classifier(TINY, 2)
    training.recalibrate(net, photos, torch.arange(24))
    seen = net.convs[0](net.normalize(photos.crops(torch.arange(24), training.TESTED)))
    torch.testing.assert_close(net.norms[0].running_mean, seen.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net.norms[0].running_var, seen.transpose(0, 1).flatten(1).var(1), atol=1e-4, rtol=1e-3)


def test_training_learns_red_from_blue_and_exports_what_load_features_reads(uninterrupted):
    config = load_weights(uninterrupted)[1]
    assert config["top1"] == config["mean_class_top1"] == 1.0 and config["classes"] == ["blue", "red"]
    assert (config["photos"], config["held_out"], config["images_seen"]) == (22, 2, 60)
    network = load_features(uninterrupted, pooling=config["pooling"])
    assert network.layers == ("conv1_1", "conv1_2", "conv2_1", "conv2_2")
    assert network(torch.rand(1, 3, 20, 20, generator=generator()), "relu2_2")["relu2_2"].shape == (1, 6, 10, 10)


def test_a_stopped_training_ends_with_identical_weights(data, uninterrupted, tmp_path, monkeypatch):
    def save_and_stop(path, state):
        save_run(path, state)
        if state["step"] == 8:  # in the middle of the second epoch of 5 steps
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "save_run", save_and_stop)
        training.train_features(data, tmp_path, save_every=0, **SETTINGS)
    assert not (tmp_path / "features.safetensors").exists()
    resumed = training.train_features(data, tmp_path, **SETTINGS)
    ours, theirs = load_weights(resumed)[0], load_weights(uninterrupted)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_training_of_so_many_minutes_ends_with_them_at_the_lowest_rate(data, tmp_path):
    photos = sets.load_labelled(data)
    trainer = training.FeatureTrainer(photos, TINY, torch.device("cpu"), SHORT | {"minutes": 0.5})
    rates = []
    for seconds in (0, 4.5, 15, 29.9, 31):
        trainer.seconds = seconds
        rates.append(trainer.rate())
    assert rates.index(max(rates)) == 1 and rates[1:] == sorted(rates[1:], reverse=True) and rates[-1] < 1e-5
    assert trainer.goal == trainer.position  # the time is over
    path = training.train_features(data, tmp_path, **SETTINGS | {"minutes": 0.005})
    assert load_weights(path)[1]["minutes"] == 0.005


def test_a_student_learns_the_maps_and_the_classes_of_its_teacher(data, efficientnet, monkeypatch):
    monkeypatch.setattr(training.pretrained, "load_efficientnet", lambda: efficientnet)
    settings = SHORT | {"teacher": True, "epochs": 8}
    trainer = training.FeatureTrainer(sets.load_labelled(data), TINY, torch.device("cpu"), settings)
    before = {name: value.clone() for name, value in trainer.state()["lessons"].items()}
    batch = trainer.next_batch()
    monkeypatch.setattr(trainer, "next_batch", lambda: batch)  # the same photos again and again
    losses = [trainer.step() for _ in range(40)]
    assert losses[0].keys() == {"features", "classes", "labels"}
    assert all(losses[-1][name] < losses[0][name] for name in losses[0])
    assert all(not torch.equal(value, before[name]) for name, value in trainer.state()["lessons"].items())
    assert not any(parameter.grad is not None for parameter in efficientnet.parameters())


def test_a_state_of_other_settings_and_settings_that_cannot_be_are_refused(data, uninterrupted, tmp_path):
    other = training.train_features(data, tmp_path, **SETTINGS | {"epochs": 1, "seed": 1})
    assert not torch.equal(load_weights(other)[0]["convs.0.weight"], load_weights(uninterrupted)[0]["convs.0.weight"])
    with pytest.raises(TrainingError, match="made with another epochs, rate, seed;"):
        training.train_features(data, tmp_path, **SETTINGS | {"epochs": 2, "rate": 1e-3})
    for wrong in ({"epochs": 0}, {"sizes": (1, 2)}):
        with pytest.raises(TrainingError, match="at least 1 epoch"):
            training.train_features(data, tmp_path, **SETTINGS | wrong)


def test_photos_are_centre_squares_split_by_class_and_crops_keep_their_colours_about(data):
    photos = sets.load_labelled(data)
    assert photos.pixels.shape == (24, 3, 128, 128) and photos.pixels.dtype == torch.uint8
    assert photos.ratios[[3, 17]].tolist() == pytest.approx([43 / 30, 45 / 30])
    assert [photos.classes[label] for label in photos.labels[[3, 17]]] == ["blue", "red"]
    row = torch.arange(128.0).repeat(3, 128, 1).to(torch.uint8)
    wide = sets.LabelledPhotos(row[None], torch.tensor([2.0]), torch.tensor([0]), ["a"])
    square = wide.crops(torch.tensor([0]), 64) * 255
    assert torch.allclose(square[0, 0, 0], torch.arange(64) + 32.0)  # the middle half of a photo twice as wide as high
    labels = torch.tensor([0] * 30 + [1] * 50 + [2] * 3)
    photos = sets.LabelledPhotos(torch.zeros(83), torch.ones(83), labels, ["a", "b", "c"])
    train, held_out = photos.split()
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(83))
    assert labels[held_out].bincount().tolist() == [3, 5, 1]
    assert torch.equal(photos.split()[1], held_out) and not torch.equal(photos.split(seed=1)[1], held_out)
    grey = torch.full((80, 3, 128, 128), 120, dtype=torch.uint8)
    photos = sets.LabelledPhotos(grey, torch.tensor([1.0, 1.6]).repeat(40), torch.zeros(80), ["a"])
    random = generator()
    crops = sets.recoloured(photos.crops(torch.arange(80), 32, random), random)
    assert crops.shape == (80, 3, 32, 32) and 0 <= crops.min() <= crops.max() <= 1
    assert (crops - crops.mean(1, keepdim=True)).abs().max() < 0.02  # grey stays grey
    assert 0.03 < crops[:, 0, 16, 16].std() < 0.2 and abs(crops.mean() - 0.47) < 0.1
    stripes = torch.arange(128).fmod(16).mul(16).to(torch.uint8).expand(80, 3, 128, 128)
    crops = sets.LabelledPhotos(stripes, photos.ratios, photos.labels, ["a"]).crops(torch.arange(80), 32, random)
    assert crops.std(0).min() > 0.1  # another part in each


def test_data_that_cannot_be_used(data, tmp_path, capsys):
    photo = Image.new("RGB", (30, 30))
    for name, message in (("one", "at least 2 classes"), ("two", "at least 2 photos in every class")):
        (tmp_path / name).mkdir()
        photo.save(tmp_path / name / "a.jpg")
        with pytest.raises(TrainingError, match=message):
            sets.load_labelled(tmp_path)
    with pytest.raises(ImageError, match="zip or folder"):
        sets.load_labelled(tmp_path / "absent")
    shutil.copytree(data, tmp_path / "photos")
    (tmp_path / "photos" / "blue" / "00.jpg").write_bytes(b"not a photo")
    photos = sets.load_labelled(tmp_path / "photos")
    assert "left out: " in (said := capsys.readouterr().err) and "blue/00.jpg" in said
    assert len(photos.pixels) == len(photos.ratios) == len(photos.labels) == 23


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


def test_the_first_stages_compute_what_efficientnet_does(efficientnet):
    ours, theirs = finder.from_efficientnet(FinderNetwork()), efficientnet
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        a, b = torch.nn.functional.relu6(ours.stem(x)), theirs.bn1(theirs.conv_stem(x))
        for stage, other in zip(ours.stages, theirs.blocks, strict=False):
            a, b = stage(a), other(b)
    assert torch.allclose(a, b, atol=1e-3 * b.abs().max().item())
