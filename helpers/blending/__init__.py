"""Local edits with masks: blend, fill, restyle, transfer (Abdal et al., Image2StyleGAN++, CVPR 2020).

The paper builds every edit from four blocks, and so does this module:

- ``W_l``  masked optimisation of the w+ code: ``embed``;
- ``Mk_n`` masked optimisation of the noise maps: ``fit_noise``;
- ``M_st`` masked style transfer: ``embed`` with a style term;
- ``I_att`` activations copied between two embedded images: ``copy_activations``.

Each application returns an ``Edit``: iterate over it for the steps, leave the loop to stop, ask for ``result()``; or
call ``run()``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

from helpers import masks
from helpers.generators import Generator
from helpers.images import quantize, resize
from helpers.inversion import PHASES, LatentSearch
from helpers.latents import Latents
from helpers.losses import Criterion, Loss, delta_loss, gram_matrix, lp_loss, perceptual_loss, style_loss
from helpers.masks import as_mask, grow, invert, mask_pyramid
from helpers.metrics import feature_distance, psnr
from helpers.noise import NoiseSearch
from helpers.search import Chain, Phase, Result

PERCEPTUAL_LAYERS = ("conv1_1", "conv1_2", "conv2_2", "conv3_3")
STYLE_LAYERS = ("conv3_3",)
STEPS = 200  # of w+
NOISE_STEPS = 150
FEATHER = 4.0  # pixels at 64 x 64 and in proportion elsewhere, standard deviation of the blurred edge
SMALLEST_VARIANCE = 1e-3  # of the largest
STROKE = 0.06  # above what saving a photo as JPEG changes
RECONSTRUCTION_WEIGHTS = {"first": 1.0, "perceptual": 0.02}
BLEND_WEIGHTS = {"first": 1.0, "second": 1.0, "perceptual": 0.1, "style": 0.0}
SCRIBBLE_WEIGHTS = {"first": 1.0, "stroke": 1.0, "perceptual": 0.02}
STYLE_WEIGHTS = {"first": 1.0, "perceptual": 0.02, "content": 0.002, "style": 0.2}


class BlendError(ValueError):
    """An edit that cannot start; the message says what was expected."""


# --- the objective ---------------------------------------------------------------------------------------------------


@dataclass
class Term:
    """One masked term of an objective.

    Attributes:
        name: under which its weight and its value appear.
        kind: "pixel" (mean squared error), "perceptual" or "style" (Gram matrices).
        target: (B or 1, 3, R, R) in [0, 1]; for "style" any image of at least the layers' size.
        mask: (B or 1, 1, R, R) in [0, 1], where the term counts in our image.
        weight: a number or (B,).
        target_mask: where the style is taken from; None is the whole image.
    """

    name: str
    kind: str
    target: Tensor
    mask: Tensor
    weight: float | Tensor = 1.0
    target_mask: Tensor | None = None


class Objective:
    """Weighted sum of masked terms, one value per sample; each term is a mean over its own mask.

    No term sends a gradient outside its mask. A pixel term is 0 there. The perceptual term replaces what is outside by
    the target before the network looks, so it sees each region as if the rest were right already; and the style term
    takes what is outside as given. In each layer only the cells that the mask covers count, by area.

    Args:
        terms: what to sum.
        features: a network of ``load_features``, for perceptual and style terms.
        prior: weight of the squared offset of the code from its start; 0 leaves the term out for good.
        metric: (w_dim, w_dim) of ``whitening``, to measure that offset in units of what is likely.
        weights: a dict to read the weights from, so that several objectives share what a slider moves; by default
            those of the terms. Weights may change while an optimisation runs.

    Raises:
        BlendError: for an unknown kind, no terms, or features that are missing.
        MaskError: for a mask that is none or of another size.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        features=None,
        prior: float = 0.0,
        metric: Tensor | None = None,
        weights: dict | None = None,
        perceptual_layers: Sequence[str | int] = PERCEPTUAL_LAYERS,
        style_layers: Sequence[str | int] = STYLE_LAYERS,
    ):
        if not terms:
            raise BlendError("an objective needs at least one term.")
        self.terms, self.features = list(terms), features
        self.layers = {"perceptual": tuple(perceptual_layers), "style": tuple(style_layers)}
        self.weights = {} if weights is None else weights
        for term in terms:
            self.weights.setdefault(term.name, term.weight)
        self.has_prior, self.metric = prior > 0, metric
        if self.has_prior:
            self.weights.setdefault("prior", prior)
        self.targets = [self._prepare(term) for term in self.terms]

    @torch.no_grad()
    def _prepare(self, term: Term):
        """Features or Gram matrices of the target, once."""
        if term.kind == "pixel":
            term.mask = as_mask(term.mask, tuple(term.target.shape[-2:]), f"the mask of {term.name}")
            return None
        if term.kind not in self.layers:
            raise BlendError(f"a term is pixel, perceptual or style, but {term.kind!r} came.")
        if self.features is None:
            raise BlendError(f"the {term.kind} term needs a feature network; pass features=load_features().")
        found = self.features(term.target, self.layers[term.kind])
        if term.kind == "style":
            term.mask = as_mask(term.mask, name=f"the mask of {term.name}")
            return {layer: gram_matrix(values, term.target_mask) for layer, values in found.items()}
        term.mask = as_mask(term.mask, tuple(term.target.shape[-2:]), f"the mask of {term.name}")
        return found

    def __call__(self, images: Tensor, delta: Tensor | None = None, index=slice(None)) -> Loss:
        """Loss of images (b, 3, R, R) and code offsets (b, ...) for the samples ``index`` of the batch."""
        parts, total = {}, images.new_zeros(len(images))
        for term, target in zip(self.terms, self.targets, strict=True):
            weight = self._weight(term.name, index, images)
            if not weight.gt(0).any():
                continue
            value = self._value(term, target, images, index)
            parts[term.name] = parts.get(term.name, 0) + value  # both sides of a blend have one of the same name
            total = total + weight * value
        if self.has_prior and delta is not None:
            whitened = self.metric is not None
            parts["prior"] = (delta @ self.metric).square().flatten(1).mean(1) if whitened else delta_loss(delta)
            total = total + self._weight("prior", index, images) * parts["prior"]
        return Loss(total, parts)

    def _value(self, term: Term, target, images: Tensor, index) -> Tensor:
        image, mask = _pick(term.target, index), _pick(term.mask, index).to(images)
        if term.kind == "pixel":
            return lp_loss(images, image, 2, mask)
        target = {layer: _pick(values, index) for layer, values in target.items()}
        if term.kind == "perceptual":
            ours = self.features(torch.lerp(image, images, mask), self.layers["perceptual"])
            return perceptual_loss(ours, target, mask)
        ours = self.features(torch.lerp(images.detach(), images, mask), self.layers["style"])
        value = style_loss({layer: gram_matrix(values, mask) for layer, values in ours.items()}, target)
        return value * mask.amax((1, 2, 3)).gt(0)  # an empty region has no texture that could be wrong

    def _weight(self, name: str, index, images: Tensor) -> Tensor:
        weight = torch.as_tensor(self.weights[name], dtype=images.dtype, device=images.device)
        return weight[index] if weight.ndim else weight


