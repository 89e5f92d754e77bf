"""Faces: alignment as in FFHQ, the detectors, and photos that a model cannot show."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch

from helpers import faces, weights
from helpers.cat_faces import Convolution, FinderNetwork, find_cats, pose
from helpers.domain import domain_distance, out_of_domain
from helpers.faces import FaceOptions, NoFace, ffhq_square, find_faces, load_cats, read_face
from helpers.features import load_features
from helpers.generators import load_generator
from helpers.images import ImageError, crop, read_image, resize, write_image
from helpers.latents import Latents, save_latents
from helpers.photos import CHELSEA_EYES, FACE_LANDMARKS, WITH_EARS, cut_square, demo_cat, demo_photos, fit_similarity
from helpers.weights import weights_path
from tests.support import tiny

FIVE = [(110.0, 120.0), (150.0, 124.0), (131.0, 146.0), (114.0, 166.0), (147.0, 169.0)]


def quad(five):
    """The four corners of FFHQ's square, written with vectors as its recipe is."""
    left, right, _, mouth_left, mouth_right = map(np.array, five)
    eyes, mouth = (left + right) / 2, (mouth_left + mouth_right) / 2
    x = (right - left) - np.array([-(mouth - eyes)[1], (mouth - eyes)[0]])
    x = x / np.hypot(*x) * max(np.hypot(*(right - left)) * 2.0, np.hypot(*(mouth - eyes)) * 1.8)
    y, centre = np.array([-x[1], x[0]]), eyes + (mouth - eyes) * 0.1
    return centre - x - y, centre + x - y, centre - x + y, centre + x + y


