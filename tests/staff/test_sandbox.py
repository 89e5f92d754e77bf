"""The sandboxes: what a job sees, how much it may take, and that nothing of it stays."""

import ctypes
import json
import os
import platform
import subprocess
import sys

import psutil
import pytest

from helpers.course import sandbox
from helpers.course.sandbox import MEBI, Limits
from tests.support.waiting import until

HERE = {
    kind: pytest.mark.skipif(kind not in sandbox.available(), reason=f"no {kind} here")
    for kind in ("bubblewrap", "container")
}
REAL = [pytest.param(kind, marks=mark) for kind, mark in HERE.items()]
KEYCTL = {"x86_64": 250, "aarch64": 219}.get(platform.machine(), 0)
SLEEP, TIGHT = "import time\ntime.sleep(20)", {"memory": 130 * MEBI}
LOOK = """if True:
    import ctypes, json, os, socket, subprocess, tempfile
    seen = {{"course": open("/course/here.txt").read(), "job": open("a/job.txt").read(), "wrote": []}}
    seen["secret"] = os.path.exists({secret!r})
    seen["processes"] = len([p for p in os.listdir("/proc") if p.isdigit()]) <= 2
    for path in ("/course/here.txt", "/usr/x", "/x", os.__file__):
        try:
            seen["wrote"] += [open(path, "a").name]
        except OSError:
            pass
    try:
        seen["network"] = bool(socket.create_connection(("192.0.2.1", 9), 5))
    except OSError as error:
        seen["network"] = error.errno
    for place in (tempfile.gettempdir(), "/course/output"):
        open(place + "/x", "w").write("x")
    seen["users"] = subprocess.run("unshare --user true || exit 1", shell=True, stderr=-3).returncode == 0
    seen["sockets"] = [place for place in ("/run", "/var", "/sys") if os.path.exists(place)]
    seen["keyring"] = ctypes.CDLL(None).syscall({keyctl}, 0, -3, 0)
    open("results/exit", "w").write("0")
    os.symlink("/proc/1/environ", "results/link")
    json.dump(seen, open("results/seen.json", "w"))
    os.kill(os.getpid(), 9)"""
FORKS = """if True:
    import os, time
    n = 0
    while n < 90:
        try:
            if os.fork() == 0:
                time.sleep(9)
        except OSError:
            break
        n += 1
    open("results/n", "w").write(str(n))"""


@pytest.fixture
def attempt(tmp_path):
    """Runs code in a sandbox; afterwards nothing of it may be left."""
    course = tmp_path / "course"
    for name in ("work", "output"):
        (course / name).mkdir(parents=True)
    (course / "here.txt").write_text("course")
    (tmp_path / "secret.txt").write_text("secret")

    def run(code, kind="bubblewrap", **limits):
        command, job = [sys.executable, "-c", code], {"a/job.txt": b"job"}
        return sandbox.run(command, course, job, kind, Limits(**{"seconds": 20} | limits))

    yield run
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"course", "course/work", "course/output", "course/here.txt", "secret.txt"}


@pytest.mark.parametrize("kind", REAL)
def test_a_sandbox_shows_the_course_and_nothing_of_the_machine(attempt, kind, tmp_path):
    outcome = attempt(LOOK.format(secret=str(tmp_path / "secret.txt"), keyctl=KEYCTL), kind)
    seen, ours = json.loads(outcome.files["seen.json"]), ctypes.CDLL(None).syscall(KEYCTL, 0, -3, 0)
    assert seen.pop("keyring") != ours or ours == -1  # where the kernel has none
    expected = {"course": "course", "job": "job", "secret": False, "processes": True, "network": 101, "users": False}
    assert seen == expected | {"wrote": [], "sockets": []}, outcome.files["log.txt"]
    assert outcome.ended == "killed" and "link" not in outcome.files  # whatever lies in results/exit


