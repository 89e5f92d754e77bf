"""What runs inside the sandbox as its first process: builds a bare root, starts the work, then hands out its files.

Standard library only and no import of the course: it is started as a file with ``python -I``. The settings come as
JSON on standard input, the files of ``results`` leave as frames on standard output (a line of JSON, then the bytes)
after every other process is dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import platform
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time

COURSE, WORK, OLD = "/course", "/course/work", "/.old"
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC = 2, 4, 8, 4096, 16384
MNT_DETACH, AT_FDCWD, AT_RECURSIVE, MOUNT_SETATTR = 2, -100, 0x8000, 442
READ_ONLY = 1 | 2 | 4  # read-only, no set-user-id, no devices
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
DEVICES = ("null", "zero", "full", "random", "urandom")
MEBI = 2**20

libc = ctypes.CDLL(None, use_errno=True)


def _check(status: int, what: str) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    status = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(status, f"mount {target}")


def tmpfs(target: str, mebibytes: int, mode: str = "1777") -> None:
    os.makedirs(target, exist_ok=True)
    mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, f"size={mebibytes}m,mode={mode},nr_inodes=20k")


def bind(source: str, target: str) -> None:
    """Show a folder or file of the host, read-only with everything mounted below it."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "a").close()
    mount(source, target, flags=MS_BIND | MS_REC)
    if not source.startswith("/dev/"):
        attributes = struct.pack("QQQQ", READ_ONLY, 0, 0, 0)
        size = ctypes.c_size_t(len(attributes))
        status = libc.syscall(MOUNT_SETATTR, AT_FDCWD, target.encode(), AT_RECURSIVE, attributes, size)
        _check(status, f"read-only {target}")


def build_root(root: str, binds: list, links: list, disk: int) -> None:
    """A new file system: the interpreter and its packages, the course, empty writable folders, and nothing else."""
    tmpfs(root, 4, "755")
    for folder in ("/tmp", "/dev/shm"):  # before the course and its packages, which may lie below them
        tmpfs(root + folder, disk)
    for source, target in binds:
        bind(source, root + target)
    for target, name in links:
        os.symlink(target, root + name)
    for name in DEVICES:
        bind(f"/dev/{name}", f"{root}/dev/{name}")
    os.makedirs(f"{root}/proc")
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for folder in ("/course/output", WORK):
        tmpfs(root + folder, disk)
    os.makedirs(f"{root}/etc", exist_ok=True)
    with open(f"{root}/etc/passwd", "w") as file:
        file.write(f"student:x:{os.getuid()}:{os.getgid()}::/tmp:/bin/sh\n")


def enter_root(root: str) -> None:
    os.makedirs(root + OLD)
    machine = platform.machine()
    if machine not in PIVOT_ROOT:
        raise OSError(f"no sandbox by user namespaces on {machine}; use a container")
    _check(libc.syscall(PIVOT_ROOT[machine], root.encode(), (root + OLD).encode()), "pivot_root")
    os.chdir("/")
    _check(libc.umount2(OLD.encode(), MNT_DETACH), "umount")
    os.rmdir(OLD)


def loopback_up() -> None:
    """Kernel and test runner talk over 127.0.0.1; there is no other network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def shut_leaks(own_users: bool) -> None:
    """Memory that no process holds (System V segments) stays small; no further namespaces with new rights."""
    settings = {"kernel/shmall": "1024", "kernel/msgmni": "0"}  # of this namespace alone
    if own_users:  # else it would be the host's
        settings["user/max_user_namespaces"] = "0"
    for name, value in settings.items():
        with contextlib.suppress(OSError), open(f"/proc/sys/{name}", "w") as file:
            file.write(value)


def drop_rights(limits: dict, uid: int | None) -> None:
    """In the child, before the work starts: limits for each process, no capabilities, no way to new ones."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if os.getpid() != os.getsid(0):
        os.setsid()
    if os.geteuid() == 0:
        capability = 0
        while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
            capability += 1
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def work(settings: dict, folder: str) -> int:
    """Run the command with its output in ``results/log.txt``; its exit code, or 124 when time is up or it stops."""
    results = f"{folder}/results"
    os.makedirs(results)
    uid = settings.get("uid")
    if uid is not None:
        for place, _, names in os.walk(folder):
            for path in (place, *(f"{place}/{name}" for name in names)):
                os.chown(path, uid, uid)
    with open(f"{results}/log.txt", "wb") as log:
        child = subprocess.Popen(
            settings["command"], cwd=folder, env=settings["environment"], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, preexec_fn=lambda: drop_rights(settings["limits"], uid), close_fds=True,
        )  # fmt: skip
    deadline = time.monotonic() + settings["seconds"]
    while time.monotonic() < deadline:  # as first process, every orphan is ours to collect
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if pid == child.pid:
            return 124 if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        if pid == 0:
            time.sleep(0.02)
    return 124


def kill_all() -> None:
    """Only as the first process of an own process namespace: there, -1 means everybody else."""
    if os.getpid() == 1:
        try:
            os.kill(-1, signal.SIGKILL)
            while True:
                os.waitpid(-1, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def frame(name: str, data: bytes) -> None:
    header = json.dumps({"name": name, "size": len(data)})
    sys.stdout.buffer.write(header.encode() + b"\n" + data)


def hand_out(folder: str, most_bytes: int, most_files: int = 200) -> None:
    """Write every plain file of ``results`` to standard output; whatever is more than that, or no file, stays."""
    left = most_bytes
    if not stat.S_ISDIR(os.lstat(f"{folder}/results").st_mode):
        return
    for name in sorted(os.listdir(f"{folder}/results"))[:most_files]:
        path = f"{folder}/results/{name}"
        if not stat.S_ISREG(os.lstat(path).st_mode):
            continue
        with open(path, "rb") as file:
            data = file.read(left + 1)
        if len(data) <= left:
            left -= len(data)
            frame(os.fsencode(name).decode("ascii", "replace")[:80], data)


def copy_files(source: str, target: str) -> None:
    """A tree without its times and modes: in a container the working folder is not ours to set them."""
    for place, folders, names in os.walk(source):
        below = os.path.join(target, os.path.relpath(place, source))
        for name in folders:
            os.makedirs(os.path.join(below, name), exist_ok=True)
        for name in names:
            shutil.copyfile(os.path.join(place, name), os.path.join(below, name))


def main() -> None:
    settings = json.load(sys.stdin)
    folder = settings["folder"]
    if settings["root"]:
        build_root(settings["root"], settings["binds"], settings["links"], settings["disk"])
        enter_root(settings["root"])
        loopback_up()
        shut_leaks(own_users=settings.get("uid") is None)
    copy_files(settings["job"], folder)
    code = work(settings, folder)
    kill_all()
    frame("exit", str(code).encode())
    hand_out(folder, settings["most_bytes"])


if __name__ == "__main__":
    main()
