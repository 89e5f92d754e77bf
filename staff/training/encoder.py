"""Train an encoder on images of the generator, whose latents are known, and on photos, whose latents are not."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from helpers.encoder import Encoder
from helpers.features import load_features
from helpers.generators import Generator, load_generator
from helpers.latents import Latents
from helpers.losses import LAYERS, lp_loss, perceptual_loss
from helpers.photos import load_uint8
from helpers.weights import save_weights
from staff.training.loop import Trainer, mirrored, train

EMA_DECAY = 0.998
WIDTHS = (32, 64, 96, 128, 128)  # of the encoder of a generator of 64 px or less


@dataclass
class EncoderSettings:
    """One run; the parts of its loss are in standard deviations of the space and in [0, 1] of the images."""

    model: str = "stylegan2-cats-64"  # the generator to invert
    steps: int = 4000  # in all
    latent_share: float = 0.6  # share that compares latents only; the rest compares images too, thrice as slow
    batch: int = 16  # images per step
    rate: float = 1e-3  # peak of Adam's learning rate
    perceptual: float = 0.1  # weight of the perceptual loss against L1's 1
    latent: float = 0.05  # weight of the latent's mean squared error in the second part
    prior: float = 0.005  # weight of a photo's mean squared offset from the mean instead of its unknown latent
    whole: float = 0.5  # share of the images that are seen whole; the others are partly covered, coarse or both
    seed: int = 0


# --- what it sees ----------------------------------------------------------------------------------------------------


def random_codes(generator: Generator, n: int, random: torch.Generator) -> tuple[str, Tensor]:
    """Codes of the widest space, truncated at random to 0.5 … 1; in w+ half of them change their w at a random row."""
    options = {"generator": random, "device": generator.device}
    z = torch.randn(2, n, generator.z_dim, **options)
    if "w" not in generator.spaces:
        return "z", z[0]
    psi, rows = torch.rand(n, 1, **options) * 0.5 + 0.5, torch.arange(generator.num_ws, device=z.device)
    cut = torch.randint(1, 2 * generator.num_ws, (n, 1), **options)  # beyond the last row: one w throughout
    first, second = (torch.lerp(generator.w_mean, generator.map(half), psi) for half in z)
    return "w+", torch.where((rows < cut)[..., None], first[:, None], second[:, None])


def random_view(images: Tensor, whole: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the encoder gets to see of images (B, 3, R, R): the images, some made coarse, and masks (B, 1, R, R).

    Coarse images, averaged over cells of up to an eighth of the side, resemble flat strokes; the masks are random
    blobs that keep 3 % or more of an image. A share of ``whole`` is left as it is.
    """
    (n, _, side, _), options = images.shape, {"generator": random, "device": images.device}
    cells = side // 2 ** torch.randint(0, 4, (n,), **options)
    coarse = torch.cat([
        F.interpolate(F.adaptive_avg_pool2d(image[None], c), side, mode="bilinear", align_corners=False)
        for image, c in zip(images, cells.tolist(), strict=True)
    ])  # fmt: skip
    # blobs: the highest values of smooth noise, of three coarsenesses
    noise = sum(F.interpolate(torch.randn(n, 1, c, c, **options), side, mode="bicubic") for c in (4, 8, 16))
    kept = 0.03 + 0.97 * torch.rand(n, **options) ** 2
    threshold = noise.flatten(1).sort(1).values.gather(1, ((1 - kept) * (side**2 - 1)).long()[:, None])
    mask = (noise >= threshold.view(n, 1, 1, 1)).to(images)
    keep = (torch.rand(n, **options) < whole).view(n, 1, 1, 1)
    return torch.where(keep, images, coarse), torch.where(keep, torch.ones_like(mask), mask)


# --- training --------------------------------------------------------------------------------------------------------


