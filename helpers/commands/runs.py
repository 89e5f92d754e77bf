"""What the command line does with photos: plain functions that write images, latents and figures to a folder."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import typer
from torch import Tensor

from helpers.clips import aligned_clip, flicker, invert_clip, render, share_noise
from helpers.commands.common import DEVICE, LOG, device_of
from helpers.domain import out_of_domain
from helpers.faces import Cut, FaceOptions, NoFace, read_face
from helpers.features import fast_dtype, load_features
from helpers.figures import results_table, save_figure, show_images
from helpers.files import WriteError, short_name, unique_stems, write_json
from helpers.generators import DEFAULT, Generator, load_generator
from helpers.images import write_image
from helpers.inversion import Inversion, InversionOptions, encoder_start, fast_options
from helpers.latents import save_latents
from helpers.memory import check_memory
from helpers.metrics import feature_distance, psnr, ssim
from helpers.noise import NoiseOptions, check_noise_maps, fresh_noise_psnr, noise_inversion
from helpers.photos import photo_files
from helpers.progress import Progress
from helpers.search import Result, marks, option
from helpers.tuning import Tuning, TuningOptions, check_tunable
from helpers.video import FILMS, read_film, write_mp4

FRAME = 480  # longer side of a film's frames in which the face is found


class RunError(ValueError):
    """Some inputs could not be used; the others were done, and ``rows`` are theirs."""

    def __init__(self, message: str, rows: Sequence[dict] = ()):
        super().__init__(message)
        self.rows = list(rows)


@contextmanager
def noted(bad: list[str], *paths: str | Path, fatal: type[ValueError] = WriteError) -> Iterator[None]:
    """Note what goes wrong with these files in ``bad``, so that the others are done; a ``fatal`` error ends the run."""
    try:
        yield
    except (WriteError, fatal):
        raise
    except ValueError as error:
        bad += [str(error) if Path(path).name in str(error) else f"{path}: {error}" for path in paths]


def check_all_done(bad: Sequence[str], rows: Sequence[dict], count: int, what: str = "photos") -> None:
    """Raise RunError, with the rows that were done, where some of ``count`` inputs went wrong."""
    if bad:
        raise RunError(f"{count - len(bad)} of {count} {what} done; not these: " + " | ".join(bad), rows)


def model_stem(model: str | Path) -> str:
    """The model as part of a file name."""
    return short_name(Path(model).stem, 40)


def print_table(run: Callable[[], list[dict]], hidden: Sequence[str] = ()) -> None:
    """Print the table of the rows a function returns; where some inputs went wrong, that of the others first."""
    try:
        rows = run()
    except RunError as error:
        if error.rows:
            typer.echo(table(error.rows, hidden))
        raise
    typer.echo(table(rows, hidden))


def table(rows: list[dict], hidden: Sequence[str] = ()) -> str:
    """Rows of results as a text table, without nested values; frozen samples are shown where there are any."""
    hidden = {"losses", "image", *hidden, *(() if any(row.get("frozen") for row in rows) else ("frozen",))}
    return results_table([{k: v for k, v in row.items() if k not in hidden} for row in rows])


@dataclass(frozen=True)
class RunOptions:
    """How photos are run; noise maps that are fitted after the code are stored in the file of the latents."""

    model: str = option(DEFAULT, "Registered name or file of a generator.")
    space: str = option("w+", "Latent space: z, w or w+.")
    batch: int = option(8, "Photos that run together.", min=1)
    precision: str = option("fp32", "fp32, or bf16 activations: half the memory of a large generator.")
    checkpointing: bool = option(False, "Compute activations twice: less memory for a third more time.")
    fast: bool = option(False, "75 steps of L-BFGS from the encoder's guess, or 100 of Adam without one.")
    noise: bool = option(False, "Fit the noise maps too, after the code (StyleGAN2).")
    noise_steps: int | None = option(None, "Steps of the noise search; 240, or 600 of Adam.", min=1)
    tune: bool = False  # see InvertOptions
    device: str | None = option(None, DEVICE)
    sheet: bool = option(True, "A sheet per photo too: the photo with its box, its target, the result.")
    log: str = option("jsonl", LOG)

    def stem(self, photo: str) -> str:
        """Name of the files of a photo's result, without suffix."""
        space = self.space.replace("+", "plus") + ("-noise" if self.noise else "-tuned" if self.tune else "")
        return f"{photo}-{model_stem(self.model)}-{space}"


@dataclass(frozen=True)
class InvertOptions(RunOptions):
    """Of photos that are not edited afterwards; each tuned generator is stored next to the latents."""

    tune: bool = option(False, "Tune a copy of the generator to each photo, after the code; a file for --model.")
    tuning_steps: int = option(TuningOptions.steps, "Steps of the tuning.", min=1)
    locality: float = option(TuningOptions.locality, "Weight of what the tuning changes in other images.", min=0)


