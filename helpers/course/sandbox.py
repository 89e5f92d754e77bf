"""Run a command where it can do no harm: no network, no view of the host's files, bounded memory, processes and time.

Three ways, best first: bubblewrap (Linux, as root or as an ordinary user), a container without network, or, only if
asked for, nothing but limits. The command finds the course read-only and works in a folder of its own; what it leaves
in ``results`` is read after everything in the sandbox is dead.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from helpers.course import inside

GIBI, MEBI = 2**30, 2**20
COURSE, WORK = "/course", "/course/work"
WRITABLE = ("/tmp", "/dev/shm", "/course/output", WORK)
IMAGE = "gan-course-grader"
MEMORY_FLOOR = GIBI  # bytes that must stay available on the machine, whoever takes them
FIRST_UID = 200_000  # for root, every sandbox runs as a user of its own, so that its processes can be counted
NUMBERS = itertools.count(os.getpid() * 64)


class SandboxError(ValueError):
    """There is no sandbox of the kind that was asked for, or it does not start."""


@dataclass(frozen=True)
class Limits:
    """What one run may use.

    Attributes:
        seconds: of the processor, all processes together; of wall time five times as much.
        idle: seconds after which a run is ended in which nothing moves.
        memory: bytes, of each process and of all together, with files in memory.
        processes: processes and threads.
        file: bytes of the largest file.
        disk: MiB of each writable folder (they lie in memory).
        results: bytes that come back.
    """

    seconds: float = 240
    idle: float = 30
    memory: int = 3 * GIBI
    processes: int = 160
    file: int = 64 * MEBI
    disk: int = 128
    results: int = 64 * MEBI

    def of_process(self) -> dict[str, int]:
        """Kernel limits by name; DATA counts what a process may write to, so mapped libraries do not."""
        limits = {"DATA": self.memory, "NPROC": self.processes, "FSIZE": self.file, "NOFILE": 512, "CORE": 0}
        return limits | {"CPU": int(self.seconds) + 2}


@dataclass
class Outcome:
    """What came back: files by name, how it ended, seconds of wall time, peak of memory in bytes."""

    files: dict[str, bytes] = field(default_factory=dict)
    ended: str = "done"  # or "time", "memory", "processes", "output", "killed", "broken"
    seconds: float = 0.0
    memory: int = 0


def available() -> list[str]:
    """Kinds of sandbox that work here, best first; "unsafe" is always among them and always last."""
    kinds = ["bubblewrap"] if _bubblewrap_works() else []
    return [*kinds, *(["container"] if _engine() else []), "unsafe"]


def choose(unsafe: bool = False) -> str:
    """The best sandbox there is.

    Raises:
        SandboxError: if there is none and ``unsafe`` was not asked for.
    """
    kind = available()[0]
    if kind == "unsafe" and not unsafe:
        raise SandboxError(
            "no sandbox works here: install bubblewrap (apt install bubblewrap), or docker or podman with the image "
            f"{IMAGE!r}; --unsafe would run the students' code with your own rights."
        )
    return kind


def _engine() -> str | None:
    """docker or podman, if its service answers and the grader's image is there."""
    for name in filter(shutil.which, ("podman", "docker")):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            asked = [name, "image", "inspect", IMAGE]
            if subprocess.run(asked, capture_output=True, timeout=10).returncode == 0:
                return name
    return None


