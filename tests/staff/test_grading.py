"""Grading end to end on a tiny course: what cheats scores nothing and harms nothing, what is right scores full."""

import csv
import json
import socket
from types import SimpleNamespace

import psutil
import pytest

from helpers.course import sandbox
from helpers.course.sandbox import MEBI, Limits
from staff.grading import run as run_module
from staff.grading.authoring import read_course
from staff.grading.grade import grade
from staff.grading.students import find_students
from tests.support import tiny_course
from tests.support.cheats import LOUD, QUIET, TOGETHER
from tests.support.honest import HONEST, SAVED, write_all
from tests.support.tiny_course import NAMES, POINTS, Notebook

LIMITS = Limits(seconds=45, idle=10, memory=700 * MEBI, processes=60, file=64 * MEBI, disk=64)
FULL = POINTS * len(NAMES)


@pytest.fixture(scope="module")
def server():
    """A server on this machine; nobody may reach it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def run(folder, out, root, **options):
    rows = grade(
        folder, out, root=root, workers=2, limits=LIMITS, cell_seconds=4.0, probes_for=tiny_course.probes_for,
        report=lambda text: None, **options,
    )  # fmt: skip
    return {row["student"]: row for row in rows}


def points(row):
    return {score["item"]: score["points"] for score in row["scores"] if score["kind"] == "exercise"}


@pytest.fixture(scope="module")
def graded(root, server, tmp_path_factory):
    """One grading of all submissions: rows by student, which exercise each attack is about, what the machine saw."""
    if "bubblewrap" not in sandbox.available():
        pytest.skip("bubblewrap is not installed, or does not work here")
    folder, out = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("out")
    write_all(root, folder)
    attacked = write_attacks(root, folder, server.getsockname()) | write_links(root, folder)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    processes = len(psutil.Process().children(recursive=True))
    rows = run(folder, out, root)
    changed = [path for path in root.rglob("*") if path.stat().st_mtime_ns != before.get(path)]
    processes = len(psutil.Process().children(recursive=True)) - processes
    return SimpleNamespace(rows=rows, attacked=attacked, changed=changed, processes=processes, folder=folder, out=out)


def write_attacks(root, folder, address):
    """Attacks share a notebook where they do not stop one another; returns of each the student and the exercise."""
    names, attacked = list(QUIET), {}
    groups = {f"quiet{start}": names[start : start + len(NAMES)] for start in range(0, len(names), len(NAMES))}
    groups |= {group[0]: group for group in TOGETHER}
    groups |= {name: (name,) for name in LOUD if not any(name in group for group in TOGETHER)}
    for student, group in groups.items():
        book = Notebook(root)
        for number, name in enumerate(group, 1):
            (QUIET | LOUD)[name](book, number, folder=folder, address=address)
            attacked[name] = (student, f"1.{number}")
        book.write(folder / student / "tiny.ipynb")
        (folder / student / "helpers").mkdir()
        for trap in ("conftest.py", "helpers/__init__.py"):
            (folder / student / trap).write_text("raise SystemExit")
    return attacked


def write_links(root, folder):
    right = folder / "as_it_was_handed_out"
    (folder / "linked_folder").symlink_to(right)
    (folder / "linked_notebook").mkdir()
    (folder / "linked_notebook" / "tiny.ipynb").symlink_to(right / "tiny.ipynb")
    (folder / "nested").mkdir()
    (folder / "nested" / "01_tiny.ipynb").write_text('{"cells": ' + "[" * 100_000)
    return {name: (name, "1.1") for name in ("linked_folder", "linked_notebook", "nested")}


def test_cheats_score_nothing_and_harm_nothing(graded, server):
    assert len(graded.attacked) >= 30
    scored = {name: points(graded.rows[student])[item] for name, (student, item) in graded.attacked.items()}
    assert {name: value for name, value in scored.items() if value != 0} == {}
    with pytest.raises(BlockingIOError):
        server.accept()  # nobody reached the network
    assert (graded.changed, graded.processes) == ([], 0)
    quiet = [(name, points(row)) for name, row in graded.rows.items() if name.startswith("quiet")]
    lost = {(name, item) for name, found in quiet for item, value in found.items() if value != POINTS}
    assert lost <= set(graded.attacked.values())


def test_right_submissions_score_full_and_the_gradebook_and_pages_hold_all(graded, root, tmp_path):
    write_all(root, tmp_path / "saved", SAVED)
    found = find_students(tmp_path / "saved", lessons := read_course(root), tmp_path / "unpacked")
    read = [student.submissions[lessons[0].stem] for student in found]
    assert len(read) == 7 and all((s.order, s.answers) == (read[0].order, read[0].answers) for s in read)
    assert len(HONEST) >= 12
    scored = {name: sum(points(graded.rows[name]).values()) for name in HONEST}
    assert {name: value for name, value in scored.items() if value != FULL} == {}
    run = json.loads((graded.out / "raw" / "kernel_is_killed" / "01_tiny" / "cells.jsonl").read_text().splitlines()[3])
    assert run["error"] == "the kernel died"
    table = list(csv.DictReader((graded.out / "grades.csv").open(encoding="utf-8-sig")))
    assert [row["student"] for row in table] == sorted(graded.rows)
    row = next(row for row in table if row["student"] == "as_it_was_handed_out")
    assert float(row["total"]) == FULL and row["1.10"] == "2" and (row["open"], row["1.Q"]) == ("", "0")
    pages = {path.stem: path.read_text() for path in (graded.out / "students").glob("*.html")}
    assert set(pages) == set(graded.rows)
    assert not any("<script" in page for page in pages.values())
    assert "stopped after 4 s" in pages["endless_function"]
    assert "what was added (+) counts" in pages["quiet0"]
    reasons = {s["item"]: s["reason"] for s in graded.rows["quiet0"]["scores"]}
    assert reasons["1.1"].startswith("not done") and "code cell is not there" in reasons["1.7"]


def test_a_second_grading_runs_nothing_and_points_by_hand_are_kept(graded, root, monkeypatch):
    monkeypatch.setattr(run_module.Runner, "_once", lambda *args, **options: pytest.fail("something was run again"))
    before = {path: path.read_bytes() for path in (graded.out / "raw").rglob("*.safetensors")}
    manual, by_hand = graded.out / "manual.csv", "a_reset_on_top_and_an_error_in_a_scratch_cell"
    manual.write_text(manual.read_text().replace("scratch_cell,1.Q,Question,3,,", 'scratch_cell,1.Q,Question,3,"2,5",'))
    row = run(graded.folder, graded.out, root, regrade=True)[by_hand]
    assert (row["total"], row["open"]) == (FULL + 2.5, [])
    assert run(graded.folder, graded.out, root)[by_hand]["total"] == FULL + 2.5
    assert {path: path.read_bytes() for path in (graded.out / "raw").rglob("*.safetensors")} == before
