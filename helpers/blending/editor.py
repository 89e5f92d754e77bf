"""The editor: the applications of Image2StyleGAN++, each a chain of the paper's blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from helpers import masks
from helpers.blending.blocks import NOISE_STEPS, STEPS, check_copy, copy_activations, embed, fit_noise
from helpers.blending.criterion import MaskedCriterion, Term, photo_terms, whitening
from helpers.blending.pastes import hard_paste, join, poisson_blend, transition
from helpers.encoder import load_encoder
from helpers.generators import Generator
from helpers.images import resize, shown
from helpers.inversion import LatentSearch, encoder_start
from helpers.latents import Latents
from helpers.losses import delta_loss
from helpers.masks import as_mask, grow, invert
from helpers.noise import NoiseSearch
from helpers.search import Chain, Phase, Result, option

FEATHER = 4.0  # pixels at 64 x 64 and in proportion elsewhere
FIDELITY = 24.2  # dB; much less, and the photos look tinted
STROKE = 0.06  # above what saving a photo as JPEG changes
WEIGHTS = {  # of the terms of each edit
    "crossover": {"first": 1.0, "second": 1.0, "perceptual": 0.1, "style": 0.0, "prior": 0.1},
    "reconstruct": {"first": 1.0, "perceptual": 0.02},
    "inpaint": {"first": 1.0, "perceptual": 0.02, "mirror": 0.02, "prior": 0.1},
    "scribble": {"first": 1.0, "stroke": 1.0, "perceptual": 0.02, "prior": 0.01},
    "local-style": {"first": 1.0, "perceptual": 0.02, "content": 0.1, "style": 0.2, "prior": 0.1},
    "transfer": {"first": 1.0, "perceptual": 0.02, "prior": 0.03},
}


@dataclass(frozen=True)
class EditOptions:
    """What all edits of an editor share."""

    feather: float | None = option(None, "Deviation of the mask's edge in pixels; 4 at 64 x 64.", min=0)
    steps: int = option(STEPS, "Steps of each search of w+.", min=1)
    noise_steps: int = option(NOISE_STEPS, "Steps of the noise maps; 0 leaves them out.", min=0)
    fidelity: float = option(FIDELITY, "dB (PSNR) of its photo that each side of a blend keeps.", min=0)


@dataclass(frozen=True)
class Block(Phase):
    """A phase that is a search of its own: ``build`` makes it of the result so far (None at first) and its steps."""

    build: Callable[[Result | None, int], LatentSearch] | None = None


@dataclass
class Edit(Chain):
    """A chain of blocks, each built on the result of the previous one; iterate, stop, ask for ``result()``.

    inside, outside: what a paste takes from under the mask and from elsewhere. blocks: their shares are steps, those
    without are left out. finish: from the last result to the final images, where they are not those of the latents.
    """

    name: str
    mask: Tensor
    inside: Tensor
    outside: Tensor
    weights: dict
    blocks: list[Block]
    finish: Callable[[Result], Tensor] | None = None

    def __post_init__(self):
        self.inside = self.inside.expand_as(self.outside)
        self.phases = [block for block in self.blocks if block.share]
        self.steps = sum(block.share for block in self.phases)

    def _begin(self, phase: Block, steps: int) -> LatentSearch:
        return phase.build(self.runs[-1].result() if self.runs else None, steps)

    @property
    def frozen(self) -> Tensor:
        """(B,) bool: all of them, if a sample is frozen in any block; blocks may differ in their batch."""
        return torch.stack([run.frozen.any() for run in self.runs]).any().expand(len(self.outside))

    def result(self) -> Result:
        """What this block found, with the time and steps of all and its own ``history``. ValueError before a step."""
        if not self.number:
            raise ValueError("the edit has not taken a step yet; iterate over it first.")
        result = self.runs[-1].result()
        images = result.images if self.finish is None else self.finish(result)
        return replace(result, images=images, seconds=self.seconds, steps=self.number, frozen=self.frozen)

    def ways(self, images: Tensor) -> dict[str, Tensor]:
        """The same edit without a generator, and the images (B, 3, R, R) it found: name to (B, 3, R, R)."""
        sides = self.inside, self.outside, self.mask
        return {"hard paste": hard_paste(*sides), "Poisson": poisson_blend(*sides), "ours": images}


class Editor:
    """Local edits with one generator; every method returns an ``Edit`` to iterate over, or to ``run()``.

    Photos x, y are (B, 3, R, R) in [0, 1], masks (B or 1, 1, R, R) in [0, 1]. Keyword arguments of a method replace the
    editor's options (EditOptions) for this edit; ``weights`` replace those of ``WEIGHTS`` by name, each a number or
    (B,), and ``edit.weights`` may be changed while the edit runs.
    """

    def __init__(self, generator: Generator, features, options: EditOptions | None = None, **changes):
        self.generator, self.features = generator, features
        self.options = replace(options or EditOptions(), **changes)

    @cached_property
    def likelihood(self) -> Callable[[Tensor], Tensor]:
        """The Gaussian prior on w of Wulff and Torralba (2020): Mahalanobis distance², about 1 for a typical w."""
        white = whitening(self.generator)
        return lambda offset: (offset @ white).square().flatten(1).mean(1)

    def _settings(self, edit: str, mask: Tensor, weights: dict | None = None, **options):
        """Options, mask, feather in pixels and weights of an edit."""
        options, mask = replace(self.options, **options), as_mask(mask, self.generator.resolution)
        mask = mask.to(self.generator.device)
        return options, mask, feather_of(self.generator, options.feather), WEIGHTS[edit] | (weights or {})

    def _guess(self, x: Tensor, known: Tensor | None = None) -> Latents | None:
        """The encoder's latents of what is known of the photos; None where the generator has no encoder."""
        if not encoder_start(self.generator):
            return None
        return load_encoder(self.generator).encode(self.generator, x, known, "w+")

    def _w_plus(
        self, criterion: MaskedCriterion, batch: int, steps: int, rows: Sequence[int] | None = None, start=None
    ) -> Block:
        """W_l, or M_st with a style term, from the latents of the block before it, the first one from ``start``."""
        search = partial(embed, self.generator, criterion, batch, rows=rows)
        return Block(share=steps, build=lambda last, n: search(start=last.latents if last else start, steps=n))

    def _noise(self, x: Tensor, mask: Tensor, steps: int) -> Block:
        """Mk_n: x under the mask, and elsewhere what the block before it found."""
        search = partial(fit_noise, self.generator, x)
        return Block(share=steps, build=lambda last, n: search(last.images, mask, last.latents, n))

    def reconstruct(self, x: Tensor, **options) -> Edit:
        """Improved reconstruction: W_l, then Mk_n, both with a mask of ones."""
        options, full, _, weights = self._settings("reconstruct", torch.ones_like(x[:1, :1]), **options)
        criterion = MaskedCriterion(photo_terms(x, full), self.features, weights)
        blocks = [self._w_plus(criterion, len(x), options.steps), self._noise(x, full, options.noise_steps)]
        return Edit("reconstruct", full, x, x, weights, blocks)

    def crossover(self, x: Tensor, y: Tensor, mask: Tensor, **options) -> Edit:
        """Two-image blend: x inside the mask and y outside, in one face.

        W_l with terms for both images, from the encoder's guess of a feathered paste, near which a prior keeps it; then
        Mk_n, which draws the guess at the mask's edge and the photos farther away (``join``); without an encoder, what
        W_l found. "style" is y's texture for what shows x.
        """
        options, mask, feather, weights = self._settings("crossover", mask, **options)
        soft, (inside, outside) = masks.feather(mask, feather), transition(mask, 2 * feather)
        start = self._guess(torch.lerp(y, x, soft), (inside + outside).expand(len(x), -1, -1, -1))
        style = Term("style", "style", y, soft, target_mask=invert(soft))
        terms = [*photo_terms(x, soft), *photo_terms(y, invert(soft), "second"), style]
        criterion = MaskedCriterion(terms, self.features, weights, None if start is None else self.likelihood)

        def noise(last: Result, steps: int) -> NoiseSearch:
            face = last.images if start is None else shown(self.generator.synthesize(start))
            image = join(face, x, y, mask, feather, options.fidelity)
            return fit_noise(self.generator, image, image, mask, last.latents, steps)

        w_plus = self._w_plus(criterion, len(x), options.steps, start=start)
        return Edit("crossover", mask, x, y, weights, [w_plus, Block(share=options.noise_steps, build=noise)])

    def inpaint(self, x: Tensor, hole: Tensor, **options) -> Edit:
        """Fill a hole, where the mask is 1, with what the generator finds likely: W_l on what is known, then Mk_n.

        W_l starts at the encoder's guess of what is known, and a prior keeps it near; without an encoder it starts at
        the mean, and few rows are free (``inpainting_rows``). "mirror" asks for the features of the known half of an
        aligned face in the hole of the other half. What is inside the hole is never looked at. Mk_n draws the photo
        and, in the hole, the gradients of the fill with the border colours of the photo, so there is no feather.
        Raises ValueError for a hole that is empty or covers all.
        """
        options, hole, _, weights = self._settings("inpaint", hole, **options)
        if not (0 < hole.mean() < 1):
            raise ValueError("the hole must cover a part of the image, but it is empty or covers all of it.")
        anywhere = hole.gt(0).float()
        # the network looks across the edge: there it sees a smooth fill, not the content of the hole
        seen, known = poisson_blend(torch.zeros_like(x), x, anywhere), invert(anywhere)
        terms, start = photo_terms(seen, known), self._guess(seen, known)
        if self.generator.landmarks:
            terms.append(Term("mirror", "perceptual", seen.flip(3), anywhere * known.flip(3)))
        criterion = MaskedCriterion(terms, self.features, weights, self.likelihood)

        def noise(last: Result, steps: int) -> NoiseSearch:
            filled = poisson_blend(last.images, seen, anywhere)
            return fit_noise(self.generator, filled, filled, hole, last.latents, steps)

        rows = inpainting_rows(self.generator.num_ws) if start is None else None
        w_plus = self._w_plus(criterion, len(x), options.steps, rows, start)
        blocks = [w_plus, Block(share=options.noise_steps, build=noise)]
        return Edit("inpaint", hole, torch.full_like(x, 0.5), x, weights, blocks)

    def scribble(self, x: Tensor, drawn: Tensor, mask: Tensor | None = None, **options) -> Edit:
        """Turn strokes painted on a photo, ``drawn``, into a likely change of the face.

        W_l of the photo gives w0; a second W_l follows the strokes with the first half of the rows alone, held near w0
        by the prior |w - w0|^2; Mk_n restores the photo around them. mask: the strokes, by default ``stroke_mask``;
        they may change the photo up to ``feather`` pixels around them, and weakly within twice that more.
        """
        mask = stroke_mask(x, drawn) if mask is None else mask
        options, mask, feather, weights = self._settings("scribble", mask, **options)
        _, outside = transition(grow(mask, feather), 2 * feather)
        plain = MaskedCriterion(photo_terms(x, torch.ones_like(outside)), self.features, weights)
        terms = [*photo_terms(x, outside), Term("stroke", "pixel", drawn, mask)]
        changed, rows = MaskedCriterion(terms, self.features, weights, delta_loss), range(self.generator.num_ws // 2)
        w_plus = self._w_plus(plain, len(x), options.steps), self._w_plus(changed, len(x), options.steps, rows)
        return Edit("scribble", mask, drawn, x, weights, [*w_plus, self._noise(x, outside, options.noise_steps)])

    def local_style(self, x: Tensor, style: Tensor, mask: Tensor, **options) -> Edit:
        """Give a region the texture and colours of an image (B or 1, 3, H, W): M_st, then Mk_n, both by one criterion.

        M_st starts at the encoder's guess of the photo with the last two thirds of the rows of that of the style, for
        another cat its coat, which "content" and "prior" hold. With weak content the maps draw what w+ cannot: bricks.
        """
        options, mask, feather, weights = self._settings("local-style", mask, **options)
        (_, outside), start, seen = transition(mask, 2 * feather), self._guess(x), x
        small, coat = resize(style, self.generator.resolution), self.generator.num_ws // 3  # the first row that colours
        if start is not None:
            start.code[:, coat:] = self._guess(small).code[:, coat:]
            seen = shown(self.generator.synthesize(start))
        inside = Term("content", "perceptual", seen, mask), Term("style", "style", style, mask)
        criterion = MaskedCriterion([*inside, *photo_terms(x, outside)], self.features, weights, self.likelihood)
        w_plus, fit = self._w_plus(criterion, len(x), options.steps, start=start), partial(NoiseSearch, self.generator)
        noise = Block(share=options.noise_steps, build=lambda last, n: fit(criterion, last.latents, steps=n))
        return Edit("local-style", mask, small, x, weights, [w_plus, noise])

    def transfer(self, x: Tensor, y: Tensor, mask: Tensor, layer="b16.conv0", amount: float = 1.0, **options) -> Edit:
        """Carry an attribute of x, e.g. its eyes, into y: W_l of both, activations copied in the region (I_att), Mk_n.

        W_l starts at the encoder's guess, and the region with its surroundings counts tenfold: else the eyes are dull.
        The copy comes first: noise maps fitted to one image's activations are salt and pepper on another's. Raises
        ValueError for a layer or an amount that ``check_copy`` refuses.
        """
        check_copy(self.generator, layer, amount)  # now, not after the search
        options, mask, feather, weights = self._settings("transfer", mask, **options)
        soft, (_, outside), both = masks.feather(mask, feather / 2), transition(mask, feather), torch.cat([x, y])
        near = 0.1 + 0.9 * masks.feather(grow(mask, feather), feather / 2)
        criterion = MaskedCriterion(photo_terms(both, near), self.features, weights, self.likelihood)

        def copied(latents: Latents) -> Tensor:
            return copy_activations(self.generator, latents[: len(x)], latents[len(x) :], soft, layer, amount)

        def noise(last: Result, steps: int) -> NoiseSearch:
            return fit_noise(self.generator, y, copied(last.latents), outside, last.latents[len(x) :], steps)

        def finish(result: Result) -> Tensor:
            return copied(result.latents) if len(result.latents) == len(both) else result.images

        w_plus = self._w_plus(criterion, len(both), options.steps, start=self._guess(both))
        blocks = [w_plus, Block(share=options.noise_steps, build=noise)]
        return Edit("transfer", mask, x, y, weights, blocks, finish)


def feather_of(generator: Generator, feather: float | None = None) -> float:
    """The feather in pixels; None is the default, in proportion to the generator's images."""
    return FEATHER * generator.resolution / 64 if feather is None else feather


def inpainting_rows(num_ws: int) -> list[int]:
    """Free rows of w+ for filling: the first half and the last two (the paper's 1-9 and 17-18 of 18)."""
    return sorted({*range(num_ws // 2), num_ws - 2, num_ws - 1})


def stroke_mask(x: Tensor, drawn: Tensor) -> Tensor:
    """Where a photo was painted on: (B, 1, R, R), 1 where a channel differs by > ``STROKE``; else ValueError."""
    mask = ((drawn - x).abs().amax(1, keepdim=True) > STROKE).to(x)
    if not mask.any():
        raise ValueError("the drawn photo equals the photo, so there is no stroke: paint on a copy of the same file.")
    return mask
