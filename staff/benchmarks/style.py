"""Style transfer measured: speed, precision, starts, ten pairs, lattice of the pooling, sizes, flicker of a film."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.features import CONFIGS, POOLS, Features, load_features, torchvision_file
from helpers.figures import labelled_grid, results_table, save_figure
from helpers.files import write_json
from helpers.images import resize
from helpers.metrics import feature_distance, psnr
from helpers.paintings import fetched
from helpers.photos import demo_photos
from helpers.style_transfer import StyleCriterion, StyleTransfer, stylize
from helpers.style_transfer.sheets import flicker, stylize_frames, transfer_grid
from helpers.styles import own_styles
from staff.benchmarks.common import circumstances

CONTENT, STYLES = 10, (1, 3, 5, 9, 13)  # conv4_2; conv1_1, conv2_1, conv3_1, conv4_1, conv5_1
PARTS = ("speed", "precision", "starts", "pairs", "lattice", "scales", "film")
PAPER = {"statistic": "gram", "style_weight": 10.0, "tv_weight": 0.0, "content_layers": "conv4_2", "pyramid": None}
MIXED = (  # content and style of the ten pairs that one default has to suit
    *(("astronaut", style) for style in ("strokes", "glass", "waves")),
    *(("chelsea", style) for style in ("dots", "hatching", "marble")),
    *(("coffee", style) for style in ("waves", "strokes", "glass", "dots")),
)


# --- speed -----------------------------------------------------------------------------------------------------------


def plain_loop(network: Features, content: Tensor, style: Tensor) -> Iterator[float]:
    """The loop of the well-known tutorial: frozen network, float32, contiguous, L-BFGS; yields each loss.

    Gram matrices divided by their number of activations, mean squared errors, style weight one million; it runs the
    network to its last needed layer. One item is one evaluation of loss and gradient with its update.
    """

    def activations(x: Tensor) -> dict[int, Tensor]:
        found, x = {}, network.normalize(x)
        for number, conv in enumerate(network.convs[: max(STYLES)], 1):
            if number > 1 and network.config.convs[number - 1][0] > network.config.convs[number - 2][0]:
                x = F.max_pool2d(x, 2)
            found[number] = conv(x)
            x = F.relu(found[number])
        return found

    def gram(x: Tensor) -> Tensor:
        rows = x.flatten(0, 1).flatten(1)
        return rows @ rows.T / x.numel()

    with torch.no_grad():
        target = activations(content)[CONTENT]
        grams = {number: gram(activations(style)[number]) for number in STYLES}
    image, losses = content.clone().requires_grad_(), []
    optimizer = torch.optim.LBFGS([image], max_iter=1, history_size=12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = activations(image)
        loss = F.mse_loss(found[CONTENT], target)
        loss = loss + 1e6 * sum(F.mse_loss(gram(found[number]), grams[number]) for number in STYLES)
        loss.backward()
        losses.append(loss.detach())
        return loss

    while True:
        with torch.no_grad():
            image.clamp_(0, 1)
        optimizer.step(closure)
        yield losses[-1]


def our_loop(network: Features, content: Tensor, style: Tensor, **options) -> Iterator[float]:
    """StyleTransfer at a single scale, evaluation by evaluation."""
    options |= {"content_layers": CONTENT, "style_layers": STYLES, "pyramid": None}
    for step in StyleTransfer(network, content, [style], steps=10**6, optimizer="lbfgs-batch", **options):
        yield step.total


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Gives a function: GB above the start that were in use at most, of the GPU or of this process."""
    process, done = psutil.Process(os.getpid()), threading.Event()
    start = process.memory_info().rss
    seen = [start]

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(process.memory_info().rss)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else max(seen) - start) / 2**30
    finally:
        done.set()
        thread.join()


def timed(loop: Iterator, device: torch.device, evaluations: int) -> list[float]:
    """Seconds of each evaluation."""
    seconds = []
    for _ in range(evaluations):
        started = time.perf_counter()
        next(loop)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def network_of(name: str, device: torch.device, pooling: str = "max") -> tuple[Features, str]:
    """The network, and a note; the speed of vgg19 does not depend on its weights, so random ones do where it is not."""
    if name in ("auto", "vgg19-slim") or torchvision_file(name).is_file():
        return load_features(name, device, pooling), ""
    network = Features(CONFIGS[name], name, pooling)
    random = torch.Generator().manual_seed(0)
    for conv in network.convs:
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=random) * (2 / conv.weight[0].numel()) ** 0.5)
        conv.bias.zero_()
    return network.to(device), "random weights"


