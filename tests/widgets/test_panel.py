"""The parts of panels without a browser, over a small iterator of our own."""

import threading
import time
from dataclasses import dataclass

import ipywidgets as widgets
import pytest
import torch

from helpers import masks
from helpers.images import read_image
from helpers.latents import Latents
from helpers.states import StateError, load_state
from helpers.widgets import BeforeAfter, Gallery, RunBox, RunPanel, drawing_canvas, dropdown, int_slider, log_slider
from helpers.widgets.panel import FRAMES, LATEST
from helpers.widgets.parts import choose, compare_html, download_html, settings_code

PATIENCE = 60  # seconds


@dataclass
class Step:
    number: int
    total: torch.Tensor
    parts: dict
    run: object

    def images(self):
        return torch.full((self.run.batch, 3, 8, 8), self.number / 100)


class Run:
    """Counts up to ``steps``; its images grow lighter, its latents are the number of the step."""

    def __init__(self, steps=20, weights=None, batch=1, seed=0):
        self.steps, self.weights, self.batch, self.seed = steps, dict(weights or {}), batch, seed
        self.number, self.forgotten = 0, 0

    def __len__(self):
        return self.steps

    def __iter__(self):
        while self.number < self.steps:
            time.sleep(0.002)
            self.number += 1
            parts = {name: torch.full((self.batch,), 1 / self.number) for name in self.weights}
            total = sum((self.weights[name] * value for name, value in parts.items()), torch.zeros(1))
            yield Step(self.number, total, parts, self)

    def forget_best(self):
        self.forgotten += 1

    def result(self):
        step = Step(self.number, None, {}, self)
        step.latents = Latents("z", torch.full((self.batch, 4), float(self.number)))
        step.images = step.images()
        return step


@pytest.fixture
def canvas():
    canvas = drawing_canvas(size=8)
    canvas.set_mask(masks.half(8))
    return canvas


@pytest.fixture
def make(tmp_path, canvas):
    made = []

    def make(**options):
        controls = {"kind": dropdown("kind", ["a", "b"]), "steps": int_slider("steps", 20, 1, 5000)}
        panel = RunPanel(
            lambda settings: Run(settings["steps"], settings.get("weights"), options.pop("batch", 1)),
            controls,
            **{
                "weights": {"l1": 1.0, "tv": 0.1},
                "presets": {"rough": {"tv": 0.0, "kind": "b"}},
                "reference": lambda: torch.full((1, 3, 8, 8), 0.3),
                "canvases": {"mask": canvas},
                "call": "Run(generator)",
                "model": "counter",
                "out": tmp_path,
                **{name: value for name, value in options.items() if name != "batch"},
            },
        )
        made.append(panel)
        return panel

    yield make
    for panel in made:
        panel.close()


def run(panel):
    panel.start()
    assert panel.job.wait(PATIENCE) and panel.job.error is None
    return panel.box._frame()[0]


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


# --- run box ---------------------------------------------------------------------------------------------------------


def test_a_box_needs_an_iterator_only():
    box = RunBox(Run)
    assert box.result is None and box.state == "ready" and "Press Start" in box.view.html
    box.start()
    assert box.job.wait(PATIENCE)
    html = box._frame()[0]
    assert box.result.number == 20 and "finished" in html and "PSNR" not in html and html.count("<img") == 1
    assert box.view.html == html and not box.view.running


def test_the_box_shows_the_reference_and_the_psnr():
    box = RunBox(Run, reference=lambda: torch.full((1, 3, 8, 8), 0.3))
    assert box.view.html.count("<img") == 1
    box.start()
    box.job.wait(PATIENCE)
    html = box._frame()[0]
    assert html.count("<img") == 2 and "PSNR 20." in html  # 0.2 against 0.3, in 8 bits


def test_the_box_keeps_few_frames_of_the_whole_way():
    box = RunBox(lambda: Run(5 * FRAMES))
    for step in Run(5 * FRAMES):
        box._keep(step.images())
    assert FRAMES // 2 <= len(box.frames) <= FRAMES
    levels = [frame.mean().item() for frame in box.frames]
    assert levels == sorted(levels) and levels[0] < 0.05 and levels[-1] > 5 * FRAMES / 100 - 0.2


def test_a_long_step_does_not_hold_the_page():
    """The answer is at once that there is no picture yet; later it is there."""
    go_on = threading.Event()

    class Slow(Run):
        def __iter__(self):
            for step in super().__iter__():
                yield step
                go_on.wait(PATIENCE)

    box = RunBox(Slow)
    box.start()
    until(box.job.latest)
    html, again = box._frame()
    assert html is None and 0 < again < 0.5 and box.alive
    go_on.set()
    assert box.job.wait(PATIENCE) and "best result" in box._frame()[0]


