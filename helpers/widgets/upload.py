"""One's own photo by upload, with a square box for the crop."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as widgets
import traitlets
from anywidget import AnyWidget
from torch import Tensor

from helpers.images import MIN_SIDE, central_box, crop, longer_side, read_image, resize
from helpers.photos import cut_square
from helpers.widgets.html import error_html, figure_html, jpeg_url
from helpers.widgets.live import source
from helpers.widgets.parts import WRAP

if TYPE_CHECKING:
    from helpers.generators import Generator

WIDTH = 300  # pixels of the photo on the screen
SIDE = 512  # pixels of the crop: as much as any lesson takes

Square = tuple[tuple[float, float, float, float], float]  # left, top, right, bottom in pixels of a photo; degrees


def uploaded_files(value) -> list[tuple[str, bytes]]:
    """(name, content) of a FileUpload's value: a dict by name in ipywidgets 7, a tuple of dicts in 8."""
    entries = value.items() if isinstance(value, dict) else ((entry["name"], entry) for entry in value)
    return [(name, bytes(entry["content"])) for name, entry in entries]


def central(photo: Tensor) -> Square:
    """The largest central square of a photo (1, 3, H, W)."""
    return central_box(photo), 0.0


def face_square(photo: Tensor, generator: Generator) -> Square:
    """The square of a photo (1, 3, H, W) in which its face lies as a generator knows faces. Raises NoFace."""
    from helpers.faces import FaceOptions, find_place

    place, size = find_place(photo, generator, FaceOptions()), generator.resolution
    if len(place) == 4:
        return place, 0.0
    turn, shift = place
    middle, half = (size * (0.5 + 0.5j) - shift) / turn, size / abs(turn) / 2
    box = (middle.real - half, middle.imag - half, middle.real + half, middle.imag + half)
    return box, -math.degrees(cmath.phase(turn))


class CropBox(AnyWidget):
    """A photo with a box, to drag by mouse, finger or keys."""

    _esm, _css = source("crop.js"), source("crop.css")
    photo = traitlets.Unicode().tag(sync=True)
    size = traitlets.List(default_value=[1, 1]).tag(sync=True)
    box = traitlets.List(default_value=[0, 0, 1, 1]).tag(sync=True)
    turn = traitlets.Float().tag(sync=True)
    smallest = traitlets.Int(MIN_SIDE).tag(sync=True)
    screen_width = traitlets.Int(WIDTH).tag(sync=True)


class PhotoUpload(widgets.VBox):
    """A button to upload a photo, a box on it to drag, and a preview of the crop.

    find: returns the square of a photo to start from; NoFace is reported, and the central square taken. photo: the
    whole photo (1, 3, H, W), None before the first. image: the crop (1, 3, size, size), a trait to observe.
    """

    image = traitlets.Any(allow_none=True)

    def __init__(self, size: int = SIDE, find: Callable[[Tensor], Square] = central):
        self.output_size, self.find, self.photo, self.name = size, find, None, ""
        self.button = widgets.FileUpload(accept="image/*", multiple=False, description="Upload a photo")
        self.button.layout.width = "auto"
        self.done = widgets.ToggleButton(False, description="Crop", layout=widgets.Layout(display="none"))
        self.cropper, self.view, self.message = CropBox(), widgets.HTML(), widgets.HTML()
        self.crop = widgets.HBox(layout=widgets.Layout(display="none", **WRAP))
        super().__init__([widgets.HBox([self.button, self.done]), self.message, self.crop])
        self.button.observe(lambda change: self.receive(change["new"]), "value")
        self.done.observe(self._open, "value")
        self.cropper.observe(self._cut, "box")

    def receive(self, value) -> None:
        """Take what the upload button holds; a file that is not a photo is named, and the last photo stays."""
        for name, content in uploaded_files(value)[-1:]:
            try:
                photo = read_image(content, name=name)
            except ValueError as error:
                self.message.value = error_html(error)
            else:
                self.set_photo(photo, name)

    def set_photo(self, photo: Tensor, name: str = "the photo") -> None:
        """Show a photo (1, 3, H, W) in [0, 1] with the box that was found, or the largest central one."""
        from helpers.faces import NoFace

        self.message.value, self.photo = "", None  # until all is set
        try:
            box, self.cropper.turn = self.find(photo)
        except NoFace:
            self.message.value = error_html(f"No face was found in {name}; drag the box to it.")
            box, self.cropper.turn = central(photo)
        shown = photo if max(photo.shape[-2:]) <= 2 * WIDTH else longer_side(photo, 2 * WIDTH)
        self.cropper.size, self.cropper.photo = list(photo.shape[:-3:-1]), jpeg_url(shown)
        self.cropper.box = list(box)
        self.photo, self.name, self.crop.children = photo, name, [self.cropper, self.view]
        self.done.layout.display, self.done.value = None, True
        self._cut()

    def _open(self, _) -> None:
        self.crop.layout.display = None if self.done.value else "none"

    def _cut(self, _=None) -> None:
        if self.photo is None:
            return
        (left, top, right, bottom), (width, height) = self.cropper.box, self.cropper.size
        if self.cropper.turn or min(left, top) < 0 or right > width or bottom > height:
            turned = self.output_size / (right - left) * cmath.exp(-1j * math.radians(self.cropper.turn))
            shift = self.output_size * (0.5 + 0.5j) - turned * complex(left + right, top + bottom) / 2
            self.image = cut_square(self.photo, turned, shift, self.output_size)
        else:
            self.image = resize(crop(self.photo, tuple(map(round, self.cropper.box))), self.output_size)
        self.view.value = figure_html(f"crop of {self.name}", self.image, WIDTH // 2)
