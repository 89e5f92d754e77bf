"""Style transfer: losses, regions, scales, colours, interrupt and resume, bad input; sheets as one batch; films."""

import pytest
import torch

from helpers import colours
from helpers.features import load_features
from helpers.masks import half
from helpers.style_transfer import StyleError, StyleTransfer, sheets, stylize
from helpers.style_transfer.criterion import StyleCriterion, total_variation
from tests.support import tiny

LAYERS = {"content_layers": ["conv2_1"], "style_layers": ["conv1_1", "conv2_1"]}
NETWORK = tiny.Features()


def pictures(n=1, size=(24, 24), seed=0, dtype=torch.float32):
    return tiny.images(n, size, seed, cells=6).to(dtype)


PHOTO, STYLE, OTHER, IMAGE = (pictures(seed=seed) for seed in range(4))


@pytest.fixture(scope="module")
def slim():
    return load_features("vgg19-slim")


def test_the_loss_is_zero_at_the_target_and_weights_mean_the_same_for_any_layers():
    network = tiny.Features()
    criterion = StyleCriterion(network, PHOTO, [PHOTO], **LAYERS)
    loss = criterion(PHOTO)
    assert loss.parts["content"].item() == 0 and loss.parts["style"].item() == 0
    network.calls = 0
    other = criterion(torch.cat([STYLE, OTHER, IMAGE]))
    assert network.calls == 1 and (other.parts["content"] > 0.01).all() and (other.parts["style"] > 0.001).all()
    image = torch.tensor([[0.0, 1.0], [0.5, 0.5]]).expand(1, 3, 2, 2)
    assert total_variation(image).item() == pytest.approx((0.25 + 0.25) / 2 + (1 + 0) / 2)

    def style_part(layers=LAYERS["style_layers"], styles=(STYLE,), weights=None):
        options = {"content_layers": "conv1_1", "style_layers": layers, "style_weights": weights}
        return StyleCriterion(network, PHOTO, styles, **options)(IMAGE).parts["style"]

    first, second, both = map(style_part, (["conv1_1"], ["conv2_1"], ["conv1_1", "conv2_1"]))
    assert torch.allclose(both, (first + second) / 2)
    mixed = style_part(styles=[STYLE, OTHER], weights=[3.0, 1.0])
    assert torch.allclose(mixed, 0.75 * both + 0.25 * style_part(styles=[OTHER]))
    network.second *= 50
    assert torch.allclose(style_part(["conv2_1"]), second, rtol=1e-4)


