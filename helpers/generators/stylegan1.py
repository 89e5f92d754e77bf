"""StyleGAN in plain PyTorch (Karras et al., "A Style-Based Generator Architecture for GANs", CVPR 2019).

Unlike in StyleGAN2, styles act by adaptive instance normalisation after each layer, noise has a learned strength per
channel, each resolution has two styles of its own, and only the last becomes an image. The official network doubles
sizes from 128 pixels on by a transposed convolution: the same with a turned kernel, as readers of checkpoints know.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from helpers.generators.base import StyleBased, at_least_float32, normal, settings
from helpers.generators.stylegan2 import LRELU_GAIN, FullyConnected, MappingNetwork, depthwise, laid_out


def adaptive_instance_norm(x: Tensor, style: Tensor, eps: float) -> Tensor:
    """Every channel of x (B, C, H, W) to mean 0 and variance 1, then scaled and shifted by its style (B, 2C)."""
    scale, shift = style.chunk(2, 1)
    wide = at_least_float32(x)  # the variance of bfloat16 activations needs more digits than they have
    mean = wide.mean((2, 3), keepdim=True)
    factor = torch.rsqrt((wide - mean).square().mean((2, 3), keepdim=True) + eps) * (scale + 1)[:, :, None, None]
    return ((wide - mean) * factor + shift[:, :, None, None]).to(x.dtype)


class Layer(nn.Module):
    """Convolution (absent in the first layer), noise, bias, leaky ReLU, style; doubles the size with ``up``."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, up: bool, eps: float):
        super().__init__()
        self.up, self.eps = up, eps
        if in_channels:
            self.weight = nn.Parameter(laid_out(normal(out_channels, in_channels, 3, 3)))
            self.weight_gain = LRELU_GAIN / math.sqrt(in_channels * 9)
        self.register_buffer("noise_const", normal(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros(out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.style = FullyConnected(w_dim, 2 * out_channels)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        if hasattr(self, "weight"):
            weight = (self.weight * self.weight_gain).to(x.dtype)
            x = F.interpolate(x, scale_factor=2.0) if self.up else x  # each pixel four times
            x = F.conv2d(x, weight, padding=1)
            if self.up:
                row = x.new_tensor([0.25, 0.5, 0.25])
                x = depthwise(x, torch.outer(row, row), padding=1)
        noise = self.noise_const if noise is None else noise
        x = x + (noise * self.noise_strength[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        return adaptive_instance_norm(F.leaky_relu(x, 0.2), self.style(w), self.eps)


class Block(nn.ModuleDict):
    """The two layers of one resolution, with a style and a noise map each."""

    def forward(self, x: Tensor, ws: Tensor, noise: list[Tensor | None]) -> Tensor:
        return self["conv1"](self["conv0"](x, ws[:, 0], noise[0]), ws[:, 1], noise[1])


class Synthesis(nn.Module):
    """w+ (B, num_ws, w_dim) to an image in [-1, 1]."""

    def __init__(self, w_dim: int, resolution: int, channel_base: int, channel_max: int, eps: float):
        super().__init__()
        self.resolutions = [2**i for i in range(2, resolution.bit_length())]
        self.num_ws = 2 * len(self.resolutions)
        channels = {r: min(channel_base // r, channel_max) for r in self.resolutions}
        self.const = nn.Parameter(torch.ones(channels[4], 4, 4))
        for r, width in channels.items():
            first = Layer(channels[r // 2] if r > 4 else 0, width, w_dim, r, r > 4, eps)
            second = Layer(width, width, w_dim, r, False, eps)
            setattr(self, f"b{r}", Block({"conv0": first, "conv1": second}))
        self.rgb_weight = nn.Parameter(normal(3, channels[resolution], 1, 1))
        self.rgb_bias = nn.Parameter(torch.zeros(3))
        self.rgb_gain = 1 / math.sqrt(channels[resolution])

    def layers(self):
        """Yield every layer as (name, layer), coarse to fine; each has a style and a noise map."""
        for r in self.resolutions:
            for name, layer in getattr(self, f"b{r}").items():
                yield f"b{r}.{name}", layer

    def forward(self, ws, noise=None, dtype=torch.float32, checkpointing=False) -> Tensor:
        x = laid_out(self.const.to(dtype)[None].expand(len(ws), -1, -1, -1))
        again = {"use_reentrant": False, "preserve_rng_state": False}  # the forward pass draws nothing
        noise = noise or [None] * self.num_ws
        for row, r in zip(range(0, self.num_ws, 2), self.resolutions, strict=True):
            block, inputs = getattr(self, f"b{r}"), (x, ws[:, row : row + 2], noise[row : row + 2])
            x = checkpoint(block, *inputs, **again) if checkpointing else block(*inputs)
        return at_least_float32(F.conv2d(x, (self.rgb_weight * self.rgb_gain).to(dtype), self.rgb_bias.to(dtype)))


class StyleGAN1(StyleBased):
    """StyleGAN generator; arguments and attributes are those of StyleGAN2. channel_base is 16384 in official models.

    eps: added to the variance by the instance norm, 1e-8 officially, 1e-5 in the common PyTorch conversion.
    """

    family = "stylegan1"
    DEFAULTS = {"resolution": 1024, "z_dim": 512, "w_dim": 512, "mapping_layers": 8, "channel_base": 16384}
    DEFAULTS |= {"channel_max": 512, "c_dim": 0, "eps": 1e-8, "lr_multiplier": 0.01}

    def __init__(self, resolution: int = 1024, **options):
        given = settings(self.DEFAULTS, {"resolution": resolution} | options)
        names = ("z_dim", "w_dim", "mapping_layers", "lr_multiplier", "c_dim")
        mapping = MappingNetwork(*(given[name] for name in names), labels="concat")
        for i in range(mapping.num_layers):  # He's gain of sqrt(2) scales its weights, not its biases
            getattr(mapping, f"fc{i}").bias_gain = given["lr_multiplier"] / LRELU_GAIN
        names = ("w_dim", "resolution", "channel_base", "channel_max", "eps")
        super().__init__(given, mapping, Synthesis(*(given[name] for name in names)))

    @property
    def noise_strengths(self) -> list[Tensor]:
        """Learned strength of each noise map, coarse to fine: the root mean square over its layer's channels."""
        return [layer.noise_strength.square().mean().sqrt() for _, layer in self.synthesis.layers()]
