"""Checkpoints as people bring them: the course's, saved modules, encoders, trainings with all sorts of extras."""

import argparse
import collections
import datetime
import functools
import itertools
import pathlib
import pickle
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import found_encoders
from helpers.encoder import load_encoder
from helpers.generators import NoDiscriminator, convert_checkpoint, load_critic, load_discriminator, load_generator
from helpers.inversion import Inversion
from helpers.latents import Latents
from helpers.weights import WeightsError
from tests.support import checkpoint_files as files
from tests.support import hostile, tiny

NORMS = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}


class Layers(nn.Sequential):
    """A network of the course: its layers by name, with a ReLU after all but the last."""

    def __init__(self, widths, name, layer, norm, end=None):
        super().__init__()
        for i, sizes in enumerate(itertools.pairwise(widths)):
            last = i == len(widths) - 2
            norms = [] if last else [NORMS[norm](sizes[1])]
            self.add_module(f"{name}{i + 1}", nn.Sequential(*layer(i, *sizes), *norms))
        self.end = end

    def forward(self, x):
        *first, last = [layer for layer in self.children() if layer is not self.end]
        for layer in first:
            x = F.relu(layer(x))
        return last(x) if self.end is None else self.end(last(x))


def deconvolution(i, into, out):
    return [nn.ConvTranspose2d(into, out, 4, *((2, 1) if i else (1, 0)), bias=False)]


def up_convolution(i, into, out):
    side, padding = (3, 1) if i else (4, 3)
    return [nn.Upsample(scale_factor=2)][: bool(i)] + [nn.Conv2d(into, out, side, padding=padding, bias=i == 4)]


