"""The panel of the inversion lesson, its buttons pressed from code."""

import pytest
import torch

from helpers.generators import load_generator
from helpers.widgets.inversion import RANGE, InversionPanel
from tests.support import tiny
from tests.support.waiting import begin, finish, until


@pytest.fixture
def panel(generator, features, target, tmp_path):
    generators = {"StyleGAN2": generator, "DCGAN": tiny.dcgan()}
    photos = {"a": target, "b": target.flip(-1)}
    return InversionPanel(generators, features, photos, out=tmp_path, space="w", steps=20)


def test_the_settings_are_what_the_controls_say(panel, features):
    values = {"space": "w+", "l1": 10.0, "perceptual": 0.5, "layers": ("conv2_1",), "delta": 1e-6}
    panel.set({**values, "start": "best", "lr": 0.2, "seed": 7})
    assert panel.settings == {
        "space": "w+", "weights": {"l1": 10.0, "perceptual": 0.5, "delta": 1e-6}, "layers": ("conv2_1",), "steps": 20,
        "start": "best", "optimizer": "adam", "lr": 0.2, "seed": 7, "features": features,
    }  # fmt: skip
    panel.set({"layers": RANGE, "convs": [1, 2], "optimizer": "lbfgs", "steps": 10})
    assert panel.controls["convs"].layout.display is None
    assert panel.settings["layers"] == (1, 2) and "convs" not in panel.settings
    finish(panel)
    assert panel.job.iterator.criterion.layers == (1, 2) and panel.job.iterator.optimizer == "lbfgs"
    panel.controls["layers"].value = ("conv2_1",)
    assert panel.controls["convs"].layout.display == "none"


def test_every_space_runs_from_its_first_start(panel):
    for model, space in (("DCGAN", "z"), ("StyleGAN2", "z"), ("StyleGAN2", "w+")):
        panel.set({"model": model, "space": space, "steps": 10})
        finish(panel)
        assert panel.result.latents.space == space


def test_a_weight_changed_under_way_changes_the_run_and_stop_keeps_the_best_since(panel):
    panel.set({"perceptual": 0.0})  # switched on, a loss joins the curve
    begin(panel)
    panel.buttons["pause"].click()
    assert "perceptual" not in panel.result.parts
    panel.controls["perceptual"].value = 100.0
    best = panel.result  # the old best is forgotten: its total counts the new weight
    assert panel.job.iterator.criterion.weights["perceptual"] == 100.0
    assert best.total.item() == pytest.approx(best.parts["l1"].item() + 100 * best.parts["perceptual"].item(), rel=1e-4)
    number = panel.job.latest.number
    panel.buttons["start"].click()
    until(lambda: panel.job.latest.number > number + 1)
    before, after = panel.job.history[0], panel.job.history[number]
    assert after["total"] == pytest.approx(after["l1"] + 100 * after["perceptual"], rel=1e-4)
    assert "perceptual" not in before
    panel.buttons["stop"].click()
    until(lambda: not panel.alive)
    totals = [losses["total"] for losses in panel.job.history[number:]]
    assert panel.result.steps == len(panel.job.history) and panel.result.total.item() == pytest.approx(min(totals))


def test_no_image_loss_is_refused_in_one_sentence(panel):
    panel.controls["l1"].value = 0.0
    assert panel.message.value == ""
    panel.controls["perceptual"].value = 0.0
    assert "nothing ties the result to the photo" in panel.message.value
    panel.controls["l1"].value = 1.0
    assert panel.message.value == ""


def test_an_encoder_can_give_the_start_if_there_is_one(features, target, tmp_path):
    ours = load_generator("stylegan2-cats-64")
    panel = InversionPanel({"ours": ours}, features, {"a": target}, out=tmp_path, steps=10)
    assert panel.controls["start"].options == ("mean", "best", "sample", "encoder")
    panel.set({"space": "w", "start": "encoder"})
    finish(panel)
    assert panel.job.iterator.options.start == "encoder"
    panel.set({"space": "z"})
    assert "encoder" not in panel.controls["start"].options


def test_spaces_are_those_of_the_model_and_without_features_there_is_no_perceptual_loss(panel, generator, target):
    panel.controls["model"].value = "DCGAN"
    assert tuple(panel.controls["space"].options) == ("z",) and panel.settings["space"] == "z"
    assert panel.settings["start"] == "best" and "mean" not in panel.controls["start"].options
    assert panel.target.shape == (1, 3, 64, 64)
    panel.controls["model"].value = "StyleGAN2"
    assert tuple(panel.controls["space"].options) == ("w+", "w", "z") and panel.target.shape == (1, 3, 16, 16)
    panel = InversionPanel({"StyleGAN2": generator}, None, {"a": target}, out=panel.out, space="w", steps=10)
    assert set(panel.settings["weights"]) == {"l1", "delta"}
    finish(panel)


def test_another_target_is_shown_and_one_can_be_uploaded(panel, target):
    first = panel.view.html
    panel.controls["target"].value = "b"
    assert panel.view.html != first
    torch.testing.assert_close(panel.target, target.flip(-1))
    panel.upload.set_photo(target.flip(-2), "mine")
    torch.testing.assert_close(panel.target, target.flip(-2), atol=0.05, rtol=0)  # enlarged and shrunk
    assert tuple(panel.controls["target"].options) == ("a", "b", "mine")
    shown = panel.view.html
    panel.upload.cropper.box = [2, 2, 14, 14]
    assert panel.view.html != shown and tuple(panel.controls["target"].options) == ("a", "b", "mine")
