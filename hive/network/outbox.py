"""A connection of the coordinator, and what is on its way to the other end."""
from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Callable, Iterable, NamedTuple, Optional, Union

from hive.network.sockets import Frame, Socket

LAST_SECONDS = 2.0  # to take the last words before a connection is closed


class Blob(NamedTuple):
    chunks: Iterable[bytes]
    sent: Callable[[int], None]  # called with the bytes that have left


class Connection:
    """A WebSocket and its outbox, which a task empties."""

    def __init__(self, socket: Socket):
        self.socket = socket
        self.outbox: asyncio.Queue[Union[str, Blob]] = asyncio.Queue()
        self.blobs = 0  # in the outbox or on their way
        self.deaf_until = -math.inf
        self.up = self.down = 0  # bytes on the wire
        self.writer = asyncio.ensure_future(self.write())
        self.closing: Optional[asyncio.Future[None]] = None

    @property
    def latency(self) -> Optional[float]:
        """Seconds for a ping and its answer, None before the first."""
        return self.socket.latency or None

    @property
    def waiting(self) -> int:
        """Messages and blobs that have not begun to leave."""
        return self.outbox.qsize()

    def send(self, message: str) -> None:
        self.outbox.put_nowait(message)

    def send_blob(self, chunks: Iterable[bytes], sent: Callable[[int], None]) -> None:
        self.blobs += 1
        self.outbox.put_nowait(Blob(chunks, sent))

    async def write(self) -> None:
        """Send what is in the outbox, in order; one message at a time keeps pings moving."""
        while True:
            item = await self.outbox.get()
            if isinstance(item, str):
                await self.put(item)
                continue
            for chunk in item.chunks:
                await self.put(chunk)
                item.sent(len(chunk))
            self.blobs -= 1

    async def put(self, message: Frame) -> None:
        self.down += len(message)
        await self.socket.send(message)

    def close(self, code: int, reason: str, last: Optional[str]) -> None:
        """Nothing that waits is sent any more, but for the last word."""
        self.writer.cancel()
        self.outbox = asyncio.Queue()
        self.closing = asyncio.ensure_future(self.end(code, reason, last))

    async def end(self, code: int, reason: str, last: Optional[str]) -> None:
        from websockets.exceptions import ConnectionClosed
        with contextlib.suppress(ConnectionClosed, asyncio.TimeoutError):
            if last:
                await asyncio.wait_for(self.put(last), LAST_SECONDS)
        await self.socket.close(code, reason)

    async def gone(self) -> None:
        from websockets.exceptions import ConnectionClosed
        self.writer.cancel()
        for outcome in await asyncio.gather(self.writer, *filter(None, [self.closing]),
                                            return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionClosed):
                raise outcome
