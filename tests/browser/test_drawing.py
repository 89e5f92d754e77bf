"""The drawing canvas in JupyterLab: strokes by mouse and touch, and the kernel's arrays after them."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from tests.support.jupyter_driver import Lab, write_notebook

pytestmark = pytest.mark.browser
OUTPUT = Path(__file__).resolve().parents[2] / "output" / "browser"
PATIENCE = 60  # seconds
ZIGZAG = [(0.2, 0.25), (0.75, 0.3), (0.3, 0.7), (0.7, 0.75)]
TRIANGLE = [(0.2, 0.2), (0.85, 0.4), (0.35, 0.9)]

SETUP = """
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
"""


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
        assert self.lab.wait(lambda: self.heard() > before, PATIENCE), "the kernel heard nothing"

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
        assert self.lab.wait(lambda: not self.ink().any(), PATIENCE)
        pressed = self.find("button[aria-pressed=true]")
        assert self.lab.wait(lambda: pressed.all_inner_texts() == ["Brush"], PATIENCE)

    def ink(self):
        """Opacity (64, 64) in [0, 1] of what the page shows over the photo."""
        return pixels(self.find("canvas.layer").evaluate("canvas => canvas.toDataURL()"))[..., 3]


def pixels(url):
    """An image's URL as an array (H, W, 4) in [0, 1]."""
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as image:
        return np.asarray(image.convert("RGBA")) / 255


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    cells = [SETUP, 'canvas = make("canvas")\ncanvas', 'sketch = make("sketch", mode="sketch")\nsketch']
    with Lab(write_notebook(tmp_path_factory.mktemp("lab") / "drawing.ipynb", *cells)) as lab:
        lab.run_all()
        lab.page.locator(".sketch .stage").wait_for()
        yield lab


@pytest.fixture
def page(lab):
    page = Page(lab, "canvas")
    page.clean()
    return page


@pytest.mark.parametrize("kind", ["stroke", "touch"])
def test_mouse_and_touch(page, kind):
    page.does(getattr(page.lab, kind), ZIGZAG, selector=page.stage)
    assert page.iou(ideal(ZIGZAG)) >= 0.98


def test_pen(page):
    page.lab.page.evaluate("addEventListener('pointerdown', (event) => window.kind = event.pointerType, true)")
    page.does(page.lab.pen, ZIGZAG, page.stage)
    assert page.lab.page.evaluate("kind") == "pen" and page.iou(ideal(ZIGZAG)) >= 0.98


def test_opacity(page):
    """The slider lets the photo shine through; the mask stays what it is."""
    page.stroke(ZIGZAG)
    page.slide("Opacity", 0.25)
    assert float(page.find("canvas.layer").evaluate("e => getComputedStyle(e).opacity")) == 0.25
    assert page.iou(ideal(ZIGZAG)) >= 0.98
    page.slide("Opacity", 0.6)


def test_dot(page):
    page.stroke([(0.5, 0.5)])
    assert page.iou(ideal([(0.5, 0.5)])) >= 0.9  # small, so its edge counts


def test_eraser(page):
    page.stroke(ZIGZAG)
    page.press("Eraser")
    page.stroke([(0.5, 0.1), (0.5, 0.9)])
    assert page.iou(f"{ideal(ZIGZAG)} * (1 - {ideal([(0.5, 0.1), (0.5, 0.9)])})") >= 0.98


def test_lasso(page):
    page.press("Lasso")
    page.stroke(TRIANGLE)
    assert page.iou(f"masks.polygon(64, {TRIANGLE})") >= 0.98


def test_rectangle(page):
    page.press("Rectangle")
    page.stroke([(0.8, 0.2), (0.3, 0.6)])
    assert page.iou("masks.box(64, (0.3, 0.2, 0.8, 0.6))") >= 0.98


def test_undo(page):
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


def test_invert(page):
    page.stroke(ZIGZAG)
    page.does(page.press, "Invert")
    assert page.iou(f"1 - {ideal(ZIGZAG)}") >= 0.98
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


