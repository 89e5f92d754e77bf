"""Noise space: fit the noise maps of a StyleGAN2 to a photo after its w+ code (Abdal et al., Image2StyleGAN++, 2020).

The maps hold most of an image's degrees of freedom, so they can write what no code reaches: whiskers, single hairs, a
picture of coffee. ``fresh_noise_psnr`` tells how much of a result the code holds and how much sits in the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.generators import Generator
from helpers.generators.base import unpack
from helpers.images import shown
from helpers.inversion import InversionResult, InversionStep
from helpers.latents import Latents
from helpers.losses import Loss, lp_loss
from helpers.masks import mask_pyramid
from helpers.memory import chunk_that_fits
from helpers.metrics import psnr
from helpers.optimizers import Chain, Optimization, Schedule, cosine

STEPS = 600  # 300 reach 45.7 dB over 32 faces of cats, but the hardest one only 36.7; what is left then is colour
NOISE_LR = 0.1  # Adam, in units of activations (noise times strength), which a demodulated layer keeps near 1
NOISE_LR_REGULARISED = 0.1  # Adam, in standard deviations of the noise, as the official projector
CODE_LR = 0.05  # Adam, in standard deviations of the latent space
REGULARISATION = 10.0  # weight of the autocorrelation against the mean squared error
SMALLEST_STRENGTH = 1e-6  # a layer that learned to ignore its noise would ask for an infinite rate
ORDERS = ("sequential", "joint", "alternating")


class NoiseError(ValueError):
    """A noise optimisation that cannot start; the message says what was expected."""


@dataclass(frozen=True)
class Stage:
    """Part of an embedding: what is free ("code", "noise" or both), its share of the steps, the space of the code."""

    free: tuple[str, ...]
    share: float = 1.0
    space: str | None = None


def check_noise_maps(generator: Generator) -> None:
    """Raise NoiseError for a generator without noise maps."""
    if not generator.noise_shapes:
        raise NoiseError(f"this {generator.family} generator has no noise maps; take a StyleGAN2.")


def order_stages(order: str, rounds: int = 4) -> tuple[Stage, ...]:
    """Stages of an order: "sequential" (noise alone), "joint", "alternating" (code, noise, code, ...)."""
    orders = {
        "sequential": (Stage(("noise",)),),
        "joint": (Stage(("code", "noise")),),
        "alternating": (Stage(("code",)), Stage(("noise",))) * rounds,
    }
    if order not in orders:
        raise NoiseError(f"the order must be {', '.join(ORDERS)}, but {order!r} came.")
    return orders[order]


Objective = Callable[..., Loss]


@dataclass
class Embedding(Chain):
    """Fit code, noise maps or both to any objective; iterate for the steps, leave the loop to stop, ask ``result()``.

    The noise is searched in units of activations: a step of the same size in every layer is a step of 1/strength in
    its map. Without that, Adam at one rate for all maps cannot travel far enough where the learned strength is small.
    Every sample is an independent problem.

    Args:
        generator: a generator with noise maps.
        objective: ``objective(images, delta, index)`` gives the Loss of the samples ``index``; delta is the offset of
            their code from the start.
        latents: where to start, a batch of B. Without noise the fixed maps are the start.
        stages: what is free, in order.
        steps: over all stages.
        lr: rate of the noise, in activations (Adam); with ``regularise`` in standard deviations of the noise.
        code_lr: rate of the code, in standard deviations of its space (Adam).
        optimizer: "adam" or "lbfgs" (up to 20 evaluations a step, no rate).
        rows: indices of the w+ rows that are free; None frees all.
        where: (B or 1, 1, R, R) in [0, 1], where the maps may change; None is everywhere.
        regularise: weight of ``noise_autocorrelation``. Above 0 the maps are also held at mean 0 and variance 1.
        per_layer: False takes ``lr`` as it is for every map, in standard deviations of the noise.
        schedule: factor of the rates in the stages that move the noise; None is a cosine over the whole stage.
        reduction: of the loss over the pixels for the gradient, "sum" or "mean"; see ``_Search.scale``.

    Raises:
        NoiseError: for a generator without noise maps where they are to be free, or an unknown reduction.
        GeneratorError: for latents of another generator.
        OptimizationError: when the losses of all samples became NaN; ``result()`` still gives the best so far.
    """

    generator: Generator
    objective: Objective
    latents: Latents
    stages: tuple[Stage, ...] = field(default_factory=lambda: order_stages("sequential"))
    steps: int = STEPS
    lr: float | None = None
    code_lr: float = CODE_LR
    optimizer: str = "adam"
    rows: Sequence[int] | None = None
    where: Tensor | None = None
    regularise: float = 0.0
    per_layer: bool = True
    schedule: Schedule | None = None
    reduction: str = "sum"

    def __post_init__(self):
        if self.reduction not in ("sum", "mean"):
            raise NoiseError(f"the reduction must be sum or mean, but {self.reduction!r} came.")
        space, code, noise = unpack(self.generator, self.latents)
        self.has_noise = bool(self.generator.noise_shapes)
        if any("noise" in stage.free for stage in self.stages):
            check_noise_maps(self.generator)
        if noise is None and self.has_noise:
            noise = self.generator.fixed_noise(len(code))
        self.base = Latents(space, code, noise).detach()
        self.runs: list[Optimization] = []
        self.places = None if self.where is None else mask_pyramid(self.where, self.generator.noise_shapes)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[InversionStep]:
        """All steps; a loop that was left is taken up where it stopped."""
        for i in range(len(self.stages)):
            if i == len(self.runs):
                self._begin()
            if i == len(self.runs) - 1:
                yield from self._go_on(self.runs[i])

    def _begin(self) -> None:
        """Make the optimisation of the next stage; it starts from the best of the stage before."""
        stage = self.stages[len(self.runs)]
        steps = share_steps(self.steps, [s.share for s in self.stages])[len(self.runs)]
        search = _Search(self, stage, self._best())
        schedule = (self.schedule or cosine(0.05, 1.0)) if "noise" in stage.free else cosine(0.05, 0.5)
        options = {"lr": search.rates, "optimizer": self.optimizer, "schedule": schedule}
        run = Optimization(search.parameters, search.loss, steps=steps, **options)
        fits = chunk_that_fits(self.generator, search.space, len(search.code), "noise" in stage.free)
        run.limit_chunk(fits)
        run.search = search
        self.runs.append(run)

    def _go_on(self, run: Optimization) -> Iterator[InversionStep]:
        before, search = self.number - run.number, run.search
        for step in run:
            total, latents = step.total / search.scale, search.latents(run.parameters).detach()
            yield InversionStep(before + step.number, total, step.parts, step.lr, latents, self.generator)

    def _best(self) -> Latents:
        return self.runs[-1].search.latents(self.runs[-1].best).detach() if self.runs else self.base

    def _history(self) -> dict[str, Tensor]:
        history: dict[str, list] = {}
        for run in self.runs:
            for name, values in run.history.items():
                scale = run.search.scale if name == "total" else 1
                history.setdefault(name, []).extend(value / scale for value in values)
        return {name: torch.stack(values).cpu() for name, values in history.items()}

    def forget_best(self) -> None:
        """Start the best-so-far anew; call it when the objective has changed under way."""
        if self.runs:
            self.runs[-1].forget_best()

    def run(self) -> InversionResult:
        """Take all steps and return the result."""
        for _ in self:
            pass
        return self.result()

    @torch.no_grad()
    def result(self) -> InversionResult:
        """The best latents so far, with their noise maps, and the images of exactly these."""
        latents = self._best()
        images = self.generator.synthesize(latents)
        base = self.generator.convert(self.base.code, self.base.space, latents.space)
        loss = self.objective(images, latents.code - base, slice(None))
        none = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return InversionResult(
            latents=latents,
            images=shown(images),
            total=loss.total,
            parts=loss.parts,
            history=self._history(),
            seconds=self.seconds,
            steps=self.number,
            setbacks=self.setbacks if self.runs else none,
            gave_up=self.gave_up if self.runs else none.bool(),
        )


class _Search:
    """One stage's parameters and what they stand for: offsets of the code and of the maps."""

    def __init__(self, embedding: Embedding, stage: Stage, current: Latents):
        self.of, self.free = embedding, stage.free
        generator, base = embedding.generator, embedding.base
        self.space = stage.space or current.space
        self.base_code = generator.convert(base.code, base.space, self.space).detach()
        self.code = generator.convert(current.code, current.space, self.space).detach()
        self.noise = current.noise
        self.code_mask = _row_mask(self.code, embedding.rows)
        self.noise_scales = None
        self.parameters, self.rates = [], []
        if "code" in self.free:
            self.parameters.append((self.code - self.base_code).clone())
            self.rates.append(embedding.code_lr * generator.std(self.space).mean().item())
        if "noise" in self.free:
            regularised = embedding.regularise > 0
            lr = embedding.lr or (NOISE_LR_REGULARISED if regularised else NOISE_LR)
            plain = regularised or not embedding.per_layer
            self.noise_scales = [1.0] * len(self.noise) if plain else noise_scales(generator)
            self.parameters += [torch.zeros_like(map_) for map_ in self.noise]
            self.rates += [lr] * len(self.noise)
        # sums, not means: the gradient of one noise pixel in the mean over a large image falls to Adam's epsilon
        summed = "noise" in self.free and embedding.reduction == "sum"
        self.scale = 3 * generator.resolution**2 if summed else 1

    def latents(self, parameters: list[Tensor], index=slice(None)) -> Latents:
        """Latents of the parameters; both for the samples ``index`` of the batch."""
        parameters = list(parameters)
        code = self.code[index]
        if "code" in self.free:
            delta = parameters.pop(0)
            code = self.base_code[index] + (delta if self.code_mask is None else delta * self.code_mask)
        return Latents(self.space, code, self._maps(parameters, index))

    def _maps(self, offsets: list[Tensor], index) -> list[Tensor] | None:
        if self.noise is None:
            return None
        maps = [map_[index] for map_ in self.noise]
        if "noise" not in self.free:
            return maps
        offsets = [offset * scale for offset, scale in zip(offsets, self.noise_scales, strict=True)]
        if self.of.places is not None:
            places = [place[index] if len(place) > 1 else place for place in self.of.places]
            offsets = [offset * place for offset, place in zip(offsets, places, strict=True)]
        maps = [map_ + offset for map_, offset in zip(maps, offsets, strict=True)]
        return [normalised(map_) for map_ in maps] if self.of.regularise > 0 else maps

    def loss(self, parameters: list[Tensor], index) -> Loss:
        latents = self.latents(parameters, index)
        images = self.of.generator.synthesize(latents)
        loss = self.of.objective(images, latents.code - self.base_code[index], index)
        total, parts = loss.total, dict(loss.parts)
        if self.of.regularise > 0 and "noise" in self.free:
            parts["autocorrelation"] = noise_autocorrelation(latents.noise)
            total = total + self.of.regularise * parts["autocorrelation"]
        return Loss(total * self.scale, parts)


