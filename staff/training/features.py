"""Train a small VGG with a teacher and labels; then fold skips and batch norm into a plain conv-ReLU-pool stack."""

import copy
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from helpers.device import pick_device
from helpers.features import CONFIGS, POOLS, FeatureConfig, Features, Normalize, fast_dtype
from helpers.weights import save_weights
from staff.training import pretrained
from staff.training.loop import SLOWER, Trainer, TrainingError, train
from staff.training.photos import LabelledPhotos, load_labelled, recoloured, uniform

EMA_DECAY = 0.998  # per step
SMOOTHING = 0.1  # of the labels
NOISE = 0.05  # largest standard deviation of what is added to a student's images: a search passes through noisy ones
WHOLE = 4096  # training photos, at most, on which batch norm is measured again
TESTED = 112  # px: side of the centre square that the held-out photos are tested on
SETTINGS = {
    "epochs": 60,
    "minutes": None,  # a length of the training instead of epochs
    "batch": 64,
    "sizes": (64, 80, 96),  # sides of the training crops in px, each for its part of the training: small ones are fast
    "rate": 3e-3,  # peak of the one-cycle schedule
    "pooling": "blur",
    "teacher": True,  # learn from EfficientNet-Lite0 as well
    "seed": 0,
}


# --- network ---------------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """Convolution, batch norm, ReLU, repeated as the config says; then the mean over space and a linear layer.

    Where a convolution keeps the number of channels, its input is added before the ReLU. Sixteen plain layers
    learn slowly; this skip, as batch norm, is linear and folds into the kernel (RepVGG, Ding et al. 2021).
    """

    def __init__(self, config: FeatureConfig, classes: int, pooling: str = "blur"):
        super().__init__()
        self.config, self.normalize, self.pool = config, Normalize(), POOLS[pooling]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for _, i, o in config.convs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, _, o in config.convs)
        self.head = nn.Linear(config.widths[-1], classes)

    def blocks(self, images: Tensor) -> list[Tensor]:
        """The last map of every block, of images (B, 3, H, W) in [0, 1]."""
        x, found = self.normalize(images), []
        for (block, channels, width), conv, norm in zip(self.config.convs, self.convs, self.norms, strict=True):
            if block > len(found) + 1:
                found.append(x)
                x = self.pool(x, 2)
            after = norm(conv(x))
            x = F.relu(after.add_(x) if channels == width else after, inplace=True)
        return [*found, x]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, H, W) in [0, 1]."""
        return self.head(self.blocks(images)[-1].mean((2, 3)))


class Lessons(nn.Module):
    """What a student learns from an EfficientNet that sees the same images at twice the side.

    Its maps, by linear projections of the student's blocks from the second on, where both have the same size; and
    its probabilities of ImageNet's classes.
    """

    def __init__(self, widths: tuple[int, ...], classes: int = 1000):
        super().__init__()
        channels = pretrained.DEPTHS.values()
        self.projections = nn.ModuleList(nn.Conv2d(w, c, 1) for w, c in zip(widths[1:], channels, strict=False))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, blocks: list[Tensor], teacher: nn.Module, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            maps = pretrained.stages(teacher, images)
            likely = teacher.forward_head(teacher.bn2(teacher.conv_head(maps[-1]))).float().softmax(1)
        features = 0.0
        for project, ours, theirs in zip(self.projections, blocks[1:], maps, strict=False):
            standard = F.batch_norm(F.interpolate(theirs.float(), ours.shape[2:]), None, None, training=True)
            features = features + F.mse_loss(project(ours).float(), standard)
        guess = self.head(blocks[-1].mean((2, 3))).float().log_softmax(1)
        return {"features": features, "classes": F.kl_div(guess, likely, reduction="batchmean")}


@torch.no_grad()
def fold(net: Classifier) -> dict[str, Tensor]:
    """Tensors of the plain network that computes the same: the skip and the batch norm go into kernel and bias.

    relu(norm(conv(x)) + x) = relu(W' * x + b') with W' = s W + δ, b' = β - s μ, s = γ / sqrt(σ² + ε), and δ
    the kernel of the identity.
    """
    tensors = {"head.weight": net.head.weight.clone(), "head.bias": net.head.bias.clone()}
    for i, ((_, channels, width), conv, norm) in enumerate(zip(net.config.convs, net.convs, net.norms, strict=True)):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        if channels == width:
            weight = weight + nn.init.dirac_(torch.empty_like(weight))
        tensors[f"convs.{i}.weight"], tensors[f"convs.{i}.bias"] = weight, norm.bias - norm.running_mean * scale
    return tensors


