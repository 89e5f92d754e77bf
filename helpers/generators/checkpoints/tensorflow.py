"""Pickles of the official TensorFlow releases: StyleGAN, StyleGAN2 and StyleGAN2-ADA.

The file is one pickle of a tuple ``(G, D, Gs)``, or of one network. Each is a ``dnnlib.tflib.network.Network`` whose
state is a dict: ``version`` (2 to 5), ``name``, ``static_kwargs`` (the arguments of its function, without defaults),
``components`` (its sub-networks ``mapping`` and ``synthesis``, again networks), ``build_module_src`` (source text that
the original code executes and that is never looked at here), ``build_func_name`` and ``variables``, a list of (name,
array). ``Gs`` is the averaged generator.

Weights are stored (in, out) and (height, width, in, out). The convolutions that double the size in StyleGAN2 are
stored turned by 180 degrees, biases of style layers without their 1. The first StyleGAN doubles sizes from 128 on by a
transposed convolution, which is ours with the kernel turned (``fused_scale`` "auto").

Names: ``dlatent_avg``, ``mapping/Dense0/weight``, ``mapping/LabelConcat/weight`` (or, in ADA, ``LabelEmbed``),
``synthesis/noise0``. StyleGAN2: ``synthesis/4x4/Const/const``, ``4x4/Conv/weight``, ``mod_weight``, ``mod_bias``,
``noise_strength``, ``8x8/Conv0_up``, ``8x8/Conv1``, ``8x8/ToRGB``. StyleGAN:
``4x4/Const/const``, ``4x4/Const/Noise/weight``, ``4x4/Const/StyleMod/weight``, ``4x4/Conv``, ``8x8/Conv0_up``,
``8x8/Conv1``, ``ToRGB_lod0``. Discriminators of StyleGAN2 are read too: ``16x16/FromRGB``, ``16x16/Conv0``,
``Conv1_down``, ``Skip``, ``4x4/Conv``, ``4x4/Dense0``, ``Output``, ``LabelEmbed``, ``Mapping0``.
"""

from __future__ import annotations

from torch import Tensor

from helpers.generators.checkpoints.layout import (
    Contents,
    Part,
    channel_rule,
    count,
    expect,
    log2,
    shape_of,
    side,
    take,
    to_tensor,
    walk,
)
from helpers.generators.checkpoints.values import CheckpointError, Record

FORMAT = "official TensorFlow pickle (StyleGAN, StyleGAN2)"
DEFAULTS = {  # arguments that change the images, with the only values that are read
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "normalize_latents": True,
    "resample_kernel": [1, 3, 3, 1],
    "blur_filter": [1, 2, 1],
    "use_pixel_norm": False,
    "use_instance_norm": True,
    "use_styles": True,
    "const_input_layer": True,
    "use_wscale": True,
    "use_noise": True,
    "num_channels": 3,
}


def _networks(contents: Contents) -> list:
    root = contents.root
    return list(root)[:4] if isinstance(root, tuple | list) else [root]


def matches(contents: Contents) -> bool:
    found = _networks(contents)
    return 1 <= len(found) <= 3 and all(isinstance(n, Record) and n.kind.endswith(".Network") for n in found)


def generator(contents: Contents) -> Part:
    variables, arguments = _variables(_networks(contents)[-1])
    for name, value in DEFAULTS.items():
        expect(arguments.get(name, value) == value, f"{name} is not {value}")
    if "synthesis/4x4/Const/StyleMod/weight" in variables:
        return _stylegan1(variables, arguments)
    if "synthesis/4x4/Conv/mod_weight" in variables:
        return _stylegan2(variables, arguments)
    raise CheckpointError("its network is neither a StyleGAN nor a StyleGAN2 generator.")


def _variables(record: Record) -> tuple[dict, dict]:
    """Arrays and numbers by name, those of sub-networks after the sub-network's name; and the network's arguments."""
    found = {}
    for prefix, network in walk(record, lambda node: _facts(node).get("components") or {}):
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


def _resolution(variables: dict, suffix: str) -> int:
    """The last resolution that has the layer ``synthesis/RxR/suffix``."""
    sizes = [r for r in (2**i for i in range(3, 12)) if f"synthesis/{r}x{r}/{suffix}" in variables]
    return side([4, *sizes])


def _tensor(variables: dict, name: str, dims: int) -> Tensor:
    shape_of(variables, name, dims)
    return to_tensor(variables[name])


def _kernel(variables: dict, name: str, turned: bool = False) -> Tensor:
    """(height, width, in, out) to (out, in, height, width)."""
    kernel = _tensor(variables, name, 4).permute(3, 2, 0, 1)
    return kernel.flip(2, 3) if turned else kernel


