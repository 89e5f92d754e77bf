"""Grading end to end on a tiny course: what cheats scores nothing and harms nothing, what is right scores full."""

import csv
import json
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from helpers.course import sandbox
from helpers.course.lessons import LessonError, read_course
from helpers.course.sandbox import MEBI, Limits
from staff.grading import run as run_module
from staff.grading.grade import grade
from tests.support import tiny_course
from tests.support.cheats import LOUD, QUIET, TOGETHER
from tests.support.honest import HONEST, write_all
from tests.support.tiny_course import NAMES, POINTS, Notebook

LIMITS = Limits(seconds=45, idle=10, memory=700 * MEBI, processes=60, file=64 * MEBI, disk=64)
FULL = POINTS * len(NAMES)


needs_sandbox = pytest.mark.skipif(
    "bubblewrap" not in sandbox.available(), reason="bubblewrap is not installed, or does not work here"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    tiny_course.make_course(folder)
    return folder


@pytest.fixture(scope="module")
def answers():
    """A server on this machine that would tell the answer; it keeps who asks."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                asked.append(connection.recv(9999))
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname(), asked


def run(folder, out, root, **options):
    rows = grade(
        folder, out, root=root, workers=2, limits=LIMITS, cell_seconds=4.0, probes_for=tiny_course.probes_for,
        report=lambda text: None, **options,
    )  # fmt: skip
    return {row["student"]: row for row in rows}


def points(row):
    return {score["item"]: score["points"] for score in row["scores"]}


def exercises(row):
    return [score["points"] for score in row["scores"] if score["kind"] == "exercise"]


@dataclass
class Graded:
    """One grading of all submissions: rows by student, which exercise each attack is about, what the machine saw."""

    rows: dict
    attacked: dict
    out: Path
    asked: list
    changed: list
    processes: int


@pytest.fixture(scope="module")
def graded(root, answers, tmp_path_factory):
    address, asked = answers
    folder, out = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("out")
    write_all(root, folder)
    attacked = write_quiet(root, folder, address) | write_loud(root, folder, address) | write_links(root, folder)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    processes = len(psutil.Process().children(recursive=True))
    (out / "folder.json").write_text(json.dumps(str(folder)))
    rows = run(folder, out, root)
    changed = [path for path in root.rglob("*") if path.stat().st_mtime_ns != before.get(path)]
    return Graded(rows, attacked, out, asked, changed, len(psutil.Process().children(recursive=True)) - processes)


def write_quiet(root, folder, address):
    attacked = {}
    for start in range(0, len(QUIET), len(NAMES)):
        book, student = Notebook(root), f"quiet{start}"
        for number, (name, attack) in enumerate(list(QUIET.items())[start : start + len(NAMES)], 1):
            attack(book, number, folder=folder, address=address)
            attacked[name] = (student, f"1.{number}")
        book.write(folder / student / "tiny.ipynb")
        (folder / student / "conftest.py").write_text("raise SystemExit")
        (folder / student / "helpers").mkdir()
        (folder / student / "helpers" / "__init__.py").write_text("raise SystemExit")
    return attacked


def write_loud(root, folder, address):
    attacked = {}
    alone = [(name,) for name in LOUD if not any(name in group for group in TOGETHER)]
    for group in (*TOGETHER, *alone):
        book = Notebook(root)
        for number, name in enumerate(group, 1):
            LOUD[name](book, number, folder=folder, address=address)
            attacked[name] = (group[0], f"1.{number}")
        book.write(folder / group[0] / "tiny.ipynb")
    return attacked


def write_links(root, folder):
    right = folder / "as_it_was_handed_out"
    (folder / "linked_folder").symlink_to(right)
    (folder / "linked_notebook").mkdir()
    (folder / "linked_notebook" / "tiny.ipynb").symlink_to(right / "tiny.ipynb")
    (folder / "nested").mkdir()
    (folder / "nested" / "01_tiny.ipynb").write_text('{"cells": ' + "[" * 100_000)
    return {name: (name, "1.1") for name in ("linked_folder", "linked_notebook", "nested")}


@needs_sandbox
def test_cheats_score_nothing(graded):
    assert len(graded.attacked) >= 30
    scored = {name: points(graded.rows[student])[item] for name, (student, item) in graded.attacked.items()}
    assert {name: value for name, value in scored.items() if value != 0} == {}


@needs_sandbox
def test_cheats_harm_nothing(graded):
    assert graded.asked == []  # nobody reached the network
    assert graded.changed == []
    assert graded.processes == 0
    spared = [row for name, row in graded.rows.items() if name.startswith("quiet")]
    scores = [(row["student"], s) for row in spared for s in row["scores"] if s["kind"] == "exercise"]
    others = [(student, score["item"]) for student, score in scores if score["points"] != POINTS]
    assert set(others) <= set(graded.attacked.values())


@needs_sandbox
def test_right_submissions_score_full(graded):
    assert len(HONEST) >= 12
    scored = {name: sum(exercises(graded.rows[name])) for name in HONEST}
    assert {name: value for name, value in scored.items() if value != FULL} == {}


@needs_sandbox
def test_a_dead_kernel_is_named(graded):
    run = json.loads((graded.out / "raw" / "kernel_is_killed" / "01_tiny" / "cells.jsonl").read_text().splitlines()[3])
    assert run["error"] == "the kernel died"


@needs_sandbox
def test_pages_tell_why_and_run_no_script(graded):
    pages = {path.stem: path.read_text() for path in (graded.out / "students").glob("*.html")}
    assert set(pages) == set(graded.rows)
    assert not any("<script" in page for page in pages.values())
    assert "stopped after 4 s" in pages["endless_function"]
    assert "Changed; what was added counts" in pages["quiet0"]
    reasons = {s["item"]: s["reason"] for s in graded.rows["quiet0"]["scores"]}
    assert reasons["1.1"].startswith("not done") and "code cell is not there" in reasons["1.7"]


@needs_sandbox
def test_the_gradebook_holds_every_student_and_item(graded):
    table = list(csv.DictReader((graded.out / "grades.csv").open(encoding="utf-8-sig")))
    assert [row["student"] for row in table] == sorted(graded.rows)
    row = next(row for row in table if row["student"] == "as_it_was_handed_out")
    assert float(row["total"]) == FULL and row["1.10"] == "2" and (row["open"], row["1.Q"]) == ("", "0")


@needs_sandbox
def test_a_second_grading_runs_nothing_and_points_by_hand_are_kept(graded, root, monkeypatch):
    folder = Path(json.loads((graded.out / "folder.json").read_text()))
    monkeypatch.setattr(run_module.Runner, "_once", lambda *args, **options: pytest.fail("something was run again"))
    before = {path: path.read_bytes() for path in (graded.out / "raw").rglob("*.safetensors")}
    manual = graded.out / "manual.csv"
    lines = manual.read_text().replace("ids_are_lost,1.Q,Question,3,,", 'ids_are_lost,1.Q,Question,3,"2,5",=good')
    manual.write_text(lines)
    row = run(folder, graded.out, root, regrade=True)["ids_are_lost"]
    assert (row["total"], row["open"]) == (FULL + 2.5, [])
    assert run(folder, graded.out, root)["ids_are_lost"]["total"] == FULL + 2.5
    assert "'=good" in manual.read_text()  # no spreadsheet takes it for a formula
    assert {path: path.read_bytes() for path in (graded.out / "raw").rglob("*.safetensors")} == before
    manual.write_text(lines.replace('"2,5"', "9"))
    with pytest.raises(LessonError, match="number from 0 to most"):
        run(folder, graded.out, root, regrade=True)


@needs_sandbox
def test_another_seed_asks_for_other_numbers(root):
    (probe,) = [p for p in tiny_course.probes_for(read_course(root)[0]).values() if p.item == "1.1"]
    other = [p for p in tiny_course.probes_for(read_course(root)[0]).values() if p.item == "1.2"][0]
    assert not np.allclose(probe.draw(1)["a"], probe.draw(2)["a"])
    assert not np.allclose(probe.draw(1)["a"], other.draw(1)["a"])
    assert np.array_equal(probe.draw(1)["a"], probe.draw(1)["a"])


# --- sandbox --------------------------------------------------------------------------------------------------------


@pytest.fixture
def course(tmp_path):
    tmp_path.chmod(0o755)
    for name in ("work", "output"):
        (tmp_path / name).mkdir()
    return tmp_path


SLEEP, TIGHT = "import time\ntime.sleep(20)", {"memory": 130 * MEBI}


def attempt(course, code, kind="bubblewrap", **limits):
    command = [sys.executable, "-c", code]
    return sandbox.run(command, course, {"job.txt": b"job"}, kind, Limits(**{"seconds": 20} | limits))


@needs_sandbox
def test_the_sandbox_shows_the_course_and_nothing_of_the_machine(course):
    (course / "here.txt").write_text("course")
    secret = course.parent / "secret.txt"
    secret.write_text("secret")
    code = f"""if True:
        import os, json
        seen = {{"course": open("/course/here.txt").read(), "job": open("job.txt").read()}}
        seen["secret"] = os.path.exists({str(secret)!r})
        seen["home"] = os.path.exists("/home") or os.path.exists("/var") or os.path.exists("/etc/passwd")
        seen["processes"] = len([p for p in os.listdir("/proc") if p.isdigit()])
        for path in ("/course/here.txt", "/usr/x", os.__file__):
            try:
                open(path, "a")
                seen["wrote"] = path
            except OSError:
                pass
        import subprocess
        seen["users"] = subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode == 0
        open("results/exit", "w").write("0")
        json.dump(seen, open("results/seen.json", "w"))
        os.kill(os.getpid(), 9)"""
    outcome = attempt(course, code)
    expected = {"course": "course", "job": "job", "secret": False, "home": False, "processes": 2, "users": False}
    assert json.loads(outcome.files["seen.json"]) == expected
    assert outcome.ended == "killed"  # whatever lies in results/exit


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "limits", "ended"),
    [
        ("while True: pass", {"seconds": 1}, "time"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", {"idle": 1}, "time"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", {}, "killed"),
        ("import os\nfor _ in range(9):\n  os.write(os.memfd_create('x'), bytes(40 << 20))\n" + SLEEP, TIGHT, "memory"),
        ("for n in ('/tmp', '/dev/shm', '/course/output'):\n  open(n + '/x', 'wb').write(bytes(60 << 20))\n" + SLEEP,
         TIGHT, "memory"),
        ("import mmap, os\nfor _ in range(4):\n  if os.fork() == 0:\n    m = mmap.mmap(-1, 60 << 20)\n"
         "    for i in range(0, len(m), 4096): m[i] = 1\n    break\n" + SLEEP, TIGHT, "memory"),
    ],
)  # fmt: skip
def test_the_sandbox_ends_what_takes_too_much(course, code, limits, ended):
    outcome = attempt(course, code, **limits)
    assert outcome.ended == ended


@needs_sandbox
def test_processes_files_and_results_are_bounded(course):
    forks = (
        "import os, time\nn = 0\nwhile n < 90:\n  try:\n    if os.fork() == 0: time.sleep(9)\n  except OSError: break\n"
    )
    outcome = attempt(
        course, forks.replace("\\n", "\n") + "  n += 1\nopen('results/n', 'w').write(str(n))", processes=12
    )
    assert 5 <= int(outcome.files["n"]) <= 12
    large = "open('results/large', 'wb').write(bytes(9 << 20))\n"
    assert "large" not in attempt(course, large, results=4 * MEBI).files
    assert b"File too large" in attempt(course, large, file=4 * MEBI).files["log.txt"]
    shared = "open('/dev/shm/x', 'wb').write(bytes(9 << 20))"
    assert b"No space left" in attempt(course, shared, disk=4).files["log.txt"]


def test_without_a_sandbox_grading_needs_to_be_told(monkeypatch):
    monkeypatch.setattr(sandbox, "available", lambda: ["unsafe"])
    with pytest.raises(sandbox.SandboxError, match="apt install bubblewrap"):
        sandbox.choose()
    assert sandbox.choose(unsafe=True) == "unsafe"


def test_unsafe_still_bounds_time_and_leaves_nothing(course):
    outcome = attempt(course, "open('results/a', 'w').write('b')\nwhile True: pass", kind="unsafe", seconds=1)
    assert (outcome.ended, outcome.files["a"]) == ("time", b"b")
    assert sorted(path.name for path in course.iterdir()) == ["output", "work"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no frame\n",
        b'{"name": "a", "size": 9}\nshort',
        b'{"name": "a", "size": -1}\n',
        b"[" * 500,
        b'{"size": 1}\nx',
    ],
)
def test_frames_that_are_cut_or_forged_are_left_out(data):
    assert sandbox.unframe(data) == {}
    assert sandbox.unframe(b'{"name": "a", "size": 2}\nhi' + data) == {"a": b"hi"}
