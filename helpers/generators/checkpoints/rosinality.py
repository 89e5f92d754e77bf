"""Checkpoints of rosinality's StyleGAN2 in PyTorch: ``torch.save`` of a dict with state dicts ``g_ema``, ``g``, ``d``.

``latent_avg`` (w_dim,) is the mean of w; training adds optimizers and ``args``, whose ``lr_mlp`` is the rate of the
mapping network. pSp, e4e and ReStyle hold the same generator as ``decoder.…`` of a ``state_dict``, and ``latent_avg``
with a row for each layer.
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


def _layer(number: int) -> str:
    """Our name of ``convs.N``: two layers for each resolution from 8 on."""
    return f"synthesis.b{8 * 2 ** (number // 2)}.conv{number % 2}"


def _noise(number: int) -> str:
    return (_layer(number - 1) if number else "synthesis.b4.conv1") + ".noise_const"


GENERATOR = [
    (r"input\.input", "synthesis.b4.const", lambda t: t[0]),
    (r"style\.(\d{1,2})\.(weight|bias)", lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}"),  # style.0 normalises
    (r"noises\.noise_(\d{1,2})", lambda m: _noise(int(m[1])), lambda t: t[0, 0]),  # old files lack them
]
for _place, _ours in {  # modulated layers
    r"conv1\.": lambda m: "synthesis.b4.conv1.",
    r"convs\.(\d{1,2})\.": lambda m: _layer(int(m[1])) + ".",
    r"to_rgb1\.": lambda m: "synthesis.b4.torgb.",
    r"to_rgbs\.(\d)\.": lambda m: f"synthesis.b{8 * 2 ** int(m[1])}.torgb.",
}.items():
    GENERATOR += [
        (_place + r"conv\.weight", lambda m, ours=_ours: ours(m) + "weight", lambda t: t[0]),
        (_place + r"conv\.modulation\.(?P<part>\w+)", lambda m, ours=_ours: f"{ours(m)}affine.{m['part']}"),
        (_place + r"(activate\.)?bias", lambda m, ours=_ours: ours(m) + "bias", lambda t: t.reshape(-1)),
        (_place + r"noise\.weight", lambda m, ours=_ours: ours(m) + "noise_strength", lambda t: t.reshape(())),
    ]


def matches(contents: Contents) -> bool:
    return contents.network("input.input") is not None


def generator(contents: Contents) -> Part:
    state, root = contents.network("input.input").tensors, contents.root if isinstance(contents.root, dict) else {}
    tensors = translated(state, GENERATOR)
    config, arguments, average = generator_sizes(tensors), root.get("args"), root.get("latent_avg")
    arguments = arguments.state if isinstance(arguments, Record) else arguments
    rate = arguments.get("lr_mlp") if isinstance(arguments, dict) else None
    if isinstance(rate, int | float):
        config["lr_multiplier"] = float(rate)
    if isinstance(average, LazyTensor):
        tensors["mapping.w_avg"] = to_tensor(average).reshape(-1, config["w_dim"]).mean(0)
    for name, value in state.items():  # blurs and up-samplings, some times 4
        if name.endswith(".kernel"):
            check_filter(to_tensor(value))
    return Part("stylegan2", config, tensors)


def discriminator(contents: Contents) -> Part | None:
    found = contents.network("final_linear.0.weight")
    if found is None:
        return None
    blocks = next((i for i in range(1, 9) if f"convs.{i}.conv1.0.weight" not in found.tensors), 9) - 1
    sizes = {str(i): 2 ** (blocks + 3 - i) for i in range(1, blocks + 1)}  # from the full size to 8
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
