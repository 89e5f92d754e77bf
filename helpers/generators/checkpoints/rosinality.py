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

from helpers.generators.checkpoints.layout import (
    Contents,
    check_filter,
    discriminator_sizes,
    generator_sizes,
    to_tensor,
    translated,
)
from helpers.generators.checkpoints.own import Part
from helpers.generators.checkpoints.values import LazyTensor, Record

FORMAT = "rosinality .pt (StyleGAN2)"


def _layer(number: str) -> str:
    """Our name of ``convs.N``: two layers for each resolution from 8 on."""
    return f"synthesis.b{8 * 2 ** (int(number) // 2)}.conv{int(number) % 2}"


def _noise(number: str) -> str:
    return (_layer(str(int(number) - 1)) if int(number) else "synthesis.b4.conv1") + ".noise_const"


LAYERS = {  # of a generator's modulated layers
    r"conv1\.": lambda m: "synthesis.b4.conv1.",
    r"convs\.(\d{1,2})\.": lambda m: _layer(m[1]) + ".",
    r"to_rgb1\.": lambda m: "synthesis.b4.torgb.",
    r"to_rgbs\.(\d)\.": lambda m: f"synthesis.b{8 * 2 ** int(m[1])}.torgb.",
}
GENERATOR = [
    (r"input\.input", "synthesis.b4.const", lambda t: t[0]),
    (r"style\.(\d{1,2})\.(weight|bias)", lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}"),
    (r"noises\.noise_(\d{1,2})", lambda m: _noise(m[1]), lambda t: t[0, 0]),  # old files lack them
]
for _place, _ours in LAYERS.items():
    GENERATOR += [
        (_place + r"conv\.weight", lambda m, ours=_ours: ours(m) + "weight", lambda t: t[0]),
        (_place + r"conv\.modulation\.(?P<part>\w+)", lambda m, ours=_ours: f"{ours(m)}affine.{m['part']}"),
        (_place + r"(activate\.)?bias", lambda m, ours=_ours: ours(m) + "bias", lambda t: t.reshape(-1)),
        (_place + r"noise\.weight", lambda m, ours=_ours: ours(m) + "noise_strength", lambda t: t.reshape(())),
    ]


def matches(contents: Contents) -> bool:
    return contents.network("input.input") is not None


def generator(contents: Contents) -> Part:
    state, root = contents.network("input.input").tensors, contents.root
    tensors = translated(state, GENERATOR)
    config = generator_sizes(tensors) | _rate(root)
    average = root.get("latent_avg") if isinstance(root, dict) else None
    if isinstance(average, LazyTensor):
        tensors["mapping.w_avg"] = to_tensor(average).reshape(-1, config["w_dim"]).mean(0)
    for name, value in state.items():  # blurs and up-samplings, some times 4
        if name.endswith(".kernel"):
            check_filter(to_tensor(value))
    return Part("stylegan2", config, tensors)


def _rate(root) -> dict:
    """The rate of the mapping network, if the arguments of the training name another than 0.01."""
    arguments = root.get("args") if isinstance(root, dict) else None
    arguments = arguments.state if isinstance(arguments, Record) else arguments
    rate = arguments.get("lr_mlp") if isinstance(arguments, dict) else None
    return {"lr_multiplier": float(rate)} if isinstance(rate, int | float) else {}


def discriminator(contents: Contents) -> Part | None:
    found = contents.network("final_linear.0.weight")
    if found is None:
        return None
    blocks = next((i for i in range(1, 9) if f"convs.{i}.conv1.0.weight" not in found.tensors), 9) - 1
    sizes = {str(i): 2 ** (blocks + 3 - i) for i in range(1, blocks + 1)}
    end = {"final_conv.0": "conv", "final_conv.1": "conv", "final_linear.0": "fc", "final_linear.1": "out"}
    place = r"convs\.(\d)\."
    rules = [
        (r"convs\.0\.[01]\.(weight|bias)", f"b{2 ** (blocks + 2)}.fromrgb.\\1"),
        (place + r"conv([12])\.[012]\.(weight|bias)", lambda m: f"b{sizes[m[1]]}.conv{int(m[2]) - 1}.{m[3]}"),
        (place + r"skip\.1\.weight", lambda m: f"b{sizes[m[1]]}.skip.weight"),
        (r"(final_\w+\.[01])\.(weight|bias)", lambda m: f"b4.{end[m[1]]}.{m[2]}"),
    ]
    tensors = {n: t.reshape(-1) if n.endswith("bias") else t for n, t in translated(found.tensors, rules).items()}
    return Part("stylegan2", discriminator_sizes(tensors), tensors)
