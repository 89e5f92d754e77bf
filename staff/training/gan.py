"""Training of the bundled generators: non-saturating loss, lazy R1, EMA, adaptive augmentation; continues exactly."""

import copy
import json
import math
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from helpers.features import fast_dtype
from helpers.generators import load_discriminator, load_generator
from helpers.generators.base import STREAM
from helpers.generators.dcgan import DCGAN, DCGANDiscriminator
from helpers.generators.discriminator import Discriminator
from helpers.generators.stylegan2 import StyleGAN2
from helpers.images import grid, quantize, write_image
from helpers.logs import RunLog
from helpers.photos import load_uint8
from helpers.weights import save_weights
from staff.training.augment import adapt, augment
from staff.training.loop import SLOWER, STATE_FILE, Diverged, Trainer, mirrored, train
from staff.training.pretrained import PretrainedDiscriminator


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
    augment_start: float = 0.0  # probability of the augmentations at first
    augment_images: int = 500_000  # images in which that probability can go from 0 to 1
    judged: float = 1.0  # share of a batch that the ordinary discriminator sees; the pretrained one sees all of it
    judge_every: int = 1  # steps of the pretrained discriminator for one of the ordinary one
    pretrained: float = 0.0  # weight of the pretrained discriminator's loss; 0 does without it
    lr_pretrained: float = 1e-3
    start: str = ""  # a trained model to start from, of the same or of half the resolution
    place: tuple[int, int] = (2, 3)  # column and row of 8x8 cells where that model's 4x4 begin, at half the resolution
    bf16: bool = True
    seed: int = 0


SIZES = {"resolution": 64, "channel_base": 1024, "channel_max": 128}
DEFAULTS = {
    "stylegan2": {
        "generator": SIZES | {"z_dim": 256, "w_dim": 256, "mapping_layers": 4},
        "discriminator": SIZES,
    },
    "dcgan": {
        "generator": {"z_dim": 100, "conv_dim": 32}, "discriminator": {"conv_dim": 32}, "images": 300_000,
        "lr_generator": 4e-4, "lr_discriminator": 4e-4, "betas": (0.5, 0.99), "r1_gamma": 1.0, "style_mixing": 0.0,
    },
}  # fmt: skip


