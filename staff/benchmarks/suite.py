"""Every bench in a process of its own, and one page of what they found."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.figures import results_table
from helpers.files import atomic_path, write_json
from staff.benchmarks.common import circumstances

ROOT = Path(__file__).resolve().parent.parent.parent
PUBLISHED = ROOT / "docs" / "benchmarks.md"
HOURS = 3  # after which a bench is stopped


class SuiteError(ValueError):
    """A bench that does not exist; the message lists those that do."""


@dataclass(frozen=True)
class Bench:
    """One ``python -m helpers bench NAME``: title, report, arguments, whether it needs faces or a device.

    Its plots are published with the tables.
    """

    name: str
    title: str
    file: str
    plots: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    data: bool = False
    device: bool = True


BENCHES = (
    Bench(
        "generator",
        "Generator forward and backward; a batch of inversions against single ones",
        "generator.json",
        ("generator.png",),
        quick=("--resolutions", "64", "--batches", "1", "--photos", "4"),
    ),
    Bench("growth", "Growth of time and memory", "growth.json", ("growth.png",), quick=("--quick",)),
    Bench(
        "inversion",
        "Inversion: spaces, starts, optimizers, and against the plain projector loop",
        "inversion.json",
        ("inversion-plain.png",),
        quick=("--parts", "batch,plain", "--plain-faces", "1", "--plain-steps", "20"),
        data=True,
    ),
    Bench("noise", "Noise maps", "noise.json", quick=("--parts", "seconds"), data=True),
    Bench("blend", "Blends", "blend.json", quick=("--pairs", "1"), data=True),
    Bench("sketch", "Sketches", "sketch.json", quick=("--quick",), data=True),
    Bench("style", "Style transfer", "style.json", quick=("--sizes", "128")),
    Bench(
        "full-size",
        "Full size: memory and steps per second",
        "full_size.json",
        quick=("--resolution", "256", "--steps", "1", "--need-gb", "2"),
    ),
    Bench("determinism", "Same seed, same result", "determinism.json", quick=("--quick",), device=False),
    Bench("interaction", "Panels in a browser", "interaction.json"),
    Bench("grade", "Grading one submission", "grading.json", device=False),
    Bench("sizing", "Sweeps over many photos", "sizing.json", quick=("--ways", "fast"), device=False),
)


def command_of(bench: Bench, out: Path, data: Path | None, device: str | None, quick: bool) -> list[str]:
    """Arguments after ``python -m helpers``."""
    words = ["bench", bench.name, "--out", str(out), *(bench.quick if quick else bench.options)]
    words += ["--data", str(data)] if bench.data else []
    return words + (["--device", device] if device and bench.device else [])


def chosen(data: Path | None, only: Sequence[str] | None) -> list[Bench]:
    """The benches that can run: all without faces, and with faces those that need them.

    Raises SuiteError for an unknown name, or one that needs faces where there are none.
    """
    names = [bench.name for bench in BENCHES]
    for name in only or ():
        if name not in names:
            raise SuiteError(f"the benches are {', '.join(names)}; got {name!r}.")
    benches = [bench for bench in BENCHES if only is None or bench.name in only]
    if only is not None and data is None and any(bench.data for bench in benches):
        raise SuiteError(f"{', '.join(b.name for b in benches if b.data)} needs photos of faces: add --data FACES.zip.")
    return [bench for bench in benches if data is not None or not bench.data]


def run_one(bench: Bench, out: Path, words: list[str]) -> dict:
    """Run a bench; its output goes to ``logs/NAME.txt``. Returns how it ended."""
    log, started = out / "logs" / f"{bench.name}.txt", time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        try:
            code = subprocess.run(
                [sys.executable, "-m", "helpers", *words], stdout=file, stderr=subprocess.STDOUT, timeout=3600 * HOURS
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {HOURS} hours"
    ended = {"bench": bench.name, "ended": "done" if code == 0 else f"failed ({code})", "words": words}
    if code != 0:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        ended["reason"] = lines[-1][:300] if lines else "it printed nothing"
    return ended | {"minutes": (time.perf_counter() - started) / 60, "date": datetime.date.today().isoformat()}


def run(
    out: str | Path,
    data: str | Path | None = None,
    device: str | None = None,
    *,
    quick: bool = False,
    fresh: bool = False,
    publish: bool = False,
    only: Sequence[str] | None = None,
) -> str:
    """Run what is not finished, then write ``benchmarks.md``; a bench that fails does not stop the others.

    ``all.json`` holds how every bench ended. One that ended well with the same arguments is not run again.
    publish: write them to ``docs/`` too, with the plots.

    Raises SuiteError for benches that do not exist or cannot run.
    """
    out, data = Path(out), None if data is None else Path(data)
    path = out / "all.json"
    states = {} if not path.exists() else {state["bench"]: state for state in json.loads(path.read_text())}
    for bench in chosen(data, only):
        words, before = command_of(bench, out, data, device, quick), states.get(bench.name, {})
        if not fresh and before.get("ended") == "done" and before.get("words") == words:
            print(f"{bench.name}: finished before", file=sys.stderr)
            continue
        print(f"{bench.name}: python -m helpers {' '.join(words)}", file=sys.stderr)
        states[bench.name] = run_one(bench, out, words)
        write_json(path, list(states.values()))
    text = published(out, states, circumstances(device or "cpu"))
    _write(out / PUBLISHED.name, text)
    if publish:
        folder = PUBLISHED.with_suffix("")
        folder.mkdir(exist_ok=True)
        for name in (name for bench in BENCHES for name in bench.plots if (out / name).exists()):
            shutil.copyfile(out / name, folder / name)
        _write(PUBLISHED, text)
    rows = [{name: state.get(name) for name in ("bench", "ended", "minutes", "reason")} for state in states.values()]
    return f"{results_table(rows)}\n\nThe tables: {out / PUBLISHED.name}"


# --- the tables ------------------------------------------------------------------------------------------------------


def tables_of(report: object, name: str = "") -> list[tuple[str, list[dict]]]:
    """Every list of rows in a report, with the names that lead to it."""
    if isinstance(report, list):
        return [(name, report)] if report and all(isinstance(row, dict) for row in report) else []
    found = []
    for key, value in report.items() if isinstance(report, dict) else ():
        leads = f"{name}, {key}".strip(", ").replace("_", " ")
        found += tables_of(value, leads.removesuffix(", rows"))
    return found


def results_of(out: Path, states: dict[str, dict]) -> list[tuple[Bench, dict, list[tuple[str, list[dict]]], dict]]:
    """Of every bench that ran: itself, how it ended, its tables, its circumstances."""
    found = []
    for bench in BENCHES:
        if bench.name not in states:
            continue
        file = out / bench.file
        report = json.loads(file.read_text()) if file.exists() else {}
        about = report.get("circumstances") or next(
            (v["circumstances"] for v in report.values() if isinstance(v, dict) and "circumstances" in v), {}
        )
        found.append((bench, states[bench.name], tables_of(report), about))
    return found


def published(out: Path, states: dict[str, dict], about: dict) -> str:
    """The tables as Markdown, each bench with its command and plots; no path of this machine stands in it."""
    kept = ("date", "processor", "device", "python", "torch")
    written = "Written by `python -m helpers bench all --data FACES.zip --publish`."
    texts = ["# Benchmarks", written, " · ".join(f"{name} {about[name]}" for name in kept)]
    for bench, state, tables, facts in results_of(out, states):
        words = " ".join(command_of(bench, Path("output/bench"), Path("FACES.zip"), None, "--quick" in state["words"]))
        texts += [f"## {bench.title}", f"`python -m helpers {words}`, {facts.get('date', state['date'])}"]
        texts += [] if state["ended"] == "done" else [f"Not finished: {state['ended']}."]
        plots = [name for name in bench.plots if (out / name).exists()]
        texts += [f"![{bench.title}]({PUBLISHED.stem}/{name})" for name in plots]
        texts += [f"### {name}\n\n{results_table(rows)}" for name, rows in tables]
    return "\n\n".join(texts) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        Path(temporary).write_text(text)
