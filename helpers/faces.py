"""The face in a photo: which part of it a model gets, found or given; alignment as in FFHQ, and its detectors."""

import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from helpers import images, weights
from helpers.generators import Generator
from helpers.images import Box, ImageError, Source, crop, read_image, resize
from helpers.latents import SUFFIXES, load_one
from helpers.photos import WITH_EARS, cut_square, fit_similarity, photo_files
from helpers.search import option

DETECTOR = "face-detector"  # YuNet's name in the registry
LEAST = 0.7  # of YuNet's confidence in [0, 1], from which on a face counts
LOOK = 320  # pixels of the longer side of a photo in a sheet
BOX = (
    "auto finds the cat's face (the default for models of cats, but for squares of at most twice their side), none "
    "takes the central square, and LEFT,TOP,RIGHT,BOTTOM in pixels is the part of every photo."
)


class NoFace(ImageError):
    """A photo in which no face was found; ``looked_at`` is the photo (1, 3, h, w) as it was looked at."""

    def __init__(self, message: str, looked_at: Tensor):
        super().__init__(message)
        self.looked_at = looked_at


@dataclass(frozen=True)
class FaceOptions:
    """Which part of a photo is used; options of every command that takes photos. ImageError for a bad box."""

    box: str | Box | None = option(None, BOX)
    face: int = option(1, "Which cat's face, by size, where a photo shows several.", min=1)
    align: bool = option(False, "Find human faces, and align them as models of FFHQ know them (extra `faces`).")

    def __post_init__(self):
        if isinstance(self.box, str) and self.box not in ("auto", "none"):
            parts = [part.strip() for part in self.box.split(",")]
            if len(parts) != 4 or not all(part.lstrip("-").isdecimal() for part in parts):
                raise ImageError(f"--box must be auto, none or LEFT,TOP,RIGHT,BOTTOM in pixels; got {self.box!r}.")
            object.__setattr__(self, "box", tuple(map(int, parts)))


@dataclass
class Cut:
    """The part of a photo that a model gets."""

    target: Tensor  # (1, 3, R, R) in [0, 1]
    looked_at: Tensor  # the whole photo (1, 3, h, w), small, with a frame around the part
    sides: tuple[int, int]  # height and width of the photo
    cut: Callable[[Tensor], Tensor]  # from the photo to the target

    def again(self, image: Tensor, name: str = "the edited photo") -> Tensor:
        """The same part of the same photo, edited, at any size (1, 3, H, W). Raises ImageError for another shape."""
        (height, width), (h, w) = self.sides, image.shape[-2:]
        if abs(h * width - w * height) > 0.02 * h * width:
            raise ImageError(f"expected the same photo, {width} x {height} pixels, but {name} has {w} x {h}")
        return self.cut(resize(image, self.sides))


@torch.no_grad()
def read_face(source: Source, generator: Generator, options: FaceOptions | None = None, name: str | None = None) -> Cut:
    """The part of a photo (path or bytes) that a generator gets, or the image of a file of latents. Raises NoFace."""
    options, size = options or FaceOptions(), generator.resolution
    is_path = isinstance(source, str | os.PathLike)
    name = name or (str(source) if is_path else "the uploaded file")
    if is_path and Path(source).suffix.lower() in SUFFIXES:
        image = generator.synthesize(load_one(source, generator)).clamp(0, 1).cpu()
        return Cut(image, image, (size, size), lambda other: other)
    image = read_image(source, name=name)
    try:
        cut, corners = way_to(find_place(image, generator, options), size)
        return Cut(cut(image), framed(image, corners), tuple(image.shape[-2:]), cut)
    except NoFace as error:
        raise NoFace(f"{name} {error}", images.longer_side(image, LOOK)) from None
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None


def load_cats(folder: str | os.PathLike | None, generator: Generator) -> list[Tensor]:
    """The largest cat's face (1, 3, R, R) of every photo in a folder; one without a face is named and left out.

    None gives none. Raises ImageError where nothing is left.
    """
    cats = []
    for path in photo_files([folder]) if folder else ():
        try:
            cats.append(read_face(path, generator).target.to(generator.device))
        except ImageError as error:
            warnings.warn(str(error), stacklevel=2)
    if folder and not cats:
        raise ImageError(f"expected photos of cats in {folder}, found none that can be used")
    return cats


def find_place(image: Tensor, generator: Generator, options: FaceOptions) -> Box | tuple[complex, complex]:
    """A box of a photo, or the similarity transform to the model's square (see cut_square). Raises NoFace."""
    height, width = image.shape[-2:]
    box, size = options.box, generator.resolution
    if options.align:
        found = find_faces(image)
        if not found:
            raise NoFace("shows no face that the detector finds; cut it with --box instead of --align", image)
        return ffhq_square(found[min(options.face, len(found)) - 1], size)
    whole = height == width <= 2 * size  # a face that was cut out before
    if box == "auto" or (box is None and not whole and "cats" in generator.domain):
        return _cat_square(image, options.face, generator)
    return images.central_box(image) if box in (None, "none") else box


