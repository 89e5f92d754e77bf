"""Checkpoints of rosinality's StyleGAN2 in PyTorch: ``torch.save`` of a dict with state dicts ``g_ema``, ``g``, ``d``.

``latent_avg`` (w_dim,) is the mean of w in converted official models; training adds optimizers and ``args`` (an
``argparse.Namespace``; its ``lr_mlp`` is the rate of the mapping network). pSp, e4e and ReStyle hold the same generator
as ``decoder.…`` of a ``state_dict``, next to an encoder that is not read, and ``latent_avg`` with a row for each layer.

Names: ``style.1.weight`` … (``style.0`` is the normalisation), ``input.input`` (1, C, 4, 4), ``conv1`` and
``convs.0``, ``convs.1``, … with ``conv.weight`` (1, out, in, 3, 3), ``conv.modulation.weight``, ``noise.weight`` (1,),
``activate.bias``; ``to_rgb1`` and ``to_rgbs.0``, … with ``bias`` (1, 3, 1, 1); ``noises.noise_0`` (1, 1, h, w);
kernels of blurs, which are fixed. Even ``convs`` double the size.

The discriminator: ``convs.0.0.weight`` and ``convs.0.1.bias`` read the image, then from the full size to 8 pixels
``convs.N.conv1.0.weight``, ``conv1.1.bias``, ``conv2.1.weight``, ``conv2.2.bias``, ``skip.1.weight``;
``final_conv.0.weight``, ``final_conv.1.bias``, ``final_linear.0`` and ``final_linear.1``.
"""

from __future__ import annotations

from torch import Tensor

from helpers.generators.checkpoints.layout import (
    Contents,
    Part,
    channel_rule,
    check_filter,
    count,
    expect,
    shape_of,
    side,
    take,
    to_tensor,
)
from helpers.generators.checkpoints.values import LazyTensor, Record

FORMAT = "rosinality .pt (StyleGAN2)"


def matches(contents: Contents) -> bool:
    return contents.network("input.input") is not None


def generator(contents: Contents) -> Part:
    state, root = contents.network("input.input").tensors, contents.root
    tensors = {"synthesis.b4.const": to_tensor(state["input.input"])[0]}
    layers = count(state, "style.{}.weight", first=1)
    for i in range(layers):
        for part in ("weight", "bias"):
            tensors[f"mapping.fc{i}.{part}"] = to_tensor(take(state, f"style.{i + 1}.{part}"))
    w_dim, z_dim = shape_of(tensors, "mapping.fc0.weight", 2)
    average = root.get("latent_avg") if isinstance(root, dict) else None
    if isinstance(average, LazyTensor):
        tensors["mapping.w_avg"] = to_tensor(average).reshape(-1, w_dim).mean(0)
    convolutions = count(state, "convs.{}.conv.weight")
    resolution = side([4, *(8 * 2**i for i in range(convolutions // 2))])
    expect(convolutions % 2 == 0, "a layer of its last resolution is missing")
    tensors |= _layer(state, "conv1", "synthesis.b4.conv1", 0) | _rgb(state, "to_rgb1", "synthesis.b4.torgb")
    widths = {4: shape_of(state, "conv1.conv.weight", 5)[1]}
    for i in range(convolutions):
        block = f"synthesis.b{8 * 2 ** (i // 2)}"
        tensors |= _layer(state, f"convs.{i}", f"{block}.conv{i % 2}", i + 1)
        if i % 2:
            tensors |= _rgb(state, f"to_rgbs.{i // 2}", f"{block}.torgb")
            widths[8 * 2 ** (i // 2)] = tensors[f"{block}.conv1.weight"].shape[0]
    for name, value in state.items():  # blurs and up-samplings, some times 4
        if name.endswith(".kernel"):
            check_filter(to_tensor(value))
    config = {"resolution": resolution, "z_dim": z_dim, "w_dim": w_dim, "mapping_layers": layers}
    return Part("stylegan2", config | channel_rule(widths) | _rate(root), tensors)


def _rate(root) -> dict:
    """The rate of the mapping network, if the arguments of the training name another than 0.01."""
    arguments = root.get("args") if isinstance(root, dict) else None
    arguments = arguments.state if isinstance(arguments, Record) else arguments
    rate = arguments.get("lr_mlp") if isinstance(arguments, dict) else None
    return {"lr_multiplier": float(rate)} if isinstance(rate, int | float) else {}


def _layer(state: dict, source: str, target: str, noise: int) -> dict[str, Tensor]:
    tensors = _modulated(state, source, target)
    tensors[f"{target}.bias"] = to_tensor(take(state, f"{source}.activate.bias"))
    tensors[f"{target}.noise_strength"] = to_tensor(take(state, f"{source}.noise.weight")).reshape(())
    if f"noises.noise_{noise}" in state:  # old files lack them
        tensors[f"{target}.noise_const"] = to_tensor(state[f"noises.noise_{noise}"])[0, 0]
    return tensors


def _rgb(state: dict, source: str, target: str) -> dict[str, Tensor]:
    bias = to_tensor(take(state, f"{source}.bias")).reshape(-1)
    return _modulated(state, source, target) | {f"{target}.bias": bias}


def _modulated(state: dict, source: str, target: str) -> dict[str, Tensor]:
    shape_of(state, f"{source}.conv.weight", 5)
    tensors = {f"{target}.weight": to_tensor(state[f"{source}.conv.weight"])[0]}
    for part in ("weight", "bias"):
        tensors[f"{target}.affine.{part}"] = to_tensor(take(state, f"{source}.conv.modulation.{part}"))
    return tensors


def discriminator(contents: Contents) -> Part | None:
    found = contents.network("final_linear.0.weight")
    if found is None:
        return None
    state = found.tensors
    blocks = count(state, "convs.{}.conv1.0.weight", first=1)
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
    return Part("stylegan2", {"resolution": resolution, **channel_rule(widths)}, tensors)
