"""Train a small VGG as a photo classifier; then fold skips and batch norm into a plain conv-ReLU-pool stack."""

import copy
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.optim.swa_utils import AveragedModel, update_bn

from helpers.device import pick_device
from helpers.features import CONFIGS, FeatureConfig, FeatureError, Features, Normalize, fast_dtype
from helpers.weights import load_weights, save_weights
from staff.training.loop import SLOWER, STATE_FILE, Diverged, Trainer, TrainingError, train
from staff.training.photos import TESTED, LabelledPhotos, augment, cutmix, find_labelled

EMA_DECAY = 0.998  # per step: an average over about 3 epochs of 168 steps
CUTMIX = 0.3  # of the batches
SMOOTHING = 0.1  # of the labels
WEIGHTS_FILE = "features.safetensors"
SETTINGS = {
    "epochs": 60,
    "batch": 64,
    "sizes": (64, 80, 96),  # sides of the training crops in px
    "shares": (0.45, 0.3, 0.25),  # of the epochs, for each size
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
        self.config = config
        self.normalize = Normalize()
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
    """Measure batch norm's means and variances again on whole pictures, uint8 (N, 3, H, W), at the size of the test.

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


@torch.no_grad()
def _ema_update(averages: list[Tensor], values: list[Tensor], count: Tensor | int) -> None:
    count = int(count)
    decay = min(EMA_DECAY, (1 + count) / (10 + count))  # short at first: the start is soon forgotten
    for average, value in zip(averages, values, strict=True):
        if average.is_floating_point():
            average.lerp_(value, 1 - decay)
        else:
            average.copy_(value)  # the number of batches that batch norm counts


class FeatureTrainer(Trainer):
    """The networks, the optimiser and the position of one run; `state()` and `load()` are all that a resume needs.

    The photos of a step and their augmentation are functions of the seed and the step alone, so that the position
    in the run is the whole random state, and on the CPU a run that was killed continues exactly.
    """

    parts = ("net", "ema", "optimizer", "schedule")

    def __init__(self, photos: LabelledPhotos, config: FeatureConfig, device: torch.device, settings: dict):
        train, held_out = photos.split()
        self.photos = photos
        self.images, self.aspects = photos.squashed(train)
        self.images = self.images.to(device)
        labels = torch.tensor(photos.labels)
        self.targets, self.test_labels = labels[train].to(device), labels[held_out]
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
        self.device, self.log, self.losses = device, [], []
        self._build(config)

    def _build(self, config: FeatureConfig) -> None:
        with torch.random.fork_rng(devices=[]):  # the layers draw their initial values from the global generator
            torch.manual_seed(self.settings["seed"])
            net = Classifier(config, len(self.settings["classes"]))
        self.net = net.to(self.device, memory_format=torch.channels_last)
        self.ema = AveragedModel(self.net, multi_avg_fn=_ema_update, use_buffers=True)
        rate = self.settings["rate"]
        self.optimizer = torch.optim.AdamW(self.net.parameters(), rate, weight_decay=0.05, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=self.total, pct_start=0.15, final_div_factor=1e3
        )

    def autocast(self) -> torch.autocast:
        """bfloat16 where the processor or the GPU multiplies it, else full precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=fast_dtype(self.device) == torch.bfloat16)

    def next_batch(self) -> tuple[Tensor, Tensor, float]:
        """Augmented photos (B, 3, size, size), their labels, and the share of each that is not pasted over."""
        seed = self.settings["seed"] * 1_000_003
        epoch, index = divmod(self.step_number, self.per_epoch)
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed + epoch))
        chosen = order[index * self.batch : (index + 1) * self.batch]
        generator = torch.Generator().manual_seed(seed + 7919 * self.step_number + 1 + 7_368_787 * self.setbacks)
        here = chosen.to(self.device)
        crops = augment(self.images[here], self.aspects[chosen], self.crop_size(), generator)
        keep, whole = 1.0, epoch >= 0.9 * self.settings["epochs"]  # the last tenth sees them whole, as the test does
        if not whole and torch.rand((), generator=generator) < CUTMIX:
            crops, keep = cutmix(crops, generator)
        return crops, self.targets[here], keep

    def crop_size(self) -> int:
        """Side of the crops of this epoch in px: small first, which is fast, then larger."""
        progress = self.step_number // self.per_epoch / self.settings["epochs"]
        sizes, shares = self.settings["sizes"], self.settings["shares"]
        ends = [sum(shares[: i + 1]) for i in range(len(shares))]
        return next((size for size, end in zip(sizes, ends, strict=True) if progress < end - 1e-6), sizes[-1])

    @property
    def goal(self) -> int:
        return self.total

    def step(self) -> dict[str, float]:
        """One step of AdamW on label-smoothed cross-entropy; raises Diverged when the loss is not finite."""
        self.net.train()
        crops, labels, keep = self.next_batch()
        with self.autocast():
            logits = self.net(crops).float()
        loss = keep * F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        if keep < 1:
            loss = loss + (1 - keep) * F.cross_entropy(logits, labels.flip(0), label_smoothing=SMOOTHING)
        self.losses.append(loss.item())
        if not math.isfinite(self.losses[-1]):
            raise Diverged(f"the loss became NaN or infinite after {self.step_number} steps")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        for group in self.optimizer.param_groups:
            group["lr"] *= SLOWER**self.setbacks  # the schedule sets it again in every step
        self.optimizer.step()
        self.schedule.step()
        self.ema.update_parameters(self.net)
        self.step_number += 1
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
        self.log.append(entry | {"seconds": round(self.seconds, 1)})
        return entry

    def whole_pictures(self, most: int = 4096) -> Tensor:
        """Centre squares of training photos, uint8 (N, 3, 112, 112): every k-th, so that all classes are there."""
        train, _ = self.photos.split()
        return self.photos.squares(train[:: math.ceil(len(train) / most)])

    def state(self) -> dict:
        """As in Trainer, with the log and the losses of the epoch."""
        return super().state() | {"log": self.log, "losses": self.losses}

    def load(self, state: dict) -> None:
        """As in Trainer."""
        super().load(state)
        self.log, self.losses = state["log"], state["losses"]