class FoldedClassifier(nn.Module):
    """The exported network with its linear classifier, to measure it: logits (B, classes) of (B, 3, H, W) in [0, 1]."""

    def __init__(self, tensors: dict[str, Tensor], config: FeatureConfig, pooling: str = "blur"):
        super().__init__()
        self.features = Features(config, pooling=pooling)
        self.features.load_state_dict({name: t for name, t in tensors.items() if name.startswith("convs.")})
        self.head = skip_init(nn.Linear, *reversed(tensors["head.weight"].shape))
        self.head.load_state_dict({"weight": tensors["head.weight"], "bias": tensors["head.bias"]})

    def forward(self, images: Tensor) -> Tensor:
        last = self.features.layers[-1].replace("conv", "relu")
        return self.head(self.features(images, last)[last].mean((2, 3)))


def recalibrate(net: Classifier, photos: LabelledPhotos, index: Tensor, batch: int = 64) -> None:
    """Measure batch norm's means and variances again on the photos' central squares, at the size of the test.

    With the statistics of random crops, which show things larger, the network is off there (Touvron et al. 2019).
    """
    order = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))]
    update_bn((photos.crops(part, TESTED) for part in order.split(batch) if len(part) > 1), net)


@torch.no_grad()
def accuracy(net: nn.Module, photos: LabelledPhotos, index: Tensor, batch: int = 64) -> tuple[float, float]:
    """Share of photos whose largest logit is their label: over all, and the mean over classes."""
    labels = photos.labels[index]
    right = torch.cat([net(photos.crops(part, TESTED)).argmax(1).cpu() for part in index.split(batch)]) == labels
    per_class = [right[labels == label].float().mean() for label in labels.unique()]
    return right.float().mean().item(), torch.stack(per_class).mean().item()


# --- training --------------------------------------------------------------------------------------------------------


def _average(averages: list[Tensor], values: list[Tensor], count: Tensor | int) -> None:
    decay = min(EMA_DECAY, (1 + int(count)) / (10 + int(count)))  # short at first: the start is soon forgotten
    get_ema_multi_avg_fn(decay)(averages, values, count)


