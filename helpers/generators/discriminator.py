"""The StyleGAN2 discriminator (Karras et al., CVPR 2020), with the official release's names and shapes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.fast.stylegan2 import laid_out
from helpers.generators.base import at_least_float32, normal, one_hot, settings
from helpers.generators.stylegan2 import LRELU_GAIN, FullyConnected, MappingNetwork, clamped, depthwise, fir_kernel


class Conv2dLayer(nn.Module):
    """Convolution with equalised learning rate; ``down`` filters and halves the size."""

    def __init__(self, in_channels, out_channels, kernel_size, *, bias=True, activation=True, down=False, clamp=None):
        super().__init__()
        self.down, self.activation, self.clamp = down, activation, clamp
        if down:
            self.register_buffer("resample_filter", fir_kernel())
        self.weight = nn.Parameter(laid_out(normal(out_channels, in_channels, kernel_size, kernel_size)))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        limit = None if self.clamp is None else self.clamp * gain
        gain = gain * LRELU_GAIN if self.activation else gain
        weight, k = (self.weight * (self.weight_gain * gain)).to(x.dtype), self.weight.shape[-1]
        bias = None if self.bias is None else (self.bias * gain).to(x.dtype)
        if self.down and k == 1:  # filter all and drop every other pixel: strided depthwise gradients are slow
            x = F.conv2d(depthwise(x, self.resample_filter, 1)[:, :, ::2, ::2], weight, bias)
        elif self.down:
            x = F.conv2d(depthwise(x, self.resample_filter, 2), weight, bias, stride=2)
        else:
            x = F.conv2d(x, weight, bias, padding=k // 2)
        return clamped(F.leaky_relu(x, 0.2) if self.activation else x, limit)


class DiscriminatorBlock(nn.Module):
    """Block that halves the size, residual or (``residual`` False) plain; the first one also reads the image."""

    def __init__(self, in_channels: int, middle: int, out_channels: int, clamp: float | None, residual: bool):
        super().__init__()
        if in_channels == 0:
            self.fromrgb = Conv2dLayer(3, middle, 1, clamp=clamp)
        self.conv0 = Conv2dLayer(middle, middle, 3, clamp=clamp)
        self.conv1 = Conv2dLayer(middle, out_channels, 3, down=True, clamp=clamp)
        if residual:
            self.skip = Conv2dLayer(middle, out_channels, 1, bias=False, activation=False, down=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fromrgb(x) if hasattr(self, "fromrgb") else x
        if not hasattr(self, "skip"):
            return self.conv1(self.conv0(x))
        skip = self.skip(x, gain=math.sqrt(0.5))
        return self.conv1(self.conv0(x), gain=math.sqrt(0.5)) + skip


def minibatch_stddev(x: Tensor, group_size: int = 4) -> Tensor:
    """Append a channel, the mean deviation over groups (0: the batch) of samples (Karras et al. 2018, sec. 3)."""
    batch, channels, height, width = x.shape
    group = next(g for g in range(min(group_size or batch, batch), 0, -1) if batch % g == 0)
    y = at_least_float32(x).reshape(group, -1, channels, height, width)
    y = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    y = y.reshape(-1, 1, 1, 1).repeat(group, 1, height, width).to(x.dtype)
    return torch.cat([x, y], 1)


class DiscriminatorEpilogue(nn.Module):
    """Minibatch standard deviation, convolution, two fully connected layers: scores at 4x4, (B, scores)."""

    def __init__(self, channels: int, clamp: float | None = None, group_size: int = 4, scores: int = 1):
        super().__init__()
        self.group_size = group_size
        self.conv = Conv2dLayer(channels + 1, channels, 3, clamp=clamp)
        self.fc = FullyConnected(channels * 16, channels, activation=True)
        self.out = FullyConnected(channels, scores)

    def forward(self, x: Tensor, group_size: int | None = None) -> Tensor:
        x = at_least_float32(self.conv(minibatch_stddev(x, self.group_size if group_size is None else group_size)))
        return self.out(self.fc(x.contiguous().flatten(1)))


class Discriminator(nn.Module):
    """StyleGAN2 discriminator: image (B, 3, any size) in [0, 1] to a score (B,), higher is more real.

    It also looks at how much the ``group_size`` images of a group differ (0: all); with groups of 1 every score depends
    on its own image only, and all are lower by about the same. With ``c_dim`` classes the score is the projection onto
    the mapped ``label`` (Miyato and Koyama 2018), by ``mapping_layers`` of rate ``lr_multiplier``. architecture:
    "resnet", or "orig" without skip connections (the official CIFAR-10 model).
    """

    DEFAULTS = {"resolution": 256, "channel_base": 32768, "channel_max": 512, "conv_clamp": None, "c_dim": 0}
    DEFAULTS |= {"group_size": 4, "mapping_layers": 8, "lr_multiplier": 0.01, "architecture": "resnet"}
    label: int | None = None  # that is judged by default

    def __init__(self, resolution: int, **options):
        super().__init__()
        self.config = given = settings(self.DEFAULTS, {"resolution": resolution} | options)
        clamp, self.c_dim, residual = given["conv_clamp"], given["c_dim"], given["architecture"] == "resnet"
        self.resolutions = [2**i for i in range(resolution.bit_length() - 1, 2, -1)]
        channels = {r: min(given["channel_base"] // r, given["channel_max"]) for r in [*self.resolutions, 4]}
        for r in self.resolutions:
            widths = 0 if r == resolution else channels[r], channels[r], channels[r // 2]
            setattr(self, f"b{r}", DiscriminatorBlock(*widths, clamp, residual))
        width, mapping = channels[4], (given["mapping_layers"], given["lr_multiplier"], self.c_dim)
        if self.c_dim:
            self.mapping = MappingNetwork(0, width, *mapping, averaged=False)
        self.b4 = DiscriminatorEpilogue(width, clamp, given["group_size"], width if self.c_dim else 1)

    def forward(self, images, dtype=torch.float32, group_size: int | None = None, label=None) -> Tensor:
        if images.shape[2:] != (size := (self.resolutions[0],) * 2):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        x = laid_out((images * 2 - 1).to(dtype))
        for r in self.resolutions:
            x = getattr(self, f"b{r}")(x)
        scores = self.b4(x, group_size)
        if self.c_dim:
            label = one_hot(self, len(images), scores) if label is None else label
            scores = scores * self.mapping(None, label) / math.sqrt(scores.shape[1])
        return scores.sum(1)
