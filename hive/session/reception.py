"""Who comes to a hive, and who may stay: strangers show who they are and that they have the key.

Pure, as `rounds` and `uploads` are: time is passed in, and what it decides is raised or returned.
"""
from __future__ import annotations

import hashlib
import hmac
import itertools
import math
from collections import Counter, OrderedDict
from typing import Callable, Collection, Dict, List, NamedTuple, Optional, Set, Tuple

from gltch_2_7m import GltchError
from hive.network.address import household, is_local
from hive.network.throttle import Bucket
from hive.session import messages, protocol
from hive.session.job import Job
from hive.session.ledger import Ledger
from hive.session.protocol import Message, ProtocolError, demand
from hive.session.record import LATELY

HANDSHAKE_SECONDS = 20.0
MOST_REJECTED = 8  # updates of a peer in a row, then it has to leave
BARRED_SECONDS = 600.0  # for so long
COOLING_SECONDS = 0.25  # before a peer is heard again, for each of its rejected updates in a row
NEW_PEERS, NEW_PEERS_RATE = 128, 16.0  # that were never here: at once, and a second afterwards
NEW_PER_ADDRESS, NEW_PER_ADDRESS_RATE = 64, 2.0  # ... from one address, but not from this machine
MOST_ADDRESSES = 4096  # that this is remembered of


class Later(Exception):
    """Not now: the peer may come back, and does so by itself."""


class Identity(NamedTuple):
    """What a peer said about itself, and what it is called here. `process` is random, made by the
    peer's process: a new connection of it replaces the old."""

    peer: str
    name: str
    device: str
    kind: messages.Kind
    process: str


class Stranger(NamedTuple):
    """A connection that has not shown yet who it is."""

    address: str
    nonce: str
    until: float


class Arrival(NamedTuple):
    """Somebody who is proved, and what its welcome says; first its coming is written down."""

    identity: Identity
    token: Optional[str]  # new, or None: it has it already
    token_hash: str
    proof: str


