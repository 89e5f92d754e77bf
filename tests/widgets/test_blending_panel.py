"""The blending panel without a browser: its run is the plain blend, its mask the canvas, its file all of it."""

import pytest
import torch

from helpers import masks
from helpers.blending import hard_paste
from helpers.states import load_state
from helpers.widgets.blending import DRAWN, BlendingPanel
from tests.support import tiny
from tests.support.waiting import PATIENCE, begin, finish

SIZE = 16


X, Y = tiny.images(seed=0), tiny.images(seed=1)


@pytest.fixture
def make(generator, features, tmp_path):
    def make(photos=None, **values):
        photos = {"a": X, "b": Y, "c": Y.flip(-1)} if photos is None else photos
        values = {"steps": 10, "noise_steps": 5, "feather": 1.0} | values
        return BlendingPanel(generator, features, photos, out=tmp_path, **values)

    return make


def test_the_panel_blends_by_the_mask_with_one_feather(make):
    panel = make(shape="ellipse")
    assert panel.controls["feather"].description == "feather, px" and not panel.canvas.softens
    html = finish(panel)
    assert "finished" in html and html.count("<img") == 2
    assert torch.allclose(panel.mask, masks.SHAPES["ellipse"](SIZE), atol=1 / 255)
    assert torch.equal(panel.before, hard_paste(X, Y, panel.mask))


def test_a_drawing_replaces_the_shape_and_an_upload_is_offered(make):
    panel = make()
    mine = masks.box(SIZE, (0.25, 0.25, 0.5, 1))
    panel.canvas.set_mask(mine)
    assert panel.controls["shape"].value == DRAWN and torch.equal(panel.mask, mine)
    panel.controls["y"].value = "c"  # another photo under the drawing
    assert torch.equal(panel.mask, mine) and torch.equal(panel.y, Y.flip(-1))
    panel.controls["shape"].value = "top"
    assert torch.equal(panel.mask, masks.half(SIZE, "top")) and panel.controls["shape"].value == "top"
    panel.upload.set_photo(X.flip(-2), "mine.png")
    assert panel.controls["x"].value == "mine.png" and "mine.png" in panel.controls["y"].options


def test_weights_move_while_it_runs_and_the_mask_comes_back_with_the_result(make):
    panel = make()
    begin(panel)
    panel.controls["second"].value = 50.0
    panel.job.call(lambda: None).result(PATIENCE)
    assert panel.job.iterator.weights["second"] == 50.0
    assert panel.job.stop(PATIENCE) and panel.job.error is None
    panel._frame()
    panel.set({"shape": "right"})
    panel.restore(panel.history.entries[0])
    assert panel.controls["shape"].value == "half" and torch.equal(panel.mask, masks.half(SIZE))


def test_one_file_holds_picture_mask_photos_and_settings(make, generator, monkeypatch):
    monkeypatch.setattr(generator, "name", "tiny", raising=False)
    panel = make(shape="eyes", style=0.5)
    panel.canvas.set_mask(masks.union(panel.mask, masks.box(SIZE, (0, 0.75, 1, 1))))
    finish(panel)
    path = panel.save("safetensors")
    image, mask = panel.result.images, panel.mask
    other = make(photos={"a": X.flip(-1), "z": Y})  # a is another photo here, and b unknown
    other.load(path)
    assert torch.equal(other.mask, mask) and other.controls["shape"].value == DRAWN
    assert torch.equal(other.x, X) and torch.equal(other.y, Y) and other.settings == panel.settings
    assert torch.equal(other.photos["a"], X.flip(-1)) and "restored" in other.view.html
    state, metadata = load_state(path)
    assert torch.equal(state.images["image"], image) and torch.equal(state.images["mask"], mask)
    assert metadata["model"] == "tiny"
    assert torch.equal(generator.synthesize(state.latents).clamp(0, 1), image)


def test_a_mistake_is_one_sentence(make):
    with pytest.raises(ValueError, match="two photos"):
        make({"a": X})
    panel = make()
    panel.canvas.clear()
    panel.photos["b"] = Y[:, :2]
    panel.buttons["start"].click()
    assert panel.job is None and 'role="alert"' in panel.message.value
