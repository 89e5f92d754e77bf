"""One's own photo by upload, with a crop box."""

from __future__ import annotations

import ipywidgets as widgets
import traitlets
from torch import Tensor

from helpers.images import MIN_SIDE, ImageError, crop, read_image, resize
from helpers.widgets.pictures import error_html, figure_html, jpeg_url, row_html

WIDTH = 256  # pixels of the photo on the screen


def uploaded_files(value) -> list[tuple[str, bytes]]:
    """(name, content) of a FileUpload's value: a dict by name in ipywidgets 7, a tuple of dicts in 8."""
    if isinstance(value, dict):
        return [(name, bytes(entry["content"])) for name, entry in value.items()]
    return [(entry["name"], bytes(entry["content"])) for entry in value]


def _slider(name: str) -> widgets.IntSlider:
    layout = widgets.Layout(width="340px")
    return widgets.IntSlider(0, min=0, max=1, description=name, style={"description_width": "40px"}, layout=layout)


class PhotoUpload(widgets.VBox):
    """Upload button, crop box and preview; see ``photo_upload``.

    Attributes:
        photo: the whole photo (1, 3, H, W), None before the first.
        image: the crop (1, 3, size, size), a trait: ``upload.observe(handler, "image")``.
        box: (left, top, right, bottom) of the crop, pixels of the photo.
    """

    image = traitlets.Any(allow_none=True)

    def __init__(self, size: int, default: Tensor | None = None):
        self.output_size, self.photo, self.name = size, None, ""
        self.button = widgets.FileUpload(accept="image/*", multiple=False, description="Upload a photo")
        self.button.layout.width = "180px"
        self.sliders = {name: _slider(name) for name in ("left", "top", "size")}
        self.view, self.message = widgets.HTML(), widgets.HTML()
        self._setting = False
        super().__init__([self.button, self.message, *self.sliders.values(), self.view])
        self.button.observe(lambda change: self.receive(change["new"]), "value")
        for slider in self.sliders.values():
            slider.observe(self._moved, "value")
        self.set_photo(default, "the photo")

    def receive(self, value) -> None:
        """Take what the upload button holds; a file that is no photo is named in one sentence, the last photo stays."""
        for name, content in uploaded_files(value)[-1:]:
            try:
                self.set_photo(read_image(content, name=name), name)
                self.message.value = ""
            except ImageError as error:
                self.message.value = error_html(str(error))

    def set_photo(self, photo: Tensor | None, name: str = "the photo") -> None:
        """Show a photo (1, 3, H, W) in [0, 1] with the largest central crop."""
        for slider in self.sliders.values():
            slider.layout.display = "none" if photo is None else None
        if photo is None:
            return
        self.photo, self.name = photo, name
        height, width = photo.shape[-2:]
        side = min(height, width)
        self._set(left=(width - side) // 2, top=(height - side) // 2, size=side)

    @property
    def box(self) -> tuple[int, int, int, int]:
        left, top, size = (self.sliders[name].value for name in ("left", "top", "size"))
        return left, top, left + size, top + size

    def _set(self, left: int, top: int, size: int) -> None:
        """Put the crop box inside the photo; the sliders end where its edges are."""
        height, width = self.photo.shape[-2:]
        size = min(size, height, width)
        self._setting = True
        try:
            for name, low, value, high in (
                ("size", min(MIN_SIDE, size), size, min(height, width)),
                ("left", 0, min(left, width - size), width - size),
                ("top", 0, min(top, height - size), height - size),
            ):
                slider = self.sliders[name]
                slider.min, slider.max = 0, max(high, slider.value)  # never min > max or a value outside on the way
                slider.value = value
                slider.min, slider.max = low, high
        finally:
            self._setting = False
        self._show()

    def _moved(self, change) -> None:
        if self._setting or self.photo is None:
            return
        left, top, size = (self.sliders[name].value for name in ("left", "top", "size"))
        if change["owner"] is self.sliders["size"]:  # about the middle of the box
            left, top = (max(0, edge + (change["old"] - size) // 2) for edge in (left, top))
        self._set(left, top, size)

    def _show(self) -> None:
        height, width = self.photo.shape[-2:]
        left, top, right, bottom = self.box
        self.image = resize(crop(self.photo, self.box), self.output_size)
        frame = (
            f'<div style="position:absolute;box-sizing:border-box;border:2px solid #fff;outline:1px solid #000;'
            f"left:{100 * left / width:.2f}%;top:{100 * top / height:.2f}%;"
            f'width:{100 * (right - left) / width:.2f}%;height:{100 * (bottom - top) / height:.2f}%"></div>'
        )
        scale = min(1, 2 * WIDTH / max(height, width))
        shown = resize(self.photo, (max(1, round(height * scale)), max(1, round(width * scale))))
        whole = figure_html(f"{self.name}, {width} x {height}", jpeg_url(shown), WIDTH, frame)
        side = self.output_size
        self.view.value = row_html(whole, figure_html(f"crop, {side} x {side}", jpeg_url(self.image), WIDTH))


def photo_upload(size: int, default: Tensor | None = None) -> PhotoUpload:
    """A button to upload a photo, sliders for its crop box, and a preview.

    size: side of ``.image`` (1, 3, size, size) in [0, 1], the crop. default: photo (1, 3, H, W) to show before the
    first upload; without it ``.image`` is None until then. Works with ipywidgets 7.7 and 8.
    """
    return PhotoUpload(size, default)
