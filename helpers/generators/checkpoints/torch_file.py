"""Files of ``torch.save``, zip and legacy, and the storages inside official pickles, read without ``torch.load``.

``torch.load(weights_only=True)`` runs no code either, but leaves memory to the file: what a compressed member grows
to, how large a legacy storage is, how often one storage is expanded; and it cannot read the storages inside official
pickles. Here every storage must fit into the bytes of the file, and tensors are views that are read on demand.

Zip: ``NAME/data.pkl`` refers to storages by ``("storage", type, key, location, numel)`` in ``NAME/data/KEY``, stored
without compression. Legacy: five pickles in a row (magic number, protocol, system, object, list of keys), then for
each key the number of elements (8 bytes) and the elements. A storage pickled by itself is such a legacy file in a
string (``torch.storage._load_from_bytes``).
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import BinaryIO

from helpers.generators.checkpoints.builders import STORAGES
from helpers.generators.checkpoints.own import CheckpointError
from helpers.generators.checkpoints.safe_pickle import read_pickle
from helpers.generators.checkpoints.values import Budget, Name, Record, Storage, shown

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_DIRECTORY = 2**22  # bytes of a zip file's table of contents


def storage_of(pid, budget: Budget) -> tuple[Storage | Record | Name, str]:
    """The storage that a persistent id describes, still without elements, and its key; a Record for unknown types."""
    if type(pid) is tuple and len(pid) > 1 and pid[0] == "module":  # the source text of a class, as torch once wrote
        return pid[1], ""
    if type(pid) is not tuple or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], Name):
        raise CheckpointError("it is damaged: a storage is not described as torch does.")
    kind, key, numel = pid[1].name, pid[2], pid[4]
    if not isinstance(key, str) or type(numel) is not int or numel < 0:
        raise CheckpointError("it is damaged: a storage is not described as torch does.")
    if len(pid) > 5 and pid[5] is not None:
        raise CheckpointError("its storages are views of each other, as torch wrote before 0.4: save it again.")
    return Storage(STORAGES[kind], numel, budget) if kind in STORAGES else Record(kind), key


def is_zip(head: bytes) -> bool:
    return head.startswith(b"PK\x03\x04")


class _Contents:
    """The members of a zip file as torch.save writes it: stored, each once, none inside another."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.starts, self.checked = file, {}, set()
        members = zipfile.ZipFile(_Bounded(file)).infolist()
        self.members = {info.filename: info for info in members}
        if len(self.members) < len(members):
            raise CheckpointError("it has two members of one name: refused.")
        end = 0
        for info in sorted(members, key=lambda info: info.header_offset):
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise CheckpointError("its members are compressed or encrypted, which torch.save never does: refused.")
            file.seek(info.header_offset)
            head = file.read(30)
            if len(head) < 30 or head[:4] != b"PK\x03\x04" or info.file_size != info.compress_size:
                raise CheckpointError("it is a damaged zip file: a member is not where the table says.")
            start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
            if info.header_offset < end:
                raise CheckpointError("its members overlap, which torch.save never does: refused.")
            end = start + info.file_size
            if end > size:
                raise CheckpointError("it is cut off: a member is larger than the file.")
            self.starts[info.filename] = start

    def read(self, name: str, start: int = 0, count: int | None = None) -> bytearray:
        """Bytes of a member, whose checksum is compared once."""
        info = self.members[name]
        if name not in self.checked:
            self.file.seek(self.starts[name])
            crc, left = 0, info.file_size
            while left and (part := self.file.read(min(left, 2**20))):
                crc, left = zlib.crc32(part, crc), left - len(part)
            if left or crc != info.CRC:
                raise CheckpointError(f"it is a damaged zip file: the checksum of {shown(name)} differs.")
            self.checked.add(name)
        found = bytearray(info.file_size if count is None else count)
        self.file.seek(self.starts[name] + start)
        if self.file.readinto(found) != len(found):
            raise CheckpointError("it is cut off: the elements of a tensor are missing.")
        return found


