"""The one interface behind which every generator family stands."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# numbers of a configuration, far above any published network: a file must not ask for more
LIMITS = {"z_dim": 8192, "w_dim": 8192, "mapping_layers": 64, "channel_base": 2**20, "channel_max": 8192}
LIMITS |= {"c_dim": 100_000, "group_size": 4096, "conv_dim": 2048, "first_multiplier": 64}
RESOLUTIONS = (16, 32, 64, 128, 256, 512, 1024)
SPACES = ("z", "w", "w+")  # each has all that those before it have
# The seed of samples instead of 0, with which the bundled networks were initialised: the numbers of their first layer,
# drawn again as z, give w twice as far from the mean as others.
STREAM = 2**20


def settings(defaults: dict, given: dict) -> dict:
    """The arguments of a network, given or by default. TypeError for unknown ones, ValueError for odd numbers."""
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise TypeError(f"unknown argument {unknown[0][:60]!r}; expected some of {', '.join(defaults)}.")
    for name, value in given.items():
        got = f"got {str(value)[:60]}."
        if name == "resolution" and (type(value) is not int or value not in RESOLUTIONS):
            raise ValueError(f"resolution must be a power of two from 16 to 1024, {got}")
        if name in LIMITS and not (type(value) is int and 0 <= value <= LIMITS[name]):
            raise ValueError(f"{name} must be a whole number from 0 to {LIMITS[name]}, {got}")
        if name not in LIMITS and isinstance(value, int | float) and not abs(value) < 1e6:
            raise ValueError(f"{name} must be a finite number below a million, {got}")
    return defaults | given


def normal(*shape: int, std: float = 1.0) -> Tensor:
    """Normal values; on the device "meta" none are drawn, which would load a compiler for two seconds."""
    values = torch.empty(shape)
    return values if values.is_meta else values.normal_(std=std)


class Generator(nn.Module):
    """Base of all generators: latents in, images in [0, 1] out. ValueError for a space that is not in ``spaces``."""

    spaces: tuple[str, ...] = ("z",)
    family = "generator"
    resolution: int  # side of the square image, pixels
    z_dim: int  # length of a z
    w_dim: int = 0  # length of a row of w, 0 where there is no w
    num_ws: int = 0  # rows of a w+ code, 0 where there is no w+
    noise_shapes: tuple[tuple[int, int], ...] = ()  # (h, w) of every noise map, coarse to fine
    c_dim: int = 0  # number of classes, 0 without
    label: int | None = None  # the class that z is mapped to; see set_label
    path: Path | None = None  # of the file that it was loaded from
    base: str = ""  # name of the model that this one was tuned from, or its own
    domain: str = ""  # what the model shows, in words, where the registry says
    landmarks: Sequence | None = None  # where its faces have left eye, right eye, nose; (x, y), sides of length 1
    has_mean = False  # whether the mean of w came with the weights

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def check_space(self, space: str) -> str:
        """Return ``space``, or raise ValueError with the spaces that there are."""
        if space not in self.spaces:
            known = f"choose one of {', '.join(self.spaces)}."
            raise ValueError(f"space {space!r} does not exist in this {self.family} generator; {known}")
        return space

    def code_shape(self, space: str) -> tuple[int, ...]:
        """Shape of one code of a space without the batch axis: (z_dim,), (w_dim,) or (num_ws, w_dim)."""
        shapes = {"z": (self.z_dim,), "w": (self.w_dim,), "w+": (self.num_ws, self.w_dim)}
        return shapes[self.check_space(space)]

    def sample(self, space: str, n: int = 1, seed: int = 0) -> Tensor:
        """``n`` random codes, the same on every device: z is standard normal, w a mapped z, w+ that w in every row."""
        self.check_space(space)
        z = torch.randn(n, self.z_dim, generator=torch.Generator().manual_seed(seed or STREAM)).to(self.device)
        with torch.no_grad():
            return self.convert(z, "z", space)

    def convert(self, code: Tensor, source: str, target: str) -> Tensor:
        """Latents in a wider space (z to w to w+), unchanged in their own. ValueError for a narrower one."""
        if SPACES.index(self.check_space(source)) > SPACES.index(self.check_space(target)):
            raise ValueError(f"latents go from z to w to w+, not from {source} back to {target}.")
        if source == "z" and target != "z":
            code, source = self.map(code), "w"
        return code.unsqueeze(1).repeat(1, self.num_ws, 1) if source != target else code

    def mean(self, space: str) -> Tensor:
        """Mean code of a space with a batch axis of 1: zeros for z, the mean of 10,000 mapped z for w and w+."""
        if self.check_space(space) == "z":
            return torch.zeros(1, self.z_dim, device=self.device)
        return self.convert(self.w_mean[None], "w", space)

    def std(self, space: str) -> Tensor:
        """Standard deviation of a space per component, in the shape of ``mean(space)``."""
        return self.mean("z") + 1 if self.check_space(space) == "z" else self.convert(self.w_std[None], "w", space)

    def set_label(self, label: int) -> None:
        """Choose the class of a conditional generator, else ValueError; a checkpoint's mean of w stays that of all."""
        if not self.c_dim:
            raise ValueError(f"this {self.family} generator has no classes, so label {label} cannot be chosen.")
        if not isinstance(label, int) or not 0 <= label < self.c_dim:
            name = getattr(self, "name", "NAME")
            choice = f"choose one: {name}@0 to {name}@{self.c_dim - 1}, a label from 0 to {self.c_dim - 1}"
            raise ValueError(f"{name} knows {self.c_dim} classes; {choice}, got {label}.")
        self.label = label
        self.compute_statistics(keep_mean=self.has_mean)

    def map(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """Map z ``(B, z_dim)`` to w ``(B, w_dim)``; truncation < 1 pulls w to the mean. ValueError without w."""
        raise ValueError(f"this {self.family} generator has no mapping network; its only space is z.")

    def fresh_noise(self, n: int = 1, seed: int = 0) -> list[Tensor]:
        """Draw new standard-normal noise maps, a list of ``(n, 1, h, w)``; ``synthesize`` never draws any."""
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(n, 1, *shape, generator=generator).to(self.device) for shape in self.noise_shapes]

    def fixed_noise(self, n: int = 1) -> list[Tensor]:
        """The generator's own noise maps, copied for a batch: a list of ``(n, 1, h, w)`` (empty for a DCGAN)."""
        return []

    def synthesize(self, latents, noise: list[Tensor] | None = None) -> Tensor:
        """Images ``(B, 3, resolution, resolution)`` in [0, 1] (not clamped) of ``Latents`` or a bare tensor.

        A bare (B, num_ws, w_dim) is taken for w+ and a bare (B, n) for w if there is a w, else for z. ``noise`` None
        uses the latents' maps, or the generator's fixed ones. Raises ValueError for other shapes.
        """
        space, code, own_noise = unpack(self, latents)
        noise = own_noise if noise is None else noise
        self.check_noise(noise, len(code))
        return self.render(code, space, noise)

    def forward(self, latents, noise: list[Tensor] | None = None) -> Tensor:
        """``synthesize``, for functions of modules."""
        return self.synthesize(latents, noise)

    def check_noise(self, noise: list[Tensor] | None, n: int) -> None:
        """Raise ValueError unless the noise maps are None or one (n or 1, 1, h, w) for each of ``noise_shapes``."""
        if noise is None:
            return
        shapes, sizes = [tuple(m.shape) for m in noise], list(self.noise_shapes)
        if [s[2:] for s in shapes] != sizes or not all(s[:2] in ((n, 1), (1, 1)) for s in shapes):
            takes = f"this generator takes {len(sizes)} noise maps of sizes {sizes} for {n} latents"
            found = f"got {len(shapes)} of shapes {shapes}"
            raise ValueError(f"{takes}, {found}; take them from fixed_noise() or fresh_noise().")

    def compute_statistics(self, n: int = 10_000, keep_mean: bool = False) -> None:
        """Set mean (unless it is to be kept) and standard deviation of w, where there is one, from ``n`` mapped z."""
        if "w" not in self.spaces:
            return
        w = torch.cat([self.sample("w", min(2_000, n - i), seed=i) for i in range(0, n, 2_000)])
        self.w_std = w.std(0)
        if not keep_mean:
            self.w_mean.copy_(w.mean(0))


