"""Images and films: every format and mode that people have, what is refused, geometry, files."""

import os
import random
import resource
import struct
import subprocess
import zlib

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile

from helpers import images
from helpers.images import ImageError, crop, from_uint8, grid, quantize, read_image, read_rgba, resize
from helpers.masks import mask_from_file
from helpers.video import read_film, write_gif, write_mp4
from tests.support.spoil import KINDS, chunk, encoded, picture, png, seeds, smooth, spoiled


def noise(height=20, width=30, count=1):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def tensor(image):
    return from_uint8(np.asarray(image.convert("RGB")))


UNDO = [None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright, undo, exif = picture().resize((24, 16)), UNDO[orientation - 1], Image.Exif()
    exif[0x0112] = orientation
    stored = upright if undo is None else upright.transpose(Image.Transpose[undo])
    assert torch.equal(read_image(encoded(stored, "PNG", exif=exif)), tensor(upright))


def test_only_the_orientation_of_exif_matters():
    """A resolution whose denominator is text, and no EXIF at all."""
    entries = [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x011A, 2, 4, b"abc\0"), (0x0132, 9, 9, bytes(4))]
    body = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    odd = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)
    stored = picture(side=24).crop((0, 0, 24, 16))
    image = read_image(encoded(stored, "JPEG", quality=95, exif=odd))
    assert image.shape == (1, 3, 24, 16) and (image - tensor(stored.rotate(-90, expand=True))).abs().mean() < 0.02
    assert read_image(encoded(stored, "PNG", exif=b"Exif\0\0nonsense")).shape == (1, 3, 16, 24)


@pytest.mark.parametrize(
    ("kind", "start"), [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"profile\0\0")]
)
def test_a_png_with_two_megabytes_of_text_or_profile(kind, start):
    raw = b"".join(b"\0" + row.tobytes() for row in np.asarray(picture(side=8)).reshape(8, 24))
    image = read_image(png(8, 8, 8, 2, raw, chunk(kind, start + zlib.compress(b"ab" * 10**6))))
    assert torch.equal(image, tensor(picture(side=8)))


