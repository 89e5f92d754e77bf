"""Panels without a browser: jobs, the panel's buttons pressed from code, uploads, and the fall-back of core widgets."""

import base64
import datetime
import importlib
import io
import math
import random
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

import helpers
from helpers.features import FeatureConfig, Features
from helpers.generators import DCGAN, StyleGAN2, load_generator
from helpers.inversion import Inversion, project
from helpers.latents import Latents, LatentsError, interpolate
from helpers.widgets import Job, interpolation_slider, inversion_panel, loss_curve, photo_upload, truncation_slider
from helpers.widgets.inversion import RANGE
from helpers.widgets.live import Pace, PlayView
from helpers.widgets.parts import log_options
from helpers.widgets.pictures import figure_html, jpeg_url

PATIENCE = 120  # seconds: until a thread that does not come is given up
WEIGHTS = {"l1": 1.0, "perceptual": 1.0, "delta": 0.0}
LAYERS = ("conv1_2", "conv2_2", "conv3_2")


@pytest.fixture(scope="module")
def generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = StyleGAN2(resolution=16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=16)
    net.eval().requires_grad_(False)
    net.compute_statistics(100)
    return net


@pytest.fixture(scope="module")
def features():
    net, rng = Features(FeatureConfig((4, 4, 4), (2, 2, 2))), torch.Generator().manual_seed(1)
    for conv in net.convs:
        torch.nn.init.kaiming_normal_(conv.weight, generator=rng)
        torch.nn.init.zeros_(conv.bias)
    return net


@pytest.fixture(scope="module")
def target(generator):
    return generator.synthesize(generator.sample("w", 1, seed=3)).clamp(0, 1)


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    if Job.current is not None:
        Job.current.stop(PATIENCE)
    assert [t.name for t in threading.enumerate() if t.name == "job"] == []


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def counting(record=lambda number: number, gate=None):
    """A job that counts up to 100,000; it goes on only while the gate is open."""

    def numbers():
        for number in range(1, 100_001):
            if gate is not None:
                gate.wait(PATIENCE)
            time.sleep(0.0005)
            yield number

    return Job(numbers, record)


# --- job -------------------------------------------------------------------------------------------------------------


def test_a_job_runs_to_its_end_in_another_thread():
    threads = []

    def numbers():
        for number in range(5):
            threads.append(threading.current_thread())
            yield number

    job = Job(numbers, record=lambda number: 10 * number)
    assert (job.state, job.latest(), job.alive) == ("ready", None, False)
    job.start()
    assert job.wait(PATIENCE)
    assert (job.state, job.latest(), job.history) == ("finished", 4, [0, 10, 20, 30, 40])
    assert threading.current_thread() not in threads


def test_stop_ends_it_at_once_and_keeps_the_last_step():
    job = counting()
    job.start()
    until(job.latest)
    assert job.stop(PATIENCE)
    assert job.state == "stopped" and 1 <= job.latest() == len(job.history) < 100_000


def test_a_pause_halts_it_and_start_goes_on():
    job = counting()
    job.start()
    until(job.latest)
    job.pause()
    assert job.call(lambda: None).result(PATIENCE) is None  # the step under way has ended
    number = job.latest()
    time.sleep(0.05)
    assert (job.state, job.latest()) == ("paused", number)
    job.start()
    until(lambda: job.latest() > number)
    assert job.history[: number + 1] == list(range(1, number + 2))


def test_a_paused_job_can_be_stopped():
    job = counting()
    job.start()
    until(job.latest)
    job.pause()
    assert job.stop(PATIENCE) and job.state == "stopped"


@pytest.mark.parametrize("steps", [0, 2])
def test_an_exception_is_kept(steps):
    def numbers():
        if not steps:
            raise ValueError("no start")
        yield from range(steps)
        raise ValueError("no end")

    job = Job(numbers, record=int)
    job.start()
    assert job.wait(PATIENCE)
    assert job.state == "failed" and isinstance(job.error, ValueError) and len(job.history) == steps


