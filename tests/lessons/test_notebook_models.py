"""The lessons with another MODEL: other formats, families and sizes than the bundled one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F

from helpers import features
from helpers.generators import load_discriminator, load_generator
from helpers.notebooks import describe_model
from tests.support import checkpoint_files as files
from tests.support import tiny
from tools.try_model import with_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FIRST_SEARCH = {  # for each lesson with a generator: how the cell of its first search begins; the images then
    "01_inversion": ("def measured(", lambda of: of["stylegan"].synthesize(of["found"][f"{of['stylegan'].family} w+"])),
    "02_noise_optimization": ("CATS = None", lambda of: of["inverted"].images),
    "03_image2stylegan_pp_blending": ("FEATHER = ", lambda of: of["w_plus"].images),
    "04_sketch_to_image": ("@dataclass\nclass MyColour", lambda of: of["found"].images),
}
MODELS = {
    "official-128": lambda path: files.official_pickle(path, wide(128), tiny.discriminator(resolution=128)),
    "stylegan1-pt": lambda path: files.stylegan1_pt(path, tiny.stylegan1(resolution=32)),
    "stylegan1-tf": lambda path: files.tensorflow_pickle(path, tiny.stylegan1(resolution=32)),
    "stylegan2-tf": lambda path: files.tensorflow_pickle(path, wide(32), critic=tiny.discriminator(resolution=32)),
    "rosinality": lambda path: files.rosinality_pt(path, wide(128)),
}


def wide(resolution):
    return tiny.stylegan2(resolution=resolution, channel_base=256)


@pytest.fixture(scope="module")
def model(request, tmp_path_factory):
    with torch.no_grad():
        return MODELS[request.param](tmp_path_factory.mktemp(request.param) / f"{request.param}.pt")


@pytest.mark.filterwarnings("ignore:.*holds no discriminator")
@pytest.mark.parametrize(
    ("lesson", "model"),
    [(lesson, model) for lesson in FIRST_SEARCH for model in list(MODELS)[:2]]
    + [("02_noise_optimization", model) for model in list(MODELS)[2:]],
    indirect=["model"],
)
def test_a_lesson_opens_with_any_model(model, lesson, monkeypatch, capsys):
    """The cells up to the first search run, with two steps for each search; the formats differ only in their reader."""
    small = features.load_features("vgg19-slim")
    small.register_forward_pre_hook(lambda _, given: (F.adaptive_avg_pool2d(given[0], 32), *given[1:]))  # for speed
    monkeypatch.setattr(features, "load_features", lambda *args, **options: small)
    monkeypatch.setattr(sys, "path", list(sys.path))
    notebook = nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", as_version=4)
    space, (beginning, images_in) = {"__name__": "lesson", "display": lambda *_: None}, FIRST_SEARCH[lesson]
    for cell in with_model(notebook, str(model), steps=2).cells:
        if cell.cell_type == "code" and not cell.source.startswith("check."):
            exec(compile(cell.source, lesson, "exec", dont_inherit=True), space)
        if cell.source.startswith(beginning):
            break
    about = rf"{model.stem}: stylegan\d, (\d+)×\1 pixels, \d+ rows of w\+, .* minutes"
    assert re.search(about, capsys.readouterr().out)
    assert images_in(space).shape[1:] == (3, *[load_generator(model).resolution] * 2)


def test_the_cost_of_the_bundled_model_is_known_and_that_of_another_is_a_multiple(monkeypatch):
    monkeypatch.setattr("helpers.notebooks.step_seconds", lambda *_: pytest.fail("measured"))
    facts = "stylegan2-cats-64: stylegan2, 64×64 pixels, 10 rows of w+, 9 noise maps."
    cost = "Running all cells takes about 3 minutes on two CPU cores."
    assert describe_model(load_generator(), minutes=3) == f"{facts} {cost}"
    seconds = {"stylegan2-cats-64": 0.1}
    monkeypatch.setattr("helpers.notebooks.step_seconds", lambda g, _: seconds.get(getattr(g, "name", ""), 0.45))
    generator = wide(128)
    generator.name = "mine"
    line = describe_model(generator, minutes=2)
    assert "0.45 s here, 4 times as long" in line and "about 9 minutes instead of 2" in line
    monkeypatch.setattr("helpers.notebooks.free_memory", lambda _: 0.01)
    for fast, fix in (torch.bfloat16, " or generator.dtype = torch.bfloat16"), (torch.float32, ""):
        monkeypatch.setattr("helpers.features.fast_dtype", lambda device, fast=fast: fast)
        assert f"GB are free: set generator.checkpointing = True{fix} below" in describe_model(generator, minutes=2)


@pytest.mark.skipif("FULL_LESSONS" not in os.environ, reason="takes an hour: set FULL_LESSONS=1 to run every lesson")
def test_every_lesson_runs_through_with_an_official_file(tmp_path):
    cats = "stylegan2-cats-128"
    with torch.no_grad():
        path = files.official_pickle(tmp_path / "cats.pkl", load_generator(cats), load_discriminator(cats))
    command = [sys.executable, "tools/try_model.py", str(path), "--out", str(tmp_path / "lessons")]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stdout