@torch.no_grad()
def whitening(generator: Generator, samples: int = 8000) -> Tensor:
    """Matrix (w_dim, w_dim) W that makes w white: the components of (w - mean) W are uncorrelated, of variance 1.

    So |delta W|^2 / w_dim, a squared Mahalanobis distance, is about 1 for a typical w, while an offset in a direction
    that no w ever takes costs much: the Gaussian prior on w of Wulff and Torralba (2020).
    """
    values, vectors = torch.linalg.eigh(torch.cov(generator.sample("w", samples).T.double()))
    # directions that hardly occur at all would be forbidden, and rounding would decide which
    return (vectors / values.clamp_min(SMALLEST_VARIANCE * values[-1]).sqrt()).to(generator.mean("w"))


def _pick(values: Tensor, index) -> Tensor:
    return values[index] if len(values) > 1 else values


def four_terms(
    x: Tensor,
    y: Tensor,
    style: Tensor,
    *,
    pixel_mask: Tensor,
    style_mask: Tensor,
    perceptual_mask: Tensor,
    weights: dict[str, float],
) -> list[Term]:
    """The paper's objective (its eq. 1): style + first + second + perceptual, each under its own mask.

    lambda_s style(Ms) + lambda_1 |Mm (G - x)|^2 + lambda_2 |(1 - Mm) (G - y)|^2 + lambda_p perceptual(Mp, x), each a
    mean over its mask.

    Args:
        x, y: (B or 1, 3, R, R) in [0, 1], the first image inside ``pixel_mask`` and the second outside.
        style: (B or 1, 3, H, W) in [0, 1].
        pixel_mask, style_mask, perceptual_mask: (B or 1, 1, R, R) in [0, 1]: Mm, Ms and Mp.
        weights: of "style", "first", "second" and "perceptual"; what is missing is 0.
    """
    return [
        Term("style", "style", style, style_mask, weights.get("style", 0.0)),
        Term("first", "pixel", x, pixel_mask, weights.get("first", 0.0)),
        Term("second", "pixel", y, invert(as_mask(pixel_mask)), weights.get("second", 0.0)),
        Term("perceptual", "perceptual", x, perceptual_mask, weights.get("perceptual", 0.0)),
    ]


