import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import photos
from helpers.images import ImageError, resize, write_image
from helpers.photos import (
    CHELSEA_EYES,
    DEMO_PHOTOS,
    FACE_LANDMARKS,
    align,
    demo_cat,
    demo_photos,
    load_faces,
    load_uint8,
)


def flat(value, height=16, width=16):
    return torch.full((1, 3, height, width), value / 255)


@pytest.fixture
def folder(tmp_path):
    """20 photos, number k of the grey value 10 k; written in another order than their names'."""
    for number in reversed(range(20)):
        write_image(tmp_path / "set" / f"{number:02d}.png", flat(10 * number))
    return tmp_path / "set"


def zipped(folder, extra=()):
    path = folder.parent / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for photo in sorted(folder.iterdir(), reverse=True):
            archive.write(photo, f"faces/{photo.name}")
        for name, content in extra:
            archive.writestr(name, content)
    return path


def greys(batch):
    return batch[:, 0, 0, 0].tolist()


# --- sets of photos --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [lambda folder: folder, zipped])
def test_sets_are_sorted_and_split_by_name(pack, folder):
    path = pack(folder)
    everything = load_uint8(path, size=16)
    assert everything.shape == (20, 3, 16, 16) and everything.dtype == torch.uint8
    assert greys(everything) == list(range(0, 200, 10))
    assert greys(load_uint8(path, 16, "train")) == list(range(0, 180, 10))
    assert greys(load_uint8(path, 16, "validation")) == [180, 190]
    assert greys(load_uint8(path, 16, n=3)) == [0, 10, 20]


def test_validation_is_the_last_500_of_a_large_set():
    names = [f"{number:05d}.webp" for number in range(8000)]
    assert photos._split(names, "validation", "set") == names[7500:]
    assert photos._split(names, "train", "set") == names[:7500]


def test_load_faces_gives_validation_images(folder):
    faces = load_faces(folder)
    assert faces.shape == (2, 3, 64, 64) and faces.dtype == torch.float32
    assert torch.allclose(faces[0], torch.tensor(180 / 255)) and len(load_faces(folder, n=1, split="all")) == 1


def test_photos_of_other_sizes_are_cropped_and_resized(tmp_path):
    wide = torch.cat([flat(0, 32, 16), flat(200, 32, 32), flat(0, 32, 16)], dim=3)
    write_image(tmp_path / "wide.png", wide)
    assert (load_uint8(tmp_path, size=8) == 200).all()


def test_other_files_are_left_out(folder):
    extra = [("__MACOSX/faces/._00.png", b"x"), ("faces/.hidden.png", b"x"), ("README.txt", b"x"), ("more/", b"")]
    assert len(load_uint8(zipped(folder, extra), 16)) == 20


def test_sub_folders_are_read(folder):
    write_image(folder / "zz" / "last.png", flat(77))
    assert greys(load_uint8(folder, 16))[-1] == 77


def refused(path, words, **options):
    with pytest.raises(ImageError, match=words) as caught:
        load_uint8(path, **options)
    assert "\n" not in str(caught.value)


def test_sets_that_are_refused(folder, tmp_path):
    refused(tmp_path / "none.zip", "there is no")
    refused(folder, "expected a split", split="test")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "but there are none")
    (tmp_path / "fake.zip").write_bytes(b"not a zip")
    refused(tmp_path / "fake.zip", "is neither")
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    refused(tmp_path / "texts.zip", "but there are none")
    for photo in list(folder.iterdir())[5:]:
        photo.unlink()
    refused(folder, "at least 10 photos", split="validation")


def test_damaged_photos_are_named_and_left_out(folder, capsys):
    assert len(load_uint8(zipped(folder, [("faces/bad.png", b"<html>")]), 16)) == 20
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:40])
    assert greys(load_uint8(folder, 16))[4:6] == [40, 60]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "bad.png is a web page" in said[0] and "05.png" in said[1]
    for photo in folder.iterdir():
        photo.write_bytes(b"x")
    refused(folder, "none of 20 can be read")


def test_damaged_zip_is_refused_in_one_sentence(folder, capsys):
    path = zipped(folder)
    data = bytearray(path.read_bytes())
    data[data.index(b"\x89PNG") + 30] ^= 0xFF  # a photo no longer fits its checksum
    path.write_bytes(data)
    assert len(load_uint8(path, 16)) == 19 and "cannot unpack" in capsys.readouterr().err
    path.write_bytes(data[: len(data) // 2])
    refused(path, "is neither")


def test_zip_bomb_is_not_unpacked(folder, monkeypatch, capsys):
    monkeypatch.setattr(photos, "MAX_BYTES", 1_000_000)
    path = folder.parent / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1_000_001))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *args: pytest.fail("unpacked"))
    refused(path, "none of 1 can be read")
    assert "at most 1 MB" in capsys.readouterr().err


# --- demo photos -----------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("went to the network"))


def test_demo_photos_need_no_network(offline):
    shown = demo_photos(64)
    assert list(shown) == list(DEMO_PHOTOS)
    for image in shown.values():
        assert image.shape == (1, 3, 64, 64) and image.min() >= 0 and image.max() <= 1 and image.std() > 0.05
    assert list(demo_photos(64, ["coffee"])) == ["coffee"]


