"""Make a folder of submissions to try the grader on: python tools/make_submissions.py FOLDER [--students 20].

Each student has solved most exercises of a lesson, every tenth of two, left some, got some wrong. Some notebooks have
lost their ids or metadata, come in a zip or are cut off; some end the kernel, never end, or attack the machine.
``FOLDER.json`` says who solved what.
"""

import argparse
import json
import random
import zipfile
from pathlib import Path

from helpers.course.lessons import Lesson
from staff.grading.authoring import ROOT, read_course, stub

WRONG = ((" / ", " * "), (".mean(", ".sum("), (" - ", " + "), ("return ", "return 2 * "))
CELLS = {  # what some students have at the top
    "habits": "%cd ..\nimport torch\nfrom numpy import *\ntorch.set_grad_enabled(False)\nfloat = list = sum = 3",
    "error": "1 / 0",
    "exit": "import os; os._exit(1)",
    "endless": "while True:\n    pass",
    "forks": "import os, time\nfor _ in range(500):\n    if os.fork() == 0:\n        time.sleep(1000)",
    "prints": 'for _ in range(200):\n    print("x" * 2**20)',
    "kills": "import os; os.kill(-1, 9)",
    "memory": "import os\nfor _ in range(99):\n    os.write(os.memfd_create('x'), bytes(40 * 2**20))",
    "forges": "open('results/cells.jsonl', 'w').write('[]')\nopen('results/exit', 'w').write('0')",
}
FATES = (*["fine"] * 6, "ids", "metadata", "format", "zip", "cut", *CELLS)


def mistaken(source: str) -> str:
    """The solution with its last operation turned into another."""
    for right, wrong in WRONG:
        head, found, tail = source.rpartition(right)
        if found and "### BEGIN" in head:
            return head + wrong + tail
    return source.replace("return", "return -", 1)


def write_notebook(lesson: Lesson, path: Path, fate: str, chance: random.Random) -> dict[str, str]:
    """One student's notebook of a lesson; returns what became of each exercise."""
    book = json.loads((ROOT / "notebooks" / f"{lesson.stem}.ipynb").read_text())
    state = {}
    for cell in book["cells"]:
        source = "".join(cell["source"])
        item = cell["metadata"].get("course", {}).get("id")
        if item and "### BEGIN SOLUTION" in source:
            state[item] = chance.choices(("solved", "left", "wrong"), (6, 1, 1))[0]
            if state[item] == "left":
                source = stub(source, item)
            elif state[item] == "wrong":
                source = mistaken(source)
            cell["source"] = "\n".join(line for line in source.splitlines() if "### " not in line)
    if fate in CELLS:
        cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "id": "scratch"}
        book["cells"].insert(4, cell | {"source": CELLS[fate]})
    for i, cell in enumerate(book["cells"]):
        if fate in ("ids", "format"):
            cell["id"] = f"new-{i}"
        if fate == "metadata":
            cell["metadata"] = {}
        if fate == "format":
            del cell["id"]
    book["nbformat_minor"] = 0 if fate == "format" else book["nbformat_minor"]
    text = json.dumps(book)
    path.parent.mkdir(parents=True, exist_ok=True)
    if fate == "zip":
        with zipfile.ZipFile(path.with_suffix(".zip"), "w") as packed:
            packed.writestr(f"__MACOSX/._{path.name}", b"\0\5\x16\7")
            packed.writestr(f"homework/{path.name}", text)
    else:
        path.write_text(text[: len(text) // 2] if fate == "cut" else text)
    return dict.fromkeys(state, "left") if fate == "cut" else state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--students", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, lessons, states = random.Random(options.seed), read_course(ROOT), {}
    for number in range(options.students):
        name, fate = f"student-{number + 1:02d}", FATES[number % len(FATES)]
        states[name] = {"fate": fate}
        for lesson in [lessons[(number + more) % len(lessons)] for more in range(1 if number % 10 else 2)]:
            path = options.folder / name / f"{lesson.stem}.ipynb"
            states[name] |= write_notebook(lesson, path, fate, chance)
    options.folder.with_suffix(".json").write_text(json.dumps(states, indent=1) + "\n")
    print(f"{options.students} submissions in {options.folder}; what is in them: {options.folder.with_suffix('.json')}")


if __name__ == "__main__":
    main()
