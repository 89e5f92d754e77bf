"""Whoever ends the tests ends JupyterLab, too. Where Chromium or playwright is missing, all tests here are skipped."""

import importlib.util
import os
import signal

import pytest


def interrupt(number, frame):
    signal.signal(number, signal.SIG_IGN)  # once is enough, and the server must be stopped in peace
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, interrupt)


def reason_to_skip() -> str:
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: pip install playwright"
    from helpers.benchmarks.jupyter_driver import find_browser

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
