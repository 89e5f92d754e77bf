"""The panel of the sketch lesson: a canvas to draw on, controls, candidates to pick from and to continue from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.generators import Generator
from helpers.images import resize, to_uint8
from helpers.latents import Latents
from helpers.sketch import LINE_WEIGHTS, STARTS, WEIGHTS, Sketch, SketchSearch, near, read_sketch, sketch_constraints
from helpers.widgets.canvas import drawing_canvas
from helpers.widgets.panel import COLUMN, OUT, RunPanel
from helpers.widgets.parts import checkbox, dropdown, int_slider, seed_box

SIZE = 256  # pixels of the canvas: finer than the small generator, so that strokes look like strokes
PALETTE = (  # fur: black, white, greys, browns; nose; eyes
    *("#141417", "#edebe6", "#858280", "#595c66", "#5c422e", "#cc8040", "#deb380", "#eddbc2"),
    *("#d98c87", "#cca333", "#94a859", "#73a8d9"),
)
RADIUS = 0.3  # of the starts around a picked candidate, standard deviations of the space


class SketchPanel(RunPanel):
    """A panel that looks for images that follow a drawing: canvas, controls, live candidates.

    Args:
        generator: from ``load_generator``.
        discriminator: from ``load_discriminator``; None leaves realism out.
        sketch: first drawing on the canvas, which is empty without it.
        features: network of ``load_features``; None leaves the perceptual constraint out.
        out: folder for what is saved.
        values: first values of controls by name, e.g. ``space="w+", starts=4``.

    Attributes, besides those of RunPanel:
        sketch: what is drawn, at the generator's resolution; raises SketchError if nothing is.
        picked: latents of the candidate that was clicked last, None before.

    The same run without widgets: ``search(generator, panel.sketch, **panel.settings)``.
    """

    function, title = "helpers.sketch.search", "sketch"
    powers = {"realism": (-3, 0), "prior": (-3, 1)}

    def __init__(self, generator: Generator, discriminator=None, sketch: Sketch | None = None, features=None, *,
                 out: str | Path = OUT, **values):  # fmt: skip
        self.generator, self.discriminator, self.features = generator, discriminator, features
        self.picked: Latents | None = None
        self.canvas = drawing_canvas(_guide(generator), "sketch", SIZE, width=COLUMN)
        if self.canvas.has_trait("palette"):
            self.canvas.palette = list(PALETTE)
        if sketch is not None:
            self.canvas.set_rgba(_pixels(sketch))
        missing = {"realism": discriminator is None, "perceptual": features is None}
        names = [n for n in ("colour", "edge", "perceptual", "realism", "prior") if not missing.get(n)]
        self.presets = {"Lines": {name: LINE_WEIGHTS.get(name, 0.0) for name in names}}
        spaces = generator.spaces
        controls = {
            "space": dropdown("space", spaces, "w" if "w" in spaces else "z"),
            "start": dropdown("start", STARTS, "best"),
            "starts": int_slider("starts", 8, 1, 32),
            "steps": int_slider("steps", 80, 10, 500, 10),
            "seed": seed_box(),
            "go_on": checkbox("continue from the picked one"),
        }
        weights = {name: WEIGHTS.get(name, 0.0) for name in names}
        super().__init__(controls, weights, canvases={"sketch": self.canvas}, out=out, values=values)

    def connect(self) -> None:
        self.canvas.on_change(lambda _: self.guard(self.show_reference))

    @property
    def sketch(self) -> Sketch:
        return read_sketch(self.canvas.rgba(), self.generator.resolution)

    @property
    def settings(self) -> dict:
        """Options for ``search(generator, panel.sketch, **panel.settings)``."""
        values = {name: value for name, value in super().settings.items() if name != "go_on"}
        if self.controls["go_on"].value:
            values["start"] = self.around_picked
        networks = {"discriminator": self.discriminator, "features": self.features}
        return values | {"enough": None} | {name: net for name, net in networks.items() if net is not None}

    def arguments(self) -> str:
        return "panel.generator, panel.sketch"

    def make(self, settings: dict) -> SketchSearch:
        sketch, options = self.sketch, dict(settings)
        networks = {name: options.pop(name, None) for name in ("discriminator", "features")}
        terms = sketch_constraints(sketch, self.generator, options["space"], options.pop("weights"), **networks)
        return SketchSearch(self.generator, terms, sketch=sketch, **options)

    @property
    def around_picked(self) -> Latents:
        """Starts around the candidate that was picked."""
        values = self.values
        if self.picked is None:
            raise ValueError("No candidate is picked yet; click one under Candidates, or switch this off.")
        if self.picked.space != values["space"]:
            raise ValueError(f"The picked candidate is in {self.picked.space}; choose that space to continue from it.")
        return near(self.generator, self.picked, values["starts"], RADIUS, values["seed"])

    def _write_code(self) -> None:
        super()._write_code()
        self.code.value = self.code.value.replace("start=panel.start,", "start=panel.around_picked,")

    def choose_candidate(self, index: int) -> None:
        """Pick one: it is shown, and if "continue" is ticked the next run starts around it."""
        self.picked = self.result.latents[index]
        self.guard(self._write_code)
        super().choose_candidate(index)

    def reference(self) -> Tensor | None:
        """The drawing on grey paper at the canvas's size: a sketch is not a target for a PSNR."""
        pixels = torch.from_numpy(self.canvas.rgba().copy()).permute(2, 0, 1)[None].float() / 255
        return Sketch(pixels[:, :3], pixels[:, 3:]).on_paper()


@torch.no_grad()
def _guide(generator: Generator) -> Tensor:
    """The mean face to draw on, pale: it shows where the generator has eyes and nose."""
    space = "w" if "w" in generator.spaces else "z"
    latents = generator.mean(space) if space == "w" else generator.sample("z", 64)
    mean = generator.synthesize(Latents(space, latents)).mean(0, keepdim=True).clamp(0, 1)
    return resize(torch.lerp(torch.ones_like(mean), mean, 0.6).cpu(), SIZE)


def _pixels(sketch: Sketch) -> np.ndarray:
    """A sketch as uint8 (SIZE, SIZE, 4), enlarged without mixing in the paper."""
    parts = [
        to_uint8(F.interpolate(part.cpu(), size=(SIZE, SIZE), mode="nearest"))[0]
        for part in (sketch.image, sketch.mask)
    ]
    return np.concatenate(parts, -1)
