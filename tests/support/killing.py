"""``killing.py FOLDER KILLS KIND...`` kills commands at random moments, calls them again, and compares with calls that
were left alone; it prints a report of each kind as JSON. Every call is a fork of this process, so that a kill costs no
second start of Python; a state is written after every step.
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
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from helpers import __main__ as program  # noqa: E402  (the path above comes first)
from helpers import domain, features, generators, photos, progress  # noqa: E402
from helpers.generators.discriminator import Discriminator  # noqa: E402
from helpers.images import write_image  # noqa: E402
from tests.support import tiny  # noqa: E402

PATIENCE = 120.0  # seconds for one call

# imported before the forks, so that kills fall into work and not into imports
MODULES = [
    *("torch._dynamo", "matplotlib.pyplot", "pytest"),
    *(f"helpers.commands.{name}" for name in ("inversion", "blending", "sketch", "style")),
]
MORE = dict.fromkeys(("stylegan2", "dcgan"), ("staff.training.gan", "tests.staff.test_training_gan"))
MORE |= {"sweep": ("distributed", "staff.sweep", "tests.support.sweep_jobs")}
MORE |= {"grade": ("staff.grading.grade", "tests.support.tiny_course")}


def networks():
    """Small random networks instead of the bundled ones; to be called before a command is imported."""
    generator, network = tiny.stylegan2(), tiny.vgg()
    discriminator = Discriminator(16, channel_base=256, channel_max=16).eval().requires_grad_(False)
    network.name = "tiny"
    generators.load_generator = lambda *_, **__: generator
    generators.load_discriminator = lambda *_, **__: discriminator
    features.load_features = lambda *_, **__: network
    domain.out_of_domain = lambda generator, images, features: [None] * len(images)  # longer than all the steps
    photos.demo_cat = lambda size: generator.synthesize(generator.sample("w", 1, seed=3)).clamp(0, 1)


def inputs(folder):
    """Three photos a, b, c and two drawings d, e."""
    for seed, name in enumerate("abc"):
        write_image(folder / f"{name}.png", tiny.images(seed=seed))
    for name, colour in (("d", (200, 30, 30, 255)), ("e", (20, 90, 200, 255))):
        drawing = Image.new("RGBA", (16, 16))
        drawing.paste(colour, (2, 3, 12, 9))
        drawing.save(folder / f"{name}.png")


EDIT = "--model tiny --mask half --steps 8 --noise-steps 8"
COMMANDS = {
    "inversion": "invert a.png b.png c.png --model tiny --batch 2 --steps 14",
    "noise": "invert a.png b.png c.png --model tiny --batch 2 --steps 4 --start best --optimizer lbfgs --noise "
    "--noise-steps 8 --no-sheet",
    "interpolate": "interpolate a.png b.png --model tiny --steps 6 --noise --noise-steps 4 --frames 4",
    "demo": "demo --steps 6",
    "blend": f"blend a.png b.png {EDIT}",
    "inpainting": f"inpaint a.png {EDIT}",
    "local_style": f"local-style a.png b.png {EDIT}",
    "sketch": "sketch d.png e.png --model tiny --starts 4 --steps 12",
    "style": "style a.png b.png --style c.png --content-layers 3 --style-layers 1,4 --pyramid 8 --film --size 16 "
    "--steps 8",
}


def command(line, folder, out):
    words = [str(folder / word) if word.endswith(".png") else word for word in line.split()]
    sys.argv = ["helpers", *words, "--out", str(out), "--device", "cpu"]
    program.main()


def gan(family, folder, out):
    from staff.training.gan import train_gan
    from tests.staff.test_training_gan import settings_of

    inputs(folder / "photos")
    train_gan(folder / "photos", out, settings_of(family, images=60), held_out=0, save_every=0.0)


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
            (handed / student).mkdir(parents=True)
            tiny_course.Notebook(root).write(handed / student / "tiny.ipynb")
    limits = Limits(seconds=45, memory=700 * MEBI, processes=60, file=64 * MEBI, disk=64)
    options = {"limits": limits, "cell_seconds": 4.0, "probes_for": tiny_course.probes_for, "report": lambda text: None}
    grade_all(handed, out, root=root, seed=1, **options)


KINDS = {name: partial(command, line) for name, line in COMMANDS.items()}
KINDS |= {"stylegan2": partial(gan, "stylegan2"), "dcgan": partial(gan, "dcgan"), "sweep": sweep, "grade": grade}


TIMES = {"seconds", "hours", "memory", "mean_seconds", "machine", "counters"}  # differ from run to run


def plain(value):
    """A value without what differs from run to run."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in TIMES}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def content(path):
    """What is in a file, in a form to be compared; None for what may differ."""
    if path.name == "log.txt":  # of a solution that was run: pytest ends with its seconds
        return re.sub(r" in [\d.]+s", "", path.read_text())
    if path.suffix == ".json" or path.name == "results.jsonl":
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return sorted(json.dumps(plain(json.loads(line)), sort_keys=True) for line in lines)
    if path.suffix == ".safetensors":  # their header has no order
        return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}
    kept = path.suffix in (".png", ".gif", ".mp4", ".csv", ".txt") and path.name != "demo.png"  # its labels are seconds
    return path.read_bytes() if kept else None


def differences(ours, theirs):
    names = [{p.relative_to(o).as_posix() for p in o.rglob("*") if p.is_file()} for o in (ours, theirs)]
    found = [name for name in names[0] ^ names[1] if not name.startswith("log")]
    return found + [name for name in names[0] & names[1] if content(ours / name) != content(theirs / name)]


def call(name, folder, out, after=None):
    """Call in a fork; kill it after so many seconds. Whether it was killed, how long it took, what it said."""
    said, started = folder / "said", time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        code = 1
        try:
            KINDS[name](folder, out)
            code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException:  # it would vanish with the fork
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    deadline, ended = started + (PATIENCE if after is None else after), 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.002)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"{name}: {said.read_text()[-2000:]}")
    return os.WIFSIGNALED(status), time.monotonic() - started, said.read_text()


def torment(name, folder, kills):
    """Kill a call ``kills`` times in all, in as many folders as that takes, and compare what they end with."""
    report, draw = {"kills": 0, "continued": 0, "finished": 0, "different": []}, random.Random(name)
    folder.mkdir(parents=True)
    inputs(folder)
    _, seconds, _ = call(name, folder, folder / "whole")
    while report["kills"] < kills:
        out, killed = folder / f"parts{report['finished']}", True
        while killed:
            after, fresh = draw.uniform(0, seconds) if report["kills"] < kills else None, not out.exists()
            kept = (out / "results.jsonl").exists() or any(out.glob("raw/*"))
            killed, took, said = call(name, folder, out, after)
            if fresh and not killed:  # other work on this machine comes and goes
                seconds = min(seconds, took)
            report["kills"] += killed
            report["continued"] += kept or "continuing" in said
        report["finished"] += 1
        report["different"] += differences(out, folder / "whole")
    return report | {"seconds": round(seconds, 2)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    progress.EVERY, progress.SHARE = 0.0, 0
    networks()
    for module in [*MODULES, *(name for kind in sys.argv[3:] for name in MORE.get(kind, ()))]:
        importlib.import_module(module)
    with contextlib.redirect_stdout(sys.stderr):
        reports = {name: torment(name, Path(sys.argv[1]) / name, int(sys.argv[2])) for name in sys.argv[3:]}
    print(json.dumps(reports))
