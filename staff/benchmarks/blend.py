"""Two-image blends on pairs of validation faces: seam, two-tone, fidelity, realism; five ways, three masks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from helpers import masks
from helpers.blending import Editor, feather_of, hard_paste, measure, poisson_blend
from helpers.features import load_features
from helpers.figures import labelled_grid, results_table, save_figure
from helpers.files import write_json
from helpers.generators import Generator, load_discriminator, load_generator
from helpers.images import resize
from helpers.photos import load_faces
from staff.benchmarks.common import circumstances
from staff.benchmarks.distributions import frechet_distance
from staff.training.loop import TrainingError
from staff.training.pretrained import CATS, load_efficientnet

MODEL = "stylegan2-cats-64"
PAIRS, BATCH = 16, 16
JUDGED = 256  # photos that the blends are compared with
EXACT = 60.0  # dB counted for pixels that are equal, near the limit of 8-bit rounding


def bench_masks(size: int) -> dict[str, Tensor]:
    """The masks of the benchmark: half of the face, an ellipse around eyes and nose, two painted strokes."""
    strokes = [[(0.15, 0.2), (0.4, 0.45), (0.3, 0.75)], [(0.62, 0.3), (0.82, 0.42), (0.7, 0.8)]]
    return {
        "half": masks.half(size),
        "ellipse": masks.SHAPES["ellipse"](size),
        "painted": masks.union(*(masks.brush(size, points, 0.24) for points in strokes)),
    }


@torch.no_grad()
def blend_row(images: Tensor, x: Tensor, y: Tensor, mask: Tensor, features, discriminator) -> dict[str, float]:
    """Means over the pairs of ``measure``, and realism: the discriminator's score, higher is more real."""
    found = measure(images, x, y, mask, features)
    row = {name: values.clamp(max=EXACT).mean().item() for name, values in found.items()}
    return row if discriminator is None else row | {"realism": discriminator(images).mean().item()}


def laplacian_blend(x: Tensor, y: Tensor, mask: Tensor, levels: int = 4) -> Tensor:
    """Multi-band blend (Burt and Adelson 1983) without subsampling: each octave has its own feather."""
    blend, hard = torch.zeros_like(x), (mask >= 0.5).to(x)
    for level in range(levels + 1):
        share, radius = masks.blur(hard, 0.7 * 2**level), 2.0**level
        lower = (x * 0, y * 0) if level == levels else (masks.blur(x, radius), masks.blur(y, radius))
        blend += torch.lerp(y - lower[1], x - lower[0], share)
        x, y = lower
    return blend.clamp(0, 1)


@torch.no_grad()
def judged(images: dict[str, Tensor], photos: Tensor) -> list[dict]:
    """What an ImageNet network says of sets of images: P(cat), and the Fréchet distance of its features to photos'.

    images: name to (N, 3, H, W) in [0, 1]. Raises TrainingError when the network is missing.
    """
    network, rows, statistics = load_efficientnet(), [], {}
    for name, values in {"photos": photos, **images}.items():
        large = resize(values, 128).cpu() * 2 - 1
        found = torch.cat([network.forward_features(batch) for batch in large.split(50)])
        pooled = network.forward_head(found, pre_logits=True)
        statistics[name] = pooled.double().mean(0), torch.cov(pooled.double().T)
        p_cat = network.classifier(pooled).softmax(1)[:, CATS.start : CATS.stop].sum(1).mean().item()
        distance = frechet_distance(*statistics[name], *statistics["photos"])
        rows.append({"images": name, "p_cat": p_cat, "frechet_distance": distance})
    return rows


def timed(function: Callable[[], Tensor]) -> tuple[Tensor, float]:
    started = time.perf_counter()
    return function(), time.perf_counter() - started


def bench_blend(
    generator: Generator, x: Tensor, y: Tensor, features, discriminator=None, *, batch: int = BATCH, **options
) -> tuple[list[dict], dict[str, dict[str, Tensor]]]:
    """Pastes, Laplacian pyramid, Poisson and ours for every pair and mask.

    Args:
        x, y: (N, 3, R, R) in [0, 1], the pairs.
        features: network of ``load_features``.
        discriminator: of ``load_discriminator``, for the realism column.
        options: of ``Editor``.

    Returns:
        Rows of figures, and images (N, 3, R, R) by mask and method.
    """
    rows, images, editor = [], {}, Editor(generator, features, **options)

    def ours(mask):
        pairs = zip(x.split(batch), y.split(batch), strict=True)
        return torch.cat([editor.crossover(a, b, mask).run().images for a, b in pairs])

    for name, mask in bench_masks(generator.resolution).items():
        mask = mask.to(x.device)
        ways = {
            "hard paste": lambda mask=mask: hard_paste(x, y, mask),
            "feathered paste": lambda mask=mask: torch.lerp(y, x, masks.feather(mask, feather_of(generator))),
            "Laplacian pyramid": lambda mask=mask: laplacian_blend(x, y, mask),
            "Poisson": lambda mask=mask: poisson_blend(x, y, mask),
            "ours": lambda mask=mask: ours(mask),
        }
        images[name] = {}
        for method, function in ways.items():
            images[name][method], seconds = timed(function)
            figures = blend_row(images[name][method], x, y, mask, features, discriminator)
            rows.append({"mask": name, "method": method, **figures, "seconds_per_pair": seconds / len(x)})
    for method in ways:  # over all masks
        same = [row for row in rows if row["method"] == method]
        numbers = [key for key in same[0] if key not in ("mask", "method")]
        rows.append({"mask": "all", "method": method} | {k: sum(row[k] for row in same) / len(same) for k in numbers})
    return rows, images


def run(data: str | Path, out: str | Path, device: torch.device, pairs: int = PAIRS) -> str:
    """Measure; write ``blend.json`` and a sheet for each mask; return the table as text."""
    out, features = Path(out), load_features("vgg19-slim", device)
    generator, discriminator = load_generator(MODEL, device), load_discriminator(MODEL, device)
    photos = load_faces(data, n=2 * pairs + JUDGED, split="validation").to(device)
    x, y, others = photos[:pairs], photos[pairs : 2 * pairs], photos[2 * pairs :]
    rows, images = bench_blend(generator, x, y, features, discriminator)
    real = discriminator(photos).mean().item()
    report = {"circumstances": circumstances(device), "blends": rows, "realism_of_photos": [{"realism": real}]}
    methods = {method: torch.cat([ways[method] for ways in images.values()]) for method in images["half"]}
    try:
        report["judged"] = judged(methods, others)
    except TrainingError as error:
        print(f"P(cat) and the Fréchet distance are left out. {error}")
    write_json(out / "blend.json", report)
    for name, ways in images.items():
        sheet = {"x": x[:8], "y": y[:8]} | {method: values[:8] for method, values in ways.items()}
        save_figure(labelled_grid(list(sheet.values()), list(sheet)), out / f"blend-{name}.png")
    return "\n\n".join(results_table(part) for part in report.values() if isinstance(part, list))
