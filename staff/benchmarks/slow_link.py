"""A slow link on one machine: a TCP proxy that delays what passes and lets through so many bits a second."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time

CHUNK = 4096  # bytes: about 4 ms at 8 Mbit/s


class SlowLink:
    """Forward connections to ``port`` of the loopback; connect to ``.port`` instead.

    delay: seconds for a round trip. rate: bits per second in each direction, shared by all connections.
    """

    def __init__(self, port: int, delay: float = 0.12, rate: float = 8e6):
        self.target, self.delay, self.rate = port, delay, rate
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.free = {"up": 0.0, "down": 0.0}  # when the line has sent what it has
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self.server.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                for way, source, sink in (("up", near, far), ("down", far, near)):
                    line = queue.Queue()
                    threading.Thread(target=self._read, args=(way, source, line), daemon=True).start()
                    threading.Thread(target=self._write, args=(line, sink), daemon=True).start()

    def _read(self, way: str, source: socket.socket, line: queue.Queue) -> None:
        data = b"more"
        while data:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            with self.lock:
                now = time.monotonic()
                self.free[way] = max(now, self.free[way]) + 8 * len(data) / self.rate
                line.put((self.free[way] + self.delay / 2, data))
            time.sleep(max(0.0, self.free[way] - now - 0.25))  # no more than a quarter of a second waits in line

    def _write(self, line: queue.Queue, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = line.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
