"""StyleGAN2 in plain PyTorch (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020).

Parameter names and shapes are those of the official PyTorch release. Inside, images are in [-1, 1] as in that release;
``StyleGAN2.synthesize`` returns [0, 1].
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from helpers.convolution import prepared
from helpers.fast.stylegan2 import StyledConvolution, ToThreeChannels, convolved, laid_out, per_channel
from helpers.generators.base import StyleBased, at_least_float32, normal, settings

LRELU_GAIN = math.sqrt(2)  # keeps the variance of a unit normal through leaky_relu(0.2)
CACHE = 2**24  # bytes of one activation; beyond this a CPU waits for memory, so a larger batch is split


def clamped(x: Tensor, limit: float | None) -> Tensor:
    """Activations held within ±limit (the official ``conv_clamp``, meant for float16), or unchanged with None."""
    return x if limit is None else x.clamp(-limit, limit)


def fir_kernel() -> Tensor:
    """The 4x4 binomial low-pass filter [1, 3, 3, 1]^2, sum 1, of all StyleGAN2 resampling."""
    row = (1, 3, 3, 1)
    return torch.tensor([[a * b / 64 for a in row] for b in row])


def depthwise(x: Tensor, kernel: Tensor, padding: int = 0) -> Tensor:
    """Filter every channel of ``x`` (B, C, H, W) by one symmetric kernel."""
    weight = kernel.to(x.dtype)[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(x, weight, padding=padding, groups=x.shape[1])


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Double the size: zeros between the pixels, then the low-pass filter times 4: (B, C, H, W) -> (B, C, 2H, 2W)."""
    weight = (kernel * 4).to(x.dtype)[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])


class FullyConnected(nn.Module):
    """Linear layer with equalised learning rate: unit-normal weights, scaled at run time (Karras et al. 2018)."""

    def __init__(self, in_features, out_features, *, activation=False, lr_multiplier=1.0, bias_init=0.0):
        super().__init__()
        self.weight = nn.Parameter(normal(out_features, in_features, std=1 / lr_multiplier))
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain, self.bias_gain = lr_multiplier / math.sqrt(in_features), lr_multiplier
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x * self.weight_gain, self.weight, self.bias * self.bias_gain)
        return F.leaky_relu(x, 0.2) * LRELU_GAIN if self.activation else x


