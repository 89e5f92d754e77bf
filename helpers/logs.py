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
    """Where a run reports what it does; use it with ``with``.

    lines: an open ``log.jsonl``, a line per call, with the images next to it. writer: TensorBoard's; run: W&B's.
    Without any, nothing is kept.
    """

    def __init__(self, folder: Path, lines=None, writer=None, run=None):
        self.folder, self.lines, self.writer, self.run = folder, lines, writer, run

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Losses or measures of a step."""
        self._line(step=step, **values)
        for name, value in values.items() if self.writer else ():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Tensor) -> None:
        """An image (1, 3, H, W) in [0, 1]."""
        if self.lines:
            file = f"{name}-{step:06d}.png"
            write_image(self.folder / file, image)
            self._line(step=step, image=file)
        if self.writer:
            self.writer.add_image(name, to_uint8(image)[0], step, dataformats="HWC")

    def file(self, step: int, name: str, path: Path) -> None:
        """An image that is on disk already."""
        if self.lines:
            self._line(step=step, image=os.path.relpath(path, self.folder))
        if self.writer:
            self.image(step, name, read_image(path))

    def row(self, step: int, row: dict, folder: Path) -> None:
        """A row of results: its words, its numbers, and its images in the folder, ``image`` and among ``files``."""
        flat = {}
        for name, value in row.items():
            flat |= {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        numbers = {k: v for k, v in flat.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        words = {k: v for k, v in row.items() if not (k in numbers or k == "image" or v is None or isinstance(v, dict))}
        text = json.dumps(words, default=str)
        self._line(step=step, row=text)
        if self.writer:
            self.writer.add_text("row", f"`{text}`", step)
        self.scalars(step, numbers)
        files = row.get("files", {}) | ({"image": row["image"]} if row.get("image") else {})
        for name, file in files.items():
            if file.endswith(".png"):
                self.file(step, name.removesuffix(".png"), folder / file)

    def _line(self, **values: object) -> None:
        if self.lines:
            self.lines.write(json.dumps(json_safe(values), default=str, allow_nan=False) + "\n")

    def close(self) -> None:
        """Write what is left."""
        for stream in (self.lines, self.writer):
            if stream:
                stream.close()
        if self.run:
            self.run.finish()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_log(kind: str, folder: str | Path, settings: dict) -> RunLog:
    """A log of one of KINDS with the settings in it; "none" keeps nothing.

    Weights & Biases reads TensorBoard's files as they are written; offline unless WANDB_MODE says otherwise
    (``wandb sync`` sends an offline run later).
    """
    if kind not in KINDS:
        raise LogError(f"--log must be one of {', '.join(KINDS)}; got {kind!r}.")
    folder, lines, writer, run = Path(folder), None, None, None
    if kind != "none":
        folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        lines = open(folder / "log.jsonl", "a", buffering=1)  # noqa: SIM115  (closed in close)
    try:
        if kind == "wandb":
            import wandb

            mode = os.environ.get("WANDB_MODE", "offline")
            run = wandb.init(dir=str(folder), project="gan-photo-editing", mode=mode, sync_tensorboard=True)
            run.config.update(settings)
        if kind in ("tensorboard", "wandb"):
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(folder))
            writer.add_text("settings", f"```\n{json.dumps(settings, indent=2, default=str)}\n```")
    except ImportError as error:
        raise LogError(f"--log {kind} needs its package: pip install {kind}.") from error
    log = RunLog(folder, lines, writer, run)
    log._line(settings=settings)
    return log
