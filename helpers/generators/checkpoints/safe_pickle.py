"""Pickles read without Python's pickle module: data is built, code is never looked up, imported or called.

``pickletools`` knows how the bytes of each opcode are read; the stack machine here carries the opcodes out on plain
values. A name in the file (``GLOBAL``, ``STACK_GLOBAL``) remains a pair of strings. Calling one (``REDUCE``,
``NEWOBJ``, ``OBJ``, ``INST``) looks it up in ``BUILDERS``, a table of our own functions; any other name gives a Record,
which does nothing. No way leads from the file to ``import``, ``getattr``, ``eval`` or ``exec``.

A file could still ask for time and memory, so the budget counts whatever all pickles of a file make together.
"""

from __future__ import annotations

import io
import pickletools
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

from helpers.generators.checkpoints.builders import ATTACKS, BUILDERS, fill_array, pairs
from helpers.generators.checkpoints.own import CheckpointError
from helpers.generators.checkpoints.values import Budget, LazyTensor, Name, Record, shown

SET_BYTES = 250  # an empty set


def read_pickle(
    data: bytes | BinaryIO,
    budget: Budget,
    *,
    persistent: Callable[[object], object] | None = None,
    nested: Callable[[bytes, Budget], object] | None = None,
) -> object:
    """Build the one object of a pickle.

    Args:
        data: bytes, or a file in memory (BytesIO, mmap), whose position is behind the pickle afterwards.
        budget: of the whole file.
        persistent: from a persistent id (a tuple of plain values) to its value; without it such ids are refused.
        nested: reads the blob of a pickled torch storage.

    Raises:
        CheckpointError: one sentence, for bytes that are not a whole pickle, for names that only an attack needs, and
            for whatever exceeds the budget.
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

    def run(self, file: BinaryIO) -> object:
        while True:
            code = file.read(1)
            opcode, operation = _OPCODES.get(code, (None, None))
            if opcode is None:
                raise CheckpointError(f"it is damaged: the byte {code!r} is not an opcode of a pickle.")
            self.budget.step()
            value = opcode.arg.reader(file) if opcode.arg else None
            if opcode.name == "STOP":
                break
            if operation is None:
                raise CheckpointError(
                    f"its opcode {opcode.name} is not one that weights need: refused, nothing was run."
                )
            operation(self, value)
        if len(self.stack) != 1 or self.marks:
            raise CheckpointError("it is damaged: it does not end in one object.")
        return self.stack.pop()

    # --- stack -------------------------------------------------------------------------------------------------------

    def top(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise CheckpointError("it is damaged: a value is missing.")
        return self.stack[-1]

    def pop(self):
        self.top()
        return self.stack.pop()

    def pop_mark(self) -> list:
        if not self.marks:
            raise CheckpointError("it is damaged: a mark is missing.")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def push(self, value) -> None:
        self.stack.append(value)

    def push_literal(self, value) -> None:
        if isinstance(value, str | bytes | bytearray):
            self.budget.spend(sys.getsizeof(value))
        self.stack.append(value)

    def push_set(self, *_) -> None:
        self.budget.spend(SET_BYTES)
        self.stack.append(Record("set"))

    def put(self, key) -> None:
        self.memo[key] = self.top()

    def get(self, key) -> None:
        if key not in self.memo:
            raise CheckpointError("it is damaged: it refers to something that it does not hold.")
        self.stack.append(self.memo[key])

    # --- containers --------------------------------------------------------------------------------------------------

    def append(self, values: list) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(values)
        elif not isinstance(target, Record):  # an object with items of its own: nobody reads them
            raise CheckpointError("it is damaged: it appends to something that is not a list.")

    def set_items(self, values: list) -> None:
        target = self.top()
        if type(target) is dict and len(values) % 2 == 0:
            target.update(pairs(zip(values[::2], values[1::2], strict=True)))
        elif not isinstance(target, Record):
            raise CheckpointError("it is damaged: it sets items of something that is not a dict.")

    # --- names and what is made of them ------------------------------------------------------------------------------

    def push_name(self, module, name) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise CheckpointError("it is damaged: a name is not text.")
        found = Name(_ALIASES.get(module, module), name)
        if ATTACKS.match(f"{found.module}.{name}"[:200]):
            raise CheckpointError(f"it names {found}, which only an attack needs: refused, {_SAFE}")
        self.stack.append(found)

    def call(self, function, arguments, *_) -> None:
        if type(arguments) is not tuple or not isinstance(function, Name | Record):
            raise CheckpointError(f"it calls a {type(function).__name__}: refused, {_SAFE}")
        if not isinstance(function, Name) or function not in BUILDERS:
            kind = str(function) if isinstance(function, Name) else function.kind
            return self.stack.append(Record(kind, {}, arguments))
        try:
            self.stack.append(BUILDERS[function](self, *arguments))
        except CheckpointError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise CheckpointError(f"it is damaged: {function} got arguments that do not fit.") from error

    def instance(self, values: list) -> None:
        self.call(values[0], tuple(values[1:]))

    def build(self, *_) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, LazyTensor):
            if type(state) is tuple and len(state) == 5 and target.storage is None:
                _, shape, dtype, fortran, raw = state
                fill_array(self, target, raw, dtype, shape, "F" if fortran else "C")
        elif isinstance(target, Record):  # with slots the state is a pair of dicts
            slots = type(state) is tuple and len(state) == 2 and type(state[0]) is dict
            target.state = state[0] if slots else state

    def load_persistent(self, pid) -> None:
        if self.persistent is None:
            raise CheckpointError("it refers to parts outside of itself: refused.")
        self.stack.append(self.persistent(pid))


_SAFE = "nothing was run."
_ALIASES = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy._core.multiarray": "numpy.core.multiarray"}
_ALIASES |= {"numpy._core.numeric": "numpy.core.numeric"}
_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)
_OPERATIONS: dict[str, Callable[[_Machine, object], object]] = dict.fromkeys(_LITERALS, _Machine.push_literal) | {
    "PROTO": lambda m, v: None,
    "FRAME": lambda m, v: None,
    "STOP": lambda m, v: None,
    "NONE": lambda m, v: m.push(None),
    "NEWTRUE": lambda m, v: m.push(True),
    "NEWFALSE": lambda m, v: m.push(False),
    "EMPTY_LIST": lambda m, v: m.push([]),
    "EMPTY_TUPLE": lambda m, v: m.push(()),
    "EMPTY_DICT": lambda m, v: m.push({}),
    "EMPTY_SET": _Machine.push_set,
    "MARK": lambda m, v: m.marks.append(len(m.stack)),
    "POP_MARK": lambda m, v: m.pop_mark(),
    "POP": lambda m, v: m.pop_mark() if m.marks and m.marks[-1] == len(m.stack) else m.pop(),
    "DUP": lambda m, v: m.push(m.top()),
    "APPEND": lambda m, v: m.append([m.pop()]),
    "APPENDS": lambda m, v: m.append(m.pop_mark()),
    "LIST": lambda m, v: m.push(m.pop_mark()),
    "TUPLE": lambda m, v: m.push(tuple(m.pop_mark())),
    "TUPLE1": lambda m, v: m.push((m.pop(),)),
    "TUPLE2": lambda m, v: m.push((m.pop(), m.pop())[::-1]),
    "TUPLE3": lambda m, v: m.push((m.pop(), m.pop(), m.pop())[::-1]),
    "SETITEM": lambda m, v: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, v: m.set_items(m.pop_mark()),
    "DICT": lambda m, v: (items := m.pop_mark(), m.push({}), m.set_items(items)),
    "ADDITEMS": lambda m, v: m.append(m.pop_mark()),
    "FROZENSET": lambda m, v: (m.pop_mark(), m.push_set()),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda m, v: m.put(len(m.memo)),
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": lambda m, v: m.push_name(*v.split(" ", 1)),
    "STACK_GLOBAL": lambda m, v: m.push_name(*(m.pop(), m.pop())[::-1]),
    "REDUCE": lambda m, v: m.call(*(m.pop(), m.pop())[::-1]),
    "NEWOBJ": lambda m, v: m.call(*(m.pop(), m.pop())[::-1]),
    "NEWOBJ_EX": lambda m, v: m.call(*(m.pop(), m.pop(), m.pop())[::-1]),
    "OBJ": lambda m, v: m.instance(m.pop_mark()),
    "INST": lambda m, v: (items := m.pop_mark(), m.push_name(*v.split(" ", 1)), m.call(m.pop(), tuple(items))),
    "BUILD": _Machine.build,
    "PERSID": _Machine.load_persistent,
    "BINPERSID": lambda m, v: m.load_persistent(m.pop()),
}
_OPCODES = {op.code.encode("latin-1"): (op, _OPERATIONS.get(op.name)) for op in pickletools.opcodes}
