"""The convolutions of a frozen VGG at full processor speed: Winograd's algorithm, hand-written backward pass.

``Features`` is the plain path and defines what is computed; this one computes the same with a third fewer products:

- activations are stored channels last, in bfloat16 where the processor multiplies it;
- a 3x3 convolution makes two rows at a time from four products where there are six (Winograd's F(2, 3); Lavin & Gray,
  CVPR 2016), each of them a 1x3 convolution;
- backward through a 3x3 convolution with a border of one zero is such a convolution too, of the flipped and transposed
  weights, so both passes take weights packed once; the gradients of the frozen weights are never computed;
- one autograd function for all layers: gradients that arrive at several of them are added on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from helpers.features import POOLS, STD, Features, onednn_takes_bfloat16

WIDE = 64  # channels from which the saved products outweigh the additions
PIECES = 4  # parts of a Gram matrix in bfloat16: each is rounded once; their float32 sum is four times as exact

Place = tuple[int, bool]  # index of a convolution, and whether its output after the ReLU is wanted


class FastFeatures:
    """``features`` on a processor, for calls and gradients with respect to the images; see ``Features.forward``.

    Activations come in ``dtype``, channels last. In bfloat16 they have 8 bits of precision, so sums over them belong
    in float32; in float32 they differ from the plain path by rounding. No second derivatives.
    """

    def __init__(self, features: Features, dtype: torch.dtype):
        self.plain, self.dtype = features, dtype
        weights = [(conv.weight.detach().to(dtype), conv.bias.detach().to(dtype)) for conv in features.convs]
        self.forth = [Conv3x3(weight, bias) for weight, bias in weights]
        self.back = [Conv3x3(weight.flip(2, 3).transpose(0, 1)) for weight, _ in weights]
        blocks = [block for block, _, _ in features.config.convs]
        self.pooled = [now > before for before, now in zip([1, *blocks], blocks, strict=False)]

    @property
    def layers(self) -> tuple[str, ...]:
        return self.plain.layers

    def __call__(self, images: Tensor, layers: int | str | Iterable[int | str]) -> dict[int | str, Tensor]:
        """Activations of the layers asked for: see ``Features.forward``."""
        asked = [layers] if isinstance(layers, int | str) else list(layers)
        places = {layer: self.plain.locate(layer) for layer in asked}
        if not places:
            return {}
        order = sorted(set(places.values()))
        self.plain.check(images, order[-1][0])
        found = dict(zip(order, _Layers.apply(images, self, order), strict=True))
        return {layer: found[place] for layer, place in places.items()}

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The pooled x, and the places of the maxima."""
        if self.plain.pooling == "max":
            return F.max_pool2d(x, 2, return_indices=True)
        return POOLS[self.plain.pooling](x, 2), None

    def unpool(self, grad: Tensor, x: Tensor, places: Tensor | None) -> Tensor:
        """The gradient of ``pool`` at x."""
        if places is not None:
            window = ([2, 2], [2, 2], [0, 0], [1, 1], False)
            return torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *window, places)
        grad = torch.ops.aten.avg_pool2d_backward(grad, x, [2, 2], [2, 2], [0, 0], False, True, None)
        if self.plain.pooling == "blur":
            return torch.ops.aten.avg_pool2d_backward(grad, x, [3, 3], [1, 1], [1, 1], False, False, None)
        return grad


class _Layers(torch.autograd.Function):
    """Images to the activations at ``places``, in their order."""

    @staticmethod
    def forward(ctx, images: Tensor, network: FastFeatures, places: list[Place]) -> tuple[Tensor, ...]:
        last, found, signs, maxima = places[-1][0], {}, [], []
        x = _last(network.plain.normalize(images).to(network.dtype))
        for index, conv in enumerate(network.forth[: last + 1]):
            if network.pooled[index]:
                x, where = network.pool(x)
                maxima.append(where)
            x = conv(x)
            if (index, False) in places:
                found[index, False] = x
                x = F.relu(x) if (index, False) != places[-1] else x
            else:
                x = x.relu_()
            found[index, True] = x
            signs.append(x)
        ctx.network, ctx.places, ctx.dtype = network, places, images.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*signs, *maxima)
        return tuple(found[place] for place in places)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        network, last = ctx.network, ctx.places[-1][0]
        signs, maxima = list(ctx.saved_tensors[: last + 1]), list(ctx.saved_tensors[last + 1 :])
        given, grad = dict(zip(ctx.places, grads, strict=True)), None
        for index in reversed(range(last + 1)):
            grad = _sum(grad, given.get((index, True)))
            if grad is not None:
                grad = torch.ops.aten.threshold_backward(grad, signs[index], 0)
            grad = _sum(grad, given.get((index, False)))
            if grad is not None:
                grad = network.back[index](_last(grad))
            if network.pooled[index]:
                where = maxima.pop()
                grad = None if grad is None else network.unpool(grad, signs[index - 1], where)
        if grad is None:
            return None, None, None
        grad = grad.to(ctx.dtype, memory_format=torch.contiguous_format)
        return grad / grad.new_tensor(STD).view(1, 3, 1, 1), None, None


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _sum(grad: Tensor | None, more: Tensor | None) -> Tensor | None:
    return grad + more if grad is not None and more is not None else more if grad is None else grad


# --- CUDA ------------------------------------------------------------------------------------------------------------


