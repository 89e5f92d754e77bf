"""Run a command where it can do no harm: no network, no view of the host's files, bounded memory, processes and time.

Three ways, best first: a container without network, Linux namespaces (``unshare``; as root or as anybody whom the
kernel lets), or, only if asked for, nothing but limits. The command finds the course read-only, works in a folder of
its own and leaves its results there; they are read after everything in the sandbox is dead.
"""

from __future__ import annotations

import contextlib
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

KINDS = ("container", "namespaces", "unsafe")
GIBI, MEBI = 2**30, 2**20
IMAGE = "gan-course-grader"
MEMORY_FLOOR = GIBI  # bytes that must stay available on the machine, whoever takes them
FIRST_UID = 200_000  # as root, every sandbox runs as a user of its own, so that its processes can be counted


class SandboxError(ValueError):
    """There is no sandbox of the kind that was asked for, or it does not start."""


@dataclass(frozen=True)
class Limits:
    """What one run may use.

    Attributes:
        seconds: wall time of the whole run.
        memory: bytes, of each process and of all together.
        processes: processes and threads.
        file: bytes of the largest file.
        disk: MiB of each writable folder (they lie in memory).
        results: bytes that come back.
    """

    seconds: float = 240
    memory: int = 3 * GIBI
    processes: int = 160
    file: int = 64 * MEBI
    disk: int = 128
    results: int = 64 * MEBI

    def of_process(self) -> dict[str, int]:
        """Kernel limits by name; DATA counts what a process may write to, so mapped libraries do not."""
        return {
            "DATA": self.memory,
            "NPROC": self.processes,
            "FSIZE": self.file,
            "NOFILE": 512,
            "CORE": 0,
            "CPU": int(4 * self.seconds) + 1,
        }


@dataclass
class Outcome:
    """What came back: files by name, how it ended, seconds of wall time, peak of memory in bytes."""

    files: dict[str, bytes] = field(default_factory=dict)
    ended: str = "done"  # or "time", "memory", "processes", "output", "killed", "broken"
    seconds: float = 0.0
    memory: int = 0


def available() -> list[str]:
    """Kinds of sandbox that work here, best first; "unsafe" is always among them and always last."""
    kinds = ["container"] if _engine() else []
    if _namespaces_work():
        kinds.append("namespaces")
    return [*kinds, "unsafe"]


def choose(unsafe: bool = False) -> str:
    """The best sandbox there is.

    Raises:
        SandboxError: if there is none and ``unsafe`` was not asked for.
    """
    kind = available()[0]
    if kind == "unsafe" and not unsafe:
        raise SandboxError(
            "no sandbox works here: neither docker or podman with the image "
            f"{IMAGE!r}, nor unshare with namespaces; grade on a machine that has one, "
            "or pass --unsafe to run the students' code with your own rights."
        )
    return kind


def _engine() -> str | None:
    """docker or podman, if its service answers and the grader's image is there."""
    for name in ("podman", "docker"):
        if shutil.which(name):
            asked = [name, "image", "inspect", IMAGE]
            try:
                done = subprocess.run(asked, capture_output=True, timeout=10)
            except (OSError, subprocess.TimeoutExpired):
                continue
            if done.returncode == 0:
                return name
    return None


def _namespaces_work() -> bool:
    if sys.platform != "linux" or not shutil.which("unshare"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder)
        os.chmod(course, 0o755)
        (course / "work").mkdir()
        (course / "output").mkdir()
        proof = [sys.executable, "-c", "open('results/proof', 'w').write('here')"]
        outcome = run(proof, course, {}, "namespaces", Limits(seconds=10))
    return outcome.files.get("proof") == b"here"


