"""The panel of the style lesson: contents, styles and settings over a plain ``StyleTransfer``."""

from __future__ import annotations

from torch import Tensor

from helpers.images import resize
from helpers.optimizers import OPTIMIZERS
from helpers.style_transfer import (
    COLOURS,
    CONTENT_LAYERS,
    STYLE_LAYERS,
    STYLE_WEIGHT,
    StyleTransfer,
    check_weights,
)
from helpers.style_transfer.statistics import STATISTICS
from helpers.widgets.panel import RunPanel, change_weights
from helpers.widgets.parts import dropdown, float_slider, int_slider, seed_box

SIZES = (64, 96, 128, 192, 256, 384, 512)
GROUPS = {
    "1_1 … 5_1": STYLE_LAYERS,
    "1_1 … 4_1": STYLE_LAYERS[:4],
    "1_1 … 3_1": STYLE_LAYERS[:3],
    "1_1, 1_2": ("conv1_1", "conv1_2"),
    "4_1, 5_1": STYLE_LAYERS[3:],
}


class StylePanel(RunPanel):
    """See ``style_panel``."""

    def add_content(self, name: str, image: Tensor) -> None:
        """Offer one more photo (1, 3, H, W) in [0, 1] and choose it."""
        self.contents[name] = image
        self.controls["content"].options = list(self.contents)
        self.controls["content"].value = name


def style_panel(features, contents: dict[str, Tensor], styles: dict[str, Tensor], **options) -> StylePanel:
    """Choose content, style, layers, size and colours, press Start, and move the weights while it runs.

    contents: name to a square photo (1, 3, H, H) in [0, 1]; styles: name to a picture (1, 3, h, w). ``options`` are
    those of RunPanel (``out``). ``panel.make(panel.settings)`` is the StyleTransfer that Start runs.
    """
    contents, styles = dict(contents), dict(styles)

    def make(settings: dict) -> StyleTransfer:
        settings = dict(settings)
        photo = resize(contents[settings.pop("content")], settings.pop("size"))
        picture, layer = styles[settings.pop("style")], settings.pop("content_layer")
        return StyleTransfer(features, photo, [picture], content_layers=layer, **settings.pop("weights"), **settings)

    controls = {
        "content": dropdown("content", list(contents)),
        "style": dropdown("style", list(styles)),
        "size": dropdown("size", list(SIZES)),
        "content_layer": dropdown("content layer", list(features.layers)),
        "style_layers": dropdown("style layers", list(GROUPS.items())),
        "statistic": dropdown("statistic", [*STATISTICS, "patches"]),
        "colour": dropdown("colour", list(COLOURS)),
        "style_scale": float_slider("style scale", 1.0, 0.5, 2.0, 0.25),
        "init": dropdown("start", ["content", "noise"]),
        "optimizer": dropdown("optimizer", OPTIMIZERS[::-1]),
        "steps": int_slider("steps", 100, 10, 500, 10),
        "seed": seed_box(),
    }
    controls["size"].value, controls["content_layer"].value = 128, CONTENT_LAYERS[0]
    panel = StylePanel(
        make,
        controls,
        weights={"content_weight": 1.0, "style_weight": STYLE_WEIGHT, "tv_weight": 0.0},
        powers={"style_weight": (-1, 3), "tv_weight": (-1, 3)},
        presets={
            "Texture": {"content_weight": 0.0, "init": "noise"},
            "Reconstruction": {"style_weight": 0.0, "init": "noise"},
        },
        title="content",
        reference=lambda: resize(contents[controls["content"].value], controls["size"].value),
        call="StyleTransfer(features, content, [style])",
        change=_change_weights,
        **options,
    )
    panel.contents, panel.styles = contents, styles
    for name in panel.weight_names:
        panel.controls[name].description = name.replace("_", " ")
    for name in ("content", "size"):
        controls[name].observe(lambda _: panel.box.guard(panel.box.show_reference), "value")
    return panel


def _change_weights(run: StyleTransfer, weights: dict[str, float]) -> None:
    """Under the criterion's own names."""
    check_weights(named := {name.removesuffix("_weight"): value for name, value in weights.items()})
    change_weights(run, named)
