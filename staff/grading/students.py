"""Find what students have handed in: folders, notebooks and zips, however they are named, packed and encoded.

Whatever is wrong with one student is a remark, or the reason why that student could not be graded; never an exception.
"""

import os
import re
import shutil
import stat
import time
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from helpers.course.check_notebook import own_modules
from helpers.course.lessons import Lesson, LessonError, read_cells, shown
from helpers.course.submission import Submission, match, pick_lesson
from helpers.files import short_name

MOST_FILES, MOST_DEPTH, MOST_NOTEBOOKS = 2_000, 12, 60
MOST_UNPACKED = 300_000_000  # bytes of all files of a zip
MOST_TEXT = 10_000  # characters of a text cell that the page shows
NOTEBOOK = re.compile(r"\.ipynb(\.txt|\.json)?$", re.IGNORECASE)
UNPACKED = re.compile(r"\.(ipynb|ipynb\.txt|ipynb\.json|py|safetensors)$", re.IGNORECASE)


@dataclass
class Student:
    """A submission: who, the files, for each lesson the notebook taken apart, or why there is none.

    texts: of each lesson, what was written below which question. error: why nothing of it could be graded. errors:
    lesson to the reason why its notebook could not be read.
    """

    name: str
    files: list[Path] = field(default_factory=list)
    submissions: dict[str, Submission] = field(default_factory=dict)
    texts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    error: str = ""

    def written(self, lesson: Lesson, item: str) -> str:
        """What stands below a question; where that is nothing, what stands below none."""
        texts = self.texts.get(lesson.stem, [])
        return next((t for q in (item, "") if (t := "\n\n".join(text for to, text in texts if to == q))), "")


def find_students(folder: Path, lessons: list[Lesson], unpacked: Path) -> list[Student]:
    """Submissions of a folder: each subfolder, notebook or zip is a student; links and hidden files are none.

    unpacked: folder for the files of zips; it is emptied first.
    """
    shutil.rmtree(unpacked, ignore_errors=True)
    students, entries = {}, []
    for entry in os.scandir(folder):
        kind = NOTEBOOK.search(entry.name) or re.search(r"\.zip$", entry.name, re.IGNORECASE)
        if not _is_junk(entry.name) and (kind or entry.is_dir()):
            raw = entry.name[: kind.start()] if kind else entry.name
            entries.append((student_name(raw) != raw, os.fsencode(entry.name), student_name(raw), entry.path))
    for *_, wanted, path in sorted(entries):  # a name that is fit as it is stays, whoever else is there
        number, name = 1, wanted
        while name.casefold() in students:
            number, name = number + 1, f"{wanted}-{number + 1}"
        student = Student(name)
        students[name.casefold()] = student
        try:
            _read(student, Path(path), lessons, unpacked / name)
        except Exception as error:  # whatever it is, it is this student's alone
            student.error = f"could not be graded: {shown(error) or type(error).__name__}"
    if not students:
        raise LessonError(f"{folder} holds no submissions; it should hold a folder or a notebook for each student.")
    return sorted(students.values(), key=lambda student: student.name)


def student_name(raw: str) -> str:
    """A name that is fit for a file, a page and a table: composed, of at most 80 bytes, without separators."""
    data = os.fsencode(raw)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return short_name(re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)).strip(".") or "_")


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _read(student: Student, path: Path, lessons: list[Lesson], unpacked: Path) -> None:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        student.remarks.append("a link was handed in, not a file")
        return
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise LessonError("it is not a plain file")
    student.files = _files_below(path, student) if stat.S_ISDIR(mode) else [path]
    for archive in [file for file in student.files if file.suffix.lower() == ".zip"][:5]:
        student.files += _unpack(archive, unpacked / f"zip-{len(student.files)}", student)
    candidates: dict[str, list[tuple]] = {}
    for notebook in [file for file in student.files if NOTEBOOK.search(file.name)][:MOST_NOTEBOOKS]:
        _consider(student, notebook, lessons, candidates)
    for stem, found in candidates.items():
        found.sort(key=lambda entry: entry[:2], reverse=True)
        *_, notebook, submission, student.texts[stem] = found[0]
        submission.own = own_modules(notebook)
        student.submissions[stem] = submission
        student.errors.pop(stem, None)
        for *_, other, _, _ in found[1:]:
            student.remarks.append(f"{shown(other.name)} is an older notebook of {stem} and was left out")


