"""Commands of style transfer: style; and data: list, fetch. The functions that write the files are here too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from helpers.commands.common import MASK_RULE, Device, Log, Out, app, data_app, device_of, layers_of, print_table
from helpers.commands.options import with_options
from helpers.style_transfer import StyleOptions

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.search import Result


def stylize_photos(
    contents: Sequence[str | Path],
    styles: Sequence[str | Path],
    out: str | Path,
    options: StyleOptions | None = None,
    *,
    size: int = 256,
    mix: bool = False,
    masks: Sequence[str | Path] = (),
    features: str | None = None,
    pooling: str = "blur",
    film: bool = False,
    device="cpu",
    log: str = "none",
    **changes,
) -> list[dict]:
    """Transfer every style to every photo; write images, films and ``results.json`` to a folder.

    A photo with all its styles is one batch, and on disk before the next one starts. After a stop or a kill the same
    call continues where it was.

    Args:
        contents, styles: files; a style may also be the name of one of ours, or of a fetched painting.
        options: see StyleOptions; ``changes`` are fields of it.
        size: longer side of the result in pixels; photos keep their shape.
        mix: all styles together in one image (by ``style_weights``) instead of one image for each.
        masks: a mask file for each style; where all are black the photo stays as it is. Implies ``mix``.
        film: a GIF and an MP4 of the process for every image.
        log: see ``open_log``.

    Returns:
        Rows of content, style, size, steps, seconds, losses, image.

    Raises:
        RunError: when photos could not be read or painted, after all others are done; it names each with its reason.
    """
    import torch

    from helpers.commands.runs import RunError
    from helpers.features import load_features
    from helpers.files import unique_stems, write_json
    from helpers.photos import photo_files
    from helpers.progress import Progress
    from helpers.style_transfer.criterion import STYLE_LAYERS, check_weights, layer_weights

    options, contents = replace(options or StyleOptions(), **changes), photo_files(contents)
    check_weights(options.weights)
    out, network = Path(out), load_features(features, device, pooling)
    chosen = STYLE_LAYERS if options.patches or options.style_layers is None else options.style_layers
    for layer in (*layer_weights(options.content_layers), *layer_weights(chosen)):
        network.locate(layer)  # an unknown one is the command's error, not a photo's
    images, together = [_read_style(style).to(device) for style in styles], mix or bool(masks)
    settings = {"command": "style", "styles": list(map(str, styles)), "size": size, "mix": mix, "film": film}
    settings |= {**asdict(options), "features": network.name, "pooling": pooling, "device": str(device)}
    names = unique_stems(map(Path, styles))
    if together:
        names = ["+".join(names)]
    else:
        options = replace(options, style_weights=torch.eye(len(images)))
    photos = unique_stems(map(Path, contents))
    stems = unique_stems([Path(f"{photo}-{name}.png") for photo in photos for name in names])
    rows, bad = [], []
    with Progress(out, settings, [*contents, *styles, *masks], log) as progress:
        for number, (path, photo) in enumerate(zip(contents, photos, strict=True)):
            done = progress.done(photo)
            if done is None:
                try:
                    transfer = _transfer(network, path, images, masks, size, options)
                    result = progress.run(transfer, photo, film=60 if film else 0)
                except _of_a_photo() as error:
                    bad.append(str(error) if str(path) in str(error) else f"{path}: {error}")
                    continue
                facts = {"content": str(path), "network": network.name}
                ours = stems[number * len(names) :][: len(names)]
                done = _write_styled(out, ours, result, progress.frames(photo))
                done = [facts | {"style": name} | row for name, row in zip(names, done, strict=True)]
                progress.finish(photo, done)
            rows += done
            write_json(out / "results.json", rows)
    if bad:
        count = f"{len(contents) - len(bad)} of {len(contents)} photos done; not these: "
        raise RunError(count + " | ".join(bad), rows)
    return rows


def _of_a_photo() -> tuple[type[ValueError], ...]:
    """Errors that concern one photo of a batch, not the settings."""
    from helpers.features import FeatureError
    from helpers.images import ImageError
    from helpers.optimizers import OptimizationError

    return ImageError, FeatureError, OptimizationError


def _transfer(network, path: str | Path, styles: list[Tensor], masks, size: int, options: StyleOptions):
    """The StyleTransfer of one photo file."""
    import torch

    from helpers.images import longer_side, read_image
    from helpers.style_transfer import StyleTransfer

    content = longer_side(read_image(path), size).to(network.normalize.mean.device)
    regions = torch.cat([_read_mask(mask, content) for mask in masks]) if masks else None
    return StyleTransfer(network, content, styles, regions, options)


def _write_styled(out: Path, stems: list[str], result: Result, frames: list[Tensor]) -> list[dict]:
    """Write the images, and films where there are frames; gives the figures of each."""
    from helpers.images import write_image
    from helpers.search import marks

    rows = []
    for number, stem in enumerate(stems):
        image = result.images[number : number + 1]
        write_image(out / f"{stem}.png", image)
        if frames:
            _write_film(out / stem, [frame[number : number + 1] for frame in frames], image)
        losses = {f"{part}_loss": round(values[number].item(), 5) for part, values in result.parts.items()}
        row = {"size": f"{image.shape[3]}x{image.shape[2]}", "steps": result.steps}
        row |= {"seconds": round(result.seconds / len(stems), 2), **marks(result, number)}
        rows.append({**row, **losses, "image": f"{stem}.png"})
    return rows


def _write_film(stem: Path, frames: list[Tensor], last: Tensor) -> None:
    """GIF and MP4 of one size: the images of coarse scales are enlarged."""
    from helpers.images import resize
    from helpers.video import write_gif, write_mp4

    size = tuple(last.shape[-2:])
    images = [resize(frame, size) for frame in frames] + [last.cpu()] * 15
    write_gif(stem.with_name(f"{stem.name}.gif"), images, fps=15)
    write_mp4(stem.with_name(f"{stem.name}.mp4"), images, fps=15)


def _read_style(style: str | Path) -> Tensor:
    """A file, or one of our styles or a fetched painting by name."""
    from helpers.images import read_image
    from helpers.paintings import PAINTINGS, fetch
    from helpers.styles import FOLDER, NAMES

    name = str(style)
    if not Path(style).exists() and name in NAMES:
        return read_image(FOLDER / f"{name}.jpg")
    if not Path(style).exists() and name in PAINTINGS:
        return read_image(fetch(name))
    return read_image(style)


def _read_mask(path: str | Path, content: Tensor) -> Tensor:
    from helpers.masks import mask_from_file

    return mask_from_file(path, tuple(content.shape[-2:])).to(content)


@app.command()
@with_options
def style(
    contents: Annotated[list[Path], typer.Argument(help="Photo files.")],
    style: Annotated[
        list[str],
        typer.Option(help="Style: an image file, one of strokes, dots, glass, waves, marble, hatching, or a painting."),
    ],
    out: Out,
    options: StyleOptions,
    size: Annotated[int, typer.Option(min=1, help="Longer side of the result in pixels.")] = 256,
    content_layers: Annotated[str, typer.Option(help="Layers such as 4_2 or 10, with commas between.")] = "3_3,4_2",
    style_layers: Annotated[str | None, typer.Option(help="By default 1_1,2_1,3_1,4_1,5_1.")] = None,
    mix: Annotated[bool, typer.Option("--mix", help="All styles in one image.")] = False,
    weights: Annotated[str | None, typer.Option(help="Shares of the styles that are mixed, such as 2,1.")] = None,
    mask: Annotated[list[Path] | None, typer.Option(help=f"One mask file per style: {MASK_RULE}.")] = None,
    features: Annotated[str | None, typer.Option(help="vgg19, vgg19-slim or a file; vgg19 if it is here.")] = None,
    pooling: Annotated[str, typer.Option(help="blur, avg or max.")] = "blur",
    film: Annotated[bool, typer.Option("--film", help="GIF and MP4 of the process too.")] = False,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Paint photos in the style of images; write images and results.json. After a stop, the same command continues."""
    options = replace(options, content_layers=_named(content_layers))
    options = options if style_layers is None else replace(options, style_layers=_named(style_layers))
    options = options if weights is None else replace(options, style_weights=_shares(weights))
    job = {"size": size, "mix": mix or weights is not None, "masks": mask or (), "features": features, "film": film}
    job |= {"pooling": pooling, "device": device_of(device), "log": log}
    print_table(lambda: stylize_photos(contents, style, out, options, **job))


