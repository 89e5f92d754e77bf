"""Both generator families, their discriminators, and how they are loaded."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from helpers.generators import StyleGAN2, load_discriminator, load_generator
from helpers.generators.dcgan import DCGANDiscriminator
from helpers.generators.discriminator import Conv2dLayer, Discriminator, minibatch_stddev
from helpers.generators.stylegan2 import fir_kernel, upsample
from helpers.latents import Latents
from helpers.weights import WeightsError, save_weights
from tests.support import tiny

FAMILIES = {"stylegan2": tiny.stylegan2, "dcgan": tiny.dcgan}


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_close(ours, reference, tolerance):
    """Equal shapes, and values within the tolerance of the reference's largest."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


def zeros_between(x):
    """(B, C, H, W) -> (B, C, 2H, 2W): each pixel is followed by a zero."""
    y = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    y[:, :, ::2, ::2] = x
    return y


def low_pass(x, padding, gain=1):
    """Tap by tap with the outer product of [1, 3, 3, 1] / 8."""
    x = F.pad(x, (*padding, *padding))
    height, width = x.shape[2] - 3, x.shape[3] - 3
    row = [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    taps = [(i, j) for i in range(4) for j in range(4)]
    return gain * sum(row[i] * row[j] * x[:, :, i : i + height, j : j + width] for i, j in taps)


def explicit_up_convolution(x, weight):
    """True convolution, kernel flipped, over the pixels with zeros between them; then the filter."""
    spread = F.pad(zeros_between(x)[:, :, :-1, :-1], (2, 2, 2, 2))
    return low_pass(F.conv2d(spread, weight.flip(2, 3)), (1, 1), gain=4)


def explicit_modulated(x, weight, styles, demodulate=True, up=False):
    """One sample at a time: scale the weights, normalise them, convolve."""
    images = []
    for sample, style in zip(x.split(1), styles, strict=True):
        scaled = weight * style[None, :, None, None]
        if demodulate:
            scaled = scaled / (scaled.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        images.append(explicit_up_convolution(sample, scaled) if up else F.conv2d(sample, scaled, padding="same"))
    return torch.cat(images)


def explicit_linear(state, name, x, lr_multiplier=1.0):
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return x @ weight.t() * lr_multiplier / math.sqrt(weight.shape[1]) + bias * lr_multiplier


def explicit_activation(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def explicit_mapping(state, z, layers):
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(layers):
        x = explicit_activation(explicit_linear(state, f"mapping.fc{i}", x, lr_multiplier=0.01))
    return x


def explicit_synthesis(state, ws, noise, resolution):
    """Images in [-1, 1]; row of w by row, noise, bias and activation in the order of the paper's figure 2."""
    x, image, row = state["synthesis.b4.const"].expand(len(ws), -1, -1, -1), None, 0
    noise = iter(noise)
    for size in [2**i for i in range(2, int(math.log2(resolution)) + 1)]:
        for conv in ("conv0", "conv1") if size > 4 else ("conv1",):
            name = f"synthesis.b{size}.{conv}"
            styles = explicit_linear(state, f"{name}.affine", ws[:, row])
            x = explicit_modulated(x, state[f"{name}.weight"], styles, up=conv == "conv0")
            x = x + next(noise) * state[f"{name}.noise_strength"]
            x = explicit_activation(x + state[f"{name}.bias"][:, None, None])
            row += 1
        name = f"synthesis.b{size}.torgb"
        weight = state[f"{name}.weight"]
        styles = explicit_linear(state, f"{name}.affine", ws[:, row]) / math.sqrt(weight.shape[1])
        rgb = explicit_modulated(x, weight, styles, demodulate=False) + state[f"{name}.bias"][:, None, None]
        image = rgb if image is None else low_pass(zeros_between(image), (2, 1), gain=4) + rgb
    assert row + 1 == ws.shape[1]
    return image


def explicit_conv(state, name, x, down=False, activation=True):
    weight = state[f"{name}.weight"]
    k = weight.shape[-1]
    weight = weight / math.sqrt(weight.shape[1] * k * k)
    if down:
        x = F.conv2d(low_pass(x, (k // 2 + 1, k // 2 + 1)), weight)[:, :, ::2, ::2]
    else:
        x = F.conv2d(x, weight, padding="same")
    x = x + state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else x
    return explicit_activation(x) if activation else x


def explicit_discriminator(state, images, resolution):
    x = explicit_conv(state, f"b{resolution}.fromrgb", images * 2 - 1)
    for size in [2**i for i in range(int(math.log2(resolution)), 2, -1)]:
        skip = explicit_conv(state, f"b{size}.skip", x, down=True, activation=False)
        x = explicit_conv(state, f"b{size}.conv1", explicit_conv(state, f"b{size}.conv0", x), down=True)
        x = (x + skip) / math.sqrt(2)
    deviation = (x - x.mean(0)).square().mean(0).add(1e-8).sqrt().mean()  # one group
    x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], 1)
    x = explicit_conv(state, "b4.conv", x).flatten(1)
    return explicit_linear(state, "b4.out", explicit_activation(explicit_linear(state, "b4.fc", x)))[:, 0]


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 1), (5, 3), (7, 8)])
def test_upsampling_is_zero_insertion_and_filter(height, width):
    x = random(2, 3, height, width)
    assert_close(upsample(x, fir_kernel()), low_pass(zeros_between(x), (2, 1), gain=4), 1e-10)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (6, 9)])
