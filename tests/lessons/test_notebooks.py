"""The first cell of the notebooks, run as Colab and Jupyter run it, and the notebooks as they are stored."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch.nn.functional as F

from helpers import notebooks as module
from helpers.generators import enlarged
from helpers.notebooks import FIRST_CELL, describe_session
from tests.support import tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.name for path in ROOT.glob("notebooks/*.ipynb"))


def run(code, folder, **environment):
    """Run code in a fresh interpreter in a folder and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def code_cells(name):
    cells = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def git(*arguments, folder):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def published(tmp_path):
    """A repository to clone; its helpers do nothing but answer."""
    folder = tmp_path / "published"
    (folder / "helpers").mkdir(parents=True)
    (folder / "helpers" / "__init__.py").touch()
    (folder / "helpers" / "notebooks.py").write_text("def describe_session():\n    return 'Device\\nWeights'\n")
    git("init", "-q", "--initial-branch=main", folder=folder)
    git("add", ".", folder=folder)
    git("commit", "-q", "-m", "all", folder=folder)
    return folder.as_uri()


@pytest.mark.parametrize("folder", ["", "notebooks"])
def test_the_first_cell_works_inside_the_repository_and_twice(folder):
    if not (ROOT / folder).is_dir():
        pytest.skip(f"no folder {folder} yet")
    lines = run(FIRST_CELL * 2 + "print(ROOT, sys.path.count(str(ROOT)))", ROOT / folder, GAN_COURSE_REPO="nowhere")
    assert [line.split()[0] for line in lines[:-1]] == ["Device", "Weights"] * 2
    assert lines[-1] == f"{ROOT} 1"


def test_the_first_cell_clones_the_repository_once(tmp_path, published):
    lines = run(FIRST_CELL * 2 + "print(helpers.__file__)", tmp_path, GAN_COURSE_REPO=published)
    clone = tmp_path / "gan-photo-editing"
    assert lines[-1] == str(clone / "helpers" / "__init__.py")
    (clone / "mine.txt").touch()
    again = run(FIRST_CELL, tmp_path, GAN_COURSE_REPO="nowhere")  # a clone that is there is used as it is
    assert len(again) == 2 and (clone / "mine.txt").exists()


def test_the_first_cell_refuses_other_helpers(tmp_path):
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import helpers\n{FIRST_CELL}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "AssertionError: restart the kernel" in done.stderr


def test_the_first_cell_is_short_and_clones_a_branch_that_is_there():
    assert '"--branch=main"' in FIRST_CELL
    assert len([line for line in FIRST_CELL.splitlines() if line]) <= 15


def test_the_weights_on_disk_are_listed(monkeypatch, tmp_path):
    entries = {"a": {"file": "a.x"}, "b": {"file": "b.x", "url": "https://"}, "c": {"file": "c.x", "url": "https://"}}
    monkeypatch.setattr(module, "registry", lambda: entries)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    (tmp_path / "a.x").touch()
    assert describe_session().endswith("\nWeights  bundled: a; official: none")
    (tmp_path / "c.x").touch()
    assert describe_session().endswith("\nWeights  bundled: a; official: c")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_starts_with_the_first_cell(name):
    assert code_cells(name)[0].source.rstrip() == FIRST_CELL.rstrip()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_without_outputs(name):
    assert [cell.source for cell in code_cells(name) if cell.execution_count or cell.outputs] == []
    metadata = nbformat.read(ROOT / "notebooks" / name, as_version=4).metadata
    assert "widgets" not in metadata and metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_takes_its_model_from_one_constant(name):
    code = ["".join(cell["source"]) for cell in code_cells(name)]
    loads = re.findall(r"load_(?:generator|discriminator|critic)\((.*?)\)", "\n".join(code))
    assert set(loads) <= {"MODEL", '"dcgan-cats-64"'}  # lesson 5 has no generator
    assert sum(source.count('MODEL = "') for source in code) == bool(loads)


def test_a_size_follows_from_the_model():
    """Lesson 1 compares two generators, of which one is enlarged; both then show images of one size."""
    small, large = tiny.dcgan(), tiny.stylegan2(resolution=256, channel_base=256)
    again = enlarged(small, large.resolution)
    z = again.sample("z", 2)
    assert again.synthesize(z).shape == large.synthesize(large.sample("w", 2)).shape == (2, 3, 256, 256)
    assert (F.avg_pool2d(again.synthesize(z), 4) - small.synthesize(z)).abs().mean() < 0.05
    assert enlarged(large, 256) is large
