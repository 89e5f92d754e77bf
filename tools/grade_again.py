"""Grade a folder several times and compare: python tools/grade_again.py SUBMISSIONS OUT [--times 10] [--workers 4].

Every time a new process grades into a new folder below OUT, with one seed; what was graded by an earlier call stays.
Exit code 1 if two gradebooks differ by a byte, or points do not fit what ``SUBMISSIONS.json`` of make_submissions says.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def unfitting(states: dict, rows: list[dict]) -> list[str]:
    """Exercises that are solved and not full, left and not 0, or wrong and full."""
    found = []
    for row in rows:
        state = states.get(row["student"], {})
        for score in row["scores"]:
            share = (score["points"] or 0) / score["most"]
            fits = {"solved": share == 1, "left": share == 0, "wrong": share < 1}
            if not fits.get(state.get(score["item"]), True):
                found.append(f"{row['student']} ({state['fate']}) {score['item']} {state[score['item']]}: {share:.0%}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("submissions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--workers", type=int, default=4)
    options, books = parser.parse_args(), {}
    for number in range(1, options.times + 1):
        out, started = options.out / f"{number:02d}", time.monotonic()
        if not (out / "grades.csv").exists():
            command = [sys.executable, "-m", "helpers", "grade", str(options.submissions), f"--out={out}"]
            command += ["--seed=1", f"--workers={options.workers}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"time {number} ended with exit code {done.returncode}\n{done.stdout}{done.stderr}")
                return 1
        books.setdefault((out / "grades.csv").read_bytes(), []).append(number)
        print(f"time {number}: {time.monotonic() - started:.0f} s, {len(books)} different gradebook(s)", flush=True)
    known, off = options.submissions.with_suffix(".json"), []
    if known.exists():
        off = unfitting(json.loads(known.read_text()), json.loads((options.out / "01" / "grades.json").read_text()))
    print("\n".join([f"gradebooks that are equal: {list(books.values())}", *off]))
    return int(len(books) > 1 or bool(off))


if __name__ == "__main__":
    sys.exit(main())