def bench_speed(sizes: list[int], device: torch.device, rounds: int = 4) -> list[dict]:
    """Median milliseconds of an evaluation; both loops take turns, so that a busy machine slows both."""
    rows = []
    full, note = network_of("vgg19", device)
    slim = load_features("vgg19-slim", device)
    for size in sizes:
        content = demo_photos(size, ["astronaut"])["astronaut"].to(device)
        style = own_styles(size)["strokes"].to(device)
        loops = {
            f"plain loop, vgg19{f' ({note})' if note else ''}": plain_loop(full, content, style),
            "ours, vgg19": our_loop(full, content, style),
            "ours, vgg19-slim": our_loop(slim, content, style),
        }
        seconds, memory = {name: [] for name in loops}, {}
        for name, loop in loops.items():  # the first evaluations allocate and choose kernels
            with peak_memory(device) as peak:
                timed(loop, device, 2)
                memory[name] = peak()
        for _ in range(rounds):
            for name, loop in loops.items():
                seconds[name] += timed(loop, device, 2 if "plain" in name else 3)
        median = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
        base = next(iter(median.values()))
        for name, value in median.items():
            row = {"size": size, "loop": name, "ms": 1000 * value, "per_second": 1 / value, "ratio": base / value}
            rows.append({**row, "memory_GB": memory[name]})
    return rows


# --- quality ---------------------------------------------------------------------------------------------------------


