"""Writers of every checkpoint format, from networks of this project and after the public layouts alone."""

import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

SOURCE = "import os\nos.mkdir('the source text was executed')\n"  # of module_src: nobody may run it


def stands_for(module, name):
    """Give a class or function the name of what it stands for, in a module that exists only here."""

    def renamed(thing):
        thing.__module__, thing.__qualname__ = module, name
        for part in (module.split(".")[0], "dnnlib.tflib", module):
            sys.modules.setdefault(part, types.ModuleType(part))
        setattr(sys.modules[module], name, thing)
        return thing

    return renamed


@stands_for("dnnlib.util", "EasyDict")
class EasyDict(dict):
    pass


@stands_for("dnnlib.tflib.network", "Network")
class Network:
    """Pickled by its state."""

    def __init__(self, **state):
        self.__dict__.update(state)


class Persistent:
    """Stands for an object of torch_utils.persistence: pickled as one call with a dict."""

    def __init__(self, class_name, state):
        self.meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": class_name, "state": state}

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,), None


@stands_for("torch_utils.persistence", "_reconstruct_persistent_obj")
def _reconstruct_persistent_obj(meta):
    raise AssertionError("a function that a checkpoint names was called")


def dump(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


CLASSES = {"FullyConnected": "FullyConnectedLayer", "ToRGB": "ToRGBLayer"}  # others are called as ours
FILTER = torch.tensor([[1.0, 3.0, 3.0, 1.0]]) * torch.tensor([[1.0], [3.0], [3.0], [1.0]]) / 64


def _module_state(module, **attributes):
    """The __dict__ of an nn.Module as it is pickled, with the attributes that the official classes have."""
    parameters = {n: p if p is None else nn.Parameter(p.detach().contiguous()) for n, p in module._parameters.items()}
    buffers = {n: b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set}
    state = {"training": False, "_parameters": OrderedDict(parameters), "_buffers": OrderedDict(buffers)}
    state |= {"_non_persistent_buffers_set": set(), "_modules": OrderedDict()}
    for hooks in ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks"):
        state[hooks] = OrderedDict()
    return state | {"_init_args": (), "_init_kwargs": EasyDict(attributes), **attributes}


def _persistent(module, clamp, kind=None):
    kind = kind or CLASSES.get(type(module).__name__, type(module).__name__)
    attributes = {"activation": "lrelu"}
    if kind in ("SynthesisLayer", "ToRGBLayer", "Conv2dLayer"):
        attributes |= {"conv_clamp": clamp, "act_gain": np.sqrt(2), "weight_gain": np.float64(0.5)}
    if kind == "SynthesisBlock":
        attributes |= {"architecture": "skip", "resolution": module.resolution, "use_fp16": True}
    if kind == "DiscriminatorBlock":
        attributes |= {"architecture": "resnet" if hasattr(module, "skip") else "orig", "use_fp16": True}
    if kind == "FullyConnectedLayer":
        attributes |= {"bias_gain": module.bias_gain, "activation": "lrelu" if module.activation else "linear"}
    state = _module_state(module, **attributes)
    if kind in ("Conv2dLayer", "SynthesisBlock", "SynthesisLayer", "DiscriminatorBlock"):
        state["_buffers"]["resample_filter"] = FILTER.clone()  # everywhere, also where nothing is resampled
    for name, child in module.named_children():
        state["_modules"][name] = _persistent(child, None if name == "skip" else clamp)
    if kind == "DiscriminatorEpilogue":
        statistics = _module_state(nn.Module(), group_size=module.group_size or None, num_channels=1)
        state["_modules"]["mbstd"] = Persistent("MinibatchStdLayer", statistics)
    return Persistent(kind, state)


def official_pickle(path, generator, discriminator=None, protocol=4):
    """A pickle of the official PyTorch releases: G, D, G_ema and what else training puts into it."""
    clamp = generator.config.get("conv_clamp")
    network = _persistent(generator, clamp, "Generator")
    facts = {"z_dim": generator.z_dim, "c_dim": generator.c_dim, "w_dim": generator.w_dim, "img_channels": 3}
    network.meta["state"].update(facts, img_resolution=generator.resolution, num_ws=generator.num_ws)
    content = {"training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", xflip=True)}
    content |= {"G": network, "D": discriminator and _persistent(discriminator, clamp, "Discriminator")}
    return dump(path, content | {"G_ema": network, "augment_pipe": None}, protocol)


def _transposed(tensor):
    axes = (2, 3, 1, 0) if tensor.ndim == 4 else (1, 0)
    return np.ascontiguousarray(tensor.numpy().transpose(axes))


def _tf(place, layer, weight=None):
    weight = layer.weight if weight is None else weight
    bias = [] if layer.bias is None else [(f"{place}/bias", layer.bias.numpy())]
    return [(f"{place}/weight", _transposed(weight)), *bias]


