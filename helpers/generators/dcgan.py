"""DCGAN (Radford et al., "Unsupervised Representation Learning with DCGANs", ICLR 2016), the course's "vanilla GAN".

The layouts are those of the CMU 16-726 starters: five transposed convolutions, or five up-samplings with convolutions,
each with a norm and a ReLU, the last with tanh.
"""

from torch import Tensor, nn

from helpers.fast.stylegan2 import laid_out
from helpers.generators.base import Generator, at_least_float32, settings

NORMS = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}


class DCGAN(Generator):
    """DCGAN generator: z (B, z_dim) to a 64x64 image.

    conv_dim: channels of the last hidden layer; those before have 2, 4 and ``first_multiplier`` times as many.
    layout: "upsampled" (nearest, then a 3x3 convolution) or "transposed" (4x4); norm: "instance" or "batch".
    """

    family = "dcgan"
    resolution = 64
    DEFAULTS = {"z_dim": 100, "conv_dim": 32, "first_multiplier": 8, "layout": "upsampled", "norm": "instance"}

    def __init__(self, **options):
        super().__init__()
        self.config = given = settings(self.DEFAULTS, options)
        self.z_dim, width = given["z_dim"], given["conv_dim"]
        widths = [self.z_dim, *(width * n for n in (given["first_multiplier"], 4, 2, 1)), 3]
        transposed = given["layout"] == "transposed"
        for i, sizes in enumerate(zip(widths, widths[1:], strict=False)):
            last = i == 4
            if transposed:
                layers = [nn.ConvTranspose2d(*sizes, 4, *((2, 1) if i else (1, 0)), bias=False)]
            elif i == 0:
                layers = [nn.Conv2d(*sizes, 4, padding=3, bias=False)]
            else:
                layers = [nn.Upsample(scale_factor=2), nn.Conv2d(*sizes, 3, padding=1, bias=last)]
            layers += [nn.Tanh()] if last else [NORMS[given["norm"]](sizes[1]), nn.ReLU()]
            self.add_module(f"{'deconv' if transposed else 'up_conv'}{i + 1}", nn.Sequential(*layers))

    def forward(self, z: Tensor) -> Tensor:
        """z (B, z_dim) to an image (B, 3, 64, 64) in [-1, 1]."""
        x = laid_out(z[:, :, None, None])
        for layer in self.children():
            x = layer(x)
        return x

    def render(self, code: Tensor, space: str, noise) -> Tensor:
        return at_least_float32(self(code)) / 2 + 0.5


class DCGANDiscriminator(nn.Module):
    """DCGAN discriminator: image (B, 3, 64, 64) in [0, 1] to a score (B,), higher is more real.

    conv_dim: channels of the first layer. norm: "instance" or "batch" gives the course's layout, a norm and a ReLU in
    all layers but the last; None gives ours: leaky ReLUs, and no norm in the first layer, where it would hide colours.
    """

    DEFAULTS = {"conv_dim": 32, "norm": None, "bias": False}

    def __init__(self, conv_dim: int = 32, **options):
        super().__init__()
        self.config = settings(self.DEFAULTS, {"conv_dim": conv_dim} | options)
        norm, widths = self.config["norm"], [3, *(conv_dim * n for n in (1, 2, 4, 8))]
        for i in range(1, 5):
            layers = [nn.Conv2d(widths[i - 1], widths[i], 4, stride=2, padding=1, bias=i == 1 and not norm)]
            layers += [NORMS[norm or "instance"](widths[i])] if i > 1 or norm else []
            self.add_module(f"conv{i}", nn.Sequential(*layers, nn.ReLU() if norm else nn.LeakyReLU(0.2)))
        last = nn.Conv2d(widths[4], 1, 4, bias=self.config["bias"] or not norm)
        self.conv5 = nn.Sequential(last) if norm else last

    def forward(self, images: Tensor, group_size: int = 1) -> Tensor:  # it never compares images
        x = laid_out(images * 2 - 1)
        for layer in self.children():
            x = layer(x)
        return at_least_float32(x).flatten()
