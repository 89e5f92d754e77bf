"""A student's copy of the course: solutions cut, hidden tests left out, outputs cleared, with a manifest.

The same code makes the course folder that submissions are run against.
"""

from __future__ import annotations

import ast
import compileall
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat

from helpers.course.lessons import Lesson, LessonError, manifest_of, read_course, stub
from helpers.files import atomic_path
from staff.grading.cuts import CUTS, close_for_grading, cut_release

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("helpers", "weights", "data", "tools")
FILES = ("README.md", "LICENSE", "Makefile", "pyproject.toml", "environment.yml", "environment-v100.yml", ".gitignore")
HIDDEN = ("staff/grading/probes", "staff/benchmarks/grading.py", "tools/make_submissions.py")
IGNORED = shutil.ignore_patterns("__pycache__", ".*", "downloads", "*.part")


def release(out: str | Path, root: str | Path = ROOT) -> dict:
    """Write the student repository to a new folder; returns its manifest.

    Raises:
        LessonError: if the folder is there and not empty, or the course is marked up wrongly.
    """
    out, root = Path(out), Path(root)
    if out.exists() and any(out.iterdir()):
        raise LessonError(f"{out} is not empty; name a new folder, so that nothing old stays in the release.")
    if (root / "manifest.json").exists():
        raise LessonError(f"{root} is a student release itself; release from the authored course.")
    lessons = read_course(root)
    _copy_course(root, out)
    cut_release(out)
    record_references(out, lessons)
    for lesson in lessons:
        student_notebook(root / "notebooks" / f"{lesson.stem}.ipynb", out / "notebooks" / f"{lesson.stem}.ipynb")
    manifest = manifest_of(lessons, version_of(root))
    with atomic_path(out / "manifest.json") as temporary:
        Path(temporary).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def version_of(root: Path) -> str:
    project = root / "pyproject.toml"
    return tomllib.loads(project.read_text())["project"]["version"] if project.is_file() else "0"


def _copy_course(root: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        if (root / name).is_dir():
            shutil.copytree(root / name, out / name, ignore=IGNORED)
    for name in FILES:
        if (root / name).is_file():
            shutil.copy2(root / name, out / name)
    for name in HIDDEN:
        hidden = out / name
        shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink(missing_ok=True)


def student_notebook(source: Path, target: Path) -> None:
    """A lesson's notebook with stubs for solutions and without outputs or widget state."""
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        course = cell.metadata.get("course", {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if "### BEGIN SOLUTION" in cell.source:
                cell.source = stub(cell.source, course.get("id", ""))
        if "### BEGIN SOLUTION" in cell.source or "### BEGIN HIDDEN" in cell.source:
            raise LessonError(f"{source.name} still holds a solution in cell {cell.id}; mark it up as an exercise.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        nbformat.write(notebook, str(temporary))


def stage(root: str | Path, out: Path) -> Path:
    """The course as a submission finds it while it is graded: no notebooks, no probes, no answer in ``helpers``."""
    root = Path(root)
    _copy_course(root, out)
    close_for_grading(out)
    for name in ("work", "output", ".matplotlib"):
        (out / name).mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        compileall.compile_dir(out / "helpers", quiet=2)
    environment = os.environ | {"MPLCONFIGDIR": str(out / ".matplotlib"), "MPLBACKEND": "agg"}
    # matplotlib looks through all fonts once, for seconds; no submission should have to
    fonts = [sys.executable, "-c", "import matplotlib.font_manager"]
    subprocess.run(fonts, env=environment, capture_output=True, timeout=120)
    for folder, _, _ in os.walk(out):
        os.chmod(folder, 0o755)
    return out


def solutions(lesson: Lesson, without_exercises: bool = False) -> dict:
    """Namespace with the authored solutions, run on what the lesson's setup cells import."""
    namespace: dict = {}
    for cell in lesson.of_kind("setup"):
        imports = [n for n in ast.parse(cell.source).body if isinstance(n, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), lesson.stem, "exec"), namespace)
    for cell in () if without_exercises else lesson.exercises:
        exec(compile(cell.source, cell.item, "exec"), namespace)
    return namespace


def record_references(out: Path, lessons: list[Lesson]) -> None:
    """Let the checks of a release compare with recorded numbers where the body they compared with was cut."""
    from staff.grading.recorded import FILE, record, use_records

    folder = out / "helpers" / "grading"
    replaced = use_records(folder, {cut.reference for cut in CUTS})
    if replaced:
        record(lessons, replaced, folder / FILE.name)
