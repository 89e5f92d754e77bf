"""The panels of the lessons, without a browser: their buttons are pressed from code."""

import numpy as np
import pytest
import torch

from helpers import masks
from helpers.blending import hard_paste
from helpers.features import load_features
from helpers.generators import load_generator
from helpers.latents import Latents
from helpers.masks import ellipse
from helpers.noise import fresh_noise_psnr
from helpers.sketch import Sketch
from helpers.states import load_state
from helpers.style_transfer.criterion import STYLE_WEIGHT
from helpers.widgets.blending import DRAWN, BlendingPanel
from helpers.widgets.inversion import RANGE, InversionPanel
from helpers.widgets.noise import NoisePanel
from helpers.widgets.sketch import SketchPanel
from helpers.widgets.style import StylePanel
from tests.support import tiny
from tests.support.waiting import PATIENCE, begin, finish, until


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


def test_every_space_runs_from_its_first_start_and_no_image_loss_is_refused(panel):
    for model, space in (("DCGAN", "z"), ("StyleGAN2", "z"), ("StyleGAN2", "w+")):
        panel.set({"model": model, "space": space, "steps": 10})
        finish(panel)
        assert panel.result.latents.space == space
    panel.controls["l1"].value = 0.0
    assert panel.message.value == ""
    panel.controls["perceptual"].value = 0.0
    assert "nothing ties the result to the photo" in panel.message.value
    panel.controls["l1"].value = 1.0
    assert panel.message.value == ""


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


@pytest.fixture
def noise_panel(generator, tmp_path):
    targets = generator.synthesize(generator.sample("w", 2, seed=5)).clamp(0, 1)
    start = Latents("w", generator.mean("w"))
    photos = {name: (target, start) for name, target in zip("ab", targets.split(1), strict=True)}
    return NoisePanel(generator, photos, out=tmp_path, steps=10, photo="b")


def test_the_noise_panel_fits_under_the_paint_and_its_regularisation_reaches_the_fit(noise_panel, generator):
    noise_panel.canvas.set_mask(masks.half(16))
    finish(noise_panel)
    latents = noise_panel.result.latents
    finest = latents.noise[-1] - generator.fixed_noise(1)[-1]
    assert finest[..., :8].abs().max() > 0 and finest[..., 8:].abs().max() == 0
    assert f"{fresh_noise_psnr(generator, noise_panel.target, latents).item():.1f} dB" in noise_panel.message.value
    noise_panel.canvas.clear()
    assert noise_panel.where is None
    noise_panel.upload.set_photo(noise_panel.photos["a"].flip(-1), "mine")
    assert noise_panel.controls["photo"].value == "mine"
    assert torch.equal(noise_panel.latents.code, generator.mean("w"))
    finish(noise_panel)
    with pytest.raises(ValueError, match="no noise maps"):
        NoisePanel(tiny.dcgan(), {})
    begin(noise_panel)
    noise_panel.controls["regularise"].value = 10.0
    number = noise_panel.job.call(lambda: len(noise_panel.job.history)).result(PATIENCE)
    until(lambda: len(noise_panel.job.history) > number)
    first, last = noise_panel.job.history[0], noise_panel.job.history[number]
    noise_panel.stop()
    assert first["total"] == pytest.approx(first["l2"], rel=1e-4)
    assert last["total"] == pytest.approx(last["l2"] + 10 * last["autocorrelation"], rel=1e-4)


SIZE, X, Y = 16, tiny.images(seed=0), tiny.images(seed=1)


@pytest.fixture
def make(generator, features, tmp_path):
    def make(photos=None, **values):
        photos = {"a": X, "b": Y, "c": Y.flip(-1)} if photos is None else photos
        values = {"steps": 10, "noise_steps": 5, "feather": 1.0} | values
        return BlendingPanel(generator, features, photos, out=tmp_path, **values)

    return make