def test_calls_are_made_between_steps_in_order_and_after_the_end():
    state = {"in step": False}

    def numbers():
        for number in range(100_000):
            state["in step"] = True
            time.sleep(0.001)
            state["in step"] = False
            yield number

    job = Job(numbers, record=int)
    job.start()
    calls = [job.call(lambda i=i: (state["in step"], threading.current_thread().name, i)) for i in range(20)]
    assert [call.result(PATIENCE) for call in calls] == [(False, "job", i) for i in range(20)]
    job.stop(PATIENCE)
    assert job.call(lambda: "late").result(PATIENCE) == "late"
    with pytest.raises(ZeroDivisionError):
        job.call(lambda: 1 / 0).result(PATIENCE)


def test_starting_one_job_stops_the_other():
    first, second = counting(), counting()
    first.start()
    until(first.latest)
    second.start()
    assert first.wait(PATIENCE) and first.state == "stopped" and second.alive


@pytest.mark.parametrize("enabled", [True, False])
def test_the_thread_has_the_grad_mode_of_its_maker(enabled):
    with torch.set_grad_enabled(enabled):
        job = Job(lambda: (torch.is_grad_enabled() for _ in range(1)), record=bool)
    job.start()
    job.wait(PATIENCE)
    assert job.history == [enabled]


def test_the_thread_has_the_autocast_of_its_maker():
    def dtype():
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    with torch.autocast("cpu", torch.bfloat16):
        job = Job(lambda: (dtype() for _ in range(1)), record=str)
    job.start()
    job.wait(PATIENCE)
    assert job.history == ["torch.bfloat16"] and dtype() == torch.float32


# --- job over an inversion -------------------------------------------------------------------------------------------


def test_an_inversion_as_a_job_is_the_inversion(generator, features, target):
    with torch.no_grad():
        job = Job(lambda: Inversion(generator, target, "w+", features=features, weights=WEIGHTS, steps=12))
        job.start()
    job.wait(PATIENCE)
    assert job.error is None
    direct = project(generator, target, "w+", features=features, weights=WEIGHTS, steps=12)
    result = job.iterator.result()
    torch.testing.assert_close(result.latents.code, direct.latents.code)
    assert [losses["total"] for losses in job.history] == pytest.approx(direct.history["total"][:, 0].tolist())
    assert set(job.history[0]) == {"l1", "perceptual", "total"}


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_jpeg_url_holds_the_picture(target):
    head, data = jpeg_url(target).split(",")
    assert head == "data:image/jpeg;base64"
    pixels = torch.from_numpy(_pixels(base64.b64decode(data)))
    assert (pixels / 255 - target[0].permute(1, 2, 0)).abs().mean() < 0.03


def _pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.float32)


def curve_points(svg):
    """Colour to points of every line of a loss curve, gaps as None."""
    lines = {}
    for path in ElementTree.fromstring(svg).iter("path"):
        if path.get("fill") == "none":
            strokes = [stroke.split("L") for stroke in path.get("d").split("M")[1:]]
            lines[path.get("stroke")] = [[tuple(map(float, p.split())) for p in stroke] for stroke in strokes]
    return list(lines.values())


def test_the_loss_curve_is_logarithmic():
    ((line,),) = curve_points(loss_curve([{"l1": value} for value in (10.0, 1.0, 0.1)]))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and x1 > x0
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2) and y1 > y0  # downwards on the screen


def test_the_loss_curve_has_gaps_where_there_is_no_loss():
    history = [{"l1": 1.0}, {"l1": math.nan, "perceptual": 2.0}, {"l1": 0.5, "perceptual": 0.0}, {"l1": 0.2}]
    l1, perceptual = curve_points(loss_curve(history))
    assert [len(stroke) for stroke in l1] == [1, 2]
    assert [len(stroke) for stroke in perceptual] == [1]