def run(
    command: list[str], course: Path, job: dict[str, bytes], kind: str, limits: Limits, environment: dict | None = None
) -> Outcome:
    """Run a command in a sandbox; a crash, a hang or too much of anything is an outcome, not an exception.

    Args:
        command: starts with the interpreter; its working folder is the job's.
        course: folder that the sandbox sees read-only, holding empty folders ``work`` and ``output``.
        job: name to content of the files in the working folder; names may hold folders.
        kind: see ``KINDS``.
        limits: what it may use.
        environment: variables besides the few that are always set.
    """
    with tempfile.TemporaryDirectory(prefix="grade-") as folder:
        os.chmod(folder, 0o755)
        for part in ("root", "job"):
            (Path(folder) / part).mkdir()
        for name, data in job.items():
            path = Path(folder) / "job" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        settings = _settings(command, Path(course), Path(folder), kind, limits, environment or {})
        process = _start(kind, settings, limits)
        outcome = _supervise(process, json.dumps(settings).encode(), kind, limits)
        if kind == "container" and outcome.ended != "done":  # it outlives the command that started it
            subprocess.run([_engine() or "docker", "rm", "--force", settings["name"]], capture_output=True, timeout=60)
        if kind == "unsafe":
            shutil.rmtree(settings["folder"], ignore_errors=True)
    return outcome


def _settings(command, course: Path, folder: Path, kind: str, limits: Limits, environment: dict) -> dict:
    place = str(course.resolve()) if kind == "unsafe" else inside.COURSE
    work = tempfile.mkdtemp(prefix="work-", dir=place) if kind == "unsafe" else inside.WORK
    always = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": f"{work}/.home",
        "PYTHONPATH": place,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",  # tiny inputs, and a worker for each core: more threads only wait for one another
        "OPENBLAS_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": f"{work}/.matplotlib",
    }
    if kind != "unsafe":
        always["GRADING_ALONE"] = "1"
    root = os.geteuid() == 0
    return {
        "command": command,
        "environment": always | environment,
        "job": str(folder / "job") if kind == "unsafe" else "/job",
        "folder": work,
        "root": str(folder / "root") if kind == "namespaces" else "",
        "course": str(course.resolve()),
        "binds": [*_interpreter(), [str(course.resolve()), inside.COURSE], [str(folder / "job"), "/job"]],
        "links": _links(),
        "disk": limits.disk,
        "limits": limits.of_process(),
        "name": f"{IMAGE}-{os.getpid()}-{_number()}",
        "uid": FIRST_UID + _number() if root and kind == "namespaces" else None,
        "seconds": limits.seconds,
        "most_bytes": limits.results,
    }


_count, _lock = os.getpid() * 64, threading.Lock()


def _number() -> int:
    global _count
    with _lock:
        _count += 1
        return _count % 100_000


def _interpreter() -> list[list[str]]:
    """Folders that Python needs, each at its own place: the system's libraries, the interpreter, its packages."""
    paths = [sys.base_prefix, sys.prefix, *site.getsitepackages(), *sysconfig.get_paths().values()]
    system = ["/usr", "/etc/ld.so.cache", "/etc/fonts", "/etc/localtime"]
    system += [name for name in ("/lib", "/lib64", "/bin", "/sbin") if os.path.isdir(name) and not os.path.islink(name)]
    found: list[str] = []
    for path in sorted({os.path.abspath(path) for path in [*paths, *system] if os.path.exists(path)}, key=len):
        if path != "/" and not any(path.startswith(other + "/") for other in found):
            found.append(path)
    return [[path, path] for path in found]


def _links() -> list[list[str]]:
    return [[os.readlink(name), name] for name in ("/lib", "/lib64", "/bin", "/sbin") if os.path.islink(name)]


