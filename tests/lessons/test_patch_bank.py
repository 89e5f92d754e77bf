"""The network made of one image's patches."""

import pytest
import torch
import torch.nn.functional as F

from helpers.features import FeatureError
from helpers.style_transfer.patch_bank import PatchBank, octaves_of
from helpers.styles import own_styles

IMAGE = own_styles(96)["glass"]


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


def test_octaves_halve_and_layers_have_numbers_and_names():
    bank = PatchBank(IMAGE, filters=8, octaves=3)
    found = bank(IMAGE, [1, "octave2", 3])
    assert [tuple(value.shape) for value in found.values()] == [(1, 8, 90, 90), (1, 8, 42, 42), (1, 8, 18, 18)]
    assert all((value >= 0).all() for value in found.values())
    assert torch.equal(bank(IMAGE, ["octave3"])["octave3"], found[3])
    expected = {(10,): 1, (47, 300): 1, (48,): 2, (96,): 3, (192,): 4, (999,): 4}
    assert {sides: octaves_of(sides) for sides in expected} == expected


def test_unknown_layers_and_small_images_are_refused():
    bank = PatchBank(IMAGE)
    for image, layers, message in ((IMAGE, ["conv1_1"], "octave1"), (IMAGE[..., :10, :10], [2], "at least 24x24")):
        with pytest.raises(FeatureError, match=message):
            bank(image, layers)
    with pytest.raises(FeatureError, match="at least 96x96 pixels, got 40x96"):
        PatchBank(IMAGE[..., :40, :])
