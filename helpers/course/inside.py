"""The last steps inside a sandbox, where there is no course: ``python -I inside.py SETTINGS COMMAND...`` becomes it."""

import contextlib
import ctypes
import json
import os
import platform
import resource
import subprocess
import sys

KEYCTL = {"x86_64": 250, "aarch64": 219}  # a session keyring of its own has no command in bubblewrap


def become(command: list[str], uid: int | None = None, job: str = "", limits: dict[str, int] | None = None) -> None:
    """Run the command as another user, with the job's files in this folder, and with limits that it cannot raise."""
    if uid is not None:  # bubblewrap covers parts of root's /proc, and then no other can be mounted inside
        subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    if job:
        subprocess.run(["cp", "-r", f"{job}/.", "."], check=True)
    for name, value in (limits or {}).items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS does not know every limit
            resource.setrlimit(kind, (value, value))
    if sys.platform == "linux" and platform.machine() in KEYCTL:
        ctypes.CDLL(None).syscall(KEYCTL[platform.machine()], 1, None)
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(sys.argv[2:], **json.loads(sys.argv[1]))
