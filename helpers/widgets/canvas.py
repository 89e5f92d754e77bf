"""A drawing canvas for masks and sketches: mouse, pen and touch; strokes are drawn in the browser."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
import traitlets
from anywidget import AnyWidget
from PIL import Image
from torch import Tensor

from helpers import masks
from helpers.images import to_uint8
from helpers.widgets.html import COLOURS, data_url, sentence
from helpers.widgets.live import source

WIDTH = 384  # pixels of the canvas on the screen
MOST = 1024  # pixels: a longer side would make every stroke slow

Size = int | tuple[int, int]


class DrawingCanvas(AnyWidget):
    """A canvas to draw a mask or a sketch on; shown as the last line of a cell.

        canvas = DrawingCanvas(photo, "mask")
        canvas                                  # draw; Ctrl+Z takes back, two fingers zoom
        canvas.mask()                           # (1, 1, H, W) in [0, 1], feathered
        canvas.rgba()                           # uint8 (H, W, 4), the drawing itself
        canvas.set_mask(masks.half(64))         # also canvas.set_rgba(pixels), .clear()
        canvas.on_change(lambda canvas: ...)    # after every stroke

    background: photo (1, 3, H, W) in [0, 1] under the drawing; the palette of a sketch comes from it. mode: "mask"
    paints a region, "sketch" colours. size: of the drawing in pixels, side or (height, width); by default the photo's,
    else 256. softens: whether a slider blurs ``mask()``. width: of the canvas on the screen, pixels.
    """

    _esm, _css = source("canvas.js"), source("canvas.css")
    size = traitlets.List(traitlets.Int()).tag(sync=True)
    mode = traitlets.Unicode().tag(sync=True)
    screen_width = traitlets.Int().tag(sync=True)
    layer = traitlets.Unicode().tag(sync=True, echo_update=False)  # a PNG as a URL: binary would be lost on Colab
    feather = traitlets.Float().tag(sync=True)
    softens = traitlets.Bool().tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)
    background = traitlets.Unicode().tag(sync=True)
    palette = traitlets.List(traitlets.Unicode()).tag(sync=True)
    tool = traitlets.Enum(("brush", "lasso", "rectangle"), "brush").tag(sync=True)
    erase = traitlets.Bool().tag(sync=True)
    brush = traitlets.Float().tag(sync=True)
    colour = traitlets.Unicode("#000000").tag(sync=True)
    opacity = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        background: Tensor | None = None,
        mode: str = "mask",
        size: Size | None = None,
        *,
        width: int = WIDTH,
        softens: bool = True,
    ):
        if mode not in ("mask", "sketch"):
            raise ValueError(f"the mode must be mask or sketch; got {mode!r}.")
        if size is None:
            size = 256 if background is None else tuple(background.shape[-2:])
        size = [size, size] if isinstance(size, int) else list(size)
        if not all(1 < side <= MOST for side in size):
            raise ValueError(f"a canvas has 2 to {MOST} pixels a side; got {size}, give a size.")
        self._callbacks: list[Callable] = []
        super().__init__(size=size, mode=mode, softens=softens and mode == "mask", screen_width=width)
        self.brush, self.opacity = max(1.0, round(min(size) / 12)), 0.6 if mode == "mask" else 1.0
        self.set_background(background)
        self.observe(self._changed, ["layer", "feather"])

    def set_background(self, image: Tensor | None) -> None:
        """Show a photo (1, 3, H, W) in [0, 1] under the drawing, or none; the palette comes from it."""
        self.background = "" if image is None else data_url(to_uint8(image)[0], "PNG")
        colours = list(COLOURS)
        if image is not None:  # its octree palette, dark to light
            reduced = Image.fromarray(to_uint8(image)[0]).quantize(10, Image.Quantize.FASTOCTREE).convert("RGB")
            found = {colour for _, colour in reduced.getcolors(reduced.width * reduced.height)}
            found = sorted(found, key=lambda rgb: rgb[0] + 2 * rgb[1] + rgb[2] / 3)
            colours = ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in found]
        self.palette = ["#000000", "#ffffff", *colours]

    def rgba(self) -> np.ndarray:
        """The drawing, uint8 (H, W, 4) with transparent paper, not feathered. ValueError for another size."""
        if not self.layer:
            return np.zeros((*self.size, 4), np.uint8)
        with Image.open(io.BytesIO(base64.b64decode(self.layer.partition(",")[2])), formats=["PNG"]) as drawing:
            pixels = np.array(drawing.convert("RGBA"))
        if list(pixels.shape[:2]) != self.size:
            raise ValueError(f"the drawing must be {self.size[1]} x {self.size[0]} pixels; got {pixels.shape[1::-1]}.")
        return pixels

    def mask(self, size: Size | None = None) -> Tensor:
        """What was drawn as a mask (1, 1, H, W) in [0, 1], feathered; averaged to ``size`` (side or (H, W))."""
        mask = masks.feather(masks.mask_from_drawing(self.rgba()), self.feather)
        return mask if size is None else masks.mask_pyramid(mask, [size])[0]

    def set_mask(self, mask: Tensor | np.ndarray) -> None:
        """Replace the drawing by a mask of any size, which ``masks.as_mask`` checks; kept in 8 bits."""
        alpha = masks.mask_pyramid(masks.as_mask(mask)[:1], [tuple(self.size)])[0]
        self.set_rgba(np.dstack([np.full((*self.size, 3), 255, np.uint8), to_uint8(alpha)[0]]))

    def set_rgba(self, pixels: np.ndarray) -> None:
        """Replace the drawing by uint8 pixels (H, W, 3 or 4), else ValueError; they are resized to the canvas."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
            raise ValueError(f"a drawing is uint8 (H, W, 3 or 4); got {pixels.dtype} {pixels.shape}.")
        drawing, (height, width) = Image.fromarray(pixels).convert("RGBA"), self.size
        shrinks = height * width < drawing.height * drawing.width
        drawing = drawing.resize((width, height), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
        pixels = np.array(drawing)
        self.layer = data_url(pixels, "PNG") if pixels[..., 3].any() else ""

    def clear(self) -> None:
        self.layer = ""

    def on_change(self, callback: Callable[[DrawingCanvas], None]) -> None:
        """Call ``callback(canvas)`` after every stroke and change of the feather; what it raises is shown."""
        self._callbacks.append(callback)

    def _changed(self, _) -> None:
        try:
            self.message = ""
            for callback in self._callbacks:
                callback(self)
        except Exception as error:  # would vanish
            self.message = sentence(error)
