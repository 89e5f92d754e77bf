"""Sliders that render at once show what the plain functions give; and uploads with their crop."""

import cmath
import datetime
import io

import pytest
import torch
from PIL import Image

from helpers.faces import NoFace
from helpers.latents import Latents, interpolate
from helpers.noise import partly_fitted
from helpers.photos import cut_square
from helpers.widgets.html import jpeg_url
from helpers.widgets.noise import noise_slider
from helpers.widgets.sliders import interpolation_slider, truncation_slider
from helpers.widgets.upload import PhotoUpload, face_square
from tests.support import tiny


def test_the_interpolation_slider_shows_the_latents_between_and_renders_each_stop_once(generator, monkeypatch):
    ends = [Latents("w", generator.sample("w", 1, seed)) for seed in (0, 1)]
    slider = interpolation_slider(generator, *ends)
    (t,) = slider.controls
    t.value = 0.3
    torch.testing.assert_close(slider.latents.code, torch.lerp(*(end.code for end in ends), 0.3))
    image = slider.images["t = 0.30"]
    torch.testing.assert_close(image, generator.synthesize(interpolate(*ends, 0.3)).clamp(0, 1))
    shown = slider.view.value
    assert jpeg_url(image) in shown
    t.value = 1.0
    assert slider.view.value != shown
    monkeypatch.setattr(generator, "synthesize", lambda *_: pytest.fail("rendered again"))
    t.value = 0.3
    assert slider.view.value == shown
    with pytest.raises(ValueError, match="one space"):
        interpolation_slider(generator, Latents("z", torch.zeros(1, 8)), ends[0])


def test_the_truncation_and_noise_sliders_show_what_they_say(generator):
    slider = truncation_slider(generator, n=3, seed=5)
    for truncation, seed in ((0.7, 5), (1.0, 6), (0.0, 5)):
        slider.controls[0].value, slider.controls[1].value = truncation, seed
        z = generator.sample("z", 3, seed)
        images = generator.synthesize(Latents("w", generator.map(z, truncation))).clamp(0, 1)
        torch.testing.assert_close(torch.cat(list(slider.images.values())), images)
        assert list(slider.images) == ["no. 1", "no. 2", "no. 3"] and jpeg_url(images[1:2]) in slider.view.value
    mean = generator.synthesize(Latents("w", generator.mean("w"))).clamp(0, 1)
    torch.testing.assert_close(images, mean.expand(3, -1, -1, -1))
    with pytest.raises(ValueError, match="only z"):
        truncation_slider(tiny.dcgan())
    latents = Latents("w", generator.sample("w", 2, seed=1), generator.fresh_noise(2, seed=4))
    target = generator.synthesize(latents[0]).clamp(0, 1)
    slider = noise_slider(generator, latents, target)
    assert torch.equal(slider.images["inf dB"], target)
    shown, (amount, levels) = slider.view.value, slider.controls
    amount.value, levels.value = 0.5, 2
    expected = generator.synthesize(partly_fitted(generator, latents[0], 0.5, 2)).clamp(0, 1)
    assert torch.allclose(list(slider.images.values())[1], expected) and slider.view.value != shown
    levels.value = 0
    assert torch.allclose(list(slider.images.values())[1], generator.synthesize(latents.code[:1]).clamp(0, 1))
    with pytest.raises(ValueError, match="no noise maps"):
        noise_slider(generator, Latents("w", latents.code), target)


def photo_bytes(width=40, height=30):
    """An image whose red is the column and whose green is the row."""
    picture = Image.new("RGB", (width, height))
    picture.putdata([(5 * x % 256, 5 * y % 256, 0) for y in range(height) for x in range(width)])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def uploaded(content, name="me.png", version=8):
    """What the upload button of that version of ipywidgets has as its value."""
    facts = {"name": name, "type": "image/png", "size": len(content)}
    if version == 7:
        return {name: {"metadata": facts, "content": content}}
    return (facts | {"content": memoryview(content)},)


