"""The base of all panels without a browser, over a small iterator of our own."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from helpers import masks
from helpers.images import read_image
from helpers.latents import Latents
from helpers.states import load_state
from helpers.widgets.canvas import DrawingCanvas
from helpers.widgets.panel import FRAMES, LATEST, RunPanel
from helpers.widgets.parts import control
from tests.support.waiting import PATIENCE, begin, finish, until


class Run:
    """Counts up to ``steps``; its images grow lighter, its latents are the number of the step."""

    def __init__(self, steps=20, weights=None, batch=1):
        self.steps, self.weights, self.batch, self.number, self.forgotten = steps, dict(weights or {}), batch, 0, 0

    def __len__(self):
        return self.steps

    def __iter__(self):
        while self.number < self.steps:
            time.sleep(0.002)
            self.number += 1
            parts = {name: torch.full((self.batch,), 1 / self.number) for name in self.weights}
            yield SimpleNamespace(number=self.number, parts=parts, total=torch.ones(self.batch), images=self.images)

    def images(self):
        return torch.full((self.batch, 3, 8, 8), self.number / 100)

    def forget_best(self):
        self.forgotten += 1

    def result(self):
        latents = Latents("z", torch.full((self.batch, 4), float(self.number)))
        return SimpleNamespace(images=self.images(), latents=latents, number=self.number)


class Bare(RunPanel):
    """A panel of an iterator alone."""

    run = Run

    def make(self, settings):
        return self.run()


class Panel(RunPanel):
    presets = {"rough": {"tv": 0.0, "kind": "b"}}
    batches = 1

    def __init__(self, out, **values):
        controls = {"kind": control("kind", ["a", "b"]), "steps": control("steps", (1, 5000), 20)}
        self.canvas = DrawingCanvas(size=8)
        self.canvas.set_mask(masks.half(8))
        weights, canvases = {"l1": 1.0, "tv": 0.1}, {"mask": self.canvas}
        super().__init__(controls, weights, canvases=canvases, out=out, values=values)

    def make(self, settings):
        return Run(settings["steps"], settings["weights"], self.batches)

    def reference(self):
        return torch.full((1, 3, 8, 8), 0.3)


@pytest.fixture
def panel(tmp_path):
    return Panel(tmp_path)


@pytest.fixture
def bare(tmp_path):
    return Bare({}, out=tmp_path)


def test_a_panel_needs_an_iterator_only(bare):
    assert bare.job is None and bare.result is None and "Press Start" in bare.view.html and not bare.view.running
    html = finish(bare)
    assert bare.result.number == 20 and "finished" in html and "PSNR" not in html and html.count("<img") == 1
    assert bare.view.html == html and not bare.view.running and repr(bare).startswith("Bare(")  # as a cell asks


def test_the_browser_is_answered_with_the_reference_the_psnr_and_the_curve(panel):
    canvas, run = panel.children[0].children  # both are seen at once, above the controls
    assert run.children[0].children[0] is panel.buttons["start"] and panel.view in run.children
    assert canvas.children == (panel.canvas,) and panel.controls["kind"] in panel.children[1].children[0].children
    assert panel.view.html.count("<img") == 1
    sent = []
    panel.view.send = lambda content, buffers=None: sent.append(content)
    panel.start()
    assert panel.job.wait(PATIENCE) and panel.view.running
    panel.view._handle_custom_msg({"ask": "view"}, [])
    (answer,) = sent
    assert answer["ask"] == "view" and answer["wait"] > 0
    assert answer["html"].count("<img") == 2 and "<svg" in answer["html"]
    assert "PSNR 20." in answer["html"]  # 0.2 against 0.3, in 8 bits


def test_few_frames_of_the_whole_run_are_kept_and_a_long_step_does_not_hold_the_page(bare):
    run = Run(5 * FRAMES)
    job = SimpleNamespace(state="running", alive=True, error=None, iterator=run, seconds=1.0, history=[{}])
    for step in run:
        job.latest = step
        bare._draw(job)
    assert FRAMES // 2 <= len(bare.frames) <= FRAMES
    levels = [frame.mean().item() for frame in bare.frames]
    assert levels == sorted(levels) and levels[0] < 0.05 and levels[-1] > 5 * FRAMES / 100 - 0.2
    proceed = threading.Event()

    class Slow(Run):
        def __iter__(self):
            for step in super().__iter__():
                yield step
                proceed.wait(PATIENCE)

    bare.run = Slow
    bare.start()
    until(lambda: bare.job.latest)
    html, again = bare._frame()
    assert html is None and 0 < again < 0.5 and bare.alive
    proceed.set()
    assert bare.job.wait(PATIENCE) and "best result" in bare._frame()[0]


def test_an_error_in_the_thread_or_while_drawing_is_shown(panel, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of <memory>")

    with monkeypatch.context() as patch:
        patch.setattr(panel, "make", broken)
        panel.start()
        assert panel.job.wait(PATIENCE)
        html = panel._frame()[0]
    assert "RuntimeError: out of &lt;memory&gt;" in html and "Traceback" not in html
    assert panel.result is None and not panel.buttons["start"].disabled and not panel.view.running
    monkeypatch.setattr("helpers.widgets.html.psnr", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in finish(panel)
    panel.guard(lambda: print("<careful>"))  # what a callback prints would vanish too
    assert "&lt;careful&gt;" in panel.message.value


def test_pause_continue_and_stop(panel):
    begin(panel, 5000)
    panel.buttons["pause"].click()
    job, number = panel.job, panel.result.number  # asked between two steps
    assert "paused" in panel._frame()[0] and panel.buttons["start"].description == "Continue"
    panel.buttons["start"].click()
    until(lambda: job.latest.number > number)
    assert panel.job is job and panel.buttons["start"].description == "Start"
    panel.buttons["stop"].click()
    assert job.wait(PATIENCE) and job.state == "stopped" and "the best is kept" in panel._frame()[0]
    assert panel.result.number == len(job.history) < 5000 and panel.buttons["stop"].disabled


def test_the_settings_are_the_controls_with_presets_and_reset(panel, tmp_path):
    assert panel.settings == {"kind": "a", "steps": 20, "weights": {"l1": 1.0, "tv": 0.1}}
    other = Panel(tmp_path, kind="b", tv=0.3)  # between two stops
    assert other.settings == {"kind": "b", "steps": 20, "weights": {"l1": 1.0, "tv": 0.3}}
    stops = [value for _, value in other.controls["tv"].options]
    assert stops == sorted(stops) and len(stops) == 15
    with pytest.raises(ValueError, match="the controls are kind, steps, l1, tv; got step"):
        Panel(tmp_path, step=3)
    panel = Panel(tmp_path, steps=9)
    first = panel.settings
    panel.set({"steps": 7, "weights": {"l1": 0.3}, "unknown": 1})
    panel.set(panel.presets["rough"])
    assert panel.settings == {"kind": "b", "steps": 7, "weights": {"l1": 0.3, "tv": 0.0}}
    panel.set(panel.presets["Reset"])
    assert panel.settings == first and first["steps"] == 9


def test_a_weight_reaches_the_running_iterator_and_nothing_else_may_change(panel):
    begin(panel, 5000)
    assert panel.controls["kind"].disabled and not panel.controls["l1"].disabled
    panel.controls["l1"].value = 10.0
    panel.set({"kind": "b"})
    assert panel.settings["kind"] == "a"
    until(lambda: panel.job.iterator.weights["l1"] == 10.0)
    assert panel.job.iterator.forgotten == 1
    with pytest.raises(ValueError, match="press Stop"):
        panel.restore(panel.state())
    panel.stop()
    until(lambda: not panel.controls["kind"].disabled)
    assert panel.history.entries  # what was stopped is kept


def test_history_goes_back_to_settings_drawing_and_image(panel):
    canvas = panel.canvas
    finish(panel)
    shown = canvas.mask()
    panel.set({"steps": 40, "l1": 5.0})
    canvas.clear()
    canvas.feather = 1.0
    finish(panel)
    assert len(panel.history.entries) == 2 and panel.state().latents.code.mean() == 40
    panel.history.children[0].children[1].click()
    assert panel.settings["steps"] == 20 and panel.settings["weights"]["l1"] == 1.0
    assert torch.equal(canvas.mask(), shown) and canvas.feather == 0.0 and "restored" in panel.view.html
    assert panel.state().latents.code.mean() == 20  # not the last run's
    finish(panel)
    assert panel.state().latents.code.mean() == 20 and len(panel.history.entries) == 3


def test_candidates_are_chosen_from_a_batch_and_compared(panel):
    assert "Nothing" in panel.compare.view.value
    panel.batches = 3
    finish(panel)
    assert [entry.children[1].description for entry in panel.candidates.children] == ["no. 1", "no. 2", "no. 3"]
    panel.candidates.children[2].children[1].click()
    assert "no. 3" in panel.view.html and "<img" in panel.compare.view.value
    panel.batches = 1
    finish(panel)
    assert panel.candidates.children == ()


def test_the_state_file_loads_again_and_images_and_films_are_written(panel):
    canvas = panel.canvas
    with pytest.raises(ValueError, match="press Start"):
        panel.save("png")
    finish(panel)
    image = read_image(panel.save("png"), size=8)
    torch.testing.assert_close(image, panel.result.images, atol=0.01, rtol=0)
    canvas.feather = 0.5
    path = panel.save("safetensors")
    assert path.name in panel.saved.value and "data:" in panel.saved.value
    state, _ = load_state(path)
    assert torch.equal(state.images["mask"], canvas.mask())
    panel.set({"kind": "b", "steps": 3})
    canvas.clear()
    canvas.feather = 0.0
    panel._receive({"mine.safetensors": {"content": path.read_bytes()}})
    assert panel.settings["kind"] == "a" and panel.settings["steps"] == 20 and canvas.feather == 0.5
    assert torch.equal(canvas.mask(), state.images["mask"]) and len(panel.history.entries) == 2
    again = panel.save("safetensors")
    assert torch.equal(load_state(again)[0].latents.code, state.latents.code)
    with pytest.raises(ValueError, match="expected a state"):
        panel._receive({"mine.safetensors": {"content": b"nothing"}})
    panel.frames = [step.images() for step in Run(5)]
    assert panel.save("gif").read_bytes()[:3] == b"GIF"
    assert b"ftyp" in panel.save("mp4").read_bytes()[:16]


def test_a_run_whose_end_no_browser_sees_is_not_lost(panel, tmp_path):
    panel.start()
    panel._frame()  # the last question before the browser is closed
    assert panel.job.wait(PATIENCE) and panel.result.number == 20
    assert not panel.history.entries and panel.view.running  # nothing has told the widgets
    kept = load_state(tmp_path / LATEST)[0]  # for a kernel that is restarted, or a cell that is run again
    assert kept.latents.code[0, 0] == 20 and kept.settings["steps"] == 20
    panel._frame()  # the page is opened again
    assert "finished" in panel.view.html and not panel.view.running and len(panel.history.entries) == 1


def test_a_run_that_is_closed_or_whose_state_cannot_be_written_keeps_its_best(panel, tmp_path):
    panel.start()
    assert panel.job.wait(PATIENCE)
    begin(panel, 5000)  # nobody saw the end of the first
    assert len(panel.history.entries) == 1
    panel.close()  # as by a cell that is run again
    assert panel.job.wait(PATIENCE) and panel.job.state == "stopped"
    assert load_state(tmp_path / LATEST)[0].latents.code[0, 0] == panel.job.latest.number
    (tmp_path / "full").write_text("a file instead of the folder")
    panel = Panel(tmp_path / "full")
    panel.start()
    assert panel.job.wait(PATIENCE) and panel.job.state == "finished" and "full" in panel._frame()[0]
    assert panel.result.number == 20 and len(panel.history.entries) == 1
