"""Parts of panels, each usable alone: labelled controls, galleries, before and after, the settings as code, files."""

import ast
import base64
import functools
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from helpers.images import resize, scaled
from helpers.widgets.html import CANDIDATE, jpeg_url

WRAP = {"flex_flow": "row wrap", "align_items": "flex-start"}
COLUMN = 300  # pixels on the screen: of controls or a canvas
COMPARED = 320  # pixels on the screen of before and after
KEPT = 24  # entries of a gallery: older ones drop out
THUMB = f"width:{CANDIDATE}px;height:{CANDIDATE}px;object-fit:contain;image-rendering:pixelated;display:block"


def control(label: str, kind, value: Any = None) -> widgets.Widget:
    """A labelled control: of a list of options, a (low, high, step) or a bool, as in ``ipywidgets.interact``."""
    made = widgets.interactive.widget_from_abbrev(kind)
    made.description, made.style.description_width, made.layout.width = label, "100px", "auto"
    if value is not None:
        choose(made, value)
    return made


def seed_box(value: int = 0) -> widgets.BoundedIntText:
    """A field for a seed."""
    return control("seed", widgets.BoundedIntText(value, max=2**31 - 1))


def log_slider(label: str, value: float, low: int = -2, high: int = 2, zero: bool = True) -> widgets.SelectionSlider:
    """A slider over 0 (if ``zero``) and 10**low to 10**high in stops of 1, 2, 5, with an extra one for ``value``."""
    stops = [float(f"{digit}e{power}") for power in range(low, high) for digit in (1, 2, 5)]
    stops = [0.0] * zero + stops + [float(f"1e{high}")]
    return control(label, widgets.SelectionSlider(options=[(f"{stop:g}", stop) for stop in stops]), value)


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


def column(*children: widgets.Widget, width: int = COLUMN) -> widgets.VBox:
    """One below the other."""
    layout = widgets.Layout(width=f"{width}px", max_width="100%", margin="0 12px 8px 0")
    return widgets.VBox(children, layout=layout)


def columns(*children: widgets.Widget, reverse: bool = False) -> widgets.HBox:
    """Side by side; they wrap if there is no room. ``reverse``: from right to left."""
    backwards = {"flex_flow": "row-reverse wrap", "justify_content": "flex-end"} if reverse else {}
    return widgets.HBox(children, layout=widgets.Layout(**WRAP | backwards))


class Gallery(widgets.HBox):
    """Thumbnails with a button each; ``on_click`` is called with the entry that came with the image."""

    def __init__(self, on_click: Callable[[Any], None]):
        self.on_click, self.entries = on_click, []
        super().__init__(layout=widgets.Layout(**WRAP))

    def add(self, image: Tensor, text: str, entry: Any, hint: str = "") -> None:
        """One more image (1, 3, H, W) in [0, 1] with a button ``text``; the pointer over it shows ``hint``."""
        url = jpeg_url(scaled(image, min(1, 2 * CANDIDATE / max(image.shape[-2:]))))
        thumbnail = widgets.HTML(f'<img src="{url}" alt="{escape(text)}" title="{escape(hint)}" style="{THUMB}">')
        button = widgets.Button(description=text, tooltip=hint, layout=widgets.Layout(width=f"{CANDIDATE}px"))
        button.on_click(lambda _: self.on_click(entry))
        self.entries = [*self.entries, entry][-KEPT:]
        self.children = [*self.children, widgets.VBox([thumbnail, button])][-KEPT:]

    def clear(self) -> None:
        self.entries, self.children = [], []


class BeforeAfter(widgets.VBox):
    """Two images, one left and one right of a line that a slider moves; another slider enlarges them."""

    def __init__(self):
        self._images = None
        self.line, self.zoom = control("before | after", (0.0, 1.0, 0.01), 0.5), control("zoom", (1.0, 6.0, 0.5), 1.0)
        self.view = widgets.HTML("Nothing to compare yet.", layout=widgets.Layout(overflow="auto"))
        super().__init__([self.line, self.zoom, self.view])
        self.layout.width, self.layout.max_width = f"{COMPARED + 40}px", "100%"
        for slider in (self.line, self.zoom):
            slider.observe(self._show, "value")

    def show(self, before: Tensor | None, after: Tensor) -> None:
        """Compare two images (1, 3, H, W) in [0, 1], if there are two; the first is resized to the second."""
        if before is not None:
            self._images = resize(before[:1], tuple(after.shape[-2:])).cpu(), after.cpu()
            self._show()

    def _show(self, _=None) -> None:
        if self._images is not None:
            before, after = self._images
            at = round(self.line.value * after.shape[-1])
            both = torch.cat([before[..., :at], after[..., at:]], -1)
            style = f"width:{COMPARED * self.zoom.value:.0f}px;max-width:none;image-rendering:pixelated"
            self.view.value = f'<img src="{jpeg_url(both)}" alt="before | after" style="{style}">'


def settings_code(function: str, arguments: str, settings: Mapping[str, Any], then: str = "") -> str:
    """Code for a cell of the lesson that does what the panel does; what cannot be written down is ``panel``'s."""
    lines = [arguments, *(f"{name}={_written(name, value)}" for name, value in settings.items())]
    module = function.partition("(")[0].rpartition(".")[0]
    call = "".join(f"    {line},\n" for line in lines)
    show = "helpers.figures.show_images(same.images)"
    return f"import helpers.figures\nimport {module}\n\nsame = {function}(\n{call}){then}\n{show}"


def _written(name: str, value: Any) -> str:
    text = repr(value)
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return f"panel.{name}"
    return text


def download_html(path: str | Path) -> str:
    """A link that saves a file of the kernel's machine on the reader's; the file travels in it."""
    name, kind = Path(path).name, mimetypes.guess_type(path)[0] or "application/octet-stream"
    data = base64.b64encode(Path(path).read_bytes()).decode()
    link = f'href="data:{kind};base64,{data}" download="{escape(name)}"'
    return f'<a {link} style="text-decoration:underline">{escape(name)}</a>'