def test_demo_photo_names():
    with pytest.raises(ImageError, match="expected a demo photo of chelsea, .* but got 'lena'"):
        demo_photos(64, ["lena"])


def test_every_demo_photo_has_its_licence_in_the_sources():
    sources = (Path(photos.__file__).parents[1] / "data" / "SOURCES.md").read_text()
    assert all(f"`{name}`" in sources for name in DEMO_PHOTOS)


def test_demo_cat_has_its_eyes_and_nose_where_the_training_faces_have_them(offline):
    cat = demo_cat(256)[0]
    at = [(round(x * 256), round(y * 256)) for x, y in FACE_LANDMARKS]
    means = [cat[:, y - 12 : y + 13, x - 12 : x + 13].mean(dim=(1, 2)) for x, y in at[:2]]
    face = cat.mean(dim=(1, 2))
    for eye in means:  # darker and greener than the orange face
        assert eye.mean() < face.mean() - 0.05 and eye[1] / eye[0] > face[1] / face[0] + 0.05
    red = (cat[0] - cat[2])[160:].flatten().argmax().item()  # the nose, strongest red of the lower part
    x, y = red % 256 / 256, (red // 256 + 160) / 256
    assert abs(x - FACE_LANDMARKS[2][0]) < 0.16 and abs(y - FACE_LANDMARKS[2][1]) < 0.1  # its head is turned


def test_demo_cat_is_the_same_at_any_size():
    small, large = demo_cat(64), demo_cat(256)
    assert small.shape == (1, 3, 64, 64) and small.min() >= 0 and small.max() <= 1
    assert (resize(large, 64) - small).abs().mean() < 0.01


# --- alignment -------------------------------------------------------------------------------------------------------


def face_photo(eyes, height=300, width=400, radius=6):
    """Green discs at the eyes on grey."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    image = torch.full((1, 3, height, width), 0.5)
    for eye in eyes:
        image[0, :, (x - eye[0]) ** 2 + (y - eye[1]) ** 2 < radius**2] = torch.tensor([0.0, 1.0, 0.0])[:, None]
    return image


def centres(aligned):
    """Centres of the green left and right of the middle, in sides of length 1."""
    size = aligned.shape[-1]
    green = (aligned[0, 1] - aligned[0, 0]).clamp(min=0)
    at = (torch.arange(size) + 0.5) / size
    out = []
    for half in (at < 0.5, at >= 0.5):
        weight = green * half
        out.append(((weight.sum(0) * at).sum() / weight.sum(), (weight.sum(1) * at).sum() / weight.sum()))
    return torch.tensor(out)


@pytest.mark.parametrize(
    "eyes",
    [((150, 120), (250, 120)), ((150, 90), (230, 170)), ((171.5, 114.0), (317.0, 134.5)), ((120, 200), (170, 150))],
)
def test_eyes_land_on_the_template(eyes):
    aligned = align(face_photo(eyes), eyes, 64)
    assert aligned.shape == (1, 3, 64, 64)
    assert torch.allclose(centres(aligned), torch.tensor(FACE_LANDMARKS[:2]), atol=0.004)


def test_three_landmarks_are_fitted_by_least_squares():
    from skimage.transform import SimilarityTransform

    points = np.array([[150.0, 100], [250, 120], [230, 220]])  # no similarity: the head is turned
    expected = SimilarityTransform()
    template = np.array(FACE_LANDMARKS) * 64
    a, b = photos.fit_similarity(points, template)
    expected = SimilarityTransform.from_estimate(points, template) if hasattr(expected, "from_estimate") else expected
    mapped = a * (points @ [1, 1j]) + b
    assert np.allclose(np.stack([mapped.real, mapped.imag], axis=1), expected(points), atol=1e-6)


def test_alignment_is_antialiased():
    stripes = (torch.arange(512) % 2).float().expand(1, 3, 512, 512)
    aligned = align(stripes, ((157, 210), (357, 210)), 32)
    assert (aligned - 0.5).abs().max() < 0.1


def test_identity_alignment_keeps_the_photo():
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    eyes = [(x * 64, y * 64) for x, y in FACE_LANDMARKS[:2]]
    assert torch.allclose(align(photo, eyes, 64), photo, atol=1e-4)


def test_alignment_near_the_edge():
    """Most of the crop lies outside of the photo, which is mirrored there."""
    aligned = align(torch.full((1, 3, 80, 90), 0.5), ((2, 2), (60, 2)), 64)
    assert torch.allclose(aligned, torch.tensor(0.5), atol=1e-5)


@pytest.mark.parametrize(
    "landmarks",
    [
        ((10, 10),),
        ((10, 10), (500, 10)),
        ((10, 10), (float("nan"), 10)),
        ((10, 10, 1), (20, 10, 1)),
        "eyes",
        None,
        ((50, 10), (10, 10)),
        ((10, 10), (10, 10)),
    ],
)
def test_landmarks_that_are_refused(landmarks):
    with pytest.raises(ImageError, match="expected"):
        align(face_photo(CHELSEA_EYES), landmarks)
