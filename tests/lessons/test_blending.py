"""Local edits: masked terms, the four blocks, the applications built of them, and the ways they are compared with."""

import math

import pytest
import torch

from helpers import blending, masks
from helpers.blending import WEIGHTS, Editor, MaskedCriterion, Term
from helpers.blending.criterion import LAYERS, SMALLEST_VARIANCE, whitening
from helpers.inversion import project
from helpers.latents import Latents
from helpers.losses import perceptual_loss, style_loss
from tests.support import tiny

SIZE = 16
HALF, HOLE = masks.half(SIZE), masks.box(SIZE, (0.25, 0.25, 0.75, 0.75))
LEFT, RIGHT = slice(0, 4), slice(12, 16)
EDITOR = Editor(tiny.stylegan2(), tiny.vgg(), steps=12, noise_steps=8)
GENERATOR, FEATURES = EDITOR.generator, EDITOR.features
X, Y = tiny.images(seed=0), tiny.images(seed=1)


def criterion(*terms, **options):
    return MaskedCriterion(terms, FEATURES, **options)


def close(a, b):
    """Mean squared difference."""
    return (a - b).square().mean().item()


def test_every_term_is_a_mean_over_its_own_mask_and_a_batch_is_independent():
    images, style = tiny.images(seed=2), tiny.images(seed=3)
    top, corner = masks.half(SIZE, "top", 0.25), masks.box(SIZE, (0.5, 0.5, 1, 1))
    weights = {"style": 2.0, "first": 3.0, "second": 5.0, "perceptual": 7.0}
    terms = (
        Term("style", "style", style, top),
        Term("first", "pixel", X, HALF),
        Term("second", "pixel", Y, 1 - HALF),
        Term("perceptual", "perceptual", X, corner),
    )
    loss = criterion(*terms, weights=weights)(images)
    assert loss.parts["first"].item() == pytest.approx((images - X).square()[..., :8].mean().item(), rel=1e-5)
    assert loss.parts["second"].item() == pytest.approx((images - Y).square()[..., 8:].mean().item(), rel=1e-5)
    inside, layers = images * corner + X * (1 - corner), LAYERS["perceptual"]
    expected = perceptual_loss(FEATURES(inside, layers), FEATURES(X, layers), corner)
    assert torch.allclose(loss.parts["perceptual"], expected)
    ours, theirs = (FEATURES(image, LAYERS["style"]) for image in (images, style))
    ours = {layer: values[:, :, : values.shape[2] // 4] for layer, values in ours.items()}  # what the mask covers
    grams = [{k: torch.einsum("bchw,bdhw->bcd", v, v) / v[0, 0].numel() for k, v in m.items()} for m in (ours, theirs)]
    assert torch.allclose(loss.parts["style"], style_loss(*grams), rtol=1e-4)
    assert torch.allclose(loss.total, sum(weights[name] * loss.parts[name] for name in weights))
    for at in (0.125, 1):
        loss = criterion(Term("t", "pixel", X, masks.half(SIZE, at=at)))(X + 0.1)
        assert loss.total.item() == pytest.approx(0.01, rel=1e-4)
    term, images = Term("t", "perceptual", torch.cat([X, Y]), HALF), tiny.images(2, seed=4)
    both = criterion(term, weights={"t": torch.tensor([1.0, 10.0])})
    single = criterion(Term("t", "perceptual", Y, HALF), weights={"t": 10.0})(images[1:])
    assert torch.allclose(both(images).total[1], single.total[0])
    assert torch.allclose(both(images[1:], index=slice(1, 2)).total, single.total)


@pytest.mark.parametrize("kind", ["pixel", "perceptual", "style"])
def test_no_term_sends_a_gradient_outside_its_mask_and_an_empty_one_costs_nothing(kind):
    for mask in (HOLE, torch.zeros(1, 1, SIZE, SIZE)):
        images = tiny.images(seed=2).requires_grad_()
        loss = criterion(Term("term", kind, X, mask))(images)
        loss.total.sum().backward()
        inside = mask.bool().expand_as(images)
        assert (images.grad[~inside] == 0).all()
        assert images.grad[inside].abs().max() > 0 if inside.any() else loss.total.item() == 0


def test_what_is_not_a_mask_is_refused_and_the_transition_leaves_room_on_both_sides():
    small = torch.ones(1, 1, 8, 8)
    for make in (lambda: EDITOR.crossover(X, Y, small), lambda: criterion(Term("first", "pixel", X, small))):
        with pytest.raises(ValueError, match="16 x 16"):
            make()
    inside, outside = blending.transition(masks.half(64), 8)
    assert (inside + outside <= 1).all() and (inside * outside == 0).all()
    row = inside[0, 0, 0]
    assert (row[:24] == 1).all() and row[28] == pytest.approx(0.5 - 0.5 * math.cos(math.pi * 3.5 / 8), abs=1e-5)
    assert row[31] < 0.02 and torch.equal(outside, inside.flip(3))
    hard = blending.transition(masks.half(64), 0)
    assert torch.equal(hard[0], masks.half(64)) and torch.equal(hard[0] + hard[1], torch.ones(1, 1, 64, 64))
    stroke = masks.box(64, (0, 0.4375, 1, 0.5625))  # 8 pixels high, thinner than the transition
    inside, _ = blending.transition(stroke, 20)
    assert inside[0, 0, :, 30].max() == 1 and (inside[stroke == 0] == 0).all()


@pytest.mark.parametrize("value, target", [(1.0, X), (0.0, Y)])
def test_a_mask_of_ones_or_zeros_is_the_plain_inversion(value, target):
    full = torch.full((1, 1, SIZE, SIZE), value)
    blend = EDITOR.crossover(X, Y, full, steps=10, noise_steps=0).run()
    weights = {"l2": 1.0, "perceptual": WEIGHTS["crossover"]["perceptual"]}
    options = {"features": FEATURES, "weights": weights, "layers": LAYERS["perceptual"], "steps": 10}
    plain = project(GENERATOR, target, "w+", **options)
    assert torch.allclose(blend.images, plain.images, atol=1e-4)
    assert not torch.allclose(plain.images, GENERATOR.synthesize(GENERATOR.mean("w+")), atol=1e-2)
    same = EDITOR.crossover(X, Y, (full * 255).to(torch.uint8), steps=10, noise_steps=0)  # 8 bits are the float mask
    assert torch.equal(same.run().images, blend.images)


def test_reconstruct_is_w_plus_then_noise_and_the_loop_may_be_left():
    both = torch.cat([X, Y])
    steps = list(EDITOR.reconstruct(both, steps=20, noise_steps=40))
    assert [step.number for step in steps] == list(range(1, 61))
    assert torch.equal(steps[25].latents.code, steps[-1].latents.code)
    assert close(steps[-1].images(), both) < 0.3 * close(steps[19].images(), both)
    edit, totals = EDITOR.crossover(X, Y, HALF), []
    with pytest.raises(ValueError, match="not taken a step"):
        edit.result()
    for step in edit:
        totals.append(step.total.item())
        if step.number == 5:
            edit.weights["second"] = 100.0
        if step.number == 8:
            break
    assert totals[5] > 5 * totals[4] and edit.result().steps == 8
    assert [step.number for step in edit] == list(range(9, 21)) and len(edit) == 20


def test_inpaint_never_looks_into_the_hole_and_frees_only_its_rows():
    spoiled = X * (1 - HOLE) + HOLE * tiny.images(seed=9)
    first, second = (EDITOR.inpaint(image, HOLE).run() for image in (X, spoiled))
    assert torch.allclose(first.images, second.images, atol=1e-5)
    moved = (first.latents.code - GENERATOR.mean("w+")).abs().amax((0, 2)) > 0
    assert moved.tolist() == [True, True, True, False, True, True]
    assert blending.inpainting_rows(18) == [*range(9), 16, 17]
    for value in (0.0, 1.0):
        with pytest.raises(ValueError, match="a part of the image"):
            EDITOR.inpaint(X, torch.full((1, 1, SIZE, SIZE), value))


def test_whitened_w_is_uncorrelated_and_the_prior_holds_a_filling_near_the_mean():
    w, mean = GENERATOR.sample("w", 4000, seed=9), GENERATOR.mean("w")
    white, spread = torch.cov(((w - mean) @ whitening(GENERATOR)).T), torch.linalg.eigvalsh(torch.cov(w.T))
    large = spread > 2 * SMALLEST_VARIANCE * spread[-1]
    assert (white.diagonal()[large] - 1).abs().max() < 0.2
    assert (white - white.diagonal().diag()).abs().max() < 0.1
    hole, distances = masks.box(SIZE, (0, 0, 0.5, 0.5)), {}
    for prior in (0.001, 1.0):
        edit = EDITOR.inpaint(X, hole, weights={"prior": prior}, steps=20, noise_steps=0)
        distances[prior] = edit.run().parts["prior"].item()
    assert 0 < distances[1.0] < 0.3 * distances[0.001]


def test_strokes_are_found_and_the_prior_holds_a_scribble_near_the_photo():
    mask = masks.box(SIZE, (0.5, 0, 1, 1))
    drawn, moved = X * (1 - mask) + mask * torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1), {}
    for prior in (0.0, 10.0):
        steps = list(EDITOR.scribble(X, drawn, mask, weights={"prior": prior}, noise_steps=0))
        moved[prior] = steps[-1].latents.code - steps[11].latents.code
    assert moved[0.0].norm() > 3 * moved[10.0].norm()
    assert moved[0.0][:, 3:].abs().max() < 1e-6 + moved[0.0][:, :3].abs().max() / 2
    drawn = X.clone()
    drawn[..., 2:5, 7:12] = 1 - drawn[..., 2:5, 7:12].round()
    mask = blending.stroke_mask(X, drawn + 0.02)
    assert mask[..., 2:5, 7:12].all() and mask.sum() == 15
    with pytest.raises(ValueError, match="no stroke"):
        EDITOR.scribble(X, X + 0.01)


def test_local_style_moves_the_texture_of_its_region_and_transfer_a_part_of_the_first_photo():
    style = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    judge, losses = criterion(Term("style", "style", style, HALF)), {}
    for weight in (0.0, 1.0):
        weights = {"style": weight, "content": 0.0}
        edit = EDITOR.local_style(X, style, HALF, weights=weights, feather=0, steps=25, noise_steps=0)
        losses[weight] = judge(edit.run().images).total.item()
    assert losses[1.0] < 0.85 * losses[0.0]
    image = EDITOR.transfer(X, Y, HALF, "b16.conv1", feather=0, steps=30, noise_steps=50).run().images
    right, left = image[..., RIGHT], image[..., LEFT]
    assert image.shape == X.shape and close(right, Y[..., RIGHT]) < 0.2 * close(right, X[..., RIGHT])
    assert close(left, X[..., LEFT]) < close(left, Y[..., LEFT])


def test_activations_are_copied_at_their_layer_alone_and_poisson_takes_gradients_from_inside():
    first, second = (Latents("w+", GENERATOR.sample("w+", 1, seed)) for seed in (0, 1))
    images = [GENERATOR.synthesize(latents).clamp(0, 1) for latents in (first, second)]

    def copy(mask, layer, amount=1.0):
        return blending.copy_activations(GENERATOR, first, second, mask, layer, amount)

    ones = torch.ones(1, 1, SIZE, SIZE)
    last, early = copy(ones, "b16.conv1"), copy(ones, "b4.conv1")
    assert torch.allclose(last, images[0], atol=1e-5) and not torch.allclose(last, images[1], atol=1e-2)
    assert torch.equal(copy(0 * ones, "b16.conv1"), images[1])
    assert not any(torch.allclose(early, image, atol=1e-2) for image in images)
    assert torch.equal(GENERATOR.synthesize(second).clamp(0, 1), images[1])  # no hook stays behind
    none, half, whole = (copy(HALF, "b8.conv1", amount) for amount in (0, 0.5, 1))
    assert 0 < close(half, none) < close(whole, none) > close(half, whole) > 0
    for layer, amount, message in (("b99.conv1", 1, "b4.conv1, b8.conv0"), ("b8.conv1", 2, r"\[0, 1\]")):
        with pytest.raises(ValueError, match=message):
            copy(HALF, layer, amount)
    shifted = (Y * 0.5 + 0.3).clamp(0, 1)
    blend = blending.poisson_blend(Y * 0.5 + 0.1, shifted, HOLE)
    assert torch.allclose(blend, shifted, atol=1e-5)  # the gradients of x are those of y: nothing is seen
    blend = blending.poisson_blend(X * 0.3, Y * 0.2 + 0.4, HOLE)

    def laplacian(values):
        kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]).expand(3, 1, 3, 3)
        return torch.nn.functional.conv2d(values, kernel, groups=3)[..., 3:11, 3:11]

    assert torch.allclose(laplacian(blend), laplacian(X * 0.3), atol=1e-4)
    outside = ~HOLE.bool().expand_as(blend)
    assert torch.allclose(blend[outside], (Y * 0.2 + 0.4)[outside], atol=1e-6)
    blend = blending.poisson_blend(torch.full_like(X, 0.9), Y * 0 + 0.2, HALF)  # at the image's border
    assert torch.allclose(blend, torch.full_like(X, 0.2), atol=1e-6)  # no gradients: the colour of y flows in
    for mask, wanted in ((torch.ones_like(HALF), X), (torch.zeros_like(HALF), Y)):
        assert torch.equal(blending.poisson_blend(X, Y, mask), wanted)


