"""A student's copy of the course: without solutions, staff and tests; outputs cleared; with a manifest and a README."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import nbformat

from helpers.course.lessons import Lesson, LessonError
from helpers.files import atomic_path, write_json
from staff.grading.authoring import ROOT, manifest_of, read_course, stub
from staff.grading.handins import HAND_INS

FOLDERS = ("helpers", "weights", "data")
FILES = ("LICENSE", "pyproject.toml", "environment.yml", "environment-v100.yml", ".gitignore", "notebooks/report.md")
SETUP = ("tools/setup.sh", "setup.sh")
IGNORED = shutil.ignore_patterns("__pycache__", ".*", "downloads", "*.part")
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+?(?=[\"'/)\s]|\.git)")
BRANCH = re.compile(r"--branch=[\w./-]+")


def release(out: str | Path, root: str | Path = ROOT, repository: str = "", branch: str = "") -> dict:
    """Write the student repository to a new folder; returns its manifest.

    repository: address from which notebooks and README fetch the course; by default that of the first cells. branch:
    what they fetch; by default the branch that is checked out in ``root``. LessonError if the folder is there and not
    empty, or the course is marked up wrongly.
    """
    out, root = Path(out), Path(root)
    if out.exists() and any(out.iterdir()):
        raise LessonError(f"{out} is not empty; name a new folder, so that nothing old stays in the release.")
    if (root / "manifest.json").exists():
        raise LessonError(f"{root} is a student release itself; release from the authored course.")
    lessons, branch = read_course(root), branch or _checked_out(root)
    cells = nbformat.read(root / "notebooks" / f"{lessons[0].stem}.ipynb", as_version=4).cells
    repository = repository.removesuffix("/").removesuffix(".git")
    repository = repository or next(found[0] for cell in cells if (found := ADDRESS.search(cell.source)))
    out.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        if (root / name).is_dir():
            shutil.copytree(root / name, out / name, ignore=IGNORED)
    for name in filter(lambda name: (root / name).is_file(), FILES + SETUP):
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copy2(root / name, out / name)
    setup = next((name for name in SETUP if (out / name).is_file()), SETUP[0])
    (out / "Makefile").write_text(Path(__file__).with_name("Makefile.students").read_text().format(setup=setup))
    (out / "README.md").write_text(_readme(lessons, repository, branch))
    project = out / "pyproject.toml"
    project.write_text(project.read_text().replace('["helpers", "staff"]', '["helpers"]'))
    for lesson in lessons:
        name = f"notebooks/{lesson.stem}.ipynb"
        student_notebook(root / name, out / name, repository, branch)
    manifest = manifest_of(lessons, version_of(root))
    write_json(out / "manifest.json", manifest)
    return manifest


def version_of(root: Path) -> str:
    project = root / "pyproject.toml"
    return tomllib.loads(project.read_text())["project"]["version"] if project.is_file() else "0"


def _checked_out(root: Path) -> str:
    asked = ["git", "-C", str(root), "branch", "--show-current"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "main"


def pointed(text: str, repository: str, branch: str) -> str:
    """A first cell that fetches this branch of this repository."""
    return BRANCH.sub(f"--branch={branch}", ADDRESS.sub(repository, text))


def _readme(lessons: list[Lesson], repository: str, branch: str) -> str:
    """The README for students, with a badge for each notebook where Colab can open it."""
    rows = []
    for lesson in lessons:
        points, bonus = (sum(c.points for c in lesson.items if c.bonus == which) for which in (False, True))
        path, badge = f"notebooks/{lesson.stem}.ipynb", ""
        if "://github.com/" in repository:
            place = repository.partition("://github.com/")[2]
            target = f"https://colab.research.google.com/github/{place}/blob/{branch}/{path}"
            badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"
        rows.append(f"| [{lesson.stem}]({path}) | {points:g}{f' + {bonus:g}' if bonus else ''} | {badge} |")
    files = ", ".join(f"`{HAND_INS[c.item].file}`" for x in lessons for c in x.of_kind("handin") if c.item in HAND_INS)
    text = Path(__file__).with_name("STUDENTS.md").read_text()
    names = {"lessons": "\n".join(rows), "branch": branch, "repository": repository, "files": files}
    return text.format(**names, folder=repository.rpartition("/")[2] or "gan-photo-editing")


def student_notebook(source: Path, target: Path, repository: str = "", branch: str = "") -> None:
    """A lesson's notebook with stubs for solutions and without outputs or widget state."""
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        course = cell.metadata.get("course", {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if "### BEGIN SOLUTION" in cell.source:
                cell.source = stub(cell.source, course.get("id", ""))
            elif repository and "git" in cell.source and "--branch=" in cell.source:
                cell.source = pointed(cell.source, repository, branch)
        if "### BEGIN SOLUTION" in cell.source or "### BEGIN HIDDEN" in cell.source:
            raise LessonError(f"{source.name} still holds a solution in cell {cell.id}; mark it up as an exercise.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        nbformat.write(notebook, str(temporary))
