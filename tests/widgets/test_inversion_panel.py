"""The panel of the inversion lesson, its buttons pressed from code, with anywidgets and with core widgets."""

import importlib
import sys

import pytest
import torch

import helpers
from helpers.generators import load_generator
from helpers.inversion import project
from helpers.latents import Latents
from helpers.widgets.inversion import RANGE, InversionPanel
from helpers.widgets.live import PlayView
from tests.support import tiny
from tests.support.waiting import PATIENCE, begin, finish, until


@pytest.fixture
def panel(kind, generator, features, target, tmp_path, keep):
    photos = {"a": target, "b": target.flip(-1)}
    generators = {"StyleGAN2": generator, "DCGAN": tiny.dcgan()}
    return keep(InversionPanel(generators, features, photos, out=tmp_path, space="w", steps=20))


def ask(panel):
    """What the browser does when it has painted a frame; a long step lets it ask again."""
    sent = []
    if not isinstance(panel.view, PlayView):
        panel.view.send = lambda content, buffers=None: sent.append(content)
    while not sent or sent[-1]["html"] is None:
        if isinstance(panel.view, PlayView):
            before, panel.view.html = panel.view.html, ""
            panel.view.clock.value += 1
            sent.append({"html": panel.view.html or (None if panel.alive else before)})
        else:
            panel.view._handle_custom_msg({"ask": "view"}, [])
            assert sent[-1]["ask"] == "view" and sent[-1]["wait"] > 0
    return sent[-1]["html"]


def test_a_panel_that_nobody_touches_does_nothing(panel, kind):
    assert isinstance(panel.view, PlayView) == (kind == "core")
    assert panel.job is None and panel.result is None and not panel.view.running
    assert panel.view.html.count("<img") == 1  # the target


def test_the_panel_runs_and_its_settings_run_without_it(panel):
    panel.buttons["start"].click()
    assert panel.job.wait(PATIENCE) and panel.job.error is None
    html = ask(panel)
    assert "finished" in html and html.count("<img") == 2 and "<svg" in html
    assert not panel.view.running and panel.view.html == html
    direct = project(panel.generator, panel.target, **panel.settings)
    torch.testing.assert_close(panel.result.latents.code, direct.latents.code)
    torch.testing.assert_close(panel.result.images, direct.images)
    assert panel.result.steps == 20 and panel.result.latents.space == "w"


def test_the_settings_are_what_the_controls_say(panel, features):
    values = {"space": "w+", "l1": 10.0, "perceptual": 0.5, "layers": ("conv2_1",), "delta": 1e-6}
    for name, value in {**values, "start": "best", "lr": 0.2, "seed": 7}.items():
        panel.controls[name].value = value
    assert panel.settings == {
        "space": "w+", "weights": {"l1": 10.0, "perceptual": 0.5, "delta": 1e-6}, "layers": ("conv2_1",), "steps": 20,
        "start": "best", "optimizer": "adam", "lr": 0.2, "seed": 7, "features": features,
    }  # fmt: skip
    panel.controls["layers"].value = RANGE
    assert panel.controls["convs"].layout.display is None
    panel.controls["convs"].value = (1, 2)
    assert panel.settings["layers"] == (1, 2) and "convs" not in panel.settings
    panel.controls["layers"].value = ("conv2_1",)
    assert panel.controls["convs"].layout.display == "none"


def test_a_range_of_layers_and_another_optimizer_run(panel):
    panel.set({"layers": RANGE, "convs": [1, 2], "optimizer": "lbfgs", "steps": 10})
    finish(panel)
    assert panel.job.iterator.criterion.layers == (1, 2) and panel.job.iterator.optimizer == "lbfgs"


def test_every_space_runs_from_its_first_start(panel):
    for model, space in (("DCGAN", "z"), ("StyleGAN2", "z"), ("StyleGAN2", "w+")):
        panel.set({"model": model, "space": space, "steps": 10})
        finish(panel)
        assert panel.result.latents.space == space


def test_first_values_may_lie_between_the_stops(generator, features, target, keep):
    values = {"l1": 0.3, "start": "sample", "space": "w", "steps": 123}
    panel = keep(InversionPanel({"G": generator}, features, {"a": target}, **values))
    assert panel.settings["weights"]["l1"] == 0.3 and panel.settings["start"] == "sample"
    stops = [value for _, value in panel.controls["l1"].options]
    assert stops == sorted(stops) and len(stops) == 15


def test_stop_keeps_the_best_so_far(panel):
    begin(panel)
    assert "step" in ask(panel) and panel.controls["space"].disabled and not panel.controls["l1"].disabled
    panel.buttons["stop"].click()
    assert panel.job.wait(PATIENCE) and panel.job.state == "stopped"
    assert "the best is kept" in ask(panel)
    steps, totals = panel.result.steps, [losses["total"] for losses in panel.job.history]
    assert steps == len(totals) < 1000
    assert panel.result.total.item() == pytest.approx(min(totals), rel=1e-4)
    assert not panel.controls["space"].disabled and panel.buttons["stop"].disabled


