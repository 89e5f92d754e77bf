"""What a command has done so far, in one file, from which the same command continues after a stop or a kill."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from helpers.files import atomic_path, clear_temporaries, sha256
from helpers.logs import open_log

FILE = "progress.pt"
EVERY = 10.0  # seconds between two states on disk
SHARE = 20  # a state that takes long to write is written less often: at most a twentieth of the time
FORMAT = 3  # version of the states; an older file is not continued
LOGGED = 10  # steps between two lines of a log


def save_run(path: str | Path, state: dict) -> None:
    """Write tensors, numbers and strings so that a kill at any moment leaves the old file or the new one."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_run(path: str | Path, device: str | torch.device = "cpu") -> dict:
    """Read what ``save_run`` wrote; nothing in it is executed. Raises ValueError for any other file."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        reason = f"it holds a {type(state).__name__}"
    except Exception as error:  # a broken file makes torch raise whatever its parts do
        state, reason = None, str(error).split("\n")[0][:80]
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a saved state ({reason}); delete it, or choose another --out.")
    return state


@contextmanager
def stopped_between_steps() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, a closed terminal and a polite kill wait for the end of a step, which a second signal interrupts."""
    received = []

    def note(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    main = threading.current_thread() is threading.main_thread()  # no other gets signals
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if main and hasattr(signal, name)]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """The units of a command that are done, and the searches of the current one. Use it with ``with``.

    The file is written at the start (the folder may be closed), after every unit, every ``EVERY`` seconds of a search;
    it is removed when the block ends well. ``settings``, plain values, and ``files``, by content, decide the results.
    """

    def __init__(self, out: str | Path, settings: dict, files: Iterable[str | Path] = (), log: str = "none"):
        self.out, self.path, self.settings, self.log_kind = Path(out), Path(out) / FILE, settings, log
        content = json.dumps([FORMAT, settings, [_content(file) for file in files]], sort_keys=True, default=str)
        self.key = hashlib.sha256(content.encode()).hexdigest()
        self.units: dict[str, list[dict]] = {}
        self.states: dict[str, dict] = {}

    def __enter__(self) -> Progress:
        clear_temporaries(self.out)
        if self.path.exists():
            self._continue()
        self._write()
        self.log = open_log(self.log_kind, self.out / "log", self.settings)
        return self

    def __exit__(self, kind, *rest) -> None:
        self.log.__exit__(kind, *rest)
        if kind is None:
            self.path.unlink(missing_ok=True)

    def done(self, unit: str) -> list[dict] | None:
        """Rows of a unit that is done, else None."""
        return self.units.get(unit)

    def finish(self, unit: str, rows: list[dict]) -> list[dict]:
        """Note a unit as done, once its files are written; returns the rows."""
        first = sum(map(len, self.units.values())) + 1
        self.units[unit], self.states = rows, {}
        self._write()
        for number, row in enumerate(rows, first):
            self.log.row(number, row, self.out)
        return rows

    def run(self, search, label: str, film: int = 0):
        """Take all steps of a Chain from where it stopped, with a bar; ``film`` images on the way are ``frames``."""
        saved = self.states.setdefault(label, {"frames": []})
        if "search" in saved:
            search.load_state_dict(saved["search"])
            print(f"{label}: continuing at step {search.number} of {len(search)}.", file=sys.stderr)
        every = max(1, len(search) // film) if film else 0  # steps from one image to the next
        written, wait = time.monotonic(), EVERY
        options = {"initial": search.number, "desc": label, "unit": "step", "leave": False, "file": sys.stderr}
        with stopped_between_steps() as stopped, tqdm(total=len(search), **options) as bar:
            for step in search:
                bar.update()
                if step.number % LOGGED == 0 or step.number == len(search):
                    losses = {n: part.nanmean().item() for n, part in {**step.parts, "total": step.total}.items()}
                    bar.set_postfix(loss=f"{losses['total']:.4f}", refresh=False)
                    self.log.scalars(step.number, {f"{label}/{name}": value for name, value in losses.items()})
                if every and step.number % every == 1 % every:
                    saved["frames"].append((step.images() * 255).round().byte().cpu())
                if stopped() or time.monotonic() - written > wait:
                    saved["search"], began = search.state_dict(), time.monotonic()
                    self._write()
                    written = time.monotonic()
                    wait = max(EVERY, SHARE * (written - began))
                if stopped():
                    raise KeyboardInterrupt
        saved["search"] = search.state_dict()  # written with the next search's
        return search.result()

    def frames(self, label: str) -> list[Tensor]:
        """Images (B, 3, h, w) in [0, 1] along the way of a search."""
        return [frame.float() / 255 for frame in self.states[label]["frames"]]

    def _continue(self) -> None:
        state = {}
        with suppress(ValueError):
            state = load_run(self.path)
        if state.get("key") != self.key:
            print(f"{self.path} belongs to other settings; starting again.", file=sys.stderr)
            return
        self.units, self.states = json.loads(state["units"]), state["states"]
        if self.units:
            print(f"continuing in {self.out}: {len(self.units)} done before.", file=sys.stderr)

    def _write(self) -> None:
        save_run(self.path, {"key": self.key, "units": json.dumps(self.units), "states": self.states})


def _content(file: str | Path) -> str:
    try:
        return sha256(str(file))
    except OSError:
        return str(file)  # not a file, or one that cannot be read: the command will say so
