"""Feature networks: architecture, naming of layers, what is run, what is frozen, which files are refused."""

import functools
import json
import pathlib
import re
import sys
from unittest.mock import patch

import numpy as np
import pooch
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import vgg

from helpers import __main__ as program
from helpers import features as module
from helpers import trials, weights
from helpers.features import CONFIGS, FeatureConfig, Features, fast_copy, fast_dtype, fastest_way, load_features
from helpers.weights import WeightsError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(2, 3, 40, 37, generator=generator())


@pytest.fixture(scope="module")
def slim():
    network = Features(CONFIGS["vgg19-slim"], "vgg19-slim")
    for i, conv in enumerate(network.convs):
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator(i)) * (2 / conv.weight[0].numel()) ** 0.5)
        conv.bias.copy_(torch.randn(conv.bias.shape, generator=generator(i)) * 0.1)
    return network


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)  # between tries
    entries = {"vgg19": {"file": "downloads/vgg19.pth", "url": "http://127.0.0.1:9/vgg19.pth"}}
    entries["vgg19-slim"] = {"file": "vgg19-slim.safetensors"}
    (tmp_path / "registry.json").write_text(json.dumps(entries))
    return tmp_path


@pytest.mark.parametrize(("name", "letter", "count"), [("vgg19", "E", 16), ("vgg16", "D", 13)])
def test_activations_are_those_of_torchvision(name, letter, count):
    reference = vgg.make_layers(vgg.cfgs[letter])
    network = Features(CONFIGS[name], name)
    network.load_state_dict(module.from_torchvision({f"features.{k}": v for k, v in reference.state_dict().items()}))
    image = torch.rand(1, 3, 33, 48, generator=generator())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, expected = (image - mean) / std, {}
    with torch.no_grad():
        for layer in reference:
            x = layer(x.clone())  # torchvision's ReLU works in place
            if isinstance(layer, torch.nn.Conv2d):
                expected[len(expected) + 1] = x
    found = network(image, range(1, count + 1))
    assert list(found) == list(expected)
    for number, activation in expected.items():
        torch.testing.assert_close(found[number], activation, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=f"{name} has no layer {count + 1}; it has 1…{count}"):
        network(image, count + 1)


def test_layers_of_the_slim_network_what_is_run_and_where_gradients_go(slim, images):
    assert slim.layers[:3] == ("conv1_1", "conv1_2", "conv2_1")
    assert slim.layers[8:] == tuple(f"conv{b}_{i}" for b in (4, 5) for i in (1, 2, 3, 4))
    assert sum(p.numel() for p in slim.parameters()) == 1_252_880
    found = slim(images, [*range(1, 17), *slim.layers])
    assert len(found) == 32
    for number, (name, (block, _, width)) in enumerate(zip(slim.layers, slim.config.convs, strict=True), 1):
        assert torch.equal(found[number], found[name])
        assert found[name].shape == (2, width, 40 >> block - 1, 37 >> block - 1), name
    found = slim(images, ["conv3_2", "relu3_2"])
    assert found["conv3_2"].min() < 0 and torch.equal(found["relu3_2"], found["conv3_2"].clamp(min=0))
    assert torch.equal(found["relu3_2"], slim(images, "relu3_2")["relu3_2"])
    for asked, keys in (([np.int64(3), "relu1_1", 3], [3, "relu1_1"]), ("conv1_1", ["conv1_1"]), (4, [4]), ([], [])):
        assert list(slim(images, asked)) == keys
    for asked, runs in (([1], 1), (["relu2_1"], 3), (["conv1_1", 7], 7), (["conv5_4"], 16)):
        with patch.object(module, "convolve", wraps=module.convolve) as calls:
            slim(images, asked)
        assert calls.call_count == runs
    images.requires_grad_()
    found = slim(images, ["conv4_1", 9])
    found["conv4_1"].square().sum().backward()
    assert images.grad.abs().sum() > 0 and not slim.training
    assert all(p.grad is None and not p.requires_grad for p in slim.parameters())
    singles = torch.cat([slim(image[None], 9)[9] for image in images])
    rounding = 1e-5 * found[9].std().item()  # either is 3e-6 of it away from float64, summed in its own order
    torch.testing.assert_close(found[9], singles, atol=rounding, rtol=0)


