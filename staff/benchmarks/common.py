"""What every benchmark writes with its figures: date, machine, versions."""

from __future__ import annotations

import datetime
import platform

import torch

from helpers.device import describe_device


def circumstances(device: torch.device | str) -> dict[str, str]:
    """Date, processor or GPU, threads, versions of Python and PyTorch."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": describe_device(device),
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
