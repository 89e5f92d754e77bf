"""Both generator families, their discriminators, and how they are loaded."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from helpers.generators import GeneratorError, StyleGAN2, load_discriminator, load_generator
from helpers.generators.dcgan import DCGANDiscriminator
from helpers.generators.discriminator import Conv2dLayer, Discriminator, minibatch_stddev
from helpers.generators.stylegan2 import fir_kernel, modulated_convolution, upsample, upsampling_convolution
from helpers.latents import Latents
from helpers.weights import WeightsError, save_weights
from tests.support import tiny

FAMILIES = {"stylegan2": tiny.stylegan2, "dcgan": tiny.dcgan}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_close(ours, reference, tolerance):
    """Equal shapes, and values within the tolerance of the reference's largest."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


# --- the definitions, written out ------------------------------------------------------------------------------------


def zeros_between(x):
    """(B, C, H, W) -> (B, C, 2H, 2W): each pixel is followed by a zero."""
    y = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    y[:, :, ::2, ::2] = x
    return y


def low_pass(x, padding, gain=1):
    """Tap by tap with the outer product of [1, 3, 3, 1] / 8."""
    left, right = padding
    x = F.pad(x, (left, right, left, right))
    height, width = x.shape[2] - 3, x.shape[3] - 3
    row = [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    taps = [(i, j) for i in range(4) for j in range(4)]
    return gain * sum(row[i] * row[j] * x[:, :, i : i + height, j : j + width] for i, j in taps)


def explicit_upsample(x):
    return low_pass(zeros_between(x), (2, 1), gain=4)


def explicit_up_convolution(x, weight):
    """True convolution, kernel flipped, over the pixels with zeros between them; then the filter."""
    spread = F.pad(zeros_between(x)[:, :, :-1, :-1], (2, 2, 2, 2))
    return low_pass(F.conv2d(spread, weight.flip(2, 3)), (1, 1), gain=4)


def explicit_modulated(x, weight, styles, demodulate=True, up=False):
    """One sample at a time: scale the weights, normalise them, convolve."""
    images = []
    for sample, style in zip(x, styles, strict=True):
        scaled = weight * style[None, :, None, None]
        if demodulate:
            scaled = scaled / (scaled.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        sample = sample[None]
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
        image = rgb if image is None else explicit_upsample(image) + rgb
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


# --- convolutions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize(("size", "up"), [(3, False), (3, True), (1, False)])
def test_modulated_convolution_is_its_definition(dtype, demodulate, size, up):
    x, weight = random(3, 4, 5, 8, dtype=dtype), random(6, 4, size, size, seed=1, dtype=dtype)
    styles = 1 + random(3, 4, seed=2, dtype=dtype)
    kernel = fir_kernel() if up else None
    y = modulated_convolution(x, weight, styles, demodulate=demodulate, up_kernel=kernel, gain=1.5)
    reference = 1.5 * explicit_modulated(x.double(), weight.double(), styles.double(), demodulate, up)
    assert y.dtype == dtype
    assert_close(y.double(), reference, TOLERANCE[dtype])


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 1), (5, 3), (7, 8)])
def test_upsampling_is_zero_insertion_and_filter(height, width):
    x, weight = random(2, 3, height, width), random(4, 3, 3, 3, seed=1)
    assert_close(upsample(x, fir_kernel()), explicit_upsample(x), 1e-10)
    assert_close(upsampling_convolution(x, weight, fir_kernel()), explicit_up_convolution(x, weight), 1e-10)
    x, weight = x.float(), weight.float()
    assert_close(upsampling_convolution(x, weight, fir_kernel()), explicit_up_convolution(x, weight), 1e-5)


def test_upsampling_keeps_a_plain_colour():
    inside = upsample(torch.full((1, 1, 6, 6), 0.7), fir_kernel())[:, :, 2:-2, 2:-2]
    assert torch.allclose(inside, torch.tensor(0.7))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (6, 9)])