@functools.cache
def _bubblewrap_works() -> bool:
    if sys.platform != "linux" or not shutil.which("bwrap"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for name in ("work", "output"):
            (Path(folder) / name).mkdir()
        proof = [sys.executable, "-c", "open('results/proof', 'w').write('here')"]
        return run(proof, Path(folder), {}, "bubblewrap", Limits(seconds=10)).files.get("proof") == b"here"


def run(
    command: list[str], course: Path, job: dict[str, bytes], kind: str, limits: Limits, environment: dict | None = None
) -> Outcome:
    """Run a command in a sandbox; a crash, a hang or too much of anything is an outcome, not an exception.

    Args:
        command: starts with the interpreter; its working folder is the job's.
        course: folder that the sandbox sees read-only, holding empty folders ``work`` and ``output``.
        job: name to content of the files in the working folder; names may hold folders.
        kind: see ``available``.
        limits: what it may use.
        environment: variables besides the few that are always set.
    """
    course = Path(course).resolve()
    number, root = next(NUMBERS) % 100_000, kind == "bubblewrap" and os.geteuid() == 0
    work = tempfile.mkdtemp(prefix="work-", dir=course) if kind == "unsafe" else WORK
    start = {"bubblewrap": _bubblewrap, "container": _container, "unsafe": _unsafe}[kind]
    outer, inner, python = start(course, limits, f"{IMAGE}-{os.getpid()}-{number}")
    bounds = limits.of_process()
    if kind != "bubblewrap":  # elsewhere it counts what else this user runs; a container has a bound of its own
        del bounds["NPROC"]
    settings = {
        "command": [*inner, json.dumps(bounds), python, *command[1:]],
        "environment": _environment(str(course) if kind == "unsafe" else COURSE, work, python) | (environment or {}),
        "work": work, "uid": FIRST_UID + number if root else None, "alone": kind != "unsafe",
        "seconds": limits.seconds, "wall": 5 * limits.seconds, "idle": limits.idle, "results": limits.results,
    }  # fmt: skip
    job = {"": json.dumps(settings).encode(), **job}
    data = b"".join(json.dumps({"name": n, "size": len(d)}).encode() + b"\n" + d for n, d in job.items())
    outcome = _supervise(outer, data, limits)
    if kind == "container" and outcome.ended != "done":  # it outlives the command that started it
        subprocess.run([outer[0], "rm", "--force", f"{IMAGE}-{os.getpid()}-{number}"], capture_output=True, timeout=60)
    if kind == "unsafe":
        shutil.rmtree(work, ignore_errors=True)
    return outcome


def _environment(course: str, work: str, python: str) -> dict[str, str]:
    return {
        "PATH": f"{Path(python).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": f"{work}/.home", "USER": "student", "LOGNAME": "student", "LANG": "C.UTF-8",
        "GRADING_WORK": work, "PYTHONPATH": course, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
        # tiny inputs, and a worker for each core: more threads only wait for one another
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        "MPLBACKEND": "agg", "MPLCONFIGDIR": f"{work}/.matplotlib",
    }  # fmt: skip


def _unsafe(course: Path, limits: Limits, name: str) -> tuple[list[str], list[str], str]:
    first = [sys.executable, "-I", inside.__file__]
    return first, [*first, "limited"], sys.executable


def _bubblewrap(course: Path, limits: Limits, name: str) -> tuple[list[str], list[str], str]:
    """Two layers: the outer shows the files, the inner one has its own processes, network and user namespace."""
    own = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    common = ["--new-session", "--die-with-parent"]
    capabilities = ("CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_KILL")
    rights = ["--cap-drop", "ALL", *(part for c in capabilities for part in ("--cap-add", c))]
    rights = rights if os.geteuid() == 0 else ["--unshare-user"]
    outer = ["bwrap", *own, *common, *rights, "--proc", "/proc", "--dev", "/dev"]
    for folder in WRITABLE[:2]:  # before the interpreter, which may lie below /tmp
        outer += ["--perms", "1777", "--size", str(limits.disk * MEBI), "--tmpfs", folder]
    for path in _interpreter():
        for parent in reversed(Path(path).parents[:-1]):  # else only root could look into it
            outer += ["--perms", "0755", "--dir", str(parent)]
        outer += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    outer += ["--ro-bind", str(course), COURSE, "--ro-bind", inside.__file__, "/inside.py"]
    for folder in WRITABLE[2:]:
        outer += ["--perms", "1777", "--size", str(limits.disk * MEBI), "--tmpfs", folder]
    outer += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", sys.executable, "-I", "/inside.py"]
    no_users = ["--disable-userns"] if _knows_disable_userns() else []
    inner = ["bwrap", "--unshare-all", "--unshare-user", *no_users, *common, "--bind", "/", "/"]
    inner += ["--dev-bind", "/dev", "/dev", "--proc", "/proc", "--chdir", WORK]
    return outer, [*inner, sys.executable, "-I", "/inside.py", "limited"], sys.executable


@functools.cache
def _knows_disable_userns() -> bool:
    return "--disable-userns" in subprocess.run(["bwrap", "--help"], capture_output=True, text=True).stdout


def _interpreter() -> list[str]:
    """Folders that Python needs, each at its own place: the system's libraries, the interpreter, its packages."""
    paths = [sys.base_prefix, sys.prefix, *site.getsitepackages(), *sysconfig.get_paths().values()]
    paths = [os.path.realpath(path) for path in paths] + [os.path.abspath(path) for path in paths]
    paths += ["/usr", "/etc/ld.so.cache", "/etc/fonts", "/etc/localtime", "/lib", "/lib64", "/bin", "/sbin"]
    found: list[str] = []
    for path in sorted({path for path in paths if os.path.exists(path)}, key=lambda path: (len(path), path)):
        if path != "/" and not any(path.startswith(f"{other}/") for other in found):
            found.append(path)
    return found


def _container(course: Path, limits: Limits, name: str) -> tuple[list[str], list[str], str]:
    """A container that starts ``inside.py`` with an interpreter of its own image."""
    memory, engine = f"{limits.memory + len(WRITABLE) * limits.disk * MEBI}b", _engine() or "docker"
    for folder in ("work", "output"):  # runc gives a tmpfs the mode of the folder that it covers
        os.chmod(course / folder, 0o1777)
    folders = [f"--tmpfs={place}:size={limits.disk}m,mode=1777" for place in WRITABLE if place != "/dev/shm"]
    outer = [
        engine, "run", "--rm", f"--name={name}", "--interactive", "--network=none", "--read-only", "--cap-drop=ALL",
        "--ipc=private", "--security-opt=no-new-privileges", "--user=65534:65534", f"--pids-limit={limits.processes}",
        "--ulimit=nofile=512:512", f"--memory={memory}", f"--memory-swap={memory}", f"--shm-size={limits.disk}m",
        *folders, f"--volume={course}:{COURSE}:ro", f"--volume={inside.__file__}:/inside.py:ro",
        IMAGE, "/usr/local/bin/python", "-I", "/inside.py",
    ]  # fmt: skip
    python = "/usr/local/bin/python"
    return outer, [python, "-I", "/inside.py", "limited"], python


def _supervise(command: list[str], data: bytes, limits: Limits) -> Outcome:
    """Feed the job, read at most what may come back, and kill it all when it takes too much of anything."""
    started, outcome, received, errors = time.monotonic(), Outcome(), bytearray(), bytearray()
    most, pipe = limits.results + 2**16, subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)

    def write() -> None:
        with contextlib.suppress(OSError):  # it may have ended before it read them: broken, seen below
            process.stdin.write(data)
            process.stdin.close()

    def read() -> None:
        while len(received) <= most and (chunk := process.stdout.read1(2**20)):
            received.extend(chunk)

    threads = [write, read, lambda: errors.extend(process.stderr.read(4000))]
    threads = [threading.Thread(target=target, daemon=True) for target in threads]
    for thread in threads:
        thread.start()
    while process.poll() is None and outcome.ended == "done":
        time.sleep(0.2)
        outcome.seconds = time.monotonic() - started
        outcome.ended = "output" if len(received) > most else _too_much(process, outcome, limits) or "done"
    _kill(process)
    for thread in threads:
        thread.join(5)
    outcome.seconds = time.monotonic() - started
    outcome.files = unframe(bytes(received[:most]))
    code = outcome.files.pop("exit", b"").decode("ascii", "replace")
    if outcome.ended == "done":
        killed = code.startswith("-") or code in ("137", "139")  # bubblewrap adds 128 to a signal
        outcome.ended = {"": "broken", "124": "time"}.get(code, "killed" if killed else "done")
    if outcome.ended == "broken":
        outcome.files["log.txt"] = bytes(errors)
    return outcome


