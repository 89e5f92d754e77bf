"""Whoever ends the tests ends JupyterLab, too."""

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
