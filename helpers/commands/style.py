"""Commands of style transfer: style; and data: paint, list, fetch. The functions that write the files are here too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from helpers.commands.common import Device, Log, Out, Seed, app, data_app, device_of, layers_of, print_table

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.style_transfer import StyleResult


def stylize_photos(
    contents: Sequence[str | Path],
    styles: Sequence[str | Path],
    out: str | Path,
    *,
    size: int = 256,
    mix: bool = False,
    masks: Sequence[str | Path] = (),
    features: str | None = None,
    pooling: str = "avg",
    film: bool = False,
    device="cpu",
    log: str = "none",
    **options,
) -> list[dict]:
    """Transfer every style to every photo; write pictures, films and ``results.json`` to a folder.

    A photo with all its styles is one batch, and on disk before the next one starts. After a stop or a kill the same
    call goes on where it was.

    Args:
        contents, styles: files; a style may also be the name of one of ours, or of a fetched painting.
        size: longer side of the result in pixels; photos keep their shape.
        mix: all styles together in one picture (by ``style_weights``) instead of one picture for each.
        masks: a mask file for each style; where all are black the photo stays as it is. Implies ``mix``.
        film: a GIF and an MP4 of the process for every picture.
        log: see ``open_log``.
        options: of ``StyleTransfer``.

    Returns:
        Rows of content, style, size, steps, seconds, losses, image.

    Raises:
        RunError: when photos could not be read or painted, after all others are done; it names each with its reason.
    """
    import torch

    from helpers.commands.runs import RunError, unique_stems
    from helpers.features import load_features
    from helpers.files import write_json
    from helpers.images import ImageError, longer_side, read_image
    from helpers.optimizers import OptimizationError
    from helpers.progress import Progress
    from helpers.style_transfer import StyleTransfer, check_weights

    given = {name: options.get(f"{name}_weight") for name in ("content", "style")}
    check_weights({name: 1.0 if weight is None else weight for name, weight in given.items()})
    out, network = Path(out), load_features(features, device, pooling)
    pictures = {str(style): _read_style(style).to(device) for style in styles}
    rows, bad, together = [], [], mix or bool(masks)
    settings = {"command": "style", "styles": list(pictures), "size": size, "mix": mix, "film": film, **options}
    settings |= {"features": network.name, "pooling": pooling, "device": str(device)}
    if not together:
        options["style_weights"] = torch.eye(len(pictures))
    names = ["+".join(Path(name).stem for name in pictures)] if together else [Path(n).stem for n in pictures]
    with Progress(out, settings, [*contents, *styles, *masks], log) as progress:
        for path, stem in zip(map(Path, contents), unique_stems(map(Path, contents)), strict=True):
            done = progress.done(stem)
            if done is None:
                try:
                    content = longer_side(read_image(path), size).to(device)
                except ImageError as error:
                    bad.append(str(error))
                    continue
                if masks:
                    options["masks"] = torch.cat([_read_mask(mask, content) for mask in masks])
                transfer = StyleTransfer(network, content, list(pictures.values()), **options)
                try:
                    result = progress.run(transfer, stem, film=60 if film else 0)
                except OptimizationError as error:
                    bad.append(f"{path}: {error}")
                    continue
                facts = {"content": str(path), "network": network.name}
                done = _write_styled(out, [f"{stem}-{name}" for name in names], result, progress.frames(stem))
                done = [facts | {"style": name} | row for name, row in zip(names, done, strict=True)]
                progress.finish(stem, done)
            rows += done
            write_json(out / "results.json", rows)
    if bad:
        raise RunError(
            f"{len(contents) - len(bad)} of {len(contents)} photos done; not these: " + " | ".join(bad), rows
        )
    return rows


def _write_styled(out: Path, stems: list[str], result: StyleResult, frames: list[Tensor]) -> list[dict]:
    """Pictures, and films where there are frames; the figures of each."""
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
    """GIF and MP4 of one size: the pictures of coarse scales are enlarged."""
    from helpers.images import resize
    from helpers.video import write_gif, write_mp4

    size = tuple(last.shape[-2:])
    pictures = [resize(frame, size) for frame in frames] + [last.cpu()] * 15
    write_gif(stem.with_name(f"{stem.name}.gif"), pictures, fps=15)
    write_mp4(stem.with_name(f"{stem.name}.mp4"), pictures, fps=15)


def _read_style(style: str | Path) -> Tensor:
    """A file, or one of our styles or a fetched painting by name."""
    from helpers.images import read_image
    from helpers.paintings import PAINTINGS, fetch
    from helpers.styles import FOLDER, PAINTERS

    name = str(style)
    if not Path(style).exists() and name in PAINTERS:
        return read_image(FOLDER / f"{name}.jpg")
    if not Path(style).exists() and name in PAINTINGS:
        return read_image(fetch(name))
    return read_image(style)


def _read_mask(path: str | Path, content: Tensor) -> Tensor:
    from helpers.masks import mask_from_file

    return mask_from_file(path, tuple(content.shape[-2:])).to(content)


Weight = Annotated[float, typer.Option(min=0)]


@app.command()
def style(
    contents: Annotated[list[Path], typer.Argument(help="Photo files.")],
    style: Annotated[
        list[str],
        typer.Option(
            help="Style: a picture file, one of strokes, dots, glass, waves, marble, hatching, or a painting."
        ),
    ],
    out: Out,
    size: Annotated[int, typer.Option(min=1, help="Longer side of the result in pixels.")] = 256,
    content_layers: Annotated[str, typer.Option(help="Layers such as 4_2 or 10, with commas between.")] = "4_2",
    style_layers: Annotated[str | None, typer.Option(help="By default 1_1,2_1,3_1,4_1,5_1.")] = None,
    content_weight: Weight = 1.0,
    style_weight: Annotated[float | None, typer.Option(min=0, help="By default 10, or 0.3 for patches.")] = None,
    tv_weight: Annotated[float, typer.Option(min=0, help="Weight of the total variation.")] = 0.0,
    statistic: Annotated[
        str, typer.Option(help="gram, mean-variance, moments, wasserstein, sliced, or patches (without a network).")
    ] = "gram",
    mix: Annotated[bool, typer.Option("--mix", help="All styles in one picture.")] = False,
    weights: Annotated[str | None, typer.Option(help="Shares of the styles that are mixed, such as 2,1.")] = None,
    mask: Annotated[list[Path] | None, typer.Option(help="One mask file per style: white where it goes.")] = None,
    colour: Annotated[str, typer.Option(help="style, or keep the photo's: luminance, linear, histogram.")] = "style",
    style_scale: Annotated[float, typer.Option(help="2 makes strokes twice as wide.")] = 1.0,
    init: Annotated[str, typer.Option(help="Start from content or noise.")] = "content",
    pyramid: Annotated[int | None, typer.Option(min=1, help="Short side of the coarsest scale, e.g. 128.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps at the coarsest scale, half of it at finer ones.")] = 150,
    optimizer: Annotated[str, typer.Option(help="lbfgs-batch, adam or lbfgs.")] = "lbfgs-batch",
    features: Annotated[str | None, typer.Option(help="vgg19, vgg19-slim or a file; vgg19 if it is here.")] = None,
    pooling: Annotated[str, typer.Option(help="avg or max.")] = "avg",
    precision: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    film: Annotated[bool, typer.Option("--film", help="GIF and MP4 of the process too.")] = False,
    seed: Seed = 0,
    device: Device = None,
    log: Log = "jsonl",
) -> None:
    """Paint photos in the style of pictures; write pictures and results.json. The same command goes on after a stop."""
    options = {"content_weight": content_weight, "style_weight": style_weight, "tv_weight": tv_weight}
    options |= {"statistic": statistic, "colour": colour, "style_scale": style_scale, "init": init, "seed": seed}
    options |= {"pyramid": pyramid, "steps": steps, "optimizer": optimizer, "precision": precision}
    options |= {"content_layers": _named(content_layers), "film": film, "log": log}
    options |= {} if style_layers is None else {"style_layers": _named(style_layers)}
    options |= {} if weights is None else {"style_weights": _shares(weights), "mix": True}
    options |= {"mix": True} if mix else {}
    options |= {"features": features, "pooling": pooling, "device": device_of(device), "masks": mask or ()}
    print_table(lambda: stylize_photos(contents, style, out, size=size, **options))


def _named(text: str) -> list[str | int]:
    """4_2 is conv4_2; numbers and full names stay."""
    names = layers_of(text)
    short = [isinstance(name, str) and name.replace("_", "").isdigit() and "_" in name for name in names]
    return [f"conv{name}" if is_short else name for name, is_short in zip(names, short, strict=True)]


def _shares(text: str) -> list[float]:
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise ValueError(f"--weights must be numbers with commas between, but {text!r} came.") from None


@data_app.command("paint")
def data_paint(
    out: Annotated[Path | None, typer.Option(help="Folder; by default data/styles.")] = None,
    size: Annotated[int, typer.Option(min=32, help="Side in pixels.")] = 400,
) -> None:
    """Draw our own style pictures again."""
    from helpers.styles import FOLDER, write_styles

    for path in write_styles(out or FOLDER, size):
        typer.echo(path)


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
