"""Checkpoints of rosinality's StyleGAN2 in PyTorch: ``torch.save`` of a dict with state dicts ``g_ema``, ``g``, ``d``.

``latent_avg`` (w_dim,) is the mean of w in converted official models; training adds optimizers and ``args`` (an
``argparse.Namespace``), which are left aside. Names: ``style.1.weight`` … (``style.0`` is the normalisation),
``input.input`` (1, C, 4, 4), ``conv1`` and ``convs.0``, ``convs.1``, … with ``conv.weight`` (1, out, in, 3, 3),
``conv.modulation.weight``, ``noise.weight`` (1,), ``activate.bias``; ``to_rgb1`` and ``to_rgbs.0``, … with ``bias``
(1, 3, 1, 1); ``noises.noise_0`` (1, 1, h, w); kernels of blurs, which are fixed. Even ``convs`` double the size.

The discriminator: ``convs.0.0.weight`` and ``convs.0.1.bias`` read the image, then from the full size to 8 pixels
``convs.N.conv1.0.weight``, ``conv1.1.bias``, ``conv2.1.weight``, ``conv2.2.bias``, ``skip.1.weight``;
``final_conv.0.weight``, ``final_conv.1.bias``, ``final_linear.0`` and ``final_linear.1``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from helpers.generators.checkpoints.layout import (
    Checkpoint,
    Part,
    channel_rule,
    count,
    expect,
    flatten,
    is_tensor,
    shape_of,
    side,
    take,
    to_tensor,
)
from helpers.generators.checkpoints.safe_pickle import CheckpointError

FILTER = torch.outer(row := torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, row)


def matches(root) -> bool:
    return isinstance(root, dict) and "input.input" in _state(root)


def _state(root: dict) -> dict:
    """The state dict of the averaged generator, or of the only one."""
    found = next((root[name] for name in ("g_ema", "g") if isinstance(root.get(name), dict)), root)
    return flatten(found, 0)


def read(root: dict) -> Checkpoint:
    """Read the averaged generator; see the module. Raises CheckpointError."""
    state = _state(root)
    tensors = {"synthesis.b4.const": to_tensor(take(state, "input.input"))[0]}
    layers = count(dict.fromkeys(state, 0) | {"style.0.weight": 0}, "style.{}.weight") - 1
    for i in range(layers):
        tensors[f"mapping.fc{i}.weight"] = to_tensor(state[f"style.{i + 1}.weight"])
        tensors[f"mapping.fc{i}.bias"] = to_tensor(take(state, f"style.{i + 1}.bias"))
    if is_tensor(root.get("latent_avg")):
        tensors["mapping.w_avg"] = to_tensor(root["latent_avg"]).reshape(-1)
    convolutions = count(state, "convs.{}.conv.weight")
    resolution = side([4, *(8 * 2**i for i in range(convolutions // 2))])
    expect(convolutions % 2 == 0, "a layer of its last resolution is missing")
    _layer(state, tensors, "conv1", "synthesis.b4.conv1", 0)
    _rgb(state, tensors, "to_rgb1", "synthesis.b4.torgb")
    for i in range(convolutions):
        _layer(state, tensors, f"convs.{i}", f"synthesis.b{8 * 2 ** (i // 2)}.conv{i % 2}", i + 1)
        if i % 2:
            _rgb(state, tensors, f"to_rgbs.{i // 2}", f"synthesis.b{8 * 2 ** (i // 2)}.torgb")
    for name, value in state.items():  # blurs and up-samplings, some times 4
        if name.endswith(".kernel"):
            kernel = to_tensor(value)
            known = kernel.shape == (4, 4) and torch.allclose(kernel / kernel.sum(), FILTER, atol=1e-5)
            expect(known, "its low-pass filter is not [1, 3, 3, 1]")
    widths = {
        r: tensors[f"synthesis.b{r}.conv1.weight"].shape[0] for r in (2**i for i in range(2, 11)) if r <= resolution
    }
    w_dim, z_dim = shape_of(tensors, "mapping.fc0.weight", 2)
    config = {"resolution": resolution, "z_dim": z_dim, "w_dim": w_dim, "mapping_layers": layers}
    critic = _discriminator_of(root["d"]) if isinstance(root.get("d"), dict) else None
    return Checkpoint("rosinality .pt (StyleGAN2)", "stylegan2", Part(config | channel_rule(widths), tensors), critic)


def _discriminator_of(state: dict) -> Callable[[], Part]:
    """Gives the discriminator, or says why it cannot be read; it is read now, while the file is open."""
    try:
        part = _discriminator(flatten(state, 0))
        return lambda: part
    except CheckpointError as error:
        reason = error

    def refuse() -> Part:
        raise reason

    return refuse


def _discriminator(state: dict) -> Part:
    blocks = count({name.replace(".conv1.0.weight", "") for name in state}, "convs.{}", first=1)
    sizes = [2 ** (blocks + 2 - i) for i in range(blocks)]
    resolution = side([4, *sizes])
    names = {f"b{resolution}.fromrgb": ("convs.0.0", "convs.0.1"), "b4.conv": ("final_conv.0", "final_conv.1")}
    names |= {"b4.fc": ("final_linear.0", "final_linear.0"), "b4.out": ("final_linear.1", "final_linear.1")}
    for i, r in enumerate(sizes, 1):
        names[f"b{r}.conv0"] = f"convs.{i}.conv1.0", f"convs.{i}.conv1.1"
        names[f"b{r}.conv1"] = f"convs.{i}.conv2.1", f"convs.{i}.conv2.2"
    tensors = {}
    for ours, (weight, bias) in names.items():
        tensors[f"{ours}.weight"] = to_tensor(take(state, f"{weight}.weight"))
        tensors[f"{ours}.bias"] = to_tensor(take(state, f"{bias}.bias")).reshape(-1)
    for i, r in enumerate(sizes, 1):
        tensors[f"b{r}.skip.weight"] = to_tensor(take(state, f"convs.{i}.skip.1.weight"))
    widths = {4: shape_of(tensors, "b4.conv.weight", 4)[0]}
    widths |= {r: shape_of(tensors, f"b{r}.conv0.weight", 4)[0] for r in sizes}
    return Part({"resolution": resolution, **channel_rule(widths)}, tensors)


def _layer(state: dict, tensors: dict, source: str, target: str, noise: int) -> None:
    tensors[f"{target}.weight"] = _convolution(state, source)
    tensors[f"{target}.bias"] = to_tensor(take(state, f"{source}.activate.bias"))
    tensors[f"{target}.noise_strength"] = to_tensor(take(state, f"{source}.noise.weight")).reshape(())
    if f"noises.noise_{noise}" in state:  # old files lack them
        tensors[f"{target}.noise_const"] = to_tensor(state[f"noises.noise_{noise}"])[0, 0]
    _affine(state, tensors, source, target)


def _rgb(state: dict, tensors: dict, source: str, target: str) -> None:
    tensors[f"{target}.weight"] = _convolution(state, source)
    tensors[f"{target}.bias"] = to_tensor(take(state, f"{source}.bias")).reshape(-1)
    _affine(state, tensors, source, target)


def _convolution(state: dict, source: str) -> torch.Tensor:
    shape_of(state, f"{source}.conv.weight", 5)
    return to_tensor(state[f"{source}.conv.weight"])[0]


def _affine(state: dict, tensors: dict, source: str, target: str) -> None:
    for part in ("weight", "bias"):
        tensors[f"{target}.affine.{part}"] = to_tensor(take(state, f"{source}.conv.modulation.{part}"))
