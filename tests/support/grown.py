"""The bundled cats grown to 256 pixels without training, for tests at the size of official models.

The layers up to 64 pixels are the trained ones; two more blocks enlarge the image and add faint random detail, with
noise maps that act.
"""

import torch

from helpers.generators import StyleGAN2, load_generator

DETAIL = 0.02  # weights of the added torgb layers: detail of about 0.01 in images of [0, 1]
NOISE = 0.3  # strength of the added noise maps, in activations of about 1


def generator(resolution=256):
    """The bundled StyleGAN2 with blocks for 128 pixels and more, of as many channels as its own rule gives."""
    trained = load_generator("stylegan2-cats-64")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        grown = StyleGAN2(**trained.config | {"resolution": resolution}).requires_grad_(False)
    for name in grown.load_state_dict(trained.state_dict(), strict=False).missing_keys:
        if name.endswith("torgb.weight"):
            grown.get_parameter(name).mul_(DETAIL)
        elif name.endswith("noise_strength"):
            grown.get_parameter(name).fill_(NOISE)
    grown.w_std = trained.w_std
    return grown.eval()
