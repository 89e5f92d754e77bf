"""What students do not get: the bodies in ``helpers`` that an exercise asks for.

In a student release the lesson's later cells take the student's own function in their place. While a submission is
graded, everything that would answer an exercise is closed, also what a release must keep because other lessons run on
it: a solution that calls it fails.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

from .lessons import LessonError


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
        "helpers/blending.py",
        "seam",
        SEAM_BODY,
        "helpers.blending.seam",
    ),
)

CLOSED = {
    "helpers/losses.py": (
        "Criterion.__call__", "lp_loss", "masked_mean", "perceptual_loss", "delta_loss", "gram_matrix", "style_loss",
    ),
    "helpers/optimizers.py": ("Optimization.step",),
    "helpers/inversion.py": ("Inversion.__iter__",),
    "helpers/latents.py": ("interpolate", "_slerp"),
    "helpers/metrics.py": ("psnr",),
    "helpers/noise.py": ("fresh_noise_psnr", "Embedding.__iter__"),
    "helpers/masks.py": ("mask_pyramid", "mask_from_alpha", "mask_from_drawing"),
    "helpers/blending.py": ("Objective.__call__", "seam", "worst_seam"),
    "helpers/sketch.py": ("read_sketch", "SketchSearch.__iter__"),
    "helpers/style_transfer.py": ("StyleCriterion.__call__", "StyleTransfer.__iter__"),
}  # fmt: skip
CLOSED_BODY = 'raise NotImplementedError("closed while grading: write it yourself")'
IMPORT = "from helpers.grading.cuts import yours"


def yours(name: str, exercise: str):
    """The student's own function, from the notebook that is running.

    Raises:
        NotImplementedError: as long as the exercise is not done.
    """
    function = getattr(sys.modules.get("__main__"), name, None)
    if function is None:
        raise NotImplementedError(f"Exercise {exercise}: this takes your own {name}; run your cell first")
    return function


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


def replace_body(path: Path, function: str, body: str) -> None:
    """Put another body below a function's signature and docstring."""
    source = path.read_text()
    node = _find(ast.parse(source), function)
    if node is None:
        raise LessonError(f"{path.name} has no {function}; correct the table in helpers/grading/cuts.py.")
    first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
    lines, indent = source.splitlines(), " " * node.body[0].col_offset
    new = [indent + line if line else "" for line in body.splitlines()]
    path.write_text("\n".join([*lines[: first.lineno - 1], *new, *lines[node.end_lineno :]]) + "\n")


def _find(tree: ast.AST, name: str):
    first, _, rest = name.partition(".")
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == first:
            return _find(node, rest) if rest else node
    return None