def _row_mask(code: Tensor, rows: Sequence[int] | None) -> Tensor | None:
    if rows is None or code.ndim < 3:
        return None
    mask = torch.zeros(1, code.shape[1], 1, device=code.device)
    mask[:, list(rows)] = 1
    return mask


def share_steps(steps: int, shares: Sequence[float]) -> list[int]:
    """Split the steps by shares: at least one each, and exact in sum where there are enough."""
    counts = [max(1, round(steps * share / sum(shares))) for share in shares[:-1]]
    return [*counts, max(1, steps - sum(counts))]


def noise_scales(generator: Generator) -> list[float]:
    """How far each map must move to change its layer's activations by 1: 1/|strength|, coarse to fine."""
    return [1 / max(abs(strength.item()), SMALLEST_STRENGTH) for strength in generator.noise_strengths]


def normalised(noise: Tensor) -> Tensor:
    """A map (B, 1, h, w) shifted and scaled to mean 0 and variance 1, each sample by itself."""
    noise = noise - noise.mean((1, 2, 3), keepdim=True)
    return noise * torch.rsqrt(noise.square().mean((1, 2, 3), keepdim=True) + 1e-8)


def noise_autocorrelation(noise: list[Tensor]) -> Tensor:
    """Squared correlation of each map with itself shifted by one pixel, at every scale down to 8x8, summed: (B,).

    0 for white noise in the limit; large where a map shows a picture (Karras et al. 2020, app. D).
    """
    total = 0.0
    for map_ in noise:
        while True:
            for dim in (2, 3):
                total = total + (map_ * map_.roll(1, dim)).mean((1, 2, 3)).square()
            if map_.shape[-1] <= 8:
                break
            map_ = F.avg_pool2d(map_, 2) * 2  # times 2 keeps the variance of white noise
    return total


