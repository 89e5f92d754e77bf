"""State dicts that ``torch.save`` wrote: rosinality's StyleGAN2, the PyTorch conversion of StyleGAN, the course's GAN.

pSp, e4e and ReStyle hold rosinality's generator as ``decoder.…``. The conversion stores no noise maps, and rarely the
mean of w; its instance norm adds 1e-5 to the variance, the official one 1e-8. The course is CMU 16-726.
"""

from helpers.generators.checkpoints import CheckpointError, Part, layout
from helpers.generators.checkpoints.values import LazyTensor, Record


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


def _rosinality(contents: layout.Contents) -> Part:
    state, root = contents.network("input.input").tensors, contents.root if isinstance(contents.root, dict) else {}
    tensors = layout.translated(state, GENERATOR)
    config, arguments, average = layout.generator_sizes(tensors), root.get("args"), root.get("latent_avg")
    arguments = arguments.state if isinstance(arguments, Record) else arguments
    rate = arguments.get("lr_mlp") if isinstance(arguments, dict) else None
    if isinstance(rate, int | float):
        config["lr_multiplier"] = float(rate)
    if isinstance(average, LazyTensor):
        tensors["mapping.w_avg"] = layout.to_tensor(average).reshape(-1, config["w_dim"]).mean(0)
    for name, value in state.items():  # blurs and up-samplings, some times 4
        if name.endswith(".kernel"):
            layout.check_filter(layout.to_tensor(value))
    return Part("stylegan2", config, tensors)


def _rosinality_discriminator(contents: layout.Contents) -> Part | None:
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
    tensors = {
        n: t.reshape(-1) if n.endswith("bias") else t for n, t in layout.translated(found.tensors, rules).items()
    }
    return Part("stylegan2", layout.discriminator_sizes(tensors), tensors)


CONST = "g_synthesis.blocks.4x4.const"
BLOCK, OURS = r"g_synthesis\.blocks\.(\d+)x\1\.", r"synthesis.b\1."
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
]
for _number in (1, 2):
    _theirs, _ours = rf"{BLOCK}epi{_number}\.", f"{OURS}conv{_number - 1}."
    CONVERTED += [
        (_theirs + r"top_epi\.noise\.weight", _ours + "noise_strength"),
        (_theirs + r"style_mod\.lin\.(weight|bias)", _ours + r"style.\2"),
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
    state, layer = contents.network(first).tensors, first.split(".")[0]
    shape = layout.shape_of(state, first, 4)
    first_width, z_dim, conv_dim = shape[out], shape[into], layout.shape_of(state, last, 4)[into]
    if not conv_dim or first_width % conv_dim:
        raise CheckpointError(f"its layers have {first_width} and {conv_dim} channels, which are not multiples.")
    config = {"z_dim": z_dim, "conv_dim": conv_dim, "first_multiplier": first_width // conv_dim}
    return _dcgan(config | {"layout": kind}, state, layer)


def _vanilla_discriminator(contents: layout.Contents) -> Part | None:
    found = contents.network("conv5.0.weight")
    if found is None:
        return None
    config = {"conv_dim": layout.shape_of(found.tensors, "conv1.0.weight", 4)[0], "norm": "instance"}
    return _dcgan(config | {"bias": "conv5.0.bias" in found.tensors}, found.tensors, "conv1")


def _dcgan(config: dict, state: dict, layer: str) -> Part:
    """All layers of the kind of one, without its number."""
    norm = {"norm": "batch"} if f"{layer}.1.running_mean" in state else {}
    tensors = {name: layout.to_tensor(value) for name, value in state.items() if name.startswith(layer[:-1])}
    return Part("dcgan", config | norm, tensors)


ROSINALITY = (lambda contents: contents.network("input.input")), _rosinality, _rosinality_discriminator
STYLEGAN1 = (lambda contents: contents.network(CONST)), _stylegan1, lambda contents: None
VANILLA = (lambda contents: any(map(contents.network, LAYOUTS))), _vanilla, _vanilla_discriminator
