"""Statistics of style: against definitions in float64, blind to where things are, one interface."""

import pytest
import torch
from scipy.linalg import sqrtm

from helpers.style_transfer.statistics import STATISTICS, StyleError, Wasserstein, statistic_of


def activations(seed=0, cells=(6, 5), channels=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(channels, channels, generator=generator, dtype=dtype)
    values = torch.randn(2, channels, *cells, generator=generator, dtype=dtype)
    return torch.einsum("dc,bchw->bdhw", mixed, values) + 0.5


@pytest.fixture(params=STATISTICS)
def statistic(request):
    return statistic_of(request.param)


def test_gram_is_its_definition_in_float64():
    values = activations(dtype=torch.float32)
    found = statistic_of("gram").describe(values)
    for sample, gram in zip(values.double(), found, strict=True):
        for i in range(4):
            for j in range(4):
                expected = sum((sample[i, y, x] * sample[j, y, x]).item() for y in range(6) for x in range(5)) / 30
                assert gram[i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_place_of_pixels_does_not_matter(statistic):
    values = activations()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    shuffled = values.flatten(2)[..., order].view_as(values)
    assert not torch.equal(values, shuffled)
    assert torch.allclose(statistic.describe(values), statistic.describe(shuffled), atol=1e-10)


def test_equal_pictures_have_distance_zero_and_others_do_not(statistic):
    ours, theirs = statistic.describe(activations()), statistic.describe(activations(5))
    assert statistic.distance(ours, statistic.prepare(ours)).abs().max() < 1e-4
    apart = statistic.distance(ours, statistic.prepare(theirs))
    assert apart.shape == (2,) and (apart > 0.05).all()


def test_the_scale_of_a_network_does_not_matter(statistic):
    ours, theirs = activations(), activations(5)

    def distance(factor):
        target = statistic.prepare(statistic.describe(theirs * factor))
        return statistic.distance(statistic.describe(ours * factor), target)

    assert torch.allclose(distance(1), distance(100), rtol=1e-3)


def test_a_picture_repeated_is_the_same_texture(statistic):
    ours = activations()
    tiled = ours.repeat(1, 1, 2, 3)
    distance = statistic.distance(statistic.describe(tiled), statistic.prepare(statistic.describe(ours)))
    assert distance.max() < 0.01  # quantiles of 30 cells read at 180


def test_a_mask_leaves_only_its_cells(statistic):
    ours, mask = activations(), torch.zeros(1, 1, 6, 5, dtype=torch.float64)
    mask[..., :2] = 1
    found = statistic.describe(ours, mask)
    assert torch.allclose(found, statistic.describe(ours[..., :2]), atol=1e-10)
    spoiled = ours.clone()
    spoiled[..., 2:] += 7
    assert torch.equal(found, statistic.describe(spoiled, mask))


def test_the_gradient_is_right(statistic):
    target = statistic.prepare(statistic.describe(activations(5)))
    ours = activations().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: statistic.distance(statistic.describe(x), target), ours, eps=1e-7)


def test_wasserstein_is_the_closed_form():
    ours, theirs = activations(), activations(5)
    statistic = Wasserstein()
    found = statistic.distance(statistic.describe(ours), statistic.prepare(statistic.describe(theirs)))
    for value, a, b in zip(found, ours, theirs, strict=True):
        (ma, ca), (mb, cb) = ((x.flatten(1).mean(1), torch.cov(x.flatten(1), correction=0)) for x in (a, b))
        cross = torch.from_numpy(sqrtm((ca @ cb).numpy()).real)
        expected = (ma - mb).square().sum() + (ca + cb - 2 * cross).trace()
        assert value.item() == pytest.approx((expected / (mb.square().sum() + cb.trace())).item(), rel=1e-3)


def test_a_style_of_one_colour_does_not_blow_the_loss_up():
    flat = 0.5 + 1e-4 * activations(5)
    statistic = statistic_of("moments")
    distance = statistic.distance(statistic.describe(activations()), statistic.prepare(statistic.describe(flat)))
    assert distance.max() < 1e7  # without a floor 1e14


def test_an_unknown_statistic_is_refused_with_the_names():
    with pytest.raises(StyleError, match="gram, mean-variance.*'grim'"):
        statistic_of("grim")
