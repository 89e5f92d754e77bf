"""Parts of panels, each usable alone: labelled controls, galleries, before and after, the settings as code, files."""

from __future__ import annotations

import base64
import functools
import math
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from torch import Tensor

from helpers.images import grid, resize
from helpers.widgets.html import jpeg_url

STYLE = {"description_width": "100px"}
RESULT = 256  # pixels on the screen of a result and of what it is compared with
CANDIDATE = 100  # pixels on the screen of each of several results, and of a thumbnail
MOST = 16  # images of a batch that are shown
THUMB = f"width:{CANDIDATE}px;height:{CANDIDATE}px;object-fit:contain;image-rendering:pixelated;display:block"
WRAP = {"flex_flow": "row wrap", "align_items": "flex-start"}


# --- controls --------------------------------------------------------------------------------------------------------


def _labelled(kind: type, name: str, *args, **options) -> Any:
    return kind(*args, description=name, style=STYLE, layout=widgets.Layout(width="auto"), **options)


def log_options(low: int, high: int, zero: bool = True) -> list[tuple[str, float]]:
    """Stops of a logarithmic slider: 0, then 1, 2, 5 times every power of ten from ``low`` to ``high``."""
    values = [float(f"{digit}e{power}") for power in range(low, high) for digit in (1, 2, 5)] + [float(f"1e{high}")]
    return [("0", 0.0)] * zero + [(f"{value:g}", value) for value in values]


def log_slider(name: str, value: float, low: int = -2, high: int = 2, zero: bool = True) -> widgets.SelectionSlider:
    """A slider over 0 (if ``zero``) and 10**low to 10**high in stops of 1, 2, 5, with an extra one for ``value``."""
    slider = _labelled(widgets.SelectionSlider, name, options=log_options(low, high, zero))
    choose(slider, value)
    return slider


def dropdown(name: str, options, value: Any = None) -> widgets.Dropdown:
    """A labelled choice of ``value``, by default of its first option."""
    control = _labelled(widgets.Dropdown, name, options=options)
    if value is not None:
        choose(control, value)
    return control


def int_slider(name: str, value: int, low: int, high: int, step: int = 1) -> widgets.IntSlider:
    """A labelled slider over whole numbers."""
    return _labelled(widgets.IntSlider, name, value, min=low, max=high, step=step)


def float_slider(name: str, value: float, low: float, high: float, step: float) -> widgets.FloatSlider:
    """A labelled slider over numbers."""
    return _labelled(widgets.FloatSlider, name, value, min=low, max=high, step=step)


def range_slider(name: str, options) -> widgets.SelectionRangeSlider:
    """A labelled slider with two handles over (label, value) options, set to both ends."""
    return _labelled(widgets.SelectionRangeSlider, name, options=options, value=(options[0][1], options[-1][1]))


def checkbox(name: str) -> widgets.Checkbox:
    """A labelled box, not ticked."""
    return _labelled(widgets.Checkbox, name, False)


def seed_box(value: int = 0) -> widgets.BoundedIntText:
    """A field for a seed."""
    return _labelled(widgets.BoundedIntText, "seed", value, min=0, max=2**31 - 1)


def choose(control: widgets.Widget, value) -> None:
    """Set a control from code; a log slider gets an extra stop if it needs one, lists stand for tuples."""
    options = getattr(control, "options", None)
    if options is not None:
        values = [option[1] if isinstance(option, tuple) and len(option) == 2 else option for option in options]
        if value not in values and isinstance(control, widgets.SelectionSlider):
            control.options = sorted([*options, (f"{value:g}", value)], key=lambda option: option[1])
        elif value not in values and isinstance(value, list):
            value = tuple(value)
    control.value = value


def reoption(control: widgets.Dropdown, options: Sequence) -> None:
    """Give a choice other options; it keeps its value if that is still there."""
    if tuple(control.options) != tuple(options):
        value, control.options = control.value, options
        if value in options:
            control.value = value


def button_row(actions: Mapping[str, Callable[[], None]], guard: Callable) -> widgets.HBox:
    """Buttons by text; ``guard(function, _)`` calls what a press does."""
    buttons = []
    for text, action in actions.items():
        button = widgets.Button(description=text, layout=widgets.Layout(width="auto"))
        button.on_click(functools.partial(guard, action))
        buttons.append(button)
    return widgets.HBox(buttons, layout=widgets.Layout(**WRAP))


# --- images --------------------------------------------------------------------------------------------------------


