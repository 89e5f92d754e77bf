"""Pickles read by Python's own unpickler, in which a name in the file is never looked up, imported or called.

It remains a Name; calling it uses BUILDERS, a table of our own functions, or makes a Record, which does nothing. What
reaches outside of the file and names that only an attack needs are refused; a budget counts what all others make.
"""

import math
import pickle
import re
import struct
from collections.abc import Callable
from typing import BinaryIO

import torch

from helpers.generators.checkpoints import CheckpointError
from helpers.generators.checkpoints.values import Budget, LazyTensor, Name, Record, Storage, check_shape, shown

MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # as Python 2 calls them
SAFE = "refused, nothing was run."
UNFIT = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
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


def read_pickle(file: BinaryIO, budget: Budget, *, persistent: Callable | None = None, nested: Callable | None = None):
    """Build the one object of a pickle in a file in memory (BytesIO, mmap), whose position is behind it afterwards.

    persistent: from a persistent id to its value. nested: reads the bytes of a pickled torch storage, (bytes, budget).
    Raises CheckpointError, one sentence.
    """
    try:
        return _Unpickler(file, budget, persistent, nested).load()
    except CheckpointError:
        raise
    except (MemoryError, RecursionError) as error:
        raise CheckpointError("it asks for more memory than there is: refused.") from error
    except (*UNFIT, EOFError, struct.error, pickle.UnpicklingError) as error:
        reason = shown(" ".join(str(error).split()), 100)
        raise CheckpointError(f"it is damaged: {type(error).__name__}, {reason}.") from error


class _Metered:
    """A file that never gives less than what is asked for, nor more than the budget allows."""

    def __init__(self, file: BinaryIO, budget: Budget):
        self.file, self.budget = file, budget

    def read(self, count: int) -> bytes:
        found = self.file.read(count)
        if len(found) < count:
            raise CheckpointError("it is damaged or cut off: its end is missing.")
        self.budget.spend(count, opcodes=1)
        return found

    def readline(self) -> bytes:
        line = self.file.readline()
        self.budget.spend(4 * len(line))
        return line


class _Unpickler(pickle._Unpickler):
    """The unpickler that Python has in Python, with a function for each opcode in ``dispatch``."""

    def __init__(self, file: BinaryIO, budget: Budget, persistent: Callable | None, nested: Callable | None):
        super().__init__(_Metered(file, budget), encoding="latin1")
        self.budget, self.persistent, self.nested = budget, persistent, nested

    def find_class(self, module: str, name: str) -> Name:
        module = MODULES.get(module, module).replace("numpy._core", "numpy.core")
        found = Name(f"{module}.{name}")
        if ATTACKS.match(found[:200]):
            raise CheckpointError(f"it names {shown(found)}, which only an attack needs: {SAFE}")
        return found

    def persistent_load(self, pid):
        if self.persistent is None:
            raise CheckpointError("it refers to parts outside of itself: refused.")
        return self.persistent(pid)

    def refuse(self) -> None:
        raise CheckpointError(f"it has an opcode that reaches outside of the file: {SAFE}")

    def call(self) -> None:
        """A name, with the tuple of arguments that is on the stack."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or not isinstance(function, Name | Record):
            raise CheckpointError(f"it calls a {type(function).__name__}: {SAFE}")
        if not isinstance(function, Name) or function not in BUILDERS:
            kind = shown(function) if isinstance(function, Name) else function.kind
            return self.append(Record(kind, {}, arguments))
        try:
            self.append(BUILDERS[function](self, *arguments))
        except CheckpointError:
            raise
        except UNFIT as error:
            raise CheckpointError(f"it is damaged: {shown(function)} got arguments that do not fit.") from error

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
        if type(target) is dict and len(items) % 2 == 0:
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

    def push_set(self) -> None:
        self.append(Record("set"))

    def push_frozen_set(self) -> None:
        self.pop_mark()
        self.push_set()

    theirs = pickle._Unpickler
    ours = {
        **dict.fromkeys((pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER), refuse),
        **dict.fromkeys((pickle.REDUCE, pickle.NEWOBJ), call),
        pickle.NEWOBJ_EX: call_with_names,
        pickle.BUILD: build,
        pickle.SETITEM: lambda self: self.set_items([self.stack.pop(), self.stack.pop()][::-1]),
        pickle.SETITEMS: lambda self: self.set_items(self.pop_mark()),
        pickle.DICT: push_dict,
        pickle.EMPTY_SET: push_set,
        pickle.FROZENSET: push_frozen_set,
        pickle.ADDITEMS: theirs.load_appends,
        pickle.FRAME: lambda self: self.read(8),
        pickle.BYTEARRAY8: theirs.load_binbytes8,
        pickle.BINUNICODE: lambda self: self.push_text(pickle._Unpickler.load_binunicode),
        pickle.BINUNICODE8: lambda self: self.push_text(pickle._Unpickler.load_binunicode8),
    }
    dispatch = theirs.dispatch | {code[0]: operation for code, operation in ours.items()}


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