@pytest.mark.parametrize(("size", "activation"), [(3, True), (1, False)])
def test_downsampling_is_filter_and_every_other_pixel(height, width, size, activation):
    layer = Conv2dLayer(3, 4, size, bias=activation, activation=activation, down=True).double()
    if activation:
        layer.bias.data = random(4, seed=1)
    x, state = random(2, 3, height, width), {f"layer.{k}": v for k, v in layer.state_dict().items()}
    reference = 0.5 * explicit_conv(state, "layer", x, down=True, activation=activation)
    assert_close(layer(x, gain=0.5), reference, 1e-10)


def test_gradients_of_both_generators_and_the_definition_of_dcgan():
    generator, dcgan = tiny.stylegan2(dtype=torch.float64, w_dim=4, channel_max=4), tiny.dcgan(dtype=torch.float64)
    ws, z = random(2, *generator.code_shape("w+")).requires_grad_(), random(2, 16).requires_grad_()
    noise = [random(2, 1, *shape, seed=i).requires_grad_() for i, shape in enumerate(generator.noise_shapes)]

    def images(ws, *noise):
        return generator.render(ws, "w+", list(noise), torch.float64)

    assert images(ws, *noise).dtype == torch.float64
    assert gradcheck(images, [ws, *noise], fast_mode=True)
    assert gradcheck(lambda z: generator.render(z, "z", None, torch.float64), [z], fast_mode=True)
    assert gradcheck(dcgan.synthesize, [random(1, 8).requires_grad_()], fast_mode=True)
    generator = tiny.dcgan(dtype=torch.float64)
    weights, z = generator.state_dict(), random(3, 8)
    x = F.conv2d(z[:, :, None, None], weights["up_conv1.0.weight"], padding=3)
    for i in range(2, 6):
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
        x = ((x - mean) / (variance + 1e-5).sqrt()).clamp_min(0)
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = F.conv2d(x, weights[f"up_conv{i}.1.weight"], padding=1)
    x = torch.tanh(x + weights["up_conv5.1.bias"][:, None, None])
    assert_close(generator.synthesize(z), x / 2 + 0.5, 1e-10)
    assert generator.noise_shapes == () and generator.fixed_noise() == [] and generator.fresh_noise() == []


def test_stylegan2_and_its_discriminator_are_their_definitions():
    generator = tiny.stylegan2()
    state = {name: value.double() for name, value in generator.state_dict().items()}
    z, noise = random(2, 16), generator.fresh_noise(2, seed=1)
    assert_close(generator.map(z.float()).double(), explicit_mapping(state, z, layers=2), 1e-5)
    ws = random(2, *generator.code_shape("w+"), seed=2)  # a different w in every row
    images, noise64 = generator.synthesize(Latents("w+", ws.float(), noise)), [m.double() for m in noise]
    reference = explicit_synthesis(state, ws, noise64, 16) / 2 + 0.5
    assert_close(images.double(), reference, 1e-5)
    for trainable in (False, True):
        images = generator.double().requires_grad_(trainable).render(ws, "w+", noise64, torch.float64)
        assert_close(images, reference, 1e-10)
    discriminator = tiny.discriminator(channel_base=128, channel_max=12)
    images = random(3, 3, 16, 16, dtype=torch.float32)[:2] * 0.2 + 0.5
    state = {name: value.double() for name, value in discriminator.state_dict().items()}
    reference = explicit_discriminator(state, images.double(), 16)
    assert_close(discriminator(images).double(), reference, 1e-4)
    assert_close(discriminator.double()(images.double(), torch.float64), reference, 1e-10)