def _named(text: str) -> list[str | int]:
    """Turn 4_2 into conv4_2; numbers and full names stay."""
    names = layers_of(text)
    short = [isinstance(name, str) and name.replace("_", "").isdigit() and "_" in name for name in names]
    return [f"conv{name}" if is_short else name for name, is_short in zip(names, short, strict=True)]


def _shares(text: str) -> list[float]:
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise ValueError(f"--weights must be numbers with commas between; got {text!r}.") from None


@data_app.command("list")
def data_list() -> None:
    """Public-domain paintings with painter, year and link."""
    from helpers.figures import results_table
    from helpers.paintings import PAINTINGS, painting_path

    rows = [
        {"name": name, "title": p.title, "painter": p.painter, "year": p.year, "here": painting_path(name).is_file()}
        | {"link": p.link}
        for name, p in PAINTINGS.items()
    ]
    typer.echo(results_table(rows))


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Names from `data list`; by default all.")] = None,
) -> None:
    """Download public-domain paintings to data/downloads/."""
    from helpers.images import ImageError
    from helpers.paintings import FOLDER, PAINTINGS, fetch

    bad = []
    for name in names or PAINTINGS:
        try:
            typer.echo(fetch(name, FOLDER))
        except ImageError as error:  # the others may still be there
            bad.append(str(error))
    if bad:
        raise ImageError(" | ".join(bad))