def coordinates(height=260, width=280):
    """A photo whose first two channels are each pixel's own place, x / width and y / height."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x / width, y / height, torch.zeros_like(x)])[None]


def test_the_square_is_that_of_ffhq_however_the_photo_is_turned():
    size, photo = 32, coordinates()
    aligned = cut_square(photo, *ffhq_square(FIVE, size), size)
    places = aligned[0, :2].permute(1, 2, 0).numpy() * (280, 260)
    a, b, c, d = quad(FIVE)
    for row in (4, 16, 27):  # away from the photo's edge
        for column in (5, 16, 28):
            u, v = (column + 0.5) / size, (row + 0.5) / size
            expected = (a * (1 - u) + b * u) * (1 - v) + (c * (1 - u) + d * u) * v
            assert np.abs(places[row, column] - expected).max() < 0.5  # pixels of the photo
    turned = [(260 - y, x) for x, y in FIVE]  # a quarter turn clockwise
    again = cut_square(photo.rot90(-1, (2, 3)), *ffhq_square(turned, size), size)
    assert (aligned - again).abs().mean() < 0.01


@pytest.fixture
def cats(monkeypatch):
    """A tiny generator of cats, and a finder that finds the faces it is given."""
    found, generator = [], tiny.stylegan2()
    generator.domain = "faces of cats"
    finder = types.SimpleNamespace(find_cats=lambda image: found)
    monkeypatch.setitem(sys.modules, "helpers.cat_faces", finder)
    return generator, found


def face_at(x, y):
    return types.SimpleNamespace(landmarks=np.array([(x - 10.0, y), (x + 10, y), (x, y + 12.5)]))


def test_a_cats_face_is_found_cut_and_framed_and_one_that_was_cut_out_before_is_taken_as_it_is(cats, tmp_path):
    generator, found = cats
    found += [face_at(60, 50), face_at(20, 20)]
    write_image(tmp_path / "cat.png", coordinates(100, 120))
    for face, (x, y) in ((1, (60, 50)), (2, (20, 20))):
        cut = read_face(tmp_path / "cat.png", generator, FaceOptions(face=face))
        assert cut.target.shape == (1, 3, 16, 16) and cut.looked_at.shape == (1, 3, 267, 320)
        middle = cut.target[0, :2, 8, 8] * torch.tensor([120, 100])  # the eyes lie half way down
        assert torch.allclose(middle, torch.tensor([x, y]).float(), atol=3)
        assert torch.equal(cut.again(read_image(tmp_path / "cat.png")), cut.target)
        assert (cut.again(coordinates(50, 60)) - cut.target).abs().mean() < 0.03
        with pytest.raises(ImageError, match="the same photo, 120 x 100 pixels, but the edited photo has 100 x 120"):
            cut.again(coordinates(120, 100))
    with pytest.raises(ImageError, match="cat.png: --face must be from 1 to 2, the faces found; got 3"):
        read_face(tmp_path / "cat.png", generator, FaceOptions(face=3))
    generator, _ = cats
    for side in (16, 32):
        write_image(tmp_path / "cut.png", coordinates(side, side))
        assert torch.equal(read_face(tmp_path / "cut.png", generator).target, read_image(tmp_path / "cut.png", size=16))
    save_latents(tmp_path / "a.safetensors", Latents("w+", generator.mean("w+")))
    target = read_face(tmp_path / "a.safetensors", generator).target
    assert torch.equal(target, generator.synthesize(generator.mean("w+")).clamp(0, 1))


def test_a_folder_of_cats_gives_a_face_of_each_and_names_what_shows_none(cats, tmp_path):
    generator, found = cats
    found.append(face_at(60, 50))
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, coordinates(100, 120))
    (tmp_path / "c.jpg").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="c.jpg"):
        faces = load_cats(tmp_path, generator)
    assert [face.shape for face in faces] == 2 * [(1, 3, 16, 16)] and load_cats(None, generator) == []
    found.clear()
    with pytest.warns(UserWarning, match="a.png shows no cat"), pytest.raises(ImageError, match="none that can be"):
        load_cats(tmp_path, generator)


def test_without_a_face_there_is_a_sentence_and_yunets_faces_come_largest_first(cats, tmp_path, monkeypatch):
    write_image(tmp_path / "dog.png", coordinates(100, 120))
    with pytest.raises(NoFace, match="dog.png shows no cat's face .* --box none for its central square") as error:
        read_face(tmp_path / "dog.png", cats[0])
    assert error.value.looked_at.shape == (1, 3, 267, 320)
    central = read_face(tmp_path / "dog.png", cats[0], FaceOptions(box="none"))
    assert torch.equal(central.target, read_image(tmp_path / "dog.png", size=16))
    box = read_face(tmp_path / "dog.png", cats[0], FaceOptions(box="10,20,40,50"))
    part = crop(read_image(tmp_path / "dog.png"), (10, 20, 40, 50))
    assert torch.equal(box.target, resize(part, 16))
    rows = np.zeros((2, 15), np.float32)
    rows[:, 2:4], rows[:, 4:14] = [(10, 10), (40, 50)], [np.zeros(10), np.ravel(FIVE)]

    class Detector:
        @staticmethod
        def create(model, config, size, least):
            assert model == str(tmp_path / "yunet.onnx") and size == (280, 260) and least == 0.7
            return Detector()

        def detect(self, pixels):
            assert pixels.shape == (260, 280, 3) and pixels.dtype == np.uint8
            assert pixels[10, 270, 2] > 200 > pixels[10, 270, 0]  # red, which grows to the right, is the last channel
            return 1, rows

    monkeypatch.setattr(faces.importlib.util, "find_spec", lambda name: name == "cv2" or None)
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(FaceDetectorYN=Detector))
    monkeypatch.setattr(faces.weights, "weights_path", lambda name: tmp_path / "yunet.onnx")
    found = find_faces(coordinates())
    assert len(found) == 2 and np.allclose(found[0], FIVE)
    rows = None
    assert find_faces(coordinates()) == []
    entry = weights.registry()[faces.DETECTOR]
    assert len(entry["sha256"]) == 64 and not entry["restricted"]
    monkeypatch.setattr(faces.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"pip install .*\[faces\].* or give --box"):
        find_faces(coordinates())


HAS_DLIB = all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))


@pytest.mark.skipif(not HAS_DLIB, reason="the extra `faces` is not installed")
def test_a_face_in_a_photo_is_found_and_aligned():
    photo = demo_photos(512)["astronaut"]
    landmarks = find_faces(photo)[0]  # the largest; a detector may see a face in a flag
    by_hand = [(204, 103), (247, 103), (202, 141), (247, 142)]
    assert landmarks.shape == (5, 2) and np.abs(landmarks[[0, 1, 3, 4]] - by_hand).max() < 6  # pixels
    left, right, *_ = find_faces(cut_square(photo, *ffhq_square(landmarks, 256), 256))[0]
    assert np.hypot(*((left + right) / 2 - (128, 121))) < 8 and abs(right[1] - left[1]) < 4  # as FFHQ's faces lie
    assert find_faces(demo_photos(128)["brick"]) == []


def test_photos_of_another_kind_are_distinguished_and_samples_of_a_large_model_drawn_once(tmp_path, monkeypatch):
    generator, features = load_generator(), load_features()
    others = torch.cat(list(demo_photos(64, ["coffee", "rocket", "brick"]).values()))
    found = out_of_domain(generator, torch.cat([demo_cat(64), others]), features)
    assert found[0] is None
    assert all("unlike what this model shows (faces of cats" in text and "\n" not in text for text in found[1:])
    own = generator.synthesize(generator.sample("w", 8, seed=5)).clamp(0, 1)
    assert 0.7 < domain_distance(generator, own, features).mean() < 1.3 and tiny.dcgan().domain == ""
    monkeypatch.setattr("helpers.weights.FOLDER", tmp_path)
    monkeypatch.setattr("helpers.domain.LARGE", 32)
    monkeypatch.setattr("helpers.domain.SIZE", 16)
    generator, seen = tiny.stylegan2(resolution=32), []
    features, synthesize = tiny.Features(), generator.synthesize
    generator.name, generator.synthesize = "large", lambda latents: seen.append(len(latents)) or synthesize(latents)
    features.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    images = generator.synthesize(Latents("w", generator.sample("w", 2, seed=1))).clamp(0, 1)
    seen.clear()
    first = domain_distance(generator, images, features)
    assert seen == [1, (16, 16)] * 16 + [(16, 16)]  # one at a time, at the size of the features; then the images
    seen.clear()
    assert torch.equal(domain_distance(generator, images, features), first) and seen == [(16, 16)]
    next(tmp_path.rglob("domain-*")).write_bytes(b"damaged")
    assert torch.equal(domain_distance(generator, images, features), first) and len(seen) == 1 + 33
    generator.synthesis.b8.torgb.bias.add_(0.3)
    assert not torch.equal(domain_distance(generator, images, features), first)


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


def test_the_eyes_of_the_demo_cat_are_found_mirrored_too_and_of_two_cats_the_larger_comes_first():
    face = find_cats(whole_chelsea())[0]
    assert face.confidence > 0.5
    assert np.linalg.norm(face.landmarks[:2] - EYES, axis=1).max() < 0.12 * APART
    assert face.landmarks[2, 1] > EYES[:, 1].max()  # the nose is below
    photo = whole_chelsea()
    plain, mirrored = find_cats(photo)[0].landmarks, find_cats(photo.flip(3))[0].landmarks
    assert np.abs(mirrored[[1, 0, 2], 0] + plain[:, 0] - photo.shape[3]).max() < 0.12 * APART
    small, photo = torch.nn.functional.avg_pool2d(whole_chelsea(), 2), torch.full((1, 3, 420, 700), 0.5)
    photo[:, :, :300, :451] = whole_chelsea()
    photo[:, :, 270:, 475:] = small[:, :, :150, :225]
    first, second = find_cats(photo)
    assert first.landmarks[:, 0].max() < 451 and second.landmarks[:, 0].min() > 475


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


def test_the_pose_of_a_blend_is_how_far_eyes_and_nose_are_from_the_photos():
    cat, half = demo_cat(128, WITH_EARS), torch.ones(1, 1, 128, 128).tril()
    away = [pose(cat.roll(shift, 3), cat, cat, half, WITH_EARS)["pose"].item() for shift in (0, 6)]
    assert away[0] == 0 and abs(away[1] - 6 / 128 / (WITH_EARS[1][0] - WITH_EARS[0][0])) < 0.03
