"""An encoder: the latent of an image in one forward pass, as a first guess for a search (Zhu et al. 2016, sec. 3.2)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.generators.base import Generator, normal
from helpers.images import resize
from helpers.latents import Latents
from helpers.masks import mask_pyramid
from helpers.weights import WeightsError, load_weights, registry

GROUPS = 8  # group norm keeps the samples of a batch independent


class Block(nn.Module):
    """Residual block; ``stride`` 2 halves the size."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, width)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.stride, self.width = stride, width

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        skip = F.avg_pool2d(x, 2) if self.stride == 2 else x
        skip = F.pad(skip, (0, 0, 0, 0, 0, self.width - skip.shape[1]))  # new channels start at 0
        return y + skip


class Encoder(nn.Module):
    """A small residual network from an image, and a mask of what is known of it, to a code (*shape) of a latent space.

    resolution: side to which images are resized, a multiple of 16. widths: channels of the first convolution and of the
    blocks; all but the last halve the size.
    """

    def __init__(self, space: str, shape, resolution: int = 64, widths=(32, 64, 96, 128, 128), hidden: int = 256):
        super().__init__()
        self.space, self.shape, self.resolution = space, tuple(shape), resolution
        self.config = {"space": space, "shape": list(shape), "resolution": resolution}
        self.config |= {"widths": list(widths), "hidden": hidden}
        strides = [2] * (len(widths) - 2) + [1]
        self.stem = nn.Conv2d(4, widths[0], 3, 2, 1)
        self.blocks = nn.Sequential(*(Block(a, b, s) for a, b, s in zip(widths[:-1], widths[1:], strides, strict=True)))
        side = resolution // 2 ** (len(widths) - 1)
        self.squeeze = nn.Conv2d(widths[-1], widths[-1] // 2, 1)
        self.hidden = nn.Linear(widths[-1] // 2 * side**2, hidden)
        self.out = nn.Linear(hidden, torch.Size(self.shape).numel())
        self.out.weight = nn.Parameter(normal(*self.out.weight.shape, std=0.001))  # the first guess is the mean
        nn.init.zeros_(self.out.bias)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """Offsets (B, *shape) from the mean code in standard deviations, by images and masks (B, 3 and 1, R, R)."""
        x = torch.cat([(images * 2 - 1) * mask, mask], 1)
        x = F.relu(self.squeeze(F.relu(self.blocks(self.stem(x)))))
        return self.out(F.relu(self.hidden(x.flatten(1)))).view(-1, *self.shape)

    @torch.no_grad()
    def encode(
        self, generator: Generator, images: Tensor, mask: Tensor | None = None, space: str | None = None
    ) -> Latents:
        """The estimated latents of square images (B, 3, H, W) in [0, 1] in the generator that it was trained with.

        mask: (B or 1, 1, H, W) in [0, 1], 1 = known; by default everywhere. space: by default the encoder's own; an
        encoder of w+ also gives w, the mean of the rows. Raises ValueError for what does not fit.
        """
        space = space or self.space
        if self.space not in generator.spaces or generator.code_shape(self.space) != self.shape:
            raise ValueError(f"this encoder predicts {self.space} codes of {self.shape}; use its own generator.")
        mask = images.new_ones(1, 1, *images.shape[-2:]) if mask is None else mask
        if images.ndim != 4 or images.shape[1] != 3 or mask.shape[-2:] != images.shape[-2:]:
            takes = "the encoder takes images (B, 3, H, W) and a mask (B or 1, 1, H, W) of the same size"
            raise ValueError(f"{takes}; got {tuple(images.shape)} and {tuple(mask.shape)}.")
        mask = mask.expand(len(images), -1, -1, -1)
        if images.shape[-1] != self.resolution:
            images, mask = resize(images, self.resolution), mask_pyramid(mask, [self.resolution])[0]
        code = generator.mean(self.space) + generator.std(self.space) * self(images, mask)
        if space == self.space:
            return Latents(space, code)
        if (self.space, space) == ("w+", "w"):
            return Latents(space, code.mean(1))
        raise ValueError(f"the encoder predicts {self.space}, which cannot become {space}; choose w or w+.")


def load_encoder(generator: Generator | str | Path) -> Encoder:
    """The frozen encoder of a generator, name or file (ours, or ``.pt`` of pSp, e4e or ReStyle); else ValueError."""
    source = str(generator) if isinstance(generator, str | Path) else getattr(generator, "base", "")
    path = Path(generator) if isinstance(generator, str | Path) else getattr(generator, "path", None) or Path()
    if path.suffix in (".pt", ".pth"):
        from helpers.found_encoders import read_encoder

        return read_encoder(path).to(getattr(generator, "device", "cpu"))
    if not source.endswith(".safetensors") and f"{source}-encoder" not in registry():
        reason = f"there is no encoder for the generator {source or 'without a name'!r}"
        raise ValueError(f"{reason}; train one with `python -m helpers train encoder` or choose another start.")
    source = source if source.endswith(".safetensors") else f"{source}-encoder"
    tensors, config = load_weights(source)
    try:
        if len(config["encoder"]["widths"]) > 16:
            raise ValueError("too many blocks")
        with torch.device("meta"):  # compares the shapes before any memory is taken
            encoder = Encoder(**config["encoder"])
        encoder.load_state_dict(tensors, assign=True)
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(f"{source} does not hold an encoder that fits its config; export it again.") from error
    return encoder.to(getattr(generator, "device", "cpu")).eval().requires_grad_(False)
