"""The container sandbox: its command line, run for real where there is podman or docker.

The image of these tests holds nothing but this interpreter and its libraries, made from this machine's own files, so
that no registry is asked; that of ``Containerfile`` holds the packages of the course beside it.
"""

import io
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from helpers.course import sandbox
from helpers.course.sandbox import MEBI, Limits

NAME = "gan-course-test"
ENGINE = next((name for name in ("podman", "docker") if shutil.which(name)), None)
LEFT_OUT = re.compile(r"/(site-packages|test|tests|idlelib|ensurepip|config-[^/]*|__pycache__)(/|$)")


def image_of_this_interpreter():
    """A tar of a file system with Python and the libraries that it is linked with."""
    binary, library = Path(sys.executable).resolve(), Path(sysconfig.get_paths()["stdlib"])
    linked = ["ldd", str(binary), *map(str, library.glob("lib-dynload/*.so"))]
    found = re.findall(r"(/\S+\.so\S*)", subprocess.run(linked, capture_output=True, text=True).stdout)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(binary, "usr/local/bin/python")
        tar.add(library, f"usr/local/lib/{library.name}", filter=lambda i: None if LEFT_OUT.search(i.name) else i)
        for path in {Path(name) for name in found if "lib-dynload" not in name}:
            folder = "lib64" if path.name.startswith("ld-") else "lib/x86_64-linux-gnu"
            tar.add(path.resolve(), f"{folder}/{path.name}")
        for name in ("tmp", "course", "job", "proc", "dev"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
    return out.getvalue()


@pytest.fixture(scope="module")
def engine():
    """An engine that runs containers, with the image; skipped with what it says where there is none."""
    if ENGINE is None:
        pytest.skip("neither podman nor docker is installed")
    command = [ENGINE, "import", "-", NAME]
    try:
        done = subprocess.run(command, input=image_of_this_interpreter(), capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{ENGINE} does not answer")
    if done.returncode == 0:
        limits = ["--ulimit=nofile=512:512", "--ulimit=nproc=4096:4096"]
        done = subprocess.run([ENGINE, "run", "--rm", *limits, NAME, "python", "-c", ""], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"{ENGINE} runs no containers here: {done.stderr.decode(errors='replace').strip()[-300:]}")
    yield ENGINE
    subprocess.run([ENGINE, "rmi", "--force", NAME], capture_output=True)


@pytest.fixture
def attempt(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "IMAGE", NAME)
    tmp_path.chmod(0o755)
    for name in ("work", "output"):
        (tmp_path / name).mkdir()
    (tmp_path / "here.txt").write_text("course")

    def run(code, **limits):
        command = [sys.executable, "-c", code]
        return sandbox.run(command, tmp_path, {"a/job.txt": b"job"}, "container", Limits(**{"seconds": 20} | limits))

    return run


def test_the_command_line_names_every_bound(tmp_path):
    for name in ("work", "output"):
        (tmp_path / name).mkdir()
    command, inner, python = sandbox._container(tmp_path, Limits(processes=7), "one")
    assert {"--network=none", "--read-only", "--cap-drop=ALL", "--pids-limit=7", "--name=one"} <= set(command)
    assert f"--volume={tmp_path}:/course:ro" in command and inner[0] == python == "/usr/local/bin/python"


def test_a_container_shows_course_and_job_and_has_no_network(attempt):
    code = """if True:
        import os, socket, tempfile
        seen = [open("/course/here.txt").read(), open("a/job.txt").read(), os.getuid()]
        for path in ("/x", "/course/x", "/job/x", "/usr/x"):
            try:
                seen.append(open(path, "w").name)
            except OSError:
                pass
        try:
            seen.append(socket.create_connection(("192.0.2.1", 9), 5))
        except OSError as error:
            seen.append(error.errno)
        open(tempfile.gettempdir() + "/x", "w").write("x")
        open("/course/output/x", "w").write("x")
        open("results/seen", "w").write(repr(seen))"""
    outcome = attempt(code)
    assert outcome.ended == "done", outcome.files
    assert outcome.files["seen"] == b"['course', 'job', 65534, 101]"  # network unreachable


def test_a_container_that_takes_too_much_is_ended_and_gone(attempt, engine):
    assert attempt("while True: pass", seconds=1).ended == "time"
    forks = """if True:
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
    assert 5 <= int(attempt(forks, processes=12).files["n"]) <= 12
    memory = "x = []\nwhile True: x.append(bytearray(2**20))"
    outcome = attempt(memory, memory=150 * MEBI, disk=8)
    assert outcome.ended == "killed" or b"MemoryError" in outcome.files["log.txt"], outcome
    listed = subprocess.run([engine, "ps", "--all", "--format={{.Names}}"], capture_output=True, text=True).stdout
    assert f"{NAME}-" not in listed
