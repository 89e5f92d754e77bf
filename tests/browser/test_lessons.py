"""Every lesson in JupyterLab: all cells run, every widget is there, and its panel starts and stops by mouse."""

import json
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from helpers.benchmarks.jupyter_driver import Lab

pytestmark = [pytest.mark.browser, pytest.mark.long]
ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "output" / "browser"
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
PANEL = ".jp-OutputArea-output:has(button:text-is('Start'))"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lesson(notebook):
    before = notebook.read_bytes()
    with Lab(notebook, timeout=1800) as lab:
        lab.run_all()
        assert not lab.page.locator(".jupyter-widgets-error-widget").count()
        assert lab.page.evaluate(
            "() => [...document.querySelectorAll('.jp-OutputArea-output.jupyter-widgets')].every(e => e.offsetHeight)"
        )
        if "_panel(" in "".join(map(str, json.loads(before)["cells"])):
            panel = lab.page.locator(PANEL).first
            panel.scroll_into_view_if_needed()
            lab.press("Start")
            lab.until(lambda: lab.kernel("len(panel.job.history)") > 3, "no step was taken")
            titles = panel.locator("img").evaluate_all("images => images.map((image) => image.alt)")
            lab.until(lambda: "step" in panel.inner_text(), f"no step is shown, but {titles}")
            lab.press("Stop")
            lab.until(lambda: "best is kept" in panel.inner_text(), "Stop did nothing")
            assert lab.kernel("panel.job.state") == "stopped" and lab.kernel("panel.job.error is None")
        lab.screenshot(OUTPUT / f"{notebook.stem}.png", PANEL)
        assert lab.errors == []
    assert notebook.read_bytes() == before  # without outputs and widget state
