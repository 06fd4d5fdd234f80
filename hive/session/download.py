"""What a peer fetches: one blob at a time. What has arrived of an interrupted one is kept."""
from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Tuple

from hive.session import messages
from hive.session.protocol import ProtocolError, Receiver, demand


class Wanted(NamedTuple):
    """A blob that was asked for on this connection."""

    blob: str
    limit: int  # bytes, at most
    since: float  # steady seconds
    then: Callable[[Optional[bytes]], None]  # None: the coordinator no longer has it


class Download:
    def __init__(self) -> None:
        self.wanted: Optional[Wanted] = None
        self.coming = False  # the answer was that it comes
        self.partial: Optional[Receiver] = None  # of what is wanted, or was

    def begin(self, wanted: Wanted) -> int:
        """Returns from where on it has to come."""
        if self.partial and self.partial.blob != wanted.blob:
            self.partial = None
        self.wanted = wanted
        return len(self.partial.content) if self.partial else 0

    def announced(self, said: messages.Blob) -> None:
        wanted = self._asked(said["blob"])
        if self.partial is None:
            self.partial = Receiver(wanted.blob, said["bytes"], wanted.limit)
        demand(said["bytes"] == self.partial.size, "The coordinator changed the size of a transfer "
               "that was interrupted.")
        self.coming = True

    def gone(self, blob: str) -> Wanted:
        wanted, self.wanted, self.partial = self._asked(blob), None, None
        return wanted

    def _asked(self, blob: str) -> Wanted:
        if self.wanted is None or blob != self.wanted.blob:
            raise ProtocolError("The coordinator answers another question.")
        return self.wanted

    def add(self, chunk: bytes) -> None:
        if not self.coming or self.partial is None:
            raise ProtocolError("A chunk came that nobody asked for.")
        self.partial.add(chunk)

    def take(self) -> Optional[Tuple[Wanted, Receiver]]:
        """What was wanted, once all of it is there."""
        wanted, receiver = self.wanted, self.partial
        if wanted is None or receiver is None or not receiver.complete:
            return None
        self.interrupt()
        self.partial = None
        return wanted, receiver

    def interrupt(self) -> None:
        """The connection is given up."""
        self.wanted, self.coming = None, False
