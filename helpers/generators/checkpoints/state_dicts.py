"""State dicts that ``torch.save`` wrote: rosinality's StyleGAN2, the PyTorch conversion of StyleGAN, the course's GAN.

pSp, e4e and ReStyle hold rosinality's generator as ``decoder.…``. The conversion stores no noise maps, and rarely the
mean of w; its instance norm adds 1e-5 to the variance, the official one 1e-8. The course is CMU 16-726.
"""

import re

from helpers.generators.checkpoints import CheckpointError, Part, layout

PLACE = r"(conv1|convs\.\d{1,2}|to_rgb1|to_rgbs\.\d)\."  # of a modulated layer


def _ours(match: re.Match) -> str:
    kind, _, number = match[1].partition(".")
    number = int(number) + 1 if number else 0
    return f"synthesis.b{4 * 2**number}.torgb" if kind.startswith("to_rgb") else layout.layer(number + 1)


GENERATOR = [
    (r"input\.input", "synthesis.b4.const", lambda t: t[0]),
    (r"style\.(\d{1,2})\.(weight|bias)", lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}"),  # style.0 normalises
    (r"noises\.noise_(\d{1,2})", lambda m: layout.layer(int(m[1]) + 1) + ".noise_const", lambda t: t[0, 0]),
    (PLACE + r"conv\.weight", lambda m: f"{_ours(m)}.weight", lambda t: t[0]),
    (PLACE + r"conv\.modulation\.(\w+)", lambda m: f"{_ours(m)}.affine.{m[2]}"),
    (PLACE + r"(?:activate\.)?bias", lambda m: f"{_ours(m)}.bias", lambda t: t.reshape(-1)),
    (PLACE + r"noise\.weight", lambda m: f"{_ours(m)}.noise_strength", lambda t: t.reshape(())),
]


def _rosinality(contents: layout.Contents) -> Part:
    state = contents.network("input.input").tensors
    tensors = layout.translated(state, GENERATOR)
    config, rate = layout.generator_sizes(tensors), layout.options(contents.root, "args").get("lr_mlp")
    if isinstance(rate, int | float):
        config["lr_multiplier"] = float(rate)
    if "latent_avg" in contents.tensors:
        tensors["mapping.w_avg"] = layout.to_tensor(contents.tensors["latent_avg"]).reshape(-1, config["w_dim"]).mean(0)
    layout.check_filters(state, ".kernel")  # blurs and up-samplings, some times 4
    return Part("stylegan2", config, tensors)


def _rosinality_discriminator(contents: layout.Contents) -> Part | None:
    found = contents.network("final_linear.0.weight")
    if found is None:
        return None
    blocks = next((i for i in range(1, 9) if f"convs.{i}.conv1.0.weight" not in found.tensors), 9) - 1
    parts = {"final_conv.0": "conv", "final_conv.1": "conv", "final_linear.0": "fc", "final_linear.1": "out"}

    def place(m: re.Match) -> str:
        return f"b{2 ** (blocks + 3 - int(m[1]))}."

    rules = [
        (r"convs\.0\.[01]\.(weight|bias)", f"b{2 ** (blocks + 2)}.fromrgb.\\1"),
        (r"convs\.(\d)\.conv([12])\.[012]\.(weight|bias)", lambda m: f"{place(m)}conv{int(m[2]) - 1}.{m[3]}"),
        (r"convs\.(\d)\.skip\.1\.weight", lambda m: f"{place(m)}skip.weight"),
        (r"(final_\w+\.[01])\.(weight|bias)", lambda m: f"b4.{parts[m[1]]}.{m[2]}"),
    ]
    tensors = layout.translated(found.tensors, rules)
    tensors = {name: t.flatten() if name.endswith("bias") else t for name, t in tensors.items()}
    return Part("stylegan2", layout.discriminator_sizes(tensors), tensors)


