"""The device that the lessons run on: chosen, checked and described in words."""

import ctypes
import re
import sys
import warnings

import psutil
import torch

MEMORY_NEEDED = 1.0  # GB; a batch of 24 inversions of 64 px images with the VGG19 features stays below
_OTHERS = "close the programs and notebooks that use it (nvidia-smi lists them), or use --device cpu"


class DeviceError(ValueError):
    """The device cannot be used; the message says how to make it usable."""


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """Device of that name ("cpu", "cuda", "cuda:1", "mps"), checked; without a name CUDA if it is usable, else the CPU.

    A CUDA device that is there but not usable is passed over with a warning that says how to make it usable.
    "mps" is taken only by name: it has no float64, which some of the checks need.
    Raises DeviceError if the named device is unknown, absent or not usable.
    """
    if name is not None:
        device = _parse(name)
        check_device(device)
        return device
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        try:
            check_device(device)
            return device
        except DeviceError as error:
            warnings.warn(f"{error} (running on the CPU instead)", stacklevel=2)
    return torch.device("cpu")


def check_device(device: str | torch.device, memory: float = MEMORY_NEEDED) -> None:
    """Raise DeviceError, with the fix, unless torch has kernels for the device and `memory` GB are free on it."""
    device = _parse(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("The device mps is not available here, it needs macOS on Apple silicon: use --device cpu.")
    if device.type == "cuda":
        _check_cuda(device)
    try:
        free = free_memory(device)
    except RuntimeError as error:  # a card so full, or so broken, that not even its context can be made
        raise DeviceError(f"The device {device} does not answer ({str(error).splitlines()[0]}): {_OTHERS}.") from error
    if free < memory:
        raise DeviceError(
            f"{free:.1f} GB of memory are free on {device} and the lessons need {memory:.1f} GB: "
            f"{_OTHERS if device.type != 'cpu' else 'close other programs and notebooks'}."
        )


def free_memory(device: str | torch.device) -> float:
    """Free memory of the device in GB (2³⁰ bytes): the card's for CUDA, the machine's for CPU and MPS.

    What this process keeps for its next tensors counts as free.
    """
    device = _parse(device)
    if device.type != "cuda":
        return (psutil.virtual_memory().available + _kept_memory()) / 2**30
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + kept) / 2**30


def keep_freed_memory() -> None:
    """Let the process keep the memory of tensors that are freed, for the next ones, up to 2 GB (glibc; else nothing).

    Without it every activation of a large network comes from the system anew and is cleared page by page, which takes
    longer than most of what is done with it.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # of malloc.h
        libc.mallopt(m_mmap_threshold, 2**30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


class _Mallinfo2(ctypes.Structure):
    """Of malloc.h, glibc 2.33 and newer."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in re.findall(r"\w+", _names)]


def _kept_memory() -> int:
    """Bytes that were freed and are kept by malloc; 0 where it does not tell."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = _Mallinfo2
    return libc.mallinfo2().fordblks


def describe_device(device: str | torch.device) -> str:
    """The device in a few words, such as "CPU, 2 threads, 21.3 GB free"."""
    device = _parse(device)
    free = f"{free_memory(device):.1f} GB free"
    if device.type == "cuda":
        return f"CUDA, {torch.cuda.get_device_name(device)}, {free}"
    if device.type == "mps":
        return f"MPS, {free}"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}, {free}"


def _parse(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"Expected the device cpu, cuda, cuda:N or mps, got {str(name)!r}: use one of these.")
    return device


def _check_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        fix = "update the NVIDIA driver, or use --device cpu"
        if torch.version.cuda is None:
            fix = "install a torch that was built with CUDA, or use --device cpu"
        raise DeviceError(f"The device {device} cannot be used, torch {torch.__version__} finds no CUDA card: {fix}.")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise DeviceError(f"The device {device} does not exist, there are {count}: use cuda:0 to cuda:{count - 1}.")
    capability = torch.cuda.get_device_capability(device)
    architectures = torch.cuda.get_arch_list()
    if not _has_kernels(capability, architectures):
        raise DeviceError(
            f"torch {torch.__version__} has no kernels for compute capability {capability[0]}.{capability[1]} "
            f"({torch.cuda.get_device_name(device)}): {_kernels_fix(capability, architectures)}."
        )


def _kernels_fix(capability: tuple[int, int], architectures: list[str]) -> str:
    if capability > max((built for _, built, _ in _parse_architectures(architectures)), default=(0, 0)):
        return "pip install --upgrade torch torchvision, or use --device cpu"
    if capability >= (5, 0):  # the oldest cards that the CUDA 12.6 builds have kernels for
        return "conda env create -f environment-v100.yml, or use --device cpu"
    return "use --device cpu"


def _has_kernels(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether code built for one of these architectures (sm_90, sm_90a, compute_120) runs on that compute capability.

    Machine code (sm) runs on its own major version from its minor version on; with the suffix "a" only on that very
    version; intermediate code (compute) is translated for every later one (CUDA C++ Programming Guide, compatibility).
    """
    for kind, built, suffix in _parse_architectures(architectures):
        if suffix == "a":
            runs = built == capability
        elif kind == "sm" or suffix == "f":
            runs = built[0] == capability[0] and built <= capability
        else:
            runs = built <= capability
        if runs:
            return True
    return False


def _parse_architectures(architectures: list[str]) -> list[tuple[str, tuple[int, int], str]]:
    matches = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture) for architecture in architectures]
    return [(match[1], (int(match[2]), int(match[3])), match[4]) for match in matches if match]