def _tf_mapping(mapping):
    variables = [entry for i in range(mapping.num_layers) for entry in _tf(f"Dense{i}", getattr(mapping, f"fc{i}"))]
    if hasattr(mapping, "label_weight"):
        variables.append(("LabelConcat/weight", mapping.label_weight.numpy()))
    return variables + (_tf("LabelEmbed", mapping.embed) if hasattr(mapping, "embed") else [])


def tensorflow_pickle(path, generator, protocol=4, alone=False, critic=None, **arguments):
    """A pickle of the official TensorFlow releases: (G, D, Gs), or one network. critic: the discriminator."""
    first = generator.family == "stylegan1"
    synthesis = _tf_stylegan1(generator) if first else _tf_stylegan2(generator)
    clamp = generator.config.get("conv_clamp")
    arguments = EasyDict({"resolution": generator.resolution} | ({"conv_clamp": clamp} if clamp else {}) | arguments)

    def network(name, variables, components=None):
        facts = {"version": 3 if first else 4, "name": name, "static_kwargs": arguments}
        facts |= {"build_module_src": SOURCE, "build_func_name": "G_main", "variables": variables}
        return Network(**facts, components=EasyDict(components or {}))

    mapping = _tf_mapping(generator.mapping)
    parts = {"synthesis": network("G_synthesis", synthesis), "mapping": network("G_mapping", mapping)}
    own = [("lod", np.float32(0)), ("dlatent_avg", generator.w_mean.numpy())]
    averaged = network("Gs", own, parts)
    discriminator = network("D", _tf_discriminator(critic) if critic else [("lod", np.float32(0))])
    if critic:
        plain = critic.config.get("architecture", "resnet")
        facts = {"architecture": plain, "mbstd_group_size": critic.b4.group_size or None, "mapping_lrmul": 0.01}
        discriminator.static_kwargs = EasyDict(facts | arguments)
    return dump(path, averaged if alone else (network("G", own, parts), discriminator, averaged), protocol)


def _tf_stylegan2(generator):
    variables, index = [("4x4/Const/const", generator.synthesis.b4.const[None].numpy())], 0
    for r in generator.synthesis.resolutions:
        block = getattr(generator.synthesis, f"b{r}")
        for name in block.convs:
            layer, place = getattr(block, name), {"conv0": "Conv0_up", "conv1": "Conv1" if r > 4 else "Conv"}[name]
            weight = layer.weight.flip(2, 3) if name == "conv0" else layer.weight
            variables += _tf_modulated(f"{r}x{r}/{place}", layer, weight)
            variables.append((f"{r}x{r}/{place}/noise_strength", np.float32(layer.noise_strength.item())))
            variables.append((f"noise{index}", layer.noise_const[None, None].numpy()))
            index += 1
        variables += _tf_modulated(f"{r}x{r}/ToRGB", block.torgb, block.torgb.weight)
    return variables


def _tf_modulated(place, layer, weight):
    style = layer.affine
    styles = [(f"{place}/mod_weight", _transposed(style.weight)), (f"{place}/mod_bias", style.bias.numpy() - 1)]
    return _tf(place, layer, weight) + styles


def _tf_discriminator(critic):
    places = {f"b{critic.resolutions[0]}.fromrgb": "{0}x{0}/FromRGB".format(critic.resolutions[0])}
    for r in critic.resolutions:
        places |= {f"b{r}.conv0": f"{r}x{r}/Conv0", f"b{r}.conv1": f"{r}x{r}/Conv1_down", f"b{r}.skip": f"{r}x{r}/Skip"}
    places |= {"b4.conv": "4x4/Conv", "b4.fc": "4x4/Dense0", "b4.out": "Output", "mapping.embed": "LabelEmbed"}
    places |= {f"mapping.fc{i}": f"Mapping{i}" for i in range(8)}
    layers = {name: layer for name, layer in critic.named_modules() if hasattr(layer, "weight")}
    return [entry for name, layer in layers.items() for entry in _tf(places[name], layer)]


def _tf_stylegan1(generator):
    synthesis = generator.synthesis
    variables = [("lod", np.float32(0)), ("4x4/Const/const", synthesis.const[None].numpy())]
    variables.append(("ToRGB_lod0/weight", _transposed(synthesis.rgb_weight)))
    variables.append(("ToRGB_lod0/bias", synthesis.rgb_bias.numpy()))
    for index, (name, layer) in enumerate(synthesis.layers()):
        block, which = name.split(".")
        r = int(block[1:])
        place = {"conv0": "Conv0_up" if r > 4 else "Const", "conv1": "Conv1" if r > 4 else "Conv"}[which]
        place = f"{r}x{r}/{place}"
        if hasattr(layer, "weight"):
            variables += _tf(place, layer, layer.weight.flip(2, 3) if layer.up and r >= 128 else None)
        else:
            variables.append((f"{place}/bias", layer.bias.numpy()))
        variables += _tf(f"{place}/StyleMod", layer.style)
        variables.append((f"{place}/Noise/weight", layer.noise_strength.numpy()))
        variables.append((f"noise{index}", layer.noise_const[None, None].numpy()))
    return variables


