"""Read hostile checkpoints and COUNT mutated ones, and print what happened as JSON: fuzz.py FOLDER COUNT.

The hostile ones ask for time or memory by their structure. The process has 300 MB of address space above a file's size
to spare, and an audit hook counts what only code would do.
"""

import itertools
import json
import random
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from helpers.generators.checkpoints import CheckpointError, read_checkpoint  # noqa: E402
from tests.support import hostile  # noqa: E402  (the paths above come first)

SPARE = 300 * 2**20  # bytes
CODE = ("exec", "compile", "import", "os.", "subprocess.", "socket.", "ctypes.", "marshal.", "pickle.", "code.")


def mutated(seed: int, originals: list[bytes]) -> bytes:
    """One of them with a few flipped, replaced, removed, inserted or transplanted bytes, or a cut."""
    draw = random.Random(seed)
    data = bytearray(draw.choice(originals))
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        kind, at = draw.randrange(6), draw.randrange(len(data))
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.randrange(256)
        elif kind == 2:
            del data[at : at + draw.randrange(1, 9)]
        elif kind == 3:
            opcodes = b"cRbi(o}])0tq\x81\x85\x93\x8c\xff\x00"
            data[at:at] = bytes(draw.choices(opcodes, k=draw.randrange(1, 5)))
        elif kind == 4:
            other = draw.choice(originals)
            start = draw.randrange(len(other))
            data[at : at + 9] = other[start : start + draw.randrange(1, 33)]
        elif at > 8:
            del data[at:]
        if not data:
            return b"\x80"
    return bytes(data)


def main(folder: str, count: int) -> None:
    path, originals = Path(folder) / "fuzzed", hostile.little_files()

    def read(data: bytes) -> str | None:
        path.write_bytes(data)
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            return str(error)
        return None

    for codec in ("cp437", "raw_unicode_escape", "unicode_escape", "latin-1", "ascii"):
        b"a".decode(codec)  # Python's own codecs of texts in zip files and pickles are imported when they are needed
    for data in originals:  # the same holds for our readers
        read(data)
    shapes = list(hostile.shapes())
    spare = SPARE + max(len(data) for _, data in shapes)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, used + spare))
    events, watching = set(), False

    def hook(event, arguments):
        if watching and event.startswith(CODE):
            events.add(f"{event} {str(arguments)[:60]}")

    sys.addaudithook(hook)
    report = {"shapes": len(shapes), "read": [], "refused": 0, "other": [], "not one line": 0}
    for number, data in itertools.chain(shapes, ((seed, mutated(seed, originals)) for seed in range(count))):
        watching = True
        try:
            message = read(data)
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is a failure)
            report["other"].append(f"{number}: {type(error).__name__}: {error}"[:200])
        else:
            report["read"] += [number] if message is None else []
            report["refused"] += message is not None
            report["not one line"] += message is not None and ("\n" in message or len(message) > 400)
        watching = False
    print(json.dumps(report | {"events": sorted(events)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
