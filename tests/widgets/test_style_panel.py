"""The panel of the style lesson, pressed from code."""

import pytest

from helpers.features import load_features
from helpers.style_transfer.criterion import STYLE_WEIGHT
from helpers.widgets.style import StylePanel
from tests.support import tiny
from tests.support.waiting import PATIENCE, begin, finish


@pytest.fixture
def panel(tmp_path):
    contents = {"first": tiny.images(size=80), "second": tiny.images(size=80, seed=1)}
    styles = {"stripes": tiny.images(size=(60, 90), seed=2), "dots": tiny.images(size=60, seed=3)}
    features = load_features("vgg19-slim", pooling="avg")
    return StylePanel(features, contents, styles, out=tmp_path, size=64, steps=10)


def test_the_reference_follows_content_and_size(panel):
    before = panel.view.html
    panel.controls["content"].value = "second"
    assert panel.view.html != before
    panel.upload.set_photo(tiny.images(size=70, seed=9), "mine")
    assert panel.controls["content"].value == "mine" and panel.reference().shape == (1, 3, 64, 64)
    finish(panel)
    assert panel.result.images.shape == (1, 3, 64, 64) and panel.result.steps == 10


def test_weights_change_the_criterion_under_its_own_names_and_presets_are_texture_and_reconstruction(panel):
    begin(panel, 500)
    panel.controls["style_weight"].value = 100.0
    panel.job.call(lambda: None).result(PATIENCE)
    assert panel.job.iterator.criterion.weights["style"] == 100.0
    panel.stop()
    for name, (content, style) in {"Texture": (0.0, STYLE_WEIGHT), "Reconstruction": (1.0, 0.0)}.items():
        panel.set(panel.presets["Reset"])
        panel.set(panel.presets[name])
        assert (panel.controls["content_weight"].value, panel.controls["style_weight"].value) == (content, style)
        panel.make(panel.settings)
