"""The panel of the first lesson in JupyterLab, pressed and dragged by mouse during a real inversion.

Each check is run on a sound panel, and on one with a planted fault, which it must find.
"""

import os
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from staff.benchmarks.jupyter_driver import UNTIDY, Lab, write_notebook
from tests.support.waiting import PATIENCE, comes, planted

pytestmark = pytest.mark.browser
OUTPUT = Path(__file__).resolve().parents[2] / "output" / "browser"
AREA = ".inversion-panel"

SETUP = """
import os, sys, tempfile
from pathlib import Path
{before}
os.environ["OMP_NUM_THREADS"] = "1"
import torch
from helpers.features import load_features
from helpers.generators import load_generator
from helpers import masks
from helpers.latents import Latents
from helpers.photos import demo_cat
from helpers.widgets.canvas import drawing_canvas
from helpers.widgets.inversion import InversionPanel
from helpers.widgets.sliders import InterpolationSlider, TruncationSlider
from helpers.widgets.upload import PhotoUpload
from helpers.inversion import Inversion
from helpers.widgets import job, parts, run as module

generator, vanilla = load_generator("stylegan2-cats-64"), load_generator("dcgan-cats-64")
features = load_features("vgg19-slim")
a, b = (Latents("w", generator.map(generator.sample("z", 1, seed), 0.7)) for seed in (1, 2))
"""
PANEL = """
generators, out = {"stylegan2": generator, "dcgan": vanilla}, tempfile.mkdtemp()
panel = InversionPanel(generators, features, {"Chelsea": demo_cat(64)}, out=out, steps=1000)
panel.add_class("inversion-panel")
panel
"""
SLIDER = "slider = InterpolationSlider(generator, a, b)\nslider"
TRUNCATION = "truncation = TruncationSlider(generator)\ntruncation"
UPLOAD = "upload = PhotoUpload(64)\nupload.add_class('own-upload')"
CANVAS = "canvas = drawing_canvas(demo_cat(64))\ncanvas.add_class('own-canvas')"
HIDE_ANYWIDGET = "sys.modules['anywidget'] = None"


@pytest.fixture(scope="module", params=["anywidget", pytest.param("core", marks=pytest.mark.long)])
def lab(request, tmp_path_factory):
    if request.param == "core" and "BROWSER_TESTS" not in os.environ:
        pytest.skip("takes minutes; set BROWSER_TESTS=1 to run it")
    if request.param == "anywidget":
        pytest.importorskip("anywidget", reason="anywidget is not installed: pip install anywidget")
    before = HIDE_ANYWIDGET if request.param == "core" else ""
    cells = [SETUP.format(before=before), PANEL, SLIDER, TRUNCATION, UPLOAD, CANVAS]
    with Lab(write_notebook(tmp_path_factory.mktemp("lab") / "panel.ipynb", *cells), timeout=90) as lab:
        lab.run_all()
        lab.kind, lab.patience = request.param, 2 * PATIENCE
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
    clock = lab.page.locator(f"{AREA} .widget-play button").first
    if lab.kind == "core" and not lab.kernel("panel.view._starts"):
        clock.click()
    comes(lab, lambda: shown_step(lab), "no frame was shown")
    return shown_step(lab)


def stop(lab):
    lab.press("Stop")
    comes(lab, lambda: shown(lab)[0] == "best result", "Stop did nothing")


def steps(lab):
    return lab.kernel("len(panel.job.history)")


# --- checks ----------------------------------------------------------------------------------------------------------


def frames(lab):
    """The images follow the run, and never show what has not happened."""
    first, (_, source) = start(lab), shown(lab)
    comes(lab, lambda: shown_step(lab) > first + 5, "the frames do not change")
    later = shown_step(lab)
    assert shown(lab)[1] != source and later <= steps(lab)
    lab.screenshot(OUTPUT / f"panel-{lab.kind}-running.png", AREA)
    stop(lab)
    assert lab.kernel("panel.job.state") == "stopped"


