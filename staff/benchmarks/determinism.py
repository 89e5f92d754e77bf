"""What the same seed gives under other circumstances: threads, batch, precision, instruction set, oneDNN, device.

Every variant is a process of its own with the fast paths that are used by default; its results are compared with those
of one thread on the CPU with all instructions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.commands.runs import set_precision
from helpers.features import fast_dtype, load_features
from helpers.figures import results_table
from helpers.files import write_json
from helpers.generators import load_generator
from helpers.inversion import project
from helpers.latents import Latents, join, save_tensors
from helpers.metrics import psnr
from helpers.noise import noise_scales, optimize_noise
from helpers.photos import demo_cat, demo_photos
from helpers.style_transfer import stylize
from helpers.styles import own_styles
from staff.benchmarks.common import circumstances

MODEL = "stylegan2-cats-64"
TASKS = {"inversion": "w+ inversion", "noise": "noise stage", "style": "style transfer"}
CONTENTS, STYLE = ("astronaut", "coffee"), "waves"
SECONDS = 600  # for one variant; emulated instructions are slow


@dataclass(frozen=True)
class Work:
    """How much is computed: steps of inversion and noise, steps of style transfer, its side in pixels."""

    steps: int = 100
    style_steps: int = 30
    side: int = 128


@dataclass(frozen=True)
class Variant:
    """What is different from the reference; ``environment`` is that of its process."""

    name: str
    tasks: tuple[str, ...] = tuple(TASKS)
    threads: int = 1
    alone: bool = False
    onednn: bool = True
    precision: str = "fp32"  # the generator's
    style_precision: str = "auto"
    device: str = "cpu"
    environment: dict[str, str] = field(default_factory=dict)


def variants() -> list[Variant]:
    """The reference first; those of this machine only."""
    latents = ("inversion", "noise")
    bfloat = fast_dtype("cpu") == torch.bfloat16
    other = "float32" if bfloat else "bfloat16"
    found = [
        Variant("reference: one thread, a batch, float32 generator"),
        Variant("the same again"),
        Variant("two threads", threads=2),
        Variant("one photo at a time", alone=True),
        Variant("bfloat16 generator", latents, precision="bf16"),
        Variant(f"{other} features", ("style",), style_precision=other),
        Variant("oneDNN off", onednn=False),
    ]
    for name, value in (("ATEN_CPU_CAPABILITY", "avx2"), ("ATEN_CPU_CAPABILITY", "default")):
        found.append(Variant(f"{name}={value}", environment={name: value}))
    for value in ("AVX2", "SSE41"):
        found.append(Variant(f"ONEDNN_MAX_CPU_ISA={value}", environment={"ONEDNN_MAX_CPU_ISA": value}))
    if torch.cuda.is_available():
        found += [Variant("CUDA device", device="cuda"), Variant("CUDA device again", device="cuda")]
    return found


# --- in the process of a variant -------------------------------------------------------------------------------------


def compute(variant: Variant, work: Work) -> dict[str, Tensor]:
    """Images (B, 3, H, W), latents and losses (B,) of each task: "inversion.images", ...; maps are in activations."""
    torch.set_num_threads(variant.threads)
    found = {}
    with torch.backends.mkldnn.flags(enabled=variant.onednn):
        if "inversion" in variant.tasks:
            found |= _latents(variant, work)
        if "style" in variant.tasks:
            found |= _style(variant, work)
    return {name: tensor.detach().float().cpu().clone() for name, tensor in found.items()}


def targets(generator) -> Tensor:
    """A real photo and two samples with fresh noise, (3, 3, R, R) in [0, 1]."""
    latents = Latents("w", generator.sample("w", 2, seed=5))
    samples = generator.synthesize(latents, generator.fresh_noise(2, seed=6)).clamp(0, 1)
    return torch.cat([demo_cat(generator.resolution), samples]).float()


def _latents(variant: Variant, work: Work) -> dict[str, Tensor]:
    generator, features = load_generator(MODEL), load_features()
    photos = targets(generator).to(variant.device)  # made before anything differs
    generator, features = generator.to(variant.device), features.to(variant.device)
    set_precision(generator, variant.precision, False)
    chunks = photos.split(1) if variant.alone else [photos]
    first = [project(generator, part, "w+", features=features, steps=work.steps) for part in chunks]
    second = [
        optimize_noise(generator, part, found.latents, steps=work.steps)
        for part, found in zip(chunks, first, strict=True)
    ]
    maps = join([found.latents for found in second]).noise
    codes = {"inversion": join([found.latents for found in first]).code}
    scaled = [map_ / scale for map_, scale in zip(maps, noise_scales(generator), strict=True)]  # in activations
    codes["noise"] = torch.cat([map_.flatten(1) for map_ in scaled], 1)
    tables = {"targets": photos}
    for task, results in (("inversion", first), ("noise", second)):
        tables |= {f"{task}.images": torch.cat([found.images for found in results]), f"{task}.latents": codes[task]}
        tables[f"{task}.total"] = torch.cat([found.total for found in results])
    return tables


def _style(variant: Variant, work: Work) -> dict[str, Tensor]:
    contents = torch.cat(list(demo_photos(work.side, CONTENTS).values())).to(variant.device)
    network, style = load_features(device=variant.device), own_styles(work.side)[STYLE].to(variant.device)
    chunks = contents.split(1) if variant.alone else [contents]
    options = {"steps": work.style_steps, "precision": variant.style_precision}
    results = [stylize(network, part, [style], **options) for part in chunks]
    images = torch.cat([found.images for found in results])
    return {"style.images": images, "style.latents": images, "style.total": torch.cat([f.total for f in results])}


def run_variant(variant: Variant, work: Work) -> dict[str, Tensor]:
    """``compute`` in a process of its own. Raises RuntimeError with the last line of what it said."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.safetensors"
        command = [sys.executable, "-m", __name__, str(file), json.dumps(asdict(variant)), json.dumps(asdict(work))]
        environment = os.environ | variant.environment
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"not done after {SECONDS} seconds") from error
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:200])
        return load_file(file)


