"""Virtual time, and connections in it: a rate, a delay, and the moment at which they break.

Nothing here knows what is said. An event is a moment and what happens then; the same events happen
in the same order every time.
"""
from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Tuple

from hive.session.protocol import CHUNK_BYTES, CHUNK_HEADER

UNNOTICED_SECONDS = 45.0  # until a connection that just falls silent is found dead
PIECE_SECONDS = 5.0  # of a blob that travels as one event: time enough to be heard of


class Clock:
    """What will happen, and when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._events: List[Tuple[float, int, Callable[..., None], Tuple[Any, ...]]] = []

    def at(self, moment: float, action: Callable[..., None], *values: Any) -> None:
        heapq.heappush(self._events, (moment, next(self._order), action, values))

    def after(self, seconds: float, action: Callable[..., None], *values: Any) -> None:
        self.at(self.now + seconds, action, *values)

    def step(self) -> bool:
        """Let the next event happen; False when there is none."""
        if not self._events:
            return False
        self.now, _, action, values = heapq.heappop(self._events)
        action(*values)
        return True


class Piece(NamedTuple):
    """A part of a blob on its way; its bytes are only copied where it arrives."""

    what: str
    blob: str
    content: bytes
    begin: int
    end: int

    @property
    def message(self) -> bytes:
        """As it would arrive in a binary message."""
        return (CHUNK_HEADER.pack(bytes.fromhex(self.blob)[:8], self.begin)
                + memoryview(self.content)[self.begin: self.end])


class Moving(NamedTuple):
    """Something that was sent and has not arrived."""

    item: Any
    size: int  # bytes
    begun: float  # when the first of these goes out


class Wire:
    """One direction of a connection: what is sent arrives in order, or the connection breaks.

    With `chunk` bytes a blob is cut as in the protocol, and a chunk arrives whole or not at all.
    Without, a piece is as large as the rate carries in a few seconds, and what had arrived of it
    when the connection broke is not lost."""

    def __init__(self, clock: Clock, rate: float, delay: float, arrive: Callable[[Any], None],
                 chunk: Optional[int] = None):
        self.clock, self.rate, self.delay, self.arrive = clock, rate, delay, arrive
        self.whole = not chunk
        self.piece = chunk or max(CHUNK_BYTES, int(min(rate * PIECE_SECONDS, 1e12)))
        self.free = 0.0  # when all that was sent is out
        self.open = True
        self.moving: Deque[Moving] = deque()
        self.bytes = self.pieces = self.blobs = 0  # of these

    def send(self, item: Any, size: int = 0) -> float:
        """Returns when it will be out."""
        now = self.clock.now
        begun = self.free if self.free > now else now
        self.free = begun + size / self.rate
        moving = Moving(item, size, begun)
        self.moving.append(moving)
        self.bytes += size
        self.clock.at(self.free + self.delay, self._arrive, moving)
        return self.free

    def send_blob(self, what: str, blob: str, content: bytes, offset: int) -> float:
        """Returns when its last byte will be out."""
        self.blobs += offset < len(content)
        for begin in range(offset, len(content), self.piece):
            end = min(len(content), begin + self.piece)
            self.pieces += 1
            self.send(Piece(what, blob, content, begin, end), end - begin)
        return max(self.clock.now, self.free)

    def drop_waiting(self) -> None:
        """What has not begun is not sent any more."""
        while self.moving and self.moving[-1].begun > self.clock.now:
            dropped = self.moving.pop()
            self.free = dropped.begun
            self._forget(dropped)

    def _arrive(self, moving: Moving) -> None:
        if self.moving and self.moving[0] is moving and self.open:
            self._forget(self.moving.popleft())
            self.arrive(moving.item)

    def _forget(self, moving: Moving) -> None:
        self.bytes -= moving.size
        if isinstance(moving.item, Piece):
            self.pieces -= 1
            self.blobs -= moving.item.end == len(moving.item.content)

    @property
    def waiting(self) -> int:
        """Messages and blobs that have not arrived, in the unit of a coordinator's outbox."""
        return len(self.moving) - self.pieces + self.blobs

    @property
    def interrupted(self) -> bool:
        """Is something of a blob on its way?"""
        return any(isinstance(moving.item, Piece) for moving in self.moving)

    @property
    def amid(self) -> bool:
        """Is a part of something there, and a part of it not?"""
        return bool(self.moving) and self.moving[0].begun + self.delay < self.clock.now

    def cut(self) -> None:
        """What has not arrived by now never will."""
        item, _, begun = self.moving[0] if self.moving else Moving(None, 0, 0.0)
        if self.open and self.whole and isinstance(item, Piece):
            arrived = (self.clock.now - self.delay - begun) * self.rate
            end = item.begin + int(min(arrived, item.end - item.begin - 1))
            if end > item.begin:
                self.arrive(item._replace(end=end))
        self.open = False
        self.moving.clear()
        self.bytes = self.pieces = self.blobs = 0
