"""What checks and hidden probes stand on: an error, and tiny networks without any code that answers an exercise."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = ("conv1_1", "conv2_1")


class CheckFailed(AssertionError):
    """The exercise is not right yet; the message says in which respect."""


def expect(condition, message: str) -> None:
    if not bool(condition):
        raise CheckFailed(message)


def expect_shape(name: str, value, shape: tuple[int, ...]) -> None:
    expect(isinstance(value, Tensor), f"{name} should be a torch.Tensor, not a {type(value).__name__}.")
    expect(tuple(value.shape) == shape, f"{name} should have the shape {shape}, not {tuple(value.shape)}.")
    expect(value.is_floating_point(), f"{name} should hold floating point numbers, not {value.dtype}.")
    expect(value.isfinite().all(), f"{name} holds NaN or infinite numbers.")


def expect_close(name: str, value: Tensor, expected: Tensor, hint: str, rtol: float = 1e-3, atol: float = 1e-6) -> None:
    """CheckFailed unless the tensors agree; the message says on which side the value is wrong, but not by how much."""
    side = "too large" if value.detach().abs().sum() > expected.abs().sum() else "too small"
    expect(torch.allclose(value, expected, rtol=rtol, atol=atol), f"{name} is {side}; {hint}")


def random_images(seed: int, *batches: int, side: int = 8) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, 3, side, side, generator=random) for batch in batches]


def loss_curves(rates: Tensor, seed: int, steps: int = 60) -> Tensor:
    """Losses (runs, steps) of Adam on one random parabola in 20 dimensions, from one start, at each of the rates."""
    random = torch.Generator().manual_seed(seed)
    start, bend = torch.randn(20, generator=random), 0.2 + torch.rand(20, generator=random)
    places, losses = [start.clone().requires_grad_() for _ in rates], []
    groups = [{"params": [place], "lr": rate} for place, rate in zip(places, rates.tolist(), strict=True)]
    optimizer = torch.optim.Adam(groups)
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append((bend * torch.stack(places).square()).mean(1))
        losses[-1].sum().backward()
        optimizer.step()
    return torch.stack(losses, 1).detach()


class TinyGenerator(nn.Module):
    """A style-based network of 16 px with random weights; ``noise`` is the first layer's strength, the others' fall."""

    family, resolution, z_dim, w_dim, num_ws, device = "tiny", 16, 12, 8, 4, torch.device("cpu")
    noise_shapes = ((4, 4), (8, 8), (16, 16), (16, 16))

    def __init__(self, seed: int = 7, noise: float = 0.1, spaces: tuple[str, ...] = ("z", "w", "w+")):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        channels, self.spaces = 8, spaces
        self.mapping = [torch.randn(n, self.w_dim, generator=random) / n**0.5 for n in (self.z_dim, self.w_dim)]
        self.first = torch.randn(1, channels, 4, 4, generator=random)
        self.styles = torch.randn(self.num_ws, self.w_dim, channels, generator=random) / self.w_dim**0.5
        self.kernels = torch.randn(self.num_ws, channels, channels, 3, 3, generator=random) / (9 * channels) ** 0.5
        self.colours = torch.randn(self.num_ws, 3, channels, 1, 1, generator=random) / channels**0.5
        self.noise_strengths = [torch.tensor(noise / (i + 1)) for i in range(self.num_ws)]
        self.fixed = [torch.randn(1, 1, *shape, generator=random) for shape in self.noise_shapes]
        w = self._mapped(torch.randn(2_000, self.z_dim, generator=random))
        self.statistics = w.mean(0, keepdim=True), w.std(0, keepdim=True)

    def code_shape(self, space: str) -> tuple[int, ...]:
        if space not in self.spaces:
            raise ValueError(f"this generator has no space {space!r}; choose one of {', '.join(self.spaces)}.")
        return {"z": (self.z_dim,), "w": (self.w_dim,), "w+": (self.num_ws, self.w_dim)}[space]

    def _mapped(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for matrix in self.mapping:
            x = 1.4 * F.leaky_relu(x @ matrix, 0.2)
        return x

    def map(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        if "w" not in self.spaces:
            raise ValueError("this generator has no mapping network; its only space is z.")
        return torch.lerp(self.mean("w"), self._mapped(z), truncation) if truncation != 1 else self._mapped(z)

    def mean(self, space: str) -> Tensor:
        shape = self.code_shape(space)
        return torch.zeros(1, *shape) if space == "z" else self.statistics[0].expand(1, *shape)

    def std(self, space: str) -> Tensor:
        shape = self.code_shape(space)
        return torch.ones(1, *shape) if space == "z" else self.statistics[1].expand(1, *shape)

    def fresh_noise(self, n: int = 1, seed: int = 0) -> list[Tensor]:
        random = torch.Generator().manual_seed(seed)
        return [torch.randn(n, 1, *shape, generator=random) for shape in self.noise_shapes]

    def fixed_noise(self, n: int = 1) -> list[Tensor]:
        return [noise.repeat(n, 1, 1, 1) for noise in self.fixed]

    def synthesize(self, latents, noise: list[Tensor] | None = None) -> Tensor:
        """Images (B, 3, 16, 16) around [0, 1] of a ``Latents`` or a bare w or w+ code."""
        code, own = getattr(latents, "code", latents), getattr(latents, "noise", None)
        w = self.map(code) if getattr(latents, "space", "w") == "z" else code
        rows = w if w.ndim == 3 else w[:, None].expand(-1, self.num_ws, -1)
        x, image = self.first.expand(len(code), -1, -1, -1), 0
        for i, (noise_map, side) in enumerate(zip(noise or own or self.fixed, (4, 8, 16, 16), strict=True)):
            if x.shape[-1] != side:
                x, image = (F.interpolate(t, scale_factor=2.0, mode="bilinear") for t in (x, image))
            x = F.conv2d(x * (1 + rows[:, i] @ self.styles[i])[:, :, None, None], self.kernels[i], padding=1)
            x = x * torch.rsqrt(x.square().mean((1, 2, 3), keepdim=True) + 1e-8)
            x = 1.4 * F.leaky_relu(x + self.noise_strengths[i] * noise_map, 0.2)
            image = image + F.conv2d(x, self.colours[i])
        return 0.5 + 0.1 * image


class TinyFeatures(nn.Module):
    """Two layers of random features that count how often they are asked and keep the range of what they saw."""

    def __init__(self, seed: int = 3):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.kernels = [torch.randn(4, 3, 3, 3, generator=random), torch.randn(6, 4, 3, 3, generator=random)]
        self.calls, self.lowest, self.highest = 0, 0.0, 1.0

    def forward(self, images: Tensor, layers) -> dict:
        self.calls += 1
        self.lowest = min(self.lowest, images.detach().min().item())
        self.highest = max(self.highest, images.detach().max().item())
        first = torch.relu(F.conv2d(images, self.kernels[0], padding=1))
        second = torch.relu(F.conv2d(F.avg_pool2d(first, 2), self.kernels[1], padding=1))
        return dict(zip(layers, (first, second), strict=False))
