"""DCGAN (Radford et al., "Unsupervised Representation Learning with DCGANs", ICLR 2016) as "vanilla GAN" of the course.

The layer layout is that of the CMU 16-726 starter code: five up-sample + convolution blocks with instance norm, tanh.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from helpers.generators.base import Generator, at_least_float32


def up_block(in_channels: int, out_channels: int, *, first: bool = False, last: bool = False) -> nn.Sequential:
    """Nearest up-sampling by 2, 3x3 convolution, instance norm, ReLU; the first makes 4x4, the last ends in tanh."""
    if first:
        layers = [nn.Conv2d(in_channels, out_channels, 4, padding=3, bias=False)]
    else:
        layers = [nn.Upsample(scale_factor=2), nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=last)]
    layers += [nn.Tanh()] if last else [nn.InstanceNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


class DCGAN(Generator):
    """DCGAN generator: z (B, z_dim) to a 64x64 image.

    Args:
        z_dim: length of z; the course's models have 100.
        conv_dim: channels of the last hidden layer; the layers before have 2, 4 and ``first_multiplier`` times as many.
        first_multiplier: channels of the first layer over ``conv_dim``.
    """

    spaces = ("z",)
    family = "dcgan"
    resolution = 64

    def __init__(self, z_dim: int = 100, conv_dim: int = 32, first_multiplier: int = 8):
        super().__init__()
        self.config = {"z_dim": z_dim, "conv_dim": conv_dim, "first_multiplier": first_multiplier}
        self.z_dim = z_dim
        self.up_conv1 = up_block(z_dim, conv_dim * first_multiplier, first=True)
        self.up_conv2 = up_block(conv_dim * first_multiplier, conv_dim * 4)
        self.up_conv3 = up_block(conv_dim * 4, conv_dim * 2)
        self.up_conv4 = up_block(conv_dim * 2, conv_dim)
        self.up_conv5 = up_block(conv_dim, 3, last=True)

    def forward(self, z: Tensor) -> Tensor:
        """z (B, z_dim) to an image (B, 3, 64, 64) in [-1, 1]."""
        x = z[:, :, None, None].contiguous(memory_format=torch.channels_last)
        for i in range(1, 6):
            x = getattr(self, f"up_conv{i}")(x)
        return x

    def render(self, code: Tensor, space: str, noise) -> Tensor:
        return at_least_float32(self(code)) / 2 + 0.5


class DCGANDiscriminator(nn.Module):
    """DCGAN discriminator: image (B, 3, 64, 64) in [0, 1] to a score (B,), higher is more real."""

    def __init__(self, conv_dim: int = 32):
        super().__init__()
        self.config = {"conv_dim": conv_dim}
        widths = [3, conv_dim, conv_dim * 2, conv_dim * 4, conv_dim * 8]
        for i in range(1, 5):
            layers = [nn.Conv2d(widths[i - 1], widths[i], 4, stride=2, padding=1, bias=i == 1)]
            layers += [nn.InstanceNorm2d(widths[i])] if i > 1 else []  # a first norm would hide the colours
            setattr(self, f"conv{i}", nn.Sequential(*layers, nn.LeakyReLU(0.2)))
        self.conv5 = nn.Conv2d(widths[4], 1, 4)

    def forward(self, images: Tensor, group_size: int = 1) -> Tensor:  # it never compares images
        x = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
        for i in range(1, 6):
            x = getattr(self, f"conv{i}")(x)
        return at_least_float32(x).flatten()
