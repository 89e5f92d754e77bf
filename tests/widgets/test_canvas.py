"""The drawing canvas without a browser: arrays in and out; strokes are tested in tests/browser."""

import numpy as np
import pytest
import torch

from helpers import masks
from helpers.widgets.canvas import DrawingCanvas
from helpers.widgets.html import data_url


@pytest.fixture
def photo():
    image = torch.zeros(1, 3, 24, 32)
    image[:, 0, :, :16], image[:, 2, :, 16:] = 1.0, 0.5  # red beside dark blue
    return image


def colours(height=8, width=8):
    """Pixels whose opacity and colour differ from place to place."""
    rows, columns = np.mgrid[:height, :width]
    return np.dstack([rows * 20, columns * 20, rows * 0 + 90, np.where(columns < 4, 255, 0)]).astype(np.uint8)


def test_a_new_canvas_is_empty_and_a_mask_comes_back_as_it_went_in(photo):
    canvas = DrawingCanvas(photo)
    assert canvas.rgba().shape == (24, 32, 4) and canvas.rgba().dtype == np.uint8
    assert canvas.mask().shape == (1, 1, 24, 32) and canvas.mask().dtype == torch.float32
    assert canvas.mask().max() == 0 and canvas.palette == ["#000000", "#ffffff", "#000080", "#ff0000"]
    assert DrawingCanvas(photo, size=(8, 10)).mask().shape == (1, 1, 8, 10)
    assert DrawingCanvas().mask().shape == (1, 1, 256, 256)
    canvas, mask = DrawingCanvas(size=32), masks.ellipse(32, (0.4, 0.6), (0.3, 0.2), 30)
    canvas.set_mask(mask)
    assert (canvas.mask() - mask).abs().max() <= 0.5 / 255 + 1e-6
    canvas.set_mask(masks.half(64))  # of another size
    assert torch.equal(canvas.mask(), masks.half(32))
    canvas.set_mask(np.eye(32, dtype=bool))
    assert torch.equal(canvas.mask()[0, 0], torch.eye(32))
    canvas.clear()
    assert canvas.mask().max() == 0
    canvas.set_mask(masks.half(32))
    for sigma in (1.5, 9.5, 0.0):
        canvas.feather = sigma
        torch.testing.assert_close(canvas.mask(), masks.feather(masks.half(32), sigma))
    canvas.set_mask(masks.box(32, (0, 0, 0.5, 0.25)))
    torch.testing.assert_close(canvas.mask(4), masks.box(4, (0, 0, 0.5, 0.25)))
    assert canvas.mask((2, 4)).shape == (1, 1, 2, 4)


@pytest.mark.parametrize("enlarge", [1, 2])
def test_a_drawing_comes_back_as_it_went_in(enlarge):
    canvas, pixels = DrawingCanvas(mode="sketch", size=8), colours()
    canvas.set_rgba(np.kron(pixels, np.ones((enlarge, enlarge, 1), np.uint8)))
    seen = canvas.rgba()
    assert (seen[..., 3] == pixels[..., 3]).all()
    assert (seen[:, :4] == pixels[:, :4]).all()  # where it is opaque
    canvas.set_rgba(colours()[..., :3])
    assert (canvas.rgba()[..., 3] == 255).all()


def test_callbacks_hear_of_drawings_and_other_arrays_are_not_a_drawing():
    canvas, heard = DrawingCanvas(size=8), []
    canvas.on_change(lambda canvas: heard.append(canvas.mask().sum().item()))
    canvas.on_change(lambda canvas: 1 / canvas.mask().sum().item())
    canvas.set_mask(masks.half(8))
    canvas.feather = 1.0
    assert canvas.message == ""
    canvas.clear()
    assert heard == pytest.approx([32, 32, 0], abs=0.1) and "ZeroDivisionError" in canvas.message
    canvas.set_mask(masks.half(8))
    assert canvas.message == ""
    canvas = DrawingCanvas(mode="sketch", size=8)
    for pixels in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4)), np.zeros((8, 8, 2), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            canvas.set_rgba(pixels)
    canvas.set_state({"layer": data_url(colours(), "PNG")})
    assert (canvas.rgba() == colours()).all()
    canvas.set_state({"layer": ""})
    assert canvas.rgba().max() == 0
    canvas.set_state({"layer": data_url(colours(4, 4), "PNG")})
    with pytest.raises(ValueError, match="8 x 8 pixels"):
        canvas.rgba()


@pytest.mark.parametrize(
    "options, message",
    [({"mode": "paint"}, "mask or sketch"), ({"size": 4000}, "2 to 1024"), ({"size": (1, 8)}, "2 to 1024")],
)  # fmt: skip
def test_a_canvas_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DrawingCanvas(**options)
