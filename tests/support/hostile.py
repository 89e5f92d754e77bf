"""A catalogue of hostile and broken checkpoints: name, bytes, and what the one sentence about each must say."""

import io
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from tests.support import checkpoint_files as files
from tests.support import tiny

MARK = "touched-by-a-checkpoint"  # a folder that running any of them would make
COMMAND, SOURCE = f"mkdir {MARK}", f"__import__('os').mkdir('{MARK}')"
CALLS = [
    *((module, "system", [COMMAND]) for module in ("os", "posix")),
    *((module, "eval", [SOURCE]) for module in ("builtins", "__builtin__")),
    *(("builtins", name, [SOURCE]) for name in ("exec", "__import__", "open")),
    *((module, "load", [MARK]) for module in ("numpy", "torch", "torch.hub")),
    *((module, "loads", ["cos\nsystem\n."]) for module in ("pickle", "marshal")),
    *(("subprocess", "Popen", [COMMAND]), ("numpy.distutils.exec_command", "exec_command", [COMMAND])),
    *(("importlib", "import_module", ["this"]), ("runpy", "run_path", ["/etc/hosts"])),
    *(("types", "FunctionType", ["c"]), ("operator", "attrgetter", ["system"]), ("ctypes", "CDLL", ["libc.so.6"])),
    *(("urllib.request", "urlopen", ["http://127.0.0.1:9"]), ("torch._utils", "_import_dotted_name", ["os.system"])),
    ("torch.jit._script", "unpackage_script_module", ["a"]),
]


def reduce(module, name, *arguments):
    """A pickle that calls module.name(*arguments) when Python's pickle loads it."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + _tuple(arguments) + b"R."


def _tuple(values):
    return b"(" + b"".join(_value(v) for v in values) + b"t"


def _value(value):
    """The opcodes of a text, a number, or opcodes themselves."""
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value)) + value.encode()
    return value if isinstance(value, bytes) else b"J" + struct.pack("<i", value)


def name(module, attribute):
    return b"c" + f"{module}\n{attribute}\n".encode()


def zipped(members, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for place, content in members:
            archive.writestr(place, content)
    return out.getvalue()


def in_zip(pickled, **members):
    """The pickle as data.pkl in a zip file as torch.save writes it."""
    contents = {"data.pkl": pickled} | {f"data/{key[1:]}": content for key, content in members.items()}
    return zipped([(f"archive/{place}", content) for place, content in (contents | {"version": "3\n"}).items()])


def in_legacy(pickled, keys=(), data=b""):
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return head + pickled + pickle.dumps(list(keys), 2) + data


def storage_id(key="0", numel=4, kind="FloatStorage"):
    return _tuple(["storage", name("torch", kind), key, "cpu", numel])


def tensor(storage, offset=0, size=(4,), stride=(1,)):
    arguments = [storage, offset, _tuple(size), _tuple(stride), b"\x89", name("collections", "OrderedDict") + b")R"]
    return name("torch._utils", "_rebuild_tensor_v2") + _tuple(arguments) + b"R"


def persistent(meta):
    return b"\x80\x02" + name("torch_utils.persistence", "_reconstruct_persistent_obj") + _tuple([meta]) + b"R."


def stored(blob):
    """A storage that is a whole file in a string."""
    return name("torch.storage", "_load_from_bytes") + _tuple([b"B" + struct.pack("<I", len(blob)) + blob]) + b"R"


def one_tensor(numel=4, size=(2, 2, 1, 1), stride=(2, 1, 1, 1), **options):
    """A zip file with a tensor of a storage of 16 bytes, twice, that passes for a vanilla generator's."""
    found = tensor(storage_id(numel=numel) + b"Q", size=size, stride=stride, **options)
    names = _value("deconv1.0.weight") + found + _value("deconv5.0.weight") + found
    return in_zip(b"\x80\x02}(" + names + b"u.", _0=b"\0" * 16)