class GanTrainer(Trainer):
    """The whole state of one run: networks, optimizers, random state, counters. data: (N, 3, R, R) uint8."""

    unit, parts, may_change = "images", ("generator", "discriminator", "average"), ("images",)

    def __init__(self, settings: GanSettings, data: Tensor, device: torch.device):
        super().__init__(settings)
        self.data, self.device = data.to(device), device
        self.bf16 = settings.bf16 and fast_dtype(device) == torch.bfloat16
        self.random = torch.Generator(device).manual_seed(settings.seed)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed + STREAM)  # no sample of the same seed may have these numbers
            self.generator, self.discriminator = build_networks(settings)
            self.pretrained = PretrainedDiscriminator().to(device) if settings.pretrained else None
        if settings.start:
            start_from(settings.start, self.generator, self.discriminator, settings.place)
        for network in (self.generator, self.discriminator):
            network.to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        # lazy regularisation shortens the period: Adam's rate and betas are corrected for it (StyleGAN2, app. B)
        ratio = settings.r1_every / (settings.r1_every + 1)
        betas = tuple(beta**ratio for beta in settings.betas)
        adam = torch.optim.Adam
        self.optimizers = [
            adam(self.generator.parameters(), settings.lr_generator, settings.betas),
            adam(self.discriminator.parameters(), settings.lr_discriminator * ratio, betas),
        ]
        if self.pretrained is not None:
            self.optimizers.append(adam(self.pretrained.heads.parameters(), settings.lr_pretrained, (0.0, 0.99)))
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.seen, self.p, self.signs = 0, settings.augment_start, []

    @property
    def position(self) -> int:
        return self.seen

    @property
    def goal(self) -> int:
        return self.settings.images

    def report(self, losses: dict[str, float]) -> dict[str, float] | None:
        """The losses of every fiftieth step and of the last; those of the last step that had them."""
        self.means |= losses
        return self.means if self.step_number % 50 == 0 or self.seen >= self.goal else None

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

        towards_real, losses, real_scores = torch.zeros_like(shown), {}, None
        if self.step_number % self.settings.judge_every == 0:
            towards_real, real_scores, losses = self._judge(shown, real, dtype)
        if self.pretrained is not None:
            gradient, more = self._judge_features(shown, real)
            towards_real, losses = towards_real + gradient, losses | more
        seen_by_d.backward(towards_real)
        losses = {name: value.item() for name, value in losses.items()}
        if not all(map(math.isfinite, losses.values())):
            raise Diverged(f"the losses became NaN or infinite after {self.seen} images")
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * SLOWER**self.setbacks
            optimizer.step()
        self._after_step(batch, real_scores)
        return losses | {"p": self.p}

    def _judge(self, shown: Tensor, real: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Gradient of the generator's loss by the images shown, and scores of the real ones; D gets its gradient."""
        count = max(1, round(len(real) * self.settings.judged))
        fake_scores = self._scores(shown[:count], dtype)
        loss_generator = F.softplus(-fake_scores).mean()
        (towards_real,) = torch.autograd.grad(loss_generator, shown, retain_graph=True)
        real_scores = self._scores(real[:count], dtype)
        (F.softplus(fake_scores).mean() + F.softplus(-real_scores).mean()).backward()
        losses = {"g": loss_generator, "real": real_scores.mean(), "fake": fake_scores.mean()}
        if self.step_number // self.settings.judge_every % self.settings.r1_every == 0:
            losses["r1"] = self._r1(real[:count])
        return towards_real, real_scores.detach(), losses

    def _judge_features(self, shown: Tensor, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same by the pretrained discriminator, with the hinge loss of its heads."""
        net, images = self.pretrained, shown.detach().requires_grad_()
        features = net.features(images)
        with torch.no_grad():
            real_scores, fake_scores = net.features(real), [x.detach() for x in features]
        real_scores, fake_scores = net.judge(real_scores), net.judge(fake_scores)
        (F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()).backward()
        (gradient,) = torch.autograd.grad(-net.judge(features).mean() * self.settings.pretrained, images)
        return gradient, {"pretrained_real": real_scores.mean(), "pretrained_fake": fake_scores.mean()}

    def _real_images(self, batch: int) -> Tensor:
        return mirrored(self.data, batch, self.random, self.device)

    def _fake_images(self, batch: int, dtype: torch.dtype) -> Tensor:
        z = torch.randn(2, batch, self.generator.z_dim, generator=self.random, device=self.device)
        if isinstance(self.generator, DCGAN):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                return self.generator.synthesize(z[0])
        ws = self.generator.convert(z[0], "z", "w+")
        if torch.rand((), generator=self.random, device=self.device) < self.settings.style_mixing:
            cut = torch.randint(1, self.generator.num_ws, (), generator=self.random, device=self.device)
            ws = torch.cat([ws[:, :cut], self.generator.convert(z[1], "z", "w+")[:, cut:]], 1)
        shapes = self.generator.noise_shapes
        noise = [torch.randn(batch, 1, *shape, generator=self.random, device=self.device) for shape in shapes]
        return self.generator.render(ws, "w+", noise, dtype)

    def _scores(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        if isinstance(self.discriminator, DCGANDiscriminator):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                return self.discriminator(images)
        return self.discriminator(images, dtype)

    def _augment(self, images: Tensor) -> Tensor:
        return augment(images, self.p, self.random) if self.settings.augment else images

    def _r1(self, real: Tensor) -> Tensor:
        """Add the gradient of R1 (Mescheder et al. 2018) in float32, on half of the batch to save time."""
        real = real[: max(len(real) // 2, 1)].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminator(real).sum(), real, create_graph=True)
        penalty = (gradient / 2).square().sum((1, 2, 3)).mean()  # /2: the paper's images are in [-1, 1]
        (penalty * self.settings.r1_gamma / 2 * self.settings.r1_every).backward()
        return penalty.detach()

    def _after_step(self, batch: int, real_scores: Tensor | None) -> None:
        self.seen, self.step_number = self.seen + batch, self.step_number + 1
        # a short average at first, so that the earliest networks are forgotten
        half_life = min(self.settings.ema_images, max(self.seen * 0.05, 1))
        keep = 0.5 ** (batch / half_life)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - keep)
        if real_scores is None:
            return
        self.signs.append(real_scores.sign().mean().item())
        if len(self.signs) == 8:
            images = batch * 8 * self.settings.judge_every
            self.p = adapt(self.p, sum(self.signs) / 8, images / self.settings.augment_images)
            self.signs = []

    # --- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict:
        """As in Trainer, with the heads of the pretrained discriminator, not its fixed network."""
        more = {} if self.pretrained is None else {"heads": self.pretrained.heads_state()}
        more |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}
        more |= {"random": self.random.get_state(), "counters": [self.seen, self.p, self.signs]}
        return super().state() | more

    def load(self, state: dict) -> None:
        super().load(state)
        if self.pretrained is not None:
            self.pretrained.load_state_dict(state["heads"], strict=False)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.random.set_state(state["random"])
        self.seen, self.p, self.signs = state["counters"]


def build_networks(settings: GanSettings) -> tuple[nn.Module, nn.Module]:
    """Fresh generator and discriminator of a family."""
    if settings.family == "dcgan":
        return DCGAN(**settings.generator), DCGANDiscriminator(**settings.discriminator)
    return StyleGAN2(**settings.generator), Discriminator(**settings.discriminator)


def start_from(
    model: str | Path, generator: nn.Module, discriminator: nn.Module, place: tuple[int, int] = (2, 2)
) -> None:
    """Copy a trained model of the same resolution, or of half of it: then its layers at r become those at 2r.

    A generator of twice the resolution begins by showing the images of the smaller one at their size, in the middle of
    its own. What has no layer of that shape takes the one of the same name if that fits, else it keeps its values.
    """
    for ours, theirs in ((generator, load_generator(model)), (discriminator, load_discriminator(model))):
        tensors, found = ours.state_dict(), theirs.state_dict()
        sources, doubled = [found], theirs.config["resolution"] != ours.config["resolution"]
        if doubled:
            moved = {re.sub(r"\bb(\d+)\.", lambda m: f"b{2 * int(m[1])}.", key): t for key, t in found.items()}
            ends = {key: t for key, t in found.items() if key.startswith("b4.")}  # a discriminator's stays at 4x4
            sources += [moved, ends]
        for source in sources:
            fits = {k: t for k, t in source.items() if k in tensors and tensors[k].shape == t.shape}
            tensors |= {k: t for k, t in fits.items() if "noise_const" not in k}
        ours.load_state_dict(tensors)
        if doubled and ours is generator:
            _lead_up_to(ours.synthesis, theirs.synthesis.b4.const.detach(), place)


def _lead_up_to(network: nn.Module, const: Tensor, place: tuple[int, int], steps: int = 2000) -> None:
    """Fit the layers before b8.conv1, whatever w is, to what a smaller network begins with, among zeros."""
    (column, row), (_, height, width) = place, const.shape
    wanted = F.pad(const, (column, 8 - width - column, row, 8 - height - row))[None]
    first, second, torgb = network.b4.conv1, network.b8.conv0, network.b4.torgb
    still = [layer.affine.weight for layer in (first, second, torgb)]
    for tensor in (*still, torgb.weight, torgb.bias, first.noise_strength, second.noise_strength):
        nn.init.zeros_(tensor)
    parameters = [network.b4.const, first.weight, first.bias, second.weight, second.bias, second.affine.bias]
    w = wanted.new_zeros(1, first.affine.weight.shape[1])
    optimizer = torch.optim.Adam(parameters, 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = (second(first(network.b4.const[None], w, None), w, None) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


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
    held_out: int | None = None,
    sample_every: int = 20_000,
    **schedule,
) -> Path:
    """Train a generator on a zip or folder of aligned photos; call again to continue after a stop or a kill.

    out: folder for ``state.pt``, ``samples/`` and ``log.jsonl``. settings: ``images`` may be raised later. held_out:
    see ``load_uint8``. sample_every: images between sample grids. schedule: save_every, minutes and log, see ``train``,
    which also says what is raised. Returns the path of ``generator.safetensors``, which ``load_generator`` reads.
    """
    out = Path(out)
    (out / "samples").mkdir(parents=True, exist_ok=True)
    resolution = settings.generator.get("resolution", 64)
    trainer = GanTrainer(settings, load_uint8(data, resolution, "train", held_out=held_out), torch.device(device))

    def sample(lines: RunLog) -> None:
        due = trainer.seen // sample_every > (trainer.seen - settings.batch) // sample_every
        if due or trainer.seen >= trainer.goal:
            trainer.average.compute_statistics(2_000)
            path = out / "samples" / f"{trainer.seen // 1000:06d}k.png"
            write_image(path, sample_grid(trainer.average))
            lines.file(trainer.seen, "samples", path)

    train(trainer, out, after=sample, **schedule)
    return export_gan(out / STATE_FILE, out / "generator.safetensors")


def export_gan(checkpoint: str | Path, path: str | Path) -> Path:
    """Write the averaged generator and the discriminator of a checkpoint as float16, with the statistics of w."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    settings = json.loads(state["settings"])
    generator, discriminator = build_networks(GanSettings(**settings))
    generator.load_state_dict(state["average"])
    discriminator.load_state_dict(state["discriminator"])
    # averaged weights need statistics of their own in batch norm, which only a DCGAN has
    update_bn((generator.sample("z", 100, seed) for seed in range(20)), generator)
    generator.eval().compute_statistics()
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    tensors |= {f"discriminator.{k}": v for k, v in discriminator.state_dict().items()}
    if "w" in generator.spaces:
        tensors["statistics.w_std"] = generator.w_std
    facts = {
        "images": state["counters"][0], "steps": state["step"], "hours": round(state["seconds"] / 3600, 2),
        "machine": platform.machine(),
    }  # fmt: skip
    parts = {part: settings.pop(part) for part in ("family", "generator", "discriminator")}
    return save_weights(path, tensors, parts | {"training": facts | {"settings": settings}})
