"""Train a small VGG as a photo classifier; then fold skips and batch norm into a plain conv-ReLU-pool stack."""

import copy
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torchvision.transforms import v2

from helpers.device import pick_device
from helpers.features import CONFIGS, FeatureConfig, Features, Normalize, fast_dtype
from helpers.weights import save_weights
from staff.training.loop import SLOWER, Trainer, TrainingError, train
from staff.training.photos import TESTED, LabelledPhotos, augment, find_labelled

EMA_DECAY = 0.998  # per step: an average over about 3 epochs of 168 steps
CUTMIX = 0.3  # share of the batches (Yun et al. 2019)
SMOOTHING = 0.1  # label smoothing
WHOLE = 4096  # training photos, at most, on which batch norm is measured again
SETTINGS = {
    "epochs": 60,
    "batch": 64,
    "sizes": (64, 80, 96),  # sides of the training crops in px, each for its part of the epochs: small ones are fast
    "rate": 3e-3,  # peak of the one-cycle schedule
    "test_every": 5,  # epochs between tests on the held-out tenth
    "seed": 0,
}


# --- network ---------------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """Convolution, batch norm, ReLU, repeated as the config says; then the mean over space and a linear layer.

    Where a convolution keeps the number of channels, its input is added before the ReLU. Sixteen plain layers
    learn slowly; this skip, as batch norm, is linear and folds into the kernel (RepVGG, Ding et al. 2021).
    """

    def __init__(self, config: FeatureConfig, classes: int):
        super().__init__()
        self.config, self.normalize = config, Normalize()
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for _, i, o in config.convs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, _, o in config.convs)
        self.head = nn.Linear(config.widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, H, W) in [0, 1]."""
        x, block = self.normalize(images), 1
        for (b, channels, width), conv, norm in zip(self.config.convs, self.convs, self.norms, strict=True):
            if b > block:
                x, block = F.max_pool2d(x, 2), b
            after = norm(conv(x))
            x = F.relu(after.add_(x) if channels == width else after, inplace=True)
        return self.head(x.mean((2, 3)))


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

    def __init__(self, tensors: dict[str, Tensor], config: FeatureConfig):
        super().__init__()
        self.features = Features(config)
        self.features.load_state_dict({name: t for name, t in tensors.items() if name.startswith("convs.")})
        self.head = skip_init(nn.Linear, *reversed(tensors["head.weight"].shape))
        self.head.load_state_dict({"weight": tensors["head.weight"], "bias": tensors["head.bias"]})

    def forward(self, images: Tensor) -> Tensor:
        last = self.features.layers[-1].replace("conv", "relu")
        return self.head(self.features(images, last)[last].mean((2, 3)))


