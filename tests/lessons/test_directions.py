"""Directions in latent space: planted ones are found, and a move changes what it says."""

import numpy as np
import pytest
import torch

from helpers.cat_faces import WITH_EARS, aligned_landmarks
from helpers.directions import attributes, changes, closed_form, direction_grid, move, only_one, principal_components
from helpers.directions import regression, with_spread
from helpers.generators import GeneratorError
from helpers.latents import Latents, LatentsError
from helpers.photos import FACE_LANDMARKS, demo_cat
from helpers.widgets.sliders import direction_slider
from tests.support import tiny


def test_principal_components_are_those_of_numpy(generator):
    found, shares = principal_components(generator, 3)
    w = generator.sample("w", 10_000).double().numpy()
    _, lengths, vectors = np.linalg.svd(w - w.mean(0), full_matrices=False)
    expected = torch.tensor(vectors[:3] * lengths[:3, None] / np.sqrt(len(w) - 1)).float()
    torch.testing.assert_close(found.abs(), expected.abs(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(shares, torch.tensor(lengths**2 / (lengths**2).sum())[:3].float())
    assert torch.equal(found.abs().argmax(1), found.argmax(1))  # the sign is not a matter of luck


@pytest.mark.parametrize("make", [tiny.stylegan2, tiny.stylegan1])
def test_closed_form_directions_are_eigenvectors_of_the_style_weights(make):
    network = make()
    weights = [v for name, v in network.named_parameters() if name.endswith(("affine.weight", "style.weight"))]
    weights = torch.cat([v for v in weights[:3] if v.shape[1] == network.w_dim])
    first = closed_form(network, 2, slice(0, 2))
    layers = [layer for _, layer in network.synthesis.layers()][:2]
    weights = torch.cat([getattr(layer, "affine", getattr(layer, "style", None)).weight for layer in layers])
    for direction, length in zip(first, torch.linalg.svdvals(weights), strict=False):
        unit = direction / direction.norm()
        torch.testing.assert_close(weights.T @ (weights @ unit), length**2 * unit, atol=1e-3, rtol=1e-3)


def test_directions_are_one_standard_deviation_long(generator):
    for directions in (closed_form(generator, 4), with_spread(generator, torch.eye(generator.w_dim)[:2] * 7)):
        along = generator.sample("w", 10_000) @ (directions / directions.norm(dim=1, keepdim=True)).T
        torch.testing.assert_close(directions.norm(dim=1), along.std(0))


def test_regression_recovers_planted_attributes_and_says_what_it_cannot_predict():
    random = torch.Generator().manual_seed(0)
    w, planted = torch.randn(400, 8, generator=random), torch.randn(2, 8, generator=random)
    values = torch.cat([w @ planted.T, torch.randn(400, 1, generator=random)], 1)
    slopes, predicted = regression(w, values, ridge=1e-6)
    torch.testing.assert_close(slopes[:2], planted / (w @ planted.T).std(0)[:, None], atol=1e-3, rtol=0)
    assert predicted[:2].min() > 0.999 and predicted[2] < 0.05
    torch.testing.assert_close(slopes[:2] @ only_one(slopes[:2]).T, torch.eye(2), atol=1e-5, rtol=0)
    kept = torch.arange(400) != 7  # leaving out one at a time, done plainly for one
    x, y = w[kept] - w[kept].mean(0), values[kept, 2] - values[kept, 2].mean()
    guess = (w[7] - w[kept].mean(0)) @ torch.linalg.lstsq(x, y[:, None]).solution + values[kept, 2].mean()
    x, y = w - w.mean(0), values[:, 2] - values[:, 2].mean()
    solution = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    leverage = x[7] @ torch.linalg.inv(x.T @ x) @ x[7] + 1 / 400
    torch.testing.assert_close(values[7, 2] - guess[0], (y[7] - x[7] @ solution) / (1 - leverage))


def test_a_move_adds_the_direction_in_the_rows_that_it_names(generator):
    direction, noise = closed_form(generator, 1)[0], generator.fresh_noise(1)
    z = Latents("z", generator.sample("z", 1), noise)
    moved = move(generator, z, direction, torch.tensor([-2.0, 0.0, 2.0]))
    assert moved.space == "w" and len(moved) == 3 and all(len(m) == 3 for m in moved.noise)
    torch.testing.assert_close(moved.code - generator.map(z.code), torch.tensor([[-2.0], [0.0], [2.0]]) * direction)
    part = move(generator, z, direction, 1.0, slice(0, 2))
    step = part.code - generator.convert(z.code, "z", "w+")
    torch.testing.assert_close(step[0, :2], direction.expand(2, -1), atol=1e-5, rtol=1e-5)
    assert part.space == "w+" and not step[:, 2:].any()


def test_changes_are_measured_in_standard_deviations_of_the_attributes(generator, features):
    latents, directions = Latents("w", generator.sample("w", 3)), closed_form(generator, 2)
    matrix, identity = changes(generator, latents, directions, {"brightness": 0.5, "warmth": 1.0}, features)
    ends = [generator.synthesize(latents.code + sign * directions[0]).clamp(0, 1) for sign in (-1, 1)]
    back, forth = (attributes(generator, images) for images in ends)
    expected = (forth["brightness"] - back["brightness"]).mean().item()
    assert matrix.shape == (2, 2) and identity.min() > 0 and matrix[0, 0].item() == pytest.approx(expected, abs=1e-5)
    grid = direction_grid(generator, latents[0], {"a": directions[0]}, torch.tensor([-1.0, 1.0]))
    assert len(grid.axes) == 2
    slider = direction_slider(generator, latents, {"a": directions[0], "b": directions[1]})
    slider.controls[1].value = 2.0
    torch.testing.assert_close(slider.latents.code, latents.code[:1] + 2 * directions[1])


@pytest.mark.parametrize(("size", "template"), [(64, FACE_LANDMARKS), (128, FACE_LANDMARKS)])
def test_landmarks_of_an_aligned_face_are_found_and_mirrored(size, template):
    cat = demo_cat(size)
    points = aligned_landmarks(torch.cat([cat, cat.flip(3)]), template)
    left, right, nose = torch.view_as_complex(points).unbind(1)
    turn = ((nose - (left + right) / 2) / (right - left)).real
    assert turn[0].item() == pytest.approx(-turn[1].item(), abs=0.03)
    assert WITH_EARS != template and abs((right - left)[0].abs().item() - 44) < 6


@pytest.mark.parametrize(("w", "values"), [((4, 3), (5, 1)), ((4, 3), (4,)), ((2, 3), (2, 1))])
def test_wrong_shapes_are_one_sentence(generator, w, values):
    with pytest.raises(LatentsError, match="expected w"):
        regression(torch.rand(w), torch.rand(values))
    with pytest.raises(LatentsError, match="expected a direction of shape"):
        move(generator, Latents("w", generator.mean("w")), torch.zeros(3), 1.0)
    for find in (principal_components, closed_form):
        with pytest.raises(GeneratorError, match="'w' does not exist"):
            find(tiny.dcgan())