def test_pooling_unknown_layers_small_images_and_what_is_not_an_image(slim, images):
    first = slim(images, "relu1_2")["relu1_2"]
    kernel = torch.tensor([1.0, 2.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 2.0, 1.0])).expand(16, 1, 4, 4) / 36
    pooled = {
        "max": F.max_pool2d(first, 2),
        "avg": F.avg_pool2d(first, 2),
        "blur": F.conv2d(F.pad(first, (1, 1, 1, 1)), kernel, stride=2, groups=16),
    }
    for pooling, expected in pooled.items():
        other = Features(CONFIGS["vgg19-slim"], pooling=pooling)
        other.load_state_dict(slim.state_dict())
        found = other(images, "conv2_1")["conv2_1"]
        inside = (..., slice(2, found.shape[2] - 2), slice(2, found.shape[3] - 2))
        torch.testing.assert_close(found[inside], slim.convs[2](expected)[inside])
    with pytest.raises(ValueError, match="pooling max, avg, blur"):
        Features(CONFIGS["vgg19-slim"], pooling="median")
    for layer in (0, 17, -1, "conv3_5", "conv6_1", "relu", "", "conv1_1 ", "relurelu1_1", True, 2.0, None):
        with pytest.raises(ValueError, match=r"no layer .*1…16, conv1_1…conv5_4 or relu1_1…relu5_4 \(2 in block 1"):
            slim(images, [layer])
    with pytest.raises(ValueError, match="conv5_1 needs images of at least 16x16 pixels, got 15x40"):
        slim(torch.zeros(1, 3, 15, 40), "conv5_1")
    for image in (torch.zeros(3, 32, 32), torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"Expected float images \(B, 3, H, W\)"):
            slim(image, "conv5_1")
    assert slim(torch.zeros(1, 3, 16, 16), "conv5_4")["conv5_4"].shape == (1, 128, 1, 1)
    assert slim(torch.zeros(1, 3, 15, 40), "conv4_4")["conv4_4"].shape[2:] == (1, 5)


def _put_torchvision(folder, monkeypatch, content=None):
    """A tiny network under vgg19's name, as if it had been downloaded."""
    monkeypatch.setitem(CONFIGS, "vgg19", FeatureConfig((2, 3), (1, 1)))
    path = folder / "downloads" / "vgg19.pth"
    path.parent.mkdir(exist_ok=True)
    reference = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Conv2d(2, 3, 3))
    torch.save({f"features.{k}": v for k, v in reference.state_dict().items()} if content is None else content, path)
    weights.pin("vgg19")
    return path


def test_bundled_network_is_loaded_without_its_classifier(folder, slim, images):
    facts = {"widths": list(slim.config.widths), "depths": list(slim.config.depths)}
    tensors = slim.state_dict() | {"head.weight": torch.zeros(5, 128), "head.bias": torch.zeros(5)}
    path = weights.save_weights(folder / "vgg19-slim.safetensors", tensors, facts)
    for name in ("vgg19-slim", path, str(path), None, "auto"):
        network = load_features(name)
        assert network.name == "vgg19-slim"
        torch.testing.assert_close(network(images, 16)[16], slim(images, 16)[16], atol=2e-2, rtol=2e-2)  # float16
    assert load_features("vgg19-slim", pooling="avg").pooling == "avg"


def test_auto_prefers_vgg19_where_it_is_on_disk_and_a_damaged_one_is_refused(folder, monkeypatch):
    path = _put_torchvision(folder, monkeypatch)
    assert load_features().name == "vgg19"
    assert load_features("vgg19").layers == ("conv1_1", "conv2_1")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="has SHA-256 .*delete it to download it again; or use vgg19-slim"):
        load_features("vgg19")


