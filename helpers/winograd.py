"""3x3 convolutions with fewer multiplications (Winograd; Lavin & Gray, CVPR 2016), by NNPACK, where they are faster."""

import functools
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from helpers.trials import fastest

SIDE = 40  # px: on smaller maps, preparing the weights anew in every call takes longer than it saves
TRIED = (256, 64)  # channels of the layers that are tried, each for all with as many and more
AVAILABLE = torch.backends.nnpack.is_available()  # asking also prepares it


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """3x3 convolution with a border of one zero: (B, I, H, W) by (O, I, 3, 3) to (B, O, H, W)."""
    if is_faster(x, weight):
        return Winograd.apply(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=1)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of ``convolve`` with respect to x."""
    if is_faster(grad, weight):
        return _by_nnpack(grad, weight.transpose(0, 1).flip(2, 3))
    return F.conv_transpose2d(grad, weight, padding=1)


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether NNPACK is, for layers of about this size on this machine; tried at the first call."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and type(x) is Tensor and not weight.requires_grad
    channels = next((least for least in TRIED if min(weight.shape[:2]) >= least), 0)
    return bool(plain and channels and min(x.shape[2:]) >= SIDE and chosen(channels, torch.get_num_threads()))


class Winograd(torch.autograd.Function):
    """The convolution by a frozen weight, sample by sample, for which NNPACK has its fast algorithms."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight)
        return _by_nnpack(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return input_gradient(grad, *ctx.saved_tensors), None, None


def _by_nnpack(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    weight, samples = weight.contiguous(), x.contiguous().split(1)
    found = [torch._nnpack_spatial_convolution(sample, weight, bias, padding=1) for sample in samples]
    return torch.cat(found) if len(found) > 1 else found[0]


@functools.cache
def chosen(channels: int, threads: int) -> bool:
    """Whether NNPACK is there and was found to be faster by layers of so many channels, with so many threads."""
    kind = f"convolutions, {channels} channels"
    return AVAILABLE and fastest(kind, "cpu", partial(_ways, channels)) == "Winograd"


def _ways(channels: int) -> dict:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, 64, 64, generator=random)
    weight = torch.randn(channels, channels, 3, 3, generator=random)
    layout = {"memory_format": torch.channels_last}
    rows, packed = x.contiguous(**layout), weight.contiguous(**layout)
    return {
        "direct": partial(F.conv2d, x, weight, padding=1),
        "direct, channels last": partial(F.conv2d, rows, packed, padding=1),
        "Winograd": partial(_by_nnpack, x, weight),
    }