@pytest.mark.parametrize(
    ("channel_base", "widths"),
    [
        (32768, [512] * 3),
        (16384, [512, 512, 512, 512, 256, 128, 64]),
        (32768, [512, 512, 512, 512, 512, 256, 128, 64, 32]),
    ],
)
def test_sizes_of_the_official_models(channel_base, widths):
    resolution, sizes = 2 ** (len(widths) + 1), [2 ** (i + 2) for i in range(len(widths))]
    with torch.device("meta"):  # shapes without memory
        network = StyleGAN2(resolution=resolution, channel_base=channel_base)
        discriminator = Discriminator(resolution, channel_base=channel_base).state_dict()
    generator = network.state_dict()
    for previous, width, size in zip([512, *widths], widths, sizes, strict=False):
        assert generator[f"synthesis.b{size}.conv1.weight"].shape == (width, width, 3, 3)
        assert generator[f"synthesis.b{size}.torgb.affine.weight"].shape == (width, 512)
        if size > 4:
            assert generator[f"synthesis.b{size}.conv0.weight"].shape == (width, previous, 3, 3)
            assert discriminator[f"b{size}.conv1.weight"].shape == (previous, width, 3, 3)
    assert generator["mapping.fc7.weight"].shape == (512, 512)
    assert discriminator["b4.fc.weight"].shape == (512, 512 * 16)
    assert network.num_ws == 2 * len(sizes) and network.code_shape("w+") == (network.num_ws, 512)
    assert list(network.noise_shapes) == [(size, size) for size in sorted([*sizes, *sizes[1:]])]
    assert len(network.noise_strengths) == len(network.noise_shapes)


OFFICIAL = {  # names and shapes of the official PyTorch release at 16 pixels with 16 channels
    r"mapping\.(fc[01]\.(weight|bias)|w_avg)|synthesis\.b4\.const",
    r"synthesis\.b(4|8|16)\.(resample_filter|torgb\.(weight|bias)|torgb\.affine\.(weight|bias))",
    r"synthesis\.b(4\.conv1|(8|16)\.conv[01])\.(weight|bias|noise_strength|noise_const|resample_filter)",
    r"synthesis\.b(4\.conv1|(8|16)\.conv[01])\.affine\.(weight|bias)",
}
OFFICIAL_CRITIC = {  # it also stores, and never reads, a resample_filter of other layers
    r"b16\.fromrgb\.(weight|bias)|b(8|16)\.conv[01]\.(weight|bias)|b(8|16)\.skip\.weight",
    r"b(8|16)\.(conv1|skip)\.resample_filter|b4\.(conv|fc|out)\.(weight|bias)",
}


@pytest.mark.parametrize(("official", "count"), [(OFFICIAL, 56), (OFFICIAL_CRITIC, 22)])
def test_names_of_the_official_release(official, count):
    found = (tiny.stylegan2() if official is OFFICIAL else tiny.discriminator()).state_dict()
    assert len(found) == count
    assert [name for name in found if not any(re.fullmatch(pattern, name) for pattern in official)] == []


def test_checkpointing_keeps_less_with_the_same_gradient_and_bfloat16_gives_nearly_the_same_image():
    generator = tiny.stylegan2(resolution=32)
    code, noise = generator.sample("w+", 2, seed=3), generator.fresh_noise(2, seed=4)
    gradients, kept = [], []
    for checkpointing in (False, True):
        generator.checkpointing = checkpointing
        inputs, sizes = [code.clone().requires_grad_(), *(m.clone().requires_grad_() for m in noise)], []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            image = generator.synthesize(Latents("w+", inputs[0]), inputs[1:])
        gradients.append(torch.autograd.grad(image.square().sum(), inputs))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3
    for plain, again in zip(*gradients, strict=True):
        assert_close(again, plain, 1e-5)
    generator = tiny.stylegan2()
    code = generator.sample("w+", 2, seed=3)
    plain, dtypes = generator.synthesize(code), set()
    generator.synthesis.b16.conv1.register_forward_hook(lambda _, __, output: dtypes.add(output.dtype))
    generator.dtype = torch.bfloat16
    image = generator.synthesize(code)
    assert dtypes == {torch.bfloat16} and image.dtype == torch.float32
    assert 0 < (image - plain).abs().max() < 0.05


