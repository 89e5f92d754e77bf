"""Train the finder of cat faces on whole photos with landmarks, from EfficientNet-Lite0's first stages."""

import csv
import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.cat_faces import CLOSE, EYES_APART, STAGES, STRIDE, UNIT, FinderNetwork
from helpers.images import read_image
from helpers.photos import open_set
from helpers.weights import save_weights
from staff.training.loop import Trainer, TrainingError, train

POINTS = ("left_eye", "right_eye", "nose")
LEVELS = 3  # sizes in which a photo is kept, each half of the one before: a crop is taken from the one that fits
NOT_THESE = ("cougar", "leopard", "wild_cat", "garfield")  # classes of other photos that show cats after all


@dataclass
class FinderSettings:
    """One run: steps of ``batch`` cats and ``others`` photos without a cat, crops of ``side`` pixels, Adam's rate."""

    steps: int = 1500
    batch: int = 12
    others: int = 4
    side: int = CLOSE
    rate: float = 1e-3
    close: float = 0.5  # share of the cats that are seen as at the second look, upright and in the middle
    seed: int = 0


@dataclass
class CatPhoto:
    """A photo in LEVELS sizes, uint8 (1, 3, H, W); landmarks (3, 2) in pixels, None without a cat; their weight."""

    levels: list[Tensor]
    landmarks: np.ndarray | None
    weight: float = 1.0


def read_cats(data: str | Path, leave_out: Iterable[str] = ()) -> list[CatPhoto]:
    """The photos of a zip with a table of the same name (.tsv) next to it: file, landmarks and confidences.

    Photos whose eyes are unsure or nearer to each other than a fortieth of the photo are left out, as are the names
    (without suffix) in ``leave_out``. Raises TrainingError where there is no such table.
    """
    table = Path(data).with_suffix(".tsv")
    if not table.is_file():
        raise TrainingError(f"Expected the landmarks of {data} in {table}, found none; put the table there.")
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found, left_out = [], set(leave_out)
    with zipfile.ZipFile(data) as archive:
        for row in rows:
            points = np.array([[float(row[f"{p}_{axis}"]) for axis in "xy"] for p in POINTS])
            sure = min(float(row[f"{point}_confidence"]) for point in POINTS)
            apart = np.linalg.norm(points[1] - points[0]) / max(float(row["width"]), float(row["height"]))
            if Path(row["file"]).stem in left_out or sure < 0.55 or apart < 1 / 40:
                continue
            photo = read_image(archive.read(row["file"]), name=row["file"])
            found.append(CatPhoto(_levels(photo), points, 1.0 if row["kept"] == "1" else sure))
    return found


def read_others(data: str | Path, most: int = 1500, seed: int = 0) -> list[CatPhoto]:
    """So many photos without cats, drawn from CLASS/photo files."""
    with open_set(Path(data)) as (names, read):
        names = [name for name in names if not any(word in name.lower() for word in NOT_THESE)]
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[:most]
        return [CatPhoto(_levels(read_image(read(names[i]), name=names[i])), None) for i in order.tolist()]


def _levels(photo: Tensor) -> list[Tensor]:
    levels = [photo]
    while len(levels) < LEVELS:
        levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False))
    return [(level * 255).round().to(torch.uint8) for level in levels]


