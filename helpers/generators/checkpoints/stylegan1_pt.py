"""StyleGAN in the common PyTorch conversion: ``torch.save`` of one state dict of ``g_mapping`` and ``g_synthesis``.

Names: ``g_mapping.dense0.weight`` …; ``g_synthesis.blocks.4x4.const`` (1, C, 4, 4), ``.bias``, ``.conv.weight``;
``g_synthesis.blocks.8x8.conv0_up.weight``, ``.conv1.weight``; in each block ``epi1`` and ``epi2`` with
``top_epi.noise.weight`` (C,) and ``style_mod.lin.weight`` (2C, w_dim); ``g_synthesis.torgb.weight``. Fixed noise maps
are not stored, nor, as a rule, the mean of w (``truncation.avg_latent`` where there is one): the maps are drawn with
seed 0, the mean is measured. The instance norm of this conversion adds 1e-5 to the variance, the official one 1e-8.
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
    (BLOCK + r"epi1\.top_epi\.noise\.weight", OURS + "conv0.noise_strength"),
    (BLOCK + r"epi2\.top_epi\.noise\.weight", OURS + "conv1.noise_strength"),
    (BLOCK + r"epi1\.style_mod\.lin\.(weight|bias)", OURS + r"conv0.style.\2"),
    (BLOCK + r"epi2\.style_mod\.lin\.(weight|bias)", OURS + r"conv1.style.\2"),
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