class GraphedFeatures:
    """``features`` on a CUDA device, the calls with a gradient as one CUDA graph each way.

    A graph is recorded for every shape and list of layers, and its activations are overwritten by its next call.
    """

    def __init__(self, features: Features):
        self.plain, self.graphs = features, {}

    @property
    def layers(self) -> tuple[str, ...]:
        return self.plain.layers

    def __call__(self, images: Tensor, layers: int | str | Iterable[int | str]) -> dict[int | str, Tensor]:
        """Activations of the layers asked for: see ``Features.forward``."""
        asked = (layers,) if isinstance(layers, int | str) else tuple(layers)
        if not asked or not (torch.is_grad_enabled() and images.requires_grad):
            return self.plain(images, asked)  # targets are kept, so they must not lie in a graph
        key = (tuple(images.shape), asked)
        if key not in self.graphs:
            sample = torch.zeros_like(images, requires_grad=True)
            self.graphs[key] = torch.cuda.make_graphed_callables(
                lambda x: tuple(self.plain(x, asked).values()), (sample,)
            )
        return dict(zip(asked, self.graphs[key](images), strict=True))


# --- convolution -----------------------------------------------------------------------------------------------------


class Conv3x3:
    """A 3x3 convolution with a border of one zero: x (B, C, H, W), channels last, to (B, K, H, W).

    weight: (K, C, 3, 3); bias: (K,) or None; both, and x, of one dtype.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self.bias, self.whole = bias, _packed(weight, [1, 1])
        self.rows = None
        if min(weight.shape[:2]) >= WIDE:
            above, here, below = weight.to(torch.promote_types(weight.dtype, torch.float32)).unbind(2)
            kernels = above, (above + here + below) / 2, (above - here + below) / 2, below
            self.rows = [_packed(kernel[:, :, None].to(weight.dtype), [0, 1]) for kernel in kernels]

    def __call__(self, x: Tensor) -> Tensor:
        if self.rows is None or x.shape[2] % 2:
            return self.whole(x, self.bias)
        biases = None, self.bias, None, None  # the second product goes into both rows
        return _gather([row(part, bias) for row, part, bias in zip(self.rows, _spread(x), biases, strict=True)])


def _spread(x: Tensor) -> list[Tensor]:
    """For rows a b c d, with b c a pair from the top: a - c, b + c, c - b, b - d. Outside the image are zeros."""
    first, second = x[:, :, 0::2], x[:, :, 1::2]
    parts = [torch.empty_like(first, memory_format=torch.channels_last) for _ in range(4)]
    torch.sub(second[:, :, :-1], second[:, :, 1:], out=parts[0][:, :, 1:])
    torch.neg(second[:, :, :1], out=parts[0][:, :, :1])
    torch.add(first, second, out=parts[1])
    torch.sub(second, first, out=parts[2])
    torch.sub(first[:, :, :-1], first[:, :, 1:], out=parts[3][:, :, :-1])
    parts[3][:, :, -1:] = first[:, :, -1:]
    return parts


def _gather(parts: list[Tensor]) -> Tensor:
    """Pairs of rows p + q + r and q - r - s from products p q r s."""
    p, q, r, s = parts
    batch, channels, height, width = p.shape
    rows = torch.empty((batch, channels, 2 * height, width), dtype=p.dtype, memory_format=torch.channels_last)
    first, second = rows[:, :, 0::2], rows[:, :, 1::2]
    torch.add(q, r, out=first).add_(p)
    torch.sub(q, r, out=second).sub_(s)
    return rows


def _packed(weight: Tensor, border: list[int]) -> Callable[[Tensor, Tensor | None], Tensor]:
    """A convolution with these weights, in the order in which oneDNN reads them where torch offers that."""
    weight = _last(weight)
    one = [1, 1]
    reorder = getattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", None)  # private in torch 2.6 … 2.15
    known = torch.backends.mkldnn.is_available() and "AVX" in torch.backends.cpu.get_cpu_capability()
    takes = weight.dtype == torch.float32 or weight.dtype == torch.bfloat16 and onednn_takes_bfloat16()
    if reorder is None or not takes or not known:
        return lambda x, bias: F.conv2d(x, weight, bias, padding=border)
    packed, convolve = reorder(weight.to_mkldnn(), border, one, one, 1, None), torch.ops.mkldnn._convolution_pointwise
    return lambda x, bias: convolve(x, packed, bias, border, one, one, 1, "none", [], "")


# --- Gram matrix -----------------------------------------------------------------------------------------------------


def half_gram(activations: Tensor) -> Tensor:
    """``losses.gram_matrix`` of bfloat16 activations (B, C, h, w), channels last, without a copy: float32 (B, C, C)."""
    return _HalfGram.apply(activations) / activations[0, 0].numel()


class _HalfGram(torch.autograd.Function):
    @staticmethod
    def forward(ctx, activations: Tensor) -> Tensor:
        ctx.save_for_backward(activations)
        rows = activations.permute(0, 2, 3, 1).flatten(1, 2)
        batch, cells, channels = rows.shape
        pieces = rows.reshape(-1, cells // PIECES, channels) if cells % PIECES == 0 else rows
        products = pieces.transpose(1, 2) @ pieces
        return products.view(batch, -1, channels, channels).sum(1, dtype=torch.promote_types(rows.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (activations,) = ctx.saved_tensors
        rows = activations.permute(0, 2, 3, 1).flatten(1, 2)
        found = rows @ (grad + grad.transpose(1, 2)).to(rows.dtype)
        return found.unflatten(1, activations.shape[2:]).permute(0, 3, 1, 2)
