"""Choosing and checking the device, against cards that are only pretended."""

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from helpers import device as device_module
from helpers.device import DeviceError, check_device, describe_device, free_memory, pick_device

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def card(monkeypatch):
    """A pretended CUDA card; call it to say what the card and the build of torch are."""

    def run_kernel(device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with …")

    def pretend(capability=(9, 0), name="NVIDIA H200", free=100.0, kernels=True, kept=0.0, used=0.0):
        cuda = {
            "is_available": lambda: True,
            "current_device": lambda: 0,
            "device_count": lambda: 1,
            "get_device_capability": lambda device: capability,
            "get_device_name": lambda device: name,
            "mem_get_info": lambda device: (int(free * 2**30), 140 * 2**30),
            "memory_reserved": lambda device: int((kept + used) * 2**30),
            "memory_allocated": lambda device: int(used * 2**30),
        }
        for function, fake in cuda.items():
            monkeypatch.setattr(torch.cuda, function, fake)
        monkeypatch.setattr(device_module, "_run_kernel", (lambda device: None) if kernels else run_kernel)

    return pretend


@pytest.fixture
def no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_cuda_is_taken_when_it_is_usable(card):
    card()
    assert pick_device() == torch.device("cuda", 0)
    assert pick_device("cuda:0") == torch.device("cuda:0")
    assert describe_device("cuda") == "CUDA, NVIDIA H200, 100.0 GB free"


def test_without_a_card_the_cpu_is_taken(no_card, recwarn):
    assert pick_device() == torch.device("cpu")
    assert not recwarn.list


def test_a_v100_is_passed_over_with_the_fix(card):
    card((7, 0), "Tesla V100-SXM2-32GB", kernels=False)
    with pytest.warns(UserWarning, match="no kernels for compute capability 7.0 .*environment-v100.yml.*on the CPU"):
        assert pick_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "fix"),
    [
        ((7, 0), "conda env create -f environment-v100.yml, or use --device cpu"),
        ((13, 0), "pip install --upgrade torch torchvision"),  # newer than this build
    ],
)
def test_a_card_without_kernels_is_refused_with_the_fix(card, capability, fix):
    card(capability, "Some card", kernels=False)
    with pytest.raises(DeviceError, match=f"compute capability {capability[0]}.{capability[1]} .Some card.*{fix}"):
        pick_device("cuda")


def test_a_full_card_is_refused(card):
    card(free=0.25)
    with pytest.raises(DeviceError, match=r"0\.2 GB of memory are free on cuda, but the lessons need 1\.0 GB: close"):
        pick_device("cuda")
    check_device("cuda", memory=0.2)


def test_memory_that_torch_keeps_counts_as_free(card):
    card(free=0.5, kept=2.0, used=8.0)
    assert free_memory("cuda") == 2.5


def test_a_card_that_does_not_answer_is_refused(card, monkeypatch):
    card()

    def broken(device):
        raise RuntimeError("CUDA error: out of memory\nCompile with …")

    monkeypatch.setattr(device_module, "_run_kernel", broken)
    with pytest.raises(DeviceError, match=r"cuda does not answer \(CUDA error: out of memory\): close"):
        pick_device("cuda")


def test_a_card_that_is_not_there_is_refused(card, no_card, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    with pytest.raises(DeviceError, match="finds no CUDA card: update the NVIDIA driver"):
        pick_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match="install a torch that was built with CUDA"):
        pick_device("cuda")
    card()
    with pytest.raises(DeviceError, match="cuda:3 does not exist, there are 1: use cuda:0"):
        pick_device("cuda:3")


@pytest.mark.parametrize("name", ["gpu", "xla", "", "cpu:x"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(DeviceError, match="Expected the device cpu, cuda, cuda:N or mps"):
        pick_device(name)


def test_mps_is_refused_where_it_is_not(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="mps is not available here"):
        pick_device("mps")


def test_the_cpu_is_described_and_its_memory_checked(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=int(21.3 * 2**30))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert describe_device("cpu") == "CPU, 2 threads, 21.3 GB free"
    with pytest.raises(DeviceError, match=r"21\.3 GB of memory are free on cpu, but the lessons need 30\.0 GB"):
        check_device("cpu", memory=30)


@pytest.mark.gpu
def test_a_real_card_is_usable():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card here")
    device = pick_device("cuda")
    assert torch.ones(3, device=device).sum().item() == 3
    assert torch.cuda.get_device_name(device) in describe_device(device)


KEEPS = """
import mmap, resource, sys
import psutil, torch
from helpers.device import free_memory, keep_freed_memory
keep_freed_memory() if sys.argv[1] == "keep" else None
for _ in range(12):  # until the gaps that alignment leaves have come together
    torch.ones(2**26 // 4)  # 64 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(2**26 // 4)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * mmap.PAGESIZE)
before = psutil.Process().memory_info().rss
free_memory("cpu")
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be asked to keep memory")
def test_kept_memory_is_not_fetched_again_and_counts_as_free():
    def faulted(word):
        done = subprocess.run([sys.executable, "-c", KEEPS, word], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return [float(line) for line in done.stdout.split()]

    (few, given_back), (many, _) = faulted("keep"), faulted("give back")
    assert few < 2**26 < many and given_back > 2**25
