"""What panels show as strings: images, loss curves, before and after; and their controls."""

import base64
import io
import math
import xml.etree.ElementTree as ElementTree

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.widgets import parts
from helpers.widgets.html import figure_html, loss_curve, sheet_of, width_of


def pixels_of(html):
    """The first image of some HTML, (H, W, 3) in [0, 1]."""
    data = html.partition("data:image/jpeg;base64,")[2].partition('"')[0]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) / np.float32(255)


def test_a_figure_holds_the_image_wide_enough_and_its_title_brings_no_markup(target):
    assert "<script" not in figure_html('"><script>', target, 10)
    assert (torch.from_numpy(pixels_of(figure_html("", target, 10))) - target[0].permute(1, 2, 0)).abs().mean() < 0.03
    for count in (1, 2, 8, 16, 32):
        images = torch.zeros(count, 3, 4, 4)
        assert width_of(images) >= max(256, 96 * ((sheet_of(images).shape[-1] + 1) // 5))


def curve_points(html):
    """Points of every line of a loss curve, one list per stroke."""
    lines = []
    for path in ElementTree.fromstring(html).iter("path"):
        if path.get("fill") == "none":
            strokes = [stroke.split("L") for stroke in path.get("d").split("M")[1:]]
            lines.append([[tuple(map(float, p.split())) for p in stroke] for stroke in strokes])
    return lines


def test_the_loss_curve_is_logarithmic_with_gaps_short_for_a_long_run_and_a_picture_of_nearly_nothing_too():
    ((line,),) = curve_points(loss_curve([{"l1": value} for value in (10.0, 1.0, 0.1)]))
    (right, down), again = np.diff(line, axis=0)
    assert (right, down) == pytest.approx(again, abs=0.2) and right > 0 and down > 0  # downwards on the screen
    history = [{"l1": 1.0}, {"l1": math.nan, "perceptual": 2.0}, {"l1": 0.5, "perceptual": 0.0}, {"l1": 0.2}]
    l1, perceptual = curve_points(loss_curve(history))
    assert [len(stroke) for stroke in l1] == [1, 2] and [len(stroke) for stroke in perceptual] == [1]
    history = [{"l1": 1 / (i + 1), "total": 2 / (i + 1)} for i in range(5000)]
    html = loss_curve(history, width=400)
    assert len(html) < 20_000 and "0.0002" in html
    assert curve_points(html)[0][0][-1][0] == pytest.approx(392)
    for history in ([], [{}], [{"l1": 0.0}], [{"l1": math.inf}], [{"l1": 1.0}], [{"<&>": 1.0}]):
        assert ElementTree.fromstring(loss_curve(history)).find("svg") is not None, history


def test_a_gallery_drops_its_oldest_and_before_is_left_of_the_line(monkeypatch):
    monkeypatch.setattr(parts, "KEPT", 2)
    clicked = []
    gallery = parts.Gallery(clicked.append)
    for number in range(3):
        gallery.add(torch.rand(1, 3, 20, 300), f"<{number}>", number, hint='"')
    assert gallery.entries == [1, 2] and len(gallery.children) == 2
    gallery.children[1].children[1].click()
    assert clicked == [2] and "<2>" not in gallery.children[1].children[0].value
    compare = parts.BeforeAfter()
    compare.show(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 16, 16))
    compare.line.value = 0.25
    across = pixels_of(compare.view.value).mean((0, 2))
    assert (across[:4] < 0.2).all() and (across[4:] > 0.8).all()
    shown = compare.view.value
    compare.zoom.value = 3.0
    assert compare.view.value != shown


def test_controls_take_values_as_json_has_them():
    lists = widgets.Dropdown(options=[("both", ("a", "b")), ("one", ("a",))])
    controls = parts.log_slider("l1", 1.0), lists, parts.control("kind", ["a", "b"]), parts.control("steps", (1, 10), 5)
    for control, value in zip(controls, (0.3, ["a"], "b", 7), strict=True):
        parts.choose(control, value)
    assert [control.value for control in controls] == [0.3, ("a",), "b", 7]


def test_log_sliders_begin_at_zero_a_download_holds_the_file_and_code_what_it_can(tmp_path):
    stops = parts.log_slider("l1", 0.5, -2, 0).options
    assert [value for _, value in stops] == pytest.approx([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])
    assert parts.log_slider("delta", 1.0, -6, 0, zero=False).options[0] == ("1e-06", 1e-6)
    (tmp_path / "a.png").write_bytes(b"abc")
    assert "data:image/png;base64,YWJj" in parts.download_html(tmp_path / "a.png")
    settings = {"features": object(), "weights": {"l1": 1.0}, "rows": (1, 2)}
    code = parts.settings_code("helpers.inversion.project", "panel.generator, 2", settings, ".images")
    assert "import helpers.inversion\n" in code and "    panel.generator, 2,\n" in code
    assert "    features=panel.features,\n    weights={'l1': 1.0},\n    rows=(1, 2),\n).images\n" in code