class Reception:
    def __init__(self, job: Job, ledger: Ledger, token: Callable[[], str], key: str):
        self.job, self.ledger, self.token, self.key = job, ledger, token, key
        self.described = job.as_json()  # once, for all welcomes
        self.strangers: OrderedDict[int, Stranger] = OrderedDict()  # the oldest first
        self.rejections: Counter[str] = Counter()  # by peer: in a row
        self.barred: Dict[str, float] = {}  # by peer: until when
        self.banned: Set[str] = set()  # peers, until their owner pardons them
        self.newcomers = Bucket(NEW_PEERS, NEW_PEERS_RATE)
        self.newcomers_of: OrderedDict[str, Bucket] = OrderedDict()  # by address

    def challenge(self, number: int, address: str, now: float) -> Message:
        """The first message to a new connection."""
        stranger = Stranger(address, self.token(), now + HANDSHAKE_SECONDS)
        self.strangers[number] = stranger
        return {"type": "challenge", "protocol": protocol.VERSION, "hive": self.job.hive,
                "nonce": stranger.nonce, "locked": bool(self.key)}

    @property
    def deadline(self) -> float:
        """When the next stranger has said nothing for too long."""
        return next(iter(self.strangers.values())).until if self.strangers else math.inf

    def too_late(self, now: float) -> List[int]:
        late = itertools.takewhile(lambda one: one[1].until <= now, self.strangers.items())
        return [number for number, _ in late]

    def meet(self, number: int, hello: messages.Hello, here: Collection[Identity],
             known: Collection[str], now: float) -> Arrival:
        """Who is it, does it have the key, and may it take part? `here` are those who are there,
        `known` the peers that ever were. Raises ProtocolError, and Later."""
        demand(hello["type"] == "hello", "The first message must be a hello.")
        name = protocol.clean_name(hello["name"], "peer")
        address, nonce, _ = self.strangers[number]
        try:
            protocol.check_hello(hello, self.key, nonce)
            demand(hello["text"] in (None, self.job.source), "The peer brought another text than "
                   "the one this hive trains on: leave out --data, and it gets the right one.")
            peer, name, token, token_hash = self._identify(hello, name, nonce, here)
            self._check_record(peer, now)
            if peer not in known:
                self._check_newcomer(address, now)
        except ProtocolError as error:
            raise ProtocolError(f"{name}: {error}") from None
        del self.strangers[number]
        device = protocol.clean_name(hello["device"], "unknown")
        identity = Identity(peer, name, device, hello["kind"], hello["process"])
        return Arrival(identity, token, token_hash,
                       protocol.proof(self.key, "coordinator", nonce, hello["nonce"]))

    def _identify(self, hello: messages.Hello, name: str, nonce: str, here: Collection[Identity]
                  ) -> Tuple[str, str, Optional[str], str]:
        """(peer, name, token, its SHA-256). A peer that proves to have the token of an identity of
        this name gets that back, unless another process uses it now; others get a new one."""
        claim = hello["token"] or ""
        for peer, token_hash in self.ledger.identities(name) if claim else ():
            expected = protocol.possession(token_hash, nonce, hello["nonce"])
            if hmac.compare_digest(expected, claim):
                if all(one.process == hello["process"] for one in here if one.peer == peer):
                    return peer, name, None, token_hash
                break
        taken = {one.name for one in here}
        number, free = 2, name
        while free in taken:
            free = f"{name[: protocol.NAME_LENGTH - 5]}-{number}"
            number += 1
        token = self.token()
        return self.token()[:16], free, token, hashlib.sha256(token.encode()).hexdigest()

    def _check_record(self, peer: str, now: float) -> None:
        """Not for a while for a peer whose updates were all rejected lately."""
        demand(peer not in self.banned, "The owner of this hive has banned this peer.")
        until = self.barred.get(peer, now)
        demand(until <= now, f"{MOST_REJECTED} updates of this peer in a row could not be used; it "
               f"may come back in {(until - now) / 60:.0f} minutes.")
        self.barred.pop(peer, None)

    def _check_newcomer(self, address: str, now: float) -> None:
        """Not too many new peers at once, nor from one place."""
        home = household(address)
        of_address = self.newcomers_of.setdefault(
            home, Bucket(NEW_PER_ADDRESS, NEW_PER_ADDRESS_RATE))
        self.newcomers_of.move_to_end(home)
        while len(self.newcomers_of) > MOST_ADDRESSES:
            self.newcomers_of.popitem(last=False)
        within = is_local(address) or of_address.take(1, now)
        if not within or not self.newcomers.take(1, now):
            raise Later("Too many new peers come just now.")

    def disappoint(self, peer: str, reason: str, now: float) -> float:
        """An update of this peer was rejected. The more were in a row, the longer, in seconds,
        until it is heard again. Raises ProtocolError when that was one too many."""
        self.rejections[peer] += 1
        if self.rejections[peer] >= MOST_REJECTED:
            self.barred[peer] = now + BARRED_SECONDS
            self.rejections.pop(peer)
            raise ProtocolError(f"{MOST_REJECTED} updates in a row could not be used. The latest: "
                                f"{reason}")
        return COOLING_SECONDS * self.rejections[peer]

    def please(self, peer: str) -> None:
        """An update of this peer counts."""
        self.rejections.pop(peer, None)


def require_announceable(job: Job) -> None:
    """Raises GltchError for a run that no welcome message could describe."""
    try:
        protocol.pack("welcome", proof="0" * 64, peer="0" * 64, name="0" * protocol.NAME_LENGTH,
                      token="0" * 64, counted=[2**53] * LATELY, job=job.as_json())
    except ProtocolError:
        raise GltchError(f"The text has {len(job.characters):,} different characters, more than a "
                         "message to a peer can name: leave out what is not text.") from None
