"""The drawing canvas and the panel of the first lesson in JupyterLab, by mouse, touch and keys."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from tests.support.jupyter_driver import UNTIDY, Lab, needs_browser, write_notebook
from tests.support.waiting import until

pytestmark = [pytest.mark.browser, needs_browser]
OUTPUT = Path(__file__).resolve().parents[2] / "output" / "browser"
AREA = ".inversion-panel"
ZIGZAG = [(0.2, 0.25), (0.75, 0.3), (0.3, 0.7), (0.7, 0.75)]
TRIANGLE = [(0.2, 0.2), (0.85, 0.4), (0.35, 0.9)]

CELLS = [
    """
import os, tempfile
os.environ["OMP_NUM_THREADS"] = "1"
import torch
from helpers import masks
from helpers.widgets.canvas import DrawingCanvas

rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
photo = torch.stack([rows, columns, (rows > columns).float()])[None]
changes = {}

def make(name, mode="mask"):
    canvas = DrawingCanvas(photo, mode)
    canvas.brush = 12.0
    canvas.add_class(name)
    changes[name] = 0
    canvas.on_change(lambda _: changes.update({name: changes[name] + 1}))
    return canvas

def iou(canvas, ideal):
    mask = canvas.mask()
    return (torch.minimum(mask, ideal).sum() / torch.maximum(mask, ideal).sum().clamp_min(1)).item()
""",
    'canvas = make("canvas")\ncanvas',
    'sketch = make("sketch", mode="sketch")\nsketch',
    """
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
    "truncation_slider(generator)",
    "upload = PhotoUpload(64)\nupload.add_class('own-upload')",
]


def ideal(points):
    return f"masks.brush(64, {points}, 12 / 64)"


class Page:
    """One canvas of the notebook: a name in the kernel, a class in the page."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.stage, self.root = f".{name} .stage", f".{name} .drawing-canvas"

    def kernel(self, expression):
        return self.lab.kernel(expression.replace("canvas", self.name))

    def find(self, selector):
        return self.lab.page.locator(f"{self.root} {selector}")

    def heard(self):
        return self.kernel(f"changes['{self.name}']")

    def does(self, action, *arguments, **options):
        """Do something that the kernel must hear of."""
        before = self.heard()
        action(*arguments, **options)
        until(lambda: self.heard() > before, "the kernel heard nothing")

    def stroke(self, points, **options):
        self.does(self.lab.stroke, points, self.stage, **options)

    def press(self, text):
        self.find(f"button:text-is('{text}')").click()

    def key(self, keys):
        self.lab.page.locator(self.root).focus()
        self.lab.page.keyboard.press(keys)

    def slide(self, label, value):
        """Drag a slider without letting it go."""
        handle = self.find(f"label:has-text('{label}') input")
        handle.evaluate("(e, value) => { e.value = value; e.dispatchEvent(new Event('input')); }", value)
        return handle

    def iou(self, ideal):
        return self.kernel(f"iou(canvas, {ideal})")

    def clean(self):
        """An empty canvas with the brush, as it was at first."""
        self.kernel("[setattr(canvas, 'erase', False), setattr(canvas, 'tool', 'brush'), "
                    "setattr(canvas, 'feather', 0.0), canvas.clear(), canvas.send({'do': 'redo'})]")  # fmt: skip
        until(lambda: not self.ink().any())
        pressed = self.find("button[aria-pressed=true]")
        until(lambda: pressed.all_inner_texts() == ["Brush"])

    def ink(self):
        """Opacity (64, 64) in [0, 1] of what the page shows over the photo."""
        return pixels(self.find("canvas.layer").evaluate("canvas => canvas.toDataURL()"))[..., 3]


def pixels(url):
    """An image's URL as an array (H, W, 4) in [0, 1]."""
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as image:
        return np.asarray(image.convert("RGBA")) / 255


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with Lab(write_notebook(tmp_path_factory.mktemp("lab") / "widgets.ipynb", *CELLS), timeout=90) as lab:
        lab.run_all()
        lab.page.locator(".sketch .stage").wait_for()
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
    until(lambda: shown_step(lab), "no frame was shown")


def stop(lab):
    lab.press("Stop")
    until(lambda: shown(lab)[0] == "best result", "Stop did nothing")


