"""The panel of the sketch lesson, without a browser."""

import numpy as np
import pytest
import torch

from helpers.masks import ellipse
from helpers.sketch import Sketch, search
from helpers.widgets.sketch import sketch_panel
from tests.support import tiny


@pytest.fixture
def panel():
    sketch = Sketch(torch.full((1, 3, 16, 16), 0.3), (ellipse(16) > 0.5).float())
    panel = sketch_panel(tiny.stylegan2(), sketch=sketch, starts=3, steps=10)
    yield panel
    panel.close()


def finish(panel):
    panel.start()
    assert panel.job.wait(60)
    panel.stop()


def test_the_panel_finds_what_the_function_finds(panel):
    finish(panel)
    assert panel.job.state == "finished", panel.job.error
    again = search(panel.generator, panel.sketch, enough=None, **panel.settings)
    torch.testing.assert_close(panel.result.images, again.images)
    assert len(panel.candidates.entries) == 3 and len(panel.history.entries) == 1


def test_the_drawing_keeps_its_colours_on_the_canvas(panel):
    assert torch.equal(panel.sketch.mask > 0.5, ellipse(16) > 0.5)
    inside = (panel.sketch.mask > 0.9).expand(1, 3, -1, -1)
    assert (panel.sketch.image[inside] - 0.3).abs().max() < 0.01


def test_an_empty_canvas_is_one_sentence(panel):
    panel.canvas.set_rgba(np.zeros((256, 256, 4), np.uint8))
    finish(panel)
    assert panel.job.state == "failed"
    assert "draw something" in panel.view.html and "Traceback" not in panel.view.html


def test_a_run_goes_on_from_the_candidate_that_was_picked(panel):
    finish(panel)
    panel.choose_candidate(2)
    picked = panel.result.latents[2].code
    panel.controls["go_on"].value = True
    finish(panel)
    assert panel.job.state == "finished", panel.job.error
    assert torch.equal(panel.job.iterator.base[:1], picked)
    assert (panel.job.iterator.base[1:] - picked).abs().min() > 0


def test_going_on_without_a_pick_says_what_to_do(panel):
    panel.controls["go_on"].value = True
    finish(panel)
    assert "click one under Candidates" in panel.view.html


def test_weights_reach_the_running_search(panel):
    panel.controls["steps"].value = 500
    panel.start()
    panel.controls["edge"].value = 1.0
    panel.job.call(lambda: None).result(60)
    assert panel.job.iterator.criterion.weights["edge"] == 1.0
    panel.stop()
