"""Inversion on tiny random generators."""

import math
from dataclasses import replace

import pytest
import torch

from helpers import inversion as module
from helpers.encoder import Encoder
from helpers.inversion import PHASES, Inversion, fast_options, project
from helpers.latents import Latents
from tests.support import tiny

GENERATOR = tiny.stylegan2()
GENERATORS = {"stylegan2": GENERATOR, "dcgan": tiny.dcgan()}
CASES = [("stylegan2", "z"), ("stylegan2", "w"), ("stylegan2", "w+"), ("dcgan", "z")]
WEIGHTS = {"l2": 1.0, "perceptual": 0.5, "delta": 1e-4}


def targets(generator=GENERATOR, n=2, seed=50):
    """Images of the generator's own, cut to [0, 1]."""
    return generator.synthesize(generator.sample(generator.spaces[-1], n, seed)).clamp(0, 1)


def options(**changes):
    """Few steps by a smooth loss with all its parts."""
    features = tiny.Features()
    return {"features": features, "layers": features.layers, "weights": WEIGHTS, "steps": 8, "candidates": 8} | changes


def assert_same_result(ours, theirs, tolerance=1e-4):
    assert ours.latents.space == theirs.latents.space
    for a, b in ((ours.images, theirs.images), (ours.total, theirs.total), (ours.latents.code, theirs.latents.code)):
        assert (a - b).abs().max() <= tolerance


def assert_like_alone(together, alone, tolerance=1e-4):
    """A batch gives what its samples give alone, ``alone(i)``."""
    for i in range(len(together.images)):
        other, one = alone(i), slice(i, i + 1)
        assert torch.allclose(together.history["total"][:, one], other.history["total"], atol=tolerance)
        ours = replace(together, images=together.images[one], total=together.total[one], latents=together.latents[i])
        assert_same_result(ours, other, tolerance)


@pytest.mark.parametrize(
    ("family", "space", "optimizer"), [*((*case, "adam") for case in CASES), ("stylegan2", "w+", "lbfgs")]
)
def test_a_batch_of_targets_gives_what_they_give_alone(family, space, optimizer):
    generator, setup = GENERATORS[family], options(optimizer=optimizer)
    photos = targets(generator)
    together = project(generator, photos, space, **setup)
    assert together.images.shape == photos.shape
    assert together.latents.code.shape == (2, *generator.code_shape(space))
    assert torch.equal(together.images, generator.synthesize(together.latents).clamp(0, 1))
    assert not together.latents.code.requires_grad and not together.images.requires_grad
    assert (together.total <= together.history["total"].amin(0) + 1e-6).all()
    assert_like_alone(together, lambda i: project(generator, photos[i : i + 1], space, **setup))


@pytest.mark.parametrize("start", ["mean", "best"])
def test_a_table_of_weights_or_masks_gives_what_its_rows_give(start):
    photo, mask = targets(n=1), (torch.arange(16) < 8).float().expand(1, 1, 16, 16)
    table = {"l1": [1.0, 0.0, 1.0], "l2": [0.0, 1.0, 0.5], "perceptual": [0.0, 1.0, 1.0], "delta": [0.0, 0.0, 0.1]}
    weights = {name: torch.tensor(row) for name, row in table.items()}
    rows = [{name: row[i] for name, row in table.items()} for i in range(3)]
    together = project(GENERATOR, photo, "w", **options(weights=weights, start=start))
    # the gradient of L1 jumps where a pixel passes its target, so that rounding is seen sooner
    assert_like_alone(together, lambda i: project(GENERATOR, photo, "w", **options(weights=rows[i], start=start)), 1e-3)
    masks = torch.cat([mask, 1 - mask])
    together = project(GENERATOR, photo, "w", **options(mask=masks, start=start))
    assert_like_alone(together, lambda i: project(GENERATOR, photo, "w", **options(mask=masks[i : i + 1], start=start)))


