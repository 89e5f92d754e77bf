"""The panel of the style lesson: contents, styles and settings over a plain ``StyleTransfer``."""

from pathlib import Path

from torch import Tensor

from helpers import style_transfer
from helpers.images import resize
from helpers.optimizers import OPTIMIZERS
from helpers.style_transfer.statistics import STATISTICS
from helpers.widgets.panel import OUT, RunPanel
from helpers.widgets.parts import control, seed_box
from helpers.widgets.upload import Square, central

SIZES = (64, 96, 128, 192, 256, 384, 512)
GROUPS = {
    "1_1 … 5_1": style_transfer.STYLE_LAYERS,
    "1_1 … 4_1": style_transfer.STYLE_LAYERS[:4],
    "1_1 … 3_1": style_transfer.STYLE_LAYERS[:3],
    "1_1, 1_2": ("conv1_1", "conv1_2"),
    "4_1, 5_1": style_transfer.STYLE_LAYERS[3:],
}


class StylePanel(RunPanel):
    """Choose content (square photos), style, layers, size and colours, and move the weights while it runs."""

    function, title, choosers = "helpers.style_transfer.stylize", "content", ("content",)
    aside, grouped = ("size", "style"), False
    labels = {"content_weight": "content weight", "style_weight": "style weight", "tv_weight": "smoothness"}
    powers = {"style_weight": (-1, 3), "tv_weight": (-1, 3)}
    presets = {
        "Texture": {"content_weight": 0.0, "init": "noise"},
        "Reconstruction": {"style_weight": 0.0, "tv_weight": 0.0, "init": "noise"},
    }

    def __init__(self, features, photos: dict[str, Tensor], styles: dict[str, Tensor], *, out: str | Path = OUT,
                 **values):  # fmt: skip
        self.features, self.styles = features, dict(styles)
        layers = [("3_3 and 4_2", style_transfer.CONTENT_LAYERS), *((layer, (layer,)) for layer in features.layers)]
        controls = {
            "content": control("content", list(photos)),
            "style": control("style", list(styles)),
            "size": control("size", list(SIZES), 128),
            "content_layers": control("content layer", layers),
            "style_layers": control("style layers", list(GROUPS.items())),
            "statistic": control("statistic", [*STATISTICS, "patches"], style_transfer.StyleOptions.statistic),
            "colour": control("colour", list(style_transfer.COLOURS)),
            "style_scale": control("style scale", (0.5, 2.0, 0.25), style_transfer.StyleOptions.style_scale),
            "init": control("start", ["content", "noise"]),
            "optimizer": control("optimizer", list(OPTIMIZERS[::-1])),
            "steps": control("steps", (10, 500, 10), style_transfer.StyleOptions.steps),
            "seed": seed_box(),
        }
        weights = {f"{name}_weight": weight for name, weight in style_transfer.StyleOptions().weights.items()}
        super().__init__(controls, weights, photos=photos, out=out, values=values)

    def react(self, name: str) -> None:
        super().react(name)
        if name == "size":
            self.show()

    def photo(self, name: str) -> Tensor:
        return resize(self.photos[name], self.controls["size"].value)

    def find_square(self, photo: Tensor) -> Square:
        return central(photo)

    def arguments(self) -> str:
        values = self.values
        photo = f"helpers.images.resize(panel.photos[{values['content']!r}], {values['size']})"
        return f"panel.features, {photo}, [panel.styles[{values['style']!r}]]"

    def make(self, settings: dict) -> style_transfer.StyleTransfer:
        styles = [self.styles[self.controls["style"].value]]
        return style_transfer.StyleTransfer(self.features, self.target, styles, **settings)

    def change(self, run: style_transfer.StyleTransfer, weights: dict[str, float]) -> None:
        """Under the criterion's own names."""
        style_transfer.check_weights(named := {name.removesuffix("_weight"): value for name, value in weights.items()})
        super().change(run, named)
