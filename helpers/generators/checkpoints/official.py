"""Pickles of the official PyTorch releases, StyleGAN2-ADA and the StyleGAN2 configurations of the StyleGAN3 release.

The file is one pickle of a dict: ``G``, ``D``, ``G_ema``, ``training_set_kwargs``, ``augment_pipe`` and others.
Each network, and each module in it, is a persistent object: ``torch_utils.persistence._reconstruct_persistent_obj``
called with one dict of ``type`` ("class"), ``version`` (6), ``module_src`` (the source text of the whole module, which
the original code executes and which is never looked at here), ``class_name`` and ``state``. The state is the
``__dict__`` of an ``nn.Module``: ``_parameters``, ``_buffers`` and ``_modules`` (ordered dicts, the last of persistent
objects again), ``_init_args`` and ``_init_kwargs`` (with ``dnnlib.util.EasyDict`` inside), and plain attributes:
``z_dim``, ``c_dim``, ``w_dim``, ``img_resolution``, and in the layers ``conv_clamp``, ``activation``, ``architecture``.

Parameters are ``torch._utils._rebuild_parameter`` of ``_rebuild_tensor_v2`` of a storage, which is a whole legacy file
of torch.save in a string (``torch.storage._load_from_bytes``). Names: ``mapping.embed``, ``mapping.fc0`` …,
``mapping.w_avg``; ``synthesis.b4.const``, ``synthesis.b8.conv0.weight``, ``.bias``, ``.noise_const``,
``.noise_strength``, ``.affine``, ``.resample_filter``; ``synthesis.b8.torgb``. Those of our StyleGAN2 are the same.
Layers marked for float16 (``use_fp16``) are computed in float32 here; ``conv_clamp`` is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from helpers.generators.checkpoints.layout import (
    Checkpoint,
    Part,
    channel_rule,
    count,
    expect,
    shape_of,
    side,
    state_of,
    to_tensor,
)
from helpers.generators.checkpoints.safe_pickle import CheckpointError, Record

FILTER = torch.outer(row := torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, row)


def matches(root) -> bool:
    return isinstance(root, dict) and isinstance(root.get("G_ema"), Record)


def read(root: dict) -> Checkpoint:
    """Read ``G_ema``, and ``D`` when it is asked for; see the module. Raises CheckpointError."""
    discriminator = root.get("D")
    return Checkpoint(
        format="official PyTorch pickle (StyleGAN2-ADA, StyleGAN3 release)",
        family="stylegan2",
        generator=_generator(root["G_ema"]),
        read_discriminator=(lambda: _discriminator(discriminator)) if isinstance(discriminator, Record) else None,
    )


def _modules(record: Record, prefix: str = "", depth: int = 8) -> Iterator[tuple[str, dict]]:
    """Every module as (dotted name with a dot at its end, state)."""
    state = state_of(record)
    yield prefix, state
    for name, child in state.get("_modules", {}).items():
        if child is not None and depth:
            yield from _modules(child, f"{prefix}{name}.", depth - 1)


def _tensors(modules: dict[str, dict]) -> dict:
    """Parameters and buffers by dotted name."""
    found = {}
    for prefix, state in modules.items():
        for kind in ("_parameters", "_buffers"):
            group = state.get(kind, {})
            if type(group) is not dict:
                raise CheckpointError("it is damaged: the tensors of a network are no dict.")
            found |= {f"{prefix}{name}": value for name, value in group.items() if value is not None}
    return found


def _attribute(modules: dict[str, dict], attribute: str, default=None):
    """The value that an attribute has in all modules that have it; CheckpointError where they differ."""
    values = {repr(v): v for s in modules.values() if isinstance(v := s.get(attribute), int | float | str)}
    expect(len(values) <= 1, f"{attribute} is not the same in all layers")
    return next(iter(values.values()), default)


def _blocks(tensors: dict, prefix: str, suffix: str) -> dict[int, int]:
    """Output channels of each resolution's layer ``prefix + str(r) + suffix``."""
    names = {name.removeprefix(prefix).removesuffix(suffix): name for name in tensors if name.endswith(suffix)}
    sizes = sorted(int(r) for r in names if r.isdecimal() and len(r) < 5 and names[r] == f"{prefix}{r}{suffix}")
    return {r: shape_of(tensors, f"{prefix}{r}{suffix}", 4)[0] for r in sizes}


