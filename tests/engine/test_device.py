"""Choosing and checking the device, against cards that are only pretended."""

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from helpers import device as device_module
from helpers.device import check_device, describe_device, free_memory, pick_device

ROOT = Path(__file__).resolve().parents[2]
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nCompile with …"


@pytest.fixture
def card(monkeypatch):
    """A pretended CUDA card; call it to say what the card and the build of torch are."""

    def pretend(capability=(9, 0), name="NVIDIA H200", free=100.0, kept=0.0, used=0.0, error=None, cuda="13.2", n=1):
        def run_kernel(device):
            if error:
                raise RuntimeError(error)

        answers = {
            "is_available": n > 0,
            "current_device": 0,
            "device_count": n,
            "get_device_capability": capability,
            "get_device_name": name,
            "mem_get_info": (int(free * 2**30), 140 * 2**30),
            "memory_reserved": int((kept + used) * 2**30),
            "memory_allocated": int(used * 2**30),
        }
        for function, answer in answers.items():
            monkeypatch.setattr(torch.cuda, function, lambda *_, answer=answer: answer)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(device_module, "_run_kernel", run_kernel)

    return pretend


def test_cuda_is_taken_when_it_is_usable_and_a_v100_is_passed_over_with_the_fix(card, recwarn):
    card()
    assert pick_device() == torch.device("cuda", 0)
    assert pick_device("cuda:0") == torch.device("cuda:0")
    assert describe_device("cuda") == "CUDA, NVIDIA H200, 100.0 GB free"
    card(n=0)
    assert pick_device() == torch.device("cpu")
    assert not recwarn.list
    card((7, 0), "Tesla V100-SXM2-32GB", error=NO_KERNEL)
    with pytest.warns(UserWarning, match="no kernels for compute capability 7.0 .*environment-v100.yml.*on the CPU"):
        assert pick_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("about", "device", "said"),
    [
        ({"capability": (7, 0), "error": NO_KERNEL}, "cuda", "capability 7.0 .NVIDIA H200.: conda env create -f "
         "environment-v100.yml, or use --device cpu"),
        ({"capability": (13, 0), "error": NO_KERNEL}, "cuda", "capability 13.0 .*pip install --upgrade torch torchv"),
        ({"free": 0.25}, "cuda", r"0\.2 GB of memory are free on cuda, but the lessons need 1\.0 GB: close"),
        ({"error": "CUDA error: out of memory\nCompile"}, "cuda", r"does not answer \(CUDA error: out of memory\): cl"),
        ({"n": 0}, "cuda", "finds no CUDA card: update the NVIDIA driver, or use --device cpu"),
        ({"n": 0, "cuda": None}, "cuda", "install a torch that was built with CUDA, or use --device cpu"),
        ({}, "cuda:3", "cuda:3 does not exist, there are 1: use cuda:0"),
        ({}, "mps", "mps is not available here"),
        *(({}, name, "Expected the device cpu, cuda, cuda:N or mps") for name in ("gpu", "xla", "", "cpu:x")),
    ],
)  # fmt: skip
def test_a_device_that_cannot_be_used_is_refused_with_the_fix(card, monkeypatch, about, device, said):
    card(**about)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=said):
        pick_device(device)


def test_free_memory_counts_what_torch_keeps_and_is_compared_with_what_is_needed(card, monkeypatch):
    card(free=0.5, kept=2.0, used=8.0)
    assert free_memory("cuda") == 2.5
    assert check_device("cuda", memory=2.4).type == "cuda"
    memory = psutil.virtual_memory()._replace(available=int(21.3 * 2**30))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert describe_device("cpu") == "CPU, 2 threads, 21.3 GB free"
    with pytest.raises(ValueError, match=r"21\.3 GB of memory are free on cpu, but the lessons need 30\.0 GB"):
        check_device("cpu", memory=30)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card here")
def test_a_real_card_is_usable():
    device = pick_device("cuda")
    assert torch.ones(3, device=device).sum().item() == 3
    assert torch.cuda.get_device_name(device) in describe_device(device)


KEEPS = """
import mmap, resource
import psutil, torch
from helpers.device import free_memory, keep_freed_memory

def faulted(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(2**26 // 4)  # 64 MB
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * mmap.PAGESIZE

faulted(1)
print(faulted(4))
keep_freed_memory()
faulted(12)  # until the gaps that alignment leaves have come together
print(faulted(4))
before = psutil.Process().memory_info().rss
free_memory("cpu")
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be asked to keep memory")
def test_kept_memory_is_not_fetched_again_and_counts_as_free():
    done = subprocess.run([sys.executable, "-c", KEEPS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    many, few, given_back = (float(line) for line in done.stdout.split())
    assert few < 2**26 < many and given_back > 2**25
