"""Memory and speed of the w+ and the noise stage at the size of the official models, whose weights are not needed."""

from __future__ import annotations

import ctypes
import gc
import time
from pathlib import Path

import psutil
import torch

from helpers.device import DeviceError, free_memory, keep_freed_memory
from helpers.features import load_features
from helpers.figures import results_table
from helpers.files import write_json
from helpers.generators import LARGE, StyleGAN2
from helpers.inversion import Inversion
from helpers.latents import Latents
from helpers.noise import noise_inversion
from helpers.search import Phase
from staff.benchmarks.common import circumstances

GB = 2**30
STRENGTH = 0.1  # noise strength: a new network has 0, so that no map would have any effect
ADAM_EPS = 1e-8
CHANNEL_BASE = {1024: 32768, 512: 32768, 256: 16384}  # official models (config F)
SETTINGS = {
    "float32": {},
    "float32, checkpointing": {"checkpointing": True},
    "bfloat16": {"dtype": torch.bfloat16},
    "bfloat16, checkpointing": {"dtype": torch.bfloat16, "checkpointing": True},
}


def official_size(resolution: int, device: torch.device, keep: bool = True) -> StyleGAN2:
    """A StyleGAN2 of the official configuration with random weights, always the same.

    keep: the memory of its activations is kept, as ``load_generator`` does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2(resolution, channel_base=CHANNEL_BASE.get(resolution, 16384))
    for strength in generator.noise_strengths:
        strength.data.fill_(STRENGTH)
    if keep and resolution >= LARGE:
        keep_freed_memory()
    generator.compute_statistics(1000)
    return generator.to(device).eval().requires_grad_(False)


class PeakMemory:
    """Peak of the memory in use within a ``with`` block, in GB (2^30 bytes): ``gb``.

    On a GPU that of tensors on it; on a CPU that of the whole process, sampled by the kernel (Linux; elsewhere the
    peak since the process began).
    """

    def __init__(self, device: torch.device):
        self.device, self.gb = torch.device(device), 0.0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif Path("/proc/self/clear_refs").exists():
            if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
                libc.malloc_trim(0)  # what was freed before, but kept for the next allocation, would count
            Path("/proc/self/clear_refs").write_text("5")  # the kernel's word for: forget the peak
        return self

    def __exit__(self, *_) -> None:
        if self.device.type == "cuda":
            self.gb = torch.cuda.max_memory_allocated(self.device) / GB
            return
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
        self.gb = (peak or psutil.Process().memory_info().rss) / GB


def stages(generator: StyleGAN2, features, steps: int) -> dict:
    """The two searches for an image that the generator drew itself, in batches of one."""
    with torch.no_grad():
        target = generator.synthesize(generator.sample("w", 1, seed=1), generator.fresh_noise(1, seed=2)).clamp(0, 1)
    start = Latents("w+", generator.mean("w+"))
    one_phase = (Phase("w+", 1.0, 0.2),)
    return {
        "w+": Inversion(generator, target, "w+", features=features, steps=steps, phases=one_phase),
        "noise": noise_inversion(generator, target, start, steps=steps),
    }


def time_steps(search, device: torch.device) -> tuple[float, float]:
    """Seconds per step, without the first where there are several, and the peak memory in GB."""
    times = [time.perf_counter()]
    with PeakMemory(device) as peak:
        for _ in search:
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter())
    skipped = min(1, len(times) - 2)
    return (times[-1] - times[skipped]) / (len(times) - 1 - skipped), peak.gb


def small_gradients(search) -> dict:
    """Sizes of the gradient of the maps after a step, and how much of it Adam's eps would swallow in a mean."""
    gradient = torch.cat([p.grad.flatten() for p in search.runs[-1].parameters]).abs()
    mean = gradient / search.runs[-1].scale
    return {
        "median_gradient_sum": gradient.median().item(),
        "median_gradient_mean": mean.median().item(),
        "percent_below_eps_sum": 100 * (gradient < ADAM_EPS).float().mean().item(),
        "percent_below_eps_mean": 100 * (mean < ADAM_EPS).float().mean().item(),
    }


def run(out: str | Path, device: torch.device, resolution: int = 1024, steps: int = 3, need_gb: float = 12.0) -> str:
    """Measure every setting; write ``full_size.json`` as it grows; return the tables as text.

    Raises DeviceError unless ``need_gb`` are free.
    """
    if free_memory(device) < need_gb:
        raise DeviceError(
            f"{need_gb:g} GB of free memory are needed on {device}, but there are {free_memory(device):.1f}; "
            "take a smaller --resolution and --need-gb."
        )
    out, features, generator = Path(out), load_features(device=device), official_size(resolution, device)
    about = circumstances(device) | {"resolution": resolution, "features": features.name, "steps": steps}
    report = {"circumstances": about, "rows": [], "gradient": []}
    for setting, changes in SETTINGS.items():
        generator.dtype, generator.checkpointing = changes.get("dtype", torch.float32), "checkpointing" in changes
        for stage, search in stages(generator, features, steps).items():
            seconds, peak = time_steps(search, device)
            row = {"setting": setting, "stage": stage, "peak_gb": peak, "steps_per_second": 1 / seconds}
            report["rows"].append(row)
            if stage == "noise" and not changes:
                report["gradient"].append({"stage": stage} | small_gradients(search))
            write_json(out / "full_size.json", report)
            del search
    return "\n\n".join(results_table(report[part]) for part in ("rows", "gradient"))