def _generator(record: Record) -> Part:
    modules = dict(_modules(record))
    tensors = _tensors(modules)
    if "synthesis.b4.const" not in tensors:
        kind = "a StyleGAN3 generator (alias-free)" if "synthesis.input.freqs" in tensors else f"a {record.kind}"
        raise CheckpointError(f"its G_ema is {kind}, which is not read; take a StyleGAN2 configuration.")
    layers = {name: state for name, state in modules.items() if name.startswith("synthesis.b")}
    convolutions = {name: state for name, state in layers.items() if ".conv" in name and name.count(".") == 3}
    widths = _blocks(tensors, "synthesis.b", ".conv1.weight")
    resolution = side(widths)
    expect(shape_of(tensors, "synthesis.b4.torgb.weight", 4)[0] == 3, "its pictures have not 3 channels")
    expect(_attribute(layers, "architecture", "skip") == "skip", "its generator is not of the kind 'skip'")
    expect(_attribute(convolutions, "activation", "lrelu") == "lrelu", "its activation is not a leaky ReLU")
    mapping = {name: state for name, state in modules.items() if name.startswith("mapping.fc")}
    w_dim, in_features = shape_of(tensors, "mapping.fc0.weight", 2)
    c_dim = shape_of(tensors, "mapping.embed.weight", 2)[1] if "mapping.embed.weight" in tensors else 0
    config = {
        "resolution": resolution,
        "z_dim": in_features - (w_dim if c_dim else 0),
        "w_dim": w_dim,
        "mapping_layers": count(tensors, "mapping.fc{}.weight"),
        **channel_rule(widths),
        "c_dim": c_dim,
        "conv_clamp": _attribute(convolutions, "conv_clamp"),
        "lr_multiplier": float(_attribute(mapping, "bias_gain", 0.01)),
    }
    return Part(config, _read(tensors))


def _read(tensors: dict) -> dict:
    """All tensors but the low-pass filters, which must be the one that there is here."""
    read = {}
    for name, value in tensors.items():
        read[name] = to_tensor(value)
        if name.endswith("resample_filter"):
            known = read[name].shape == (4, 4) and torch.allclose(read[name], FILTER, atol=1e-5)
            expect(known, "its low-pass filter is not [1, 3, 3, 1]")
    return read


def _discriminator(record: Record) -> Part:
    modules = dict(_modules(record))
    tensors = _tensors(modules)
    blocks = {name: state for name, state in modules.items() if name.startswith("b")}
    convolutions = {name: s for name, s in blocks.items() if ".conv" in name or "fromrgb" in name}
    widths = _blocks(tensors, "b", ".conv0.weight")
    widths = {4: shape_of(tensors, "b4.conv.weight", 4)[0]} | widths
    architecture = _attribute(blocks, "architecture", "resnet")
    expect(architecture in ("resnet", "orig"), "its discriminator is neither of the kind 'resnet' nor 'orig'")
    statistics = modules.get("b4.mbstd.", {})
    expect(statistics.get("num_channels", 1) == 1, "its minibatch standard deviation has more than one channel")
    conditional = "mapping.embed.weight" in tensors
    config = {
        "resolution": side(widths),
        **channel_rule(widths),
        "conv_clamp": _attribute(convolutions, "conv_clamp"),
        "c_dim": shape_of(tensors, "mapping.embed.weight", 2)[1] if conditional else 0,
        "group_size": int(statistics.get("group_size", 4) or 0),  # None is the whole batch
        "architecture": architecture,
    }
    if conditional:
        mapping = {name: state for name, state in modules.items() if name.startswith("mapping.fc")}
        config["mapping_layers"] = count(tensors, "mapping.fc{}.weight") if mapping else 0
        config["lr_multiplier"] = float(_attribute(mapping, "bias_gain", 0.01))
    read = _read(tensors)
    kept = {
        f"b{r}.{layer}.resample_filter" for r in widths if r > 4 for layer in ("conv1", "skip")
    }  # the layers that halve the size
    return Part(config, {n: t for n, t in read.items() if not n.endswith("resample_filter") or n in kept})