def random_crop(
    photo: CatPhoto, side: int, random: np.random.Generator, close: float = 0.5
) -> tuple[Tensor, np.ndarray | None]:
    """A crop (1, 3, side, side), turned, scaled, perhaps mirrored, grey outside of the photo; landmarks in pixels."""
    (height, width), points = photo.levels[0].shape[-2:], None  # points of the photo are complex numbers
    angle = random.normal(0, 0.2) if random.random() < 0.8 else random.uniform(-0.8, 0.8)
    if photo.landmarks is None:
        scale, middle = side / max(height, width) * math.exp(random.uniform(-0.3, 1.2)), width / 2 + 0.5j * height
        reach = 0.3 * side
    else:
        points = photo.landmarks @ [1, 1j]
        size, reach = math.exp(random.uniform(math.log(8), math.log(64))), random.choice([0.45, 0.15]) * side
        if random.random() < close:  # as the first look leaves it
            size, angle, reach = EYES_APART * math.exp(random.normal(0, 0.15)), random.normal(0, 0.12), 0.05 * side
            angle -= np.angle(points[1] - points[0])
        scale, middle = size / max(abs(points[1] - points[0]), abs(points[2] - points[:2].mean())), points.mean()
    turn = scale * np.exp(1j * angle)
    place = side / 2 * (1 + 1j) + reach * complex(*random.uniform(-1, 1, 2))
    level = int(np.clip(np.floor(-np.log2(scale) + 0.3), 0, LEVELS - 1))
    cells = np.arange(side) + 0.5
    sources = (cells[None] + 1j * cells[:, None] - place) / turn + middle
    where = torch.from_numpy(np.stack([2 * sources.real / width - 1, 2 * sources.imag / height - 1], -1)).float()[None]
    image = F.grid_sample(photo.levels[level].float() / 255 - 0.5, where, align_corners=False) + 0.5
    moved = None if points is None else (points - middle) * turn + place
    if random.random() < 0.5:
        image = image.flip(3)
        moved = None if points is None else (side - moved.conj())[[1, 0, 2]]
    return _recoloured(image, random), None if points is None else np.stack([moved.real, moved.imag], 1)


def _recoloured(image: Tensor, random: np.random.Generator) -> Tensor:
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * random.uniform(0, 1.5)
    image = (image - 0.5) * random.uniform(0.6, 1.4) + 0.5 + random.uniform(-0.15, 0.15)
    image = image * torch.tensor(random.uniform(0.9, 1.1, (1, 3, 1, 1)), dtype=torch.float32)
    return (image + random.uniform(0, 0.04) * torch.from_numpy(random.standard_normal(image.shape)).float()).clamp(0, 1)


