"""How near is a result to its target: PSNR, SSIM, feature distance; and two sets of images: Fréchet distance.

Each takes what a file would show: images clamped to [0, 1] and rounded to 8 bits, at their own size.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from skimage.metrics import structural_similarity

from helpers.images import quantize

SSIM_WINDOW = 11  # pixels; the Gaussian of sigma 1.5 cut at 3.5 sigma
DISTANCE_LAYERS = ("relu1_2", "relu2_2", "relu3_2")

Layer = int | str
FeatureNetwork = Callable[[torch.Tensor, Sequence[Layer]], dict[Layer, torch.Tensor]]


def psnr(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(1 / mse), the mean squared error over channels and pixels.

    images, targets: (B, 3, H, W) in [0, 1]; clamped and rounded to 8 bits here. Returns (B,), inf for equal images.
    Raises ValueError for shapes that differ and for NaN.
    """
    images, targets = _checked(images, targets)
    mse = (images.double() - targets.double()).square().mean(dim=(1, 2, 3))
    return (-10 * torch.log10(mse)).float()


def ssim(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Structural similarity as in Wang et al. 2004: Gaussian window of sigma 1.5, mean over pixels and channels.

    images, targets: (B, 3, H, W) in [0, 1], sides of at least SSIM_WINDOW pixels; clamped and rounded to 8 bits here.
    Returns (B,) in [-1, 1], 1 for equal images. Raises ValueError for shapes that differ, too small images, and NaN.
    """
    images, targets = _checked(images, targets)
    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"expected images of at least {SSIM_WINDOW} pixels a side but got {tuple(images.shape)}")
    values = [_ssim(image, target) for image, target in zip(_arrays(images), _arrays(targets), strict=True)]
    return torch.tensor(values, dtype=torch.float32, device=images.device)


def _arrays(images: torch.Tensor) -> np.ndarray:
    return images.double().cpu().numpy()


def _ssim(image: np.ndarray, target: np.ndarray) -> float:
    return structural_similarity(
        image, target, channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )


@torch.no_grad()
def feature_distance(
    features: FeatureNetwork,
    images: torch.Tensor,
    targets: torch.Tensor | dict[Layer, torch.Tensor],
    layers: Sequence[Layer] | None = None,
) -> torch.Tensor:
    """How different two images look to a network: LPIPS (Zhang et al. 2018) without its learned weights.

    At each layer the activations are scaled to length 1 over the channels of every pixel; their squared distance is
    summed over channels, averaged over pixels, then over layers.
    features: network of helpers.features. images: (B, 3, H, W) in [0, 1], clamped and rounded to 8 bits here.
    targets: likewise, or what features(targets, layers) returned. layers: DISTANCE_LAYERS by default.
    Returns (B,) in [0, 2] for layers after a ReLU, 0 for equal images.
    Raises ValueError for shapes that differ, no layers, NaN, and targets computed at other layers.
    """
    layers = DISTANCE_LAYERS if layers is None else layers
    if not layers:
        raise ValueError(f"expected at least one layer but got none; {', '.join(DISTANCE_LAYERS)} are the default")
    if isinstance(targets, dict):
        ours, theirs = features(_finite(quantize(images)), layers), targets
    else:
        images, targets = _checked(images, targets)
        ours, theirs = features(images, layers), features(targets, layers)
    return torch.stack([_layer_distance(ours[layer], _of_layer(theirs, layer)) for layer in ours]).mean(dim=0)


def _of_layer(activations: dict[Layer, torch.Tensor], layer: Layer) -> torch.Tensor:
    if layer not in activations:
        raise ValueError(f"expected target features of layer {layer} but got {list(activations)}; compute them again")
    return activations[layer]


def _layer_distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    _same_shape(ours, theirs)
    unit = [torch.nn.functional.normalize(_finite(values.float()), dim=1) for values in (ours, theirs)]
    return (unit[0] - unit[1]).square().sum(dim=1).mean(dim=(1, 2))


@torch.no_grad()
def diversity(features: FeatureNetwork, images: torch.Tensor, layers: Sequence[Layer] = DISTANCE_LAYERS) -> float:
    """Mean feature distance over all pairs of a set of images (N, 3, H, W) in [0, 1]; 0 where all are equal.

    Raises ValueError for fewer than two images, and for NaN.
    """
    if len(images) < 2:
        raise ValueError(f"expected at least 2 images to compare but got {len(images)}; give more")
    ours = features(quantize(_finite(images)), layers)
    count, distances = len(images), []
    for values in ours.values():
        unit = torch.nn.functional.normalize(values.float(), dim=1)
        # sum of |u_i - u_j|² over all pairs: N Σ|u_i|² - |Σ u_i|²
        pairs = count * unit.square().sum((0, 1)) - unit.sum(0).square().sum(0)
        distances.append(pairs.mean().item() / (count * (count - 1) / 2))
    return sum(distances) / len(distances)


@torch.no_grad()
def nearest_distance(
    features: FeatureNetwork,
    images: torch.Tensor,
    others: torch.Tensor,
    layers: Sequence[Layer] = DISTANCE_LAYERS,
    batch: int = 64,
) -> torch.Tensor:
    """Smallest feature distance of each image (N, 3, H, W) to any of the others (M, 3, H, W), all in [0, 1]: (N,).

    Raises ValueError for NaN and for sizes that differ.
    """
    _same_shape(images[:1], others[:1])
    ours = _unit_features(features, images, layers)
    smallest = images.new_full((len(images),), float("inf"))
    for chunk in others.split(batch):
        theirs = _unit_features(features, chunk, layers)
        square = ours.square().sum(1)[:, None] + theirs.square().sum(1) - 2 * ours @ theirs.T
        smallest = torch.minimum(smallest, square.clamp_min(0).amin(1))
    return smallest


def _unit_features(features: FeatureNetwork, images: torch.Tensor, layers: Sequence[Layer]) -> torch.Tensor:
    """One row per image; the squared distance of two rows is the feature distance of their images."""
    rows = []
    for values in features(quantize(_finite(images)), layers).values():
        unit = torch.nn.functional.normalize(values.float(), dim=1)
        rows.append(unit.flatten(1) / (unit[0, 0].numel() * len(layers)) ** 0.5)
    return torch.cat(rows, 1)


@torch.no_grad()
def feature_statistics(
    features: FeatureNetwork, batches: Iterable[torch.Tensor], layer: Layer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (C,) and covariance (C, C), float64, of a layer's activations averaged over the pixels of each image.

    batches: an iterable of (B, 3, H, W) in [0, 1], clamped and rounded to 8 bits here; at least two images in all, and
    more than C for a covariance of full rank. Raises ValueError for fewer than two images, and for NaN.
    """
    pooled = [next(iter(features(quantize(images), [layer]).values())).mean(dim=(2, 3)).cpu() for images in batches]
    vectors = torch.cat(pooled).double() if pooled else torch.empty(0, 1)
    if len(vectors) < 2:
        raise ValueError(f"expected at least 2 images for their statistics but got {len(vectors)}; give more")
    vectors = _finite(vectors)
    return vectors.mean(dim=0), torch.cov(vectors.T).reshape(vectors.shape[1], vectors.shape[1])


def frechet_distance(
    mean1: torch.Tensor, covariance1: torch.Tensor, mean2: torch.Tensor, covariance2: torch.Tensor
) -> float:
    """Squared Fréchet distance of two Gaussians, |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½); FID in Heusel et al. 2017.

    mean: (C,), covariance: (C, C), as feature_statistics returns them; computed in float64. At least 0.
    Raises ValueError for shapes that do not fit, and for NaN.
    """
    mean1, covariance1, mean2, covariance2 = (
        _finite(torch.as_tensor(values).double().cpu()) for values in (mean1, covariance1, mean2, covariance2)
    )
    if mean1.ndim != 1:
        raise ValueError(f"expected means of shape (C,) but got {tuple(mean1.shape)}")
    _same_shape(mean1, mean2)
    for covariance in (covariance1, covariance2):
        _same_shape(covariance, torch.empty(len(mean1), len(mean1)))
    # tr (C1 C2)^½ from the symmetric C1^½ C2 C1^½, which has the same eigenvalues and none that are complex
    values, vectors = torch.linalg.eigh(covariance1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * cross
    return max(0.0, distance.item())


def _checked(images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"expected images of shape (B, 3, H, W) but got {tuple(images.shape)}")
    _same_shape(images, targets)
    return quantize(_finite(images)), quantize(_finite(targets))


def _same_shape(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(
            f"expected the same shape on both sides but got {tuple(ours.shape)} and {tuple(theirs.shape)}; "
            "resize or repeat one of them"
        )


def _finite(values: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(values).all():
        raise ValueError("expected finite values but got NaN or infinity; check the step that made them")
    return values