# --- the blocks ------------------------------------------------------------------------------------------------------


def embed(
    generator: Generator,
    objective: Objective,
    batch: int = 1,
    start: Latents | None = None,
    steps: int = STEPS,
    rows: Sequence[int] | None = None,
    **options,
) -> LatentSearch:
    """Masked w+ optimisation, W_l of the paper; with a style term its M_st.

    Args:
        objective: what to minimise.
        batch: number of samples that it has.
        start: latents to start from; by default the mean, through w to w+ as an inversion goes.
        steps: Adam steps.
        rows: free rows of w+; None frees all. With rows there is no stage in w, which would move them all.
        options: of ``LatentSearch``.
    """
    phases = PHASES["w+"]
    if start is None and rows is None:
        start = Latents("w", generator.mean("w").expand(batch, -1))
        return LatentSearch(generator, objective, start, phases, steps, **options)
    if start is None:
        start = Latents("w+", generator.mean("w+").expand(batch, -1, -1))
    return LatentSearch(generator, objective, start, phases[-1:], steps, rows=rows, **options)


def fit_noise(
    generator: Generator, x: Tensor, y: Tensor, mask: Tensor, latents: Latents, steps: int = NOISE_STEPS, **options
) -> NoiseSearch:
    """Masked noise optimisation, Mk_n of the paper: x under the mask, y elsewhere; the code stays.

    For equal weights |M (G - x)|^2 + |(1 - M) (G - y)|^2 has the same gradient as |G - (M x + (1 - M) y)|^2 where M
    is 0 or 1, and a feathered M makes the target a cross-fade of the two. With the generator's own image as y, the
    maps bring back x under the mask and leave the rest as the code has it.

    Args:
        x, y: (B, 3, R, R) in [0, 1].
        mask: (B or 1, 1, R, R) in [0, 1].
        latents: B codes, from ``embed``.
        options: of search.
    """
    criterion = Criterion(torch.lerp(y, x, mask), weights={"l2": 1.0})
    return NoiseSearch(generator, criterion, latents, steps=steps, **options)


def activation_layers(generator: Generator) -> dict[str, int]:
    """Layers whose activations can be copied, coarse to fine: name ("b16.conv1") to their side in pixels."""
    return {name: int(name[1:].split(".")[0]) for name, _ in generator.synthesis.layers()}


def copy_activations(
    generator: Generator,
    first: Latents,
    second: Latents,
    mask: Tensor,
    layer: str = "b16.conv1",
    amount: float = 1.0,
) -> Tensor:
    """Images (B, 3, R, R) of ``second`` with the region's activations of ``first`` at one layer: I_att of the paper.

    amount 1 copies and 0.5 averages; a feathered mask blends. StyleGAN2 sums the images of all resolutions, so the
    images of the resolutions up to the layer's are mixed in the same way. What follows the layer, from its styles to
    its noise, is that of ``second``.

    Args:
        first, second: B latents each, with or without noise maps.
        mask: (B or 1, 1, R, R) in [0, 1], the region; each layer gets its mean over the layer's cells.
        layer: a name of ``activation_layers``.
        amount: in [0, 1], how much of the first.

    Raises:
        BlendError: for an unknown layer or an amount outside [0, 1].
    """
    _check_copy(generator, layer, amount)
    mask = as_mask(mask, generator.resolution).to(generator.device) * amount
    block = generator.synthesis.get_submodule(layer.split(".")[0])
    modules = [generator.synthesis.get_submodule(layer)]
    modules += [generator.synthesis.get_submodule(f"b{r}").torgb for r in generator.synthesis.resolutions]
    modules = modules[: 1 + generator.synthesis.resolutions.index(block.resolution) + 1]
    taken: dict = {}

    def read(module, inputs, output):
        taken[module] = output

    def write(module, inputs, output):
        (at_layer,) = mask_pyramid(mask, [tuple(output.shape[-2:])])
        return torch.lerp(output, taken[module], at_layer.to(output))

    with torch.no_grad():
        _with_hooks(modules, read, lambda: generator.synthesize(first))
        return _with_hooks(modules, write, lambda: generator.synthesize(second)).clamp(0, 1)


def _check_copy(generator: Generator, layer: str, amount: float) -> None:
    sides = activation_layers(generator)
    if layer not in sides:
        raise BlendError(f"the layer must be one of {', '.join(sides)}, but {layer!r} came.")
    if not 0 <= amount <= 1:
        raise BlendError(f"the amount must be in [0, 1], but {amount} came.")


