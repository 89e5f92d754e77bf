"""The first code cell, the same in all notebooks, and what the opening cells print."""

import time

import torch

from helpers.device import describe_device, free_memory, pick_device
from helpers.reruns import install
from helpers.weights import FOLDER, registry

FIRST_CELL = """\
# Finds the course, or clones it where this notebook is all there is (Colab). Running it twice does no harm.
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = os.environ.get("GAN_COURSE_REPO", "https://github.com/gan-photo-editing/gan-photo-editing")
places = [Path.cwd(), *Path.cwd().parents, Path.cwd() / "gan-photo-editing"]
ROOT = next((place for place in places if (place / "helpers" / "notebooks.py").is_file()), places[-1])
if not (ROOT / "helpers").exists():
    subprocess.run(["git", "clone", "-q", "--depth=1", "--branch=main", REPOSITORY, str(ROOT)], check=True)
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if folder != str(ROOT))]
import helpers

assert Path(str(helpers.__file__)).parent == ROOT / "helpers", f"restart the kernel: {helpers} is not the course's"
from helpers.notebooks import describe_session

print(describe_session())
"""


def describe_session() -> str:
    """Two lines: the device with its free memory, and which bundled and official weights are on disk.

    From now on a cell that is run again frees what its last run made (``helpers.reruns``).
    """
    install()
    found: dict[str, list[str]] = {"bundled": [], "official": []}
    for name, entry in registry().items():
        if (FOLDER / entry["file"]).is_file():
            found["official" if "url" in entry else "bundled"].append(name)
    weights = "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in found.items())
    return f"Device   {describe_device(pick_device())}\nWeights  {weights}"


def describe_model(generator, minutes: float) -> str:
    """What was loaded, how long the lesson takes with it, and whether its steps fit into memory.

    minutes: of the lesson with the bundled model on two CPU cores; for another model multiplied by how much longer a
    step of it takes here.
    """
    from helpers.features import load_features
    from helpers.generators import DEFAULT, load_generator
    from helpers.memory import step_memory

    side, rows, maps = generator.resolution, generator.num_ws, len(generator.noise_shapes)
    facts = f"{generator.name}: {generator.family}, {side}×{side} pixels, {rows} rows of w+, {maps} noise maps"
    if generator.name == DEFAULT:
        return f"{facts}. Running all cells takes about {minutes:g} minutes."
    needed, free = step_memory(generator, batch=2), free_memory(generator.device)
    if needed > free:
        return (
            f"{facts}. A step takes about {needed:.1f} GB and {free:.1f} GB are free: set generator.checkpointing = "
            "True or generator.dtype = torch.bfloat16 below, or use a smaller model."
        )
    features = load_features("vgg19-slim", device=generator.device)
    ours, bundled = (step_seconds(g, features) for g in (generator, load_generator(DEFAULT, generator.device)))
    times = max(ours / bundled, 1.0)
    return (
        f"{facts}. A step takes {ours:.2g} s here, {times:.0f} times as long as with {DEFAULT}: running all cells "
        f"takes about {minutes * times:.0f} minutes instead of {minutes:g}, and {needed:.1f} GB for two images."
    )


def step_seconds(generator, features, batch: int = 2) -> float:
    """Seconds of one step, forward and backward, of a search in w+ with a perceptual loss; the second of two counts."""
    from helpers.latents import Latents
    from helpers.losses import LAYERS

    space = generator.spaces[-1]
    code = generator.mean(space).repeat_interleave(batch, 0).requires_grad_()
    for _ in range(2):
        started = time.perf_counter()
        images = generator.synthesize(Latents(space, code))
        loss = sum(maps.square().mean() for maps in features(images, list(LAYERS)).values())
        torch.autograd.grad(loss, code)[0].sum().item()  # .item() waits for a GPU
    return time.perf_counter() - started
