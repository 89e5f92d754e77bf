"""Kill commands at random moments, call them again, and compare with calls that were left alone.

``killing.py FOLDER KILLS KIND...`` prints a report of each kind as JSON. Every call is a fork of this process, so that
a kill costs no second start of Python; a state is written after every step.
"""

import contextlib
import importlib
import json
import os
import random
import re
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers import features as features_module  # noqa: E402
from helpers import generators, progress  # noqa: E402
from helpers.commands import runs, shows  # noqa: E402
from helpers.features import FeatureConfig, Features  # noqa: E402
from helpers.generators.discriminator import Discriminator  # noqa: E402
from helpers.images import read_image, write_image  # noqa: E402
from helpers.inversion import InversionOptions  # noqa: E402
from tests.support import tiny  # noqa: E402  (the paths above come first)

PATIENCE = 120.0  # seconds for one call


# imported before the forks, so that kills fall into work and not into imports
MODULES = (
    *("torch._dynamo", "matplotlib.pyplot", "pytest", "tests.support.sweep_jobs", "tests.support.tiny_course"),
    *(f"helpers.commands.{name}" for name in ("blending", "sketch", "style")),
    *(f"staff.training.{name}" for name in ("gan", "encoder", "features")),
    *("tests.staff.test_training_gan", "tests.staff.test_training_features", "staff.sweep", "staff.grading.grade"),
)


# --- small networks and inputs ---------------------------------------------------------------------------------------


def networks():
    """A generator, a discriminator and features with random weights, instead of the bundled ones."""
    torch.manual_seed(1)  # of this process, which draws nothing else
    generator, network = tiny.stylegan2(), Features(FeatureConfig((4, 4, 4), (2, 2, 4)))
    discriminator = Discriminator(16, channel_base=256, channel_max=16).eval().requires_grad_(False)
    for conv in network.convs:
        torch.nn.init.kaiming_normal_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    network.name = "tiny"
    network = network.eval().requires_grad_(False)
    for module in (generators, runs, shows):
        module.load_generator = lambda *_, **__: generator
    for module in (features_module, runs, shows):
        module.load_features = lambda *_, **__: network
    runs.out_of_domain = lambda generator, images, features: [None] * len(images)  # it takes longer than all the steps
    generators.load_discriminator = lambda *_, **__: discriminator


def inputs(folder):
    paths = []
    for seed in range(3):
        coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        paths.append(folder / f"{'abc'[seed]}.png")
        write_image(paths[-1], torch.nn.functional.interpolate(coarse, size=16, mode="bilinear"))
    return paths


# --- what is called --------------------------------------------------------------------------------------------------


def inversion(folder, out, noise_steps=0, **options):
    run = runs.RunOptions("tiny", batch=2, log="jsonl", noise_steps=noise_steps)
    runs.invert_photos(inputs(folder), out, run, InversionOptions(**{"steps": 14} | options))


def noise(folder, out):
    inversion(folder, out, noise_steps=8, steps=4, start="best", optimizer="lbfgs")


def interpolate(folder, out):
    run, search = runs.RunOptions("tiny", noise_steps=4), InversionOptions(steps=6)
    shows.interpolate_photos(inputs(folder)[:2], out, run, search, frames=4)


def demo(folder, out):
    shows.demo_cat = lambda size: read_image(inputs(folder)[0])
    shows.demo(out, steps=6)


def edit(folder, out, make):
    from helpers.commands.blending import Run, edit_photos

    files, short = dict(zip("ab", inputs(folder)[:2], strict=True)), {"steps": 8, "noise_steps": 8}
    edit_photos(files, make, Run(out, "tiny", "cpu", "none"), short)


def blend(folder, out):
    from helpers.masks import half

    edit(folder, out, lambda editor, photos: editor.crossover(photos["a"], photos["b"], half(16)))


def inpainting(folder, out):
    from helpers.masks import half

    edit(folder, out, lambda editor, photos: editor.inpaint(photos["a"], half(16)))


def local_style(folder, out):
    from helpers.masks import half

    edit(folder, out, lambda editor, photos: editor.local_style(photos["a"], photos["b"], half(16)))


def sketch(folder, out):
    from PIL import Image

    from helpers.commands.sketch import sketch_files
    from helpers.sketch import SketchOptions

    paths = []
    for name, colour in (("one", (200, 30, 30)), ("two", (20, 90, 200))):
        picture = Image.new("RGBA", (16, 16))
        picture.paste((*colour, 255), (2, 3, 12, 9))
        picture.save(folder / f"{name}.png")
        paths.append(folder / f"{name}.png")
    sketch_files(paths, out, "tiny", options=SketchOptions(starts=4, steps=12))


def style(folder, out):
    from helpers.commands.style import stylize_photos

    a, b, c = inputs(folder)
    options = {"content_layers": 3, "style_layers": [1, 4], "pyramid": 8, "film": True}
    stylize_photos([a, b], [c], out, size=16, steps=8, **options)


def train_on_photos(family, folder, out):
    from staff.training.gan import train_gan
    from tests.staff.test_training_gan import settings_of

    inputs(folder / "photos")
    train_gan(folder / "photos", out, settings_of(family, images=60), held_out=0, save_every=0.0)


def stylegan2(folder, out):
    train_on_photos("stylegan2", folder, out)


def dcgan(folder, out):
    train_on_photos("dcgan", folder, out)