def _matrix(variables: dict, name: str) -> Tensor:
    """(in, out) to (out, in)."""
    return _tensor(variables, name, 2).t()


def _vector(variables: dict, name: str) -> Tensor:
    return _tensor(variables, name, 1)


def _noise(variables: dict, index: int) -> Tensor:
    return _tensor(variables, f"synthesis/noise{index}", 4)[0, 0]


def _mapping(variables: dict, arguments: dict) -> tuple[dict, dict[str, Tensor]]:
    """Arguments and tensors of the mapping network, the same in both families."""
    layers = count(variables, "mapping/Dense{}/weight")
    tensors = {"mapping.w_avg": _vector(variables, "dlatent_avg")}
    for i in range(layers):
        tensors[f"mapping.fc{i}.weight"] = _matrix(variables, f"mapping/Dense{i}/weight")
        tensors[f"mapping.fc{i}.bias"] = _vector(variables, f"mapping/Dense{i}/bias")
    w_dim, in_features = tensors["mapping.fc0.weight"].shape
    config = {"w_dim": w_dim, "z_dim": in_features, "mapping_layers": layers, "c_dim": 0}
    config["lr_multiplier"] = float(arguments.get("mapping_lrmul", 0.01))
    if "mapping/LabelConcat/weight" in variables:
        labels = tensors["mapping.label_weight"] = _tensor(variables, "mapping/LabelConcat/weight", 2)
        config |= {"c_dim": labels.shape[0], "z_dim": in_features - labels.shape[1]}
    elif "mapping/LabelEmbed/weight" in variables:
        labels = tensors["mapping.embed.weight"] = _matrix(variables, "mapping/LabelEmbed/weight")
        tensors["mapping.embed.bias"] = _vector(variables, "mapping/LabelEmbed/bias")
        config |= {"c_dim": labels.shape[1], "z_dim": in_features - labels.shape[0]}
    return config, tensors


# --- StyleGAN2 -------------------------------------------------------------------------------------------------------


def _stylegan2(variables: dict, arguments: dict) -> Part:
    architecture = str(arguments.get("architecture", "skip"))[:20]
    expect(architecture == "skip", f"its generator has the architecture {architecture!r}, only 'skip' is read")
    resolution = _resolution(variables, "Conv1/weight")
    expect("synthesis/4x4/ToRGB/weight" in variables, "it is of the configurations A to D, which grow")
    config, tensors = _mapping(variables, arguments)
    if config["c_dim"]:
        config["labels"] = "concat" if "mapping.label_weight" in tensors else "embed"
    tensors["synthesis.b4.const"] = _tensor(variables, "synthesis/4x4/Const/const", 4)[0]
    widths = {}
    for r in (2**i for i in range(2, log2(resolution) + 1)):
        names = {"conv0": "Conv0_up", "conv1": "Conv1"} if r > 4 else {"conv1": "Conv"}
        for ours, theirs in names.items():
            source, target = f"synthesis/{r}x{r}/{theirs}", f"synthesis.b{r}.{ours}"
            tensors |= _modulated(variables, source, target, turned=ours == "conv0")
            tensors[f"{target}.noise_const"] = _noise(variables, 2 * log2(r) - (5 if ours == "conv0" else 4))
            tensors[f"{target}.noise_strength"] = to_tensor(take(variables, f"{source}/noise_strength")).reshape(())
        tensors |= _modulated(variables, f"synthesis/{r}x{r}/ToRGB", f"synthesis.b{r}.torgb")
        widths[r] = tensors[f"synthesis.b{r}.conv1.weight"].shape[0]
    clamp = arguments.get("conv_clamp")
    config |= {"resolution": resolution, **channel_rule(widths), "conv_clamp": clamp}
    return Part("stylegan2", config, tensors)


def _modulated(variables: dict, source: str, target: str, turned: bool = False) -> dict[str, Tensor]:
    return {
        f"{target}.weight": _kernel(variables, f"{source}/weight", turned),
        f"{target}.bias": _vector(variables, f"{source}/bias"),
        f"{target}.affine.weight": _matrix(variables, f"{source}/mod_weight"),
        f"{target}.affine.bias": _vector(variables, f"{source}/mod_bias") + 1,
    }