def weights(lab):
    """A slider changes the objective under way."""
    start(lab)
    before = lab.kernel("panel.settings['weights']['perceptual']")
    lab.drag("perceptual", 1.0)
    weight = "panel.job.iterator.criterion.weights['perceptual']"
    comes(lab, lambda: lab.kernel(weight) == 100, "the weight is the old one")
    number = steps(lab)
    comes(lab, lambda: steps(lab) > number + 1, "the run does not continue")
    history = lab.kernel("panel.job.history")
    stop(lab)
    for losses, weight in ((history[0], before), (history[-1], 100)):
        assert losses["total"] == pytest.approx(losses["l1"] + weight * losses["perceptual"], rel=1e-3)
    lab.press("Reset")
    comes(lab, lambda: lab.kernel("panel.settings['weights']['perceptual']") == 0.1, "Reset did nothing")


def pause(lab):
    """Pause halts, Continue continues, Stop ends it and keeps the best."""
    start(lab)
    lab.press("Pause")
    comes(lab, lambda: "paused" in lab.page.inner_text("body"), "the page does not say that it pauses")
    number = lab.kernel("panel.job.call(lambda: len(panel.job.history)).result()")  # between two steps
    assert [steps(lab) for _ in range(20)] == [number] * 20, "it continues in its pause"
    lab.press("Continue")
    comes(lab, lambda: steps(lab) > number + 2, "it does not continue")
    stop(lab)
    assert "the best is kept" in lab.page.inner_text("body")
    state, taken, total = lab.kernel("[panel.job.state, panel.result.steps, panel.result.total.item()]")
    totals = [losses["total"] for losses in lab.kernel("panel.job.history")]
    assert state == "stopped" and taken == len(totals) < 1000
    assert total == pytest.approx(min(totals), rel=1e-3)


def history(lab):
    """An older run comes back by a click, with its settings."""
    lab.press("Pixels only")
    start(lab)
    stop(lab)
    count, code = lab.kernel("[len(panel.history.entries), panel.result.latents.code.sum().item()]")
    lab.press("Perceptual only")
    start(lab)
    comes(lab, lambda: steps(lab) > 12, "the run does not continue")
    stop(lab)
    lab.tab("History")
    lab.page.locator(f"{AREA} button:text('{count}:')").click()
    comes(lab, lambda: shown(lab)[0] == "restored", "the old picture is not shown")
    wanted = {"l1": 1.0, "perceptual": 0.0, "delta": 0.0}
    comes(lab, lambda: lab.kernel("panel.settings['weights']") == wanted, "the settings are not the old ones")
    assert lab.kernel("panel.state().latents.code.sum().item()") == pytest.approx(code)
    lab.screenshot(OUTPUT / f"panel-{lab.kind}-history.png", AREA)
    lab.press("Reset")


def compare(lab):
    """The line between before and after follows the slider."""
    start(lab)
    stop(lab)
    lab.tab("Before / after")
    picture = lab.page.locator(f"{AREA} img[alt='before']")
    picture.wait_for(timeout=1000 * lab.patience)
    lab.drag("before | after", 0.8)
    comes(lab, lambda: lab.kernel("panel.compare.slider.value") > 0.7, "the slider is not heard")
    wanted = 100 * (1 - lab.kernel("panel.compare.slider.value"))
    clip = "image => parseFloat(image.style.clipPath.match(/ ([0-9.]+)%/)[1])"
    comes(lab, lambda: abs(picture.evaluate(clip) - wanted) < 0.1, "the line does not follow")
    lab.screenshot(OUTPUT / f"panel-{lab.kind}-compare.png", AREA)


def interpolation(lab):
    area = lab.page.locator(".jp-OutputArea-output:has-text('a (t = 0)')").first
    before = area.locator("img").nth(1).get_attribute("src")
    lab.drag("t", 0.9)
    comes(lab, lambda: area.locator("img").nth(1).get_attribute("src") != before, "the picture stays")
    comes(lab, lambda: abs(lab.kernel("slider.t") - 0.9) < 0.03, "t does not follow the handle")
    title = f"t = {lab.kernel('slider.t'):.2f}"
    comes(lab, lambda: area.locator("img").nth(1).get_attribute("alt") == title, "the picture is of another t")
    lab.drag("t", 0.5)
    comes(lab, lambda: abs(lab.kernel("slider.t") - 0.5) < 0.03, "t does not come back")
    lab.screenshot(OUTPUT / f"slider-{lab.kind}.png", ".jp-OutputArea-output:has-text('a (t = 0)')")


