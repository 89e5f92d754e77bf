"""How networks are found in a file, and the small steps that all readers share."""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.generators.checkpoints import CheckpointError
from helpers.generators.checkpoints.values import LazyTensor, Record, shown
from helpers.generators.stylegan2 import fir_kernel

MAX_NODES, MAX_ENTRIES, MAX_DEPTH = 50_000, 5_000, 12  # of a walk through a file; a StyleGAN2 has about 500 nodes


def walk(root, children: Callable[[object], Mapping]) -> Iterator[tuple[str, object]]:
    """All nodes of a tree as (dotted name, node), level by level.

    A node that several parents share counts each time, and the walk ends after MAX_NODES: a few levels of sharing make
    any number of names. Groups of more than MAX_ENTRIES are not networks and are passed over.
    """
    todo, left = deque([("", root, 0)]), MAX_NODES
    while todo:
        prefix, node, depth = todo.popleft()
        yield prefix, node
        found = children(node) if depth < MAX_DEPTH else {}
        if len(found) > min(left, MAX_ENTRIES):
            continue
        left -= len(found)
        for name, child in found.items():
            if isinstance(name, str) and len(name) < 200:
                todo.append((f"{prefix}.{name}" if prefix else name, child, depth + 1))


@dataclass
class Contents:
    """A file: its object, all tensors in it by dotted name, and the attributes of the modules by theirs."""

    root: object
    tensors: dict[str, LazyTensor]
    modules: dict[str, dict]

    def network(self, marker: str) -> "Contents | None":
        """The part in which a tensor ``marker`` lies, with the names that it has there; the averaged one of several.

        It may be a module or a state dict, in any dict or module ("g_ema", "decoder.", DataParallel's "module.").
        """
        prefixes = [n.removesuffix(marker) for n in self.tensors if n == marker or n.endswith(f".{marker}")]
        if not prefixes:
            return None
        prefix = next((p for p in prefixes if "ema" in p.lower()), prefixes[0])
        cut = len(prefix)
        tensors = {name[cut:]: value for name, value in self.tensors.items() if name.startswith(prefix)}
        modules = {name[cut:]: value for name, value in self.modules.items() if f"{name}.".startswith(prefix)}
        return Contents(self.root, tensors, modules)


def contents_of(root) -> Contents:
    """All tensors and modules in an object of dicts and pickled modules."""
    contents = Contents(root, {}, {})
    for name, node in walk(root, _children):
        if isinstance(node, LazyTensor):
            contents.tensors[name] = node
        elif isinstance(node, Record) and isinstance(node.state, dict):
            contents.modules[name] = node.state
    return contents


def _children(node) -> dict:
    if isinstance(node, Record):
        state = node.state if isinstance(node.state, dict) else {}
        groups = [state.get(kind) for kind in ("_parameters", "_buffers", "_modules")]
        return {name: value for group in groups if type(group) is dict for name, value in group.items()}
    return node if type(node) is dict else {}


def to_tensor(value) -> Tensor:
    """A float32 tensor of a lazy tensor or a number; CheckpointError for anything else, NaN or infinity."""
    if not isinstance(value, LazyTensor | int | float):
        raise CheckpointError(f"it holds a {shown(type(value).__name__)} where a tensor belongs.")
    tensor = (value.read() if isinstance(value, LazyTensor) else torch.tensor(float(value))).float()
    if not tensor.isfinite().all():
        raise CheckpointError("it holds values that are NaN or infinite: its training failed, or it is damaged.")
    return tensor


def translated(tensors: Mapping, rules: Sequence[tuple]) -> dict[str, Tensor]:
    """Tensors under our names, by rules of (pattern, our name, change of the tensor); what no rule knows is left out.

    Our name is a template of the pattern's groups, or a function of its match; the change is optional.
    """
    found = {}
    for name, value in tensors.items():
        for pattern, ours, *change in rules:
            if match := re.fullmatch(pattern, name):
                tensor = to_tensor(value)
                found[ours(match) if callable(ours) else match.expand(ours)] = change[0](tensor) if change else tensor
                break
    return found


