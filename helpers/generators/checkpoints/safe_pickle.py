"""Pickles read without Python's pickle module: data is built, code is never looked up, imported or called.

``pickletools.genops`` splits the bytes into opcodes; the stack machine here carries them out on plain values. A name in
the file (``GLOBAL``, ``STACK_GLOBAL``) stays a pair of strings. Calling one (``REDUCE``, ``NEWOBJ``, ``OBJ``, ``INST``)
looks it up in ``BUILDERS``, a table of our own functions that make dicts, lists, numbers, arrays and tensors; any other
name is refused the moment it is read. There is no way from the file to ``import``, ``getattr``, ``eval`` or ``exec``.

What can still be asked of a reader is time and memory, so both are bounded: the number of opcodes, the height of the
stack, the entries of the memo, the depth of the result, and the bytes that all builders together may make, a small
multiple of the file's own size (a memo lets a short file name one large string many times).
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import numpy as np

from helpers.weights import WeightsError

MAX_OPCODES = 5_000_000  # the largest official file has about 60,000
MAX_STACK = 200_000
MAX_MEMO = 2_000_000
MAX_DEPTH = 200  # containers inside containers; an official generator has about 25
MAX_DIMS = 8
SPARE_BYTES = 16 * 2**20  # what builders may make of a tiny file


class CheckpointError(WeightsError):
    """A checkpoint that is damaged, hostile, or of a kind that is not read; the message says which."""


class Name(NamedTuple):
    """A module and a name in it, as the file spells them; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return shown(f"{self.module}.{self.name}")


@dataclass
class Record:
    """An object of a class that is not ours: its name, how it was made and its state; no method, no code."""

    kind: str
    state: dict = field(default_factory=dict)
    args: tuple = ()


class Budget:
    """Bytes that may still be made; CheckpointError when a file asks for more."""

    def __init__(self, left: int):
        self.left = left

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise CheckpointError("it asks for far more memory than its own size: refused.")


def shown(text: str, most: int = 60) -> str:
    """Text of a file fit for an error message: printable and short."""
    text = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return text if len(text) <= most else text[:most] + "…"


def read_pickle(
    data: bytes | BinaryIO,
    *,
    budget: Budget,
    persistent: Callable[[object], object] | None = None,
    nested: Callable[[bytes, Budget], object] | None = None,
) -> object:
    """Build the one object of a pickle.

    Args:
        data: bytes, or a file in memory (BytesIO, mmap) that is left behind the pickle's end.
        budget: bytes that builders may make.
        persistent: from a persistent id (a tuple of plain values) to its value; without it such ids are refused.
        nested: reads the blob of a pickled torch storage.

    Raises:
        CheckpointError: one sentence, for bytes that are no whole pickle, names other than those of BUILDERS and
            TOKENS, and whatever exceeds the limits.
    """
    machine = _Machine(budget, persistent, nested)
    try:
        return machine.run(io.BytesIO(data) if isinstance(data, bytes) else data)
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, struct.error) as error:
        reason = shown(" ".join(str(error).split()), 100)
        raise CheckpointError(f"it is damaged: {type(error).__name__}, {reason}.") from error
    except (RecursionError, MemoryError) as error:
        raise CheckpointError("it asks for more memory than there is: refused.") from error


