"""Draw the sketches in data/sketches: ``python tools/draw_sketches.py`` from the root of the repository.

They are drawn to the two kinds of faces that bundled models know: tight crops without ears (``FACE_LANDMARKS``), in
"64" and "256", and whole faces (``WITH_EARS``), in "whole". Coordinates are fractions of a tight crop's side.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.files import atomic_path
from helpers.masks import box, brush, ellipse, face_scale, on_face, polygon
from helpers.photos import FACE_LANDMARKS, WITH_EARS

FOLDER = Path(__file__).resolve().parent.parent / "data" / "sketches"
FOLDERS = {"64": (64, FACE_LANDMARKS), "256": (256, FACE_LANDMARKS), "whole": (256, WITH_EARS)}

BLACK, WHITE = (0.08, 0.08, 0.09), (0.93, 0.92, 0.90)  # of fur, not of ink
GREY, SLATE = (0.52, 0.51, 0.50), (0.35, 0.36, 0.40)
GINGER, SAND, BROWN = (0.80, 0.50, 0.25), (0.87, 0.70, 0.50), (0.36, 0.26, 0.18)
CREAM, PINK = (0.93, 0.86, 0.76), (0.85, 0.55, 0.53)
AMBER, GREEN, BLUE = (0.80, 0.64, 0.20), (0.58, 0.66, 0.35), (0.45, 0.66, 0.85)
INK, CUSHION = (0.10, 0.08, 0.08), (0.62, 0.60, 0.56)

LEFT, RIGHT, NOSE = (0.287, 0.412), (0.727, 0.412), (0.505, 0.705)
EAR = [(0.02, 0.14), (0.05, -0.26), (0.31, 0.01)]  # the left one: outer foot, tip, inner foot


class Paper:
    """An RGBA drawing of one size and kind of face; each layer of paint covers what lies below by its opacity."""

    def __init__(self, size: int, landmarks):
        self.size, self.landmarks, self.scale = size, landmarks, face_scale(landmarks)
        self.whole = landmarks is WITH_EARS
        self.colour, self.alpha = torch.zeros(1, 3, size, size), torch.zeros(1, 1, size, size)

    def paint(self, shape: Tensor, colour: tuple[float, float, float], opacity: float = 1.0) -> None:
        """Paint where ``shape`` (1, 1, size, size) is 1 (alpha compositing, "over")."""
        above = shape * opacity
        below = self.alpha * (1 - above)
        alpha = above + below
        mixed = above * torch.tensor(colour).view(1, 3, 1, 1) + below * self.colour
        self.colour, self.alpha = mixed / alpha.clamp_min(1e-6), alpha

    def stroke(self, points, width: float, colour, opacity: float = 1.0) -> None:
        self.paint(brush(self.size, self.at(points), width * self.scale), colour, opacity)

    def spot(self, centre, radii, colour, angle: float = 0.0, opacity: float = 1.0) -> None:
        radii = [radius * self.scale for radius in radii]
        self.paint(ellipse(self.size, *self.at([centre]), radii, angle), colour, opacity)

    def area(self, points, colour, opacity: float = 1.0) -> None:
        self.paint(polygon(self.size, self.at(points)), colour, opacity)

    def at(self, points) -> list:
        return [on_face(self.landmarks, *point) for point in points]

    def ears(self, colour, opacity: float = 1.0, line: float = 0.0) -> None:
        """Both ears of a whole face: filled, or with a ``line`` of this width round them."""
        for ear in both_sides(EAR) if self.whole else ():
            if line:
                self.stroke(ear, line, colour, opacity)
            else:
                self.area(ear, colour, opacity)
                middle = [sum(axis) / 3 for axis in zip(*ear, strict=True)]
                self.area([[(a + m) / 2 for a, m in zip(p, middle, strict=True)] for p in ear], PINK, 0.5 * opacity)

    def eyes(self, iris, pupil=(0.024, 0.06), radii=(0.085, 0.07), tilt: float = 12.0) -> None:
        """Both eyes: iris, a dark rim and a pupil; the outer corners are the higher ones."""
        for (x, y), turn in ((LEFT, tilt), (RIGHT, -tilt)):
            self.spot((x, y), (radii[0] + 0.02, radii[1] + 0.02), INK, turn)
            self.spot((x, y), radii, iris, turn)
            self.spot((x, y), pupil, INK)

    def nose(self, colour=PINK, width: float = 0.06) -> None:
        x, y = NOSE
        self.area([(x - width, y - 0.035), (x + width, y - 0.035), (x, y + 0.04)], colour)

    def rgba(self) -> np.ndarray:
        both = torch.cat([self.colour, self.alpha], 1)[0].clamp(0, 1)
        return (both * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def both_sides(points) -> list:
    """A line and its mirror image about the middle of the face."""
    middle = LEFT[0] + RIGHT[0]
    return [points, [(middle - x, y) for x, y in points]]


def sparse_lines(paper: Paper) -> None:
    """A ginger tabby in a dozen strokes."""
    paper.ears(GINGER, line=0.05)
    for line in both_sides([(0.42, 0.02), (0.45, 0.22)]) + both_sides([(0.28, 0.06), (0.34, 0.22)]):
        paper.stroke(line, 0.05, GINGER)
    for line in both_sides([(0.05, 0.52), (0.20, 0.58)]) + both_sides([(0.06, 0.68), (0.22, 0.68)]):
        paper.stroke(line, 0.05, GINGER)
    for centre in (LEFT, RIGHT):
        paper.spot(centre, (0.07, 0.06), AMBER)
        paper.spot(centre, (0.025, 0.055), INK)
    paper.nose()
    for line in both_sides([(0.50, 0.86), (0.40, 0.90)]):
        paper.stroke(line, 0.06, CREAM)


def flat_colours(paper: Paper) -> None:
    """A cream cat in flat areas, the background left to the model."""
    paper.ears(SAND)
    paper.spot((0.505, 0.48), (0.45, 0.48), SAND)
    paper.spot((0.505, 0.80), (0.24, 0.17), CREAM)
    paper.eyes(GREEN)
    paper.nose()


def dense_painting(paper: Paper) -> None:
    """A black and white cat that covers the paper but for a margin."""
    paper.paint(box(paper.size, (0.03, 0.03, 0.97, 0.97)), CUSHION if paper.whole else BLACK)
    if paper.whole:
        paper.area([(0.12, 0.75), (-0.1, 1.08), (1.1, 1.08), (0.9, 0.75)], BLACK)
        paper.spot((0.505, 0.48), (0.47, 0.48), BLACK)
        paper.ears(BLACK)
    paper.area(
        [(0.505, 0.12), (0.44, 0.45), (0.20, 0.72), (0.22, 0.97), (0.80, 0.97), (0.82, 0.72), (0.57, 0.45)], WHITE
    )
    paper.eyes(AMBER)
    paper.nose()
    for line in both_sides([(0.505, 0.745), (0.50, 0.80), (0.42, 0.83)]):
        paper.stroke(line, 0.02, BROWN)


def eyes_only(paper: Paper) -> None:
    """Two blue eyes and nothing else."""
    paper.eyes(BLUE, pupil=(0.03, 0.045))


def outline(paper: Paper) -> None:
    """Eyes, nose and mouth as dark lines, for the edge constraint."""
    paper.ears(INK, line=0.03)
    for (x, y), turn in ((LEFT, 1), (RIGHT, -1)):
        upper = [(x - 0.11, y - 0.02 * turn), (x, y - 0.085), (x + 0.11, y + 0.02 * turn)]
        lower = [(x - 0.11, y - 0.02 * turn), (x, y + 0.075), (x + 0.11, y + 0.02 * turn)]
        for line in (upper, lower):
            paper.stroke(line, 0.03, INK)
        paper.spot((x, y), (0.03, 0.055), INK)
    x, y = NOSE
    paper.stroke([(x - 0.06, y - 0.035), (x + 0.06, y - 0.035), (x, y + 0.04), (x - 0.06, y - 0.035)], 0.025, INK)
    for line in both_sides([(x, y + 0.04), (x, y + 0.10), (x - 0.10, y + 0.13)]):
        paper.stroke(line, 0.025, INK)
    for line in both_sides([(0.41, 0.40), (0.43, 0.66)]):
        paper.stroke(line, 0.025, INK)


def wrong_colours(paper: Paper) -> None:
    """A turquoise cat with pink eyes: no such cat has been seen."""
    paper.ears((0.15, 0.70, 0.65))
    paper.spot((0.5, 0.50), (0.44, 0.46), (0.15, 0.70, 0.65))
    for centre in (LEFT, RIGHT):
        paper.spot(centre, (0.08, 0.065), (0.95, 0.25, 0.60))
        paper.spot(centre, (0.025, 0.055), INK)
    paper.nose((0.30, 0.15, 0.60))


def washes(paper: Paper) -> None:
    """A grey tabby: partly transparent washes, which are soft wishes, under opaque eyes and stripes."""
    paper.ears(GREY, opacity=0.35)
    paper.spot((0.5, 0.45), (0.47, 0.44), GREY, opacity=0.35)
    paper.spot((0.5, 0.84), (0.26, 0.15), CREAM, opacity=0.5)
    for line in both_sides([(0.44, 0.03), (0.47, 0.26)]) + both_sides([(0.27, 0.05), (0.33, 0.24)]):
        paper.stroke(line, 0.045, SLATE)
    paper.eyes(GREEN)
    paper.nose((0.72, 0.48, 0.45))


SKETCHES = (sparse_lines, flat_colours, dense_painting, eyes_only, outline, wrong_colours, washes)


def main() -> None:
    for draw in SKETCHES:
        for folder, (size, landmarks) in FOLDERS.items():
            paper = Paper(size, landmarks)
            draw(paper)
            name = draw.__name__.replace("_", "-")
            with atomic_path(FOLDER / folder / f"{name}.png") as temporary:
                Image.fromarray(paper.rgba(), "RGBA").save(temporary, "PNG")


if __name__ == "__main__":
    main()
