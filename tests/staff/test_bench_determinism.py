"""The bench of determinism: what it compares, and variants that cannot run."""

import json
import math

import torch

from staff.benchmarks import determinism
from staff.benchmarks.determinism import Variant, Work, compare


def found(change=0.0):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.5
    targets, images[1] = images + 0.1, images[1] + change
    tables = {"images": images, "latents": images.flatten(1) * 4, "total": torch.tensor([1.0, 2.0 + change])}
    return {"targets": targets, **{f"inversion.{name}": tensor for name, tensor in tables.items()}}


def test_a_row_tells_the_worst_of_the_photos():
    same, other = compare("inversion", found(), found()), compare("inversion", found(0.1), found())
    assert same["same_bits"] == "yes" and math.isinf(same["psnr_between"]) and same["latent_differs"] == 0
    assert other["same_bits"] == "no" and abs(other["psnr_between"] - 20) < 0.3
    assert abs(other["loss_differs_percent"] - 5) < 1e-3 and abs(other["latent_differs"] - 0.4) < 1e-4
    assert other["psnr_to_target_differs"] > 5


def test_variants_run_in_processes_of_their_own_and_one_that_fails_says_why(monkeypatch, tmp_path):
    options = {"tasks": ("style",)}
    monkeypatch.setattr(
        determinism,
        "variants",
        lambda: [
            Variant("reference", **options),
            Variant("again", **options),
            Variant("nowhere", device="cuda:99", **options),
        ],
    )
    monkeypatch.setattr(determinism, "Work", lambda *_: Work(1, 2, 64))
    table = determinism.run(tmp_path, quick=True)
    rows = json.loads((tmp_path / "determinism.json").read_text())["style transfer"]
    assert rows[0]["same_bits"] == "yes" and rows[0]["psnr_between"] is None  # infinite
    assert rows[1]["same_bits"].startswith("not run: ") and len(rows[1]["same_bits"]) > 12
    assert "nowhere" in table