class _Machine:
    def __init__(self, budget: Budget, persistent, nested):
        self.budget, self.persistent, self.nested = budget, persistent, nested
        self.stack, self.marks, self.memo = [], [], {}
        self.stubs: dict[int, list] = {}  # where the memo holds an array whose state is still to come

    def run(self, file: BinaryIO) -> object:
        for count, (opcode, value, _) in enumerate(pickletools.genops(file)):
            if count > MAX_OPCODES or len(self.stack) > MAX_STACK or len(self.memo) > MAX_MEMO:
                raise CheckpointError("it has more parts than any checkpoint: refused.")
            name = opcode.name
            if name in _LITERALS:
                self.stack.append(value)
            elif name == "STOP":
                break
            elif name in _OPERATIONS:
                _OPERATIONS[name](self, value)
            else:
                raise CheckpointError(f"its opcode {name} is not one that weights need: refused, nothing was run.")
        if len(self.stack) != 1 or self.marks:
            raise CheckpointError("it is damaged: it does not end in one object.")
        result = self.stack.pop()
        _check_depth(result)
        return result

    # --- stack -------------------------------------------------------------------------------------------------------

    def pop(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise CheckpointError("it is damaged: a value is missing.")
        return self.stack.pop()

    def top(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise CheckpointError("it is damaged: a value is missing.")
        return self.stack[-1]

    def pop_mark(self) -> list:
        if not self.marks:
            raise CheckpointError("it is damaged: a mark is missing.")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def put(self, key) -> None:
        value = self.memo[key] = self.top()
        if isinstance(value, _Array | _DType):
            self.stubs.setdefault(id(value), []).append((key, value))

    def get(self, key) -> None:
        if key not in self.memo:
            raise CheckpointError("it is damaged: it refers to something that it does not hold.")
        self.stack.append(self.memo[key])

    # --- containers --------------------------------------------------------------------------------------------------

    def append(self, values: list) -> None:
        target = self.top()
        if type(target) is not list:
            raise CheckpointError("it is damaged: it appends to something that is no list.")
        target.extend(values)

    def set_items(self, values: list) -> None:
        target = self.top()
        if type(target) is not dict or len(values) % 2:
            raise CheckpointError("it is damaged: it sets items of something that is no dict.")
        target.update(_pairs(zip(values[::2], values[1::2], strict=True)))

    def add_items(self, values: list) -> None:
        target = self.top()
        if type(target) is not set:
            raise CheckpointError("it is damaged: it adds to something that is no set.")
        target.update(_key(v) for v in values)

    # --- names and what is made of them ------------------------------------------------------------------------------

    def push_name(self, module, name) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise CheckpointError("it is damaged: a name is no text.")
        found = Name(_PYTHON_2.get(module, module), name)
        if found not in BUILDERS and found not in TOKENS:
            raise CheckpointError(
                f"it names {found}, which is none of the things weights are made of: refused, {_SAFE}"
            )
        self.stack.append(found)

    def call(self, function, arguments) -> None:
        if not isinstance(function, Name) or type(arguments) is not tuple or function not in BUILDERS:
            what = function if isinstance(function, Name) else type(function).__name__
            raise CheckpointError(f"it calls {what}, which is no way to make weights: refused, {_SAFE}")
        try:
            self.stack.append(BUILDERS[function](self, *arguments))
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"it is damaged: {function} got arguments that do not fit.") from error

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, _Array | _DType):
            self.stack[-1] = target.with_state(self, state)
            self.memo.update((key, self.stack[-1]) for key, _ in self.stubs.pop(id(target), ()))
        elif isinstance(target, Record) and type(state) is dict:
            target.state = state
        elif type(target) is not dict:  # attributes of a dict, such as a state dict's _metadata, are left aside
            raise CheckpointError(f"it sets the state of a {type(target).__name__}: refused, {_SAFE}")


_SAFE = "nothing was run."
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy._core.multiarray": "numpy.core.multiarray"}
_PYTHON_2 |= {"numpy._core.numeric": "numpy.core.numeric", "dnnlib": "dnnlib.util"}


def _key(value):
    """A dict key or set member: plain values only, because hashing nested tuples can take forever."""
    if not isinstance(value, str | int | float | bytes | bool | type(None)):
        raise CheckpointError(f"it uses a {type(value).__name__} as a key: refused.")
    return value


def _pairs(pairs) -> dict:
    return {_key(key): value for key, value in pairs}


def _check_depth(root) -> None:
    """CheckpointError where containers lie too deep in each other; each is visited once."""
    seen, todo = set(), [(root, 0)]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, Record):
            value = (value.state, value.args)
        elif not isinstance(value, dict | list | tuple) or isinstance(value, Name) or id(value) in seen:
            continue
        if depth > MAX_DEPTH:
            raise CheckpointError(f"its parts lie more than {MAX_DEPTH} deep in each other: refused.")
        seen.add(id(value))
        todo += [(v, depth + 1) for v in (value.values() if isinstance(value, dict) else value)]


# --- opcodes ---------------------------------------------------------------------------------------------------------


_LITERALS = frozenset(  # genops gives their value
    ["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"]
    + ["STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"]
    + ["UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"]
)


def _persistent(machine: _Machine, pid) -> None:
    if machine.persistent is None:
        raise CheckpointError("it refers to parts outside of itself: refused.")
    machine.stack.append(machine.persistent(pid))


def _instance(machine: _Machine, values: list) -> None:
    machine.call(values[0], tuple(values[1:]))


