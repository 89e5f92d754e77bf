"""A drawing canvas for masks and sketches: mouse, pen and touch; strokes are drawn in the browser."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np
import torch
import traitlets
from PIL import Image, ImageColor
from torch import Tensor

from helpers import masks
from helpers.files import atomic_path
from helpers.images import read_rgba, resize, to_uint8
from helpers.widgets.html import COLOURS, data_url, error_html, figure_html, frame_html, sentence
from helpers.widgets.live import source
from helpers.widgets.parts import button_row, dropdown, float_slider
from helpers.widgets.upload import uploaded_files

try:
    import anywidget
except ImportError:  # the fallback below needs core ipywidgets only
    anywidget = None

WIDTH = 384  # pixels of the canvas on the screen
MOST = 1024  # pixels: a longer side would make every stroke slow
DEEP = 50  # drawings kept for undo

Size = int | tuple[int, int]


class CanvasError(ValueError):
    """A canvas that cannot be made, or a drawing that does not fit it."""


def photo_palette(image: Tensor, colours: int = 10) -> list[str]:
    """Colours of a photo (1, 3, H, W) in [0, 1] as "#rrggbb", dark to light: its octree palette."""
    picture = Image.fromarray(to_uint8(image)[0]).quantize(colours, Image.Quantize.FASTOCTREE).convert("RGB")
    found = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    return ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in sorted(found, key=lambda c: c[0] * 3 + c[1] * 6 + c[2])]


class Drawing(traitlets.HasTraits):
    """What both canvases can do; see ``drawing_canvas``. The drawing is ``layer``, a PNG as a ``data:`` URL, or ""."""

    size = traitlets.List(traitlets.Int()).tag(sync=True)
    mode = traitlets.Unicode().tag(sync=True)
    screen_width = traitlets.Int(WIDTH).tag(sync=True)
    layer = traitlets.Unicode().tag(sync=True, echo_update=False)  # a text: binary would be lost on Colab
    feather = traitlets.Float().tag(sync=True)
    softens = traitlets.Bool().tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)

    def __init__(self, background: Tensor | None, mode: str, size, feather: float, softens: bool, **options):
        if mode not in ("mask", "sketch"):
            raise CanvasError(f"the mode must be mask or sketch; got {mode!r}.")
        if size is None:
            size = 256 if background is None else tuple(background.shape[-2:])
        size = [size, size] if isinstance(size, int) else list(map(int, size))
        if not all(1 < side <= MOST for side in size):
            raise CanvasError(f"a canvas has 2 to {MOST} pixels a side; got {size}, give a size.")
        if feather < 0:
            raise CanvasError(f"the feather must be 0 or more pixels; got {feather}.")
        self._callbacks: list[Callable] = []
        super().__init__(size=size, mode=mode, feather=feather, softens=softens and mode == "mask", **options)
        self.set_background(background)
        self.observe(self._changed, ["layer", "feather"])

    @property
    def pixels(self) -> np.ndarray:
        """The drawing, uint8 (H, W, 4)."""
        if not self.layer:
            return np.zeros((*self.size, 4), np.uint8)
        with Image.open(io.BytesIO(base64.b64decode(self.layer.partition(",")[2])), formats=["PNG"]) as picture:
            pixels = np.array(picture.convert("RGBA"))
        if list(pixels.shape[:2]) != self.size:
            raise CanvasError(f"the drawing must be {self.size[1]} x {self.size[0]} pixels; got {pixels.shape[1::-1]}.")
        return pixels

    @pixels.setter
    def pixels(self, pixels: np.ndarray) -> None:
        self.layer = data_url(pixels, "PNG") if pixels[..., 3].any() else ""

    def mask(self, size: Size | None = None) -> Tensor:
        """What was drawn as a mask (1, 1, H, W) in [0, 1], feathered; averaged to ``size`` (side or (H, W))."""
        mask = masks.feather(masks.mask_from_drawing(self.pixels), self.feather)
        return mask if size is None else masks.mask_pyramid(mask, [size])[0]

    def rgba(self, size: Size | None = None) -> np.ndarray:
        """The drawing, uint8 (H, W, 4) with transparent paper, not feathered; resized to ``size`` (side or (H, W))."""
        return self.pixels if size is None else _resized(self.pixels, size)

    def set_mask(self, mask: Tensor | np.ndarray | str | os.PathLike) -> None:
        """Replace the drawing by a mask of any size: what ``masks.as_mask`` takes, or an image file.

        Kept in 8 bits. Raises MaskError for anything else, ImageError for a file that is not an image.
        """
        is_file = isinstance(mask, str | os.PathLike)
        mask = masks.mask_from_file(mask) if is_file else masks.as_mask(mask)[:1]
        mask = masks.mask_pyramid(mask, [tuple(self.size)])[0]
        pixels = np.full((*self.size, 4), 255, np.uint8)
        pixels[..., 3] = to_uint8(mask.expand(1, 3, -1, -1))[0, ..., 0]
        self.pixels = pixels

    def set_rgba(self, pixels: np.ndarray | str | os.PathLike) -> None:
        """Replace the drawing by uint8 pixels (H, W, 3 or 4) or an image file, resized to the canvas.

        Raises CanvasError for other arrays, ImageError for a file that is not an image.
        """
        if isinstance(pixels, str | os.PathLike):
            colour, alpha = read_rgba(pixels)
            pixels = np.dstack([to_uint8(colour)[0], to_uint8(alpha)[0]])
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
            raise CanvasError(f"a drawing is uint8 (H, W, 3 or 4); got {pixels.dtype} {pixels.shape}.")
        if pixels.shape[2] == 3:
            pixels = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
        self.pixels = _resized(pixels, tuple(self.size))

    def clear(self) -> None:
        """Erase everything."""
        self.layer = ""

    def save(self, path: str | os.PathLike) -> None:
        """Write the drawing as a PNG with transparent paper; ``set_mask`` and ``set_rgba`` read it again."""
        with atomic_path(path) as temporary:
            Image.fromarray(self.pixels).save(temporary, "PNG")

    def on_change(self, callback: Callable[[Drawing], None]) -> None:
        """Call ``callback(canvas)`` after every stroke and change of the feather; what it raises is shown."""
        self._callbacks.append(callback)

    def _changed(self, _=None) -> None:
        try:
            self.message = ""
            for callback in self._callbacks:
                callback(self)
        except Exception as error:  # would vanish
            self.message = sentence(error)


def _resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    height, width = (size, size) if isinstance(size, int) else size
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height * width < pixels.shape[0] * pixels.shape[1]
    picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX if shrinks else Image.BICUBIC)
    return np.array(picture)


if anywidget is not None:

    class DrawingCanvas(Drawing, anywidget.AnyWidget):
        """The canvas in the browser; see ``drawing_canvas``."""

        _esm, _css = source("canvas.js"), source("canvas.css")
        background = traitlets.Unicode().tag(sync=True)
        palette = traitlets.List(traitlets.Unicode()).tag(sync=True)
        tool = traitlets.Enum(("brush", "lasso", "rectangle"), "brush").tag(sync=True)
        erase = traitlets.Bool().tag(sync=True)
        brush = traitlets.Float().tag(sync=True)
        colour = traitlets.Unicode("#000000").tag(sync=True)
        opacity = traitlets.Float().tag(sync=True)

        def __init__(self, background, mode, *args, **options):
            super().__init__(background, mode, *args, opacity=0.6 if mode == "mask" else 1.0, **options)
            self.brush = max(1.0, round(min(self.size) / 12))

        def set_background(self, image: Tensor | None) -> None:
            """Show a photo (1, 3, H, W) in [0, 1] under the drawing, or none; the palette comes from it."""
            self.background = "" if image is None else data_url(to_uint8(image)[0], "PNG")
            photo = [] if image is None else photo_palette(image)
            self.palette = ["#000000", "#ffffff", *(photo or COLOURS)]

        def undo(self) -> None:
            """Take back the last change, in the browser."""
            self.send({"do": "undo"})

        def redo(self) -> None:
            """Make it again, in the browser."""
            self.send({"do": "redo"})


class CoreCanvas(Drawing, widgets.VBox):
    """The fallback of core widgets: ellipses and boxes by sliders; see ``drawing_canvas``."""

    def __init__(self, *args, **options):
        self.note, self.view, self._layers, self._at, self._image = widgets.HTML(), widgets.HTML(), [""], 0, None
        self.shape = dropdown("shape", ["ellipse", "box"])
        self.sliders = {name: float_slider(name, 0.5, 0, 1, 0.01) for name in ("across", "down", "width", "height")}
        self.picker = widgets.ColorPicker(value="#000000", description="colour")
        super().__init__(*args, **options)
        self.softness = float_slider("feather", self.feather, 0, max(self.feather, min(self.size) / 2), 0.25)
        names = ("Add", "Cut", "Undo", "Redo", *(["Invert"] if self.mode == "mask" else []), "Clear")
        row = button_row({name: getattr(self, name.lower()) for name in names}, lambda action, _: action())
        self.buttons = dict(zip(names, row.children, strict=True))
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="Open")
        extra = [self.picker] if self.mode == "sketch" else [self.softness] * self.softens
        self.children = [self.shape, *self.sliders.values(), *extra, row, self.upload, self.note, self.view]
        traitlets.link((self, "feather"), (self.softness, "value"))
        for control in (self.shape, self.picker, *self.sliders.values()):
            control.observe(self._show, "value")
        self.observe(self._keep, "layer")
        self.observe(self._show, ["layer", "feather"])
        self.observe(lambda change: setattr(self.note, "value", error_html(change["new"])), "message")
        self.upload.observe(lambda change: self._open(change["new"]), "value")

    def _keep(self, change) -> None:
        if change["new"] != self._layers[self._at]:  # not by undo or redo
            self._layers = [*self._layers[: self._at + 1], change["new"]][-DEEP:]
            self._at = len(self._layers) - 1

    def _go(self, by: int) -> None:
        if 0 <= self._at + by < len(self._layers):
            self._at += by
            self.layer = self._layers[self._at]

    def undo(self) -> None:
        """Take back the last change."""
        self._go(-1)

    def redo(self) -> None:
        """Make it again."""
        self._go(1)

    def set_background(self, image: Tensor | None) -> None:
        """Show a photo (1, 3, H, W) in [0, 1] under the drawing, or none."""
        self._image = image
        self._show()

    @property
    def _edges(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the shape that the sliders describe, fractions of the canvas."""
        x, y, width, height = (max(0.005, slider.value) for slider in self.sliders.values())
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def _region(self) -> np.ndarray:
        """The shape that the sliders describe, (H, W) in [0, 1]."""
        left, top, right, bottom = self._edges
        if self.shape.value == "box":
            return masks.box(tuple(self.size), self._edges)[0, 0].numpy()
        centre, radii = ((left + right) / 2, (top + bottom) / 2), ((right - left) / 2, (bottom - top) / 2)
        return masks.ellipse(tuple(self.size), centre, radii)[0, 0].numpy()

    def add(self) -> None:
        """Draw the shape of the sliders."""
        colour = "#ffffff" if self.mode == "mask" else self.picker.value
        pixels = np.full((*self.size, 4), (*ImageColor.getrgb(colour), 255), np.uint8)
        pixels[..., 3] = (self._region() * 255).round()
        self.pixels = np.array(Image.alpha_composite(Image.fromarray(self.pixels), Image.fromarray(pixels)))

    def cut(self) -> None:
        """Erase the shape of the sliders."""
        pixels = self.pixels
        pixels[..., 3] = (pixels[..., 3] * (1 - self._region())).round()
        self.pixels = pixels

    def invert(self) -> None:
        """Swap inside and outside."""
        self.set_mask(1 - self.pixels[..., 3] / 255)

    def _open(self, value) -> None:
        for name, content in uploaded_files(value)[-1:]:
            try:
                colour, alpha = read_rgba(content, name=name)
            except ValueError as error:
                self.message = str(error)
            else:
                if self.mode == "mask":
                    self.set_mask(alpha if alpha.min() < 1 else colour.mean(1, keepdim=True))
                else:
                    self.set_rgba(np.dstack([to_uint8(colour)[0], to_uint8(alpha)[0]]))

    def _show(self, _=None) -> None:
        """The photo, the drawing over it, and the outline of the sliders' shape."""
        size = tuple(self.size)
        paper = torch.ones(1, 3, *size) if self._image is None else resize(self._image.cpu(), size)
        if self.mode == "mask":
            image = masks.overlay(paper, self.mask(), opacity=0.6)
        else:
            pixels = torch.from_numpy(self.pixels.copy()).permute(2, 0, 1)[None].float() / 255
            image = torch.lerp(paper, pixels[:, :3], pixels[:, 3:])
        bend = "50%" if self.shape.value == "ellipse" else "0"
        self.view.value = figure_html(self.mode, image, self.screen_width, frame_html(self._edges, bend))


