"""The blending panel in JupyterLab with the bundled networks: draw a mask, run, move a weight, keep, save, load."""

from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from staff.benchmarks.jupyter_driver import Lab, write_notebook

pytestmark = [pytest.mark.browser, pytest.mark.long]
PANEL_OUTPUT = ".jp-OutputArea-output:has(progress)"
OUTPUT = Path(__file__).resolve().parents[2] / "output" / "browser"

SETUP = """
import tempfile
import torch
from helpers.features import load_features
from helpers.generators import load_generator
from helpers.photos import demo_cat
from helpers.widgets.blending import BlendingPanel

generator, features = load_generator("stylegan2-cats-64"), load_features()
code = generator.map(generator.sample("z", 1, seed=2), truncation=0.7)
drawn = generator.synthesize(code, generator.fresh_noise(1, seed=5)).clamp(0, 1)
"""
PANEL = """
photos = {"chelsea": demo_cat(64), "drawn": drawn}
panel = BlendingPanel(generator, features, photos, out=tempfile.mkdtemp(), steps=60, noise_steps=40)
panel
"""


def test_a_blend_by_mouse(tmp_path):
    with Lab(write_notebook(tmp_path / "blend.ipynb", SETUP, PANEL)) as lab:
        lab.run_all()
        assert lab.kernel("panel.mask.mean().item()") == pytest.approx(0.5, abs=0.01)
        lab.stroke([(0.7, 0.2), (0.8, 0.8)], ".stage")
        lab.until(lambda: lab.kernel("panel.controls['shape'].value") == "drawn", "the stroke was not heard")
        assert lab.kernel("panel.mask.mean().item()") > 0.52
        lab.screenshot(OUTPUT / "blending-panel-drawn.png", PANEL_OUTPUT)
        lab.press("Start")
        lab.until(lambda: lab.kernel("panel.job is not None and len(panel.job.history) > 3"), "no step was taken")
        lab.drag("match outside", 1.0)
        lab.until(lambda: lab.kernel("panel.job.iterator.weights['second']") == 100, "the weight did not reach the run")
        lab.until(lambda: lab.kernel("panel.job.state") == "finished", "the run did not end")
        lab.until(lambda: lab.kernel("len(panel.history.entries)") == 1, "the result was not kept")
        lab.screenshot(OUTPUT / "blending-panel.png", PANEL_OUTPUT)
        path = lab.kernel("str(panel.save('safetensors'))")
        lab.kernel("[panel.canvas.clear(), None][1]")
        assert lab.kernel("panel.mask.mean().item()") == 0
        lab.kernel(f"[panel.load({path!r}), None][1]")
        assert lab.kernel("panel.mask.mean().item()") > 0.52
        assert lab.errors == []
