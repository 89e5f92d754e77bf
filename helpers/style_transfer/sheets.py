"""Sheets of style transfers, each one batch: layers of a reconstruction, groups of style layers, contents × styles."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import skimage
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.colours import grey, match_linear
from helpers.search import Result
from helpers.style_transfer.criterion import Layers, StyleError
from helpers.style_transfer.transfer import StyleTransfer, stylize

GROUPS = tuple(tuple(range(first, first + 5)) for first in range(1, 12))  # style layers 1–5, 2–6, … 11–15
MOVED = 0.06  # a channel of a warped frame may differ by this much and still count as the same thing
Run = Callable[[StyleTransfer], Result]  # runs a transfer to the end, perhaps with a progress bar


def _one_hot(choices: Sequence[Layers], repeat: int = 1, tile: int = 1) -> dict[str | int, Tensor]:
    """Layer weights (B,) that give each sample its own layers; choices ``repeat`` times each, all ``tile`` times."""
    groups = [[choice] if isinstance(choice, str | int) else list(choice) for choice in choices]
    layers = list(dict.fromkeys(layer for group in groups for layer in group))
    table = {layer: torch.tensor([float(layer in group) for group in groups]) for layer in layers}
    return {layer: weights.repeat_interleave(repeat).repeat(tile) for layer, weights in table.items()}


def reconstructions(
    features, content: Tensor, layers: Sequence[str | int], seeds=(0,), run: Run = StyleTransfer.run, **options
) -> Result:
    """The image with the features of content (1, 3, H, W) at one layer: a batch of layers × seeds, seeds fastest."""
    table, noise = _one_hot(layers, len(seeds)), list(seeds) * len(layers)
    options = {"content_layers": table, "init": "noise", "seed": noise, "pyramid": None} | options
    return run(StyleTransfer(features, content, **options))


def textures(
    features,
    styles: Sequence[Tensor],
    groups: Sequence[Layers] = GROUPS,
    size: int = 96,
    seeds: Sequence[int] = (0,),
    run: Run = StyleTransfer.run,
    **options,
) -> Result:
    """Textures from noise: one batch of styles (1, 3, h, w) × groups of style layers × seeds, the last fastest."""
    count, rows = len(styles), len(groups) * len(seeds)
    mixture, layers = torch.eye(count).repeat_interleave(rows, 0), _one_hot(groups, len(seeds), count)
    noise = list(seeds) * (len(groups) * count)
    options = {"content_weight": 0.0, "style_weight": 1.0, "init": "noise", "seed": noise} | options
    blank = torch.full((1, 3, size, size), 0.5).to(styles[0])
    return run(StyleTransfer(features, blank, styles, style_layers=layers, style_weights=mixture, **options))


def layer_grid(
    features,
    content: Tensor,
    style: Tensor,
    content_layers: Sequence[str | int],
    style_groups: Sequence[Layers],
    batch: int = 48,
    run: Run = StyleTransfer.run,
    **options,
) -> Tensor:
    """Transfers for content layers × groups of style layers, (rows, columns, 3, H, W), at most ``batch`` together."""
    columns, parts = len(style_groups), []
    per_run = max(1, batch // columns)
    for first in range(0, len(content_layers), per_run):
        chosen = content_layers[first : first + per_run]
        settings = {"content_layers": _one_hot(chosen, columns), "style_layers": _one_hot(style_groups, 1, len(chosen))}
        parts.append(run(StyleTransfer(features, content, [style], **settings, **options)).images)
    return torch.cat(parts).unflatten(0, (len(content_layers), columns))


def transfer_grid(
    features, contents: Tensor, styles: Sequence[Tensor], run: Run = StyleTransfer.run, **options
) -> tuple[Tensor, Result]:
    """Every content (rows) in every style (columns), one batch: images (C, S, 3, H, W) and the result."""
    count, mixture = len(styles), torch.eye(len(styles)).repeat(len(contents), 1)
    each = contents.repeat_interleave(count, 0)
    result = run(StyleTransfer(features, each, styles, style_weights=mixture, **options))
    return result.images.unflatten(0, (len(contents), count)), result


def stylize_frames(
    features, frames: Iterable[Tensor], styles: Sequence[Tensor], warm: bool = True, steps: int = 60, **options
) -> Iterator[Tensor]:
    """Style transfer of a film; yields each frame (1, 3, H, W) in [0, 1] as soon as it is done.

    Warm, a frame starts from the previous result, moved along the optical flow, where the two show the same thing
    (Ruder et al. 2016), and takes half of the steps. Raises StyleError for frames that differ in size.
    """
    before = None
    for frame in frames:
        if before is None or not warm:
            result = stylize(features, frame, styles, steps=steps, **options)
        else:
            photo, image = before
            if photo.shape != frame.shape:
                raise StyleError(f"all frames must have one size; got {tuple(frame.shape)} after {tuple(photo.shape)}.")
            moved, same = follow(photo, frame, image)
            fresh = match_linear(frame, image)  # a photo's colours would stay: the statistics are right already
            start = fresh + (moved - fresh) * same
            warm_options = {"init": start, "pyramid": None, "steps": max(1, steps // 2)}
            result = stylize(features, frame, styles, **options | warm_options)
            # what has not changed keeps its strokes; otherwise they would swim
            result.images = result.images + 0.7 * same * (moved - result.images)
        before = frame, result.images
        yield result.images


def follow(photo: Tensor, frame: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Move ``image`` (1, 3, H, W), made from ``photo``, as the photo moves to become ``frame``.

    Also returns a mask (1, 1, H, W): 1 where the moved photo is the frame, 0 where something new comes into view.
    """
    levels, (height, width) = [grey(shot)[0, 0].cpu().numpy() for shot in (frame, photo)], photo.shape[-2:]
    flow = torch.from_numpy(np.stack(skimage.registration.optical_flow_ilk(*levels, radius=5))).to(photo)
    y, x = torch.meshgrid(torch.arange(height).to(flow), torch.arange(width).to(flow), indexing="ij")
    y, x = y + flow[0], x + flow[1]
    where = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)[None]

    def moved(images: Tensor) -> Tensor:
        return F.grid_sample(images, where, padding_mode="border", align_corners=False)

    inside = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))[None, None]
    error = (moved(photo) - frame).abs().amax(1, keepdim=True)
    return moved(image), ((error < MOVED) & inside).to(photo)


def flicker(frames: Sequence[Tensor], images: Sequence[Tensor]) -> float:
    """Mean change of images (1, 3, H, W) along their frames' motion, grey levels of 255. StyleError below 2 frames."""
    if len(frames) < 2 or len(frames) != len(images):
        raise StyleError(f"flicker needs two frames and as many images; got {len(frames)} and {len(images)}.")
    changes = []
    for photo, frame, earlier, later in zip(frames, frames[1:], images, images[1:], strict=False):
        moved, same = follow(photo, frame, earlier)
        changes.append(((moved - later).abs().mean(1, keepdim=True) * same).sum() / same.sum().clamp_min(1))
    return 255 * torch.stack(changes).mean().item()