def test_pause_and_continue(panel):
    begin(panel)
    panel.buttons["pause"].click()
    job, number = panel.job, panel.result.steps  # asked between two steps
    assert "paused" in ask(panel) and panel.buttons["start"].description == "Continue"
    panel.buttons["start"].click()
    until(lambda: job.latest().number > number)
    assert panel.job is job and panel.buttons["start"].description == "Start"


def test_a_weight_changed_under_way_changes_the_run(panel):
    begin(panel)
    panel.buttons["pause"].click()
    old = panel.result.total.item()
    panel.controls["perceptual"].value = 100.0
    best = panel.result  # forgotten: the total of the same latents counts the new weight
    assert panel.job.iterator.criterion.weights["perceptual"] == 100.0
    assert best.total.item() == pytest.approx(best.parts["l1"].item() + 100 * best.parts["perceptual"].item(), rel=1e-4)
    assert best.total.item() > 2 * old
    number = panel.job.latest().number
    panel.buttons["start"].click()
    until(lambda: panel.job.latest().number > number + 1)
    after = panel.job.history[number]
    assert after["total"] == pytest.approx(after["l1"] + 100 * after["perceptual"], rel=1e-4)


def test_a_loss_switched_on_under_way_joins_the_curve(panel):
    panel.set({"perceptual": 0.0})
    begin(panel)
    panel.controls["perceptual"].value = 1.0
    until(lambda: "perceptual" in panel.job.history[-1])
    panel.buttons["stop"].click()
    assert "perceptual" not in panel.job.history[0] and "perceptual" in panel.result.parts
    assert "perceptual" in ask(panel)


def test_no_image_loss_is_refused_in_one_sentence(panel):
    panel.controls["l1"].value = 0.0
    assert panel.message.value == ""
    panel.controls["perceptual"].value = 0.0
    assert "nothing ties the result to the photo" in panel.message.value
    panel.controls["l1"].value = 1.0
    assert panel.message.value == ""


def test_an_error_in_the_thread_or_while_drawing_is_shown(panel, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of <memory>")

    with monkeypatch.context() as patch:
        patch.setattr("helpers.inversion.Criterion.__call__", broken)
        panel.buttons["start"].click()
        panel.job.wait(PATIENCE)
        html = ask(panel)
    assert "RuntimeError: out of &lt;memory&gt;" in html and "Traceback" not in html
    assert panel.result is None and not panel.buttons["start"].disabled and not panel.view.running
    monkeypatch.setattr("helpers.widgets.run.psnr", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in finish(panel)


def test_an_encoder_can_give_the_start_if_there_is_one(features, target, keep):
    generators = {"ours": load_generator("stylegan2-cats-64"), "plain": load_generator("dcgan-cats-64")}
    panel = keep(InversionPanel(generators, features, {"a": target}, steps=10))
    assert panel.controls["start"].options == ("mean", "best", "sample", "encoder")
    panel.set({"space": "w", "start": "encoder", "steps": 10})
    finish(panel)
    assert isinstance(panel.job.iterator.start, Latents)
    for model, space in (("ours", "z"), ("plain", "z")):
        panel.set({"model": model, "space": space})
        assert "encoder" not in panel.controls["start"].options


def test_spaces_are_those_of_the_model(panel):
    panel.controls["model"].value = "DCGAN"
    assert tuple(panel.controls["space"].options) == ("z",) and panel.settings["space"] == "z"
    assert panel.settings["start"] == "best" and "mean" not in panel.controls["start"].options
    assert panel.target.shape == (1, 3, 64, 64)
    panel.controls["model"].value = "StyleGAN2"
    assert tuple(panel.controls["space"].options) == ("w+", "w", "z") and panel.target.shape == (1, 3, 16, 16)


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


def test_the_panel_of_a_cell_that_ran_again_stops_when_the_new_one_starts(panel, generator, features, target, keep):
    begin(panel)
    again = keep(InversionPanel({"StyleGAN2": generator}, features, {"a": target}, out=panel.out, steps=10))
    again.start()
    assert panel.job.wait(PATIENCE) and panel.job.state == "stopped"
    assert "the best is kept" in ask(panel)
    assert again.job.wait(PATIENCE) and again.job.state == "finished"


def test_a_panel_without_features_has_no_perceptual_loss(generator, target, tmp_path, keep):
    panel = keep(InversionPanel({"StyleGAN2": generator}, None, {"a": target}, out=tmp_path, space="w", steps=10))
    assert set(panel.settings["weights"]) == {"l1", "delta"}
    finish(panel)


def test_without_anywidget_the_core_widgets_serve(monkeypatch):
    monkeypatch.setattr(helpers, "widgets", helpers.widgets)  # the new import would stay in its place
    for name in [name for name in sys.modules if name.startswith("helpers.widgets")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    live = importlib.import_module("helpers.widgets.live")
    view = live.live_view(lambda: ("frame", 0.1))
    assert type(view) is live.PlayView and not view.running
    view.clock.value = 1
    assert view.html == ""  # the clock of a view that does not run asks for nothing
    view.running = True
    view.clock.value = 2
    assert view.html == "frame"
    for name in ("canvas", "upload"):
        assert importlib.import_module(f"helpers.widgets.{name}").anywidget is None