def _consider(student: Student, notebook: Path, lessons: list[Lesson], candidates: dict) -> None:
    """Read a notebook as a candidate for its lesson: (seconds, number of answers, path, submission, texts)."""
    name = shown(notebook.name)
    if not name.endswith(".ipynb"):
        student.remarks.append(f"{name} was graded as a notebook")
    try:
        cells = read_cells(notebook)
        lesson = pick_lesson(cells, name, lessons)
        if lesson is None:
            student.remarks.append(f"{name} belongs to no lesson")
            return
        submission = match(cells, lesson)
    except LessonError as error:
        if stem := next((lesson.stem for lesson in lessons if lesson.stem in name), None):
            student.errors[stem] = f"could not be graded: {error}"
        student.remarks.append(str(error))
        return
    rank = int(notebook.stat().st_mtime), len(submission.answers) - len(submission.stubs)
    candidates.setdefault(lesson.stem, []).append((*rank, notebook, submission, texts_of(cells, lesson)))


def texts_of(cells: list[dict], lesson: Lesson) -> list[tuple[str, str]]:
    """What text cells hold that the lesson's do not, by the id of the last question above ("" where there is none)."""

    def heads(kind: str) -> dict[str, str]:
        return {cell.source.strip().split("\n")[0].strip(): cell.item for cell in lesson.of_kind(kind)}

    printed = {line.strip() for cell in lesson.of_kind("text", "manual") for line in cell.source.split("\n")}
    questions, question, found = dict.fromkeys(heads("text"), "") | heads("manual"), "", []
    for cell in cells:
        if cell["type"] != "code":
            lines = cell["source"].split("\n")
            for line in map(str.strip, lines):
                question = questions.get(line, question)
            text = "\n".join(line for line in lines if line.strip() not in printed)[:MOST_TEXT].strip()
            found += [(question, text)] if text else []
    return found


def _files_below(folder: Path, student: Student) -> list[Path]:
    """Plain files, without those of Jupyter's checkpoints and of macOS; links are not followed."""
    found, folders = [], [(folder, 0)]
    while folders:
        place, depth = folders.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            student.remarks.append(f"a folder could not be read ({error.strerror})")
            continue
        for entry in entries:
            if _is_junk(entry.name) or entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                folders += [(Path(entry.path), depth + 1)] if depth < MOST_DEPTH else []
            elif entry.is_file(follow_symlinks=False):
                found.append(Path(entry.path))
        if len(found) > MOST_FILES or len(folders) > MOST_FILES:
            student.remarks.append(f"more than {MOST_FILES} files; only the first were looked at")
            break
    return found[:MOST_FILES]


def _unpack(archive: Path, out: Path, student: Student) -> list[Path]:
    """Notebooks, Python files and hand-ins of a zip, each in a folder of its own depth, with their times."""
    left, found = MOST_UNPACKED, []
    try:
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist()[:MOST_FILES]:
                parts = [part for part in re.split(r"[/\\]", info.filename) if part not in ("", ".", "..")]
                if info.is_dir() or not parts or any(map(_is_junk, parts)) or not UNPACKED.search(parts[-1]):
                    continue
                with packed.open(info) as file:
                    data = file.read(left + 1)
                left -= len(data)
                if left < 0:
                    raise LessonError(f"it holds more than {MOST_UNPACKED / 1e6:.0f} MB")
                path = out.joinpath(*(short_name(shown(part)) for part in parts[-4:]))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                seconds = time.mktime((*info.date_time, 0, 0, -1))
                os.utime(path, (seconds, seconds))
                found.append(path)
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, NotImplementedError, EOFError, zlib.error) as error:
        student.remarks.append(f"{shown(archive.name)} could not be unpacked whole ({shown(error)[:100]})")
    return found
