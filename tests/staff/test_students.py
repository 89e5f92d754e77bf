"""Whatever students hand in: a row for each, the others' rows right, and what was given by hand never lost."""

import csv
import io
import json
import os
import random
import zipfile

import pytest

from helpers.course.lessons import LessonError
from helpers.course.submission import graded_cells, notebook_of
from staff.grading import manual
from staff.grading.authoring import read_course
from staff.grading.grade import Grading
from staff.grading.probe import pack
from staff.grading.run import Raw, Runner
from staff.grading.students import find_students, student_name
from tests.support import tiny_course
from tests.support.tiny_course import NAMES, POINTS, Notebook

FULL = POINTS * len(NAMES)
ODD = [None, True, -1.5, 1e400, "", "x" * 300, "\ud800", "\x00", "\u2028", [], {}, [[]], {"a": None}, "<b>", "=1+1"]


@pytest.fixture
def grade(root, tmp_path, monkeypatch):
    """Grades a folder with everything but the kernel: every answer that is there gets the right numbers."""

    def run(self, lesson, submission, probes, references=()):
        inserted = {item: probe.cell() for item, (probe, _) in probes.items()}
        json.dumps(notebook_of(graded_cells(lesson, submission, inserted))).encode()
        files = {}
        for item, (probe, inputs) in probes.items():
            if item in submission.answers and item not in submission.stubs:
                files[probe.file] = pack({"mixed": (1 - inputs["t"]) * inputs["a"] + inputs["t"] * inputs["b"]})
        return Raw(files)

    monkeypatch.setattr(Runner, "run", run)
    options = {"root": root, "probes_for": tiny_course.probes_for, "unsafe": True, "report": lambda text: None}

    def graded(folder, out=tmp_path / "out"):
        grading = Grading(folder, out, **options)
        grading.run()
        return {row["student"]: row for row in grading.judge()}

    return graded


def name_of(chance, number):
    """A name as bytes; the number keeps names apart."""
    kinds = [
        b"student", b"-anna", b"=cmd|' C calc'!A0", b"M\xfcller", "Mu\u0308ller".encode(), b"a" * 240,
        "漢字".encode() * 40,
        b"two\nlines", b"'quoted\"", b" spaces ", b"100%", b"..dots..", "🐱".encode(), b"\xff\xfe", b"<b>bold",
    ]  # fmt: skip
    return chance.choice(kinds)[:245] + str(number).encode()


def paths_of(value, path=()):
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from paths_of(entry, (*path, key))


def spoiled(book, chance):
    """A notebook in which some values are odd."""
    book = json.loads(json.dumps(book))
    for _ in range(chance.randint(1, 4)):
        *place, key = chance.choice([path for path in paths_of(book) if path])
        target = book
        for step in place:
            target = target[step]
        target[key] = chance.choice(ODD)
    return json.dumps(book)


def mutate(place, book, chance):
    """One student's trouble at a path (bytes)."""
    text, kind = json.dumps(book).encode(), chance.randrange(12)

    def write(end, content):
        os.makedirs(os.path.dirname(place + end), exist_ok=True)
        with open(place + end, "wb") as file:
            file.write(content)

    if kind < 4:
        write(b"/01_tiny.ipynb", spoiled(book, chance).encode())
    elif kind == 4:
        contents = [b"", b"null", b"[]", b'{"cells": 3}', b"\xff\xfe", text[:999], text.decode().encode("utf-16")]
        write(b".ipynb", chance.choice(contents))
    elif kind in (5, 6):
        os.mkdir(place)
        for name in (b"/01_tiny.ipynb", b"/01_inversion.safetensors"):
            (os.mkdir if kind == 5 else os.mkfifo)(place + name)
    elif kind == 7:
        os.mkfifo(place + b".ipynb")
    elif kind == 8:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(chance.choice(["hw/01_tiny.ipynb", "../../x.ipynb", "a" * 300 + ".ipynb"]), text)
        data = bytearray(packed.getvalue())
        for _ in range(chance.choice([0, 20])):
            data[chance.randrange(300)] = chance.randrange(256)
        write(b".zip", data)
    elif kind == 9:
        os.makedirs(place + b"/" + b"/".join([b"d" * 8] * 300))
        write(b"/M\xfcller.ipynb", text)
    elif kind == 10:
        write(b".ipynb", b'{"cells": ' + chance.choice([b"[", b'{"a":']) * chance.choice([90, 100_000]))
    else:
        source = chance.choice(["-" * 60_000, "(" * 900, "x = 1\n" * 90_000, "\n" * 300_000 + "1"])
        book["cells"].append(book["cells"][1] | {"source": source})
        write(b"/01_tiny.ipynb", json.dumps(book).encode())


