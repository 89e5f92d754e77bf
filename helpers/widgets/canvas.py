"""A drawing canvas for masks and sketches: mouse, pen and touch; strokes are drawn in the browser."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import torch
import traitlets
from PIL import Image
from torch import Tensor

from helpers import masks
from helpers.files import atomic_path
from helpers.images import ImageError, read_rgba, to_uint8
from helpers.widgets.pictures import COLOURS, error_html, error_sentence, figure_html, jpeg_url
from helpers.widgets.upload import uploaded_files

try:
    import anywidget
except ImportError:  # the fall-back below needs core ipywidgets only
    anywidget = None

MODES = ("mask", "sketch")
WIDTH = 384  # pixels of the canvas on the screen
MOST = 1024  # pixels: a longer side would make every stroke slow
HEAD = "data:image/png;base64,"


class CanvasError(ValueError):
    """A canvas that cannot be made, or a drawing that does not fit it."""


def photo_palette(image: Tensor, colours: int = 10) -> list[str]:
    """Colours of a photo (1, 3, H, W) in [0, 1] as "#rrggbb", dark to light: its octree palette."""
    picture = Image.fromarray(to_uint8(image)[0]).quantize(colours, Image.Quantize.FASTOCTREE).convert("RGB")
    found = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    return ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in sorted(found, key=lambda c: c[0] * 3 + c[1] * 6 + c[2])]


def png_url(pixels: np.ndarray) -> str:
    """uint8 pixels (H, W, 3 or 4) as a ``data:`` URL without loss."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return HEAD + base64.b64encode(file.getvalue()).decode()


def pixels_of(url: str, size: tuple[int, int]) -> np.ndarray:
    """uint8 pixels (H, W, 4) of a PNG ``data:`` URL; an empty string is an empty drawing of that (height, width)."""
    if not url:
        return np.zeros((*size, 4), np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix(HEAD))), formats=["PNG"]) as picture:
        pixels = np.array(picture.convert("RGBA"))
    if pixels.shape[:2] != tuple(size):
        raise CanvasError(f"the drawing must be {size[1]} x {size[0]} pixels, but {pixels.shape[1::-1]} came.")
    return pixels


