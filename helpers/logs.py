"""Logs of runs: settings, losses and images as JSON lines, for TensorBoard, or for Weights & Biases."""

import json
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from helpers.files import json_safe
from helpers.images import read_image, to_uint8

KINDS = ("jsonl", "tensorboard", "wandb", "none")


@dataclass
class RunLog(AbstractContextManager):
    """Where a run reports what it does; use it with ``with``."""

    folder: Path
    lines: TextIO | None = None  # an open ``log.jsonl``, a line per call
    writer: Any = None  # TensorBoard's
    run: Any = None  # of Weights & Biases

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Losses or measures of a step."""
        self.line(step=step, **values)
        for name, value in values.items() if self.writer else ():
            self.writer.add_scalar(name, value, step)

    def file(self, step: int, name: str, path: Path) -> None:
        """An image that is on disk."""
        self.line(step=step, image=os.path.relpath(path, self.folder))
        if self.writer:
            self.writer.add_image(name, to_uint8(read_image(path))[0], step, dataformats="HWC")

    def row(self, step: int, row: dict, folder: Path) -> None:
        """A row of results: its words, its numbers, and its images in the folder, ``image`` and among ``files``."""
        flat = {}
        for name, value in row.items():
            flat |= {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        numbers = {k: v for k, v in flat.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        words = {k: v for k, v in row.items() if not (k in numbers or k == "image" or v is None or isinstance(v, dict))}
        text = json.dumps(words, default=str)
        self.line(step=step, row=text)
        if self.writer:
            self.writer.add_text("row", f"`{text}`", step)
        self.scalars(step, numbers)
        files = row.get("files", {}) | ({"image": row["image"]} if row.get("image") else {})
        for name, file in files.items():
            if file.endswith(".png"):
                self.file(step, name.removesuffix(".png"), folder / file)

    def line(self, **values: object) -> None:
        """A line of the file, where there is one."""
        if self.lines:
            self.lines.write(json.dumps(json_safe(values), default=str, allow_nan=False) + "\n")

    def __exit__(self, *_) -> None:
        for stream in filter(None, (self.lines, self.writer)):
            stream.close()
        if self.run:
            self.run.finish()


def open_log(kind: str, folder: str | Path, settings: dict) -> RunLog:
    """A log of one of KINDS, else ValueError, with the settings; Weights & Biases, offline, reads TensorBoard's."""
    if kind not in KINDS:
        raise ValueError(f"--log must be one of {', '.join(KINDS)}; got {kind!r}.")
    log = RunLog(Path(folder))
    if kind == "none":
        return log
    log.folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        log.lines = open(log.folder / "log.jsonl", "a", buffering=1)  # noqa: SIM115  (closed at the end)
        log.line(settings=settings)
        return log
    try:
        if kind == "wandb":
            import wandb

            mode = os.environ.get("WANDB_MODE", "offline")
            log.run = wandb.init(dir=str(folder), project="gan-photo-editing", mode=mode, sync_tensorboard=True)
            log.run.config.update(settings)
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(f"--log {kind} needs its package: pip install {kind}.") from error
    log.writer = SummaryWriter(str(folder))
    log.writer.add_text("settings", f"```\n{json.dumps(settings, indent=2, default=str)}\n```")
    return log
