"""The drawing canvas in JupyterLab: strokes by mouse and touch, and the kernel's arrays after them.

Each check is run on a sound canvas, and on canvases with a planted fault, which it must find.
"""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from staff.benchmarks.jupyter_driver import Lab, write_notebook

pytestmark = pytest.mark.browser
OUTPUT = Path(__file__).resolve().parents[2] / "output" / "browser"
PATIENCE = 60  # seconds; a fault is given up sooner
ZIGZAG = [(0.2, 0.25), (0.75, 0.3), (0.3, 0.7), (0.7, 0.75)]
TRIANGLE = [(0.2, 0.2), (0.85, 0.4), (0.35, 0.9)]

SETUP = """
import torch
from helpers import masks
from helpers.photos import demo_cat
from helpers.widgets.canvas import DrawingCanvas, photo_palette

rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
photo = torch.stack([rows, columns, (rows > columns).float()])[None]
sound, changes = DrawingCanvas._esm, {}

def make(name, old="", new="", mode="mask", photo=photo):
    code = str(sound)
    assert old in code, old
    DrawingCanvas._esm = code.replace(old, new) if old else code
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

    def __init__(self, lab, name, patience=PATIENCE):
        self.lab, self.name, self.patience = lab, name, patience
        self.stage, self.root = f".{name} .stage", f".{name} .drawing-canvas"

    def kernel(self, expression):
        return self.lab.kernel(expression.replace("canvas", self.name))

    def heard(self):
        return self.kernel(f"changes['{self.name}']")

    def does(self, action, *arguments, **options):
        """Do something that the kernel must hear of."""
        before = self.heard()
        action(*arguments, **options)
        assert self.lab.wait(lambda: self.heard() > before, self.patience), "the kernel heard nothing"

    def stroke(self, points, **options):
        self.does(self.lab.stroke, points, self.stage, **options)

    def touch(self, *fingers):
        self.does(self.lab.touch, *fingers, selector=self.stage)

    def press(self, text):
        self.lab.page.locator(f"{self.root} button:text-is('{text}')").click()

    def key(self, keys):
        self.lab.page.locator(self.root).focus()
        self.lab.page.keyboard.press(keys)

    def iou(self, ideal):
        return self.kernel(f"iou(canvas, {ideal})")

    def clean(self):
        """An empty canvas with the brush, as it was at first."""
        self.kernel("[setattr(canvas, 'erase', False), setattr(canvas, 'tool', 'brush'), "
                    "setattr(canvas, 'feather', 0.0), canvas.clear(), canvas.send({'do': 'redo'})]")  # fmt: skip
        assert self.lab.wait(lambda: not self.ink().any(), PATIENCE)
        pressed = f"{self.root} button[aria-pressed=true]"
        assert self.lab.wait(lambda: self.lab.page.locator(pressed).all_inner_texts() == ["Brush"], PATIENCE)

    def ink(self):
        """Opacity (64, 64) in [0, 1] of what the page shows over the photo."""
        url = self.lab.page.locator(f".{self.name} canvas.layer").evaluate("canvas => canvas.toDataURL()")
        with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as image:
            return np.asarray(image.convert("RGBA"))[..., 3] / 255


# --- checks ----------------------------------------------------------------------------------------------------------


def mouse(page):
    page.stroke(ZIGZAG)
    assert page.iou(ideal(ZIGZAG)) >= 0.98


def touch(page):
    page.touch(ZIGZAG)
    assert page.iou(ideal(ZIGZAG)) >= 0.98


def pen(page):
    kinds = (
        "() => { window.kinds = new Set(); addEventListener('pointerdown', (e) => kinds.add(e.pointerType), true); }"
    )
    page.lab.page.evaluate(kinds)
    page.does(page.lab.pen, ZIGZAG, page.stage)
    assert page.lab.page.evaluate("[...kinds]") == ["pen"]
    assert page.iou(ideal(ZIGZAG)) >= 0.98


def opacity(page):
    """The slider lets the photo shine through; the mask stays what it is."""
    page.stroke(ZIGZAG)
    layer = page.lab.page.locator(f".{page.name} canvas.layer")
    handle = page.lab.page.locator(f"{page.root} label:has-text('Opacity') input")
    handle.evaluate("e => { e.value = 0.25; e.dispatchEvent(new Event('input')); }")
    assert float(layer.evaluate("e => getComputedStyle(e).opacity")) == 0.25
    assert page.iou(ideal(ZIGZAG)) >= 0.98
    handle.evaluate("e => { e.value = 0.6; e.dispatchEvent(new Event('input')); }")


def dot(page):
    page.stroke([(0.5, 0.5)])
    assert page.iou(ideal([(0.5, 0.5)])) >= 0.9  # small, so its edge counts


def eraser(page):
    page.stroke(ZIGZAG)
    page.press("Eraser")
    page.stroke([(0.5, 0.1), (0.5, 0.9)])
    assert page.iou(f"{ideal(ZIGZAG)} * (1 - {ideal([(0.5, 0.1), (0.5, 0.9)])})") >= 0.98


def lasso(page):
    page.press("Lasso")
    page.stroke(TRIANGLE)
    assert page.iou(f"masks.polygon(64, {TRIANGLE})") >= 0.98


def rectangle(page):
    page.press("Rectangle")
    page.stroke([(0.8, 0.2), (0.3, 0.6)])
    assert page.iou("masks.box(64, (0.3, 0.2, 0.8, 0.6))") >= 0.98


def undo(page):
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


def invert(page):
    page.stroke(ZIGZAG)
    page.does(page.press, "Invert")
    assert page.iou(f"1 - {ideal(ZIGZAG)}") >= 0.98
    page.does(page.press, "Clear")
    assert page.kernel("canvas.mask().max().item()") == 0


def feather(page):
    page.stroke(ZIGZAG)
    handle = page.lab.page.locator(f"{page.root} label:has-text('Feather') input")
    heard, ink = page.heard(), page.ink()
    handle.evaluate("e => { e.value = 2; e.dispatchEvent(new Event('input')); }")  # dragged, not let go
    assert np.abs(page.ink() - ink).max() > 0.1 and page.heard() == heard
    page.does(handle.evaluate, "e => e.dispatchEvent(new Event('change'))")
    assert page.iou(f"masks.feather({ideal(ZIGZAG)}, 2)") >= 0.98
    assert np.abs(page.ink() - np.array(page.kernel("canvas.mask()[0, 0].tolist()"))).max() < 0.01


def background(page):
    """The photo is under the drawing, as it is."""
    url = page.lab.page.locator(f".{page.name} img.photo").get_attribute("src")
    assert url
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as image:
        seen = np.asarray(image) / 255
    assert np.abs(seen - np.array(page.kernel("photo[0].permute(1, 2, 0).tolist()"))).max() < 0.01
    assert page.lab.page.locator(f".{page.name} img.photo").is_visible()


def zoom(page):
    """Where the stroke lands does not depend on the zoom."""
    page.press("+")
    page.press("+")
    page.lab.stroke([(0.4, 0.45), (0.6, 0.55)], page.stage, release=False)  # both in the middle, so both are seen
    page.does(page.lab.page.mouse.up)
    page.press("−")
    page.press("−")
    assert page.iou(ideal([(0.4, 0.45), (0.6, 0.55)])) >= 0.96


def pinch(page):
    """Two fingers zoom and leave no ink."""
    width = page.lab.page.locator(page.stage).bounding_box()["width"]
    page.lab.touch([(0.4, 0.5), (0.2, 0.5)], [(0.6, 0.5), (0.8, 0.5)], selector=page.stage)
    assert page.lab.page.locator(page.stage).bounding_box()["width"] > 1.5 * width
    assert not page.ink().any() and page.kernel("canvas.mask().max().item()") == 0
    for _ in range(6):
        page.press("−")


def kernel_draws(page):
    """What the kernel sets is shown, and a stroke continues from there."""
    page.kernel("canvas.set_mask(masks.half(64))")
    assert page.lab.wait(lambda: page.ink()[:, :32].all() and not page.ink()[:, 32:].any(), page.patience)
    page.stroke([(0.7, 0.5)])
    assert page.iou(f"masks.union(masks.half(64), {ideal([(0.7, 0.5)])})") >= 0.98


CHECKS = [mouse, touch, pen, dot, eraser, lasso, rectangle, undo, invert, feather, opacity]
CHECKS += [background, zoom, pinch, kernel_draws]
FAULTS = {  # what is changed in canvas.js, and the check that must find it
    "mouse_dead": (mouse, 'addEventListener("pointermove"', 'addEventListener("nothing"'),
    "shifted": (mouse, "event.clientX - box.left", "event.clientX - box.left + 9"),
    "thin": (mouse, 'pen.lineWidth = model.get("brush")', 'pen.lineWidth = model.get("brush") - 1'),
    "unsaved": (mouse, "    model.save_changes();\n    refresh();\n  };\n  const remember", "  };\n  const remember"),
    "touch_off": (touch, "if (event.button !== 0", 'if (event.pointerType === "touch" || event.button !== 0'),
    "pen_off": (pen, "if (event.button !== 0", 'if (event.pointerType === "pen" || event.button !== 0'),
    "opaque": (opacity, 'shown.style.opacity = model.get("opacity")', "shown.style.opacity = 1"),
    "no_dots": (dot, "[[x, y + 0.001], ...points]", "points"),
    "eraser_off": (eraser, 'cutting ? "destination-out" :', ""),
    "lasso_line": (lasso, 'if (model.get("tool") === "brush") pen.stroke()', "if (true) pen.stroke()"),
    "box_line": (rectangle, 'if (model.get("tool") === "rectangle")', "if (false)"),
    "undo_off": (undo, "from.pop(), 0, 0", "copy(), 0, 0"),
    "no_shortcut": (undo, 'key === "z"', 'key === "q"'),
    "invert_off": (invert, "255 - value", "value"),
    "no_feather": (feather, 'height, model.get("feather"))', "height, 0)"),
    "untold_feather": (feather, "input.onchange = () => model.save_changes()", "input.onchange = () => null"),
    "no_photo": (background, 'photo.src = model.get("background")', ""),
    "zoom_shifts": (zoom, "box.width) * width", "384) * width"),
    "pinch_draws": (pinch, "if (fingers.size > 1) return cancel();", ""),
    "deaf": (kernel_draws, '"change:layer": load', '"change:nothing": load'),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    cells = [SETUP, 'canvas = make("canvas")\ncanvas', 'sketch = make("sketch", mode="sketch")\nsketch']
    cells += ['cat = make("cat", photo=demo_cat(64))\ncat']
    if "BROWSER_TESTS" in os.environ:
        cells += [f"{name} = make({name!r}, {old!r}, {new!r})\n{name}" for name, (_, old, new) in FAULTS.items()]
    with Lab(write_notebook(tmp_path_factory.mktemp("lab") / "drawing.ipynb", *cells)) as lab:
        lab.run_all()
        lab.page.locator(".sketch .stage").wait_for()
        yield lab


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_sound_canvas(lab, check):
    page = Page(lab, "canvas")
    page.clean()
    check(page)
    lab.screenshot(OUTPUT / f"canvas-{check.__name__}.png", page.root)


@pytest.mark.long
@pytest.mark.parametrize("name", FAULTS)
def test_the_check_finds_a_planted_fault(lab, name):
    page = Page(lab, name, patience=4)
    with pytest.raises(AssertionError):
        FAULTS[name][0](page)


def test_one_message_for_a_stroke(lab):
    page = Page(lab, "canvas")
    page.clean()
    lab.sent.clear()
    page.stroke(ZIGZAG, moves=40)
    messages = [text for text in lab.sent if "comm_msg" in text]
    assert len(messages) == 1 and len(messages[0]) < 10_000


def test_ink_flows_while_the_kernel_is_busy(lab):
    page = Page(lab, "canvas")
    page.clean()
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
    swatch = lab.page.locator(f"{page.root} .swatches button").nth(4)
    swatch.click()
    page.stroke([(0.25, 0.25)])
    pixel = page.kernel("canvas.rgba()[16, 16].tolist()")
    assert "#{:02x}{:02x}{:02x}".format(*pixel[:3]) == swatch.get_attribute("title") and pixel[3] == 255
    assert swatch.get_attribute("title") in page.kernel("photo_palette(photo)")
    page.press("Pick")
    lab.stroke([(0.2, 0.8)], page.stage)  # rows 0.8, columns 0.2, below the diagonal
    page.stroke([(0.75, 0.25)])
    assert np.abs(np.array(page.kernel("canvas.rgba()[16, 48].tolist()")) / 255 - [0.8, 0.2, 1, 1]).max() < 0.03
    lab.screenshot(OUTPUT / "canvas-sketch.png", page.root)


def test_a_feathered_mask_on_a_photo(lab):
    page, eyes = Page(lab, "cat"), [(0.22, 0.36), (0.78, 0.36), (0.78, 0.5), (0.22, 0.5)]
    page.kernel("setattr(canvas, 'feather', 1.5)")
    page.stroke(eyes)
    assert page.iou(f"masks.feather({ideal(eyes)}, 1.5)") >= 0.98
    lab.screenshot(OUTPUT / "canvas-cat.png", page.root)


def test_a_file_is_opened(lab, tmp_path):
    page = Page(lab, "canvas")
    page.clean()
    half = np.zeros((32, 32), np.uint8)
    half[:, :16] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    page.does(lab.choose_file, "Open", tmp_path / "half.png", root=page.root)
    assert page.iou("masks.half(64)") >= 0.95  # the browser smooths what it enlarges
    (tmp_path / "bad.png").write_text("no picture")
    lab.choose_file("Open", tmp_path / "bad.png", root=page.root)
    note = lab.page.locator(f"{page.root} .note")
    assert lab.wait(lambda: note.inner_text() == "bad.png is not an image.", PATIENCE)


def test_an_error_of_a_callback_is_shown(lab):
    page = Page(lab, "canvas")
    page.kernel("canvas.on_change(lambda canvas: None if canvas.mask().max() < 1 else 1 / 0)")
    page.clean()
    lab.stroke(ZIGZAG, page.stage)
    note = lab.page.locator(f"{page.root} .note")
    assert lab.wait(lambda: "ZeroDivisionError" in note.inner_text(), PATIENCE)
    page.kernel("canvas._callbacks.pop() and None")
    page.clean()
    assert lab.wait(lambda: note.inner_text() == "", PATIENCE)


def test_a_drawing_is_there_after_a_reload(lab):
    """Must be last: the page is another afterwards."""
    page = Page(lab, "canvas")
    page.clean()
    page.stroke(ZIGZAG)
    lab.reload()
    lab.page.locator(page.stage).wait_for()
    assert lab.wait(lambda: page.ink().sum() > 100, PATIENCE)
    assert np.abs(page.ink() - np.array(page.kernel("canvas.mask()[0, 0].tolist()"))).max() < 0.01
    page.stroke([(0.1, 0.9), (0.9, 0.9)])
    both = f"masks.union({ideal(ZIGZAG)}, {ideal([(0.1, 0.9), (0.9, 0.9)])})"
    assert page.iou(both) >= 0.98
