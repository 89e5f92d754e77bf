"""Pickles of the official PyTorch releases, StyleGAN2-ADA and the StyleGAN2 configurations of the StyleGAN3 release.

A dict with ``G``, ``D``, ``G_ema``; each module has a source text, which is never looked at here, and its attributes.
PTI, DragGAN and others write the same networks with torch.save: a module alone, or state dicts, which lack attributes.
"""

from helpers.generators.checkpoints import CheckpointError, Part, layout
from helpers.generators.checkpoints.safe_pickle import Record, shown

ALIAS_FREE, CONST = "synthesis.input.freqs", "synthesis.b4.const"
CLAMP = 256  # of published networks; a state dict does not say it


def generator(contents: layout.Contents) -> Part:
    found = contents.network(CONST)
    if found is None:
        alias_free = contents.network(ALIAS_FREE)
        kind = "StyleGAN3 generator (alias-free)" if alias_free else contents.root["G_ema"].kind
        raise CheckpointError(f"its generator is a {kind}, which is not read; take a StyleGAN2 configuration.")
    layers = {name: state for name, state in found.modules.items() if name.startswith("synthesis.b")}
    convolutions = {name: state for name, state in layers.items() if ".conv" in name and name.count(".") == 2}
    plain = "skip" if "synthesis.b4.torgb.weight" in found.tensors else _without_skip(found)
    kind = str(_attribute(layers, "architecture", plain))
    layout.expect(kind == "skip", f"its generator has the architecture '{shown(kind, 20)}', only 'skip' is read")
    layout.expect(found.tensors["synthesis.b4.torgb.weight"].shape[0] == 3, "its images do not have 3 channels")
    layout.expect(_attribute(convolutions, "activation", "lrelu") == "lrelu", "its activation is not a leaky ReLU")
    return _part(found, layout.generator_sizes(found.tensors), convolutions, "mapping.", "synthesis.")


def discriminator(contents: layout.Contents) -> Part | None:
    found = contents.network("b4.out.weight")
    if found is None:
        critic = contents.root.get("D") if isinstance(contents.root, dict) else None
        layout.expect(not isinstance(critic, Record), f"its D is a {getattr(critic, 'kind', None)}")
        return None
    blocks = {name: state for name, state in found.modules.items() if name.startswith("b")}
    convolutions = {name: state for name, state in blocks.items() if ".conv" in name or "fromrgb" in name}
    architecture = _attribute(blocks, "architecture", _without_skip(found))
    layout.expect(architecture in ("resnet", "orig"), "its discriminator is neither of the kind 'resnet' nor 'orig'")
    statistics = found.modules.get("b4.mbstd", {})
    layout.expect(statistics.get("num_channels", 1) == 1, "its minibatch standard deviation does not have one channel")
    config = layout.discriminator_sizes(found.tensors) | {"architecture": architecture}
    config["group_size"] = int(statistics.get("group_size", 4) or 0)  # None is the whole batch
    return _part(found, config, convolutions, "b", "mapping.")


def _part(found: layout.Contents, sizes: dict, convolutions: dict[str, dict], *prefixes: str) -> Part:
    clamp = _attribute(convolutions, "conv_clamp", None if convolutions else CLAMP)
    mapping = {name: state for name, state in found.modules.items() if name.startswith("mapping.fc")}
    rate = float(_attribute(mapping, "bias_gain", 0.01))
    layout.check_filters(found.tensors, "resample_filter")  # the release keeps one in other layers as well
    names = [name for name in found.tensors if name.startswith(prefixes) and not name.endswith("resample_filter")]
    tensors = {name: layout.to_tensor(found.tensors[name]) for name in names}
    return Part("stylegan2", sizes | {"conv_clamp": clamp, "lr_multiplier": rate}, tensors)


def _without_skip(found: layout.Contents) -> str:
    return "resnet" if any(name.endswith(".skip.weight") for name in found.tensors) else "orig"


def _attribute(modules: dict[str, dict], attribute: str, default=None):
    """The value that an attribute has in all modules that have it; CheckpointError if they differ."""
    values = {repr(v): v for s in modules.values() if isinstance(v := s.get(attribute), int | float | str)}
    layout.expect(len(values) <= 1, f"{attribute} is not the same in all layers")
    return next(iter(values.values()), default)


READER = (CONST, ALIAS_FREE), generator, discriminator
