"""Interaction measured in a real browser: slider to new image, live view next to a run, Stop, bytes per stroke."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch

from helpers.figures import results_table
from helpers.files import write_json
from staff.benchmarks.common import circumstances
from staff.benchmarks.jupyter_driver import Lab, write_notebook
from staff.benchmarks.slow_link import SlowLink

SIZES = (64, 256, 512)
LINKS = {"local": None, "120 ms, 8 Mbit/s": {"delay": 0.12, "rate": 8e6}}
STROKE = [(0.2, 0.25), (0.75, 0.3), (0.3, 0.7), (0.7, 0.75)]

SETUP = """
import time, torch
from helpers.features import load_features
from helpers.generators import StyleGAN2, load_generator
from helpers.latents import Latents
from helpers.photos import demo_cat
from helpers.widgets.canvas import DrawingCanvas
from helpers.widgets.inversion import InversionPanel
from helpers.widgets.sliders import interpolation_slider

def generator_of(size):
    if size == 64:
        return load_generator("stylegan2-cats-64")
    torch.manual_seed(0)  # untrained, as wide at each resolution as its time needs: 16 channels at the last
    net = StyleGAN2(size, z_dim=256, w_dim=256, mapping_layers=4, channel_base=16 * size, channel_max=128)
    net.eval().requires_grad_(False).compute_statistics(100)
    return net

def slider_of(size):
    generator = generator_of(size)
    slider = interpolation_slider(generator, *(Latents("w", generator.sample("w", 1, seed)) for seed in (1, 2)))
    slider.generator = generator
    slider.controls[0].step = 0.005  # every stop is a new image: the slider keeps those it has drawn
    slider.add_class(f"slider-{size}")
    return slider

def canvas_of(size):
    canvas = DrawingCanvas(demo_cat(size))
    canvas.add_class(f"canvas-{size}")
    return canvas
"""
PANEL = """
generator, features = load_generator("stylegan2-cats-64"), load_features("vgg19-slim")
panel = InversionPanel({"stylegan2": generator}, features, {"cat": demo_cat(64)}, steps=1000)
panel.add_class("panel")
panel
"""
SLIDE = """async ([selector, moves]) => {  // milliseconds from a key on the slider to the painted picture
    const root = document.querySelector(selector), handle = root.querySelector(".noUi-handle"), times = [];
    const frame = () => new Promise(requestAnimationFrame);
    handle.scrollIntoView({block: "center"});
    handle.focus();
    for (let i = 0; i < moves; i++) {
        const old = root.querySelectorAll("img")[1].src, from = performance.now();
        handle.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
        while (root.querySelectorAll("img")[1].src === old) {
            if (performance.now() - from > 30000) throw new Error("no new picture");
            await frame();
        }
        await root.querySelectorAll("img")[1].decode();
        await frame();
        times.push(performance.now() - from);
    }
    return times; }"""  # noqa: E501
WATCH = """async ([selector, seconds]) => {  // pictures that were shown; observed, as asking would cost the run
    const root = document.querySelector(selector);
    let count = 0, last = "";
    const watch = new MutationObserver(() => {
        const image = root.querySelector("img");
        if (image && image.src !== last) { count += 1; last = image.src; }
    });
    watch.observe(root, {childList: true, subtree: true});
    await new Promise((done) => setTimeout(done, 1000 * seconds));
    watch.disconnect();
    return count / seconds; }"""
STOP = """async (selector) => {  // milliseconds from the click on Stop to the best result
    const root = document.querySelector(selector), started = performance.now();
    [...root.querySelectorAll("button")].find((button) => button.textContent === "Stop").click();
    while (!root.querySelector("img[alt='best result']")) {
        if (performance.now() - started > 60000) throw new Error("Stop did nothing");
        await new Promise(requestAnimationFrame);
    }
    return performance.now() - started; }"""
BARE = """[(lambda run, started: (sum(1 for _ in run), time.perf_counter() - started)[1] / len(run))(
    panel.make({**panel.settings, "steps": 60}), time.perf_counter())]"""


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of the values lies; the nearest of them."""
    return sorted(values)[min(len(values) - 1, round(share * (len(values) - 1)))]