@pytest.mark.parametrize(("family", "space"), [*(("stylegan2", s) for s in ("z", "w", "w+")), ("dcgan", "z")])
def test_a_batch_gives_what_its_samples_give(family, space):
    generator = FAMILIES[family]()
    code = random(5, *generator.code_shape(space), dtype=torch.float32)
    latents = Latents(space, code, generator.fresh_noise(5, seed=2) or None)
    together = generator.synthesize(latents)
    assert together.shape == (5, 3, generator.resolution, generator.resolution)
    assert (together - torch.cat([generator.synthesize(one) for one in latents])).abs().max() < 1e-5


def test_minibatch_stddev_sees_groups_of_four_of_which_scores_depend():
    x = random(8, 3, 4, 4)
    y = minibatch_stddev(x)
    assert torch.equal(y[:, :3], x)
    for first in (0, 1):  # samples 0, 2, 4, 6 are one group and 1, 3, 5, 7 the other, as in the official release
        group = x[first::2]
        expected = ((group - group.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        assert torch.allclose(y[first::2, 3], expected)
    # The StyleGAN2 discriminator looks at groups of samples, so that only whole groups can be compared.
    discriminator, images = tiny.discriminator(), random(8, 3, 16, 16, dtype=torch.float32)
    scores = discriminator(images)
    assert scores.shape == (8,)
    assert_close(scores[::2], discriminator(images[::2]), 1e-4)
    assert not torch.allclose(scores[:1], discriminator(images[:1]), rtol=1e-3)
    vanilla, images = DCGANDiscriminator(conv_dim=4).requires_grad_(False), random(3, 3, 64, 64, dtype=torch.float32)
    assert_close(vanilla(images), torch.cat([vanilla(image[None]) for image in images]), 1e-4)


@pytest.mark.parametrize(("batch", "size", "groups"), [(3, 4, 1), (5, 8, 1), (6, 8, 1), (6, 4, 2), (6, 0, 1)])
def test_a_small_batch_is_one_group(batch, size, groups):
    """min(size, batch) samples as in the official release; where that does not divide the batch, fewer."""
    assert minibatch_stddev(random(batch, 3, 4, 4), size)[:, 3].unique().numel() == groups
    assert gradcheck(lambda x: minibatch_stddev(x, size), [random(batch, 2, 2, 2).requires_grad_()])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [False, True])
def test_the_same_code_is_always_the_same_image(family, training):
    """An inversion whose generator draws new noise in each call would minimise a random objective."""
    generator, before = FAMILIES[family]().train(training), torch.get_rng_state()
    code = generator.sample(generator.spaces[-1], 2)
    assert torch.equal(generator.synthesize(code), generator.synthesize(code))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_the_generators_own_unless_given_and_follows_its_seed():
    generator = tiny.stylegan2()
    w = generator.sample("w", 2)
    images, fixed = generator.synthesize(w), generator.fixed_noise(2)
    assert torch.equal(generator.synthesize(w, noise=fixed), images)
    assert torch.equal(generator.synthesize(Latents("w", w, fixed)), images)
    for i in range(len(fixed)):  # every map counts
        other = [m + (number == i) for number, m in enumerate(fixed)]
        assert not torch.equal(generator.synthesize(w, noise=other), images)
    fixed[0].zero_()
    assert torch.equal(generator.synthesize(w), images)  # fixed_noise gives copies
    first, again, other = (generator.fresh_noise(3, seed=seed) for seed in (0, 0, 1))
    assert [tuple(m.shape) for m in first] == [(3, 1, *shape) for shape in generator.noise_shapes]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0][0], first[0][1])
    w = generator.sample("w", 3)
    images = generator.synthesize(w, noise=other)
    assert not torch.equal(generator.synthesize(w, noise=first), images)
    assert torch.equal(generator.synthesize(Latents("w", w, first), noise=other), images)  # an argument wins


