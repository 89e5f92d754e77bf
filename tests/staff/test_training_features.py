"""Training of the feature network: folding, exact resume after a kill, augmentation, export."""

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.features import CONFIGS, FeatureConfig, Features, load_features
from helpers.images import ImageError
from helpers.weights import load_weights
from staff.training import features as training
from staff.training import photos as sets
from staff.training.photos import TrainingError

TINY = FeatureConfig((4, 6), (2, 2))
SETTINGS = {"epochs": 3, "batch": 4, "sizes": (16, 24), "shares": (0.5, 0.5), "config": TINY, "device": "cpu"}


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
    return training.train_features(data, tmp_path_factory.mktemp("run"), **SETTINGS)


def test_folded_network_equals_the_trained_one():
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    net = training.Classifier(FeatureConfig((4, 4, 6), (2, 1, 3)), 5)
    for norm in net.norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.normal_(norm.bias)
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    torch.random.set_rng_state(torch_state)
    images = torch.rand(2, 3, 20, 24, generator=generator())
    folded = training.FoldedClassifier(training.fold(net.eval()), net.config)
    torch.testing.assert_close(folded(images), net(images), atol=1e-4, rtol=1e-4)
    assert {name.split(".")[0] for name in folded.features.state_dict()} == {"convs"}


def test_recalibration_measures_whole_pictures():
    net = training.Classifier(TINY, 2)
    images = torch.randint(256, (6, 3, 20, 20), generator=generator(), dtype=torch.uint8)
    training.recalibrate(net, images)
    seen = net.convs[0](net.normalize(images.float() / 255))
    torch.testing.assert_close(net.norms[0].running_mean, seen.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net.norms[0].running_var, seen.transpose(0, 1).flatten(1).var(1), atol=1e-4, rtol=1e-3)


def test_training_learns_red_from_blue(uninterrupted, data):
    config = load_weights(uninterrupted)[1]
    assert config["top1"] == config["mean_class_top1"] == 1.0
    assert config["classes"] == ["blue", "red"]
    assert (config["photos"], config["held_out"], config["images_seen"]) == (22, 2, 60)
    assert training.evaluate_features(data, uninterrupted) == {"top1": 1.0, "mean_class_top1": 1.0, "photos": 2}


def test_exported_network_is_what_load_features_reads(uninterrupted):
    network = load_features(uninterrupted)
    assert network.layers == ("conv1_1", "conv1_2", "conv2_1", "conv2_2")
    assert network(torch.rand(1, 3, 20, 20, generator=generator()), "relu2_2")["relu2_2"].shape == (1, 6, 10, 10)


