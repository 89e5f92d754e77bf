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
from helpers.generators import enlarged, load_generator, vanilla
from helpers.notebooks import describe_session
from tests.support import tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
FIRST_CELL = next(c.source for c in nbformat.read(NOTEBOOKS[0], as_version=4).cells if c.cell_type == "code") + "\n"


def run(code, folder, **environment):
    """Run code in a fresh interpreter in a folder and return what it prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def published(tmp_path):
    """A repository to clone; its helpers do nothing but answer."""
    folder = tmp_path / "published"
    for name in ("helpers/__init__.py", "notebooks/01.ipynb"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    (folder / "helpers" / "notebooks.py").write_text("def describe_session():\n    return 'Device\\nWeights'\n")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q", "--initial-branch=main"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("folder", ["", "notebooks"])
def test_the_first_cell_works_inside_the_repository_and_twice(published, folder):
    code = FIRST_CELL * 2 + "print(ROOT, sys.path.count(str(ROOT)))"
    lines = run(code, published / folder, GAN_COURSE_REPO="nowhere")
    assert lines == ["Device", "Weights", "Device", "Weights", f"{published} 1"]


def test_the_first_cell_clones_the_repository_once_and_refuses_other_helpers(tmp_path, published):
    assert len([line for line in FIRST_CELL.splitlines() if line]) <= 15
    lines = run(FIRST_CELL * 2 + "print(helpers.__file__)", tmp_path, GAN_COURSE_REPO=published.as_uri())
    clone = tmp_path / "gan-photo-editing"
    assert lines[-1] == str(clone / "helpers" / "__init__.py")
    (clone / "mine.txt").touch()
    again = run(FIRST_CELL, tmp_path, GAN_COURSE_REPO="nowhere")  # a clone that is there is used as it is
    assert len(again) == 2 and (clone / "mine.txt").exists()
    code = f"import sys, types\nsys.modules['helpers'] = types.SimpleNamespace(__file__='/helpers.py')\n{FIRST_CELL}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "AssertionError: restart the kernel" in done.stderr


def test_the_weights_on_disk_are_listed_and_a_size_follows_from_the_model(monkeypatch, tmp_path):
    entries = {"a": {"file": "a.x"}, "b": {"file": "b.x", "url": "https://"}, "c": {"file": "c.x", "url": "https://"}}
    monkeypatch.setattr(module, "registry", lambda: entries)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    (tmp_path / "a.x").touch()
    assert describe_session().endswith("\nWeights  bundled: a; official: none")
    (tmp_path / "c.x").touch()
    assert describe_session().endswith("\nWeights  bundled: a; official: c")
    # Lesson 1 compares two generators, of which one is enlarged; both then show images of one size.
    small, large = tiny.dcgan(), tiny.stylegan2(resolution=256, channel_base=256)
    again = enlarged(small, large.resolution)
    z = again.sample("z", 2)
    assert again.synthesize(z).shape == large.synthesize(large.sample("w", 2)).shape == (2, 3, 256, 256)
    assert (F.avg_pool2d(again.synthesize(z), 4) - small.synthesize(z)).abs().mean() < 0.05
    assert enlarged(large, 256) is large


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_starts_with_the_first_cell_takes_its_model_from_one_constant_and_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells[0].source.rstrip() == FIRST_CELL.rstrip()
    assert [cell.source for cell in cells if cell.execution_count or cell.outputs] == []
    assert "widgets" not in notebook.metadata and notebook.metadata.kernelspec.name == "python3"
    code = "\n".join(cell.source for cell in cells)
    loads = re.findall(r"load_(?:generator|discriminator|critic|features)\((.*?), (.*?)[,)]", code)
    assert {device for _, device in loads} == {"device"} and code.count("load_features(") <= len(loads)
    models = {model for model, _ in loads} - {'"vgg19-slim"'}
    assert models <= {"MODEL"} and code.count("MODEL = DEFAULT ") == bool(models)  # lesson 5 has no generator
    for generator in map(load_generator, ("stylegan2-cats-64", "stylegan2-cats-128")):
        dcgan = vanilla(generator)
        assert dcgan.landmarks == generator.landmarks and dcgan.resolution == generator.resolution
