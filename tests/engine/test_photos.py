"""Demo photos, alignment, and sets of photos in a zip or folder."""

import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import photos
from helpers.images import ImageError, resize, write_image
from helpers.photos import DEMO_PHOTOS, FACE_LANDMARKS, demo_cat, demo_photos, load_uint8


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


def refused(path, words, **options):
    with pytest.raises(ImageError, match=words) as caught:
        load_uint8(path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pack", [lambda folder: folder, zipped])
def test_sets_are_sorted_and_split_by_name(pack, folder):
    path = pack(folder)
    everything = load_uint8(path, size=16)
    assert everything.shape == (20, 3, 16, 16) and everything.dtype == torch.uint8
    assert greys(everything) == list(range(0, 200, 10))
    assert greys(load_uint8(path, 16, "train")) == list(range(0, 180, 10))
    assert greys(load_uint8(path, 16, "validation")) == [180, 190]
    assert greys(load_uint8(path, 16, "validation", held_out=3)) == [170, 180, 190]
    assert greys(load_uint8(path, 16, n=3)) == [0, 10, 20]
    faces = photos.load_faces(path)
    assert faces.shape == (2, 3, 64, 64) and torch.allclose(faces[0], torch.tensor(180 / 255))


def test_sub_folders_and_photos_of_other_sizes_are_read_and_other_files_are_left_out(folder):
    names = [f"{number:05d}.webp" for number in range(8000)]
    assert photos._split(names, "validation", "set") == names[7500:]  # the last 500 of a large set
    wide = torch.cat([flat(0, 32, 16), flat(200, 32, 32), flat(0, 32, 16)], dim=3)
    write_image(folder / "zz" / "wide.png", wide)
    assert greys(load_uint8(folder, 16))[-1] == 200
    extra = [("__MACOSX/faces/._00.png", b"x"), ("faces/.hidden.png", b"x"), ("README.txt", b"x"), ("more/", b"")]
    assert len(load_uint8(zipped(folder, extra), 16)) == 20


def test_sets_that_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "fake.zip").write_bytes(b"not a zip")
    words = {"none.zip": "there is no", "empty": "there are none", "fake.zip": "neither"}
    for name, word in words.items():
        refused(tmp_path / name, word)
    refused(folder, "expected a split", split="test")
    for photo in list(folder.iterdir())[5:]:
        photo.unlink()
    refused(folder, "at least 10 photos", split="validation")


def test_damaged_photos_are_named_and_left_out_and_zip_bombs_not_unpacked(folder, capsys, monkeypatch):
    path, data = zipped(folder), bytearray(zipped(folder).read_bytes())
    assert len(load_uint8(zipped(folder, [("faces/bad.png", b"<html>")]), 16)) == 20
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:40])
    assert greys(load_uint8(folder, 16))[4:6] == [40, 60]
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2 and "bad.png is a web page" in printed[0] and "05.png" in printed[1]
    for photo in folder.iterdir():
        photo.write_bytes(b"x")
    refused(folder, "none of 20 can be read")
    data[data.index(b"\x89PNG") + 30] ^= 0xFF  # a photo no longer fits its checksum
    path.write_bytes(data)
    assert len(load_uint8(path, 16)) == 19 and "cannot unpack" in capsys.readouterr().err
    path.write_bytes(data[: len(data) // 2])
    refused(path, "is neither")
    monkeypatch.setattr(photos, "MAX_BYTES", 1_000_000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1_000_001))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *args: pytest.fail("unpacked"))
    refused(path, "none of 1 can be read")
    assert "at most 1 MB" in capsys.readouterr().err


def test_demo_photos_need_no_network_and_have_their_licence_in_the_sources(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("went to the network"))
    shown, sources = demo_photos(64), (Path(photos.__file__).parents[1] / "data" / "SOURCES.md").read_text()
    assert list(shown) == list(DEMO_PHOTOS) and all(f"`{name}`" in sources for name in DEMO_PHOTOS)
    for image in shown.values():
        assert image.shape == (1, 3, 64, 64) and image.min() >= 0 and image.max() <= 1 and image.std() > 0.05
    with pytest.raises(ImageError, match="expected a demo photo of chelsea, .* but got 'lena'"):
        demo_photos(64, ["lena"])
    assert demo_cat(64).shape == (1, 3, 64, 64)


def test_demo_cat_has_its_eyes_and_nose_where_the_training_faces_have_them():
    cat, small = demo_cat(256)[0], demo_cat(64)
    assert (resize(cat[None], 64) - small).abs().mean() < 0.01
    at = [(round(x * 256), round(y * 256)) for x, y in FACE_LANDMARKS]
    means = [cat[:, y - 12 : y + 13, x - 12 : x + 13].mean(dim=(1, 2)) for x, y in at[:2]]
    face = cat.mean(dim=(1, 2))
    for eye in means:  # darker and greener than the orange face
        assert eye.mean() < face.mean() - 0.05 and eye[1] / eye[0] > face[1] / face[0] + 0.05
    red = (cat[0] - cat[2])[160:].flatten().argmax().item()  # the nose, strongest red of the lower part
    x, y = red % 256 / 256, (red // 256 + 160) / 256
    assert abs(x - FACE_LANDMARKS[2][0]) < 0.16 and abs(y - FACE_LANDMARKS[2][1]) < 0.1  # its head is turned


def aligned(photo, eyes, size):
    return photos.cut_square(photo, *photos.fit_similarity(eyes, np.array(FACE_LANDMARKS[:2]) * size), size)


@pytest.mark.parametrize("eyes", [((150, 120), (250, 120)), ((150, 90), (230, 170)), ((120, 200), (170, 150))])
def test_eyes_land_on_the_template(eyes):
    y, x = torch.meshgrid(torch.arange(300) + 0.5, torch.arange(400) + 0.5, indexing="ij")
    photo = torch.full((1, 3, 300, 400), 0.5)
    for eye in eyes:  # green discs on grey
        photo[0, :, (x - eye[0]) ** 2 + (y - eye[1]) ** 2 < 36] = torch.tensor([0.0, 1.0, 0.0])[:, None]
    image, at = aligned(photo, eyes, 64)[0], (torch.arange(64) + 0.5) / 64
    for half, place in zip((at < 0.5, at >= 0.5), FACE_LANDMARKS, strict=False):
        weight = (image[1] - image[0]).clamp(min=0) * half
        centre = torch.stack([weight.sum(0) @ at, weight.sum(1) @ at]) / weight.sum()
        assert torch.allclose(centre, torch.tensor(place), atol=0.004)


def test_alignment_is_antialiased_keeps_what_is_aligned_and_mirrors_at_the_edge():
    stripes = (torch.arange(512) % 2).float().expand(1, 3, 512, 512)
    assert (aligned(stripes, ((157, 210), (357, 210)), 32) - 0.5).abs().max() < 0.1
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    eyes = [(x * 64, y * 64) for x, y in FACE_LANDMARKS[:2]]
    assert torch.allclose(aligned(photo, eyes, 64), photo, atol=1e-4)
    beyond = aligned(torch.full((1, 3, 80, 90), 0.5), ((2, 2), (60, 2)), 64)
    assert torch.allclose(beyond, torch.tensor(0.5), atol=1e-5)