def test_the_result_reports_its_losses_whose_weights_may_change_under_way():
    photos = targets()
    result = project(GENERATOR, photos, "w", **options(steps=5))
    delta = result.latents.code - GENERATOR.mean("w")
    assert result.parts.keys() == {"l2", "perceptual", "delta"}
    assert torch.allclose(result.parts["delta"], delta.square().sum(1), rtol=1e-4)
    images = GENERATOR.synthesize(result.latents)
    assert torch.allclose(result.parts["l2"], (images - photos).square().mean((1, 2, 3)), rtol=1e-4)
    assert torch.allclose(result.total, sum(WEIGHTS[name] * value for name, value in result.parts.items()), rtol=1e-5)
    assert result.steps == 5 and result.seconds > 0
    assert result.history.keys() == {"total", "l2", "perceptual", "delta"}
    assert {tuple(values.shape) for values in result.history.values()} == {(5, 2)}
    inversion = Inversion(GENERATOR, targets(), "w", **options(weights={"l2": 1.0, "delta": 0.0}, steps=60))
    mean, lengths = GENERATOR.mean("w"), []
    for step in inversion:
        lengths.append((step.latents.code - mean).norm().item())
        if step.number == 20:
            inversion.criterion.weights.update(l2=1e-6, delta=1.0)
            inversion.forget_best()
    assert lengths[-1] < 0.3 * lengths[19]  # pulled back to the start
    assert (inversion.result().latents.code - mean).norm() < 0.3 * lengths[19]


def test_pixels_beyond_white_still_pull_and_richer_spaces_come_closer():
    generator = tiny.stylegan2()
    generator.synthesis.b16.torgb.bias += 3  # every pixel starts above 1: clamped, it would have no gradient
    photo = torch.full((1, 3, 16, 16), 0.9)
    result = project(generator, photo, "w+", weights={"l2": 1.0}, steps=30)
    start = generator.synthesize(generator.mean("w"))
    assert start.min() > 1
    assert torch.allclose(result.history["l2"][0], (start - photo).square().mean((1, 2, 3)), rtol=1e-5)
    assert result.total < 0.9 * result.history["total"][0]
    photo, setup = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), {"weights": {"l2": 1.0}}
    z, w, w_plus = (project(GENERATOR, photo, space, steps=40, **setup).total for space in ("z", "w", "w+"))
    assert w_plus < w < 1.05 * z


def test_steps_are_counted_through_the_phases_and_the_second_starts_from_the_best_of_the_first():
    inversion = Inversion(GENERATOR, targets(), "w+", **options(steps=10, weights={"l2": 1.0}))
    steps = list(inversion)
    assert len(inversion) == 10 and [step.number for step in steps] == list(range(1, 11))
    assert [step.latents.space for step in steps] == ["w"] * 3 + ["w+"] * 7
    for step in steps:
        assert torch.equal(step.images(), GENERATOR.synthesize(step.latents).clamp(0, 1))
    first = GENERATOR.synthesize(GENERATOR.mean("w"))
    loss = inversion.criterion(first.expand(2, -1, -1, -1), torch.zeros(2, 16))
    assert torch.allclose(steps[0].total, loss.total, rtol=1e-5)  # of the start, before the update
    assert not torch.equal(steps[0].latents.code, GENERATOR.mean("w").expand(2, -1))
    first = inversion.runs[0]
    best = torch.minimum(torch.stack([step.total for step in steps[:3]]).amin(0), first.best_total)
    assert torch.equal(first.best_total, best) and torch.allclose(steps[3].total, best, rtol=1e-5)
    assert steps[-1].latents.code.std(1).amax() > 1e-3  # the rows have parted


def test_a_search_ends_where_its_loss_has_settled_and_one_that_was_left_continues():
    inversion = Inversion(GENERATOR, targets(), "w+", **options(steps=40, weights={"l2": 1.0}, until=1.0))
    steps = list(inversion)  # 20 are watched in the last phase, after the 12 of the first
    assert len(steps) == 12 + 21 and list(inversion) == []
    run, now = inversion.runs[-1], inversion.runs[-1].best_total
    share = (1 - now / torch.stack(run.history["total"][:-20]).amin(0)).max().item()  # of the slower sample
    assert run.settled(share + 1e-3) and not run.settled(share - 1e-3)
    whole = project(GENERATOR, targets(), "w+", **options())
    inversion = Inversion(GENERATOR, targets(), "w+", **options())
    with pytest.raises(ValueError, match="has not taken a step yet"):
        inversion.result()
    next(iter(inversion))
    early = inversion.result()
    assert early.steps == len(early.history["total"]) == 1 and early.latents.space == "w+"
    assert torch.equal(early.images, GENERATOR.synthesize(early.latents).clamp(0, 1))
    assert [step.number for step in inversion] == list(range(2, 9))
    assert_same_result(inversion.result(), whole, tolerance=0)


