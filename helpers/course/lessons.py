"""The lessons as data, which a release holds in its manifest: what is an exercise, what scores how many points."""

import json
import re
import stat
from dataclasses import dataclass, field, fields
from pathlib import Path

MARK = re.compile(r"^\s*#+\s*EXERCISE:\s*(\w+)\s*$")
ADDRESS = re.compile(r"https?://[^\s\"')]+|--branch=[\w./-]+")
MOST_BYTES, MOST_PARTS, MOST_CODE = 100_000_000, 10_000_000, 400_000


class LessonError(ValueError):
    """A notebook that is not a lesson of the course, or whose exercises are marked up wrongly."""


@dataclass(frozen=True)
class Cell:
    """One cell of a lesson."""

    id: str
    kind: str  # text, setup, lesson, exercise, check, manual or handin
    source: str
    item: str = ""  # id of what it asks for ("1.2")
    name: str = ""  # what an exercise defines
    points: float = 0
    title: str = ""
    part: str = ""  # of the rubric
    bonus: bool = False
    given: str = ""  # an authored exercise as students get it, where ``source`` holds the solution


@dataclass(frozen=True)
class Lesson:
    """A notebook's file stem and its cells in order."""

    stem: str
    cells: tuple[Cell, ...] = field(repr=False)

    def of_kind(self, *kinds: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind in kinds]

    @property
    def exercises(self) -> list[Cell]:
        return self.of_kind("exercise")

    @property
    def items(self) -> list[Cell]:
        """Everything that scores."""
        return self.of_kind("exercise", "handin", "manual")


def read_cells(path: str | Path) -> list[dict]:
    """Type, id, source and metadata of the cells of a notebook file, formats 3 and 4; else LessonError."""
    path, name = Path(path), shown(Path(path).name)
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise LessonError(f"{name} is not a plain file.")
        if about.st_size > MOST_BYTES:
            raise LessonError(f"{name} has {about.st_size / 1e6:.0f} MB; clear its outputs.")
        data = path.read_bytes()
        if sum(map(data.count, (b"[", b"{", b","))) > MOST_PARTS:
            raise LessonError(f"{name} has too many parts to be read; clear its outputs.")
        content = json.loads(data.decode("utf-8-sig"))
        cells = [_plain(cell) for sheet in content.get("worksheets") or [content] for cell in sheet["cells"]]
    except LessonError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise LessonError(f"{name} is not a notebook that can be read ({type(error).__name__}).") from error
    if sum(len(cell["source"]) for cell in cells if cell["type"] == "code") > MOST_CODE:
        raise LessonError(f"{name} holds more than {MOST_CODE // 1000} kB of code.")
    return cells


def _plain(cell: dict) -> dict:
    source, metadata = cell.get("source", cell.get("input", "")), cell.get("metadata")
    source = source if isinstance(source, str) else "".join(map(str, source))
    plain = {"type": shown(cell.get("cell_type", "")), "id": shown(cell.get("id", ""))}
    plain["source"] = shown(source).replace("\r\n", "\n")
    return plain | {"metadata": metadata if isinstance(metadata, dict) else {}}


def shown(text: object) -> str:
    """Text that any file can hold: lone surrogates become question marks."""
    return str(text).encode("utf-8", "replace").decode()


def normal(source: str) -> str:
    """A source without blank lines, trailing spaces and the address and branch of a release; so cells are compared."""
    return ADDRESS.sub("", "\n".join(line.rstrip() for line in source.split("\n") if line.strip()))


def read_manifest(root: str | Path) -> list[Lesson]:
    """All lessons of a student release. LessonError where it is none."""
    path, known = Path(root) / "manifest.json", {entry.name for entry in fields(Cell)}
    if not path.is_file():
        raise LessonError(f"{Path(root)} has no manifest.json; check your notebook in the course's repository.")
    return [
        Lesson(entry["stem"], tuple(Cell(**{k: v for k, v in cell.items() if k in known}) for cell in entry["cells"]))
        for entry in json.loads(path.read_text(encoding="utf-8"))["lessons"]
    ]