@pytest.mark.parametrize("statistic", ["gram", "mean-variance", "moments", "patches"])
def test_the_gradient_is_right_in_float64(statistic):
    size = (96, 96) if statistic == "patches" else (8, 8)
    photo, style, image = (pictures(1, size, seed, torch.float64) for seed in range(3))
    layers, network = LAYERS | ({"style_layers": None} if statistic == "patches" else {}), tiny.Features()
    network.first, network.second = network.first.double(), network.second.double()
    criterion = StyleCriterion(network, photo, [style], statistic=statistic, tv_weight=0.1, **layers)
    image = (image + 0.01 * torch.rand(image.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    (gradient,) = torch.autograd.grad(criterion(image).total.sum(), image)
    random = torch.randn(image.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for direction in (gradient / gradient.norm(), random / random.norm()):  # 27,000 pixels one by one take minutes
        with torch.no_grad():
            rise = criterion(image + 1e-6 * direction).total - criterion(image - 1e-6 * direction).total
        expected = (gradient * direction).sum().item()
        assert rise.item() / 2e-6 == pytest.approx(expected, rel=1e-3, abs=1e-3 * gradient.norm().item())


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_grid_as_one_batch_is_its_single_runs(optimizer):
    contents, styles = pictures(2), [IMAGE, pictures(1, (30, 20), seed=4)]
    options = {"steps": 8, "optimizer": optimizer, **LAYERS}
    mixture = torch.eye(2).repeat(2, 1)
    grid = stylize(NETWORK, contents.repeat_interleave(2, 0), styles, style_weights=mixture, **options)
    for i in range(4):
        alone = stylize(NETWORK, contents[i // 2 : i // 2 + 1], [styles[i % 2]], **options)
        assert torch.allclose(grid.images[i], alone.images[0], atol=1e-3)
        assert torch.allclose(grid.total[i], alone.total[0], rtol=1e-3)


def test_layers_and_seeds_can_differ_from_sample_to_sample():
    layers = {"conv1_1": torch.tensor([1.0, 0.0]), "conv2_1": torch.tensor([0.0, 1.0])}
    both = stylize(NETWORK, PHOTO, [STYLE], steps=5, content_layers=layers, style_layers=layers)
    for i, layer in enumerate(layers):
        alone = stylize(NETWORK, PHOTO, [STYLE], steps=5, content_layers=layer, style_layers=layer)
        assert torch.allclose(both.images[i], alone.images[0], atol=1e-3)

    def run(seed):
        return stylize(NETWORK, PHOTO, [STYLE], init="noise", steps=4, seed=seed, **LAYERS).images

    first, other = run(0), run(1)
    torch.rand(5)  # the global generator moves on
    assert torch.equal(first, run(0))
    assert (first - other).abs().mean() > 0.01
    assert torch.allclose(run([0, 1]), torch.cat([first, other]), atol=1e-4)
    image = torch.full((1, 3, 24, 24), 1.0000002)  # what a resize rounds above one is accepted
    assert stylize(NETWORK, image, [image], steps=1, **LAYERS).images.max() <= 1


def test_reconstruction_finds_the_photo_the_style_loss_falls_and_half_precision_gives_nearly_the_same(slim):
    photo = pictures(1, (32, 32))
    result = stylize(slim, photo, content_layers="conv1_1", init="noise", steps=40, precision="float32")
    assert result.parts["content"].item() < 0.01
    assert (result.images - photo).abs().mean() < 0.5 * (0.5 - photo).abs().mean()
    photo, coarse, fine = (pictures(1, (48, 48), seed) for seed in range(3))
    result = stylize(slim, photo, [(coarse + fine[..., ::2].repeat(1, 1, 1, 2)) / 2], steps=30)
    assert result.parts["style"].item() < 0.3 * result.history["style"][0].item()
    assert result.images.min() >= 0 and result.images.max() <= 1
    assert len(result.history["total"]) == result.steps == 30
    found = []
    for precision in ("float32", "bfloat16"):
        x = fine.clone().requires_grad_()
        total = StyleTransfer(slim, photo, [coarse], precision=precision).criterion(x).total
        found.append((total.item(), torch.autograd.grad(total.sum(), x)[0].flatten()))
    (exact, gradient), (fast, other) = found
    assert fast != exact and fast == pytest.approx(exact, rel=0.02)
    assert torch.nn.functional.cosine_similarity(gradient, other, dim=0) > 0.95


def test_the_style_is_scaled_to_the_image_and_a_pyramid_goes_from_coarse_to_fine():
    seen = []

    class Spy(tiny.Features):
        def forward(self, images, layers):
            seen.append(tuple(images.shape[-2:]))
            return super().forward(images, layers)

    for scale in (0.5, 1.0, 1.2, 2.0):  # never beyond its own pixels
        StyleTransfer(Spy(), pictures(1, (40, 60)), [pictures(1, (100, 50), 1)], style_scale=scale, **LAYERS)
    assert seen[1::2] == [(40, 20), (80, 40), (96, 48), (100, 50)] and set(seen[::2]) == {(40, 60)}
    transfer = StyleTransfer(NETWORK, pictures(1, (50, 100)), [STYLE], pyramid=20, steps=4, **LAYERS)
    sizes, scales = [tuple(step.images().shape[-2:]) for step in transfer], [phase.size for phase in transfer.phases]
    assert scales[0] == (20, 40) and scales[-1] == (50, 100)
    assert sizes == [scales[0]] * 4 + [scales[1]] * 2 + [scales[2]] * 2
    assert len(transfer) == 8 and transfer.result().images.shape == (1, 3, 50, 100)


def test_regions_do_not_leak_and_what_no_mask_covers_stays_the_photo():
    options = {"style_weights": [1.0, 0.0], "content_weight": 0.0, "tv_weight": 0.0, **LAYERS}
    masks = torch.cat([half(24, "left"), half(24, "right")])
    criterion, image = StyleCriterion(NETWORK, PHOTO, [STYLE, OTHER], masks, **options), IMAGE.clone().requires_grad_()
    value = criterion(image).total
    (gradient,) = torch.autograd.grad(value.sum(), image)
    assert gradient[..., :12].abs().max() > 0 and gradient[..., 12:].abs().max() == 0
    with torch.no_grad():
        image[..., 12:] = 0.9
        assert torch.equal(criterion(image).total, value)
    result = stylize(NETWORK, PHOTO, [STYLE], masks=half(24, "left"), steps=5, init="noise", **LAYERS)
    assert torch.equal(result.images[..., 12:], PHOTO[..., 12:])
    assert (result.images[..., :12] - PHOTO[..., :12]).abs().mean() > 0.02


def test_luminance_keeps_the_photos_colours_and_matching_gives_moments_or_quantiles():
    photo, settings = 0.3 + 0.4 * PHOTO, {"style_weight": 3e3, "tv_weight": 0.0, "steps": 40, "lr": 0.02, **LAYERS}
    images = stylize(NETWORK, photo, [STYLE], colour="luminance", **settings).images
    apart = colours.to_yiq(images) - colours.to_yiq(photo)
    inside = ((images > 0.001) & (images < 0.999)).all(1)  # elsewhere RGB was clamped
    assert inside.float().mean() > 0.5
    assert apart[:, 1:].permute(0, 2, 3, 1)[inside].abs().max() < 1e-4 and apart[:, 0].abs().mean() > 5e-4
    image, target = 0.4 + 0.2 * STYLE, 0.35 + 0.3 * OTHER
    found, goal = (p[0].flatten(1) for p in (colours.match_linear(image, target), target))
    assert torch.allclose(found.mean(1), goal.mean(1), atol=1e-3)
    assert torch.allclose(torch.cov(found), torch.cov(goal), atol=1e-3)
    assert torch.allclose(colours.match_linear(image, image), image, atol=1e-3)
    found, goal = (p[0].flatten(1).sort(1).values for p in (colours.match_histogram(STYLE, 0.3 * OTHER), 0.3 * OTHER))
    assert (found - goal).abs().mean() < 0.01
    for colour in ("linear", "histogram"):
        transfer = StyleTransfer(NETWORK, pictures(2), [pictures(seed=5)], colour=colour, steps=2, **LAYERS)
        means = transfer.shown_styles[0].mean((2, 3))
        assert torch.allclose(means, transfer.contents.mean((2, 3)), atol=0.03)
        assert (means[0] - means[1]).abs().max() > 0.01


@pytest.mark.parametrize(("optimizer", "stop"), [("adam", 3), ("lbfgs", 3), ("lbfgs", 7)])
def test_a_resumed_run_is_an_uninterrupted_one(tmp_path, optimizer, stop):
    options = {"steps": 6, "pyramid": 12, "optimizer": optimizer, "colour": "luminance", **LAYERS}
    whole, first, second = (StyleTransfer(NETWORK, pictures(2), [STYLE], **options) for _ in range(3))
    with pytest.raises(ValueError, match="not taken a step"):
        first.result()
    next(step for step in first if step.number == stop)
    assert first.result().steps == stop and first.result().total.shape == (2,)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.number == stop
    expected, found = whole.run(), second.run()
    assert torch.equal(expected.images, found.images)
    assert torch.equal(expected.history["total"], found.history["total"])
    other = StyleTransfer(NETWORK, pictures(2)[..., :20, :], [STYLE], **options)
    with pytest.raises(StyleError, match=r"state is of \[2, 24, 24\] .*, not \[2, 20, 24\]"):
        other.load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content_weight": 0.0, "style_weight": 0.0}, "weight of content or style"),
        ({"content_weight": -1.0}, "weight of content must be"),
        ({"style_weights": [1.0, 2.0]}, "1 styles need 1 weights"),
        ({"style_weights": [0.0]}, "not all 0"),
        ({"contents": torch.rand(1, 1, 24, 24)}, r"contents must be \(B, 3, H, W\)"),
        ({"contents": torch.rand(1, 4, 24, 24)}, r"contents must be \(B, 3, H, W\)"),
        ({"contents": 1.01 * torch.ones(1, 3, 24, 24)}, r"in \[0, 1\]"),
        ({"styles": [torch.full((1, 3, 24, 24), float("nan"))]}, "styles must be finite"),
        ({"colour": "sepia"}, "colour must be one of style, luminance"),
        ({"init": "white"}, 'init must be "content"'),
        ({"style_scale": 0.0}, "scale must be a positive"),
        ({"content_layers": []}, "at least one layer"),
        ({"masks": torch.ones(2, 1, 24, 24)}, "1 styles need as many masks"),
        ({"statistic": "grim"}, "gram"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"seed": [0, 1], "content_weight": torch.ones(3)}, "same length or 1"),
        ({"optimizer": "sgd"}, "adam.*lbfgs.*sgd"),
        ({"pyramid": 0}, "at least 1 pixel"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_sentence(changes, message):
    settings = {"contents": PHOTO, "styles": [STYLE], **LAYERS} | changes
    with pytest.raises(ValueError, match=message) as caught:
        StyleTransfer(NETWORK, **settings)
    assert str(caught.value).endswith(".")


def test_unknown_layers_and_small_images_are_refused(slim):
    wrong = {"conv6_1.*conv1_1…conv5_4": ((24, 24), {"style_layers": ["conv6_1"]})}
    wrong["conv2_1 needs images of at least 2x2 pixels, got 24x1;"] = (24, 1), {"content_layers": "conv2_1"}
    wrong["at least 12x12"] = (10, 10), {"statistic": "patches", "style_scale": 1.0}
    for message, (size, changes) in wrong.items():
        with pytest.raises(ValueError, match=message):
            StyleTransfer(slim, pictures(1, size), [PHOTO], **changes)


BOTH = ["conv1_1", "conv2_1"]


def same(image, *arguments, **options):
    """Whether an image of a sheet is what a single run gives."""
    return torch.allclose(image, stylize(NETWORK, *arguments, **options).images[0], atol=1e-3)


def test_sheets_and_grids_are_their_single_runs():
    result = sheets.reconstructions(NETWORK, PHOTO, BOTH, seeds=(3, 4), steps=6)
    assert len(result.images) == 4
    for image, (layer, seed) in zip(result.images, [(layer, seed) for layer in BOTH for seed in (3, 4)], strict=True):
        assert same(image, PHOTO, content_layers=layer, init="noise", seed=seed, steps=6)
    styles, groups, blank = [STYLE, OTHER], [BOTH[:1], BOTH], torch.zeros(1, 3, 20, 20)
    result = sheets.textures(NETWORK, styles, groups, size=20, seeds=(0, 1), steps=5)
    options = {"content_weight": 0.0, "style_weight": 1.0, "style_scale": 1.0, "init": "noise", "steps": 5}
    for i, image in enumerate(result.images):
        assert same(image, blank, [styles[i // 4]], style_layers=groups[i // 2 % 2], seed=i % 2, **options)
    whole, parts = (sheets.layer_grid(NETWORK, PHOTO, STYLE, BOTH, groups, batch=batch, steps=4) for batch in (4, 2))
    assert whole.shape == (2, 2, 3, 24, 24) and torch.allclose(whole, parts, atol=1e-3)
    assert same(whole[1, 0], PHOTO, [STYLE], content_layers="conv2_1", style_layers=groups[0], steps=4)
    contents, styles = pictures(2), [pictures(seed=seed) for seed in (1, 2, 3)]
    images, result = sheets.transfer_grid(NETWORK, contents, styles, steps=4, **LAYERS)
    assert images.shape == (2, 3, 3, 24, 24) and len(result.images) == 6
    assert same(images[1, 2], contents[1:], [styles[2]], steps=4, **LAYERS)


def film(count=4):
    """A window that moves over an image by one pixel a frame."""
    wide = pictures(1, (32, 48), seed=7)
    wide = wide + 0.1 * torch.randn(wide.shape, generator=torch.Generator().manual_seed(0))
    return [wide.clamp(0, 1)[..., start : start + 32] for start in range(4, 4 + count)]


def test_an_image_follows_the_motion_of_its_photo_and_flicker_is_less_with_a_warm_start():
    first, second = film(2)
    moved, seen = sheets.follow(first, second, 1 - first)
    assert seen.mean() > 0.6 and ((moved - (1 - second)).abs() * seen).sum() / (3 * seen.sum()) < 0.01
    frame = first.clone()
    frame[..., 8:20, 8:20] = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    _, seen = sheets.follow(first, frame, frame)
    assert seen[..., 10:18, 10:18].mean() < 0.2 and seen.mean() > 0.5
    frames, options = film(), {"steps": 12, "init": "noise", "content_weight": 0.05, **LAYERS}
    noisy = [f + 0.2 * torch.rand(f.shape, generator=torch.Generator().manual_seed(i)) for i, f in enumerate(frames)]
    assert sheets.flicker(frames, frames) < 4 < sheets.flicker(frames, noisy)
    cold, warm = (list(sheets.stylize_frames(NETWORK, frames, [STYLE], warm=w, **options)) for w in (False, True))
    assert len(warm) == 4 and sheets.flicker(frames, warm) < 0.8 * sheets.flicker(frames, cold)
    with pytest.raises(StyleError, match="two frames"):
        sheets.flicker(frames[:1], frames[:1])
    with pytest.raises(StyleError, match="one size"):
        list(sheets.stylize_frames(NETWORK, [frames[0], frames[0][..., :30]], [STYLE], **options))
