"""The paper's blocks: masked search of w+ (W_l, M_st) and of noise maps (Mk_n), copied activations (I_att)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from helpers.blending.criterion import MaskedCriterion
from helpers.generators import Generator
from helpers.inversion import PHASES, LatentSearch
from helpers.latents import Latents
from helpers.losses import Criterion
from helpers.masks import as_mask, mask_pyramid
from helpers.noise import NoiseSearch

STEPS = 200  # of w+
NOISE_STEPS = 150


def embed(
    generator: Generator,
    criterion: MaskedCriterion,
    batch: int = 1,
    start: Latents | None = None,
    steps: int = STEPS,
    rows: Sequence[int] | None = None,
) -> LatentSearch:
    """Masked search of w+, W_l of the paper, or M_st with a style term; without a start from the mean, through w."""
    phases = PHASES["w+"] if start is None and rows is None else PHASES["w+"][-1:]
    if start is None:
        mean = generator.mean(phases[0].space)
        start = Latents(phases[0].space, mean.expand(batch, *mean.shape[1:]))
    return LatentSearch(generator, criterion, start, phases, steps, rows=rows)


def fit_noise(
    generator: Generator, x: Tensor, y: Tensor, mask: Tensor, latents: Latents, steps: int = NOISE_STEPS
) -> NoiseSearch:
    """Masked search of noise maps, Mk_n of the paper: x under the mask, y elsewhere, both (B, 3, R, R); latents stay.

    For equal weights |M (G - x)|^2 + |(1 - M) (G - y)|^2 has the same gradient as |G - (M x + (1 - M) y)|^2.
    """
    criterion = Criterion(torch.lerp(y, x, mask), weights={"l2": 1.0})
    return NoiseSearch(generator, criterion, latents, steps=steps, optimizer="lbfgs")


def copy_activations(
    generator: Generator, first: Latents, second: Latents, mask: Tensor, layer: str = "b16.conv1", amount: float = 1.0
) -> Tensor:
    """Images (B, 3, R, R) of ``second`` with the region's activations of ``first`` at one layer: I_att of the paper.

    amount 1 copies and 0.5 averages; a feathered mask blends. The images of the resolutions up to the layer's are mixed
    in the same way. Raises ValueError for an unknown layer or an amount outside [0, 1].
    """
    synthesis, side = generator.synthesis, check_copy(generator, layer, amount)
    mask = as_mask(mask, generator.resolution).to(generator.device) * amount
    modules = [synthesis.get_submodule(layer)]
    modules += [synthesis.get_submodule(f"b{r}").torgb for r in synthesis.resolutions if r <= side]
    taken: dict = {}

    def read(module, inputs, output):
        taken[module] = output

    def write(module, inputs, output):
        (at_layer,) = mask_pyramid(mask, [tuple(output.shape[-2:])])
        return torch.lerp(output, taken[module], at_layer.to(output))

    with torch.no_grad():
        for hook, latents in ((read, first), (write, second)):
            handles = [module.register_forward_hook(hook) for module in modules]
            try:
                images = generator.synthesize(latents)
            finally:
                for handle in handles:
                    handle.remove()
    return images.clamp(0, 1)


def check_copy(generator: Generator, layer: str, amount: float) -> int:
    """The layer's side in cells. ValueError for an unknown layer or an amount outside [0, 1]."""
    sides = {name: int(name[1:].split(".")[0]) for name, _ in generator.synthesis.layers()}  # "b16.conv1", ...
    if layer not in sides:
        raise ValueError(f"the layer must be one of {', '.join(sides)}; got {layer!r}.")
    if not 0 <= amount <= 1:
        raise ValueError(f"the amount must be in [0, 1]; got {amount}.")
    return sides[layer]