def discriminator(contents: Contents) -> Part | None:
    if len(_networks(contents)) != 3:
        return None
    variables, arguments = _variables(_networks(contents)[1])
    sizes = [r for r in (2**i for i in range(3, 12)) if f"{r}x{r}/Conv0/weight" in variables]
    resolution, kind = side([4, *sizes]), arguments.get("architecture", "resnet")
    expect(f"{resolution}x{resolution}/FromRGB/weight" in variables, "its discriminator grows")
    expect(kind in ("resnet", "orig"), "its discriminator is neither of the kind 'resnet' nor 'orig'")
    expect(arguments.get("mbstd_num_features", 1) == 1, "its minibatch standard deviation has more than one channel")
    names = {f"b{resolution}.fromrgb": f"{resolution}x{resolution}/FromRGB", "b4.conv": "4x4/Conv"}
    for r in sizes:
        names |= {f"b{r}.conv0": f"{r}x{r}/Conv0", f"b{r}.conv1": f"{r}x{r}/Conv1_down"}
    tensors = {}
    for ours, theirs in names.items():
        tensors[f"{ours}.weight"] = _kernel(variables, f"{theirs}/weight")
        tensors[f"{ours}.bias"] = _vector(variables, f"{theirs}/bias")
    for r in sizes if kind == "resnet" else []:
        tensors[f"b{r}.skip.weight"] = _kernel(variables, f"{r}x{r}/Skip/weight")
    dense, layers = {"b4.fc": "4x4/Dense0", "b4.out": "Output"}, 0
    if "LabelEmbed/weight" in variables:
        layers = count(variables, "Mapping{}/weight") if "Mapping0/weight" in variables else 0
        dense |= {"mapping.embed": "LabelEmbed"} | {f"mapping.fc{i}": f"Mapping{i}" for i in range(layers)}
    for ours, theirs in dense.items():
        tensors[f"{ours}.weight"] = _matrix(variables, f"{theirs}/weight")
        tensors[f"{ours}.bias"] = _vector(variables, f"{theirs}/bias")
    widths = {4: tensors["b4.conv.weight"].shape[0]} | {r: tensors[f"b{r}.conv0.weight"].shape[0] for r in sizes}
    config = {"resolution": resolution, **channel_rule(widths), "conv_clamp": arguments.get("conv_clamp")}
    config |= {"group_size": int(arguments.get("mbstd_group_size", 4) or 0), "architecture": kind}
    if "mapping.embed.weight" in tensors:
        config |= {"c_dim": tensors["mapping.embed.weight"].shape[1], "mapping_layers": layers}
        config["lr_multiplier"] = float(arguments.get("mapping_lrmul", 0.1))
    return Part("stylegan2", config, tensors)


# --- StyleGAN --------------------------------------------------------------------------------------------------------


def _stylegan1(variables: dict, arguments: dict) -> Part:
    resolution = _resolution(variables, "Conv1/weight")
    expect(to_tensor(variables.get("lod", 0.0)).item() == 0, "it has not grown to its last resolution")
    fused = arguments.get("fused_scale", "auto")
    config, tensors = _mapping(variables, arguments)
    tensors["synthesis.const"] = _tensor(variables, "synthesis/4x4/Const/const", 4)[0]
    tensors["synthesis.rgb_weight"] = _kernel(variables, "synthesis/ToRGB_lod0/weight")
    tensors["synthesis.rgb_bias"] = _vector(variables, "synthesis/ToRGB_lod0/bias")
    widths = {}
    for r in (2**i for i in range(2, log2(resolution) + 1)):
        names = {"conv0": "Conv0_up", "conv1": "Conv1"} if r > 4 else {"conv0": "Const", "conv1": "Conv"}
        for j, (ours, theirs) in enumerate(names.items()):
            source, target = f"synthesis/{r}x{r}/{theirs}", f"synthesis.b{r}.{ours}"
            if theirs != "Const":
                turned = theirs == "Conv0_up" and (fused is True or (fused == "auto" and r >= 128))
                tensors[f"{target}.weight"] = _kernel(variables, f"{source}/weight", turned)
            tensors[f"{target}.bias"] = _vector(variables, f"{source}/bias")
            tensors[f"{target}.noise_strength"] = _vector(variables, f"{source}/Noise/weight")
            tensors[f"{target}.noise_const"] = _noise(variables, 2 * log2(r) - 4 + j)
            tensors[f"{target}.style.weight"] = _matrix(variables, f"{source}/StyleMod/weight")
            tensors[f"{target}.style.bias"] = _vector(variables, f"{source}/StyleMod/bias")
        widths[r] = tensors[f"synthesis.b{r}.conv1.weight"].shape[0]
    config |= {"resolution": resolution, **channel_rule(widths), "eps": 1e-8}
    return Part("stylegan1", config, tensors)