def profile(primaries, gamma):
    """A minimal ICC profile of a display with these primaries (XYZ of D50) and gamma."""
    fixed = [struct.pack(">3i", *(round(value * 65536) for value in xyz)) for xyz in (*primaries, (0.9642, 1, 0.8249))]
    parts = {name: b"XYZ \0\0\0\0" + xyz for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt"), fixed, strict=True)}
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    parts |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    parts[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(79)
    table, data, at = b"", b"", 128 + 4 + 12 * len(parts)
    for name, part in parts.items():
        table += struct.pack(">4sII", name, at + len(data), len(part))
        data += part + bytes(-len(part) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(data), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return head + struct.pack(">I", len(parts)) + table + data


# ProPhoto RGB: gamma 1.8 and primaries far outside of sRGB
PROPHOTO = profile([(0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249)], 1.8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_converted_to_srgb_by_the_profile(mode):
    flat = Image.new(mode, (8, 8), (100, 120, 90, 255)[: len(mode)])
    image = read_image(encoded(flat, "PNG", icc_profile=PROPHOTO))[0, :, 0, 0]
    linear = torch.tensor([100, 120, 90]).div(255).pow(1.8).double()
    xyz = torch.tensor([[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0, 0.0, 0.8249]]).double() @ linear
    to_rgb = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]  # D50 to linear sRGB
    rgb = (torch.tensor(to_rgb).double() @ xyz).clamp(0, 1)
    expected = torch.where(rgb < 0.0031308, 12.92 * rgb, 1.055 * rgb.pow(1 / 2.4) - 0.055)
    assert (image - expected).abs().max() < 2 / 255 and (image - torch.tensor([100, 120, 90]) / 255).abs().max() > 0.05


def test_a_profile_that_is_damaged_or_of_srgb_changes_nothing():
    plain = read_image(encoded(picture(), "PNG"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (srgb, PROPHOTO[:200], b"x" * 40):
        assert torch.equal(read_image(encoded(picture(), "PNG", icc_profile=icc)), plain)
    rgba = picture().convert("RGBA")
    rgba.putalpha(128)
    _, alpha = read_rgba(encoded(rgba, "PNG", icc_profile=PROPHOTO))
    assert torch.allclose(alpha, torch.tensor(128 / 255))


def test_transparency_is_composited_on_white_or_given_apart():
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[:, 2:4, 3] = 51  # a fifth of red
    rgba[:, 4:, 3] = 255
    data = encoded(Image.fromarray(rgba), "PNG")
    expected = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.8, 0.8], [1.0, 0.0, 0.0]])
    assert torch.allclose(read_image(data)[0, :, 0, [0, 2, 7]].T, expected)
    colours, mask = read_rgba(data)
    assert mask.shape == (1, 1, 8, 8) and torch.allclose(mask[0, 0, 0, [0, 2, 7]], torch.tensor([0, 0.2, 1]))
    assert (colours[0, 0] == 1).all() and (colours[0, 1:] == 0).all()
    assert torch.equal(read_rgba(encoded(picture(), "PNG"))[1], torch.ones(1, 1, 24, 24))
    flat = Image.new("P", (8, 8), 0)
    flat.putpalette([255, 0, 0, 0, 0, 255])
    flat.paste(1, (4, 0, 8, 8))
    image = read_image(encoded(flat, "GIF", transparency=0))  # a transparent colour of a palette
    assert image[0, :, 0, 0].tolist() == [1, 1, 1] and image[0, :, 0, 7].tolist() == [0, 0, 1]


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1", "CMYK", "RGBA", "RGBX"])
def test_modes_give_the_same_image_as_a_conversion(mode):
    image = read_image(encoded(picture(mode), "TIFF" if mode not in ("P", "LA") else "PNG"))
    assert (image - tensor(picture(mode))).abs().max() < 2 / 255
    if mode == "CMYK":  # whose JPEG some programs invert
        assert (read_image(encoded(picture(mode), "JPEG", quality=95)) - tensor(picture())).abs().mean() < 0.05


RAMP, FEW = np.linspace(0, 65535, 64 * 8).reshape(8, 64), 4 * np.arange(64).reshape(8, 8)


def test_deep_grey_and_16_bit_colour_are_scaled_not_clipped():
    for values, file_format, peak in (
        (RAMP.astype(np.uint16), "PNG", 65535),
        (RAMP.astype(np.uint16), "TIFF", 65535),
        (FEW.astype(np.uint16), "TIFF", 255),  # 8-bit values in a larger file
        (FEW.astype(np.int32), "TIFF", 255),
        (np.full((8, 8), 0.25, np.float32), "TIFF", 1),
    ):
        image = read_image(encoded(Image.fromarray(values), file_format))
        assert torch.allclose(image, torch.from_numpy(values.astype(np.float32) / peak).expand_as(image))
    values = np.linspace(0, 65535, 8 * 8 * 3).astype(">u2").reshape(8, 24)
    image = read_image(png(8, 8, 16, 2, b"".join(b"\0" + row.tobytes() for row in values)))
    expected = torch.from_numpy(values.astype(np.float32).reshape(8, 8, 3)).permute(2, 0, 1)[None] / 65535
    assert (image - expected).abs().max() <= 1.01 / 255


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(file_format):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if file_format == "WEBP" else {}
    image = read_image(encoded(red, file_format, save_all=True, append_images=[blue], **options))
    assert image[0, :, 8, 8].tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", ["photo.jfif", "photo.tga", "photo.jp2", "photo.heif"])
def test_formats_that_people_have_too(name, tmp_path, monkeypatch):
    if name.endswith("heif"):
        reason = "pillow-heif is not installed: pip install pillow-heif"
        pytest.importorskip("pillow_heif", reason=reason).register_heif_opener()
    kind = {"jfif": "JPEG", "tga": "TGA", "jp2": "JPEG2000", "heif": "HEIF"}[name.split(".")[1]]
    picture(side=64).save(tmp_path / name, kind)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert (read_image(f"~/{name}") - tensor(picture(side=64))).abs().mean() < 0.03


def refused(source, *words, **options):
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_paths_that_are_refused_and_huge_files_before_reading(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "none.png", "there is no", "none.png")
    refused(tmp_path / "empty.png", "empty.png is empty")
    refused("a\0b.png", "path")
    for path in (tmp_path, "/dev/zero", tmp_path / "pipe.png"):
        refused(path, "is a folder, a device or a pipe")
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda self: pytest.fail("read"))
    with open(tmp_path / "big.png", "wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # sparse
    refused(tmp_path / "big.png", "to 200 MB")
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    refused(encoded(picture(), "PNG"), "image file of 1 byte to")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"just text, and more of it", "notes.txt cannot be read"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC or a video; install pillow-heif, or export it"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "at least 8 and at most 50 million pixels but notes.txt has 1 x 1"),
        (encoded(Image.new("RGB", (100, 7)), "PNG"), "100 x 7"),
        (encoded(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "TIFF"), "0…65535 but notes.txt holds 70000"),
        (encoded(Image.fromarray(np.full((8, 8), 25, np.float32)), "TIFF"), "0…1 but notes.txt holds 25"),
        *((encoded(picture(side=64), kind)[:-200], f"damaged {kind} file") for kind in ("PNG", "JPEG", "BMP")),
    ],
)
def test_contents_that_are_refused(data, words):
    refused(data, words, name="notes.txt")