@pytest.mark.parametrize(("size", "activation"), [(3, True), (1, False)])
def test_downsampling_is_filter_and_every_other_pixel(height, width, size, activation):
    layer = Conv2dLayer(3, 4, size, bias=activation, activation=activation, down=True).double()
    if activation:
        layer.bias.data = random(4, seed=1)
    x, state = random(2, 3, height, width), {f"layer.{k}": v for k, v in layer.state_dict().items()}
    reference = 0.5 * explicit_conv(state, "layer", x, down=True, activation=activation)
    assert_close(layer(x, gain=0.5), reference, 1e-10)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_gradient_of_modulated_convolution(up, demodulate):
    inputs = [random(2, 2, 3, 4), random(2, 2, 3, 3, seed=1), 1 + random(2, 2, seed=2)]
    options = {"demodulate": demodulate, "up_kernel": fir_kernel() if up else None, "gain": 1.5}
    assert gradcheck(lambda *t: modulated_convolution(*t, **options), [t.requires_grad_() for t in inputs])


def test_gradient_of_upsampling():
    x, weight = random(1, 2, 3, 2).requires_grad_(), random(2, 2, 3, 3, seed=1).requires_grad_()
    assert gradcheck(lambda t: upsample(t, fir_kernel()), [x])
    assert gradcheck(lambda *t: upsampling_convolution(*t, fir_kernel()), [x, weight])


@pytest.mark.parametrize("batch", [3, 4, 8])
def test_gradient_of_minibatch_stddev(batch):
    assert gradcheck(minibatch_stddev, [random(batch, 2, 2, 2).requires_grad_()])


def test_gradient_of_synthesis_by_w_and_noise():
    generator = tiny.stylegan2(dtype=torch.float64, w_dim=4, channel_base=64, channel_max=4)
    ws = random(2, *generator.code_shape("w+")).requires_grad_()
    noise = [random(2, 1, *shape, seed=i).requires_grad_() for i, shape in enumerate(generator.noise_shapes)]

    def images(ws, *noise):
        return generator.render(ws, "w+", list(noise), torch.float64)

    assert images(ws, *noise).dtype == torch.float64
    assert gradcheck(images, [ws, *noise], fast_mode=True)


def test_gradient_of_both_generators_by_z():
    stylegan2, dcgan = tiny.stylegan2(dtype=torch.float64), tiny.dcgan(dtype=torch.float64)
    z = random(2, 16).requires_grad_()
    assert gradcheck(lambda z: stylegan2.render(z, "z", None, torch.float64), [z], fast_mode=True)
    assert gradcheck(dcgan.synthesize, [random(1, 8).requires_grad_()], fast_mode=True)


# --- StyleGAN2 -------------------------------------------------------------------------------------------------------


def test_stylegan2_is_its_definition():
    generator = tiny.stylegan2()
    state = {name: value.double() for name, value in generator.state_dict().items()}
    z, noise = random(2, 16), generator.fresh_noise(2, seed=1)
    w = explicit_mapping(state, z, layers=2)
    assert_close(generator.map(z.float()).double(), w, 1e-5)
    ws = random(2, *generator.code_shape("w+"), seed=2)  # a different w in every row
    images = generator.synthesize(Latents("w+", ws.float(), noise))
    reference = explicit_synthesis(state, ws, [m.double() for m in noise], 16)
    assert_close(images.double(), reference / 2 + 0.5, 1e-5)