CONST = "g_synthesis.blocks.4x4.const"
BLOCK, OURS = r"g_synthesis\.blocks\.(\d+)x\1\.", r"synthesis.b\1."
EPILOGUE = BLOCK + r"epi([12])\."
CONVERTED = [
    (r"g_mapping\.dense(\d+)\.(weight|bias)", r"mapping.fc\1.\2"),
    (r"truncation\.avg_latent", "mapping.w_avg"),
    (r"g_synthesis\.torgb\.(weight|bias)", r"synthesis.rgb_\1"),
    (r"g_synthesis\.blocks\.4x4\.const", "synthesis.const", lambda t: t[0]),
    (r"g_synthesis\.blocks\.4x4\.bias", "synthesis.b4.conv0.bias"),
    # from 128 on the conversion doubles sizes by a transposed convolution
    (r"g_synthesis\.blocks\.(\d{3,})x\1\.conv0_up\.weight", OURS + "conv0.weight", lambda t: t.flip(2, 3)),
    (BLOCK + r"conv0_up\.(weight|bias)", OURS + r"conv0.\2"),
    (BLOCK + r"conv1?\.(weight|bias)", OURS + r"conv1.\2"),
    (EPILOGUE + r"top_epi\.noise\.weight", lambda m: f"synthesis.b{m[1]}.conv{int(m[2]) - 1}.noise_strength"),
    (EPILOGUE + r"style_mod\.lin\.(weight|bias)", lambda m: f"synthesis.b{m[1]}.conv{int(m[2]) - 1}.style.{m[3]}"),
]


def _stylegan1(contents: layout.Contents) -> Part:
    tensors = layout.translated(contents.network(CONST).tensors, CONVERTED)
    config = layout.generator_sizes(tensors) | {"eps": 1e-5}
    if "mapping.w_avg" in tensors:
        tensors["mapping.w_avg"] = tensors["mapping.w_avg"].reshape(-1, config["w_dim"])[0]
    return Part("stylegan1", config, tensors)


LAYOUTS = {  # first weight: layout, the axes of a weight's (out, in), last weight
    "deconv1.0.weight": ("transposed", (1, 0), "deconv5.0.weight"),
    "up_conv1.0.weight": ("upsampled", (0, 1), "up_conv5.1.weight"),
}


def _vanilla(contents: layout.Contents) -> Part:
    first = next(name for name in LAYOUTS if contents.network(name))
    kind, (out, into), last = LAYOUTS[first]
    state = contents.network(first).tensors
    shape, conv_dim = state[first].shape, state[last].shape[into]
    if not conv_dim or shape[out] % conv_dim:
        raise CheckpointError(f"its layers have {shape[out]} and {conv_dim} channels, which are not multiples.")
    sizes = {"z_dim": shape[into], "conv_dim": conv_dim, "first_multiplier": shape[out] // conv_dim}
    return _dcgan(sizes | {"layout": kind}, state, first.split(".")[0])


def _vanilla_discriminator(contents: layout.Contents) -> Part | None:
    if not contents.network("conv5.0.weight"):
        return None
    state = contents.network("conv5.0.weight").tensors
    config = {"conv_dim": state["conv1.0.weight"].shape[0], "bias": "conv5.0.bias" in state}
    return _dcgan(config, state, "conv1")


def _dcgan(config: dict, state: dict, layer: str) -> Part:
    """All layers of the kind of one, without its number."""
    norm = "batch" if f"{layer}.1.running_mean" in state else "instance"
    tensors = {name: layout.to_tensor(value) for name, value in state.items() if name.startswith(layer[:-1])}
    return Part("dcgan", config | {"norm": norm}, tensors)


ROSINALITY = ("input.input",), _rosinality, _rosinality_discriminator
STYLEGAN1 = (CONST,), _stylegan1, lambda contents: None
VANILLA = tuple(LAYOUTS), _vanilla, _vanilla_discriminator
