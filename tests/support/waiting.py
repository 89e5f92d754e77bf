"""What the tests of panels and pages share: waiting with a patience."""

import time

PATIENCE = 240  # seconds, until something that does not happen is given up


def until(condition, message="it did not happen", seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, message
        time.sleep(0.01)


def finish(panel):
    """Press Start, wait for the end, and return what the browser is then shown."""
    panel.buttons["start"].click()
    assert panel.job.wait(PATIENCE) and panel.job.error is None, panel.job.error
    return panel._frame()[0]


def begin(panel, steps=1000):
    """Press Start and wait for the first step of a long run."""
    panel.set({"steps": steps})
    panel.buttons["start"].click()
    until(lambda: panel.job.latest)