def test_discriminator_is_its_definition():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = Discriminator(16, channel_base=128, channel_max=12).requires_grad_(False)
    for name, parameter in discriminator.named_parameters():
        parameter.data += 0.1 if name.endswith("bias") else 0
    images = random(3, 3, 16, 16, dtype=torch.float32)[:2] * 0.2 + 0.5
    state = {name: value.double() for name, value in discriminator.state_dict().items()}
    reference = explicit_discriminator(state, images.double(), 16)
    assert_close(discriminator(images).double(), reference, 1e-4)
    assert_close(discriminator.double()(images.double(), torch.float64), reference, 1e-10)


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256, 512, 1024])
def test_number_of_styles_and_sizes_of_noise(resolution):
    with torch.device("meta"):  # shapes without memory
        generator = StyleGAN2(resolution=resolution)
    assert generator.num_ws == 2 * math.log2(resolution) - 2
    assert generator.code_shape("w+") == (generator.num_ws, 512)
    sizes = [4] + [size for i in range(3, int(math.log2(resolution)) + 1) for size in (2**i, 2**i)]
    assert list(generator.noise_shapes) == [(size, size) for size in sizes]
    assert len(generator.noise_strengths) == len(sizes)


@pytest.mark.parametrize("resolution", [0, 8, 24, 2048])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(GeneratorError, match=f"16 to 1024, got {resolution}"):
        StyleGAN2(resolution=resolution)


@pytest.mark.parametrize(
    ("resolution", "channel_base", "widths"),
    [
        (256, 16384, [512, 512, 512, 512, 256, 128, 64]),
        (256, 32768, [512, 512, 512, 512, 512, 256, 128]),
        (512, 32768, [512, 512, 512, 512, 512, 256, 128, 64]),
        (1024, 32768, [512, 512, 512, 512, 512, 256, 128, 64, 32]),
    ],
)
def test_widths_of_the_official_models(resolution, channel_base, widths):
    with torch.device("meta"):
        generator = StyleGAN2(resolution=resolution, channel_base=channel_base)
        discriminator = Discriminator(resolution, channel_base=channel_base)
    generator, discriminator = generator.state_dict(), discriminator.state_dict()
    sizes = [2 ** (i + 2) for i in range(len(widths))]
    for previous, size, width in zip([512, *widths], sizes, widths, strict=False):
        assert generator[f"synthesis.b{size}.conv1.weight"].shape == (width, width, 3, 3)
        assert generator[f"synthesis.b{size}.torgb.affine.weight"].shape == (width, 512)
        if size > 4:
            assert generator[f"synthesis.b{size}.conv0.weight"].shape == (width, previous, 3, 3)
            assert discriminator[f"b{size}.conv1.weight"].shape == (previous, width, 3, 3)
    assert generator["mapping.fc7.weight"].shape == (512, 512)
    assert discriminator["b4.fc.weight"].shape == (512, 512 * 16)


def official_names(generator):
    """Names and shapes of the official PyTorch release at 16 pixels with 16 channels."""
    if not generator:  # it also stores, and never reads, a resample_filter of other layers
        found = {"b16.fromrgb.weight": (16, 3, 1, 1), "b16.fromrgb.bias": (16,), "b4.conv.weight": (16, 17, 3, 3)}
        found |= {"b4.conv.bias": (16,), "b4.fc.weight": (16, 256), "b4.fc.bias": (16,), "b4.out.weight": (1, 16)}
        for block in ("b8", "b16"):
            found |= {f"{block}.conv{i}.weight": (16, 16, 3, 3) for i in (0, 1)} | {
                f"{block}.skip.weight": (16, 16, 1, 1)
            }
            found |= {f"{block}.conv{i}.bias": (16,) for i in (0, 1)}
            found |= {f"{block}.{layer}.resample_filter": (4, 4) for layer in ("conv1", "skip")}
        return found | {"b4.out.bias": (1,)}
    found = {"mapping.w_avg": (16,), "synthesis.b4.const": (16, 4, 4)}
    for i in (0, 1):
        found |= {f"mapping.fc{i}.weight": (16, 16), f"mapping.fc{i}.bias": (16,)}
    for r, convs in ((4, ["conv1"]), (8, ["conv0", "conv1"]), (16, ["conv0", "conv1"])):
        block = f"synthesis.b{r}"
        found |= {
            f"{block}.resample_filter": (4, 4),
            f"{block}.torgb.weight": (3, 16, 1, 1),
            f"{block}.torgb.bias": (3,),
        }
        for conv in convs:
            layer = f"{block}.{conv}"
            found |= {f"{layer}.weight": (16, 16, 3, 3), f"{layer}.bias": (16,), f"{layer}.noise_strength": ()}
            found |= {f"{layer}.noise_const": (r, r), f"{layer}.resample_filter": (4, 4)}
        for layer in (*convs, "torgb"):
            found |= {f"{block}.{layer}.affine.weight": (16, 16), f"{block}.{layer}.affine.bias": (16,)}
    return found


