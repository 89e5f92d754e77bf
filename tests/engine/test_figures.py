"""Figures: sheets without text over text, crisp images, curves, tables, files."""

import itertools
import math
import os

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg

from helpers.figures import DPI, labelled_grid, plot_losses, result_sheet, results_table, save_figure, show_images
from helpers.files import WriteError
from helpers.images import ImageError


def noise(count=3, side=64, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def texts_of(figure):
    """All texts of a sheet that say something."""
    texts = [text for ax in figure.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label)]
    return [text for text in [*texts, *figure.texts] if text.get_text()]


def boxes(figure):
    """Pixel boxes of all texts and images of a sheet."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text.get_window_extent(canvas.get_renderer()) for text in texts_of(figure)]
    return texts, [ax.images[0].get_window_extent(canvas.get_renderer()) for ax in figure.axes if ax.images]


def assert_well_laid_out(figure):
    texts, pictures = boxes(figure)
    width, height = figure.get_size_inches() * DPI
    for box in texts + pictures:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, box
    for a, b in itertools.combinations(texts + pictures, 2):
        assert min(a.x1, b.x1) - max(a.x0, b.x0) < 0.5 or min(a.y1, b.y1) - max(a.y0, b.y0) < 0.5, (a, b)


LONG = "a long title about the weights of the perceptual loss, and Pneumonoultramicroscopicsilicovolcanoconiosis"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: show_images(noise(), ["one", LONG, "three"], captions=["short", LONG, ""], suptitle="Title"),
        lambda: show_images([noise(1, 16), noise(1, 300), noise(1, 1000)], [LONG] * 3, columns=2, suptitle=LONG + LONG),
        lambda: labelled_grid([noise(2), noise(2)], ["L1", LONG], ["z", LONG], captions=[["a", LONG], ["", "b"]]),
        lambda: labelled_grid([noise(3, 16)], [LONG * 2], ["z", LONG, "w+"], scale=1),
        lambda: result_sheet(noise(1), [{"image": noise(1, seed=k), "label": ["w+", LONG, "12 s"]} for k in range(7)]),
    ],
    ids=["images", "sizes", "grid", "tall label", "results"],
)
def test_no_text_overlaps_or_is_cut(draw):
    assert_well_laid_out(draw())


def test_sizes_of_images():
    image = noise(1)
    figure = show_images(image)
    shown, (box,) = pixels(figure), boxes(figure)[1]
    expected = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).repeat(3, 0).repeat(3, 1)
    top, left = round(len(shown) - box.y1), round(box.x0)
    inside = (slice(2, -2), slice(2, -2))  # the rim
    assert np.array_equal(shown[top : top + 192, left : left + 192][inside], expected[inside])  # crisp
    assert boxes(show_images(noise(1), scale=2))[1][0].width == pytest.approx(128)
    assert boxes(show_images(noise(1, 1024)))[1][0].width == pytest.approx(320)
    figure = show_images([torch.rand(1, 3, 64, 128), torch.rand(1, 3, 64, 32)], columns=1)
    assert [box.width / box.height for box in boxes(figure)[1]] == pytest.approx([2, 0.5])
    rows, columns = (pixels(show_images(torch.ones(1, 3, 64, 64))).min(axis=2) < 230).nonzero()
    assert np.ptp(rows) in (191, 192, 193) and np.ptp(columns) in (191, 192, 193)  # a white image has an edge


def test_columns_are_balanced_texts_are_taken_literally_and_stand_where_they_belong():
    for columns, expected in ((None, (4, 2)), (3, (3, 3))):
        shown = boxes(show_images(noise(8), columns=columns))[1]
        assert len(shown) == 8
        assert (len({round(box.x0) for box in shown}), len({round(box.y0) for box in shown})) == expected
    figure = show_images(noise(1), [r"$\frac{$"])  # as mathematics it could not be drawn
    assert [text.get_text() for text in texts_of(figure)] == [r"$\frac{$"] and pixels(figure).shape[2] == 3
    assert figure._repr_png_().startswith(b"\x89PNG") and pyplot.get_fignums() == []
    figure = result_sheet(noise(1), [{"image": noise(1), "label": ["w+", "PSNR 24.1 dB", "SSIM 0.81"]}])
    texts, (target, result) = boxes(figure)
    by_name = {text.get_text(): box for text, box in zip(texts_of(figure), texts, strict=True)}
    assert set(by_name) == {"target", "w+", "PSNR 24.1 dB\nSSIM 0.81"} and target.x1 < result.x0
    caption = by_name["PSNR 24.1 dB\nSSIM 0.81"]
    assert by_name["w+"].y0 > result.y1 and caption.y1 < result.y0
    assert all(abs((box.x0 + box.x1 - result.x0 - result.x1) / 2) < 1 for box in (by_name["w+"], caption))
    figure = labelled_grid([[noise(1), None], [None, noise(1)]], ["a", "b"], ["c", "d"])
    assert len(boxes(figure)[1]) == 2
    assert_well_laid_out(figure)
    assert (np.ptp(pixels(show_images(torch.full((1, 1, 64, 64), 0.5))), axis=2) == 0).all()


REFUSED = {
    "nothing": lambda: show_images([]),
    "titles": lambda: show_images(noise(), ["one"]),
    "NaN": lambda: show_images(noise() * float("nan")),
    "shape": lambda: show_images(noise()[0]),
    "row labels": lambda: labelled_grid([noise(2)], ["a", "b"]),
    "column labels": lambda: labelled_grid([noise(2)], ["a"], ["b"]),
    "no rows": lambda: labelled_grid([]),
    "no curve": lambda: plot_losses({}),
    "no value": lambda: plot_losses({"a": []}),
    "no finite value": lambda: plot_losses({"a": [float("nan")]}),
    "no positive value": lambda: plot_losses({"a": [0.0, -1.0]}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    with pytest.raises(ImageError, match="expected"):
        REFUSED[what]()


def test_curves_and_tables():
    history = {"total": [1.0, 0.5, 0.25], "L1": [0.5, 0.0, 0.1]}
    axes = plot_losses(history).axes[0]
    total, l1 = axes.lines
    assert axes.get_yscale() == "log" and total.get_ydata().tolist() == [1, 0.5, 0.25]
    assert math.isnan(l1.get_ydata()[1])  # a logarithmic axis has no 0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["total", "L1"]
    assert plot_losses(history, log=False).axes[0].lines[1].get_ydata()[1] == 0
    rows = [
        {"file": "a.png", "steps": 500, "psnr": 21.234, "ssim": 0.7123, "delta": 1.5e-6},
        {"file": "b|c.png", "steps": 1000, "psnr": math.inf, "ssim": math.nan, "seconds": 3.14159},
    ]
    assert results_table(rows).split("\n") == [
        "| file     | steps |  psnr |   ssim |    delta | seconds |",
        "| -------- | ----: | ----: | -----: | -------: | ------: |",
        "| a.png    |   500 | 21.23 | 0.7123 | 1.50e-06 |       – |",
        "| b\\|c.png |  1000 |     ∞ |      – |        – |   3.142 |",
    ]


def test_figures_are_written_or_the_old_file_stays(tmp_path, monkeypatch):
    figure = show_images(noise(1), ["one"])
    for suffix in ("png", "jpg", "pdf", "svg"):
        save_figure(figure, tmp_path / "new" / f"a.{suffix}")
        assert (tmp_path / "new" / f"a.{suffix}").stat().st_size > 1000
    assert len(list((tmp_path / "new").iterdir())) == 4
    with pytest.raises(ImageError, match="ending in"):
        save_figure(figure, tmp_path / "a.xyz")
    before = (tmp_path / "new" / "a.png").read_bytes()
    monkeypatch.setattr(figure, "savefig", lambda path, **_: path.write_bytes(b"half") and os.mkdir(tmp_path / "new"))
    with pytest.raises(WriteError):
        save_figure(figure, tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").read_bytes() == before and len(list((tmp_path / "new").iterdir())) == 4
