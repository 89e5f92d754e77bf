"""Sketch to image measured: every shipped sketch with the defaults, and what the judges say of photos and samples."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from helpers.figures import labelled_grid, save_figure
from helpers.generators import load_discriminator
from helpers.losses import lp_loss
from helpers.metrics import diversity
from helpers.sketch import Sketch, read_sketch, search, sketch_folder
from staff.benchmarks.cats import samples
from staff.benchmarks.common import Settings

SHOWN = 64


@torch.no_grad()
def judged(images: Tensor, critic: nn.Module, features) -> dict:
    """Mean score of the discriminator for images (N, 3, R, R), and their diversity."""
    return {"realism": critic(images, group_size=1).mean().item(), "diversity": diversity(features, images)}


def sketches(settings: Settings) -> Iterator[dict]:
    """The best candidate's masked L1 and the mean's, realism, diversity, how many met, seconds. Writes a sheet."""
    (generator, features), device, sheet = settings.networks(), settings.device, {}
    critic, options = load_discriminator(generator.name, device), {"steps": 2} if settings.quick else {}
    paths = sorted(sketch_folder(generator).glob("*.png"))
    for path in paths[:1] if settings.quick else paths:
        read = read_sketch(path, generator.resolution)
        sketch = Sketch(read.image.to(device), read.mask.to(device))
        found = search(generator, sketch, discriminator=critic, **options)
        l1 = lp_loss(found.images, sketch.image, 1, sketch.mask)
        row = {"sketch": path.stem, "masked_l1": l1[0].item(), "mean_masked_l1": l1.mean().item()}
        row |= judged(found.images, critic, features) | {"met": found.met.float().mean().item()}
        yield row | {"steps": found.steps, "seconds": found.seconds}
        sheet[path.stem] = [sketch.on_paper(), *found.images.split(1)]
    figure = labelled_grid(list(sheet.values()), list(sheet), scale=1.5)
    save_figure(figure, settings.out / "sketch-candidates.png")


def references(settings: Settings) -> Iterator[dict]:
    """The same of photos and of random samples."""
    generator, features = settings.networks()
    critic = load_discriminator(generator.name, settings.device)
    sets = {"photos": settings.faces(SHOWN, generator.resolution)}
    for psi in (1.0, 0.7):
        sets[f"random samples, truncation {psi:g}"] = torch.cat(list(samples(generator, SHOWN, psi)))
    for name, images in sets.items():
        yield {"images": name, **judged(images, critic, features)}


PARTS = {"sketches": sketches, "references": references}