_OPERATIONS: dict[str, Callable[[_Machine, object], object]] = {
    "PROTO": lambda m, v: None,
    "FRAME": lambda m, v: None,
    "NONE": lambda m, v: m.stack.append(None),
    "NEWTRUE": lambda m, v: m.stack.append(True),
    "NEWFALSE": lambda m, v: m.stack.append(False),
    "EMPTY_LIST": lambda m, v: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, v: m.stack.append(()),
    "EMPTY_DICT": lambda m, v: m.stack.append({}),
    "EMPTY_SET": lambda m, v: m.stack.append(set()),
    "MARK": lambda m, v: m.marks.append(len(m.stack)),
    "POP_MARK": lambda m, v: m.pop_mark(),
    "POP": lambda m, v: m.pop_mark() if m.marks and m.marks[-1] == len(m.stack) else m.pop(),
    "DUP": lambda m, v: m.stack.append(m.top()),
    "APPEND": lambda m, v: m.append([m.pop()]),
    "APPENDS": lambda m, v: m.append(m.pop_mark()),
    "LIST": lambda m, v: m.stack.append(m.pop_mark()),
    "TUPLE": lambda m, v: m.stack.append(tuple(m.pop_mark())),
    "TUPLE1": lambda m, v: m.stack.append((m.pop(),)),
    "TUPLE2": lambda m, v: m.stack.append((m.pop(), m.pop())[::-1]),
    "TUPLE3": lambda m, v: m.stack.append((m.pop(), m.pop(), m.pop())[::-1]),
    "SETITEM": lambda m, v: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, v: m.set_items(m.pop_mark()),
    "DICT": lambda m, v: (items := m.pop_mark(), m.stack.append({}), m.set_items(items)),
    "ADDITEMS": lambda m, v: m.add_items(m.pop_mark()),
    "FROZENSET": lambda m, v: m.stack.append(frozenset(_key(k) for k in m.pop_mark())),
    "PUT": lambda m, v: m.put(v),
    "BINPUT": lambda m, v: m.put(v),
    "LONG_BINPUT": lambda m, v: m.put(v),
    "MEMOIZE": lambda m, v: m.put(len(m.memo)),
    "GET": lambda m, v: m.get(v),
    "BINGET": lambda m, v: m.get(v),
    "LONG_BINGET": lambda m, v: m.get(v),
    "GLOBAL": lambda m, v: m.push_name(*v.split(" ", 1)),
    "STACK_GLOBAL": lambda m, v: m.push_name(*(m.pop(), m.pop())[::-1]),
    "REDUCE": lambda m, v: m.call(*(m.pop(), m.pop())[::-1]),
    "NEWOBJ": lambda m, v: m.call(*(m.pop(), m.pop())[::-1]),
    "OBJ": lambda m, v: _instance(m, m.pop_mark()),
    "INST": lambda m, v: (items := m.pop_mark(), m.push_name(*v.split(" ", 1)), m.call(m.pop(), tuple(items))),
    "BUILD": lambda m, v: m.build(),
    "PERSID": _persistent,
    "BINPERSID": lambda m, v: _persistent(m, m.pop()),
}


# --- numpy -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _DType:
    """A numpy dtype under way: its code ("f4") until the state gives the byte order."""

    code: str
    order: str = "="

    def with_state(self, machine: _Machine, state) -> _DType:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise CheckpointError("it is damaged: the byte order of an array is missing.")
        if any(part is not None for part in state[2:5]):
            raise CheckpointError("it holds arrays of records, which weights are not: refused.")
        return _DType(self.code, state[1])

    def to_numpy(self) -> np.dtype:
        return np.dtype(("" if self.order == "|" else self.order) + self.code)


@dataclass(frozen=True)
class _Array:
    """A numpy array before its state."""

    def with_state(self, machine: _Machine, state) -> np.ndarray:
        _, shape, dtype, fortran, raw = state
        return _array(raw, dtype, shape, "F" if fortran else "C")


def _dtype(machine: _Machine, code, *_) -> _DType:
    code = code.decode("ascii") if isinstance(code, bytes) else code
    order, code = (code[0], code[1:]) if code[:1] in ("<", ">", "|", "=") else ("=", code)
    if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        raise CheckpointError(f"it holds arrays of type {shown(code)!r}, which weights are not: refused.")
    return _DType(code, order)


def _array(raw, dtype, shape, order="C") -> np.ndarray:
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _DType):
        raise CheckpointError("it is damaged: an array has no bytes.")
    check_shape(shape)
    values = np.frombuffer(raw, dtype.to_numpy())
    if len(values) != math.prod(shape):
        raise CheckpointError(f"it is damaged: an array of {len(values)} values claims {math.prod(shape)}.")
    return values.reshape(shape, order=order)


def check_shape(shape) -> None:
    """Raise CheckpointError unless the shape is a short tuple of numbers of at least 0."""
    if type(shape) is not tuple or len(shape) > MAX_DIMS or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise CheckpointError("it is damaged: the shape of a tensor is none.")


def _scalar(machine: _Machine, dtype, raw):
    if isinstance(raw, str):
        raw = raw.encode("latin-1")
    return _array(raw, dtype, (1,))[0].item()