def _with_hooks(modules, hook, function):
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        return function()
    finally:
        for handle in handles:
            handle.remove()


# --- edits -----------------------------------------------------------------------------------------------------------

Build = Callable[[Result | None, int], LatentSearch]
Block = tuple[int, Build]
Finish = Callable[[Result], Tensor]


class Edit(Chain):
    """A chain of blocks, each built on the result of the one before; iterate, stop, ask for ``result()``.

    Args:
        name: of the application.
        blocks: of each, its steps and a function from the result so far (None at first) and the steps to its
            search; blocks of no steps are left out.
        mask: (B or 1, 1, R, R) in [0, 1], the region.
        inside, outside: (B or 1, 3, R, R) in [0, 1], what a paste takes from under the mask and from elsewhere.
        weights: of the terms; may be changed while it runs.
        finish: function from the last result to the final images, where they are not simply those of the latents.
    """

    def __init__(
        self,
        name: str,
        blocks: list[Block],
        mask: Tensor,
        inside: Tensor,
        outside: Tensor,
        weights: dict | None = None,
        finish: Finish | None = None,
    ):
        self.name, self.mask, self.finish = name, mask, finish
        self.inside, self.outside = inside.expand_as(outside), outside
        self.blocks = [(steps, build) for steps, build in blocks if steps]
        self.weights = {} if weights is None else weights

    @property
    def phases(self) -> list[Phase]:
        return [Phase(share=steps) for steps, _ in self.blocks]

    @property
    def steps(self) -> int:
        return sum(steps for steps, _ in self.blocks)

    def _begin(self, phase: Phase, steps: int) -> LatentSearch:
        _, build = self.blocks[len(self.runs)]
        return build(self.runs[-1].result() if self.runs else None, steps)

    def result(self) -> Result:
        """What the current block found, with the time and the steps of all; ``history`` is that of the block."""
        if not self.runs:
            raise BlendError("the edit has not taken a step yet; iterate over it first.")
        result = self.runs[-1].result()
        images = result.images if self.finish is None else self.finish(result)
        frozen = sum(search.frozen.sum() for search in self.runs).bool().expand(len(images))
        return replace(result, images=images, seconds=self.seconds, steps=self.number, frozen=frozen)

    def ways(self, images: Tensor) -> dict[str, Tensor]:
        """The same edit without a generator, beside the images (B, 3, R, R) that it found: name to (B, 3, R, R)."""
        sides = self.inside, self.outside, self.mask
        return {"hard paste": hard_paste(*sides), "Poisson": poisson_blend(*sides), "ours": images}


def feather_of(generator: Generator, feather: float | None = None) -> float:
    """The feather in pixels; None is the default, in proportion to the generator's images."""
    return FEATHER * generator.resolution / 64 if feather is None else feather


