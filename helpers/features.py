"""VGG feature networks: torchvision's VGG19 and VGG16, and our own at a quarter and half of VGG19's width."""

import copy
import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import weights
from helpers.convolution import convolve
from helpers.trials import fastest

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's photos, RGB in [0, 1]
TORCHVISION = ("vgg19", "vgg16")  # their files have 548 and 528 MB


class _Convolution(nn.Conv2d):
    def reset_parameters(self) -> None:
        """Nothing: random values would cost time and draw from the global generator."""


@dataclass(frozen=True)
class FeatureConfig:
    """Channels and number of 3x3 convolutions, with a border of one zero, of each block; 2x2 pooling between blocks."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]

    @property
    def convs(self) -> list[tuple[int, int, int]]:
        """Block (from 1), input and output channels of every convolution, in order."""
        blocks = [b for b, depth in enumerate(self.depths, 1) for _ in range(depth)]
        channels = [3] + [self.widths[b - 1] for b in blocks]
        return list(zip(blocks, channels, channels[1:], strict=False))

    @property
    def names(self) -> tuple[str, ...]:
        """conv1_1, conv1_2, conv2_1 …: block, and place in the block, of every convolution."""
        return tuple(f"conv{b}_{i}" for b, depth in enumerate(self.depths, 1) for i in range(1, depth + 1))

    def build(self) -> nn.ModuleList:
        """The convolutions, not initialised: their weights are loaded afterwards."""
        return nn.ModuleList(_Convolution(inputs, outputs, 3, padding=1) for _, inputs, outputs in self.convs)


CONFIGS = {
    "vgg19-slim": FeatureConfig((16, 32, 64, 128, 128), (2, 2, 4, 4, 4)),
    "vgg19-half": FeatureConfig((32, 64, 128, 256, 256), (2, 2, 4, 4, 4)),
    "vgg19": FeatureConfig((64, 128, 256, 512, 512), (2, 2, 4, 4, 4)),
    "vgg16": FeatureConfig((64, 128, 256, 512, 512), (2, 2, 3, 3, 3)),
}


def blur_pool(x: Tensor, size: int = 2) -> Tensor:
    """Average pooling of a 3x3 average: weights 1 2 2 1, so that gradients are smooth across cells, without lattice."""
    x = x.contiguous() if x.is_cuda else x  # a padded one has a wrong gradient in channels last: pytorch#188344
    return F.avg_pool2d(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), size)


WAYS = ("float32", "float32 channels last", "bfloat16 channels last")
TRIAL, TRIAL_ON_CARDS = 64, 512  # pixels: what takes a processor a tenth of a second, and a card more than to begin
POOLS = {"max": F.max_pool2d, "avg": F.avg_pool2d, "blur": blur_pool}


class Normalize(nn.Module):
    """Shift and scale RGB in [0, 1] to about zero mean and unit variance over natural photos."""

    def __init__(self):
        super().__init__()
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Features(nn.Module):
    """The convolutions of a VGG network (Simonyan & Zisserman 2015), frozen, without its classifier.

    Layers are named by the number of the convolution from 1 (`5`: its output before the ReLU), by block and place
    (`"conv3_1"`: the same), or after the ReLU (`"relu3_1"`). Pooling between blocks is "max", as the networks were
    trained, "avg", which Gatys et al. (2016) found smoother, or "blur"; ValueError for others.
    """

    def __init__(self, config: FeatureConfig, name: str = "", pooling: str = "max"):
        super().__init__()
        if pooling not in POOLS:
            raise ValueError(f"Expected pooling {', '.join(POOLS)}; got {pooling!r}.")
        self.config, self.name, self.pooling = config, name, pooling
        self.layers = config.names  # number n is layers[n - 1]
        self.normalize, self.convs = Normalize(), config.build()
        self.requires_grad_(False)
        self.eval()

    def locate(self, layer: int | str) -> tuple[int, bool]:
        """Index of the convolution from 0, and whether it is meant after its ReLU. ValueError for others."""
        places = {}
        for index, name in enumerate(self.layers):
            places |= dict.fromkeys((index + 1, name), (index, False)) | {name.replace("conv", "relu"): (index, True)}
        if layer in places and not isinstance(layer, bool | float):
            return places[layer]
        known = f"1…{len(self.layers)}, conv1_1…{name} or relu1_1…{name.replace('conv', 'relu')}"
        blocks = ", ".join(f"{d} in block {b}" for b, d in enumerate(self.config.depths, 1))
        raise ValueError(f"{self.name or 'This network'} has no layer {layer!r}; it has {known} ({blocks}).")

    def check(self, images: Tensor, last: int) -> None:
        """Raise ValueError unless images (B, 3, H, W) are large enough for the convolution of index `last`."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            found = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"Expected float images (B, 3, H, W) in [0, 1], got {found}; convert them first.")
        least, (height, width) = 2 ** (self.config.convs[last][0] - 1), images.shape[2:]
        if min(height, width) < least:
            needed = f"{self.layers[last]} needs images of at least {least}x{least} pixels"
            raise ValueError(f"{needed}, got {height}x{width}; enlarge them or ask for an earlier layer.")

    def forward(self, images: Tensor, layers: int | str | Iterable[int | str]) -> dict[int | str, Tensor]:
        """Layer to activations (B, C, H / 2^(b-1), W / 2^(b-1)) in block b, under the keys they were asked by.

        images: (B, 3, H, W), RGB in [0, 1]. Later layers are not run; gradients flow to the images.
        """
        asked = [layers] if isinstance(layers, int | str) else list(layers)
        places = {layer: self.locate(layer) for layer in asked}
        if not places:
            return {}
        last = max(index for index, _ in places.values())
        self.check(images, last)
        found, x, block = {}, self.normalize(images).to(self.convs[0].weight.dtype), 1
        for index, (conv, (b, _, _)) in enumerate(zip(self.convs[: last + 1], self.config.convs, strict=False)):
            x = POOLS[self.pooling](x, 2) if b > block else x
            found[index, False] = x = convolve(x, conv.weight, conv.bias)
            found[index, True] = x = F.relu(x, inplace=(index, False) not in places.values())
            block = b
        return {layer: found[place] for layer, place in places.items()}