class EncoderTrainer(Trainer):
    """The network, its average and the optimiser; every step is a function of the seed and its number.

    photos: uint8 (N, 3, R, R) at the generator's resolution, or None to do without.
    """

    parts = ("net", "average", "optimizer")

    def __init__(self, settings: EncoderSettings, photos: Tensor | None, device: torch.device):
        super().__init__(settings)
        self.photos, self.device = None if photos is None else photos.to(device), device
        self.generator, self.features = load_generator(settings.model, device), load_features(device=device)
        space, side = self.generator.spaces[-1], self.generator.resolution
        widths = WIDTHS + WIDTHS[-1:] * max(0, int(math.log2(side / 64)))  # the last feature map has at most 4x4 cells
        with torch.random.fork_rng(devices=[]):  # the layers draw their initial values from the global generator
            torch.manual_seed(settings.seed)
            self.net = Encoder(space, self.generator.code_shape(space), side, widths).to(device)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
        self.optimizer = torch.optim.Adam(self.net.parameters(), settings.rate, betas=(0.9, 0.99))

    def step(self) -> dict[str, float]:
        """Take one step; returns the means of its losses. Raises Diverged when they are not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        seed = self.settings.seed * 1_000_003 + self.step_number + 7_368_787 * self.setbacks
        images = self.step_number >= self.settings.latent_share * self.settings.steps
        losses = self._losses(torch.Generator(self.device).manual_seed(seed), images)
        weights = {"latent": self.settings.latent if images else 1.0, "perceptual": self.settings.perceptual}
        weights |= {"l1": 1.0, "prior": self.settings.prior}
        self.descend(sum(weights[name] * value for name, value in losses.items()), 1.0)
        self.average.update_parameters(self.net)
        return {name: value.item() for name, value in losses.items()}

    def _losses(self, random: torch.Generator, compared: bool) -> dict[str, Tensor]:
        generator, batch = self.generator, self.settings.batch
        drawn = batch // 2 if compared and self.photos is not None else batch
        with torch.no_grad():
            space, codes = random_codes(generator, drawn, random)
            options = {"generator": random, "device": self.device}
            noise = [torch.randn(drawn, 1, *s, **options) for s in generator.noise_shapes]
            images = generator.synthesize(Latents(space, codes), noise or None).clamp(0, 1)
            if drawn < batch:
                images = torch.cat([images, mirrored(self.photos, batch - drawn, random, self.device)])
            seen, mask = random_view(images, self.settings.whole, random)
        mean, std = generator.mean(space), generator.std(space)
        offsets = self.net(seen, mask)
        losses = {"latent": (offsets[:drawn] - (codes - mean) / std).square().mean()}
        if compared:
            fixed = generator.fixed_noise(batch - drawn)  # those of photos; the drawn ones keep the noise they have
            noise = [torch.cat(pair) for pair in zip(noise, fixed, strict=True)] or None
            ours = generator.synthesize(Latents(space, mean + std * offsets), noise)
            losses["l1"] = lp_loss(ours, images, 1, mask).mean()
            theirs = self.features(images, LAYERS)
            shown = torch.lerp(images, ours, mask)  # what was not seen is not judged
            losses["perceptual"] = perceptual_loss(self.features(shown, LAYERS), theirs, mask).mean()
            losses["prior"] = offsets[drawn:].square().mean() if drawn < batch else offsets.new_zeros(())
        return losses


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

    out: folder for ``state.pt``, ``log.jsonl`` and the result for ``load_encoder``, ``encoder.safetensors``. data: zip
    or folder of photos, aligned as those of the generator; without them it learns from the generator's images alone.
    held_out: see ``load_uint8``. schedule: save_every, minutes and log, see ``train``, which also says what is raised.
    """
    settings = settings or EncoderSettings()
    resolution = load_generator(settings.model).resolution
    photos = None if data is None else load_uint8(data, resolution, "train", held_out=held_out)
    trainer = EncoderTrainer(settings, photos, torch.device(device))

    train(trainer, out, **schedule)
    seen = {"images": trainer.step_number * settings.batch, "photos": 0 if photos is None else len(photos)}
    config = {"generator": settings.model, "encoder": trainer.net.config, "training": trainer.facts() | seen}
    return save_weights(Path(out) / "encoder.safetensors", trainer.average.module.state_dict(), config)
