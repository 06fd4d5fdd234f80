"""Who is connected to a coordinator. Connections have numbers, peers have names."""
from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Deque, Dict, NamedTuple, Optional

from hive.session import messages, protocol
from hive.session.effects import Moment
from hive.session.reception import Arrival, Identity
from hive.session.standing import RECENT


class Lap(NamedTuple):
    """An update that counted."""

    characters: int
    seconds: float  # that its peer trained on them, as it says
    passed: float  # since its update before was here, or since it joined


@dataclass
class Link:
    """A connection to a peer: what it says, holds and does. What travels is its host's matter."""

    number: int
    identity: Identity
    joined: float  # unix seconds
    counted_at: float  # when its work last counted
    batch_size: int = 1
    steps: int = 0  # of its task done so far
    offer: Optional[messages.Offer] = None  # of the update that is on its way
    unasked: int = 0  # updates that were sent to it since it said anything
    unwanted: str = ""  # an update that comes along with its offer and must wait, or cannot count
    surplus: int = 0  # bytes of it that are still to come
    lately: int = 0  # steps of its latest update
    fetched: Counter[str] = field(default_factory=Counter)  # how often, by name
    laps: Deque[Lap] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def peer(self) -> str:
        return self.identity.peer

    @property
    def speed(self) -> float:
        """Characters per second while it trains, as it measured them; 0 before its first update.
        Over as many updates as the hive's own speed, so that the two can be compared."""
        seconds = sum(lap.seconds for lap in self.laps)
        return sum(lap.characters for lap in self.laps) / max(seconds, 1e-3)

    @property
    def training(self) -> Optional[float]:
        """The share of the time that it spent training; the rest was transfers and waiting."""
        passed = sum(lap.passed for lap in self.laps)
        return min(1.0, sum(lap.seconds for lap in self.laps) / passed) if passed else None

    def expect(self, blob: str, size: int) -> None:
        """So much comes that nobody asked for."""
        self.unwanted, self.surplus = blob, size

    def drops(self, chunk: bytes) -> bool:
        """Is it of what nobody asked for? What is sent again when it is wanted comes after that."""
        if self.surplus <= 0 or not protocol.belongs(chunk, self.unwanted):
            return False
        self.surplus -= max(1, len(chunk) - protocol.CHUNK_HEADER.size)
        return True


class Links:
    def __init__(self) -> None:
        self.proved: Dict[int, Link] = {}  # all that are known to be peers
        self.arriving: Dict[int, Arrival] = {}  # of these, who has no welcome yet
        self.peers: Dict[str, Link] = {}  # the others

    def prove(self, number: int, arrival: Arrival, now: Moment) -> None:
        self.arriving[number] = arrival
        self.proved[number] = Link(number, arrival.identity, now.unix, now.steady)

    def leave(self, number: int) -> Optional[Link]:
        """The connection is gone. Returns it if its peer is gone too, and has no other by now."""
        self.arriving.pop(number, None)
        link = self.proved.pop(number, None)
        if link is None or self.peers.get(link.peer) is not link:
            return None
        return self.peers.pop(link.peer)