# --- panel -----------------------------------------------------------------------------------------------------------


def test_the_settings_are_the_controls(make):
    panel = make()
    assert panel.settings == {"kind": "a", "steps": 20, "weights": {"l1": 1.0, "tv": 0.1}}
    assert make(weights=None, presets=None).settings == {"kind": "a", "steps": 20}


def test_presets_and_reset(make):
    panel = make()
    panel.set({"steps": 7, "weights": {"l1": 0.3}, "unknown": 1})
    assert panel.settings == {"kind": "a", "steps": 7, "weights": {"l1": 0.3, "tv": 0.1}}
    panel.set(panel.presets["rough"])
    assert panel.settings == {"kind": "b", "steps": 7, "weights": {"l1": 0.3, "tv": 0.0}}
    panel.set(panel.presets["Reset"])
    assert panel.settings == make().settings


def test_a_weight_reaches_the_running_iterator_and_nothing_else_may_change(make):
    panel = make()
    panel.set({"steps": 5000})
    panel.start()
    until(panel.job.latest)
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


def test_weights_of_a_criterion_change_too(make):
    class Criterion:
        weights = {"l1": 1.0}

    class Other(Run):
        def __init__(self):
            super().__init__(5000)
            del self.weights
            self.criterion = Criterion()

        def __iter__(self):
            for number in range(5000):
                time.sleep(0.002)
                yield Step(number, torch.ones(1), {}, self)

    panel = make()
    panel.make = lambda settings: Other()
    panel.start()
    until(panel.job.latest)
    panel.controls["l1"].value = 2.0
    until(lambda: Criterion.weights["l1"] == 2.0)


def test_history_goes_back_to_settings_drawing_and_picture(make, canvas):
    panel = make()
    run(panel)
    first, shown = panel.state(), canvas.mask()
    panel.set({"steps": 40, "l1": 5.0})
    canvas.clear()
    canvas.feather = 1.0
    run(panel)
    assert len(panel.history.entries) == len(panel.history.children) == 2
    assert panel.state().latents.code.mean() == 40
    panel.history.children[0].children[1].click()
    assert panel.settings["steps"] == 20 and panel.settings["weights"]["l1"] == 1.0
    assert torch.equal(canvas.mask(), shown) and canvas.feather == 0.0
    assert "restored" in panel.view.html
    assert torch.equal(panel.state().latents.code, first.latents.code)  # not the last run's
    run(panel)
    assert panel.state().latents.code.mean() == 20 and len(panel.history.entries) == 3


def test_candidates_are_chosen_from_a_batch(make):
    panel = make(batch=3)
    run(panel)
    assert len(panel.candidates.children) == 3 and panel.chosen == 0
    panel.candidates.children[2].children[1].click()
    assert panel.chosen == 2 and "no. 2" in panel.view.html
    run(panel)
    assert panel.candidates.children == () and panel.chosen == 0  # of one image


def test_before_and_after_follow_the_result(make):
    panel = make()
    assert "Nothing" in panel.compare.view.value
    run(panel)
    shown = panel.compare.view.value
    assert shown.count("<img") == 2
    panel.compare.slider.value = 0.25
    assert "75.0%" in panel.compare.view.value != shown
    panel.compare.zoom.value = 3.0
    assert "width:300%" in panel.compare.view.value


def test_the_code_is_what_the_settings_are(make):
    panel = make()
    panel.set({"kind": "b", "tv": 0.5})
    called = {}
    eval(panel.code.value, {"Run": lambda generator, **settings: called.update(settings), "generator": None})
    assert called == panel.settings


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_state_file_loads_again(make, canvas):
    panel = make()
    run(panel)
    canvas.feather = 0.5
    path = panel.save("safetensors")
    assert path.name in panel.saved.value and "data:" in panel.saved.value
    state, metadata = load_state(path)
    assert metadata["model"] == "counter" and torch.equal(state.pictures["mask"], canvas.mask())
    panel.set({"kind": "b", "steps": 3})
    canvas.clear()
    canvas.feather = 0.0
    panel.load(path)
    assert panel.settings["kind"] == "a" and panel.settings["steps"] == 20 and canvas.feather == 0.5
    assert torch.equal(canvas.mask(), state.pictures["mask"]) and len(panel.history.entries) == 2
    again = panel.save("safetensors")
    assert torch.equal(load_state(again)[0].latents.code, state.latents.code)


