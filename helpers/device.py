"""The device that the lessons run on: chosen, checked and described in words."""

import ctypes
import sys
import warnings

import psutil
import torch

MEMORY_NEEDED = 1.0  # GB; a batch of 24 inversions of 64 px images with the VGG19 features stays below
OTHERS = "close the programs and notebooks that use it (nvidia-smi lists them), or use --device cpu"
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """Device of that name (else ValueError); without one a usable CUDA card or the CPU ("mps" lacks float64)."""
    if name is not None:
        return check_device(name)
    if torch.cuda.is_available():
        try:
            return check_device(torch.device("cuda", torch.cuda.current_device()))
        except ValueError as error:
            warnings.warn(f"{error} (running on the CPU instead)", stacklevel=2)
    return torch.device("cpu")


def check_device(name: str | torch.device, memory: float = MEMORY_NEEDED) -> torch.device:
    """The device, if it runs a kernel and has ``memory`` GB free; else ValueError, with the fix."""
    device = _parse(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("The device mps is not available here, it needs macOS on Apple silicon: use --device cpu.")
    if device.type == "cuda":
        _check_cuda(device)
    free, remedy = free_memory(device), OTHERS if device.type != "cpu" else "close other programs and notebooks"
    if free < memory:
        needs = f"{free:.1f} GB of memory are free on {device}, but the lessons need {memory:.1f} GB"
        raise ValueError(f"{needs}: {remedy}.")
    return device


def free_memory(device: str | torch.device) -> float:
    """Free memory of the device in GB (2³⁰ bytes), with what this process holds for its next tensors."""
    device = _parse(device)
    if device.type != "cuda":
        if hasattr(LIBC, "malloc_trim"):
            LIBC.malloc_trim(0)  # gives back what keep_freed_memory holds
        return psutil.virtual_memory().available / 2**30
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + kept) / 2**30


def keep_freed_memory() -> None:
    """Let the process keep the memory of freed tensors, up to 2 GB (glibc): fresh memory is cleared page by page."""
    if hasattr(LIBC, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # from malloc.h
        LIBC.mallopt(m_mmap_threshold, 2**30)
        LIBC.mallopt(m_trim_threshold, 2**31 - 1)


def describe_device(device: str | torch.device) -> str:
    """The device in a few words, such as "CPU, 2 threads, 21.3 GB free"."""
    device, threads = _parse(device), torch.get_num_threads()
    names = {"cpu": f"CPU, {threads} thread{'s' if threads > 1 else ''}", "mps": "MPS"}
    name = names.get(device.type) or f"CUDA, {torch.cuda.get_device_name(device)}"
    return f"{name}, {free_memory(device):.1f} GB free"


def _parse(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"Expected the device cpu, cuda, cuda:N or mps, got {str(name)!r}: use one of these.")
    return device


def _check_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        fix = "install a torch that was built with CUDA" if torch.version.cuda is None else "update the NVIDIA driver"
        reason = f"The device {device} cannot be used, torch {torch.__version__} finds no CUDA card"
        raise ValueError(f"{reason}: {fix}, or use --device cpu.")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise ValueError(f"The device {device} does not exist, there are {count}: use cuda:0 to cuda:{count - 1}.")
    try:
        _run_kernel(device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if "no kernel image" not in reason:  # a card so full, or so broken, that not even its context can be made
            raise ValueError(f"The device {device} does not answer ({reason}): {OTHERS}.") from error
        capability = torch.cuda.get_device_capability(device)
        old = capability < (7, 5)  # torch 2.15 and newer have no kernels for these
        fix = "conda env create -f environment-v100.yml" if old else "pip install --upgrade torch torchvision"
        which = f"compute capability {capability[0]}.{capability[1]} ({torch.cuda.get_device_name(device)})"
        reason = f"torch {torch.__version__} has no kernels for {which}"
        raise ValueError(f"{reason}: {fix}, or use --device cpu.") from error


def _run_kernel(device: torch.device) -> None:
    torch.ones(2, device=device).sum().item()