def vanilla(name, layer, norm, size=10):
    """A network of the course whose norms have seen something, in evaluation: widths for a noise size and conv_dim 4.

    The starters' generator has five transposed convolutions without bias, kernel 4: 1x1 to 4x4, then stride 2 and
    padding 1; tanh at the end. Its cousin has a convolution of 4x4, then up-samplings by 2 and convolutions of 3x3.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Layers([size, 32, 16, 8, 4, 3], name, layer, norm, nn.Tanh())
        for name, value in network.named_parameters():
            value.data += 0.2 * torch.randn(value.shape) if ".1." in name else 0
        network(torch.randn(16, size, 1, 1))
    return network.eval().requires_grad_(False)


def vanilla_critic(norm):
    def layer(i, into, out):
        return [nn.Conv2d(into, out, 4, *((2, 1) if i < 4 else (1, 0)), bias=False)]

    critic = Layers([3, 4, 8, 16, 32, 1], "conv", layer, norm)
    critic(torch.rand(8, 3, 64, 64))
    return critic.eval().requires_grad_(False)


@pytest.mark.parametrize(("name", "layer"), [("deconv", deconvolution), ("up_conv", up_convolution)])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("form", ["zip", "legacy", "wrapper", "module"])
def test_a_vanilla_generator_of_the_course(tmp_path, name, layer, norm, form):
    network, path = vanilla(name, layer, norm), tmp_path / "vanilla.ckpt"
    state = network.state_dict()
    content = {f"generator.{k}": v for k, v in state.items()} if form == "wrapper" else state
    torch.save(network if form == "module" else content, path, _use_new_zipfile_serialization=form != "legacy")
    loaded, z = load_generator(path), torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    expected = network(z[:, :, None, None]) / 2 + 0.5
    assert loaded.family == "dcgan" and expected.std() > 0.01
    assert (loaded.synthesize(z) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_its_discriminator(tmp_path, norm):
    network, critic, path = vanilla("deconv", deconvolution, norm), vanilla_critic(norm), tmp_path / "a.ckpt"
    torch.save({"G": network.state_dict(), "D": critic.state_dict(), "iteration": 3}, path)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    z = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    for found in (path, convert_checkpoint(path, tmp_path / "a.safetensors")):
        assert torch.allclose(load_discriminator(found)(images), critic(images * 2 - 1).flatten(), atol=1e-5)
        assert (load_generator(found).synthesize(z) - network(z[:, :, None, None]) / 2 - 0.5).abs().max() < 1e-5


def same(original, path):
    w = original.sample("w", 2, seed=3)
    return (load_generator(path).synthesize(w) - original.synthesize(w)).abs().max() < 1e-5


def saved(path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def persistent(generator):
    return files._persistent(generator, generator.config.get("conv_clamp"), "Generator")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", ["module", "plain module", "state", "states", "parallel"])
def test_a_generator_saved_by_torch(tmp_path, form, zipped):
    original = tiny.stylegan2(conv_clamp=64)
    state = original.state_dict()
    contents = {"module": persistent(original), "plain module": original, "state": state}
    contents["states"] = {"step": 3, "G": {k: v + 1 for k, v in state.items()}, "G_ema": state, "opt": {"a": state}}
    contents["parallel"] = {f"module.{k}": v for k, v in state.items()}
    path = saved(tmp_path / "model_ABC.pt", contents[form], zipped)
    assert same(original, path)
    assert load_generator(path).config.get("conv_clamp") == {"module": 64, "plain module": None}.get(form, 256)


def spoiled(part, **attributes):
    """A discriminator in which a module has other attributes, or tensors."""
    network = files._persistent(tiny.discriminator(), None, "Discriminator")
    target = network
    for name in part:
        target = target.meta["state"]["_modules"][name]
    target.meta["state"].update(attributes)
    return network


def with_scores(count, **changes):
    """A discriminator with as many scores as no network of ours has."""
    critic = tiny.discriminator(**changes)
    critic.b4.out.weight = nn.Parameter(torch.randn(count, 16), requires_grad=False)
    critic.b4.out.bias = nn.Parameter(torch.randn(count), requires_grad=False)
    return critic


UNFIT = {
    "no minibatch deviation": lambda: spoiled(["b4", "mbstd"], num_channels=0),
    "another label width": lambda: files._persistent(with_scores(64, c_dim=3, mapping_layers=2), None, "Discriminator"),
    "no modules": lambda: spoiled([], _modules=None),
    "modules of another kind": lambda: spoiled([], _modules=[1, 2]),
    "a layer without tensors": lambda: spoiled(["b8", "conv0"], _parameters={"weight": 3}),
    "attributes of another kind": lambda: spoiled(["b4", "mbstd"], group_size="four"),
    "projected_gan's": lambda: types.SimpleNamespace(
        feature_network=nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()), forward=functools.partial(max, 1)
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_an_unfit_discriminator_has_a_stand_in(tmp_path, kind):
    original = tiny.stylegan2()
    path = files.dump(tmp_path / "a.pkl", {"G_ema": persistent(original), "D": UNFIT[kind]()})
    with pytest.raises(NoDiscriminator, match="holds no discriminator") as error:
        load_discriminator(path)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="Images are judged by that of stylegan2-cats-64"):
        assert load_critic(path)(torch.rand(2, 3, 32, 32)).shape == (2,)
    with pytest.warns(UserWarning, match="holds no discriminator that is read: .*Only the generator is written"):
        again = convert_checkpoint(path, tmp_path / "a.safetensors")
    assert same(original, again)
    with pytest.raises(NoDiscriminator):
        load_discriminator(again)


@pytest.mark.parametrize("architecture", ["resnet", "orig"])
@pytest.mark.parametrize("form", ["pickle", "state", "tensorflow"])
def test_generators_of_other_architectures_are_refused_by_name(tmp_path, architecture, form):
    original, path = tiny.stylegan2(), tmp_path / "a.pkl"
    if form == "tensorflow":
        files.tensorflow_pickle(path, original, architecture=architecture)
    elif form == "state":
        state = {k: v for k, v in original.state_dict().items() if ".torgb." not in k or ".b16." in k}
        state |= {"synthesis.b8.skip.weight": torch.ones(16, 16, 1, 1)} if architecture == "resnet" else {}
        torch.save(state, path)
    else:
        network = persistent(original)
        blocks = network.meta["state"]["_modules"]["synthesis"].meta["state"]["_modules"]
        for name, block in blocks.items():  # as in the official classes, the colours are made by the last block alone
            block.meta["state"]["architecture"] = architecture
            if name != "b16":
                del block.meta["state"]["_modules"]["torgb"]
        files.dump(path, {"G_ema": network})
    with pytest.raises(WeightsError, match=f"has the architecture '{architecture}', only 'skip' is read"):
        load_generator(path)


@pytest.mark.parametrize("shape", ["row", "rows"])
def test_the_decoder_of_an_encoder(tmp_path, shape):
    """pSp, e4e and ReStyle: rosinality's generator under decoder., next to an encoder, and a mean for each layer."""
    original = tiny.stylegan2(resolution=32)
    decoder = torch.load(files.rosinality_pt(tmp_path / "g.pt", original), weights_only=True)["g_ema"]
    state = {"encoder.input_layer.0.weight": torch.zeros(3, 3)} | {f"decoder.{k}": v for k, v in decoder.items()}
    average = original.w_mean if shape == "row" else original.w_mean.repeat(original.num_ws, 1)
    options = argparse.Namespace(exp_dir=pathlib.Path("runs"), device="cuda:0", start_from_latent_avg=True)
    torch.save({"state_dict": state, "latent_avg": average, "opts": options}, tmp_path / "e4e.pt")
    assert same(original, tmp_path / "e4e.pt")
    assert torch.allclose(load_generator(tmp_path / "e4e.pt").mean("w"), original.mean("w"))


