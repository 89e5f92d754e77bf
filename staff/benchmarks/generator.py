"""StyleGAN2 forward and backward against grouped and the machine's own convolutions; inversions together."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from helpers.device import free_memory
from helpers.generators import StyleGAN2
from helpers.inversion import project
from helpers.latents import Latents
from helpers.memory import OVERHEAD, PeakOfTensors, without_data
from helpers.recording import Recording
from staff.benchmarks.cats import samples
from staff.benchmarks.common import GB, PeakMemory, Settings, seconds_of, shortest
from staff.benchmarks.full_size import official_size
from staff.benchmarks.plain import grouped_synthesis

GROUPED, AUTOGRAD = "grouped convolutions, float32", "float32, by autograd"
WAYS = {GROUPED: torch.float32, AUTOGRAD: torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}
PEAK_CHANNELS, PEAK_SIDES, PEAK_ON_CARDS = 256, (32, 64), (512, 1024)


def convolution_peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a 3x3 convolution of 256 channels, at the better of two sizes."""
    shape, found = (PEAK_CHANNELS, PEAK_CHANNELS, 3, 3), []
    weight = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    for side in PEAK_ON_CARDS if device.type == "cuda" else PEAK_SIDES:
        x = torch.randn(1, PEAK_CHANNELS, side, side, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            seconds = shortest(lambda x=x: F.conv2d(x, weight, padding=1), device, 0.5)
        found.append(2 * weight.numel() * side**2 / seconds)
    return max(found)


def step_flops(generator: StyleGAN2) -> float:
    """Operations of the convolutions of one sample, forward and backward to the latents, without inserted zeros."""
    total = 0
    for _, layer in generator.synthesis.layers():
        side = layer.noise_const.shape[0] // (2 if layer.up else 1)
        total += layer.weight.numel() * side**2
    for r in generator.synthesis.resolutions:
        total += getattr(generator.synthesis, f"b{r}").torgb.weight.numel() * r**2
    return 2 * 2 * total


def forward_backward(generator: StyleGAN2, batch: int, grouped: bool = False) -> Callable[[], None]:
    """A function that renders a batch of images and takes the gradient with respect to w+."""
    code = generator.sample("w+", batch, seed=1)

    def run(codes: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        leaf = codes[0].detach().requires_grad_()
        image = grouped_synthesis(generator, leaf) if grouped else generator.synthesize(Latents("w+", leaf))
        return torch.autograd.grad(image.sum(), leaf)

    return partial(Recording(run, [code]) if code.is_cuda and not grouped else run, [code])  # as searches do


def needed_memory(generator: StyleGAN2, batch: int, grouped: bool) -> float:
    """GB that forward and backward take, about, counted on tensors without data."""
    run = forward_backward(without_data(generator), batch, grouped)
    with PeakOfTensors() as tensors:
        run()
    return OVERHEAD * tensors.peak / GB


def speed(settings: Settings) -> Iterator[dict]:
    """Milliseconds, FLOP/s, share of the peak and times the grouped convolutions, by size and batch."""
    device, grouped, peaks = settings.device, {}, {}
    for way, dtype in WAYS.items():  # first what is compared with: from then on the process keeps its memory
        peak = peaks[way] = convolution_peak(dtype, device)
        if peak < peaks[GROUPED] / 2:
            yield {"way": way, "not_run": "the processor does not multiply it, and is far slower"}
            continue
        for resolution in settings.sizes or ((64,) if settings.quick else (64, 256, 1024)):
            generator = official_size(resolution, device, keep=way != GROUPED)
            generator.dtype = dtype
            generator.requires_grad_(way == AUTOGRAD)  # else a layer is one function with its own gradient
            for batch in (1,) if settings.quick else (1, 8):
                row = {"resolution": resolution, "batch": batch, "way": way}
                needed, free = needed_memory(generator, batch, way == GROUPED), free_memory(device)
                if needed > free:
                    yield row | {"not_run": f"needs {needed:.0f} GB, {free:.0f} GB are free"}
                    continue
                seconds = shortest(forward_backward(generator, batch, way == GROUPED), device)
                if way == GROUPED:
                    grouped[resolution, batch] = seconds
                rate = batch * step_flops(generator) / seconds
                row |= {"ms": 1000 * seconds, "gflops": rate / 1e9, "percent_of_peak": 100 * rate / peak}
                theirs = grouped.get((resolution, batch))
                yield row | ({"times_grouped": theirs / seconds} if theirs else {})


def together(settings: Settings) -> Iterator[dict]:
    """Inversions one after the other, of a few images since each takes as long, and together: seconds per photo."""
    device, steps, alone = settings.device, 2 if settings.quick else 50, 4
    generator, features = settings.networks()
    count = alone if settings.quick else 64 if device.type == "cuda" else 32
    images, base = torch.cat(list(samples(generator, count, batch=count))), None
    for way, photos, chunk in (("one after the other", images[:alone], 1), ("together", images, count)):

        def invert(photos=photos, chunk=chunk, steps=steps) -> None:
            for part in photos.split(chunk):
                project(generator, part, "w+", features=features, steps=steps)

        invert(photos[:chunk], steps=2)  # the first calls choose kernels
        with PeakMemory(device) as peak:
            seconds = seconds_of(invert, device) / len(photos)
        base = base or seconds
        row = {"photos": len(photos), "way": way, "steps": steps, "seconds_per_photo": seconds}
        yield row | {"process_peak_gb": peak.gb, "times_faster": base / seconds}


PARTS = {"speed": speed, "together": together}