def test_no_network_says_what_to_do_and_code_in_a_weight_file_is_not_run(folder, monkeypatch):
    with pytest.raises(WeightsError, match="check the network.*or use vgg19-slim, which is bundled"):
        load_features("vgg19")
    assert {path.suffix for path in (folder / "downloads").iterdir()} <= {".lock"}
    evil = type("Evil", (), {"__reduce__": lambda self: (pathlib.Path.touch, (folder / "ran",))})
    _put_torchvision(folder, monkeypatch, content=evil())
    with pytest.raises(ValueError, match="holds no tensors"):
        load_features("vgg19")
    assert not (folder / "ran").exists()


def test_unknown_names_and_weights_of_another_kind_or_shape(tmp_path):
    with pytest.raises(ValueError, match="'vgg11'; known are: auto, vgg19-slim, vgg19-half, vgg19, vgg16"):
        load_features("vgg11")
    wrong = {"not a feature network": {"kind": "generator"}, "do not fit": {"widths": [2], "depths": [1]}}
    for message, facts in wrong.items():
        path = weights.save_weights(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, facts)
        with pytest.raises(ValueError, match=message):
            load_features(path)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Milliseconds that trials find, instead of a trial; nothing found before counts."""
    ms = {"float32": 3.0, "float32 channels last": 2.0, "bfloat16 channels last": 1.0}
    monkeypatch.setattr(trials, "trial", lambda ways, device: {way: ms.get(way, 1.0) for way in ways})
    monkeypatch.setattr(trials, "FILE", tmp_path / "fastest.json")
    monkeypatch.setattr(trials, "_found", {})
    return ms


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("auto", 0.03)])
def test_the_fast_copy_gives_the_same_features(quick, slim, images, precision, tolerance):
    fast = fast_copy(slim, precision)
    assert slim.convs[0].weight.dtype == torch.float32 and fast.name == slim.name
    assert fast.convs[1].weight.is_contiguous(memory_format=torch.channels_last)
    for layer, expected in slim(images, [1, 5, 13, "relu4_1"]).items():
        found = fast(images, [layer])[layer]
        assert found.dtype == (torch.float32 if precision == "float32" else torch.bfloat16)
        assert (found.float() - expected).norm() < tolerance * expected.norm()


def test_half_precision_is_taken_where_it_was_faster_and_the_command_overrides_it(quick, monkeypatch, capsys):
    assert fast_dtype("cpu") == torch.bfloat16
    trials.known("cpu").clear()
    quick["bfloat16 channels last"] = 20.0
    assert fast_dtype("cpu") == torch.float32
    assert fastest_way("cpu", 16) == "float32 channels last" and fastest_way("cpu", 16, "bfloat16").startswith("bf")
    quick["float32"] = 2.1  # not worth another layout
    assert fastest_way("cpu", 32) == "float32"
    quick.update({"float32": 3.0, "bfloat16 channels last": 1.0})
    trials.known("cpu").clear()

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["helpers", "device", "--device", "cpu", *words])
        with pytest.raises(SystemExit) as stop:
            program.main()
        return stop.value.code or 0

    assert run() == 0 and re.search(r"features, 64 channels .*bfloat16 .*last .*1.* yes", capsys.readouterr().out)
    assert run("--choose", "features, 64 channels=float32") == 0 and fast_dtype("cpu") == torch.float32
    trials._found.clear()  # as in another process
    assert fastest_way("cpu") == "float32" and fastest_way("cpu", 16).startswith("bfloat16")
    assert run("--choose", "features, 64 channels=") == 0 and fast_dtype("cpu") == torch.bfloat16
    assert run("--choose", "features, 64 channels=best") == 2 and "64 channels=best'" in capsys.readouterr().err


def test_trials_take_turns_and_leave_out_what_is_far_behind(monkeypatch):
    calls, now = [], [0.0]
    monkeypatch.setattr(trials, "clock", lambda device: lambda: now[0])

    def way(name, seconds):
        calls.append(name)
        now[0] += seconds

    ways = {name: functools.partial(way, name, seconds) for name, seconds in (("a", 0.1), ("b", 0.9), ("c", 0.2))}
    found = trials.trial(ways, torch.device("cpu"))
    assert found == {"a": 100.0, "b": 900.0, "c": 200.0} and "".join(calls) == "abcabcac"
