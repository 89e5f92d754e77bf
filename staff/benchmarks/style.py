"""Style transfer measured: speed against the tutorial's loop, ten pairs, their judge, lattice of the pooling."""

import functools
import json
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.features import CONFIGS, POOLS, Features, load_features, torchvision_file
from helpers.figures import labelled_grid, save_figure
from helpers.files import write_json
from helpers.images import read_image, resize, square_crop, write_image
from helpers.paintings import fetched
from helpers.photos import demo_photos
from helpers.style_transfer import StyleTransfer, stylize
from helpers.style_transfer.criterion import StyleCriterion
from helpers.styles import own_styles
from helpers.trials import clock
from staff.benchmarks.common import PeakMemory, Settings, in_turns
from staff.training.pretrained import load_efficientnet

CONTENT, STYLES = 10, (1, 3, 5, 9, 13)  # conv4_2; conv1_1, conv2_1, conv3_1, conv4_1, conv5_1
SAME = {"content_layers": CONTENT, "style_layers": STYLES, "pyramid": None}  # what the plain loop does
PAPER = {"statistic": "gram", "tv_weight": 0.0, "content_layers": "conv4_2", "pyramid": None, "steps": 120}
WAYS = {"paper": PAPER, "default": {}}  # options of ``stylize``
MIXED = (  # content and style of the ten pairs that one default has to suit
    *(("astronaut", style) for style in ("strokes", "glass", "waves")),
    *(("chelsea", style) for style in ("dots", "hatching", "marble")),
    *(("coffee", style) for style in ("waves", "strokes", "glass", "dots")),
)
PAINTED = (  # photo and painting of the ten pairs of ``--data``, a folder with photos/ and paintings/
    ("cat_birman_120", "vangogh_starry_night_1889"),
    ("cat_sphynx_93", "hokusai_great_wave_c1831"),
    ("tfflowers_building_with_tulips", "monet_san_giorgio_maggiore_at_dusk_1908"),
    ("cat_bengal_152", "munch_the_scream_1893"),
    ("cat_siamese_117", "kandinsky_composition_vii_1913"),
    ("cat_persian_140", "delaunay_portrait_1906"),
    ("cat_maine_coon_16", "turner_shipwreck_of_the_minotaur_c1810"),
    ("tfflowers_green_shed_bicycle", "vangogh_starry_night_1889"),
    ("tfflowers_statue", "hokusai_great_wave_c1831"),
    ("cat_ragdoll_126", "munch_the_scream_1893"),
)
PERIODS = (2, 4, 8)  # px: where the lattice of pooling shows
STAGES = 4  # EfficientNet's first ones, whose Gram matrices are compared


# --- speed -----------------------------------------------------------------------------------------------------------


def plain_loop(network: Features, content: Tensor, style: Tensor) -> Iterator[Tensor]:
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


def network_of(name: str, device: torch.device, pooling: str = "max") -> tuple[Features, str]:
    """The network, and a note; the speed of vgg19 does not depend on its weights, so random ones do where it is not."""
    if name in ("auto", "vgg19-slim") or torchvision_file(name).is_file():
        return load_features(name, device, pooling), name
    network, random = Features(CONFIGS[name], name, pooling), torch.Generator().manual_seed(0)
    for conv in network.convs:
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=random) * (2 / conv.weight[0].numel()) ** 0.5)
        conv.bias.zero_()
    return network.to(device), f"{name} (random weights)"