def test_the_panel_blends_by_the_mask_a_drawing_replaces_the_shape_and_a_mistake_is_one_sentence(make):
    panel = make(shape="ellipse")
    assert panel.controls["feather"].description == "feather, px" and not panel.canvas.softens
    html = finish(panel)
    assert "finished" in html and html.count("<img") == 2
    assert torch.allclose(panel.mask, masks.SHAPES["ellipse"](SIZE), atol=1 / 255)
    assert torch.equal(panel.before, hard_paste(X, Y, panel.mask))
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
    with pytest.raises(ValueError, match="two photos"):
        make({"a": X})
    panel = make()
    panel.canvas.clear()
    panel.photos["b"] = Y[:, :2]
    panel.buttons["start"].click()
    assert panel.job is None and 'role="alert"' in panel.message.value


def test_weights_move_while_it_runs_and_one_file_holds_it_all(make, generator, monkeypatch):
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


@pytest.fixture
def sketch_panel(generator, tmp_path):
    sketch = Sketch(torch.full((1, 3, 16, 16), 0.3), (ellipse(16) > 0.5).float())
    return SketchPanel(generator, sketch=sketch, out=tmp_path, starts=3, steps=10)


def failing(sketch_panel):
    sketch_panel.start()
    assert sketch_panel.job.wait(PATIENCE) and sketch_panel.job.state == "failed"
    return sketch_panel._frame()[0]


def test_the_drawing_keeps_its_colours_on_the_canvas_and_an_empty_one_is_one_sentence(sketch_panel):
    assert torch.equal(sketch_panel.sketch.mask > 0.5, ellipse(16) > 0.5)
    inside = (sketch_panel.sketch.mask > 0.9).expand(1, 3, -1, -1)
    assert (sketch_panel.sketch.image[inside] - 0.3).abs().max() < 0.01
    sketch_panel.canvas.set_rgba(np.zeros((256, 256, 4), np.uint8))
    html = failing(sketch_panel)
    assert "draw something" in html and "Traceback" not in html


def test_a_run_continues_from_the_candidate_that_was_picked(sketch_panel):
    sketch_panel.controls["go_on"].value = True
    assert "click one under Candidates" in failing(sketch_panel)
    sketch_panel.controls["go_on"].value = False
    finish(sketch_panel)
    assert len(sketch_panel.candidates.entries) == 3
    sketch_panel.choose_candidate(2)
    picked = sketch_panel.result.latents[2].code
    sketch_panel.controls["go_on"].value = True
    finish(sketch_panel)
    assert torch.equal(sketch_panel.job.iterator.base.code[:1], picked)
    assert (sketch_panel.job.iterator.base.code[1:] - picked).abs().min() > 0


@pytest.fixture
def style_panel(tmp_path):
    contents = {"first": tiny.images(size=80), "second": tiny.images(size=80, seed=1)}
    styles = {"stripes": tiny.images(size=(60, 90), seed=2), "dots": tiny.images(size=60, seed=3)}
    features = load_features("vgg19-slim", pooling="avg")
    return StylePanel(features, contents, styles, out=tmp_path, size=64, steps=10)


def test_the_reference_follows_content_and_size_and_weights_and_presets_the_controls(style_panel):
    before = style_panel.view.html
    style_panel.controls["content"].value = "second"
    assert style_panel.view.html != before
    style_panel.upload.set_photo(tiny.images(size=70, seed=9), "mine")
    assert style_panel.controls["content"].value == "mine" and style_panel.reference().shape == (1, 3, 64, 64)
    finish(style_panel)
    assert style_panel.result.images.shape == (1, 3, 64, 64) and style_panel.result.steps == 10
    begin(style_panel, 500)
    style_panel.controls["style_weight"].value = 100.0
    style_panel.job.call(lambda: None).result(PATIENCE)
    assert style_panel.job.iterator.criterion.weights["style"] == 100.0
    style_panel.stop()
    for name, (content, style) in {"Texture": (0.0, STYLE_WEIGHT), "Reconstruction": (1.0, 0.0)}.items():
        style_panel.set(style_panel.presets["Reset"])
        style_panel.set(style_panel.presets[name])
        assert (style_panel.controls["content_weight"].value, style_panel.controls["style_weight"].value) == (
            content,
            style,
        )
        style_panel.make(style_panel.settings)
