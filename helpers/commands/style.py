"""Commands of style transfer: style; and data: list, fetch. The functions that write the files are here too."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from helpers import paintings
from helpers.commands.common import MASK_RULE, Device, Log, Out, app, data_app, device_of
from helpers.commands.options import listed, with_options
from helpers.commands.runs import check_all_done, noted, print_table
from helpers.features import load_features, torchvision_file
from helpers.figures import results_table
from helpers.files import unique_stems, write_json
from helpers.images import ImageError, longer_side, read_image, resize, write_image
from helpers.masks import mask_from_file
from helpers.photos import photo_files
from helpers.progress import Progress
from helpers.search import Result, marks
from helpers.style_transfer import STYLE_LAYERS, StyleError, StyleOptions, StyleTransfer, check_weights
from helpers.style_transfer.criterion import layer_weights
from helpers.style_transfer.sheets import stylize_frames
from helpers.styles import FOLDER, NAMES
from helpers.video import FILMS, read_film, write_gif, write_mp4


def _write_styled(out: Path, stems: list[str], result: Result, frames: list[Tensor]) -> list[dict]:
    """Write the images, and films where there are frames; gives the figures of each."""
    rows = []
    for number, stem in enumerate(stems):
        image = result.images[number : number + 1]
        write_image(out / f"{stem}.png", image)
        if frames:  # those of coarse scales are enlarged
            film = [resize(frame[number : number + 1], tuple(image.shape[-2:])) for frame in frames]
            film += [image.cpu()] * 15
            write_gif(out / f"{stem}.gif", film, fps=15)
            write_mp4(out / f"{stem}.mp4", film, fps=15)
        row = {"size": f"{image.shape[3]}x{image.shape[2]}", "steps": result.steps}
        row |= {"seconds": round(result.seconds / len(stems), 2), **marks(result, number)}
        row |= {f"{part}_loss": round(values[number].item(), 5) for part, values in result.parts.items()}
        rows.append(row | {"image": f"{stem}.png"})
    return rows


def _paint_film(path: Path, network, styles: list[Tensor], options: StyleOptions, out: Path, size: int) -> dict:
    """Write the film in the mixture of the styles, with its sound; gives the figures."""
    fps, sound, frames = read_film(path, size)
    device, count = styles[0].device, 0

    def photos() -> Iterator[Tensor]:
        nonlocal count
        for count, frame in enumerate(tqdm(frames, path.name, unit="frames", disable=None), 1):  # noqa: B007
            yield frame.to(device)

    painted = stylize_frames(network, photos(), styles, steps=options.steps, options=options)
    write_mp4(out, painted, fps, path if sound else None)
    return {"frames": count, "fps": fps, "sound": sound, "image": out.name}


def _read_style(style: str | Path) -> Tensor:
    """A file, or one of our styles or a painting by name."""
    if str(style) in NAMES and not Path(style).exists():
        style = FOLDER / f"{style}.jpg"
    elif str(style) in paintings.PAINTINGS and not Path(style).exists():
        style = paintings.fetch(str(style))
    return read_image(style)


@app.command()
@with_options
def style(
    contents: Annotated[list[Path], typer.Argument(help="Photo files; and films, which keep their sound.")],
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
    features: Annotated[str | None, typer.Option(help="vgg19 (fetched once), vgg19-half, vgg19-slim or file.")] = None,
    pooling: Annotated[str, typer.Option(help="blur, avg or max.")] = "blur",
    film: Annotated[bool, typer.Option("--film", help="GIF and MP4 of the process too.")] = False,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Paint photos in the style of images; write images and results.json. After a stop, the same command continues.

    A film is painted frame after frame, each from the last one, in all styles at once; after a stop it starts again.
    """
    options = replace(options, content_layers=_named(content_layers))
    options = options if style_layers is None else replace(options, style_layers=_named(style_layers))
    if weights is not None:
        try:
            options = replace(options, style_weights=[float(share) for share in weights.split(",")])
        except ValueError:
            raise ValueError(f"--weights must be numbers with commas between; got {weights!r}.") from None
    mix, masks, device = mix or weights is not None, mask or [], device_of(device)
    styles, contents = style, photo_files(contents)
    check_weights(options.weights)
    if features is None and not torchvision_file("vgg19").is_file():
        features = "vgg19-half"
        typer.echo(f"With {features}. --features vgg19 fetches the network of the literature, once (548 MB).", err=True)
    network = load_features(features, device, pooling)
    chosen = STYLE_LAYERS if options.patches or options.style_layers is None else options.style_layers
    for layer in (*layer_weights(options.content_layers), *layer_weights(chosen)):
        network.locate(layer)  # an unknown one is the command's error, not a photo's
    images = [_read_style(style).to(device) for style in styles]
    settings = {"command": "style", "styles": styles, "size": size, "mix": mix, "film": film, **asdict(options)}
    settings |= {"features": network.name, "pooling": pooling, "device": str(device)}
    names, photos, mixed = unique_stems(map(Path, styles)), unique_stems(map(Path, contents)), options
    if masks and any(path.suffix.lower() in FILMS for path in contents):
        raise ValueError("Masks are for photos; paint a film without --mask.")
    if mix or masks:
        names = ["+".join(names)]
    else:
        options = replace(options, style_weights=torch.eye(len(images)))
    stems = unique_stems([Path(f"{photo}-{name}.png") for photo in photos for name in names])
    rows, bad = [], []
    with Progress(out, settings, [*contents, *styles, *masks], log) as progress:
        for number, (path, photo) in enumerate(zip(contents, photos, strict=True)):
            done = progress.done(photo)
            with noted(bad, path, fatal=StyleError):
                if done is None and path.suffix.lower() in FILMS:
                    facts = {"content": str(path), "network": network.name, "style": "+".join(names)}
                    done = [facts | _paint_film(path, network, images, mixed, out / f"{photo}.mp4", size)]
                    progress.finish(photo, done)
                elif done is None:
                    content = longer_side(read_image(path), size).to(device)
                    regions = [mask_from_file(mask, tuple(content.shape[-2:])).to(content) for mask in masks]
                    transfer = StyleTransfer(network, content, images, torch.cat(regions) if regions else None, options)
                    result = progress.run(transfer, photo, film=60 if film else 0)
                    ours = stems[number * len(names) :][: len(names)]
                    done = _write_styled(out, ours, result, progress.frames(photo))
                    facts = {"content": str(path), "network": network.name}
                    done = [facts | {"style": name} | row for name, row in zip(names, done, strict=True)]
                    progress.finish(photo, done)
                rows += done
                write_json(out / "results.json", rows)
    print_table(lambda: check_all_done(bad, rows, len(contents)) or rows)


def _named(text: str) -> list[str | int]:
    """Turn 4_2 into conv4_2; numbers and full names stay."""
    return [f"conv{name}" if str(name)[:1].isdigit() and "_" in str(name) else name for name in listed(text)]


@data_app.command("list")
def data_list() -> None:
    """Public-domain paintings with painter, year and link."""
    rows = []
    for name, painting in paintings.PAINTINGS.items():
        row = {"name": name, "title": painting.title, "painter": painting.painter, "year": painting.year}
        rows.append(row | {"here": paintings.painting_path(name).is_file(), "link": painting.link})
    typer.echo(results_table(rows))


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Names from `data list`; by default all.")] = None,
) -> None:
    """Download public-domain paintings to data/downloads/."""
    bad = []
    for name in names or paintings.PAINTINGS:
        try:
            typer.echo(paintings.fetch(name, paintings.FOLDER))
        except ImageError as error:  # the others may still be there
            bad.append(str(error))
    if bad:
        raise ImageError(" | ".join(bad))