def drawing_canvas(
    background: Tensor | None = None,
    mode: str = "mask",
    size: Size | None = None,
    *,
    feather: float = 0.0,
    width: int = WIDTH,
    softens: bool = True,
) -> Drawing:
    """A canvas to draw a mask or a sketch on; shown as the last line of a cell.

        canvas = drawing_canvas(photo, "mask")
        canvas                                  # draw; Ctrl+Z takes back, two fingers zoom
        canvas.mask()                           # (1, 1, H, W) in [0, 1], feathered
        canvas.rgba()                           # uint8 (H, W, 4), the drawing itself
        canvas.set_mask(masks.half(64))         # also canvas.set_rgba(pixels or file), .clear(), .undo(), .save(path)
        canvas.on_change(lambda canvas: ...)    # after every stroke

    Args:
        background: photo (1, 3, H, W) in [0, 1] under the drawing; the palette of a sketch comes from it.
        mode: "mask" paints a region, "sketch" colours.
        size: of the drawing in pixels, side or (height, width); by default the photo's, else 256.
        feather: standard deviation in pixels of the blur of ``mask()``; a slider changes it, if ``softens``.
        width: of the canvas on the screen, pixels.

    Raises CanvasError for another mode, a size above 1024, a negative feather. Without anywidget it is a canvas of
    core widgets, on which sliders place shapes; the methods are the same.
    """
    kind = CoreCanvas if anywidget is None else DrawingCanvas
    return kind(background, mode, size, feather, softens, screen_width=width)
