"""How networks are found in a file, and the small steps that all readers share."""

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.generators.checkpoints import CheckpointError
from helpers.generators.checkpoints.safe_pickle import LazyTensor, Record
from helpers.generators.stylegan2 import fir_kernel

MAX_NODES, MAX_ENTRIES, MAX_DEPTH = 50_000, 5_000, 12  # of a walk through a file; a StyleGAN2 has about 500 nodes


@dataclass
class Contents:
    """A file: its object, all tensors (and numbers) in it by dotted name, and the attributes of modules by theirs."""

    root: object
    tensors: dict[str, LazyTensor | float]
    modules: dict[str, dict]

    def network(self, marker: str) -> "Contents | None":
        """The part of any dict or module in which a tensor ``marker`` lies, with its names; the averaged of several."""
        prefixes = [n.removesuffix(marker) for n in self.tensors if n == marker or n.endswith(f".{marker}")]
        if not prefixes:
            return None
        prefix = next((p for p in prefixes if "ema" in p.lower()), prefixes[0])
        cut = len(prefix)
        tensors = {name[cut:]: value for name, value in self.tensors.items() if name.startswith(prefix)}
        modules = {name[cut:]: value for name, value in self.modules.items() if f"{name}.".startswith(prefix)}
        return Contents(self.root, tensors, modules)


def contents_of(root) -> Contents:
    """All tensors and modules in an object, level by level, to MAX_NODES: sharing can make any number of names."""
    if isinstance(root, tuple | list) and len(root) <= 3:  # of TensorFlow; the last is the averaged one
        root = dict(zip(("G", "D", "G_ema"), root, strict=False))
    contents, todo, left = Contents(root, {}, {}), deque([("", root, 0)]), MAX_NODES
    while todo:
        place, node, depth = todo.popleft()
        if isinstance(node, LazyTensor | float):
            contents.tensors[place] = node
        elif isinstance(node, Record) and type(node.state) is dict:
            contents.modules[place] = node.state
        children = _children(node) if depth < MAX_DEPTH else []
        left -= len(children)
        for name, child in children if left >= 0 else []:
            if isinstance(name, str) and len(name) < 200:
                todo.append((f"{place}.{name}" if place else name, child, depth + 1))
    return contents


def _children(node) -> list[tuple]:
    """Names and values: entries of a dict, what a PyTorch module registers, parts and variables of a TensorFlow one."""
    state = node.state if isinstance(node, Record) and type(node.state) is dict else {}
    kinds = ("_parameters", "_buffers", "_modules", "components", "variables")
    groups = [node] if type(node) is dict else [state.get(kind) for kind in kinds]
    groups = [group for group in groups if type(group) in (dict, list, tuple) and len(group) <= MAX_ENTRIES]
    pairs = [pair for group in groups for pair in (group.items() if type(group) is dict else group)]
    return [pair for pair in pairs if isinstance(pair, tuple | list) and len(pair) == 2]


def to_tensor(value) -> Tensor:
    """A float32 tensor of a lazy tensor or a number; CheckpointError for anything else, NaN or infinity."""
    if not isinstance(value, LazyTensor | int | float):
        raise CheckpointError(f"it holds a {type(value).__name__} where a tensor belongs.")
    tensor = (value.read() if isinstance(value, LazyTensor) else torch.tensor(float(value))).float()
    if not tensor.isfinite().all():
        raise CheckpointError("it holds values that are NaN or infinite: its training failed, or it is damaged.")
    return tensor


def translated(tensors: Mapping, rules: Sequence[tuple], usual: Callable = lambda t: t) -> dict[str, Tensor]:
    """Tensors under our names, by rules: a pattern, a template or function of its match, a change of the tensor."""
    found = {}
    for name, value in tensors.items():
        for pattern, ours, *change in rules:
            if match := re.fullmatch(pattern, name):
                ours = ours(match) if callable(ours) else match.expand(ours)
                found[ours] = (change or [usual])[0](to_tensor(value))
                break
    return found


def layer(number: int) -> str:
    """Our name of a layer with noise, two for each resolution; StyleGAN2 has no number 0."""
    return f"synthesis.b{4 * 2 ** (number // 2)}.conv{number % 2}"


def options(root, name: str) -> dict:
    """What a file says of its training, a dict or an argparse.Namespace under a name; empty without it."""
    found = root.get(name) if isinstance(root, dict) else None
    found = found.state if isinstance(found, Record) else found
    return found if isinstance(found, dict) else {}


def generator_sizes(tensors: Mapping) -> dict:
    """Sizes of a StyleGAN or StyleGAN2 generator, from its tensors under our names; LookupError if one is missing."""
    w_dim, z_dim = tensors["mapping.fc0.weight"].shape
    sizes = _widths(tensors, r"synthesis\.b(\d+)\.conv1\.weight") | _mapping_sizes(tensors) | {"w_dim": w_dim}
    if "mapping.label_weight" in tensors:
        sizes["c_dim"], length = tensors["mapping.label_weight"].shape
        return sizes | {"z_dim": z_dim - length}
    return sizes | {"z_dim": z_dim - w_dim if "c_dim" in sizes else z_dim}


def discriminator_sizes(tensors: Mapping) -> dict:
    """Sizes of a StyleGAN2 discriminator, from its tensors under our names; LookupError if one is missing."""
    sizes = _widths(tensors, r"b(\d+)\.conv0?\.weight")
    return sizes | (_mapping_sizes(tensors) if "mapping.embed.weight" in tensors else {})


def _mapping_sizes(tensors: Mapping) -> dict:
    layers = next(i for i in range(len(tensors) + 1) if f"mapping.fc{i}.weight" not in tensors)
    classes = {"c_dim": tensors["mapping.embed.weight"].shape[1]} if "mapping.embed.weight" in tensors else {}
    return {"mapping_layers": layers} | classes


def _widths(tensors: Mapping, pattern: str) -> dict:
    """Resolution, channel_base and channel_max, for which ``min(channel_base // r, channel_max)`` gives all widths."""
    found = ((re.fullmatch(pattern, name), value) for name, value in tensors.items())
    widths = dict(sorted((int(match[1]), value.shape[0]) for match, value in found if match))
    most, last = max(widths.values()), max(widths)
    base = next((width * r for r, width in widths.items() if width < most), most * last)
    return {"resolution": last, "channel_base": base, "channel_max": most}


def expect(condition: bool, what: str, found: str = "its network is") -> None:
    """Raise CheckpointError: the network differs from ours in a way that changes its images."""
    if not condition:
        raise CheckpointError(f"{found} of a kind that is not read: {what}.")


def check_filters(tensors: Mapping, ending: str) -> None:
    """CheckpointError unless all low-pass filters, of any scale, are [1, 3, 3, 1]."""
    for kernel in (to_tensor(value) for name, value in tensors.items() if name.endswith(ending)):
        known = kernel.shape == (4, 4) and torch.allclose(kernel / kernel.sum(), fir_kernel(), atol=1e-5)
        expect(known, "its low-pass filter is not [1, 3, 3, 1]")
