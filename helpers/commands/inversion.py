"""Commands of inversion: demo, invert, interpolate, sample."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from helpers.commands import runs
from helpers.commands.common import Device, Log, Model, Out, Seed, app, device_of
from helpers.commands.options import with_options
from helpers.faces import FaceOptions
from helpers.features import load_features
from helpers.figures import result_sheet, save_figure
from helpers.files import unique_stems, write_json
from helpers.generators import DEFAULT, Generator, load_generator, vanilla
from helpers.images import quantize, read_image, write_image
from helpers.inversion import Inversion, InversionOptions
from helpers.latents import SUFFIXES, Latents, load_latents, load_one, save_latents
from helpers.latents import interpolate as interpolate_latents
from helpers.photos import demo_cat
from helpers.progress import Progress
from helpers.video import check_fps, write_gif, write_mp4

Steps = Annotated[int, typer.Option(min=1, help="Optimisation steps.")]


@app.command()
def demo(out: Out = Path("output/demo"), steps: Steps = 150, device: Device = None, log: Log = "jsonl") -> None:
    """Invert one real photo with a DCGAN and the StyleGAN2 in every space: table and figure."""
    generator = load_generator(device=device_of(device))
    features, rows, shown = load_features(device=generator.device), [], []
    target = demo_cat(generator.resolution, generator.landmarks).to(generator.device)
    search = InversionOptions(steps=steps, features=features)
    with Progress(out, {"command": "demo", "steps": steps, "device": str(generator.device)}, log=log) as progress:
        for network, space in ((vanilla(generator), "z"), *((generator, space) for space in ("z", "w", "w+"))):
            model, stem = network.name, f"{network.name}-{space}".replace("+", "plus")
            done = progress.done(stem)
            if done is None:
                result = progress.run(Inversion(network, target, space, search), stem)
                runs.write_results(out, [stem], result, [model])
                facts = {"file": "chelsea (scikit-image)", "model": model, "space": space}
                done = [facts | row | {"image": f"{stem}.png"} for row in runs.measure(result, target, features)]
                progress.finish(stem, done)
            rows += done
            write_json(out / "results.json", rows)
    for row in rows:
        label = [f"{row['model'].split('-')[0]} {row['space']}", f"{row['psnr']:.1f} dB, SSIM {row['ssim']:.2f}"]
        label += [f"features {row['feature_distance']:.3f}", f"{row['seconds']:.0f} s"]
        shown.append({"image": read_image(out / row["image"]), "label": label})
    write_image(out / "target.png", target)
    save_figure(result_sheet(target.cpu(), shown, columns=len(shown)), out / "demo.png")
    typer.echo(f"{runs.table(rows)}\n\nThe figure: {out / 'demo.png'}")


@app.command()
@with_options
def invert(
    photos: Annotated[list[Path], typer.Argument(help="Photo files, or folders of them; and films.")],
    out: Out,
    run: runs.InvertOptions,
    search: InversionOptions,
    faces: FaceOptions,
) -> None:
    """Find the latents of photos; write images, latents and results.json. The same command continues after a stop.

    A film is inverted from frame to frame in w+, with --noise one set of noise maps for all of them.
    """
    runs.print_table(lambda: runs.invert_photos(photos, out, run, search, faces))


@app.command()
@with_options
def interpolate(
    a: Annotated[Path, typer.Argument(help="First photo, or latents (.safetensors, .npz, .pt).")],
    b: Annotated[Path, typer.Argument(help="Second photo, or latents.")],
    out: Out,
    run: runs.RunOptions,
    search: InversionOptions,
    faces: FaceOptions,
    frames: Annotated[int, typer.Option(min=2, help="Images from one end to the other.")] = 60,
    fps: Annotated[int, typer.Option(min=1, help="Images per second, at most 50.")] = 30,
) -> None:
    """Morph between two photos, which are inverted first, or two latents; write MP4 and GIF, there and back."""
    check_fps(fps, ".mp4", ".gif")
    paths, generator = [a, b], load_generator(run.model, device_of(run.device))
    if folders := [path for path in paths if path.is_dir()]:
        raise runs.RunError(f"expected two photos or latents, got the folder {folders[0]}; name files.")
    given = {path: _end_of(path, generator, run) for path in paths if path.suffix.lower() in SUFFIXES}
    photos = [path for path in paths if path not in given]
    if photos:
        runs.invert_photos(photos, out, run, search, faces)
    results = (out / f"{run.stem(stem)}.safetensors" for stem in unique_stems(photos))
    ends = [given[path] if path in given else _end_of(next(results), generator, run) for path in paths]
    images = interpolation_frames(generator, *ends, frames)
    images = torch.cat([images, images.flip(0)])
    first, second = unique_stems(paths, most=60)
    stem = f"{first}-to-{second}-{run.space.replace('+', 'plus')}" + ("-noise" if run.noise else "")
    for suffix, write in ((".mp4", write_mp4), (".gif", write_gif)):
        write(out / f"{stem}{suffix}", images, fps=fps)
        typer.echo(out / f"{stem}{suffix}")


def _end_of(file: Path, generator: Generator, run: runs.RunOptions) -> Latents:
    """The latents of a file in the run's space."""
    _, metadata = load_latents(file)
    if metadata.get("model", run.model) != str(run.model):
        raise runs.RunError(f"{file} holds latents of {metadata['model']}, not of {run.model}; give it as --model.")
    latents = load_one(file, generator)
    code = generator.convert(latents.code, latents.space, run.space)
    return Latents(run.space, code, latents.noise)


@torch.no_grad()
def interpolation_frames(generator: Generator, a: Latents, b: Latents, frames: int, batch: int = 16) -> Tensor:
    """Images (frames, 3, H, W) of the latents from ``a`` to ``b``, both ends included."""
    parts = [interpolate_latents(a, b, t) for t in torch.linspace(0, 1, frames).split(batch)]
    return quantize(torch.cat([generator.synthesize(part).cpu() for part in parts]))


@app.command()
@torch.no_grad()
def sample(
    out: Out,
    model: Model = DEFAULT,
    n: Annotated[int, typer.Option(min=1, help="Number of images.")] = 12,
    truncation: Annotated[float, typer.Option(min=0, help="1 is the whole space, 0 the mean.")] = 0.7,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Draw images from a generator; write them with their latents."""
    path, generator = out / "latents.safetensors", load_generator(model, device_of(device))
    latents = Latents("z", generator.sample("z", n, seed))
    if "w" in generator.spaces:  # else there is no truncation
        latents = Latents("w", generator.map(latents.code, truncation))
    for i, part in enumerate(latents):
        write_image(out / f"{i:04d}.png", generator.synthesize(part).clamp(0, 1))
    save_latents(path, latents, model=model, truncation=str(truncation), seed=str(seed))
    typer.echo(path)
