"""How much memory an optimisation step needs, known before it runs, and how many samples fit at once."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.device import free_memory
from helpers.features import fast_dtype
from helpers.generators import Generator
from helpers.latents import Latents

OVERHEAD = 1.1  # what the allocator loses between the tensors
FIXED = 0.05  # GB, which convolutions take for any network
FEATURES = 90  # bytes per value of an image: vgg19-slim keeps 2 x 16 channels, a quarter of 2 x 32, a 16th of 4 x 64
SMALL = 256**2  # pixels of a whole batch; below it all fit, and counting would take longer than a step
COUNTED = weakref.WeakKeyDictionary()  # from a generator to what its steps need: counting takes a second


class PeakOfTensors(TorchDispatchMode):
    """Within a ``with`` block counts the bytes of the tensors that are alive at once: ``peak``."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for storage in (t.untyped_storage() for t in tree_leaves(result) if isinstance(t, torch.Tensor)):
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return result

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def without_data(generator: Generator) -> Generator:
    """The same network on the "meta" device, where nothing is stored or computed."""
    with torch.device("meta"):
        twin = type(generator)(**generator.config).eval().requires_grad_(False)
    for name in {"dtype", "checkpointing"} & vars(generator).keys():
        setattr(twin, name, getattr(generator, name))
    if twin.c_dim:
        twin.label = 0
    return twin


def step_memory(generator: Generator, space: str = "w+", batch: int = 1, noise: bool = False) -> float:
    """Estimated GB (2^30 bytes) of weights, one step and Adam's moments: the step runs once on tensors without data."""
    known, facts = COUNTED.setdefault(generator, {}), (getattr(generator, n, None) for n in ("dtype", "checkpointing"))
    if (key := (space, batch, noise, *facts)) in known:
        return known[key]
    weights = sum(p.numel() * p.element_size() for p in generator.parameters())
    twin = without_data(generator)
    code = torch.empty(batch, *generator.code_shape(space), device="meta", requires_grad=True)
    maps = [torch.empty(batch, 1, *s, device="meta", requires_grad=noise) for s in generator.noise_shapes] or None
    with PeakOfTensors() as tensors:
        images = twin.synthesize(Latents(space, code, maps))
        images.sum().backward()
    moments = 2 * sum(t.numel() * t.element_size() for t in [code, *(maps or [] if noise else [])])
    known[key] = FIXED + (weights + OVERHEAD * tensors.peak + FEATURES * images.numel() + moments) / 2**30
    return known[key]


def check_memory(generator: Generator, space: str = "w+", noise: bool = False) -> None:
    """Raise ValueError, one sentence, unless a run of one photo fits into what is free on the device."""
    if generator.resolution**2 < SMALL:
        return
    needed, free = step_memory(generator, space, noise=noise), free_memory(generator.device)
    if needed <= free:
        return
    full = getattr(generator, "dtype", None) == torch.float32 and fast_dtype(generator.device) == torch.bfloat16
    ways = ["--precision bf16"] * full + ["--checkpointing"] * (getattr(generator, "checkpointing", None) is False)
    what = f"{generator.resolution}² {space} needs about {needed:.1f} GB, {free:.1f} GB are free"
    raise ValueError(f"{what}: use {' or '.join(ways) or 'another machine'}.")


def chunk_that_fits(generator: Generator, space: str = "w+", batch: int = 1, noise: bool = False) -> int:
    """The largest of ``batch``, its half, its quarter ... 1 whose step fits into what is free, by estimate."""
    if batch > 1 and batch * generator.resolution**2 >= SMALL:
        free = free_memory(generator.device)
        while batch > 1 and step_memory(generator, space, batch, noise) > free:
            batch = (batch + 1) // 2
    return batch
