"""The course as code finds it that is checked or graded: without anything in ``helpers`` that answers an exercise.

Modules that are not needed are not there: a name imported from one is a stand-in that refuses to do anything.
"""

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
REST = "\n\nfrom helpers import Closed as _Closed  # noqa\n\n__getattr__ = _Closed(__name__).__getattr__\n"
NOTEBOOKS = """\
def describe_session() -> str:
    return "Exercises only: networks and photos are not loaded."
"""
PACKAGE = '''\
"""The course while an exercise is checked or graded: what is not here stands in and refuses to do anything."""

import importlib.machinery
import sys
import types


class Closed(types.ModuleType):
    """Stands for a module, a function or a class of the course."""

    __all__, __path__ = [], []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Closed(f"{self.__name__}.{name}")

    def _refuse(self, *args, **options):
        raise NotImplementedError(f"{self.__name__} is closed while your exercises are checked: write it yourself")

    __call__ = __getitem__ = __iter__ = __mro_entries__ = _refuse


class Finder:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith("helpers.") else None

    def create_module(self, spec):
        return Closed(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(Finder())
'''


def close(root: str | Path, out: Path, checks: bool = False) -> Path:
    """Write the closed course to a new folder, with the visible checks or without; returns the folder."""
    root, out = Path(root), Path(out)
    files = {name: only(root / "helpers" / name, names) for name, names in KEPT.items()}
    for path in (root / "helpers").glob("course/check*.py") if checks else ():
        files[f"course/{path.name}"] = path.read_text()
    for name, text in (files | {"__init__.py": PACKAGE, "notebooks.py": NOTEBOOKS + REST}).items():
        path = out / "helpers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("work", "output"):
        (out / name).mkdir()
    if (root / "data").is_dir():
        shutil.copytree(root / "data", out / "data", ignore=shutil.ignore_patterns("downloads", ".*"))
    for folder, _, _ in os.walk(out):
        os.chmod(folder, 0o755)
    return out


def only(path: Path, names: tuple[str, ...] | None) -> str:
    """A module's imports and these of its definitions; "" where it is not there.

    Raises:
        LessonError: if a name is not in it: the table must keep up.
    """
    if not path.is_file() or names is None:
        return path.read_text() if path.is_file() else ""
    found = {name: node for node in ast.parse(path.read_text()).body for name in _names(node)}
    if missing := set(names) - set(found):
        raise LessonError(f"{path.name} has no {', '.join(sorted(missing))}; correct KEPT in helpers/course/closed.py.")
    kept = [node for name, node in found.items() if name in names or isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n\n".join(ast.unparse(node) for node in dict.fromkeys(kept)) + REST


def _names(node: ast.stmt) -> list[str]:
    """What a statement of the top level defines."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
