"""Tiny random networks and images that several tests share."""

import torch
from torch import nn

from helpers import features
from helpers.generators import StyleGAN2
from helpers.generators.dcgan import DCGAN
from helpers.generators.discriminator import Discriminator
from helpers.generators.stylegan1 import StyleGAN1

STYLEGAN2 = {"resolution": 16, "z_dim": 16, "w_dim": 16, "mapping_layers": 2, "channel_base": 256, "channel_max": 16}
DCGAN_SIZES = {"z_dim": 8, "conv_dim": 4}


def stylegan2(seed=0, dtype=torch.float32, **changes):
    return _as_trained(StyleGAN2, ".bias", seed, dtype, changes)


def stylegan1(seed=0, dtype=torch.float32, **changes):
    return _as_trained(StyleGAN1, (".noise_strength", "bias", ".const"), seed, dtype, changes)


def _as_trained(family, moved, seed, dtype, changes):
    """A frozen network in which noise and biases count, as they do after training; statistics of w are set."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = family(**STYLEGAN2 | changes)
        for name, parameter in generator.named_parameters():
            if name.endswith(moved):
                parameter.data += 0.1 * torch.randn(parameter.shape)
            elif name.endswith(".noise_strength"):
                nn.init.constant_(parameter, 0.2)
            elif name.endswith(("torgb.weight", "rgb_weight")):
                parameter.data *= 0.2  # most pixels lie in [0, 1]
    if not generator.c_dim:
        generator.compute_statistics(2_000)
    return generator.to(dtype).eval().requires_grad_(False)


def discriminator(**changes):
    """A frozen StyleGAN2 discriminator in which biases count."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Discriminator(**{"resolution": 16, "channel_base": 256, "channel_max": 16} | changes)
        for name, parameter in network.named_parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape) if name.endswith("bias") else 0
    return network.eval().requires_grad_(False)


def dcgan(seed=0, dtype=torch.float32, **changes):
    """A frozen DCGAN."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = DCGAN(**DCGAN_SIZES | changes)
    return generator.to(dtype).eval().requires_grad_(False)


def images(n=1, size=16, seed=0, cells=4):
    """Smooth random images."""
    coarse = torch.rand(n, 3, cells, cells, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size, mode="bilinear")


class Features(nn.Module):
    """Two random convolutions instead of a VGG; ``calls`` counts how often they ran."""

    layers = ("conv1_1", "conv2_1")

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.randn(4, 3, 3, 3, generator=generator) / 3
        self.second = torch.randn(6, 4, 3, 3, generator=generator) / 4
        self.calls = 0

    def forward(self, images, layers):
        self.calls += 1
        first = nn.functional.conv2d(images, self.first, padding=1).relu()
        second = nn.functional.conv2d(nn.functional.avg_pool2d(first, 2), self.second, padding=1).relu()
        return {layer: value for layer, value in zip(self.layers, (first, second), strict=True) if layer in layers}


def vgg():
    """A frozen feature network with the layers of a VGG, of few random channels."""
    network = features.Features(features.FeatureConfig((4, 8, 8), (2, 2, 4)))
    random = torch.Generator().manual_seed(1)
    for conv in network.convs:
        nn.init.kaiming_normal_(conv.weight, generator=random)
        nn.init.zeros_(conv.bias)
    return network.eval().requires_grad_(False)
