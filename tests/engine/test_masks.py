"""Masks: shapes and their areas, what counts as a mask, algebra, feathering, the pyramid."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import masks
from helpers.images import ImageError, write_image
from helpers.masks import as_mask, mask_from_file, mask_from_text
from helpers.photos import FACE_LANDMARKS, WITH_EARS

SIZE = 64


def area(mask):
    return mask.mean().item()


def test_half_covers_its_side_and_named_shapes_fit_every_size():
    for side, corner in {"left": (0, 0), "right": (0, -1), "top": (0, 0), "bottom": (-1, 0)}.items():
        mask = masks.half(SIZE, side)
        assert mask.shape == (1, 1, SIZE, SIZE) and area(mask) == 0.5 and mask[0, 0][corner] == 1
        assert area(masks.half((10, 20), side, at=0.3)) == pytest.approx(0.3 if side in ("left", "top") else 0.7)
    for shape in masks.SHAPES.values():
        small, large = shape(64), shape(256)
        assert small.shape == (1, 1, 64, 64) and 0.05 < small.mean() < 0.6 and abs(small.mean() - large.mean()) < 0.005


DISC = math.pi * 0.125**2
SHAPES = {  # of each its area, and values at (row, column)
    "box": (lambda: masks.box((10, 20), (0.1, 0.25, 0.5, 0.75)), 0.4 * 0.5, {(2, 5): 0.5, (5, 1): 0, (5, 2): 1}),
    "ellipse": (lambda: masks.ellipse(SIZE, (0.25, 0.5), (0.2, 0.4)), math.pi * 0.08, {(32, 16): 1, (32, 40): 0}),
    "turned": (lambda: masks.ellipse(SIZE, radii=(0.45, 0.1), angle=45), math.pi * 0.045, {(48, 48): 1, (16, 48): 0}),
    "polygon": (lambda: masks.polygon(SIZE, [(0, 0), (1, 0), (0, 1)]), 0.5, {(5, 5): 1, (60, 60): 0, (31, 32): 0.5}),
    "stroke": (lambda: masks.brush(SIZE, [(0.25, 0.5), (0.75, 0.5)], 0.25), 0.125 + DISC, {(32, 32): 1, (20, 32): 0}),
    "corner": (
        lambda: masks.brush(SIZE, [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75)], 0.125),
        0.125 + 1.25 * DISC / 4 - 0.0625**2,  # without what the strokes have in common
        {(16, 32): 1, (32, 48): 1, (32, 32): 0},
    ),
    "dot": (lambda: masks.brush(SIZE, [(0.5, 0.5)], 0.25), DISC, {(32, 32): 1, (10, 10): 0}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_their_area_and_place(name):
    make, expected, values = SHAPES[name]
    mask = make()
    assert mask.shape[:2] == (1, 1) and area(mask) == pytest.approx(expected, rel=0.01)
    for at, value in values.items():
        assert mask[0, 0][at] == pytest.approx(value, abs=0.2 if 0 < value < 1 else 0)


IMPOSSIBLE = {
    "half": lambda: masks.half(SIZE, "middle"),
    "box": lambda: masks.box(SIZE, (0.5, 0, 0.2, 1)),
    "ellipse": lambda: masks.ellipse(SIZE, radii=(0, 0.2)),
    "polygon": lambda: masks.polygon(SIZE, [(0, 0), (1, 1)]),
    "feather": lambda: masks.feather(masks.half(SIZE), -1),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_shapes_are_refused_in_one_sentence(name):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        IMPOSSIBLE[name]()


def test_booleans_whole_numbers_and_rounded_floats_become_masks():
    half = masks.half(SIZE)
    levels, numbers = (half * 255).to(torch.uint8), half[0, 0].numpy()
    plain = half > 0.5, (half[0, 0] > 0.5).numpy(), numbers.astype(">f8"), numbers[::-1, ::-1][::-1, ::-1]
    for values in (*plain, levels, levels[0, 0].numpy()[..., None], levels.numpy().astype(">u2"), half.long()):
        assert torch.equal(as_mask(values, SIZE), half)
    assert as_mask(torch.full((4, 4), 51, dtype=torch.uint8)).max() == pytest.approx(0.2)
    assert as_mask([[0, 255], [0, 51]]).flatten().tolist() == pytest.approx([0, 1, 0, 0.2])
    assert as_mask(torch.tensor([[1.0000002, -1e-7]])).tolist() == [[[[1, 0]]]]
    for value in (0.0, 1.0):
        assert torch.equal(as_mask(torch.full((8, 8), value), 8), torch.full((1, 1, 8, 8), value))


WRONG = {
    "NaN": [torch.full((8, 8), math.nan), torch.full((8, 8), math.inf), np.full((8, 8), 1e300)],
    "divide it by 255": [torch.full((8, 8), 255.0)],
    "scale it": [torch.full((8, 8), -0.5), np.full((8, 8), -1)],
    "8 x 8 pixels; got 8 x 9": [torch.ones(9, 8)],
    "one channel": [torch.ones(1, 3, 8, 8), torch.ones(8), np.ones(()), np.ones((8, 0, 1)), np.ones((1, 1, 1, 8, 8))],
    "array of numbers": [None, "mask", {"mask": 1}, [[1, 0], [1]], *(np.ones((8, 8), t) for t in ("c8", "O", "M8[s]"))],
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_not_a_mask_is_refused_in_one_sentence(message):
    for values in WRONG[message]:
        with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*\.$"):
            as_mask(values, 8)


HALF = np.zeros((SIZE, SIZE), np.uint8)
HALF[:, : SIZE // 2] = 255
DOT = np.zeros((SIZE, SIZE), np.uint8)
DOT[5, 5] = 1


def palette(colours, labels):
    image = Image.fromarray(labels, "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def rgba(grey, alpha):
    return Image.fromarray(np.dstack([np.broadcast_to(np.uint8(grey), (SIZE, SIZE))] * 3 + [alpha]))


MASKS = {  # all of them select the left half
    "white": lambda: Image.fromarray(HALF),
    "black ink on transparent": lambda: rgba(0, HALF),
    "white ink on transparent": lambda: rgba(255, HALF),
    "nearly opaque": lambda: rgba(HALF, 255 - DOT),
    "labels 0 and 1": lambda: Image.fromarray(HALF // 255),
    "16 bit, 255": lambda: Image.fromarray(HALF.astype(np.uint16)),
    "16 bit, 65535": lambda: Image.fromarray(HALF.astype(np.uint16) * 257),
    "32 bit, 255": lambda: Image.fromarray(HALF.astype(np.int32)),
    "palette of black and red": lambda: palette([(0, 0, 0), (128, 0, 0)], HALF // 255),
    "palette of grey": lambda: palette([(0, 0, 0), (255, 255, 255)], HALF // 255),
}


@pytest.mark.parametrize("kind", MASKS)
def test_every_way_to_paint_a_mask_means_the_same(kind, tmp_path):
    MASKS[kind]().save(tmp_path / "mask.tif" if "32" in kind else tmp_path / "mask.png")
    (path,) = tmp_path.iterdir()
    for size, expected in ((None, masks.half(SIZE)), (32, masks.half(32)), ((16, 64), masks.half((16, 64)))):
        mask = mask_from_file(path, size)
        assert mask.shape == expected.shape and (mask - expected).abs().mean() < 0.02


REFUSED = {  # message to what is in the file
    r"mask.png selects \(nearly\) nothing, its values reach from 0 to 0;": lambda: Image.fromarray(0 * HALF),
    r"\(nearly\) everything, its values reach from 1 to 1;": lambda: Image.fromarray(0 * HALF + 255),
    "nothing.* from 0 to 0.00784;": lambda: Image.fromarray(HALF // 255 + DOT),  # three labels
    "has 3 colours; paint": lambda: palette([(0, 0, 0), (90, 0, 0), (0, 90, 0)], HALF // 255 + DOT),
    "nothing": lambda: Image.fromarray(np.pad(255 * DOT, (0, 960))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_masks_that_select_nothing_or_everything_are_refused_with_their_range(message, tmp_path):
    REFUSED[message]().save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=message):
        mask_from_file(tmp_path / "mask.png", SIZE)


def test_a_drawing_counts_where_something_was_drawn_and_the_overlay_tints_only_the_region():
    paper = np.full((128, 128, 3), 255, np.uint8)
    paper[:, :64] = 0
    canvas = np.zeros((128, 128, 4), np.uint8)
    canvas[:, :64, 3] = 255
    for drawing in (paper, paper[..., 0], canvas):
        assert torch.equal(masks.mask_from_drawing(drawing), masks.half(128))
    with pytest.raises(ImageError, match="uint8"):
        masks.mask_from_drawing(np.ones((4, 4)))
    image = torch.full((2, 3, 8, 8), 0.5)
    shown = masks.overlay(image, masks.half(8), opacity=0.5)
    assert torch.equal(shown[..., 4:], image[..., 4:])
    assert shown[1, :, 0, 0].tolist() == pytest.approx([0.25 + value / 2 for value in masks.OVERLAY])
    with pytest.raises(ValueError, match="size"):
        masks.overlay(image, masks.half(16))


def test_algebra_growth_and_feathering():
    left, top = masks.half(SIZE, "left"), masks.half(SIZE, "top")
    assert area(masks.union(left, top)) == 0.75 and area(masks.intersect(left, top)) == 0.25
    assert torch.equal(masks.invert(left), masks.half(SIZE, "right")) and torch.equal(masks.grow(left, 0.5), left)
    assert torch.equal(masks.grow(left, 4), masks.half(SIZE, at=36 / 64))  # at its cut, not at the image's border
    assert torch.equal(masks.grow(left, -4), masks.half(SIZE, at=28 / 64))
    grown = masks.grow(masks.ellipse(SIZE, radii=(0.25, 0.25)), 4)
    assert area(grown) == pytest.approx(math.pi * (20 / 64) ** 2, rel=0.03)
    mask = masks.feather(masks.half(SIZE), 4)
    row = mask[0, 0, 10].double()
    expected = 0.5 * torch.erfc((torch.arange(SIZE) + 0.5 - 32) / (4 * math.sqrt(2)))
    assert torch.allclose(row, expected.double(), atol=0.01)
    assert area(mask) == pytest.approx(0.5, abs=1e-4) and mask.max() <= 1 and mask.min() >= 0
    assert torch.equal(masks.feather(mask, 0), mask)
    assert torch.equal(masks.edge_band(masks.half(SIZE), 3), masks.box(SIZE, (29 / 64, 0, 35 / 64, 1)))


@pytest.mark.parametrize("size", [64, 50, (48, 63)])
def test_the_pyramid_keeps_area_and_averages_what_a_cell_covers(size):
    mask = masks.ellipse(size, (0.4, 0.55), (0.21, 0.34), angle=20)
    for level in masks.mask_pyramid(mask, [64, 32, 31, 16, 8, 7, (4, 5), 1]):
        assert area(level) == pytest.approx(area(mask), rel=1e-4) and level.min() >= 0 and level.max() <= 1
    mask = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    level, same = masks.mask_pyramid(mask, [4, (8, 8)])
    assert torch.allclose(level, torch.nn.functional.avg_pool2d(mask, 2), atol=1e-6) and torch.equal(same, mask)


def test_a_text_names_describes_or_points_to_a_mask_and_parts_are_where_the_face_has_them(tmp_path):
    write_image(tmp_path / "mask.png", masks.half(8).expand(-1, 3, -1, -1))
    right = {"half": masks.half(8), "bottom": masks.half(8, "bottom"), str(tmp_path / "mask.png"): masks.half(8)}
    right["box:0.25,0,0.5,1"] = masks.box(8, (0.25, 0, 0.5, 1))
    right["ellipse:0.5,0.5,0.3,0.2,30"] = masks.ellipse(8, (0.5, 0.5), (0.3, 0.2), 30)
    right["polygon:0.1,0.1,0.9,0.2,0.5,0.9"] = masks.polygon(8, [(0.1, 0.1), (0.9, 0.2), (0.5, 0.9)])
    for text, mask in right.items():
        assert torch.equal(mask_from_text(text, 8), mask)
    wrong = {"circle": "half, left", "box:1,2": "describes no box", "polygon:0,0,1": "no polygon", "\0": "half, left"}
    wrong |= {"box:0.5,0,0.5,1": "nothing", "box:0,0,1,1": "everything", "heart:1": "half, left"}
    wrong |= {f"box:{odd},0,1,1": "describes no box" for odd in ("1e9", "1e400", "nan", "-inf", "", "a", "0x1")}
    for text, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            mask_from_text(text, 8)
    whole = masks.shapes(WITH_EARS)
    for x, y in WITH_EARS[:2]:
        assert whole["eyes"](64)[0, 0, int(y * 64), int(x * 64)] == 1
    assert masks.on_face(WITH_EARS, *FACE_LANDMARKS[0]) == pytest.approx(WITH_EARS[0])
    share = whole["eyes"](64).mean() / masks.SHAPES["eyes"](64).mean()
    assert share == pytest.approx((0.287 / 0.44) ** 2, rel=0.02)
    assert torch.equal(mask_from_text("mouth", 64, WITH_EARS), whole["mouth"](64))
