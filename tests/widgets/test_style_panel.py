"""The panel of the style lesson, pressed from code."""

import pytest
import torch

from helpers.features import load_features
from helpers.style_transfer import STYLE_WEIGHT, StyleTransfer
from helpers.widgets import style_panel
from tests.lessons.test_style_transfer import pictures


@pytest.fixture
def panel(tmp_path):
    contents = {"first": pictures(1, (80, 80)), "second": pictures(1, (80, 80), 1)}
    styles = {"stripes": pictures(1, (60, 90), 2), "dots": pictures(1, (60, 60), 3)}
    panel = style_panel(load_features("vgg19-slim", pooling="avg"), contents, styles, out=tmp_path)
    panel.set({"size": 64, "steps": 10})
    yield panel
    panel.close()


def test_start_runs_what_the_controls_say(panel):
    panel.set({"content": "second", "style": "dots", "style_weight": 5.0, "colour": "luminance"})
    made = panel.make(panel.settings)
    assert isinstance(made, StyleTransfer) and made.style_weight == 5.0 and made.colour == "luminance"
    panel.start()
    assert panel.job.wait(60) and panel.job.error is None
    result = panel.result
    assert result.images.shape == (1, 3, 64, 64) and result.steps == 10
    for _ in made:
        pass
    assert torch.equal(made.result().images, result.images)


def test_the_reference_follows_content_and_size(panel):
    before = panel.box.view.html
    panel.controls["content"].value = "second"
    assert panel.box.view.html != before
    panel.add_content("mine", pictures(1, (70, 70), 9))
    assert panel.controls["content"].value == "mine" and panel.box.reference().shape == (1, 3, 64, 64)


def test_weights_change_the_criterion_under_its_own_names(panel):
    panel.set({"steps": 500})
    panel.start()
    while panel.job.latest() is None:
        panel.job.wait(0.05)
    panel.controls["style_weight"].value = 100.0
    panel.job.call(lambda: None).result(60)
    assert panel.job.iterator.criterion.weights["style"] == 100.0
    panel.stop()


def test_presets_are_texture_and_reconstruction(panel):
    for name, (content, style) in {"Texture": (0.0, STYLE_WEIGHT), "Reconstruction": (1.0, 0.0)}.items():
        panel.set(panel.presets["Reset"])
        panel.set(panel.presets[name])
        assert (panel.controls["content_weight"].value, panel.controls["style_weight"].value) == (content, style)
        panel.make(panel.settings | {"size": 64})
