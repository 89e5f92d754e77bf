"""A cell that is run again frees what its last run made, so that a kernel does not grow from run to run.

IPython keeps the value of every cell (``Out``) and, from version 9, what it displayed, and ipywidgets every widget (its
registry), for the life of the kernel: a panel with its images, shown twenty times, would be held twenty times.
"""

import gc
import sys


class Reruns:
    """Watches the cells of an IPython shell. Runs are of one cell if they have one id, or without ids one text."""

    def __init__(self, shell):
        self.shell = shell
        self.made: dict[str, tuple[int, set[str]]] = {}  # cell to its count and the widgets that it made
        self.before = set(_widgets())
        shell.events.register("pre_run_cell", self.start)
        shell.events.register("post_run_cell", self.end)

    def start(self, info) -> None:
        """Close the widgets of the last run of this cell and forget its value."""
        count, names = self.made.pop(_cell(info), (None, set()))
        known = _widgets()
        for widget in [known[name] for name in names & set(known)]:
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


def install() -> None:
    """Watch the cells of this kernel, once; does nothing outside of IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and not hasattr(shell, "course_reruns"):
        shell.course_reruns = Reruns(shell)


def _cell(info) -> str:
    return getattr(info, "cell_id", None) or info.raw_cell or ""


def _widgets() -> dict:
    """All live widgets by id; ipywidgets 7 and 8 keep them in different places."""
    module = sys.modules.get("ipywidgets.widgets.widget")
    if module is None:
        return {}
    return module._instances if hasattr(module, "_instances") else module.Widget.widgets
