"""Statistics of style: against definitions in float64, blind to where things are, one interface."""

import pytest
import torch
from scipy.linalg import sqrtm

from helpers.style_transfer.statistics import STATISTICS, StyleError, statistic_of


def activations(seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixed, values = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((4, 4), (2, 4, 6, 5)))
    return torch.einsum("dc,bchw->bdhw", mixed, values) + 0.5


OURS, THEIRS = activations(), activations(5)


def distance(statistic, ours, theirs):
    return statistic.distance(statistic.describe(ours), statistic.prepare(statistic.describe(theirs)))


@pytest.fixture(params=STATISTICS)
def statistic(request):
    return statistic_of(request.param)


def test_equal_images_have_distance_zero_whatever_their_size_and_others_do_not(statistic):
    assert distance(statistic, OURS, OURS).abs().max() < 1e-4
    assert distance(statistic, OURS.repeat(1, 1, 2, 3), OURS).max() < 0.01  # quantiles of 30 cells read at 180
    apart = distance(statistic, OURS, THEIRS)
    assert apart.shape == (2,) and (apart > 0.05).all()
    scaled = distance(statistic, 100 * OURS, 100 * THEIRS)  # the scale of a network does not matter
    assert torch.allclose(apart, scaled, rtol=1e-3)


def test_the_place_of_pixels_does_not_matter_and_a_mask_leaves_only_its_cells(statistic):
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    shuffled = OURS.flatten(2)[..., order].view_as(OURS)
    assert not torch.equal(OURS, shuffled)
    assert torch.allclose(statistic.describe(OURS), statistic.describe(shuffled), atol=1e-10)
    mask, spoiled = torch.zeros(1, 1, 6, 5, dtype=torch.float64), OURS.clone()
    mask[..., :2] = 1
    spoiled[..., 2:] += 7
    found = statistic.describe(OURS, mask)
    assert torch.allclose(found, statistic.describe(OURS[..., :2], None), atol=1e-10)
    assert torch.equal(found, statistic.describe(spoiled, mask))


def test_the_gradient_is_right(statistic):
    ours = OURS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distance(statistic, x, THEIRS), ours, eps=1e-7)


def test_gram_and_wasserstein_are_their_definitions():
    for sample, gram in zip(OURS, statistic_of("gram").describe(OURS), strict=True):
        assert torch.allclose(gram, sum(torch.outer(v, v) for v in sample.flatten(1).T) / 30)
    for value, a, b in zip(distance(statistic_of("wasserstein"), OURS, THEIRS), OURS, THEIRS, strict=True):
        (ma, ca), (mb, cb) = ((x.flatten(1).mean(1), torch.cov(x.flatten(1), correction=0)) for x in (a, b))
        cross = torch.from_numpy(sqrtm((ca @ cb).numpy()).real)
        expected = (ma - mb).square().sum() + (ca + cb - 2 * cross).trace()
        assert value.item() == pytest.approx((expected / (mb.square().sum() + cb.trace())).item(), rel=1e-3)
    assert distance(statistic_of("moments"), OURS, 0.5 + 1e-4 * THEIRS).max() < 1e7  # without a floor 1e14
    with pytest.raises(StyleError, match="gram, mean-variance.*'grim'"):
        statistic_of("grim")
