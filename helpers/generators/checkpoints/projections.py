"""Latents from other tools: NVlabs' ``projected_w.npz``, the ``.pt`` files of rosinality's projector and of PTI."""

import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.generators.checkpoints import CheckpointError, layout, opened
from helpers.generators.checkpoints.layout import to_tensor
from helpers.generators.checkpoints.safe_pickle import LazyTensor
from helpers.generators.checkpoints.torch_file import load

expect = partial(layout.expect, found="it holds latents")
MAX_BYTES = 2**25  # of a code that a small file may unpack to; one of 1024 pixels has 36,864


def read_projection(path: str | Path) -> tuple[Tensor, list[Tensor] | None]:
    """Codes (B, w_dim) or (B, num_ws, w_dim), and noise maps, each (B, 1, h, w), or None; else CheckpointError."""
    path = Path(path)
    with opened(path) as (file, _):
        codes, noise = (_numpy(path), None) if path.suffix == ".npz" else _projected(load(file))
        if codes.ndim not in (2, 3) or not codes.numel() or not codes.isfinite().all():
            raise CheckpointError(f"its latents {tuple(codes.shape)} are not finite (B, w_dim) or (B, num_ws, w_dim).")
    return codes, noise


def _numpy(path: Path) -> Tensor:
    with zipfile.ZipFile(path) as archive:
        expect(archive.getinfo("w.npy").file_size < MAX_BYTES, "they are too many")
    values = np.load(path, allow_pickle=False)["w"]
    expect(values.dtype.kind == "f", f"w holds {values.dtype}")
    return torch.from_numpy(values.astype(np.float32))


def _projected(root: object) -> tuple[Tensor, list[Tensor] | None]:
    if isinstance(root, LazyTensor):
        return to_tensor(root), None
    entries = list(root.values())[:1_000] if isinstance(root, dict) else []
    if not entries or not all(isinstance(e, dict) and isinstance(e.get("latent"), LazyTensor) for e in entries):
        raise CheckpointError("it holds no latents of a kind that is read (projected_w.npz, rosinality's .pt).")
    expect(len({entry["latent"].shape for entry in entries}) == 1, "they are not all of one shape")
    codes, maps = torch.stack([to_tensor(entry["latent"]) for entry in entries]), [e.get("noise") for e in entries]
    if not all(type(m) is list and m and len(m) == len(maps[0]) for m in maps):
        return codes, None
    noise = [torch.cat([to_tensor(m) for m in layer]) for layer in zip(*maps, strict=True)]
    expect(all(m.ndim == 4 and m.shape[:2] == (len(entries), 1) for m in noise), "noise maps are not (1, 1, h, w)")
    return codes, noise
