"""What is fastest on this machine: tried once for each processor, number of threads and version, and kept in a file."""

import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from helpers.files import WriteError, write_json
from helpers.weights import FOLDER

FILE = FOLDER / "downloads" / "fastest.json"
WORTH = 1.1  # times faster than a plainer way, to be preferred to it: less is within what load on the machine does
SECONDS = 0.7  # of a trial
_found: dict[str, dict[str, dict]] = {}  # machine to kind to {"ms": way to milliseconds, "chosen": by the user}


def processor() -> str:
    """The processor with its instruction set, as torch uses it."""
    models = re.findall("model name.*: (.*)", cpus.read_text()) if (cpus := Path("/proc/cpuinfo")).exists() else ()
    name = models[0] if models else platform.processor() or platform.machine()
    held = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}{f', oneDNN held to {held}' if held else ''}"


def machine(device: str | torch.device) -> str:
    """What a choice depends on."""
    device, threads = torch.device(device), torch.get_num_threads()
    names = {"cpu": f"{processor()}, {threads} thread{'s' if threads > 1 else ''}", "mps": "MPS"}
    return f"{names.get(device.type) or torch.cuda.get_device_name(device)}, torch {torch.__version__}"


def known(device: str | torch.device) -> dict[str, dict]:
    """Kind of work to what was tried for it on this machine: the milliseconds of each way, and what was chosen."""
    if not _found:
        with suppress(OSError, ValueError):
            _found.update(json.loads(FILE.read_text(encoding="utf-8")))
    return _found.setdefault(machine(device), {})


def fastest(kind: str, device: str | torch.device, ways: Callable[[], Mapping[str, Callable]], only: str = "") -> str:
    """The fastest way that begins with ``only`` of a kind of work; ``ways`` makes what is tried, plainest first."""
    kinds = known(device)
    if kind not in kinds:
        kinds[kind] = {"ms": trial(ways(), torch.device(device))}
        keep()
    tried = {way: ms for way, ms in kinds[kind]["ms"].items() if way.startswith(only)}
    if (chosen := kinds[kind].get("chosen")) in tried:
        return chosen
    return next(way for way, ms in tried.items() if ms <= WORTH * min(tried.values()))


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds; for a single thread those of the processor, which other programs do not lengthen."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def trial(ways: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Shortest milliseconds of each way, called in turns; one that is far behind is not called again."""
    now, ms, done = clock(device), dict.fromkeys(ways, float("inf")), 0
    started = now()
    while done < 3 or now() - started < SECONDS:  # a first call prepares weights and loads libraries: all have a second
        for way in [way for way in ways if done < 2 or ms[way] <= 3 * min(ms.values())]:
            before = now()
            ways[way]()
            torch.get_device_module(device).synchronize()
            ms[way] = min(ms[way], round(1000 * (now() - before), 3))
        done += 1
    return ms


def keep() -> None:
    """Write what was found and chosen, where the folder may be written to."""
    with suppress(WriteError):
        write_json(FILE, _found)