def slider_row(lab: Lab, size: int, link: str, moves: int) -> dict:
    """Milliseconds from the slider's move to the painted picture, and what of it the generator takes."""
    times = lab.page.evaluate(SLIDE, [f".slider-{size}", moves + 2])[2:]  # the first two pictures warm up
    code = f"(lambda s, g, t: (g(), [g() for _ in range(9)], time.perf_counter() - t)[2] / 10)(slider_{size}, " \
           f"lambda: slider_{size}.generator.synthesize(slider_{size}.latents), time.perf_counter())"  # fmt: skip
    return {
        "link": link, "pixels": size, "p50_ms": statistics.median(times), "p95_ms": percentile(times, 0.95),
        "generator_ms": 1000 * lab.kernel(code),
    }  # fmt: skip


def stroke_row(lab: Lab, size: int) -> dict:
    """Bytes that one stroke sends to the kernel, the whole message, and how many messages."""
    lab.sent.clear()
    lab.stroke(STROKE, f".canvas-{size} .stage", moves=40)
    lab.until(lambda: lab.kernel(f"canvas_{size}.mask().sum().item()") > 0, "the stroke did not arrive")
    messages = [text for text in lab.sent if "comm_msg" in text]
    return {"pixels": size, "messages": len(messages), "bytes_per_stroke": sum(map(len, messages))}


def live_row(lab: Lab, link: str, seconds: float, rounds: int = 4) -> dict:
    """Frames per second of the live view; speed of the watched inversion as a share of the bare one; Stop.

    The bare loop has its turn in pauses of the watched run, so that both meet the machine in the same state.
    """
    lab.kernel("[setattr(panel.controls['steps'], 'max', 10000), panel.set({'steps': 10000})]")
    shares, rates, paces = [], [], []
    for number in range(rounds):
        (bare,) = lab.kernel(BARE)
        lab.press("Continue" if number else "Start")
        lab.until(lambda: lab.kernel("panel.job.state == 'running' and len(panel.job.history) > 5"), "it does not run")
        before = lab.kernel("[len(panel.job.history), time.perf_counter()]")
        rates.append(lab.page.evaluate(WATCH, [".panel", seconds]))
        after = lab.kernel("[len(panel.job.history), time.perf_counter()]")
        lab.press("Pause")
        lab.until(lambda: lab.kernel("panel.job.state == 'paused'"), "no pause")
        paces.append((after[1] - before[1]) / (after[0] - before[0]))
        shares.append(bare / paces[-1])
    lab.press("Continue")
    waits = []
    for _ in range(5):
        lab.until(lambda: lab.kernel("panel.job.state == 'running' and len(panel.job.history) > 5"), "no start")
        waits.append(lab.page.evaluate(STOP, ".panel"))
        lab.press("Start")
    lab.page.evaluate(STOP, ".panel")
    return {
        "link": link, "frames_per_second": statistics.median(rates), "ms_per_step": 1000 * statistics.median(paces),
        "share_of_bare_speed": statistics.median(shares), "lowest_share": min(shares),
        "stop_ms": statistics.median(waits), "stop_ms_slowest": max(waits),
    }  # fmt: skip


def run(out: str | Path, device: torch.device, moves: int = 30, seconds: float = 4) -> str:
    """Measure; write ``interaction.json``; return the tables as text. Needs Chromium and playwright."""
    report = {"circumstances": circumstances(device), "slider": [], "live": [], "strokes": []}
    cells = [SETUP, *(f"{kind}_{size} = {kind}_of({size})\n{kind}_{size}" for kind in ("slider", "canvas")
                      for size in SIZES), PANEL]  # fmt: skip
    for name, link in LINKS.items():
        with tempfile.TemporaryDirectory() as folder:
            through = None if link is None else lambda port, link=link: SlowLink(port, **link)
            with Lab(write_notebook(Path(folder) / "interaction.ipynb", *cells), through=through) as lab:
                lab.run_all()
                report["slider"] += [slider_row(lab, size, name, moves) for size in SIZES]
                if link is None:
                    report["strokes"] = [stroke_row(lab, size) for size in SIZES]
                report["live"].append(live_row(lab, name, seconds))
        write_json(Path(out) / "interaction.json", report)
    return "\n\n".join(results_table(rows) for rows in report.values() if isinstance(rows, list))
