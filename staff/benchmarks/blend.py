"""Two-image blends on pairs of validation faces: seam, two-tone, pose, fidelity, realism; five ways, three masks."""

import functools
import time
from collections.abc import Iterator

import numpy as np
import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from helpers import masks
from helpers.blending import Editor, feather_of, hard_paste, measure, poisson_blend, region_psnr
from helpers.cat_faces import pose
from helpers.figures import labelled_grid, save_figure
from helpers.generators import Generator, load_discriminator
from helpers.images import resize
from helpers.metrics import feature_distance
from staff.benchmarks.cats import described, frechet_distance
from staff.benchmarks.common import Settings
from staff.training.pretrained import load_efficientnet

PAIRS = 16
JUDGED = 256  # photos, of the training part, that the blends are compared with
EXACT = 60.0  # dB counted for pixels that are equal, near the limit of 8-bit rounding


def bench_masks(generator: Generator) -> dict[str, Tensor]:
    """Half of the image, an ellipse around eyes and nose, two painted strokes over the face."""
    size, landmarks = generator.resolution, generator.landmarks
    strokes = [[(0.15, 0.2), (0.4, 0.45), (0.3, 0.75)], [(0.62, 0.3), (0.82, 0.42), (0.7, 0.8)]]
    strokes = [[masks.on_face(landmarks, *point) for point in points] for points in strokes]
    painted = masks.union(*(masks.brush(size, points, 0.24 * masks.face_scale(landmarks)) for points in strokes))
    return {"half": masks.half(size), "ellipse": masks.shapes(landmarks)["ellipse"](size), "painted": painted}


def laplacian_blend(x: Tensor, y: Tensor, mask: Tensor, levels: int = 4) -> Tensor:
    """Multi-band blend (Burt and Adelson 1983) without subsampling: each octave has its own feather."""
    blend, hard = torch.zeros_like(x), (mask >= 0.5).to(x)
    for level in range(levels + 1):
        share, radius = masks.blur(hard, 0.7 * 2**level), 2.0**level
        lower = (x * 0, y * 0) if level == levels else (masks.blur(x, radius), masks.blur(y, radius))
        blend += torch.lerp(y - lower[1], x - lower[0], share)
        x, y = lower
    return blend.clamp(0, 1)


@functools.cache
def found(settings: Settings) -> tuple[list[dict], dict[str, dict[str, Tensor]], Tensor]:
    """Rows of figures; images (N, 3, R, R) by mask and method, the two photos first; other photos."""
    (generator, features), pairs = settings.networks(), 1 if settings.quick else PAIRS
    critic, editor = load_discriminator(generator.name, settings.device), Editor(generator, features)
    photos = settings.faces(2 * pairs, generator.resolution)
    x, y, rows, images = photos[:pairs], photos[pairs : 2 * pairs], [], {}
    ways = {
        "hard paste": hard_paste,
        "feathered paste": lambda x, y, mask: torch.lerp(y, x, masks.feather(mask, feather_of(generator))),
        "Laplacian pyramid": laplacian_blend,
        "Poisson": poisson_blend,
        "ours": lambda x, y, mask: editor.crossover(x, y, mask).run().images,
    }
    for name, mask in bench_masks(generator).items():
        mask, images[name] = mask.to(settings.device), {"x": x, "y": y}
        for method, way in ways.items():
            started = time.perf_counter()
            images[name][method] = blend = way(x, y, mask)
            seconds = time.perf_counter() - started
            measured = measure(blend, x, y, mask, features) | pose(blend, x, y, mask, generator.landmarks)
            row = {key: values.clamp(max=EXACT).mean().item() for key, values in measured.items()}
            with torch.no_grad():
                row["realism"] = critic(blend).mean().item()
            rows.append({"mask": name, "method": method, **row, "seconds_per_pair": seconds / pairs})
    with torch.no_grad():
        rows.append({"mask": "none", "method": "photos", "realism": critic(photos).mean().item()})
    return rows, images, settings.faces(2 if settings.quick else JUDGED, generator.resolution, "train")


def blends(settings: Settings) -> Iterator[dict]:
    """Every way for every mask, then over all masks. Writes a sheet for each mask."""
    rows, images, _ = found(settings)
    yield from rows
    for method in dict.fromkeys(row["method"] for row in rows[:-1]):
        same = [row for row in rows if row["method"] == method]
        numbers = [key for key in same[0] if key not in ("mask", "method")]
        yield {"mask": "all", "method": method} | {k: sum(row[k] for row in same) / len(same) for k in numbers}
    for name, sheet in images.items():
        figure = labelled_grid([values[:8] for values in sheet.values()], list(sheet))
        save_figure(figure, settings.out / f"blend-{name}.png")


def judged(settings: Settings) -> Iterator[dict]:
    """What an ImageNet network says of the blends of all masks: P(cat), Fréchet distance of its features to photos'."""
    _, images, photos = found(settings)
    net, methods = load_efficientnet(), images["half"]
    sets = {name: torch.cat([sheet[name] for sheet in images.values()]) for name in methods}
    theirs = described(net, resize(photos, 128).split(50))[0]
    for name, values in ({"photos": photos} | sets).items():
        rows, likely = described(net, resize(values, 128).split(50))
        yield {"images": name, "p_cat": likely.mean().item(), "frechet_distance": frechet_distance(rows, theirs)}


def biharmonic(x: Tensor, hole: Tensor) -> Tensor:
    """Filled so that the bend is smooth (Damelin and Hoang 2018)."""
    filled = [inpaint_biharmonic(image.cpu().numpy(), hole[0, 0].cpu().numpy() > 0, channel_axis=0) for image in x]
    return torch.from_numpy(np.stack(filled)).to(x).clamp(0, 1)


def inpainting(settings: Settings) -> Iterator[dict]:
    """An eye and the mouth filled: feature distance to the photo in the hole, PSNR there. Writes a sheet of each."""
    (generator, features), n = settings.networks(), 1 if settings.quick else 2 * PAIRS
    editor, size = Editor(generator, features, steps=60, noise_steps=0), generator.resolution
    photos, shapes = settings.faces(n, size), masks.shapes(generator.landmarks)
    ways = {
        "mean colour": lambda x, hole: ((x * (1 - hole)).sum((2, 3)) / (1 - hole).sum())[..., None, None].expand_as(x),
        "Poisson": lambda x, hole: poisson_blend(torch.zeros_like(x), x, hole),
        "biharmonic": biharmonic,
        "ours": lambda x, hole: poisson_blend(editor.inpaint(x, hole).run().images, x, hole),  # what the noise draws
    }
    for name, hole in {"eye": shapes["eyes"](size) * masks.half(size), "mouth": shapes["mouth"](size)}.items():
        hole, sheet = hole.gt(0).to(photos), {"photo": photos}
        for method, way in ways.items():
            sheet[method] = torch.lerp(photos, torch.cat([way(part, hole) for part in photos.split(8)]), hole)
            distance = feature_distance(features, sheet[method], photos).mean().item() / hole.mean().item()
            psnr = region_psnr(sheet[method], photos, hole).mean().item()
            yield {"hole": name, "method": method, "feature_distance": distance, "psnr": psnr}
        sheet = labelled_grid([images[:8] for images in sheet.values()], list(sheet))
        save_figure(sheet, settings.out / f"inpainting-{name}.png")


PARTS = {"blends": blends, "judged": judged, "inpainting": inpainting}