class PixelObjective:
    """Mean squared error against the targets under a mask, for an ``Embedding``.

    targets: (B, 3, R, R) in [0, 1]. mask: (B or 1, 1, R, R), where it counts; None counts every pixel.
    """

    def __init__(self, targets: Tensor, mask: Tensor | None = None):
        self.targets, self.mask = targets, mask

    def __call__(self, images: Tensor, delta: Tensor | None = None, index=slice(None)) -> Loss:
        targets = self.targets[index] if len(self.targets) > 1 else self.targets
        mask = self.mask[index] if self.mask is not None and len(self.mask) > 1 else self.mask
        l2 = lp_loss(images, targets, 2, mask)
        return Loss(l2, {"l2": l2})


def noise_inversion(
    generator: Generator,
    targets: Tensor,
    latents: Latents,
    mask: Tensor | None = None,
    *,
    order: str = "sequential",
    rounds: int = 4,
    **options,
) -> Embedding:
    """The ``Embedding`` that fits noise maps to photos, to iterate over; see ``optimize_noise``."""
    size = generator.resolution
    if targets.ndim != 4 or tuple(targets.shape[1:]) != (3, size, size):
        raise NoiseError(f"targets must be (B, 3, {size}, {size}) for this generator, but {tuple(targets.shape)} came.")
    if not targets.isfinite().all():
        raise NoiseError("the targets hold NaN or infinity; read them with read_image().")
    if len(latents) not in (1, len(targets)):
        raise NoiseError(f"latents must be one or one per target ({len(targets)}), but {len(latents)} came.")
    if len(latents) < len(targets):
        latents = latents.apply(lambda t: t.expand(len(targets), *t.shape[1:]))
    stages = order_stages(order, rounds)
    return Embedding(generator, PixelObjective(targets, mask), latents, stages, **options)