class Gallery(widgets.HBox):
    """Thumbnails with a button each: a history to go back to, candidates to choose from.

    on_click: called with what was passed to ``add`` with the image. most: older entries drop out.
    """

    def __init__(self, on_click: Callable[[Any], None], most: int = 24):
        self.on_click, self.most, self.entries = on_click, most, []
        super().__init__(layout=widgets.Layout(**WRAP))

    def add(self, image: Tensor, text: str, entry: Any, hint: str = "") -> None:
        """One more image (1, 3, H, W) in [0, 1] with a button ``text``; the pointer over it shows ``hint``."""
        side = max(image.shape[-2:])
        small = resize(image, tuple(max(1, s * 2 * CANDIDATE // side) for s in image.shape[-2:]))
        url = jpeg_url(small if side > 2 * CANDIDATE else image)
        picture = widgets.HTML(f'<img src="{url}" alt="{escape(text)}" title="{escape(hint)}" style="{THUMB}">')
        button = widgets.Button(description=text, tooltip=hint, layout=widgets.Layout(width=f"{CANDIDATE}px"))
        button.on_click(lambda _: self.on_click(entry))
        self.entries = [*self.entries, entry][-self.most :]
        self.children = [*self.children, widgets.VBox([picture, button])][-self.most :]

    def clear(self) -> None:
        """Remove all pictures."""
        self.entries, self.children = [], []


class BeforeAfter(widgets.VBox):
    """Two images of one size, one over the other, with a slider for the line between them and one for the zoom."""

    def __init__(self, width: int = 320):
        self.width, self._urls = width, None
        self.slider = float_slider("before | after", 0.5, 0.0, 1.0, 0.01)
        self.zoom = float_slider("zoom", 1.0, 1.0, 6.0, 0.5)
        self.view = widgets.HTML("Nothing to compare yet.")
        layout = widgets.Layout(width=f"{width + 40}px", max_width="100%")
        super().__init__([self.slider, self.zoom, self.view], layout=layout)
        for slider in (self.slider, self.zoom):
            slider.observe(self._show, "value")

    def show(self, before: Tensor, after: Tensor) -> None:
        """Compare two images (1, 3, H, W) in [0, 1]; their sizes may differ."""
        self._urls = jpeg_url(before), jpeg_url(after)
        self._show()

    def _show(self, _=None) -> None:
        if self._urls is not None:
            self.view.value = compare_html(*self._urls, self.slider.value, self.width, self.zoom.value)


def compare_html(before: str, after: str, at: float, width: int, zoom: float = 1.0) -> str:
    """Picture ``before`` left of the fraction ``at`` of the width, ``after`` right of it; both are URLs."""
    style = "width:100%;display:block;image-rendering:pixelated;max-width:none;margin:0;"
    line = f"position:absolute;top:0;bottom:0;left:{100 * at:.1f}%;border-left:2px solid #fff;outline:1px solid #000"
    return (
        f'<div style="width:{width}px;max-width:100%;aspect-ratio:1;overflow:auto">'
        f'<div style="position:relative;width:{100 * zoom:.0f}%"><img src="{after}" alt="after" style="{style}">'
        f'<img src="{before}" alt="before" style="{style}height:100%;position:absolute;left:0;top:0;'
        f'clip-path:inset(0 {100 * (1 - at):.1f}% 0 0)"><div style="{line}"></div></div></div>'
    )


def columns_of(images: Tensor) -> int:
    """Columns of a nearly square grid of the first images of a batch."""
    return math.ceil(math.sqrt(min(len(images), MOST)))


def sheet_of(images: Tensor) -> Tensor:
    """One image of a batch: its only image, or a grid of the first ones."""
    return images if len(images) == 1 else grid(images[:MOST], columns_of(images), padding=1)


def width_of(images: Tensor) -> int:
    """Pixels on the screen of ``sheet_of(images)``, so that each of several can be told from the others."""
    return max(RESULT, columns_of(images) * CANDIDATE)


# --- settings and files ----------------------------------------------------------------------------------------------


def settings_code(function: str, arguments: str, settings: Mapping[str, Any], then: str = "") -> str:
    """Code that runs in a cell of the lesson and does what the panel does, e.g. of "helpers.inversion.project".

    The function is imported by its full name, which hides nothing that the reader has defined. Values that Python can
    read back are written out; others, such as networks, are taken from ``panel``.
    """
    lines = [arguments, *(f"{name}={_written(name, value)}" for name, value in settings.items())]
    module = function.partition("(")[0].rpartition(".")[0]
    call = "".join(f"    {line},\n" for line in lines)
    show = "helpers.figures.show_images(same.images)"
    return f"import helpers.figures\nimport {module}\n\nsame = {function}(\n{call}){then}\n{show}"


def _written(name: str, value: Any) -> str:
    plain = (bool, int, float, str, type(None))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_written(str(k), v)}" for k, v in value.items()) + "}"
    if isinstance(value, plain) or isinstance(value, list | tuple) and all(isinstance(v, plain) for v in value):
        return repr(value)
    return f"panel.{name}"


def download_html(path: str | Path) -> str:
    """A link that saves a file of the kernel's machine on the reader's; the file travels in it."""
    path = Path(path)
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    data = base64.b64encode(path.read_bytes()).decode()
    name = escape(path.name)
    return f'<a href="data:{kind};base64,{data}" download="{name}" style="text-decoration:underline">{name}</a>'
