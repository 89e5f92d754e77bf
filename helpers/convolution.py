"""3x3 convolutions by frozen weights: with a quarter of the multiplications where a trial finds that to be faster."""

import functools
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from helpers.trials import fastest

TRIED = (256, 128)  # channels of the layers that are tried, each for all with as many and more
BYTES = 2**23  # of the transformed tiles that are multiplied at once: what a processor keeps close
PREPARED = WeakTensorKeyDictionary()  # from a weight to what was made of it, and what it was then

# Lavin & Gray, CVPR 2016: 4x4 pixels of the output from 6x6 of the input, by 36 multiplications per pair of channels
_INPUT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
          [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]  # fmt: skip
_WEIGHT = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # over 24
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
INPUT, WEIGHT, OUTPUT = (torch.kron(m, m) for m in map(torch.tensor, (_INPUT, _WEIGHT, _OUTPUT)))


def prepared(make: Callable[[Tensor, torch.dtype], tuple], weight: Tensor, dtype: torch.dtype) -> tuple:
    """``make(weight, dtype)``; of a frozen weight only once, and again after it has changed."""
    if weight.requires_grad or weight.is_inference():  # the latter does not record whether it was changed
        return make(weight, dtype)
    key = (weight.data_ptr(), weight._version, weight.device, weight.dtype, dtype)
    found = PREPARED.get(weight)
    if found is None or found[0] != key:
        with torch.no_grad():  # what is kept must not be the weight itself, or it would never be freed
            found = PREPARED[weight] = key, tuple(t if t is None else t.detach() for t in make(weight, dtype))
    return found[1]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """3x3 convolution with a border of one zero: (B, I, H, W) by (O, I, 3, 3) to (B, O, H, W)."""
    if is_faster(x, weight):
        return Winograd.apply(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=1)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of ``convolve`` with respect to x."""
    if is_faster(grad, weight):
        return _by_tiles(grad, prepared(_transformed, weight, grad.dtype)[1])
    return F.conv_transpose2d(grad, weight, padding=1)


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether Winograd's algorithm is, for layers of about this size on this machine; tried at the first call."""
    here = x.device.type in ("cpu", "meta")  # the latter when memory is counted
    channels = next((least for least in TRIED if min(weight.shape[:2]) >= least), 0)
    fits = channels and min(x.shape[2:]) >= 12 and x.dtype == torch.float32 and not weight.requires_grad
    return bool(here and fits and chosen(channels, torch.get_num_threads()))


class Winograd(torch.autograd.Function):
    """The convolution by a frozen weight, by way of tiles."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight)
        y = _by_tiles(x, prepared(_transformed, weight, x.dtype)[0])
        return y if bias is None else y.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return input_gradient(grad, *ctx.saved_tensors), None, None


def _transformed(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(36, I, O) for the convolution, and (36, O, I) for its gradient."""
    turned = weight.transpose(0, 1).flip(2, 3)
    matrix = WEIGHT.to(dtype) / 24**2
    return tuple((w.flatten(2).to(dtype) @ matrix.T).permute(2, 1, 0).contiguous() for w in (weight, turned))


def _by_tiles(x: Tensor, weight: Tensor) -> Tensor:
    """(B, I, H, W) to (B, O, H, W) in channels last, some rows of tiles at a time."""
    (batch, _, height, width), (_, channels, out) = x.shape, weight.shape
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 - width % -4, 1, 1 - height % -4))
    tiles = x.unfold(1, 6, 4).unfold(2, 6, 4)  # (B, h, w, I, 6, 6)
    rows, columns = tiles.shape[1:3]
    size = (batch, out, 4 * rows, 4 * columns)
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    cells = y.permute(0, 2, 3, 1).view(batch, rows, 4, columns, 4, out)
    at_once = max(1, BYTES // (36 * x.element_size() * max(channels, out) * columns * batch))
    for first in range(0, rows, at_once):
        part = tiles[:, first : first + at_once].permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
        products = (INPUT.to(x) @ part).view(36, -1, channels) @ weight
        found = (OUTPUT.to(x) @ products.view(36, -1)).view(4, 4, batch, -1, columns, out)
        cells[:, first : first + at_once] = found.permute(2, 3, 0, 4, 1, 5)
    return y if y.shape[2:] == (height, width) else y[..., :height, :width].clone(memory_format=torch.channels_last)


@functools.cache
def chosen(channels: int, threads: int) -> bool:
    """Whether Winograd's algorithm was found to be faster for layers of so many channels, with so many threads."""
    kind = f"convolutions, {channels} channels"
    return fastest(kind, "cpu", partial(_ways, channels)) == "Winograd"


def _ways(channels: int) -> dict:
    random, layout = torch.Generator().manual_seed(0), {"memory_format": torch.channels_last}
    x = torch.randn(1, channels, 48, 48, generator=random)
    weight = torch.randn(channels, channels, 3, 3, generator=random)
    rows, packed = x.contiguous(**layout), weight.contiguous(**layout)
    return {
        "direct": partial(F.conv2d, x, weight, padding=1),
        "direct, channels last": partial(F.conv2d, rows, packed, padding=1),
        "Winograd": partial(Winograd.apply, rows, packed, None),
    }
