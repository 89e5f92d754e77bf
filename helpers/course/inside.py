"""What runs inside the sandbox: takes the job from standard input, runs it, hands the results out.

Standard library only and no import of the course: it is started as a file with ``python -I``. Input and output are
frames (a line of JSON with name and size, then the bytes): first the settings, then the files of the job; and back the
files of ``results``, read when every other process is dead. ``inside.py limited JSON COMMAND`` starts the job itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import stat
import subprocess
import sys
import time

KEYCTL = {"x86_64": 250, "aarch64": 219}  # a session keyring of its own has no command in bubblewrap
MOST_FILES = 200


def limited(limits: dict[str, int], command: list[str]) -> None:
    """Become the command, with limits that it cannot raise."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS does not know every limit
            resource.setrlimit(kind, (value, value))
    if sys.platform == "linux" and platform.machine() in KEYCTL:
        ctypes.CDLL(None).syscall(KEYCTL[platform.machine()], 1, None)
    os.execvp(command[0], command)


def take() -> tuple[dict, dict[str, bytes]]:
    """Settings and job files from standard input."""
    files, source = {}, sys.stdin.buffer
    while line := source.readline():
        header = json.loads(line)
        files[header["name"]] = source.read(header["size"])
    return json.loads(files.pop("")), files


def frame(name: str, data: bytes) -> None:
    sys.stdout.buffer.write(json.dumps({"name": name, "size": len(data)}).encode() + b"\n" + data)


def others() -> list[int]:
    """Processes of this namespace besides its first one and this one."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]


def cpu_seconds() -> float:
    """What all processes of this namespace have used, with those that they have waited for."""
    ticks = 0
    for pid in [1, *others()]:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def work(settings: dict) -> int:
    """Run the command; its exit code, or 124 when its time is up or nothing in it has moved for long."""
    user = {} if settings["uid"] is None else {"user": settings["uid"], "group": settings["uid"], "extra_groups": []}
    with open("results/log.txt", "wb") as log:
        child = subprocess.Popen(
            settings["command"], env=settings["environment"], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True, **user,
        )  # fmt: skip
    started = moved = time.monotonic()
    before = 0.0
    while child.poll() is None:
        time.sleep(0.05)
        now = time.monotonic()
        used = cpu_seconds() if settings["alone"] else now - started
        if used > before + 0.05:
            before, moved = used, now
        if used > settings["seconds"] or now - started > settings["wall"] or now - moved > settings["idle"]:
            child.kill()
            child.wait()
            return 124
    return child.returncode


def kill_all(alone: bool, deadline: float = 5.0) -> None:
    """Wait until nobody else is alive in a namespace of our own; as its first process, kill them."""
    end = time.monotonic() + deadline
    while alone and others() and time.monotonic() < end:
        with contextlib.suppress(ProcessLookupError):
            if os.getpid() == 1:
                os.kill(-1, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.01)


def hand_out(left: int) -> None:
    """Write every plain file of ``results``; whatever is more than ``left`` bytes, or not a file, stays."""
    if not stat.S_ISDIR(os.lstat("results").st_mode):
        return
    for name in sorted(os.listdir("results"))[:MOST_FILES]:
        path = f"results/{name}"
        if not stat.S_ISREG(os.lstat(path).st_mode):
            continue
        with open(path, "rb") as file:
            data = file.read(left + 1)
        if len(data) <= left:
            left -= len(data)
            frame(os.fsencode(name).decode("ascii", "replace")[:80], data)


def main() -> None:
    settings, files = take()
    os.umask(0)  # the job may run as another user
    os.chdir(settings["work"])
    os.makedirs("results")
    for name, data in files.items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as file:
            file.write(data)
    if settings["uid"] is not None:  # bubblewrap covers parts of root's /proc, and then no other can be mounted inside
        subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    code = work(settings)
    kill_all(settings["alone"])
    hand_out(settings["results"])
    frame("exit", str(code).encode())  # last: of two files of one name the later counts


if __name__ == "__main__":
    if sys.argv[1:2] == ["limited"]:
        limited(json.loads(sys.argv[2]), sys.argv[3:])
    main()
