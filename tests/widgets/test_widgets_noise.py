"""The sliders over the fitted noise show what ``partly_fitted`` gives; the panel runs what ``optimize_noise`` does."""

import pytest
import torch

from helpers import masks
from helpers.latents import Latents
from helpers.noise import NoiseError, fresh_noise_psnr, optimize_noise, partly_fitted
from helpers.widgets.noise import noise_panel, noise_slider
from tests.support import tiny


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


@pytest.fixture
def panel(generator, tmp_path):
    targets = generator.synthesize(generator.sample("w", 2, seed=5)).clamp(0, 1)
    starts = {
        name: (target, Latents("w", generator.mean("w"))) for name, target in zip("ab", targets.split(1), strict=True)
    }
    panel = noise_panel(generator, starts, out=tmp_path, steps=10, photo="b")
    yield panel
    panel.close()


def finish(panel):
    panel.start()
    assert panel.job.wait(60) and panel.job.error is None
    panel.box._frame()


def test_the_panel_finds_what_the_function_finds(panel, generator):
    panel.canvas.set_mask(masks.half(16))
    finish(panel)
    options = {"where": panel.where, **panel.settings}
    again = optimize_noise(generator, panel.target, panel.latents, **options)
    torch.testing.assert_close(panel.result.images, again.images)
    finest = panel.result.latents.noise[-1] - generator.fixed_noise(1)[-1]
    assert finest[..., :8].abs().max() > 0 and finest[..., 8:].abs().max() == 0  # only under the paint
    assert f"{fresh_noise_psnr(generator, panel.target, again.latents).item():.1f} dB" in panel.message.value
    panel.canvas.clear()
    assert panel.where is None


def test_the_regularisation_reaches_the_running_fit(panel):
    panel.set({"steps": 1000})
    panel.start()
    while not panel.job.history:
        panel.job.wait(0.01)
    panel.controls["regularise"].value = 10.0
    number = panel.job.call(lambda: len(panel.job.history)).result(60)
    while len(panel.job.history) <= number:
        panel.job.wait(0.01)
    first, last = panel.job.history[0], panel.job.history[number]
    panel.stop()
    assert first["total"] == pytest.approx(first["l2"], rel=1e-4)
    assert last["total"] == pytest.approx(last["l2"] + 10 * last["autocorrelation"], rel=1e-4)


def test_a_panel_needs_noise_maps():
    with pytest.raises(NoiseError, match="no noise maps"):
        noise_panel(tiny.dcgan(), {})
