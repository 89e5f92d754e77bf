"""Results of long optimisations: handed in as latents and masks, rendered with the reference generator, and measured.

Nothing is optimised again while grading. A file holds numbers only (safetensors); it is small, and of one image.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from helpers.blending import region_psnr, seam
from helpers.generators import Generator, load_generator
from helpers.latents import Latents, chosen_samples, load_latents
from helpers.metrics import psnr, ssim
from helpers.photos import demo_cat
from helpers.states import load_state
from staff.grading.probe import Verdict, ramp

MODELS = {10: "stylegan2-cats-64", 12: "stylegan2-cats-128"}  # by the rows of w+, which say what was handed in
MOST_BYTES = 4_000_000
# From nothing to full points, by rows of w+: lesson 1's PSNR and SSIM, lesson 2's PSNR with fresh noise. The 128-pixel
# chelsea is nearer to its model, which drew her ears: searches end some decibels higher.
LEVELS = {10: ((25, 27.5), (0.6, 0.75), (22, 27)), 12: ((27, 30), (0.75, 0.865), (24, 27.5))}
SECOND = 0  # of the chosen samples, lesson 3's second photo


class HandInError(ValueError):
    """A file that was handed in and cannot be measured; the message says why."""


@dataclass
class Measured:
    """Images (1, 3, H, W) by name, what was handed in first; and the verdicts."""

    images: dict[str, Tensor]
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass(frozen=True)
class HandIn:
    """One file that students hand in: its name, how it is measured, what is expected."""

    file: str
    measure: Callable[[Path], Measured]
    expected: str


@functools.cache
def _generator(rows: int) -> Generator:
    return load_generator(MODELS[rows], "cpu")


def read(path: Path, noise: bool) -> tuple[Latents, Generator]:
    """w+ latents of one image that fit one of the course's generators, and that. HandInError for anything else."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise HandInError(f"{path.name} is not a plain file of at most {MOST_BYTES / 1e6:.0f} MB")
    latents, _ = load_latents(path)
    shapes = [(1, *_generator(rows).code_shape("w+")) for rows in MODELS]
    if latents.space != "w+" or tuple(latents.code.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        raise HandInError(f"expected one w+ code of shape {expected}, got {tuple(latents.code.shape)}")
    generator = _generator(latents.code.shape[1])
    if not all(t.dtype == torch.float32 and t.isfinite().all() for t in [latents.code, *(latents.noise or [])]):
        raise HandInError("the latents hold NaN or are not float32")
    if not noise:
        return Latents("w+", latents.code), generator
    generator.check_noise(latents.noise, 1)
    if latents.noise is None:
        raise HandInError("the noise maps are missing")
    return latents, generator


@torch.no_grad()
def render(generator: Generator, latents: Latents, noise: list[Tensor] | None = None) -> Tensor:
    """Image (1, 3, R, R) in [0, 1]."""
    return generator.synthesize(latents, noise).clamp(0, 1)


def chelsea(generator: Generator) -> Tensor:
    return demo_cat(generator.resolution, generator.landmarks)


def measure_inversion(path: Path) -> Measured:
    """Lesson 1: chelsea in w+, without noise maps of its own."""
    latents, generator = read(path, noise=False)
    target, image = chelsea(generator), render(generator, latents)
    value, structure = psnr(image, target).item(), ssim(image, target).item()
    decibels, similar, _ = LEVELS[generator.num_ws]
    reason = f"PSNR {value:.1f} dB, SSIM {structure:.2f}; full points from {decibels[1]} dB and {similar[1]}"
    right = min(ramp(value, *decibels), ramp(structure, *similar))
    return Measured({"yours": image, "photo": target}, [Verdict("nearness", 1.0, right, reason)])


def measure_noise(path: Path) -> Measured:
    """Lesson 2: chelsea with fitted noise maps, and a code that is still a cat without them."""
    latents, generator = read(path, noise=True)
    target, image = chelsea(generator), render(generator, latents)
    draws = [render(generator, latents, generator.fresh_noise(1, seed)) for seed in range(8)]
    fitted, fresh = psnr(image, target).item(), sum(psnr(draw, target).item() for draw in draws) / len(draws)
    structure = ssim(image, target).item()
    near = min(ramp(fitted, 38, 48), ramp(structure, 0.95, 0.99))
    reason = f"PSNR {fitted:.1f} dB, SSIM {structure:.3f}; full points from 48 dB and 0.99"
    verdicts = [Verdict("fitted", 0.5, near, reason)]
    *_, decibels = LEVELS[generator.num_ws]
    reason = f"PSNR {fresh:.1f} dB; full points from {decibels[1]} dB"
    verdicts.append(Verdict("fresh noise", 0.5, ramp(fresh, *decibels), reason))
    return Measured({"yours": image, "fresh noise": draws[0], "photo": target}, verdicts)


def drawn_face(generator: Generator) -> Tensor:
    """Lesson 3's second photo: a face of the generator, with noise maps of its own."""
    return render(generator, chosen_samples(generator)[SECOND], generator.fresh_noise(1, seed=5))


def measure_blend(path: Path) -> Measured:
    """Lesson 3: chelsea inside the mask that comes with the latents, the drawn face outside, and no seam between."""
    latents, generator = read(path, noise=True)
    x, y, side = chelsea(generator), drawn_face(generator), generator.resolution
    mask = load_state(path)[0].images.get("mask")
    if mask is None or tuple(mask.shape) != (1, 1, side, side) or not 0 <= mask.min() <= mask.max() <= 1:
        raise HandInError(f"expected a mask of shape {(1, 1, side, side)} in [0, 1] next to the latents")
    area = (mask >= 0.5).float().mean().item()
    if not 0.2 <= area <= 0.8:
        raise HandInError(f"the mask covers {100 * area:.0f} %; take one of 20 to 80 % of the image")
    image = render(generator, latents)
    sides = [region_psnr(image, photo, m).item() for photo, m in ((x, mask), (y, 1 - mask))]
    structure, edge = ssim(image, torch.lerp(y, x, (mask >= 0.5).float())).item(), seam(image, x, y, mask).item()
    fidelity = min(ramp(min(sides), 28, 38), ramp(structure, 0.75, 0.93))
    reason = f"PSNR {sides[0]:.1f} and {sides[1]:.1f} dB, SSIM {structure:.2f}; full points from 38 dB and 0.93"
    verdicts = [Verdict("photos", 0.6, fidelity, reason)]
    reason = f"seam {edge:.2f}; full points to 1.05"
    verdicts.append(Verdict("seam", 0.4, min(fidelity, ramp(edge, 1.5, 1.05)), reason))
    return Measured({"yours": image, "chelsea": x, "the drawn face": y, "mask": mask.expand(1, 3, -1, -1)}, verdicts)


HAND_INS: dict[str, HandIn] = {  # by the item's id
    "1.6": HandIn("01_inversion.safetensors", measure_inversion, "A w+ code whose image is near chelsea."),
    "2.5": HandIn("02_noise.safetensors", measure_noise, "w+ and noise maps that give chelsea, a cat without them."),
    "3.4": HandIn("03_blending.safetensors", measure_blend, "Latents and a mask: chelsea inside, the face outside."),
}


def judge(item: str, files: list[Path]) -> Measured:
    """Measure what is among a submission's files; one that is missing or no good scores 0, with the reason."""
    hand_in = HAND_INS[item]
    path, reason = next((p for p in sorted(files) if p.name == hand_in.file), None), f"{hand_in.file} was not handed in"
    if path is not None:
        try:
            return hand_in.measure(path)
        except (ValueError, OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).split("\n")[0][:300]
    return Measured({}, [Verdict("", 1.0, 0.0, reason)])