class FeatureTrainer(Trainer):
    """The networks, the optimiser and the position of one run.

    The photos of a step and their augmentation are functions of the seed and the step alone, so that the position
    in the run is the whole random state, and on the CPU a run of so many epochs that was killed continues exactly.
    """

    parts = ("net", "ema", "lessons", "optimizer")
    may_change = ("minutes",)

    def __init__(self, photos: LabelledPhotos, config: FeatureConfig, device: torch.device, settings: dict):
        self.train_index, self.test_index = photos.split()
        self.batch = min(settings["batch"], len(self.train_index))
        self.per_epoch = len(self.train_index) // self.batch
        if self.batch < 2:
            raise TrainingError(f"Expected at least 2 photos per batch for batch norm, got {self.batch}; use more.")
        super().__init__(settings | {
            "batch": self.batch, "widths": list(config.widths), "depths": list(config.depths),
            "classes": photos.classes, "photos": len(self.train_index),
        })  # fmt: skip
        self.photos, self.device = photos, device
        photos.pixels, photos.ratios = photos.pixels.to(device), photos.ratios.to(device)
        self.teacher = pretrained.load_efficientnet().to(device) if settings["teacher"] else None
        with torch.random.fork_rng(devices=[]):  # the layers draw their initial values from the global generator
            torch.manual_seed(settings["seed"])
            net, lessons = Classifier(config, len(photos.classes), settings["pooling"]), Lessons(config.widths)
        self.net, self.lessons = net.to(device, memory_format=torch.channels_last), lessons.to(device)
        self.ema = AveragedModel(self.net, multi_avg_fn=_average, use_buffers=True)
        learned = [*self.net.parameters(), *self.lessons.parameters()]
        self.optimizer = torch.optim.AdamW(learned, settings["rate"], weight_decay=0.05, fused=True)

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        if self.settings["minutes"]:
            return min(1.0, self.seconds / 60 / self.settings["minutes"])
        return self.step_number / (self.settings["epochs"] * self.per_epoch)

    @property
    def goal(self) -> float:
        if not self.settings["minutes"]:
            return self.settings["epochs"] * self.per_epoch
        return math.inf if self.progress < 1 else self.step_number

    def rate(self) -> float:
        """One cycle: up in the first seventh, then down a cosine to a thousandth; lower after setbacks."""
        up, down = self.progress / 0.15, (self.progress - 0.15) / 0.85
        factor = 0.04 + 0.96 * up if up < 1 else 0.5 + 0.5 * math.cos(math.pi * down)
        return self.settings["rate"] * max(factor, 1e-3) * SLOWER**self.setbacks

    def autocast(self) -> torch.autocast:
        """bfloat16 where the processor or the GPU multiplies it, else full precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=fast_dtype(self.device) == torch.bfloat16)

    def next_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented photos (B, 3, 2 size, 2 size), the same at half of the side with noise, and their labels (B,)."""
        seed = self.settings["seed"] * 1_000_003
        epoch, index = divmod(self.step_number, self.per_epoch)
        order = torch.randperm(len(self.train_index), generator=torch.Generator().manual_seed(seed + epoch))
        chosen = self.train_index[order[index * self.batch : (index + 1) * self.batch]]
        sizes = self.settings["sizes"]
        size = sizes[min(int(self.progress * len(sizes)), len(sizes) - 1)]
        seed += 7919 * self.step_number + 1 + 7_368_787 * self.setbacks
        random = torch.Generator(self.device).manual_seed(seed)
        large = recoloured(self.photos.crops(chosen, 2 * size, random), random)
        small = F.avg_pool2d(large, 2)
        noise = torch.randn(small.shape, generator=random, device=self.device)
        noise = noise * uniform(len(small), -NOISE, NOISE, random).clamp(min=0).view(-1, 1, 1, 1)
        return large, (small + noise).contiguous(memory_format=torch.channels_last), self.photos.labels[chosen]

    def step(self) -> dict[str, float]:
        """One step of AdamW on labels and lessons; raises Diverged when the loss is not finite."""
        self.net.train()
        large, small, labels = self.next_batch()
        with self.autocast():
            blocks = self.net.blocks(small)
            logits = self.net.head(blocks[-1].mean((2, 3))).float()
            losses = self.lessons(blocks, self.teacher, large) if self.teacher else {}
        losses["labels"] = F.cross_entropy(logits, labels.to(self.device), label_smoothing=SMOOTHING)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.descend(sum(losses.values()), 5.0)
        self.ema.update_parameters(self.net)
        return dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))


def train_features(
    data: str | Path,
    out: str | Path,
    *,
    config: FeatureConfig = CONFIGS["vgg19-slim"],
    device: str | torch.device | None = None,
    save_every: float = 60,
    log: str = "jsonl",
    **settings,
) -> Path:
    """Train a feature network on the CLASS/photo files of a folder or zip; call again to continue after a stop.

    settings: some of SETTINGS. save_every, log: see ``train``. Returns the path of ``features.safetensors``, which
    ``load_features`` reads. Raises TrainingError or ImageError for data or a state that cannot be used.
    """
    settings, least = SETTINGS | settings, 2 ** (len(config.depths) - 1)
    settings["sizes"] = list(settings["sizes"])
    if min(settings["sizes"]) < least or settings["epochs"] < 1:
        raise TrainingError(f"Expected sizes from {least} px and at least 1 epoch; change them.")
    trainer = FeatureTrainer(load_labelled(data), config, pick_device(device), settings)
    train(trainer, out, save_every=save_every, log=log)
    return export(trainer, Path(out) / "features.safetensors")


def export(trainer: FeatureTrainer, path: Path) -> Path:
    """Fold the averaged network and write it as float16, with the facts of its training and its measured accuracy."""
    net, config, photos = copy.deepcopy(trainer.ema.module), trainer.net.config, trainer.photos
    recalibrate(net, photos, trainer.train_index[:: math.ceil(len(trainer.train_index) / WHOLE)])  # of every class
    tensors = {name: t.cpu().half().float() for name, t in fold(net.eval()).items()}
    folded = FoldedClassifier(tensors, config, trainer.settings["pooling"]).to(trainer.device)
    top1, mean = accuracy(folded, photos, trainer.test_index)
    facts = {
        "kind": "features", "top1": round(top1, 4), "mean_class_top1": round(mean, 4),
        "held_out": len(trainer.test_index), "tested_at": TESTED, "images_seen": trainer.step_number * trainer.batch,
        "seconds": round(trainer.seconds), "device": str(trainer.device), "torch": torch.__version__,
    }  # fmt: skip
    return save_weights(path, tensors, facts | trainer.settings)
