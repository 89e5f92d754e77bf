"""What the browser tests share: waiting with a patience, which is short where a planted fault must be found."""

import contextlib

PATIENCE = 60  # seconds


def comes(lab, condition, message):
    assert lab.wait(condition, lab.patience), message


@contextlib.contextmanager
def planted(lab, owner: str, attribute: str, fault: str, patience: float = 10):
    """Meanwhile an attribute of something in the kernel is another; ``kept`` is what it was."""
    patch = f"mock.patch.object({owner}, {attribute!r}, {fault})"
    code = f"from unittest import mock; kept = {owner}.{attribute}; patch = {patch}; patch.start()"
    lab.kernel(f"exec({code!r}, globals())")
    usual, lab.patience = lab.patience, patience
    try:
        yield
    finally:
        lab.patience = usual
        lab.kernel("patch.stop() and None")