@pytest.mark.parametrize("arguments", [argparse.Namespace(lr_mlp=0.1), {"lr_mlp": 0.1}])
def test_the_rate_of_rosinalitys_mapping(tmp_path, arguments):
    original = tiny.stylegan2(lr_multiplier=0.1)
    path = files.rosinality_pt(tmp_path / "a.pt", original, extra={"args": arguments})
    z = original.sample("z", 3)
    assert torch.allclose(load_generator(path).map(z), original.map(z), atol=1e-5)


class Dataset:
    """Of the training: its objects have items, state and slots of their own."""

    def __init__(self):
        self.files, self.sizes = [pathlib.Path("a.png")] * 3, {(16, 16): 2}

    def draw(self):
        raise AssertionError("a method of a file was called")


class Labels(dict):
    __slots__ = ("extra",)


EXTRAS = {
    "path": pathlib.PurePosixPath("runs/00001"),
    "counter": collections.Counter("hello"),
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "deque": collections.deque([1, 2], 3),
    "dtype": torch.float16,
    "device": torch.device("cuda:0"),
    "size": torch.Size([1, 2]),
    "date": datetime.datetime(2024, 1, 2),
    "data set": Dataset(),
    "hook": Dataset().draw,
    "partial": functools.partial(max, 1),
    "function": files.dump,
    "keys": {(1, 2): 3, 2**70: 4, 1.5: 5, frozenset([1]): 6},
    "sets": [{1, 2}, frozenset(), {("a", "b")}],
    "texts": np.array(["a", "bc"]),
    "objects": np.array([None, {}], dtype=object),
    "date64": np.datetime64("2024-01-02"),
    "records": np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
    "complex": np.complex64(1),
    "random": np.random.RandomState(0),
    "subclass": Labels(a=1),
    "exception": ValueError("stopped"),
    "enum": argparse.Namespace(order=pickle.PickleError),
    "generator": torch.Generator,
    "sparse": torch.eye(3).to_sparse(),
    "complex tensor": torch.ones(2, dtype=torch.complex64),
}


