"""Every lesson in JupyterLab: all cells run, then its panel is drawn on, started, stopped and reloaded.

One lesson at a time: ``-k 04``. ``BROWSER_TESTS=idle`` also holds Stop to half a second, which a busy machine cannot.
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from tests.support.jupyter_driver import UNTIDY, Lab, needs_browser
from tests.support.waiting import until

opt_in = pytest.mark.skipif("BROWSER_TESTS" not in os.environ, reason="takes minutes; set BROWSER_TESTS=1 to run it")
pytestmark = [pytest.mark.browser, needs_browser, opt_in]
ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "output" / "browser"
OUT = ".jp-OutputArea-output:has(button:text-is('Stop'))"
STAGE = ".drawing-canvas .stage"
FINGERPRINT = """[panel.state().images['image'].sum().item(), panel.state().settings,
    *[int(c.rgba().astype(int).sum()) for c in panel.canvases.values()],
    *([panel.state().latents.code.sum().item()] if panel.state().latents else [])]"""


@dataclass(frozen=True)
class Lesson:
    """Kind of film; settings of runs that are stopped, and of the one that is photographed, its strokes and page."""

    film: str = "gif"
    quick: str = "{}"
    steps: str = "{}"
    paint: tuple = ()
    tab: str = "Before / after"


PAINTED = ([(0.5, 0.4), (0.8, 0.4)], [(0.5, 0.5), (0.8, 0.5)])
MASKED = ([(0.2, 0.4), (0.8, 0.4)], [(0.5, 0.4), (0.5, 0.7)])
LESSONS = {
    "01_inversion": Lesson("mp4"),
    "02_noise_optimization": Lesson(steps="{'steps': 200}", paint=PAINTED),
    "03_image2stylegan_pp_blending": Lesson(steps="{'steps': 100, 'noise_steps': 100}", paint=MASKED),
    "04_sketch_to_image": Lesson(quick="{'starts': 4}", tab="Candidates"),
    "05_neural_style_transfer": Lesson(quick="{'size': 64}"),
}


@pytest.fixture(scope="module", params=LESSONS)
def lab(request):
    """The notebook's copy after Run All; the copy, because a reload saves it."""
    copy = OUTPUT / "lessons" / f"{request.param}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "notebooks" / copy.name, copy)
    with Lab(copy, timeout=1800, height=1100) as lab:
        started = time.monotonic()
        lab.run_all()
        print(f"{copy.stem}: Run All took {time.monotonic() - started:.0f} s")
        lab.name, lab.lesson, lab.reloaded = copy.stem, LESSONS[copy.stem], False
        yield lab


def start(lab):
    """A fresh run of many steps, some of which were taken and shown."""
    lab.kernel(f"[panel.set({{'steps': 500, **{lab.lesson.quick}}})]")
    lab.press("Start")
    until(lambda: lab.kernel("panel.job.latest is not None and len(panel.job.history) > 2"), "no step was taken")
    until(lambda: lab.page.locator(f"{OUT} img[alt^='step ']").count(), "no step is shown")


def stop(lab):
    """Press Stop; the seconds until the last step is shown."""
    started = time.monotonic()
    lab.press("Stop")
    until(lambda: lab.page.locator(f"{OUT} img[alt='best result']").count(), "Stop did nothing")
    return time.monotonic() - started


def test_all_cells_ran_and_no_widget_is_empty(lab):
    assert not lab.page.locator(".jupyter-widgets-error-widget, .jp-OutputArea-output.jp-mod-error").count()
    outputs = lab.page.locator(".jp-OutputArea-output.lm-Panel:not(:empty)")  # empty are progress bars that were closed
    assert outputs.count() and outputs.evaluate_all("all => all.every((e) => e.offsetHeight > 4)")
    assert lab.page.evaluate(UNTIDY) == [] and "Traceback" not in lab.page.inner_text("body")


def test_a_picture_of_a_whole_run(lab):
    """Paint, run to the end, and look: this is the image in the README."""
    if lab.lesson.paint:
        canvas = "[*panel.canvases.values()][0]"
        lab.kernel(f"[setattr({canvas}, 'brush', {canvas}.size[0] / 5), setattr({canvas}, 'feather', 1.0)]")
        lab.page.locator(".drawing-canvas button:text-is('Clear')").click()
        until(lambda: not lab.kernel(f"bool({canvas}.rgba().any())"), "Clear did nothing")
        for points in lab.lesson.paint:
            lab.stroke(points, STAGE)
        until(lambda: lab.kernel(f"bool({canvas}.rgba().any())"), "the paint is not heard")
    lab.kernel(f"[panel.set({lab.lesson.steps})]")
    lab.press("Start")
    until(lambda: lab.page.locator(f"{OUT} img[alt='best result']").count(), "the run does not end", 300)
    assert lab.kernel("panel.job.state") == "finished"
    lab.tab(lab.lesson.tab)
    lab.page.set_viewport_size({"width": 1280, "height": 1900})  # all of the panel on one page
    lab.page.locator(OUT).first.scroll_into_view_if_needed()
    lab.screenshot(OUTPUT / f"panel-{lab.name}.png", OUT)
    lab.page.set_viewport_size({"width": 1280, "height": 1100})
    lab.press("Reset")


def test_its_panel_keeps_a_result(lab):
    """After strokes: run, keep, look: history, files, state; and all of it again after a reload of the page."""
    start(lab)
    seconds = stop(lab)
    assert lab.kernel("panel.job.state") == "stopped"
    assert os.environ.get("BROWSER_TESTS") != "idle" or seconds < 0.5
    until(lambda: lab.kernel("len(panel.history.entries) > 0"), "the result was not kept")
    lab.tab("Before / after")
    lab.page.locator(f"{OUT} img[alt='before | after']").wait_for()
    lab.tab("Save")
    lab.press(lab.lesson.film.upper())
    until(lambda: lab.page.locator(f"{OUT} a[download$='.{lab.lesson.film}']").count(), "no film was written")
    lab.press("State")
    link = lab.page.locator(f"{OUT} a[download$='.safetensors']")
    link.wait_for()
    with lab.page.expect_download() as download:
        link.click()
    file = OUTPUT / "lessons" / f"{lab.name}.safetensors"
    shutil.copy(download.value.path(), file)
    fingerprint = FINGERPRINT.replace("\n", " ")
    image, settings, *others = lab.kernel(fingerprint)
    lab.press("Reset")
    lab.kernel("[c.clear() for c in panel.canvases.values()]")
    lab.reload()
    lab.reloaded = True
    lab.page.locator(f"{OUT} img").first.wait_for()
    lab.tab("Save")
    lab.choose_file("Load state", file)
    until(lambda: lab.page.locator(f"{OUT} img[alt='restored']").count(), "the image did not come back")
    same, found, *again = lab.kernel(fingerprint)
    assert [same, *again] == pytest.approx([image, *others], rel=1e-5) and found == settings
    start(lab)  # it continues
    stop(lab)
    lab.tab("History")
    lab.screenshot(OUTPUT / f"panel-{lab.name}-history.png", OUT)
