"""The course as checked and graded code finds it: what could answer an exercise is a stand-in that refuses to work."""

import ast
import os
import shutil
from pathlib import Path

KEPT = {  # file below helpers/ to the functions and classes that stay, None for all
    "latents.py": ("Latents", "join"),
    "optimizers.py": ("constant", "cosine"),
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
    there = {name: names for name, names in KEPT.items() if (root / "helpers" / name).is_file()}
    files = {name: _only((root / "helpers" / name).read_text(), names) for name, names in there.items()}
    for path in (root / "helpers").glob("course/check*.py") if checks else ():
        files[f"course/{path.name}"] = path.read_text()
    for name, text in (files | {"__init__.py": PACKAGE, "notebooks.py": NOTEBOOKS + REST}).items():
        path = out / "helpers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if (root / "data").is_dir():
        shutil.copytree(root / "data", out / "data", ignore=shutil.ignore_patterns("downloads", ".*"))
    for folder, _, _ in os.walk(out):
        os.chmod(folder, 0o755)
    return out


def _only(source: str, names: tuple[str, ...] | None) -> str:
    """A module's imports, constants and these of its definitions; all of it for None."""
    if names is None:
        return source
    plain, tree = ast.Import | ast.ImportFrom | ast.Assign, ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, plain) or getattr(node, "name", "") in names]
    return ast.unparse(tree) + REST
