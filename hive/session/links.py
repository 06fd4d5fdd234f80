"""Who is connected to a coordinator. Connections have numbers, peers have names."""
from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Deque, Dict, NamedTuple, Optional

from hive.session import messages, protocol
from hive.session.effects import Moment
from hive.session.reception import Arrival, Identity
from hive.session.schema import Known, Limit, Member, PeerState
from hive.session.standing import RECENT

BUSY = 0.9  # of its time a peer trains that nothing but its device holds up


class Lap(NamedTuple):
    """An update of a peer that counted; all but the first in seconds."""

    characters: float  # as many as it can have made
    training: float  # as the peer measured it
    sending: float  # from its offer until it was here
    passed: float  # since the one before was here


class Windows(NamedTuple):
    """Of the text, which a task is about."""

    first: int = 0
    number: int = 0  # that are meant for this peer alone; 0: nobody can tell


@dataclass
class Upward:
    """What comes from a peer."""

    offer: Optional[messages.Offer] = None  # of the update that is on its way
    offered_at: float = 0.0  # when that was first heard of
    seconds: float = 0.0  # that the latest one took
    unwanted: str = ""  # an update that comes along with its offer and must wait, or cannot count
    surplus: int = 0  # bytes of it that are still to come

    def offers(self, said: messages.Offer, now: float) -> None:
        """An update is on its way."""
        if self.offer is None or self.offer["update"] != said["update"]:
            self.offered_at = now
        self.offer = said

    def sent(self, now: float) -> None:
        """It is completely here."""
        self.offer, self.seconds = None, now - self.offered_at

    def expect(self, blob: str, size: int) -> None:
        """So much comes that nobody asked for."""
        self.unwanted, self.surplus = blob, size

    def drops(self, chunk: bytes) -> bool:
        """Is it of what nobody asked for? What is sent again when it is wanted comes after that."""
        if self.surplus <= 0 or not protocol.belongs(chunk, self.unwanted):
            return False
        self.surplus -= max(1, len(chunk) - protocol.CHUNK_HEADER.size)
        return True


@dataclass
class Downward:
    """What a peer gets."""

    fetched: Counter[str] = field(default_factory=Counter)  # how often, by name
    unasked: int = 0  # updates that were sent to it since it said anything


@dataclass
class Link:
    """A connection to a peer: what it says, holds and does. What travels is its host's matter."""

    number: int
    identity: Identity
    joined: float  # unix seconds
    counted_at: float  # when its work that last counted was here
    batch_size: int = 1
    windows: Windows = Windows()
    steps: int = 0  # of its task done so far
    lately: int = 0  # steps of its latest update
    laps: Deque[Lap] = field(default_factory=lambda: deque(maxlen=RECENT))
    up: Upward = field(default_factory=Upward)
    down: Downward = field(default_factory=Downward)

    @property
    def peer(self) -> str:
        return self.identity.peer

    @property
    def speed(self) -> float:
        """Characters per second while it trains, as it measured them; 0 before its first update.
        Over as many updates as the hive's own speed, so that the two can be compared."""
        seconds = sum(lap.training for lap in self.laps)
        return sum(lap.characters for lap in self.laps) / max(seconds, 1e-3)

    @property
    def training(self) -> Optional[float]:
        """The part of its time that it trains; None before its first update."""
        return self._part(sum(lap.training for lap in self.laps)) if self.laps else None

    @property
    def limit(self) -> Limit:
        """What keeps it from doing more: its device, its uplink, or that it waits for the round,
        for others and for what comes down. Empty before its first update."""
        if self.training is None:
            return ""
        if self.training >= BUSY:
            return "device"
        sending = self._part(sum(lap.sending for lap in self.laps))
        return "uplink" if sending >= 1 - self.training - sending else "round"

    def _part(self, seconds: float) -> float:
        return min(1.0, seconds / max(sum(lap.passed for lap in self.laps), 1e-3))

    def about(self, known: Known, share: float, state: PeerState, quota: int) -> Member:
        """Its peer, for the dashboard."""
        return {
            "peer": self.peer, "name": self.identity.name, "device": self.identity.device,
            "kind": known["kind"], "state": state, "steps": self.steps, "quota": quota,
            "speed": self.speed, "training": self.training, "limit": self.limit,
            "joined": self.joined, "share": share, "tokens": known["tokens"],
            "counted": known["counted"], "late": known["late"], "rejected": known["rejected"],
            "reason": known["reason"], "score": known["score"], "aside": known["aside"]}


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
