"""Inversion: find the latent whose image is a given photo (Zhu et al. 2016; Abdal et al., Image2StyleGAN, 2019)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from helpers.encoder import Encoder, load_encoder
from helpers.generators import Generator
from helpers.images import shown
from helpers.latents import Latents
from helpers.losses import LAYERS, Criterion, Loss
from helpers.memory import chunk_that_fits
from helpers.optimizers import Chain, Optimization, cosine
from helpers.weights import registry

STARTS = ("mean", "sample", "best", "encoder")


class InversionError(ValueError):
    """An inversion that cannot start."""


@dataclass(frozen=True)
class Phase:
    """Part of an inversion: a space, its share of the steps, the learning rate in standard deviations of the space."""

    space: str
    share: float
    lr: float


# w+ first finds the best w: from there its rows part ways, instead of wandering off one by one
PHASES = {
    "z": (Phase("z", 1.0, 0.1),),
    "w": (Phase("w", 1.0, 0.2),),
    "w+": (Phase("w", 0.3, 0.2), Phase("w+", 0.7, 0.2)),
}
FAST_STEPS = 100  # from the encoder; the rates fall in time, so this is no long run that was left early


@dataclass
class InversionStep:
    """One step: its number (1 is the first), the losses (B,) before its update, the current latents."""

    number: int
    total: Tensor
    parts: dict[str, Tensor]
    lr: float
    latents: Latents
    generator: Generator

    @torch.no_grad()
    def images(self) -> Tensor:
        """Images (B, 3, H, W) of the current latents; one forward pass at each call."""
        return self.generator.synthesize(self.latents).clamp(0, 1)


@dataclass
class InversionResult:
    """What an inversion found.

    Attributes:
        latents: the best latents of each target, a batch of B.
        images: (B, 3, H, W) in [0, 1], the images of exactly these latents.
        total: (B,) their loss.
        parts: its unweighted parts, each (B,).
        history: name to (steps, B), the losses along the way (of the best start where there were several).
        seconds: wall time of the whole batch.
        steps: steps taken.
        setbacks: (B,) how often each went back to its best because its loss diverged.
        gave_up: (B,) bool, which rest at their best, or at their start, because their loss stayed NaN or infinite.
    """

    latents: Latents
    images: Tensor
    total: Tensor
    parts: dict[str, Tensor]
    history: dict[str, Tensor]
    seconds: float
    steps: int
    setbacks: Tensor
    gave_up: Tensor


@dataclass
class Inversion(Chain):
    """Invert B targets as one batch; iterate for the steps, leave the loop to stop, then ask for ``result()``.

    Every sample is an independent problem: a batch gives what single runs give.

    Args:
        generator: from ``load_generator``.
        targets: (B, 3, R, R) in [0, 1] at the generator's resolution. One target with weights of shape (B,) is a
            table of B settings.
        space: "z", "w" or "w+".
        features: network of ``load_features`` for the perceptual loss.
        weights: see Criterion; may be changed on ``criterion.weights`` while running.
        layers: layers of the perceptual loss.
        mask: (B or 1, 1, R, R), where the image terms count.
        start: "mean" of the space, a "sample" (the same for every target), the "best" of ``candidates`` samples by the
            criterion, what the "encoder" predicts, or Latents, whose noise maps are kept. The last two skip all phases
            but those of the space itself. None is the best where z comes first, or with restarts, else the mean; z
            has no mean to start at.
        steps: steps over all phases, at least one in each.
        optimizer: "adam" or "lbfgs" (up to 20 evaluations a step).
        lr: rate in standard deviations of the space in place of each phase's own (Adam).
        phases: see PHASES.
        restarts: starts per target ("sample" or "best"); the best run of each target is returned.
        candidates: number of samples for start="best".
        seed: of all samples.
        encoder: for start="encoder", of ``load_encoder``; by default the one that belongs to the generator.

    Raises:
        EncoderError: for start="encoder" where no encoder fits the generator and the space.
        InversionError: for targets of another size, with NaN or outside [0, 1], batches that do not agree, an unknown
            start, no steps, or phases that do not lead to the space.
        GeneratorError: for a space that the generator does not have.
        OptimizationError: when the losses of all targets became NaN; ``result()`` still gives the best so far.
    """

    generator: Generator
    targets: Tensor
    space: str = "w+"
    features: object = None
    weights: dict | None = None
    layers: Sequence[str | int] = LAYERS
    mask: Tensor | None = None
    start: str | Latents | None = None
    steps: int = 300
    optimizer: str = "adam"
    lr: float | None = None
    phases: tuple[Phase, ...] | None = None
    restarts: int = 1
    candidates: int = 64
    seed: int = 0
    encoder: Encoder | None = None
    criterion: Criterion = field(init=False)

    def __post_init__(self):
        started = time.perf_counter()
        self.generator.check_space(self.space)
        _check_targets(self.targets, self.generator.resolution)
        if self.weights is None and self.features is None:
            self.weights = {"l1": 1.0}
        self.criterion = Criterion(self.targets, self.features, self.weights, self.layers, self.mask)
        self.phases = self.phases or PHASES[self.space]
        if self.start is None:
            self.start = "best" if self.phases[0].space == "z" or self.restarts > 1 else "mean"
        self._check()
        self.batch = self._batch()
        if self.restarts > 1:
            self._repeat()
        self.latents = self._first_latents()
        self.base = self.latents
        self.runs: list[Optimization] = []
        self.prepared = time.perf_counter() - started

    def _check(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise InversionError(f"at least 1 step and 1 start are needed, but {self.steps} and {self.restarts} came.")
        order = [self.generator.spaces.index(self.generator.check_space(phase.space)) for phase in self.phases]
        if order != sorted(order) or self.phases[-1].space != self.space:
            names = ", ".join(phase.space for phase in self.phases)
            raise InversionError(f"phases must go from z to w to w+ and end in {self.space}, but {names} came.")
        if self.restarts > 1 and self.start not in ("sample", "best"):
            raise InversionError('several starts are different only from samples; use start="sample" or "best".')

    def _batch(self) -> int:
        """Number of problems: the length of the targets, the weights, the mask and the start, where it is not 1."""
        lengths = {"targets": len(self.targets), "mask": 1 if self.mask is None else len(self.mask)}
        lengths |= {f"weights of {k}": len(w) for k, w in self.criterion.weights.items() if torch.as_tensor(w).ndim}
        lengths |= {"start": len(self.start)} if isinstance(self.start, Latents) else {}
        batch = max(lengths.values())
        if any(length not in (1, batch) for length in lengths.values()):
            given = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise InversionError(f"all batches must have the same length or 1, but {given} came.")
        return batch

    def _repeat(self) -> None:
        """One row per target and start: target 0 with all its starts, then target 1, ..."""

        def repeat(t):
            return t.repeat_interleave(self.restarts, 0) if t.ndim and len(t) == self.batch else t

        criterion = self.criterion
        criterion.targets = repeat(criterion.targets)
        criterion.mask = None if criterion.mask is None else repeat(criterion.mask)
        criterion.weights = {k: repeat(torch.as_tensor(w)) for k, w in criterion.weights.items()}
        if criterion.target_features is not None:
            criterion.target_features = {k: repeat(v) for k, v in criterion.target_features.items()}

    # --- start ------------------------------------------------------------------------------------------------------

    def _first_latents(self) -> Latents:
        if self.start == "encoder":
            encoder = self.encoder or load_encoder(self.generator)
            self.start = encoder.encode(self.generator, self.targets, self.mask, self.space)
        space, rows = self.phases[0].space, self.batch * self.restarts
        if isinstance(self.start, Latents):
            code = self.generator.convert(self.start.code, self.start.space, self.space)
            self.phases = tuple(phase for phase in self.phases if phase.space == self.space)  # no way back to w
            start = Latents(self.space, code, self.start.noise)
            return start.apply(lambda t: t.detach().expand(rows, *t.shape[1:]).clone())
        if self.start == "mean" and space == "z":
            # both families normalise z or its first activations: at 0 that is a division by nothing
            raise InversionError('z cannot start at its mean: z = 0 has no direction; use start="best" or "sample".')
        if self.start == "mean":
            code = self.generator.mean(space)
            return Latents(space, code.expand(rows, *code.shape[1:]).clone())
        if self.start == "sample":
            code = self.generator.sample(space, self.restarts, self.seed)
            return Latents(space, code.repeat(self.batch, *[1] * (code.ndim - 1)))
        if self.start == "best":
            return Latents(space, self._best_candidates(space))
        raise InversionError(f"start must be {', '.join(STARTS)} or Latents, but {self.start!r} came.")

    @torch.no_grad()
    def _best_candidates(self, space: str) -> Tensor:
        """The ``restarts`` best of the candidates for each target."""
        codes = self.generator.sample(space, max(self.candidates, self.restarts), self.seed)
        images = torch.cat([self.generator.synthesize(Latents(space, chunk)) for chunk in codes.split(32)])
        chosen = []
        for row in range(0, self.batch * self.restarts, self.restarts):
            index = slice(row, row + 1)
            totals = torch.cat([self.criterion(chunk, index=index).total for chunk in images.split(32)])
            chosen.append(codes[totals.argsort()[: self.restarts]])
        return torch.cat(chosen)

    # --- run --------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[InversionStep]:
        """All steps; a loop that was left is taken up where it stopped."""
        for i in range(len(self.phases)):
            if i == len(self.runs):
                self._begin()
            if i == len(self.runs) - 1:
                yield from self._go_on(self.runs[i])

    def _begin(self) -> None:
        """Make the optimisation of the next phase; it starts from the best of the phase before."""
        phase, steps = self.phases[len(self.runs)], _share(self.steps, self.phases)[len(self.runs)]
        found = self._best() if self.runs else self.latents
        generator, space = self.generator, phase.space
        with torch.no_grad():
            base = generator.convert(self.base.code, self.base.space, space)
            code = generator.convert(found.code, found.space, space)
        deltas = (code - base).detach().clone()

        def loss(parameters: list[Tensor], index: slice) -> Loss:
            (delta,) = parameters
            images = generator.synthesize(self._latents(space, base[index] + delta, index))
            return self.criterion(images, delta, index)

        lr = (phase.lr if self.lr is None else self.lr) * generator.std(space).mean().item()
        run = Optimization([deltas], loss, steps=steps, lr=lr, optimizer=self.optimizer, schedule=cosine(0.05, 0.5))
        run.limit_chunk(chunk_that_fits(generator, space, len(deltas)))
        run.space, run.base = space, base
        self.runs.append(run)

    def _go_on(self, run: Optimization) -> Iterator[InversionStep]:
        before = self.number - run.number
        for step in run:
            latents = self._latents(run.space, (run.base + run.parameters[0]).detach())
            yield InversionStep(before + step.number, step.total, step.parts, step.lr, latents, self.generator)

    def _latents(self, space: str, code: Tensor, index=slice(None)) -> Latents:
        noise = self.base.noise
        return Latents(space, code, None if noise is None else [m[index] for m in noise])

    def forget_best(self) -> None:
        """Start the best-so-far anew; call it after a change of ``criterion.weights`` under way."""
        if self.runs:
            self.runs[-1].forget_best()

    def _best(self) -> Latents:
        run = self.runs[-1]
        return self._latents(run.space, (run.base + run.best[0]).detach())

    @torch.no_grad()
    def result(self) -> InversionResult:
        """The best latents so far and their images; of several restarts the best one of each target."""
        if not self.runs:
            raise InversionError("the inversion has not taken a step yet; iterate over it first.")
        run, latents = self.runs[-1], self._best()
        if latents.space != self.space:  # stopped before its last phase
            latents = self._latents(self.space, self.generator.convert(latents.code, latents.space, self.space))
        keep = run.best_total.view(-1, self.restarts).argmin(1)
        keep = keep + torch.arange(len(keep), device=keep.device) * self.restarts
        base = self.generator.convert(self.base.code, self.base.space, self.space)
        latents = latents[keep]
        images = self.generator.synthesize(latents)
        loss = self.criterion(images, latents.code - base[keep], keep)
        history = {
            name: torch.stack([v for r in self.runs for v in r.history.get(name, [])])[:, keep].cpu()
            for name in run.history
        }
        return InversionResult(
            latents=latents,
            images=shown(images),
            total=loss.total,
            parts=loss.parts,
            history=history,
            seconds=self.seconds,
            steps=self.number,
            setbacks=self.setbacks[keep],
            gave_up=self.gave_up[keep],
        )


def fast_options(generator: Generator, space: str = "w+") -> dict:
    """Options of Inversion for a quick result: few steps, from the encoder's guess where the generator has an encoder.

    Without one w starts at its mean and z at the best of many samples, as ever.
    """
    known = f"{getattr(generator, 'name', '')}-encoder" in registry()
    start = {"start": "encoder"} if known and _leads_to(generator, space) else {}
    return {"steps": FAST_STEPS, **start}


def _leads_to(generator: Generator, space: str) -> bool:
    """Whether the encoder, which predicts the widest space, gives codes of this one: w is the mean of a w+."""
    return space == generator.spaces[-1] or (space, generator.spaces[-1]) == ("w", "w+")


def project(generator: Generator, targets: Tensor, space: str = "w+", **options) -> InversionResult:
    """Invert the targets and return the result; the options are those of ``Inversion``."""
    inversion = Inversion(generator, targets, space, **options)
    for _ in inversion:
        pass
    return inversion.result()


def _share(steps: int, phases: Sequence[Phase]) -> list[int]:
    """Split the steps over the phases by their shares, at least one each, exact in sum where there are enough."""
    total, counts = sum(phase.share for phase in phases), []
    for later, phase in zip(range(len(phases) - 1, 0, -1), phases, strict=False):
        left = steps - sum(counts) - later  # one is kept for each later phase
        counts.append(max(1, min(round(steps * phase.share / total), left)))
    return [*counts, max(1, steps - sum(counts))]


def _check_targets(targets: Tensor, resolution: int) -> None:
    if targets.ndim != 4 or tuple(targets.shape[1:]) != (3, resolution, resolution):
        raise InversionError(
            f"targets must be (B, 3, {resolution}, {resolution}) for this generator, but {tuple(targets.shape)} came; "
            f"read the photo with read_image(path, size={resolution})."
        )
    if not targets.isfinite().all() or targets.min() < 0 or targets.max() > 1:
        raise InversionError("targets must be finite and in [0, 1]; read them with read_image().")
