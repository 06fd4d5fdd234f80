"""Updates on their way to the coordinator: how many at a time, who is next, what is kept of
interrupted ones. Pure: no sockets, and time is passed in.

The updates of a run have nearly the same size, so a budget in bytes is a number of places for the
largest. A peer that finds none waits in a queue. An interrupted upload keeps its place until
another peer needs it: the oldest goes first.
"""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Sized, Tuple

from hive.session.protocol import Receiver

BUDGET_BYTES = 64 << 20  # for what has arrived of updates that are not complete
LEAST_PLACES = 4  # however large an update is
STALLED_SECONDS = 30.0  # without a chunk: the place goes to the next in the queue


class Wanted(NamedTuple):
    """An update that was offered: the version it starts from, its SHA-256 and its bytes."""

    version: int
    blob: str
    size: int


@dataclass
class Upload:
    wanted: Wanted
    receiver: Receiver
    moved: float  # when it began, went on, or got its latest chunk
    connected: bool = True


class Uploads:
    """By peer, all updates of at most `size` bytes. `places`: None: as many as the budget has.
    `adding` are those that are complete, and in memory until they are added: they keep theirs."""

    def __init__(self, size: int, places: Optional[int] = None, adding: Sized = ()):
        self.size, self.adding = size, adding
        self.places = places or max(LEAST_PLACES, BUDGET_BYTES // max(size, 1))
        self.begun: OrderedDict[str, Upload] = OrderedDict()  # the oldest first
        self.queue: OrderedDict[str, Wanted] = OrderedDict()

    def begin(self, peer: str, wanted: Wanted, now: float) -> Optional[Receiver]:
        """Where the update goes, also the rest of an interrupted one; None while it has to wait."""
        known = self.begun.get(peer)
        if known and known.wanted == wanted:
            known.connected, known.moved = True, now
            return known.receiver
        self.begun.pop(peer, None)
        taken = len(self.begun) + len(self.adding)
        if taken >= self.places and not self._make_room(now):
            self.queue[peer] = wanted  # at the end, or where it waited already
            return None
        self.queue.pop(peer, None)
        receiver = Receiver(wanted.blob, wanted.size, self.size)
        self.begun[peer] = Upload(wanted, receiver, now)
        return receiver

    def behind(self, peer: str, wanted: Wanted, now: float) -> bool:
        """Does an earlier update of this peer wait, or is it on its way?"""
        first, known = self.queue.get(peer), self.begun.get(peer)
        if known and known.connected and now - known.moved <= STALLED_SECONDS:
            first = known.wanted
        return first is not None and first.version < wanted.version

    def _make_room(self, now: float) -> bool:
        for peer, upload in self.begun.items():
            if not upload.connected or now - upload.moved > STALLED_SECONDS:
                del self.begun[peer]
                return True
        return False

    def add(self, peer: str, chunk: bytes, now: float) -> Optional[Receiver]:
        """Take a chunk; None if this peer has no upload. Raises ProtocolError for a wrong one."""
        upload = self.begun.get(peer)
        if upload is None or not upload.connected:
            return None
        upload.receiver.add(chunk)
        upload.moved = now
        return upload.receiver

    def leave(self, peer: str) -> None:
        """The connection is gone; what has arrived is kept as long as there is room."""
        self.queue.pop(peer, None)
        if peer in self.begun:
            self.begun[peer].connected = False

    def drop(self, peer: str) -> None:
        """It is complete, or not wanted any more."""
        self.queue.pop(peer, None)
        self.begun.pop(peer, None)

    def forget(self, version: int) -> None:
        """What starts from a version before this one is of no use to anybody."""
        old = [peer for peer, upload in self.begun.items() if upload.wanted.version < version]
        for peer in old:
            self.drop(peer)

    def turns(self, now: float) -> List[Tuple[str, Receiver]]:
        """Those in the queue that may begin now."""
        begun: List[Tuple[str, Receiver]] = []
        while self.queue:
            peer, wanted = next(iter(self.queue.items()))
            receiver = self.begin(peer, wanted, now)
            if receiver is None:
                break
            begun.append((peer, receiver))
        return begun
