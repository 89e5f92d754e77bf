"""The fast path of the feature networks against the plain one."""

import pytest
import torch
import torch.nn.functional as F

from helpers import features as features_module
from helpers.fast import features as fast_features
from helpers.fast.features import Conv3x3, FastFeatures, GraphedFeatures, half_gram
from helpers.features import FeatureConfig, FeatureError, Features
from helpers.losses import gram_matrix

LAYERS = [1, "relu1_2", 3, "conv2_2", "relu2_2", 5]


@pytest.fixture(autouse=True)
def winograd(monkeypatch):
    """Rows by Winograd's algorithm in all but the first convolution."""
    monkeypatch.setattr(fast_features, "WIDE", 4)


def network(pooling="max", dtype=torch.float32):
    features = Features(FeatureConfig((4, 6, 8), (2, 2, 2)), "tiny", pooling)
    random = torch.Generator().manual_seed(0)
    for conv in features.convs:
        for values in conv.parameters():
            values.copy_(0.4 * torch.randn(values.shape, generator=random))
    return features.to(dtype)


def pictures(size, dtype=torch.float32):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("size", [(8, 12), (11, 7)])
@pytest.mark.parametrize("pooling", ["max", "avg", "blur"])
def test_activations_and_gradients_are_those_of_the_plain_path(pooling, size):
    plain = network(pooling)
    found = []
    for run in (plain, FastFeatures(plain, torch.float32)):
        images = pictures(size).requires_grad_()
        values = run(images, LAYERS)
        assert list(values) == LAYERS
        sum(
            (v * torch.linspace(-1, 1, v.numel()).view_as(v)).sum() + v.square().sum() for v in values.values()
        ).backward()
        found.append([*values.values(), images.grad])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_where_onednn_may_not_multiply_bfloat16_nothing_is_packed_for_it(monkeypatch):
    """ONEDNN_MAX_CPU_ISA can forbid what the processor has: packing would raise an error of torch's own."""
    asked = []

    def no_packing(*_):
        raise RuntimeError("bf16 path needs the cpu support")

    for module in (fast_features, features_module):
        monkeypatch.setattr(module, "onednn_takes_bfloat16", lambda: asked.append(1))
    monkeypatch.setattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", no_packing, raising=False)
    found = FastFeatures(network(), torch.bfloat16)(pictures((8, 8)), [3])[3]
    assert asked and found.dtype == torch.bfloat16 and found.isfinite().all()
    assert features_module.fast_dtype("cpu") == torch.float32


@pytest.mark.parametrize("pooling", ["max", "avg", "blur"])
def test_the_gradient_is_right_in_float64(pooling):
    fast = FastFeatures(network(pooling, torch.float64), torch.float64)
    images = pictures((8, 6), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(fast(x, ["conv1_1", "relu2_1", 5]).values()), images)


def test_layers_that_no_loss_uses_have_no_part_in_the_gradient():
    fast, images = FastFeatures(network(), torch.float32), pictures((8, 8)).requires_grad_()
    alone = torch.autograd.grad(fast(images, [1])[1].sum(), images)[0]
    among = torch.autograd.grad(fast(images, LAYERS)[1].sum(), images)[0]
    assert torch.allclose(alone, among)


@pytest.mark.parametrize("height", [2, 6, 7])
def test_winograd_is_the_convolution(height):
    random = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(shape, generator=random) for shape in ((2, 5, height, 4), (7, 5, 3, 3)))
    bias = torch.randn(7, generator=random)
    found = Conv3x3(weight, bias)(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(found, F.conv2d(x, weight, bias, padding=1), atol=1e-5)


def test_without_the_packing_it_is_the_same(monkeypatch):
    packed = FastFeatures(network(), torch.float32)(pictures((8, 8)), [5])[5]
    monkeypatch.delattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", raising=False)
    assert torch.allclose(FastFeatures(network(), torch.float32)(pictures((8, 8)), [5])[5], packed, atol=1e-4)


def test_unknown_layers_and_small_pictures_are_refused():
    fast = FastFeatures(network(), torch.float32)
    with pytest.raises(FeatureError, match="no layer 'conv9_1'"):
        fast(pictures((8, 8)), ["conv9_1"])
    with pytest.raises(FeatureError, match="at least 4x4"):
        fast(pictures((2, 8)), [5])


@pytest.mark.parametrize("size", [(8, 6), (5, 5)])
def test_half_gram_is_the_gram_matrix(size):
    values = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(3))
    half = values.bfloat16().contiguous(memory_format=torch.channels_last)
    assert half_gram(half).dtype == torch.float32
    assert torch.allclose(half_gram(half), gram_matrix(half.float()), atol=0.01)
    exact = values.double().requires_grad_()
    assert torch.allclose(half_gram(exact), gram_matrix(exact))
    assert torch.autograd.gradcheck(half_gram, exact)


def test_a_graph_is_recorded_for_every_shape_and_list_of_layers(monkeypatch):
    recorded = []

    def record(function, samples):
        recorded.append(tuple(samples[0].shape))
        assert samples[0].requires_grad
        return function

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    plain = network()
    graphed = GraphedFeatures(plain)
    graphed(pictures((8, 8)), [1])
    assert not recorded  # no gradient
    for size, layers in (((8, 8), [1, 5]), ((8, 8), [1, 5]), ((8, 8), 5), ((8, 12), [1, 5])):
        images = pictures(size).requires_grad_()
        found, expected = graphed(images, layers), plain(images, layers)
        assert list(found) == list(expected) and all(torch.equal(found[k], expected[k]) for k in found)
    assert recorded == [(2, 3, 8, 8), (2, 3, 8, 8), (2, 3, 8, 12)]