def train_features(
    data: str | Path,
    out: str | Path,
    *,
    config: FeatureConfig = CONFIGS["vgg19-slim"],
    again: bool = True,
    device: str | torch.device | None = None,
    save_every: float = 180,
    log: str = "jsonl",
    **settings,
) -> Path:
    """Train a feature network on the CLASS/photo files of a folder or zip; call again to continue after a stop.

    Args:
        out: folder for ``state.pt`` and the result, ``features.safetensors``, which ``load_features`` reads.
        again: False begins from scratch even when ``out`` holds a state.
        device: see ``pick_device``.
        save_every, log: see ``train``.
        settings: some of SETTINGS.

    Returns the path of the result. Raises TrainingError or ImageError for data or a state that cannot be used.
    """
    settings, least = SETTINGS | settings, 2 ** (len(config.depths) - 1)
    sizes, shares = (list(settings[name]) for name in ("sizes", "shares"))
    if len(sizes) != len(shares) or min(sizes) < least or min(settings["epochs"], settings["test_every"]) < 1:
        raise TrainingError(
            f"Expected a share for every size, sizes from {least} px and at least 1 epoch; change them."
        )
    settings |= {"sizes": sizes, "shares": shares}
    trainer = FeatureTrainer(find_labelled(data), config, pick_device(device), settings)
    if not again:
        (Path(out) / STATE_FILE).unlink(missing_ok=True)
    train(trainer, out, save_every=save_every, log=log)
    return export(trainer, Path(out) / WEIGHTS_FILE)


def export(trainer: FeatureTrainer, path: Path) -> Path:
    """Fold the averaged network and write it as float16, with the facts of its training and its measured accuracy."""
    net, config = copy.deepcopy(trainer.ema.module), trainer.net.config
    recalibrate(net, trainer.whole_pictures())
    tensors = {name: t.cpu().half().float() for name, t in fold(net.eval()).items()}
    top1, mean = accuracy(
        FoldedClassifier(tensors, config).to(trainer.device), trainer.test_images, trainer.test_labels
    )
    facts = {
        "kind": "features", "top1": round(top1, 4), "mean_class_top1": round(mean, 4),
        "held_out": len(trainer.test_labels), "tested_at": TESTED, "images_seen": trainer.step_number * trainer.batch,
        "seconds": round(trainer.seconds), "device": str(trainer.device), "torch": torch.__version__,
    }  # fmt: skip
    return save_weights(path, tensors, facts | trainer.settings)


def evaluate_features(
    data: str | Path, weights: str | Path = "vgg19-slim", device: str | torch.device | None = None
) -> dict:
    """Top-1 accuracy of exported weights on the photos that their training held out.

    data: the folder or zip that they were trained on. weights: a registered name or a file of `train_features`.
    Returns {"top1": share in [0, 1], "mean_class_top1": mean over the classes, "photos": how many were tested}.
    Raises TrainingError when the classes are not those of the training.
    """
    tensors, config = load_weights(weights)
    photos = find_labelled(data)
    if "head.weight" not in tensors:
        raise FeatureError(f"{weights} has no classifier to measure; use a network of train_features.")
    if photos.classes != config["classes"]:
        raise TrainingError(f"{data} has other classes than {weights} was trained on; use its training data.")
    _, held_out = photos.split()
    net = FoldedClassifier(tensors, FeatureConfig(tuple(config["widths"]), tuple(config["depths"])))
    labels = torch.tensor(photos.labels)[held_out]
    top1, mean = accuracy(net.to(device or "cpu"), photos.squares(held_out), labels)
    return {"top1": top1, "mean_class_top1": mean, "photos": len(held_out)}
