"""Pickles of the official TensorFlow releases: StyleGAN, StyleGAN2 and StyleGAN2-ADA.

A tuple ``(G, D, Gs)``, of which ``Gs`` is the averaged generator, or one network: its arguments without defaults,
sub-networks, variables, and a source text that is never looked at here. Weights are stored (in, out) and (height,
width, in, out). Convolutions that double the size by transposition, in StyleGAN from 128 on, are turned by 180 degrees.
"""

from torch import Tensor

from helpers.generators.checkpoints import CheckpointError, Part, layout
from helpers.generators.checkpoints.values import Record

ON = ("normalize_latents", "use_instance_norm", "use_styles", "const_input_layer", "use_wscale", "use_noise")
DEFAULTS = {  # arguments that change the images, with the only values that are read
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "resample_kernel": [1, 3, 3, 1],
    "blur_filter": [1, 2, 1],
    "num_channels": 3,
    "use_pixel_norm": False,
} | dict.fromkeys(ON, True)


def turned(t: Tensor) -> Tensor:
    """(height, width, in, out) to (out, in, height, width), and (in, out) to (out, in)."""
    return t.permute(3, 2, 0, 1) if t.ndim == 4 else t.t() if t.ndim == 2 else t


def flipped(t: Tensor) -> Tensor:
    return turned(t).flip(2, 3)


PLACE, OURS = r"synthesis/(\d+)x\1/", r"synthesis.b\1."
MAPPING = [
    (r"dlatent_avg", "mapping.w_avg"),
    (r"mapping/Dense(\d+)/(weight|bias)", r"mapping.fc\1.\2", turned),
    (r"mapping/LabelConcat/weight", "mapping.label_weight"),
    (r"mapping/LabelEmbed/(weight|bias)", r"mapping.embed.\1", turned),
]
STYLEGAN2 = [
    *MAPPING,
    (r"synthesis/4x4/Const/const", "synthesis.b4.const", lambda t: t[0]),
    (PLACE + "Conv0_up/weight", OURS + "conv0.weight", flipped),
    (r"synthesis/noise(\d+)", lambda m: _noise_of(int(m[1]) + 1), lambda t: t[0, 0]),
]
for _theirs, _ours in (("Conv0_up", "conv0"), ("Conv1?", "conv1"), ("ToRGB", "torgb")):
    STYLEGAN2 += [
        (f"{PLACE}{_theirs}/(weight|bias)", f"{OURS}{_ours}.\\2", turned),
        (f"{PLACE}{_theirs}/mod_weight", f"{OURS}{_ours}.affine.weight", turned),
        (f"{PLACE}{_theirs}/mod_bias", f"{OURS}{_ours}.affine.bias", lambda t: t + 1),
        (f"{PLACE}{_theirs}/noise_strength", f"{OURS}{_ours}.noise_strength", lambda t: t.reshape(())),
    ]
CRITIC = [
    (r"(\d+)x\1/(FromRGB|Conv0)/(weight|bias)", lambda m: f"b{m[1]}.{m[2].lower()}.{m[3]}", turned),
    (r"(\d+)x\1/Conv1_down/(weight|bias)", r"b\1.conv1.\2", turned),
    (r"(\d+)x\1/Skip/weight", r"b\1.skip.weight", turned),
    (r"4x4/Conv/(weight|bias)", r"b4.conv.\1", turned),
    (r"4x4/Dense0/(weight|bias)", r"b4.fc.\1", turned),
    (r"Output/(weight|bias)", r"b4.out.\1", turned),
    (r"LabelEmbed/(weight|bias)", r"mapping.embed.\1", turned),
    (r"Mapping(\d+)/(weight|bias)", r"mapping.fc\1.\2", turned),
]


def _noise_of(number: int) -> str:
    """Our name of noise maps: two for each resolution."""
    return f"synthesis.b{4 * 2 ** (number // 2)}.conv{number % 2}.noise_const"


def _stylegan1(fused) -> list[tuple]:
    """Rules of StyleGAN; fused: whether sizes are doubled by transposed convolutions ("auto": from 128 on)."""
    large = {True: r"synthesis/(\d+)x\1/", "auto": r"synthesis/(\d{3,})x\1/"}.get(fused)
    rules = [
        *MAPPING,
        (r"synthesis/4x4/Const/const", "synthesis.const", lambda t: t[0]),
        (r"synthesis/ToRGB_lod0/(weight|bias)", r"synthesis.rgb_\1", turned),
        (r"synthesis/noise(\d+)", lambda m: _noise_of(int(m[1])), lambda t: t[0, 0]),
        *([(large + "Conv0_up/weight", OURS + "conv0.weight", flipped)] if large else []),
    ]
    for theirs, ours in (("Conv0_up|Const", "conv0"), ("Conv1?", "conv1")):
        rules += [
            (f"{PLACE}(?:{theirs})/(weight|bias)", f"{OURS}{ours}.\\2", turned),
            (f"{PLACE}(?:{theirs})/Noise/weight", f"{OURS}{ours}.noise_strength"),
            (f"{PLACE}(?:{theirs})/StyleMod/(weight|bias)", f"{OURS}{ours}.style.\\2", turned),
        ]
    return rules


