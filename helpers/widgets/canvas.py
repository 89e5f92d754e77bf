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
from helpers.widgets.live import source
from helpers.widgets.parts import WRAP, float_slider
from helpers.widgets.pictures import COLOURS, data_url, error_html, figure_html, frame_html, sentence
from helpers.widgets.upload import uploaded_files

try:
    import anywidget
except ImportError:  # the fallback below needs core ipywidgets only
    anywidget = None

MODES = ("mask", "sketch")
WIDTH = 384  # pixels of the canvas on the screen
MOST = 1024  # pixels: a longer side would make every stroke slow
DEEP = 50  # drawings kept for undo


class CanvasError(ValueError):
    """A canvas that cannot be made, or a drawing that does not fit it."""


def photo_palette(image: Tensor, colours: int = 10) -> list[str]:
    """Colours of a photo (1, 3, H, W) in [0, 1] as "#rrggbb", dark to light: its octree palette."""
    picture = Image.fromarray(to_uint8(image)[0]).quantize(colours, Image.Quantize.FASTOCTREE).convert("RGB")
    found = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    return ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in sorted(found, key=lambda c: c[0] * 3 + c[1] * 6 + c[2])]


def pixels_of(url: str, size: tuple[int, int]) -> np.ndarray:
    """uint8 pixels (H, W, 4) of a PNG ``data:`` URL; an empty string is an empty drawing of that (height, width)."""
    if not url:
        return np.zeros((*size, 4), np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])), formats=["PNG"]) as picture:
        pixels = np.array(picture.convert("RGBA"))
    if pixels.shape[:2] != tuple(size):
        raise CanvasError(f"the drawing must be {size[1]} x {size[0]} pixels; got {pixels.shape[1::-1]}.")
    return pixels


class Drawing:
    """What both canvases can do; ``pixels``, uint8 (H, W, 4), and ``feather`` are theirs to keep."""

    def _begin(self, background: Tensor | None, mode: str, size, feather: float) -> tuple[int, int]:
        if mode not in MODES:
            raise CanvasError(f"the mode must be mask or sketch; got {mode!r}.")
        if size is None:
            size = 256 if background is None else tuple(background.shape[-2:])
        size = (size, size) if isinstance(size, int) else tuple(map(int, size))
        if not all(1 < side <= MOST for side in size):
            raise CanvasError(f"a canvas has 2 to {MOST} pixels a side; got {size}, give a size.")
        if feather < 0:
            raise CanvasError(f"the feather must be 0 or more pixels; got {feather}.")
        self._callbacks: list[Callable] = []
        return size

    def mask(self, size: int | tuple[int, int] | None = None) -> Tensor:
        """What was drawn as a mask (1, 1, H, W) in [0, 1], feathered; averaged to ``size`` (side or (H, W))."""
        mask = masks.feather(masks.mask_from_drawing(self.pixels), self.feather)
        return mask if size is None else masks.mask_pyramid(mask, [size])[0]

    def rgba(self, size: int | tuple[int, int] | None = None) -> np.ndarray:
        """The drawing, uint8 (H, W, 4) with transparent paper, not feathered; resized to ``size`` (side or (H, W))."""
        return self.pixels if size is None else _resized(self.pixels, size)

    def set_mask(self, mask: Tensor | np.ndarray | str | os.PathLike) -> None:
        """Replace the drawing by a mask of any size: what ``masks.as_mask`` takes, or an image file.

        Kept in 8 bits. Raises MaskError for anything else, ImageError for a file that is not an image.
        """
        is_file = isinstance(mask, str | os.PathLike)
        mask = masks.mask_from_file(mask) if is_file else masks.as_mask(mask)[:1]
        mask = masks.mask_pyramid(mask, [self._shape])[0]
        pixels = np.full((*self._shape, 4), 255, np.uint8)
        pixels[..., 3] = (mask[0, 0] * 255).round().byte().cpu().numpy()
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
        self.pixels = _resized(pixels, self._shape)

    def clear(self) -> None:
        """Erase everything."""
        self.pixels = np.zeros((*self._shape, 4), np.uint8)

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


