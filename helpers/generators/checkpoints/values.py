"""What a file may be made of: names, records and tensors that are read later, and one budget for all of them."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from helpers.generators.checkpoints import CheckpointError

SPARE_BYTES = 64 * 2**20  # what may be made from a tiny file
MAX_OPCODES = 1_000_000  # of all pickles in a file together; the largest official file has about 60,000
OPCODE_BYTES = 100  # what the object of an opcode takes, with its place in a container and in the memo
MAX_DIMS = 8


def shown(text: str, most: int = 60) -> str:
    """Text from a file, made fit for an error message: printable and short."""
    text = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return text if len(text) <= most else text[:most] + "…"


class Name(str):
    """A module and a name in it, as the file spells them with a dot between; never imported."""


@dataclass(eq=False, slots=True)
class Record:
    """An object of some class, never imported: its name, the arguments it was made with, and its state."""

    kind: str
    state: object = field(default_factory=dict)
    args: tuple = ()

    def extend(self, *_) -> None:
        """Items of its own, which nobody reads."""

    append = extend


class Budget:
    """What a file may still make, with all pickles inside it: bytes and opcodes. CheckpointError beyond that."""

    def __init__(self, size: int):
        self.bytes, self.opcodes = 2 * size + SPARE_BYTES, MAX_OPCODES

    def spend(self, count: int, opcodes: int = 0) -> None:
        self.bytes -= count + OPCODE_BYTES * opcodes
        self.opcodes -= opcodes
        if self.bytes < 0 or self.opcodes < 0:
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
    """A view of a storage: shape, dtype and place, checked; the elements come with ``read``."""

    storage: Storage | None = None
    offset: int = 0
    shape: tuple = ()
    stride: tuple = ()

    def place(self, storage: Storage, offset: int, shape: tuple, stride: tuple) -> "LazyTensor":
        """Say where the elements are. Raises CheckpointError if they are not within the storage."""
        check_shape(shape)
        check_shape(stride)
        if type(offset) is not int or offset < 0 or len(shape) != len(stride):
            raise CheckpointError("it is damaged: a tensor has no storage.")
        if math.prod(shape) and offset + _span(shape, stride) > storage.numel:
            raise CheckpointError("it is damaged: a tensor reaches beyond its storage.")
        if math.prod(shape) > max(storage.numel, 1):  # an expanded tensor: few bytes, any number of elements
            raise CheckpointError("it holds a tensor that is larger than its storage: refused.")
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride
        return self

    def read(self) -> Tensor:
        """The elements in their own memory; only their part of the storage is read."""
        if self.storage is None or self.storage.data is None:
            raise CheckpointError("it holds an array of a kind that is not read where a tensor belongs.")
        dtype, count = self.storage.dtype, math.prod(self.shape)
        if not count:
            return torch.empty(self.shape, dtype=dtype)
        span, size = _span(self.shape, self.stride), dtype.itemsize
        self.storage.budget.spend(max(4, size) * count + max(0, span - count) * size)
        raw = bytearray(self.storage.data[self.offset * size : (self.offset + span) * size])
        return torch.frombuffer(raw, dtype=dtype).as_strided(self.shape, self.stride).contiguous()


def _span(shape: tuple, stride: tuple) -> int:
    """How many elements from the first to the last."""
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))


def check_shape(shape) -> None:
    """Raise CheckpointError unless the shape is a short tuple of numbers of at least 0."""
    if type(shape) is not tuple or len(shape) > MAX_DIMS or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise CheckpointError("it is damaged: the shape of a tensor is not one.")
