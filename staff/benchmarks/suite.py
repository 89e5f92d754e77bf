"""Every bench in a process of its own, and one page of what they found."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from helpers.figures import results_table
from helpers.files import atomic_path, write_json
from staff.benchmarks import BENCHES, OF_FACES

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def chosen(data: Path | None, only: Sequence[str]) -> list[str]:
    """The benches that can run: but for the model cards all without faces, and with faces those that need them.

    Raises ValueError for an unknown name, or one that needs faces where there are none.
    """
    names = [name for name in BENCHES if name in only or not only and name != "weights"]
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(f"the benches are {', '.join(BENCHES)}; got {', '.join(unknown)}.")
    if data is None and (needing := [name for name in only if name in OF_FACES]):
        raise ValueError(f"{', '.join(needing)} needs photos of faces: add --data FACES.zip.")
    return [name for name in names if data is not None or name not in OF_FACES]


def run_one(name: str, out: Path, words: list[str]) -> dict:
    """Run a bench; its output goes to ``logs/NAME.txt``. Returns how it ended."""
    log, started = out / "logs" / f"{name}.txt", time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "helpers", "bench", name, "--out", str(out), *words]
    with log.open("w") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    ended = {"bench": name, "ended": "done" if code == 0 else f"failed ({code})", "words": words}
    if code != 0:
        ended["reason"] = (log.read_text(errors="replace").strip() or "it printed nothing").splitlines()[-1][:300]
    return ended | {"minutes": (time.perf_counter() - started) / 60}


def run(out: Path, words: list[str], data: Path | None, only: Sequence[str] = (), *, fresh=False, publish=False) -> str:
    """Run what is not finished, then write ``benchmarks.md``, with ``publish`` to docs/ too.

    words: options of every bench. A bench that fails does not stop the others. ``all.json`` holds how each ended; one
    that ended well with the same options is only run again if ``fresh``.
    """
    path = out / "all.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    states = {state["bench"]: state for state in known}
    for name in chosen(data, only):
        given = words + (["--data", str(data)] if name in OF_FACES else [])
        before = states.get(name, {})
        if not fresh and before.get("ended") == "done" and before.get("words") == given:
            print(f"{name}: finished before", file=sys.stderr)
            continue
        print(f"{name} {' '.join(given)}", file=sys.stderr)
        states[name] = run_one(name, out, given)
        write_json(path, list(states.values()))
    for target in (out / PUBLISHED.name, *([PUBLISHED] if publish else [])):
        with atomic_path(target) as temporary:
            temporary.write_text(page(out, states), encoding="utf-8")
    rows = [{name: state.get(name) for name in ("bench", "ended", "minutes", "reason")} for state in states.values()]
    return f"{results_table(rows)}\n\nThe tables: {out / PUBLISHED.name}"


def page(out: Path, states: dict[str, dict]) -> str:
    """The tables as Markdown, each bench with its command; no path of this machine stands in it."""
    texts = ["# Benchmarks", "Written by `python -m helpers bench all --data FACES.zip --publish`."]
    for name in (name for name in BENCHES if name in states):
        command = f"`python -m helpers bench {name}{' --data FACES.zip' if name in OF_FACES else ''}`"
        ended = states[name]["ended"]
        texts += [f"## {BENCHES[name]}", command if ended == "done" else f"{command}. Not finished: {ended}."]
        file = out / f"{name}.json"
        for part, found in json.loads(file.read_text(encoding="utf-8")).items() if file.exists() else ():
            measured = " · ".join(found["circumstances"].values())
            texts.append(f"### {part}\n\n{measured}\n\n{results_table(found['rows'])}")
    return "\n\n".join(texts) + "\n"