def fast_copy(features: Features, precision: str = "auto") -> Features:
    """The same network in the type and memory layout that are fastest on its device; ``precision`` keeps to a type."""
    way = fastest_way(features.convs[0].weight.device, features.config.widths[0], precision)
    return _laid_out(copy.deepcopy(features), way)


def fast_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 where it was found to be the fastest, which it is where the processor multiplies it; else float32."""
    return _dtype_of(fastest_way(device))


def fastest_way(device: str | torch.device, width: int = 64, precision: str = "auto") -> str:
    """The fastest of WAYS for a network whose first layer has ``width`` channels; tried at the first call."""

    def ways() -> dict[str, Callable[[], object]]:
        network, random = Features(FeatureConfig((width, 2 * width, 4 * width), (2, 2, 2))), torch.Generator()
        for conv in network.convs:
            conv.weight.normal_(std=conv.weight[0].numel() ** -0.5, generator=random.manual_seed(0))
            conv.bias.zero_()
        side = TRIAL if torch.device(device).type == "cpu" else TRIAL_ON_CARDS
        images = torch.rand(1, 3, side, side, generator=random).to(device)
        last = network.layers[-1]

        def step(network: Features) -> None:
            x = images.clone().requires_grad_()
            with torch.enable_grad():
                network(x, last)[last].float().square().mean().backward()

        networks = {way: _laid_out(copy.deepcopy(network), way).to(device) for way in WAYS}
        return {way: partial(step, laid_out) for way, laid_out in networks.items()}

    return fastest(f"features, {width} channels", device, ways, "" if precision == "auto" else precision)


def _laid_out(features: Features, way: str) -> Features:
    layout = torch.channels_last if "channels last" in way else torch.contiguous_format
    features.convs.to(dtype=_dtype_of(way), memory_format=layout)
    return features


def _dtype_of(way: str) -> torch.dtype:
    return torch.bfloat16 if way.startswith("bfloat16") else torch.float32


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the convolutions of a torchvision VGG state dict (features.28.weight …) to ours (convs.12.weight …)."""
    matches = list(filter(None, (re.fullmatch(r"features\.(\d+)\.(weight|bias)", name) for name in state)))
    numbers = sorted({int(m[1]) for m in matches})
    return {f"convs.{numbers.index(int(m[1]))}.{m[2]}": state[m[0]] for m in matches}


def torchvision_file(name: str) -> Path:
    """Where torchvision's weights are, or will be."""
    return weights.FOLDER / weights.registry()[name]["file"]


def _load_torchvision(name: str) -> dict[str, Tensor]:
    try:
        path = weights.weights_path(name)
        return from_torchvision(torch.load(path, map_location="cpu", weights_only=True))
    except weights.WeightsError as error:
        raise weights.WeightsError(f"{str(error).rstrip('.')}; or use vgg19-slim, which is bundled.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = f"{path} holds no tensors ({type(error).__name__})"
        raise ValueError(f"{reason}; delete it to download it again.") from error


def load_features(
    name: str | Path | None = None, device: str | torch.device | None = None, pooling: str | None = None
) -> Features:
    """A frozen network: "vgg19" or "vgg16" (downloaded once), "vgg19-slim" or "vgg19-half" (bundled), or a file.

    None or "auto" is vgg19 where its file is on disk, vgg19-slim elsewhere; pooling None is that of its training.
    Weights are float32 in the layout that is fastest on the device. Raises ValueError for other names and files.
    """
    facts = {}
    if name in (None, "auto"):
        name = "vgg19" if torchvision_file("vgg19").is_file() else "vgg19-slim"
    if name in TORCHVISION:
        config, tensors = CONFIGS[name], _load_torchvision(name)
    elif name in CONFIGS or str(name).endswith(".safetensors"):
        tensors, facts = weights.load_weights(name)
        tensors = {key: tensor for key, tensor in tensors.items() if key.startswith("convs.")}
        try:
            config = FeatureConfig(tuple(facts["widths"]), tuple(facts["depths"]))
        except KeyError as error:
            raise ValueError(f"{name} is not a feature network: its config has no {error}.") from error
    else:
        raise ValueError(f"Unknown feature network {str(name)!r}; known are: auto, {', '.join(CONFIGS)}.")
    stem = Path(name).stem if name not in CONFIGS else name
    network = Features(config, stem, pooling or facts.get("pooling", "max"))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"The tensors of {name} do not fit its layers; get or export the file again.") from error
    return _laid_out(network.to(device or "cpu"), fastest_way(device or "cpu", config.widths[0], "float32"))
