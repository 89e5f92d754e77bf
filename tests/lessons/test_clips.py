"""Films: faces aligned over time, codes from frame to frame, one set of noise maps, and the measure of flicker."""

import pytest
import torch

from helpers import clips
from helpers.faces import NoFace
from helpers.latents import Latents
from tests.support import tiny

GENERATOR = tiny.stylegan2()


def test_the_place_of_a_face_is_smooth_and_lies_between_those_before_and_after_where_none_is_found(monkeypatch):
    places = iter([0.0, 2.0, None, 2.0, 0.0, 2.0])

    def find(frame, *_):
        if (x := next(places)) is None:
            raise NoFace("shows no face", frame)
        return 1.0, -x

    monkeypatch.setattr(clips, "find_place", find)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 32, 64)
    found = clips.aligned_clip([ramp] * 6, GENERATOR)[:, 0, 8, 8] * 63 - 8  # the shift to the right
    assert found.shape == (6,) and found.min() > 0.6 and found.diff().abs().max() < 0.5


def test_frames_follow_each_other_share_their_maps_and_only_what_comes_and_goes_flickers():
    ends, noise = GENERATOR.sample("w+", 2, 0), [m.expand(4, -1, -1, -1) for m in GENERATOR.fresh_noise(1)]
    codes = torch.lerp(ends[:1], ends[1:], torch.linspace(0, 0.2, 4).view(-1, 1, 1))
    targets = clips.render(GENERATOR, Latents("w+", codes, noise))
    found = clips.invert_clip(GENERATOR, targets, tiny.vgg())
    shared = clips.share_noise(GENERATOR, targets, found)
    errors = [(clips.render(GENERATOR, latents) - targets).square().mean() for latents in (found, shared)]
    assert torch.equal(shared.code, found.code) and errors[1] < 0.8 * errors[0]
    assert all((map_ == map_[:1]).all() for map_ in shared.noise) and len(shared) == 4
    grey, signs = torch.full((4, 3, 8, 8), 0.4), torch.tensor([1, -1, 1, -1]).view(-1, 1, 1, 1)
    assert clips.flicker(grey + 0.2, grey).max() < 1e-3
    assert clips.flicker(grey + 0.1 * signs, grey).mean().item() == pytest.approx(51, abs=2)  # 8 bits