def encoder(folder, out):
    from staff.training import encoder as training

    generator, network = tiny.stylegan2(resolution=64), features_module.load_features()
    training.load_generator, training.load_features = lambda *_, **__: generator, lambda *_, **__: network
    training.LAYERS = (1, 2)
    settings = training.EncoderSettings("tiny", steps=8, batch=2, latent_share=0.5)
    training.train_encoder(out, settings, save_every=0.0)


def classifier(folder, out):
    from staff.training.features import train_features
    from tests.staff.test_training_features import SETTINGS

    photos = folder / "classes"
    for number in range(12):
        colour = (0.2 + 0.05 * number, 0.3, 0.9 - 0.05 * number)
        image = torch.tensor(colour).view(1, 3, 1, 1).expand(-1, -1, 40, 40)
        write_image(photos / ("red" if number > 5 else "blue") / f"{number}.png", image)
    train_features(photos, out, save_every=0.0, **SETTINGS)


def sweep(folder, out):
    from distributed import Client

    from staff.sweep import Sweep
    from tests.support.sweep_jobs import TASKS_HERE, jobs_of

    for name in "abc":
        (folder / f"{name}.txt").write_text(name * 3)
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client:
        list(Sweep(jobs_of(folder, "slow", factor=[1, 2]), TASKS_HERE, out).run(client))


def grade(folder, out):
    from helpers.course.sandbox import MEBI, Limits
    from staff.grading.grade import grade as grade_all
    from tests.support import tiny_course

    root, handed = folder / "course", folder / "handed"
    if not root.exists():
        tiny_course.make_course(root)
        for student in "abc":
            book = tiny_course.Notebook(root)
            (handed / student).mkdir(parents=True)
            book.write(handed / student / "tiny.ipynb")
    limits = Limits(seconds=45, memory=700 * MEBI, processes=60, file=64 * MEBI, disk=64)
    options = {"limits": limits, "cell_seconds": 4.0, "probes_for": tiny_course.probes_for, "report": lambda text: None}
    grade_all(handed, out, root=root, seed=1, **options)


KINDS = [inversion, noise, interpolate, demo, blend, inpainting, local_style, sketch, style]
KINDS += [stylegan2, dcgan, encoder, classifier, sweep, grade]


# --- what is left ----------------------------------------------------------------------------------------------------

TIMES = {"seconds", "hours", "memory", "mean_seconds", "machine"}


def plain(value):
    """A value without what differs from run to run."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in TIMES and k != "counters"}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def content(path):
    """What is in a file, in a form to be compared; None for what may differ."""
    if path.name == "demo.png":  # its labels show the seconds
        return None
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}
    if path.suffix == ".json":
        return plain(json.loads(path.read_text()))
    if path.name == "results.jsonl":
        return sorted(json.dumps(plain(json.loads(line)), sort_keys=True) for line in path.read_text().splitlines())
    if path.name == "log.txt":  # of a solution that was run: pytest ends with its seconds
        return re.sub(r" in [\d.]+s", "", path.read_text())
    if path.suffix in (".png", ".gif", ".mp4", ".csv", ".txt"):
        return path.read_bytes()
    return None


def differences(ours, theirs):
    names = [{p.relative_to(o).as_posix() for p in o.rglob("*") if p.is_file()} for o in (ours, theirs)]
    found = [name for name in names[0] ^ names[1] if not name.startswith("log")]
    return found + [name for name in names[0] & names[1] if content(ours / name) != content(theirs / name)]


# --- killing ---------------------------------------------------------------------------------------------------------


def call(kind, folder, out, after=None):
    """Call in a fork; kill it after so many seconds. Whether it was killed, how long it took, what it said."""
    said, started = folder / "said", time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        code = 1
        try:
            kind(folder, out)
            code = 0
        except BaseException:  # it would vanish with the fork
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    deadline = started + (PATIENCE if after is None else after)
    ended = 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.002)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"{kind.__name__}: {said.read_text()[-2000:]}")
    return os.WIFSIGNALED(status), time.monotonic() - started, said.read_text()


def torment(kind, folder, kills, draw):
    """Kill a call ``kills`` times in all, in as many folders as that takes, and compare what they end with."""
    report = {"kills": 0, "went on": 0, "finished": 0, "different": []}
    folder.mkdir(parents=True)
    _, seconds, _ = call(kind, folder, folder / "whole")
    while report["kills"] < kills:
        out, killed, fresh = folder / f"parts{report['finished']}", True, True
        while killed:
            left, kept = report["kills"] < kills, (out / "results.jsonl").exists() or any(out.glob("raw/*"))
            killed, took, said = call(kind, folder, out, draw.uniform(0, seconds) if left else None)
            if fresh and not killed:  # other work on this machine comes and goes
                seconds = min(seconds, took)
            fresh = False
            report["kills"] += killed
            report["went on"] += kept or "continuing" in said
        report["finished"] += 1
        report["different"] += differences(out, folder / "whole")
    return report | {"seconds": round(seconds, 2)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    progress.EVERY, progress.SHARE = 0.0, 0
    networks()
    for name in MODULES:
        importlib.import_module(name)
    wanted, reports = sys.argv[3:], {}
    for kind in KINDS:
        if kind.__name__ in wanted:
            with contextlib.redirect_stdout(sys.stderr):
                place = Path(sys.argv[1]) / kind.__name__
                reports[kind.__name__] = torment(kind, place, int(sys.argv[2]), random.Random(kind.__name__))
    print(json.dumps(reports))