@pytest.mark.parametrize(("family", "space"), CASES)
def test_starts(family, space):
    generator = GENERATORS[family]
    photos, first = targets(generator, 2), PHASES[space][0].space
    if first == "z":
        with pytest.raises(ValueError, match="z = 0 has no direction"):
            Inversion(generator, photos, space, **options(start="mean"))
    else:
        mean = Inversion(generator, photos, space, **options(start="mean"))
        assert torch.equal(mean.latents.code, generator.mean(first).expand_as(mean.latents.code))
    unsaid = Inversion(generator, photos, space, **options())
    said = Inversion(generator, photos, space, **options(start="best" if first == "z" else "mean"))
    assert torch.equal(unsaid.latents.code, said.latents.code)
    sample = Inversion(generator, photos, space, **options(start="sample", seed=4))
    assert torch.equal(sample.latents.code, generator.sample(first, 1, seed=4).expand_as(sample.latents.code))
    assert len(unsaid.latents) == len(sample.latents) == 2


@pytest.mark.parametrize("space", ["z", "w"])
def test_the_best_start_is_the_sample_of_the_smallest_loss(space):
    codes = GENERATOR.sample(space, 40, seed=9)
    photos = GENERATOR.synthesize(Latents(space, codes[[33, 7]])).clamp(0, 1)
    photos = (photos + 0.05 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    inversion = Inversion(GENERATOR, photos, space, **options(start="best", candidates=40, seed=9))
    assert torch.equal(inversion.latents.code, codes[[33, 7]])
    images = GENERATOR.synthesize(Latents(space, codes))
    for i in range(2):
        totals = inversion.criterion(images, index=slice(i, i + 1)).total
        assert torch.equal(codes[totals.argmin()], inversion.latents.code[i])


@pytest.mark.parametrize("start", ["sample", "best"])
def test_of_several_starts_the_best_run_of_each_target_is_returned(start):
    photos, factors = targets(), [1.0, 2.0]
    several = {"weights": WEIGHTS | {"l2": torch.tensor(factors)}, "start": start, "restarts": 3, "seed": 2}
    inversion = Inversion(GENERATOR, photos, "w", **options(**several))
    result = inversion.run()
    assert len(inversion.latents) == 6 and result.images.shape == photos.shape
    assert torch.equal(result.images, GENERATOR.synthesize(result.latents).clamp(0, 1))

    def best(i):
        alone, codes = options(weights=WEIGHTS | {"l2": factors[i]}), inversion.latents.code[3 * i : 3 * i + 3]
        runs = [project(GENERATOR, photos[i : i + 1], "w", **alone, start=Latents("w", c[None])) for c in codes]
        assert len({round(run.total.item(), 5) for run in runs}) == 3  # the starts differ
        return min(runs, key=lambda run: run.total.item())

    assert_like_alone(result, best)


def test_found_latents_are_a_start_and_its_noise_is_kept():
    photos = targets()
    found = project(GENERATOR, photos, "w", **options())
    again = Inversion(GENERATOR, photos, "w+", **options(start=found.latents, steps=5))
    steps = list(again)
    assert {step.latents.space for step in steps} == {"w+"} and len(steps) == 5
    image_loss = found.total - 1e-4 * found.parts["delta"]  # the offset counts from the new start
    assert torch.allclose(steps[0].total, image_loss, rtol=1e-4)
    one = Inversion(GENERATOR, photos, "w", **options(start=found.latents[0]))
    assert torch.equal(one.latents.code, found.latents.code[:1].expand(2, -1))
    assert one.latents.code.data_ptr() != found.latents.code.data_ptr()
    noise = GENERATOR.fresh_noise(2, seed=8)
    photos = GENERATOR.synthesize(GENERATOR.sample("w", 2, seed=50), noise=noise).clamp(0, 1)
    start = Latents("w", GENERATOR.mean("w").expand(2, -1), noise)
    result = project(GENERATOR, photos, "w+", **options(start=start, steps=2))
    assert all(torch.equal(a, b) for a, b in zip(result.latents.noise, noise, strict=True))
    assert torch.equal(result.images, GENERATOR.synthesize(result.latents.code, noise=noise).clamp(0, 1))
    first = GENERATOR.synthesize(start).sub(photos).square().mean((1, 2, 3))
    assert torch.allclose(result.history["l2"][0], first, rtol=1e-5)


def test_what_is_left_out_follows_from_the_rest_and_a_loss_of_nan_leaves_the_best_so_far(monkeypatch):
    photo, encoder = targets(n=1), Encoder("w+", GENERATOR.code_shape("w+"), 16, (16, 16), 8)
    monkeypatch.setattr("helpers.encoder.load_encoder", lambda _: encoder)
    quasi = {"start": "encoder", "optimizer": "lbfgs"}, module.LBFGS_STEPS
    counts = ({}, module.STEPS), ({"start": "encoder"}, module.ENCODER_STEPS), quasi, ({"steps": 7}, 7)
    for given, steps in counts:
        assert len(Inversion(GENERATOR, photo, **given)) == steps
    assert project(GENERATOR, photo, steps=2).parts.keys() == {"l1"}  # without features
    generator, fast = tiny.stylegan2(), {"steps": module.FAST_STEPS}
    assert fast_options(generator, "w+") == fast
    generator.base = "stylegan2-cats-64"  # it has an encoder, which leads to w and w+
    quick = {"start": "encoder", "optimizer": "lbfgs", "steps": module.FAST_LBFGS_STEPS}
    assert fast_options(generator, "w+") == fast_options(generator, "w") == quick
    assert fast_options(generator, "z") == fast

    class Breaking(tiny.Features):
        def forward(self, images, layers):
            features = super().forward(images, layers)
            return {k: v * math.nan for k, v in features.items()} if self.calls > 2 + 5 else features  # 2 targets

    inversion = Inversion(GENERATOR, targets(), "w", **options(features=Breaking()))
    with pytest.raises(ValueError, match="NaN or infinite at step 6"):
        list(inversion)
    result = inversion.result()
    assert result.images.isfinite().all() and result.steps == 5
    assert torch.equal(result.images, GENERATOR.synthesize(result.latents).clamp(0, 1))
    assert (result.images - GENERATOR.synthesize(GENERATOR.mean("w"))).abs().max() > 1e-3


def test_only_what_the_mask_marks_is_inverted_and_no_weight_gets_a_gradient():
    photo, mask = targets(n=1), torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    other = photo.clone()
    other[..., 8:] = 1 - other[..., 8:]
    setup = {"weights": {"l2": 1.0}, "steps": 30, "mask": mask}
    result, changed = project(GENERATOR, photo, "w+", **setup), project(GENERATOR, other, "w+", **setup)
    assert_same_result(result, changed, tolerance=0)
    error = (result.images - other).square()
    assert error[..., :8].mean() < 0.2 * error[..., 8:].mean()
    generator = tiny.stylegan2().requires_grad_(True)
    result = project(generator, targets(generator, 1).detach(), "w+", **options(steps=4))
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert not result.images.requires_grad and not result.latents.code.requires_grad


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        *(
            ({"targets": photo}, ValueError, message)
            for photo, message in (
                (torch.rand(1, 3, 32, 32), "must be \\(B, 3, 16, 16\\) .*; got \\(1, 3, 32, 32\\): .* size=16"),
                (torch.rand(3, 16, 16), "targets must be \\(B, 3, 16, 16\\)"),
                (torch.rand(1, 1, 16, 16), "targets must be \\(B, 3, 16, 16\\)"),
                (torch.rand(1, 3, 16, 16) * 255, "targets must be finite and in \\[0, 1\\]"),
                (torch.rand(1, 3, 16, 16) - 0.5, "targets must be finite and in \\[0, 1\\]"),
                (torch.full((1, 3, 16, 16), math.nan), "targets must be finite and in \\[0, 1\\]"),
            )
        ),
        *(({"lr": lr}, ValueError, "must be a positive number") for lr in (0.0, -1.0, math.nan)),
        ({"optimizer": "sgd"}, ValueError, "must be one of adam, lbfgs"),
        ({"space": "s"}, ValueError, "choose one of z, w, w\\+"),
        ({"start": "middle"}, ValueError, "start must be mean, sample, best, encoder or Latents; got 'middle'"),
        ({"start": "mean", "restarts": 2}, ValueError, "differ only if they are samples"),
        ({"start": Latents("w", torch.zeros(1, 16)), "restarts": 2}, ValueError, "differ only if they are samples"),
        ({"start": Latents("w+", torch.zeros(1, 6, 16))}, ValueError, "not from w\\+ back to w"),
        ({"start": Latents("w", torch.zeros(3, 16))}, ValueError, "length or 1; got 2 targets, .* 3 start"),
        ({"weights": {"l1": torch.ones(3)}}, ValueError, "2 targets, 1 mask, 1 start, 3 weights"),
        ({"mask": torch.ones(3, 1, 16, 16)}, ValueError, "2 targets, 3 mask"),
        ({"mask": torch.ones(1, 1, 8, 8)}, ValueError, "mask must be"),
        ({"weights": {"perceptual": 1.0}}, ValueError, "needs a feature network"),
        ({"steps": 0}, ValueError, "at least 1 step and 1 start are needed; got 0 and 1"),
        ({"restarts": 0}, ValueError, "at least 1 step and 1 start"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes, error, message):
    with pytest.raises(error, match=message) as caught:
        Inversion(**{"generator": GENERATOR, "targets": targets(), "space": "w"} | changes).run()
    assert "\n" not in str(caught.value)
