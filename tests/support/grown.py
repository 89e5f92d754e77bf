"""The bundled cats grown to 256 pixels without training, for tests at the size of official models.

The layers up to 64 pixels are the trained ones; two more blocks enlarge the image and add faint random detail, with
noise maps that act. ``python -m tests.support.grown FILE`` writes them, with the trained discriminator, as an official
pickle.
"""

import sys

import torch
from torch import nn

from helpers.generators import StyleGAN2, load_discriminator, load_generator
from tests.support import checkpoint_files

DETAIL = 0.02  # weights of the added torgb layers: detail of about 0.01 in images of [0, 1]
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


if __name__ == "__main__":
    with torch.no_grad():
        print(checkpoint_files.official_pickle(sys.argv[1], generator(), load_discriminator()))