class Drawing:
    """What both canvases can do; ``pixels``, uint8 (H, W, 4), and ``feather`` are theirs to keep."""

    def _begin(self, background: Tensor | None, mode: str, size, feather: float) -> tuple[int, int]:
        if mode not in MODES:
            raise CanvasError(f"the mode must be mask or sketch, but {mode!r} came.")
        if size is None:
            size = 256 if background is None else tuple(background.shape[-2:])
        size = (size, size) if isinstance(size, int) else tuple(map(int, size))
        if not all(1 < side <= MOST for side in size):
            raise CanvasError(f"the size of a canvas is 2 to {MOST} pixels a side, but {size} came; give a size.")
        if feather < 0:
            raise CanvasError(f"the feather must be 0 or more pixels, but {feather} came.")
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

        Kept in 8 bits. Raises MaskError for anything else, ImageError for a file that is no image.
        """
        is_file = isinstance(mask, str | os.PathLike)
        mask = masks.mask_from_file(mask) if is_file else masks.as_mask(mask)[:1]
        mask = masks.mask_pyramid(mask, [self._shape])[0]
        pixels = np.full((*self._shape, 4), 255, np.uint8)
        pixels[..., 3] = (mask[0, 0] * 255).round().byte().cpu().numpy()
        self.pixels = pixels

    def set_rgba(self, pixels: np.ndarray | str | os.PathLike) -> None:
        """Replace the drawing by uint8 pixels (H, W, 3 or 4) or an image file, resized to the canvas.

        Raises CanvasError for other arrays, ImageError for a file that is no image.
        """
        if isinstance(pixels, str | os.PathLike):
            colour, alpha = read_rgba(pixels)
            pixels = np.dstack([to_uint8(colour)[0], to_uint8(alpha)[0]])
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
            raise CanvasError(f"a drawing is uint8 (H, W, 3 or 4), but {pixels.dtype} {pixels.shape} came.")
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
            self.message = error_sentence(error)


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

        # as text: of a path anywidget keeps a watcher, and that every canvas there ever was, with all it refers to
        _esm = Path(__file__).with_name("canvas.js").read_text(encoding="utf-8")
        _css = Path(__file__).with_name("canvas.css").read_text(encoding="utf-8")

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

        def __init__(self, background=None, mode="mask", size=None, feather=0.0, width=WIDTH, colours=10):
            size = self._begin(background, mode, size, feather)
            brush, opacity = max(1.0, round(min(size) / 12)), 0.6 if mode == "mask" else 1.0
            super().__init__(size=list(size), mode=mode, screen_width=width, brush=brush, opacity=opacity)
            self.feather = feather
            self.set_background(background, colours)
            self.observe(self._changed, ["layer", "feather"])

        @property
        def _shape(self) -> tuple[int, int]:
            return tuple(self.size)

        @property
        def pixels(self) -> np.ndarray:
            return pixels_of(self.layer, self._shape)

        @pixels.setter
        def pixels(self, pixels: np.ndarray) -> None:
            self.layer = png_url(pixels) if pixels[..., 3].any() else ""

        def set_background(self, image: Tensor | None, colours: int = 10) -> None:
            """Show a photo (1, 3, H, W) in [0, 1] under the drawing, or none; the palette comes from it."""
            self.background = "" if image is None else png_url(to_uint8(image)[0])
            photo = [] if image is None else photo_palette(image, colours)
            self.palette = ["#000000", "#ffffff", *(photo or COLOURS)]

        def undo(self) -> None:
            """Take back the last change, in the browser."""
            self.send({"do": "undo"})

        def redo(self) -> None:
            """Make it again, in the browser."""
            self.send({"do": "redo"})


class CoreCanvas(Drawing, widgets.VBox):
    """The fall-back of core widgets: ellipses and boxes by sliders; see ``drawing_canvas``."""

    def __init__(self, background=None, mode="mask", size=None, feather=0.0, width=WIDTH, colours=10):
        self._shape, self.mode, self.screen_width = self._begin(background, mode, size, feather), mode, width
        self._pixels, self._past, self._future = np.zeros((*self._shape, 4), np.uint8), [], []
        self._image = None
        self.note, self.view = widgets.HTML(), widgets.HTML()
        self.shape = widgets.Dropdown(options=["ellipse", "box"], description="shape")
        places = {"x": 0.5, "y": 0.5, "width": 0.5, "height": 0.5}
        self.sliders = {name: _slider(name, value, 1.0, 0.01) for name, value in places.items()}
        self.softness = _slider("feather", feather, max(feather, min(self._shape) / 8), 0.25)
        self.picker = widgets.ColorPicker(value="#000000", description="colour")
        names = ["Add", "Cut", "Undo", "Redo", *(["Invert"] if mode == "mask" else []), "Clear"]
        layout = widgets.Layout(width="auto")
        self.buttons = {name: widgets.Button(description=name, layout=layout) for name in names}
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="Open", layout=layout)
        extra = self.softness if mode == "mask" else self.picker
        wrap = widgets.Layout(flex_flow="row wrap")
        rows = [self.shape, *self.sliders.values(), extra]
        super().__init__(
            [*rows, widgets.HBox([*self.buttons.values(), self.upload], layout=wrap), self.note, self.view]
        )
        self._connect()
        self.set_background(background)

    def _connect(self) -> None:
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: getattr(self, name.lower())())
        for control in (self.shape, self.picker, *self.sliders.values()):
            control.observe(self._show, "value")
        self.softness.observe(self._changed, "value")
        self.upload.observe(lambda change: self._open(change["new"]), "value")

    @property
    def pixels(self) -> np.ndarray:
        return self._pixels

    @pixels.setter
    def pixels(self, pixels: np.ndarray) -> None:
        self._past, self._future = [*self._past, self._pixels][-50:], []
        self._set(pixels)

    def _set(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self._changed()

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

    def set_background(self, image: Tensor | None, colours: int = 10) -> None:
        """Show a photo (1, 3, H, W) in [0, 1] under the drawing, or none."""
        self._image = image
        self._show()

    # --- buttons ----------------------------------------------------------------------------------------------------

    def _region(self) -> Tensor:
        """The shape that the sliders describe, (1, 1, H, W)."""
        x, y, width, height = (max(0.005, slider.value) for slider in self.sliders.values())
        if self.shape.value == "box":
            return masks.box(self._shape, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        return masks.ellipse(self._shape, (x, y), (width / 2, height / 2))

    def add(self) -> None:
        """Draw the shape of the sliders."""
        rgb = _rgb("#ffffff" if self.mode == "mask" else self.picker.value)
        over, under = self._region()[0, 0].numpy()[..., None], self.pixels / 255
        alpha = over + under[..., 3:] * (1 - over)
        colour = (rgb * over + under[..., :3] * under[..., 3:] * (1 - over)) / np.maximum(alpha, 1e-6)
        self.pixels = (np.dstack([colour, alpha]) * 255).round().astype(np.uint8)

    def cut(self) -> None:
        """Erase the shape of the sliders."""
        pixels = self.pixels.copy()
        pixels[..., 3] = (pixels[..., 3] * (1 - self._region()[0, 0].numpy())).round().astype(np.uint8)
        self.pixels = pixels

    def invert(self) -> None:
        """Swap inside and outside."""
        self.set_mask(1 - self.pixels[..., 3] / 255)

    def undo(self) -> None:
        """Take back the last change."""
        if self._past:
            self._future.append(self._pixels)
            self._set(self._past.pop())

    def redo(self) -> None:
        """Make it again."""
        if self._future:
            self._past.append(self._pixels)
            self._set(self._future.pop())

    def _open(self, value) -> None:
        for name, content in uploaded_files(value)[-1:]:
            try:
                colour, alpha = read_rgba(content, name=name)
            except ImageError as error:
                self.message = str(error)
                return
            if self.mode == "mask":
                self.set_mask(alpha if alpha.min() < 1 else colour.mean(1, keepdim=True))
            else:
                self.set_rgba(np.dstack([to_uint8(colour)[0], to_uint8(alpha)[0]]))

    def _changed(self, _=None) -> None:
        super()._changed()
        self._show()

    def _show(self, _=None) -> None:
        """The photo, the drawing over it, and the outline of the sliders' shape."""
        paper = torch.ones(1, 3, *self._shape) if self._image is None else self._image.cpu()
        paper = torch.from_numpy(_resized(to_uint8(paper)[0], self._shape) / 255.0).permute(2, 0, 1)[None].float()
        if self.mode == "mask":
            image = masks.overlay(paper, self.mask(), opacity=0.6)
        else:
            pixels = torch.from_numpy(self.pixels.copy()).permute(2, 0, 1)[None].float() / 255
            image = torch.lerp(paper, pixels[:, :3], pixels[:, 3:])
        self.view.value = figure_html(self.mode, jpeg_url(image), self.screen_width, self._outline())

    def _outline(self) -> str:
        x, y, width, height = (100 * slider.value for slider in self.sliders.values())
        bend = "50%" if self.shape.value == "ellipse" else "0"
        return (
            f'<div style="position:absolute;box-sizing:border-box;border:1px solid #fff;outline:1px dashed #000;'
            f"border-radius:{bend};left:{x - width / 2:.1f}%;top:{y - height / 2:.1f}%;"
            f'width:{width:.1f}%;height:{height:.1f}%"></div>'
        )


def _slider(name: str, value: float, high: float, step: float) -> widgets.FloatSlider:
    layout, style = widgets.Layout(width="340px"), {"description_width": "60px"}
    return widgets.FloatSlider(value, min=0, max=high, step=step, description=name, layout=layout, style=style)


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def drawing_canvas(
    background: Tensor | None = None,
    mode: str = "mask",
    size: int | tuple[int, int] | None = None,
    *,
    feather: float = 0.0,
    width: int = WIDTH,
    colours: int = 10,
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
        feather: standard deviation in pixels of the drawing by which ``mask()`` is softened; a slider changes it.
        width: of the canvas on the screen, pixels.
        colours: of the palette.

    Raises:
        CanvasError: for another mode, a size above 1024, a negative feather.

    Without anywidget it is a canvas of core widgets, where shapes are placed by sliders; methods are the same.
    """
    kind = CoreCanvas if anywidget is None else DrawingCanvas
    return kind(background, mode, size, feather=feather, width=width, colours=colours)