@pytest.mark.parametrize("version", [7, 8])
def test_an_uploaded_photo_is_cropped_to_its_centre_and_the_crop_follows_the_box(version):
    upload, seen = PhotoUpload(15), []
    upload.observe(lambda change: seen.append(change["new"]), "image")
    assert upload.image is None and upload.view.value == "" and upload.crop.layout.display == "none"
    upload.receive(uploaded(photo_bytes(), version=version))
    assert upload.cropper.box == [5, 0, 35, 30] and upload.image.shape == (1, 3, 15, 15)
    assert upload.image[0, 0].mean().item() == pytest.approx(5 * 19.5 / 255, abs=0.01)
    assert len(seen) == 1 and seen[0] is upload.image and upload.view.value.count("<img") == 1
    assert upload.crop.layout.display is None
    upload.receive(uploaded(photo_bytes(12, 48), version=version))  # another size
    assert upload.cropper.box == [0, 18, 12, 30] and len(seen) == 2
    upload, (file,) = PhotoUpload(10), uploaded(photo_bytes())
    upload.button.set_trait("value", ({**file, "last_modified": datetime.datetime.now(datetime.UTC)},))
    upload.cropper.box = [30, 20, 40, 30]
    torch.testing.assert_close(upload.image[0, 0, 0] * 255, 5.0 * torch.arange(30, 40))
    torch.testing.assert_close(upload.image[0, 1, :, 0] * 255, 5.0 * torch.arange(20, 30))


def test_a_face_that_is_found_gives_the_box_turned_upright_and_what_the_model_gets(generator, monkeypatch):
    """A stripe that points to the right is turned by 90 degrees and stands upright in the crop."""
    photo = torch.zeros(1, 3, 60, 80)
    photo[:, 0, 28:32, 50:60] = 1.0  # the arm points to the right

    def find(image):
        if image.shape[-1] == 80:
            return (30, 20, 50, 40), 90.0
        raise NoFace("shows no face", image)

    upload = PhotoUpload(20, find=find)
    upload.set_photo(photo, "cross")
    assert upload.cropper.box == [30, 20, 50, 40] and upload.cropper.turn == 90
    upload.cropper.box = [30, 10, 70, 50]
    red = upload.image[0, 0]
    assert red[5:10, 9:11].mean() > 0.8 and red[:4].max() < 0.1 and red[11:].max() < 0.1
    upload.set_photo(photo[..., :70], "a dog.png")
    assert upload.cropper.turn == 0 and upload.cropper.box == [5, 0, 65, 60]
    assert "No face was found in a dog.png" in upload.message.value
    # A similarity transform as a box with a turn: the crop is the same.
    scaled_turn, shift = 0.4 * cmath.exp(-0.3j), 2 + 1j
    monkeypatch.setattr("helpers.faces.find_place", lambda *_: (scaled_turn, shift))
    photo = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 6), (60, 80), mode="bilinear")
    upload = PhotoUpload(16, find=lambda image: face_square(image, generator))
    upload.set_photo(photo, "cat")
    torch.testing.assert_close(upload.image, cut_square(photo, scaled_turn, shift, 16), atol=1e-4, rtol=0)


@pytest.mark.parametrize("content", [b"", b"not an image", photo_bytes(90, 90)[:200], photo_bytes(1, 1)])
def test_a_bad_upload_is_one_sentence_and_the_last_photo_stays(content):
    upload = PhotoUpload(16)
    upload.receive(uploaded(photo_bytes()))
    kept = upload.image
    upload.receive(uploaded(content, "<b>bad</b>.png"))
    assert "&lt;b&gt;bad&lt;/b&gt;.png" in upload.message.value and "<b>" not in upload.message.value
    assert upload.image is kept
    upload.receive(uploaded(photo_bytes()))
    assert upload.message.value == ""