def speed(settings: Settings) -> Iterator[dict]:
    """Median milliseconds of an evaluation, ratio to the plain loop in the same turns, memory above the start."""
    device = settings.device
    (full, name), slim = network_of("vgg19", device), load_features("vgg19-slim", device, "max")
    for size in settings.sizes or ((128,) if settings.quick else (256, 512)):
        content = demo_photos(size, ["astronaut"])["astronaut"].to(device)
        style = own_styles(size)["strokes"].to(device)
        loops = {f"plain loop, {name}": plain_loop(full.to(memory_format=torch.contiguous_format), content, style)}
        for way, network in ((f"ours, {name}", full), ("ours, vgg19-slim", slim)):
            loops[way] = iter(StyleTransfer(network, content, [style], steps=10**6, **SAME))
        memory = {}
        for way, loop in loops.items():  # the first evaluations allocate and choose kernels
            with PeakMemory(device) as peak:
                for _ in range(2):
                    next(loop)
            memory[way] = peak.more
        calls = {way: functools.partial(next, loop) for way, loop in loops.items()}
        median = in_turns(calls, device, rounds=1 if settings.quick else 4)
        base = next(iter(median.values()))
        for way, seconds in median.items():
            row = {"size": size, "loop": way, "ms": 1000 * seconds, "ratio": base / seconds}
            yield row | {"more_memory_gb": memory[way]}


# --- quality ---------------------------------------------------------------------------------------------------------


