"""What students do not get: the bodies in ``helpers`` that an exercise asks for.

In a student release the lesson's later cells take the student's own function in their place: from the notebook that
is running, else from the saved one. All that would answer an exercise is closed while a submission is graded or checked
(``CLOSED``), also what a release must keep because other lessons run on it (``KEPT``): a solution that calls it fails.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers.course.lessons import LessonError


@dataclass(frozen=True)
class Cut:
    """A body that a release does not have.

    Attributes:
        file: below the course's root.
        function: name, or Class.method.
        body: what stands there instead; ``yours(name, exercise)`` is the student's own function.
        reference: dotted name of what the checks compare with; its results are recorded when a release is made.
    """

    file: str
    function: str
    body: str
    reference: str


PSNR_BODY = """\
images, targets = _checked(images, targets)
pairs = zip(_arrays(targets), _arrays(images), strict=True)
with np.errstate(divide="ignore"):
    values = [skimage.metrics.peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in pairs]
return torch.tensor(values, dtype=torch.float32, device=images.device)"""

SEAM_BODY = """\
rows = [t.expand(len(images), -1, -1, -1) for t in (images, x, y, mask)]
function = yours("seam", "3.3")
values = [function(*(t[None] for t in row)) for row in zip(*rows, strict=True)]
return torch.tensor(values, device=images.device)"""

SKETCH_BODY = """\
rgba = (torch.cat([image, alpha], 1)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
return yours("sketch_mask", "4.1")(rgba, threshold)[1]"""

CUTS = (
    Cut(
        "helpers/latents.py",
        "_slerp",
        'return yours("interpolate", "1.5")(a, b, t.reshape(-1), "z")',
        "helpers.latents.interpolate",
    ),
    Cut(
        "helpers/noise.py",
        "fresh_noise_psnr",
        'return yours("fresh_noise_psnr", "2.3")(generator, targets, latents, draws, seed)',
        "helpers.noise.fresh_noise_psnr",
    ),
    Cut(  # lesson 1 measures long before lesson 2 asks how: a library's answer, none of its own
        "helpers/metrics.py",
        "psnr",
        PSNR_BODY,
        "",
    ),
    Cut(
        "helpers/blending/measures.py",
        "seam",
        SEAM_BODY,
        "helpers.blending.seam",
    ),
    Cut(
        "helpers/sketch.py",
        "_counted",
        SKETCH_BODY,
        "",
    ),
)

KEPT = {  # exercise to what a release keeps of it, and why
    "1.1": ("generators.base.Generator.sample", "every start of every lesson is drawn by it, and w's statistics"),
    "1.2": ("losses.Criterion", "lessons 2 to 4 invert photos with it"),
    "1.3": ("optimizers.Optimization.step", "it is the loop of every lesson"),
    "1.4": ("inversion.Inversion", "lessons 2 and 3 start from inversions"),
    "2.1": ("metrics.psnr", "lesson 1 measures with it; in a release scikit-image answers"),
    "2.2": ("noise.NoiseSearch", "the blends of lesson 3 end with fitted noise"),
    "3.1": ("masks.mask_pyramid", "the encoder and the noise stage of lessons 1 and 2 resize masks with it"),
    "3.2": ("blending.criterion.MaskedCriterion", "the later applications need terms that the exercise does not have"),
    "4.2": ("losses.lp_loss", "lessons 1 to 3 compare pictures under masks with it"),
    "4.3": ("sketch.SketchSearch.result", "the lesson shows ranked candidates before it asks how they are ranked"),
    "5.1": ("losses.perceptual_loss", "lessons 1 to 4 compare pictures with it"),
    "5.2": ("losses.gram_matrix", "local style in lesson 3 needs it"),
    "5.3": ("losses.style_loss", "local style in lesson 3 needs it"),
    "5.4": ("style_transfer.StyleTransfer", "masks, videos and pyramids go on with more than the exercise has"),
}

CLOSED = {
    "helpers/losses.py": (
        "Criterion.__call__", "lp_loss", "masked_mean", "perceptual_loss", "delta_loss", "gram_matrix", "style_loss",
    ),
    "helpers/optimizers.py": ("Optimization.step",),
    "helpers/inversion.py": ("Inversion.__iter__",),
    "helpers/latents.py": ("interpolate", "_slerp"),
    "helpers/metrics.py": ("psnr",),
    "helpers/noise.py": ("fresh_noise_psnr", "NoiseSearch._loss"),
    "helpers/masks.py": ("mask_pyramid", "mask_from_drawing"),
    "helpers/blending/criterion.py": ("MaskedCriterion.__call__",),
    "helpers/blending/measures.py": ("seam", "worst_seam"),
    "helpers/sketch.py": ("read_sketch", "_counted", "SketchSearch.__iter__", "SketchSearch.result"),
    "helpers/style_transfer.py": ("StyleCriterion.__call__", "StyleTransfer.__iter__"),
}  # fmt: skip
CLOSED_BODY = 'raise NotImplementedError("closed while grading: write it yourself")'
IMPORT = "from staff.grading.cuts import yours"


GUARD = "from staff.grading.cuts import not_for_notebooks\n\nnot_for_notebooks()"


def yours(name: str, exercise: str):
    """The student's own function, from the notebook that is running, else from the saved one of the exercise's lesson.

    Raises:
        NotImplementedError: as long as the exercise is not done.
    """
    function = getattr(sys.modules.get("__main__"), name, None)
    if function is None or str(getattr(function, "__module__", "")).startswith("helpers."):
        function = _saved(name, exercise)
    if function is None:
        raise NotImplementedError(f"Exercise {exercise}: this takes your own {name}; run your cell first")
    return function


@functools.cache
def _saved(name: str, exercise: str):
    """What an exercise's cell of a saved notebook defines; None where there is none, or it does not run."""
    from helpers.course.lessons import read_course
    from helpers.course.submission import read_submission
    from staff.grading.release import ROOT, solutions

    for lesson in read_course(ROOT):
        path = ROOT / "notebooks" / f"{lesson.stem}.ipynb"
        if exercise in {e.item for e in lesson.exercises} and path.is_file():
            submission, namespace = read_submission(path, lesson), solutions(lesson, without_exercises=True)
            for source in (source for item, source in submission.order if item):
                with contextlib.suppress(Exception):  # another exercise's mistake is told where it is checked
                    exec(compile(source, path.name, "exec"), namespace)
            return namespace.get(name)
    return None


def not_for_notebooks() -> None:
    """Refuse a body that answers an exercise to code of a notebook; what the course's own code calls goes on."""
    caller = sys._getframe(2)
    while caller.f_back and caller.f_globals.get("__name__", "").startswith("torch."):  # no_grad wraps
        caller = caller.f_back
    if caller.f_globals.get("__name__") == "__main__":
        raise NotImplementedError("closed while grading: write it yourself")


def cut_release(root: Path) -> None:
    """Cut the bodies in a copy of the course. LessonError if one is not there: the table must keep up."""
    for cut in CUTS:
        if (root / cut.file).is_file():
            needs = IMPORT if "yours(" in cut.body else "import skimage.metrics"
            replace_body(root / cut.file, cut.function, f"{needs}\n\n{cut.body}")


def close_for_grading(root: Path) -> None:
    """Close everything that answers an exercise in a copy of the course."""
    for file, functions in CLOSED.items():
        if (root / file).is_file():
            for function in functions:
                replace_body(root / file, function, CLOSED_BODY)


def close_for_notebooks(root: Path) -> None:
    """Close the same in a copy of the course to code of notebooks only: the visible checks compare with it."""
    for file, functions in CLOSED.items():
        if (root / file).is_file():
            for function in functions:
                replace_body(root / file, function, GUARD, keep=True)


def replace_body(path: Path, function: str, body: str, keep: bool = False) -> None:
    """Put another body below a function's signature and docstring, or before its own with ``keep``."""
    source = path.read_text()
    node = _find(ast.parse(source), function)
    if node is None:
        raise LessonError(f"{path.name} has no {function}; correct the table in staff/grading/cuts.py.")
    first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
    lines, indent = source.splitlines(), " " * node.body[0].col_offset
    new = [indent + line if line else "" for line in body.splitlines()]
    rest = first.lineno - 1 if keep else node.end_lineno
    path.write_text("\n".join([*lines[: first.lineno - 1], *new, *lines[rest:]]) + "\n")


def _find(tree: ast.AST, name: str):
    first, _, rest = name.partition(".")
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == first:
            return _find(node, rest) if rest else node
    return None
