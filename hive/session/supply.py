"""What peers get: the rounds they missed, or the weights as a whole; each new round; what they
fetch."""
from __future__ import annotations

from typing import List, Optional

from hive.learning.sync import UNDO
from hive.session import messages, protocol
from hive.session.effects import Send, SendBlob
from hive.session.ledger import Ledger
from hive.session.library import REMEMBERED_UPDATES, Found, Library
from hive.session.links import Link, Links
from hive.session.protocol import demand
from hive.session.record import Made, Record
from hive.session.reply import Reply
from hive.session.rounds import Rounds
from hive.session.run import Run

MOST_FETCHES = 3  # times that a connection may begin to fetch the same thing
FEW_MISSED = 4  # rounds, told with overlap even if the newest weights cost less: those take two
# words more, and a peer that listens between long steps would be behind again by then
MOST_UNASKED = 16  # updates that a peer gets without a word from it, with overlap
MOST_TRANSFERS = 2  # to one peer, waiting or on their way; an honest one asks for the next later


class Supply:
    def __init__(self, library: Library, ledger: Ledger, reply: Reply, links: Links,
                 rounds: Rounds, run: Run):
        self.library, self.ledger, self.reply = library, ledger, reply
        self.links, self.rounds, self.run = links, rounds, run

    # Who is behind

    def catch_up(self, link: Link, version: int, weights: Optional[str]) -> bool:
        """A peer holds other weights than the newest. True: it is given all that it misses."""
        near = 0 < self.rounds.version - version <= REMEMBERED_UPDATES
        missed = self._missed(version) if near else []
        few = FEW_MISSED if self.rounds.overlap else 1
        undone = any(one.codec == UNDO for one in missed)
        if near and not undone and weights == self.ledger.at(version)[0] and (
                len(missed) <= few or sum(one.bytes for one in missed) < 4 * self.run.parameters):
            return self._tell_missed(link, missed)
        self.tell_version(link)
        return False

    def _missed(self, version: int) -> List[Made]:
        """The rounds after this one. The newest may be on the disk before this session knows: it is
        told to all at once."""
        return [one for one in self.ledger.updates_since(version)
                if one.number <= self.rounds.version]

    def _tell_missed(self, link: Link, missed: List[Made]) -> bool:
        """A peer that trains on listens only between two steps, and would be behind again before
        it had asked: it gets the content along, and all that comes next."""
        counted = self.ledger.counted(link.peer)
        follows = self.rounds.overlap and len(missed) <= MOST_UNASKED and (
            self.rounds.members[link.peer].version != self.rounds.version)
        for one in missed:
            if one.update not in self.library:
                self._remember(one.update, self.ledger.update(one.number)[1])
            self.reply.add(Send(link.number, one.commit(one.number in counted, follows)))
            if follows:
                self._give_unasked(link, one.update, self.library.updates[one.update])
        if follows:
            self.rounds.follows(link.peer)
        return follows

    def tell_version(self, link: Link) -> None:
        """Offer the newest weights as a whole."""
        self.library.offer_weights(self.rounds.weights, self.run.weights)
        self.reply.send(link.number, "version", version=self.rounds.version,
                        weights=self.rounds.weights, step=self.run.step,
                        counted=self.ledger.counted(link.peer))

    # A new round

    def leave_behind(self) -> None:
        """A round ends; who takes nothing of what it gets without asking has to ask again."""
        for peer, link in self.links.peers.items():
            if link.down.unasked == MOST_UNASKED:
                self.rounds.fell_behind(peer)

    def tell_commit(self, record: Record) -> None:
        """A round was made, and the next one begins. Peers hear whether their updates counted; who
        goes on from it gets its content along."""
        name = protocol.name_of(record.update)  # once, not for every peer
        self._remember(name, record.update)
        counted = {c.peer for c in record.contributions if c.verdict == "counted"}
        made = Made(record.number, record.codec, record.result, name, len(record.update),
                    record.step)
        said = {(one, other): made.commit(one, other)
                for one in (False, True) for other in (False, True)}
        for peer, link in self.links.peers.items():
            link.down.fetched.pop(name, None)  # an update may be the same as an earlier one
            goes_on = self.rounds.members[peer].state == "ready"
            self.reply.add(Send(link.number, said[peer in counted, goes_on]))
            if goes_on:
                self._give_unasked(link, name, record.update)

    # Transfers

    def fetch(self, link: Link, said: messages.Fetch, blobs: int) -> None:
        """`blobs`: how many are on their way to it."""
        blob, offset = said["blob"], said["offset"]
        found = self.library.find(blob)
        if found is None:  # it took so long that this is history; it will ask for what is new
            self.reply.send(link.number, "gone", blob=blob)
            return
        demand(offset <= len(found.content), "A transfer cannot begin behind its end.")
        fetched = link.down.fetched
        fetched[blob] += 1
        demand(fetched[blob] <= MOST_FETCHES, "The peer asks for the same again and again.")
        demand(blobs < MOST_TRANSFERS, "The peer asks for more than it takes.")
        self._give(link, blob, found, offset)

    def _give_unasked(self, link: Link, update: str, content: bytes) -> None:
        link.down.unasked += 1
        self._give(link, update, Found("update", content), 0)

    def _give(self, link: Link, blob: str, found: Found, offset: int) -> None:
        self.reply.send(link.number, "blob", blob=blob, bytes=len(found.content), offset=offset)
        self.reply.add(SendBlob(link.number, found.what, blob, found.content, offset))

    def _remember(self, update: str, content: bytes) -> None:
        for old in self.library.remember(update, content):
            for link in self.links.peers.values():
                link.down.fetched.pop(old, None)
