"""The panel of the sketch lesson, without a browser."""

import numpy as np
import pytest
import torch

from helpers.masks import ellipse
from helpers.sketch import Sketch
from helpers.widgets.sketch import SketchPanel
from tests.support.waiting import PATIENCE, finish


@pytest.fixture
def panel(generator, tmp_path):
    sketch = Sketch(torch.full((1, 3, 16, 16), 0.3), (ellipse(16) > 0.5).float())
    return SketchPanel(generator, sketch=sketch, out=tmp_path, starts=3, steps=10)


def failing(panel):
    panel.start()
    assert panel.job.wait(PATIENCE) and panel.job.state == "failed"
    return panel._frame()[0]


def test_the_drawing_keeps_its_colours_on_the_canvas_and_an_empty_one_is_one_sentence(panel):
    assert torch.equal(panel.sketch.mask > 0.5, ellipse(16) > 0.5)
    inside = (panel.sketch.mask > 0.9).expand(1, 3, -1, -1)
    assert (panel.sketch.image[inside] - 0.3).abs().max() < 0.01
    panel.canvas.set_rgba(np.zeros((256, 256, 4), np.uint8))
    html = failing(panel)
    assert "draw something" in html and "Traceback" not in html


def test_a_run_continues_from_the_candidate_that_was_picked(panel):
    panel.controls["go_on"].value = True
    assert "click one under Candidates" in failing(panel)
    panel.controls["go_on"].value = False
    finish(panel)
    assert len(panel.candidates.entries) == 3
    panel.choose_candidate(2)
    picked = panel.result.latents[2].code
    panel.controls["go_on"].value = True
    finish(panel)
    assert torch.equal(panel.job.iterator.base.code[:1], picked)
    assert (panel.job.iterator.base.code[1:] - picked).abs().min() > 0
