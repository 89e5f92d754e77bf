"""Pickles read by Python's own unpickler, in which a name in the file is never looked up, imported or called.

It remains a Name; calling it uses BUILDERS, a table of our own functions, or makes a Record, which does nothing. Names
that only an attack needs are refused, a budget counts what all others make, and tensors are read later.
"""

import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from helpers.generators.checkpoints import CheckpointError, shown

MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # as Python 2 calls them
SAFE = "refused, nothing was run."
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
SPARE_BYTES = 64 * 2**20  # what may be made from a tiny file
OPCODE_BYTES = 200  # of an opcode's object, with its place in a container; the largest official file has 60,000
MAX_DIMS = 8


class Name(str):
    """A module and a name in it, as the file spells them with a dot between; never imported."""


@dataclass(eq=False, slots=True)
class Record:
    """An object of some class, never imported: its name, the arguments it was made with, and its state."""

    kind: str
    state: object = field(default_factory=dict)
    args: tuple = ()

    def append(self, *_) -> None:
        """Items of its own, which nobody reads."""

    extend = append


class Budget:
    """What a file of some size may still make, with all pickles inside it. CheckpointError beyond that."""

    def __init__(self, size: int):
        self.left = 2 * size + SPARE_BYTES

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise CheckpointError("it asks for far more memory than its own size, or has too many parts: refused.")


@dataclass(eq=False, slots=True)
class Storage:
    """Elements of one type, ``data``, which stay in the file."""

    dtype: torch.dtype
    numel: int
    budget: Budget
    data: memoryview | None = None


@dataclass(eq=False, slots=True)
class LazyTensor:
    """A view of a storage as the file describes it; the elements come with ``read``."""

    storage: Storage | None = None
    offset: int = 0
    shape: tuple = ()
    stride: tuple = ()

    def read(self) -> Tensor:
        """The elements in their own memory; only their part of the storage is read. One of UNFIT if that is nowhere."""
        storage = self.storage
        if storage is None or storage.data is None or len(self.shape) > MAX_DIMS or self.offset < 0:
            raise CheckpointError("it holds an array of a kind that is not read where a tensor belongs.")
        count, size = math.prod(self.shape), storage.dtype.itemsize
        if not count:
            return torch.empty(self.shape, dtype=storage.dtype)
        if count > storage.numel:  # an expanded tensor: few bytes, any number of elements
            raise CheckpointError("it holds a tensor that is larger than its storage: refused.")
        span = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))  # from first to last
        storage.budget.spend(max(4, size) * count + max(0, span - count) * size)
        raw = bytearray(storage.data[self.offset * size : (self.offset + span) * size])
        return torch.frombuffer(raw, dtype=storage.dtype).as_strided(self.shape, self.stride).contiguous()


class _Metered:
    """A file that never gives less than what is asked for, nor more than the budget allows."""

    def __init__(self, file: BinaryIO, budget: Budget):
        self.file, self.budget = file, budget

    def read(self, count: int) -> bytes:
        found = self.file.read(count)
        if len(found) < count:
            raise CheckpointError("it is damaged or cut off: its end is missing.")
        self.budget.spend(count + OPCODE_BYTES)
        return found

    def readline(self) -> bytes:
        line = self.file.readline()
        self.budget.spend(4 * len(line))
        return line


class Unpickler(pickle._Unpickler):
    """The unpickler that Python has in Python, with a function for each opcode in ``dispatch``.

    file: in memory (BytesIO, mmap); its position is behind the pickle after ``load``, which raises UNFIT for a damaged
    one. persistent: from a persistent id to its value. nested: reads the bytes of a pickled storage, (bytes, budget).
    """

    def __init__(self, file: BinaryIO, budget: Budget, persistent: Callable | None = None, nested=None):
        super().__init__(_Metered(file, budget), encoding="latin1")
        self.budget, self.nested = budget, nested
        if persistent:
            self.persistent_load = persistent

    def find_class(self, module: str, name: str) -> Name:
        module = MODULES.get(module, module).replace("numpy._core", "numpy.core")
        found = Name(f"{module}.{name}")
        if ATTACKS.match(found[:200]):
            raise CheckpointError(f"it names {shown(found)}, which only an attack needs: {SAFE}")
        return found

    def call(self) -> None:
        """A name, with the tuple of arguments that is on the stack."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or not isinstance(function, Name | Record):
            raise CheckpointError(f"it calls a {type(function).__name__}: {SAFE}")
        if isinstance(function, Name) and function in BUILDERS:
            return self.append(BUILDERS[function](self, *arguments))
        kind = shown(function) if isinstance(function, Name) else function.kind
        return self.append(Record(kind, {}, arguments))

    def call_with_names(self) -> None:
        self.stack.pop()
        self.call()

    def _instantiate(self, function, arguments) -> None:
        self.stack += [function, tuple(arguments)]
        self.call()

    def build(self) -> None:
        """Give an object its state."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, LazyTensor):
            if type(state) is tuple and len(state) == 5 and target.storage is None:
                _, shape, dtype, fortran, raw = state
                fill_array(self, target, raw, dtype, shape, "F" if fortran else "C")
        elif isinstance(target, Record):  # with slots the state is a pair of dicts
            slots = type(state) is tuple and len(state) == 2 and type(state[0]) is dict
            target.state = state[0] if slots else state

    def set_items(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) is dict:
            target.update(pairs(zip(items[::2], items[1::2], strict=True)))
        elif not isinstance(target, Record):
            raise CheckpointError("it is damaged: it sets items of something that is not a dict.")

    def push_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self.set_items(items)

    def push_text(self, read: Callable) -> None:
        read(self)
        self.budget.spend(4 * len(self.stack[-1]))  # bytes of the widest letters

    def push_frozen_set(self) -> None:
        self.pop_mark()
        self.append(Record("set"))

    theirs = pickle._Unpickler
    ours = {
        **dict.fromkeys((pickle.REDUCE, pickle.NEWOBJ), call),
        pickle.NEWOBJ_EX: call_with_names,
        pickle.BUILD: build,
        pickle.SETITEM: lambda self: self.set_items([self.stack.pop(), self.stack.pop()][::-1]),
        pickle.SETITEMS: lambda self: self.set_items(self.pop_mark()),
        pickle.DICT: push_dict,
        pickle.EMPTY_SET: lambda self: self.append(Record("set")),
        pickle.FROZENSET: push_frozen_set,
        pickle.ADDITEMS: theirs.load_appends,
        pickle.FRAME: lambda self: self.read(8),
        pickle.BYTEARRAY8: theirs.load_binbytes8,
        pickle.BINUNICODE: lambda self: self.push_text(pickle._Unpickler.load_binunicode),
        pickle.BINUNICODE8: lambda self: self.push_text(pickle._Unpickler.load_binunicode8),
    }
    dispatch = theirs.dispatch | {code[0]: operation for code, operation in ours.items()}