def test_resume_after_a_kill_gives_identical_weights(data, uninterrupted, tmp_path):
    step = 8  # in the middle of the second epoch of 5 steps
    program = (
        "import os, signal, sys\n"
        "from helpers.features import FeatureConfig\n"
        "from staff.training import features as training\n"
        "from staff.training import loop\n"
        "save = loop.save_run\n"
        "def save_and_die(path, state):\n"
        "    save(path, state)\n"
        f"    if state['step'] == {step}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "loop.save_run = save_and_die\n"
        f"training.train_features(sys.argv[1], sys.argv[2], save_every=0, **{SETTINGS!r})\n"
    )
    root = Path(training.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    run = subprocess.run([sys.executable, "-c", program, data, tmp_path], env=environment, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == step
    assert not (tmp_path / "features.safetensors").exists()
    resumed = training.train_features(data, tmp_path, **SETTINGS)
    ours, theirs = load_weights(resumed)[0], load_weights(uninterrupted)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    logs = [
        [entry["loss"] for entry in torch.load(path.parent / "state.pt", weights_only=True)["log"]]
        for path in (resumed, uninterrupted)
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 3


def test_another_seed_gives_other_weights(data, uninterrupted, tmp_path):
    other = training.train_features(data, tmp_path, seed=1, **SETTINGS | {"epochs": 1})
    assert not torch.equal(load_weights(other)[0]["convs.0.weight"], load_weights(uninterrupted)[0]["convs.0.weight"])


def test_training_leaves_the_global_generator_alone(data, tmp_path):
    before = torch.random.get_rng_state()
    training.train_features(data, tmp_path, **SETTINGS | {"epochs": 1})
    assert torch.equal(torch.random.get_rng_state(), before)


def test_state_of_other_settings_is_refused(data, tmp_path):
    training.train_features(data, tmp_path, **SETTINGS | {"epochs": 1})
    with pytest.raises(TrainingError, match="made with another epochs, rate;"):
        training.train_features(data, tmp_path, rate=1e-3, **SETTINGS | {"epochs": 2})
    assert training.train_features(data, tmp_path, rate=1e-3, again=False, **SETTINGS | {"epochs": 1}).exists()


def test_settings_that_cannot_be(data, tmp_path):
    for wrong in ({"epochs": 0}, {"sizes": (1, 2)}, {"sizes": (16,)}):
        with pytest.raises(TrainingError, match="share for every size"):
            training.train_features(data, tmp_path, **SETTINGS | wrong)


def test_zip_and_folder_are_the_same(data, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in data.glob("*/*"):
            archive.write(path, path.relative_to(data))
    zipped, folder = sets.find_labelled(tmp_path / "a.zip"), sets.find_labelled(data)
    assert (zipped.names, zipped.labels, zipped.classes) == (folder.names, folder.labels, ["blue", "red"])
    assert torch.equal(zipped.squares([0, 20]), folder.squares([0, 20]))


def test_stored_photos_are_whole_and_test_photos_are_centre_squares(data):
    photos = sets.find_labelled(data)
    images, aspects = photos.squashed([3, 17])
    assert images.shape == (2, 3, 128, 128) and images.dtype == torch.uint8
    assert aspects.tolist() == pytest.approx([43 / 30, 45 / 30])
    assert images.float().mean((2, 3)).argmax(1).tolist() == [2, 0]  # blue, then red
    with Image.open(data / "blue" / "03.jpg") as photo:
        centre = torch.from_numpy(np.array(photo.crop((6, 0, 36, 30)))).permute(2, 0, 1)
    assert torch.equal(photos.squares([3], 30)[0], centre)


def test_split_takes_a_tenth_of_every_class():
    labels = [0] * 30 + [1] * 50 + [2] * 3
    photos = sets.LabelledPhotos(Path(), [str(i) for i in range(83)], labels, ["a", "b", "c"])
    train, held_out = photos.split()
    assert sorted(train + held_out) == list(range(83))
    assert [sum(labels[i] == label for i in held_out) for label in (0, 1, 2)] == [3, 5, 1]
    assert photos.split() == (train, held_out) != photos.split(seed=1)


def test_data_that_cannot_be_used(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    photo = Image.new("RGB", (30, 30))
    photo.save(tmp_path / "one" / "a.jpg")
    with pytest.raises(TrainingError, match="at least 2 classes"):
        sets.find_labelled(tmp_path)
    photo.save(tmp_path / "two" / "a.jpg")
    with pytest.raises(TrainingError, match="at least 2 photos in every class"):
        sets.find_labelled(tmp_path)
    with pytest.raises(ImageError, match="zip or folder"):
        sets.find_labelled(tmp_path / "absent")


def test_a_damaged_photo_is_named_and_left_out(data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "photos")
    (tmp_path / "photos" / "blue" / "00.jpg").write_bytes(b"not a photo")
    photos = sets.find_labelled(tmp_path / "photos")
    assert "left out: " in (said := capsys.readouterr().err) and "blue/00.jpg" in said
    assert len(photos.names) == len(photos.labels) == len(sets.find_labelled(data).names) - 1


def test_evaluation_needs_the_training_classes(uninterrupted, data, tmp_path):
    for label in ("green", "red"):
        (tmp_path / label).mkdir()
        for i in range(2):
            Image.new("RGB", (20, 20)).save(tmp_path / label / f"{i}.jpg")
    with pytest.raises(TrainingError, match="other classes"):
        training.evaluate_features(tmp_path, uninterrupted)


def test_crops_lie_inside_the_photo_and_keep_proportions():
    aspects = torch.tensor([0.5, 1.0, 1.5, 2.0]).repeat(500)
    theta = sets.random_affine(aspects, generator())
    corners = torch.tensor([[-1.0, -1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, 1]])
    inside = (torch.einsum("bij,kj->bki", theta, corners).abs() <= 1 + 1e-5).all(2).all(1)
    assert inside.float().mean() > 0.5  # rotated crops may reach over the edge, which is mirrored
    upright = theta[:, 0, 1] == 0
    assert inside[upright].all() and 0.3 < upright.float().mean() < 0.7
    # In the photo's own pixels, an upright crop is as wide as it is high up to the random stretch.
    ratio = theta[upright, 0, 0].abs() * aspects[upright] / theta[upright, 1, 1]
    assert ratio.log().abs().max() < 0.51
    assert (theta[:, 0, 0] < 0).float().mean() == pytest.approx(0.5, abs=0.05)


def test_crop_of_a_gradient_is_where_the_matrix_says(monkeypatch):
    ramp = torch.linspace(0, 255, 128).expand(1, 3, 128, 128).byte()
    half = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 0.5, 0.0]]])  # the right half of the middle
    monkeypatch.setattr(sets, "random_affine", lambda *_: half)
    monkeypatch.setattr(sets, "random_colour", lambda n, _: (torch.eye(3).expand(n, 3, 3), torch.zeros(n, 3, 1)))
    crop = sets.augment(ramp, torch.ones(1), 16, generator())
    expected = 0.5 + 0.5 * (torch.arange(16) + 0.5) / 16
    torch.testing.assert_close(crop[0, 1, 8], expected, atol=0.01, rtol=0)


def test_colours_of_grey_stay_grey():
    matrix, offset = sets.random_colour(50, generator())
    grey = matrix @ torch.full((3, 1), 0.45) + offset
    assert (grey - grey.mean(1, keepdim=True)).abs().max() < 1e-5
    assert (grey.mean(1) - 0.45).abs().max() < 0.1 + 1e-5
    assert matrix.std(0).min() > 0.01


def test_cutmix_pastes_the_box_it_reports():
    images = torch.zeros(2, 3, 20, 20)
    images[1] = 1
    for seed in range(10):
        mixed, keep = sets.cutmix(images, generator(seed))
        assert mixed[0].mean().item() == pytest.approx(1 - keep, abs=1e-6)
        assert mixed[1].mean().item() == pytest.approx(keep, abs=1e-6)
    assert images[0].sum() == 0


def test_the_network_that_ships_has_vgg19s_layers():
    assert Features(CONFIGS["vgg19-slim"]).layers == Features(FeatureConfig((1,) * 5, CONFIGS["vgg19"].depths)).layers
