"""Files of ``torch.save``, zip and legacy, and the storages inside official pickles, read without ``torch.load``.

``torch.load(weights_only=True)`` leaves memory to the file, and cannot read the storages inside official pickles. Here
every storage must fit into the bytes of the file, and tensors are views that are read on demand.
"""

import io
import mmap
import struct
import zipfile
import zlib
from typing import BinaryIO

from helpers.generators.checkpoints import CheckpointError
from helpers.generators.checkpoints.safe_pickle import STORAGES, Budget, Name, Record, Storage, Unpickler, shown

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_DIRECTORY = 2**22  # bytes of a zip file's table of contents


def load(file: BinaryIO) -> object:
    """The object of a pickle or of a file of ``torch.save``. Raises CheckpointError."""
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last tensor that reads from it
    budget = Budget(len(memory))
    if memory[:4] == b"PK\x03\x04":
        return _zip(file, memoryview(memory), budget)
    if _is_legacy(memory):
        return _legacy(memory, memoryview(memory), budget)
    return Unpickler(memory, budget, nested=_nested).load()


def _storage(pid, known: dict[str, Storage], budget: Budget):
    """The storage that a persistent id describes, one for each key; a Record for unknown types."""
    match pid:
        case ("module", Name() as kind, *_):  # the source text of a class, as torch once wrote
            return kind
        case ("storage", Name() as kind, str(key), _, int(numel), *view) if numel >= 0 and not any(view):
            if kind not in STORAGES:
                return Record(shown(kind))
            storage = known.setdefault(key, Storage(STORAGES[kind], numel, budget))
            if (storage.dtype, storage.numel) == (STORAGES[kind], numel):
                return storage
            raise CheckpointError("it is damaged: two storages have one key.")
    raise CheckpointError("it is damaged: a storage is not described as torch does.")


class _Directory(io.FileIO):
    """A file of which zipfile reads no more than MAX_DIRECTORY bytes at once."""

    def read(self, count: int = -1) -> bytes:
        if count > MAX_DIRECTORY:
            raise CheckpointError("its table of contents is longer than that of any checkpoint: refused.")
        return super().read(count)


def _members(file: BinaryIO, data: memoryview) -> dict[str, tuple[int, memoryview]]:
    """Checksum and bytes of the members of a zip file as torch.save writes it: stored, each once, none in another."""
    members, end = {}, 0
    infos = zipfile.ZipFile(_Directory(file.fileno(), closefd=False)).infolist()
    for info in sorted(infos, key=lambda info: info.header_offset):
        head = bytes(data[info.header_offset :][:30])
        if info.filename in members:
            raise CheckpointError("it has two members of one name: refused.")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise CheckpointError("its members are compressed or encrypted, which torch.save never does: refused.")
        if len(head) < 30 or head[:4] != b"PK\x03\x04" or info.header_offset < end:
            raise CheckpointError("its members overlap, or are not where the table of contents says: refused.")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
        end = start + info.file_size
        if end > len(data):
            raise CheckpointError("it is cut off: a member is larger than the file.")
        members[info.filename] = info.CRC, data[start:end]
    return members


def _zip(file: BinaryIO, data: memoryview, budget: Budget) -> object:
    """``NAME/data.pkl`` refers to ``("storage", type, key, location, numel)`` in ``NAME/data/KEY``."""
    members, storages = _members(file, data), {}

    def content(name: str) -> memoryview:
        checksum, found = members[name]
        if zlib.crc32(found) != checksum:
            raise CheckpointError(f"it is a damaged zip file: the checksum of {shown(name)} differs.")
        return found

    def persistent(pid):
        storage = _storage(pid, storages, budget)
        if isinstance(storage, Storage) and storage.data is None:
            name = f"{folder}data/{pid[2]}"
            if name not in members or len(members[name][1]) != storage.numel * storage.dtype.itemsize:
                raise CheckpointError(f"it is damaged: storage {shown(pid[2])!r} has not the size that it claims.")
            storage.data = content(name)
        return storage

    names = [name for name in members if name.endswith("data.pkl") and name.count("/") <= 1]
    if len(names) != 1:
        raise CheckpointError("it is a zip file, but not one that torch.save wrote.")
    folder = names[0].removesuffix("data.pkl")
    return Unpickler(io.BytesIO(content(names[0])), budget, persistent).load()


def _is_legacy(data) -> bool:
    return MAGIC.to_bytes(10, "little") in data[:32]


def _legacy(file: BinaryIO, data: memoryview, budget: Budget) -> object:
    """Five pickles (magic number, protocol, system, object, list of keys), then the elements of each storage."""
    storages: dict[str, Storage] = {}

    def persistent(pid):
        storage = _storage(pid, storages, budget)
        if isinstance(storage, Record):
            raise CheckpointError(f"it holds a {storage.kind} of unknown size; save it in torch's zip format.")
        return storage

    magic, protocol, system = (Unpickler(file, budget).load() for _ in range(3))
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise CheckpointError("it is not a file of torch.save.")
    if type(system) is dict and system.get("little_endian") is False:
        raise CheckpointError("it was written by a big-endian machine, which is not read.")
    result, keys = Unpickler(file, budget, persistent).load(), Unpickler(file, budget).load()
    if type(keys) is not list or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise CheckpointError("it is damaged: its list of storages does not fit.")
    for storage in (storages[key] for key in keys):
        start = file.tell() + 8  # behind the number of elements
        end = start + storage.numel * storage.dtype.itemsize
        if end > len(data) or int.from_bytes(data[start - 8 : start], "little") != storage.numel:
            raise CheckpointError("it is cut off: the elements of a tensor are missing.")
        storage.data = data[start:end]
        file.seek(end)
    return result


def _nested(blob: bytes, budget: Budget) -> Storage:
    """A storage pickled by itself: a whole legacy file in a string (``torch.storage._load_from_bytes``)."""
    if not _is_legacy(blob):
        raise CheckpointError("it holds a storage in a form that is not read; save it with torch.save again.")
    storage = _legacy(io.BytesIO(blob), memoryview(blob), budget)
    if not isinstance(storage, Storage):
        raise CheckpointError("it is damaged: a storage is missing.")
    return storage
