"""The drawing canvas without a browser: arrays in and out, both kinds; strokes are tested in tests/browser."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import masks
from helpers.images import ImageError
from helpers.widgets import canvas as module
from helpers.widgets.canvas import CanvasError, CoreCanvas, drawing_canvas, photo_palette
from helpers.widgets.html import data_url


@pytest.fixture
def make(kind):
    def make(*args, **options):
        made = drawing_canvas(*args, **options)
        assert isinstance(made, CoreCanvas) == (kind == "core")
        return made

    return make


@pytest.fixture
def photo():
    image = torch.zeros(1, 3, 24, 32)
    image[:, 0, :, :16], image[:, 2, :, 16:] = 1.0, 0.5  # red next to dark blue
    return image


def colours(height=8, width=8):
    """Pixels whose opacity and colour differ from place to place."""
    rows, columns = np.mgrid[:height, :width]
    return np.dstack([rows * 20, columns * 20, rows * 0 + 90, np.where(columns < 4, 255, 0)]).astype(np.uint8)


def test_a_new_canvas_is_empty_and_of_the_photo_s_size(make, photo):
    canvas = make(photo)
    assert canvas.rgba().shape == (24, 32, 4) and canvas.rgba().dtype == np.uint8
    assert canvas.mask().shape == (1, 1, 24, 32) and canvas.mask().dtype == torch.float32
    assert canvas.mask().max() == 0
    assert make(photo, size=(8, 10)).mask().shape == (1, 1, 8, 10)
    assert make().mask().shape == (1, 1, 256, 256)


def test_a_mask_comes_back_as_it_went_in(make):
    canvas, mask = make(size=32), masks.ellipse(32, (0.4, 0.6), (0.3, 0.2), 30)
    canvas.set_mask(mask)
    assert (canvas.mask() - mask).abs().max() <= 0.5 / 255 + 1e-6
    canvas.set_mask(masks.half(64))  # of another size
    assert torch.equal(canvas.mask(), masks.half(32))
    canvas.set_mask(np.eye(32, dtype=bool))
    assert torch.equal(canvas.mask()[0, 0], torch.eye(32))
    canvas.clear()
    assert canvas.mask().max() == 0


def test_the_feather_is_that_of_masks(make):
    canvas = make(size=32, feather=1.5)
    canvas.set_mask(masks.half(32))
    torch.testing.assert_close(canvas.mask(), masks.feather(masks.half(32), 1.5))
    canvas.feather = 0.0
    assert torch.equal(canvas.mask(), masks.half(32))
    canvas.feather = 9.5
    torch.testing.assert_close(canvas.mask(), masks.feather(masks.half(32), 9.5))


def test_a_mask_is_averaged_to_another_size(make):
    canvas = make(size=32)
    canvas.set_mask(masks.box(32, (0, 0, 0.5, 0.25)))
    torch.testing.assert_close(canvas.mask(4), masks.box(4, (0, 0, 0.5, 0.25)))
    assert canvas.mask((2, 4)).shape == (1, 1, 2, 4)


def test_a_drawing_comes_back_as_it_went_in(make):
    canvas, pixels = make(mode="sketch", size=8), colours()
    canvas.set_rgba(pixels)
    seen = canvas.rgba()
    assert (seen[..., 3] == pixels[..., 3]).all()
    assert (seen[:, :4] == pixels[:, :4]).all()  # where it is opaque
    canvas.set_rgba(colours()[..., :3])
    assert (canvas.rgba()[..., 3] == 255).all()
    canvas.set_rgba(np.kron(pixels, np.ones((2, 2, 1), np.uint8)))
    assert canvas.rgba().shape == (8, 8, 4) and (canvas.rgba()[:, :4] == pixels[:, :4]).all()
    assert canvas.rgba(4).shape == (4, 4, 4)


def test_files_are_written_and_read(make, tmp_path):
    canvas = make(size=16)
    canvas.set_mask(masks.ellipse(16))
    canvas.save(tmp_path / "mask.png")
    again = make(size=16)
    again.set_mask(tmp_path / "mask.png")
    assert torch.equal(again.mask(), canvas.mask()) and again.mask().sum() > 10
    sketch = make(mode="sketch", size=8)
    sketch.set_rgba(colours())
    sketch.save(tmp_path / "sketch.png")
    other = make(mode="sketch", size=8)
    other.set_rgba(tmp_path / "sketch.png")
    assert (other.rgba()[:, :4] == colours()[:, :4]).all() and (other.rgba()[:, 4:, 3] == 0).all()
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(ImageError, match="bad.png"):
        canvas.set_mask(tmp_path / "bad.png")


def test_callbacks_hear_of_drawings_and_feathers(make):
    canvas, heard = make(size=8), []
    canvas.on_change(lambda canvas: heard.append(canvas.mask().sum().item()))
    canvas.set_mask(masks.half(8))
    canvas.feather = 1.0
    canvas.clear()
    assert heard == pytest.approx([32, 32, 0], abs=0.1)


def test_what_a_callback_raises_is_shown(make):
    canvas = make(size=8)
    canvas.on_change(lambda canvas: 1 / canvas.mask().sum().item())
    canvas.set_mask(masks.half(8))
    assert canvas.message == ""
    canvas.clear()
    assert "ZeroDivisionError" in canvas.message
    canvas.set_mask(masks.half(8))
    assert canvas.message == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "paint"}, "mask or sketch"),
        ({"size": 4000}, "2 to 1024"),
        ({"size": (1, 8)}, "2 to 1024"),
        ({"feather": -1.0}, "0 or more"),
    ],
)
def test_a_canvas_that_cannot_be_is_refused(make, options, message):
    with pytest.raises(CanvasError, match=message):
        make(**options)


@pytest.mark.parametrize("pixels", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4)), np.zeros((8, 8, 2), np.uint8)])
def test_other_arrays_are_no_drawing(make, pixels):
    with pytest.raises(CanvasError, match="uint8"):
        make(size=8).set_rgba(pixels)


def test_the_palette_is_of_the_photo(photo):
    assert photo_palette(photo, 4) == ["#000080", "#ff0000"]
    canvas = drawing_canvas(photo, "sketch")
    if module.anywidget is not None:
        assert canvas.palette == ["#000000", "#ffffff", "#000080", "#ff0000"]


def test_a_stroke_of_the_browser_arrives():
    pytest.importorskip("anywidget", reason="anywidget is not installed: pip install anywidget")
    canvas = drawing_canvas(mode="sketch", size=8)
    canvas.set_state({"layer": data_url(colours(), "PNG")})
    assert (canvas.rgba() == colours()).all()
    canvas.set_state({"layer": ""})
    assert canvas.rgba().max() == 0


# --- core widgets ----------------------------------------------------------------------------------------------------


@pytest.fixture
def canvas(core):
    return drawing_canvas(size=32)


def place(canvas, **values):
    for name, value in values.items():
        canvas.sliders[name].value = value


def test_shapes_are_added_and_cut(canvas):
    place(canvas, across=0.4, down=0.5, width=0.4, height=0.6)
    canvas.buttons["Add"].click()
    ellipse = masks.ellipse(32, (0.4, 0.5), (0.2, 0.3))
    assert (canvas.mask() - ellipse).abs().max() < 0.01
    canvas.shape.value = "box"
    place(canvas, across=0.75, down=0.5, width=0.5, height=1.0)
    canvas.buttons["Cut"].click()
    box = masks.half(32, "right")
    assert (canvas.mask() - ellipse * (1 - box)).abs().max() < 0.01
    canvas.buttons["Invert"].click()
    assert (canvas.mask() - (1 - ellipse * (1 - box))).abs().max() < 0.01


def test_undo_and_redo(canvas):
    canvas.buttons["Add"].click()
    drawn = canvas.mask()
    canvas.buttons["Clear"].click()
    canvas.buttons["Undo"].click()
    assert torch.equal(canvas.mask(), drawn) and drawn.max() == 1
    canvas.buttons["Undo"].click()
    assert canvas.mask().max() == 0
    canvas.buttons["Undo"].click()  # nothing left
    canvas.buttons["Redo"].click()
    assert torch.equal(canvas.mask(), drawn)
    canvas.buttons["Invert"].click()
    canvas.buttons["Redo"].click()  # a new change has no way back
    torch.testing.assert_close(canvas.mask(), 1 - drawn)


def test_the_picture_follows(canvas):
    shown = canvas.view.value
    place(canvas, across=0.3)
    moved = canvas.view.value
    canvas.buttons["Add"].click()
    added = canvas.view.value
    canvas.softness.value = 2.0
    assert len({shown, moved, added, canvas.view.value}) == 4


def test_colours_are_painted_over_each_other(core):
    canvas = drawing_canvas(mode="sketch", size=16)
    canvas.shape.value = "box"
    place(canvas, across=0.5, down=0.5, width=1.0, height=1.0)
    canvas.picker.value = "#ff0000"
    canvas.buttons["Add"].click()
    place(canvas, across=0.25, width=0.5)
    canvas.picker.value = "#0000ff"
    canvas.buttons["Add"].click()
    assert canvas.rgba()[3, 3].tolist() == [0, 0, 255, 255] and canvas.rgba()[3, 12].tolist() == [255, 0, 0, 255]


def test_an_uploaded_mask_replaces_the_drawing(canvas):
    file = io.BytesIO()
    Image.fromarray((masks.half(32)[0, 0].numpy() * 255).astype(np.uint8)).save(file, "PNG")
    canvas._open({"half.png": {"content": file.getvalue()}})
    assert torch.equal(canvas.mask(), masks.half(32))
    canvas._open({"bad.png": {"content": b"no picture"}})
    assert "bad.png" in canvas.message and torch.equal(canvas.mask(), masks.half(32))
