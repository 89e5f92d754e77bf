"""Noise space: fit the noise maps of a StyleGAN2 to a photo after its w+ code (Abdal et al., Image2StyleGAN++)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.generators import Generator
from helpers.images import shown
from helpers.inversion import LatentSearch, Variables, check_targets
from helpers.latents import Latents
from helpers.losses import Criterion, Loss
from helpers.masks import mask_pyramid
from helpers.metrics import psnr
from helpers.optimizers import Schedule, cosine
from helpers.search import Phase, Result

LBFGS_STEPS = 240  # within half a decibel of 600 of Adam
STEPS = 600  # 300 reach 45.7 dB over 32 faces of cats, but the hardest one only 36.7; what is left then is colour
NOISE_LR = 0.1  # in units of activations, which a demodulated layer keeps near 1; of the noise where it is regularised
CODE_LR = 0.05  # in standard deviations of the latent space
REGULARISATION = 10.0  # weight of the autocorrelation against the mean squared error
SMALLEST_STRENGTH = 1e-6  # a layer that learned to ignore its noise would ask for an infinite rate
ORDERS = {  # name to its phases
    "sequential": (Phase(free=("noise",)),),
    "joint": (Phase(free=("code", "noise")),),
    "alternating": (Phase(free=("code",)), Phase(free=("noise",))) * 4,
}


@dataclass(frozen=True)
class NoiseOptions:
    """How to fit noise maps."""

    steps: int | None = None  # over all phases; None is STEPS, or LBFGS_STEPS
    lr: float | None = None  # of the noise, in activations; with ``regularise`` in standard deviations of the noise
    code_lr: float = CODE_LR  # in standard deviations of the code's space
    optimizer: str = "adam"
    order: str = "sequential"  # one of ORDERS
    where: Tensor | None = None  # (B or 1, 1, R, R) in [0, 1], where the maps may change; None is everywhere
    regularise: float = 0.0  # weight of ``noise_autocorrelation``; above 0 the maps keep mean 0 and variance 1 too
    per_layer: bool = True  # False takes ``lr`` as it is for every map, in standard deviations of the noise
    schedule: Schedule | None = None  # of the phases that move the noise; None is a cosine over the whole phase
    until: float | None = None  # see LatentSearch


def check_noise_maps(generator: Generator) -> None:
    """Raise ValueError for a generator without noise maps."""
    if not generator.noise_shapes:
        raise ValueError(f"this {generator.family} generator has no noise maps; use a StyleGAN2.")


def reach(generator: Generator, latents: Latents) -> list[Tensor]:
    """By how much a number of each map moves the image (B, 1, 1, 1); a gradient of random values has that spread."""
    found = []
    for one in latents:
        maps = [map_.clone().requires_grad_() for map_ in one.noise]
        with torch.enable_grad():
            images = generator.synthesize(one.code, maps)
            random = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
            gradients = torch.autograd.grad((images * random).sum(), maps)
        found.append([gradient.square().mean((1, 2, 3), keepdim=True).sqrt() for gradient in gradients])
    return [torch.cat(of_map) for of_map in zip(*found, strict=True)]


class NoiseVariables(Variables):
    """The offsets of the maps follow that of the code, where both move; each map has a scale of its own."""

    def __init__(self, search: NoiseSearch, phase: Phase, current: Latents):
        super().__init__(search, phase, current)
        self.search, self.first, options = search, len(self.parameters), search.options
        plain = search.regularise > 0 or not options.per_layer
        effects = [strength.detach().view(1, 1, 1, 1) for strength in search.generator.noise_strengths]
        if plain:
            effects = [torch.ones_like(effect) for effect in effects]
        elif search.optimizer == "lbfgs":  # begins best where a step in every map moves the image as far
            effects = reach(search.generator, current)
        self.scales = [1 / effect.abs().clamp_min(SMALLEST_STRENGTH) for effect in effects]
        if search.places is not None:
            self.scales = [scale * place for scale, place in zip(self.scales, search.places, strict=True)]
        if "noise" in phase.free:
            self.parameters += [torch.zeros_like(map_) for map_ in self.noise]
            self.rates += [options.lr or NOISE_LR] * len(self.noise)

    def maps(self, parameters: list[Tensor], index) -> list[Tensor]:
        maps, offsets = super().maps(parameters, index), parameters[self.first :]
        if not offsets:
            return maps
        scales = [scale[index] if len(scale) > 1 else scale for scale in self.scales]
        offsets = [offset * scale for offset, scale in zip(offsets, scales, strict=True)]
        maps = [map_ + offset for map_, offset in zip(maps, offsets, strict=True)]
        return [normalised(map_) for map_ in maps] if self.search.regularise > 0 else maps


class NoiseSearch(LatentSearch):
    """Fit noise maps, code or both to any criterion; ``changes`` replace fields of the NoiseOptions; see LatentSearch.

    The noise is searched in units of activations: a step of the same size in every layer is a step of 1/strength in
    its map. Otherwise Adam, at one rate for all maps, cannot travel far enough where the learned strength is small.
    Latents without noise start from the fixed maps. Raises ValueError for a generator without, or an unknown order.
    """

    variables = NoiseVariables

    def __init__(self, generator: Generator, criterion, latents: Latents, options=None, **changes):
        self.options = options = replace(options or NoiseOptions(), **changes)
        if options.order not in ORDERS:
            raise ValueError(f"the order must be one of {', '.join(ORDERS)}; got {options.order!r}.")
        check_noise_maps(generator)
        phases, rate = ORDERS[options.order], options.code_lr
        steps = options.steps or (LBFGS_STEPS if options.optimizer == "lbfgs" else STEPS)
        super().__init__(generator, criterion, latents, phases, steps, rate, options.optimizer)
        self.until = options.until
        if self.base.noise is None:
            self.base.noise = generator.fixed_noise(len(self.base))
        self.regularise = options.regularise
        self.places = None if options.where is None else mask_pyramid(options.where, generator.noise_shapes)

    def _settings(self, phase: Phase) -> dict:
        if "noise" not in phase.free:
            return {}
        # sums, not means: the gradient of one noise pixel in the mean over a large image falls to Adam's epsilon
        scale = 3 * self.generator.resolution**2
        return {"schedule": self.options.schedule or cosine(0.05, 1.0), "scale": scale}

    def _loss(self, variables: NoiseVariables, parameters: list[Tensor], index) -> Loss:
        loss = super()._loss(variables, parameters, index)
        if self.regularise > 0 and len(parameters) > variables.first:
            part = noise_autocorrelation(variables.maps(parameters, index))
            loss = Loss(loss.total + self.regularise * part, {**loss.parts, "autocorrelation": part})
        return loss


def normalised(noise: Tensor) -> Tensor:
    """A map (B, 1, h, w) shifted and scaled to mean 0 and variance 1, each sample separately."""
    noise = noise - noise.mean((1, 2, 3), keepdim=True)
    return noise * torch.rsqrt(noise.square().mean((1, 2, 3), keepdim=True) + 1e-8)


def noise_autocorrelation(noise: list[Tensor]) -> Tensor:
    """Squared correlation of each map with itself shifted by one pixel, at every scale down to 8x8, summed: (B,).

    Near 0 for white noise, large where a map shows an image (Karras et al. 2020, app. D).
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