def test_the_loss_curve_of_a_long_run_stays_short_and_ends_at_the_end():
    history = [{"l1": 1 / (i + 1), "total": 2 / (i + 1)} for i in range(5000)]
    svg = loss_curve(history, width=400)
    assert len(svg) < 20_000
    assert curve_points(svg)[0][0][-1][0] == pytest.approx(392)


@pytest.mark.parametrize("history", [[], [{}], [{"l1": 0.0}], [{"l1": 1.0}], [{"<&>": 1.0}]])
def test_the_loss_curve_of_nearly_nothing_is_a_picture_too(history):
    assert ElementTree.fromstring(loss_curve(history)).tag == "svg"


def test_titles_cannot_bring_markup():
    assert "<script" not in figure_html('"><script>', "data:,", 10)


def test_log_sliders_begin_at_zero():
    values = [value for _, value in log_options(-2, 0)]
    assert values == pytest.approx([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])
    assert log_options(-6, 0)[1] == ("1e-06", 1e-6)


# --- panel -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["anywidget", "core widgets"])
def panel(request, generator, features, target, monkeypatch):
    if request.param == "core widgets":
        monkeypatch.setattr("helpers.widgets.live.anywidget", None)
    vanilla = DCGAN(z_dim=8, conv_dim=2).eval().requires_grad_(False)
    photos = {"a": target, "b": target.flip(-1)}
    panel = inversion_panel({"StyleGAN2": generator, "DCGAN": vanilla}, features, photos, space="w", steps=20)
    assert isinstance(panel.view, PlayView) == (request.param == "core widgets")
    yield panel
    panel.close()


def ask(panel):
    """What the browser does when it has painted a frame."""
    if isinstance(panel.view, PlayView):
        panel.view.clock.value += 1
        return panel.view.html
    sent = []
    panel.view.send = lambda content, buffers=None: sent.append(content)
    panel.view._handle_custom_msg({"ask": "view"}, [])
    assert sent[0]["ask"] == "view" and sent[0]["wait"] >= 100
    return sent[0]["html"]


def run(panel):
    panel.buttons["start"].click()
    assert panel.job.wait(PATIENCE) and panel.job.error is None
    return ask(panel)


def test_a_panel_that_nobody_touches_does_nothing(panel):
    assert panel.job is None and panel.result is None and not panel.view.running
    assert panel.view.html.count("<img") == 1  # the target
    assert threading.active_count() == 1 or Job.current is None


def test_the_panel_runs_and_its_settings_run_without_it(panel):
    html = run(panel)
    assert "finished" in html and html.count("<img") == 2 and "<svg" in html
    assert not panel.view.running and panel.view.html == html
    direct = project(panel.generator, panel.target, **panel.settings)
    torch.testing.assert_close(panel.result.latents.code, direct.latents.code)
    torch.testing.assert_close(panel.result.images, direct.images)
    assert panel.result.steps == 20 and panel.result.latents.space == "w"


def test_the_settings_are_what_the_controls_say(panel, features):
    values = {"space": "w+", "l1": 10.0, "perceptual": 0.5, "layers": ("conv2_1",), "delta": 1e-6}
    for name, value in {**values, "start": "best", "lr": 0.2, "seed": 7}.items():
        panel.controls[name].value = value
    assert panel.settings == {
        "space": "w+", "weights": {"l1": 10.0, "perceptual": 0.5, "delta": 1e-6}, "layers": ("conv2_1",), "steps": 20,
        "start": "best", "optimizer": "adam", "lr": 0.2, "seed": 7, "features": features,
    }  # fmt: skip
    panel.controls["layers"].value = RANGE
    assert panel.controls["convs"].layout.display is None
    panel.controls["convs"].value = (1, 2)
    assert panel.settings["layers"] == (1, 2) and "convs" not in panel.settings
    panel.controls["layers"].value = ("conv2_1",)
    assert panel.controls["convs"].layout.display == "none"