def pairs(size: int, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    contents = torch.cat(list(demo_photos(size, ["chelsea", "astronaut", "coffee"]).values()))
    styles = own_styles(size)
    return contents.to(device), [styles[name].to(device) for name in ("strokes", "waves", "glass")]


def bench_precision(network: Features, device: torch.device, size: int = 128, steps: int = 150) -> list[dict]:
    """Final loss, judged in float32 by the plain path, and PSNR between the two images."""
    contents, styles = pairs(size, device)
    mixture, found = torch.eye(len(styles)), {}
    exact = StyleCriterion(network, contents, styles, style_weights=mixture)
    rows = []
    for precision in ("float32", "bfloat16"):
        result = stylize(network, contents, styles, style_weights=mixture, steps=steps, precision=precision)
        with torch.no_grad():
            found[precision] = result.images, exact(result.images).total.mean().item()
        row = {"precision": precision, "steps": steps, "size": size, "final_loss": found[precision][1]}
        row["loss_ratio"] = found[precision][1] / found["float32"][1]
        row["psnr_to_float32"] = psnr(result.images, found["float32"][0]).mean().item()
        rows.append({**row, "seconds": result.seconds})
    return rows


def bench_starts(network: Features, device: torch.device, size: int = 128) -> list[dict]:
    """Losses and seconds of nine pairs from content and from noise."""
    rows = []
    contents, styles = pairs(size, device)
    for init in ("content", "noise"):
        for steps in (50, 150):
            _, result = transfer_grid(network, contents, styles, init=init, steps=steps)
            row = {"start": init, "steps": steps, "seconds": result.seconds, "loss": result.total.mean().item()}
            rows.append(row | {name: value.mean().item() for name, value in result.parts.items()})
    return rows


def bench_pairs(network: Features, out: Path, device: torch.device, size: int = 256) -> list[dict]:
    """Ten pairs with the defaults and with the settings of the paper: a sheet to look at, what is left of the style.

    Would a person name the style from the strokes, and the subject from the shapes?
    """
    photos, styles = demo_photos(size, ["astronaut", "chelsea", "coffee"]), own_styles() | fetched()
    rows, sheet = [], []
    for content, style in MIXED:
        photo, image = photos[content].to(device), styles[style].to(device)
        cells, row = [photo, resize(styles[style], size)], {"content": content, "style": style}
        judge = StyleCriterion(network, photo, [resize(image, size)])
        for name, options in (("paper", PAPER), ("default", {})):
            result = stylize(network, photo, [image], **options)
            with torch.no_grad():
                parts = judge(result.images).parts
            row |= {f"{name}_{part}": parts[part].item() for part in ("content", "style")}
            row |= {f"{name}_lattice": max(lattice(result.images).values()), f"{name}_seconds": result.seconds}
            cells.append(result.images)
        rows.append(row)
        sheet.append([cell.cpu() for cell in cells])
    names = [f"{content} + {style}" for content, style in MIXED]
    columns = ["content", "style", "settings of the paper", "defaults"]
    save_figure(labelled_grid(sheet, names, columns), out / f"style-pairs-{network.name}.png")
    return rows


def lattice(images: Tensor, periods: tuple[int, ...] = (2, 4, 8), tile: int = 64) -> dict[int, float]:
    """Period in pixels to the energy of the flattest tiles of images (1, 3, H, W) there, over that nearby; 1 is none.

    Pooling leaves its periods where nothing else decides what the pixels should be.
    """
    grey = images.mean(1, keepdim=True).cpu()
    detail = grey - F.avg_pool2d(grey, 9, 1, 4, count_include_pad=False)
    tiles = F.unfold(detail, tile, stride=tile // 2)[0].T.view(-1, tile, tile)
    tiles = tiles[tiles.flatten(1).std(1).argsort()[: max(1, len(tiles) // 4)]]
    window = torch.hann_window(tile)[:, None] * torch.hann_window(tile)
    power = torch.fft.fft2(tiles * window).abs().square().mean(0)
    found = {}
    for period in periods:
        at, ratios = tile // period, []
        for spectrum in (power, power.T):
            line = spectrum[:3].sum(0) + spectrum[-2:].sum(0)  # along one axis, hardly any change along the other
            nearby = sum(line[(at + offset) % tile] for offset in (-5, -4, -3, 3, 4, 5)) / 6
            ratios.append((line[at] / nearby).item())
        found[period] = max(ratios)
    return found


def bench_lattice(network: Features, device: torch.device, size: int = 256) -> list[dict]:
    """Lattice of one flat photo in two styles, for each pooling and with the settings of the paper."""
    styles, rows = own_styles(), []
    photo = demo_photos(size, ["coffee"])["coffee"].to(device)
    for pooling in POOLS:
        ours = Features(network.config, network.name, pooling).to(device)
        ours.load_state_dict(network.state_dict())
        for name, options in (("paper", PAPER), ("default", {})):
            found = [stylize(ours, photo, [styles[style].to(device)], **options) for style in ("strokes", "waves")]
            worst = [max(values) for values in zip(*(lattice(each.images).values() for each in found), strict=True)]
            rows.append(
                {"pooling": pooling, "settings": name} | dict(zip(("2 px", "4 px", "8 px"), worst, strict=True))
            )
    return rows


def bench_scales(network: Features, out: Path, device: torch.device, sizes=(128, 256, 384)) -> list[dict]:
    """How far a result at another size is from the one at the smallest size.

    The distances of style (Gram matrices) and of features, and the PSNR, are taken with both at the smallest size.
    """
    rows, shown = [], []
    style = own_styles()["waves"].to(device)
    for name, base in (("single scale", None), ("pyramid", sizes[0])):
        pictures = []
        for size in sizes:
            content = demo_photos(size, ["astronaut"])["astronaut"].to(device)
            result = stylize(network, content, [style], pyramid=base, steps=80)
            pictures.append(resize(result.images, sizes[0]))
            same = StyleCriterion(network, pictures[0], [pictures[0]])(pictures[-1])
            row = {"scales": name, "size": size, "seconds": result.seconds}
            row["style_from_smallest"] = same.parts["style"].item()
            row["features_from_smallest"] = feature_distance(network, pictures[-1], pictures[0]).item()
            row["psnr_to_smallest"] = psnr(pictures[-1], pictures[0]).item() if size > sizes[0] else None
            rows.append(row)
        shown.append(pictures)
    titles = [f"{size} px, shown at {sizes[0]}" for size in sizes]
    save_figure(labelled_grid(shown, ["single scale", "pyramid"], titles), out / "style-scales.png")
    return rows


def pan(count: int, size: int) -> list[Tensor]:
    """A film: a window that moves over a photo by one and a half pixels a frame."""
    photo = demo_photos(size + 64, ["astronaut"])["astronaut"]
    return [photo[..., 20 : 20 + size, start : start + size] for start in [round(1.5 * i) for i in range(count)]]


def bench_film(network: Features, device: torch.device, size: int = 128, count: int = 8) -> list[dict]:
    """Flicker of a film frame by frame, each from its photo or from the frame before."""
    rows = []
    frames = [frame.to(device) for frame in pan(count, size)]
    style = own_styles(size)["strokes"].to(device)
    for name, warm in (("each from its photo", False), ("warm start", True)):
        started = time.perf_counter()
        pictures = list(stylize_frames(network, frames, [style], warm=warm))
        criterion = StyleCriterion(network, torch.cat(frames), [style])
        with torch.no_grad():
            loss = criterion(torch.cat(pictures)).total.mean().item()
        row = {"film": name, "frames": count, "flicker": flicker(frames, pictures), "loss": loss}
        rows.append({**row, "seconds": time.perf_counter() - started})
    return rows + [{"film": "the photos themselves", "frames": count, "flicker": flicker(frames, frames)}]


def run(out: str | Path, parts: list[str], sizes: list[int], device: torch.device, network: str = "vgg19-slim") -> str:
    """Measure the parts asked for; write ``style.json``, sheets; return the tables as text.

    network: on which everything but the speed is measured.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"the parts are {', '.join(PARTS)}; got {', '.join(unknown)}.")
    out, report = Path(out), {"circumstances": circumstances(device)}
    features, note = network_of(network, device, "blur")
    report["network"] = f"{network}, {note}" if note else network
    measures = {
        "speed": lambda: bench_speed(sizes, device),
        "precision": lambda: bench_precision(features, device),
        "starts": lambda: bench_starts(features, device),
        "pairs": lambda: bench_pairs(features, out, device),
        "lattice": lambda: bench_lattice(features, device),
        "scales": lambda: bench_scales(features, out, device),
        "film": lambda: bench_film(features, device),
    }
    for name in parts:
        report[name] = measures[name]()
        write_json(out / "style.json", report)  # what is done is on disk
    return "\n\n".join(results_table(rows) for rows in report.values() if isinstance(rows, list))