def test_frames(lab):
    """The images follow the run, and never show what has not happened."""
    start(lab)
    title, source = shown(lab)  # together: on a busy machine the next frame may come between two looks
    until(lambda: shown_step(lab) > int(title.split()[1]) + 5, "the frames do not change")
    later = shown_step(lab)
    assert shown(lab)[1] != source and later <= lab.kernel("len(panel.job.history)")
    lab.screenshot(OUTPUT / "panel-running.png", AREA)
    stop(lab)
    assert lab.kernel("panel.job.state") == "stopped"


def test_weights(lab):
    """A slider changes the objective under way."""
    start(lab)
    lab.drag("perceptual", 1.0)
    weight = "panel.job.iterator.criterion.weights['perceptual']"
    until(lambda: lab.kernel(weight) == 100, "the weight is the old one")
    number = lab.kernel("len(panel.job.history)")
    until(lambda: lab.kernel("len(panel.job.history)") > number + 1, "the run does not continue")
    stop(lab)
    lab.press("Reset")
    until(lambda: lab.kernel("panel.settings['weights']['perceptual']") == 0.1, "Reset did nothing")


def test_pause(lab):
    """Pause halts, Continue continues, Stop ends it and keeps the best."""
    start(lab)
    lab.press("Pause")
    until(lambda: "paused" in lab.page.inner_text("body"), "the page does not say that it pauses")
    number = lab.kernel("panel.job.call(lambda: len(panel.job.history)).result()")  # between two steps
    assert [lab.kernel("len(panel.job.history)") for _ in range(20)] == [number] * 20, "it continues in its pause"
    lab.press("Continue")
    until(lambda: lab.kernel("len(panel.job.history)") > number + 2, "it does not continue")
    stop(lab)
    assert "the best is kept" in lab.page.inner_text("body")
    assert lab.kernel("panel.job.state == 'stopped' and panel.result.steps == len(panel.job.history) < 1000")


def test_interpolation_and_a_log_slider_that_is_read_to_a_screen_reader(lab):
    image = lab.page.locator(".between img").nth(1)
    before = image.get_attribute("src")
    lab.drag("t", 0.9)
    until(lambda: abs(lab.kernel("slider.controls[0].value") - 0.9) < 0.03, "t does not follow the handle")
    title = f"t = {lab.kernel('slider.controls[0].value'):.2f}"
    until(lambda: image.get_attribute("alt") == title, "the image is of another t")
    assert image.get_attribute("src") != before, "the image stays"
    lab.screenshot(OUTPUT / "slider.png", ".between")
    handle = lab.control("perceptual").locator(".noUi-handle")
    until(lambda: handle.get_attribute("aria-valuetext") == "0.1", "it is not read")
    handle.press("ArrowRight")
    until(lambda: handle.get_attribute("aria-valuetext") == "0.2", "the new value is not read")
    lab.press("Reset")


@pytest.mark.parametrize("width", [1280, 800])
def test_the_page_is_tidy(lab, width):
    """No widget is empty or cut off, with the list of files open; Start and the result are seen at once."""
    lab.page.evaluate("jupyterapp.commands.execute('filebrowser:activate')")
    lab.page.set_viewport_size({"width": width, "height": 1000})
    until(lambda: lab.page.evaluate(UNTIDY) == [], "something is clipped")
    assert not lab.page.locator(".jp-OutputArea-output.jp-mod-error").count()
    lab.page.set_viewport_size({"width": 1280, "height": 1000})
    button = lab.page.locator(f"{AREA} button:text-is('Start')")
    button.scroll_into_view_if_needed()
    place, image = button.bounding_box(), lab.page.locator(f"{AREA} img").first.bounding_box()
    assert abs(image["y"] - place["y"]) + image["height"] < 500 and image["width"] >= 256


def test_a_photo_is_uploaded_and_cropped(lab, tmp_path):
    Image.linear_gradient("L").resize((300, 200)).save(tmp_path / "gradient.png")
    (tmp_path / "notes.png").write_text("not an image")
    lab.choose_file("Upload a photo", tmp_path / "gradient.png", root=".own-upload")
    until(lambda: lab.kernel("upload.image is not None"), "the photo did not come")
    assert lab.kernel("[*upload.image.shape, *upload.cropper.box]") == [1, 3, 64, 64, 50, 0, 250, 200]

    def smaller():  # a page that is still being laid out may miss the first try
        lab.stroke([(0.5, 0.5), (-4, -4)], ".own-upload .handle")
        lab.page.wait_for_timeout(500)
        return lab.kernel("upload.cropper.box[2] - upload.cropper.box[0]") < 190

    until(smaller, "the crop box stays")
    lab.choose_file("Upload a photo", tmp_path / "notes.png", root=".own-upload")
    alert = lab.page.locator(".own-upload").get_by_role("alert")
    until(lambda: alert.count() and "notes.png" in alert.inner_text(), "the bad file is not named")
    lab.screenshot(OUTPUT / "upload.png", ".own-upload")