def noise_inversion(
    generator: Generator, targets: Tensor, latents: Latents, mask: Tensor | None = None, **options
) -> NoiseSearch:
    """The search that fits noise maps to photos with a pixel loss alone, the code held (Mk_n of Image2StyleGAN++).

    targets: (B, 3, R, R) in [0, 1] at the generator's resolution; latents: what an inversion found, B, or 1 for all;
    mask: (B or 1, 1, R, R) in [0, 1], where the pixels count. Raises ValueError for other shapes.
    """
    check_targets(generator, targets)
    if len(latents) not in (1, len(targets)):
        raise ValueError(f"latents must be one or one per target ({len(targets)}); got {len(latents)}.")
    latents = latents.apply(lambda t: t.expand(len(targets), *t.shape[1:]))
    return NoiseSearch(generator, Criterion(targets, weights={"l2": 1.0}, mask=mask), latents, **options)


def optimize_noise(*arguments, **options) -> Result:
    """Take all steps of the ``noise_inversion`` of these arguments and return the result."""
    return noise_inversion(*arguments, **options).run()


def partly_fitted(generator: Generator, latents: Latents, amount: float = 1.0, levels: int | None = None) -> Latents:
    """The code with the coarsest ``levels`` of its maps (None: all), fixed (0) to its own (1). ValueError for none."""
    if latents.noise is None:
        raise ValueError("these latents have no noise maps; fit some with optimize_noise().")
    noise = generator.fixed_noise(len(latents))
    noise[:levels] = [torch.lerp(a, b, amount) for a, b in zip(noise[:levels], latents.noise[:levels], strict=True)]
    return Latents(latents.space, latents.code, noise)


@torch.no_grad()
def fresh_noise_psnr(generator: Generator, targets: Tensor, latents: Latents, draws: int = 8, seed: int = 0) -> Tensor:
    """PSNR (B,) in dB of the code alone with new random noise, mean over ``draws``. ValueError for no draw."""
    if draws < 1:
        raise ValueError(f"at least one draw of noise is needed; got {draws}.")
    noise = [generator.fresh_noise(1, seed=seed + draw) for draw in range(draws)]
    code = Latents(latents.space, latents.code)
    return torch.stack([psnr(shown(generator.synthesize(code, maps)), targets) for maps in noise]).mean(0)


@torch.no_grad()
def residual_report(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Where the residual sits: its mean squared error split by colour and frequency, four parts (B,) that add up.

    Luminance is the mean of R, G and B, chroma is orthogonal to it; low is up to a quarter cycle per pixel in both
    directions, what an image of half the size can hold. The sum is by Parseval's theorem; images are (B, 3, H, W).
    """
    axes = torch.tensor(((1, 1, 1), (1, 0, -1), (1, -2, 1)), dtype=torch.float64, device=images.device)
    axes = F.normalize(axes, dim=1)  # luminance and two axes of chroma, orthogonal: energies add up
    residual = torch.einsum("kc,bchw->bkhw", axes, (images - targets).double())
    energy = torch.fft.fft2(residual, norm="ortho").abs().square() / residual[0].numel()
    y, x = (torch.fft.fftfreq(n, device=images.device).abs() <= 0.25 for n in residual.shape[-2:])
    low, parts = y[:, None] & x, {}
    for name, channels in (("luminance", energy[:, :1]), ("chroma", energy[:, 1:])):
        parts[f"{name}_low"] = (channels * low).sum((1, 2, 3)).float()
        parts[f"{name}_high"] = (channels * ~low).sum((1, 2, 3)).float()
    return parts