@pytest.mark.parametrize("part", range(10))
def test_nothing_that_one_student_hands_in_changes_anothers_row(part, root, grade, tmp_path):
    chance, folder = random.Random(part), tmp_path / "in"
    Notebook(root).write(folder / "good" / "01_tiny.ipynb")
    for number in range(50):
        mutate(os.fsencode(folder) + b"/" + name_of(chance, number), Notebook(root).book, chance)
    rows = grade(folder)
    assert len(rows) >= 45 and rows["good"]["total"] == FULL and rows["good"]["remarks"] == []
    with (tmp_path / "out" / "grades.csv").open(encoding="utf-8-sig", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    pages = {path.name for path in (tmp_path / "out" / "students").glob("*.html")}
    assert pages == {f"{name}.html" for name in rows}
    for row in rows.values():
        assert row["total"] == FULL or row["remarks"] or any(score["reason"] for score in row["scores"])


def test_names_of_students_are_composed_short_and_apart(root, tmp_path):
    assert student_name("Mu\u0308ller, Jo") == "Müller_Jo" and student_name(os.fsdecode(b"M\xfcller")) == "Müller"
    assert len(student_name("漢" * 84).encode()) <= 80 and student_name("...") == "_"
    for name in ("a b", "a_b", "a_b-2", "A_b", "__MACOSX", ".git"):
        (tmp_path / "in" / name).mkdir(parents=True)
    found = find_students(tmp_path / "in", read_course(root), tmp_path / "out")
    assert [student.name for student in found] == ["A_b", "a_b-2", "a_b-2-2", "a_b-3"]


def test_zips_copies_and_odd_suffixes_are_graded(root, grade, tmp_path):
    folder, book, newer = tmp_path / "in", Notebook(root), ("equal/copy.ipynb", "newer/b.ipynb")
    text, stub = json.dumps(book.book), json.dumps(Notebook(root, solved=False).book)
    for name in ("suffix/01_tiny.ipynb.txt", "upper/01_TINY.IPYNB", "mac/hw/01_tiny.ipynb", *newer):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "mac" / "__MACOSX" / "hw").mkdir(parents=True)
    for junk in ("__MACOSX/hw/._01_tiny.ipynb", "hw/._01_tiny.ipynb"):
        (folder / "mac" / junk).write_bytes(b"\0\5\x16\7")
    for name, seconds in (("equal/01_tiny.ipynb", 1000), ("newer/a.ipynb", 900)):
        (folder / name).write_text(stub)
        os.utime(folder / name, (seconds, seconds))
    for name in newer:
        os.utime(folder / name, (1000.4, 1000.4))
    with zipfile.ZipFile(folder / "packed.zip", "w") as packed:
        packed.writestr("__MACOSX/hw/._01_tiny.ipynb", b"\0\5")
        packed.writestr("hw/01_tiny.ipynb", text)
    (tmp_path / "out" / "running" / "run-1").mkdir(parents=True)  # of a grader that was killed
    rows = grade(folder)
    assert {name: row["total"] for name, row in rows.items()} == dict.fromkeys(
        ("equal", "mac", "newer", "packed", "suffix", "upper"), FULL
    )
    assert rows["mac"]["remarks"] == [] and "was graded as a notebook" in rows["upper"]["remarks"][0]
    assert "older notebook" in rows["newer"]["remarks"][0]
    assert not (tmp_path / "out" / "running").exists()


