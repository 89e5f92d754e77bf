"""The same seed on the same machine gives the same result, bit for bit, whatever the global generator did before."""

import pytest
import torch

from helpers.blending import Editor
from helpers.inversion import project
from helpers.masks import half
from helpers.noise import fresh_noise_psnr, optimize_noise
from helpers.sketch import Sketch, search
from helpers.style_transfer import stylize
from tests.support import tiny

GENERATOR, FEATURES = tiny.stylegan2(), tiny.Features()
TARGETS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
X, Y, MASK = TARGETS[:1], TARGETS[1:], half(16)
EDITOR = Editor(GENERATOR, tiny.vgg(), steps=3, noise_steps=2)
LAYERS = {"content_layers": "conv2_1", "style_layers": ["conv1_1"]}


def noise():
    latents = project(GENERATOR, TARGETS, "w+", steps=2).latents
    fitted = optimize_noise(GENERATOR, TARGETS, latents, steps=3, order="alternating")
    return torch.cat([fitted.images.flatten(), fresh_noise_psnr(GENERATOR, TARGETS, fitted.latents)])


LESSONS = {
    "inversion": lambda: project(GENERATOR, TARGETS, "z", steps=3, start="best", restarts=2, seed=7).images,
    "lbfgs": lambda: project(GENERATOR, TARGETS, "w", steps=2, optimizer="lbfgs").images,
    "noise": noise,
    "crossover": lambda: EDITOR.crossover(X, Y, MASK).run().images,
    "inpaint": lambda: EDITOR.inpaint(X, MASK).run().images,
    "transfer": lambda: EDITOR.transfer(X, Y, MASK).run().images,
    "sketch": lambda: search(GENERATOR, Sketch(X, MASK), weights={"colour": 1.0}, starts=3, steps=3, seed=2).images,
    "style": lambda: stylize(FEATURES, X, [Y], steps=3, init="noise", seed=4, **LAYERS).images,
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_same_seed_gives_the_same_result(lesson):
    torch.manual_seed(1)
    first = LESSONS[lesson]()
    torch.manual_seed(2)
    assert torch.equal(first, LESSONS[lesson]())
