"""Face photos for models of FFHQ: alignment by landmarks, and optional detectors that find them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from helpers import weights
from helpers.images import ImageError, to_uint8
from helpers.photos import cut_square

DETECTOR = "face-detector"  # YuNet's name in the registry
LEAST = 0.7  # of YuNet's confidence in [0, 1], from which on a face counts
EYES_68 = (slice(36, 42), slice(42, 48))  # of the 68 landmarks of the iBUG 300-W scheme, left in the picture first
MOUTH_68 = (48, 54)  # corners


def align_ffhq(image: torch.Tensor, landmarks: Sequence[tuple[float, float]], size: int = 256) -> torch.Tensor:
    """Turn, scale and cut a face as the photos of FFHQ were: (1, 3, size, size) in [0, 1].

    The square stands upright on the line between the eyes, turned halfway towards the line from the mouth to the eyes;
    its half side is the larger of 2.0 times the distance of the eyes and 1.8 times that from eyes to mouth, its centre
    a tenth of the latter below the eyes (Karras et al., A Style-Based Generator Architecture for GANs, app. A).

    Args:
        image: (1, 3, H, W) in [0, 1].
        landmarks: (x, y) in pixels, left and right as seen in the picture. Five: left eye, right eye, nose, left and
            right corner of the mouth; or the 68 of iBUG 300-W.
        size: side of the result.

    Raises:
        ImageError: for another number of landmarks, or left and right exchanged.
    """
    left, right, mouth_left, mouth_right = _eyes_and_mouth(landmarks)
    eyes, mouth = (left + right) / 2, (mouth_left + mouth_right) / 2
    between, down = right - left, mouth - eyes
    half = between - 1j * down  # the vector to the mouth, turned to point right as the eyes do
    if (between.conjugate() * down).imag <= 0 or abs(half) < 1:
        raise ImageError("expected left and right as seen in the picture, but the eyes or the mouth are exchanged")
    half *= max(2.0 * abs(between), 1.8 * abs(down)) / abs(half)
    centre = eyes + 0.1 * down
    scaled_turn = size / (2 * half)
    return cut_square(image, scaled_turn, size / 2 * (1 + 1j) - scaled_turn * centre, size)


def _eyes_and_mouth(landmarks) -> tuple[complex, complex, complex, complex]:
    """Both eyes and both corners of the mouth, x + iy."""
    points = np.array(landmarks, dtype=float)
    if points.shape not in ((5, 2), (68, 2)) or not np.isfinite(points).all():
        raise ImageError(f"expected 5 or 68 landmarks (x, y) in pixels but got an array of shape {points.shape}")
    points = points @ [1, 1j]
    if len(points) == 5:
        return points[0], points[1], points[3], points[4]
    return *(points[eye].mean() for eye in EYES_68), *(points[i] for i in MOUTH_68)


def find_faces(image: torch.Tensor) -> list[np.ndarray]:
    """Landmarks of every face in a photo (1, 3, H, W), in pixels, the largest face first; for align_ffhq.

    Either (68, 2), of dlib (Kazemi and Sullivan, One Millisecond Face Alignment with an Ensemble of Regression Trees,
    2014), with which FFHQ itself was aligned and whose weights are in a package; or (5, 2), of OpenCV's YuNet (Wu et
    al., YuNet: A Tiny Millisecond-level Face Detector, 2023), which is downloaded once.

    Raises ImageError when neither is installed, and WeightsError when YuNet cannot be fetched.
    """
    pixels = np.ascontiguousarray(to_uint8(image)[0])
    for finder in (_faces_of_dlib, _faces_of_yunet):
        found = finder(pixels)
        if found is not None:
            return [landmarks for _, landmarks in sorted(found, key=lambda face: -face[0])]
    raise ImageError(
        'finding faces needs dlib or OpenCV: pip install "gan-photo-editing[faces]" (or opencv-python-headless), '
        "or give landmarks"
    )


def _faces_of_dlib(pixels: np.ndarray) -> list[tuple[float, np.ndarray]] | None:
    """Area and 68 landmarks of the faces in RGB pixels (H, W, 3); None where dlib or its weights are missing."""
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or importlib.util.find_spec("dlib") is None:
        return None
    import dlib

    weights_file = Path(package.submodule_search_locations[0]) / "models" / "shape_predictor_68_face_landmarks.dat"
    predictor = dlib.shape_predictor(str(weights_file))
    boxes = dlib.get_frontal_face_detector()(pixels, 1)  # enlarged once: faces from 40 pixels on are found
    return [(box.area(), np.array([(p.x + 0.5, p.y + 0.5) for p in predictor(pixels, box).parts()])) for box in boxes]


def _faces_of_yunet(pixels: np.ndarray) -> list[tuple[float, np.ndarray]] | None:
    """Area and 5 landmarks of the faces in RGB pixels (H, W, 3); None where OpenCV is missing."""
    try:
        import cv2
    except ImportError:
        return None
    height, width = pixels.shape[:2]
    detector = cv2.FaceDetectorYN.create(str(weights.weights_path(DETECTOR)), "", (width, height), LEAST)
    found = detector.detect(np.ascontiguousarray(pixels[:, :, ::-1]))[1]  # BGR
    rows = [] if found is None else found
    # YuNet's own order is right eye, left eye, nose, right and left corner as the person sees them: left first here
    return [(row[2] * row[3], np.asarray(row[4:14], dtype=float).reshape(5, 2)) for row in rows]
