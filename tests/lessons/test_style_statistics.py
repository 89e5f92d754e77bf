"""Statistics of style, against definitions in float64 and blind to places; the network of one image's patches."""

import pytest
import torch
import torch.nn.functional as F

from helpers.style_transfer.patch_bank import PatchBank, octaves_of
from helpers.style_transfer.statistics import STATISTICS, StyleError, statistic_of
from helpers.styles import own_styles


def activations(seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixed, values = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((4, 4), (2, 4, 6, 5)))
    return torch.einsum("dc,bchw->bdhw", mixed, values) + 0.5


OURS, THEIRS, IMAGE = activations(), activations(5), own_styles(96)["glass"]


def distance(statistic, ours, theirs):
    return statistic.distance(statistic.describe(ours), statistic.describe(theirs))


@pytest.fixture(params=STATISTICS)
def statistic(request):
    return statistic_of(request.param)


def test_equal_images_have_distance_zero_whatever_their_size_and_others_do_not(statistic):
    assert distance(statistic, OURS, OURS).abs().max() < 1e-4
    assert distance(statistic, OURS.repeat(1, 1, 2, 3), OURS).max() < 1e-4
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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_is_right(statistic, layout):
    ours = OURS.clone(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distance(statistic, x, THEIRS), ours, eps=1e-7)


def test_gram_is_its_definition_octaves_halve_and_what_is_unknown_or_small_is_refused():
    for sample, gram in zip(OURS, statistic_of("gram").describe(OURS), strict=True):
        assert torch.allclose(gram, sum(torch.outer(v, v) for v in sample.flatten(1).T) / 30)
    assert distance(statistic_of("moments"), OURS, 0.5 + 1e-4 * THEIRS).max() < 1e7  # without a floor 1e14
    with pytest.raises(StyleError, match="gram, mean-variance.*'grim'"):
        statistic_of("grim")
    bank = PatchBank(IMAGE, filters=8, octaves=3)
    found = bank(IMAGE, [1, "octave2", 3])
    assert [tuple(value.shape) for value in found.values()] == [(1, 8, 90, 90), (1, 8, 42, 42), (1, 8, 18, 18)]
    assert all((value >= 0).all() for value in found.values())
    assert torch.equal(bank(IMAGE, ["octave3"])["octave3"], found[3])
    expected = {(10,): 1, (47, 300): 1, (48,): 2, (96,): 3, (192,): 4, (999,): 4}
    assert {sides: octaves_of(sides) for sides in expected} == expected
    bank = PatchBank(IMAGE)
    for image, layers, message in ((IMAGE, ["conv1_1"], "octave1"), (IMAGE[..., :10, :10], [2], "at least 24x24")):
        with pytest.raises(ValueError, match=message):
            bank(image, layers)
    with pytest.raises(ValueError, match="at least 96x96 pixels, got 40x96"):
        PatchBank(IMAGE[..., :40, :])


def test_a_patch_answers_to_itself_most_and_the_linear_filters_are_white():
    bank = PatchBank(IMAGE, filters=40, octaves=1)
    patches = F.unfold(IMAGE, 7)[0].T.reshape(-1, 3, 7, 7)
    linear = F.conv2d(patches, *bank.filters[0]).flatten(1)  # every patch, every filter
    responses = linear.relu()
    own = responses.max(0)
    assert (own.values > 1).all()
    # the filter's source is the patch whose whitened direction it is: no other one of the 40 sources answers as well
    sources = responses[own.indices] / responses[own.indices].diagonal()[:, None].clamp_min(1e-6)
    assert (sources.argmax(1) == torch.arange(40)).float().mean() > 0.8
    assert linear.mean(0).abs().max() < 0.05  # the mean patch answers 0
    assert 0.3 < linear.std(0).mean() < 1.2  # unit variance, less what was noise
