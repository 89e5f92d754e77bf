"""Inversion: find the latent whose image is a given photo (Zhu et al. 2016; Abdal et al., Image2StyleGAN, 2019)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from helpers.generators import Generator
from helpers.generators.base import unpack
from helpers.images import in_range, shown
from helpers.latents import Latents
from helpers.losses import LAYERS, WEIGHTS, Criterion, Loss, WeightedSum
from helpers.optimizers import Optimization, Step
from helpers.search import Chain, Phase, Result, option
from helpers.weights import registry

STARTS = ("mean", "sample", "best", "encoder")

# w+ first finds the best w: its rows then diverge from a common point instead of drifting independently
PHASES = {
    "z": (Phase("z", 1.0, 0.1),),
    "w": (Phase("w", 1.0, 0.2),),
    "w+": (Phase("w", 0.3, 0.2), Phase("w+", 0.7, 0.2)),
}
STEPS = 300
ENCODER_STEPS = 200  # from the encoder, where they end lower than 300 from the mean
LBFGS_STEPS = 140  # from the encoder too, where they end as low
FAST_STEPS, FAST_LBFGS_STEPS = 100, 75  # the schedule is fitted to these steps: this is not a truncated longer run


class Variables:
    """What moves in a phase, as parameters of an Optimization: the offset of the code from the start of the search."""

    def __init__(self, search: LatentSearch, phase: Phase, current: Latents):
        generator, self.noise, self.space = search.generator, current.noise, phase.space or current.space
        ends = (generator.convert(latents.code, latents.space, self.space) for latents in (search.base, current))
        self.base, self.code = (code.detach() for code in ends)
        self.parameters, self.rates, self.moves, self.mask = [], [], "code" in phase.free, 1.0
        if search.rows is not None and self.code.ndim == 3:
            self.mask = self.code.new_zeros(1, self.code.shape[1], 1)  # 1 in the free rows
            self.mask[:, list(search.rows)] = 1
        if self.moves:
            rate = phase.lr if search.lr is None else search.lr
            self.parameters.append((self.code - self.base).clone())
            self.rates.append(rate * generator.std(self.space).mean().item())

    def offset(self, parameters: list[Tensor], index=slice(None)) -> Tensor:
        """Offset of the code from the start, for the samples ``index``, whose parameters are given."""
        return parameters[0] * self.mask if self.moves else self.code[index] - self.base[index]

    def latents(self, parameters: list[Tensor], index=slice(None)) -> Latents:
        """Latents of the parameters; both for the samples ``index`` of the batch."""
        code = self.base[index] + self.offset(parameters, index) if self.moves else self.code[index]
        return Latents(self.space, code, None if self.noise is None else self.maps(parameters, index))

    def maps(self, parameters: list[Tensor], index) -> list[Tensor]:
        """Noise maps for the samples ``index``."""
        return [map_[index] for map_ in self.noise]


@dataclass
class LatentSearch(Chain):
    """Minimise any criterion over latents; iterate for the steps, leave the loop to stop, then ask for ``result()``.

    Every sample is an independent problem. ``criterion(images, offset, index)`` gives the Loss of the samples
    ``index``; ``offset`` is that of their code from the start, ``latents``, whose noise maps are kept. ``lr`` is in
    standard deviations of the space, None each phase's own; ``rows`` are the indices of the w+ rows that are free;
    ``until`` is the share by which the loss must still fall in 20 steps of the last phase, None takes all steps.
    Raises ValueError when all samples are frozen.
    """

    generator: Generator
    criterion: Callable[..., Loss]
    latents: Latents
    phases: Sequence[Phase]
    steps: int = 300
    lr: float | None = None
    optimizer: str = "adam"
    rows: Sequence[int] | None = None
    until: float | None = None
    variables: ClassVar[type[Variables]] = Variables

    def __post_init__(self):
        self.base = Latents(*unpack(self.generator, self.latents)).detach()

    @property
    def done(self) -> bool:
        last = len(self.runs) == len(self.phases)
        return last and self.until is not None and self.runs[-1].settled(self.until)

    def _settings(self, phase: Phase) -> dict:
        """More arguments of the Optimization of a phase."""
        return {}

    def _begin(self, phase: Phase, steps: int) -> Optimization:
        from helpers.memory import chunk_that_fits

        variables = self.variables(self, phase, self._best() if self.runs else self.base)
        chunk = chunk_that_fits(self.generator, variables.space, len(variables.code), "noise" in phase.free)
        settings = {"lr": variables.rates, "optimizer": self.optimizer, "chunk": chunk, **self._settings(phase)}
        run = Optimization(variables.parameters, partial(self._loss, variables), steps=steps, **settings)
        run.variables, run.fixed = variables, self._fixed
        return run

    def _fixed(self) -> tuple | None:
        weights = self.criterion.fixed() if isinstance(self.criterion, WeightedSum) else None
        how = (getattr(self.generator, name, None) for name in ("dtype", "checkpointing"))
        return None if weights is None else (*weights, *how)

    def _loss(self, variables: Variables, parameters: list[Tensor], index: slice) -> Loss:
        images = self.generator.synthesize(variables.latents(parameters, index))
        return self.criterion(images, variables.offset(parameters, index), index)

    def _step(self, phase: Phase, run: Optimization, step: Step) -> Step:
        latents = run.variables.latents(run.parameters).detach()
        return replace(step, latents=latents, render=lambda: self.generator.synthesize(latents))

    def _best(self) -> Latents:
        return self.runs[-1].variables.latents(self.runs[-1].best).detach()

    def _chosen(self) -> Tensor | slice:
        """Rows of the batch that make the result."""
        return slice(None)

    @torch.no_grad()
    def result(self) -> Result:
        """The best latents so far and the images of exactly these."""
        keep, generator = self._chosen(), self.generator
        facts, latents, space = self.facts(keep), self._best()[keep], self.phases[-1].space or self.base.space
        code = generator.convert(latents.code, latents.space, space)  # it may have stopped before its last phase
        latents = Latents(space, code, latents.noise)
        images = generator.synthesize(latents)
        offset = code - generator.convert(self.base.code, self.base.space, space)[keep]
        loss = self.criterion(images, offset, keep)
        return Result(shown(images), loss.total, loss.parts, **facts, latents=latents)


@dataclass(frozen=True)
class InversionOptions:
    """How to invert; the fields with a help text are options of the command line.

    ``weights`` are those of Criterion, None L1 alone where there are no features; ``start`` is one of STARTS, or
    Latents, None the best for z and for restarts, else the mean (on the command line ``encoder_start``);
    ``steps`` is over all phases; ``optimizer`` None is Adam.
    """

    weights: dict[str, float | Tensor] | None = option(None, "Weight of the loss.", min=0, default=WEIGHTS)
    layers: Sequence[str | int] = option(LAYERS, "Perceptual layers, names or numbers with commas between.")
    start: str | Latents | None = option(None, "mean, sample, best (of 64), or encoder, the default if there is one.")
    steps: int | None = option(None, f"Optimisation steps; {STEPS}, or {LBFGS_STEPS} from the encoder.", min=1)
    optimizer: str | None = option(None, "adam or lbfgs; by default lbfgs from the encoder's guess, else adam.")
    lr: float | None = option(None, "Rate in standard deviations of the space, instead of each phase's own.")
    until: float | None = option(None, "Stop when 20 steps lower the loss by less than this share: 0.01.", min=0)
    restarts: int = option(1, "Starts per photo (sample or best), of which the best is kept.", min=1)
    seed: int = option(0, "Seed of all samples.")
    candidates: int = 64  # samples for start="best"
    features: object = None  # network of load_features for the perceptual loss
    mask: Tensor | None = None  # (B or 1, 1, R, R), where the image terms count


class Inversion(LatentSearch):
    """Invert B targets (B, 3, R, R) in [0, 1] at the generator's resolution as one batch; see LatentSearch.

    One target with weights of shape (B,) is a table of B settings. ``changes`` replace fields of the InversionOptions;
    ``criterion.weights`` may be changed while it runs. Latents as ``start``, like the encoder's, skip all phases but
    those of the space. Raises ValueError for targets, a space or options that do not fit.
    """

    def __init__(self, generator: Generator, targets: Tensor, space: str = "w+", options=None, **changes):
        started = time.perf_counter()
        options = replace(options or InversionOptions(), **changes)
        generator.check_space(space)
        check_targets(generator, targets)
        weights = {"l1": 1.0} if options.weights is None and options.features is None else options.weights
        self.criterion = Criterion(targets, options.features, weights, options.layers, options.mask)
        self.criterion.repeats = options.restarts  # row by row: target 0 with all its starts, then target 1, ...
        self.generator, self.targets, self.space, self.options = generator, targets, space, options
        self.phases, start = PHASES[space], options.start
        steps, usual = options.steps, LBFGS_STEPS if options.optimizer == "lbfgs" else ENCODER_STEPS
        if steps is None:
            steps = usual if start == "encoder" else STEPS
        if start is None:
            start = "best" if self.phases[0].space == "z" or options.restarts > 1 else "mean"
        if steps < 1 or options.restarts < 1:
            raise ValueError(f"at least 1 step and 1 start are needed; got {steps} and {options.restarts}.")
        if options.restarts > 1 and start not in ("sample", "best"):
            raise ValueError('several starts differ only if they are samples; use start="sample" or "best".')
        if start == "encoder":
            from helpers.encoder import load_encoder

            start = load_encoder(generator).encode(generator, targets, options.mask, space)
        latents = self._first_latents(start, self._batch(start))
        super().__init__(generator, self.criterion, latents, self.phases, steps, options.lr)
        self.optimizer = options.optimizer or self.optimizer
        self.until = options.until
        self.prepared = time.perf_counter() - started

    def _batch(self, start: str | Latents) -> int:
        """Number of problems: the length of the targets, the mask, the weights and the start, where it is not 1."""
        given = {"targets": self.targets, "mask": self.options.mask, "start": start}
        lengths = {name: len(v) if isinstance(v, Tensor | Latents) else 1 for name, v in given.items()}
        lengths["weights"] = self.criterion.settings
        batch = max(lengths.values())
        if any(length not in (1, batch) for length in lengths.values()):
            names = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise ValueError(f"all batches must have the same length or 1; got {names}.")
        return batch

    def _first_latents(self, start: str | Latents, batch: int) -> Latents:
        generator, options, space = self.generator, self.options, self.phases[0].space
        if isinstance(start, Latents):
            code = generator.convert(start.code, start.space, self.space)
            self.phases = tuple(phase for phase in self.phases if phase.space == self.space)  # no way back to w
            start = Latents(self.space, code, start.noise)
            return start.apply(lambda t: t.detach().expand(batch, *t.shape[1:]).clone())
        if start == "mean" and space == "z":
            # both families normalise z or its first activations, which divides by 0 at z = 0
            raise ValueError('z cannot start at its mean: z = 0 has no direction; use start="best" or "sample".')
        if start == "best":
            return Latents(space, self._best_candidates(space, batch))
        if start not in STARTS:
            raise ValueError(f"start must be {', '.join(STARTS)} or Latents; got {start!r}.")
        code = generator.mean(space) if start == "mean" else generator.sample(space, options.restarts, options.seed)
        return Latents(space, code.repeat(batch, *[1] * (code.ndim - 1)))

    @torch.no_grad()
    def _best_candidates(self, space: str, batch: int) -> Tensor:
        """The ``restarts`` best of the candidates for each target."""
        restarts, chosen = self.options.restarts, []
        codes = self.generator.sample(space, max(self.options.candidates, restarts), self.options.seed)
        images = torch.cat([self.generator.synthesize(Latents(space, chunk)) for chunk in codes.split(32)])
        for row in range(0, batch * restarts, restarts):
            totals = [self.criterion(chunk, index=slice(row, row + 1)).total for chunk in images.split(32)]
            chosen.append(codes[torch.cat(totals).argsort()[:restarts]])
        return torch.cat(chosen)

    def _chosen(self) -> Tensor | slice:
        """Of several restarts the best one of each target."""
        restarts = self.options.restarts
        if restarts == 1 or not self.runs:
            return slice(None)
        best = self.runs[-1].best_total.view(-1, restarts).argmin(1)
        return best + torch.arange(len(best), device=best.device) * restarts


def encoder_start(generator: Generator, space: str = "w+") -> dict:
    """Options to start L-BFGS at the encoder's guess; empty where no encoder leads to the space."""
    known = f"{getattr(generator, 'base', '')}-encoder" in registry()
    reached = space == generator.spaces[-1] or (space, generator.spaces[-1]) == ("w", "w+")  # w: the mean of w+
    return {"start": "encoder", "optimizer": "lbfgs"} if known and reached else {}


def fast_options(generator: Generator, space: str = "w+") -> dict:
    """Options for a quick result: few steps, from the encoder's guess where there is one."""
    start = encoder_start(generator, space)
    return {"steps": FAST_LBFGS_STEPS if start else FAST_STEPS, **start}


def project(generator: Generator, targets: Tensor, space: str = "w+", **options) -> Result:
    """Invert the targets and return the result; the options are those of ``Inversion``."""
    return Inversion(generator, targets, space, **options).run()


def check_targets(generator: Generator, targets: Tensor) -> None:
    """Raise ValueError unless targets are images at the generator's resolution, finite and in [0, 1]."""
    size = generator.resolution
    if targets.ndim != 4 or tuple(targets.shape[1:]) != (3, size, size):
        found = f"got {tuple(targets.shape)}: read the photo with read_image(path, size={size})"
        raise ValueError(f"targets must be (B, 3, {size}, {size}) for this generator; {found}.")
    if not in_range(targets):
        raise ValueError("targets must be finite and in [0, 1]; read them with read_image().")