def targets(landmarks: list[np.ndarray | None], side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Heat (B, 1, h, w), offsets (B, 6, h, w) in UNITs, and how much those count (B, 1, h, w)."""
    cells = (np.arange(side // STRIDE) + 0.5) * STRIDE
    heat, offsets, weights = [], [], []
    for points in landmarks:
        if points is None:
            points, size = np.full((3, 2), -1e4), 1.0
        else:
            eyes = points[:2]
            size = max(np.linalg.norm(eyes[1] - eyes[0]), np.linalg.norm(points[2] - eyes.mean(0)))
        centre = points.mean(0)
        spread = max(0.3 * size, 0.6 * STRIDE)
        x, y = np.meshgrid(cells, cells)
        near = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * spread**2))
        inside = (np.abs(centre * 2 / side - 1) < 1).all()
        if inside:
            near[int(centre[1] // STRIDE), int(centre[0] // STRIDE)] = 1
        heat.append(near)
        moves = [points[i, axis] - (x, y)[axis] for i in range(3) for axis in range(2)]
        offsets.append(np.stack(moves) / UNIT)
        weights.append((near > 0.5) * near * UNIT / size * inside)
    stacked = (np.stack(heat)[:, None], np.stack(offsets), np.stack(weights)[:, None])
    return tuple(torch.from_numpy(part).float() for part in stacked)


class FinderTrainer(Trainer):
    """The network and where it is; every step is a function of the seed and its number."""

    parts = ("net", "optimizer")

    def __init__(self, settings: FinderSettings, cats: list[CatPhoto], others: list[CatPhoto], device: torch.device):
        super().__init__(settings)
        self.cats, self.others, self.device = cats, others, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.net = FinderNetwork()
        torch.nn.init.constant_(self.net.out.bias[:1], -4.0)  # faces are rare
        from_efficientnet(self.net)
        self.net.to(device, memory_format=torch.channels_last)
        known = [p for part in (self.net.stem, self.net.stages) for p in part.parameters()]
        fresh = [p for name, p in self.net.named_parameters() if not name.startswith(("stem", "stages"))]
        self.optimizer = torch.optim.AdamW([{"params": known}, {"params": fresh}], settings.rate, weight_decay=1e-4)

    def step(self) -> dict[str, float]:
        """Take one step. Raises Diverged for losses that are not finite."""
        settings = self.settings
        for group, factor in zip(self.optimizer.param_groups, (0.3, 1.0), strict=True):
            group["lr"] = self.rate() * factor
        random = np.random.default_rng([settings.seed, self.step_number, self.setbacks])
        photos = [self.cats[i] for i in random.integers(len(self.cats), size=settings.batch)]
        if self.others:
            photos += [self.others[i] for i in random.integers(len(self.others), size=settings.others)]
        crops, landmarks = zip(*[random_crop(p, settings.side, random, settings.close) for p in photos], strict=True)
        heat, offsets, weights = (part.to(self.device) for part in targets(list(landmarks), settings.side))
        sure = torch.tensor([photo.weight for photo in photos], device=self.device).view(-1, 1, 1, 1)
        scores, moves = self.net(torch.cat(crops).to(self.device))
        losses = {"heat": focal_loss(scores, heat, sure), "landmarks": landmark_loss(moves, offsets, weights * sure)}
        self.descend(losses["heat"] + losses["landmarks"], 5.0)
        return {name: value.item() for name, value in losses.items()}


def focal_loss(scores: Tensor, heat: Tensor, weights: Tensor) -> Tensor:
    """CenterNet's penalty-reduced focal loss, per face; scores are logits."""
    middle = heat >= 1
    at_middle = -F.logsigmoid(scores) * torch.sigmoid(-scores) ** 2
    elsewhere = -F.logsigmoid(-scores) * torch.sigmoid(scores) ** 2 * (1 - heat) ** 4
    return (torch.where(middle, at_middle, elsewhere) * weights).sum() / middle.sum().clamp(min=1)


def landmark_loss(moves: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Mean error of the landmarks, as a share of the face's size."""
    known = (weights > 0).sum().clamp(min=1)
    return (F.smooth_l1_loss(moves, offsets, beta=0.05, reduction="none") * weights).sum() / known


def from_efficientnet(net: FinderNetwork) -> FinderNetwork:
    """Give the first stages the weights of an EfficientNet-Lite0 trained on ImageNet."""
    from staff.training.pretrained import load_efficientnet

    theirs = load_efficientnet()
    pairs = [(net.stem, theirs.conv_stem)]
    for ours, stage in zip(net.stages, theirs.blocks[: len(STAGES)], strict=True):
        for block, other in zip(ours, stage, strict=True):
            wide = block.expand is not None
            pairs += [(block.expand, other.conv_pw)] if wide else []
            pairs += [(block.depthwise, other.conv_dw), (block.project, other.conv_pwl if wide else other.conv_pw)]
    for convolution, other in pairs:
        convolution.load_state_dict(other.state_dict())
    return net


def train_finder(
    data: str | Path,
    out: str | Path,
    settings: FinderSettings | None = None,
    others: str | Path | None = None,
    *,
    leave_out: Iterable[str] = (),
    device: torch.device | str = "cpu",
    **schedule,
) -> Path:
    """Train the finder; call again to continue after a stop or a kill. Returns the path of ``finder.safetensors``.

    data: see ``read_cats``. out: folder for ``state.pt``, ``log.jsonl`` and the result. others: zip or folder of
    CLASS/photo files without cats. leave_out: names of photos that are kept for validation, without suffix.
    schedule: save_every, minutes and log, see ``train``.
    """
    settings = settings or FinderSettings()
    cats = read_cats(data, leave_out)
    without = read_others(others, seed=settings.seed) if others else []
    trainer = FinderTrainer(settings, cats, without, torch.device(device))
    train(trainer, out, **schedule)
    facts = trainer.facts() | {"photos": len(cats), "others": len(without)}
    return save_weights(Path(out) / "finder.safetensors", trainer.net.state_dict(), {"training": facts})
