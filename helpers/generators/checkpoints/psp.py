"""The encoders next to the generator in files of pSp, e4e and ReStyle: from a face to w+ in one pass, or in five.

pSp: Richardson et al., "Encoding in Style", CVPR 2021; e4e: Tov et al., SIGGRAPH 2021; ReStyle: Alaluf et al., ICCV
2021. All have the residual network with squeeze and excitation of ArcFace (IR-SE50) and a head for each row of w+.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.generators.checkpoints import CheckpointError, layout, opened
from helpers.generators.checkpoints.torch_file import load
from helpers.generators.checkpoints.values import Record
from helpers.images import resize
from helpers.latents import Latents

SIZE = 256  # pixels of the images that they were trained on
ROUNDS = 5  # of ReStyle, which sees its last result next to the photo
BLOCKS = (3, 4, 14, 3)  # of each stage, which begins with half the size and, but for the first, twice the channels
COARSE, MIDDLE = 3, 7  # rows from which the heads see the features of 32 and of 64 pixels
MARKER = "input_layer.0.weight"
DELTAS = ("Encoder4Editing", "ProgressiveBackboneEncoder")  # their heads give offsets from the first row


class _Unit(nn.Module):
    def __init__(self, into: int, out: int, stride: int):
        super().__init__()
        same = into == out
        self.shortcut_layer = nn.MaxPool2d(1, stride) if same else nn.Sequential(
            nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )  # fmt: skip
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(into), nn.Conv2d(into, out, 3, 1, 1, bias=False), nn.PReLU(out),
            nn.Conv2d(out, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), _Excitation(out),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class _Excitation(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class _Head(nn.Module):
    """Features to one row: convolutions that halve the size until one pixel is left, and a scaled linear layer."""

    def __init__(self, width: int, halvings: int):
        super().__init__()
        layers = [layer for _ in range(halvings) for layer in (nn.Conv2d(width, width, 3, 2, 1), nn.LeakyReLU())]
        self.convs, self.linear = nn.Sequential(*layers), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x).flatten(1)
        return F.linear(x, self.linear.weight * x.shape[1] ** -0.5, self.linear.bias)


class PSPEncoder(nn.Module):
    """Images (B, 3, 256, 256), and with ``inputs`` 6 a former result, to the rows of w+, (B, rows, 8 * width).

    width: channels of the first stage, 64 in all published files; pyramid: heads see three sizes of features.
    """

    def __init__(self, rows: int, inputs: int, width: int, pyramid: bool, deltas: bool):
        super().__init__()
        self.deltas, self.inputs = deltas, inputs
        first = nn.Conv2d(inputs, width, 3, 1, 1, bias=False)
        self.input_layer = nn.Sequential(first, nn.BatchNorm2d(width), nn.PReLU(width))
        widths = [width, *(width * 2**stage for stage, blocks in enumerate(BLOCKS) for _ in range(blocks))]
        strides = [1 if i else 2 for blocks in BLOCKS for i in range(blocks)]
        self.body = nn.Sequential(*map(_Unit, widths[:-1], widths[1:], strides))
        if pyramid:
            self.latlayer1, self.latlayer2 = (nn.Conv2d(width * n, width * 8, 1) for n in (4, 2))
        halvings = [4 + (pyramid and row >= COARSE) + (pyramid and row >= MIDDLE) for row in range(rows)]
        self.styles = nn.ModuleList(_Head(width * 8, number) for number in halvings)

    def forward(self, x: Tensor) -> Tensor:
        x, maps = self.input_layer(x), []
        for number, unit in enumerate(self.body):
            x = unit(x)
            maps += [x] if number in (6, 20, 23) else []
        fine, middle, coarse = maps
        levels = [coarse] * 3
        if hasattr(self, "latlayer1"):
            levels[1] = _up(coarse, middle.shape) + self.latlayer1(middle)
            levels[2] = _up(levels[1], fine.shape) + self.latlayer2(fine)
        seen = (levels[(row >= COARSE) + (row >= MIDDLE)] for row in range(len(self.styles)))
        rows = torch.stack([head(features) for head, features in zip(self.styles, seen, strict=True)], 1)
        return torch.cat([rows[:, :1], rows[:, :1] + rows[:, 1:]], 1) if self.deltas else rows

    @torch.no_grad()
    def encode(self, generator, images: Tensor, mask: Tensor | None = None, space: str | None = None) -> Latents:
        """The estimated latents of faces (B, 3, H, W) in [0, 1], aligned as in the training of the generator.

        space: "w+", or "w", the mean of its rows. A mask is refused: these encoders take whole images.
        """
        fits = (generator.num_ws, generator.w_dim) == tuple(self.average.shape[1:])
        if mask is not None or space not in (None, "w", "w+") or not fits:
            raise CheckpointError("its encoder takes whole images to w+ of its own generator; choose another start.")
        target, average = resize(images, SIZE) * 2 - 1, self.average.expand(len(images), -1, -1)
        code = average
        for _ in range(ROUNDS if self.inputs == 6 else 1):
            x = target
            if self.inputs == 6:
                shown = generator.synthesize(Latents("w+", code))
                x = torch.cat([target, F.adaptive_avg_pool2d(shown, SIZE) * 2 - 1], 1)
            code = code + self(x)
        return Latents("w", code.mean(1)) if space == "w" else Latents("w+", code)


def _up(x: Tensor, shape: torch.Size) -> Tensor:
    return F.interpolate(x, shape[-2:], mode="bilinear", align_corners=True)


def read_encoder(path: str | Path) -> PSPEncoder:
    """The encoder of a pSp, e4e or ReStyle file, frozen. Raises CheckpointError for a file without one."""
    with opened(Path(path)) as (file, _):
        root = load(file)
        found = layout.contents_of(root).network(MARKER)
        if found is None or not isinstance(root, dict) or "latent_avg" not in root:
            raise CheckpointError("it holds no encoder of pSp, e4e or ReStyle; choose another start.")
        options = root.get("opts")
        options = options.state if isinstance(options, Record) else options
        kind = options.get("encoder_type") if isinstance(options, dict) else None
        rows = len([name for name in found.tensors if name.startswith("styles.") and name.endswith("linear.bias")])
        (width, inputs, *_), pyramid = layout.shape_of(found.tensors, MARKER, 4), "latlayer1.weight" in found.tensors
        layout.expect(rows <= 18 and inputs in (3, 6) and 16 <= width <= 64, f"{rows} rows from {inputs} channels")
        tensors = {name: layout.to_tensor(value) for name, value in found.tensors.items() if "num_batches" not in name}
        average = layout.to_tensor(root["latent_avg"])
        try:
            with torch.device("meta"):
                encoder = PSPEncoder(rows, inputs, width, pyramid, kind in DELTAS)
            absent = {name: torch.zeros(()).long() for name in encoder.state_dict() if "num_batches" in name}
            encoder.load_state_dict(tensors | absent, assign=True)
            encoder.register_buffer("average", average.reshape(-1, width * 8).expand(rows, -1)[None])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"its encoder is of a kind that is not read: {reason}") from error
    return encoder.eval().requires_grad_(False)