# --- comparing -------------------------------------------------------------------------------------------------------


def compare(task: str, ours: dict[str, Tensor], reference: dict[str, Tensor]) -> dict:
    """One row: the worst over the photos of each difference, "yes" where all bits of images and latents are equal."""
    pairs = {name: (ours[f"{task}.{name}"], reference[f"{task}.{name}"]) for name in ("images", "latents", "total")}
    row = {"same_bits": "yes" if all(torch.equal(a, b) for a, b in pairs.values()) else "no"}
    row["psnr_between"] = psnr(*pairs["images"]).min().item()
    if task != "style":
        ours_to, theirs_to = (psnr(images, reference["targets"]) for images in pairs["images"])
        row["psnr_to_target_differs"] = (ours_to - theirs_to).abs().max().item()
    a, b = pairs["total"]
    row["loss_differs_percent"] = (100 * (a - b) / b).abs().max().item()
    a, b = pairs["latents"]
    return row | {"latent_differs": (a - b).abs().max().item(), "of_range": (b.max() - b.min()).item()}


def run(out: str | Path, quick: bool = False) -> str:
    """Compute and compare all variants; ``determinism.json`` grows as they come. Returns the tables."""
    out, started = Path(out), time.perf_counter()
    work = Work(10, 4, 64) if quick else Work()
    report = {"circumstances": circumstances("cpu"), "work": asdict(work), **{name: [] for name in TASKS.values()}}
    with ThreadPoolExecutor(min(4, torch.get_num_threads())) as pool:  # each waits for a process of one thread
        (_, first), *others = [(variant, pool.submit(run_variant, variant, work)) for variant in variants()]
        reference = first.result()
        for variant, job in others:
            problem = job.exception()
            for task in variant.tasks:
                row = {"against_the_reference": variant.name}
                row |= {"same_bits": f"not run: {problem}"} if problem else compare(task, job.result(), reference)
                report[TASKS[task]].append(row)
            write_json(out / "determinism.json", report)
    report["circumstances"]["minutes"] = round((time.perf_counter() - started) / 60, 1)
    write_json(out / "determinism.json", report)
    return "\n\n".join(f"{name}\n\n{results_table(report[name])}" for name in TASKS.values())


if __name__ == "__main__":
    path, *settings = sys.argv[1:]
    what, amount = (kind(**json.loads(text)) for kind, text in zip((Variant, Work), settings, strict=True))
    save_tensors(path, compute(what, amount), {})
