"""Files of ``torch.save``, zip and legacy, and the storages inside official pickles, read without ``torch.load``.

``torch.load(weights_only=True)`` runs no code either, but leaves memory to the file: what a compressed member grows
to, how large a legacy storage is, how often one storage is expanded; and the storages inside official pickles are out
of its reach. Here every storage must fit into the bytes that there are, tensors are views that are read when they are
asked for, and nothing is built but tensors, dicts, lists, numbers and strings.

Zip: ``NAME/data.pkl`` refers to storages by ``("storage", type, key, location, numel)`` in ``NAME/data/KEY``, stored
without compression. Legacy: five pickles one after the other (magic number, protocol, system, object, list of keys),
then for each key the number of elements (8 bytes) and the elements. A storage pickled by itself is such a legacy file
in a string (``torch.storage._load_from_bytes``).
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from helpers.generators.checkpoints.safe_pickle import (
    SPARE_BYTES,
    STORAGES,
    Budget,
    CheckpointError,
    Name,
    check_shape,
    read_pickle,
    shown,
)

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


@dataclass
class Storage:
    """Elements of one type; ``read`` gives their bytes once the file is known to hold them."""

    dtype: torch.dtype
    numel: int
    budget: Budget
    read: object = None


class LazyTensor:
    """A view into a storage: shape, dtype and place, checked; the tensor is made by ``read``."""

    def __init__(self, storage, offset, size, stride):
        check_shape(size), check_shape(stride)
        if not isinstance(storage, Storage) or type(offset) is not int or offset < 0 or len(size) != len(stride):
            raise CheckpointError("it is damaged: a tensor has no storage.")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.numel:
            raise CheckpointError("it is damaged: a tensor reaches beyond its storage.")
        if math.prod(size) > max(storage.numel, 1):  # an expanded tensor: few bytes, any number of elements
            raise CheckpointError("it holds a tensor that is larger than its storage: refused.")
        self.storage, self.offset, self.shape, self.stride = storage, offset, size, stride

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def read(self) -> Tensor:
        """A copy of the elements in its own memory."""
        storage = self.storage
        if storage.read is None:
            raise CheckpointError("it is damaged: the elements of a tensor are missing.")
        storage.budget.spend(math.prod(self.shape) * storage.dtype.itemsize)
        if not storage.numel:
            return torch.empty(self.shape, dtype=storage.dtype)
        flat = torch.frombuffer(bytearray(storage.read()), dtype=storage.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset).clone(memory_format=torch.contiguous_format)


def storage_of(pid, budget: Budget) -> tuple[Storage, str]:
    """The storage that a persistent id describes, still without elements, and its key."""
    if type(pid) is not tuple or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], Name):
        raise CheckpointError("it is damaged: a storage is not described as torch does.")
    kind, key, numel = pid[1].name, pid[2], pid[4]
    if kind not in STORAGES or not isinstance(key, str) or type(numel) is not int or numel < 0:
        raise CheckpointError("it is damaged: a storage is not described as torch does.")
    if len(pid) > 5 and pid[5] is not None:
        raise CheckpointError("its storages are views of each other, as torch wrote before 0.4: save it again.")
    return Storage(getattr(torch, STORAGES[kind]), numel, budget), key


def is_zip(head: bytes) -> bool:
    return head.startswith(b"PK\x03\x04")


def read_torch_zip(file: BinaryIO, size: int) -> object:
    """The object of a zip file of ``torch.save``; file: open in binary mode and kept open, size: its bytes.

    Raises CheckpointError for anything that torch.save does not write: compressed, overlapping or missing members.
    """
    budget = Budget(4 * size + SPARE_BYTES)
    try:
        archive = zipfile.ZipFile(file)
        members = {info.filename: info for info in archive.infolist()}
        if sum(info.file_size for info in members.values()) > size or any(
            info.compress_type != zipfile.ZIP_STORED for info in members.values()
        ):
            raise CheckpointError("its members are compressed, which torch.save never does: refused.")
        names = [name for name in members if name.endswith("data.pkl") and name.count("/") <= 1]
        if len(names) != 1:
            raise CheckpointError("it is a zip file, but none that torch.save wrote.")
        folder = names[0].removesuffix("data.pkl")

        def persistent(pid) -> Storage:
            storage, key = storage_of(pid, budget)
            info = members.get(f"{folder}data/{key}")
            if info is None or info.file_size != storage.numel * storage.dtype.itemsize:
                raise CheckpointError(f"it is damaged: storage {shown(key)!r} has not the size that it claims.")
            storage.read = lambda: _member(archive, info)
            return storage

        return read_pickle(_member(archive, members[names[0]]), budget=budget, persistent=persistent)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, struct.error, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"it is a damaged zip file: {shown(str(error))}.") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError, struct.error) as error:
        raise CheckpointError(f"it is a damaged zip file: {shown(str(error))}.") from error


def is_legacy(head: bytes) -> bool:
    """Whether a file starts with the pickled magic number of torch's legacy format."""
    return MAGIC.to_bytes(10, "little") in head[:32]


def read_torch_legacy(file: BinaryIO, size: int, budget: Budget | None = None) -> object:
    """The object of a legacy file of ``torch.save``; file: in memory (BytesIO or mmap), size: its bytes."""
    budget = budget or Budget(4 * size + SPARE_BYTES)
    storages: dict[str, Storage] = {}

    def persistent(pid) -> Storage:
        storage, key = storage_of(pid, budget)
        known = storages.setdefault(key, storage)
        if (known.dtype, known.numel) != (storage.dtype, storage.numel):
            raise CheckpointError("it is damaged: two storages have one key.")
        return known

    if read_pickle(file, budget=budget) != MAGIC or read_pickle(file, budget=budget) != PROTOCOL:
        raise CheckpointError("it is no file of torch.save.")
    system = read_pickle(file, budget=budget)
    if type(system) is dict and system.get("little_endian") is False:
        raise CheckpointError("it was written by a big-endian machine, which is not read.")
    result = read_pickle(file, budget=budget, persistent=persistent)
    keys = read_pickle(file, budget=budget)
    if type(keys) is not list or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise CheckpointError("it is damaged: its list of storages does not fit.")
    for key in keys:
        _place(file, size, storages[key])
    return result


def _place(file: BinaryIO, size: int, storage: Storage) -> None:
    """Note where the elements of a storage lie, and go behind them."""
    head = file.read(8)
    count = storage.numel * storage.dtype.itemsize
    start = file.tell()
    if len(head) != 8 or int.from_bytes(head, "little") != storage.numel or start + count > size:
        raise CheckpointError("it is cut off: the elements of a tensor are missing.")

    def read() -> bytes:
        file.seek(start)
        return file.read(count)

    storage.read = read
    file.seek(start + count)


def read_storage(blob: bytes, budget: Budget) -> Storage:
    """A storage pickled by itself: a whole legacy file in a string."""
    if not is_legacy(blob[:32]):
        raise CheckpointError("it holds a storage in a form that is not read; save it with torch.save again.")
    storage = read_torch_legacy(io.BytesIO(blob), len(blob), budget)
    if not isinstance(storage, Storage):
        raise CheckpointError("it is damaged: a storage is missing.")
    return storage