def test_names_and_shapes_of_the_official_release():
    shapes = {name: tuple(value.shape) for name, value in tiny.stylegan2().state_dict().items()}
    assert shapes == official_names(generator=True)
    discriminator = Discriminator(16, channel_base=256, channel_max=16)
    shapes = {name: tuple(value.shape) for name, value in discriminator.state_dict().items()}
    assert shapes == official_names(generator=False)


def test_checkpointing_keeps_less_and_gives_the_same_gradient():
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


def test_activations_in_bfloat16_give_nearly_the_same_float32_image():
    generator = tiny.stylegan2()
    code = generator.sample("w+", 2, seed=3)
    plain, dtypes = generator.synthesize(code), set()
    handle = generator.synthesis.b16.conv1.register_forward_hook(lambda _, __, output: dtypes.add(output.dtype))
    generator.dtype = torch.bfloat16
    image = generator.synthesize(code)
    handle.remove()
    assert dtypes == {torch.bfloat16} and image.dtype == torch.float32
    assert 0 < (image - plain).abs().max() < 0.05


# --- batches ---------------------------------------------------------------------------------------------------------


SPACES = [("stylegan2", "z"), ("stylegan2", "w"), ("stylegan2", "w+"), ("dcgan", "z")]


@pytest.mark.parametrize(("family", "space"), SPACES)
def test_a_batch_gives_what_its_samples_give(family, space):
    generator = FAMILIES[family]()
    code = random(5, *generator.code_shape(space), dtype=torch.float32)
    latents = Latents(space, code, generator.fresh_noise(5, seed=2) or None)
    together = generator.synthesize(latents)
    alone = torch.cat([generator.synthesize(one) for one in latents])
    assert together.shape == (5, 3, generator.resolution, generator.resolution)
    assert (together - alone).abs().max() < 1e-5


