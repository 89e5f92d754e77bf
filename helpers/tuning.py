"""Tuning the generator: its weights move until a code that stays draws the photo (pivotal tuning, Roich et al.)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from helpers.files import sha256
from helpers.generators import Generator
from helpers.images import shown
from helpers.inversion import check_targets
from helpers.latents import Latents
from helpers.losses import Criterion, Loss, lp_loss
from helpers.optimizers import Optimization, Step, cosine
from helpers.search import Chain, Phase, Result, option
from helpers.weights import FOLDER, registry, save_weights

STEPS = 200
LR = 5e-3  # of weights that are near 1 in every layer
OTHERS, AT_ONCE = 64, 4  # samples that locality holds, and in one step: with one the gradient is too noisy to hold any


@dataclass(frozen=True)
class TuningOptions:
    """How to tune; the fields with a help text are options of the command line."""

    steps: int = option(STEPS, "Steps of the tuning.", min=1)
    lr: float = LR
    locality: float = option(0.0, "Weight of what the tuning changes in other images.", min=0)
    seed: int = 1  # of the samples that locality holds


def check_tunable(generator: Generator) -> None:
    """Raise ValueError for a generator without a synthesis network."""
    if not hasattr(generator, "synthesis"):
        raise ValueError(f"a {generator.family} generator cannot be tuned; use a StyleGAN.")


class Tuning(Chain):
    """Tune a generator so that it draws targets (B, 3, R, R) from latents (B or 1) that stay; see Chain.

    The weights of the synthesis move, for all targets together; its noise is switched off, so that the weights cannot
    lean on any map. ``locality`` holds the images of other samples as they were. The generator itself does not change:
    ``tuned()`` is a copy. ``changes`` replace fields of the TuningOptions. Raises ValueError for what does not fit.
    """

    phases = (Phase(),)

    def __init__(self, generator: Generator, targets: Tensor, latents: Latents, options=None, **changes):
        check_tunable(generator)
        check_targets(generator, targets)
        if len(latents) not in (1, len(targets)):
            raise ValueError(f"latents must be one or one per target ({len(targets)}); got {len(latents)}.")
        self.options = replace(options or TuningOptions(), **changes)
        self.generator, self.steps = generator, self.options.steps
        self.network = copy.deepcopy(generator)  # its weights are replaced while it draws, in this thread or another
        code = latents.code.detach().expand(len(targets), *latents.code.shape[1:])
        self.targets, self.latents = targets, Latents(latents.space, code)
        self.criterion = Criterion(targets, weights={"l2": 1.0})
        named = self.network.named_parameters()
        self.weights = {k: w for k, w in named if k.startswith("synthesis.") and not k.endswith("noise_strength")}
        self.noise = [torch.zeros(1, 1, *shape, device=generator.device) for shape in generator.noise_shapes]
        self.code = generator.convert(code, latents.space, "w+")
        self.others = generator.sample("w+", OTHERS, seed=self.options.seed)

    def _begin(self, phase: Phase, steps: int) -> Optimization:
        offsets = [torch.zeros_like(weight)[None] for weight in self.weights.values()]
        scale = 3 * self.generator.resolution**2  # as in the noise search
        settings = {"lr": self.options.lr, "schedule": cosine(0.05, 1.0), "scale": scale}
        return Optimization(offsets, self._loss, steps=steps, **settings)

    def _draw(self, offsets: list[Tensor], latents: Latents, noise: list[Tensor] | None = None) -> Tensor:
        """Images of the network with the weights that the offsets (1, ...) make."""
        weights = {name: w + o[0] for (name, w), o in zip(self.weights.items(), offsets, strict=True)}
        return functional_call(self.network, weights, (latents, noise))

    def _loss(self, offsets: list[Tensor], index: slice) -> Loss:
        images = self._draw(offsets, Latents("w+", self.code), self.noise)
        near = self.criterion(images).total.mean()[None]
        if not self.options.locality:
            return Loss(near, {"l2": near})
        other = Latents("w+", self.others.roll(-AT_ONCE * self.number, 0)[:AT_ONCE])
        with torch.no_grad():
            before = self.generator.synthesize(other, self.noise)
        far = lp_loss(self._draw(offsets, other, self.noise), before, 2).mean()[None]
        return Loss(near + self.options.locality * far, {"l2": near, "locality": far})

    def _step(self, phase: Phase, run: Optimization, step: Step) -> Step:
        offsets = [offset.detach().clone() for offset in run.parameters]
        return replace(step, latents=self.latents, render=lambda: self._draw(offsets, self.latents))

    def changes(self) -> dict[str, Tensor]:
        """What the weights have become less what they were, by name, as a file holds it (float16)."""
        self.facts()  # raises where there is none
        offsets = [offset.detach()[0] for offset in self.runs[-1].parameters]  # of the last step
        moved = dict(zip(self.weights, offsets, strict=True))
        silent = {k: -w for k, w in self.network.named_parameters() if k.endswith("noise_strength")}
        return {name: change.half().contiguous() for name, change in (moved | silent).items()}

    def tuned(self) -> Generator:
        """The generator as tuned so far, a copy."""
        network = copy.deepcopy(self.generator)
        with torch.no_grad():
            weights = dict(network.named_parameters())
            for name, change in self.changes().items():
                weights[name].add_(change.float())
        return network

    @torch.no_grad()
    def result(self) -> Result:
        """Latents as given, and what ``tuned()`` draws of them."""
        images, count = self.tuned().synthesize(self.latents), len(self.targets)
        facts, loss = self.facts(), self.criterion(images)
        facts["frozen"] = facts["frozen"].expand(count)
        return Result(shown(images), loss.total, loss.parts, **facts, latents=self.latents)

    def save(self, path: str | Path) -> Path:
        """Write the changes, float16, and their model's name, for ``load_generator``. ValueError without a file."""
        generator = self.generator
        if generator.path is None:
            raise ValueError("a tuned generator is stored as changes of a file, and this one was not loaded from one.")
        known = generator.path == FOLDER / registry().get(generator.name, {}).get("file", "")
        model = generator.name if known else str(generator.path)
        model += f"@{generator.label}" if generator.c_dim else ""
        return save_weights(path, self.changes(), {"tuned_from": {"model": model, "sha256": sha256(generator.path)}})