@pytest.fixture
def page(lab):
    page = Page(lab, "canvas")
    page.clean()
    return page


@pytest.mark.parametrize(("action", "kind"), [("stroke", "mouse"), ("touch", "touch"), ("pen", "pen")])
def test_mouse_touch_and_pen(page, action, kind):
    page.lab.page.evaluate("addEventListener('pointerdown', (event) => window.kind = event.pointerType, true)")
    page.does(getattr(page.lab, action), ZIGZAG, selector=page.stage)
    assert page.lab.page.evaluate("kind") == kind and page.iou(ideal(ZIGZAG)) >= 0.98


def test_opacity_eraser_and_dot(page):
    page.stroke(ZIGZAG)
    page.slide("Opacity", 0.25)  # the photo shines through; the mask stays what it is
    assert float(page.find("canvas.layer").evaluate("e => getComputedStyle(e).opacity")) == 0.25
    assert page.iou(ideal(ZIGZAG)) >= 0.98
    page.slide("Opacity", 0.6)
    page.clean()
    page.stroke([(0.5, 0.5)])
    assert page.iou(ideal([(0.5, 0.5)])) >= 0.9  # small, so its edge counts
    page.stroke(ZIGZAG)
    page.press("Eraser")
    page.stroke([(0.5, 0.1), (0.5, 0.9)])
    assert page.iou(f"{ideal(ZIGZAG)} * (1 - {ideal([(0.5, 0.1), (0.5, 0.9)])})") >= 0.98


@pytest.mark.parametrize(
    ("tool", "points", "shape"),
    [
        ("Lasso", TRIANGLE, f"masks.polygon(64, {TRIANGLE})"),
        ("Rectangle", [(0.8, 0.2), (0.3, 0.6)], "masks.box(64, (0.3, 0.2, 0.8, 0.6))"),
    ],
)
def test_lasso_and_rectangle(page, tool, points, shape):
    page.press(tool)
    page.stroke(points)
    assert page.iou(shape) >= 0.98


def test_undo_invert_and_clear(page):
    page.stroke(ZIGZAG[:2])
    page.stroke(ZIGZAG[2:])
    page.does(page.key, "Control+z")
    assert page.iou(ideal(ZIGZAG[:2])) >= 0.98
    page.does(page.press, "Undo")
    assert page.kernel("canvas.mask().max().item()") == 0
    page.does(page.press, "Redo")
    page.does(page.key, "Control+Shift+Z")
    both = f"masks.union({ideal(ZIGZAG[:2])}, {ideal(ZIGZAG[2:])})"
    assert page.iou(both) >= 0.98
    page.does(page.press, "Invert")
    assert page.iou(f"1 - {both}") >= 0.98
    page.does(page.press, "Clear")
    assert page.kernel("canvas.mask().max().item()") == 0


def test_feather(page):
    page.stroke(ZIGZAG)
    heard, ink = page.heard(), page.ink()
    handle = page.slide("Feather", 2)
    assert np.abs(page.ink() - ink).max() > 0.1 and page.heard() == heard
    page.does(handle.evaluate, "e => e.dispatchEvent(new Event('change'))")
    assert page.iou(f"masks.feather({ideal(ZIGZAG)}, 2)") >= 0.98
    assert np.abs(page.ink() - np.array(page.kernel("canvas.mask()[0, 0].tolist()"))).max() < 0.01


def test_the_kernel_draws(page):
    """The photo is under the drawing, as it is; what the kernel sets is shown, and a stroke continues from there."""
    photo = page.find("img.photo")
    expected = page.kernel("photo[0].permute(1, 2, 0).tolist()")
    assert photo.get_attribute("src") and photo.is_visible()
    assert np.abs(pixels(photo.get_attribute("src"))[..., :3] - np.array(expected)).max() < 0.01
    page.kernel("canvas.set_mask(masks.half(64))")
    until(lambda: page.ink()[:, :32].all() and not page.ink()[:, 32:].any())
    page.stroke([(0.7, 0.5)])
    assert page.iou(f"masks.union(masks.half(64), {ideal([(0.7, 0.5)])})") >= 0.98


