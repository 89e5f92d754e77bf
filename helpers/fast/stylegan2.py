"""A StyleGAN2 layer whose weights do not change, as one function with its own gradient.

A search for latents needs no gradient of the weights. What is made from them is then made once, the passes over the
activations work in place, and for the backward pass a layer keeps its input and its output alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SLOPE = 0.2  # of the leaky ReLU
STRIP = 2**21  # bytes of activations that go through several passes at a time
FOLD = 2**22  # activations of a single sample from which the weights, far fewer, are scaled instead


class Prepared:
    """What is computed from frozen weights: made at the first call, and again after a weight has changed."""

    def __init__(self):
        self.made: dict[str, tuple[tuple, Tensor]] = {}

    def get(self, name: str, weight: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """``make(weight)`` without gradient, kept under a name."""
        if weight.is_inference():  # such a tensor does not tell whether it was changed
            return make(weight)
        key = (weight.data_ptr(), weight._version, weight.device, weight.dtype)
        if self.made.get(name, (None,))[0] != key:
            with torch.no_grad():
                self.made[name] = key, make(weight)
        return self.made[name][1]

    def __deepcopy__(self, memo) -> Prepared:
        return Prepared()

    def __getstate__(self) -> dict:
        return {"made": {}}


def is_frozen(module: nn.Module) -> bool:
    """Whether no parameter of the module asks for a gradient."""
    return not any(p.requires_grad for p in module.parameters())


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def per_channel(x: Tensor, like: Tensor) -> Tensor:
    """(B, C) as (B, C, 1, 1) in the type of other activations."""
    return x.to(like.dtype)[:, :, None, None]


class StyledConvolution(torch.autograd.Function):
    """Scaled input, 3x3 convolution, scaled output, noise, bias, leaky ReLU: eqs. 1-3 of the paper and what follows.

    Takes x (B, I, H, W); styles (B, I) and gains (B, O) in any type; noise (B or 1, 1, h, w) or (h, w), with its
    strength in it; bias (O,); the weight (O, I, 3, 3), or (I, O, 3, 3) where a filter (O, 1, 4, 4) follows the
    convolution and the size doubles; the limit of the activations or None. Gives (B, O, h, w). The gradient is for x,
    styles, gains and noise.

    The gradient of the gains needs the output of the convolution: it is the output, less noise and bias, as the leaky
    ReLU can be undone. Where a limit has cut the output the gradient is 0 and nothing is needed.
    """

    @staticmethod
    def forward(ctx, x, styles, gains, noise, bias, weight, blur, limit):
        y = _convolved(x, styles, weight, blur)
        factor, noise_, shift = per_channel(gains, y), noise.to(y.dtype), bias.to(y.dtype)[:, None, None]
        for rows in strips(y):
            part = y[:, :, rows].mul_(factor).add_(noise_[..., rows, :]).add_(shift)
            F.leaky_relu_(part, SLOPE)
            if limit is not None:
                part.clamp_(-limit, limit)
        ctx.save_for_backward(x, styles, gains, noise, y)
        ctx.frozen = bias, weight, blur, limit
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, styles, gains, noise, y = ctx.saved_tensors
        bias, weight, blur, limit = ctx.frozen
        for_x, for_styles, for_gains, for_noise = ctx.needs_input_grad[:4]
        factor, through = per_channel(gains, y), torch.empty_like(y)  # that: the gradient of the convolution's output
        of_noise, d_gains = [], torch.zeros_like(gains)
        for rows in strips(y):
            part, out = grad[:, :, rows], y[:, :, rows]
            if limit is not None:
                part = part.masked_fill(out.abs() >= limit, 0)
            if for_gains:  # the slope cancels: the sum is the same before the leaky ReLU
                d_gains += _sums(part, out, gains)
            part = torch.ops.aten.leaky_relu_backward(part, out, SLOPE, True)
            if for_noise:
                of_noise.append(part.sum(1, keepdim=True))
            if for_gains:
                d_gains -= _of_noise_and_bias(part, noise[..., rows, :], bias.to(gains.dtype))
            torch.mul(part, factor, out=through[:, :, rows])
        d_noise = _sum_to(torch.cat(of_noise, 2), noise) if for_noise else None
        d_x = d_styles = None
        if for_x or for_styles:
            d_x, d_styles = _through_convolution(through, x, styles, weight, blur)
        return d_x, d_styles, d_gains / gains, d_noise, None, None, None, None


def _convolved(x: Tensor, styles: Tensor, weight: Tensor, blur: Tensor | None) -> Tensor:
    if len(x) == 1 and x.numel() >= FOLD:  # scale the weights instead: a pass less over the memory
        by = styles[0, :, None, None, None] if blur is not None else styles[0, :, None, None]
        weight = channels_last((weight * by).to(x.dtype))
    else:
        x = x * per_channel(styles, x)
    if blur is None:
        return F.conv2d(x, weight, padding=1)
    return F.conv2d(F.conv_transpose2d(x, weight, stride=2), blur, padding=1, groups=len(blur))


def _through_convolution(
    grad: Tensor, x: Tensor, styles: Tensor, weight: Tensor, blur: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of x and styles."""
    if blur is None:
        d_x = F.conv_transpose2d(grad, weight, padding=1)
    else:  # the filter is symmetric
        d_x = F.conv2d(F.conv2d(grad, blur, padding=2, groups=len(blur)), weight, stride=2)
    factor, d_styles = per_channel(styles, d_x), torch.zeros_like(styles)
    for rows in strips(x):
        d_styles += _sums(d_x[:, :, rows], x[:, :, rows], styles)
        d_x[:, :, rows].mul_(factor)
    return d_x, d_styles


class ToThreeChannels(torch.autograd.Function):
    """Convolution of 1x1 with weights of each sample's own: x (B, C, H, W), weight (B, 3, C) to (B, 3, H, W).

    It is a product of matrices; the way in which each of the three is laid out makes a factor of four on a CPU.
    """

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)
        return (rows @ weight.transpose(1, 2)).transpose(1, 2).contiguous().unflatten(2, x.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        planes, rows = grad.contiguous().flatten(2), x.permute(0, 2, 3, 1).flatten(1, 2)
        for_x, for_weight = ctx.needs_input_grad
        d_x = (planes.transpose(1, 2) @ weight).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2) if for_x else None
        return d_x, planes @ rows if for_weight else None


def strips(x: Tensor) -> list[slice]:
    """Rows of a (B, C, H, W) that go through the passes over the activations together, as they stay in the cache."""
    height = x.shape[2]
    count = max(1, height * STRIP // (x.numel() * x.element_size()))
    return [slice(i, min(i + count, height)) for i in range(0, height, count)]


def _sums(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """(B, C) sums of products over the pixels."""
    return (a * b).sum((2, 3)).to(like.dtype)


def _of_noise_and_bias(grad: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    """(B, O): the part of the sum of output times gradient that noise (.., h, w) and bias (O,) make."""
    batch, _, height, width = grad.shape
    maps = noise.to(grad.dtype).expand(batch, 1, height, width).flatten(2)
    maps = torch.cat([maps, torch.ones_like(maps)], 1)
    with_noise, alone = (maps @ grad.permute(0, 2, 3, 1).flatten(1, 2)).to(bias.dtype).unbind(1)
    return with_noise + alone * bias


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    return x.sum_to_size(like.shape).to(like.dtype)
