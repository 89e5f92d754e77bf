"""A cell that is run again frees what its last run made, so that a kernel does not grow from run to run.

IPython keeps the value of every cell (``Out``) and, from version 9, what it displayed, and ipywidgets every widget (its
registry), for the life of the kernel: a panel with its images, shown twenty times, would be held twenty times.
"""

from __future__ import annotations

import gc
import sys


class Reruns:
    """Watches the cells of an IPython shell; ``install`` makes the one of a kernel.

    Two runs are of the same cell if they have the same id, or without ids the same text.
    """

    def __init__(self, shell):
        self.shell = shell
        self.made: dict[str, tuple[int, list[str]]] = {}  # cell to its count and the widgets that it made
        self.before = set(_widgets())
        shell.events.register("pre_run_cell", self.start)
        shell.events.register("post_run_cell", self.end)

    def start(self, info) -> None:
        """Close the widgets of the last run of this cell and forget its value."""
        count, names = self.made.pop(_cell(info), (None, []))
        known = _widgets()
        for name in names:
            if name in known:
                known[name].close()
        if count is not None:
            self._forget(count)
            gc.collect()  # widgets, panels and autograd graphs are reference cycles
        self.before = set(_widgets())

    def end(self, result) -> None:
        """Note what this run has made."""
        new = [name for name in _widgets() if name not in self.before]
        self.made[_cell(result.info)] = (result.execution_count, new)

    def _forget(self, count: int) -> None:
        spaces, hook = (self.shell.user_ns, self.shell.user_ns_hidden), self.shell.displayhook
        value = spaces[0].get("_oh", {}).pop(count, None)
        shown = getattr(self.shell.history_manager, "outputs", {})  # from IPython 9: every figure that a cell displayed
        shown.pop(count, None)
        for space in spaces:  # IPython keeps every value in the second one too
            space.pop(f"_{count}", None)
        for name in ("_", "__", "___") if value is not None else ():
            for space in spaces:
                if space.get(name) is value:
                    space[name] = ""
            if getattr(hook, name, None) is value:
                setattr(hook, name, "")


def install() -> Reruns | None:
    """Watch the cells of this kernel, once; None outside of IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return None
    if not hasattr(shell, "course_reruns"):
        shell.course_reruns = Reruns(shell)
    return shell.course_reruns


def _cell(info) -> str:
    return getattr(info, "cell_id", None) or info.raw_cell or ""


def _widgets() -> dict:
    """All live widgets by id; ipywidgets 7 and 8 keep them in different places."""
    module = sys.modules.get("ipywidgets.widgets.widget")
    if module is None:
        return {}
    return module._instances if hasattr(module, "_instances") else module.Widget.widgets