@pytest.mark.parametrize("form", ["pickle 2", "pickle 4", "zip"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_parts_that_nobody_reads_never_refuse_a_file(tmp_path, extra, form):
    original, path = hostile.smallest(), tmp_path / "a.pkl"
    network = persistent(original)
    network.meta["state"]["_forward_hooks"] = {0: EXTRAS[extra]}
    content = {"a": EXTRAS[extra], "G_ema": network, "z": [EXTRAS[extra]]}
    if form == "zip":
        saved(path, content)
    else:
        files.dump(path, content, int(form[-1]))
    assert same(original, path)


WIDTH, STAGES = 16, (3, 4, 14, 3)  # 64 in the published files
ENCODERS = {  # type in the options: inputs, three sizes of features, whether rows are offsets from the first
    "GradualStyleEncoder": (3, True, False),
    "Encoder4Editing": (3, True, True),
    "BackboneEncoder": (6, False, False),
    "ProgressiveBackboneEncoder": (6, False, True),
}


class Tensors(dict):
    """Tensors that are drawn when their name is first asked for, and the layers that use them."""

    def get(self, name, *shape, scale=0.2):
        if name not in self:
            drawn = torch.rand(shape) + 0.5 if name.endswith("running_var") else torch.randn(shape) * scale
            self[name] = drawn
        return self[name]

    def conv(self, name, x, out, size, stride=1, bias=False):
        weight = self.get(f"{name}.weight", out, x.shape[1], size, size, scale=(x.shape[1] * size**2) ** -0.5)
        return F.conv2d(x, weight, self.get(f"{name}.bias", out) if bias else None, stride, size // 2)

    def norm(self, name, x):
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (self.get(f"{name}.{part}", x.shape[1]) for part in parts)
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)
        return F.batch_norm(x, mean, variance, weight, bias)

    def prelu(self, name, x):
        return F.prelu(x, self.get(f"{name}.weight", x.shape[1]))

    def unit(self, name, x, out, stride):
        if x.shape[1] == out:
            short = x[:, :, ::stride, ::stride]
        else:
            short = self.norm(f"{name}.shortcut_layer.1", self.conv(f"{name}.shortcut_layer.0", x, out, 1, stride))
        x = self.conv(f"{name}.res_layer.1", self.norm(f"{name}.res_layer.0", x), out, 3)
        x = self.conv(f"{name}.res_layer.3", self.prelu(f"{name}.res_layer.2", x), out, 3, stride)
        x = self.norm(f"{name}.res_layer.4", x)
        seen = F.relu(self.conv(f"{name}.res_layer.5.fc1", F.adaptive_avg_pool2d(x, 1), out // 16, 1))
        return x * torch.sigmoid(self.conv(f"{name}.res_layer.5.fc2", seen, out, 1)) + short

    def head(self, name, x):
        for i in range(0, 2 * (x.shape[-1].bit_length() - 1), 2):
            x = F.leaky_relu(self.conv(f"{name}.convs.{i}", x, x.shape[1], 3, 2, bias=True), 0.01)
        width = x.shape[1]
        weight = self.get(f"{name}.linear.weight", width, width, scale=1.0)
        return F.linear(x.flatten(1), weight / width**0.5, self.get(f"{name}.linear.bias", width))

    def rows(self, x, count, pyramid, deltas):
        x = self.prelu("input_layer.2", self.norm("input_layer.1", self.conv("input_layer.0", x, WIDTH, 3)))
        number, maps = 0, []
        for stage, blocks in enumerate(STAGES):
            for i in range(blocks):
                x = self.unit(f"body.{number}", x, WIDTH * 2**stage, 1 if i else 2)
                number += 1
            maps.append(x)
        levels = [x, x, x]
        for level, name, features in ((1, "latlayer1", maps[2]), (2, "latlayer2", maps[1])) if pyramid else ():
            larger = F.interpolate(levels[level - 1], features.shape[-2:], mode="bilinear", align_corners=True)
            levels[level] = larger + self.conv(name, features, 8 * WIDTH, 1, bias=True)
        found = [self.head(f"styles.{i}", levels[0 if i < 3 else 1 if i < 7 else 2]) for i in range(count)]
        return torch.stack([found[0], *(row + found[0] * deltas for row in found[1:])], 1)


@pytest.fixture(scope="module")
def faces():
    return torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_encoder_of_a_file_gives_what_the_authors_layers_give(tmp_path, monkeypatch, faces, kind):
    monkeypatch.setattr(found_encoders, "ROUNDS", 2)  # instead of 5
    inputs, pyramid, deltas = ENCODERS[kind]
    original, layers = tiny.stylegan2(resolution=32, w_dim=8 * WIDTH), Tensors()
    average = torch.randn(original.num_ws, 8 * WIDTH) * 0.1
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        code, target = average[None], faces * 2 - 1
        for _ in range(2 if inputs == 6 else 1):
            former = F.adaptive_avg_pool2d(original.synthesize(Latents("w+", code)), 256) * 2 - 1
            x = torch.cat([target, former], 1) if inputs == 6 else target
            code = code + layers.rows(x, original.num_ws, pyramid, deltas)
    decoder = torch.load(files.rosinality_pt(tmp_path / "g.pt", original), weights_only=True)["g_ema"]
    state = {f"encoder.{k}": v for k, v in layers.items()} | {f"decoder.{k}": v for k, v in decoder.items()}
    options = argparse.Namespace(encoder_type=kind)
    torch.save({"state_dict": state, "latent_avg": average, "opts": options}, tmp_path / "e.pt")

    generator = load_generator(tmp_path / "e.pt")
    found = load_encoder(generator).encode(generator, faces)
    assert found.space == "w+" and torch.allclose(found.code, code, atol=1e-3 * code.abs().max())
    if kind == "Encoder4Editing":
        again = load_encoder(tmp_path / "e.pt").encode(generator, faces, space="w")
        assert again.space == "w" and torch.allclose(again.code, code.mean(1), atol=0.01)
        search = Inversion(generator, faces[:, :, ::8, ::8], start="encoder", steps=1)
        assert search.run().images.isfinite().all()


def test_what_is_not_such_an_encoder_is_refused(tmp_path, faces):
    files.rosinality_pt(tmp_path / "g.pt", tiny.stylegan2())
    with pytest.raises(WeightsError, match="g.pt: it holds no encoder of pSp, e4e or ReStyle; choose another start"):
        load_encoder(tmp_path / "g.pt")
    state = {"encoder.input_layer.0.weight": torch.zeros(16, 3, 3, 3), "encoder.styles.0.linear.bias": torch.zeros(128)}
    torch.save({"state_dict": state, "latent_avg": torch.zeros(128)}, tmp_path / "e.pt")
    with pytest.raises(WeightsError, match="its parts are not what this format has: KeyError, .input_layer"):
        load_encoder(tmp_path / "e.pt")