def test_a_changed_notebook_gets_other_inputs(root, grade, tmp_path):
    book = Notebook(root)
    book.write(tmp_path / "in" / "anna" / "01_tiny.ipynb")
    Notebook(root).write(tmp_path / "in" / "berta" / "01_tiny.ipynb")
    places = [tmp_path / "out" / "raw" / name / "01_tiny" for name in ("anna", "berta")]
    seen = []
    for body in ("return a", "return b", "return b"):
        book.answer(1, body)
        book.write(tmp_path / "in" / "anna" / "01_tiny.ipynb")
        assert grade(tmp_path / "in")["anna"]["total"] == FULL
        seen.append([(place / "1.1.safetensors").read_bytes() for place in places])
    (first, berta), (second, still), (third, _) = seen
    assert first != second and second == third and berta == still == first


@pytest.fixture
def sheet(root, grade, tmp_path):
    """A graded folder of three students, of whom one has written something; returns how to grade it again."""
    book = Notebook(root)
    book.find("question")["source"] += "\n\nBecause of \u00fc, and =1+1."
    book.write(tmp_path / "in" / "M\u00fcller" / "01_tiny.ipynb")
    for name in ("-anna", "blank"):
        Notebook(root).write(tmp_path / "in" / name / "01_tiny.ipynb")
    grade(tmp_path / "in")
    return lambda: grade(tmp_path / "in")


def test_the_sheet_shows_what_was_written_and_a_roster_gives_the_ids_of_a_course_site(sheet, tmp_path):
    rows = {row["student"]: row for row in manual.read_table(tmp_path / "out" / "manual.csv")}
    assert rows["Müller"]["written"] == "Because of ü, and =1+1." and rows["blank"]["written"] == ""
    graded = {row["student"]: row for row in sheet().values()}
    assert graded["Müller"]["open"] == ["1.Q"] and graded["blank"]["open"] == []
    assert (tmp_path / "out" / "grades.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert "Because of ü" in (tmp_path / "out" / "students" / "Müller.html").read_text()
    rows, roster = list(graded.values()), tmp_path / "roster.csv"
    roster.write_text("Student;ID;Login\nAnna;17;-anna\nMüller, M.;18;Müller\nNobody;19;nobody\n", encoding="cp1252")
    assert manual.export(tmp_path / "lms.csv", rows, roster) == ["blank"]
    lines = (tmp_path / "lms.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines[1].startswith("Anna,17,-anna,") and lines[3] == "Nobody,19,nobody" + "," * (lines[0].count(",") - 2)
    table = {row["ID"]: row for row in manual.read_table(tmp_path / "lms.csv")}
    assert (table["17"]["total"], table["18"]["Student"], table["19"]["total"]) == (f"{FULL:g}", "Müller, M.", "")
    roster.write_text("ID\n1\n")
    with pytest.raises(LessonError, match="no column of roster.csv names a student"):
        manual.export(tmp_path / "lms.csv", rows, roster)


@pytest.mark.parametrize(
    ("encoding", "separator"), [("utf-8", ","), ("utf-8-sig", ";"), ("cp1252", "\t"), ("utf-16", ";")]
)
def test_points_survive_spreadsheets_and_students_who_are_not_there(sheet, tmp_path, encoding, separator):
    path = tmp_path / "out" / "manual.csv"
    rows = manual.read_table(path)
    for row in rows:
        row |= {"points": "2,5" if row["student"] == "-anna" else "1", "comment": "=good"}
    rows.append(dict.fromkeys(manual.COLUMNS, "3") | {"student": "moved away", "item": "1.Q", "comment": ""})
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, manual.COLUMNS, delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    for _ in range(2):
        graded = sheet()
        assert {n: r["total"] - FULL for n, r in graded.items()} == {"-anna": 2.5, "Müller": 1, "blank": 1}
    kept = {row["student"]: row for row in manual.read_table(path)}
    assert kept["moved away"]["points"] == "3" and kept["-anna"]["comment"] == "=good"
    assert "'=good" in path.read_text(encoding="utf-8-sig")  # no spreadsheet takes it for a formula
    path.write_text(path.read_text(encoding="utf-8-sig").replace("2.5", "9"))
    with pytest.raises(LessonError, match="line [234]: points must be a number from 0 to most"):
        sheet()
