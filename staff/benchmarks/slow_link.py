"""A slow link on one machine: a TCP proxy that delays what passes and limits the bits per second."""

from __future__ import annotations

import asyncio
import threading

CHUNK = 4096  # bytes: about 4 ms at 8 Mbit/s
LINE = 0.25  # seconds of data that may wait


class SlowLink:
    """Forward connections to ``port`` of the loopback; connect to ``.port`` instead.

    delay: seconds for a round trip. rate: bits per second in each direction, shared by all connections.
    """

    def __init__(self, port: int, delay: float = 0.12, rate: float = 8e6):
        self.target, self.delay, self.rate = port, delay, rate
        self.free = {"up": 0.0, "down": 0.0}  # when the line has sent what it has
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        opened = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._join, "127.0.0.1", 0), self.loop)
        self.port = opened.result().sockets[0].getsockname()[1]

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)

    async def _join(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_in, far_out = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self._forward("up", near_in, far_out), self._forward("down", far_in, near_out))

    async def _forward(self, way: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while not sink.is_closing():
            try:
                data = await source.read(CHUNK)
            except OSError:
                data = b""
            self.free[way] = max(self.loop.time(), self.free[way]) + 8 * len(data) / self.rate
            due = self.free[way] + self.delay / 2
            self.loop.call_at(due, *((sink.write, data) if data else (sink.close,)))
            if not data:
                return
            await asyncio.sleep(self.free[way] - self.loop.time() - LINE)
