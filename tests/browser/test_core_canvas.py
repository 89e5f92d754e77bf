"""The canvas of core widgets, for where anywidget is missing, in JupyterLab: shapes by sliders, undo, feather, files.

Each check is run on a sound canvas, and on one with a planted fault, which it must find.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from staff.benchmarks.jupyter_driver import UNTIDY, Lab, write_notebook
from tests.support.waiting import PATIENCE, comes, planted

pytestmark = [pytest.mark.browser, pytest.mark.long]
OUTPUT = Path(__file__).resolve().parents[2] / "output" / "browser"

SETUP = """
import sys
sys.modules["anywidget"] = None
import torch
from helpers import masks
from helpers.photos import demo_cat
from helpers.widgets import canvas as module
from helpers.widgets.canvas import drawing_canvas

def iou(canvas, ideal):
    mask = canvas.mask()
    return (torch.minimum(mask, ideal).sum() / torch.maximum(mask, ideal).sum().clamp_min(1)).item()

def box(canvas):
    x, y, w, h = (slider.value for slider in canvas.sliders.values())
    return masks.box(64, (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
"""
CANVAS = "canvas = drawing_canvas(demo_cat(64))\nassert isinstance(canvas, module.CoreCanvas)\ncanvas"
ELLIPSE = "masks.ellipse(64, (0.5, 0.5), (0.25, 0.25))"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with Lab(write_notebook(tmp_path_factory.mktemp("lab") / "core.ipynb", SETUP, CANVAS), timeout=90) as lab:
        lab.run_all()
        lab.patience = PATIENCE
        yield lab


@pytest.fixture(autouse=True)
def fresh(lab):
    """An empty canvas with the sliders in the middle."""
    reset(lab)


def reset(lab):
    lab.kernel(
        "[canvas.clear(), setattr(canvas, 'feather', 0.0), setattr(canvas.shape, 'value', 'ellipse'), "
        "*[setattr(s, 'value', 0.5) for s in canvas.sliders.values()]]"
    )


def is_now(lab, ideal, least=0.98):
    comes(lab, lambda: lab.kernel(f"iou(canvas, {ideal})") >= least, f"the mask is not {ideal}")


def add(lab):
    """A shape where the sliders say, drawn over the photo."""
    picture = lab.page.locator("img[alt='mask']")
    before = picture.get_attribute("src")
    lab.press("Add")
    is_now(lab, ELLIPSE)
    comes(lab, lambda: picture.get_attribute("src") != before, "the picture stays")
    lab.drag("across", 0.2)
    lab.drag("width", 0.2)
    moved = "max(canvas.sliders[name].value for name in ('across', 'width')) < 0.3"
    comes(lab, lambda: lab.kernel(moved), "no drag")
    lab.page.locator(".widget-dropdown select").select_option("box")
    comes(lab, lambda: lab.kernel("canvas.shape.value") == "box", "no box")
    lab.press("Add")
    is_now(lab, f"masks.union({ELLIPSE}, box(canvas))")


def cut(lab):
    lab.press("Add")
    lab.drag("height", 0.2)
    comes(lab, lambda: lab.kernel("canvas.sliders['height'].value") < 0.3, "the slider is not heard")
    lab.press("Cut")
    is_now(lab, f"{ELLIPSE} * (1 - masks.ellipse(64, (0.5, 0.5), (0.25, canvas.sliders['height'].value / 2)))")


def undo(lab):
    lab.press("Add")
    is_now(lab, ELLIPSE)
    lab.press("Invert")
    is_now(lab, f"1 - {ELLIPSE}")
    lab.press("Undo")
    is_now(lab, ELLIPSE)
    lab.press("Undo")
    comes(lab, lambda: lab.kernel("canvas.mask().max().item()") == 0, "the first is not undone")
    lab.press("Redo")
    is_now(lab, ELLIPSE)
    lab.press("Clear")
    comes(lab, lambda: lab.kernel("canvas.mask().max().item()") == 0, "Clear did nothing")


def feather(lab):
    lab.press("Add")
    is_now(lab, ELLIPSE)
    lab.drag("feather", 0.5)
    comes(lab, lambda: lab.kernel("canvas.feather") > 2, "the slider is not heard")
    is_now(lab, f"masks.feather({ELLIPSE}, canvas.feather)")
    assert lab.kernel(f"iou(canvas, {ELLIPSE})") < 0.9


CHECKS = [add, cut, undo, feather]
FAULTS = {  # what is put in the place of what, and the check that must find it
    "add is dead": (add, "canvas", "add", "lambda: None"),
    "cut is dead": (cut, "canvas", "cut", "lambda: None"),
    "undo is dead": (undo, "canvas", "undo", "lambda: None"),
    "feather ignored": (feather, "masks", "feather", "lambda mask, sigma: mask"),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_sound_canvas(lab, check):
    check(lab)
    assert lab.page.evaluate(UNTIDY) == []
    lab.screenshot(OUTPUT / f"core-canvas-{check.__name__}.png", ".jp-OutputArea-output:has(img[alt='mask'])")


def test_a_file_is_opened(lab, tmp_path):
    half = np.zeros((32, 32), np.uint8)
    half[:, :16] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    lab.choose_file("Open", tmp_path / "half.png")
    is_now(lab, "masks.half(64)", least=0.95)
    (tmp_path / "bad.png").write_text("no picture")
    lab.choose_file("Open", tmp_path / "bad.png")
    comes(lab, lambda: lab.page.get_by_role("alert").count(), "nothing is said of the bad file")
    assert "bad.png" in lab.page.get_by_role("alert").first.inner_text()


@pytest.mark.parametrize("name", FAULTS)
def test_the_check_finds_a_planted_fault(lab, name):
    check, *fault = FAULTS[name]
    with planted(lab, *fault, patience=4), pytest.raises(AssertionError):
        check(lab)