@pytest.mark.parametrize(
    "change",
    [
        lambda maps: maps[:-1],
        lambda maps: [],
        lambda maps: [m[:2] for m in maps],
        lambda maps: [m.mean((2, 3), keepdim=True) for m in maps],  # would be spread silently
    ],
)
def test_noise_that_does_not_fit_is_one_sentence(change):
    generator, dcgan = tiny.stylegan2(), tiny.dcgan()
    with pytest.raises(ValueError, match="takes 5 noise maps of sizes .* take them from fixed_noise") as error:
        generator.synthesize(generator.sample("w", 3), noise=change(generator.fresh_noise(3)))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="takes 0 noise maps"):
        dcgan.synthesize(dcgan.sample("z"), noise=generator.fresh_noise())


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_samples_follow_their_seed(space):
    generator, before = tiny.stylegan2(), torch.get_rng_state()
    first = generator.sample(space, 4, seed=3)
    assert first.shape == (4, *generator.code_shape(space))
    assert torch.equal(first, generator.sample(space, 4, seed=3))
    assert not torch.allclose(first, generator.sample(space, 4, seed=4))
    assert torch.equal(first, generator.convert(generator.sample("z", 4, seed=3), "z", space))
    mean, std = generator.mean(space), generator.std(space)
    assert mean.shape == std.shape == (1, *generator.code_shape(space))
    assert space != "z" or (not mean.any() and (std == 1).all())
    assert space != "w+" or torch.equal(mean, generator.mean("w")[:, None].expand(-1, generator.num_ws, -1))
    generator.synthesize(Latents(space, first), noise=generator.fresh_noise(4))
    generator.compute_statistics(100)
    assert torch.equal(torch.get_rng_state(), before)


def test_mean_and_deviation_of_w_and_truncation():
    generator = tiny.stylegan2()
    generator.compute_statistics()  # over 10,000 z
    w, mean = torch.cat([generator.sample("w", 4_000, seed=100 + i) for i in range(5)]), generator.mean("w")
    error = w.std(0) * math.sqrt(1 / 10_000 + 1 / 20_000)
    assert ((mean[0] - w.mean(0)).abs() < 5 * error).all()
    assert mean[0].norm() > 10 * error.norm()  # not merely small
    assert torch.allclose(generator.std("w")[0], w.std(0), rtol=0.05)
    z = generator.sample("z", 3)
    w = generator.map(z)
    assert torch.allclose(generator.map(z, truncation=0), mean.expand(3, -1))
    assert torch.allclose(generator.map(z, truncation=0.5), (w + mean) / 2, atol=1e-6)
    assert torch.equal(generator.map(z, truncation=1), w)


def test_a_code_goes_to_known_wider_spaces_only_and_a_bare_one_is_known_by_its_shape():
    generator, dcgan = tiny.stylegan2(), tiny.dcgan()
    w = generator.sample("w", 2)
    assert torch.equal(generator.convert(w, "w", "w+"), torch.stack([w] * generator.num_ws, 1))
    assert generator.convert(w, "w", "w") is w
    for source, target in (("w", "z"), ("w+", "w"), ("w+", "z")):
        with pytest.raises(ValueError, match=f"not from {source.replace('+', '.')} back to {target}"):
            generator.convert(w, source, target)
    with pytest.raises(ValueError, match="space 'w\\+' does not exist in this dcgan generator; choose one of z."):
        dcgan.sample("w+")
    for call in ("sample", "mean", "std", "code_shape"):
        with pytest.raises(ValueError, match="'s' does not exist in this stylegan2 generator; .* z, w, w\\+."):
            getattr(generator, call)("s")
    with pytest.raises(ValueError, match="only space is z"):
        dcgan.map(torch.zeros(1, 8))
    for space in ("w", "w+"):
        code = random(2, *generator.code_shape(space), dtype=torch.float32)
        assert torch.equal(generator.synthesize(code), generator.synthesize(Latents(space, code)))
    z = generator.sample("z", 2)
    assert torch.equal(generator.synthesize(Latents("z", z)), generator.synthesize(generator.map(z)))
    z = dcgan.sample("z", 2)
    assert torch.equal(dcgan.synthesize(z), dcgan.synthesize(Latents("z", z)))
    for shape in ((2, 15), (2, 5, 16), (16,), (2, 1, 6, 16)):
        with pytest.raises(ValueError, match="have the shape \\(B, (16|6, 16)\\), got"):
            generator.synthesize(torch.zeros(shape))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"garbage " * 100), "is damaged"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: None, "check the path"),
        (lambda path: torch.save(without("up_conv3.1.weight"), path), "up_conv3.1.weight is missing"),
        (lambda path: torch.save(without("", torch.zeros(32, 8, 2, 2)), path), "instead of .32, 8, 4, 4"),
        (lambda path: torch.save(without("", 1), path), "none of the formats that are read"),
    ],
)
def test_another_file_is_one_sentence(tmp_path, write, message):
    write(tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=message) as error:
        load_generator(tmp_path / "weights.pt")
    assert str(tmp_path / "weights.pt") in str(error.value) and "\n" not in str(error.value)


