"""Checkpoints of every format, written by checkpoint_files, give the images of the networks that they were made of."""

import argparse
import math

import pytest
import torch
import torch.nn.functional as F

from helpers.generators import NoDiscriminator, convert_checkpoint, load_critic, load_discriminator, load_generator
from helpers.generators.checkpoints import read_checkpoint
from helpers.generators.checkpoints.torch_file import load
from helpers.latents import Latents
from helpers.weights import WeightsError
from tests.support import checkpoint_files as files
from tests.support import tiny

CLASSES = {"c_dim": 3}


def same_images(original, loaded, noise=True):
    """The largest difference between the images of both, in every space, of the same codes."""
    if original.c_dim:
        original.set_label(loaded.label)
    z = original.sample("z", 2)
    w = original.map(z)
    rows = torch.stack([w, w.flip(0)] * original.num_ws, 1)[:, : original.num_ws]  # another w in every row
    codes = [Latents("z", z), Latents("w", w), Latents("w+", rows)]
    maps = None if noise else original.fixed_noise(2)
    assert loaded.noise_shapes == original.noise_shapes
    return max((loaded.synthesize(c, maps) - original.synthesize(c)).abs().max().item() for c in codes)


def official(path, original, protocol):
    return files.official_pickle(path, original, protocol=protocol)


def alone(path, original, protocol):
    return files.tensorflow_pickle(path, original, protocol, alone=True)


FORMS = [
    *((official, tiny.stylegan2, options) for options in ({}, {"conv_clamp": 256}, {"conv_clamp": 0.5}, CLASSES)),
    *((files.tensorflow_pickle, tiny.stylegan2, o) for o in ({}, {"conv_clamp": 0.5}, CLASSES)),
    *((write, tiny.stylegan2, CLASSES | {"labels": "concat"}) for write in (files.tensorflow_pickle, alone)),
    *((files.tensorflow_pickle, tiny.stylegan1, {"resolution": r} | o) for r in (16, 128) for o in ({}, CLASSES)),
]


PROTOCOLS = [(2 + number % 4, *form) for number, form in enumerate(FORMS)] + [(p, *FORMS[0]) for p in (3, 4, 5)]


@pytest.mark.parametrize(("protocol", "write", "kind", "options"), PROTOCOLS)
def test_official_pickles(tmp_path, protocol, write, kind, options):
    original = kind(**options)
    loaded = load_generator(f"{write(tmp_path / 'network.pkl', original, protocol)}{'@2' if original.c_dim else ''}")
    assert loaded.config == original.config and same_images(original, loaded) < 1e-5
    if not original.c_dim:
        assert torch.allclose(loaded.mean("w"), original.mean("w"))
        assert torch.allclose(loaded.std("w").mean(), original.std("w").mean(), rtol=0.1)


def same_scores(original, loaded):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    label = torch.eye(3)[[0, 1, 2, 0]] if original.c_dim else None
    scores = original(images, label=label)
    assert scores.std() > 1e-3
    return torch.allclose(loaded(images, label=label), scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["pytorch", "tensorflow"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conv_clamp": 0.5, "group_size": 2},
        {"c_dim": 3, "mapping_layers": 2},
        {"c_dim": 3, "mapping_layers": 0, "group_size": 0, "architecture": "orig"},
    ],
)
def test_official_discriminators(tmp_path, form, changes):
    critic, path = tiny.discriminator(**changes), tmp_path / "a.pkl"
    original = tiny.stylegan2(**{key: value for key, value in changes.items() if key == "conv_clamp"})
    if form == "pytorch":
        files.official_pickle(path, original, critic)
    else:
        files.tensorflow_pickle(path, original, critic=critic)
    loaded = load_discriminator(path)
    again = load_discriminator(convert_checkpoint(path, tmp_path / "a.safetensors"))
    assert same_scores(critic, loaded) and same_scores(critic, again) and again.config == loaded.config


