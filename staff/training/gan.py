"""Training of the bundled generators: non-saturating loss, lazy R1, EMA, adaptive augmentation; resumes exactly.

One loop serves both families; they differ in their networks and a few settings (``DEFAULTS``).
"""

from __future__ import annotations

import copy
import json
import math
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.generators.dcgan import DCGAN, DCGANDiscriminator
from helpers.generators.discriminator import Discriminator
from helpers.generators.stylegan2 import StyleGAN2
from helpers.images import grid, quantize, write_image
from helpers.logs import open_log
from helpers.photos import load_uint8
from helpers.weights import save_weights
from staff.training.augment import adapt, augment
from staff.training.loop import SLOWER, STATE_FILE, Diverged, TrainingError, resume, train


@dataclass
class GanSettings:
    """All that decides a training run; stored in its checkpoint."""

    family: str = "stylegan2"
    images: int = 400_000  # real images shown to the discriminator
    batch: int = 16
    generator: dict = field(default_factory=dict)  # arguments of the generator class
    discriminator: dict = field(default_factory=dict)
    lr_generator: float = 2.5e-3
    lr_discriminator: float = 2.5e-3
    betas: tuple[float, float] = (0.0, 0.99)
    r1_gamma: float = 0.1  # weight of |grad D|^2 / 2, per image in [-1, 1]
    r1_every: int = 16  # lazy regularisation: every so many steps, with so many times the weight
    ema_images: int = 10_000  # half-life of the averaged generator
    style_mixing: float = 0.5  # probability that two w share an image (StyleGAN2)
    augment: bool = True
    bf16: bool = True
    seed: int = 0


DEFAULTS = {
    "stylegan2": {
        "generator": {
            "resolution": 64,
            "z_dim": 256,
            "w_dim": 256,
            "mapping_layers": 4,
            "channel_base": 1024,
            "channel_max": 128,
        },
        "discriminator": {"resolution": 64, "channel_base": 1024, "channel_max": 128},
    },
    "dcgan": {
        "generator": {"z_dim": 100, "conv_dim": 32},
        "discriminator": {"conv_dim": 32},
        "images": 300_000,
        "lr_generator": 4e-4,
        "lr_discriminator": 4e-4,
        "betas": (0.5, 0.99),
        "r1_gamma": 1.0,
        "style_mixing": 0.0,
    },
}