@pytest.mark.parametrize("kind", REAL[:1])
@pytest.mark.parametrize(
    ("code", "limits", "ended"),
    [
        ("while True: pass", {"seconds": 1}, "time"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", {"idle": 1}, "time"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", {}, "killed"),
        ("for i in range(999): open(f'results/{i}', 'w')\n" + SLEEP, {}, "output"),
        ("import os\nfor _ in range(9):\n  os.write(os.memfd_create('x'), bytes(40 << 20))\n" + SLEEP, TIGHT, "memory"),
        ("for n in ('/tmp', '/dev/shm', '/course/output'):\n  open(n + '/x', 'wb').write(bytes(60 << 20))\n" + SLEEP,
         TIGHT, "memory"),
        ("import mmap, os\nfor _ in range(4):\n  if os.fork() == 0:\n    m = mmap.mmap(-1, 60 << 20)\n"
         "    for i in range(0, len(m), 4096): m[i] = 1\n    break\n" + SLEEP, TIGHT, "memory"),
    ],
)  # fmt: skip
def test_the_sandbox_ends_what_takes_too_much(attempt, kind, code, limits, ended):
    assert attempt(code, kind, **limits).ended == ended


@pytest.mark.parametrize("kind", REAL)
def test_processes_files_and_results_are_bounded(attempt, kind):
    assert 5 <= int(attempt(FORKS, kind, processes=12).files["n"]) <= 12
    large = "open('results/large', 'wb').write(bytes(9 << 20))\n"
    assert "large" not in attempt(large, kind, results=4 * MEBI).files
    assert b"File too large" in attempt(large, kind, file=4 * MEBI).files["log.txt"]
    shared = "open('/dev/shm/x', 'wb').write(bytes(9 << 20))"
    assert b"No space left" in attempt(shared, kind, disk=4).files["log.txt"]


@pytest.mark.parametrize("kind", REAL[1:])
def test_a_container_that_takes_too_much_is_ended(attempt, kind):
    assert attempt("while True: pass", kind, seconds=1).ended in ("time", "killed")
    outcome = attempt("x = []\nwhile True: x.append(bytearray(2**20))", kind, memory=150 * MEBI, disk=8)
    assert outcome.ended == "killed" or b"MemoryError" in outcome.files["log.txt"], outcome


@HERE["bubblewrap"]
def test_seconds_of_the_processor_decide(attempt):
    assert attempt("import time\nfor _ in range(35): time.sleep(0.1)", seconds=3).ended == "done"


