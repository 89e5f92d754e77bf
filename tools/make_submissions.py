"""Make a folder of submissions to try the grader on: python tools/make_submissions.py FOLDER [--students 20].

Each student has solved most exercises of a lesson or two, left some, got some wrong; a few notebooks have lost their
ids or metadata, hold errors, end the kernel or never end. ``FOLDER.json`` says who solved what.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from helpers.course.lessons import Lesson
from staff.grading.authoring import ROOT, read_course, stub

WRONG = ((".mean(", ".sum("), (" - ", " + "), (" / ", " * "), ("return ", "return 2 * "))
FATES = ("fine", "fine", "fine", "fine", "ids", "metadata", "format", "error", "exit", "endless")


def mistaken(source: str) -> str:
    """The solution with its last operation turned into another."""
    for right, wrong in WRONG:
        head, found, tail = source.rpartition(right)
        if found and "### BEGIN" in head:
            return head + wrong + tail
    return source.replace("return", "return -", 1)


def scratch(source: str) -> dict:
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}


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
    if fate == "ids":
        for i, cell in enumerate(book["cells"]):
            cell["id"] = f"new-{i}"
    if fate == "metadata":
        for cell in book["cells"]:
            cell["metadata"] = {}
    if fate == "format":
        book["nbformat_minor"] = 0
        for cell in book["cells"]:
            del cell["id"]
    extra = {"error": "1 / 0", "exit": "import os; os._exit(1)", "endless": "while True:\n    pass"}
    if fate in extra:
        book["cells"].insert(4, scratch(extra[fate]) | ({} if fate == "format" else {"id": "scratch"}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(book))
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--students", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, lessons, states = random.Random(options.seed), read_course(ROOT), {}
    for number in range(options.students):
        name = f"student-{number + 1:02d}"
        chosen = {lessons[number % len(lessons)].stem: lessons[number % len(lessons)]}
        extra = chance.choice(lessons)
        chosen[extra.stem] = extra
        fate = FATES[number % len(FATES)]
        states[name] = {"fate": fate}
        for lesson in chosen.values():
            path = options.folder / name / f"{lesson.stem}.ipynb"
            states[name] |= write_notebook(lesson, path, fate, chance)
    options.folder.with_suffix(".json").write_text(json.dumps(states, indent=1) + "\n")
    print(f"{options.students} submissions in {options.folder}; what is in them: {options.folder.with_suffix('.json')}")


if __name__ == "__main__":
    main()
