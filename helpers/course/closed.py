"""The course as code finds it that is checked or graded: without anything in ``helpers`` that answers an exercise.

Modules that are not needed are not there: a name imported from one is a stand-in that refuses to do anything.
"""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

from helpers.course.lessons import LessonError

KEPT = {  # file below helpers/ to the names that stay, None for all
    "latents.py": ("LatentsError", "Latents", "join"),
    "optimizers.py": ("Schedule", "constant", "cosine"),
    "course/__init__.py": None,
    "course/expect.py": None,
}
CHECKS = "course/check*.py"
REST = "\n\nfrom helpers import closed as _closed  # noqa\n\n__getattr__ = _closed(__name__)\n"
NOTEBOOKS = '''\
"""What the first cell of a notebook asks for."""


def describe_session() -> str:
    return "Exercises only: networks and photos are not loaded."
'''
PACKAGE = '''\
"""The course while an exercise is checked or graded: what is not here stands in and refuses to do anything."""

import importlib.abc
import importlib.machinery
import sys


class Closed:
    """Stands for a function or a class of the course."""

    def __init__(self, name):
        self.__dict__["_name"] = name

    def _refuse(self, *args, **options):
        raise NotImplementedError(f"{self._name} is closed while your exercises are checked: write it yourself")

    __call__ = __getattr__ = __setattr__ = __getitem__ = __iter__ = __mro_entries__ = _refuse


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("helpers."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__getattr__, module.__all__ = closed(module.__name__), []


def closed(module):
    def stand_in(name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Closed(f"{module}.{name}")

    return stand_in


sys.meta_path.append(Finder())
'''


def close(root: str | Path, out: Path, checks: bool = False) -> Path:
    """Write the closed course to a new folder, with the visible checks or without; returns the folder.

    Raises:
        LessonError: if a name of KEPT is not in its file: the table must keep up.
    """
    source, target = Path(root) / "helpers", Path(out) / "helpers"
    for name, names in KEPT.items():
        if (source / name).is_file():
            _write(target / name, only(source / name, names) + REST if names else (source / name).read_text())
    for path in source.glob(CHECKS) if checks else ():
        _write(target / "course" / path.name, path.read_text())
    _write(target / "__init__.py", PACKAGE)
    _write(target / "notebooks.py", NOTEBOOKS + REST)
    for name in ("work", "output", ".matplotlib"):
        (Path(out) / name).mkdir()
    if (Path(root) / "data").is_dir():
        shutil.copytree(Path(root) / "data", Path(out) / "data", ignore=shutil.ignore_patterns("downloads", ".*"))
    for folder, _, _ in os.walk(out):
        os.chmod(folder, 0o755)
    return Path(out)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def only(path: Path, names: tuple[str, ...]) -> str:
    """A module's imports and these of its definitions."""
    text = path.read_text()
    body, lines = ast.parse(text).body, text.split("\n")
    kept = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom) or set(_names(n)) & set(names)]
    if missing := set(names) - {name for node in kept for name in _names(node)}:
        raise LessonError(f"{path.name} has no {', '.join(sorted(missing))}; correct KEPT in helpers/course/closed.py.")
    starts = [min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) for node in kept]
    return "\n\n".join("\n".join(lines[i - 1 : n.end_lineno]) for i, n in zip(starts, kept, strict=True)) + "\n"


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
