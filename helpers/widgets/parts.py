"""Parts of panels, each of use alone: log sliders, a strip of pictures, before and after, settings as code, files."""

from __future__ import annotations

import base64
import functools
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from torch import Tensor

from helpers.images import grid, resize
from helpers.widgets.pictures import figure_html, jpeg_url

STYLE = {"description_width": "100px"}
THUMBNAIL = 104  # pixels
THUMB = f"width:{THUMBNAIL}px;height:{THUMBNAIL}px;object-fit:contain;image-rendering:pixelated;display:block"
WRAP = {"flex_flow": "row wrap", "align_items": "flex-start"}


# --- controls --------------------------------------------------------------------------------------------------------


def log_options(low: int, high: int, zero: bool = True) -> list[tuple[str, float]]:
    """Stops of a logarithmic slider: 0, then 1, 2, 5 times every power of ten from ``low`` to ``high``."""
    values = [float(f"{digit}e{power}") for power in range(low, high) for digit in (1, 2, 5)] + [float(f"1e{high}")]
    return [("0", 0.0)] * zero + [(f"{value:g}", value) for value in values]


def log_slider(name: str, value: float, low: int = -2, high: int = 2, zero: bool = True) -> widgets.SelectionSlider:
    """A slider over 0 (where ``zero``) and 10**low to 10**high in stops of 1, 2, 5, with one more for ``value``."""
    options, layout = log_options(low, high, zero), widgets.Layout(width="auto")
    slider = widgets.SelectionSlider(options=options, description=name, style=STYLE, layout=layout)
    choose(slider, value)
    return slider


def dropdown(name: str, options) -> widgets.Dropdown:
    """A labelled choice; its first option is chosen."""
    return widgets.Dropdown(options=options, description=name, style=STYLE, layout=widgets.Layout(width="auto"))


def int_slider(name: str, value: int, low: int, high: int, step: int = 1) -> widgets.IntSlider:
    """A labelled slider of whole numbers."""
    layout = widgets.Layout(width="auto")
    return widgets.IntSlider(value, min=low, max=high, step=step, description=name, style=STYLE, layout=layout)


def float_slider(name: str, value: float, low: float, high: float, step: float) -> widgets.FloatSlider:
    """A labelled slider of numbers."""
    layout = widgets.Layout(width="auto")
    return widgets.FloatSlider(value, min=low, max=high, step=step, description=name, style=STYLE, layout=layout)


def range_slider(name: str, options) -> widgets.SelectionRangeSlider:
    """A labelled slider with two handles over (label, value) options; both ends are chosen."""
    layout = widgets.Layout(width="auto")
    value = (options[0][1], options[-1][1])
    return widgets.SelectionRangeSlider(options=options, value=value, description=name, style=STYLE, layout=layout)


def seed_box(value: int = 0) -> widgets.BoundedIntText:
    """A field for a seed."""
    layout = widgets.Layout(width="180px")
    return widgets.BoundedIntText(value, min=0, max=2**31 - 1, description="seed", style=STYLE, layout=layout)


def choose(control: widgets.Widget, value) -> None:
    """Set a control from code; a log slider gets a stop there where it has none, lists stand for tuples."""
    options = getattr(control, "options", None)
    if options is not None:
        values = [option[1] if isinstance(option, tuple) and len(option) == 2 else option for option in options]
        if value not in values and isinstance(control, widgets.SelectionSlider):
            control.options = sorted([*options, (f"{value:g}", value)], key=lambda option: option[1])
        elif value not in values and isinstance(value, list):
            value = tuple(value)
    control.value = value


# --- pictures --------------------------------------------------------------------------------------------------------