def catalogue():
    """Yield (name, bytes, pattern of the message)."""
    refused, unread = "it names .*refused, nothing was run", "none of the formats that are read"
    command, source, ordered = COMMAND, SOURCE, name("collections", "OrderedDict")

    # calls
    for module, function, arguments in CALLS:
        attack = module not in ("types", "operator")
        yield f"{module}.{function}", reduce(module, function, *arguments), refused if attack else unread
    yield "functools.partial", reduce("functools", "partial", name("os", "system"), command), refused
    yield "getattr", reduce("builtins", "getattr", name("os", "path"), "exists"), refused
    yield "dotted name", b"\x80\x04" + _value("collections") + _value("OrderedDict.fromkeys") + b"\x93.", unread
    yield "INST", b"(" + _value(command) + b"ios\nsystem\n.", refused
    yield "OBJ", b"(" + name("os", "system") + _value(command) + b"o.", refused
    yield "NEWOBJ", b"\x80\x02" + name("os", "system") + _tuple([command]) + b"\x81.", refused
    yield "NEWOBJ_EX", b"\x80\x04" + ordered + b")}\x92.", unread
    yield "EXT1", b"\x80\x02\x82\x01.", "unregistered extension"
    yield "NEXT_BUFFER", b"\x80\x05\x97.", "out-of-band"
    yield "call of a string", b"\x80\x02" + _value("os.system") + _tuple([command]) + b"R.", "it calls a str"
    yield "call of a token", b"\x80\x02" + name("torch", "FloatStorage") + _tuple([4]) + b"R.", unread
    yield "chain of reduces", b"\x80\x02" + ordered + b")R)R.", "it calls a dict"
    yield "BUILD of a dict's class", b"\x80\x02" + ordered + b"}b.", unread

    # torch and its containers
    rebuild = name("torch._tensor", "_rebuild_from_type_v2")
    inner = [name("torch.storage", "_load_from_bytes"), name("torch", "Tensor"), _tuple([command]), b"}"]
    yield "a call in a rebuild", b"\x80\x02" + rebuild + _tuple(inner) + b"R.", unread
    yield "os.system in a zip", in_zip(reduce("os", "system", command)), refused
    yield "os.system in a legacy file", in_legacy(reduce("os", "system", command)), refused
    yield "os.system in a storage", b"\x80\x03" + stored(in_legacy(reduce("os", "system", command))) + b".", refused
    loop = b"\x80\x03" + stored(b"") + b"."
    yield "an empty storage", loop, "in a form that is not read"
    yield "a storage in a storage", b"\x80\x03" + stored(in_legacy(loop)) + b".", "lies where none can be"
    yield "a persistent id in a plain pickle", b"\x80\x02" + storage_id() + b"Q.", "unsupported persistent id"
    yield "another persistent id", in_zip(b"\x80\x02" + _tuple(["model", command]) + b"Q."), "not described as torch"
    yield "a storage that is missing", in_zip(b"\x80\x02" + storage_id() + b"Q."), "has not the size"
    yield "a record shorter than claimed", one_tensor(numel=2**28), "has not the size"
    yield "a tensor beyond its storage", one_tensor(offset=2), "not what this format has: RuntimeError"
    yield "an expanded tensor", one_tensor(size=(2**10, 2**20, 1, 1), stride=(0, 0, 0, 0)), "larger than its"
    yield "a negative size", one_tensor(size=(-2, -2, 1, 1)), "not what this format has: ValueError"
    yield "a negative offset", one_tensor(offset=-1), "a kind that is not read"
    yield "a stride of text", one_tensor(stride=("a", 1, 1, 1)), "not what this format has: TypeError"
    huge, content = storage_id(numel=2**31 - 1), struct.pack("<q", 2**31 - 1) + b"\0" * 16
    yield "a legacy storage of 8 GB", in_legacy(b"\x80\x02" + huge + b"Q.", ["0"], content), "cut off"

    # persistent and TensorFlow objects
    meta = b"}(" + _value("type") + _value("class") + _value("class_name") + _value("G") + b"u"
    yield "a persistent object without state", persistent(meta), "no class name or no state"
    yield "a persistent object of nothing", persistent(b"}"), "no class name or no state"
    official = {"type": "class", "version": 6, "module_src": source, "class_name": "Generator", "state": {}}
    yield "source text in a persistent object", persistent(pickle.dumps({**official}, 2)[2:-1]), "none of the formats"
    network = files.Network(version=4, static_kwargs={}, components={}, variables=[], build_module_src=source)
    yield "source text in a network", pickle.dumps(network), "a dnnlib.tflib.network.Network, which is none"

    # memory and time
    bomb = b"".join(b"](" + b"h%c" % i * 10 + b"eq%c" % (i + 1) for i in range(100))
    yield "a memo bomb of lists", b"\x80\x02]q\x00" + bomb + b".", unread
    yield "a memo bomb of tuples as key", b"\x80\x02)q\x000" + b"h\x00h\x00\x86q\x000" * 100 + b"}h\x00Ns.", unread
    yield "a memo with a huge index", b"\x80\x02]r\xff\xff\xff\xff.", "none of the formats"
    text = _value("x" * 2**20) + b"q\x00"
    encodes = (name("_codecs", "encode") + b"h\x00" + _value("latin1") + b"\x86R0") * 200
    yield "one string encoded many times", b"\x80\x02" + text + encodes + b".", "far more memory than its own size"
    yield "a bytearray of a number", reduce("builtins", "bytearray", 2**31 - 1), unread
    yield "tuples in tuples", b"\x80\x02)" + b"\x85" * 10_000 + b".", unread
    yield "lists in lists", b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".", unread
    yield "a high stack", b"\x80\x02" + b"N" * 300_000 + b".", unread
    yield "a bytes object of 2^60", b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"short.", "damaged"
    yield "a bytearray of 2^60", b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"short.", "damaged"
    yield "a string of 4 GB", b"\x80\x02X\xff\xff\xff\xffshort.", "damaged"
    yield "a number of 2 GB", b"\x80\x02\x8b\xff\xff\xff\x7fshort.", "damaged"
    yield "a number of many digits", b"I" + b"9" * 100_000 + b"\n.", "damaged"
    array = [name("numpy", "ndarray"), _tuple([0]), b"C\x01b"]
    state = [1, _tuple([2**30]), name("numpy", "dtype") + _tuple(["f4", 0, 1]) + b"R", b"\x89", b"C\x04abcd"]
    claim = name("numpy.core.multiarray", "_reconstruct") + _tuple(array) + b"R" + _tuple(state) + b"b"
    yield "an array larger than its bytes", b"\x80\x03" + claim + b".", "too small"
    yield "an array of objects", b"\x80\x03" + name("numpy", "dtype") + _tuple(["O8", 0, 1]) + b"R.", unread
    bomb = [("archive/data.pkl", pickle.dumps({}, 2)), ("archive/data/0", b"\0" * 2**25)]
    yield "a zip bomb", zipped(bomb, zipfile.ZIP_DEFLATED), "compressed"

    # no checkpoints at all
    whole = whole_files()
    yield "empty", b"", "is empty"
    yield "a web page", b"\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>", "web page"
    yield "a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"
    yield "zeros", b"\0" * 1000, "damaged"
    yield "text", b"these are no weights " * 20, "damaged|opcode|refused"
    yield "another zip", in_zip(b"").replace(b"data.pkl", b"data.txt"), "not one that torch.save wrote"
    for kind, data in whole.items():
        yield f"{kind}, cut in half", data[: len(data) // 2], "damaged|cut off|short"
        yield f"{kind}, cut by one byte", data[:-1], "damaged|cut off|is missing|reaches"
        yield f"{kind}, without its beginning", data[40:], "Cannot read"


def number(value):
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def shared(levels, width, node, leaf):
    """A pickle of a node whose ``width`` children are all one node, and so on down to the leaf."""
    found = leaf + b"q\x00"
    for _ in range(levels):
        children = b"}(" + b"".join(_value(f"n{i}") + b"h\x00" for i in range(width)) + b"u"
        found += b"0" + node(children) + b"q\x00"
    return b"\x80\x02" + found


def of_one(tensor):
    """A pickle of a state dict that passes for a vanilla generator's; its entries are all one tensor."""
    names = ["deconv5.0.weight", *(f"deconv.{i}" for i in range(4_000))]
    entries = b"".join(_value(name) + b"h\x00" for name in names)
    return b"\x80\x03}(" + _value("deconv1.0.weight") + tensor + b"q\x00" + entries + b"u."


def shapes():
    """Yield (name, bytes) of small files that ask for time or memory by their structure: sharing, depth, counts."""
    official = name("torch_utils.persistence", "_reconstruct_persistent_obj")

    def module(children):
        state = b"}" + _value("_modules") + children + b"s"
        pairs = _value("class_name") + _value("G") + _value("state") + state
        return official + b"(}(" + pairs + b"utR"

    root = b"q\x01" + b"0}" + _value("G_ema") + b"h\x01s."
    yield "modules shared on 8 levels", shared(8, 40, module, module(b"}")) + root
    yield "dicts shared on 8 levels", shared(8, 40, lambda children: children, tensor(b"N")) + b"."

    def network(children):
        state = b"}(" + _value("components") + children + _value("variables") + b"]u"
        return name("dnnlib.tflib.network", "Network") + b")\x81" + state + b"b"

    yield "components shared on 8 levels", shared(8, 40, network, network(b"}")) + b"."
    items = b"](" + b"K\x01" * 100_000 + b"e" + b"q\x00" + b"0"
    size = name("torch", "Size") + b"h\x00\x85R"
    yield "torch.Size of one list", b"\x80\x02" + items + b"](" + size * 10_000 + b"e."
    ordered = name("collections", "OrderedDict") + b"h\x00\x85R"
    rows = b"](" + (_tuple(["a", "b"])) * 10_000 + b"e" + b"q\x00" + b"0"
    yield "a dict of one list", b"\x80\x02" + rows + b"](" + ordered * 10_000 + b"e."
    keys = b"".join(number(i * (2**61 - 1)) + b"N" for i in range(40_000))
    yield "int keys of one hash", b"\x80\x02}(" + keys + b"u."
    yield "empty sets", b"\x80\x04(" + b"\x8f" * 1_100_000 + b"t."
    yield "empty dicts", b"\x80\x04(" + b"}" * 1_100_000 + b"t."
    blob = in_legacy(b"\x80\x02" + b"N0" * 400_000 + storage_id() + b"Q.", ["0"], struct.pack("<q", 4) + b"\0" * 16)
    yield "opcodes in nested storages", b"\x80\x03](" + stored(blob) * 20 + b"e."
    view = tensor(storage_id(numel=2**20) + b"Q", size=(2**10, 2**10, 1, 1), stride=(2**10, 1, 1, 1))
    yield "views of one storage", in_zip(of_one(view), _0=b"\0" * 2**22)
    far = tensor(storage_id(numel=2**20) + b"Q", size=(1, 2, 1, 1), stride=(1, 2**20 - 1, 1, 1))
    yield "views from end to end", in_zip(of_one(far), _0=b"\0" * 2**22)
    dtype = name("numpy", "dtype") + _tuple(["i1", 0, 1]) + b"R" + _tuple([3, "|", b"N", b"N", b"N"]) + b"b"
    array = name("numpy.core.multiarray", "_reconstruct") + _tuple([name("numpy", "ndarray"), _tuple([0]), "b"]) + b"R"
    raw = b"B" + struct.pack("<I", 2**20) + b"\0" * 2**20
    array += _tuple([1, _tuple([2**10, 2**10, 1, 1]), dtype, b"\x89", raw]) + b"b"
    yield "layers of one int8 array", of_one(array)
    wide = "\N{CAT FACE}" + "x" * 2**22
    wide = b"X" + struct.pack("<I", len(wide.encode())) + wide.encode()
    yield "wide texts", b"\x80\x02](" + wide * 8 + b"e."
    yield "many members", zipped([(f"archive/data/{i}", b"") for i in range(20_000)])


def misleading_zips():
    """Yield (name, bytes, message): tables of contents that say something else than what lies in the file."""
    whole = zipped([("archive/data.pkl", pickle.dumps({}, 2)), ("archive/data/0", b"\0" * 64)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice = zipped([("archive/data.pkl", pickle.dumps({}, 2)), ("archive/data.pkl", pickle.dumps([], 2))])
    yield "two members of one name", twice, "two members of one name"
    first = whole.index(b"PK\x01\x02")
    second = whole.index(b"PK\x01\x02", first + 4)

    def patched(at, numbers):
        return whole[:at] + numbers + whole[at + len(numbers) :]

    yield "two members in one place", patched(second + 42, struct.pack("<I", 0)), "overlap"
    yield "a member that reaches into the next", patched(first + 20, struct.pack("<II", 90, 90)), "overlap"
    large = patched(second + 20, struct.pack("<II", 2**30, 2**30))
    yield "a member larger than the file", large, "larger than the file"
    broken = whole.replace(b"\0" * 64, b"\0" * 63 + b"\1").replace(pickle.dumps({}, 2), pickle.dumps([], 2))
    yield "another checksum", broken, "checksum"


def whole_files():
    """Small whole files of each container, by kind."""
    with tempfile.TemporaryDirectory() as folder:
        path, generator = Path(folder) / "file", smallest()
        found = {"official": files.official_pickle(path, generator).read_bytes()}
        found["tensorflow"] = files.tensorflow_pickle(path, generator).read_bytes()
        found["zip"] = files.rosinality_pt(path, generator).read_bytes()
        found["legacy"] = files.rosinality_pt(path, generator, zipped=False).read_bytes()
    return found


def smallest():
    """A generator with so few channels that its files are of kilobytes."""
    return tiny.stylegan2(w_dim=2, z_dim=2, mapping_layers=1, channel_base=32, channel_max=2)


def little_files():
    """Files of a few hundred bytes that hold one of everything a reader knows: what is mutated by the thousand."""
    tree = OrderedDict(a=torch.ones(2), b=[np.float32(1), np.arange(3.0)], c={"d": (1, 2.5, None, True, "a", b"b")})
    facts = {"_modules": OrderedDict(), "_parameters": tree, "x": files.EasyDict(y={1})}
    variables = [("w", np.ones((2, 2), np.float32)), ("4x4/Const/const", np.ones((1, 1, 4, 4), np.float32))]
    part = files.Network(version=4, variables=variables, static_kwargs={}, components={})
    network = files.Network(version=4, variables=variables, static_kwargs={}, components={"synthesis": part})
    contents = ({"G_ema": files.Persistent("Generator", facts)}, (network,) * 3)
    found = [pickle.dumps(content, protocol) for content in contents for protocol in (2, 4)]
    for zipped in (True, False):
        out, weights = io.BytesIO(), tiny.dcgan(z_dim=1, conv_dim=1, first_multiplier=1).state_dict()
        torch.save(weights, out, _use_new_zipfile_serialization=zipped)
        found.append(out.getvalue())
    return found
