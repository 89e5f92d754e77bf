"""The encoders next to the generator in files of pSp, e4e and ReStyle: from a face to w+ in one pass, or in five.

pSp: Richardson et al., "Encoding in Style", CVPR 2021; e4e: Tov et al., SIGGRAPH 2021; ReStyle: Alaluf et al., ICCV
2021. All have the residual network with squeeze and excitation of ArcFace (IR-SE50) and a head for each row of w+.
"""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.generators.checkpoints import CheckpointError, layout, opened
from helpers.generators.checkpoints.torch_file import load
from helpers.images import resize
from helpers.latents import Latents

SIZE = 256  # pixels of the images that they were trained on
ROUNDS = 5  # of ReStyle, which sees its last result next to the photo
STRIDES = [1 if i else 2 for blocks in (3, 4, 14, 3) for i in range(blocks)]  # each stage begins with half the size
COARSE, MIDDLE = 3, 7  # rows from which the heads see the features of 32 and of 64 pixels
MARKER = "input_layer.0.weight"
DELTAS = ("Encoder4Editing", "ProgressiveBackboneEncoder")  # their heads give offsets from the first row


class PSPEncoder(nn.Module):
    """Images (B, 3, 256, 256), with 6 ``inputs`` next to a former result, to offsets (B, rows, w_dim) from ``average``.

    weights: as in the file, without "encoder."; deltas: all rows but the first are offsets from it.
    """

    def __init__(self, weights: dict[str, Tensor], average: Tensor, deltas: bool):
        super().__init__()
        self.names, self.deltas, self.inputs = set(weights), deltas, weights[MARKER].shape[1]
        for name, value in weights.items():
            self.register_buffer(name.replace(".", "/"), value)
        self.register_buffer("average", average)

    def part(self, name: str) -> Tensor:
        return self._buffers[name.replace(".", "/")]

    def convolved(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.part(f"{name}.weight")
        bias = self.part(f"{name}.bias") if f"{name}.bias" in self.names else None
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    def normalised(self, name: str, x: Tensor) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.part(f"{name}.{part}") for part in parts))

    def unit(self, name: str, x: Tensor, stride: int) -> Tensor:
        y, short = self.normalised(f"{name}.res_layer.0", x), x[:, :, ::stride, ::stride]
        if f"{name}.shortcut_layer.0.weight" in self.names:
            short = self.convolved(f"{name}.shortcut_layer.0", x, stride)
            short = self.normalised(f"{name}.shortcut_layer.1", short)
        y = F.prelu(self.convolved(f"{name}.res_layer.1", y), self.part(f"{name}.res_layer.2.weight"))
        y = self.normalised(f"{name}.res_layer.4", self.convolved(f"{name}.res_layer.3", y, stride))
        excited = F.relu(self.convolved(f"{name}.res_layer.5.fc1", y.mean((2, 3), keepdim=True)))
        return y * self.convolved(f"{name}.res_layer.5.fc2", excited).sigmoid() + short

    def head(self, name: str, x: Tensor) -> Tensor:
        """Features to one row: convolutions that halve the size until one pixel is left, and a scaled linear layer."""
        for i in range(x.shape[-1].bit_length() - 1):
            x = F.leaky_relu(self.convolved(f"{name}.convs.{2 * i}", x, 2))
        weight, bias = (self.part(f"{name}.linear.{part}") for part in ("weight", "bias"))
        return F.linear(x.flatten(1), weight / x.shape[1] ** 0.5, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalised("input_layer.1", self.convolved("input_layer.0", x))
        x, maps = F.prelu(x, self.part("input_layer.2.weight")), []
        for number, stride in enumerate(STRIDES):
            x = self.unit(f"body.{number}", x, stride)
            maps.append(x)
        fine, middle, coarse = maps[6], maps[20], maps[23]
        levels = [coarse] * 3
        if "latlayer1.weight" in self.names:  # heads see three sizes of features
            up = partial(F.interpolate, scale_factor=2.0, mode="bilinear", align_corners=True)
            levels[1] = up(coarse) + self.convolved("latlayer1", middle)
            levels[2] = up(levels[1]) + self.convolved("latlayer2", fine)
        seen = [levels[(row >= COARSE) + (row >= MIDDLE)] for row in range(self.average.shape[1])]
        rows = [self.head(f"styles.{row}", features) for row, features in enumerate(seen)]
        return torch.stack([rows[0], *(row + rows[0] * self.deltas for row in rows[1:])], 1)

    @torch.no_grad()
    def encode(self, generator, images: Tensor, mask: Tensor | None = None, space: str | None = None) -> Latents:
        """w+ of aligned faces (B, 3, H, W) in [0, 1], or w, the mean of its rows. CheckpointError for z or a mask."""
        fits = (generator.num_ws, generator.w_dim) == tuple(self.average.shape[1:])
        if mask is not None or space not in (None, "w", "w+") or not fits:
            raise CheckpointError("its encoder takes whole images to w+ of its own generator; choose another start.")
        target, code = resize(images, SIZE) * 2 - 1, self.average.expand(len(images), -1, -1)
        for _ in range(ROUNDS if self.inputs == 6 else 1):
            x = target
            if self.inputs == 6:
                former = generator.synthesize(Latents("w+", code))
                x = torch.cat([target, F.adaptive_avg_pool2d(former, SIZE) * 2 - 1], 1)
            code = code + self(x)
        return Latents("w", code.mean(1)) if space == "w" else Latents("w+", code)


def read_encoder(path: str | Path) -> PSPEncoder:
    """The encoder of a pSp, e4e or ReStyle file, frozen. Raises CheckpointError for a file without one."""
    with opened(Path(path)) as (file, _):
        contents = layout.contents_of(load(file))
        found, average = contents.network(MARKER), contents.tensors.get("latent_avg")
        if found is None or average is None:
            raise CheckpointError("it holds no encoder of pSp, e4e or ReStyle; choose another start.")
        kind = layout.options(contents.root, "opts").get("encoder_type")
        rows = len([name for name in found.tensors if name.startswith("styles.") and name.endswith("linear.bias")])
        width, inputs, *_ = getattr(found.tensors[MARKER], "shape", (0, 0))
        layout.expect(0 < rows <= 18 and inputs in (3, 6) and 16 <= width <= 64, f"{rows} rows from {inputs} channels")
        weights = {name: layout.to_tensor(value) for name, value in found.tensors.items()}
        average = layout.to_tensor(average).reshape(-1, width * 8).expand(rows, -1)[None]
        shapes = {name: value.to("meta") for name, value in weights.items()}
        PSPEncoder(shapes, average.to("meta"), False)(torch.empty(1, inputs, SIZE, SIZE, device="meta"))  # all is there
    return PSPEncoder(weights, average, kind in DELTAS).eval().requires_grad_(False)