def recalibrate(net: Classifier, images: Tensor, batch: int = 64) -> None:
    """Measure batch norm's means and variances again on whole images, uint8 (N, 3, H, W), at the size of the test.

    Random crops are smaller, and what they show is larger: with their statistics the network is off at test time
    (Touvron et al., "Fixing the train-test resolution discrepancy", 2019).
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    device = next(net.parameters()).device
    update_bn((_floats(images[part].to(device)) for part in order.split(batch) if len(part) > 1), net)


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, batch: int = 64) -> tuple[float, float]:
    """Share of uint8 images (N, 3, H, W) whose largest logit is their label: over all, and the mean over classes."""
    device = next(net.parameters()).device
    right = torch.cat([net(_floats(part.to(device))).argmax(1).cpu() for part in images.split(batch)]) == labels
    per_class = [right[labels == label].float().mean() for label in labels.unique()]
    return right.float().mean().item(), torch.stack(per_class).mean().item()


def _floats(images: Tensor) -> Tensor:
    return images.float().div(255).contiguous(memory_format=torch.channels_last)


# --- training --------------------------------------------------------------------------------------------------------


def _average(averages: list[Tensor], values: list[Tensor], count: Tensor | int) -> None:
    decay = min(EMA_DECAY, (1 + int(count)) / (10 + int(count)))  # short at first: the start is soon forgotten
    get_ema_multi_avg_fn(decay)(averages, values, count)


class FeatureTrainer(Trainer):
    """The networks, the optimiser and the position of one run.

    The photos of a step and their augmentation are functions of the seed and the step alone, so that the position
    in the run is the whole random state, and on the CPU a run that was killed continues exactly.
    """

    parts = ("net", "ema", "optimizer", "schedule")

    def __init__(self, photos: LabelledPhotos, config: FeatureConfig, device: torch.device, settings: dict):
        train, held_out = photos.split()
        self.photos, self.images = photos, photos.whole(train)
        labels = torch.tensor(photos.labels)
        self.targets, self.test_labels = labels[train], labels[held_out]
        self.test_images = photos.squares(held_out)
        self.batch = min(settings["batch"], len(train))
        self.per_epoch = len(train) // self.batch
        self.total = settings["epochs"] * self.per_epoch
        if self.batch < 2:
            raise TrainingError(f"Expected at least 2 photos per batch for batch norm, got {self.batch}; use more.")
        super().__init__(settings | {
            "batch": self.batch, "widths": list(config.widths), "depths": list(config.depths),
            "classes": photos.classes, "photos": len(train),
        })  # fmt: skip
        self.device, self.losses = device, []
        with torch.random.fork_rng(devices=[]):  # the layers draw their initial values from the global generator
            torch.manual_seed(settings["seed"])
            net = Classifier(config, len(photos.classes))
        self.net = net.to(device, memory_format=torch.channels_last)
        self.ema = AveragedModel(self.net, multi_avg_fn=_average, use_buffers=True)
        rate = settings["rate"]
        self.optimizer = torch.optim.AdamW(self.net.parameters(), rate, weight_decay=0.05, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=self.total, pct_start=0.15, final_div_factor=1e3
        )

    @property
    def goal(self) -> int:
        return self.total

    def autocast(self) -> torch.autocast:
        """bfloat16 where the processor or the GPU multiplies it, else full precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=fast_dtype(self.device) == torch.bfloat16)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Augmented photos (B, 3, size, size) and their labels: (B,), or shares (B, classes) where boxes are pasted."""
        seed = self.settings["seed"] * 1_000_003
        epoch, index = divmod(self.step_number, self.per_epoch)
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed + epoch))
        chosen = order[index * self.batch : (index + 1) * self.batch]
        progress, sizes = epoch / self.settings["epochs"], self.settings["sizes"]
        size = sizes[int(progress * len(sizes))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 7919 * self.step_number + 1 + 7_368_787 * self.setbacks)
            crops, labels = augment([self.images[i] for i in chosen], size), self.targets[chosen]
            if progress < 0.9 and torch.rand(()) < CUTMIX:  # the last tenth sees them whole, as the test does
                crops, labels = v2.CutMix(num_classes=len(self.photos.classes))(crops, labels)
        return crops.to(self.device, memory_format=torch.channels_last), labels.to(self.device)

    def step(self) -> dict[str, float]:
        """One step of AdamW on label-smoothed cross-entropy; raises Diverged when the loss is not finite."""
        self.net.train()
        crops, labels = self.next_batch()
        with self.autocast():
            logits = self.net(crops).float()
        for group in self.optimizer.param_groups:
            group["lr"] *= SLOWER**self.setbacks  # the schedule sets it again in every step
        loss = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        self.descend(loss, 5.0)
        self.losses.append(loss.item())
        self.schedule.step()
        self.ema.update_parameters(self.net)
        return {"loss": self.losses[-1]}

    def report(self, losses: dict[str, float]) -> dict[str, float] | None:
        """After an epoch its mean loss and, every ``test_every`` epochs, the averaged network's accuracy."""
        epoch, rest = divmod(self.step_number, self.per_epoch)
        if rest:
            return None
        entry = {"epoch": epoch, "loss": sum(self.losses) / len(self.losses)}
        if epoch % self.settings["test_every"] == 0 or self.step_number == self.total:
            with self.autocast():
                entry["top1"], _ = accuracy(self.ema.module.eval(), self.test_images, self.test_labels)
        self.losses = []
        return entry

    def state(self) -> dict:
        return super().state() | {"losses": self.losses}

    def load(self, state: dict) -> None:
        super().load(state)
        self.losses = state["losses"]


def train_features(
    data: str | Path,
    out: str | Path,
    *,
    config: FeatureConfig = CONFIGS["vgg19-slim"],
    device: str | torch.device | None = None,
    save_every: float = 180,
    log: str = "jsonl",
    **settings,
) -> Path:
    """Train a feature network on the CLASS/photo files of a folder or zip; call again to continue after a stop.

    settings: some of SETTINGS. save_every, log: see ``train``. Returns the path of ``features.safetensors``, which
    ``load_features`` reads. Raises TrainingError or ImageError for data or a state that cannot be used.
    """
    settings, least = SETTINGS | settings, 2 ** (len(config.depths) - 1)
    settings["sizes"] = list(settings["sizes"])
    if min(settings["sizes"]) < least or min(settings["epochs"], settings["test_every"]) < 1:
        raise TrainingError(f"Expected sizes from {least} px and at least 1 epoch; change them.")
    trainer = FeatureTrainer(find_labelled(data), config, pick_device(device), settings)
    train(trainer, out, save_every=save_every, log=log)
    return export(trainer, Path(out) / "features.safetensors")


def export(trainer: FeatureTrainer, path: Path) -> Path:
    """Fold the averaged network and write it as float16, with the facts of its training and its measured accuracy."""
    net, config = copy.deepcopy(trainer.ema.module), trainer.net.config
    train, _ = trainer.photos.split()
    recalibrate(net, trainer.photos.squares(train[:: math.ceil(len(train) / WHOLE)]))  # some of every class
    tensors = {name: t.cpu().half().float() for name, t in fold(net.eval()).items()}
    folded = FoldedClassifier(tensors, config).to(trainer.device)
    top1, mean = accuracy(folded, trainer.test_images, trainer.test_labels)
    facts = {
        "kind": "features", "top1": round(top1, 4), "mean_class_top1": round(mean, 4),
        "held_out": len(trainer.test_labels), "tested_at": TESTED, "images_seen": trainer.step_number * trainer.batch,
        "seconds": round(trainer.seconds), "device": str(trainer.device), "torch": torch.__version__,
    }  # fmt: skip
    return save_weights(path, tensors, facts | trainer.settings)