def test_huge_headers_are_refused_before_decoding(monkeypatch, recwarn):
    data = encoded(picture(), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # 24 x 24 gives a warning in Pillow
    assert read_image(data).shape == (1, 3, 24, 24) and not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # an error, from twice as much
    refused(data, "million pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # Pillow's own
    for owner in (Image.Image, ImageFile.ImageFile):
        monkeypatch.setattr(owner, "load", lambda self: pytest.fail("decoded"))
    for side in (7100, 50_000, 2**31 - 1):
        refused(png(side, side, 8, 2, b"\0" * 100), "at most 50 million pixels")


@pytest.mark.parametrize("kind", KINDS)
def test_spoiled_files_are_read_or_refused_in_one_sentence(kind, monkeypatch, capfd, recwarn):
    monkeypatch.setattr(images, "MAX_PIXELS", 1_000_000)
    rng, files, outcomes = random.Random(kind), seeds()[kind], {"read": 0, "refused": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(150):
        data = spoiled(kind, files[case % len(files)], rng)
        try:
            image = read_image(data)
            assert image.dtype == torch.float32 and image.shape[:2] == (1, 3)
            assert min(image.shape[2:]) >= 8 and image.shape[2:].numel() <= images.MAX_PIXELS
            assert torch.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
            outcomes["read"] += 1
            assert mask_from_file(data, rng.choice([None, 16])).shape[:2] == (1, 1)
        except (ImageError, ValueError) as error:  # many are too coloured for a mask
            assert "\n" not in str(error) and len(str(error)) < 300
            outcomes["refused"] += isinstance(error, ImageError)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # kB on Linux
    captured = capfd.readouterr()
    assert not recwarn.list and not captured.out and (kind == "tiff" or not captured.err)  # libtiff writes there itself
    assert grown < 300, f"{grown:.0f} MB more"
    assert outcomes["refused"] >= 12 and outcomes["read"] >= 12, outcomes


def test_to_uint8_rounds_and_clamps_and_back_is_exact_and_wrong_shapes_are_refused():
    values = torch.tensor([-0.5, 0.0, 0.9 / 255, 127.4 / 255, 127.6 / 255, 254.9 / 255, 1.5, 1.0])
    pixels = images.to_uint8(values.view(1, 1, 1, 8).expand(1, 3, 1, 8))
    assert pixels.dtype == np.uint8 and pixels[0, 0, :, 2].tolist() == [0, 0, 1, 127, 128, 255, 255, 255]
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(images.to_uint8(from_uint8(pixels)), pixels)
    for wrong in (torch.rand(3, 8, 8), torch.rand(1, 4, 8, 8), torch.rand(0, 3, 8, 8), None):
        with pytest.raises(ImageError, match="expected images of shape"):
            images.to_uint8(wrong)
    for array in (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8)):
        with pytest.raises(ImageError, match="expected uint8"):
            from_uint8(array)


def test_resize_crop_and_grid():
    lines = (torch.arange(64) % 4 == 0).float().expand(1, 3, 64, 64).clone().requires_grad_()
    small = resize(lines, 16)
    assert small.shape == (1, 3, 16, 16)
    assert (small - 0.25).abs()[..., 2:-2].max() < 0.02  # each pixel covers one line; without, it falls between two
    small.sum().backward()
    assert lines.grad.abs().sum() > 0
    edge = torch.zeros(1, 3, 16, 16)
    edge[..., 8:] = 1
    large = resize(edge, (20, 40))
    assert large.shape == (1, 3, 20, 40) and large.min() >= 0 and large.max() <= 1 and resize(edge, 16) is edge
    with pytest.raises(ImageError):
        resize(edge, 0)
    image, wide = noise(10, 20), torch.zeros(1, 3, 16, 48)
    assert torch.equal(crop(image, (3, 1, 12, 9)), image[:, :, 1:9, 3:12])
    assert torch.equal(images.square_crop(image), image[..., 5:15])
    assert torch.equal(images.square_crop(image.transpose(2, 3)), image.transpose(2, 3)[:, :, 5:15])
    wide[..., 16:32] = 1
    data = encoded(Image.fromarray(images.to_uint8(wide)[0]), "PNG")
    assert torch.equal(read_image(data, size=8), torch.ones(1, 3, 8, 8))
    for box in ((0, 0, 0, 5), (5, 0, 4, 5), (-1, 0, 8, 8), (0, 0, 21, 8), (4, 4, 5, 5)):
        with pytest.raises(ImageError, match="expected a box .*within 20 x 10|at least 8 x 8 pixels but got 1 x 1"):
            crop(image, box)
    batch = noise(4, 6, count=5)
    joined = grid(batch, columns=2, padding=1)
    assert joined.shape == (1, 3, 3 * 5 - 1, 2 * 7 - 1) and torch.equal(joined[0, :, 5:9, 7:13], batch[3])
    assert (joined[0, :, 4] == 1).all() and (joined[0, :, 10:, 7:] == 1).all()
    assert grid(noise(4, 4, count=9), padding=0).shape == (1, 3, 12, 12)
    assert torch.equal(grid(batch[:1]), batch[:1])


def test_what_is_written_is_read_back(tmp_path):
    image, mask = noise() * 1.4 - 0.2, torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    assert torch.equal(quantize(quantize(image)), quantize(image))
    for suffix in ("png", "webp"):  # without loss
        images.write_image(tmp_path / f"new/a.{suffix}", image)
        assert torch.equal(read_image(tmp_path / f"new/a.{suffix}"), quantize(image))
    found = read_image(memoryview((tmp_path / "new/a.png").read_bytes()))  # as uploads come
    assert found.dtype == torch.float32 and torch.equal(found, read_image(str(tmp_path / "new/a.png")))
    images.write_image(tmp_path / "a.JPG", smooth())
    assert (read_image(tmp_path / "a.JPG") - smooth()).abs().max() < 0.03
    images.write_image(tmp_path / "mask.png", mask)
    assert torch.equal(read_image(tmp_path / "mask.png")[:, :1], quantize(mask))
    assert Image.open(tmp_path / "mask.png").mode == "L"
    for name, wrong, message in (
        ("a.xyz", image, r"ending in \.png.* but got 'a\.xyz'"),
        ("b.png", noise(count=2), "one image .* got 2"),
        ("b.png", image * torch.nan, "NaN"),
    ):
        with pytest.raises(ImageError, match=message):
            images.write_image(tmp_path / name, wrong)
    assert not (tmp_path / "b.png").exists()


def test_gif_and_mp4_have_their_frames_and_a_film_with_sound_leaves_the_next_as_it_is(tmp_path):
    frames = smooth(count=5)
    write_gif(tmp_path / "a.gif", (frame[None] for frame in frames), fps=30)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 5 and gif.info["loop"] == 0 and gif.size == (288, 288)
        durations = []
        for index in range(5):
            gif.seek(index)
            durations.append(gif.info["duration"])
            shown = from_uint8(np.asarray(gif.convert("RGB")))[..., 3::6, 3::6]
            assert (shown - frames[index]).square().mean().sqrt() < 0.02
    assert sum(durations) == 170  # 5 / 30 s in hundredths
    write_gif(tmp_path / "large.gif", noise(256, 300, count=2), fps=10)
    with Image.open(tmp_path / "large.gif") as gif:
        assert gif.size == (300, 256) and gif.info["duration"] == 100
    frames = smooth(count=4)[..., :47]
    write_mp4(tmp_path / "a.mp4", (frame[None] for frame in frames), fps=24)
    video = iio.imread(tmp_path / "a.mp4")
    assert video.shape == (4, 288, 282, 3)
    for shown, frame in zip(video, frames, strict=True):
        error = from_uint8(shown)[0, :, 3::6, 3::6] - frame
        assert error.square().mean().sqrt() < 0.02
    assert iio.immeta(tmp_path / "a.mp4")["fps"] == 24
    asked = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "a.mp4"]
    shown = subprocess.run(asked, capture_output=True, text=True).stderr
    assert "h264" in shown and "yuv420p(tv, bt709" in shown  # without the tag players guess the colours
    silent, film = tmp_path / "silent.mp4", tmp_path / "film.mp4"
    tone = [imageio_ffmpeg.get_ffmpeg_exe(), "-f", "lavfi", "-i", "sine=d=0.2", tmp_path / "tone.wav"]
    subprocess.run(tone, check=True, capture_output=True)
    write_mp4(film, torch.rand(4, 3, 32, 32), sound=tmp_path / "tone.wav")
    write_mp4(silent, torch.rand(4, 3, 32, 32))
    assert [read_film(path, 32)[1] for path in (film, silent)] == [True, False]


@pytest.mark.parametrize(("write", "name"), [(write_gif, "a.gif"), (write_mp4, "a.mp4")])
def test_animations_refuse(write, name, tmp_path):
    wrong = {"at least one frame": [], "frames of one size": [noise(), noise(16, 16)]}
    wrong |= {"NaN": [noise(), noise() * float("nan")], "frames per second": noise(), "ending in": noise()}
    for message, frames in wrong.items():
        with pytest.raises(ImageError, match=message):
            write(tmp_path / ("a.avi" if message == "ending in" else name), frames, 0 if "second" in message else 9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["12:30", "-x"])
def test_folders_that_ffmpeg_would_misread_and_odd_sides(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mp4(f"{folder}/-a.mp4", noise(257, 301, count=2))
    assert iio.imread(tmp_path / folder / "-a.mp4").shape == (2, 258, 302, 3)