def test_a_run_whose_end_no_browser_sees_is_not_lost(make, tmp_path):
    panel = make()
    panel.start()
    panel.view.frame()  # the last question before the browser is closed
    assert panel.job.wait(PATIENCE) and panel.result.number == 20
    assert not panel.history.entries and panel.view.running  # nothing has told the widgets
    kept = load_state(tmp_path / LATEST)[0]  # for a kernel that is restarted, or a cell that is run again
    assert kept.latents.code[0, 0] == 20 and kept.settings["steps"] == 20
    panel.view.frame()  # the page is opened again
    assert "finished" in panel.view.html and not panel.view.running and len(panel.history.entries) == 1


def test_a_run_that_is_closed_or_followed_by_another_keeps_its_best(make, tmp_path):
    panel = make()
    panel.set({"steps": 5000})
    panel.start()
    until(lambda: panel.job.latest() is not None)
    panel.close()  # as by a cell that is run again
    assert panel.job.state == "stopped"
    assert load_state(tmp_path / LATEST)[0].latents.code[0, 0] == panel.job.latest().number
    panel = make()
    panel.start()
    assert panel.job.wait(PATIENCE)
    panel.start()  # nobody saw the end of the first
    assert len(panel.history.entries) == 1


def test_a_state_that_cannot_be_written_is_told_and_the_result_stays(make, tmp_path):
    (tmp_path / "full").write_text("a file in the place of the folder")
    panel = make(out=tmp_path / "full")
    run(panel)
    assert "full" in panel.message.value and panel.result.number == 20 and len(panel.history.entries) == 1


def test_an_uploaded_state_is_loaded(make):
    panel = make()
    run(panel)
    content = panel.save("safetensors").read_bytes()
    panel.set({"steps": 3})
    panel._receive({"mine.safetensors": {"content": content}})
    assert panel.settings["steps"] == 20
    with pytest.raises(StateError, match="expected a state"):
        panel._receive({"mine.safetensors": {"content": b"nothing"}})


def test_pictures_and_films_are_written(make):
    panel = make()
    with pytest.raises(ValueError, match="press Start"):
        panel.save("png")
    run(panel)
    image = read_image(panel.save("png"), size=8)
    torch.testing.assert_close(image, panel.result.images, atol=0.01, rtol=0)
    panel.box.frames = [step.images() for step in Run(5)]
    assert panel.save("gif").read_bytes()[:3] == b"GIF"
    assert b"ftyp" in panel.save("mp4").read_bytes()[:16]


# --- parts -----------------------------------------------------------------------------------------------------------


def test_a_gallery_drops_its_oldest():
    clicked = []
    gallery = Gallery(clicked.append, most=2)
    for number in range(3):
        gallery.add(torch.rand(1, 3, 20, 300), f"<{number}>", number, hint='"')
    assert gallery.entries == [1, 2] and len(gallery.children) == 2
    gallery.children[1].children[1].click()
    assert clicked == [2] and "<2>" not in gallery.children[1].children[0].value
    gallery.clear()
    assert gallery.children == () and gallery.entries == []


def test_before_is_left_of_the_line():
    html = compare_html("a.png", "b.png", 0.25, 100)
    before = html[html.index("a.png") :]
    assert "inset(0 75.0% 0 0)" in before and "left:25.0%" in html
    part = BeforeAfter()
    part.show(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 16, 16))
    assert part.view.value.count("data:image/jpeg") == 2


@pytest.mark.parametrize(
    ("control", "value", "kept"),
    [
        (log_slider("l1", 1.0), 0.3, 0.3),
        (widgets.Dropdown(options=[("both", ("a", "b")), ("one", ("a",))]), ["a"], ("a",)),
        (widgets.Dropdown(options=["a", "b"]), "b", "b"),
        (int_slider("steps", 5, 1, 10), 7, 7),
    ],
)
def test_controls_take_values_as_json_has_them(control, value, kept):
    choose(control, value)
    assert control.value == kept


def test_code_names_what_it_cannot_write():
    code = settings_code("project(generator, target)", {"features": object(), "weights": {"l1": 1.0}, "rows": (1, 2)})
    assert "    generator, target,\n" in code and "features=features" in code and "rows=(1, 2)" in code
    names = {"project": lambda *args, **options: (args, options), "generator": 1, "target": 2, "features": 3}
    assert eval(code, names) == ((1, 2), {"features": 3, "weights": {"l1": 1.0}, "rows": (1, 2)})
    assert eval(settings_code("f()", {"a": 1}), {"f": lambda a: a}) == 1
    assert eval(settings_code("f(2).real", {"b": 1}), {"f": lambda a, b: a + b}) == 3


def test_a_download_holds_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"abc")
    assert "data:image/png;base64,YWJj" in download_html(tmp_path / "a.png")