def test_a_join_keeps_the_photos_details_and_shares_the_step_of_colours_as_far_as_the_fidelity_allows():
    ramp, mask = torch.linspace(0, 0.1, 64).expand(2, 3, 64, 64), masks.half(64)
    x, y = 0.3 + ramp, 0.5 + ramp + 0.05 * torch.tensor([1.0, -1.0]).repeat(32).expand(64, 64)  # fine stripes
    assert torch.equal(blending.join(ramp, x, y, mask, 4.0, math.inf), blending.hard_paste(x, y, mask))
    steps = []
    for fidelity in (34.0, 28.0):
        blend = blending.join(ramp, x, y, mask, 4.0, fidelity)
        assert torch.allclose(blend[:1], blending.join(ramp[:1], x[:1], y[:1], mask, 4.0, fidelity), atol=1e-5)
        sides = [blending.region_psnr(blend, image, side) for image, side in ((x, mask), (y, 1 - mask))]
        assert all(fidelity - 0.1 < side < fidelity + 1.5 for side in torch.cat(sides))
        assert torch.allclose(blend.diff(dim=3)[..., 48:-1], y.diff(dim=3)[..., 48:-1], atol=0.01)  # its details
        steps.append((blend[..., 36:40].mean() - blend[..., 24:28].mean()).item())
    assert steps[1] < steps[0] - 0.01 < 0.2
    for whole, photo in ((0 * mask, y), (0 * mask + 1, x)):
        assert torch.allclose(blending.join(ramp, x, y, whole, 4.0, 24.0), photo, atol=1e-4)  # no edge