def truncation(lab):
    area = ".jp-OutputArea-output:has-text('truncation'):has-text('no. 6')"
    pictures = lab.page.locator(f"{area} img")
    sources = "images => images.map((image) => image.src)"
    before = pictures.evaluate_all(sources)
    lab.drag("truncation", 0.0)
    comes(lab, lambda: lab.kernel("truncation.slider.value") == 0, "the slider is not heard")
    comes(lab, lambda: len(set(pictures.evaluate_all(sources))) == 1, "the samples are not all the mean")
    lab.drag("truncation", 0.7 / 1.5)
    comes(lab, lambda: pictures.evaluate_all(sources) == before, "the samples are other ones")
    lab.screenshot(OUTPUT / f"truncation-{lab.kind}.png", area)


def shapes(lab):
    """On the canvas of core widgets: shapes by sliders, undo, feather; that of anywidget is in test_drawing.py."""
    if lab.kind != "core":
        pytest.skip("needs the canvas of core widgets")
    ellipse = "masks.ellipse(64, (0.5, 0.5), (0.25, 0.25))"

    def is_now(ideal):
        differs = f"(canvas.mask() - {ideal}).abs().mean().item()"
        comes(lab, lambda: lab.kernel(differs) < 0.01, f"the mask is not {ideal}")

    lab.kernel("[canvas.clear(), setattr(canvas, 'feather', 0.0)]")
    picture = lab.page.locator(".own-canvas img[alt='mask']")
    before = picture.get_attribute("src")
    lab.press("Add")
    is_now(ellipse)
    comes(lab, lambda: picture.get_attribute("src") != before, "the picture stays")
    lab.drag("height", 0.2)
    lab.press("Cut")
    is_now(f"{ellipse} * (1 - masks.ellipse(64, (0.5, 0.5), (0.25, canvas.sliders['height'].value / 2)))")
    lab.press("Undo")
    is_now(ellipse)
    lab.press("Invert")
    is_now(f"1 - {ellipse}")
    lab.press("Undo")
    lab.drag("feather", 0.1)
    comes(lab, lambda: lab.kernel("canvas.feather") > 1, "the slider is not heard")
    is_now(f"masks.feather({ellipse}, canvas.feather)")
    lab.press("Clear")
    comes(lab, lambda: lab.kernel("canvas.mask().max().item()") == 0, "Clear did nothing")
    lab.screenshot(OUTPUT / "core-canvas.png", ".own-canvas")


CHECKS = [frames, weights, pause, history, compare, interpolation, truncation, shapes]
SHORT = [frames, weights, pause, truncation]  # always run
FAULTS = {  # what replaces what, and the check that must find it
    "dead stop": (frames, "job.Job", "stop", "lambda self, timeout=0.5: False"),
    "deaf pause": (pause, "job.Job", "pause", "lambda self: None"),
    "pause goes on": (pause, "job.Job", "_may_go_on", "lambda self: self._make_calls() or not self._stop"),
    "frozen view": (frames, "module", "sheet_of", "lambda images: module.torch.zeros(1, 3, 64, 64)"),
    "weights lost": (weights, "panel", "change", "lambda run, weights: None"),
    "best lost": (pause, "Inversion", "_best", "lambda self: self.base"),
    "old settings lost": (history, "panel", "set", "lambda values: None"),
    "line stays": (compare, "parts", "compare_html", "lambda a, b, at, *more: kept(a, b, 0.5, *more)"),
    "slider dead": (interpolation, "slider", "_image", "lambda t, image=slider.image: image"),
    "undo is dead": (shapes, "canvas", "undo", "lambda: None"),
    "feather ignored": (shapes, "masks", "feather", "lambda mask, sigma: mask"),
    "truncation ignored": (truncation, "generator", "map", "lambda z, truncation: kept(z, 0.7)"),
}


@pytest.mark.parametrize(
    "check",
    [check if check in SHORT else pytest.param(check, marks=pytest.mark.long) for check in CHECKS],
    ids=lambda check: check.__name__,
)
def test_a_sound_panel(lab, check):
    check(lab)


@pytest.mark.parametrize("width", [1280, 800])
def test_the_page_is_tidy(lab, width):
    """Nothing reaches over its output, no widget is empty, no label is cut off, with the list of files open."""
    lab.page.evaluate("jupyterapp.commands.execute('filebrowser:activate')")
    lab.page.set_viewport_size({"width": width, "height": 1000})
    comes(lab, lambda: lab.page.evaluate(UNTIDY) == [], "something is clipped")
    assert not lab.page.locator(".jp-OutputArea-output.jp-mod-error").count()
    lab.page.set_viewport_size({"width": 1280, "height": 1000})