def test_zoom_and_pinch(page):
    """Where the stroke lands does not depend on the zoom; two fingers zoom and leave no ink."""
    page.press("+")
    page.press("+")
    page.lab.stroke([(0.4, 0.45), (0.6, 0.55)], page.stage, release=False)  # both in the middle, so both are seen
    page.does(page.lab.page.mouse.up)
    page.press("−")
    page.press("−")
    assert page.iou(ideal([(0.4, 0.45), (0.6, 0.55)])) >= 0.96
    page.clean()
    width = page.lab.page.locator(page.stage).bounding_box()["width"]
    page.lab.touch([(0.4, 0.5), (0.2, 0.5)], [(0.6, 0.5), (0.8, 0.5)], selector=page.stage)
    assert page.lab.page.locator(page.stage).bounding_box()["width"] > 1.5 * width
    assert not page.ink().any() and page.kernel("canvas.mask().max().item()") == 0
    for _ in range(6):
        page.press("−")


def test_one_message_for_a_stroke_and_ink_while_the_kernel_is_busy(lab, page):
    lab.sent.clear()
    page.stroke(ZIGZAG, moves=40)
    messages = [text for text in lab.sent if "comm_msg" in text]
    assert len(messages) == 1 and len(messages[0]) < 10_000
    page.clean()
    before = page.heard()
    with lab.busy():
        lab.stroke(ZIGZAG, page.stage)
        assert page.ink().sum() > 100
        lab.stroke([(0.1, 0.9), (0.9, 0.9)], page.stage)
    until(lambda: page.heard() > before)
    both = f"masks.union({ideal(ZIGZAG)}, {ideal([(0.1, 0.9), (0.9, 0.9)])})"
    until(lambda: page.iou(both) >= 0.98)


def test_a_sketch_has_colours_of_the_photo(lab):
    page = Page(lab, "sketch")
    swatch = page.find(".swatches button").nth(4)
    swatch.click()
    page.stroke([(0.25, 0.25)])
    pixel = page.kernel("canvas.rgba()[16, 16].tolist()")
    assert "#{:02x}{:02x}{:02x}".format(*pixel[:3]) == swatch.get_attribute("title") and pixel[3] == 255
    assert swatch.get_attribute("title") in page.kernel("canvas.palette")
    page.press("Pick")
    lab.stroke([(0.2, 0.8)], page.stage)  # rows 0.8, columns 0.2, below the diagonal
    page.stroke([(0.75, 0.25)])
    assert np.abs(np.array(page.kernel("canvas.rgba()[16, 48].tolist()")) / 255 - [0.8, 0.2, 1, 1]).max() < 0.03
    lab.screenshot(OUTPUT / "canvas-sketch.png", page.root)


def test_a_file_is_opened_and_errors_are_shown(lab, page, tmp_path):
    half = np.zeros((32, 32), np.uint8)
    half[:, :16] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    page.does(lab.choose_file, "Open", tmp_path / "half.png", root=page.root)
    assert page.iou("masks.half(64)") >= 0.95  # the browser smooths what it enlarges
    (tmp_path / "bad.png").write_text("no picture")
    lab.choose_file("Open", tmp_path / "bad.png", root=page.root)
    note = page.find(".note")
    until(lambda: note.inner_text() == "bad.png is not an image.")
    page.kernel("setattr(canvas, 'message', 'ZeroDivisionError')")  # as an error of a callback is shown
    until(lambda: "ZeroDivisionError" in note.inner_text())
    page.stroke(ZIGZAG)
    until(lambda: note.inner_text() == "")


def test_a_drawing_is_there_after_a_reload(lab, page):
    """Must be last: the page is another afterwards."""
    page.stroke(ZIGZAG)
    lab.reload()
    lab.page.locator(page.stage).wait_for()
    until(lambda: page.ink().sum() > 100)
    assert np.abs(page.ink() - np.array(page.kernel("canvas.mask()[0, 0].tolist()"))).max() < 0.01
    page.stroke([(0.1, 0.9), (0.9, 0.9)])
    both = f"masks.union({ideal(ZIGZAG)}, {ideal([(0.1, 0.9), (0.9, 0.9)])})"
    assert page.iou(both) >= 0.98
