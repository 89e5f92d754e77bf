"""Encoders of pSp, e4e and ReStyle, written and run by the layer list of their authors' code."""

import argparse

import pytest
import torch
import torch.nn.functional as F

from helpers import found_encoders
from helpers.encoder import load_encoder
from helpers.generators import load_generator
from helpers.inversion import Inversion
from helpers.latents import Latents
from helpers.weights import WeightsError
from tests.support import checkpoint_files as files
from tests.support import tiny

WIDTH, STAGES = 16, (3, 4, 14, 3)  # 64 in the published files
KINDS = {  # type in the options: inputs, three sizes of features, whether rows are offsets from the first
    "GradualStyleEncoder": (3, True, False),
    "Encoder4Editing": (3, True, True),
    "BackboneEncoder": (6, False, False),
    "ProgressiveBackboneEncoder": (6, False, True),
}


class Layers(dict):
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
        mean, variance, weight, bias = (
            self.get(f"{name}.{part}", x.shape[1]) for part in ("running_mean", "running_var", "weight", "bias")
        )
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


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_of_a_file_gives_what_the_authors_layers_give(tmp_path, monkeypatch, faces, kind):
    monkeypatch.setattr(found_encoders, "ROUNDS", 2)  # instead of 5
    inputs, pyramid, deltas = KINDS[kind]
    original, layers = tiny.stylegan2(resolution=32, w_dim=8 * WIDTH), Layers()
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
