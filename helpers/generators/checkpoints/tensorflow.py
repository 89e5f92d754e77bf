"""Pickles of the official TensorFlow releases: StyleGAN, StyleGAN2 and StyleGAN2-ADA.

A tuple ``(G, D, Gs)`` or one network: its arguments without defaults, sub-networks, variables, and a source text that
is never looked at. Convolutions that double the size by transposition, in StyleGAN from 128 on, are turned.
"""

import re

from torch import Tensor

from helpers.generators.checkpoints import Part, layout
from helpers.generators.checkpoints.safe_pickle import shown

CONST, DENSE = "synthesis.4x4/Const/const", "4x4/Dense0/weight"
ON = ("normalize_latents", "use_instance_norm", "use_styles", "const_input_layer", "use_wscale", "use_noise")
READ = dict.fromkeys(ON, True)  # arguments that change the images, with the only values that are read
READ |= {"nonlinearity": "lrelu", "mapping_nonlinearity": "lrelu", "use_pixel_norm": False, "fused_scale": "auto"}
READ |= {"resample_kernel": [1, 3, 3, 1], "blur_filter": [1, 2, 1], "num_channels": 3}
PARTS = {"Conv0_up": "conv0", "Const": "conv0", "Conv": "conv1", "Conv1": "conv1", "ToRGB": "torgb"}
CRITIC_PARTS = {"FromRGB": "fromrgb", "Conv0": "conv0", "Conv1_down": "conv1", "Skip": "skip"}
CRITIC_PARTS |= {"Conv": "conv", "Dense0": "fc"}


def turned(t: Tensor) -> Tensor:
    """(height, width, in, out) to (out, in, height, width), and (in, out) to (out, in)."""
    return t.permute(3, 2, 0, 1) if t.ndim == 4 else t.t() if t.ndim == 2 else t


def flipped(t: Tensor) -> Tensor:
    return turned(t).flip(2, 3)


def _ours(match: re.Match) -> str:
    return f"synthesis.b{match[1]}.{PARTS[match[2]]}"


PLACE = r"synthesis\.(\d+)x\1/(Conv0_up|Const|Conv1?|ToRGB)/"
MAPPING = [
    (r"dlatent_avg", "mapping.w_avg"),
    (r"mapping\.Dense(\d+)/(weight|bias)", r"mapping.fc\1.\2"),
    (r"mapping\.LabelConcat/weight", "mapping.label_weight", lambda t: t),
    (r"mapping\.LabelEmbed/(weight|bias)", r"mapping.embed.\1"),
]
STYLEGAN2 = [
    *MAPPING,
    (r"synthesis\.4x4/Const/const", "synthesis.b4.const", lambda t: t[0]),
    (r"synthesis\.noise(\d+)", lambda m: layout.layer(int(m[1]) + 1) + ".noise_const", lambda t: t[0, 0]),
    (r"synthesis\.(\d+)x\1/Conv0_up/weight", r"synthesis.b\1.conv0.weight", flipped),
    (PLACE + "(weight|bias)", lambda m: f"{_ours(m)}.{m[3]}"),
    (PLACE + "mod_weight", lambda m: f"{_ours(m)}.affine.weight"),
    (PLACE + "mod_bias", lambda m: f"{_ours(m)}.affine.bias", lambda t: t + 1),
    (PLACE + "noise_strength", lambda m: f"{_ours(m)}.noise_strength", lambda t: t.reshape(())),
]
STYLEGAN1 = [
    *MAPPING,
    (r"synthesis\.4x4/Const/const", "synthesis.const", lambda t: t[0]),
    (r"synthesis\.ToRGB_lod0/(weight|bias)", r"synthesis.rgb_\1"),
    (r"synthesis\.noise(\d+)", lambda m: layout.layer(int(m[1])) + ".noise_const", lambda t: t[0, 0]),
    (r"synthesis\.(\d{3,})x\1/Conv0_up/weight", r"synthesis.b\1.conv0.weight", flipped),
    (PLACE + "(weight|bias)", lambda m: f"{_ours(m)}.{m[3]}"),
    (PLACE + "Noise/weight", lambda m: f"{_ours(m)}.noise_strength"),
    (PLACE + "StyleMod/(weight|bias)", lambda m: f"{_ours(m)}.style.{m[3]}"),
]
CRITIC = [
    (rf"(\d+)x\1/({'|'.join(CRITIC_PARTS)})/(weight|bias)", lambda m: f"b{m[1]}.{CRITIC_PARTS[m[2]]}.{m[3]}"),
    (r"Output/(weight|bias)", r"b4.out.\1"),
    (r"LabelEmbed/(weight|bias)", r"mapping.embed.\1"),
    (r"Mapping(\d+)/(weight|bias)", r"mapping.fc\1.\2"),
]


def generator(contents: layout.Contents) -> Part:
    variables, arguments = _network(contents, CONST)
    for name, value in READ.items():
        layout.expect(arguments.get(name, value) == value, f"{name} is not {value}")
    config = {"lr_multiplier": float(arguments.get("mapping_lrmul", 0.01))}
    if "synthesis.4x4/Const/StyleMod/weight" in variables:
        whole = layout.to_tensor(variables.get("lod", 0.0)).item() == 0
        layout.expect(whole, "it has not grown to its last resolution")
        tensors = layout.translated(variables, STYLEGAN1, turned)
        return Part("stylegan1", config | layout.generator_sizes(tensors) | {"eps": 1e-8}, tensors)
    layout.expect("synthesis.4x4/Conv/mod_weight" in variables, "neither a StyleGAN nor a StyleGAN2 generator")
    kind = arguments.get("architecture", "skip")
    layout.expect(kind == "skip", f"its generator has the architecture '{shown(kind, 20)}', only 'skip' is read")
    layout.expect("synthesis.4x4/ToRGB/weight" in variables, "it is of the configurations A to D, which grow")
    tensors = layout.translated(variables, STYLEGAN2, turned)
    config |= {"conv_clamp": arguments.get("conv_clamp")} | layout.generator_sizes(tensors)
    return Part("stylegan2", config | ({"labels": "concat"} if "mapping.label_weight" in tensors else {}), tensors)


def discriminator(contents: layout.Contents) -> Part | None:
    if not contents.network(DENSE):
        return None
    variables, arguments = _network(contents, DENSE)
    kind, features = arguments.get("architecture", "resnet"), arguments.get("mbstd_num_features", 1)
    layout.expect("Output/weight" in variables, "its discriminator grows")
    layout.expect(kind in ("resnet", "orig"), "its discriminator is neither of the kind 'resnet' nor 'orig'")
    layout.expect(features == 1, "its minibatch standard deviation has more than one channel")
    tensors = layout.translated(variables, CRITIC, turned)
    config = layout.discriminator_sizes(tensors) | {"conv_clamp": arguments.get("conv_clamp"), "architecture": kind}
    config["group_size"] = int(arguments.get("mbstd_group_size", 4) or 0)
    config["lr_multiplier"] = float(arguments.get("mapping_lrmul", 0.1))
    return Part("stylegan2", config, tensors)


def _network(contents: layout.Contents, marker: str) -> tuple[dict, dict]:
    """The variables and the arguments of a network."""
    found = contents.network(marker)
    arguments = found.modules.get("", {}).get("static_kwargs")
    layout.expect(type(arguments) is dict, "its arguments are missing")
    return found.tensors, arguments


READER = (CONST,), generator, discriminator
