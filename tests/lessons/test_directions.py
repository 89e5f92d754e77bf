"""Directions in latent space: planted ones are found, and a move changes what it says."""

import pytest
import torch

from helpers import directions
from helpers.latents import Latents
from helpers.photos import WITH_EARS, demo_cat
from helpers.widgets.sliders import direction_slider
from tests.support import tiny

GENERATOR = tiny.stylegan2()


def test_principal_components_are_singular_vectors_of_the_samples():
    found, shares = directions.principal_components(GENERATOR, 3)
    w = GENERATOR.sample("w", 10_000)
    _, lengths, vectors = torch.linalg.svd(w - w.mean(0), full_matrices=False)
    assert torch.allclose(found.abs(), vectors[:3].abs() * lengths[:3, None] / (len(w) - 1) ** 0.5, atol=1e-3)
    torch.testing.assert_close(shares, (lengths**2 / (lengths**2).sum())[:3])


@pytest.mark.parametrize(("make", "style"), [(tiny.stylegan2, "affine"), (tiny.stylegan1, "style")])
def test_closed_form_directions_are_eigenvectors_of_the_style_weights(make, style):
    network = make()
    weights = torch.cat([getattr(layer, style).weight for _, layer in network.synthesis.layers()])
    unit = torch.nn.functional.normalize(directions.closed_form(network, 4))
    assert torch.allclose(unit @ weights.T @ weights, torch.linalg.svdvals(weights)[:4, None] ** 2 * unit, atol=1e-3)
    with pytest.raises(ValueError, match="'w' does not exist"):
        directions.closed_form(tiny.dcgan())


def test_regression_recovers_planted_attributes_and_says_what_it_cannot_predict():
    random = torch.Generator().manual_seed(0)
    w, planted = torch.randn(400, 8, generator=random) + 1, torch.randn(2, 8, generator=random)
    values = torch.cat([w @ planted.T, torch.randn(400, 1, generator=random)], 1)
    slopes, predicted = directions.regression(w, values, ridge=1e-7)
    torch.testing.assert_close(slopes[:2], planted / values[:, :2].std(0)[:, None], atol=1e-4, rtol=0)
    torch.testing.assert_close(slopes[:2] @ directions.only_one(slopes[:2]).T, torch.eye(2), atol=1e-5, rtol=0)
    assert predicted[:2].min() > 0.999 and predicted[2] < 0.05
    with pytest.raises(ValueError, match="expected w"):
        directions.regression(w, values[1:])
    for wrong in (values[:9], values[:, 0]):
        with pytest.raises(ValueError, match="expected w"):
            directions.regression(w, wrong)


def test_a_move_adds_the_direction_in_the_rows_that_it_names():
    direction, noise = directions.closed_form(GENERATOR, 1)[0], GENERATOR.fresh_noise(1)
    z = Latents("z", GENERATOR.sample("z", 1), noise)
    moved = directions.move(GENERATOR, z, direction, torch.tensor([-2.0, 0.0, 2.0]))
    assert moved.space == "w+" and [len(maps) for maps in moved.noise] == [3] * len(noise)
    expected = GENERATOR.map(z.code) + torch.tensor([[-2.0], [0.0], [2.0]]) * direction
    assert torch.allclose(moved.code, expected[:, None], atol=1e-5)
    step = directions.move(GENERATOR, z, direction, 1.0, slice(0, 2)).code[0] - GENERATOR.map(z.code)
    assert torch.allclose(step[:2], direction, atol=1e-5) and not step[2:].any()
    with pytest.raises(ValueError, match="expected a direction of shape"):
        directions.move(GENERATOR, z, torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match="expected a direction of shape"):
        directions.move(GENERATOR, z, torch.zeros(3), 1.0)
    assert len(directions.direction_grid(GENERATOR, z, {"a": direction}, torch.tensor([-1.0, 1.0])).axes) == 2


def test_changes_are_in_the_units_given_and_the_slider_moves_along_all():
    latents, (a, b) = Latents("w", GENERATOR.sample("w", 3)), directions.closed_form(GENERATOR, 2)
    matrix, identity = directions.changes(GENERATOR, latents, torch.stack([a, b]), {"warmth": 0.5}, tiny.vgg())
    back, forth = (GENERATOR.synthesize(latents.code + step).clamp(0, 1).mean((0, 2, 3)) for step in (-a, a))
    red, _, blue = (forth - back).tolist()
    assert matrix[0].item() == pytest.approx(red - blue, abs=1e-5) and identity.min() > 0
    slider = direction_slider(GENERATOR, latents, {"a": a, "b": b})
    slider.controls[0].value, slider.controls[1].value = -1.0, 2.0
    assert torch.allclose(slider.latents.code[0], latents.code[0] - a + 2 * b, atol=1e-5)


def test_a_mirrored_cat_turns_the_other_way():
    generator, cat = tiny.stylegan2(), demo_cat(64, WITH_EARS)
    generator.landmarks = WITH_EARS
    found = directions.attributes(generator, torch.cat([cat, cat.flip(3)]))
    assert found["turn"].sum().abs() < 0.03 and found["length"].diff().abs() < 0.03
