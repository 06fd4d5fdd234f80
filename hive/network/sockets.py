"""What the hosts use of any kind of connection: nothing here knows websockets."""
from __future__ import annotations

from typing import AsyncIterator, Optional, Protocol, Union

Frame = Union[str, bytes]  # a control message or a chunk


class Socket(Protocol):
    """A peer's connection at the coordinator; `guest.Guest` is one."""

    address: str
    latency: float  # seconds for a ping and its answer; 0 before the first

    def __aiter__(self) -> AsyncIterator[Frame]: ...
    async def send(self, message: Frame) -> None: ...
    async def close(self, code: int, reason: str) -> None: ...

    def proved(self) -> None:
        """It has the key. Raises ConnectionClosed when there is no room for it."""


class Line(Protocol):
    """A peer's connection to its coordinator; `dial.Connection` is one."""

    def send(self, message: Frame) -> None: ...

    def recv(self, timeout: Optional[float]) -> Frame:
        """The next message. Raises TimeoutError if none comes within `timeout` seconds."""
