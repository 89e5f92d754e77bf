"""Train an encoder on pictures of the generator, whose latents are known, and on photos, whose latents are not."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from helpers.encoder import Encoder
from helpers.features import load_features
from helpers.generators import Generator, load_generator
from helpers.images import grid
from helpers.latents import Latents
from helpers.logs import RunLog
from helpers.losses import LAYERS, lp_loss, perceptual_loss
from helpers.photos import load_uint8
from helpers.weights import save_weights
from staff.training.loop import SLOWER, Diverged, Trainer, train

WEIGHTS_FILE = "encoder.safetensors"
EMA_DECAY = 0.998
SHEETS = 20  # in the log of a training


@dataclass
class EncoderSettings:
    """One run.

    Attributes:
        model: the generator to invert.
        steps: of the whole run.
        latent_share: part of them that compares latents only; the rest compares pictures too, thrice as slow.
        batch: pictures per step.
        rate: peak of Adam's learning rate; up in the first twentieth, then down a cosine.
        perceptual: weight of the perceptual loss against L1's 1.
        latent: weight of the mean squared error of the latent, standard deviations of the space, in the second part.
        prior: weight of a photo's mean squared offset from the mean instead of its unknown latent.
        whole: share of the pictures that are seen whole; the others are partly covered, coarse or both.
        seed: of everything random.
    """

    model: str = "stylegan2-cats-64"
    steps: int = 4000
    latent_share: float = 0.6
    batch: int = 16
    rate: float = 1e-3
    perceptual: float = 0.1
    latent: float = 0.05
    prior: float = 0.005
    whole: float = 0.5
    seed: int = 0


# --- what it sees ----------------------------------------------------------------------------------------------------


def random_codes(generator: Generator, n: int, random: torch.Generator) -> tuple[str, Tensor]:
    """Codes of the widest space, truncated at random to 0.5 … 1; in w+ half of them change their w at a random row."""
    z = torch.randn(2, n, generator.z_dim, generator=random).to(generator.device)
    if "w" not in generator.spaces:
        return "z", z[0]
    psi, rows = torch.rand(n, 1, generator=random) * 0.5 + 0.5, torch.arange(generator.num_ws)
    cut = torch.randint(1, 2 * generator.num_ws, (n, 1), generator=random)  # beyond the last row: one w throughout
    first, second = (torch.lerp(generator.w_mean, generator.map(half), psi.to(half)) for half in z)
    return "w+", torch.where((rows < cut).to(z.device)[..., None], first[:, None], second[:, None])


def random_view(images: Tensor, whole: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the encoder gets to see of pictures (B, 3, R, R): the pictures, some made coarse, and masks (B, 1, R, R).

    Coarse pictures, averaged over cells of up to an eighth of the side, resemble flat strokes; the masks are random
    blobs that keep 3 % or more of a picture. A share of ``whole`` is left as it is.
    """
    n, _, side, _ = images.shape
    cells = side // 2 ** torch.randint(0, 4, (n,), generator=random)
    coarse = torch.cat([
        F.interpolate(F.adaptive_avg_pool2d(image[None], int(c)), side, mode="bilinear", align_corners=False)
        for image, c in zip(images, cells, strict=True)
    ])  # fmt: skip
    # blobs: the highest values of smooth noise, of three coarsenesses
    noise = sum(F.interpolate(torch.randn(n, 1, c, c, generator=random), side, mode="bicubic") for c in (4, 8, 16))
    kept = 0.03 + 0.97 * torch.rand(n, 1, generator=random) ** 2
    threshold = torch.stack([v.flatten().quantile(1 - k) for v, k in zip(noise, kept, strict=True)])
    mask = (noise >= threshold.view(n, 1, 1, 1)).to(images)
    keep = (torch.rand(n, generator=random) < whole).to(images.device).view(n, 1, 1, 1)
    return torch.where(keep, images, coarse), torch.where(keep, torch.ones_like(mask), mask)


# --- training --------------------------------------------------------------------------------------------------------