def _start(kind: str, settings: dict, limits: Limits) -> subprocess.Popen:
    first = [sys.executable, "-I", inside.__file__]
    if kind == "namespaces":
        users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        spaces = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child=KILL"]
        first = ["unshare", *users, *spaces, "--", *first]
    elif kind == "container":
        first = container_command(_engine() or "docker", settings, limits)
    return subprocess.Popen(
        first, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def container_command(engine: str, settings: dict, limits: Limits) -> list[str]:
    """Command line of a container that starts ``inside.py`` with an interpreter of its own image."""
    memory, files = f"{limits.memory + 3 * limits.disk * MEBI}b", limits.of_process()["NOFILE"]
    folders = [f"--tmpfs={name}:size={limits.disk}m,mode=1777" for name in ("/tmp", "/course/output", inside.WORK)]
    for name in ("work", "output"):  # runc gives a tmpfs the mode of the folder that it covers
        os.chmod(Path(settings["course"]) / name, 0o1777)
    binds = {settings["course"]: inside.COURSE, settings["binds"][-1][0]: "/job", inside.__file__: "/inside.py"}
    settings["command"] = ["python", *settings["command"][1:]]
    settings["environment"]["PATH"] = "/usr/local/bin:/usr/bin:/bin"
    settings["limits"].pop("NPROC", None)  # counts all of this user's on the machine; --pids-limit only ours
    return [
        engine, "run", "--rm", f"--name={settings['name']}", "--interactive",
        "--network=none", "--read-only", "--cap-drop=ALL", "--ipc=private",
        "--security-opt=no-new-privileges", "--user=65534:65534", f"--pids-limit={limits.processes}",
        f"--ulimit=nofile={files}:{files}", "--ulimit=nproc=4096:4096",
        f"--memory={memory}", f"--memory-swap={memory}", f"--shm-size={limits.disk}m", *folders,
        *(f"--volume={source}:{target}:ro" for source, target in binds.items()),
        IMAGE, "python", "-I", "/inside.py",
    ]  # fmt: skip


def _supervise(process: subprocess.Popen, settings: bytes, kind: str, limits: Limits) -> Outcome:
    """Feed the settings, read at most what may come back, and kill it all when it takes too much of anything."""
    started, outcome, received = time.monotonic(), Outcome(), bytearray()
    most = limits.results + 2**16

    def read() -> None:
        while len(received) <= most and (chunk := process.stdout.read1(2**20)):
            received.extend(chunk)

    threads = [threading.Thread(target=read, daemon=True)]
    errors = bytearray()
    threads.append(threading.Thread(target=lambda: errors.extend(process.stderr.read(4000)), daemon=True))
    for thread in threads:
        thread.start()
    with contextlib.suppress(OSError):  # it may have ended before it read them: broken, seen below
        process.stdin.write(settings)
        process.stdin.close()
    while process.poll() is None:
        time.sleep(0.1)
        outcome.seconds = time.monotonic() - started
        outcome.ended = _too_much(process, outcome, limits) or outcome.ended
        if len(received) > most:
            outcome.ended = "output"
        if outcome.ended != "done":
            break
    _kill(process)
    for thread in threads:
        thread.join(5)
    outcome.seconds = time.monotonic() - started
    outcome.files = unframe(bytes(received[:most]))
    code = outcome.files.pop("exit", b"").decode("ascii", "replace")
    if outcome.ended == "done":
        outcome.ended = {"": "broken", "124": "time"}.get(code, "killed" if code.startswith("-") else "done")
    if outcome.ended == "broken":
        outcome.files["log.txt"] = bytes(errors)
    return outcome


def _too_much(process: subprocess.Popen, outcome: Outcome, limits: Limits) -> str | None:
    members = _members(process)
    held = [_memory(member.pid) for member in members]
    memory = sum(own for own, _ in held) + max((shared for _, shared in held), default=0)
    outcome.memory = max(outcome.memory, memory)
    if memory > limits.memory or psutil.virtual_memory().available < MEMORY_FLOOR:
        return "memory"
    if len(members) > limits.processes + 8:
        return "processes"
    return "time" if outcome.seconds > limits.seconds + 15 else None


def _members(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _memory(pid: int) -> tuple[int, int]:
    """Bytes that a process holds alone and in shared memory; mapped files do not count."""
    try:
        with open(f"/proc/{pid}/status") as file:
            lines = dict(line.split(":", 1) for line in file if line.startswith("Rss"))
    except OSError:
        return 0, 0
    kibi = {name: int(value.split()[0]) for name, value in lines.items()}
    return 1024 * kibi.get("RssAnon", 0), 1024 * kibi.get("RssShmem", 0)


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
