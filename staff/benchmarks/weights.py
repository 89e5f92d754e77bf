"""Figures of the model cards, measured on the validation photos of the training data."""

from collections.abc import Iterator

from helpers.generators import Generator, load_generator
from helpers.images import write_image
from helpers.inversion import encoder_start
from helpers.metrics import psnr
from helpers.noise import fresh_noise_psnr
from staff.benchmarks.cats import cat_rows
from staff.benchmarks.common import Settings
from staff.benchmarks.noise import EQUAL, fitted, inverted
from staff.training.gan import sample_grid

SAMPLES = 5_000
FACES = 32


def generators(settings: Settings) -> Iterator[tuple[str, Generator]]:
    for name in settings.models or ("dcgan-cats-64", "stylegan2-cats-64"):
        yield name, load_generator(name, settings.device)


def cats(settings: Settings) -> Iterator[dict]:
    """See ``cat_rows``; also writes a sheet of each model's samples."""
    for model, generator in generators(settings):
        write_image(settings.out / f"{model}-samples.png", sample_grid(generator))
        yield from cat_rows(model, generator, settings, SAMPLES)


def inversion(settings: Settings) -> Iterator[dict]:
    """PSNR of inversions in 300 steps from the command's start, after the noise maps too, and with fresh ones."""
    _, features = settings.networks()
    for model, generator in generators(settings):
        faces = settings.faces(FACES, generator.resolution)
        for space in reversed(generator.spaces):  # the one that is quoted first
            found = inverted(generator, faces, space, features, **EQUAL, **encoder_start(generator, space))
            values = {"psnr": psnr(found.images, faces)}
            if space == "w+":
                found = fitted(generator, faces, found)
                values["after_noise"] = psnr(found.images, faces)
                values["fresh_noise"] = fresh_noise_psnr(generator, faces, found.latents)
            row = {"model": model, "space": space, "faces": len(faces)}
            row |= {f"mean_{name}": each.mean().item() for name, each in values.items()}
            yield row | {f"worst_{name}": each.min().item() for name, each in values.items()}


PARTS = {"cats": cats, "inversion": inversion}
