"""The sandboxes: what a job sees, how much it may take, and that nothing of it stays."""

import json
import sys

import pytest

from helpers.course import sandbox
from helpers.course.sandbox import MEBI, Limits

REAL = [
    pytest.param(kind, marks=pytest.mark.skipif(kind not in sandbox.available(), reason=f"no {kind} here"))
    for kind in ("bubblewrap", "container")
]
SLEEP, TIGHT = "import time\ntime.sleep(20)", {"memory": 130 * MEBI}
LOOK = """if True:
    import json, os, socket, subprocess, tempfile
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
    outcome = attempt(LOOK.format(secret=str(tmp_path / "secret.txt")), kind)
    expected = {"course": "course", "job": "job", "secret": False, "processes": True, "network": 101, "users": False}
    assert json.loads(outcome.files["seen.json"]) == expected | {"wrote": []}, outcome.files["log.txt"]
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


def test_the_command_line_of_a_container_names_every_bound(tmp_path):
    for name in ("work", "output"):
        (tmp_path / name).mkdir()
    command = sandbox._container(tmp_path, tmp_path / "one", Limits(processes=7), ["python"], {"A": "b"})
    bounds = {"--network=none", "--read-only", "--cap-drop=ALL", "--pids-limit=7", "--name=one", "--env=A=b"}
    assert bounds | {f"--volume={tmp_path}:/course:ro"} <= {*command}


def test_without_a_sandbox_grading_needs_to_be_told(monkeypatch):
    monkeypatch.setattr(sandbox, "available", lambda: ["unsafe"])
    with pytest.raises(sandbox.SandboxError, match="apt install bubblewrap"):
        sandbox.choose()
    assert sandbox.choose(unsafe=True) == "unsafe"


def test_unsafe_still_bounds_time_and_leaves_nothing(attempt):
    deep = "import os\nopen('results/a', 'w').write('b')\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\n"
    outcome = attempt(deep + "os.chmod('.', 0)\nwhile True: pass", "unsafe", seconds=1)
    assert (outcome.ended, outcome.files["a"]) == ("time", b"b")
