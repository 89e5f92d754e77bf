"""Memory that a step will take, counted before it is run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import memory
from helpers.commands import runs
from helpers.generators import StyleGAN2
from helpers.generators.stylegan1 import StyleGAN1
from helpers.inversion import Inversion, project
from helpers.memory import PeakOfTensors, check_memory, chunk_that_fits, step_memory
from helpers.noise import noise_inversion
from tests.support import tiny

ROOT = Path(__file__).resolve().parents[2]
SIZE = {"z_dim": 32, "w_dim": 32, "mapping_layers": 1, "channel_base": 2048, "channel_max": 32}


def generator(family=StyleGAN2, resolution=256, dtype=torch.float32, checkpointing=False):
    with torch.random.fork_rng():
        made = family(resolution, **SIZE).eval().requires_grad_(False)
    made.dtype, made.checkpointing = dtype, checkpointing
    return made


MEASURED = """
import json
import torch, torch._dynamo  # the latter is loaded by a first step, and would count
from staff.benchmarks.common import PeakMemory
from staff.benchmarks.full_size import official_size
from helpers.features import load_features
from helpers.inversion import Inversion
from helpers.latents import Latents
from helpers.memory import step_memory

cpu, found = torch.device("cpu"), []
with PeakMemory(cpu) as before:
    pass
features, generator, target = load_features(), official_size(256, cpu), torch.rand(1, 3, 256, 256)
start = Latents("w+", generator.mean("w+"))  # skips the phase in w
for dtype, checkpointing in ((torch.bfloat16, False), (torch.float32, True), (torch.float32, False)):
    generator.dtype, generator.checkpointing = dtype, checkpointing
    with PeakMemory(cpu) as peak:
        next(iter(Inversion(generator, target, "w+", features=features, steps=1, start=start)))
    found.append((step_memory(generator), peak.gb - before.gb))
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as only Linux can")
def test_the_estimate_is_what_a_step_takes():
    """At 256² with the official numbers of channels: plain, with checkpointing, and in bfloat16."""
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for estimate, measured in json.loads(done.stdout):
        assert estimate == pytest.approx(measured, rel=0.25)


def test_what_lives_at_once_is_counted_and_a_batch_is_halved_until_it_fits(monkeypatch):
    with PeakOfTensors() as tensors:
        x = torch.zeros(1000)  # 4 kB
        for _ in range(5):
            x = x.view(10, 100).reshape(-1) + 1  # views cost nothing; the old x dies when the new one is there
        x.add_(1)
    assert tensors.peak == 8000
    del x
    assert tensors.now == 0
    made = generator(resolution=16)
    monkeypatch.setattr(memory, "SMALL", 0)
    two, four = (step_memory(made, batch=n) for n in (2, 4))
    monkeypatch.setattr(memory, "free_memory", lambda device: (two + four) / 2)
    assert [chunk_that_fits(made, batch=n) for n in (1, 2, 8)] == [1, 2, 2]
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    assert chunk_that_fits(made, batch=8) == 1


@pytest.mark.parametrize("family", [StyleGAN1, StyleGAN2])
def test_more_of_everything_needs_more(family):
    made = generator(family, 64)
    plain = step_memory(made)
    assert step_memory(generator(family, 128)) > plain and step_memory(made, noise=True) > plain
    assert step_memory(made, batch=4) > 2 * (plain - memory.FIXED)
    assert step_memory(generator(family, 64, torch.bfloat16)) < plain
    assert step_memory(generator(family, 64, checkpointing=True)) < plain


@pytest.mark.parametrize(
    ("native", "options", "ways"),
    [
        (torch.float32, {}, "--checkpointing"),  # bfloat16 would be emulated
        (torch.bfloat16, {}, "--precision bf16 or --checkpointing"),
        (torch.bfloat16, {"dtype": torch.bfloat16, "checkpointing": True}, "another machine"),
    ],
)
def test_a_run_that_will_not_fit_is_one_sentence(monkeypatch, native, options, ways):
    monkeypatch.setattr(memory, "fast_dtype", lambda device: native)
    monkeypatch.setattr(memory, "free_memory", lambda device: 0.06)
    with pytest.raises(ValueError, match=rf"^256² w\+ needs about 0\.\d GB, 0\.1 GB are free: use {ways}\.$"):
        check_memory(generator(**options))
    monkeypatch.setattr(memory, "free_memory", lambda device: 100)
    check_memory(generator(**options))
    monkeypatch.setattr(memory, "free_memory", lambda device: pytest.fail("counted"))
    check_memory(tiny.stylegan2())


def test_a_search_of_many_goes_through_in_chunks_that_fit_and_says_so(monkeypatch):
    made = generator(resolution=16)
    monkeypatch.setattr(memory, "SMALL", 0)
    target = made.synthesize(made.sample("w", 1, seed=3)).clamp(0, 1).expand(16, -1, -1, -1)
    together = project(made, target, "w", steps=2)
    needed = [step_memory(made, "w", n) for n in (4, 8)]
    monkeypatch.setattr(memory, "free_memory", lambda device: sum(needed) / 2)
    inversion, noise = Inversion(made, target, "w", steps=2), noise_inversion(made, target, together.latents, steps=1)
    for search in (inversion, noise):
        with pytest.warns(UserWarning, match="too short for all 16 at once: now 4 at a time"):
            search.run()
        assert search.runs[0].chunk == 4
    assert torch.allclose(inversion.result().total, together.total, rtol=1e-4)


@pytest.mark.parametrize("native", [True, False])
def test_half_precision_is_used_only_where_the_processor_has_it(monkeypatch, capsys, native):
    monkeypatch.setattr(runs, "fast_dtype", lambda device: torch.bfloat16 if native else torch.float32)
    network = generator()
    runs.set_precision(network, "bf16", False)
    assert network.dtype == (torch.bfloat16 if native else torch.float32)
    assert native != ("no bfloat16 of its own" in capsys.readouterr().err)