def test_rosinalitys_discriminator_and_one_that_judges_the_class_that_was_chosen(tmp_path):
    original = tiny.discriminator()
    extra = {"d": files.rosinality_discriminator(original)}
    path = files.rosinality_pt(tmp_path / "a.pt", tiny.stylegan2(), extra=extra)
    assert same_scores(original, load_discriminator(path))
    del extra["d"]["convs.1.skip.1.weight"]
    path = files.rosinality_pt(tmp_path / "b.pt", tiny.stylegan2(), extra=extra)
    assert load_generator(path)
    with pytest.raises(NoDiscriminator, match="b16.skip.weight is missing"):
        load_discriminator(path)
    original = tiny.discriminator(c_dim=3, mapping_layers=2)
    path = str(files.official_pickle(tmp_path / "a.pkl", tiny.stylegan2(c_dim=3), original))
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = original(images, label=torch.eye(3)[[2, 2, 2]])
    assert torch.equal(load_discriminator(f"{path}@2")(images), expected)
    assert torch.equal(load_discriminator(f"{path}@2")(images), expected)
    with pytest.raises(ValueError, match="knows 3 classes; choose one"):
        load_discriminator(path)(images)


def test_a_checkpoint_without_discriminator_has_a_stand_in_that_says_so(tmp_path, monkeypatch):
    path = files.stylegan1_pt(tmp_path / "a.pt", tiny.stylegan1())
    with pytest.raises(NoDiscriminator, match="holds no discriminator; choose another file"):
        load_discriminator(path)
    with pytest.warns(UserWarning, match="holds no discriminator.*judged by that of stylegan2-cats-64"):
        critic = load_critic(path)
    monkeypatch.setattr("helpers.generators.DEFAULT", str(path))  # which COURSE_MODEL may name
    with pytest.warns(UserWarning, match="judged by that of stylegan2-cats-128"):
        load_critic(path)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(critic(images), load_discriminator("stylegan2-cats-64")(images), atol=1e-4)
    assert critic(images.repeat_interleave(2, 2).repeat_interleave(2, 3), group_size=1).shape == (2,)


@pytest.mark.parametrize("zipped", [True, False])
def test_rosinality(tmp_path, zipped):
    original = tiny.stylegan2(resolution=32)
    loaded = load_generator(files.rosinality_pt(tmp_path / "550000.pt", original, zipped))
    assert same_images(original, loaded) < 1e-5
    assert torch.allclose(loaded.mean("w"), original.mean("w"))


def test_rosinality_with_all_that_training_adds(tmp_path):
    original = tiny.stylegan2()
    other = {"g_optim": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.002, "betas": (0, 0.99)}]}}
    other |= {"args": argparse.Namespace(size=16, path="a"), "ada_aug_p": 0.0}
    path = files.rosinality_pt(tmp_path / "550000.pt", original, extra=other, noise=False)
    loaded = load_generator(path)
    assert same_images(original, loaded, noise=False) < 1e-5
    assert torch.equal(loaded.fixed_noise()[0], load_generator(path).fixed_noise()[0])  # drawn, but with a seed


@pytest.mark.parametrize(("zipped", "resolution"), [(True, 16), (False, 16), (True, 128)])
def test_stylegan_pt(tmp_path, zipped, resolution):
    original = tiny.stylegan1(resolution=resolution, eps=1e-5)
    original.compute_statistics()
    loaded = load_generator(files.stylegan1_pt(tmp_path / "ffhq.for_g_all.pt", original, zipped))
    assert loaded.config == original.config
    assert same_images(original, loaded, noise=False) < 1e-5
    assert torch.allclose(loaded.mean("w"), original.mean("w"), atol=1e-4)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_are_read_as_torch_reads_them(tmp_path, zipped):
    base, path = torch.arange(24.0).reshape(4, 6), tmp_path / "a.pt"
    values = {"a": base[1:, ::2], "b": base.t(), "h": base.half(), "i": torch.tensor([1, 2]), "e": torch.zeros(0, 3)}
    values |= {"bf": base.bfloat16(), "p": base.t().contiguous(), "3": torch.tensor(3.0), "true": torch.tensor(True)}
    torch.save(values | {"n": [values]}, path, _use_new_zipfile_serialization=zipped)
    with open(path, "rb") as file:
        found = load(file)
        for name, theirs in torch.load(path, weights_only=True)["n"][0].items():
            for ours in (found[name].read(), found["n"][0][name].read()):
                assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype


def explicit_stylegan(state, z, noise, resolution):
    """The StyleGAN generator from the raw tensors of the PyTorch conversion, in float64, layer by layer."""
    state = {name.replace("g_synthesis.", ""): value.double() for name, value in state.items()}

    def scaled(name, gain=2**0.5, multiplier=1.0):
        weight = state[f"{name}.weight"]
        return weight * gain * multiplier / math.sqrt(weight[0].numel())

    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(2):
        bias = state[f"g_mapping.dense{i}.bias"] * 0.01
        w = F.leaky_relu(w @ scaled(f"g_mapping.dense{i}", multiplier=0.01).t() + bias, 0.2)

    def epilogue(x, place, noise):
        x = F.leaky_relu(x + state[f"{place}.top_epi.noise.weight"][:, None, None] * noise, 0.2)
        x = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        style = w @ scaled(f"{place}.style_mod.lin", gain=1).t() + state[f"{place}.style_mod.lin.bias"]
        scale, shift = style[:, : x.shape[1], None, None], style[:, x.shape[1] :, None, None]
        return x * (scale + 1) + shift

    noise = iter(noise)
    x = state["blocks.4x4.const"] + state["blocks.4x4.bias"][:, None, None]
    for size in [2**i for i in range(2, int(math.log2(resolution)) + 1)]:
        place = f"blocks.{size}x{size}"
        if size > 4:
            kernel = scaled(f"{place}.conv0_up")
            if size >= 128:  # four shifted copies of the kernel in a transposed convolution
                kernel = F.pad(kernel.permute(1, 0, 2, 3), (1, 1, 1, 1))
                kernel = kernel[..., 1:, 1:] + kernel[..., :-1, 1:] + kernel[..., 1:, :-1] + kernel[..., :-1, :-1]
                x = F.conv_transpose2d(x, kernel, stride=2, padding=1)
            else:
                x = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), kernel, padding=1)
            blur = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64) / 16
            x = F.conv2d(x, blur.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
            x = x + state[f"{place}.conv0_up.bias"][:, None, None]
        x = epilogue(x, f"{place}.epi1", next(noise))
        name = f"{place}.conv1" if size > 4 else f"{place}.conv"
        x = F.conv2d(x, scaled(name), padding=1) + state[f"{name}.bias"][:, None, None]
        x = epilogue(x, f"{place}.epi2", next(noise))
    return F.conv2d(x, scaled("torgb", gain=1)) + state["torgb.bias"][:, None, None]


@pytest.mark.parametrize("resolution", [16, 128])
def test_stylegan_is_its_definition(resolution):
    generator = tiny.stylegan1(resolution=resolution, eps=1e-5)
    state = {n: v if "dense" not in n else v + 0.1 for n, v in files.stylegan1_state(generator).items()}
    for i in range(2):
        layer = getattr(generator.mapping, f"fc{i}")
        layer.weight += 0.1
        layer.bias += 0.1
    z, noise = generator.sample("z", 2, seed=3), generator.fresh_noise(2, seed=4)
    reference = explicit_stylegan(state, z.double(), [m.double() for m in noise], resolution) / 2 + 0.5
    images = generator.synthesize(Latents("z", z, noise))
    assert (images - reference).abs().max() < 1e-4 * reference.abs().max()
    again = generator.double().render(z.double(), "z", [m.double() for m in noise], torch.float64)
    assert (again - reference).abs().max() < 1e-10


def test_stylegan_in_half_precision_and_with_checkpointing():
    generator = tiny.stylegan1()
    w = generator.sample("w", 2).requires_grad_()
    images = generator.synthesize(w)
    gradient = torch.autograd.grad(images.square().sum(), w)[0]
    generator.checkpointing = True
    again = generator.synthesize(w)
    assert torch.equal(again, images)
    assert torch.allclose(torch.autograd.grad(again.square().sum(), w)[0], gradient)
    half = generator.render(w, "w", None, torch.bfloat16)
    assert half.dtype == torch.float32 and (half - images).abs().mean() < 0.05


def test_labels_are_chosen_and_a_file_is_known_by_its_content(tmp_path):
    path = str(files.official_pickle(tmp_path / "cifar10.pkl", tiny.stylegan2(c_dim=3)))
    with pytest.raises(ValueError, match="knows 3 classes; choose one: .*@0 to .*@2"):
        load_generator(path)
    with pytest.raises(ValueError, match="from 0 to 2"):
        load_generator(f"{path}@3")
    zero, one = load_generator(f"{path}@0"), load_generator(f"{path}@1")
    z = zero.sample("z", 2)
    assert not torch.allclose(zero.map(z), one.map(z), rtol=0.1)
    with pytest.raises(ValueError, match="has no classes"):
        load_generator("stylegan2-cats-64@0")
    path = files.rosinality_pt(tmp_path / "weights.pkl", tiny.stylegan2())
    assert read_checkpoint(path).format == "rosinality .pt (StyleGAN2)"
    path = files.official_pickle(tmp_path / "stylegan.ckpt", tiny.stylegan2())  # the course's
    assert read_checkpoint(path).format.startswith("official PyTorch pickle")


def changed(change, *part):
    """A writer of an official pickle in which one module's state is changed."""

    def write(path):
        network = target = files._persistent(tiny.stylegan2(), None, "Generator")
        for name in part:
            target = target.meta["state"]["_modules"][name]
        change(target.meta["state"])
        return files.dump(path, {"G_ema": network})

    return write


def nan(state):
    state["_parameters"]["weight"].data[0, 0, 0, 0] = float("nan")


def tensorflow(**arguments):
    return lambda path: files.tensorflow_pickle(path, tiny.stylegan2(), **arguments)


KINDS = {
    "resnet": (changed(lambda s: s.update(architecture="orig"), "synthesis", "b8"), "not the same in all"),
    "relu": (changed(lambda s: s.update(activation="relu"), "synthesis", "b8", "conv1"), "not the same in all"),
    "missing block": (changed(lambda s: s["_modules"].pop("b8"), "synthesis"), "synthesis.b8.conv0.weight is missing"),
    "no synthesis": (changed(lambda s: s["_modules"].pop("synthesis")), "its generator is a Generator, which"),
    "filter": (changed(lambda s: s["_buffers"].update(resample_filter=torch.ones(4, 4)), "synthesis", "b8"), "filter"),
    "nan": (changed(nan, "synthesis", "b8", "conv0"), "NaN or infinite"),
    "tf relu": (tensorflow(nonlinearity="relu"), "nonlinearity"),
    "tf kernel": (tensorflow(resample_kernel=[1, 2, 1]), "kernel"),
    "list": (lambda path: files.dump(path, [1, 2]), "none of the formats that are read"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_another_kind_are_one_sentence(tmp_path, kind):
    write, message = KINDS[kind]
    path = write(tmp_path / "network.pkl")
    with pytest.raises(WeightsError, match=message) as error:
        load_generator(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("half", [False, True])
def test_a_converted_checkpoint_gives_the_same_images(tmp_path, half):
    original, judge = tiny.stylegan2(conv_clamp=0.5), tiny.discriminator(conv_clamp=0.5)
    source = files.official_pickle(tmp_path / "a.pkl", original, judge)
    path = convert_checkpoint(source, tmp_path / "b.safetensors", half)
    loaded, images = load_generator(path), original.synthesize(original.sample("w", 2))
    assert same_images(original, loaded) < (0.02 if half else 1e-5)
    assert half == (same_images(original, loaded) > 1e-5)
    assert torch.allclose(load_discriminator(path)(images), judge(images), rtol=0.05 if half else 1e-5, atol=1e-3)
    assert path.stat().st_size < source.stat().st_size
    with pytest.raises(WeightsError, match="safetensors already"):
        convert_checkpoint(path, path)


def test_a_converted_stylegan_keeps_its_noise_and_its_labels(tmp_path):
    first = load_generator(files.stylegan1_pt(tmp_path / "a.pt", tiny.stylegan1()))
    with pytest.warns(UserWarning, match="holds no discriminator.*Only the generator is written"):
        again = load_generator(convert_checkpoint(tmp_path / "a.pt", tmp_path / "a.safetensors"))
    assert same_images(first, again) == 0 and torch.equal(first.std("w"), again.std("w"))
    files.official_pickle(tmp_path / "c.pkl", tiny.stylegan2(c_dim=3), tiny.discriminator())
    path = convert_checkpoint(tmp_path / "c.pkl", tmp_path / "c.safetensors")
    assert same_images(load_generator(f"{tmp_path}/c.pkl@2"), load_generator(f"{path}@2")) == 0