def test_start_and_the_result_are_seen_at_once(lab):
    lab.page.set_viewport_size({"width": 1280, "height": 1000})
    start = lab.page.locator(f"{AREA} button:text-is('Start')")
    start.scroll_into_view_if_needed()
    button, picture = start.bounding_box(), lab.page.locator(f"{AREA} img").first.bounding_box()
    assert abs(picture["y"] - button["y"]) + picture["height"] < 500 and picture["width"] >= 256


def test_a_log_slider_reads_its_value_to_a_screen_reader(lab):
    if lab.kind == "core":
        pytest.skip("core widgets name the number of the stop")
    handle = lab.control("perceptual").locator(".noUi-handle")
    comes(lab, lambda: handle.get_attribute("aria-valuetext") == "0.1", "it is not read")
    handle.press("ArrowRight")
    comes(lab, lambda: handle.get_attribute("aria-valuetext") == "0.2", "the new value is not read")
    lab.press("Reset")


def test_a_photo_is_uploaded_and_cropped(lab, tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.linear_gradient("L").resize((300, 200)).save(tmp_path / "gradient.png")
    (tmp_path / "notes.png").write_text("no picture")
    area = lab.page.locator(".own-upload")
    lab.choose_file("Upload a photo", tmp_path / "gradient.png", root=".own-upload")
    comes(lab, lambda: lab.kernel("upload.image is not None"), "the photo did not come")
    assert lab.kernel("[*upload.image.shape, *upload.box]") == [1, 3, 64, 64, 50, 0, 250, 200]

    def smaller():  # a page that is still being laid out may miss the first try
        if lab.kind == "core":
            lab.drag("size", 0.4)
        else:
            lab.stroke([(0.5, 0.5), (-4, -4)], ".own-upload .handle")
        lab.page.wait_for_timeout(500)
        return lab.kernel("upload.box[2] - upload.box[0]") < 190

    comes(lab, smaller, "the crop box stays")
    lab.choose_file("Upload a photo", tmp_path / "notes.png", root=".own-upload")
    comes(lab, lambda: area.get_by_role("alert").count(), "nothing is said of the bad file")
    assert "notes.png" in area.get_by_role("alert").inner_text()
    lab.screenshot(OUTPUT / f"upload-{lab.kind}.png", ".own-upload")


@pytest.mark.long
def test_a_state_is_saved_and_loaded_after_a_reload(lab):
    lab.press("Perceptual only")
    start(lab)
    stop(lab)
    lab.tab("Save")
    lab.press("State")
    link = lab.page.locator(f"{AREA} a[download$='.safetensors']")
    link.wait_for()
    with lab.page.expect_download() as download:
        link.click()
    path = Path(download.value.path())
    code = lab.kernel("panel.result.latents.code.sum().item()")
    lab.press("Reset")
    comes(lab, lambda: lab.kernel("panel.settings['weights']['l1']") == 1, "Reset did nothing")
    lab.reload()
    lab.page.locator(f"{AREA} img").first.wait_for()
    lab.tab("Save")
    file = path.with_name("saved.safetensors")
    file.write_bytes(path.read_bytes())
    lab.choose_file("Load state", file)
    wanted = {"l1": 0.0, "perceptual": 1.0, "delta": 0.0}
    comes(lab, lambda: lab.kernel("panel.settings['weights']") == wanted, "the settings did not come back")
    comes(lab, lambda: shown(lab)[0] == "restored", "the picture did not come back")
    assert lab.kernel("panel.state().latents.code.sum().item()") == pytest.approx(code)
    lab.press("Reset")
    frames(lab)  # it runs on after the reload


@pytest.mark.long
@pytest.mark.parametrize("name", FAULTS)
def test_the_check_finds_a_planted_fault(lab, name):
    check, *fault = FAULTS[name]
    if check is shapes and lab.kind != "core":
        pytest.skip("needs the canvas of core widgets")
    with planted(lab, *fault), pytest.raises(AssertionError):
        check(lab)
    lab.kernel("panel.stop()")
    comes(lab, lambda: not lab.kernel("panel.alive"), "the run does not end")
    lab.press("Reset")
