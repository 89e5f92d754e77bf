"""What `make` does before anything else: .venv is set up once, repaired, or one sentence says why not.

The installer is a pretended uv, but for one test of a real one that cannot reach the index.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "Set-up failed: "
NOWHERE = "http://127.0.0.1:9/simple"  # the discard port: refused at once

# Writes its calls down; FAKE is what its "pip install" does.
UV = """#!/bin/sh
echo "$1" >> "$(dirname "$0")/calls"
eval "$FAKE"
"""
# Pretends to be a base Python: "-m venv" makes an interpreter that does what FAKE_PYTHON says.
BASE = """#!/bin/sh
case "$*" in *venv\\ --clear*)
    echo venv >> "$(dirname "$0")/calls"
    rm -rf .venv/*; mkdir -p .venv/bin && printf '#!/bin/sh\\n%s\\n' "$FAKE_PYTHON" > .venv/bin/python
    chmod +x .venv/bin/python ;;
esac
"""
OLD_PYTHON = """#!/bin/sh
case "$2" in *print*) echo 3.9.2 ;; *) exit 1 ;; esac
"""


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def house(tmp_path):
    """A copy of what set-up needs, in a folder with a space."""
    folder = tmp_path / "a house"
    for name in ("Makefile", "pyproject.toml", "LICENSE", "tools/setup.sh", "helpers/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    script(tmp_path / "bin" / "uv", UV)
    script(tmp_path / "bin" / "python3", BASE)
    return folder


def make(house, **environment):
    """Run `make setup` there and return its exit code, the lines it prints, and its lines of errors without make's."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "PIP_", "MAKE", "MFLAGS", "PYTHON"))}
    clean |= {"PATH": f"{house.parent / 'bin'}{os.pathsep}{os.environ['PATH']}", "NEED_GB": "0", **environment}
    done = subprocess.run(["make", "setup"], cwd=house, capture_output=True, text=True, env=clean)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    return done.returncode, done.stdout.splitlines(), errors


def calls(house):
    """The subcommands that the pretended uv was called with since the last time of asking."""
    file = house.parent / "bin" / "calls"
    lines = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def test_it_is_set_up_once_and_again_where_something_changed(house):
    code, lines, errors = make(house)
    assert (code, len(lines), errors, calls(house)) == (0, 1, [], ["venv", "pip"])
    assert make(house) == (0, [], []) and calls(house) == []
    with (house / "pyproject.toml").open("a") as file:
        file.write("# another package\n")
    assert make(house) == (0, ["Bringing .venv up to date."], []) and calls(house) == ["pip"]
    moved = house.rename(house.parent / "another house")
    assert make(moved)[0] == 0 and calls(house) == ["venv", "pip"]
    elsewhere = house.parent / "elsewhere"
    elsewhere.mkdir()
    (moved / ".venv").rename(house.parent / "old")
    (moved / ".venv").symlink_to(elsewhere)  # a link is used and kept
    assert make(moved)[0] == 0 and make(moved) == (0, [], [])
    assert (moved / ".venv").is_symlink() and (elsewhere / "setup-done").exists()


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_an_interrupted_set_up_is_repaired(house, signal):
    code, _, _ = make(house, FAKE=f"kill -{signal} $PPID")
    assert code != 0 and calls(house) == ["venv", "pip"]
    (house / ".venv" / "half").touch()
    assert make(house)[0] == 0
    assert calls(house) == ["venv", "pip"] and not (house / ".venv" / "half").exists()


def test_an_interrupted_update_is_repaired_and_one_without_network_leaves_what_worked(house):
    make(house)
    project = house / "pyproject.toml"
    original = project.read_text()
    project.write_text(original + "#\n")
    code, _, errors = make(house, FAKE="echo 'error: Failed to fetch: `https://…`'; exit 2")
    assert code != 0 and "the package index (PyPI) cannot be reached" in errors[0]
    project.write_text(original)
    calls(house)
    assert make(house) == (0, [], []) and calls(house) == []
    project.write_text(original + "#\n")
    assert make(house, FAKE="kill -KILL $PPID")[0] != 0
    project.write_text(original)  # as it was: but the packages may not be
    calls(house)
    assert make(house)[0] == 0 and calls(house) == ["venv", "pip"]


BROKEN = 'case "$2" in *torchvision*) echo "operator torchvision::nms does not exist"; exit 1 ;; esac'
FAILURES = {  # what is said of it: what goes wrong
    "the disk filled up while installing": {"FAKE": "echo 'error: No space left on device (os error 28)'; exit 2"},
    "the package index (PyPI) cannot be reached": {"FAKE": "echo 'error: Connection refused'; exit 2"},
    "while installing the packages, namely: error: meteor strike": {"FAKE": "echo 'error: meteor strike'; exit 2"},
    "together (operator torchvision::nms does not exist); unset PIP_FIND_LINKS": {"FAKE_PYTHON": BROKEN},
    "the disk is too full, .venv needs 99999999 GB and": {"NEED_GB": "99999999"},
}


@pytest.mark.parametrize("sentence", FAILURES)
def test_a_failed_installation_is_explained_in_one_sentence(house, sentence):
    code, lines, errors = make(house, **FAILURES[sentence])
    assert code != 0 and len(errors) == 1 and errors[0].startswith(SENTENCE) and sentence in errors[0]
    assert "NEED_GB" not in FAILURES[sentence] or (lines == [] and calls(house) == [])  # refused up front
    assert make(house)[0] == 0


NEEDED = f"{SENTENCE}Python 3.11 or newer is needed, but PYTHON is "
PYTHONS = {  # what is said of it: the interpreter
    f"{NEEDED}3.9.2; name a newer one": OLD_PYTHON,
    f"{NEEDED}not there; name a newer one": "",
    "apt install python3-venv": '#!/bin/sh\ncase "$2" in *venv*) exit 1 ;; esac\n',
}


@pytest.mark.parametrize("sentence", PYTHONS)
def test_a_python_that_does_not_do_is_refused(house, sentence):
    python = house.parent / "python"
    if PYTHONS[sentence]:
        script(python, PYTHONS[sentence])
    code, lines, errors = make(house, PYTHON=str(python))
    assert code != 0 and lines == [] and len(errors) == 1 and sentence.replace("PYTHON", str(python)) in errors[0]


def test_the_index_of_pip_holds_for_uv(house):
    index = "http://me:secret@mirror/simple"
    _, _, errors = make(house, PIP_INDEX_URL=index, FAKE='test "$UV_DEFAULT_INDEX" = "$PIP_INDEX_URL"')
    assert errors == []
    (house / ".venv" / "setup-done").unlink()
    code, _, errors = make(house, PIP_INDEX_URL=index, FAKE="echo 'dns error'; exit 3")
    assert code != 0 and "(mirror/simple)" in errors[0] and "secret" not in errors[0]


def test_an_unreachable_index_is_explained_by_what_a_real_installer_prints(house):
    (house.parent / "bin" / "uv").unlink()  # pip then, or the uv of this machine
    quick = {"PIP_RETRIES": "1", "UV_HTTP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    code, _, errors = make(house, PYTHON=sys.executable, PIP_INDEX_URL=NOWHERE, **quick)
    assert code != 0 and len(errors) == 1
    assert errors[0].startswith(f"{SENTENCE}the package index ({NOWHERE}) cannot be reached; check the network")