def test_background(page):
    """The photo is under the drawing, as it is."""
    photo = page.find("img.photo")
    expected = page.kernel("photo[0].permute(1, 2, 0).tolist()")
    assert photo.get_attribute("src") and photo.is_visible()
    assert np.abs(pixels(photo.get_attribute("src"))[..., :3] - np.array(expected)).max() < 0.01


def test_zoom(page):
    """Where the stroke lands does not depend on the zoom."""
    page.press("+")
    page.press("+")
    page.lab.stroke([(0.4, 0.45), (0.6, 0.55)], page.stage, release=False)  # both in the middle, so both are seen
    page.does(page.lab.page.mouse.up)
    page.press("−")
    page.press("−")
    assert page.iou(ideal([(0.4, 0.45), (0.6, 0.55)])) >= 0.96


def test_pinch(page):
    """Two fingers zoom and leave no ink."""
    width = page.lab.page.locator(page.stage).bounding_box()["width"]
    page.lab.touch([(0.4, 0.5), (0.2, 0.5)], [(0.6, 0.5), (0.8, 0.5)], selector=page.stage)
    assert page.lab.page.locator(page.stage).bounding_box()["width"] > 1.5 * width
    assert not page.ink().any() and page.kernel("canvas.mask().max().item()") == 0
    for _ in range(6):
        page.press("−")


def test_kernel_draws(page):
    """What the kernel sets is shown, and a stroke continues from there."""
    page.kernel("canvas.set_mask(masks.half(64))")
    assert page.lab.wait(lambda: page.ink()[:, :32].all() and not page.ink()[:, 32:].any(), PATIENCE)
    page.stroke([(0.7, 0.5)])
    assert page.iou(f"masks.union(masks.half(64), {ideal([(0.7, 0.5)])})") >= 0.98


def test_one_message_for_a_stroke(lab, page):
    lab.sent.clear()
    page.stroke(ZIGZAG, moves=40)
    messages = [text for text in lab.sent if "comm_msg" in text]
    assert len(messages) == 1 and len(messages[0]) < 10_000


def test_ink_flows_while_the_kernel_is_busy(lab, page):
    before = page.heard()
    with lab.busy():
        lab.stroke(ZIGZAG, page.stage)
        assert page.ink().sum() > 100
        lab.stroke([(0.1, 0.9), (0.9, 0.9)], page.stage)
    assert lab.wait(lambda: page.heard() > before, PATIENCE)
    both = f"masks.union({ideal(ZIGZAG)}, {ideal([(0.1, 0.9), (0.9, 0.9)])})"
    assert lab.wait(lambda: page.iou(both) >= 0.98, PATIENCE)


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


def test_a_file_is_opened(lab, page, tmp_path):
    half = np.zeros((32, 32), np.uint8)
    half[:, :16] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    page.does(lab.choose_file, "Open", tmp_path / "half.png", root=page.root)
    assert page.iou("masks.half(64)") >= 0.95  # the browser smooths what it enlarges
    (tmp_path / "bad.png").write_text("no picture")
    lab.choose_file("Open", tmp_path / "bad.png", root=page.root)
    note = page.find(".note")
    assert lab.wait(lambda: note.inner_text() == "bad.png is not an image.", PATIENCE)


def test_an_error_of_a_callback_is_shown(page):
    page.kernel("setattr(canvas, 'message', 'ZeroDivisionError')")
    note = page.find(".note")
    assert page.lab.wait(lambda: "ZeroDivisionError" in note.inner_text(), PATIENCE)
    page.stroke(ZIGZAG)
    assert page.lab.wait(lambda: note.inner_text() == "", PATIENCE)


def test_a_drawing_is_there_after_a_reload(lab, page):
    """Must be last: the page is another afterwards."""
    page.stroke(ZIGZAG)
    lab.reload()
    lab.page.locator(page.stage).wait_for()
    assert lab.wait(lambda: page.ink().sum() > 100, PATIENCE)
    assert np.abs(page.ink() - np.array(page.kernel("canvas.mask()[0, 0].tolist()"))).max() < 0.01
    page.stroke([(0.1, 0.9), (0.9, 0.9)])
    both = f"masks.union({ideal(ZIGZAG)}, {ideal([(0.1, 0.9), (0.9, 0.9)])})"
    assert page.iou(both) >= 0.98