class GanTrainer:
    """The whole state of one run: networks, optimizers, random state, counters.

    Args:
        settings: see GanSettings.
        data: (N, 3, R, R) uint8, the training images.
        device: where to train.
    """

    unit = "images"

    def __init__(self, settings: GanSettings, data: Tensor, device: torch.device):
        self.settings, self.data, self.device = settings, data, device
        # a card older than Ampere only emulates bfloat16, slowly
        on_gpu = device.type == "cuda"
        self.bf16 = settings.bf16 and (not on_gpu or torch.cuda.is_bf16_supported(including_emulation=False))
        self.random = torch.Generator(device).manual_seed(settings.seed)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.generator, self.discriminator = build_networks(settings)
        self.generator.to(device), self.discriminator.to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        # lazy regularisation shortens the period: Adam's rate and betas are corrected for it (StyleGAN2, app. B)
        ratio = settings.r1_every / (settings.r1_every + 1)
        self.optimizers = [
            torch.optim.Adam(self.generator.parameters(), lr=settings.lr_generator, betas=settings.betas, eps=1e-8),
            torch.optim.Adam(
                self.discriminator.parameters(),
                lr=settings.lr_discriminator * ratio,
                betas=tuple(beta**ratio for beta in settings.betas),
                eps=1e-8,
            ),
        ]
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.seen, self.steps, self.p, self.signs, self.seconds, self.setbacks = 0, 0, 0.0, [], 0.0, 0

    @property
    def position(self) -> int:
        return self.seen

    @property
    def goal(self) -> int:
        return self.settings.images

    def report(self, losses: dict[str, float]) -> dict[str, float] | None:
        """The losses of every fiftieth step and of the last."""
        return losses if self.steps % 50 == 0 or self.seen >= self.goal else None

    def reseed(self) -> None:
        """Draw other numbers from now on, by the seed and the number of setbacks."""
        self.random.manual_seed(self.settings.seed + 1_000_003 * self.setbacks)

    # --- one step ---------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """Train on one batch; generator and discriminator move together, each against the other's last state.

        Raises Diverged for losses that are not finite, before anything has moved.
        """
        batch, dtype = self.settings.batch, torch.bfloat16 if self.bf16 else torch.float32
        real = self._augment(self._real_images(batch))
        fake = self._fake_images(batch, dtype)
        seen_by_d = self._augment(fake)
        shown = seen_by_d.detach().requires_grad_()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

        fake_scores = self._scores(shown, dtype)
        loss_generator = F.softplus(-fake_scores).mean()
        (towards_real,) = torch.autograd.grad(loss_generator, shown, retain_graph=True)
        real_scores = self._scores(real, dtype)
        (F.softplus(fake_scores).mean() + F.softplus(-real_scores).mean()).backward()
        seen_by_d.backward(towards_real)
        penalty = self._r1(real) if self.steps % self.settings.r1_every == 0 else None
        losses = {"g": loss_generator, "real": real_scores.mean(), "fake": fake_scores.mean()}
        losses = {name: value.item() for name, value in losses.items()} | ({} if penalty is None else {"r1": penalty})
        if not all(map(math.isfinite, losses.values())):
            raise Diverged(f"the losses became NaN or infinite after {self.seen} images")
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * SLOWER**self.setbacks
            optimizer.step()
        self._after_step(batch, real_scores.detach())
        return losses | {"p": self.p}

    def _real_images(self, batch: int) -> Tensor:
        index = torch.randint(len(self.data), (batch,), generator=self.random, device=self.device)
        images = self.data[index.cpu()].to(self.device).float() / 255
        flip = torch.rand(batch, 1, 1, 1, generator=self.random, device=self.device) < 0.5
        return torch.where(flip, images.flip(3), images)

    def _fake_images(self, batch: int, dtype: torch.dtype) -> Tensor:
        z = torch.randn(2, batch, self.generator.z_dim, generator=self.random, device=self.device)
        if isinstance(self.generator, DCGAN):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                return self.generator.synthesize(z[0])
        ws = self.generator.convert(z[0], "z", "w+")
        if torch.rand((), generator=self.random, device=self.device) < self.settings.style_mixing:
            cut = torch.randint(1, self.generator.num_ws, (), generator=self.random, device=self.device)
            ws = torch.cat([ws[:, :cut], self.generator.convert(z[1], "z", "w+")[:, cut:]], 1)
        noise = [
            torch.randn(batch, 1, *shape, generator=self.random, device=self.device)
            for shape in self.generator.noise_shapes
        ]
        return self.generator.render(ws, "w+", noise, dtype)

    def _scores(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        if isinstance(self.discriminator, DCGANDiscriminator):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                return self.discriminator(images)
        return self.discriminator(images, dtype)

    def _augment(self, images: Tensor) -> Tensor:
        return augment(images, self.p, self.random) if self.settings.augment else images

    def _r1(self, real: Tensor) -> float:
        """Add the gradient of R1 (Mescheder et al. 2018) in float32, on half of the batch to save time."""
        real = real[: max(len(real) // 2, 1)].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminator(real).sum(), real, create_graph=True)
        penalty = (gradient / 2).square().sum((1, 2, 3)).mean()  # /2: the paper's images are in [-1, 1]
        (penalty * self.settings.r1_gamma / 2 * self.settings.r1_every).backward()
        return penalty.item()

    def _after_step(self, batch: int, real_scores: Tensor) -> None:
        self.seen, self.steps = self.seen + batch, self.steps + 1
        # a short average at first, so that the earliest networks are forgotten
        half_life = min(self.settings.ema_images, max(self.seen * 0.05, 1))
        keep = 0.5 ** (batch / half_life)
        with torch.no_grad():
            ours, theirs = list(self.average.parameters()), list(self.generator.parameters())
            torch._foreach_lerp_(ours, theirs, 1 - keep)
        self.signs.append(real_scores.sign().mean().item())
        if len(self.signs) == 8:
            self.p = adapt(self.p, sum(self.signs) / 8, batch * 8)
            self.signs = []

    # --- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict:
        """Everything that an exact continuation needs: tensors, numbers and strings only."""
        return {
            "settings": json.dumps(asdict(self.settings)),
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "random": self.random.get_state(),
            "counters": [self.seen, self.steps, self.p, self.signs, self.seconds],
        }

    def load(self, state: dict) -> None:
        """Continue from ``state()``; TrainingError when the settings are not those of this run (images may differ)."""
        theirs, ours = json.loads(state["settings"]), json.loads(json.dumps(asdict(self.settings)))
        changed = [k for k in ours if ours[k] != theirs.get(k) and k != "images"]
        if changed:
            raise TrainingError(
                f"the checkpoint was made with another {', '.join(changed)}; use the same or a new --out folder."
            )
        for name in ("generator", "discriminator", "average"):
            getattr(self, name).load_state_dict(state[name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.random.set_state(state["random"])
        self.seen, self.steps, self.p, self.signs, self.seconds = state["counters"]


def build_networks(settings: GanSettings) -> tuple[nn.Module, nn.Module]:
    """Fresh generator and discriminator of a family."""
    if settings.family == "dcgan":
        return DCGAN(**settings.generator), DCGANDiscriminator(**settings.discriminator)
    return StyleGAN2(**settings.generator), Discriminator(**settings.discriminator)


def sample_grid(generator, n: int = 64, truncation: float = 0.7, seed: int = 0) -> Tensor:
    """Grid image of n samples (1, 3, H, W) in [0, 1]; truncation applies where there is a w space."""
    with torch.no_grad():
        if "w" in generator.spaces:
            mean, w = generator.mean("w"), generator.sample("w", n, seed)
            images = generator.synthesize(mean + truncation * (w - mean))
        else:
            images = generator.synthesize(generator.sample("z", n, seed))
    return grid(quantize(images), columns=8)


def train_gan(
    data: str | Path,
    out: str | Path,
    settings: GanSettings,
    *,
    device: torch.device | str = "cpu",
    split: str = "train",
    save_every: float = 120.0,
    sample_every: int = 20_000,
    minutes: float | None = None,
    log: str = "jsonl",
) -> Path:
    """Train a generator on a zip or folder of aligned photos; call again to go on after a stop or a kill.

    Args:
        data: zip or folder of images; resized to the generator's resolution.
        out: folder for ``state.pt``, ``samples/`` and ``log.jsonl``.
        settings: the run; ``settings.images`` may be raised later.
        split: "train" leaves the last 500 photos out for validation, "all" uses every photo.
        save_every: seconds between checkpoints.
        sample_every: images between sample grids.
        minutes: stop after so many minutes, with a checkpoint.
        log: see ``open_log``; it gets the sample grids too.

    Raises:
        ProgressError, TrainingError: for a ``state.pt`` that is none or of other settings; for losses or weights that
            are not finite at any rate (see ``train``), while ``state.pt`` stays the last good one.

    Returns:
        Path of the exported weights, ``generator.safetensors``, which ``load_generator`` reads.
    """
    out = Path(out)
    (out / "samples").mkdir(parents=True, exist_ok=True)
    resolution = settings.generator.get("resolution", 64)
    trainer = GanTrainer(settings, load_uint8(data, resolution, split), torch.device(device))
    resume(trainer, out)
    with open_log(log, out, asdict(settings)) as lines:

        def sample() -> None:
            due = trainer.seen // sample_every > (trainer.seen - settings.batch) // sample_every
            if due or trainer.seen >= trainer.goal:
                trainer.average.compute_statistics(2_000)
                path = out / "samples" / f"{trainer.seen // 1000:06d}k.png"
                write_image(path, sample_grid(trainer.average))
                lines.file(trainer.seen, "samples", path)

        train(trainer, out, lines, save_every=save_every, minutes=minutes, after=sample)
    return export_gan(out / STATE_FILE, out / "generator.safetensors")


def export_gan(checkpoint: str | Path, path: str | Path) -> Path:
    """Write the averaged generator and the discriminator of a checkpoint as float16 safetensors.

    The mean and the standard deviation of w over 10,000 samples are stored with them.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    settings = json.loads(state["settings"])
    generator, discriminator = build_networks(GanSettings(**settings))
    generator.load_state_dict(state["average"]), discriminator.load_state_dict(state["discriminator"])
    generator.eval().compute_statistics()
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    tensors |= {f"discriminator.{k}": v for k, v in discriminator.state_dict().items()}
    if "w" in generator.spaces:
        tensors["statistics.w_std"] = generator.w_std
    seen, steps, *_, seconds = state["counters"]
    parts = {part: settings.pop(part) for part in ("generator", "discriminator")}
    facts = {
        "images": seen,
        "steps": steps,
        "hours": round(seconds / 3600, 2),
        "machine": platform.machine(),
        "settings": settings,
    }
    return save_weights(path, tensors, {"family": settings.pop("family"), **parts, "training": facts})
