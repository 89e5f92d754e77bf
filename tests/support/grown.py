"""The bundled cats grown to 256 pixels without training, for tests at the size of official models.

The layers up to 64 pixels are the trained ones; two more blocks enlarge the picture and add faint random detail, with
noise maps that act. The discriminator is enlarged exactly: it judges a picture as the trained one judges it at a
quarter of its side. ``python tests/grown.py FILE`` writes both as an official pickle.
"""

import math
import sys

import torch
from torch import nn

from helpers.generators import StyleGAN2, load_discriminator, load_generator
from helpers.generators.discriminator import Discriminator
from tests.support import checkpoint_files

DETAIL = 0.02  # weights of the added torgb layers: detail of about 0.01 in pictures of [0, 1]
NOISE = 0.3  # strength of the added noise maps, in activations of about 1


def generator(resolution=256):
    """The bundled StyleGAN2 with blocks for 128 pixels and more, of as many channels as its own rule gives."""
    trained = load_generator("stylegan2-cats-64")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        grown = StyleGAN2(**trained.config | {"resolution": resolution})
    grown.load_state_dict(trained.state_dict(), strict=False)
    for name, parameter in grown.named_parameters():
        if name not in dict(trained.named_parameters()) and name.endswith("torgb.weight"):
            parameter.data *= DETAIL
        elif name not in dict(trained.named_parameters()) and name.endswith("noise_strength"):
            nn.init.constant_(parameter, NOISE)
    grown.w_std = trained.w_std
    return grown.eval().requires_grad_(False)


def discriminator(resolution=256):
    """The bundled discriminator for larger pictures: new blocks only shrink them, and the last does what fromrgb did.

    Layers hold the colours as x + 1, which is positive, so that the leaky ReLU leaves them alone.
    """
    trained = load_discriminator("stylegan2-cats-64")
    grown = Discriminator(**trained.config | {"resolution": resolution})
    for parameter in grown.parameters():
        nn.init.zeros_(parameter)
    grown.load_state_dict({k: v for k, v in trained.state_dict().items() if ".fromrgb." not in k}, strict=False)
    colours, first = torch.arange(3), trained.resolutions[0]
    entry = getattr(grown, f"b{resolution}").fromrgb
    entry.weight[colours, colours] = 1 / entry.weight_gain
    entry.bias[:3] = 1
    scale = math.sqrt(2)  # of the colours here: the gain of the leaky ReLU
    for r in grown.resolutions[: grown.resolutions.index(first)]:
        block = getattr(grown, f"b{r}")
        if r > 2 * first:  # the skip path filters, halves, and multiplies by the root of a half
            block.skip.weight[colours, colours] = 1 / block.skip.weight_gain
            scale *= math.sqrt(0.5)
            continue
        block.conv0.weight[colours, colours, 1, 1] = 1 / block.conv0.weight_gain
        scale *= math.sqrt(2)
        theirs = getattr(trained, f"b{first}").fromrgb
        weight = theirs.weight[:, :, 0, 0] * theirs.weight_gain
        block.conv1.weight[:, :3, 1, 1] = weight * math.sqrt(2) / (scale * block.conv1.weight_gain)
        block.conv1.bias.copy_((theirs.bias - weight.sum(1)) * math.sqrt(2))
    return grown.eval().requires_grad_(False)


if __name__ == "__main__":
    with torch.no_grad():
        print(checkpoint_files.official_pickle(sys.argv[1], generator(), discriminator()))