def unit_second_moment(x: Tensor) -> Tensor:
    """Rows of x (B, n) scaled to a mean square of 1."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class MappingNetwork(nn.Module):
    """z (B, z_dim), and a label (B, c_dim) where there are classes, to w (B, w_dim).

    z_dim 0 maps the label alone (a conditional discriminator). labels: "embed" by a linear layer, normalised on its
    own (StyleGAN2-ADA), or "concat" by a matrix of ``c_dim`` rows as long as z, appended to z before both are
    normalised together (StyleGAN, StyleGAN2). averaged: keep a buffer for the mean w.
    """

    def __init__(self, z_dim, w_dim, num_layers=8, lr_multiplier=0.01, c_dim=0, labels="embed", averaged=True):
        super().__init__()
        self.num_layers, self.c_dim = num_layers, c_dim
        in_features = z_dim
        if c_dim and labels == "embed":
            self.embed, in_features = FullyConnected(c_dim, w_dim), z_dim + w_dim
        elif c_dim:
            self.label_weight, in_features = nn.Parameter(normal(c_dim, z_dim)), 2 * z_dim
        for i in range(num_layers):
            width, in_features = in_features, w_dim
            setattr(self, f"fc{i}", FullyConnected(width, w_dim, activation=True, lr_multiplier=lr_multiplier))
        if averaged:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor | None, label: Tensor | None = None) -> Tensor:
        x = [] if z is None else [z]
        if self.c_dim and not hasattr(self, "embed"):
            x = [torch.cat([*x, label @ self.label_weight], 1)]
        elif self.c_dim:
            x.append(self.embed(label))
        x = torch.cat([unit_second_moment(part) for part in x], 1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        return x


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; doubles the size with ``up``.

    Activations are scaled before and after an ordinary convolution: the same function as the paper's convolution with
    weights per sample (eqs. 1-3), and much faster on a CPU.
    """

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, up=False, clamp=None):
        super().__init__()
        self.up, self.clamp = up, clamp
        self.register_buffer("resample_filter", fir_kernel())
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(laid_out(normal(out_channels, in_channels, 3, 3)))
        self.register_buffer("noise_const", normal(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        # leaky ReLU is positively homogeneous: its gain of sqrt(2) moves into the factors before it and saves a pass
        noise = (self.noise_const if noise is None else noise) * (self.noise_strength * LRELU_GAIN)
        bias, styles = self.bias * LRELU_GAIN, self.affine(w)
        squares, weight, blur = prepared(self.prepare, self.weight, x.dtype)
        gains = LRELU_GAIN * torch.rsqrt(styles.square() @ squares + 1e-8)
        if not (self.weight.requires_grad or self.bias.requires_grad):
            return StyledConvolution.apply(x, styles, gains, noise, (bias, weight, blur, self.clamp))
        x = convolved(x * per_channel(styles, x), weight, blur) * per_channel(gains, x)
        x = x + noise.to(x.dtype) + bias.to(x.dtype)[:, None, None]
        return clamped(F.leaky_relu(x, 0.2), self.clamp)

    def prepare(self, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sums of squares (I, O), the weight as it is convolved, and the filter (O, 1, 4, 4) where the size doubles."""
        blur = (self.resample_filter * 4).repeat(len(weight), 1, 1, 1).to(dtype) if self.up else None
        used = laid_out(weight.transpose(0, 1) if self.up else weight)  # or it is ten times slower on a CPU
        return weight.square().sum((2, 3)).t(), used.to(dtype), blur


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to an image in [-1, 1], without demodulation."""

    def __init__(self, in_channels: int, w_dim: int, clamp: float | None = None):
        super().__init__()
        self.clamp = clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(normal(3, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight = self.weight[:, :, 0, 0] * (self.affine(w) * self.weight_gain)[:, None]  # (B, 3, I), one per sample
        rgb = ToThreeChannels.apply(x, weight.to(x.dtype)) + self.bias.to(x.dtype)[:, None, None]
        return at_least_float32(clamped(rgb, self.clamp))


class SynthesisBlock(nn.Module):
    """All layers of one resolution: conv0 (doubles the size, absent at 4x4), conv1, torgb."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, clamp: float | None = None):
        super().__init__()
        self.resolution = resolution
        self.register_buffer("resample_filter", fir_kernel())
        if in_channels == 0:
            self.const = nn.Parameter(normal(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=True, clamp=clamp)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, clamp=clamp)
        self.torgb = ToRGB(out_channels, w_dim, clamp)
        self.convs = (["conv0"] if in_channels else []) + ["conv1"]
        self.size = out_channels * resolution**2  # of an activation

    def forward(self, x: Tensor, image: Tensor | None, ws: Tensor, noise: list[Tensor | None]):
        """Activations and image of the block below to those of this one; ws has a row per layer, torgb's last."""
        for row, (name, map_) in enumerate(zip(self.convs, noise, strict=True)):
            x = getattr(self, name)(x, ws[:, row], map_)
        rgb = self.torgb(x, ws[:, len(self.convs)])
        return x, rgb if image is None else upsample(image, self.resample_filter) + rgb


class SynthesisNetwork(nn.Module):
    """w+ (B, num_ws, w_dim) to an image in [-1, 1], with skip connections between the torgb outputs."""

    def __init__(self, w_dim: int, resolution: int, channel_base: int, channel_max: int, clamp: float | None = None):
        super().__init__()
        self.resolutions = [2**i for i in range(2, resolution.bit_length())]
        channels = {r: min(channel_base // r, channel_max) for r in self.resolutions}
        for r in self.resolutions:
            setattr(self, f"b{r}", SynthesisBlock(channels[r // 2] if r > 4 else 0, channels[r], w_dim, r, clamp))
        self.num_ws = 2 * len(self.resolutions)

    def layers(self):
        """Yield every noisy layer as (name, layer), coarse to fine."""
        for r in self.resolutions:
            block = getattr(self, f"b{r}")
            for name in block.convs:
                yield f"b{r}.{name}", getattr(block, name)

    def forward(self, ws, noise: list[Tensor] | None = None, dtype=torch.float32, checkpointing=False) -> Tensor:
        x = laid_out(self.b4.const.to(dtype)[None].expand(len(ws), -1, -1, -1))
        return self._blocks(x, None, ws, noise or [None] * (self.num_ws - 1), 0, checkpointing)

    def _blocks(self, x: Tensor, image: Tensor | None, ws: Tensor, noise: list, first: int, checkpointing: bool):
        """The image, by the blocks from number ``first``; large activations are computed for part of the batch."""
        for number, r in enumerate(self.resolutions[first:], first):
            block = getattr(self, f"b{r}")
            if number and len(x) > 1 and x.device.type == "cpu" and len(x) * block.size * x.itemsize > CACHE:
                halves = [(m, m) if m is None or len(m) == 1 else m.tensor_split(2) for m in noise]
                parts = zip(x.tensor_split(2), image.tensor_split(2), ws.tensor_split(2), (0, 1), strict=True)
                images = [self._blocks(*p, [m[i] for m in halves], number, checkpointing) for *p, i in parts]
                return torch.cat(images)
            row, count = max(0, 2 * number - 1), len(block.convs)  # torgb shares its row with the next block's first
            inputs = x, image, ws[:, row : row + count + 1], noise[row : row + count]
            again = {"use_reentrant": False, "preserve_rng_state": False}  # the forward pass draws nothing
            x, image = checkpoint(block, *inputs, **again) if checkpointing else block(*inputs)
        return image


class StyleGAN2(StyleBased):
    """StyleGAN2 generator; ``min(channel_base // r, channel_max)`` channels at resolution r.

    The official models have a base of 16384 at 256 (or 32768) and 32768 at 512 and 1024. conv_clamp: activations are
    held within ± this, in official models with float16 layers 256. mapping_layers, labels, lr_multiplier: of the
    MappingNetwork. Activations have the type ``dtype``: ``torch.bfloat16`` halves their memory, and rounds; images and
    latents remain float32. ``checkpointing`` recomputes in the backward pass all but each resolution's input: less
    memory, a third more work, the same gradient (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).
    """

    family = "stylegan2"
    DEFAULTS = {"resolution": 256, "z_dim": 512, "w_dim": 512, "mapping_layers": 8, "channel_base": 32768}
    DEFAULTS |= {"channel_max": 512, "c_dim": 0, "conv_clamp": None, "labels": "embed", "lr_multiplier": 0.01}

    def __init__(self, resolution: int = 256, **options):
        given = settings(self.DEFAULTS, {"resolution": resolution} | options)
        names = ("z_dim", "w_dim", "mapping_layers", "lr_multiplier", "c_dim", "labels")
        mapping = MappingNetwork(*(given[name] for name in names))
        names = ("w_dim", "resolution", "channel_base", "channel_max", "conv_clamp")
        super().__init__(given, mapping, SynthesisNetwork(*(given[name] for name in names)))

    @property
    def noise_strengths(self) -> list[Tensor]:
        """Learned strength of each noise map, coarse to fine, scalars."""
        return [layer.noise_strength for _, layer in self.synthesis.layers()]
