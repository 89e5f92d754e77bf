"""The panel of the first lesson in JupyterLab, pressed and dragged by mouse during a real inversion.

Saved states and films are in test_lessons.py.
"""

from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
from PIL import Image

from tests.support.jupyter_driver import UNTIDY, Lab, write_notebook
from tests.support.waiting import PATIENCE, comes

pytestmark = pytest.mark.browser
OUTPUT = Path(__file__).resolve().parents[2] / "output" / "browser"
AREA = ".inversion-panel"

CELLS = [
    """
import os, tempfile
os.environ["OMP_NUM_THREADS"] = "1"
import torch
from helpers.features import load_features
from helpers.generators import load_generator
from helpers.latents import Latents
from helpers.photos import demo_cat
from helpers.widgets.inversion import InversionPanel
from helpers.widgets.sliders import interpolation_slider, truncation_slider
from helpers.widgets.upload import PhotoUpload

generator, features = load_generator("stylegan2-cats-64"), load_features("vgg19-slim")
a, b = (Latents("w", generator.map(generator.sample("z", 1, seed), 0.7)) for seed in (1, 2))
""",
    """
photos = {"Chelsea": demo_cat(64)}
panel = InversionPanel({"stylegan2": generator}, features, photos, out=tempfile.mkdtemp(), steps=1000)
panel.add_class("inversion-panel")
panel
""",
    "slider = interpolation_slider(generator, a, b)\nslider.add_class('between')",
    "truncation = truncation_slider(generator)\ntruncation.add_class('samples')",
    "upload = PhotoUpload(64)\nupload.add_class('own-upload')",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with Lab(write_notebook(tmp_path_factory.mktemp("lab") / "panel.ipynb", *CELLS), timeout=90) as lab:
        lab.run_all()
        lab.patience = 2 * PATIENCE
        yield lab


def shown(lab):
    """Title and data URL of the live image."""
    return lab.page.locator(f"{AREA} img").evaluate_all("images => images.map(i => [i.alt, i.src])")[0]


def shown_step(lab):
    """Number of the step that the page shows, 0 where it shows something else."""
    word, _, number = shown(lab)[0].partition(" ")
    return int(number) if word == "step" else 0


def start(lab):
    lab.press("Start")
    comes(lab, lambda: shown_step(lab), "no frame was shown")
    return shown_step(lab)


def stop(lab):
    lab.press("Stop")
    comes(lab, lambda: shown(lab)[0] == "best result", "Stop did nothing")


def test_frames(lab):
    """The images follow the run, and never show what has not happened."""
    start(lab)
    title, source = shown(lab)  # together: on a busy machine the next frame may come between two looks
    comes(lab, lambda: shown_step(lab) > int(title.split()[1]) + 5, "the frames do not change")
    later = shown_step(lab)
    assert shown(lab)[1] != source and later <= lab.kernel("len(panel.job.history)")
    lab.screenshot(OUTPUT / "panel-running.png", AREA)
    stop(lab)
    assert lab.kernel("panel.job.state") == "stopped"


def test_weights(lab):
    """A slider changes the objective under way."""
    start(lab)
    before = lab.kernel("panel.settings['weights']['perceptual']")
    lab.drag("perceptual", 1.0)
    weight = "panel.job.iterator.criterion.weights['perceptual']"
    comes(lab, lambda: lab.kernel(weight) == 100, "the weight is the old one")
    number = lab.kernel("len(panel.job.history)")
    comes(lab, lambda: lab.kernel("len(panel.job.history)") > number + 1, "the run does not continue")
    history = lab.kernel("panel.job.history")
    stop(lab)
    for losses, weight in ((history[0], before), (history[-1], 100)):
        assert losses["total"] == pytest.approx(losses["l1"] + weight * losses["perceptual"], rel=1e-3)
    lab.press("Reset")
    comes(lab, lambda: lab.kernel("panel.settings['weights']['perceptual']") == 0.1, "Reset did nothing")


def test_pause(lab):
    """Pause halts, Continue continues, Stop ends it and keeps the best."""
    start(lab)
    lab.press("Pause")
    comes(lab, lambda: "paused" in lab.page.inner_text("body"), "the page does not say that it pauses")
    number = lab.kernel("panel.job.call(lambda: len(panel.job.history)).result()")  # between two steps
    assert [lab.kernel("len(panel.job.history)") for _ in range(20)] == [number] * 20, "it continues in its pause"
    lab.press("Continue")
    comes(lab, lambda: lab.kernel("len(panel.job.history)") > number + 2, "it does not continue")
    stop(lab)
    assert "the best is kept" in lab.page.inner_text("body")
    state, taken, total = lab.kernel("[panel.job.state, panel.result.steps, panel.result.total.item()]")
    totals = [losses["total"] for losses in lab.kernel("panel.job.history")]
    assert state == "stopped" and taken == len(totals) < 1000
    assert total == pytest.approx(min(totals), rel=1e-3)


def test_interpolation(lab):
    image = lab.page.locator(".between img").nth(1)
    before = image.get_attribute("src")
    for place in (0.9, 0.5):
        lab.drag("t", place)
        comes(lab, lambda: abs(lab.kernel("slider.controls[0].value") - place) < 0.03, "t does not follow the handle")  # noqa: B023
        title = f"t = {lab.kernel('slider.controls[0].value'):.2f}"
        comes(lab, lambda: image.get_attribute("alt") == title, "the image is of another t")  # noqa: B023
        assert (image.get_attribute("src") != before) == (place == 0.9), "the image stays"
    lab.screenshot(OUTPUT / "slider.png", ".between")


def test_truncation(lab):
    sources = "images => images.map((image) => image.src)"
    before = lab.page.locator(".samples img").evaluate_all(sources)
    assert len(set(before)) == 6
    lab.drag("truncation", 0.0)
    comes(lab, lambda: lab.kernel("truncation.controls[0].value") == 0, "the slider is not heard")
    samples = lab.page.locator(".samples img")
    comes(lab, lambda: len(set(samples.evaluate_all(sources))) == 1, "the samples are not all the mean")
    lab.drag("truncation", 0.7 / 1.5)
    comes(lab, lambda: samples.evaluate_all(sources) == before, "the samples are other ones")
    lab.screenshot(OUTPUT / "truncation.png", ".samples")


@pytest.mark.parametrize("width", [1280, 800])
def test_the_page_is_tidy(lab, width):
    """Nothing reaches over its output, no widget is empty, no label is cut off, with the list of files open."""
    lab.page.evaluate("jupyterapp.commands.execute('filebrowser:activate')")
    lab.page.set_viewport_size({"width": width, "height": 1000})
    comes(lab, lambda: lab.page.evaluate(UNTIDY) == [], "something is clipped")
    assert not lab.page.locator(".jp-OutputArea-output.jp-mod-error").count()
    lab.page.set_viewport_size({"width": 1280, "height": 1000})


def test_start_and_the_result_are_seen_at_once(lab):
    button = lab.page.locator(f"{AREA} button:text-is('Start')")
    button.scroll_into_view_if_needed()
    place, image = button.bounding_box(), lab.page.locator(f"{AREA} img").first.bounding_box()
    assert abs(image["y"] - place["y"]) + image["height"] < 500 and image["width"] >= 256


def test_a_log_slider_reads_its_value_to_a_screen_reader(lab):
    handle = lab.control("perceptual").locator(".noUi-handle")
    comes(lab, lambda: handle.get_attribute("aria-valuetext") == "0.1", "it is not read")
    handle.press("ArrowRight")
    comes(lab, lambda: handle.get_attribute("aria-valuetext") == "0.2", "the new value is not read")
    lab.press("Reset")


def test_a_photo_is_uploaded_and_cropped(lab, tmp_path):
    Image.linear_gradient("L").resize((300, 200)).save(tmp_path / "gradient.png")
    (tmp_path / "notes.png").write_text("not an image")
    lab.choose_file("Upload a photo", tmp_path / "gradient.png", root=".own-upload")
    comes(lab, lambda: lab.kernel("upload.image is not None"), "the photo did not come")
    assert lab.kernel("[*upload.image.shape, *upload.cropper.box]") == [1, 3, 64, 64, 50, 0, 250, 200]

    def smaller():  # a page that is still being laid out may miss the first try
        lab.stroke([(0.5, 0.5), (-4, -4)], ".own-upload .handle")
        lab.page.wait_for_timeout(500)
        return lab.kernel("upload.cropper.box[2] - upload.cropper.box[0]") < 190

    comes(lab, smaller, "the crop box stays")
    lab.choose_file("Upload a photo", tmp_path / "notes.png", root=".own-upload")
    alert = lab.page.locator(".own-upload").get_by_role("alert")
    comes(lab, lambda: alert.count() and "notes.png" in alert.inner_text(), "the bad file is not named")
    lab.screenshot(OUTPUT / "upload.png", ".own-upload")
