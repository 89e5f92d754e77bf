"""Latents from other tools: NVlabs' ``projected_w.npz``, the ``.pt`` files of rosinality's projector and of PTI.

``projected_w.npz`` holds ``w`` (B, num_ws, w_dim). rosinality's file is a dict from each photo to a dict with
``latent``, (w_dim,) or (num_ws, w_dim), and ``noise``, a list of (1, 1, h, w). A tensor alone is (B, num_ws, w_dim) or
(B, w_dim). The NumPy file is read without pickle, the others like all checkpoints: nothing in them is run.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.generators.checkpoints import read_object
from helpers.generators.checkpoints.layout import expect, to_tensor
from helpers.generators.checkpoints.own import CheckpointError
from helpers.generators.checkpoints.values import LazyTensor

MAX_BYTES = 2**28


def read_projection(path: str | Path) -> tuple[Tensor, list[Tensor] | None]:
    """Codes (B, w_dim) of w or (B, num_ws, w_dim) of w+, and noise maps, each (B, 1, h, w). Raises CheckpointError."""
    path = Path(path)
    if path.suffix == ".npz":
        return _numpy(path), None
    return read_object(path, _projected)


def _numpy(path: Path) -> Tensor:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("w.npy") as file:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = reader(file)
            size = math.prod(shape) * dtype.itemsize
            if dtype.kind != "f" or fortran or len(shape) not in (2, 3) or not 0 < size < MAX_BYTES:
                raise CheckpointError(f"{path} holds {dtype} of shape {shape}, not latents (B, num_ws, w_dim).")
            values = np.frombuffer(file.read(size), dtype).reshape(shape)
    except (OSError, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not a projected_w.npz: {' '.join(str(error).split())[:100]}") from error
    return _finite(torch.from_numpy(values.astype(np.float32)))


def _projected(root: object) -> tuple[Tensor, list[Tensor] | None]:
    if isinstance(root, LazyTensor):
        return _finite(to_tensor(root)), None
    entries = list(root.values())[:1_000] if isinstance(root, dict) else []
    if not entries or not all(isinstance(e, dict) and isinstance(e.get("latent"), LazyTensor) for e in entries):
        raise CheckpointError("it holds no latents of a kind that is read (projected_w.npz, rosinality's .pt).")
    shapes = {tuple(entry["latent"].shape) for entry in entries}
    expect(len(shapes) == 1, "its latents are not all of one shape")
    maps = [entry.get("noise") for entry in entries]
    if not all(type(m) is list and m and len(m) == len(maps[0]) for m in maps):
        return _finite(torch.stack([to_tensor(entry["latent"]) for entry in entries])), None
    noise = [torch.cat([to_tensor(m) for m in layer]) for layer in zip(*maps, strict=True)]
    expect(all(m.ndim == 4 and m.shape[:2] == (len(entries), 1) for m in noise), "its noise maps are not (1, 1, h, w)")
    return _finite(torch.stack([to_tensor(entry["latent"]) for entry in entries])), noise


def _finite(codes: Tensor) -> Tensor:
    if codes.ndim not in (2, 3) or not codes.numel() or not codes.isfinite().all():
        raise CheckpointError(f"its latents {tuple(codes.shape)} are not finite (B, w_dim) or (B, num_ws, w_dim).")
    return codes