def _encode(machine: _Machine, text, encoding="latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise CheckpointError("it encodes something other than bytes as text: refused.")
    machine.budget.spend(len(text))
    return text.encode("latin-1")


# --- plain containers and records ------------------------------------------------------------------------------------


def _dict(machine: _Machine, items=(), *more) -> dict:
    if more or not isinstance(items, dict | list | tuple):
        raise CheckpointError("it is damaged: a dict is made of something else.")
    machine.budget.spend(100 * len(items))
    return _pairs(items.items() if isinstance(items, dict) else items)


def _set(machine: _Machine, items=()) -> set:
    machine.budget.spend(100 * len(items))
    return {_key(item) for item in items}


def _reconstructor(machine: _Machine, cls, base, state):
    if cls not in BUILDERS or base not in (Name("builtins", "dict"), Name("builtins", "object")):
        raise CheckpointError(f"it makes a {cls}, which is none of the things weights are made of: refused, {_SAFE}")
    return BUILDERS[cls](machine, *([] if state is None else [state]))


def _bytearray(machine: _Machine, raw=b"", encoding=None) -> bytearray:
    raw = _encode(machine, raw, encoding) if isinstance(raw, str) else raw
    if not isinstance(raw, bytes | bytearray):  # a number would ask for that many zeros
        raise CheckpointError("it is damaged: a bytearray is made of something else.")
    machine.budget.spend(len(raw))
    return bytearray(raw)


def _persistent_object(machine: _Machine, meta) -> Record:
    """The official ``torch_utils.persistence``: class name and state are kept, the source text is left unread."""
    if type(meta) is not dict or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise CheckpointError("it is damaged: a persistent object has no class name.")
    if type(meta.get("state")) is not dict:
        raise CheckpointError("it is damaged: a persistent object has no state.")
    return Record(shown(meta["class_name"]), meta["state"])


def _record(kind: str):
    return lambda machine, *args: Record(kind, {}, args)


# --- torch -----------------------------------------------------------------------------------------------------------


def _tensor(machine: _Machine, storage, offset, size, stride, *_):
    from helpers.generators.checkpoints.torch_file import LazyTensor

    return LazyTensor(storage, offset, size, stride)


def _parameter(machine: _Machine, data, *_):
    from helpers.generators.checkpoints.torch_file import LazyTensor

    if not isinstance(data, LazyTensor):
        raise CheckpointError("it is damaged: a parameter holds no tensor.")
    return data


def _from_type(machine: _Machine, function, kind, arguments, state):
    if function not in (Name("torch._utils", "_rebuild_tensor_v2"), Name("torch._utils", "_rebuild_tensor")):
        raise CheckpointError("it makes a tensor in a way that weights need not: refused, nothing was run.")
    return BUILDERS[function](machine, *arguments)


def _storage(machine: _Machine, blob):
    if machine.nested is None or not isinstance(blob, bytes | bytearray):
        raise CheckpointError("it is damaged: a storage lies where none can be.")
    machine.budget.spend(len(blob))
    return machine.nested(bytes(blob), machine.budget)


BUILDERS: dict[Name, Callable] = {
    Name("collections", "OrderedDict"): _dict,
    Name("builtins", "dict"): _dict,
    Name("builtins", "set"): _set,
    Name("builtins", "frozenset"): lambda m, *a: frozenset(_set(m, *a)),
    Name("builtins", "bytearray"): _bytearray,
    Name("copyreg", "_reconstructor"): _reconstructor,
    Name("_codecs", "encode"): _encode,
    Name("numpy.core.multiarray", "_reconstruct"): lambda m, *a: _Array(),
    Name("numpy.core.multiarray", "scalar"): _scalar,
    Name("numpy.core.numeric", "_frombuffer"): lambda m, raw, dtype, shape, order: _array(raw, dtype, shape, order),
    Name("numpy", "dtype"): _dtype,
    Name("dnnlib.util", "EasyDict"): _dict,
    Name("dnnlib.tflib.network", "Network"): _record("Network"),
    Name("argparse", "Namespace"): _record("Namespace"),
    Name("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    Name("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    Name("torch.storage", "_load_from_bytes"): _storage,
    Name("torch", "Size"): lambda m, sizes=(): tuple(sizes),
    Name("torch", "device"): lambda m, *a: "cpu",
}
STORAGES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
TOKENS = {Name(module, name) for module in ("torch", "torch.cuda") for name in STORAGES}
TOKENS |= {Name("numpy", "ndarray"), Name("builtins", "object"), Name("torch", "Tensor")}
TOKENS |= {Name("torch.nn.parameter", "Parameter"), Name("torch._tensor", "Tensor")}
