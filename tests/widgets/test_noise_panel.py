"""The panel of the noise lesson runs what ``optimize_noise`` does."""

import pytest
import torch

from helpers import masks
from helpers.latents import Latents
from helpers.noise import fresh_noise_psnr
from helpers.widgets.noise import NoisePanel
from tests.support import tiny
from tests.support.waiting import PATIENCE, begin, finish, until


@pytest.fixture
def panel(generator, tmp_path):
    targets = generator.synthesize(generator.sample("w", 2, seed=5)).clamp(0, 1)
    start = Latents("w", generator.mean("w"))
    photos = {name: (target, start) for name, target in zip("ab", targets.split(1), strict=True)}
    return NoisePanel(generator, photos, out=tmp_path, steps=10, photo="b")


def test_the_panel_fits_under_the_paint_and_starts_an_uploaded_photo_from_the_mean(panel, generator):
    panel.canvas.set_mask(masks.half(16))
    finish(panel)
    latents = panel.result.latents
    finest = latents.noise[-1] - generator.fixed_noise(1)[-1]
    assert finest[..., :8].abs().max() > 0 and finest[..., 8:].abs().max() == 0
    assert f"{fresh_noise_psnr(generator, panel.target, latents).item():.1f} dB" in panel.message.value
    panel.canvas.clear()
    assert panel.where is None
    panel.upload.set_photo(panel.photos["a"].flip(-1), "mine")
    assert panel.controls["photo"].value == "mine"
    assert torch.equal(panel.latents.code, generator.mean("w"))
    finish(panel)


def test_the_regularisation_reaches_the_running_fit_and_a_panel_needs_noise_maps(panel):
    with pytest.raises(ValueError, match="no noise maps"):
        NoisePanel(tiny.dcgan(), {})
    begin(panel)
    panel.controls["regularise"].value = 10.0
    number = panel.job.call(lambda: len(panel.job.history)).result(PATIENCE)
    until(lambda: len(panel.job.history) > number)
    first, last = panel.job.history[0], panel.job.history[number]
    panel.stop()
    assert first["total"] == pytest.approx(first["l2"], rel=1e-4)
    assert last["total"] == pytest.approx(last["l2"] + 10 * last["autocorrelation"], rel=1e-4)
