"""Memory and speed of the w+ and the noise stage at the size of the official models, whose weights are not needed."""

import time
import warnings
from collections.abc import Iterator

import torch

from helpers.device import free_memory, keep_freed_memory
from helpers.features import load_features
from helpers.generators import LARGE, StyleGAN2
from helpers.inversion import Inversion
from helpers.latents import Latents
from helpers.memory import step_memory
from helpers.noise import noise_inversion
from staff.benchmarks.common import GB, PeakMemory, Settings

STRENGTH = 0.1  # noise strength: a new network has 0, so that no map would have any effect
CHANNEL_BASE = {1024: 32768, 512: 32768}  # official models (config F); 16384 below
NEEDED, STEPS = {1024: 12.0, 512: 6.0}, {"cuda": 40}  # GB of free memory, 2 below; steps that are timed, 3 elsewhere
VARIANTS = {
    "float32": (torch.float32, False),
    "float32, checkpointing": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
    "bfloat16, checkpointing": (torch.bfloat16, True),
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


def searches(generator: StyleGAN2, features, steps: int) -> dict:
    """The two searches for an image that the generator drew itself, in batches of one."""
    with torch.no_grad():
        target = generator.synthesize(generator.sample("w", 1, seed=1), generator.fresh_noise(1, seed=2)).clamp(0, 1)
    start = Latents("w+", generator.mean("w+"))
    return {
        "w+": Inversion(generator, target, "w+", features=features, steps=steps, start=start),
        "noise": noise_inversion(generator, target, start, steps=steps),
    }


def time_steps(search, device: torch.device) -> tuple[float, float]:
    """Median seconds of a step, without the first where there are several, and the peak memory in GB."""
    times = [time.perf_counter()]
    with PeakMemory(device) as peak:
        for _ in search:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter())
    steps = torch.tensor(times, dtype=torch.float64).diff()
    return (steps[1:] if len(steps) > 1 else steps).median().item(), peak.gb


def stages(settings: Settings) -> Iterator[dict]:
    """A row for every variant and stage. Raises ValueError with too little free memory."""
    (resolution, *_), device = settings.sizes or ((256,) if settings.quick else (1024,)), settings.device
    needed, free = NEEDED.get(resolution, 2.0), free_memory(device)
    if free < needed:
        raise ValueError(
            f"{needed:g} GB of free memory are needed on {device} at {resolution} px, there are {free:.1f}; "
            "use a smaller one of --sizes."
        )
    features, generator = load_features(device=device), official_size(resolution, device)
    for variant, (generator.dtype, generator.checkpointing) in VARIANTS.items():
        for stage, search in searches(generator, features, 1 if settings.quick else STEPS.get(device.type, 3)).items():
            seconds, peak = time_steps(search, device)
            yield {"variant": variant, "stage": stage, "peak_gb": peak, "steps_per_second": 1 / seconds}


def shortage(settings: Settings) -> Iterator[dict]:
    """A search of 16 images while something else takes a card's memory: in what parts it ends, and what that changes.

    Raises ValueError for the CPU, whose memory does not run out with an error.
    """
    device, count = settings.device, 16
    if device.type != "cuda":
        raise ValueError("only a card's memory runs out with an error: add --device cuda.")
    generator, reference = official_size((settings.sizes or (256,))[0], device), None
    with torch.no_grad():
        targets = generator.synthesize(generator.sample("w", count, seed=1)).clamp(0, 1)
    start = Latents("w+", generator.mean("w+"))
    for share in (1.0, 0.7, 0.3, 0.1):  # of the memory that a step needs
        search = Inversion(generator, targets, "w+", steps=4, start=start)
        steps = iter(search)
        next(steps)
        torch.cuda.empty_cache()
        taken = free_memory(device) - share * step_memory(generator, "w+", count) if share < 1 else 0
        ballast = torch.empty(int(taken * GB), dtype=torch.uint8, device=device)
        with warnings.catch_warnings(record=True) as caught, PeakMemory(device) as peak:
            warnings.simplefilter("always")
            started = time.perf_counter()
            for _ in steps:
                pass
            torch.cuda.synchronize(device)
            seconds = time.perf_counter() - started
        del ballast
        row = {"memory_left": share, "at_once": search.runs[-1].chunk, "ran_out": len(caught), "seconds": seconds}
        code = search.result().latents.code
        reference = code if reference is None else reference
        yield row | {"more_gb": peak.more, "largest_difference": (code - reference).abs().max().item()}


PARTS = {"stages": stages, "shortage": shortage}
DEFAULT = ("stages",)
