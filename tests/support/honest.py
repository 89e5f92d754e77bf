"""Submissions that are right, however Jupyter, Colab, an editor or the student have left them."""

import inspect
import json

from tests.support.tiny_course import NAMES, SOLUTION, Notebook


def as_it_was_handed_out(book):
    return book


def ids_are_lost(book):
    for i, cell in enumerate(book.cells):
        cell["id"] = f"{i:08x}"


def metadata_is_lost(book):
    for cell in book.cells:
        cell["metadata"] = {}


def only_the_first_lines_are_left(book):
    ids_are_lost(book)
    metadata_is_lost(book)


def format_4_0(book):
    for cell in book.cells:
        del cell["id"]
    book.book["nbformat_minor"] = 0


def format_3(book):
    cells = []
    for cell in book.cells:
        kind = {"code": "input"}.get(cell["cell_type"], "source")
        cells.append({"cell_type": cell["cell_type"], kind: cell["source"].splitlines(keepends=True), "metadata": {}})
    book.book = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": cells}]}


def windows_line_ends_outputs_and_tags_of_colab(book):
    for i, cell in enumerate(book.cells):
        cell["source"] = cell["source"].replace("\n", "\r\n")
        cell["metadata"] |= {"id": f"colab{i}", "colab": {"base_uri": "https://example.org"}, "outputId": "x"}
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["old\n"]}]
            cell["execution_count"] = i
    book.book["metadata"]["widgets"] = {"state": {}}


SAVED = {name: way for name, way in list(globals().items()) if inspect.isfunction(way)}  # all are read the same


def even_the_first_lines_are_lost(book):
    only_the_first_lines_are_left(book)
    for cell in book.cells:
        if cell["source"].startswith("# EXERCISE"):
            cell["source"] = cell["source"].split("\n", 1)[1]


def in_another_order_and_with_a_helper_in_a_cell(book):
    exercises = [cell for cell in book.cells if cell.get("id", "").startswith("exercise")]
    rest = [cell for cell in book.cells if cell not in exercises]
    book.book["cells"] = [*rest[:2], *reversed(exercises), *rest[2:]]
    book.answer(1, f"return {NAMES[9]}(a, b, t)")
    book.answer(10, f"check_first = {NAMES[4]}\n{SOLUTION}")
    book.insert("import math as m\n\ndef blend(a, b, t):\n    return a * m.fsum([1, -t]) + b * t")
    book.answer(2, "return blend(a, b, t)")


def an_old_copy_above(book):
    for number, name in enumerate(NAMES, 1):
        old = book.copy_of(f"exercise-{number}")
        wrong = old["source"].replace(SOLUTION, "return a" if number % 2 else "raise NotImplementedError")
        book.insert(wrong, before=f"exercise-{number}", id=f"exercise-{number}", metadata=old["metadata"])
        new = [cell for cell in book.cells if cell.get("id") == f"exercise-{number}"][-1]
        new.update(id=f"pasted{number}", metadata={})
        assert name in new["source"]


def other_right_methods(book):
    ways = [
        "return a + t * (b - a)",
        "return np.float64(a) * (1 - t) + np.float64(b) * t",
        "return [x + t * (y - x) for x, y in zip(a, b)]",
        "return np.average([a, b], axis=0, weights=[1 - t, t])",
        "return np.array([np.interp(t, [0, 1], [x, y]) for x, y in zip(a, b)])",
        "return np.asarray(np.stack([a, b], -1) @ [1 - t, t], dtype='float32')",
        "from functools import reduce\nreturn reduce(np.add, [a * (1 - t), b * t])",
        "print('here', a.shape)\nreturn np.einsum('ij,i->j', np.stack([a, b]), [1 - t, t])",
        "return (lambda x, y: x - t * x + t * y)(a, b)",
        "return a - (a - b) * t",
    ]
    for number, way in enumerate(ways, 1):
        book.answer(number, way)


def a_reset_on_top_and_an_error_in_a_scratch_cell(book):
    book.insert("%reset -f", before="first")
    book.insert("1 / 0")
    book.insert("%not_a_magic\n!false")
    book.insert("this is no Python", before="exercise-3")
    book.insert("print(target.shape)  # of a cell that is not run", before="question")


def an_endless_scratch_cell_and_a_dead_kernel(book):
    book.insert("while True: pass")
    book.insert("import os; os._exit(1)", before="question")


def locked_cells_deleted_and_changed(book):
    book.book["cells"] = [c for c in book.cells if not c.get("id", "").startswith(("check", "setup", "lesson"))]
    book.insert("import numpy as np  # of mine\nimport helpers.notebooks", id="setup")


def changes_the_folder_and_rebinds_names(book):
    book.insert("%cd ..\nimport os\nos.chdir('/')")
    book.insert("from numpy import *\nfloat = int = list = str = dict = sum = print = 3", before="exercise-2")
    book.insert("\ud800 = 1  # a lone surrogate")
    book.find("title")["source"] += "\udc00"


def additions_to_locked_cells(book):
    book.find("first")["source"] += "\nimport math as m"
    book.find("setup")["source"] += "\n%matplotlib inline\nx = load_network()\nfrom fractions import Fraction as F"
    book.find("check-1")["source"] += "\n\ndef blend(a, b, t):\n    return a * m.fsum([1, -t]) + b * t"
    for number in range(2, 11):
        book.answer(number, "F(1, 2)\nreturn blend(a, b, t)")


def cells_merged_pasted_and_moved(book):
    first, second = book.find("exercise-1"), book.find("exercise-2")
    first["source"] += "\n\n" + second["source"]
    book.cells.remove(second)
    book.find("exercise-3").update(id="exercise-4", metadata=book.copy_of("exercise-4")["metadata"])
    old = book.copy_of("exercise-5")
    book.insert(old["source"], before="exercise-5")
    book.answer(5, 'raise NotImplementedError("Exercise 1.5")')
    book.find("exercise-6")["source"] = f"# EXERCISE: {NAMES[5]}\n{NAMES[5]} = lambda a, b, t: (1 - t) * a + t * b"
    book.answer(7, f'text = "line\u2028separator \x0c form feed \x85"\n{SOLUTION}  # \u2028 here')
    book.find("check-8")["source"], moved = book.find("exercise-8")["source"], book.find("exercise-8")
    moved["source"] = f'# EXERCISE: {NAMES[7]}\ndef {NAMES[7]}(a, b, t):\n    raise NotImplementedError("Exercise 1.8")'


def a_module_of_its_own_and_large_outputs(book):
    for number in range(1, 11):
        book.answer(number, "from mine import blend\nreturn blend(a, b, t)")
    text = {"output_type": "stream", "name": "stdout", "text": "x" * 50_000_000}
    book.find("check-1")["outputs"] = [text]


ALL = {name: way for name, way in list(globals().items()) if inspect.isfunction(way)}
HONEST = {name: way for name, way in ALL.items() if way is as_it_was_handed_out or name not in SAVED}


def write_all(root, folder, ways=HONEST):
    """These variants, each in a folder of its name."""
    for name, change in ways.items():
        book = Notebook(root)
        change(book)
        book.write(folder / name / "tiny.ipynb")
    for own in folder.glob("a_module_of_its_own*"):
        (own / "mine.py").write_text("def blend(a, b, t):\n    return (1 - t) * a + t * b\n")
        (own / "numpy.py").write_text("raise SystemExit")  # hides nothing
    path = folder / "as_it_was_handed_out" / "tiny.ipynb"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(json.loads(path.read_text())).encode())  # a byte order mark