@HERE["bubblewrap"]
@pytest.mark.parametrize("code", ["bytearray(300 << 20)", "os.write(os.memfd_create('x'), bytes(100 << 20))"])
def test_memory_is_bounded_where_no_control_group_may_be_made(attempt, code, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(sandbox, "CGROUPS", tmp_path_factory.mktemp("nothing"))
    assert sandbox._groups(Limits()) == []
    outcome = attempt(f"import os\nfor _ in range(3): {code}\n{SLEEP}", **TIGHT)
    assert outcome.ended == "memory" or b"MemoryError" in outcome.files["log.txt"]


@HERE["bubblewrap"]
def test_a_control_group_of_version_2_bounds_a_run(attempt, tmp_path_factory, monkeypatch):
    """In folders that stand for those of the kernel; where it has any, the other tests run in real ones."""
    root = tmp_path_factory.mktemp("cgroup")
    for place in (gone := root / "user.slice" / "course-999999999-1", root / "memory"):
        place.mkdir(parents=True)
    (root / "user.slice" / "cgroup.procs").touch()
    (root / "own").write_text("0::/user.slice/session-1.scope\n")
    monkeypatch.setattr(sandbox, "CGROUPS", root)
    monkeypatch.setattr(sandbox, "OWN_CGROUPS", root / "own")
    assert attempt("pass", memory=2**30, processes=40).ended == "done" and not gone.exists()
    (group,) = (root / "user.slice").glob("course-*")
    read = {path.name: path.read_text().strip() for path in group.iterdir()}
    assert int(read.pop("cgroup.procs")) > 1 and read == {"memory.max": str(2**30), "pids.max": "48"}
    (group / "memory.events").write_text("oom 3\noom_kill 1\n")
    assert sandbox._starved([group]) and not sandbox._starved([group.parent])


@HERE["bubblewrap"]
def test_nothing_outlives_a_grader_that_is_killed(tmp_path):
    """Its folder goes at the next call."""
    code = "import time; time.sleep(1234.5)"
    call = "import sys; from pathlib import Path; from helpers.course import sandbox\n"
    call += f"sandbox.run([sys.executable, '-c', {code!r}], Path({str(tmp_path / 'course')!r}), {{}}, 'bubblewrap', "
    grader = subprocess.Popen([sys.executable, "-c", f"{call}sandbox.Limits(idle=300))"])

    def running():
        return [process for process in psutil.process_iter(["cmdline"]) if code in (process.info["cmdline"] or ())]

    until(lambda: any(process.info["cmdline"][0] == sys.executable for process in running()))  # within its sandbox
    grader.kill()
    grader.wait()
    until(lambda: not running())


@pytest.mark.skipif("bubblewrap" not in sandbox.available(), reason="no bubblewrap here")
def test_the_next_call_ends_a_sandbox_that_was_left_half_made(tmp_path):
    started = []
    for job in (tmp_path / "running" / "job", tmp_path / "other" / "job"):
        job.mkdir(parents=True)
        command = ["bwrap", "--ro-bind", "/", "/", "--ro-bind", str(job), "/mnt", "--block-fd", "0", "true"]
        started.append(psutil.Popen(command, stdin=subprocess.PIPE))  # waits until the pipe is closed
    ours, another = started
    sandbox.end_leftovers(tmp_path / "running")
    assert not ours.is_running() and another.is_running()
    another.kill()
    another.wait()


PODMAN = """#!/bin/sh
echo "$@" >> {log}
for part in "$@"; do
  case $part in --volume=*:{work}/results) place=${{part#--volume=}}; echo here > "${{place%%:*}}/proof";; esac
done
test "$1" != run || exec {then}
"""


@pytest.mark.parametrize(("then", "ended"), [("true", "done"), ("sleep 60", "time"), ("sh -c 'exit 137'", "killed")])
def test_an_engine_is_asked_to_run_and_to_remove_a_container(attempt, then, ended, tmp_path_factory, monkeypatch):
    """A stand-in for podman, as the engine itself may not be here."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "podman").write_text(PODMAN.format(log=folder / "log", then=then, work=sandbox.WORK))
    (folder / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert "container" in sandbox.available()
    outcome = attempt("pass", "container", seconds=1)
    assert (outcome.ended, outcome.files["proof"]) == (ended, b"here\n")
    *_, asked, last = (folder / "log").read_text().splitlines()
    run = asked if ended != "done" else last
    assert run.startswith("run --rm") and f"{sandbox.IMAGE} {sandbox.IMAGE_PYTHON} -I" in run
    assert ended == "done" or last == f"rm --force {run.partition('--name=')[2].split()[0]}"


def test_a_container_has_every_bound_and_without_a_sandbox_grading_needs_a_word(tmp_path, monkeypatch):
    for name in ("work", "output"):
        (tmp_path / name).mkdir()
    command = sandbox._container(tmp_path, tmp_path / "one", Limits(processes=7), ["python"], {"A": "b"})
    bounds = {"--network=none", "--read-only", "--cap-drop=ALL", "--pids-limit=7", "--name=one", "--env=A=b"}
    assert bounds | {f"--volume={tmp_path}:/course:ro"} <= {*command}
    monkeypatch.setattr(sandbox, "available", lambda: ["unsafe"])
    with pytest.raises(ValueError, match="apt install bubblewrap"):
        sandbox.choose()
    assert sandbox.choose(unsafe=True) == "unsafe"


def test_unsafe_still_bounds_time_and_leaves_nothing(attempt):
    deep = "import os\nopen('results/a', 'w').write('b')\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\n"
    outcome = attempt(deep + "os.chmod('.', 0)\nwhile True: pass", "unsafe", seconds=1)
    assert (outcome.ended, outcome.files["a"]) == ("time", b"b")
