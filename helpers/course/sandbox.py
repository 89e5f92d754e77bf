"""Run a command where it can do no harm: no network, no view of the host's files, bounded memory, processes and time.

Three kinds, best first: bubblewrap 0.8 (as root or not), a container without network, or, only if asked for, nothing
but limits. The command finds the course read-only and works in a folder of its own; what it leaves in ``results`` is
read when everything in the sandbox is dead.
"""

import contextlib
import functools
import itertools
import json
import os
import re
import shlex
import shutil
import site
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from helpers.course import inside

GIBI, MEBI = 2**30, 2**20
COURSE, WORK = "/course", "/course/work"
WRITABLE = ("/tmp", "/dev/shm", "/course/output", WORK)
IMAGE, IMAGE_PYTHON = "gan-course-grader", "/usr/local/bin/python"
MEMORY_FLOOR = GIBI  # bytes that must stay available on the machine, whoever takes them
HELD = ("Pss_Anon", "Pss_Shmem", "SwapPss")  # lines of smaps_rollup
FIRST_UID = 200_000  # for root, every sandbox runs as a user of its own, so that its processes can be counted
MOST_FILES = 200  # that come back
NUMBERS = itertools.count(os.getpid() * 64)
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
ENVIRONMENT = {
    "USER": "student", "LOGNAME": "student", "LANG": "C.UTF-8", "MPLBACKEND": "agg",
    "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
    "COURSE_MODEL": "stylegan2-cats-64",  # where a cell loads the default, the faster one
    # tiny inputs, and a worker for each core: more threads only wait for one another
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What one run may use."""

    seconds: float = 240  # of the processor, all processes together; of wall time five times as much
    idle: float = 30  # seconds after which a run is ended in which nothing moves
    memory: int = 3 * GIBI  # bytes of all processes together, with files in memory
    processes: int = 160  # with threads
    file: int = 64 * MEBI  # bytes of the largest file
    disk: int = 128  # MiB of each writable folder; they lie in memory
    results: int = 64 * MEBI  # bytes that come back

    def of_process(self) -> dict[str, int]:
        """Kernel limits by name; DATA counts what a process may write to, so mapped libraries do not."""
        cpu = int(self.seconds) + 2
        return {"DATA": self.memory, "FSIZE": self.file, "NOFILE": 512, "CORE": 0, "CPU": cpu}


@dataclass
class Outcome:
    """What came back: files by name, how it ended, seconds on the wall and of the processor, bytes of memory."""

    files: dict[str, bytes] = field(default_factory=dict)
    ended: str = "done"  # or "time", "memory", "processes", "output", "killed"
    seconds: float = 0.0
    cpu: float = 0.0
    memory: int = 0


def available() -> list[str]:
    """Kinds of sandbox that work here, best first; "unsafe" is always among them and always last."""
    kinds = ["bubblewrap"] if _bubblewrap_works() else []
    return [*kinds, *(["container"] if _engine() else []), "unsafe"]


def choose(unsafe: bool = False) -> str:
    """The best sandbox there is. ValueError if there is none and ``unsafe`` was not asked for."""
    kind = available()[0]
    if kind == "unsafe" and not unsafe:
        fix = f"install bubblewrap 0.8 or newer (apt install bubblewrap), or docker or podman with the image {IMAGE!r}"
        raise ValueError(f"no sandbox works here: {fix}; --unsafe would run the students' code with your own rights.")
    return kind


def _engine() -> str | None:
    """docker or podman, if its service answers and the grader's image is there."""
    for name in filter(shutil.which, ("podman", "docker")):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([name, "image", "inspect", IMAGE], capture_output=True, timeout=10, check=True)
            return name
    return None


@functools.cache
def _bubblewrap_works() -> bool:
    if sys.platform != "linux" or not shutil.which("bwrap"):
        return False
    proof = [sys.executable, "-c", "open('results/proof', 'w').write('here')"]
    with tempfile.TemporaryDirectory() as folder:
        return "proof" in run(proof, Path(folder) / "course", {}, "bubblewrap", Limits(seconds=10)).files


def run(
    command: list[str], course: Path, job: dict[str, bytes], kind: str, limits: Limits, environment: dict | None = None
) -> Outcome:
    """Run a command in a sandbox; a crash, a hang or too much of anything is an outcome, not an exception.

    The command starts with the interpreter, and works where the files of the job are; ``course`` is read-only, and what
    comes back lies next to it meanwhile. kind: one of ``available``.
    """
    course = Path(course).resolve()
    for name in ("work", "output"):  # covered by folders in memory
        (course / name).mkdir(parents=True, exist_ok=True)
        (course / name).chmod(0o1777)  # runc gives a tmpfs this mode
    place = Path(tempfile.mkdtemp(prefix="run-", dir=course.parent))
    (place / "job").mkdir()
    (place / "results").mkdir()
    (place / "results").chmod(0o777)  # the job may run as another user
    for name, data in job.items():
        (place / "job" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "job" / name).write_bytes(data)
    python, here, work = IMAGE_PYTHON if kind == "container" else sys.executable, COURSE, WORK
    if kind == "unsafe":
        here, work = str(course), str(place / "job")
        os.symlink(place / "results", place / "job" / "results")
    variables = ENVIRONMENT | {
        "PATH": f"{Path(python).parent}:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": here, "GRADING_WORK": work,
        "HOME": f"{work}/.home", "MPLCONFIGDIR": f"{work}/.matplotlib", **(environment or {}),
    }  # fmt: skip
    start = {"bubblewrap": _bubblewrap, "container": _container, "unsafe": _unsafe}[kind]
    groups = [] if kind == "container" else _groups(limits)  # an engine makes its own
    try:
        full = start(course, place, limits, [python, *command[1:]], variables)
        seen = None if kind == "container" else variables
        outcome = _supervise(_joined(groups, full), place, limits, seen, groups)
        if kind == "container" and outcome.ended != "done":  # it outlives the command that started it
            subprocess.run([full[0], "rm", "--force", place.name], capture_output=True, timeout=60)
        return outcome
    finally:
        _dissolve(groups)
        remove(place)


def remove(place: Path) -> None:
    """Remove a folder with whatever jobs have left in it, however deep and closed."""
    for clean in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        subprocess.run([*clean, str(place)], capture_output=True)


def end_leftovers(folder: Path) -> None:
    """Kill sandboxes of this folder whose grader was killed before bubblewrap could bind their lives to its own."""
    for process in psutil.process_iter(["name", "cmdline"]):
        named = any(part.startswith(f"{folder.resolve()}/") for part in process.info["cmdline"] or ())
        if named and process.info["name"] == "bwrap":
            with contextlib.suppress(psutil.Error):
                process.kill()
                process.wait(10)


def _groups(limits: Limits) -> list[Path]:
    """New control groups of version 2 or 1 for one run, where they may be made; what is counted bounds it anyway."""
    own, memory, made = {}, str(limits.memory), []
    with contextlib.suppress(OSError):
        for _, names, path in (line.split(":", 2) for line in OWN_CGROUPS.read_text().splitlines()):
            own |= dict.fromkeys(names.split(","), path.strip("/"))
    processes = {"pids.max": str(limits.processes + 8)}
    kinds = {  # in version 2 a group next to our own, for one that holds processes has no bounded groups below it
        CGROUPS / Path(own.get("", "")).parent: {"memory.max": memory} | processes,
        CGROUPS / "memory" / own.get("memory", ""): {"memory.limit_in_bytes": memory},
        CGROUPS / "pids" / own.get("pids", ""): processes,
    }
    for parent, bounds in kinds.items():
        if not (parent / "cgroup.procs").exists():
            continue
        for old in parent.glob("course-*-*"):  # of a grader that was killed
            with contextlib.suppress(OSError, ValueError):
                if not psutil.pid_exists(int(old.name.split("-")[1])):
                    old.rmdir()
        group = parent / f"course-{os.getpid()}-{next(NUMBERS)}"
        try:
            group.mkdir()
            for name, most in bounds.items():
                (group / name).write_text(most)
            made.append(group)
        except OSError:  # not ours to make, or without this kind of bound
            with contextlib.suppress(OSError):
                group.rmdir()
    return made


def _joined(groups: list[Path], command: list[str]) -> list[str]:
    """The command, which enters the groups before it begins."""
    enter = f'for g in {shlex.join(map(str, groups))}; do echo $$ > "$g/cgroup.procs"; done 2>/dev/null; exec "$@"'
    return ["/bin/sh", "-c", enter, "sh", *command] if groups else command


def _starved(groups: list[Path]) -> bool:
    """Whether the kernel has killed something in one of them for its memory."""
    for path in (group / name for group in groups for name in ("memory.events", "memory.oom_control")):
        with contextlib.suppress(OSError):
            if re.search(r"^oom_kill [1-9]", path.read_text(), re.MULTILINE):
                return True
    return False


def _dissolve(groups: list[Path]) -> None:
    """Remove them when the last process in them has ended."""
    for group in groups * 50:
        with contextlib.suppress(OSError):
            group.rmdir()
        if group.exists():
            time.sleep(0.02)


def _limited(command: list[str], file: str, job: str, limits: dict[str, int]) -> list[str]:
    return [command[0], "-I", file, json.dumps({"job": job, "limits": limits}), *command]


def _unsafe(course: Path, place: Path, limits: Limits, command: list[str], _: dict) -> list[str]:
    return ["env", f"--chdir={place / 'job'}", *_limited(command, inside.__file__, "", limits.of_process())]


def _bubblewrap(course: Path, place: Path, limits: Limits, command: list[str], _: dict) -> list[str]:
    """Two layers: the outer shows the files, the inner one has its own processes, network and user namespace."""
    own = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    common = ["--new-session", "--die-with-parent"]
    root = os.geteuid() == 0
    capabilities = ("CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_KILL")
    rights = ["--cap-drop", "ALL", *(part for c in capabilities for part in ("--cap-add", c))]
    folders = [["--perms", "1777", "--size", str(limits.disk * MEBI), "--tmpfs", folder] for folder in WRITABLE]
    outer = ["bwrap", *own, *common, *(rights if root else ["--unshare-user"]), "--proc", "/proc", "--dev", "/dev"]
    outer += folders[0] + folders[1]  # before the interpreter, which may lie below /tmp
    for path in _interpreter():
        for parent in reversed(Path(path).parents[:-1]):  # else only root could look into it
            outer += ["--perms", "0755", "--dir", str(parent)]
        outer += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    outer += ["--ro-bind", str(course), COURSE, "--ro-bind", inside.__file__, "/inside.py", *folders[2], *folders[3]]
    outer += ["--ro-bind", str(place / "job"), "/job", "--bind", str(place / "results"), f"{WORK}/results"]
    outer += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
    if root:
        outer += [sys.executable, "-I", "/inside.py", json.dumps({"uid": FIRST_UID + next(NUMBERS) % 100_000})]
    inner = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", *common, "--bind", "/", "/"]
    inner += ["--dev-bind", "/dev", "/dev", "--proc", "/proc", "--chdir", WORK]
    bounds = limits.of_process() | {"NPROC": limits.processes}  # counted in the user namespace alone
    return [*outer, *inner, *_limited(command, "/inside.py", "/job", bounds)]


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


def _container(course: Path, place: Path, limits: Limits, command: list[str], environment: dict) -> list[str]:
    """A container with an interpreter of its own image."""
    memory = f"{limits.memory + len(WRITABLE) * limits.disk * MEBI}b"
    volumes = {course: f"{COURSE}:ro", place / "job": "/job:ro", inside.__file__: "/inside.py:ro"}
    return [
        _engine() or "docker", "run", "--rm", f"--name={place.name}", "--network=none", "--read-only", "--cap-drop=ALL",
        "--ipc=private", "--security-opt=no-new-privileges", "--user=65534:65534", f"--pids-limit={limits.processes}",
        "--ulimit=nofile=512:512", f"--memory={memory}", f"--memory-swap={memory}", f"--shm-size={limits.disk}m",
        *(f"--tmpfs={at}:size={limits.disk}m,mode=1777" for at in WRITABLE if at != "/dev/shm"),
        *(f"--volume={here}:{there}" for here, there in volumes.items()),
        f"--volume={place / 'results'}:{WORK}/results", *(f"--env={k}={v}" for k, v in environment.items()),
        f"--workdir={WORK}", IMAGE, *_limited(command, "/inside.py", "/job", limits.of_process()),
    ]  # fmt: skip


def _supervise(
    command: list[str], place: Path, limits: Limits, environment: dict | None, groups: list[Path]
) -> Outcome:
    """Run the whole command, kill it when it takes too much of anything, and read what it has left."""
    started = moved = time.monotonic()
    outcome, members, used = Outcome(), [], 0.0
    with open(place / "log.txt", "wb") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        process = psutil.Popen(command, env=environment, start_new_session=True, **streams)
    while process.returncode is None and outcome.ended == "done":
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(0.2)
        with contextlib.suppress(psutil.NoSuchProcess):
            members = [process, *process.children(recursive=True)]
        busy, now = sum(map(_seconds, members)), time.monotonic()
        if busy > used + 0.05 or environment is None:  # a container's processes are not to be seen
            used, moved = busy, now
        late = used > limits.seconds or now - started > 5 * limits.seconds or now - moved > limits.idle
        outcome.ended = "time" if late else _too_much(place, members, outcome, limits, groups)
    for member in members:  # the first process of a namespace takes all others with it
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    code = process.wait()
    psutil.wait_procs(members, timeout=5)
    outcome.files, outcome.seconds, outcome.cpu = _read(place, limits.results), time.monotonic() - started, used
    if outcome.ended == "done" and (code < 0 or code in (137, 139)):  # bubblewrap adds 128 to a signal
        outcome.ended = "killed"
    return outcome


def _seconds(member: psutil.Process) -> float:
    """Of the processor, with those of processes that it has waited for."""
    with contextlib.suppress(psutil.Error):
        return sum(member.cpu_times()[:4])
    return 0.0


def _too_much(place: Path, members: list[psutil.Process], outcome: Outcome, limits: Limits, groups: list[Path]) -> str:
    memory = _memory([member.pid for member in members])
    outcome.memory = max(outcome.memory, memory)
    if memory > limits.memory or _starved(groups) or psutil.virtual_memory().available < MEMORY_FLOOR:
        return "memory"
    if len(members) > limits.processes + 8:
        return "processes"
    sizes = []
    for entry in os.scandir(place / "results"):
        with contextlib.suppress(OSError):  # removed meanwhile
            sizes.append(entry.stat(follow_symlinks=False).st_size)
    return "output" if len(sizes) > MOST_FILES or sum(sizes) > 2 * limits.results else "done"


def _memory(pids: list[int]) -> int:
    """Bytes that processes hold, alone and shared, with files in memory whether mapped or not; no mapped libraries."""
    total, seen = 0, set()
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(1024 * int(line.split()[1]) for line in file if line.startswith(HELD))
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


def _read(place: Path, left: int) -> dict[str, bytes]:
    """Every plain file of ``results`` and the log; whatever is more than ``left`` bytes, or not a file, stays."""
    files = {}
    for path in [place / "log.txt", *sorted((place / "results").iterdir())[:MOST_FILES]]:
        with contextlib.suppress(OSError), open(os.open(path, os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if stat.S_ISREG(about.st_mode) and about.st_size <= left:
                data = file.read(about.st_size)
                left -= len(data)
                files.setdefault(path.name, data)
    return files
