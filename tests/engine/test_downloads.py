"""Downloads from a server that stalls, cuts off, redirects, lies about lengths and sends pages."""

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from helpers import weights
from helpers.weights import WeightsError

pytestmark = pytest.mark.slow

CONTENT = bytes(range(256)) * 4096  # 1 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PAGE = b"<!DOCTYPE html><html><title>Quota exceeded</title></html>"


class Unreliable(http.server.BaseHTTPRequestHandler):
    """What a path names is what happens; ``requests`` holds the paths."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content, length=None, status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True
        self.wfile.write(content)

    def do_GET(self):
        self.server.requests.append(self.path)
        times, name = self.server.requests.count(self.path), self.path.rsplit("/", 1)[-1]
        if name in ("cut", "stall") and times < 3:
            self.answer(CONTENT[: len(CONTENT) // 3], len(CONTENT))
            if name == "stall":
                self.wfile.flush()
                self.server.over.wait(3)
        elif name in ("cut", "stall", "whole", "slow"):
            self.server.over.wait(0.5 if name == "slow" else 0)
            self.answer(CONTENT)
        elif name == "redirect":
            self.answer(b"", status=302, Location="/whole")
        elif name == "too-long":
            self.answer(CONTENT[:-10], len(CONTENT))
        elif name == "too-short":
            self.answer(CONTENT, len(CONTENT) - 10)
        elif name == "page":
            self.answer(PAGE, Content_Type="text/html; charset=utf-8")
        elif name == "hidden-page":
            self.answer(PAGE, Content_Type="application/octet-stream")
        elif name == "busy":
            self.answer(CONTENT if times == 3 else b"", status=200 if times == 3 else 503)
        else:
            self.answer(b"", status=404)


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unreliable) as httpd:
        httpd.requests, httpd.over = [], threading.Event()
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        httpd.url = f"http://127.0.0.1:{httpd.server_port}/"
        yield httpd
        httpd.over.set()
        httpd.shutdown()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(weights.time, "sleep", lambda seconds: None)


def fetch(server, name, path, checksum=SHA256, **options):
    return weights.download(server.url + name, path, checksum, **{"seconds": 1.0} | options)


@pytest.mark.parametrize("name", ["whole", "cut", "stall", "redirect", "busy"])
def test_what_can_be_fetched_is_whole(server, tmp_path, name):
    path = fetch(server, name, tmp_path / "new" / "weights.pkl")
    assert path.read_bytes() == CONTENT
    assert not path.with_name("weights.pkl.part").exists()


def test_a_bar_shows_the_progress(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights.sys.stderr, "isatty", lambda: True, raising=False)
    fetch(server, "whole", tmp_path / "weights.pkl")
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too-long", "could not be fetched"),
        ("too-short", "gave SHA-256 .* expected"),
        ("page", "it is a web page, as when a download quota is used up"),
        ("hidden-page", "it is a web page, not weights"),
        ("absent", "HTTP 404"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(server, tmp_path, name, message):
    with pytest.raises(WeightsError, match=message) as error:
        fetch(server, name, tmp_path / "weights.pkl", tries=2)
    assert "\n" not in str(error.value) and not (tmp_path / "weights.pkl").exists()
    assert len(server.requests) == (2 if name == "too-long" else 1)  # asking again would give the same page
    assert [path.name for path in tmp_path.iterdir()] == [".weights.pkl.lock"]


def test_an_unknown_checksum_is_shown_to_be_pinned(server, tmp_path, capsys):
    fetch(server, "whole", tmp_path / "weights.pkl", checksum="")
    assert f'"sha256": "{SHA256}"; pin it' in capsys.readouterr().err


def test_a_registered_file_is_fetched_and_pinned(server, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    entry = {"file": "downloads/a.pkl", "kind": "generator", "summary": "", "url": server.url + "whole"}
    (tmp_path / "registry.json").write_text(json.dumps({"a": entry}))
    assert weights.pin("a") == SHA256
    assert weights.registry()["a"]["sha256"] == SHA256 and weights.registry()["a"]["size"] == len(CONTENT)
    (tmp_path / "downloads" / "a.pkl").write_bytes(b"other")
    with pytest.raises(WeightsError, match="delete it to download it again"):
        weights.weights_path("a")


def test_proxies_of_the_environment_are_used(server, tmp_path, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    path = weights.download("http://weights.invalid/whole", tmp_path / "weights.pkl", SHA256, seconds=1)
    assert path.read_bytes() == CONTENT and server.requests == ["http://weights.invalid/whole"]


def test_two_processes_at_once_fetch_it_once(server, tmp_path):
    code = "import sys; from helpers.weights import download; download(sys.argv[1], sys.argv[2], sys.argv[3])"
    command = [sys.executable, "-c", code, server.url + "slow", str(tmp_path / "weights.pkl"), SHA256]
    both = [subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (tmp_path / "weights.pkl").read_bytes() == CONTENT and len(server.requests) == 1


def test_a_full_disk_leaves_no_file_under_the_name(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights.os, "replace", full)
    with pytest.raises(WeightsError, match="No space left"):
        fetch(server, "whole", tmp_path / "weights.pkl")
    assert not (tmp_path / "weights.pkl").exists()


def test_the_server_is_as_bad_as_it_should_be(server):
    with pytest.raises(requests.RequestException):
        requests.get(server.url + "too-long", timeout=1)
