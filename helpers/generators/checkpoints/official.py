"""Pickles of the official PyTorch releases, StyleGAN2-ADA and the StyleGAN2 configurations of the StyleGAN3 release.

The file is one pickle of a dict: ``G``, ``D``, ``G_ema``, ``training_set_kwargs``, ``augment_pipe`` and others.
Each network, and each module in it, is a persistent object: ``torch_utils.persistence._reconstruct_persistent_obj``
called with one dict of ``type`` ("class"), ``version`` (6), ``module_src`` (the source text of the whole module, which
the original code executes and which is never looked at here), ``class_name`` and ``state``. The state is the
``__dict__`` of an ``nn.Module``: ``_parameters``, ``_buffers`` and ``_modules`` (ordered dicts, the last with
persistent objects again), ``_init_args`` and ``_init_kwargs``, and plain attributes: ``z_dim``, ``c_dim``, ``w_dim``,
``img_resolution``, and in the layers ``conv_clamp``, ``activation``, ``architecture``.

Parameters are ``torch._utils._rebuild_parameter`` of ``_rebuild_tensor_v2`` of a storage, which is a whole legacy file
of torch.save in a string (``torch.storage._load_from_bytes``). Names: ``mapping.embed``, ``mapping.fc0`` …,
``mapping.w_avg``; ``synthesis.b4.const``, ``synthesis.b8.conv0.weight``, ``.bias``, ``.noise_const``,
``.noise_strength``, ``.affine``, ``.resample_filter``; ``synthesis.b8.torgb``. Those of our StyleGAN2 are the same.
Layers marked for float16 (``use_fp16``) are computed in float32 here; ``conv_clamp`` is kept.

PTI, DragGAN and others write the same networks with torch.save: a module alone (``torch.save(G)``), or state dicts,
which lack the attributes; the release's own values (``conv_clamp`` 256) are taken then.
"""

from __future__ import annotations

from helpers.generators.checkpoints.layout import (
    Contents,
    check_filter,
    discriminator_sizes,
    expect,
    generator_sizes,
    shape_of,
    to_tensor,
)
from helpers.generators.checkpoints.own import CheckpointError, Part
from helpers.generators.checkpoints.values import Record

FORMAT = "official PyTorch pickle (StyleGAN2-ADA, StyleGAN3 release)"
ALIAS_FREE, CONST = "synthesis.input.freqs", "synthesis.b4.const"


def matches(contents: Contents) -> bool:
    root = contents.root
    whole = isinstance(root, dict) and isinstance(root.get("G_ema"), Record)
    return whole or bool(contents.network(CONST) or contents.network(ALIAS_FREE))


def _attribute(modules: dict[str, dict], attribute: str, default=None):
    """The value that an attribute has in all modules that have it; CheckpointError if they differ."""
    values = {repr(v): v for s in modules.values() if isinstance(v := s.get(attribute), int | float | str)}
    expect(len(values) <= 1, f"{attribute} is not the same in all layers")
    return next(iter(values.values()), default)


def _tensors(found: Contents, *prefixes: str) -> dict:
    read = {name: to_tensor(value) for name, value in found.tensors.items() if name.startswith(prefixes)}
    for name in read:
        if name.endswith("resample_filter"):
            check_filter(read[name])
    return read


def generator(contents: Contents) -> Part:
    found = contents.network(CONST)
    if found is None:
        alias_free = contents.network(ALIAS_FREE)
        kind = "StyleGAN3 generator (alias-free)" if alias_free else contents.root["G_ema"].kind
        raise CheckpointError(f"its generator is a {kind}, which is not read; take a StyleGAN2 configuration.")
    tensors, modules = found.tensors, found.modules
    layers = {name: state for name, state in modules.items() if name.startswith("synthesis.b")}
    convolutions = {name: state for name, state in layers.items() if ".conv" in name and name.count(".") == 2}
    skips = any(name.endswith(".skip.weight") for name in tensors)
    plain = "skip" if "synthesis.b4.torgb.weight" in tensors else "resnet" if skips else "orig"
    architecture = str(_attribute(layers, "architecture", plain))
    expect(architecture == "skip", f"its generator has the architecture {architecture!r}, only 'skip' is read")
    expect(shape_of(tensors, "synthesis.b4.torgb.weight", 4)[0] == 3, "its images do not have 3 channels")
    expect(_attribute(convolutions, "activation", "lrelu") == "lrelu", "its activation is not a leaky ReLU")
    clamp = _attribute(convolutions, "conv_clamp", None if convolutions else 256)
    config = generator_sizes(tensors) | {"conv_clamp": clamp, "lr_multiplier": _rate(modules)}
    return Part("stylegan2", config, _tensors(found, "mapping.", "synthesis."))


def _rate(modules: dict[str, dict]) -> float:
    mapping = {name: state for name, state in modules.items() if name.startswith("mapping.fc")}
    return float(_attribute(mapping, "bias_gain", 0.01))


def discriminator(contents: Contents) -> Part | None:
    found = contents.network("b4.out.weight")
    if found is None:
        critic = contents.root.get("D") if isinstance(contents.root, dict) else None
        if isinstance(critic, Record):
            raise CheckpointError(f"its D is a {critic.kind}, which is not read.")
        return None
    tensors, modules = found.tensors, found.modules
    blocks = {name: state for name, state in modules.items() if name.startswith("b")}
    convolutions = {name: s for name, s in blocks.items() if ".conv" in name or "fromrgb" in name}
    plain = "resnet" if any(name.endswith(".skip.weight") for name in tensors) else "orig"
    architecture = _attribute(blocks, "architecture", plain)
    expect(architecture in ("resnet", "orig"), "its discriminator is neither of the kind 'resnet' nor 'orig'")
    statistics = modules.get("b4.mbstd", {})
    expect(statistics.get("num_channels", 1) == 1, "its minibatch standard deviation does not have one channel")
    config = discriminator_sizes(tensors) | {
        "conv_clamp": _attribute(convolutions, "conv_clamp", None if convolutions else 256),
        "group_size": int(statistics.get("group_size", 4) or 0),  # None is the whole batch
        "lr_multiplier": _rate(modules),
        "architecture": architecture,
    }
    read = _tensors(found, "b", "mapping.")
    unused = {  # the release keeps a filter in layers that keep the size as well
        name for name in read if name.endswith("resample_filter") and name.split(".")[-2] not in ("conv1", "skip")
    }
    return Part("stylegan2", config, {name: value for name, value in read.items() if name not in unused})