def pairs(items) -> dict:
    """A dict whose keys are plain; any other becomes a key that nobody finds, as its hash could be made to collide."""

    def plain(key) -> bool:
        return isinstance(key, str | bytes | bool | float | None) or (type(key) is int and abs(key) < 2**31)

    return {key if plain(key) else object(): value for key, value in items}


def _dict(machine: Unpickler, items=()) -> dict:
    machine.budget.spend(100 * len(items))
    return pairs(items.items() if isinstance(items, dict) else items)


def _encode(machine: Unpickler, text, encoding="latin1"):
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        return Record("_codecs.encode")
    machine.budget.spend(len(text))
    return text.encode("latin-1")


def fill_array(machine: Unpickler, array: LazyTensor, raw, dtype, shape, order="C") -> LazyTensor:
    """Give an array its elements, bytes of a numpy dtype; other arrays (of objects, of texts) remain without.

    A pickled dtype is ``Record("numpy.dtype", (version, byte order, …), (code, …))``.
    """
    if not isinstance(raw, bytes) or not isinstance(dtype, Record) or dtype.kind != "numpy.dtype" or not dtype.args:
        return array
    code = dtype.args[0].decode("ascii") if isinstance(dtype.args[0], bytes) else dtype.args[0]
    order_of_bytes = dtype.state[1] if type(dtype.state) is tuple and len(dtype.state) > 1 else "="
    known = NUMPY.get(code.lstrip("<|="))
    if known is None or order_of_bytes == ">":
        return array
    values = np.ndarray(shape, code, raw, order=order)
    array.storage = Storage(known, values.size, machine.budget, memoryview(raw))
    array.shape, array.stride = values.shape, tuple(step // values.itemsize for step in values.strides)
    return array


def _scalar(machine: Unpickler, dtype, raw=b""):
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    array = fill_array(machine, LazyTensor(), raw, dtype, (1,))
    return array.read()[0].item() if array.storage else Record("numpy scalar")


def _tensor(machine: Unpickler, storage, offset, size, stride, *_):
    return LazyTensor(storage, offset, size, stride) if isinstance(storage, Storage) else Record("Tensor")


def _storage(machine: Unpickler, blob) -> Storage:
    if machine.nested is None or not isinstance(blob, bytes):
        raise CheckpointError("it is damaged: a storage lies where none can be.")
    return machine.nested(blob, machine.budget)


def _persistent_object(machine: Unpickler, meta) -> Record:
    """The official ``torch_utils.persistence``: class name and state are kept, the source text is never looked at."""
    if type(meta) is not dict or not isinstance(meta.get("class_name"), str) or type(meta.get("state")) is not dict:
        raise CheckpointError("it is damaged: a persistent object has no class name or no state.")
    return Record(shown(meta["class_name"]), meta["state"])


DICTS = ("collections.OrderedDict", "builtins.dict", "dnnlib.EasyDict", "dnnlib.util.EasyDict")
TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
BUILDERS = {  # each gets the unpickler and the arguments in the file
    **dict.fromkeys(DICTS, _dict),
    **dict.fromkeys(TENSORS, _tensor),
    **dict.fromkeys(PARAMETERS, lambda machine, data, *_: data),
    "copyreg._reconstructor": lambda machine, cls, *_: {} if cls in DICTS else Record(shown(cls)),
    "_codecs.encode": _encode,
    "numpy.core.multiarray._reconstruct": lambda machine, *_: LazyTensor(),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": lambda machine, *arguments: fill_array(machine, LazyTensor(), *arguments),
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "torch._tensor._rebuild_from_type_v2": lambda machine, function, _, arguments, *__: (
        _tensor(machine, *arguments) if function in TENSORS else Record("Tensor")
    ),
    "torch.storage._load_from_bytes": _storage,
}
