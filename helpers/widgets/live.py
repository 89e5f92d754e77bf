"""A view of something that runs: the browser asks for a frame once it has painted the last, so that none pile up."""

from collections.abc import Callable
from pathlib import Path

import traitlets
from anywidget import AnyWidget


def source(name: str) -> str:
    """A file of this folder as text: anywidget watches a path, and the watcher would keep every widget alive."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


class LiveView(AnyWidget):
    """Shows ``html``; while ``running``, what ``frame()`` returns: HTML or None, and seconds until it asks again."""

    _esm = source("live.js")
    html = traitlets.Unicode().tag(sync=True)
    running = traitlets.Bool().tag(sync=True)

    def __init__(self, frame: Callable[[], tuple[str | None, float]]):
        super().__init__()
        self.frame = frame
        self.on_msg(self._answer)

    def _answer(self, _, content: dict, buffers) -> None:
        html, wait = self.frame()
        self.send({"ask": content.get("ask"), "html": html, "wait": round(1000 * wait)})
