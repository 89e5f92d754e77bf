"""What the command line does with photos: plain functions that write pictures, latents and figures to a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from helpers.domain import out_of_domain
from helpers.faces import align_ffhq, find_faces
from helpers.features import load_features
from helpers.figures import Figure, result_sheet, results_table, save_figure
from helpers.files import write_json
from helpers.generators import Generator, load_generator
from helpers.images import ImageError, quantize, read_image, write_image
from helpers.inversion import Inversion, fast_options
from helpers.latents import Latents, interpolate, load_latents, save_latents
from helpers.memory import check_memory
from helpers.metrics import feature_distance, psnr, ssim
from helpers.noise import check_noise_maps, fresh_noise_psnr, noise_inversion
from helpers.optimizers import OptimizationError
from helpers.photos import demo_cat
from helpers.progress import Progress
from helpers.search import Result, marks
from helpers.video import write_gif, write_mp4

DEMO = (("dcgan-cats-64", "z"), ("stylegan2-cats-64", "z"), ("stylegan2-cats-64", "w"), ("stylegan2-cats-64", "w+"))


class RunError(ValueError):
    """Some inputs could not be used; the others were done, their results are on disk and ``rows`` are theirs."""

    def __init__(self, message: str, rows: Sequence[dict] = ()):
        super().__init__(message)
        self.rows = list(rows)


def run_noise(
    progress: Progress, generator: Generator, targets: Tensor, found: Result, steps: int, label: str
) -> tuple[Result, list]:
    """``optimize_noise`` after an inversion, with a progress bar; also a row of figures per target.

    The seconds are those of both stages. The rows tell the PSNR before the noise stage (with the fixed maps) and with
    fresh noise: what of the photo is in the code.
    """
    result = progress.run(noise_inversion(generator, targets, found.latents, steps=steps), label)
    result.seconds, result.steps = result.seconds + found.seconds, found.steps
    result.frozen = result.frozen | found.frozen
    fresh = fresh_noise_psnr(generator, targets, result.latents).tolist()
    before = psnr(found.images, targets).tolist()
    rows = [
        {"noise_steps": steps, "psnr_before_noise": round(b, 4), "psnr_fresh_noise": round(f, 4)}
        for b, f in zip(before, fresh, strict=True)
    ]
    return result, rows


def measure(result: Result, targets: Tensor, features) -> list[dict]:
    """One row of figures per target: PSNR and SSIM at native size after 8-bit rounding, feature distance, losses."""
    images = result.images
    columns = {
        "psnr": psnr(images, targets),
        "ssim": ssim(images, targets),
        "feature_distance": feature_distance(features, images, targets),
    }
    rows = []
    for i in range(len(images)):
        row = {"steps": result.steps, "seconds": round(result.seconds / len(images), 2)}
        row |= marks(result, i)
        row |= {name: round(values[i].item(), 4) for name, values in columns.items()}
        row["losses"] = {name: round(values[i].item(), 6) for name, values in result.parts.items()}
        rows.append(row)
    return rows


def invert_photos(
    photos: Sequence[str | Path],
    out: str | Path,
    model: str = "stylegan2-cats-64",
    space: str = "w+",
    *,
    noise_steps: int = 0,
    batch: int = 8,
    box: tuple[int, int, int, int] | None = None,
    align: bool = False,
    precision: str = "fp32",
    checkpointing: bool = False,
    fast: bool = False,
    device: str | torch.device = "cpu",
    log: str = "none",
    **options,
) -> list[dict]:
    """Invert photo files; write each image, its latents and ``results.json`` to a folder.

    Photos are cut to their central square, or to ``box`` (left, top, right, bottom), and resized to the model's
    resolution. ``batch`` photos run together; after every batch its results are on disk. After a stop or a kill the
    same call goes on where it was. Photos that are unlike what the model shows are told on stderr, and inverted all
    the same.

    Args:
        align: find the largest face of each photo and align it as FFHQ's are (needs the extra ``faces``).
        precision: "fp32" or "bf16" activations; checkpointing: compute activations twice to keep fewer. Both are for
            large generators.
        fast: ``fast_options`` in place of the steps and the start: a third of the time.
        log: see ``open_log``.
        noise_steps: above 0 the noise maps are fitted after the code, and stored in the file of the latents.
        options: of ``Inversion`` (weights, steps, optimizer, start, ...).

    Returns:
        Rows of file, model, space, steps, seconds (share of the batch), frozen (see Optimization), psnr, ssim,
        feature_distance, losses; after a noise stage also noise_steps, psnr_before_noise and psnr_fresh_noise.

    Raises:
        NotEnoughMemory: before anything is run, where not even one photo fits; larger batches go through in parts.
        NoiseError: for a noise stage with a generator that has no noise maps.
        RunError: when files could not be read or inverted, after all others are done; it names each with its reason.
    """
    out = Path(out)
    generator, features = load_generator(model, device), load_features(device=device)
    generator.check_space(space)
    if noise_steps:
        check_noise_maps(generator)
    set_precision(generator, precision, checkpointing)
    good, bad = _read_all(photos, generator.resolution, box, align)
    if fast:
        options |= fast_options(generator, space)
    settings = {"command": "invert", "model": str(model), "space": space, "noise_steps": noise_steps, "batch": batch}
    settings |= {"box": box, "align": align, "precision": precision, "device": str(device), **options}
    check_memory(generator, space, bool(noise_steps))
    rows, names = [], unique_stems([path for path, _ in good])
    stems = [result_stem(name, model, space, noise_steps) for name in names]
    with Progress(out, settings, photos, log) as progress:
        for start in range(0, len(good), batch):
            unit, index = f"{start}, {batch}", slice(start, start + batch)
            done = progress.done(unit)
            if done is None:
                targets = torch.cat([image for _, image in good[index]]).to(device)
                for (path, _), warning in zip(good[index], out_of_domain(generator, targets, features), strict=True):
                    if warning:
                        print(f"{path}: {warning}", file=sys.stderr)
                search = Inversion(generator, targets, space, features=features, **options)
                label = f"{model_stem(model)} {space} {start + 1}-{start + len(targets)}"
                try:
                    result, more = progress.run(search, label), [{}] * len(targets)
                    if noise_steps:
                        result, more = run_noise(progress, generator, targets, result, noise_steps, f"{label} noise")
                except OptimizationError as error:
                    bad += [f"{path}: {error}" for path, _ in good[index]]
                    continue
                measured = [a | b for a, b in zip(measure(result, targets, features), more, strict=True)]
                _write_results(out, stems[index], result, str(model))
                facts = {"model": str(model), "space": space}
                done = [
                    {"file": str(path), **facts, **row, "image": f"{stem}.png"}
                    for (path, _), row, stem in zip(good[index], measured, stems[index], strict=True)
                ]
                progress.finish(unit, done)
            rows += done
            write_json(out / "results.json", rows)
    if bad:
        raise RunError(f"{len(rows)} of {len(photos)} photos done; not these: " + " | ".join(bad), rows)
    return rows


def _write_results(out: Path, stems: Sequence[str], result: Result, model: str) -> None:
    for i, stem in enumerate(stems):
        write_image(out / f"{stem}.png", result.images[i : i + 1])
        save_latents(out / f"{stem}.safetensors", result.latents[i], model=model)


def set_precision(generator: Generator, precision: str, checkpointing: bool) -> None:
    """Choose how a generator computes: "fp32" or "bf16" activations, kept or computed twice.

    Raises RunError for another word, or for a generator whose size leaves nothing to save.
    """
    if precision not in ("fp32", "bf16"):
        raise RunError(f"the precision must be fp32 or bf16, but {precision} came.")
    if (precision != "fp32" or checkpointing) and not hasattr(generator, "checkpointing"):
        raise RunError(f"a {generator.family} generator has neither bf16 nor checkpointing; leave both away.")
    if hasattr(generator, "checkpointing"):
        generator.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        generator.checkpointing = checkpointing


def _read_aligned(path: Path, size: int) -> Tensor:
    """The largest face of a photo, aligned as in FFHQ: (1, 3, size, size)."""
    image = read_image(path)
    found = find_faces(image)
    if not found:
        raise ImageError(f"{path} shows no face that the detector finds; cut it with --box instead of --align")
    return align_ffhq(image, found[0], size)


def _read_all(photos, size, box, align=False) -> tuple[list[tuple[Path, Tensor]], list[str]]:
    good, bad = [], []
    for path in map(Path, photos):
        try:
            good.append((path, _read_aligned(path, size) if align else read_image(path, size=size, box=box)))
        except ImageError as error:
            bad.append(str(error))
    return good, bad


def unique_stems(paths: Iterable[Path]) -> list[str]:
    """File names without suffix, numbered where two are alike."""
    seen, stems = {}, []
    for path in paths:
        count = seen[path.stem] = seen.get(path.stem, 0) + 1
        stems.append(path.stem if count == 1 else f"{path.stem}-{count}")
    return stems


def model_stem(model: str | Path) -> str:
    return Path(model).stem


def space_stem(space: str) -> str:
    """The space as part of a file name: w+ becomes wplus."""
    return space.replace("+", "plus")


def result_stem(photo: str, model: str | Path, space: str, noise_steps: int = 0) -> str:
    """Name of the files of one result, without suffix."""
    return f"{photo}-{model_stem(model)}-{space_stem(space)}" + ("-noise" if noise_steps else "")


def interpolation_frames(generator: Generator, a: Latents, b: Latents, frames: int = 60, batch: int = 16) -> Tensor:
    """Images (frames, 3, H, W) of the latents from ``a`` to ``b``, both ends included."""
    with torch.no_grad():
        parts = [interpolate(a, b, t) for t in torch.linspace(0, 1, frames).split(batch)]
        return quantize(torch.cat([generator.synthesize(part).cpu() for part in parts]))


def interpolate_photos(
    a: str | Path,
    b: str | Path,
    out: str | Path,
    model: str = "stylegan2-cats-64",
    space: str = "w+",
    *,
    frames: int = 60,
    fps: int = 30,
    noise_steps: int = 0,
    **options,
) -> list[Path]:
    """Invert two photos and write the way between them, there and back, as GIF and MP4; returns both paths.

    With ``noise_steps`` the fitted noise maps are interpolated too; the other options are those of ``invert_photos``.
    """
    out = Path(out)
    invert_photos([a, b], out, model, space, noise_steps=noise_steps, **options)
    generator = load_generator(model, options.get("device", "cpu"))
    stems = unique_stems([Path(a), Path(b)])
    files = [out / f"{result_stem(stem, model, space, noise_steps)}.safetensors" for stem in stems]
    ends = [load_latents(file)[0] for file in files]
    pictures = interpolation_frames(generator, *(end.to(generator.device) for end in ends), frames)
    pictures = torch.cat([pictures, pictures.flip(0)])
    stem = f"{stems[0]}-to-{stems[1]}-{space_stem(space)}" + ("-noise" if noise_steps else "")
    write_gif(out / f"{stem}.gif", pictures, fps=fps)
    write_mp4(out / f"{stem}.mp4", pictures, fps=fps)
    return [out / f"{stem}.gif", out / f"{stem}.mp4"]


@torch.no_grad()
def sample_images(
    out: str | Path, model: str, n: int = 12, *, truncation: float = 0.7, seed: int = 0, device="cpu"
) -> Path:
    """Draw n pictures; write ``0000.png`` … and their latents in one file, whose path is returned.

    Truncation applies where there is a w space; else the latents are plain samples of z.
    """
    out, generator = Path(out), load_generator(model, device)
    latents = Latents("z", generator.sample("z", n, seed))
    if "w" in generator.spaces:
        latents = Latents("w", generator.map(latents.code, truncation))
    for i, part in enumerate(latents):
        write_image(out / f"{i:04d}.png", generator.synthesize(part).clamp(0, 1))
    save_latents(out / "latents.safetensors", latents, model=model, truncation=str(truncation), seed=str(seed))
    return out / "latents.safetensors"


def demo(
    out: str | Path, steps: int = 300, device: str | torch.device = "cpu", log: str = "none"
) -> tuple[list[dict], Figure]:
    """Invert one real photo with every bundled model in every space; write the figure, the images and the table."""
    out, features = Path(out), load_features(device=device)
    target = demo_cat(64).to(device)
    rows, shown = [], []
    with Progress(out, {"command": "demo", "steps": steps, "device": str(device)}, log=log) as progress:
        for model, space in DEMO:
            stem = f"{model}-{space_stem(space)}"
            done = progress.done(stem)
            if done is None:
                search = Inversion(load_generator(model, device), target, space, features=features, steps=steps)
                result = progress.run(search, f"{model} {space}")
                (row,) = measure(result, target, features)
                _write_results(out, [stem], result, model)
                row = {"file": "chelsea (scikit-image)", "model": model, "space": space, **row, "image": f"{stem}.png"}
                done = progress.finish(stem, [row])
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


def table(rows: list[dict], hidden: Sequence[str] = ()) -> str:
    """Rows of results as a text table, without nested values; frozen samples are shown where there are any."""
    hidden = {"losses", "image", *hidden} | (set() if any(row.get("frozen") for row in rows) else {"frozen"})
    return results_table([{k: v for k, v in row.items() if k not in hidden} for row in rows])