def test_the_seam_is_the_step_over_the_photos_gradient_and_measures_name_the_side_that_is_wrong():
    ramp = torch.linspace(0, 0.15, SIZE).expand(1, 3, SIZE, SIZE)  # 0.01 a pixel in every channel
    other = ramp + 0.1
    paste = blending.hard_paste(ramp, other, HALF)
    assert blending.seam(paste, ramp, other, HALF).item() == pytest.approx(0.11 / 0.01, rel=1e-4)
    assert blending.seam(ramp, ramp, other, HALF).item() == pytest.approx(1, rel=1e-4)
    assert blending.worst_seam(paste, ramp, other, masks.half(SIZE, at=6 / 16), 3).item() == pytest.approx(11, rel=1e-4)
    assert blending.seam(paste, ramp, other, torch.ones_like(HALF)).isnan().all()
    assert blending.two_tone(ramp, ramp, other, HALF).item() == pytest.approx(1, rel=1e-4)
    step = blending.two_tone(paste, ramp, other, HALF).item()  # the bands' middles are 2 pixels apart
    assert step == pytest.approx(0.12 / 0.02, rel=0.15)
    assert blending.two_tone(masks.feather(paste, 2.0), ramp, other, HALF) < 0.7 * step
    black, white = torch.zeros_like(X), torch.ones_like(X)
    paste = blending.hard_paste(black, white, HALF)
    for seam in (blending.seam, blending.worst_seam):
        assert seam(paste, black, white, HALF).item() == pytest.approx(255 * math.sqrt(3), rel=1e-4)
        assert seam(white, black, white, HALF).item() == 0
    shifted = blending.hard_paste((X + 0.1).clamp(0, 1), Y, HALF)
    values = blending.measure(shifted, X, Y, HALF, FEATURES)
    assert values["psnr_y"].item() == math.inf and values["feature_distance_y"].item() == pytest.approx(0, abs=1e-6)
    mse = ((shifted * 255).round() - (X * 255).round())[..., :8].div(255).square().mean().item()
    assert values["psnr_x"].item() == pytest.approx(-10 * math.log10(mse), abs=1e-3)
    assert values["feature_distance_x"] > 1e-4
    assert values["psnr_x"].item() + 3 == pytest.approx(values["psnr"].item(), abs=0.1)  # half of the pixels are exact