def test_minibatch_stddev_sees_groups_of_four():
    x = random(8, 3, 4, 4)
    y = minibatch_stddev(x)
    assert torch.equal(y[:, :3], x)
    for first in (0, 1):  # samples 0, 2, 4, 6 are one group and 1, 3, 5, 7 the other, as in the official release
        group = x[first::2]
        expected = ((group - group.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        assert torch.allclose(y[first::2, 3], expected)


@pytest.mark.parametrize(("batch", "size", "groups"), [(3, 4, 1), (5, 8, 1), (6, 8, 1), (6, 4, 2), (6, 0, 1)])
def test_a_small_batch_is_one_group(batch, size, groups):
    """min(size, batch) samples as in the official release; where that does not divide the batch, fewer."""
    assert minibatch_stddev(random(batch, 3, 4, 4), size)[:, 3].unique().numel() == groups


def test_scores_of_a_batch():
    """The StyleGAN2 discriminator looks at groups of samples, so that only whole groups can be compared."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = Discriminator(16, channel_base=256, channel_max=16).requires_grad_(False)
        vanilla = DCGANDiscriminator(conv_dim=4).requires_grad_(False)
    images = random(8, 3, 16, 16, dtype=torch.float32)
    scores = discriminator(images)
    assert scores.shape == (8,)
    assert_close(scores[::2], discriminator(images[::2]), 1e-4)
    assert not torch.allclose(scores[:1], discriminator(images[:1]), rtol=1e-3)
    images = random(3, 3, 64, 64, dtype=torch.float32)
    assert_close(vanilla(images), torch.cat([vanilla(image[None]) for image in images]), 1e-4)


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [False, True])
def test_the_same_code_is_always_the_same_image(family, training):
    """An inversion whose generator draws new noise in each call would minimise a random objective."""
    generator = FAMILIES[family]().train(training)
    code = generator.sample(generator.spaces[-1], 2)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = generator.synthesize(code)
        torch.manual_seed(2)
        assert torch.equal(generator.synthesize(code), first)


def test_noise_is_the_generators_own_unless_given():
    generator = tiny.stylegan2()
    w = generator.sample("w", 2)
    images, fixed = generator.synthesize(w), generator.fixed_noise(2)
    assert torch.equal(generator.synthesize(w, noise=fixed), images)
    assert torch.equal(generator.synthesize(Latents("w", w, fixed)), images)
    for i in range(len(fixed)):  # every map counts
        other = [m.clone() for m in fixed]
        other[i] += 1
        assert not torch.equal(generator.synthesize(w, noise=other), images)
    fixed[0].zero_()
    assert torch.equal(generator.synthesize(w), images)  # fixed_noise gives copies


def test_fresh_noise_follows_its_seed():
    generator = tiny.stylegan2()
    first, again, other = (generator.fresh_noise(3, seed=seed) for seed in (0, 0, 1))
    assert [tuple(m.shape) for m in first] == [(3, 1, *shape) for shape in generator.noise_shapes]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0][0], first[0][1])
    w = generator.sample("w", 3)
    assert not torch.equal(generator.synthesize(w, noise=first), generator.synthesize(w, noise=other))


def test_an_argument_wins_over_the_noise_of_the_latents():
    generator = tiny.stylegan2()
    w, first, other = generator.sample("w"), generator.fresh_noise(seed=0), generator.fresh_noise(seed=1)
    images = generator.synthesize(Latents("w", w, first), noise=other)
    assert torch.equal(images, generator.synthesize(w, noise=other))


@pytest.mark.parametrize("change", [lambda maps: maps[:-1], lambda maps: [], lambda maps: [m[:2] for m in maps]])
def test_noise_that_does_not_fit_is_one_sentence(change):
    generator = tiny.stylegan2()
    with pytest.raises(GeneratorError, match="takes 5 noise maps of sizes .* take them from fixed_noise") as error:
        generator.synthesize(generator.sample("w", 3), noise=change(generator.fresh_noise(3)))
    assert "\n" not in str(error.value)


def test_noise_of_another_size_would_be_spread_silently():
    generator = tiny.stylegan2()
    noise = [m.mean((2, 3), keepdim=True) for m in generator.fixed_noise()]
    with pytest.raises(GeneratorError, match="noise maps of sizes"):
        generator.synthesize(generator.sample("w"), noise=noise)
    with pytest.raises(GeneratorError, match="takes 0 noise maps"):
        dcgan = tiny.dcgan()
        dcgan.synthesize(dcgan.sample("z"), noise=noise)


# --- spaces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_samples_follow_their_seed(space):
    generator = tiny.stylegan2()
    first = generator.sample(space, 4, seed=3)
    assert first.shape == (4, *generator.code_shape(space))
    assert torch.equal(first, generator.sample(space, 4, seed=3))
    assert not torch.allclose(first, generator.sample(space, 4, seed=4))
    assert torch.equal(first, generator.convert(generator.sample("z", 4, seed=3), "z", space))


def test_nothing_draws_from_the_global_random_state():
    generator = tiny.stylegan2()
    before = torch.get_rng_state()
    generator.synthesize(generator.sample("w+", 2), noise=generator.fresh_noise(2))
    generator.compute_statistics(100)
    assert torch.equal(torch.get_rng_state(), before)


def test_mean_and_deviation_of_w():
    generator = tiny.stylegan2()
    generator.compute_statistics()  # over 10,000 z
    w = torch.cat([generator.sample("w", 4_000, seed=100 + i) for i in range(5)])
    error = w.std(0) * math.sqrt(1 / 10_000 + 1 / 20_000)
    assert ((generator.mean("w")[0] - w.mean(0)).abs() < 5 * error).all()
    assert generator.mean("w")[0].norm() > 10 * error.norm()  # not merely small
    assert torch.allclose(generator.std("w")[0], w.std(0), rtol=0.05)


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_mean_has_the_shape_of_one_code(space):
    generator = tiny.stylegan2()
    for value in (generator.mean(space), generator.std(space)):
        assert value.shape == (1, *generator.code_shape(space))
    if space == "z":
        assert not generator.mean("z").any() and (generator.std("z") == 1).all()
    if space == "w+":
        assert torch.equal(generator.mean("w+"), generator.mean("w")[:, None].expand(-1, generator.num_ws, -1))


def test_truncation_pulls_w_to_the_mean():
    generator = tiny.stylegan2()
    z, mean = generator.sample("z", 3), generator.mean("w")
    w = generator.map(z)
    assert torch.allclose(generator.map(z, truncation=0), mean.expand(3, -1))
    assert torch.allclose(generator.map(z, truncation=0.5), (w + mean) / 2, atol=1e-6)
    assert torch.equal(generator.map(z, truncation=1), w)


def test_a_code_goes_to_wider_spaces_only():
    generator = tiny.stylegan2()
    w = generator.sample("w", 2)
    rows = generator.convert(w, "w", "w+")
    assert torch.equal(rows, torch.stack([w] * generator.num_ws, 1))
    assert generator.convert(w, "w", "w") is w
    for source, target in (("w", "z"), ("w+", "w"), ("w+", "z")):
        with pytest.raises(GeneratorError, match=f"not from {source.replace('+', '.')} back to {target}"):
            generator.convert(w, source, target)


def test_unknown_spaces_are_named():
    with pytest.raises(GeneratorError, match="space 'w\\+' does not exist in this dcgan generator; choose one of z."):
        tiny.dcgan().sample("w+")
    for call in ("sample", "mean", "std", "code_shape"):
        with pytest.raises(GeneratorError, match="'s' does not exist in this stylegan2 generator; .* z, w, w\\+."):
            getattr(tiny.stylegan2(), call)("s")
    with pytest.raises(GeneratorError, match="only space is z"):
        tiny.dcgan().map(torch.zeros(1, 8))


def test_a_bare_code_is_told_by_its_shape():
    generator, dcgan = tiny.stylegan2(), tiny.dcgan()
    for space in ("w", "w+"):
        code = random(2, *generator.code_shape(space), dtype=torch.float32)
        assert torch.equal(generator.synthesize(code), generator.synthesize(Latents(space, code)))
    z = generator.sample("z", 2)
    assert torch.equal(generator.synthesize(Latents("z", z)), generator.synthesize(generator.map(z)))
    z = dcgan.sample("z", 2)
    assert torch.equal(dcgan.synthesize(z), dcgan.synthesize(Latents("z", z)))


@pytest.mark.parametrize("shape", [(2, 15), (2, 5, 16), (16,), (2, 1, 6, 16)])
def test_a_code_of_another_shape_is_one_sentence(shape):
    with pytest.raises(GeneratorError, match="have the shape \\(B, (16|6, 16)\\), got"):
        tiny.stylegan2().synthesize(torch.zeros(shape))


# --- DCGAN -----------------------------------------------------------------------------------------------------------


def test_dcgan_is_its_definition():
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


@pytest.mark.parametrize("multiplier", [4, 8])
def test_a_checkpoint_of_the_course_loads(tmp_path, multiplier):
    generator = tiny.dcgan(first_multiplier=multiplier)
    torch.save(generator.state_dict(), tmp_path / "G_iter10000.pth")
    loaded = load_generator(tmp_path / "G_iter10000.pth")
    assert loaded.config == generator.config
    assert loaded.name == "G_iter10000"
    z = generator.sample("z", 2)
    assert torch.equal(loaded.synthesize(z), generator.synthesize(z))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"garbage " * 100, "is damaged"), (b"", "is empty"), ("folder", "is not a file"), (None, "check the path")],
)
def test_other_files_are_one_sentence(tmp_path, content, message):
    path = tmp_path / "weights.pt"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        load_generator(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["missing", "shape", "list", "number"])
def test_another_state_dict_is_one_sentence(tmp_path, change):
    path, state = tmp_path / "weights.pth", tiny.dcgan().state_dict()
    if change == "missing":
        del state["up_conv3.1.weight"]
    elif change == "shape":
        state["up_conv1.0.weight"] = torch.zeros(32, 8, 2, 2)
    torch.save([1] if change == "list" else {"up_conv1.0.weight": 1} if change == "number" else dict(state), path)
    messages = {"missing": "up_conv3.1.weight is missing", "shape": "instead of \\(32, 8, 4, 4\\)"}
    with pytest.raises(WeightsError, match=messages.get(change, "none of the formats that are read")) as error:
        load_generator(path)
    assert "\n" not in str(error.value)


# --- weights of this project -----------------------------------------------------------------------------------------


def discriminator_of(family):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Discriminator(16, channel_base=256, channel_max=16) if family == "stylegan2" else DCGANDiscriminator(4)


def exported(path, family, /, statistics=True, **changes):
    """A pair of tiny networks, saved as training saves them; what they are with weights rounded to float16."""
    generator, discriminator = FAMILIES[family](), discriminator_of(family)
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
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    code = original.sample(original.spaces[-1], 3)
    images = loaded.synthesize(code)
    assert torch.equal(images, rounded.synthesize(code))
    assert (images - original.synthesize(code)).abs().max() < 0.01  # float16 has 11 bits
    if family == "stylegan2":
        assert torch.equal(loaded.mean("w"), rounded.mean("w"))
        assert torch.allclose(loaded.std("w"), original.std("w"), rtol=1e-3)
    judge = load_discriminator(path)
    assert torch.equal(judge(images), discriminator(images))
    assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_statistics_that_are_missing_are_computed(tmp_path):
    exported(tmp_path / "cats.safetensors", "stylegan2", statistics=False)
    loaded = load_generator(tmp_path / "cats.safetensors")
    mean, std = loaded.mean("w").clone(), loaded.std("w").clone()
    loaded.compute_statistics()
    assert torch.equal(loaded.mean("w"), mean) and torch.equal(loaded.std("w"), std)
    assert not torch.equal(std, torch.ones_like(std))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "stylegan4"}, "no generator of a known family \\(stylegan2, stylegan1, dcgan\\)"),
        ({"generator": {**tiny.STYLEGAN2, "w_dim": 8}}, "does not fit the generator that its config describes"),
        ({"generator": {"width": 8}}, "does not fit the generator that its config describes"),
        ({"generator": {"resolution": 20}}, "does not fit .* power of two"),
    ],
)
def test_a_config_that_does_not_fit_is_one_sentence(tmp_path, changes, message):
    exported(tmp_path / "cats.safetensors", "stylegan2", **changes)
    with pytest.raises(WeightsError, match=message) as error:
        load_generator(tmp_path / "cats.safetensors")
    assert "\n" not in str(error.value)


def test_weights_without_a_discriminator_say_so(tmp_path):
    path, generator = tmp_path / "cats.safetensors", tiny.dcgan()
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    save_weights(path, tensors, {"family": "dcgan", "generator": generator.config})
    with pytest.raises(WeightsError, match="holds no discriminator"):
        load_discriminator(path)
