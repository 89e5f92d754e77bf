"""Logs of runs: settings, losses and images as JSON lines, for TensorBoard, or for Weights & Biases."""

from __future__ import annotations

import json
import os
from pathlib import Path

from torch import Tensor

from helpers.files import json_safe
from helpers.images import read_image, to_uint8, write_image

KINDS = ("jsonl", "tensorboard", "wandb", "none")


class LogError(ValueError):
    """An unknown kind of log, or one whose package is missing."""


class RunLog:
    """Where a run reports what it does; this one keeps nothing. Use it with ``with``."""

    def settings(self, settings: dict) -> None:
        """The run's settings, once."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Losses or measures of a step."""

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """An image (1, 3, H, W) in [0, 1]."""

    def text(self, step: int, name: str, text: str) -> None:
        """Words on a step."""

    def row(self, step: int, row: dict, folder: Path) -> None:
        """A row of results: its words, its numbers, and its images in the folder, ``image`` and among ``files``."""
        flat = {}
        for name, value in row.items():
            flat |= {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        numbers = {k: v for k, v in flat.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        words = {k: v for k, v in row.items() if not (k in numbers or k == "image" or v is None or isinstance(v, dict))}
        self.text(step, "row", json.dumps(words, default=str))
        self.scalars(step, numbers)
        files = row.get("files", {}) | ({"image": row["image"]} if row.get("image") else {})
        for name, file in files.items():
            if file.endswith(".png"):
                self.file(step, name.removesuffix(".png"), folder / file)

    def file(self, step: int, name: str, path: Path) -> None:
        """An image that is on disk already."""
        self.picture(step, name, read_image(path))

    def close(self) -> None:
        """Write what is left."""

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class JsonLinesLog(RunLog):
    """``log.jsonl`` with a line per call, and the images next to it."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lines = open(folder / "log.jsonl", "a", buffering=1)  # noqa: SIM115  (closed in close)

    def _line(self, **values: object) -> None:
        self.lines.write(json.dumps(json_safe(values), default=str, allow_nan=False) + "\n")

    def settings(self, settings: dict) -> None:
        self._line(settings=settings)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._line(step=step, **values)

    def text(self, step: int, name: str, text: str) -> None:
        self._line(step=step, **{name: text})

    def picture(self, step: int, name: str, image: Tensor) -> None:
        file = f"{name}-{step:06d}.png"
        write_image(self.folder / file, image)
        self._line(step=step, picture=file)

    def file(self, step: int, name: str, path: Path) -> None:
        self._line(step=step, picture=os.path.relpath(path, self.folder))

    def close(self) -> None:
        self.lines.close()


class TensorBoardLog(RunLog):
    """Event files: ``tensorboard --logdir FOLDER``."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise LogError("--log tensorboard needs its package: pip install tensorboard.") from error
        self.writer = SummaryWriter(str(folder))

    def settings(self, settings: dict) -> None:
        self.writer.add_text("settings", f"```\n{json.dumps(settings, indent=2, default=str)}\n```")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        self.writer.add_text(name, f"`{text}`", step)

    def picture(self, step: int, name: str, image: Tensor) -> None:
        self.writer.add_image(name, to_uint8(image)[0], step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class WandbLog(TensorBoardLog):
    """A run of Weights & Biases, which reads TensorBoard's files; offline unless WANDB_MODE says otherwise.

    ``wandb sync`` sends an offline run later.
    """

    def __init__(self, folder: Path):
        try:
            import wandb
        except ImportError as error:
            raise LogError("--log wandb needs its package: pip install wandb.") from error
        folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        self.run = wandb.init(dir=str(folder), project="gan-photo-editing", mode=mode, sync_tensorboard=True)
        super().__init__(folder)

    def settings(self, settings: dict) -> None:
        self.run.config.update(settings)

    def close(self) -> None:
        super().close()
        self.run.finish()


def open_log(kind: str, folder: str | Path, settings: dict) -> RunLog:
    """A log of one of KINDS with the settings in it; "none" keeps nothing."""
    makers = dict(zip(KINDS, (JsonLinesLog, TensorBoardLog, WandbLog, lambda _: RunLog()), strict=True))
    if kind not in makers:
        raise LogError(f"--log must be one of {', '.join(KINDS)}; got {kind!r}.")
    log = makers[kind](Path(folder))
    log.settings(settings)
    return log