class _Bounded:
    """A file of which zipfile may read no more than MAX_DIRECTORY bytes at once."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self.seekable, self.file = file.seek, file.tell, file.seekable, file

    def read(self, count: int = -1) -> bytes:
        found = self.file.read(count if 0 <= count <= MAX_DIRECTORY else MAX_DIRECTORY + 1)
        if len(found) > MAX_DIRECTORY:
            raise CheckpointError("its table of contents is longer than that of any checkpoint: refused.")
        return found


def read_torch_zip(file: BinaryIO, size: int) -> object:
    """The object of a zip file of ``torch.save``; file: open in binary mode and kept open, size: its bytes.

    Raises CheckpointError for whatever torch.save does not write: members that are compressed, overlap or are missing.
    """
    budget = Budget(size)
    try:
        contents = _Contents(file, size)
        names = [name for name in contents.members if name.endswith("data.pkl") and name.count("/") <= 1]
        if len(names) != 1:
            raise CheckpointError("it is a zip file, but not one that torch.save wrote.")
        folder = names[0].removesuffix("data.pkl")

        def persistent(pid):
            storage, key = storage_of(pid, budget)
            if isinstance(storage, Storage):
                name = f"{folder}data/{key}"
                info = contents.members.get(name)
                if info is None or info.file_size != storage.numel * storage.dtype.itemsize:
                    raise CheckpointError(f"it is damaged: storage {shown(key)!r} has not the size that it claims.")
                storage.read = lambda start, count: contents.read(name, start, count)
            return storage

        return read_pickle(bytes(contents.read(names[0])), budget, persistent=persistent)
    except (zipfile.BadZipFile, OSError, NotImplementedError, struct.error, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"it is a damaged zip file: {shown(str(error))}.") from error


def is_legacy(head: bytes) -> bool:
    """Whether a file starts with the pickled magic number of torch's legacy format."""
    return MAGIC.to_bytes(10, "little") in head[:32]


def read_torch_legacy(file: BinaryIO, size: int, budget: Budget | None = None) -> object:
    """The object of a legacy file of ``torch.save``; file: in memory (BytesIO or mmap), size: its bytes."""
    budget = budget or Budget(size)
    storages: dict[str, Storage] = {}

    def persistent(pid):
        storage, key = storage_of(pid, budget)
        if isinstance(storage, Name):
            return storage
        if isinstance(storage, Record):
            raise CheckpointError(f"it holds a {storage.kind} of unknown size; save it in torch's zip format.")
        known = storages.setdefault(key, storage)
        if (known.dtype, known.numel) != (storage.dtype, storage.numel):
            raise CheckpointError("it is damaged: two storages have one key.")
        return known

    if read_pickle(file, budget) != MAGIC or read_pickle(file, budget) != PROTOCOL:
        raise CheckpointError("it is not a file of torch.save.")
    system = read_pickle(file, budget)
    if type(system) is dict and system.get("little_endian") is False:
        raise CheckpointError("it was written by a big-endian machine, which is not read.")
    result = read_pickle(file, budget, persistent=persistent)
    keys = read_pickle(file, budget)
    if type(keys) is not list or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise CheckpointError("it is damaged: its list of storages does not fit.")
    for key in keys:
        _place(file, size, storages[key])
    return result


def _place(file: BinaryIO, size: int, storage: Storage) -> None:
    """Note where the elements of a storage are, and move behind them."""
    head = file.read(8)
    count = storage.numel * storage.dtype.itemsize
    begin = file.tell()
    if len(head) != 8 or int.from_bytes(head, "little") != storage.numel or begin + count > size:
        raise CheckpointError("it is cut off: the elements of a tensor are missing.")

    def read(start: int, count: int) -> bytearray:
        file.seek(begin + start)
        return bytearray(file.read(count))

    storage.read = read
    file.seek(begin + count)


def read_storage(blob: bytes, budget: Budget) -> Storage:
    """A storage pickled by itself: a whole legacy file in a string."""
    if not is_legacy(blob[:32]):
        raise CheckpointError("it holds a storage in a form that is not read; save it with torch.save again.")
    storage = read_torch_legacy(io.BytesIO(blob), len(blob), budget)
    if not isinstance(storage, Storage):
        raise CheckpointError("it is damaged: a storage is missing.")
    return storage