def subjects(settings: Settings, size: int) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Names and images of the content, ``size`` pixels square, and of the style for each of the ten pairs."""
    if settings.data is None:
        photos, styles = demo_photos(size, ["astronaut", "chelsea", "coffee"]), own_styles() | fetched()
        yield from ((content, style, photos[content], styles[style]) for content, style in MIXED)
        return
    for content, style in PAINTED:
        photo = read_image(settings.data / "photos" / f"{content}.jpg", size)
        yield content, style, photo, read_image(settings.data / "paintings" / f"{style}.jpg")


@functools.cache
def stylized(settings: Settings, size: int) -> list[dict]:
    """For each of the ten pairs and way: photo, style and result, the latter two of ``size`` pixels.

    What OUT/pairs holds of an earlier run is not painted again; delete it after a change of the settings.
    """
    network, _ = network_of(settings.network, settings.device, "blur")
    found, now = [], clock(settings.device)
    for content, style, photo, image in list(subjects(settings, size))[: 1 if settings.quick else None]:
        photo, image = photo.to(settings.device), image.to(settings.device)
        painting = resize(square_crop(image), size)
        for way, options in WAYS.items():
            file = settings.out / "pairs" / f"{content}-{style}-{way}-{settings.network}-{size}.png"
            if not file.with_suffix(".json").exists():
                options, started = options | ({"steps": 2} if settings.quick else {}), now()
                result = stylize(network, photo, [image], **options)
                row = {"size": size, "content": content, "style": style, "settings": way, "seconds": now() - started}
                with torch.no_grad():
                    parts = StyleCriterion(network, photo, [painting])(result.images).parts
                row |= {f"{part}_loss": parts[part].item() for part in ("content", "style")}
                write_image(file, result.images)
                write_json(file.with_suffix(".json"), row)
            row = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            found.append({"row": row, "photo": photo, "painting": painting, "image": read_image(file).to(photo)})
    return found


def pairs(settings: Settings) -> Iterator[dict]:
    """Ten pairs with the defaults and with the settings of the paper; a sheet of each size to look at.

    Would a person name the style from the strokes, and the subject from the shapes?
    """
    for size in settings.sizes or (256,):
        sheet, found = {}, stylized(settings, size)
        for each in found:
            row = each["row"]
            cells = sheet.setdefault(f"{row['content']} + {row['style']}", [each["photo"], each["painting"]])
            cells.append(each["image"])
            own = {f"lattice_{what}": max(lattice(each[what]).values()) for what in ("photo", "painting")}
            yield row | own | {"lattice": max(lattice(each["image"], each["photo"]).values())}
        columns = ["content", "style", *(f"settings: {way}" for way in WAYS)]
        figure = labelled_grid([[cell.cpu() for cell in cells] for cells in sheet.values()], list(sheet), columns)
        save_figure(figure, settings.out / f"style-pairs-{settings.network}-{size}.png")


def judge(settings: Settings) -> Iterator[dict]:
    """The ten pairs by EfficientNet-Lite0, which took no part; both distances are better when smaller.

    Style: distance of the Gram matrices of its first stages to the painting's, in units of that of the painting's own
    quarters. Content: one minus the cosine of its class features with the photo's.
    """
    net = load_efficientnet()
    for size in settings.sizes or (256,):
        for each in stylized(settings, size):
            image, photo, painting = (each[name].cpu() for name in ("image", "photo", "painting"))
            quarters = F.unfold(painting, size // 2, stride=size // 2)[0].T.view(-1, 3, size // 2, size // 2)
            own = sum(style_distance(net, quarter[None], painting) for quarter in quarters) / len(quarters)
            with torch.no_grad():
                features = [net.forward_head(net.forward_features(x * 2 - 1), pre_logits=True) for x in (image, photo)]
            row = {name: each["row"][name] for name in ("size", "content", "style", "settings")}
            row["style_distance"] = style_distance(net, image, painting) / own
            yield row | {"content_distance": 1 - F.cosine_similarity(*features).item()}


@torch.no_grad()
def style_distance(net: torch.nn.Module, image: Tensor, other: Tensor) -> float:
    """Relative distance of the Gram matrices of two images (1, 3, H, W), mean over the stages."""
    both, total = [net.bn1(net.conv_stem(x * 2 - 1)) for x in (image, other)], 0.0
    for stage in net.blocks[:STAGES]:
        both = [stage(x) for x in both]
        ours, theirs = (x[0].flatten(1) @ x[0].flatten(1).T / x[0, 0].numel() for x in both)
        total += ((ours - theirs).norm() / theirs.norm()).item()
    return total / STAGES


def lattice(images: Tensor, photo: Tensor | None = None, tile: int = 64) -> dict[int, float]:
    """Period in pixels to the energy of an image (1, 3, H, W) there, over that expected from nearby; 1 is none.

    Pooling leaves its periods where nothing else decides what the pixels should be: in tiles where the ``photo``, or
    the image itself, is flattest. Each counts the same, whatever its contrast, and a line through the logarithms of
    energies and frequencies on both sides says what to expect. Of noise and photos the values are 0.7 to 1.5.
    """
    views = [image.mean(1, keepdim=True).cpu() for image in (images, images if photo is None else photo)]
    tiles, guides = (F.unfold(view, tile, stride=tile // 4)[0].T.view(-1, tile, tile) for view in views)
    slopes = guides.diff(dim=1).abs().mean((1, 2)) + guides.diff(dim=2).abs().mean((1, 2))
    tiles = tiles[slopes.argsort()[: max(1, len(tiles) // 4)]]
    window = torch.hann_window(tile)[:, None] * torch.hann_window(tile)
    power = torch.fft.fft2((tiles - tiles.mean((1, 2), keepdim=True)) * window).abs().square()
    lines = sum(power[:, row] + power[:, :, row] for row in range(-2, 3))
    found = {}
    for period in PERIODS:
        at = tile // period
        level = lines[:, range(at - 7, at + 8)].mean(1, keepdim=True)
        energy = (lines / level).mean(0).log()
        nearby = torch.tensor([at + offset for offset in (-5, -4, -3, 3, 4, 5)])
        x, y = (nearby / at).log(), energy[nearby]
        slope = (x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum()
        found[period] = (energy[at] - y.mean() + slope * x.mean()).exp().item()
    return found


def lattices(settings: Settings) -> Iterator[dict]:
    """Lattice of one flat photo in two styles, for each pooling and with the settings of the paper."""
    network, _ = network_of(settings.network, settings.device, "blur")
    styles, photo = own_styles(), demo_photos(256, ["coffee"])["coffee"].to(settings.device)
    for pooling in POOLS:
        ours = Features(network.config, network.name, pooling).to(settings.device)
        ours.load_state_dict(network.state_dict())
        for way, options in WAYS.items():
            both = [styles[name].to(settings.device) for name in ("strokes", "waves")]
            found = [lattice(stylize(ours, photo, [style], **options).images, photo) for style in both]
            yield {"pooling": pooling, "settings": way} | {f"{p} px": max(each[p] for each in found) for p in PERIODS}


PARTS = {"speed": speed, "pairs": pairs, "judge": judge, "lattice": lattices}
DEFAULT = ("speed",)
