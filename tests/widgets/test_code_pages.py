"""The Code page of each lesson's panel, pasted into a cell of that lesson, runs and gives what the panel gives."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.device import pick_device
from helpers.features import load_features
from helpers.generators import load_critic, load_generator
from helpers.latents import Latents
from helpers.photos import demo_cat
from helpers.sketch import read_sketch
from tests.support.waiting import finish

ROOT = Path(__file__).resolve().parents[2]
MODEL = "stylegan2-cats-64"
QUICK = {"steps": 3, "noise_steps": 3, "starts": 2, "size": 64}
OTHER = {
    "01": {"model": "dcgan-cats-64", "target": "second target", "layers": "range", "convs": (2, 5), "l1": 0.3},
    "02": {"photo": "second", "order": "joint", "per_layer": False, "regularise": 10.0},
    "03": {"x": "third cat", "shape": "eyes", "noise_steps": 0, "style": 0.5},
    "04": {"space": "w+", "start": "sample", "starts": 3, "edge": 1.0},
    "05": {"content": "other", "colour": "luminance", "optimizer": "adam", "style_layers": ("conv1_1", "conv1_2")},
}


def panel_cell(lesson):
    """The cell of a lesson that makes its panel, with the import that may stand in another cell."""
    (path,) = ROOT.glob(f"notebooks/{lesson}_*.ipynb")
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    (cell,) = [cell for cell in cells if "\npanel = " in f"\n{cell}"]
    imports = [line for line in "\n".join(cells).splitlines() if line.startswith("from helpers.widgets")]
    return "\n".join([*imports, cell])


@pytest.fixture(scope="module")
def common():
    """What the lessons have made before their panels, and a function of the student's that must not be called."""
    device = pick_device()  # a card where there is one, as in the lessons
    cat, generator = demo_cat(64).to(device), load_generator(MODEL, device)
    mean = Latents("w+", generator.mean("w+"))
    photos = {"chelsea": cat, "other": cat.flip(-1)}

    def student(*args, **options):
        raise AssertionError("the student's own function was called")

    return {
        "project": student, "crossover": student, "search": student, "optimize_noise": student, "stylize": student,
        "MODEL": MODEL, "generator": generator, "stylegan": generator, "dcgan": load_generator("dcgan-cats-64", device),
        "critic": load_critic(MODEL, device), "features": load_features("vgg19-slim", device), "photos": photos,
        "styles": {"cat": cat.flip(1)}, "target": cat, "second": cat.flip(-1), "second_code": mean,
        "strange": torch.cat([cat, cat]), "stage1": SimpleNamespace(latents=[mean, mean]),
        "results": {"w+": SimpleNamespace(latents=mean)}, "x": cat, "y": cat.flip(-1), "other": cat.flip(1),
        "drawn_face": lambda seed: cat.flip(0), "ROOT": ROOT, "read_sketch": read_sketch,
        "FOLDER": ROOT / "data" / "sketches" / "64",
    }  # fmt: skip


@pytest.mark.parametrize("lesson", ["01", "02", "03", "04", "05"])
@pytest.mark.parametrize("others", [{}, OTHER], ids=["first", "other"])
def test_the_code_page_runs_when_pasted(lesson, others, common, tmp_path):
    names = dict(common, OUT=tmp_path)
    exec(panel_cell(lesson), names)
    panel = names["panel"]
    for slider in panel.controls.keys() & {"steps", "noise_steps"}:
        panel.controls[slider].min = 0  # its least is 10
    panel.set(QUICK | others.get(lesson, {}))
    if lesson == "04" and others:
        finish(panel)
        panel.choose_candidate(1)
        panel.set({"go_on": True})
    exec(panel.code.value, names)
    run = panel.make(panel.settings)
    for _ in run:
        pass
    on_cards = {"rtol": 0, "atol": 0.01} if torch.cuda.is_available() else {}  # where sums take any order
    torch.testing.assert_close(names["same"].images, run.result().images, **on_cards)
