"""Whoever ends the tests ends JupyterLab, too."""

import signal


def interrupt(number, frame):
    signal.signal(number, signal.SIG_IGN)  # once is enough, and the server must be stopped in peace
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, interrupt)
