"""StyleGAN in the common PyTorch conversion: ``torch.save`` of one state dict of ``g_mapping`` and ``g_synthesis``.

Names: ``g_mapping.dense0.weight`` …; ``g_synthesis.blocks.4x4.const`` (1, C, 4, 4), ``.bias``, ``.conv.weight``;
``g_synthesis.blocks.8x8.conv0_up.weight``, ``.conv1.weight``; in each block ``epi1`` and ``epi2`` with
``top_epi.noise.weight`` (C,) and ``style_mod.lin.weight`` (2C, w_dim); ``g_synthesis.torgb.weight``. Fixed noise maps
are not stored, nor, as a rule, the mean of w (``truncation.avg_latent`` where there is one): the maps are drawn with
seed 0, the mean is measured. The instance norm of this conversion adds 1e-5 to the variance, the official one 1e-8.
"""

from __future__ import annotations

from helpers.generators.checkpoints.layout import (
    Contents,
    Part,
    channel_rule,
    count,
    log2,
    shape_of,
    side,
    take,
    to_tensor,
)

FORMAT = "StyleGAN .pt (g_mapping, g_synthesis)"
CONST = "g_synthesis.blocks.4x4.const"
EPS = 1e-5


def matches(contents: Contents) -> bool:
    return contents.network(CONST) is not None


def discriminator(contents: Contents) -> None:
    """The conversion holds none."""


def generator(contents: Contents) -> Part:
    state, blocks = contents.network(CONST).tensors, "g_synthesis.blocks"
    layers = count(state, "g_mapping.dense{}.weight")
    tensors = {}
    for i in range(layers):
        for part in ("weight", "bias"):
            tensors[f"mapping.fc{i}.{part}"] = to_tensor(take(state, f"g_mapping.dense{i}.{part}"))
    w_dim, z_dim = shape_of(state, "g_mapping.dense0.weight", 2)
    if "truncation.avg_latent" in state:
        tensors["mapping.w_avg"] = to_tensor(state["truncation.avg_latent"]).reshape(-1, w_dim)[0]
    resolution = side([4, *(r for r in (2**i for i in range(3, 12)) if f"{blocks}.{r}x{r}.conv1.weight" in state)])
    tensors["synthesis.const"] = to_tensor(state[f"{blocks}.4x4.const"])[0]
    tensors["synthesis.rgb_weight"] = to_tensor(take(state, "g_synthesis.torgb.weight"))
    tensors["synthesis.rgb_bias"] = to_tensor(take(state, "g_synthesis.torgb.bias"))
    widths = {}
    for r in (2**i for i in range(2, log2(resolution) + 1)):
        source, target = f"{blocks}.{r}x{r}", f"synthesis.b{r}"
        first, second = ("conv0_up", "conv1") if r > 4 else (None, "conv")
        if first:
            shape_of(state, f"{source}.{first}.weight", 4)
            weight = to_tensor(state[f"{source}.{first}.weight"])
            # from 128 on the conversion doubles sizes by a transposed convolution
            tensors[f"{target}.conv0.weight"] = weight.flip(2, 3) if r >= 128 else weight
        tensors[f"{target}.conv0.bias"] = to_tensor(take(state, f"{source}.{first + '.' if first else ''}bias"))
        shape_of(state, f"{source}.{second}.weight", 4)
        for part in ("weight", "bias"):
            tensors[f"{target}.conv1.{part}"] = to_tensor(take(state, f"{source}.{second}.{part}"))
        for j in (0, 1):
            end, layer = f"{source}.epi{j + 1}", f"{target}.conv{j}"
            tensors[f"{layer}.noise_strength"] = to_tensor(take(state, f"{end}.top_epi.noise.weight"))
            for part in ("weight", "bias"):
                tensors[f"{layer}.style.{part}"] = to_tensor(take(state, f"{end}.style_mod.lin.{part}"))
        widths[r] = tensors[f"{target}.conv1.weight"].shape[0]
    config = {"resolution": resolution, "z_dim": z_dim, "w_dim": w_dim, "mapping_layers": layers, "eps": EPS}
    return Part("stylegan1", config | channel_rule(widths), tensors)