def shape_of(tensors: Mapping, name: str, dims: int) -> tuple[int, ...]:
    """Shape of an entry; CheckpointError if it is missing, or has another number of axes."""
    if name not in tensors:
        raise CheckpointError(f"it lacks {shown(name)}, so it is not a whole network of this kind.")
    shape = tuple(getattr(tensors[name], "shape", ()))
    if len(shape) != dims:
        raise CheckpointError(f"its {shown(name)} has {len(shape)} axes instead of {dims}.")
    return shape


def generator_sizes(tensors: Mapping) -> dict:
    """Sizes of a StyleGAN or StyleGAN2 generator, from its tensors under our names. CheckpointError if they are odd."""
    w_dim, z_dim = shape_of(tensors, "mapping.fc0.weight", 2)
    sizes = _widths(tensors, "synthesis.b", ".conv1.weight") | {"w_dim": w_dim, "mapping_layers": _layers(tensors)}
    if "mapping.embed.weight" in tensors:
        return sizes | {"z_dim": z_dim - w_dim, "c_dim": shape_of(tensors, "mapping.embed.weight", 2)[1]}
    if "mapping.label_weight" in tensors:
        c_dim, size = shape_of(tensors, "mapping.label_weight", 2)
        return sizes | {"z_dim": z_dim - size, "c_dim": c_dim}
    return sizes | {"z_dim": z_dim}


def discriminator_sizes(tensors: Mapping) -> dict:
    """Sizes of a StyleGAN2 discriminator, from its tensors under our names. CheckpointError if they are odd."""
    sizes = _widths(tensors, "b", ".conv0.weight", {4: shape_of(tensors, "b4.conv.weight", 4)[0]})
    if "mapping.embed.weight" in tensors:
        sizes |= {"c_dim": shape_of(tensors, "mapping.embed.weight", 2)[1], "mapping_layers": _layers(tensors)}
    return sizes


def _layers(tensors: Mapping) -> int:
    return next(i for i in range(len(tensors) + 1) if f"mapping.fc{i}.weight" not in tensors)


def _widths(tensors: Mapping, prefix: str, suffix: str, smallest: Mapping | None = None) -> dict:
    """Resolution, channel_base and channel_max, for which ``min(channel_base // r, channel_max)`` gives all widths."""
    names = {r: name for r in (2**i for i in range(2, 11)) if (name := f"{prefix}{r}{suffix}") in tensors}
    widths = dict(sorted(((smallest or {}) | {r: shape_of(tensors, name, 4)[0] for r, name in names.items()}).items()))
    found = list(widths)
    if len(found) < 3 or found != [2 ** (i + 2) for i in range(len(found))]:
        raise CheckpointError(f"its resolutions are {found}; 4, 8, 16, … up to 1024 were expected.")
    most = max(widths.values())
    base = next((width * r for r, width in widths.items() if width < most), most * found[-1])
    if any(width != min(base // r, most) for r, width in widths.items()):
        listed = ", ".join(f"{width} at {r}" for r, width in widths.items())
        raise CheckpointError(f"its numbers of channels follow no rule that is known here: {listed}.")
    return {"resolution": found[-1], "channel_base": base, "channel_max": most}


def expect(condition: bool, what: str) -> None:
    """Raise CheckpointError: the network differs from ours in a way that changes its images."""
    if not condition:
        raise CheckpointError(f"its network is of a kind that is not read: {what}.")


def check_filter(kernel: Tensor) -> None:
    """CheckpointError unless a low-pass filter of any scale is [1, 3, 3, 1]."""
    known = kernel.shape == (4, 4) and torch.allclose(kernel / kernel.sum(), fir_kernel(), atol=1e-5)
    expect(known, "its low-pass filter is not [1, 3, 3, 1]")
