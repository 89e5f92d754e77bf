"""A film of a face: found and aligned frame by frame, inverted from frame to frame, with one set of noise maps."""

import collections
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy
import torch
from torch import Tensor
from tqdm.auto import tqdm

from helpers.faces import FaceOptions, NoFace, find_place, way_to
from helpers.generators import Generator
from helpers.images import quantize, read_image
from helpers.inversion import check_targets, fast_options, project
from helpers.latents import Latents
from helpers.losses import Loss, lp_loss
from helpers.noise import NOISE_LR, SMALLEST_STRENGTH, check_noise_maps
from helpers.optimizers import Optimization, cosine
from helpers.photos import cut_square

STEPS, LR = 8, 0.02  # of a frame, from the code of the frame before it: L-BFGS and larger rates leave it at first
SHARED_STEPS, KEYS = 60, 6  # of the noise maps, and the number of frames that they are fitted to
SMOOTH = 1.5  # frames; the error of a face finder changes from frame to frame, the place of a face does not


def moved_photo(frames: int = 24, side: int = 256) -> Tensor:
    """A clip (frames, 3, 7/8 side, side) of the photo of chelsea, moved, zoomed, turned and relit in a smooth loop."""
    photo, clip = read_image(Path(__file__).parents[1] / "data" / "chelsea-whole.png"), []
    for phase in np.linspace(0, 2 * np.pi, frames, endpoint=False):
        turn = side / photo.shape[-1] * (0.86 + 0.08 * np.sin(phase)) * np.exp(0.14j * np.sin(phase + 1))
        middle = side / 2 * (1 + 1j) + 0.05 * side * np.exp(1j * phase)
        light = torch.tensor([1.0, 1.0, 1.0 - 0.06 * np.sin(phase)]).view(1, 3, 1, 1) * (0.9 + 0.1 * np.cos(phase))
        clip.append(cut_square(photo, turn, middle - turn * photo.shape[-1] / 2 * (1 + 1j), side) * light)
    return torch.cat(clip).float()[:, :, side // 16 : side - side // 16]


def aligned_clip(frames: Iterable[Tensor], generator: Generator, options: FaceOptions | None = None) -> Tensor:
    """The face in every frame (1, 3, H, W) of a film, as the generator knows faces: (T, 3, R, R).

    The place of the face is smoothed over time, and where none is found, it lies between those before and after. Raises
    NoFace where no frame shows one.
    """
    frames, places = list(frames), {}
    for number, frame in enumerate(tqdm(frames, "faces", leave=False)):
        try:
            places[number] = find_place(frame, generator, options or FaceOptions())
        except NoFace:
            if number == len(frames) - 1 and not places:
                raise
    if len(next(iter(places.values()))) == 2:  # similarity transforms; a box is the same in every frame
        parts = np.array([[part for number in pair for part in (number.real, number.imag)] for pair in places.values()])
        every = np.stack([np.interp(range(len(frames)), list(places), column) for column in parts.T], 1)
        smooth = scipy.ndimage.gaussian_filter1d(every, SMOOTH, axis=0, mode="nearest")
        places = dict(enumerate(smooth.view(complex)))
    faces = torch.cat([way_to(places[i], generator.resolution)[0](frame) for i, frame in enumerate(frames)])
    return faces.to(generator.device)


def invert_clip(generator: Generator, targets: Tensor, features, steps: int = STEPS) -> Latents:
    """Codes (T) in w+ of frames (T, 3, R, R), each started at the code before it. ValueError as ``check_targets``."""
    check_targets(generator, targets)
    last, codes = project(generator, targets[:1], features=features, **fast_options(generator)).latents, []
    for target in tqdm(targets.split(1), "frames", leave=False):
        if codes:
            last = project(generator, target, start=last, features=features, steps=steps, lr=LR).latents
        codes.append(last.code)
    return Latents("w+", torch.cat(codes))


def share_noise(generator: Generator, targets: Tensor, latents: Latents, steps: int = SHARED_STEPS) -> Latents:
    """The codes (T) with one set of noise maps, fitted to KEYS of the frames (T, 3, R, R). ValueError without maps."""
    check_noise_maps(generator)
    keys = torch.linspace(0, len(targets) - 1, min(KEYS, len(targets))).round().long()
    shown, code, fixed = targets[keys], latents.code[keys], generator.fixed_noise(1)
    scales = [1 / max(abs(strength.item()), SMALLEST_STRENGTH) for strength in generator.noise_strengths]

    def maps(offsets: list[Tensor], count: int) -> list[Tensor]:
        moved = [map_ + scale * offset for map_, scale, offset in zip(fixed, scales, offsets, strict=True)]
        return [map_.expand(count, -1, -1, -1) for map_ in moved]

    def loss(offsets: list[Tensor], index: slice) -> Loss:
        error = lp_loss(generator.synthesize(Latents(latents.space, code, maps(offsets, len(keys)))), shown, 2)
        return Loss(error.mean()[None], {"l2": error.mean()[None]})

    settings = {"lr": NOISE_LR, "schedule": cosine(0.05, 1.0), "scale": 3 * generator.resolution**2}
    run = Optimization([torch.zeros_like(map_) for map_ in fixed], loss, steps=steps, **settings)
    collections.deque(tqdm(run, "shared noise", total=steps, leave=False), maxlen=0)
    return Latents(latents.space, latents.code, maps(run.best, len(targets)))


@torch.no_grad()
def render(generator: Generator, latents: Latents) -> Tensor:
    """The frames (T, 3, R, R) of latents (T), a few at a time."""
    parts = torch.arange(len(latents)).split(16)
    return torch.cat([generator.synthesize(latents[part]).clamp(0, 1) for part in parts])


def flicker(images: Tensor, targets: Tensor) -> Tensor:
    """How differently a film changes from frame to frame than its target: (T - 1,), in grey levels of 255.

    The root mean square of the difference of both changes (dtSSD: Erofeev et al., Perceptually Motivated Benchmark for
    Video Matting, BMVC 2015). An error that stays the same does not flicker.
    """
    change = (quantize(images) - quantize(targets)).diff(dim=0)
    return 255 * change.square().mean((1, 2, 3)).sqrt()
