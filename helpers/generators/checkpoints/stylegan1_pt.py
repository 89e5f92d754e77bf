"""StyleGAN in the common PyTorch conversion: ``torch.save`` of one state dict of ``g_mapping`` and ``g_synthesis``.

Noise maps are not stored, nor, as a rule, the mean of w (``truncation.avg_latent``): the maps are drawn with seed 0,
the mean is measured. The instance norm of this conversion adds 1e-5 to the variance, the official one 1e-8.
"""

from __future__ import annotations

from helpers.generators.checkpoints.layout import Contents, generator_sizes, translated
from helpers.generators.checkpoints.own import Part

FORMAT = "StyleGAN .pt (g_mapping, g_synthesis)"
CONST = "g_synthesis.blocks.4x4.const"
BLOCK, OURS = r"g_synthesis\.blocks\.(\d+)x\1\.", r"synthesis.b\1."
RULES = [
    (r"g_mapping\.dense(\d+)\.(weight|bias)", r"mapping.fc\1.\2"),
    (r"truncation\.avg_latent", "mapping.w_avg"),
    (r"g_synthesis\.torgb\.(weight|bias)", r"synthesis.rgb_\1"),
    (r"g_synthesis\.blocks\.4x4\.const", "synthesis.const", lambda t: t[0]),
    (r"g_synthesis\.blocks\.4x4\.bias", "synthesis.b4.conv0.bias"),
    # from 128 on the conversion doubles sizes by a transposed convolution
    (r"g_synthesis\.blocks\.(\d{3,})x\1\.conv0_up\.weight", OURS + "conv0.weight", lambda t: t.flip(2, 3)),
    (BLOCK + r"conv0_up\.(weight|bias)", OURS + r"conv0.\2"),
    (BLOCK + r"conv1?\.(weight|bias)", OURS + r"conv1.\2"),
]
for _number in (1, 2):
    _theirs, _ours = rf"{BLOCK}epi{_number}\.", f"{OURS}conv{_number - 1}."
    RULES += [
        (_theirs + r"top_epi\.noise\.weight", _ours + "noise_strength"),
        (_theirs + r"style_mod\.lin\.(weight|bias)", _ours + r"style.\2"),
    ]


def matches(contents: Contents) -> bool:
    return contents.network(CONST) is not None


def generator(contents: Contents) -> Part:
    tensors = translated(contents.network(CONST).tensors, RULES)
    config = generator_sizes(tensors) | {"eps": 1e-5}
    if "mapping.w_avg" in tensors:
        tensors["mapping.w_avg"] = tensors["mapping.w_avg"].reshape(-1, config["w_dim"])[0]
    return Part("stylegan1", config, tensors)


def discriminator(contents: Contents) -> None:
    """The conversion holds none."""
