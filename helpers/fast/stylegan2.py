"""A StyleGAN2 layer whose weights do not change, as one function with its own gradient.

Whatever depends only on the weights is computed once, the passes over the activations work in place, and for the
backward pass a layer keeps only its input and its output.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from helpers.convolution import convolve, input_gradient

SLOPE = 0.2  # of the leaky ReLU


def laid_out(x: Tensor) -> Tensor:
    """Channels last, but not on a card, where filters of single channels then take twice as long."""
    ours = torch.channels_last if x.device.type in ("cpu", "meta") else torch.contiguous_format
    return x.contiguous(memory_format=ours)


def per_channel(x: Tensor, like: Tensor) -> Tensor:
    """(B, C) as (B, C, 1, 1) in the type of other activations."""
    return x.to(like.dtype)[:, :, None, None]


def convolved(x: Tensor, weight: Tensor, blur: Tensor | None) -> Tensor:
    """3x3 convolution (O, I, 3, 3), or by (I, O, 3, 3) of pixels with zeros between, then a filter (O, 1, 4, 4)."""
    if blur is None:
        return convolve(x, weight)
    return F.conv2d(F.conv_transpose2d(x, weight, stride=2), blur, padding=1, groups=len(blur))


class StyledConvolution(torch.autograd.Function):
    """Scaled input, 3x3 convolution, scaled output, noise, bias, leaky ReLU: eqs. 1-3 of the paper and what follows.

    x (B, I, H, W); styles (B, I) and gains (B, O) in any type; noise (B or 1, 1, h, w) or (h, w), with its strength in
    it; frozen: bias (O,), weight and filter as in ``convolved``, and the limit of the activations or None. The gradient
    of the gains needs the convolution's output: recovered from the layer's output by inverting the leaky ReLU and
    subtracting noise and bias. Where a limit has cut the output the gradient is 0 and nothing is needed.
    """

    @staticmethod
    def forward(ctx, x, styles, gains, noise, frozen):
        bias, weight, blur, limit = ctx.frozen = frozen
        y = convolved(x * per_channel(styles, x), weight, blur)
        torch.addcmul(bias.to(y.dtype)[:, None, None], y, per_channel(gains, y), out=y).add_(noise.to(y.dtype))
        F.leaky_relu_(y, SLOPE)
        if limit is not None:
            y.clamp_(-limit, limit)
        ctx.save_for_backward(x, styles, gains, noise, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, styles, gains, noise, y = ctx.saved_tensors
        bias, weight, blur, limit = ctx.frozen
        for_x, for_styles, for_gains, for_noise = ctx.needs_input_grad[:4]
        d_x = d_styles = d_gains = d_noise = None
        if limit is not None:
            grad = grad.masked_fill(y.abs() >= limit, 0)
        if for_gains:  # the slope cancels: the sum is the same before the leaky ReLU
            d_gains = _sums(grad, y, gains)
        grad = torch.ops.aten.leaky_relu_backward(grad, y, SLOPE, True)
        if for_noise:
            d_noise = grad.sum(1, keepdim=True).sum_to_size(noise.shape).to(noise.dtype)
        if for_gains:
            d_gains = (d_gains - _of_noise_and_bias(grad, noise, bias.to(gains.dtype))) / gains
        if for_x or for_styles:
            d_x = grad.mul_(per_channel(gains, y))
            if blur is None:
                d_x = input_gradient(d_x, weight)
            else:  # the filter is symmetric
                d_x = F.conv2d(F.conv2d(d_x, blur, padding=2, groups=len(blur)), weight, stride=2)
            d_styles = _sums(d_x, x, styles)
            d_x.mul_(per_channel(styles, d_x))
        return d_x, d_styles, d_gains, d_noise, None


class ToThreeChannels(torch.autograd.Function):
    """1x1 convolution of x (B, C, H, W) by weights (B, 3, C), a matrix product: its layout makes a factor of four."""

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


def _sums(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """(B, C) sums of products over the pixels."""
    return (a * b).sum((2, 3)).to(like.dtype)


def _of_noise_and_bias(grad: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    """(B, O): the part of the sum of output times gradient that comes from noise (.., h, w) and bias (O,)."""
    maps = noise.to(grad.dtype).expand(len(grad), 1, *grad.shape[2:]).flatten(2)
    maps = torch.cat([maps, torch.ones_like(maps)], 1)
    with_noise, alone = (maps @ grad.permute(0, 2, 3, 1).flatten(1, 2)).to(bias.dtype).unbind(1)
    return with_noise + alone * bias
