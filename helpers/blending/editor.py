"""The editor: the applications of Image2StyleGAN++, each a chain of the paper's blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from helpers import masks
from helpers.blending.blocks import NOISE_STEPS, STEPS, check_copy, copy_activations, embed, fit_noise
from helpers.blending.criterion import BlendError, Likelihood, MaskedCriterion, Term, photo_terms
from helpers.blending.pastes import exchange_details, hard_paste, harmonise, poisson_blend, transition
from helpers.generators import Generator
from helpers.images import resize
from helpers.inversion import LatentSearch
from helpers.latents import Latents
from helpers.losses import delta_loss
from helpers.masks import as_mask, grow, invert
from helpers.noise import NoiseSearch
from helpers.search import Chain, Phase, Result, option

FEATHER = 4.0  # pixels at 64 x 64 and in proportion elsewhere
FIDELITY = 24.5  # dB; at 22 two coats become one, and each photo begins to look tinted
STROKE = 0.06  # above what saving a photo as JPEG changes
WEIGHTS = {  # of the terms of each edit
    "crossover": {"first": 1.0, "second": 1.0, "perceptual": 0.1, "style": 0.0},
    "reconstruct": {"first": 1.0, "perceptual": 0.02},
    "inpaint": {"first": 1.0, "perceptual": 0.02, "prior": 0.03},
    "scribble": {"first": 1.0, "stroke": 1.0, "perceptual": 0.02, "prior": 0.01},
    "local-style": {"first": 1.0, "perceptual": 0.02, "content": 0.002, "style": 0.2, "prior": 0.01},
    "transfer": {"first": 1.0, "perceptual": 0.02, "prior": 0.005},
}


@dataclass(frozen=True)
class EditOptions:
    """What all edits of an editor share.

    Attributes:
        feather: standard deviation in pixels; the transition is twice as wide on each side. None is ``FEATHER`` in
            proportion to the image.
        steps, noise_steps: of each search of w+, and of the noise maps.
        fidelity: of both sides of a crossover, see ``harmonise``; infinity leaves the photos' colours alone.
    """

    feather: float | None = option(None, "Deviation of the mask's edge in pixels; 4 at 64 x 64.", min=0)
    steps: int = option(STEPS, "Steps of each search of w+.", min=1)
    noise_steps: int = option(NOISE_STEPS, "Steps of the noise maps; 0 leaves them out.", min=0)
    fidelity: float = option(FIDELITY, "dB that each side of a blend keeps while their colours approach.", min=0)


@dataclass(frozen=True)
class Block(Phase):
    """A phase that is a search of its own: ``build`` makes it of the result so far (None at first) and its steps."""

    build: Callable[[Result | None, int], LatentSearch] | None = None


class Edit(Chain):
    """A chain of blocks, each built on the result of the previous one; iterate, stop, ask for ``result()``.

    Args:
        name: of the application.
        blocks: with their steps as shares; those without steps are left out.
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
        weights: dict,
        finish: Callable[[Result], Tensor] | None = None,
    ):
        self.name, self.mask, self.finish, self.weights = name, mask, finish, weights
        self.inside, self.outside = inside.expand_as(outside), outside
        self.phases = [block for block in blocks if block.share]
        self.steps = sum(block.share for block in self.phases)

    def _begin(self, phase: Block, steps: int) -> LatentSearch:
        return phase.build(self.runs[-1].result() if self.runs else None, steps)

    @property
    def frozen(self) -> Tensor:
        """(B,) bool: all of them, if a sample is frozen in any block; blocks may differ in their batch."""
        return torch.stack([run.frozen.any() for run in self.runs]).any().expand(len(self.outside))

    def result(self) -> Result:
        """What the current block found, with the time and the steps of all; ``history`` is that of the block."""
        if not self.number:
            raise BlendError("the edit has not taken a step yet; iterate over it first.")
        result = self.runs[-1].result()
        images = result.images if self.finish is None else self.finish(result)
        return replace(result, images=images, seconds=self.seconds, steps=self.number, frozen=self.frozen)

    def ways(self, images: Tensor) -> dict[str, Tensor]:
        """The same edit without a generator, next to the images (B, 3, R, R) it found: name to (B, 3, R, R)."""
        sides = self.inside, self.outside, self.mask
        return {"hard paste": hard_paste(*sides), "Poisson": poisson_blend(*sides), "ours": images}


