"""What the names in a pickle stand for: our own functions that make dicts, numbers and tensors, by name.

Any other name becomes a Record, which does nothing, so that parts of a file that nobody reads never refuse it. Names
that only an attack needs are refused all the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch

from helpers.generators.checkpoints.own import CheckpointError
from helpers.generators.checkpoints.values import LazyTensor, Name, Record, Storage, check_shape, shown

ATTACKS = re.compile(
    r"(subprocess|pty|socket|runpy|importlib|ctypes|marshal|shutil|code|urllib\.request|webbrowser|numpy\.distutils"
    r"|torch\.hub|torch\.jit)\.|(os|posix|nt)\.(?!stat_result$|PathLike$|_Environ$)"
    r"|(builtins\.(eval|exec|compile|open|input|breakpoint|__import__)|_?pickle\.(loads?|Unpickler)|numpy\.load"
    r"|torch\.load|torch\.serialization\.load|torch\._utils\._import_dotted_name)$"
)
STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
NUMPY = {"f2": "Half", "f4": "Float", "f8": "Double", "i1": "Char", "i2": "Short", "i4": "Int", "i8": "Long"}
NUMPY |= {"u1": "Byte", "b1": "Bool"}


def key(value):
    """A dict key: short plain values only, as hashes of large numbers and nested tuples can be made to collide.

    Anything else becomes a key that nobody finds.
    """
    if isinstance(value, str | bytes | bool | float | type(None)) or (type(value) is int and abs(value) < 2**31):
        return value
    return object()


def pairs(items) -> dict:
    return {key(name): value for name, value in items}


def _dict(machine, items=()) -> dict:
    if not isinstance(items, dict | list | tuple):
        raise CheckpointError("it is damaged: a dict is made from something else.")
    machine.budget.spend(100 * len(items))
    return pairs(items.items() if isinstance(items, dict) else items)


def _reconstructor(machine, cls, base, state):
    return BUILDERS[cls](machine) if cls in BUILDERS else Record(str(cls), {}, (state,))


def _encode(machine, text, encoding="latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        return Record("_codecs.encode")
    machine.budget.spend(len(text))
    return text.encode("latin-1")


# --- numpy -----------------------------------------------------------------------------------------------------------


def _torch_dtype(dtype) -> torch.dtype | None:
    """Of a pickled numpy.dtype: ``Record("numpy.dtype", (version, byte order, ...), (code, ...))``; None for others."""
    if not isinstance(dtype, Record) or dtype.kind != "numpy.dtype" or not dtype.args:
        return None
    code = dtype.args[0].decode("ascii") if isinstance(dtype.args[0], bytes) else dtype.args[0]
    order = dtype.state[1] if type(dtype.state) is tuple and len(dtype.state) > 1 else "="
    if not isinstance(code, str) or ">" in (order, code[:1]):
        return None
    return STORAGES.get(f"{NUMPY.get(code.lstrip('<|='))}Storage")


def fill_array(machine, array: LazyTensor, raw, dtype, shape, order="C"):
    """Give an array its elements, bytes of a numpy dtype; other arrays (of objects, of texts) remain without."""
    known = _torch_dtype(dtype)
    if known is None or not isinstance(raw, bytes | bytearray):
        return array
    check_shape(shape)
    count = len(raw) // known.itemsize
    if count != math.prod(shape) or count * known.itemsize != len(raw):
        raise CheckpointError(f"it is damaged: an array of {count} values claims {math.prod(shape)}.")
    view = memoryview(raw)
    storage = Storage(known, count, machine.budget, lambda start, size: bytearray(view[start : start + size]))
    sizes = shape if order == "F" else shape[::-1]
    stride = tuple(math.prod(sizes[:i]) for i in range(len(sizes)))
    return array.place(storage, 0, shape, stride if order == "F" else stride[::-1])


def _scalar(machine, dtype, raw=b""):
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    array = fill_array(machine, LazyTensor(), raw, dtype, (1,))
    return array.read()[0].item() if array.storage else Record("numpy scalar")


# --- torch -----------------------------------------------------------------------------------------------------------


def _tensor(machine, storage, offset, size, stride, *_):
    return LazyTensor().place(storage, offset, size, stride) if isinstance(storage, Storage) else Record("Tensor")


def _from_type(machine, function, kind, arguments, state):
    return BUILDERS[function](machine, *arguments) if function in _TENSORS else Record("Tensor")


def _storage(machine, blob):
    if machine.nested is None or not isinstance(blob, bytes | bytearray):
        raise CheckpointError("it is damaged: a storage lies where none can be.")
    return machine.nested(bytes(blob), machine.budget)


def _persistent_object(machine, meta) -> Record:
    """The official ``torch_utils.persistence``: class name and state are kept, the source text is never looked at."""
    if type(meta) is not dict or not isinstance(meta.get("class_name"), str):
        raise CheckpointError("it is damaged: a persistent object has no class name.")
    if type(meta.get("state")) is not dict:
        raise CheckpointError("it is damaged: a persistent object has no state.")
    return Record(shown(meta["class_name"]), meta["state"])


_TENSORS: dict[Name, Callable] = {
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
}
BUILDERS: dict[Name, Callable] = _TENSORS | {
    Name("collections", "OrderedDict"): _dict,
    Name("collections", "Counter"): _dict,
    Name("collections", "defaultdict"): lambda machine, *_: {},
    Name("builtins", "dict"): _dict,
    Name("dnnlib", "EasyDict"): _dict,
    Name("dnnlib.util", "EasyDict"): _dict,
    Name("copyreg", "_reconstructor"): _reconstructor,
    Name("_codecs", "encode"): _encode,
    Name("numpy.core.multiarray", "_reconstruct"): lambda machine, *_: LazyTensor(),
    Name("numpy.core.multiarray", "scalar"): _scalar,
    Name("numpy.core.numeric", "_frombuffer"): lambda machine, *args: fill_array(machine, LazyTensor(), *args),
    Name("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
    Name("torch._utils", "_rebuild_parameter"): lambda machine, data, *_: data,
    Name("torch._utils", "_rebuild_parameter_with_state"): lambda machine, data, *_: data,
    Name("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    Name("torch.storage", "_load_from_bytes"): _storage,
}
