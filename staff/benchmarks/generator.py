"""Generator forward and backward against the machine's convolutions, and how time and memory grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.ticker import LogLocator
from torch import Tensor

from helpers.device import free_memory
from helpers.features import load_features
from helpers.figures import COLOURS, Figure, results_table, save_figure
from helpers.files import write_json
from helpers.generators import StyleGAN2
from helpers.inversion import Inversion, project
from helpers.latents import Latents
from helpers.memory import OVERHEAD, PeakOfTensors, step_memory, without_data
from helpers.search import Phase
from staff.benchmarks.common import circumstances
from staff.benchmarks.full_size import PeakMemory, official_size
from staff.benchmarks.plain import grouped_synthesis

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GROUPED = "grouped convolutions, float32"
PEAK_CHANNELS, PEAK_SIDES = 256, (32, 64)


def shortest(function: Callable[[], object], device: torch.device, seconds: float = 2.0, least: int = 3) -> float:
    """Shortest time of several calls after one that is not counted, because other load can only add to it."""
    times = []
    while len(times) <= least or (sum(times) < seconds and len(times) < 30):
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def convolution_peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a 3x3 convolution of 256 channels, at the better of two sizes."""
    weight = torch.randn(PEAK_CHANNELS, PEAK_CHANNELS, 3, 3, device=device, dtype=dtype)
    weight, found = weight.contiguous(memory_format=torch.channels_last), []
    for side in PEAK_SIDES:
        x = torch.randn(1, PEAK_CHANNELS, side, side, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            seconds = shortest(lambda x=x: F.conv2d(x, weight, padding=1), device, 0.5)
        found.append(2 * weight.numel() * side**2 / seconds)
    return max(found)


def step_flops(generator: StyleGAN2) -> float:
    """Operations of the convolutions of one sample, forward and backward to the latents, without inserted zeros."""
    total = 0
    for _, layer in generator.synthesis.layers():
        side = layer.noise_const.shape[0] // (2 if layer.up else 1)
        total += layer.weight.numel() * side**2
    for r in generator.synthesis.resolutions:
        total += getattr(generator.synthesis, f"b{r}").torgb.weight.numel() * r**2
    return 2 * 2 * total


def forward_backward(generator: StyleGAN2, batch: int, grouped: bool = False) -> Callable[[], None]:
    """A function that renders a batch of images and takes the gradient with respect to w+."""
    code = generator.sample("w+", batch, seed=1).requires_grad_()

    def run() -> None:
        image = grouped_synthesis(generator, code) if grouped else generator.synthesize(Latents("w+", code))
        image.sum().backward(inputs=[code])

    return run


def speed_rows(resolution: int, batches: Sequence[int], device: torch.device, grouped: bool) -> list[dict]:
    """Milliseconds, FLOP/s and share of the peak: of the grouped convolutions in float32, or of both our precisions."""
    generator, rows = official_size(resolution, device, keep=not grouped), []
    for name, dtype in {GROUPED: torch.float32}.items() if grouped else PRECISIONS.items():
        generator.dtype, peak = dtype, convolution_peak(dtype, device)
        for batch in batches:
            row = {"resolution": resolution, "batch": batch, "way": name}
            needed, free = needed_memory(generator, batch, grouped), free_memory(device)
            if needed > free:
                rows.append(row | {"not_run": f"needs {needed:.0f} GB, {free:.0f} GB are free"})
                continue
            seconds = shortest(forward_backward(generator, batch, grouped), device, 1.0, 2)
            rate = batch * step_flops(generator) / seconds
            row |= {"ms": 1000 * seconds, "gflops": rate / 1e9, "peak_gflops": peak / 1e9}
            rows.append(row | {"percent_of_peak": 100 * rate / peak})
    return rows


def against_grouped(rows: Sequence[dict]) -> list[dict]:
    """The rows by size and batch, each with how many times faster it is than the grouped convolutions."""
    grouped = {(row["resolution"], row["batch"]): row.get("ms") for row in rows if row["way"] == GROUPED}
    found = []
    for row in sorted(rows, key=lambda row: (row["resolution"], row["batch"])):
        theirs = grouped.get((row["resolution"], row["batch"]))
        found.append(row | ({"times_grouped": theirs / row["ms"]} if theirs and "ms" in row else {}))
    return found


def needed_memory(generator: StyleGAN2, batch: int, grouped: bool) -> float:
    """GB that forward and backward take, about, counted on tensors without data."""
    run = forward_backward(without_data(generator), batch, grouped)
    with PeakOfTensors() as tensors:
        run()
    return OVERHEAD * tensors.peak / 2**30


def speed_plot(rows: Sequence[dict]) -> Figure:
    """Operations per second of each way as bars grouped by size and batch; dashes mark the peaks."""
    groups = list(dict.fromkeys((row["resolution"], row["batch"]) for row in rows))
    figure = Figure(figsize=(1.6 + 1.3 * len(groups), 3.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, colour) in enumerate(zip((GROUPED, *PRECISIONS), COLOURS, strict=False)):
        for row in (row for row in rows if row["way"] == name and "gflops" in row):
            x = groups.index((row["resolution"], row["batch"])) + 0.27 * (number - 1)
            first = x < 0.5
            axes.bar(x, row["gflops"], 0.25, color=colour, label=name if first else None)
            axes.plot(
                [x - 0.13, x + 0.13],
                [row["peak_gflops"]] * 2,
                "--",
                color="#444",
                label="peak" if number == 0 and first else None,
            )
            axes.annotate(f"{row['percent_of_peak']:.0f} %", (x, row["gflops"]), ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(groups)), [f"{side} px\nbatch {batch}" for side, batch in groups])
    axes.set(ylabel="GFLOP/s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure


# --- growth ----------------------------------------------------------------------------------------------------------


def growth_row(generator: StyleGAN2, features, batch: int, steps: int, device: torch.device) -> dict:
    """Seconds and memory of an inversion of one phase; the memory above what the process had."""
    target = torch.rand(batch, 3, generator.resolution, generator.resolution, device=device)
    with PeakMemory(device) as before:
        pass
    search = Inversion(generator, target, features=features, steps=steps, phases=(Phase("w+", 1.0, 0.2),))
    with PeakMemory(device) as peak:
        for _ in search:
            pass
    return {"seconds": search.seconds, "memory_gb": peak.gb - (0 if device.type == "cuda" else before.gb)}


def growth(
    device: torch.device, resolutions: Sequence[int], batches: Sequence[int], steps: Sequence[int]
) -> list[dict]:
    """Rows of time and memory over one quantity at a time, with what arithmetic predicts from the first of each."""
    features, rows = load_features("vgg19-slim", device), []
    for name, values in (("resolution", resolutions), ("batch", batches), ("steps", steps), ("targets", batches)):
        first = None
        for value in values:
            generator = official_size(value if name == "resolution" else 64, device)
            count = value if name == "batch" else 1
            number = value if name == "steps" else 4
            if name == "targets":
                row = one_by_one(generator, features, value, number, device)
            else:
                row = growth_row(generator, features, count, number, device)
            work = step_flops(generator) * count * number * (value if name == "targets" else 1)
            first = first or (row["seconds"] / work, value)
            row |= {"predicted_seconds": first[0] * work, "predicted_gb": _step_gb(generator, count)}
            rows.append({"over": name, "value": value, **row})
    return rows


def _step_gb(generator: StyleGAN2, batch: int) -> float:
    """GB of a step without the weights, which are already loaded."""
    weights = sum(p.numel() * p.element_size() for p in generator.parameters())
    return step_memory(generator, "w+", batch) - weights / 2**30


def one_by_one(generator: StyleGAN2, features, targets: int, steps: int, device: torch.device) -> dict:
    """Targets one after the other: time grows with their number, memory must not grow."""
    rows = [growth_row(generator, features, 1, steps, device) for _ in range(targets)]
    return {"seconds": sum(row["seconds"] for row in rows), "memory_gb": rows[-1]["memory_gb"]}


def growth_plot(rows: Sequence[dict]) -> Figure:
    """Time and memory over each quantity, measured (dots) and predicted (lines)."""
    names = list(dict.fromkeys(row["over"] for row in rows))
    figure = Figure(figsize=(3.1 * len(names), 5.2), dpi=100, layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        part = [row for row in rows if row["over"] == name]
        values = [row["value"] for row in part]
        for line, (measured, predicted, label) in enumerate(
            (("seconds", "predicted_seconds", "seconds"), ("memory_gb", "predicted_gb", "GB"))
        ):
            axis = axes[line, column]
            axis.plot(values, [row[predicted] for row in part], color=COLOURS[1], label="predicted")
            axis.plot(values, [row[measured] for row in part], "o", color=COLOURS[0], label="measured")
            axis.set(xscale="log", xlabel=name, ylabel=label if column == 0 else "", xticks=values)
            axis.set_xticks(values, [str(v) for v in values])
            if line:
                axis.set_ylim(bottom=0)
            else:
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
            axis.grid(True, color="#e4e4e4")
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def batch_rows(device: torch.device, count: int, steps: int) -> list[dict]:
    """Inversions of as many photos one after the other and together: seconds, memory, ratio."""
    from helpers.generators import load_generator

    generator, features = load_generator("stylegan2-cats-64", device), load_features("vgg19-slim", device)
    photos = torch.cat([_samples(generator, seed) for seed in range(count)])
    rows = []
    for name, chunk in (("one after the other", 1), ("together", count)):
        started = time.perf_counter()
        with PeakMemory(device) as peak:
            for part in photos.split(chunk):
                project(generator, part, "w+", features=features, steps=steps)
        seconds = time.perf_counter() - started
        rows.append({"photos": count, "way": name, "steps": steps, "seconds": seconds, "process_peak_gb": peak.gb})
    return [row | {"times_faster": rows[0]["seconds"] / row["seconds"]} for row in rows]


@torch.no_grad()
def _samples(generator, seed: int) -> Tensor:
    return generator.synthesize(Latents("w+", generator.sample("w+", 1, seed))).clamp(0, 1)


def run_speed(
    out: str | Path, device: torch.device, resolutions: Sequence[int], batches: Sequence[int] = (1, 8), photos: int = 32
) -> str:
    """Write ``generator.json`` and ``generator.png`` as they grow; return the tables as text."""
    report = {"circumstances": circumstances(device), "speed": [], "together": []}
    for grouped in (True, False):  # first what is compared with, as from then on the process keeps its memory
        for resolution in resolutions:
            found = speed_rows(resolution, batches, device, grouped)
            report["speed"] = against_grouped(report["speed"] + found)
            write_json(Path(out) / "generator.json", report)
    save_figure(speed_plot(report["speed"]), Path(out) / "generator.png")
    report["together"] = batch_rows(device, photos, 50)
    write_json(Path(out) / "generator.json", report)
    return "\n\n".join(results_table(report[part]) for part in ("speed", "together"))


def run_growth(out: str | Path, device: torch.device, quick: bool = False) -> str:
    """Write ``growth.json`` and ``growth.png``; return the table as text."""
    resolutions, batches, steps = (
        ((64, 128), (1, 2), (2, 4)) if quick else ((64, 128, 256, 512, 1024), (1, 2, 4, 8, 16), (2, 4, 8, 16))
    )
    rows = growth(device, resolutions, batches, steps)
    write_json(Path(out) / "growth.json", {"circumstances": circumstances(device), "growth": rows})
    save_figure(growth_plot(rows), Path(out) / "growth.png")
    return results_table(rows)