class EncoderTrainer(Trainer):
    """The network, its average, the optimiser and the position; every step is a function of the seed and its number.

    Args:
        settings: see EncoderSettings.
        photos: uint8 (N, 3, R, R) at the generator's resolution, or None to do without.
        device: where to train.
    """

    parts = ("net", "average", "optimizer")

    def __init__(self, settings: EncoderSettings, photos: Tensor | None, device: torch.device):
        super().__init__(settings)
        self.photos, self.device = photos, device
        self.generator, self.features = load_generator(settings.model, device), load_features(device=device)
        space = self.generator.spaces[-1]
        with torch.random.fork_rng(devices=[]):  # the layers draw their initial values from the global generator
            torch.manual_seed(settings.seed)
            self.net = Encoder(space, self.generator.code_shape(space)).to(device)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
        self.optimizer = torch.optim.Adam(self.net.parameters(), settings.rate, betas=(0.9, 0.99))

    def step(self) -> dict[str, float]:
        """Take one step; returns the means of its losses. Raises Diverged when they are not finite."""
        self._set_rate()
        seed = self.settings.seed * 1_000_003 + self.step_number + 7_368_787 * self.setbacks
        random = torch.Generator().manual_seed(seed)
        pictures = self.step_number >= self.settings.latent_share * self.settings.steps
        losses = self._losses(random, pictures)
        weights = {"latent": self.settings.latent if pictures else 1.0, "perceptual": self.settings.perceptual}
        weights |= {"l1": 1.0, "prior": self.settings.prior}
        total = sum(weights[name] * value for name, value in losses.items())
        if not math.isfinite(total.item()):
            raise Diverged(f"the loss became NaN or infinite after {self.step_number} steps")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.net)
        self.step_number += 1
        return {name: value.item() for name, value in losses.items()}

    def _set_rate(self) -> None:
        progress = self.step_number / self.settings.steps
        factor = min(progress * 20 + 0.01, 0.5 + 0.5 * math.cos(math.pi * progress) + 0.005)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate * factor * SLOWER**self.setbacks

    def _losses(self, random: torch.Generator, pictures: bool) -> dict[str, Tensor]:
        generator, batch = self.generator, self.settings.batch
        drawn = batch // 2 if pictures and self.photos is not None else batch
        with torch.no_grad():
            space, codes = random_codes(generator, drawn, random)
            noise = [torch.randn(drawn, 1, *s, generator=random).to(self.device) for s in generator.noise_shapes]
            images = generator.synthesize(Latents(space, codes), noise or None).clamp(0, 1)
            if drawn < batch:
                images = torch.cat([images, self._photos(batch - drawn, random)])
            seen, mask = random_view(images, self.settings.whole, random)
        mean, std = generator.mean(space), generator.std(space)
        offsets = self.net(seen, mask)
        losses = {"latent": (offsets[:drawn] - (codes - mean) / std).square().mean()}
        if pictures:
            fixed = generator.fixed_noise(batch - drawn)  # those of photos; the drawn ones keep the noise they have
            noise = [torch.cat(pair) for pair in zip(noise, fixed, strict=True)] or None
            ours = generator.synthesize(Latents(space, mean + std * offsets), noise)
            losses["l1"] = lp_loss(ours, images, 1, mask).mean()
            theirs = self.features(images, LAYERS)
            shown = torch.lerp(images, ours, mask)  # what was not seen is not judged
            losses["perceptual"] = perceptual_loss(self.features(shown, LAYERS), theirs, mask).mean()
            losses["prior"] = offsets[drawn:].square().mean() if drawn < batch else offsets.new_zeros(())
        return losses

    @torch.no_grad()
    def sheet(self, n: int = 8) -> Tensor:
        """Pictures (1, 3, H, W): photos, or drawn ones where there are none, above what their codes show."""
        random, space = torch.Generator().manual_seed(self.settings.seed), self.generator.spaces[-1]
        if self.photos is None:
            images = self.generator.synthesize(Latents(*random_codes(self.generator, n, random))).clamp(0, 1)
        else:
            images = self._photos(n, random)
        offsets = self.average.module(images, torch.ones_like(images[:, :1]))
        codes = self.generator.mean(space) + self.generator.std(space) * offsets
        return grid(torch.cat([images, self.generator.synthesize(Latents(space, codes)).clamp(0, 1)]), columns=n)

    def _photos(self, n: int, random: torch.Generator) -> Tensor:
        index = torch.randint(len(self.photos), (n,), generator=random)
        photos = self.photos[index].to(self.device).float() / 255
        flip = torch.rand(n, 1, 1, 1, generator=random).to(self.device) < 0.5
        return torch.where(flip, photos.flip(3), photos)


def train_encoder(
    out: str | Path,
    settings: EncoderSettings | None = None,
    data: str | Path | None = None,
    *,
    device: torch.device | str = "cpu",
    held_out: int | None = None,
    **schedule,
) -> Path:
    """Train an encoder of a generator; call again to continue after a stop or a kill.

    Args:
        out: folder for ``state.pt``, ``log.jsonl`` and the result for ``load_encoder``, ``encoder.safetensors``.
        settings: the run.
        data: zip or folder of photos, aligned as those of the generator; without them it learns from the generator's
            pictures alone.
        held_out: number of photos, the last ones, that are kept for validation; see ``load_uint8``.
        schedule: save_every, minutes and log, see ``train``, which also says what is raised.
    """
    settings = settings or EncoderSettings()
    resolution = load_generator(settings.model).resolution
    photos = None if data is None else load_uint8(data, resolution, "train", held_out=held_out)
    trainer = EncoderTrainer(settings, photos, torch.device(device))

    def sample(lines: RunLog) -> None:
        if trainer.position % max(1, trainer.goal // SHEETS) == 0:
            lines.image(trainer.position, "sheet", trainer.sheet())

    train(trainer, out, after=sample, **schedule)
    return export(trainer, Path(out) / WEIGHTS_FILE)


def export(trainer: EncoderTrainer, path: Path) -> Path:
    """Write the averaged network as float16, with the facts of its training."""
    settings = asdict(trainer.settings)
    facts = {
        "steps": trainer.step_number, "images": trainer.step_number * trainer.settings.batch,
        "photos": 0 if trainer.photos is None else len(trainer.photos), "seconds": round(trainer.seconds),
        "machine": platform.machine(), "settings": settings,
    }  # fmt: skip
    config = {"generator": settings["model"], "encoder": trainer.net.config, "training": facts}
    return save_weights(path, trainer.average.module.state_dict(), config)