def _networks(contents: layout.Contents) -> list:
    root = contents.root
    return list(root)[:4] if isinstance(root, tuple | list) else [root]


def matches(contents: layout.Contents) -> bool:
    found = _networks(contents)
    return 1 <= len(found) <= 3 and all(isinstance(n, Record) and n.kind.endswith(".Network") for n in found)


def generator(contents: layout.Contents) -> Part:
    variables, arguments = _variables(_networks(contents)[-1])
    for name, value in DEFAULTS.items():
        layout.expect(arguments.get(name, value) == value, f"{name} is not {value}")
    config = {"lr_multiplier": float(arguments.get("mapping_lrmul", 0.01))}
    if "synthesis/4x4/Const/StyleMod/weight" in variables:
        layout.expect(
            layout.to_tensor(variables.get("lod", 0.0)).item() == 0, "it has not grown to its last resolution"
        )
        tensors = layout.translated(variables, _stylegan1(arguments.get("fused_scale", "auto")))
        return Part("stylegan1", config | layout.generator_sizes(tensors) | {"eps": 1e-8}, tensors)
    if "synthesis/4x4/Conv/mod_weight" not in variables:
        raise CheckpointError("its network is neither a StyleGAN nor a StyleGAN2 generator.")
    architecture = str(arguments.get("architecture", "skip"))[:20]
    layout.expect(architecture == "skip", f"its generator has the architecture {architecture!r}, only 'skip' is read")
    layout.expect("synthesis/4x4/ToRGB/weight" in variables, "it is of the configurations A to D, which grow")
    tensors = layout.translated(variables, STYLEGAN2)
    config |= {"labels": "concat"} if "mapping.label_weight" in tensors else {}
    return Part(
        "stylegan2", config | layout.generator_sizes(tensors) | {"conv_clamp": arguments.get("conv_clamp")}, tensors
    )


def discriminator(contents: layout.Contents) -> Part | None:
    if len(_networks(contents)) != 3:
        return None
    variables, arguments = _variables(_networks(contents)[1])
    kind = arguments.get("architecture", "resnet")
    layout.expect(any(name.endswith("/FromRGB/weight") for name in variables), "its discriminator grows")
    layout.expect(kind in ("resnet", "orig"), "its discriminator is neither of the kind 'resnet' nor 'orig'")
    layout.expect(
        arguments.get("mbstd_num_features", 1) == 1, "its minibatch standard deviation has more than one channel"
    )
    tensors = layout.translated(variables, CRITIC)
    config = layout.discriminator_sizes(tensors) | {"conv_clamp": arguments.get("conv_clamp"), "architecture": kind}
    config["group_size"] = int(arguments.get("mbstd_group_size", 4) or 0)
    config["lr_multiplier"] = float(arguments.get("mapping_lrmul", 0.1))
    return Part("stylegan2", config, tensors)


def _variables(record: Record) -> tuple[dict, dict]:
    """Arrays and numbers by name, those of sub-networks after the sub-network's name; and the network's arguments."""
    found = {}
    for prefix, network in layout.walk(record, lambda node: _facts(node).get("components") or {}):
        variables = _facts(network).get("variables")
        if not isinstance(variables, list | tuple):
            raise CheckpointError("it is damaged: a network has no variables.")
        for entry in variables[:5_000]:
            if not isinstance(entry, tuple | list) or len(entry) != 2 or not isinstance(entry[0], str):
                raise CheckpointError("it is damaged: a variable has no name.")
            found[f"{prefix}/{entry[0]}" if prefix else entry[0]] = entry[1]
    facts = _facts(record)
    version, arguments = facts.get("version"), facts.get("static_kwargs")
    if type(version) is not int or not 2 <= version <= 6 or type(arguments) is not dict:
        raise CheckpointError("its network is of a version that is not read (2 to 5 are).")
    return found, arguments


def _facts(record) -> dict:
    if not isinstance(record, Record) or type(record.state) is not dict:
        raise CheckpointError("it is damaged: a network has no state.")
    return record.state


READER = matches, generator, discriminator
