"""Latents: what an inversion finds, stores, interpolates and mixes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from helpers.files import atomic_path
from helpers.weights import WeightsError, check_header

SAMPLES = Path(__file__).resolve().parent.parent / "data" / "generated"

MAX_HEADER = 2**20  # bytes of names and settings; few panels have 10,000
AXES = {"z": 2, "w": 2, "w+": 3}  # of a batch of codes
SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".pkl")  # of files that may hold latents


@dataclass
class Latents:
    """A batch of codes in one latent space, with the noise maps that belong to them."""

    space: str  # "z", "w" or "w+"
    code: Tensor  # (B, z_dim), (B, w_dim) or (B, num_ws, w_dim)
    noise: list[Tensor] | None = None  # maps (B, 1, h, w), coarse to fine; None is the generator's fixed ones

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, index) -> Latents:
        """Some of the batch; an integer keeps the batch axis."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"there are {len(self)} latents, not one with the number {index}.")
            index = slice(index, index + 1 or None)
        return self.apply(lambda t: t[index])

    def apply(self, function) -> Latents:
        """The same latents with a function applied to the code and every noise map."""
        noise = None if self.noise is None else [function(m) for m in self.noise]
        return Latents(self.space, function(self.code), noise)

    def detach(self) -> Latents:
        """A copy without gradient."""
        return self.apply(lambda t: t.detach().clone())

    def to(self, device) -> Latents:
        return self.apply(lambda t: t.to(device))


def join(parts: list[Latents]) -> Latents:
    """One batch of several, all in one space, all or none with noise maps; else ValueError."""
    if len({(p.space, p.noise is None) for p in parts}) != 1:
        raise ValueError("only latents of one space, all with or all without noise maps, can be joined in one batch.")
    noise = [torch.cat(maps) for maps in zip(*(p.noise or [] for p in parts), strict=True)]
    return Latents(parts[0].space, torch.cat([p.code for p in parts]), noise or None)


def interpolate(a: Latents, b: Latents, t: float | Tensor) -> Latents:
    """Latents between ``a`` (t = 0) and ``b`` (t = 1); ValueError for two spaces, or maps at one end only.

    z follows the great circle, because a straight line cuts through the empty inside of a sphere (White, "Sampling
    Generative Networks", 2016); the rest is linear. a, b: batches of 1 or of equal length; t: a number, or (T,) with
    batches of 1: T latents.
    """
    if a.space != b.space:
        raise ValueError(f"only latents of one space can be interpolated; got {a.space} and {b.space}.")
    if (a.noise is None) != (b.noise is None):
        raise ValueError("latents can be interpolated if both or neither have noise maps; add maps to the other.")
    t = torch.as_tensor(t, dtype=a.code.dtype, device=a.code.device)
    weight = t.reshape(-1, *[1] * (a.code.ndim - 1))
    code = _slerp(a.code, b.code, weight) if a.space == "z" else torch.lerp(a.code, b.code, weight)
    noise = [torch.lerp(x, y, t.reshape(-1, 1, 1, 1)) for x, y in zip(a.noise or [], b.noise or [], strict=True)]
    return Latents(a.space, code, noise or None)


def _slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Direction along the great circle, length linear between the two; opposite vectors turn about any axis."""
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    u, v = a / length_a.clamp_min(1e-12), b / length_b.clamp_min(1e-12)
    # the arc cosine would lose half of the digits near 0 and pi
    angle = 2 * torch.atan2((u - v).norm(dim=1, keepdim=True), (u + v).norm(dim=1, keepdim=True))
    sine = torch.sin(angle).clamp_min(1e-12)
    direction = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / sine
    direction = torch.where(angle < 1e-4, torch.lerp(u, v, t), direction)
    axis = F.one_hot(u.abs().argmin(1), u.shape[1]).to(u)
    aside = F.normalize(axis - (axis * u).sum(1, keepdim=True) * u, dim=1)
    over = torch.cos(t * math.pi) * u + torch.sin(t * math.pi) * aside
    return torch.where(angle > math.pi - 1e-4, over, direction) * torch.lerp(length_a, length_b, t)


def save_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors by name as safetensors, whole or not at all."""
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def save_latents(path: str | Path, latents: Latents, *, extra: dict | None = None, **metadata: str) -> None:
    """Write latents, float32, with metadata such as the model's name, and ``extra`` tensors that are not latents."""
    named = {"code": latents.code} | {f"noise.{i:02d}": noise for i, noise in enumerate(latents.noise or [])}
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in named.items()}
    save_tensors(path, (extra or {}) | tensors, {"space": latents.space, **metadata})


def chosen_samples(generator) -> Latents:
    """Twelve faces of a bundled generator that pass for photos, chosen by eye; samples of truncation 0.7 of another."""
    path = SAMPLES / getattr(generator, "base", "") / "latents.safetensors"
    if path.is_file():
        latents = load_latents(path)[0]
        return replace(latents, code=latents.code.to(generator.device))
    return Latents("w", generator.map(generator.sample("z", 12, seed=0), truncation=0.7))


def load_latents(path: str | Path) -> tuple[Latents, dict[str, str]]:
    """Read latents and their metadata that ``save_latents`` or other projectors wrote; else ValueError."""
    if Path(path).suffix.lower() in SUFFIXES[1:]:
        from helpers.generators.checkpoints.projections import read_projection  # foreign files are rare, readers long

        code, noise = read_projection(path)
        return Latents("w+" if code.ndim == 3 else "w", code, noise), {}
    try:
        check_header(path, MAX_HEADER)
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            code = file.get_tensor("code")
            noise = [file.get_tensor(name).float() for name in sorted(file.keys()) if name.startswith("noise.")]
        latents = Latents(metadata.pop("space"), code.float(), noise or None)
    except (OSError, SafetensorError, KeyError, WeightsError) as error:
        raise ValueError(f"expected latents that this project wrote (.safetensors), got {path}: {error}") from error
    if code.ndim != AXES.get(latents.space) or 0 in code.shape:
        raise ValueError(f"expected latents of z, w or w+ in {path}, got {latents.space} {tuple(code.shape)}.")
    if not all(tensor.isfinite().all() for tensor in (code, *noise)):
        raise ValueError(f"the latents in {path} hold NaN or infinity; find them again.")
    return latents, metadata


def load_one(path: str | Path, generator) -> Latents:
    """The latents of a file that holds those of one image of a generator. Raises ValueError for any other file."""
    latents, _ = load_latents(path)
    wanted, found = (1, *generator.code_shape(latents.space)), tuple(latents.code.shape)
    if found != wanted:
        advice = "give a file of this model, of one image"
        raise ValueError(f"expected {latents.space} latents of shape {wanted} in {path}, got {found}; {advice}.")
    return latents.to(generator.device)
