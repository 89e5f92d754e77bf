"""What a sweep over so many photos takes: seconds and bytes of one job, measured where a worker would do it."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from helpers.device import pick_device
from helpers.figures import results_table
from helpers.files import write_json
from helpers.generators import load_generator
from helpers.images import write_image
from helpers.photos import demo_cat
from staff.benchmarks.common import circumstances
from staff.benchmarks.full_size import PeakMemory
from staff.sweep.tasks import TASKS, as_bytes

BATCH = 16
STYLE = Path(__file__).resolve().parents[2] / "data" / "styles" / "waves.jpg"
# name: task and options of one job, and the jobs of a chunk
WAYS: dict[str, tuple[dict, int]] = {
    "fast": ({"task": "invert", "fast": True}, BATCH),
    "w+": ({"task": "invert", "steps": 300}, BATCH),
    "noise": ({"task": "invert", "steps": 300, "noise_steps": 600}, BATCH),
    "style": ({"task": "style", "size": 256}, 1),
}
TITLES = {
    "fast": "w+, 100 steps from the encoder (`fast: true`)",
    "w+": "w+, 300 steps",
    "noise": "w+, 300 steps, then noise, 600",
    "style": "style transfer, 256 px",
    "grade": "grading, a submission of all lessons",
}
SCALES = ((10**3, 2), (10**5, 16), (10**6, 256))  # photos, and the cores that share them
BLOCK = 4096  # bytes: a file takes whole blocks


class SizingError(ValueError):
    """A way that does not exist."""


def inputs_of(task: str, count: int) -> list[dict[str, bytes]]:
    """Files of so many jobs; what a photo shows does not change how long it takes."""
    if task == "style":
        photo = as_bytes(lambda path: write_image(path, demo_cat(256)), ".png")
        return [{"content": photo, "style": STYLE.read_bytes()}] * count
    generator = load_generator("stylegan2-cats-64")
    with torch.no_grad():
        images = generator.synthesize(generator.sample("w", count, seed=1), generator.fresh_noise(count, seed=2)).clamp(
            0, 1
        )
    return [{"photo": as_bytes(lambda path, image=image: write_image(path, image[None]), ".png")} for image in images]


def measure_way(options: dict, count: int) -> dict:
    """One chunk of jobs on one thread, after a short one that loads the networks: means per photo, and the peak.

    Seconds are those of the processor, on a GPU those of the clock.
    """
    torch.set_num_threads(1)
    task = TASKS[options["task"]]
    data = inputs_of(options["task"], count)
    jobs = [options | dict.fromkeys(task.inputs.values(), f"{i:06d}.png") for i in range(count)]
    task.run([job | {"steps": 2} for job in jobs[:1]], data[:1])
    with PeakMemory(torch.device("cpu")) as memory:
        began, cpu = time.perf_counter(), time.process_time()
        results = task.run(jobs, data)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    files = [len(content) for result in results for content in result.files.values()]
    lines = [len(json.dumps(job | result.row)) + 120 for job, result in zip(jobs, results, strict=True)]  # key, names
    blocks = sum(-(-size // BLOCK) * BLOCK for size in files)
    if pick_device(None).type == "cpu":
        seconds = cpu  # the processor's own seconds, whatever else the machine does
    return {"seconds": seconds / count, "memory_gb": memory.gb} | {
        "kb": (blocks + sum(lines)) / count / 1000,
        "files": len(files) / count,
    }


def duration(seconds: float) -> str:
    """42 s, 50 min, 8.3 h or 12 days."""
    for unit, size in (("s", 1), ("min", 60), ("h", 3600)):
        if seconds < 100 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86400:.3g} days"


def size(kilobytes: float) -> str:
    """900 kB, 20 MB, 2 GB or 1.5 TB."""
    for unit in ("kB", "MB", "GB"):
        if kilobytes < 1000:
            return f"{kilobytes:.2g} {unit}" if kilobytes < 100 else f"{kilobytes:.0f} {unit}"
        kilobytes /= 1000
    return f"{kilobytes:.2g} TB"


def sizing(measured: dict[str, dict], scales: Sequence[tuple[int, int]] = SCALES) -> list[dict]:
    """A row per way: seconds and memory of one job, time of so many on so many cores, disk and files of the most.

    measured: by way ``seconds``, ``memory_gb``, ``kb`` (where known) and ``files`` of one job on one core. Jobs do not
        talk to each other, so the time is their seconds over the cores.
    """
    rows, most = [], max(jobs for jobs, _ in scales)
    for way, one in measured.items():
        row = {"job": TITLES[way], "seconds": f"{one['seconds']:.3g}", "memory": f"{one['memory_gb']:.1f} GB"}
        for jobs, cores in scales:
            head = f"{jobs:,} on {cores} core{'s' if cores > 1 else ''}"
            row[head] = duration(one["seconds"] * jobs / cores)
        disk = size(one["kb"] * most) if one.get("kb") else None
        rows.append(row | {f"disk of {most:,}": disk, "files": f"{one['files'] * most:,.0f}"})
    return rows


def graded(out: Path) -> dict[str, dict]:
    """What ``bench grade`` measured, where it was run: a submission of all lessons is graded by one worker."""
    path = out / "grading.json"
    if not path.exists():
        return {}
    lessons = json.loads(path.read_text())["lessons"]
    seconds, memory = sum(row["seconds"] for row in lessons), max(row["memory_mb"] for row in lessons) / 1000
    return {"grade": {"seconds": seconds, "memory_gb": memory, "files": 1}}


def run(out: str | Path, ways: Sequence[str], measure: Callable[[dict, int], dict] = measure_way) -> str:
    """Measure the ways, each in a fresh process and into ``sizing.json`` as soon as it is done; the table as text.

    What was measured before stays. Raises SizingError for an unknown way.
    """
    if unknown := set(ways) - set(WAYS):
        raise SizingError(f"the ways are {', '.join(WAYS)}; got {', '.join(sorted(unknown))}.")
    out = Path(out)
    path = out / "sizing.json"
    measured = json.loads(path.read_text())["measured"] if path.exists() else {}
    for way in ways:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured[way] = pool.apply(measure, WAYS[way])
        _write(path, measured | graded(out))
    return results_table(_write(path, measured | graded(out)))


def _write(path: Path, measured: dict[str, dict]) -> list[dict]:
    rows = sizing({way: measured[way] for way in TITLES if way in measured})
    write_json(path, {"circumstances": circumstances("cpu"), "measured": measured, "rows": rows})
    return rows
