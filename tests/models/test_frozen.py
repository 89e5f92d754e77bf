"""The layers with frozen weights give what the same layers give in training, and the same gradients."""

import copy
import gc
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from helpers import convolution
from helpers.convolution import PREPARED
from helpers.generators import stylegan2
from helpers.latents import Latents
from tests.support import tiny


def both(**changes):
    """One network twice: frozen, and with weights that ask for a gradient."""
    frozen = tiny.stylegan2(**changes)
    return frozen, copy.deepcopy(frozen).requires_grad_()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(generator, code, noise):
    """Image of a code and noise maps, and the gradient of a function of it by all of them."""
    inputs = [t.clone().requires_grad_() for t in (code, *noise)]
    image = generator.synthesize(Latents("w+", inputs[0]), inputs[1:])
    return image.detach(), *torch.autograd.grad((image * torch.linspace(-1, 1, image.shape[-1])).sum(), inputs)


def assert_same(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < tolerance * b.abs().max().clamp_min(1)


def test_fewer_multiplications_give_the_same_and_are_for_large_layers_that_are_frozen(monkeypatch):
    monkeypatch.setattr(convolution, "chosen", lambda channels, threads: channels == 128)
    x, weight, bias = (random(*shape).float() for shape in ((2, 128, 14, 21), (130, 128, 3, 3), (130,)))
    both = convolution.convolve(x.requires_grad_(), weight, bias), F.conv2d(x, weight, bias, padding=1)
    assert both[0].grad_fn.name().startswith("Winograd") and both[0].relu_().min() == 0 == both[1].relu_().min()
    assert_same(*((y.detach(), *torch.autograd.grad(y.square().sum(), x)) for y in both), 1e-4)
    others = ((x[..., :11], weight), (x[:, :127], weight[:, :127]), (x.double(), weight), (x, weight.requires_grad_()))
    assert not any(convolution.is_faster(*given) for given in others)


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("maps", [1, 3])
def test_frozen_and_trainable_layers_agree(clamp, maps):
    frozen, trainable = both(conv_clamp=clamp, resolution=32)
    code, noise = frozen.sample("w+", 3, seed=1), frozen.fresh_noise(maps, seed=2)
    assert_same(gradients(frozen, code, noise), gradients(trainable, code, noise))


def test_a_layer_with_a_limit_has_the_right_gradient_and_keeps_only_input_and_output():
    layer = stylegan2.SynthesisLayer(3, 2, 4, 4, up=True, clamp=0.5).double().requires_grad_(False)
    layer.noise_strength.fill_(0.3)
    x, w, noise = random(2, 3, 2, 2), random(2, 4, seed=1), random(2, 1, 4, 4, seed=2)
    assert (layer(x, w, noise).abs() == 0.5).any()
    assert gradcheck(layer, [t.requires_grad_() for t in (x, w, noise)])
    kept = []
    for generator in both(resolution=32):
        storages = {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        code = generator.sample("w+", 4).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            generator.synthesize(Latents("w+", code))
        kept.append(sum(storages.values()))
    assert kept[0] < 0.6 * kept[1]


def test_changed_weights_are_prepared_again_never_copied_and_go_with_the_generator():
    frozen = tiny.stylegan2()
    code, keys = frozen.sample("w+", 1), set(frozen.state_dict())
    before = frozen.synthesize(code)
    twins = copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))
    frozen.synthesis.b16.conv0.weight.mul_(-1.5)
    changed = frozen.synthesize(code)
    assert (changed - before).abs().max() > 0.01
    assert (changed - copy.deepcopy(frozen).requires_grad_().synthesize(code)).abs().max() < 1e-5
    frozen.load_state_dict(tiny.stylegan2().state_dict())
    assert set(frozen.state_dict()) == keys
    assert all(torch.equal(network.synthesize(code), before) for network in (frozen, *twins))
    gc.collect()
    known, generator = len(PREPARED), tiny.stylegan2()
    generator.synthesize(generator.sample("w", 1))
    assert len(PREPARED) == known + 5
    del generator
    gc.collect()
    assert len(PREPARED) == known


@pytest.mark.parametrize("maps", [1, 5])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_batch_in_parts_gives_the_same(monkeypatch, maps, checkpointing):
    generator = tiny.stylegan2(resolution=32)
    generator.checkpointing = checkpointing
    code, noise = generator.sample("w+", 5, seed=1), generator.fresh_noise(maps, seed=2)
    whole = gradients(generator, code, noise)
    sizes, block = [], generator.synthesis.b32
    monkeypatch.setattr(stylegan2, "CACHE", 8 * block.size)
    block.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    assert_same(gradients(generator, code, noise), whole)
    assert set(sizes) == {1, 2}
