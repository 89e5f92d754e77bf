"""The frame of all benches: what they are given, the file that their rows go to, timing and memory."""

from __future__ import annotations

import ctypes
import datetime
import gc
import importlib
import json
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from helpers.device import describe_device
from helpers.features import Features, fastest_way, load_features
from helpers.figures import results_table
from helpers.files import write_json
from helpers.generators import Generator, load_generator
from helpers.photos import load_faces
from helpers.trials import clock, processor
from staff.benchmarks import BENCHES, OF_FACES

GB = 2**30
MODEL = "stylegan2-cats-64"


@dataclass(frozen=True)
class Settings:
    """What the command line gives to a part; ``sizes`` in pixels, empty for the part's own."""

    out: Path
    device: torch.device = torch.device("cpu")
    data: Path | None = None
    models: tuple[str, ...] = ()
    held_out: int | None = None
    sizes: tuple[int, ...] = ()
    network: str = "vgg19-slim"
    quick: bool = False

    def networks(self) -> tuple[Generator, Features]:
        """The first of ``models``, by default the one that most benches measure, and the bundled feature network."""
        return load_generator((*self.models, MODEL)[0], self.device), load_features("vgg19-slim", self.device)

    def faces(self, n: int | None = None, size: int = 64, split: str = "validation") -> torch.Tensor:
        """Aligned faces (N, 3, size, size) of ``data``."""
        return load_faces(self.data, n, size, split, held_out=self.held_out).to(self.device)


def run(name: str, settings: Settings, parts: Sequence[str] = ()) -> Iterator[str]:
    """Measure parts of a bench, by default DEFAULT or all, quickly the first; NAME.json grows with every row.

    Yields the circumstances, then each part's table when it is measured. Raises ValueError for a bench or part that
    does not exist, and without faces where it needs some.
    """
    if name not in BENCHES:
        raise ValueError(f"the benches are {', '.join(BENCHES)} and all; got {name!r}.")
    if name in OF_FACES and settings.data is None:
        raise ValueError(f"bench {name} needs photos of faces: add --data FACES.zip.")
    bench = importlib.import_module(f"staff.benchmarks.{name.replace('-', '_')}")
    if unknown := sorted(set(parts) - set(bench.PARTS)):
        raise ValueError(f"the parts of bench {name} are {', '.join(bench.PARTS)}; got {', '.join(unknown)}.")
    path = settings.out / f"{name}.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    yield " · ".join(f"{key} {value}" for key, value in circumstances(settings.device).items())
    for part in parts or list(getattr(bench, "DEFAULT", bench.PARTS))[: 1 if settings.quick else None]:
        report[part] = {"circumstances": circumstances(settings.device), "rows": []}
        for row in bench.PARTS[part](settings):
            report[part]["rows"].append(row)
            write_json(path, report)
        yield f"\n{part}\n\n{results_table(report[part]['rows'])}"


def circumstances(device: torch.device | str) -> dict[str, str]:
    """Date, processor with its instruction set, GPU or threads, versions of Python and PyTorch."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "fastest": fastest_way(device),
        "threads": str(torch.get_num_threads()),
        "device": "CPU" if torch.device(device).type == "cpu" else describe_device(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes, on a GPU until it is done; for a single thread those of the processor."""
    now = clock(device)
    started = now()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - started


def shortest(function: Callable[[], object], device: torch.device, seconds: float = 1.0, least: int = 2) -> float:
    """Shortest time of several calls after one that is not counted, because other load can only add to it."""
    times = []
    while len(times) <= least or (sum(times) < seconds and len(times) < 30):
        times.append(seconds_of(function, device))
    return min(times[1:])


def in_turns(
    functions: dict[str, Callable[[], object]], device: torch.device, rounds: int, calls: int = 3
) -> dict[str, float]:
    """Median seconds of a call of each function; they take turns, so that a busy machine slows all of them."""
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name] += [seconds_of(function, device) for _ in range(calls)]
    return {name: statistics.median(values) for name, values in times.items()}


class PeakMemory:
    """Peak of the memory in use within a ``with`` block, in GB (2^30 bytes): ``gb``, and ``more`` than at its start.

    On a GPU that of tensors on it; on a CPU that of the whole process, sampled by the kernel (Linux; elsewhere what
    the process has at the end).
    """

    def __init__(self, device: torch.device):
        self.device, self.gb, self.more = torch.device(device), 0.0, 0.0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif Path("/proc/self/clear_refs").exists():
            if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
                libc.malloc_trim(0)  # what was freed before, but kept for the next allocation, would count
            Path("/proc/self/clear_refs").write_text("5")  # the kernel's word for: forget the peak
        self.start = self._peak()
        return self

    def __exit__(self, *_) -> None:
        self.gb = self._peak() / GB
        self.more = self.gb - self.start / GB

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
        return peak or psutil.Process().memory_info().rss