def optimize_noise(
    generator: Generator, targets: Tensor, latents: Latents, mask: Tensor | None = None, **options
) -> InversionResult:
    """Fit the noise maps to photos with a pixel loss alone, the code held where it is (Mk_n of Image2StyleGAN++).

    Args:
        generator: with noise maps.
        targets: (B, 3, R, R) in [0, 1] at the generator's resolution.
        latents: what the inversion in w+ (or z, w) found: B, or 1 for all.
        mask: (B or 1, 1, R, R) in [0, 1], where the pixels count; None counts all.
        options: ``order`` "sequential" (the default: only the noise is free), "joint" (code and noise together) or
            "alternating" (``rounds`` times the code, then the noise); and the arguments of ``Embedding``: steps, lr,
            optimizer, where, regularise.

    Returns:
        The result with ``latents.noise`` fitted; ``history["l2"]`` (steps, B) is the mean squared error.

    Raises:
        NoiseError: for targets or latents that do not fit, an unknown order, or a generator without noise maps.
    """
    return noise_inversion(generator, targets, latents, mask, **options).run()


def partly_fitted(generator: Generator, latents: Latents, amount: float = 1.0, levels: int | None = None) -> Latents:
    """The code with part of its fitted noise: maps on the way from the fixed ones (amount 0) to its own (1).

    levels: how many of the maps take part, counted from the coarsest; the others are the fixed ones. None is all.
    Raises NoiseError for latents without noise maps.
    """
    if latents.noise is None:
        raise NoiseError("these latents have no noise maps; fit some with optimize_noise().")
    levels = len(latents.noise) if levels is None else levels
    amounts = [amount if i < levels else 0.0 for i in range(len(latents.noise))]
    fixed = generator.fixed_noise(len(latents))
    noise = [torch.lerp(a, b, t) for a, b, t in zip(fixed, latents.noise, amounts, strict=True)]
    return Latents(latents.space, latents.code, noise)


