"""The panel of the sketch lesson: a canvas to draw on, controls, candidates to pick from and to continue from."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.generators import Generator
from helpers.images import resize, to_uint8
from helpers.latents import Latents
from helpers.sketch import LINE_WEIGHTS, STARTS, WEIGHTS, Sketch, SketchSearch, near, read_sketch, sketch_constraints
from helpers.widgets.canvas import DrawingCanvas
from helpers.widgets.panel import OUT, RunPanel
from helpers.widgets.parts import COLUMN, control, seed_box

SIZE = 256  # pixels of the canvas: finer than the small generator, so that strokes look like strokes
PALETTE = (  # fur: black, white, greys, browns; nose; eyes
    *("#141417", "#edebe6", "#858280", "#595c66", "#5c422e", "#cc8040", "#deb380", "#eddbc2"),
    *("#d98c87", "#cca333", "#94a859", "#73a8d9"),
)


class SketchPanel(RunPanel):
    """Looks for images that follow a drawing; a network that is None leaves its constraint out."""

    function, title, aside = "helpers.sketch.search", "sketch", ("go_on",)
    powers = {"realism": (-3, 0), "prior": (-3, 1)}

    def __init__(self, generator: Generator, discriminator=None, sketch: Sketch | None = None, features=None, *,
                 out: str | Path = OUT, **values):  # fmt: skip
        self.generator, self.discriminator, self.features = generator, discriminator, features
        self.picked: Latents | None = None
        self.canvas = DrawingCanvas(_guide(generator), "sketch", SIZE, width=COLUMN)
        self.canvas.palette = list(PALETTE)
        if sketch is not None:
            self.canvas.set_rgba(_pixels(sketch))
        self.canvas.on_change(lambda _: self.guard(self.show))
        missing = {"realism": discriminator is None, "perceptual": features is None}
        names = [n for n in ("colour", "edge", "perceptual", "realism", "prior") if not missing.get(n)]
        self.presets = {"Lines": {name: LINE_WEIGHTS.get(name, 0.0) for name in names}}
        controls = {
            "space": control("space", list(generator.spaces), "w" if "w" in generator.spaces else "z"),
            "start": control("start", list(STARTS), "best"),
            "starts": control("starts", (1, 32), 8),
            "steps": control("steps", (10, 500, 10), 80),
            "seed": seed_box(),
            "go_on": control("continue from pick", False),
        }
        weights = {name: WEIGHTS.get(name, 0.0) for name in names}
        super().__init__(controls, weights, canvases={"sketch": self.canvas}, out=out, values=values)

    @property
    def sketch(self) -> Sketch:
        """What is drawn, at the generator's resolution; raises ValueError if nothing is."""
        return read_sketch(self.canvas.rgba(), self.generator.resolution)

    @property
    def settings(self) -> dict:
        values = super().settings | {"enough": None}
        if self.controls["go_on"].value:
            values["start"] = self.around_picked
        networks = {"discriminator": self.discriminator, "features": self.features}
        return values | {name: network for name, network in networks.items() if network is not None}

    def arguments(self) -> str:
        return "panel.generator, panel.sketch"

    def make(self, settings: dict) -> SketchSearch:
        sketch, options = self.sketch, dict(settings)
        networks = {name: options.pop(name, None) for name in ("discriminator", "features")}
        terms = sketch_constraints(sketch, self.generator, options["space"], options.pop("weights"), **networks)
        return SketchSearch(self.generator, terms, sketch=sketch, **options)

    @property
    def around_picked(self) -> Latents:
        """Starts around the candidate that was picked. Raises ValueError where none was, or of another space."""
        values = self.values
        if self.picked is None:
            raise ValueError("No candidate is picked yet; click one under Candidates, or switch this off.")
        if self.picked.space != values["space"]:
            raise ValueError(f"The picked candidate is in {self.picked.space}; choose that space to continue from it.")
        return near(self.generator, self.picked, values["starts"], seed=values["seed"])

    def _write_code(self) -> None:
        super()._write_code()
        self.code.value = self.code.value.replace("start=panel.start,", "start=panel.around_picked,")

    def choose_candidate(self, index: int) -> None:
        """Pick one: it is shown, and if "continue" is ticked the next run starts around it."""
        self.picked = self.result.latents[index]
        self.guard(self._write_code)
        super().choose_candidate(index)

    def reference(self) -> Tensor:
        """The drawing on grey paper at the canvas's size: a sketch is not a target for a PSNR."""
        pixels = torch.from_numpy(self.canvas.rgba().copy()).permute(2, 0, 1)[None].float() / 255
        return Sketch(pixels[:, :3], pixels[:, 3:]).on_paper()


@torch.no_grad()
def _guide(generator: Generator) -> Tensor:
    """The mean face to draw on, pale: it shows where the generator has eyes and nose."""
    has_w = "w" in generator.spaces
    latents = Latents("w", generator.mean("w")) if has_w else Latents("z", generator.sample("z", 64))
    mean = generator.synthesize(latents).mean(0, keepdim=True).clamp(0, 1)
    return resize(torch.lerp(torch.ones_like(mean), mean, 0.6).cpu(), SIZE)


def _pixels(sketch: Sketch) -> np.ndarray:
    """A sketch as uint8 (SIZE, SIZE, 4), enlarged without mixing in the paper."""
    large = F.interpolate(torch.cat([sketch.image, sketch.mask], 1).cpu(), size=(SIZE, SIZE), mode="nearest")
    return np.concatenate([to_uint8(large[:, :3])[0], to_uint8(large[:, 3:])[0]], -1)
