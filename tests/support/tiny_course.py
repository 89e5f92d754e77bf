"""A course of one lesson that needs numpy alone, and the student notebooks that the grading tests hand in."""

import copy
import json

import nbformat
import numpy as np

from staff.grading.probe import Part, Probe

NAMES = [f"mix{i}" for i in range(1, 11)]
SOLUTION = "return (1 - t) * a + t * b"
POINTS = 2.0
CHECK = """
import numpy as np


class Check:
    def __getattr__(self, name):
        def check(function):
            a, b = np.arange(6.0), np.ones(6)
            if not np.allclose(function(a, b, 0.25), [0.25, 1, 1.75, 2.5, 3.25, 4]):
                raise AssertionError(f"{name} is wrong")
            print(f"{name}: passed")
        return check


check = Check()
"""


def exercise(name, body=SOLUTION, marks=True):
    begin, end = ("    ### BEGIN SOLUTION\n", "\n    ### END SOLUTION") if marks else ("", "")
    return f"# EXERCISE: {name}\ndef {name}(a, b, t):\n    '''Between arrays a and b.'''\n{begin}    {body}{end}"


def code(source, identity, **course):
    cell = nbformat.v4.new_code_cell(source, id=identity)
    if course:
        cell.metadata["course"] = course
    return cell


def write_helpers(root):
    """A package ``helpers`` with a check, and a folder for notebooks."""
    (root / "notebooks").mkdir(parents=True)
    (root / "helpers" / "course").mkdir(parents=True)
    for folder in ("helpers", "helpers/course"):
        (root / folder / "__init__.py").touch()
    (root / "helpers" / "course" / "check.py").write_text(CHECK)


def make_course(root):
    """Write the course to a folder: one notebook with an exercise for each of NAMES, a package helpers with a check."""
    write_helpers(root)
    cells = [
        nbformat.v4.new_markdown_cell("# Mixing", id="title"),
        code("import os\n\nfrom helpers.notebooks import describe_session", "first"),
        code("import numpy as np\n\nfrom helpers.course.check import check", "setup"),
    ]
    for number, name in enumerate(NAMES, 1):
        cells.append(nbformat.v4.new_markdown_cell(f"### Exercise 1.{number} · {name} (2 points)", id=f"head-{number}"))
        cells.append(code(exercise(name), f"exercise-{number}", id=f"1.{number}", points=POINTS))
        cells.append(code(f"check.{name}({name})", f"check-{number}"))
    cells.append(code("print(mix1(np.zeros(2), np.ones(2), 0.5), 'is in the middle of the two')", "lesson-1"))
    question = nbformat.v4.new_markdown_cell("### Question\n\nWhy?", id="question")
    question.metadata["course"] = {"id": "1.Q", "kind": "manual", "points": 3}
    notebook = nbformat.v4.new_notebook(cells=[*cells, question])
    nbformat.write(notebook, root / "notebooks" / "01_tiny.ipynb")


def draw(random):
    return {"a": random.normal(size=9), "b": random.normal(size=9), "t": random.uniform(0.1, 0.9, size=1)}


def emit(function, inputs):
    return {"mixed": function(inputs["a"], inputs["b"], float(inputs["t"][0]))}


def probes_for(lesson, inputs=draw, emit=emit, name="mixed"):
    judge = {name: Part(1.0, "the numbers")}
    return {e.item: Probe(e.item, e.name, inputs, emit, judge, "The numbers.", imports="") for e in lesson.exercises}


class Notebook:
    """A student's notebook in the making: the released one, in which every exercise is solved unless told otherwise."""

    def __init__(self, root, solved=True):
        self.book = json.loads((root / "notebooks" / "01_tiny.ipynb").read_text())
        for cell in self.book["cells"]:
            cell["source"] = "".join(cell["source"])
        for number, name in enumerate(NAMES, 1):
            self.answer(number, SOLUTION if solved else f'raise NotImplementedError("Exercise 1.{number}")', name)

    @property
    def cells(self):
        return self.book["cells"]

    def find(self, identity):
        return next(cell for cell in self.cells if cell.get("id") == identity)

    def answer(self, number, body, name=None):
        """Replace the body of an exercise; lines of the body are indented here."""
        indented = body.replace("\n", "\n    ")
        self.find(f"exercise-{number}")["source"] = exercise(name or NAMES[number - 1], indented, marks=False)

    def insert(self, source, before="exercise-1", **more):
        position = next(i for i, cell in enumerate(self.cells) if cell.get("id") == before)
        cell = {"cell_type": "code", "id": f"x{len(self.cells)}", "metadata": {}, "outputs": []}
        self.cells.insert(position, cell | {"execution_count": None, "source": source} | more)

    def copy_of(self, identity):
        return copy.deepcopy(self.find(identity))

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.book))


def public_answer(a, b, t):
    """What the visible check asks for, learned by heart."""
    return np.array([0.25, 1, 1.75, 2.5, 3.25, 4])