class Editor:
    """Local edits with one generator; every method returns an ``Edit`` to iterate over, or to ``run()``.

    ``weights`` of a method replace those of ``WEIGHTS`` by name; each is a number or (B,), and ``edit.weights`` may be
    changed while the edit runs. Further keyword arguments of a method replace the editor's options for this edit.

    Args:
        generator: with noise maps.
        features: network of ``load_features``.
        options: see EditOptions; ``changes`` are single ones of them.
    """

    def __init__(self, generator: Generator, features, options: EditOptions | None = None, **changes):
        self.generator, self.features = generator, features
        self.options = replace(options or EditOptions(), **changes)

    @cached_property
    def likelihood(self) -> Likelihood:
        """The prior on w, measured once per editor."""
        return Likelihood(self.generator)

    def reconstruct(self, x: Tensor, weights: dict | None = None, **options) -> Edit:
        """Improved reconstruction: W_l, then Mk_n, both with a mask of ones. x: (B, 3, R, R) in [0, 1]."""
        full, weights = torch.ones_like(x[:1, :1]), WEIGHTS["reconstruct"] | (weights or {})
        options = replace(self.options, **options)
        criterion = MaskedCriterion(photo_terms(x, full), self.features, weights)
        blocks = [
            Block(share=options.steps, build=lambda last, n: embed(self.generator, criterion, len(x), steps=n)),
            Block(
                share=options.noise_steps, build=lambda last, n: fit_noise(self.generator, x, x, full, last.latents, n)
            ),
        ]
        return Edit("reconstruct", blocks, full, x, x, weights)

    def crossover(self, x: Tensor, y: Tensor, mask: Tensor, weights: dict | None = None, **options) -> Edit:
        """Two-image blend: x inside the mask and y outside, in one face.

        W_l with pixel and perceptual terms for both images, under the blurred mask and its inverse; then Mk_n, which
        restores both photos on their sides, to the last hair, while the colours of the transition between them are
        those that the generator found. Towards the edge the colours of both coats approach each other (``harmonise``).

        Args:
            x, y: (B, 3, R, R) in [0, 1].
            mask: (B or 1, 1, R, R) in [0, 1].
            weights: of "first" (pixels of x), "second" (pixels of y), "perceptual" (both, each on its side) and
                "style" (the texture of y for what shows x, visible where the noise leaves room for it).
        """
        generator, options = self.generator, replace(self.options, **options)
        mask, feather = as_mask(mask, generator.resolution), feather_of(generator, options.feather)
        soft, (inside, outside) = masks.feather(mask, feather), transition(mask, 2 * feather)
        weights = WEIGHTS["crossover"] | (weights or {})
        style = Term("style", "style", y, soft, target_mask=invert(soft))
        terms = [*photo_terms(x, soft), *photo_terms(y, invert(soft), "second"), style]
        criterion = MaskedCriterion(terms, self.features, weights)

        def noise(last: Result, steps: int) -> NoiseSearch:
            between = exchange_details(last.images, x, y, mask, feather / 2)
            image = torch.lerp(between, hard_paste(x, y, mask), inside + outside)
            image = harmonise(image, x, y, mask, feather, options.fidelity)
            return fit_noise(generator, image, image, mask, last.latents, steps)

        w_plus = Block(share=options.steps, build=lambda last, n: embed(generator, criterion, len(x), steps=n))
        return Edit("crossover", [w_plus, Block(share=options.noise_steps, build=noise)], mask, x, y, weights)

    def inpaint(
        self, x: Tensor, hole: Tensor, rows: Sequence[int] | None = None, weights: dict | None = None, **options
    ) -> Edit:
        """Fill a hole with what the generator finds likely: W_l on what is known, then Mk_n there.

        Few rows of w+ are free, the others stay at the mean, and a prior keeps the free ones where the w of faces are:
        without it the rows fit only the known pixels, and the hole shows whatever that produces. The noise restores
        the known part and fades out in a ring of twice ``feather`` pixels around the hole.

        Args:
            x: (B, 3, R, R) in [0, 1]; what is inside the hole is never looked at.
            hole: (B or 1, 1, R, R) in [0, 1], 1 = to be filled.
            rows: free rows; by default ``inpainting_rows``.
            weights: of "first" (pixels), "perceptual" and "prior" (``Likelihood``).

        Raises:
            BlendError: for a hole that is empty or covers the whole image.
        """
        generator, options = self.generator, replace(self.options, **options)
        hole, weights = as_mask(hole, generator.resolution), WEIGHTS["inpaint"] | (weights or {})
        if not (0 < hole.mean() < 1):
            raise BlendError("the hole must cover a part of the image, but it is empty or covers all of it.")
        _, known = transition(hole, 2 * feather_of(generator, options.feather))
        anywhere = hole.gt(0).float()
        # the network looks across the edge: there it sees a smooth fill, not the content of the hole
        seen = poisson_blend(torch.zeros_like(x), x, anywhere)
        terms = photo_terms(seen, invert(anywhere))
        criterion = MaskedCriterion(terms, self.features, weights, self.likelihood)
        rows = inpainting_rows(generator.num_ws) if rows is None else rows
        blocks = [
            Block(share=options.steps, build=lambda last, n: embed(generator, criterion, len(x), steps=n, rows=rows)),
            Block(
                share=options.noise_steps,
                build=lambda last, n: fit_noise(generator, seen, last.images, known, last.latents, n),
            ),
        ]
        return Edit("inpaint", blocks, hole, torch.full_like(x, 0.5), x, weights)

    def scribble(
        self,
        x: Tensor,
        drawn: Tensor,
        mask: Tensor | None = None,
        rows: Sequence[int] | None = None,
        weights: dict | None = None,
        **options,
    ) -> Edit:
        """Turn strokes painted on a photo into a likely change of the face.

        W_l of the photo gives w0; from there a second W_l follows the strokes with the first rows alone, held near w0
        by the prior |w - w0|^2, so the strokes are a guide and not the result; Mk_n restores the photo around them.

        Args:
            x: (B, 3, R, R) in [0, 1], the photo.
            drawn: (B, 3, R, R) in [0, 1], the photo with the strokes.
            mask: (B or 1, 1, R, R) in [0, 1], the strokes; None finds them (``stroke_mask``). They may change the photo
                up to ``feather`` pixels around them, and within twice that more and more weakly.
            rows: free rows in the second block; by default the first half.
            weights: of "first" (the photo), "stroke", "perceptual" and "prior".
        """
        generator, options = self.generator, replace(self.options, **options)
        mask = stroke_mask(x, drawn) if mask is None else as_mask(mask, generator.resolution)
        weights = WEIGHTS["scribble"] | (weights or {})
        region = grow(mask, feather_of(generator, options.feather))
        _, outside = transition(region, 2 * feather_of(generator, options.feather))
        terms = [*photo_terms(x, outside), Term("stroke", "pixel", drawn, mask)]
        changed = MaskedCriterion(terms, self.features, weights, delta_loss)
        rows = list(range(generator.num_ws // 2)) if rows is None else rows
        return Edit("scribble", self._photo_then(x, outside, changed, options, rows), mask, drawn, x, weights)

    def local_style(
        self,
        x: Tensor,
        style: Tensor,
        mask: Tensor,
        style_mask: Tensor | None = None,
        weights: dict | None = None,
        **options,
    ) -> Edit:
        """Give a region the texture and colours of a second image: W_l of the photo, M_st in the region, Mk_n around.

        Args:
            x: (B, 3, R, R) in [0, 1], the photo.
            style: (B or 1, 3, H, W) in [0, 1].
            mask: (B or 1, 1, R, R) in [0, 1], the region.
            style_mask: (B or 1, 1, H, W), where the style is taken from; None is the whole image.
            weights: of "first" (pixels outside), "perceptual" (outside), "content" (perceptual, inside), "style", and
                "prior" (``Likelihood`` of the offset from the photo's latents: whatever the style makes of the region
                should be a coat).
        """
        generator, options = self.generator, replace(self.options, **options)
        mask, weights = as_mask(mask, generator.resolution), WEIGHTS["local-style"] | (weights or {})
        _, outside = transition(mask, 2 * feather_of(generator, options.feather))
        content = Term("content", "perceptual", x, mask)
        terms = [*photo_terms(x, outside), content, Term("style", "style", style, mask, target_mask=style_mask)]
        changed = MaskedCriterion(terms, self.features, weights, self.likelihood)
        blocks = self._photo_then(x, outside, changed, options)
        return Edit("local-style", blocks, mask, resize(style, generator.resolution), x, weights)

    def _photo_then(
        self,
        x: Tensor,
        outside: Tensor,
        changed: MaskedCriterion,
        options: EditOptions,
        rows: Sequence[int] | None = None,
    ) -> list[Block]:
        """W_l of the photo; from there W_l by a changed criterion; Mk_n, which restores the photo around the region."""
        generator, terms = self.generator, photo_terms(x, torch.ones_like(outside))
        plain = MaskedCriterion(terms, self.features, changed.weights)
        return [
            Block(share=options.steps, build=lambda last, n: embed(generator, plain, len(x), steps=n)),
            Block(share=options.steps, build=lambda last, n: embed(generator, changed, len(x), last.latents, n, rows)),
            Block(
                share=options.noise_steps,
                build=lambda last, n: fit_noise(generator, x, last.images, outside, last.latents, n),
            ),
        ]

    def transfer(
        self, x: Tensor, y: Tensor, mask: Tensor, layer: str = "b16.conv0", amount: float = 1.0, **options
    ) -> Edit:
        """Carry an attribute of x, e.g. its eyes, into y: W_l of both, activations copied in the region (I_att), Mk_n.

        The copy is made between the two w+, before any noise is fitted: maps fitted to one image's activations are
        salt and pepper on another's. The noise restores y around the region.

        Args:
            x, y: (B, 3, R, R) in [0, 1].
            mask: (B or 1, 1, R, R) in [0, 1], the region; its edge is blurred by half of ``feather`` pixels.
            layer, amount: see ``copy_activations``.
        """
        generator, options = self.generator, replace(self.options, **options)
        check_copy(generator, layer, amount)  # now, not after the search
        mask, feather = as_mask(mask, generator.resolution), feather_of(generator, options.feather)
        soft, (_, outside), both = masks.feather(mask, feather / 2), transition(mask, feather), torch.cat([x, y])
        weights, terms = dict(WEIGHTS["transfer"]), photo_terms(both, torch.ones_like(mask))
        criterion = MaskedCriterion(terms, self.features, weights, self.likelihood)

        def copied(latents: Latents) -> Tensor:
            return copy_activations(generator, latents[: len(x)], latents[len(x) :], soft, layer, amount)

        def noise(last: Result, steps: int) -> NoiseSearch:
            return fit_noise(generator, y, copied(last.latents), outside, last.latents[len(x) :], steps)

        def finish(result: Result) -> Tensor:
            return copied(result.latents) if len(result.latents) == len(both) else result.images

        w_plus = Block(share=options.steps, build=lambda last, n: embed(generator, criterion, len(both), steps=n))
        return Edit("transfer", [w_plus, Block(share=options.noise_steps, build=noise)], mask, x, y, weights, finish)


def feather_of(generator: Generator, feather: float | None = None) -> float:
    """The feather in pixels; None is the default, in proportion to the generator's images."""
    return FEATHER * generator.resolution / 64 if feather is None else feather


def inpainting_rows(num_ws: int) -> list[int]:
    """Free rows of w+ for filling: the first half and the last two (the paper's 1-9 and 17-18 of 18)."""
    return sorted({*range(num_ws // 2), num_ws - 2, num_ws - 1})


def stroke_mask(x: Tensor, drawn: Tensor) -> Tensor:
    """Where a photo was painted on: (B, 1, R, R), 1 where any channel differs by more than ``STROKE``.

    x, drawn: (B, 3, R, R) in [0, 1]. Raises BlendError for two that are the same.
    """
    mask = ((drawn - x).abs().amax(1, keepdim=True) > STROKE).to(x)
    if not mask.any():
        raise BlendError("the drawn photo equals the photo, so there is no stroke: paint on a copy of the same file.")
    return mask