def invert_photos(
    photos: Sequence[str | Path], out: Path, run: RunOptions, search: InversionOptions, faces: FaceOptions
) -> list[dict]:
    """Invert photos and write what is found; RunError names, after all others, what could not be inverted."""
    run = replace(run, device=device_of(run.device))
    generator, features = load_generator(run.model, run.device), load_features(device=run.device)
    generator.check_space(run.space)
    if run.noise and run.tune:
        raise RunError("fitted noise and a tuned generator are two ways to one end; choose --noise or --tune.")
    if run.noise:
        check_noise_maps(generator)
    if run.tune:
        check_tunable(generator)
    set_precision(generator, run.precision, run.checkpointing)
    if run.fast:
        search = replace(search, **fast_options(generator, run.space))
    elif search.start in (None, "encoder") and search.restarts == 1:
        usual = encoder_start(generator, run.space)
        search = replace(search, **{name: value for name, value in usual.items() if getattr(search, name) is None})
    check_memory(generator, run.space, run.noise)
    settings = {"command": "invert", **vars(run), **vars(search), **vars(faces), "log": None}
    photos, good, films, bad, rows = photo_files(photos), [], [], [], []
    for path, stem in zip(photos, unique_stems(photos), strict=True):
        if path.suffix.lower() in FILMS:
            films.append((path, run.stem(stem)))
            continue
        with noted(bad, path):
            good.append((path, run.stem(stem), read_or_show(path, generator, faces, out / f"{stem}-looked-at.png")))
    search = replace(search, features=features)
    with Progress(out, settings, photos, run.log) as progress:
        for start in range(0, len(good), run.batch):
            unit, batch = f"{start}, {run.batch}", good[start : start + run.batch]
            done = progress.done(unit)
            if done is None:
                label = f"{model_stem(run.model)} {run.space} {start + 1}-{start + len(batch)}"
                with noted(bad, *(path for path, *_ in batch)):
                    done = progress.finish(unit, _invert_batch(progress, generator, batch, label, run, search))
            rows += done or []
            write_json(out / "results.json", rows)
        for path, stem in films:
            done = progress.done(stem)
            if done is None:
                with noted(bad, path):
                    done = progress.finish(stem, [_invert_film(path, stem, generator, run, features, faces, out)])
            rows += done or []
            write_json(out / "results.json", rows)
    check_all_done(bad, rows, len(photos))
    return rows


def read_or_show(path: Path, generator: Generator, faces: FaceOptions | None, shown: Path) -> Cut:
    """``read_face``; where no face is found, what was looked at is written to ``shown``, and RunError is raised."""
    try:
        return read_face(path, generator, faces)
    except NoFace as error:
        write_image(shown, error.looked_at)
        raise RunError(f"{error}; what was looked at: {shown}") from None


def _invert_batch(
    progress: Progress, generator: Generator, batch: list, label: str, run: RunOptions, search: InversionOptions
) -> list[dict]:
    """Invert photos (path, stem, Cut) together and write their files; their rows."""
    paths, stems, cuts = zip(*batch, strict=True)
    targets = torch.cat([cut.target for cut in cuts]).to(run.device)
    for path, warning in zip(paths, out_of_domain(generator, targets, search.features), strict=True):
        if warning:
            print(f"{path}: {warning}", file=sys.stderr)
    found = result = progress.run(Inversion(generator, targets, run.space, search), label)
    shown, more = {"result": found.images}, [{}] * len(batch)
    if run.noise:
        options = NoiseOptions(run.noise_steps, optimizer=search.optimizer or "lbfgs", until=search.until)
        result, more = run_noise(progress, generator, targets, result, options, f"{label} noise")
        shown["after noise"] = result.images
    models = [run.model] * len(batch)
    if run.tune:
        models = [progress.out / f"{stem}-model.safetensors" for stem in stems]
        result, more = run_tuning(progress, generator, targets, result, run, models)
        shown["after tuning"] = result.images
    write_results(progress.out, stems, result, models)
    for i, (stem, cut) in enumerate(zip(stems, cuts, strict=True)):
        if run.sheet:
            images = [cut.looked_at, cut.target, *(image[i : i + 1].cpu() for image in shown.values())]
            sheet = show_images(images, ["photo", "target", *shown], columns=len(images))
            save_figure(sheet, progress.out / f"{stem}-sheet.png")
    rows = zip(paths, stems, measure(result, targets, search.features), more, strict=True)
    facts = {"model": str(run.model), "space": run.space}
    return [{"file": str(path), **facts, **row, **noise, "image": f"{stem}.png"} for path, stem, row, noise in rows]


