"""The registry, its checksums, weights files, and downloads from a server that stalls, cuts off, redirects and lies."""

import hashlib
import http.server
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pooch
import pytest
import torch
from safetensors.torch import save_file

from helpers import weights
from helpers.weights import WeightsError

TENSORS = {"a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), "count": torch.tensor([7])}


@pytest.fixture
def registered(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    path = weights.save_weights(tmp_path / "toy.safetensors", TENSORS, {"width": 3})
    (tmp_path / "registry.json").write_text('{"toy": {"file": "toy.safetensors", "kind": "generator"}}')
    assert weights.pin("toy") == hashlib.sha256(path.read_bytes()).hexdigest()
    return path


def test_round_trip_through_the_registry_and_an_unchanged_file_is_hashed_once(registered, monkeypatch):
    tensors, config = weights.load_weights("toy")
    assert config == {"width": 3} == weights.load_weights(registered)[1]
    assert tensors["a"].dtype == torch.float32
    assert torch.equal(tensors["a"], TENSORS["a"].half().float())
    assert torch.equal(tensors["count"], TENSORS["count"])
    facts = {"sha256": hashlib.sha256(registered.read_bytes()).hexdigest(), "size": registered.stat().st_size}
    assert weights.registry() == {"toy": {"file": "toy.safetensors", "kind": "generator"} | facts}
    weights.weights_path("toy")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert weights.weights_path("toy") == registered


def test_what_is_wrong_with_registered_weights_is_one_sentence(registered):
    with pytest.raises(WeightsError, match="'nonsense'.*toy"):
        weights.load_weights("nonsense")
    data = bytearray(registered.read_bytes())
    data[-1] ^= 1
    registered.write_bytes(data)
    with pytest.raises(WeightsError, match="SHA-256.*restore it"):
        weights.weights_path("toy")
    registered.unlink()
    with pytest.raises(WeightsError, match="missing: run `git checkout"):
        weights.weights_path("toy")
    registered.with_name("registry.json").write_text("{")
    with pytest.raises(WeightsError, match="not valid JSON"):
        weights.registry()


def truncated(path):
    weights.save_weights(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:-4])


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "not a whole safetensors"),
    "text": (lambda path: path.write_bytes(b"not safetensors at all"), "not a whole safetensors"),
    "ones": (lambda path: path.write_bytes(b"\xff" * 64), "not a whole safetensors"),
    "long header": (lambda path: path.write_bytes((2**40).to_bytes(8, "little") + b"{["), "its header is too long"),
    "truncated": (truncated, "not a whole safetensors"),
    "pickle": (lambda path: torch.save(TENSORS, path), "not a whole safetensors"),
    "no config": (lambda path: save_file({"a": TENSORS["a"]}, path), "config"),
    "folder": (lambda path: path.mkdir(), "found none"),
    "absent": (lambda path: None, "found none"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_not_ours_is_one_sentence(tmp_path, kind):
    write, message = BAD[kind]
    write(tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=message) as error:
        weights.load_weights(tmp_path / "bad.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_float16_cannot_hold_leave_the_old_file(tmp_path, value):
    path = weights.save_weights(tmp_path / "a.safetensors", TENSORS, {})
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="'bad'.*float16"):
        weights.save_weights(path, {"bad": torch.tensor([value])}, {})
    assert path.read_bytes() == before


def test_every_known_model_has_what_a_reader_must_know():
    for name, entry in weights.registry().items():
        assert {"file", "kind", "title", "summary", "licence", "restricted"} <= set(entry), name
        assert "url" in entry or len(entry["sha256"]) == 64, name
        assert "cite" in entry or not entry["restricted"], name
        assert entry["kind"] not in ("generator", "encoder") or {"resolution", "domain"} <= set(entry), name


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
        self.send_header("Connection", "close")  # or a client could send its next request into a closing connection
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.server.requests.append(self.path)
        times, name = self.server.requests.count(self.path), self.path.rsplit("/", 1)[-1]
        if name in ("cut", "stall") and times < 3:
            self.answer(CONTENT[: len(CONTENT) // 3], len(CONTENT))
            self.wfile.flush()
            self.server.over.wait(3 if name == "stall" else 0)
        elif name in ("cut", "stall", "whole", "slow"):
            self.server.over.wait(0.5 if name == "slow" else 0)
            self.answer(CONTENT)
        elif name == "busy":
            self.answer(CONTENT if times == 3 else b"", status=200 if times == 3 else 503)
        else:
            content, length, status, headers = ANSWERS.get(name, (b"", None, 404, {}))
            self.answer(content, length, status, **headers)


ANSWERS = {
    "redirect": (b"", None, 302, {"Location": "/whole"}),
    "too-long": (CONTENT[:-10], len(CONTENT), 200, {}),
    "too-short": (CONTENT, len(CONTENT) - 10, 200, {}),
    "page": (PAGE, None, 200, {"Content_Type": "text/html; charset=utf-8"}),
    "hidden-page": (PAGE, None, 200, {"Content_Type": "application/octet-stream"}),
}


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
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)


def fetch(server, name, path, checksum=SHA256, **options):
    return weights.download(server.url + name, path, checksum, **{"seconds": 1.0} | options)


@pytest.mark.parametrize("name", ["whole", "cut", "stall", "redirect", "busy"])
def test_what_can_be_fetched_is_whole(server, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(weights.sys.stderr, "isatty", lambda: True, raising=False)
    path = fetch(server, name, tmp_path / "new" / "weights.pkl")
    assert path.read_bytes() == CONTENT
    assert sorted(p.name for p in path.parent.iterdir()) == [".weights.pkl.lock", "weights.pkl"]
    assert "100%" in capsys.readouterr().err  # a bar shows the progress


REASONS = {"too-long": "could not be fetched", "too-short": "its SHA-256 is .* expected", "absent": "HTTP 404"}
REASONS |= dict.fromkeys(("page", "hidden-page"), "it is a web page, not weights, as when a download quota is used up")


@pytest.mark.parametrize(("name", "message"), REASONS.items())
def test_what_cannot_be_fetched_is_one_sentence(server, tmp_path, name, message):
    with pytest.raises(WeightsError, match=message) as error:
        fetch(server, name, tmp_path / "weights.pkl", tries=2)
    assert "\n" not in str(error.value) and not (tmp_path / "weights.pkl").exists()
    assert len(server.requests) == (2 if name == "too-long" else 1)  # asking again would give the same page
    assert [path.name for path in tmp_path.iterdir()] == [".weights.pkl.lock"]


def test_a_file_that_is_there_is_kept_and_an_address_where_nobody_answers_is_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"kept")
    assert weights.download("http://nowhere.invalid/", tmp_path / "a.bin", "00").read_bytes() == b"kept"
    with pytest.raises(WeightsError, match="could not be fetched.*by hand"):
        weights.download("http://127.0.0.1:9/closed", tmp_path / "got" / "x.bin", "00", tries=1)
    assert [path.suffix for path in (tmp_path / "got").iterdir()] == [".lock"]


def test_a_registered_file_is_fetched_once_and_pinned_and_proxies_are_used(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    entry = {"file": "downloads/a.pkl", "kind": "generator", "summary": "", "url": server.url + "whole"}
    (tmp_path / "registry.json").write_text(json.dumps({"a": entry}))
    path = weights.weights_path("a")
    assert f'"sha256": "{SHA256}"; pin it' in capsys.readouterr().err
    assert weights.pin("a") == SHA256
    assert weights.registry() == {"a": entry | {"sha256": SHA256, "size": len(CONTENT)}}
    path.write_bytes(b"other")
    with pytest.raises(WeightsError, match="delete it to download it again"):
        weights.weights_path("a")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    path = weights.download("http://weights.invalid/whole", tmp_path / "weights.pkl", SHA256, seconds=1)
    assert path.read_bytes() == CONTENT and server.requests[1:] == ["http://weights.invalid/whole"]
    path = tmp_path / "slow.pkl"  # the lock is one of files: it holds for threads that open it as it does for processes
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetch, server, "slow", path, seconds=60) for _ in range(2)]
    assert [done.result() for done in both] == [path, path]
    assert path.read_bytes() == CONTENT and len(server.requests) == 3


def test_a_full_disk_leaves_no_file_under_the_name(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pooch.core.shutil, "move", full)
    with pytest.raises(WeightsError, match="No space left"):
        fetch(server, "whole", tmp_path / "weights.pkl")
    assert not (tmp_path / "weights.pkl").exists()