def _cat_square(image: Tensor, face: int, generator: Generator) -> tuple[complex, complex]:
    from helpers.cat_faces import find_cats

    found = find_cats(image)
    if not found:
        advice = "give --box LEFT,TOP,RIGHT,BOTTOM, or --box none for its central square"
        raise NoFace(f"shows no cat's face with both eyes that can be found; {advice}", image)
    if face > len(found):
        raise ImageError(f"--face must be from 1 to {len(found)}, the faces found; got {face}")
    template = np.array(generator.landmarks or WITH_EARS)
    return fit_similarity(found[face - 1].landmarks, template * generator.resolution)


def way_to(place: Box | tuple[complex, complex], size: int) -> tuple[Callable[[Tensor], Tensor], list]:
    """The function from a photo to its part, (1, 3, size, size), and the part's four corners (x, y) in the photo."""
    if len(place) == 4:
        left, top, right, bottom = place
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return lambda photo: resize(images.square_crop(crop(photo, place)), size), corners
    turn, shift = place
    points = [(corner - shift) / turn for corner in (0, size, size * (1 + 1j), size * 1j)]
    return lambda photo: cut_square(photo, turn, shift, size), [(point.real, point.imag) for point in points]


def framed(image: Tensor, corners: Sequence[tuple[float, float]]) -> Tensor:
    """A photo (1, 3, H, W), its longer side LOOK pixels, with a frame through corners (x, y) in pixels of the photo."""
    small = images.longer_side(image, LOOK)
    shown, scale = Image.fromarray(images.to_uint8(small)[0]), small.shape[-1] / image.shape[-1]
    points = [(x * scale, y * scale) for x, y in corners]
    for colour, width in (("white", 4), ("#d00050", 2)):
        ImageDraw.Draw(shown).line([*points, *points[:2]], fill=colour, width=width, joint="curve")
    return images.from_uint8(np.asarray(shown))


def ffhq_square(landmarks: Sequence[tuple[float, float]], size: int) -> tuple[complex, complex]:
    """The transform that turns, scales and cuts a face as FFHQ was (Karras et al. 2019, app. A); see ``cut_square``.

    landmarks: (x, y) in pixels of left eye, right eye, nose, left and right corner of the mouth, as seen in the image.
    """
    left, right, _, mouth_left, mouth_right = np.asarray(landmarks) @ [1, 1j]
    eyes, mouth = (left + right) / 2, (mouth_left + mouth_right) / 2
    between, down = right - left, mouth - eyes
    half = between - 1j * down  # the vector to the mouth, turned to point right as the eyes do
    half *= max(2.0 * abs(between), 1.8 * abs(down)) / abs(half)
    scaled_turn = size / (2 * half)
    return scaled_turn, size / 2 * (1 + 1j) - scaled_turn * (eyes + 0.1 * down)


def find_faces(image: Tensor) -> list[np.ndarray]:
    """Landmarks of each face, largest first, for ``ffhq_square``: by dlib or OpenCV's YuNet; ImageError without."""
    has = importlib.util.find_spec
    find = _faces_of_dlib if has("dlib") and has("face_recognition_models") else _faces_of_yunet if has("cv2") else None
    if find is None:
        package = '"gan-photo-editing[faces]" (or opencv-python-headless)'
        raise ImageError(f"finding faces needs dlib or OpenCV: pip install {package}, or give --box")
    found = find(np.ascontiguousarray(images.to_uint8(image)[0]))
    return [landmarks for _, landmarks in sorted(found, key=lambda face: -face[0])]


def _faces_of_dlib(pixels: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Area and landmarks of the faces in RGB pixels (H, W, 3)."""
    import dlib

    folder = importlib.util.find_spec("face_recognition_models").submodule_search_locations[0]
    predictor = dlib.shape_predictor(f"{folder}/models/shape_predictor_68_face_landmarks.dat")
    found = []
    for box in dlib.get_frontal_face_detector()(pixels, 1):  # enlarged once: faces from 40 pixels on are found
        points = np.array([(p.x + 0.5, p.y + 0.5) for p in predictor(pixels, box).parts()])  # 68, as in iBUG 300-W
        eyes = points[36:42].mean(0), points[42:48].mean(0)
        found.append((box.area(), np.stack([*eyes, points[30], points[48], points[54]])))
    return found


def _faces_of_yunet(pixels: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Area and landmarks of the faces in RGB pixels (H, W, 3)."""
    import cv2

    height, width = pixels.shape[:2]
    detector = cv2.FaceDetectorYN.create(str(weights.weights_path(DETECTOR)), "", (width, height), LEAST)
    rows = detector.detect(np.ascontiguousarray(pixels[:, :, ::-1]))[1]  # BGR
    rows = [] if rows is None else rows.astype(float)
    # YuNet's own order is right eye, left eye, nose, right and left corner as the person sees them: left first here
    return [(row[2] * row[3], row[4:14].reshape(5, 2)) for row in rows]
