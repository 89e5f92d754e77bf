"""Whoever ends the tests ends JupyterLab, too. Where Chromium or playwright is missing, all tests here are skipped."""

import importlib.util
import os
import signal

import pytest


def interrupt(number, frame):
    signal.signal(number, signal.SIG_IGN)  # once is enough, and the server must be stopped in peace
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, interrupt)


@pytest.fixture(autouse=True)
def no_script_error(lab):
    """The scripts of a module's ``lab`` raise nothing during a test."""
    lab.errors.clear()
    yield
    closed = "widget model not found"  # by progress bars that were closed, when a saved page is loaded again
    assert [error for error in lab.errors if not (getattr(lab, "reloaded", False) and closed in error)] == []


def reason_to_skip() -> str:
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: pip install playwright"
    from tests.support.jupyter_driver import find_browser  # which needs playwright

    return "" if find_browser() else "Chromium is not installed: apt-get install chromium"


def pytest_collection_modifyitems(items):
    missing = reason_to_skip()
    for item in items:
        if item.get_closest_marker("browser") is None:
            continue
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))
        elif item.get_closest_marker("long") and "BROWSER_TESTS" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="takes minutes; set BROWSER_TESTS=1 to run it"))