class StyleBased(Generator):
    """What StyleGAN and StyleGAN2 share: a mapping network with the mean of w, rows of w+ and noise maps."""

    spaces = SPACES
    dtype = torch.float32
    checkpointing = False

    def __init__(self, config: dict, mapping: nn.Module, synthesis: nn.Module):
        super().__init__()
        self.config, self.mapping, self.synthesis = config, mapping, synthesis
        self.resolution, self.z_dim, self.w_dim = config["resolution"], config["z_dim"], config["w_dim"]
        self.c_dim, self.num_ws = config["c_dim"], synthesis.num_ws
        self.noise_shapes = tuple(tuple(layer.noise_const.shape) for _, layer in synthesis.layers())
        self.register_buffer("w_std", torch.ones(self.w_dim, device="cpu"), persistent=False)

    @property
    def w_mean(self) -> Tensor:
        return self.mapping.w_avg

    def map(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        w = self.mapping(z, one_hot(self, len(z), z))
        return w if truncation == 1 else self.w_mean + truncation * (w - self.w_mean)

    def fixed_noise(self, n: int = 1) -> list[Tensor]:
        return [layer.noise_const.expand(n, 1, -1, -1).clone() for _, layer in self.synthesis.layers()]

    def render(self, code, space, noise, dtype: torch.dtype | None = None) -> Tensor:
        ws = self.convert(code, space, "w+")
        return self.synthesis(ws, noise, dtype or self.dtype, self.checkpointing) / 2 + 0.5


def one_hot(network: nn.Module, n: int, like: Tensor) -> Tensor | None:
    """The chosen class of a network as rows (n, c_dim); None without classes. ValueError if none was chosen."""
    count, label = network.c_dim, network.label
    if not count:
        return None
    if label is None or not 0 <= label < count:
        choice = f"choose one when you load it, NAME@0 to NAME@{count - 1}, or with set_label."
        raise ValueError(f"this network knows {count} classes; {choice}")
    return F.one_hot(torch.full((n,), label, device=like.device), count).to(like.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half precision to float32; float64, in which gradients are checked, remains."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unpack(generator: Generator, latents) -> tuple[str, Tensor, list[Tensor] | None]:
    """Split ``Latents`` or a bare tensor into (space, code, noise). ValueError unless the generator takes them."""
    space, code, noise = "w+", latents, None
    if not isinstance(latents, Tensor):
        space, code, noise = latents.space, latents.code, latents.noise
    elif latents.ndim != 3:
        space = "w" if "w" in generator.spaces else "z"
    expected = generator.code_shape(space)
    if tuple(code.shape[1:]) != expected:
        wanted = f"{space} latents of this generator have the shape (B, {', '.join(map(str, expected))})"
        raise ValueError(f"{wanted}, got {tuple(code.shape)}; take them from this generator's own spaces.")
    return space, code, noise


def enlarged(generator: Generator, resolution: int) -> Generator:
    """The generator, its weights shared, with bilinearly enlarged images, to compare it with one of this resolution."""
    if generator.resolution == resolution:
        return generator
    twin, size = copy.copy(generator), (resolution, resolution)
    twin.resolution = resolution
    twin.render = lambda *inputs: F.interpolate(generator.render(*inputs), size, mode="bilinear", align_corners=False)
    return twin