def test_a_range_of_layers_and_another_optimizer_run(panel):
    panel.set({"layers": RANGE, "convs": [1, 2], "optimizer": "lbfgs", "steps": 10})
    assert "finished" in run(panel)
    assert panel.job.iterator.criterion.layers == (1, 2) and panel.job.iterator.optimizer == "lbfgs"


def test_what_a_callback_prints_is_shown(panel):
    panel.box.guard(lambda: print("<careful>"))
    assert "&lt;careful&gt;" in panel.message.value
    panel.box.guard(lambda: None)
    assert panel.message.value == ""


def test_every_space_runs_from_its_first_start(panel):
    for model, space in (("DCGAN", "z"), ("StyleGAN2", "z"), ("StyleGAN2", "w+")):
        for name, value in {"model": model, "space": space, "steps": 10}.items():
            panel.controls[name].value = value
        run(panel)
        assert panel.result.latents.space == space


def test_first_values_may_lie_between_the_stops(generator, features, target):
    panel = inversion_panel({"G": generator}, features, {"a": target}, l1=0.3, start="sample", space="w", steps=123)
    assert panel.settings["weights"]["l1"] == 0.3 and panel.settings["start"] == "sample"
    values = [value for _, value in panel.controls["l1"].options]
    assert values == sorted(values) and len(values) == 15
    with pytest.raises(ValueError, match="the controls are model, space"):
        inversion_panel({"G": generator}, features, {"a": target}, step=3)


def test_stop_keeps_the_best_so_far(panel):
    panel.controls["steps"].value = 1000
    panel.buttons["start"].click()
    until(panel.job.latest)
    assert "step" in ask(panel) and panel.controls["space"].disabled and not panel.controls["l1"].disabled
    panel.buttons["stop"].click()
    assert panel.job.wait(PATIENCE) and panel.job.state == "stopped"
    assert "the best is kept" in ask(panel)
    steps, totals = panel.result.steps, [losses["total"] for losses in panel.job.history]
    assert steps == len(totals) < 1000
    assert panel.result.total.item() == pytest.approx(min(totals), rel=1e-4)
    assert not panel.controls["space"].disabled and panel.buttons["stop"].disabled


def test_pause_and_continue(panel):
    panel.controls["steps"].value = 1000
    panel.buttons["start"].click()
    until(panel.job.latest)
    panel.buttons["pause"].click()
    job, number = panel.job, panel.result.steps  # asked between two steps
    assert "paused" in ask(panel) and panel.buttons["start"].description == "Continue"
    panel.buttons["start"].click()
    until(lambda: job.latest().number > number)
    assert panel.job is job and panel.buttons["start"].description == "Start"


def test_a_weight_changed_under_way_changes_the_run(panel):
    panel.controls["steps"].value = 1000
    panel.buttons["start"].click()
    until(panel.job.latest)
    panel.buttons["pause"].click()
    old = panel.result.total.item()
    panel.controls["perceptual"].value = 100.0
    best = panel.result  # forgotten: the total of the same latents counts the new weight
    assert panel.job.iterator.criterion.weights["perceptual"] == 100.0
    assert best.total.item() == pytest.approx(best.parts["l1"].item() + 100 * best.parts["perceptual"].item(), rel=1e-4)
    assert best.total.item() > 2 * old
    number = panel.job.latest().number
    panel.buttons["start"].click()
    until(lambda: panel.job.latest().number > number + 1)
    after = panel.job.history[number]
    assert after["total"] == pytest.approx(after["l1"] + 100 * after["perceptual"], rel=1e-4)


def test_a_loss_switched_on_under_way_joins_the_curve(panel):
    panel.controls["steps"].value, panel.controls["perceptual"].value = 1000, 0.0
    panel.buttons["start"].click()
    until(panel.job.latest)
    panel.controls["perceptual"].value = 1.0
    until(lambda: "perceptual" in panel.job.history[-1])
    panel.buttons["stop"].click()
    assert "perceptual" not in panel.job.history[0] and "perceptual" in panel.result.parts
    assert "perceptual" in ask(panel)