def transition(mask: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Where each side of an edit is to be exact, and what lies between: masks (inside, outside) with soft edges.

    Both are 0 at the region's edge (where the mask crosses 0.5) and rise to 1 along a cosine within ``radius`` pixels
    on their own side, or within the depth of a side that is thinner than that; what they lack to 1 belongs to the
    generator. A radius of 0 leaves no room: the two are the mask and its inverse, soft where the mask is.

    mask: (B, 1, R, R) in [0, 1].
    """
    if radius <= 0:
        return mask, invert(mask)
    hard = (mask >= 0.5).cpu().numpy()
    return tuple(torch.cat([_rise(sample, radius) for sample in side]).to(mask) for side in (hard, ~hard))


def _rise(side: np.ndarray, radius: float) -> Tensor:
    """0 at the edge of a side (1, R, R) to 1 deep inside it: (1, 1, R, R)."""
    if side.all() or not side.any():
        return torch.from_numpy(side[None].astype(np.float32))
    depth = np.clip(ndimage.distance_transform_edt(side[0]) - 0.5, 0, None)  # from the edge to the pixel's centre
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(depth / min(radius, depth.max()), 0, 1))
    return torch.from_numpy(rise.astype(np.float32))[None, None]


def reconstruct(
    generator: Generator, x: Tensor, features, *, weights=None, steps=STEPS, noise_steps=NOISE_STEPS
) -> Edit:
    """Improved reconstruction: W_l, then Mk_n, both with a mask of ones.

    x: (B, 3, R, R) in [0, 1]. weights: of "first" (pixels) and "perceptual".
    """
    full = torch.ones_like(x[:1, :1])
    weights = RECONSTRUCTION_WEIGHTS | (weights or {})
    objective = Objective(_photo_terms(x, full), features, weights=weights)
    blocks = [
        (steps, lambda last, steps: embed(generator, objective, len(x), steps=steps)),
        (noise_steps, lambda last, steps: fit_noise(generator, x, x, full, last.latents, steps)),
    ]
    return Edit("reconstruct", blocks, full, x, x, weights)


def _photo_terms(x: Tensor, mask: Tensor) -> list[Term]:
    return [Term("first", "pixel", x, mask), Term("perceptual", "perceptual", x, mask)]


def crossover(
    generator: Generator,
    x: Tensor,
    y: Tensor,
    mask: Tensor,
    features,
    *,
    feather: float | None = None,
    weights: dict | None = None,
    steps: int = STEPS,
    noise_steps: int = NOISE_STEPS,
) -> Edit:
    """Two-image blend: x inside the mask and y outside, in one face.

    W_l with pixel and perceptual terms for both images, under the blurred mask and its inverse; then Mk_n, which brings
    back both photos on their sides, to the last hair, while the colours of the transition between them stay those that
    the generator found.

    Args:
        x, y: (B, 3, R, R) in [0, 1].
        mask: (B or 1, 1, R, R) in [0, 1].
        features: network of ``load_features``.
        feather: blur of the mask's edge, standard deviation in pixels; the transition is twice as wide on each side.
        weights: of "first" (pixels of x), "second" (pixels of y), "perceptual" (both, each on its side) and "style"
            (the texture of y for what shows x, seen where the noise leaves room for it).
        steps, noise_steps: of the two blocks; with no noise steps the second is left out.
    """
    mask, feather = as_mask(mask, generator.resolution), feather_of(generator, feather)
    soft, (inside, outside) = masks.feather(mask, feather), transition(mask, 2 * feather)
    weights = BLEND_WEIGHTS | (weights or {})
    terms = [
        *_photo_terms(x, soft),
        Term("second", "pixel", y, invert(soft)),
        Term("perceptual", "perceptual", y, invert(soft)),
        Term("style", "style", y, soft, target_mask=invert(soft)),
    ]
    objective = Objective(terms, features, weights=weights)
    photos = hard_paste(x, y, mask)

    def noise(last: Result, steps: int) -> NoiseSearch:
        between = exchange_details(last.images, x, y, mask, feather / 2)
        return fit_noise(generator, photos, between, inside + outside, last.latents, steps)

    blocks = [(steps, lambda last, steps: embed(generator, objective, len(x), steps=steps)), (noise_steps, noise)]
    return Edit("crossover", blocks, mask, x, y, weights)


def exchange_details(image: Tensor, x: Tensor, y: Tensor, mask: Tensor, radius: float) -> Tensor:
    """The image with its fine details, below ``radius`` pixels, replaced by those of x under the mask and y elsewhere.

    Two bands of a multi-band blend (Burt and Adelson 1983): the generator decides on colours and shapes, and no strip
    of blurred fur gives away where the photos meet. All (B, 3, H, W) in [0, 1]; mask (B or 1, 1, H, W).
    """
    share = masks.feather((mask >= 0.5).to(x), radius / 2)
    details = torch.lerp(y - masks.blur(y, radius), x - masks.blur(x, radius), share)
    return (masks.blur(image, radius) + details).clamp(0, 1)


def inpainting_rows(num_ws: int) -> list[int]:
    """Free rows of w+ for filling: the first half and the last two (the paper's 1-9 and 17-18 of 18)."""
    return sorted({*range(num_ws // 2), num_ws - 2, num_ws - 1})


def inpaint(
    generator: Generator,
    x: Tensor,
    hole: Tensor,
    features,
    *,
    feather: float | None = None,
    rows: Sequence[int] | None = None,
    prior: float = 0.03,
    weights: dict | None = None,
    steps: int = STEPS,
    noise_steps: int = NOISE_STEPS,
) -> Edit:
    """Fill a hole with what the generator finds likely: W_l on what is known, then Mk_n there.

    Few rows of w+ are free, the others stay at the mean, and a prior keeps the free ones where the w of faces are:
    without it the rows serve the known pixels alone, and the hole shows whatever comes of that. The noise brings the
    known part back and fades out in a ring of twice ``feather`` pixels around the hole.

    Args:
        x: (B, 3, R, R) in [0, 1]; what is inside the hole is never looked at.
        hole: (B or 1, 1, R, R) in [0, 1], 1 = to be filled.
        rows: free rows; by default ``inpainting_rows``.
        prior: weight of the squared distance from the mean, 1 for a typical face (``whitening``).

    Raises:
        BlendError: for a hole that is empty or covers the whole image.
    """
    hole = as_mask(hole, generator.resolution)
    if not (0 < hole.mean() < 1):
        raise BlendError("the hole must cover a part of the image, but it is empty or covers all of it.")
    _, known = transition(hole, 2 * feather_of(generator, feather))
    weights = RECONSTRUCTION_WEIGHTS | (weights or {})
    anywhere = hole.gt(0).float()
    # the network looks over the edge: there it is to see a smooth fill, not the content of the hole
    seen = poisson_blend(torch.zeros_like(x), x, anywhere)
    terms, metric = _photo_terms(seen, invert(anywhere)), whitening(generator) if prior else None
    objective = Objective(terms, features, prior, metric, weights)
    rows = inpainting_rows(generator.num_ws) if rows is None else rows
    blocks = [
        (steps, lambda last, steps: embed(generator, objective, len(x), steps=steps, rows=rows)),
        (noise_steps, lambda last, steps: fit_noise(generator, seen, last.images, known, last.latents, steps)),
    ]
    return Edit("inpaint", blocks, hole, torch.full_like(x, 0.5), x, weights)


def scribble(
    generator: Generator,
    x: Tensor,
    drawn: Tensor,
    mask: Tensor,
    features,
    *,
    feather: float | None = None,
    rows: Sequence[int] | None = None,
    prior: float = 0.01,
    weights: dict | None = None,
    steps: int = STEPS,
    noise_steps: int = NOISE_STEPS,
) -> Edit:
    """Turn strokes painted on a photo into a likely change of the face.

    W_l of the photo gives w0; from there a second W_l follows the strokes with the first rows alone, held near w0 by
    the prior |w - w0|^2, so the strokes are a guide and not the result; Mk_n brings back the photo around them.

    Args:
        x: (B, 3, R, R) in [0, 1], the photo.
        drawn: (B, 3, R, R) in [0, 1], the photo with the strokes.
        mask: (B or 1, 1, R, R) in [0, 1], the strokes; ``stroke_mask`` finds them. They may change the photo up to
            ``feather`` pixels around them, and beyond within twice that, more and more weakly.
        rows: free rows in the second block; by default the first half.
        prior: weight of the squared offset from w0.
        weights: of "first" (the photo), "stroke" and "perceptual".
    """
    mask = as_mask(mask, generator.resolution)
    weights = SCRIBBLE_WEIGHTS | (weights or {})
    feather = feather_of(generator, feather)
    stroke, region = Term("stroke", "pixel", drawn, mask), grow(mask, feather)
    rows = list(range(generator.num_ws // 2)) if rows is None else rows
    blocks = _photo_then(
        generator, x, region, [stroke], features, feather, weights, (steps, noise_steps), prior=prior, rows=rows
    )
    return Edit("scribble", blocks, mask, drawn, x, weights)


def stroke_mask(x: Tensor, drawn: Tensor) -> Tensor:
    """Where a photo was painted on: (B, 1, R, R), 1 where any channel differs by more than ``STROKE``.

    x, drawn: (B, 3, R, R) in [0, 1]. Raises BlendError for two that are the same.
    """
    mask = ((drawn - x).abs().amax(1, keepdim=True) > STROKE).to(x)
    if not mask.any():
        raise BlendError("the drawn photo equals the photo, so there is no stroke; paint on a copy of the same file.")
    return mask


def _photo_then(
    generator: Generator,
    x: Tensor,
    mask: Tensor,
    terms: list[Term],
    features,
    feather: float | None,
    weights: dict,
    steps: tuple[int, int],
    prior: float = 0.0,
    metric: Tensor | None = None,
    rows: Sequence[int] | None = None,
) -> list[Block]:
    """W_l of the photo; from there W_l with more terms in the region; Mk_n, which brings back the photo around it."""
    _, outside = transition(mask, 2 * feather_of(generator, feather))
    plain = Objective(_photo_terms(x, torch.ones_like(mask)), features, weights=weights)
    changed = Objective([*_photo_terms(x, outside), *terms], features, prior, metric, weights)
    return [
        (steps[0], lambda last, n: embed(generator, plain, len(x), steps=n)),
        (steps[0], lambda last, n: embed(generator, changed, len(x), last.latents, n, rows)),
        (steps[1], lambda last, n: fit_noise(generator, x, last.images, outside, last.latents, n)),
    ]


def local_style(
    generator: Generator,
    x: Tensor,
    style: Tensor,
    mask: Tensor,
    features,
    *,
    style_mask: Tensor | None = None,
    feather: float | None = None,
    prior: float = 0.01,
    weights: dict | None = None,
    steps: int = STEPS,
    noise_steps: int = NOISE_STEPS,
) -> Edit:
    """Give a region the texture and colours of a second image: W_l of the photo, M_st in the region, Mk_n around it.

    Args:
        x: (B, 3, R, R) in [0, 1], the photo.
        style: (B or 1, 3, H, W) in [0, 1].
        mask: (B or 1, 1, R, R) in [0, 1], the region.
        style_mask: (B or 1, 1, H, W), from where the style is taken; None is the whole image.
        prior: weight of the squared distance from the photo's code (``whitening``): what the style makes of the region
            is to be a coat.
        weights: of "first" (pixels outside), "perceptual" (outside), "content" (perceptual, inside) and "style".
    """
    mask = as_mask(mask, generator.resolution)
    weights = STYLE_WEIGHTS | (weights or {})
    terms = [
        Term("content", "perceptual", x, mask),
        Term("style", "style", style, mask, target_mask=style_mask),
    ]
    metric = whitening(generator) if prior else None
    blocks = _photo_then(generator, x, mask, terms, features, feather, weights, (steps, noise_steps), prior, metric)
    return Edit("local-style", blocks, mask, resize(style, generator.resolution), x, weights)


def transfer(
    generator: Generator,
    x: Tensor,
    y: Tensor,
    mask: Tensor,
    features,
    *,
    layer: str = "b16.conv0",
    amount: float = 1.0,
    feather: float | None = None,
    prior: float = 0.005,
    weights: dict | None = None,
    steps: int = STEPS,
    noise_steps: int = NOISE_STEPS,
) -> Edit:
    """Carry an attribute of x, e.g. its eyes, into y: W_l of both, activations copied in the region (I_att), Mk_n of y.

    The copy is made between the two codes, before any noise is fitted: maps that were fitted to one network's
    activations are salt and pepper on another's. The noise brings y back around the region.

    Args:
        x, y: (B, 3, R, R) in [0, 1].
        mask: (B or 1, 1, R, R) in [0, 1], the region; its edge is blurred by half of ``feather`` pixels.
        layer, amount: see ``copy_activations``.
        prior: weight of the codes' squared distance from the mean (``whitening``): parts of likely faces fit together.
    """
    _check_copy(generator, layer, amount)  # now, not after the search
    mask, feather = as_mask(mask, generator.resolution), feather_of(generator, feather)
    soft, (_, outside), both = masks.feather(mask, feather / 2), transition(mask, feather), torch.cat([x, y])
    weights = RECONSTRUCTION_WEIGHTS | (weights or {})
    metric = whitening(generator) if prior else None
    objective = Objective(_photo_terms(both, torch.ones_like(mask)), features, prior, metric, weights)

    def copied(latents: Latents) -> Tensor:
        return copy_activations(generator, latents[: len(x)], latents[len(x) :], soft, layer, amount)

    def noise(last: Result, steps: int) -> NoiseSearch:
        return fit_noise(generator, y, copied(last.latents), outside, last.latents[len(x) :], steps)

    def finish(result: Result) -> Tensor:
        return copied(result.latents) if len(result.latents) == len(both) else result.images

    blocks = [(steps, lambda last, n: embed(generator, objective, len(both), steps=n)), (noise_steps, noise)]
    return Edit("transfer", blocks, mask, x, y, weights, finish)


# --- other ways, to compare ------------------------------------------------------------------------------------------


def hard_paste(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """x where the mask is at least 0.5, y elsewhere: (B, 3, H, W)."""
    return torch.where(as_mask(mask, tuple(x.shape[-2:])).to(x) >= 0.5, x, y)


def poisson_blend(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Seamless cloning (Pérez et al., SIGGRAPH 2003): inside, the gradients of x with the border colours of y.

    Inside the mask (at least 0.5) the result solves Poisson's equation; it meets y at the region's edge, and at the
    image's border nothing is prescribed. A region without any edge has no colours to meet: it stays x.

    x, y: (B, 3, H, W) in [0, 1]. mask: (B or 1, 1, H, W). Returns (B, 3, H, W), clamped to [0, 1].
    """
    inside = (as_mask(mask, tuple(x.shape[-2:])) >= 0.5).expand(len(x), -1, -1, -1)[:, 0]
    return torch.stack([_solve_poisson(*sample) for sample in zip(x, y, inside, strict=True)])


def _solve_poisson(x: Tensor, y: Tensor, inside: Tensor) -> Tensor:
    count = int(inside.sum())
    if count in (0, inside.numel()):
        return x if count else y
    number = torch.full(inside.shape, -1)
    number[inside] = torch.arange(count)
    rows, columns, diagonal = [], [], torch.zeros(count, dtype=torch.float64)
    right = torch.zeros(count, len(x), dtype=torch.float64)
    pixels = [x.detach().cpu().double().movedim(0, -1), y.detach().cpu().double().movedim(0, -1)]
    for dim, step in ((0, 1), (0, -1), (1, 1), (1, -1)):  # every pixel inside and its neighbour on one side
        here, there = _neighbours(dim, step)
        mine = number[here][inside[here]]
        theirs = number[there][inside[here]]
        source, target = ([p[here][inside[here]], p[there][inside[here]]] for p in pixels)
        diagonal.index_add_(0, mine, torch.ones(len(mine), dtype=torch.float64))
        right.index_add_(0, mine, source[0] - source[1])
        known = theirs < 0
        right.index_add_(0, mine[known], target[1][known])
        rows.append(mine[~known])
        columns.append(theirs[~known])
    rows, columns = torch.cat(rows).numpy(), torch.cat(columns).numpy()
    laplacian = sparse.diags(diagonal.numpy()) - sparse.coo_matrix(([1.0] * len(rows), (rows, columns)), (count, count))
    out = pixels[1].clone()
    out[inside.cpu()] = torch.from_numpy(spsolve(laplacian.tocsc(), right.numpy()))
    return out.movedim(-1, 0).clamp(0, 1).to(x)


def _neighbours(dim: int, step: int):
    """Slices of all pixels that have a neighbour on one side, and of these neighbours."""
    first, second = slice(None, -1), slice(1, None)
    here, there = (first, second) if step > 0 else (second, first)
    rest = slice(None)
    return ((here, rest), (there, rest)) if dim == 0 else ((rest, here), (rest, there))


# --- measures --------------------------------------------------------------------------------------------------------


def seam(images: Tensor, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """How visible the edge is: mean gradient magnitude across it over that of the same pixels in x and y, (B,).

    Every pair of neighbours of which one is inside the mask (at least 0.5) and one outside counts; the gradient is the
    length of their difference in RGB. 1 is as smooth as the sources, above it there is a seam; NaN without an edge.

    images, x, y: (B, 3, H, W) in [0, 1]. mask: (B or 1, 1, H, W).
    """
    hard = as_mask(mask, tuple(x.shape[-2:])).to(x) >= 0.5
    ours, first, second = (_crossing_gradients(values, hard) for values in (images, x, y))
    return ours / ((first + second) / 2)


def _crossing_gradients(images: Tensor, hard: Tensor) -> Tensor:
    total, count = 0.0, 0.0
    for dim in (-2, -1):
        size = images.shape[dim] - 1
        crossing = (hard.narrow(dim, 1, size) != hard.narrow(dim, 0, size)).expand(len(images), -1, -1, -1)
        difference = (images.narrow(dim, 1, size) - images.narrow(dim, 0, size)).norm(dim=1, keepdim=True)
        total = total + (difference * crossing).sum((1, 2, 3))
        count = count + crossing.sum((1, 2, 3))
    return total / count


def worst_seam(images: Tensor, x: Tensor, y: Tensor, mask: Tensor, reach: int = 8) -> Tensor:
    """The largest ``seam`` along the edge and its parallels up to ``reach`` pixels away: a seam moved is found too."""
    edges = [grow((mask >= 0.5).float(), float(offset)) for offset in range(-reach, reach + 1)]
    values = [seam(images, x, y, edge) for edge in edges]
    return torch.stack(values).nan_to_num(0.0).amax(0)


def region_psnr(images: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """PSNR (B,) in dB over the pixels of a mask (at least 0.5), after 8-bit rounding; inf where they are equal."""
    hard = (mask >= 0.5).to(images)
    return -10 * torch.log10(lp_loss(quantize(images), quantize(targets), 2, hard))


@torch.no_grad()
def measure(images: Tensor, x: Tensor, y: Tensor, mask: Tensor, features=None) -> dict[str, Tensor]:
    """Figures of a blend of x inside the mask (at least 0.5) and y outside, each (B,).

    "seam" on the edge and "worst_seam" near it; "psnr" of every pixel to the photo whose side it is on, and "psnr_x",
    "psnr_y" of one side; with features "feature_distance_x" and "..._y": of the result on that side, continued by the
    photo beyond the edge, to the photo.

    images, x, y: (B, 3, H, W) in [0, 1]. mask: (B or 1, 1, H, W).
    """
    hard = (mask >= 0.5).to(x)
    sides = {"x": (x, hard), "y": (y, 1 - hard)}
    values = {"seam": seam(images, x, y, mask), "worst_seam": worst_seam(images, x, y, mask)}
    values["psnr"] = psnr(images, torch.lerp(y, x, hard))
    values |= {f"psnr_{name}": region_psnr(images, *side) for name, side in sides.items()}
    if features is not None:
        for name, (source, where) in sides.items():
            continued = torch.lerp(source, images, where)
            values[f"feature_distance_{name}"] = feature_distance(features, continued, source)
    return values
