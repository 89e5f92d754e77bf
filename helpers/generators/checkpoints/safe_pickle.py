"""Pickles read by Python's own unpickler, in which a name in the file is never looked up, imported or called.

It remains a Name. Calling it makes something out of ``builders.BUILDERS``, a table of our own functions, or a Record,
which does nothing. The opcodes that reach outside of the file are refused, and a budget counts what all others make.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import BinaryIO

from helpers.generators.checkpoints.builders import ATTACKS, BUILDERS, fill_array, pairs
from helpers.generators.checkpoints.own import CheckpointError
from helpers.generators.checkpoints.values import Budget, LazyTensor, Name, Record, shown

MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # as Python 2 calls them
SAFE = "refused, nothing was run."
UNFIT = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def read_pickle(file: BinaryIO, budget: Budget, *, persistent: Callable | None = None, nested: Callable | None = None):
    """Build the one object of a pickle in a file in memory (BytesIO, mmap), whose position is behind it afterwards.

    persistent: from a persistent id (a tuple of plain values) to its value; without it such ids are refused.
    nested: reads the bytes of a pickled torch storage, (bytes, budget).
    Raises CheckpointError, one sentence, for bytes that are not a whole pickle, for names that only an attack needs,
    and for whatever exceeds the budget.
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
        self.budget.step()
        found = self.file.read(count)
        if len(found) < count:
            raise CheckpointError("it is damaged or cut off: its end is missing.")
        self.budget.spend(count)
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