def without(name, first=None):
    """A DCGAN's weights without one of them, or with another first one."""
    state = {key: value for key, value in tiny.dcgan().state_dict().items() if key != name}
    return state | ({} if first is None else {"up_conv1.0.weight": first})


def exported(path, family, /, statistics=True, **changes):
    """A pair of tiny networks, saved as training saves them; what they are with weights rounded to float16."""
    generator = FAMILIES[family]()
    discriminator = tiny.discriminator() if family == "stylegan2" else DCGANDiscriminator(4)
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    tensors |= {f"discriminator.{k}": v for k, v in discriminator.state_dict().items()}
    if family == "stylegan2" and statistics:
        tensors["statistics.w_std"] = generator.w_std
    config = {"family": family, "generator": generator.config, "discriminator": discriminator.config}
    save_weights(path, tensors, config | changes)
    return generator.half().float(), discriminator.half().float().requires_grad_(False)


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_weights_give_the_same_images(tmp_path, family):
    path = tmp_path / "cats.safetensors"
    rounded, discriminator = exported(path, family)
    loaded, original = load_generator(path), FAMILIES[family]()
    assert loaded.name == "cats" and loaded.family == family and not loaded.training
    code = original.sample(original.spaces[-1], 3)
    images = loaded.synthesize(code)
    assert torch.equal(images, rounded.synthesize(code))
    assert (images - original.synthesize(code)).abs().max() < 0.01  # float16 has 11 bits
    judge = load_discriminator(path)
    assert torch.equal(judge(images), discriminator(images))
    assert not any(p.requires_grad for network in (loaded, judge) for p in network.parameters())
    if family == "stylegan2":
        assert torch.equal(loaded.mean("w"), rounded.mean("w"))
        assert torch.allclose(loaded.std("w"), original.std("w"), rtol=1e-3)
        exported(path, family, statistics=False)  # they are computed
        again, third = load_generator(path), load_generator(path)
        third.compute_statistics()
        assert torch.equal(again.mean("w"), third.mean("w")) and torch.equal(again.std("w"), third.std("w"))
        assert not torch.equal(again.std("w"), torch.ones_like(again.std("w")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "stylegan4"}, "no generator of a known family \\(stylegan2, stylegan1, dcgan\\)"),
        ({"generator": {**tiny.STYLEGAN2, "w_dim": 8}}, "does not fit the generator that its config describes"),
        ({"generator": {"width": 8}}, "does not fit the generator that its config describes"),
        *(({"generator": {"resolution": r}}, f"does not fit .* 16 to 1024, got {r}") for r in (0, 8, 24, 64.0, 2048)),
        *(
            ({"generator": tiny.STYLEGAN2 | {name: value}}, "must be a whole number from 0 to")
            for name, value in (("mapping_layers", 10**9), ("z_dim", -1), ("channel_max", 1e300), ("w_dim", "1"))
        ),
        ({"family": "dcgan", "generator": {"norm": "group"}}, "does not fit the generator"),
        ({"discriminator": None}, "holds no discriminator"),
    ],
)
def test_a_config_that_does_not_fit_is_one_sentence(tmp_path, changes, message):
    exported(tmp_path / "cats.safetensors", "stylegan2", **changes)
    with pytest.raises(WeightsError, match=message) as error:
        (load_discriminator if "discriminator" in changes else load_generator)(tmp_path / "cats.safetensors")
    assert "\n" not in str(error.value)
