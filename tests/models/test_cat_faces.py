"""The finder of cat faces on the demo cat: where the face is, however it is turned, and what is not one."""

import numpy as np
import pytest
import torch

from helpers.cat_faces import Convolution, FinderNetwork, find_cats
from helpers.photos import CHELSEA_EYES, FACE_LANDMARKS, WITH_EARS, cut_square, demo_cat, demo_photos, fit_similarity
from helpers.weights import weights_path

EYES = np.array(CHELSEA_EYES)
APART = np.linalg.norm(EYES[1] - EYES[0])


def whole_chelsea():
    """The demo photo as it is, 451 x 300 pixels."""
    return demo_photos(None, ["chelsea"])["chelsea"]


def test_the_network_is_small_and_has_a_score_and_three_landmarks_for_every_eighth_pixel():
    assert weights_path("cat-face-finder").stat().st_size < 2e6
    for side, stride in ((1, 1), (3, 1), (5, 2)):
        assert Convolution(3, 2, side, stride)(torch.rand(1, 3, 32, 48)).shape == (1, 2, 32 // stride, 48 // stride)
    scores, offsets = FinderNetwork(width=8)(torch.rand(2, 3, 64, 96))
    assert scores.shape == (2, 1, 8, 12) and offsets.shape == (2, 6, 8, 12)


def test_the_eyes_of_the_demo_cat_are_found():
    face = find_cats(whole_chelsea())[0]
    assert face.confidence > 0.5
    assert np.linalg.norm(face.landmarks[:2] - EYES, axis=1).max() < 0.12 * APART
    assert face.landmarks[2, 1] > EYES[:, 1].max()  # the nose is below


@pytest.mark.parametrize("angle", [-25, 25])
def test_a_turned_and_smaller_cat_is_found(angle):
    border = 400  # grey: what lies outside would be mirrored, cats too
    photo = torch.nn.functional.pad(whole_chelsea(), (border,) * 4, value=0.5)
    turn = 0.6 * np.exp(1j * np.deg2rad(angle))
    eyes = (EYES + border) @ [1, 1j]
    shift = 160 * (1 + 1j) - turn * eyes.mean()
    face = find_cats(cut_square(photo, turn, shift, 320))[0]
    expected = eyes * turn + shift
    assert np.abs(face.landmarks[:2] @ [1, 1j] - expected).max() < 0.22 * APART * 0.6


def test_a_mirrored_cat_has_mirrored_eyes():
    photo = whole_chelsea()
    plain, mirrored = find_cats(photo)[0].landmarks, find_cats(photo.flip(3))[0].landmarks
    assert np.abs(mirrored[[1, 0, 2], 0] + plain[:, 0] - photo.shape[3]).max() < 0.12 * APART


def test_of_two_cats_the_larger_comes_first():
    small, photo = torch.nn.functional.avg_pool2d(whole_chelsea(), 2), torch.full((1, 3, 420, 700), 0.5)
    photo[:, :, :300, :451] = whole_chelsea()
    photo[:, :, 270:, 475:] = small[:, :, :150, :225]
    first, second = find_cats(photo)
    assert first.landmarks[:, 0].max() < 451 and second.landmarks[:, 0].min() > 475


@pytest.mark.parametrize("name", ["astronaut", "rocket", "hubble_deep_field", "brick", "grass", "gravel"])
def test_where_there_is_no_cat_none_is_found(name):
    assert find_cats(demo_photos(256, [name])[name]) == []


@pytest.mark.parametrize("template", [WITH_EARS, FACE_LANDMARKS])
def test_a_crop_has_the_landmarks_where_the_model_wants_them(template):
    marked, landmarks = torch.zeros(1, 3, 300, 400), np.array([[150.0, 140.0], [210.0, 120.0], [190.0, 165.0]])
    for channel, (x, y) in enumerate(landmarks.astype(int)):
        marked[0, channel, y - 3 : y + 3, x - 3 : x + 3] = 1
    cut, grid = cut_square(marked, *fit_similarity(landmarks, np.array(template) * 128), 128), torch.arange(128) + 0.5
    for channel, (x, y) in enumerate(np.array(template) * 128):
        mass = cut[0, channel] / cut[0, channel].sum()
        assert abs((mass.sum(0) @ grid).item() - x) < 9 and abs((mass.sum(1) @ grid).item() - y) < 9


def test_the_demo_cat_as_a_whole_face_lies_where_the_training_faces_do():
    (face,) = find_cats(demo_cat(256, WITH_EARS))
    assert np.abs(face.landmarks / 256 - WITH_EARS).max() < 0.05
