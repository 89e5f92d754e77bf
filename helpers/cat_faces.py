"""Cat faces in whole photos: a small network finds eyes and nose.

It is the first five stages of EfficientNet-Lite0 (Tan and Le, 2019; batch norm folded) and a head, of which every cell
says how likely it is a face's middle and where eyes and nose lie from there ("Objects as Points", Zhou et al., 2019).
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.images import resize
from helpers.photos import cut_square
from helpers.weights import load_weights, weights_path

STRIDE = 8  # pixels of a cell
UNIT = 32.0  # pixels of an offset of 1
LOOK = 256  # longer side of the photo at the first look
CLOSE, EYES_APART = 160, 44.0  # side and distance of the eyes at the second, close look
LEAST = 0.46  # of the confidence, from which on a face counts
SURE = 0.7  # most faces are at least this sure
UNSURE = 0.6  # of the surest face's confidence: what lies below is not another cat
# of each stage: expansion, channels, blocks, stride, side of the kernel
STAGES = (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5)


class CatFace(NamedTuple):
    landmarks: np.ndarray  # (3, 2), x and y in pixels of the eye on the left, the right one and the nose
    confidence: float  # in [0, 1]


class Convolution(nn.Conv2d):
    """A convolution whose output is the input's size over the stride, padded as TensorFlow pads: more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        side, stride = self.kernel_size[0], self.stride[0]
        if stride == 2:
            x = F.pad(x, ((side - 2) // 2, (side - 1) // 2) * 2)
        return F.conv2d(x, self.weight, self.bias, stride, side // 2 if stride == 1 else 0, groups=self.groups)


class Block(nn.Module):
    """Expansion, depthwise convolution and projection, with a skip where the shapes allow it (MobileNetV2)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, side: int, stride: int):
        super().__init__()
        wide = inputs * expansion
        self.expand = Convolution(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = Convolution(wide, wide, side, stride, groups=wide)
        self.project = Convolution(wide, outputs, 1)
        self.skip = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.skip else y


class FinderNetwork(nn.Module):
    """Images (B, 3, H, W) in [0, 1], sides multiples of 16, to scores (B, 1, H/8, W/8) and offsets (B, 6, H/8, W/8)."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.stem, self.stages, inputs = Convolution(3, 32, 3, 2), nn.ModuleList(), 32
        for expansion, outputs, count, stride, side in STAGES:
            more = [Block(outputs, outputs, expansion, side, 1) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(Block(inputs, outputs, expansion, side, stride), *more))
            inputs = outputs
        self.coarse, self.fine = Convolution(112, width, 1), Convolution(40, width, 1)
        self.mix = Block(width, width, 4, 5, 1)
        self.out = Convolution(width, 7, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x, found = F.relu6(self.stem((images * 2 - 1).contiguous(memory_format=torch.channels_last))), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        coarse = F.interpolate(self.coarse(found[4]), scale_factor=2.0, mode="bilinear", align_corners=False)
        out = self.out(F.relu6(self.mix(coarse + self.fine(found[2]))))
        return out[:, :1], out[:, 1:]


@cache
def load_finder() -> FinderNetwork:
    tensors, _ = load_weights(weights_path("cat-face-finder"))
    net = FinderNetwork()
    net.load_state_dict({name: value.float() for name, value in tensors.items()})
    return net.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def find_cats(image: Tensor) -> list[CatFace]:
    """The faces of cats in a photo (1, 3, H, W) in [0, 1], the largest first; an empty list when there are none."""
    height, width = image.shape[-2:]
    scale = LOOK / max(height, width)
    sides = [max(32, round(side * scale / 16) * 16) for side in (height, width)]
    small = F.interpolate(image, sides, mode="bilinear", antialias=True, align_corners=False)
    ratio = np.array([width / sides[1], height / sides[0]])
    faces: list[CatFace] = []
    for face in _peaks(small):
        middle = face.landmarks.mean(0)
        if all(np.linalg.norm(middle - other.landmarks.mean(0)) > 0.7 * _apart(other) for other in faces):
            faces.append(face)
    closer = [_look_closer(image, CatFace(face.landmarks * ratio, face.confidence)) for face in faces]
    best = max((face.confidence for face in closer), default=0.0)
    found = [face for face in closer if face.confidence >= max(LEAST, UNSURE * best)]
    return sorted(found, key=lambda face: -_apart(face) * min(1, face.confidence / SURE) ** 2)  # a paw comes last


def _peaks(images: Tensor, most: int = 6) -> list[CatFace]:
    """Cells more likely than their neighbours, likeliest first, in pixels of the image (1, 3, H, W)."""
    likely, landmarks = _cells(images)
    likely = torch.where(F.max_pool2d(likely, 3, 1, 1) == likely, likely, 0).flatten()
    values, places = likely.topk(min(most, likely.numel()))
    pairs = zip(values.tolist(), landmarks.flatten(0, 2)[places].numpy(), strict=True)
    return [CatFace(points, value) for value, points in pairs if value >= LEAST / 2]


def _cells(images: Tensor) -> tuple[Tensor, Tensor]:
    """How likely a face's middle is in every cell of images (B, 3, H, W), (B, h, w); landmarks (B, h, w, 3, 2)."""
    scores, offsets = load_finder()(images)
    rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in scores.shape[2:])
    centres = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) * STRIDE
    landmarks = offsets.double().permute(0, 2, 3, 1).unflatten(3, (3, 2)) * UNIT + centres[..., None, :]
    return scores[:, 0].sigmoid().double(), landmarks


def _look_closer(image: Tensor, face: CatFace) -> CatFace:
    """The same face found again in an upright crop of a fixed size and in its mirror image: more exact, and surer."""
    points = face.landmarks @ [1, 1j]
    middle = points.mean()
    scaled_turn = EYES_APART / max(_apart(face), 1.0) * (np.conj(points[1] - points[0]) / abs(points[1] - points[0]))
    shift = CLOSE / 2 * (1 + 1j) - scaled_turn * middle
    cut = cut_square(torch.cat([image, torch.ones_like(image[:, :1])], 1), scaled_turn, shift, CLOSE, "zeros")
    exact, likely = _both_ways(cut[:, :3] + (1 - cut[:, 3:]) / 2)  # grey outside, as in training
    back = (exact[0].numpy() @ [1, 1j] - shift) / scaled_turn
    return CatFace(np.stack([back.real, back.imag], 1), float(likely[0] * face.confidence) ** 0.5)


def aligned_landmarks(images: Tensor, template: Sequence) -> tuple[Tensor, Tensor]:
    """Landmarks (B, 3, 2), x, y in pixels of 160, and confidence (B,) of faces (B, 3, R, R) cut with a template."""
    points = torch.tensor(template)
    size = round(EYES_APART / (points[1, 0] - points[0, 0]).item())
    left, top = (round(CLOSE / 2 - middle * size) for middle in points.mean(0).tolist())
    crops = F.pad(resize(images, size), (left, CLOSE - size - left, top, CLOSE - size - top), value=0.5)
    return tuple(torch.cat(part) for part in zip(*map(_both_ways, crops.split(16)), strict=True))


def pose(images: Tensor, x: Tensor, y: Tensor, mask: Tensor, template: Sequence) -> dict[str, Tensor]:
    """Of blends of x inside and y outside (B,): how far eyes and nose are from theirs, in eye distances; a face."""
    (found, sure), (first, _), (second, _) = (aligned_landmarks(part.cpu(), template) for part in (images, x, y))
    columns, rows = (torch.tensor(template) * x.shape[-1]).long().T
    share = F.avg_pool2d(mask.cpu().to(first), 9, 1, 4)[:, 0, rows, columns, None]  # at the edge both count
    distance = (found - torch.lerp(second, first, share)).norm(dim=2).mean(1) / EYES_APART
    return {"pose": distance.clamp(max=1), "face": (sure >= LEAST).float()}


def _both_ways(crops: Tensor) -> tuple[Tensor, Tensor]:
    """Landmarks (B, 3, 2) and confidence (B,) of the middle face in crops (B, 3, 160, 160) and their mirror images."""
    likely, landmarks = _cells(torch.cat([crops, crops.flip(3)]))
    (likely, other), (landmarks, mirrored) = likely.chunk(2), landmarks.chunk(2)
    mirrored = mirrored.flip(2)[..., [1, 0, 2], :] * torch.tensor([-1.0, 1.0]) + torch.tensor([CLOSE, 0.0])
    likely, landmarks = likely + other.flip(2), torch.stack([landmarks, mirrored]).mean(0)
    near = (landmarks.mean(3) - CLOSE / 2).norm(dim=-1) < EYES_APART / 2  # another face may be next to it
    weights = (likely * near).square()[..., None, None]
    exact = (weights * landmarks).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1e-12)
    return exact, (likely * near).amax((1, 2)) / 2


def _apart(face: CatFace) -> float:
    """A face's size: the distance of its eyes, or of the nose from them where the head is turned away."""
    eyes, nose = face.landmarks[:2], face.landmarks[2]
    return float(max(np.linalg.norm(eyes[1] - eyes[0]), np.linalg.norm(nose - eyes.mean(0))))