def _resized(pixels: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
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

        size = traitlets.List(traitlets.Int()).tag(sync=True)
        mode = traitlets.Enum(MODES).tag(sync=True)
        screen_width = traitlets.Int(WIDTH).tag(sync=True)
        layer = traitlets.Unicode().tag(sync=True, echo_update=False)  # a PNG: binary would be lost on Colab
        background = traitlets.Unicode().tag(sync=True)
        palette = traitlets.List(traitlets.Unicode()).tag(sync=True)
        tool = traitlets.Enum(("brush", "lasso", "rectangle"), "brush").tag(sync=True)
        erase = traitlets.Bool().tag(sync=True)
        brush = traitlets.Float().tag(sync=True)
        colour = traitlets.Unicode("#000000").tag(sync=True)
        feather = traitlets.Float().tag(sync=True)
        opacity = traitlets.Float().tag(sync=True)
        message = traitlets.Unicode().tag(sync=True)
        softens = traitlets.Bool(True).tag(sync=True)

        def __init__(self, background, mode, size, feather, width, softens):
            size = self._begin(background, mode, size, feather)
            brush, opacity = max(1.0, round(min(size) / 12)), 0.6 if mode == "mask" else 1.0
            shown = {"screen_width": width, "softens": softens and mode == "mask"}
            super().__init__(size=list(size), mode=mode, brush=brush, opacity=opacity, **shown)
            self.feather = feather
            self.set_background(background)
            self.observe(self._changed, ["layer", "feather"])

        @property
        def _shape(self) -> tuple[int, int]:
            return tuple(self.size)

        @property
        def pixels(self) -> np.ndarray:
            return pixels_of(self.layer, self._shape)

        @pixels.setter
        def pixels(self, pixels: np.ndarray) -> None:
            self.layer = data_url(pixels, "PNG") if pixels[..., 3].any() else ""

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

    def __init__(self, background, mode, size, feather, width, softens):
        self._shape, self.mode, self.screen_width = self._begin(background, mode, size, feather), mode, width
        self._drawings, self._at, self._image = [np.zeros((*self._shape, 4), np.uint8)], 0, background
        self.note, self.view = widgets.HTML(), widgets.HTML()
        self.shape = widgets.Dropdown(options=["ellipse", "box"], description="shape")
        self.sliders = {name: float_slider(name, 0.5, 0, 1, 0.01) for name in ("across", "down", "width", "height")}
        self.softness = float_slider("feather", feather, 0, max(feather, min(self._shape) / 8), 0.25)
        self.picker = widgets.ColorPicker(value="#000000", description="colour")
        self.buttons = {}
        for name in ("Add", "Cut", "Undo", "Redo", *(["Invert"] if mode == "mask" else []), "Clear"):
            self.buttons[name] = widgets.Button(description=name, layout=widgets.Layout(width="auto"))
            self.buttons[name].on_click(lambda _, name=name: getattr(self, name.lower())())
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="Open")
        for control in (self.shape, self.picker, *self.sliders.values()):
            control.observe(self._show, "value")
        self.softness.observe(self._changed, "value")
        self.upload.observe(lambda change: self._open(change["new"]), "value")
        extra = [self.picker] if mode == "sketch" else [self.softness] * softens
        row = widgets.HBox([*self.buttons.values(), self.upload], layout=widgets.Layout(**WRAP))
        super().__init__([self.shape, *self.sliders.values(), *extra, row, self.note, self.view])
        self._show()

    @property
    def pixels(self) -> np.ndarray:
        return self._drawings[self._at]

    @pixels.setter
    def pixels(self, pixels: np.ndarray) -> None:
        self._drawings = [*self._drawings[: self._at + 1], pixels][-DEEP:]
        self._go_to(len(self._drawings) - 1)

    def _go_to(self, at: int) -> None:
        if 0 <= at < len(self._drawings):
            self._at = at
            self._changed()

    def undo(self) -> None:
        """Take back the last change."""
        self._go_to(self._at - 1)

    def redo(self) -> None:
        """Make it again."""
        self._go_to(self._at + 1)

    @property
    def feather(self) -> float:
        return self.softness.value

    @feather.setter
    def feather(self, value: float) -> None:
        self.softness.max = max(self.softness.max, value)
        self.softness.value = value

    @property
    def message(self) -> str:
        return self.note.value

    @message.setter
    def message(self, text: str) -> None:
        self.note.value = error_html(text)

    def set_background(self, image: Tensor | None) -> None:
        """Show a photo (1, 3, H, W) in [0, 1] under the drawing, or none."""
        self._image = image
        self._show()

    def _region(self) -> Tensor:
        """The shape that the sliders describe, (1, 1, H, W)."""
        x, y, width, height = (max(0.005, slider.value) for slider in self.sliders.values())
        if self.shape.value == "box":
            return masks.box(self._shape, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        return masks.ellipse(self._shape, (x, y), (width / 2, height / 2))

    def add(self) -> None:
        """Draw the shape of the sliders."""
        colour = "#ffffff" if self.mode == "mask" else self.picker.value
        pixels = np.full((*self._shape, 4), (*ImageColor.getrgb(colour), 255), np.uint8)
        pixels[..., 3] = (self._region()[0, 0] * 255).round().byte().numpy()
        self.pixels = np.array(Image.alpha_composite(Image.fromarray(self.pixels), Image.fromarray(pixels)))

    def cut(self) -> None:
        """Erase the shape of the sliders."""
        pixels = self.pixels.copy()
        pixels[..., 3] = (pixels[..., 3] * (1 - self._region()[0, 0].numpy())).round().astype(np.uint8)
        self.pixels = pixels

    def invert(self) -> None:
        """Swap inside and outside."""
        self.set_mask(1 - self.pixels[..., 3] / 255)

    def _open(self, value) -> None:
        for name, content in uploaded_files(value)[-1:]:
            try:
                if self.mode == "mask":
                    self.set_mask(masks.mask_from_file(content, name=name))
                else:
                    colour, alpha = read_rgba(content, name=name)
                    self.set_rgba(np.dstack([to_uint8(colour)[0], to_uint8(alpha)[0]]))
            except ValueError as error:
                self.message = str(error)

    def _changed(self, _=None) -> None:
        super()._changed()
        self._show()

    def _show(self, _=None) -> None:
        """The photo, the drawing over it, and the outline of the sliders' shape."""
        paper = torch.ones(1, 3, *self._shape) if self._image is None else resize(self._image.cpu(), self._shape)
        if self.mode == "mask":
            image = masks.overlay(paper, self.mask(), opacity=0.6)
        else:
            pixels = torch.from_numpy(self.pixels.copy()).permute(2, 0, 1)[None].float() / 255
            image = torch.lerp(paper, pixels[:, :3], pixels[:, 3:])
        self.view.value = figure_html(self.mode, image, self.screen_width, self._outline())

    def _outline(self) -> str:
        x, y, width, height = (slider.value for slider in self.sliders.values())
        edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return frame_html(edges, bend="50%" if self.shape.value == "ellipse" else "0")


def drawing_canvas(
    background: Tensor | None = None,
    mode: str = "mask",
    size: int | tuple[int, int] | None = None,
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

    Raises:
        CanvasError: for another mode, a size above 1024, a negative feather.

    Without anywidget it is a canvas of core widgets, on which sliders place shapes; the methods are the same.
    """
    return (CoreCanvas if anywidget is None else DrawingCanvas)(background, mode, size, feather, width, softens)