def _too_much(process: subprocess.Popen, outcome: Outcome, limits: Limits) -> str | None:
    members = _members(process)
    memory = _memory([member.pid for member in members])
    outcome.memory = max(outcome.memory, memory)
    if memory > limits.memory or psutil.virtual_memory().available < MEMORY_FLOOR:
        return "memory"
    if len(members) > limits.processes + 8:
        return "processes"
    return "time" if outcome.seconds > 5 * limits.seconds + 15 else None


def _members(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _memory(pids: list[int]) -> int:
    """Bytes that processes hold, alone and shared, with files in memory whether mapped or not; no mapped libraries."""
    total, seen = 0, set()
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(1024 * int(line.split()[1]) for line in file if line.startswith(("Pss_Anon", "Pss_Shmem")))
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                if os.readlink(descriptor.path).startswith("/memfd:"):
                    about = os.stat(descriptor.path)
                    total += 0 if about.st_ino in seen else 512 * about.st_blocks
                    seen.add(about.st_ino)
    for place in WRITABLE if pids else ():
        with contextlib.suppress(OSError):  # on macOS there is no /proc, and no sandbox of this kind
            if os.path.samefile(f"/proc/{pids[-1]}/root", "/"):
                break
            space = os.statvfs(f"/proc/{pids[-1]}/root{place}")
            total += (space.f_blocks - space.f_bfree) * space.f_frsize if space.f_blocks else 0
    return total


def _kill(process: subprocess.Popen) -> None:
    """Kill what was started: the first process of a namespace takes all others with it."""
    if process.poll() is None:
        for member in _members(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.kill()
    process.wait()


def unframe(data: bytes) -> dict[str, bytes]:
    """Files of what ``inside.hand_out`` wrote; what is cut off or malformed is left out."""
    files, at = {}, 0
    while (end := data.find(b"\n", at, at + 400)) >= 0:
        try:
            header = json.loads(data[at:end])
            name, size = str(header["name"]), int(header["size"])
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        if size < 0 or end + 1 + size > len(data):
            break
        files[name] = data[end + 1 : end + 1 + size]
        at = end + 1 + size
    return files
