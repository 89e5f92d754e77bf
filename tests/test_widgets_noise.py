"""The sliders over the fitted noise show what ``partly_fitted`` gives."""

import pytest
import tiny
import torch

from helpers.latents import Latents
from helpers.noise import NoiseError, partly_fitted
from helpers.widgets.noise import noise_slider


@pytest.fixture(scope="module")
def generator():
    return tiny.stylegan2()


def test_the_sliders_show_the_part_of_the_noise_that_they_say(generator):
    latents = Latents("w", generator.sample("w", 2, seed=1), generator.fresh_noise(2, seed=4))
    target = generator.synthesize(latents[0]).clamp(0, 1)
    slider = noise_slider(generator, latents, target)
    assert torch.equal(slider.image, target) and "inf dB" in slider.view.value
    shown = slider.view.value
    slider.amount.value, slider.levels.value = 0.5, 2
    expected = generator.synthesize(partly_fitted(generator, latents[0], 0.5, 2)).clamp(0, 1)
    assert torch.allclose(slider.image, expected) and slider.view.value != shown
    slider.levels.value = 0
    assert torch.allclose(slider.image, generator.synthesize(latents.code[:1]).clamp(0, 1))


def test_latents_without_maps_are_refused(generator):
    with pytest.raises(NoiseError, match="no noise maps"):
        noise_slider(generator, Latents("w", generator.sample("w", 1)), torch.zeros(1, 3, 16, 16))