def test_no_image_loss_is_refused_in_one_sentence(panel):
    panel.controls["l1"].value = 0.0
    assert panel.message.value == ""
    panel.controls["perceptual"].value = 0.0
    assert "nothing ties the result to the photo" in panel.message.value
    panel.controls["l1"].value = 1.0
    assert panel.message.value == ""


def test_an_error_in_the_thread_is_shown(panel, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of <memory>")

    monkeypatch.setattr("helpers.inversion.Criterion.__call__", broken)
    panel.buttons["start"].click()
    panel.job.wait(PATIENCE)
    html = ask(panel)
    assert "RuntimeError: out of &lt;memory&gt;" in html and "Traceback" not in html
    assert panel.result is None and not panel.buttons["start"].disabled and not panel.view.running


def test_an_error_while_drawing_is_shown(panel, monkeypatch):
    monkeypatch.setattr("helpers.widgets.panel.psnr", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in run(panel)


def test_an_encoder_can_give_the_start_where_there_is_one(features, target):
    stylegan, vanilla = load_generator("stylegan2-cats-64"), load_generator("dcgan-cats-64")
    panel = inversion_panel({"ours": stylegan, "plain": vanilla}, features, {"a": target}, steps=10)
    assert panel.controls["start"].options == ("mean", "best", "sample", "encoder")
    panel.set({"space": "w", "start": "encoder", "steps": 10})
    assert "finished" in run(panel) and isinstance(panel.job.iterator.start, Latents)
    for model, space in (("ours", "z"), ("plain", "z")):
        panel.set({"model": model, "space": space})
        assert "encoder" not in panel.controls["start"].options
    panel.close()


class Watched:
    """A run on a clock of its own: steps of 20 ms, more or less, of which those beside a frame take longer."""

    def __init__(self, cost, jitter=0.0):
        self.now, self.cost, self.jitter, self.marks, self.seconds_of_calls = 0.0, cost, jitter, [], 0.0
        self.random = random.Random(0)

    def frames(self, count):
        pace = Pace(self, lambda: self.now)
        for _ in range(count):
            wait = pace.wait(0.004)
            end, debt = self.now + wait, self.cost
            while self.now < end:
                slower = min(debt, 0.03)
                debt -= slower
                seconds = 0.02 + slower + self.random.uniform(-self.jitter, self.jitter)
                self.now += seconds
                self.marks.append((self.now, seconds))
            yield wait


@pytest.mark.parametrize("jitter", [0.0, 0.012])
def test_frames_take_a_small_share_of_a_run(jitter):
    watched = Watched(0.05, jitter)
    list(watched.frames(100))
    assert 0.91 < 0.02 * len(watched.marks) / watched.now < 0.97


@pytest.mark.parametrize("jitter", [0.0, 0.012])
def test_frames_that_cost_little_come_fast(jitter):
    waits = list(Watched(0.005, jitter).frames(100))
    assert sorted(waits)[len(waits) // 2] < 0.25 and max(waits) <= Pace.GAP


def test_spaces_are_those_of_the_model(panel):
    panel.controls["model"].value = "DCGAN"
    assert tuple(panel.controls["space"].options) == ("z",) and panel.settings["space"] == "z"
    assert panel.settings["start"] == "best" and "mean" not in panel.controls["start"].options
    assert panel.target.shape == (1, 3, 64, 64)
    panel.controls["model"].value = "StyleGAN2"
    assert tuple(panel.controls["space"].options) == ("w+", "w", "z") and panel.target.shape == (1, 3, 16, 16)


def test_another_target_is_shown_and_one_can_be_added(panel, target):
    first = panel.view.html
    panel.controls["target"].value = "b"
    assert panel.view.html != first
    torch.testing.assert_close(panel.target, target.flip(-1))
    panel.add_target("mine", target.flip(-2))
    torch.testing.assert_close(panel.target, target.flip(-2))
    assert tuple(panel.controls["target"].options) == ("a", "b", "mine")


def test_a_closed_panel_has_no_thread(panel):
    panel.controls["steps"].value = 1000
    panel.buttons["start"].click()
    until(panel.job.latest)
    panel.close()
    assert panel.job.wait(PATIENCE) and panel.job.state == "stopped"


def test_the_panel_of_a_cell_that_ran_again_stops_when_the_new_one_starts(panel, generator, features, target):
    panel.controls["steps"].value = 1000
    panel.buttons["start"].click()
    until(panel.job.latest)
    again = inversion_panel({"StyleGAN2": generator}, features, {"a": target}, steps=10)
    again.start()
    assert panel.job.wait(PATIENCE) and panel.job.state == "stopped"
    assert "the best is kept" in ask(panel)
    assert again.job.wait(PATIENCE) and again.job.state == "finished"


def test_a_panel_without_features_has_no_perceptual_loss(generator, target):
    panel = inversion_panel({"StyleGAN2": generator}, None, {"a": target}, space="w", steps=10)
    assert set(panel.settings["weights"]) == {"l1", "delta"}
    assert "finished" in run(panel)


def test_without_anywidget_the_core_widgets_serve(monkeypatch):
    monkeypatch.setattr(helpers, "widgets", helpers.widgets)  # the new import would stay in its place
    for name in [name for name in sys.modules if name.startswith("helpers.widgets")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    live = importlib.import_module("helpers.widgets.live")
    view = live.live_view(lambda: ("frame", 0.1))
    assert type(view) is live.PlayView and not view.running
    view.clock.value = 1
    assert view.html == ""  # the clock of a view that does not run asks for nothing
    view.running = True
    view.clock.value = 2
    assert view.html == "frame"


# --- interpolation ---------------------------------------------------------------------------------------------------


def test_the_interpolation_slider_shows_the_latents_between(generator):
    a, b = (Latents("w", generator.sample("w", 1, seed)) for seed in (0, 1))
    slider = interpolation_slider(generator, a, b)
    slider.slider.value = 0.3
    torch.testing.assert_close(slider.image, generator.synthesize(interpolate(a, b, 0.3)).clamp(0, 1))
    torch.testing.assert_close(slider.latents.code, torch.lerp(a.code, b.code, 0.3))
    shown = slider.view.value
    assert jpeg_url(slider.image) in shown
    slider.slider.value = 1.0
    assert slider.view.value != shown
    torch.testing.assert_close(slider.image, generator.synthesize(b).clamp(0, 1))


def test_the_interpolation_slider_renders_each_stop_once(generator, monkeypatch):
    a, b = (Latents("w", generator.sample("w", 1, seed)) for seed in (0, 1))
    slider = interpolation_slider(generator, a, b)
    slider.slider.value = 0.2
    monkeypatch.setattr(generator, "synthesize", lambda *_: pytest.fail("rendered again"))
    slider.slider.value = 0.5
    slider.slider.value = 0.2
    assert slider.t == 0.2


def test_two_spaces_cannot_be_interpolated(generator):
    with pytest.raises(LatentsError, match="one space"):
        interpolation_slider(generator, Latents("z", torch.zeros(1, 8)), Latents("w", torch.zeros(1, 8)))


def test_the_truncation_slider_shows_the_samples(generator):
    slider = truncation_slider(generator, n=3, seed=5)
    z = generator.sample("z", 3, 5)
    torch.testing.assert_close(slider.images, generator.synthesize(Latents("w", generator.map(z, 0.7))).clamp(0, 1))
    shown = slider.view.value
    slider.slider.value = 0.0
    mean = generator.synthesize(Latents("w", generator.mean("w"))).clamp(0, 1)
    torch.testing.assert_close(slider.images, mean.expand(3, -1, -1, -1))
    slider.seed.value, slider.slider.value = 6, 1.0
    full = generator.synthesize(Latents("w", generator.map(generator.sample("z", 3, 6)))).clamp(0, 1)
    torch.testing.assert_close(slider.images, full)
    assert slider.view.value != shown and jpeg_url(slider.images[1:2]) in slider.view.value
    with pytest.raises(ValueError, match="only z"):
        truncation_slider(DCGAN(z_dim=8, conv_dim=2).eval())


# --- upload ----------------------------------------------------------------------------------------------------------


def photo_bytes(width=40, height=30):
    """A picture whose red is the column and whose green is the row."""
    picture = Image.new("RGB", (width, height))
    picture.putdata([(5 * x % 256, 5 * y % 256, 0) for y in range(height) for x in range(width)])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def layout_7(content, name="me.png"):
    return {name: {"metadata": {"name": name, "type": "image/png", "size": len(content)}, "content": content}}


def layout_8(content, name="me.png"):
    return ({"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)},)


@pytest.fixture(params=[layout_7, layout_8])
def layout(request):
    return request.param


def test_an_uploaded_photo_is_cropped_to_its_centre(layout):
    upload = photo_upload(15)
    seen = []
    upload.observe(lambda change: seen.append(change["new"]), "image")
    assert upload.image is None and upload.view.value == ""
    upload.receive(layout(photo_bytes()))
    assert upload.box == (5, 0, 35, 30) and upload.image.shape == (1, 3, 15, 15)
    assert upload.image[0, 0].mean().item() == pytest.approx(5 * 19.5 / 255, abs=0.01)
    assert seen[-1] is upload.image and upload.view.value.count("<img") == 2


def test_the_crop_box_follows_the_sliders_and_stays_inside(layout):
    upload = photo_upload(10)
    upload.receive(layout(photo_bytes()))
    upload.sliders["size"].value = 10
    assert upload.box == (15, 10, 25, 20)  # about the middle
    upload.sliders["left"].value, upload.sliders["top"].value = 30, 20
    assert upload.box == (30, 20, 40, 30)
    torch.testing.assert_close(upload.image[0, 0, 0] * 255, 5.0 * torch.arange(30, 40))
    torch.testing.assert_close(upload.image[0, 1, :, 0] * 255, 5.0 * torch.arange(20, 30))
    upload.sliders["size"].value = 20
    assert upload.box == (20, 10, 40, 30)
    assert (upload.sliders["left"].max, upload.sliders["top"].max) == (20, 10)


def test_a_second_photo_of_another_size_replaces_the_first(layout):
    upload = photo_upload(16)
    upload.receive(layout(photo_bytes(50, 20)))
    upload.receive(layout(photo_bytes(12, 48)))
    assert upload.box == (0, 18, 12, 30) and upload.sliders["size"].max == 12


@pytest.mark.parametrize("content", [b"", b"no picture", photo_bytes(90, 90)[:200], photo_bytes(1, 1)])
def test_a_bad_upload_is_one_sentence_and_the_last_photo_stays(layout, content):
    upload = photo_upload(16)
    upload.receive(layout(photo_bytes()))
    kept = upload.image
    upload.receive(layout(content, "<b>bad</b>.png"))
    assert "&lt;b&gt;bad&lt;/b&gt;.png" in upload.message.value and "<b>" not in upload.message.value
    assert upload.image is kept
    upload.receive(layout(photo_bytes()))
    assert upload.message.value == ""


def test_the_upload_button_is_heard():
    upload = photo_upload(16)
    content = photo_bytes()
    if int(ipywidgets.__version__.split(".")[0]) >= 8:
        (file,) = layout_8(content)
        upload.button.value = ({**file, "last_modified": datetime.datetime.now(datetime.UTC)},)
    else:
        upload.button.set_trait("value", layout_7(content))
    assert upload.image.shape == (1, 3, 16, 16)


def test_a_default_photo_is_there_at_once(target):
    upload = photo_upload(8, default=target)
    assert upload.image.shape == (1, 3, 8, 8) and upload.box == (0, 0, 16, 16)
