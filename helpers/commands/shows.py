"""What the command line shows of a generator: the demo, the way between two photos, samples."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from helpers.commands.runs import RunError, RunOptions, invert_photos, measure, space_stem, write_results
from helpers.faces import FaceOptions
from helpers.features import load_features
from helpers.figures import Figure, result_sheet, save_figure
from helpers.files import unique_stems, write_json
from helpers.generators import Generator, load_generator
from helpers.images import quantize, read_image, write_image
from helpers.inversion import Inversion, InversionOptions
from helpers.latents import SUFFIXES, Latents, interpolate, load_latents, save_latents
from helpers.photos import demo_cat
from helpers.progress import Progress
from helpers.video import check_fps, write_gif, write_mp4

DEMO = (("dcgan-cats-64", "z"), *(("stylegan2-cats-64", space) for space in ("z", "w", "w+")))


@torch.no_grad()
def interpolation_frames(generator: Generator, a: Latents, b: Latents, frames: int = 60, batch: int = 16) -> Tensor:
    """Images (frames, 3, H, W) of the latents from ``a`` to ``b``, both ends included."""
    parts = [interpolate(a, b, t) for t in torch.linspace(0, 1, frames).split(batch)]
    return quantize(torch.cat([generator.synthesize(part).cpu() for part in parts]))


def interpolate_photos(
    ends: tuple[str | Path, str | Path],
    out: str | Path,
    run: RunOptions | None = None,
    search: InversionOptions | None = None,
    faces: FaceOptions | None = None,
    *,
    frames: int = 60,
    fps: int = 30,
) -> list[Path]:
    """Write the way between two photos, there and back, as MP4 and GIF; returns both paths.

    ends: photos, which are inverted first, or latents of the same model (see load_latents). With ``run.noise_steps``
    the fitted noise maps are interpolated too.

    Raises ImageError for an impossible ``fps`` before anything is run, RunError for latents of another model, and what
    ``invert_photos`` raises.
    """
    check_fps(fps, ".mp4", ".gif")
    run, out, paths = run or RunOptions(), Path(out), [Path(end).expanduser() for end in ends]
    generator = load_generator(run.model, run.device)
    photos = [path for path in paths if path.suffix.lower() not in SUFFIXES]
    if photos:
        invert_photos(photos, out, run, search, faces)
    results = (out / f"{run.stem(stem)}.safetensors" for stem in unique_stems(photos))
    files = [next(results) if path in photos else path for path in paths]
    images = interpolation_frames(generator, *(_end_of(file, generator, run) for file in files), frames)
    images = torch.cat([images, images.flip(0)])
    first, second = unique_stems(paths, most=60)
    stem = f"{first}-to-{second}-{space_stem(run.space)}" + ("-noise" if run.noise_steps else "")
    written = [out / f"{stem}.mp4", out / f"{stem}.gif"]
    write_mp4(written[0], images, fps=fps)
    write_gif(written[1], images, fps=fps)
    return written


def _end_of(file: Path, generator: Generator, run: RunOptions) -> Latents:
    """The latents of a file in the run's space."""
    latents, metadata = load_latents(file)
    if metadata.get("model", run.model) != str(run.model):
        raise RunError(f"{file} holds latents of {metadata['model']}, not of {run.model}; give it as --model.")
    code = generator.convert(latents.code, latents.space, run.space)
    return Latents(run.space, code, latents.noise).to(generator.device)


@torch.no_grad()
def sample_images(
    out: str | Path, model: str, n: int = 12, *, truncation: float = 0.7, seed: int = 0, device="cpu"
) -> Path:
    """Draw n images; write ``0000.png`` … and their latents in one file, whose path is returned.

    Truncation applies where there is a w space; else the latents are plain samples of z.
    """
    path, generator = Path(out) / "latents.safetensors", load_generator(model, device)
    latents = Latents("z", generator.sample("z", n, seed))
    if "w" in generator.spaces:
        latents = Latents("w", generator.map(latents.code, truncation))
    for i, part in enumerate(latents):
        write_image(path.with_name(f"{i:04d}.png"), generator.synthesize(part).clamp(0, 1))
    save_latents(path, latents, model=model, truncation=str(truncation), seed=str(seed))
    return path


def demo(
    out: str | Path, steps: int = 300, device: str | torch.device = "cpu", log: str = "none"
) -> tuple[list[dict], Figure]:
    """Invert one real photo with every bundled model in every space; write the figure, the images and the table."""
    out, features, rows, shown = Path(out), load_features(device=device), [], []
    target, search = demo_cat(64).to(device), InversionOptions(steps=steps, features=features)
    with Progress(out, {"command": "demo", "steps": steps, "device": str(device)}, log=log) as progress:
        for model, space in DEMO:
            stem = f"{model}-{space_stem(space)}"
            done = progress.done(stem)
            if done is None:
                inversion = Inversion(load_generator(model, device), target, space, search)
                result = progress.run(inversion, f"{model} {space}")
                write_results(out, [stem], result, model)
                facts = {"file": "chelsea (scikit-image)", "model": model, "space": space}
                done = [facts | row | {"image": f"{stem}.png"} for row in measure(result, target, features)]
                progress.finish(stem, done)
            rows += done
            write_json(out / "results.json", rows)
    for row in rows:
        label = [f"{row['model'].split('-')[0]} {row['space']}", f"PSNR {row['psnr']:.1f} dB  SSIM {row['ssim']:.2f}"]
        label += [f"feature distance {row['feature_distance']:.3f}", f"{row['seconds']:.0f} s"]
        shown.append({"image": read_image(out / row["image"]), "label": label})
    write_image(out / "target.png", target)
    figure = result_sheet(target.cpu(), shown, columns=len(shown))
    save_figure(figure, out / "demo.png")
    return rows, figure