class Gallery(widgets.HBox):
    """Thumbnails with a button each: a history to go back to, candidates to choose from.

    on_click: called with what was given to ``add`` beside the picture. most: older entries drop out.
    """

    def __init__(self, on_click: Callable[[Any], None], most: int = 24):
        self.on_click, self.most, self.entries = on_click, most, []
        super().__init__(layout=widgets.Layout(**WRAP))

    def add(self, image: Tensor, text: str, entry: Any, hint: str = "") -> None:
        """One more picture (1, 3, H, W) in [0, 1] with a button ``text``; the pointer over it shows ``hint``."""
        side = max(image.shape[-2:])
        small = resize(image, tuple(max(1, s * 2 * THUMBNAIL // side) for s in image.shape[-2:]))
        url = jpeg_url(small if side > 2 * THUMBNAIL else image)
        picture = widgets.HTML(f'<img src="{url}" alt="{escape(text)}" title="{escape(hint)}" style="{THUMB}">')
        button = widgets.Button(description=text, tooltip=hint, layout=widgets.Layout(width=f"{THUMBNAIL}px"))
        button.on_click(lambda _: self.on_click(entry))
        self.entries = [*self.entries, entry][-self.most :]
        self.children = [*self.children, widgets.VBox([picture, button])][-self.most :]

    def clear(self) -> None:
        """Remove all pictures."""
        self.entries, self.children = [], []


class BeforeAfter(widgets.VBox):
    """Two pictures of one size, one over the other, with a slider for the line between them and one for the zoom."""

    def __init__(self, width: int = 320):
        self.width, self._urls = width, None
        self.slider = float_slider("before | after", 0.5, 0.0, 1.0, 0.01)
        self.zoom = float_slider("zoom", 1.0, 1.0, 6.0, 0.5)
        self.view = widgets.HTML("Nothing to compare yet.")
        super().__init__([self.slider, self.zoom, self.view], layout=widgets.Layout(width=f"{width + 40}px"))
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


def sheet_of(images: Tensor, most: int = 16) -> Tensor:
    """One picture of a batch: its only image, or a grid of the first ones."""
    return images if len(images) == 1 else grid(images[:most], padding=1)


def pictures_html(pictures: Mapping[str, Tensor | None], width: int) -> list[str]:
    """Images by title as HTML figures of a width on the screen; None is an empty square."""
    return [figure_html(title, None if i is None else jpeg_url(i), width) for title, i in pictures.items()]


# --- settings and files ----------------------------------------------------------------------------------------------


def settings_code(call: str, settings: Mapping[str, Any]) -> str:
    """The call that does the same without the panel, e.g. of "project(generator, target)".

    Values that Python can read back are written out; others, such as networks, by their name.
    """
    head, _, tail = call.rpartition(")")
    lines = [f"    {name}={_written(name, value)}," for name, value in settings.items()]
    opening = head if head.endswith("(") else f"{head},"
    start = head.partition("(")[0] + "("
    first = opening.removeprefix(start)
    return "\n".join([start, *([f"    {first}"] if first else []), *lines, ")" + tail])


def _written(name: str, value: Any) -> str:
    plain = (bool, int, float, str, type(None))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_written(str(k), v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple) and all(isinstance(v, plain) for v in value):
        return repr(value)
    return repr(value) if isinstance(value, plain) else name


def download_html(path: str | Path) -> str:
    """A link that saves a file of the kernel's machine on the reader's; the file travels in it."""
    path = Path(path)
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    data = base64.b64encode(path.read_bytes()).decode()
    name = escape(path.name)
    return f'<a href="data:{kind};base64,{data}" download="{name}" style="text-decoration:underline">{name}</a>'


def button_row(actions: Mapping[str, Callable[[], None]], guard: Callable) -> widgets.HBox:
    """Buttons by text; ``guard(function, _)`` calls what a press does."""
    buttons = []
    for text, action in actions.items():
        button = widgets.Button(description=text, layout=widgets.Layout(width="auto"))
        button.on_click(functools.partial(guard, action))
        buttons.append(button)
    return widgets.HBox(buttons, layout=widgets.Layout(**WRAP))


def values_of(controls: Mapping[str, widgets.Widget], names: Sequence[str] | None = None) -> dict[str, Any]:
    """Values of controls by name."""
    return {name: control.value for name, control in controls.items() if names is None or name in names}
