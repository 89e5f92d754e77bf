"""What the opening cells of the notebooks print; and a cell that is run again frees what its last run made."""

import gc
import sys
import time

import torch

from helpers.device import describe_device, free_memory, pick_device
from helpers.weights import FOLDER, registry


def describe_session() -> str:
    """Two lines: the device and the weights on disk. From now on a cell that is run again frees what it made before."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and not hasattr(shell, "course_reruns"):
        shell.course_reruns = Reruns(shell)
    found: dict[str, list[str]] = {"bundled": [], "official": []}
    for name, entry in registry().items():
        if (FOLDER / entry["file"]).is_file():
            found["official" if "url" in entry else "bundled"].append(name)
    weights = "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in found.items())
    return f"Device   {describe_device(pick_device())}\nWeights  {weights}"


def describe_model(generator, minutes: float) -> str:
    """What was loaded, the minutes of the lesson with it (``minutes`` with the default), and whether it fits."""
    from helpers.features import fast_dtype, load_features
    from helpers.generators import DEFAULT, load_generator
    from helpers.memory import step_memory

    side, rows, maps = generator.resolution, generator.num_ws, len(generator.noise_shapes)
    facts = f"{generator.name}: {generator.family}, {side}×{side} pixels, {rows} rows of w+, {maps} noise maps"
    if generator.name == DEFAULT:
        return f"{facts}. Running all cells takes about {minutes:g} minutes on two CPU cores."
    needed, free = step_memory(generator, batch=2), free_memory(generator.device)
    if needed > free:
        half = " or generator.dtype = torch.bfloat16" if fast_dtype(generator.device) == torch.bfloat16 else ""
        fix = f"set generator.checkpointing = True{half} below, or use a smaller model"
        return f"{facts}. A step takes about {needed:.1f} GB and {free:.1f} GB are free: {fix}."
    features = load_features("vgg19-slim", device=generator.device)
    ours, bundled = (step_seconds(g, features) for g in (generator, load_generator(DEFAULT, generator.device)))
    times = max(ours / bundled, 1.0)
    whole = f"about {minutes * times:.0f} minutes instead of {minutes:g}, and {needed:.1f} GB for two images"
    step = f"A step takes {ours:.2g} s here, {times:.0f} times as long as with {DEFAULT}"
    return f"{facts}. {step}: running all cells takes {whole}."


def step_seconds(generator, features, batch: int = 2) -> float:
    """Seconds of one step, forward and backward, of a search in w+ with a perceptual loss; the second of two counts."""
    from helpers.losses import LAYERS

    code = generator.mean(generator.spaces[-1]).repeat_interleave(batch, 0).requires_grad_()
    for _ in range(2):
        started = time.perf_counter()
        loss = sum(maps.square().mean() for maps in features(generator.synthesize(code), list(LAYERS)).values())
        torch.autograd.grad(loss, code)[0].sum().item()  # .item() waits for a GPU
    return time.perf_counter() - started


class Reruns:
    """Frees what the last run of a cell (known by its id, or its text) made: IPython and ipywidgets keep all of it."""

    def __init__(self, shell):
        self.shell = shell
        self.made: dict[str, tuple[int, set[str]]] = {}  # cell to its count and the widgets that it made
        self.before = set(_widgets())
        shell.events.register("pre_run_cell", self.start)
        shell.events.register("post_run_cell", self.end)

    def start(self, info) -> None:
        """Close the widgets of the last run of this cell and forget its value."""
        count, names = self.made.pop(_cell(info), (None, set()))
        for widget in [widget for name, widget in _widgets().items() if name in names]:
            widget.close()
        if count is not None:
            self._forget(count)
            gc.collect()  # widgets, panels and autograd graphs are reference cycles
        self.before = set(_widgets())

    def end(self, result) -> None:
        """Note what this run has made."""
        self.made[_cell(result.info)] = (result.execution_count, set(_widgets()) - self.before)

    def _forget(self, count: int) -> None:
        spaces = (self.shell.user_ns, self.shell.user_ns_hidden)  # IPython keeps every value in both
        value = spaces[0].get("_oh", {}).pop(count, None)
        getattr(self.shell.history_manager, "outputs", {}).pop(count, None)  # from IPython 9: what a cell displayed
        for space in (*spaces, vars(self.shell.displayhook)):
            space.pop(f"_{count}", None)
            space |= {name: "" for name in ("_", "__", "___") if value is not None and space.get(name) is value}


def _cell(info) -> str:
    return getattr(info, "cell_id", None) or info.raw_cell or ""


def _widgets() -> dict:
    """All live widgets by id; ipywidgets 7 and 8 keep them in different places."""
    if (module := sys.modules.get("ipywidgets.widgets.widget")) is None:
        return {}
    return module._instances if hasattr(module, "_instances") else module.Widget.widgets