def _invert_film(path: Path, stem: str, generator: Generator, run: RunOptions, features, faces: FaceOptions, out: Path):
    """Invert a film's frames in w+; write them next to their targets as MP4, with the sound, and the latents; a row."""
    if run.space != "w+" or run.tune:
        given = "--tune" if run.tune else f"--space {run.space}"
        raise ValueError(f"{path}: films are inverted in w+, with --noise or without; got {given}.")
    fps, sound, frames = read_film(path, FRAME)
    targets = aligned_clip(frames, generator, faces).to(run.device)
    latents = invert_clip(generator, targets, features)
    latents = share_noise(generator, targets, latents) if run.noise else latents
    images = render(generator, latents)
    write_mp4(out / f"{stem}.mp4", torch.cat([targets, images], 3), fps, path if sound else None)
    save_latents(out / f"{stem}.safetensors", latents, model=str(run.model))
    values = {"psnr": psnr(images, targets).mean(), "flicker": flicker(images, targets).mean()}
    row = {"file": str(path), "model": str(run.model), "space": run.space, "frames": len(targets)}
    return row | {name: round(value.item(), 4) for name, value in values.items()} | {"image": f"{stem}.mp4"}


def run_noise(
    progress: Progress, generator: Generator, targets: Tensor, found: Result, options: NoiseOptions, label: str
) -> tuple[Result, list[dict]]:
    """``noise_inversion`` after an inversion, with the seconds of both; also rows of PSNR without what it found."""
    result = progress.run(noise_inversion(generator, targets, found.latents, options=options), label)
    steps, result.seconds, result.steps = result.steps, result.seconds + found.seconds, found.steps
    result.frozen = result.frozen | found.frozen
    before, fresh = psnr(found.images, targets), fresh_noise_psnr(generator, targets, result.latents)
    columns = {"psnr_before_noise": before.tolist(), "psnr_fresh_noise": fresh.tolist()}
    rows = [{name: round(values[i], 4) for name, values in columns.items()} for i in range(len(targets))]
    return result, [{"noise_steps": steps} | row for row in rows]


def run_tuning(
    progress: Progress, generator: Generator, targets: Tensor, found: Result, run: InvertOptions, files: Sequence[Path]
) -> tuple[Result, list[dict]]:
    """``Tuning`` to each photo after an inversion, written to the files; the results with the seconds of both, rows."""
    results, rows, options = [], [], TuningOptions(run.tuning_steps, locality=run.locality)
    for i, (target, file) in enumerate(zip(targets.split(1), files, strict=True)):
        search = Tuning(generator, target, found.latents[i], options)
        results.append(progress.run(search, file.stem))
        search.save(file)
        values = {"psnr_before_tuning": psnr(found.images[i : i + 1], target)}
        values["psnr_fresh_noise"] = fresh_noise_psnr(search.tuned(), target, found.latents[i])
        row = {name: round(value.item(), 4) for name, value in values.items()}
        rows.append({"tuning_steps": run.tuning_steps, **row, "tuned_model": str(file)})
    parts = {name: torch.cat([result.parts[name] for result in results]) for name in results[0].parts}
    seconds, images = found.seconds + sum(result.seconds for result in results), [result.images for result in results]
    return replace(found, images=torch.cat(images), parts=parts, seconds=seconds), rows


def measure(result: Result, targets: Tensor, features) -> list[dict]:
    """One row of figures per target: PSNR and SSIM at native size after 8-bit rounding, feature distance, losses."""
    images, rows = result.images, []
    columns = {"psnr": psnr(images, targets), "ssim": ssim(images, targets)}
    columns["feature_distance"] = feature_distance(features, images, targets)
    for i in range(len(images)):
        row = {"steps": result.steps, "seconds": round(result.seconds / len(images), 2), **marks(result, i)}
        row |= {name: round(values[i].item(), 4) for name, values in columns.items()}
        row["losses"] = {name: round(values[i].item(), 6) for name, values in result.parts.items()}
        rows.append(row)
    return rows


def write_results(out: Path, stems: Sequence[str], result: Result, models: Sequence[str | Path]) -> None:
    """Write the image and the latents of each sample, with the model that draws it."""
    for i, (stem, model) in enumerate(zip(stems, models, strict=True)):
        write_image(out / f"{stem}.png", result.images[i : i + 1])
        save_latents(out / f"{stem}.safetensors", result.latents[i], model=str(model))


def set_precision(generator: Generator, precision: str, checkpointing: bool) -> None:
    """Choose how a generator computes: "fp32" or, where the processor has it, "bf16"; activations kept or not."""
    if precision not in ("fp32", "bf16"):
        raise RunError(f"the precision must be fp32 or bf16; got {precision}.")
    if hasattr(generator, "checkpointing"):
        generator.dtype = fast_dtype(generator.device) if precision == "bf16" else torch.float32
        generator.checkpointing = checkpointing
        if precision == "bf16" and generator.dtype == torch.float32:
            print("This processor has no bfloat16 of its own: the activations remain fp32.", file=sys.stderr)
    elif precision != "fp32" or checkpointing:
        raise RunError(f"a {generator.family} generator has neither bf16 nor checkpointing; leave out both.")
