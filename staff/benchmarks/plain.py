"""What the fast ways are measured against: a grouped-convolution StyleGAN2 and the published projector's plain loop."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.generators import StyleGAN2
from helpers.generators.stylegan2 import LRELU_GAIN, depthwise
from helpers.losses import lp_loss, perceptual_loss

STEPS, RATE = 1000, 0.1
RAMP_DOWN, RAMP_UP = 0.25, 0.05  # shares of the steps
JITTER, JITTER_LENGTH = 0.05, 0.75  # w jitter in standard deviations, and the share of the steps until it is gone
REGULARISE = 1e5  # weight of the noise maps' correlation with themselves, shifted by a pixel


def grouped_convolution(x: Tensor, weight: Tensor, styles: Tensor, *, demodulate=True, up_kernel=None) -> Tensor:
    """Modulated convolution of x (B, I, H, W) by weights (O, I, k, k) that are scaled for each sample."""
    batch, in_channels, height, width = x.shape
    w = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        w = w * torch.rsqrt(w.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, batch * in_channels, height, width)
    if up_kernel is None:
        y = F.conv2d(x, w.flatten(0, 1), padding=weight.shape[-1] // 2, groups=batch)
    else:
        y = F.conv_transpose2d(x, w.transpose(1, 2).flatten(0, 1), stride=2, groups=batch)
    y = y.reshape(batch, -1, *y.shape[2:])
    return y if up_kernel is None else depthwise(y, up_kernel * 4, padding=1)


def grouped_synthesis(generator: StyleGAN2, ws: Tensor, noise: list[Tensor] | None = None) -> Tensor:
    """The image (B, 3, R, R) of w+ codes by convolutions of one group per sample, as the official release has them."""
    network = generator.synthesis
    x, image, row = network.b4.const.expand(len(ws), -1, -1, -1).contiguous(), None, 0
    for r in network.resolutions:
        block = getattr(network, f"b{r}")
        for name in block.convs:
            layer = getattr(block, name)
            kernel = layer.resample_filter if layer.up else None
            x = grouped_convolution(x, layer.weight.contiguous(), layer.affine(ws[:, row]), up_kernel=kernel)
            x = x + (layer.noise_const if noise is None else noise[row]) * layer.noise_strength
            x, row = F.leaky_relu(x + layer.bias[:, None, None], 0.2) * LRELU_GAIN, row + 1
        styles = block.torgb.affine(ws[:, row]) * block.torgb.weight_gain
        rgb = grouped_convolution(x, block.torgb.weight, styles, demodulate=False)
        rgb = rgb + block.torgb.bias[:, None, None]
        image = rgb if image is None else _doubled(image, block.resample_filter) + rgb
    return image / 2 + 0.5


def _doubled(image: Tensor, kernel: Tensor) -> Tensor:
    """Zeros between the pixels, then the filter."""
    batch, channels, height, width = image.shape
    spread = image.new_zeros(batch, channels, height, 2, width, 2)
    spread[:, :, :, 0, :, 0] = image
    weight = (kernel * 4).expand(channels, 1, 4, 4)
    return F.conv2d(F.pad(spread.flatten(4).flatten(2, 3), (2, 1, 2, 1)), weight, groups=channels)


def self_correlation(maps: list[Tensor]) -> Tensor:
    """Squared mean product of each map with itself shifted by a pixel, over a pyramid down to 8x8, summed."""
    total = maps[0].new_zeros(())
    for m in maps:
        while True:
            total = total + sum((m * m.roll(1, axis)).mean().square() for axis in (2, 3))
            if m.shape[2] <= 8:
                break
            m = F.avg_pool2d(m, 2)
    return total


@dataclass
class PlainStep:
    """One step of the plain loop: its number, the w (1, w_dim) and the noise maps that it judged."""

    generator: StyleGAN2
    number: int
    w: Tensor
    noise: list[Tensor]
    seconds: float

    @torch.no_grad()
    def images(self) -> Tensor:
        """The image (1, 3, R, R) in [0, 1]."""
        return grouped_synthesis(self.generator, self.generator.convert(self.w, "w", "w+"), self.noise).clamp(0, 1)


def plain_projection(
    generator: StyleGAN2, target: Tensor, features, weights: dict, layers, steps: int = STEPS, seed: int = 0
) -> Iterator[PlainStep]:
    """Project one photo (1, 3, R, R) as the published StyleGAN2 projector does: Adam, fixed schedules.

    w starts at the mean of 10,000 samples; to it noise is added that fades out over the first three quarters. The maps
    are drawn again, optimised, and normalised after every step. The features of the target are computed at each step.
    weights and layers are those of the losses in the search that is compared.
    """
    random = torch.Generator().manual_seed(seed)
    w = generator.mean("w").clone().requires_grad_()
    spread = (generator.std("w").square().sum()).sqrt().item()
    maps = [m.requires_grad_() for m in generator.fresh_noise(1, seed)]
    optimizer = torch.optim.Adam([w, *maps], betas=(0.9, 0.999))
    seconds = 0.0
    for number in range(steps):
        started, progress = time.perf_counter(), number / steps
        jitter = spread * JITTER * max(0.0, 1 - progress / JITTER_LENGTH) ** 2
        factor = (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - progress) / RAMP_DOWN))) * min(1.0, progress / RAMP_UP)
        optimizer.param_groups[0]["lr"] = RATE * factor
        ws = (w + jitter * torch.randn(w.shape, generator=random).to(w)).unsqueeze(1).repeat(1, generator.num_ws, 1)
        image = grouped_synthesis(generator, ws, maps)
        theirs = features(target, layers)
        loss = weights["l1"] * lp_loss(image, target).sum() + REGULARISE * self_correlation(maps)
        loss = loss + weights["perceptual"] * perceptual_loss(features(image, layers), theirs).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for m in maps:
                m -= m.mean()
                m *= m.square().mean().rsqrt()
        seconds += time.perf_counter() - started
        yield PlainStep(generator, number + 1, w.detach(), maps, seconds)