def rosinality_pt(path, generator, zipped=True, extra=None, noise=True):
    """A checkpoint of rosinality's StyleGAN2: state dicts and latent_avg."""
    state = OrderedDict()
    for i in range(generator.mapping.num_layers):
        layer = getattr(generator.mapping, f"fc{i}")
        state[f"style.{i + 1}.weight"], state[f"style.{i + 1}.bias"] = layer.weight, layer.bias
    state["input.input"] = generator.synthesis.b4.const[None]
    for index, (name, layer) in enumerate(generator.synthesis.layers()):
        place = f"convs.{index - 1}" if index else "conv1"
        state |= _rosinality_modulated(place, layer)
        state |= {f"{place}.noise.weight": layer.noise_strength.reshape(1), f"{place}.activate.bias": layer.bias}
        if name.endswith("conv0"):
            state[f"{place}.conv.blur.kernel"] = FILTER * 4
        if noise:
            state[f"noises.noise_{index}"] = layer.noise_const[None, None]
    for i, r in enumerate(generator.synthesis.resolutions):
        torgb, place = getattr(generator.synthesis, f"b{r}").torgb, f"to_rgbs.{i - 1}" if i else "to_rgb1"
        state |= _rosinality_modulated(place, torgb) | {f"{place}.bias": torgb.bias[None, :, None, None]}
        if i:
            state[f"{place}.upsample.kernel"] = FILTER * 4
    content = {"g_ema": state, "latent_avg": generator.w_mean} | (extra or {})
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def _rosinality_modulated(place, layer):
    return {
        f"{place}.conv.weight": layer.weight[None].contiguous(),
        f"{place}.conv.modulation.weight": layer.affine.weight,
        f"{place}.conv.modulation.bias": layer.affine.bias,
    }


def rosinality_discriminator(critic):
    """The state dict of rosinality's discriminator."""
    places = {f"b{critic.resolutions[0]}.fromrgb": ("convs.0.0", "convs.0.1")}
    for i, r in enumerate(critic.resolutions, 1):
        places[f"b{r}.conv0"] = f"convs.{i}.conv1.0", f"convs.{i}.conv1.1"
        places[f"b{r}.conv1"] = f"convs.{i}.conv2.1", f"convs.{i}.conv2.2"
        places[f"b{r}.skip"] = f"convs.{i}.skip.1", None
    places |= {"b4.conv": ("final_conv.0", "final_conv.1"), "b4.fc": ("final_linear.0",) * 2}
    places |= {"b4.out": ("final_linear.1",) * 2}
    state = OrderedDict()
    for name, value in critic.state_dict().items():
        layer, part = name.rsplit(".", 1)
        if part in ("weight", "bias"):
            state[f"{places[layer][part == 'bias']}.{part}"] = value.contiguous()
    state |= {f"convs.{i}.skip.0.kernel": FILTER.clone() for i in range(1, len(critic.resolutions) + 1)}
    return state


def stylegan1_state(generator):
    """The state dict of the common PyTorch conversion of StyleGAN."""
    state, blocks = OrderedDict(), "g_synthesis.blocks"
    for i in range(generator.mapping.num_layers):
        layer = getattr(generator.mapping, f"fc{i}")
        state[f"g_mapping.dense{i}.weight"], state[f"g_mapping.dense{i}.bias"] = layer.weight, layer.bias
    synthesis = generator.synthesis
    state["g_synthesis.torgb.weight"], state["g_synthesis.torgb.bias"] = synthesis.rgb_weight, synthesis.rgb_bias
    state[f"{blocks}.4x4.const"] = synthesis.const[None]
    for name, layer in synthesis.layers():
        block, which = name.split(".")
        r, up = int(block[1:]), layer.up
        place, second = f"{blocks}.{r}x{r}", which == "conv1"
        convolution = ("conv1" if r > 4 else "conv") if second else "conv0_up"
        if hasattr(layer, "weight"):
            weight = layer.weight.flip(2, 3) if up and r >= 128 else layer.weight
            state[f"{place}.{convolution}.weight"] = weight.contiguous()
        state[f"{place}.{convolution}.bias" if hasattr(layer, "weight") else f"{place}.bias"] = layer.bias
        if up:
            state[f"{place}.conv0_up.intermediate.kernel"] = torch.tensor([[[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]]]) / 16
        state[f"{place}.epi{1 + second}.top_epi.noise.weight"] = layer.noise_strength
        for part in ("weight", "bias"):
            state[f"{place}.epi{1 + second}.style_mod.lin.{part}"] = getattr(layer.style, part)
    return OrderedDict((name, value.detach().clone()) for name, value in state.items())


def stylegan1_pt(path, generator, zipped=True):
    torch.save(stylegan1_state(generator), path, _use_new_zipfile_serialization=zipped)
    return path
