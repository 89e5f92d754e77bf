"""The panel of the sketch lesson: a canvas to draw on, controls, candidates to pick from and to go on from."""

from __future__ import annotations

import ipywidgets as widgets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.generators import Generator
from helpers.images import resize, to_uint8
from helpers.latents import Latents
from helpers.sketch import LINE_WEIGHTS, STARTS, WEIGHTS, Sketch, SketchSearch, near, read_sketch, sketch_constraints
from helpers.widgets.canvas import drawing_canvas
from helpers.widgets.panel import COLUMN, RunPanel
from helpers.widgets.parts import STYLE, dropdown, int_slider, seed_box

SIZE = 256  # pixels of the canvas: finer than the small generator, so that strokes look like strokes
PALETTE = (  # fur: black, white, greys, browns; nose; eyes
    *("#141417", "#edebe6", "#858280", "#595c66", "#5c422e", "#cc8040", "#deb380", "#eddbc2"),
    *("#d98c87", "#cca333", "#94a859", "#73a8d9"),
)
RADIUS = 0.3  # of the starts around a picked candidate, standard deviations of the space


class SketchPanel(RunPanel):
    """A canvas, the knobs of ``SketchSearch`` and its candidates; see ``sketch_panel``.

    Attributes, beside those of RunPanel:
        sketch: what is drawn, at the generator's resolution; raises SketchError where nothing is.
        picked: latents of the candidate that was clicked last, None before.
    """

    def __init__(self, generator: Generator, discriminator=None, sketch: Sketch | None = None, features=None, **values):
        self.generator, self.discriminator, self.features = generator, discriminator, features
        self.picked: Latents | None = None
        self.canvas = drawing_canvas(_guide(generator), "sketch", SIZE, width=COLUMN)
        if self.canvas.has_trait("palette"):
            self.canvas.palette = list(PALETTE)
        missing = {"realism": discriminator is None, "perceptual": features is None}
        names = [n for n in ("colour", "edge", "perceptual", "realism", "prior") if not missing.get(n)]
        super().__init__(
            self._search,
            self._make_controls(),
            weights={name: WEIGHTS.get(name, 0.0) for name in names},
            presets={"Lines": {name: LINE_WEIGHTS.get(name, 0.0) for name in names}},
            powers={"realism": (-3, 0), "prior": (-3, 1)},
            reference=self._paper,
            title="sketch",
            canvases={"sketch": self.canvas},
            call="search(generator, sketch, discriminator=discriminator)",
            model=getattr(generator, "name", ""),
        )
        if sketch is not None:
            self.canvas.set_rgba(_pixels(sketch))
        self.canvas.on_change(lambda _: self.box.guard(self.box.show_reference))
        self.box.show_reference()
        if unknown := set(values) - set(self.controls):
            raise ValueError(f"the controls are {', '.join(self.controls)}, but {', '.join(unknown)} came.")
        self.set(values)

    def _make_controls(self) -> dict[str, widgets.Widget]:
        spaces = self.generator.spaces
        controls = {
            "space": dropdown("space", spaces),
            "start": dropdown("start", STARTS),
            "starts": int_slider("starts", 8, 1, 32),
            "steps": int_slider("steps", 80, 10, 500, 10),
            "seed": seed_box(),
            "go_on": widgets.Checkbox(
                False, description="go on from the picked one", style=STYLE, layout={"width": "auto"}
            ),
        }
        controls["space"].value = "w" if "w" in spaces else "z"
        controls["start"].value = "best"
        return controls

    @property
    def sketch(self) -> Sketch:
        return read_sketch(self.canvas.rgba(), self.generator.resolution)

    @property
    def settings(self) -> dict:
        """Options for ``search(generator, panel.sketch, discriminator=discriminator, **panel.settings)``."""
        return {name: value for name, value in super().settings.items() if name != "go_on"}

    def _search(self, settings: dict) -> SketchSearch:
        sketch, options = self.sketch, dict(settings)
        networks = {"discriminator": self.discriminator, "features": self.features}
        space, weights = options["space"], options.pop("weights")
        terms = sketch_constraints(sketch, self.generator, space, weights, **networks)
        if self.controls["go_on"].value:
            options["start"] = self._around(options["starts"], options["seed"], space)
        return SketchSearch(self.generator, terms, sketch=sketch, enough=None, **options)

    def _around(self, starts: int, seed: int, space: str) -> Latents:
        if self.picked is None:
            raise ValueError("No candidate is picked yet; click one under Candidates, or switch this off.")
        if self.picked.space != space:
            raise ValueError(f"The picked candidate is in {self.picked.space}; choose that space to go on from it.")
        return near(self.generator, self.picked, starts, RADIUS, seed)

    def choose_candidate(self, number: int) -> None:
        """Pick one: it is shown, and where "go on" is ticked the next run starts around it."""
        self.picked = self.result.latents[number]
        super().choose_candidate(number)

    def _paper(self) -> Tensor | None:
        """The drawing on grey paper at the canvas's size: a sketch is no target for a PSNR."""
        pixels = torch.from_numpy(self.canvas.rgba().copy()).permute(2, 0, 1)[None].float() / 255
        return Sketch(pixels[:, :3], pixels[:, 3:]).on_paper()


@torch.no_grad()
def _guide(generator: Generator) -> Tensor:
    """The mean face to draw on, pale: it shows where the generator has eyes and nose."""
    space = "w" if "w" in generator.spaces else "z"
    code = generator.mean(space) if space == "w" else generator.sample("z", 64)
    mean = generator.synthesize(Latents(space, code)).mean(0, keepdim=True).clamp(0, 1)
    return resize(torch.lerp(torch.ones_like(mean), mean, 0.6).cpu(), SIZE)


def _pixels(sketch: Sketch) -> np.ndarray:
    """A sketch as uint8 (SIZE, SIZE, 4), enlarged without mixing in the paper."""
    parts = [
        to_uint8(F.interpolate(part.cpu(), size=(SIZE, SIZE), mode="nearest"))[0]
        for part in (sketch.image, sketch.mask)
    ]
    return np.concatenate(parts, -1)


def sketch_panel(generator: Generator, discriminator=None, sketch: Sketch | None = None, features=None, **values):
    """A panel that looks for pictures that follow a drawing: canvas, controls, live candidates.

    Args:
        generator: from ``load_generator``.
        discriminator: of ``load_discriminator``; None leaves realism out.
        sketch: first drawing on the canvas; else it is empty.
        features: network of ``load_features``; None leaves the perceptual constraint out.
        values: first values of controls by name, e.g. ``space="w+", starts=4``.

    The same run without widgets:
    ``search(generator, panel.sketch, discriminator=discriminator, **panel.settings)``.
    """
    return SketchPanel(generator, discriminator, sketch, features, **values)
