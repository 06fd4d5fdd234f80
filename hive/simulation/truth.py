"""What must hold of updates and tokens, by books that are kept apart from all that is tested."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Collection, Dict, List, Optional, Set

from torch import Tensor

from hive.books import applying
from hive.journal import Journal
from hive.session.job import Job
from hive.session.protocol import Message
from hive.session.record import Record
from hive.simulation.trouble import Trouble


class Violation(Exception):
    """Something that must always hold does not."""


def must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


@dataclass(eq=False)
class Lot:
    """The tokens of one training, and what became of them."""

    tokens: int
    fate: str = ""  # counted, or the name of what they were lost by; empty: they are carried


class Truth:
    def __init__(self, trouble: Trouble, journal: Journal):
        self.trouble, self.journal = trouble, journal
        self.trained = 0  # tokens, of all steps
        self.lots: List[Lot] = []  # all that there ever were
        self.made_of: Dict[str, List[Lot]] = {}  # by the update's SHA-256: what went into it
        self.by: Dict[str, str] = {}  # the peer that made it
        self.counted: Dict[str, int] = {}  # the round
        self.refused: Set[str] = set()
        self.counted_peers: Dict[int, Set[str]] = {}  # by round
        self.last_round: Dict[str, int] = {}  # by peer: in which it counted
        self.latest: Optional[Tensor] = None  # weights, as written down last
        self.restarts, self.cloned = 0, False
        self.claims = True  # of tokens are honest
        self.liars: Set[str] = set()  # whose updates may be equal, byte for byte, to earlier ones

    def lot(self, tokens: int, fate: str = "") -> Lot:
        self.lots.append(Lot(tokens, fate))
        return self.lots[-1]

    def made(self, update: str, lots: List[Lot], by: str) -> None:
        self.made_of[update], self.by[update] = list(lots), by

    def check_said(self, said: Message, peer: str) -> None:
        """Nobody hears of a round that is not written down."""
        if said["type"] in ("commit", "version"):
            must(said["version"] <= self.journal.last and
                 self.journal.at(said["version"])[0] == said["weights"],
                 "a round was told that is not in the journal")
        if said["type"] == "commit" and said["counted"]:
            must(peer in self.counted_peers.get(said["version"], ()),
                 "a peer was told that it counted in a round in which it did not")

    def kept(self, record: Record, updates: List[str], weights: Tensor) -> None:
        """A round is written down, of these updates."""
        self.latest = weights
        counted = [c for c in record.contributions if c.verdict == "counted"]
        must(len(counted) == len(updates), "the journal counts other updates than were added")
        self.counted_peers[record.number] = {c.peer for c in counted}
        tokens = 0
        for blob in updates:
            must(blob in self.by, "an update counted that nobody made")
            if self.by[blob] not in self.liars:
                must(blob not in self.counted, "an update counted twice")
                must(blob not in self.refused, "an update counted that was refused before")
            self.counted[blob] = record.number
            self.last_round[self.by[blob]] = record.number
            for lot in self.made_of[blob]:
                must(lot.fate in ("", "killed", "killed without its cache", "turned away",
                                  "training broke down")  # while it was on its way
                          or lot.fate == "rejected" and self.cloned,
                          f"tokens counted that were {lot.fate} before")
                lot.fate = "counted"
                tokens += lot.tokens
        claimed = sum(c.tokens for c in counted)
        # A coordinator that was started again has not seen how long these were trained on.
        must(not self.claims or claimed <= tokens and (
            claimed == tokens or self.restarts > 0 or self.cloned),
                  f"{claimed} tokens were written down, and {tokens} counted")
        for c in counted:
            if c.reason:
                self.trouble.cover("update that came rounds late")

    def check_journal(self) -> None:
        last = list(self.journal.verify(applying(Job.from_json(self.journal.run or {}))))[-1]
        must(last == self.journal.last, "the journal ends early")

    def check_tokens(self, carried: Collection[Lot], untaken: int) -> None:
        """Trained = counted + carried + lost by a fault that has a name. `untaken`: of which no
        update was made yet."""
        must(all(lot.fate or lot in carried for lot in self.lots), "tokens vanished")
        must(self.trained == sum(lot.tokens for lot in self.lots) + untaken,
             "tokens are neither counted, nor carried, nor lost by a fault that has a name")