# --- is it a cheat? --------------------------------------------------------------------------------------------------


@torch.no_grad()
def fresh_noise_psnr(generator: Generator, targets: Tensor, latents: Latents, draws: int = 8, seed: int = 0) -> Tensor:
    """PSNR (B,) in dB of the code with new random noise, mean over ``draws``: what the code itself holds of the photo.

    Each draw serves all B, so that a photo's figure does not depend on what it was measured with.

    targets: (B, 3, R, R) in [0, 1]. Noise maps in the latents are left aside. Raises NoiseError for no draws.
    """
    if draws < 1:
        raise NoiseError(f"at least one draw of noise is needed, but {draws} came.")
    values = []
    for draw in range(draws):
        noise = generator.fresh_noise(1, seed=seed + draw)
        values.append(psnr(shown(generator.synthesize(Latents(latents.space, latents.code), noise)), targets))
    return torch.stack(values).mean(0)


OPPONENT = ((1, 1, 1), (1, 0, -1), (1, -2, 1))  # luminance and two chroma axes, orthogonal: energies add up
CUTOFF = 0.25  # cycles per pixel: what an image of half the size can hold is low


@torch.no_grad()
def residual_report(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Where the residual sits: its mean squared error split by colour and frequency, four parts (B,) that add up.

    Luminance is the mean of R, G and B, chroma is orthogonal to it. Low frequencies are those up to a quarter cycle
    per pixel in both directions. By Parseval's theorem the parts add up to the mean squared error of [0, 1] images.

    images, targets: (B, 3, H, W) in [0, 1].
    """
    axes = F.normalize(torch.tensor(OPPONENT, dtype=torch.float64), dim=1).to(images.device)
    residual = torch.einsum("kc,bchw->bkhw", axes, (images - targets).double())
    energy = torch.fft.fft2(residual, norm="ortho").abs().square() / residual[0].numel()
    y, x = (torch.fft.fftfreq(n, device=images.device).abs() <= CUTOFF for n in residual.shape[-2:])
    low = (y[:, None] & x[None]).double()
    parts = {}
    for name, channels in (("luminance", energy[:, :1]), ("chroma", energy[:, 1:])):
        parts[f"{name}_low"] = (channels * low).sum((1, 2, 3)).float()
        parts[f"{name}_high"] = (channels * (1 - low)).sum((1, 2, 3)).float()
    return parts


def psnr_history(history: dict[str, Tensor]) -> Tensor:
    """PSNR (steps, B) in dB along the way, from the ``l2`` of a history; not rounded to 8 bits."""
    return -10 * torch.log10(history["l2"].clamp_min(1e-12))
