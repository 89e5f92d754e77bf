"""What the names in a pickle stand for: our own functions that make dicts, numbers and tensors, by name.

Any other name becomes a Record, which does nothing, so that parts of a file that nobody reads never refuse it. Names
that only an attack needs are refused all the same.
"""

from __future__ import annotations

import math
import re

import torch

from helpers.generators.checkpoints.own import CheckpointError
from helpers.generators.checkpoints.values import LazyTensor, Name, Record, Storage, check_shape, shown

ATTACKS = re.compile(
    r"(subprocess|pty|socket|runpy|importlib|ctypes|marshal|shutil|code|urllib\.request|webbrowser|numpy\.distutils"
    r"|torch\.hub|torch\.jit)\.|(os|posix|nt)\.(?!stat_result$|PathLike$|_Environ$)"
    r"|(builtins\.(eval|exec|compile|open|input|breakpoint|__import__)|_?pickle\.(loads?|Unpickler)|numpy\.load"
    r"|torch\.load|torch\.serialization\.load|torch\._utils\._import_dotted_name)$"
)
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool)
TYPES += (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
STORAGES = {torch.empty(0, dtype=kind).type().replace("Tensor", "Storage"): kind for kind in TYPES}
STORAGES["torch.UntypedStorage"] = torch.uint8
NUMPY = {torch.empty(0, dtype=t).numpy().dtype.str[1:]: t for t in TYPES if not (t.is_complex or t == torch.bfloat16)}


def pairs(items) -> dict:
    """A dict whose keys are short plain values: hashes of large numbers and nested tuples can be made to collide.

    Anything else becomes a key that nobody finds.
    """

    def plain(key) -> bool:
        return isinstance(key, str | bytes | bool | float | type(None)) or (type(key) is int and abs(key) < 2**31)

    return {key if plain(key) else object(): value for key, value in items}


def _dict(machine, items=()) -> dict:
    if not isinstance(items, dict | list | tuple):
        raise CheckpointError("it is damaged: a dict is made from something else.")
    machine.budget.spend(100 * len(items))
    return pairs(items.items() if isinstance(items, dict) else items)


def _encode(machine, text, encoding="latin1"):
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        return Record("_codecs.encode")
    machine.budget.spend(len(text))
    return text.encode("latin-1")


def _torch_dtype(dtype) -> torch.dtype | None:
    """Of a pickled numpy.dtype: ``Record("numpy.dtype", (version, byte order, ...), (code, ...))``; None for others."""
    if not isinstance(dtype, Record) or dtype.kind != "numpy.dtype" or not dtype.args:
        return None
    code = dtype.args[0].decode("ascii") if isinstance(dtype.args[0], bytes) else dtype.args[0]
    order = dtype.state[1] if type(dtype.state) is tuple and len(dtype.state) > 1 else "="
    if not isinstance(code, str) or ">" in (order, code[:1]):
        return None
    return NUMPY.get(code.lstrip("<|="))


def fill_array(machine, array: LazyTensor, raw, dtype, shape, order="C"):
    """Give an array its elements, bytes of a numpy dtype; other arrays (of objects, of texts) remain without."""
    known = _torch_dtype(dtype)
    if known is None or not isinstance(raw, bytes):
        return array
    check_shape(shape)
    count = len(raw) // known.itemsize
    if count != math.prod(shape) or count * known.itemsize != len(raw):
        raise CheckpointError(f"it is damaged: an array of {count} values claims {math.prod(shape)}.")
    sizes = shape if order == "F" else shape[::-1]
    stride = tuple(math.prod(sizes[:i]) for i in range(len(sizes)))
    storage = Storage(known, count, machine.budget, memoryview(raw))
    return array.place(storage, 0, shape, stride if order == "F" else stride[::-1])


def _scalar(machine, dtype, raw=b""):
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    array = fill_array(machine, LazyTensor(), raw, dtype, (1,))
    return array.read()[0].item() if array.storage else Record("numpy scalar")


def _tensor(machine, storage, offset, size, stride, *_):
    return LazyTensor().place(storage, offset, size, stride) if isinstance(storage, Storage) else Record("Tensor")


def _from_type(machine, function, kind, arguments, state):
    return _tensor(machine, *arguments) if function in TENSORS else Record("Tensor")


def _storage(machine, blob) -> Storage:
    if machine.nested is None or not isinstance(blob, bytes):
        raise CheckpointError("it is damaged: a storage lies where none can be.")
    return machine.nested(blob, machine.budget)


def _persistent_object(machine, meta) -> Record:
    """The official ``torch_utils.persistence``: class name and state are kept, the source text is never looked at."""
    if type(meta) is not dict or not isinstance(meta.get("class_name"), str):
        raise CheckpointError("it is damaged: a persistent object has no class name.")
    if type(meta.get("state")) is not dict:
        raise CheckpointError("it is damaged: a persistent object has no state.")
    return Record(shown(meta["class_name"]), meta["state"])


DICTS = ("collections.OrderedDict", "collections.Counter", "builtins.dict", "dnnlib.EasyDict", "dnnlib.util.EasyDict")
TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
BUILDERS = {
    **dict.fromkeys(DICTS, _dict),
    **dict.fromkeys(TENSORS, _tensor),
    **dict.fromkeys(PARAMETERS, lambda machine, data, *_: data),
    "collections.defaultdict": lambda machine, *_: {},
    "copyreg._reconstructor": lambda machine, cls, *_: {} if cls in DICTS else Record(shown(Name(cls))),
    "_codecs.encode": _encode,
    "numpy.core.multiarray._reconstruct": lambda machine, *_: LazyTensor(),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": lambda machine, *arguments: fill_array(machine, LazyTensor(), *arguments),
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.storage._load_from_bytes": _storage,
}
