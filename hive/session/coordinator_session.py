"""The coordinator's side of every conversation, and the rounds they make up: all its rules, pure.

It is told what happened and answers with effects, in the order in which they must happen. It knows
no sockets, clocks, threads or files, and never looks inside of weights: `coordinator.py` and
`simulate.py` are its hosts. Every call ends with `_follow_up`, which sees what is due now: a task,
the end of a round, an evaluation, the end of the run.
"""
from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Deque, Dict, Iterable, List, NamedTuple, Optional, Protocol, Tuple

from gltch_2_7m import GltchError, Unwritable
from hive.learning.fragments import Fragments
from hive.session import messages, protocol
from hive.session.effects import (
    Close,
    CoordinatorEffect,
    Do,
    Event,
    Fail,
    Finish,
    Moment,
    Pause,
    Proved,
    Say,
    Send,
    SendBlob,
)
from hive.session.job import Job
from hive.session.ledger import Ledger
from hive.session.library import Library
from hive.session.log import Log
from hive.session.protocol import Message, ProtocolError, Receiver, demand
from hive.session.reception import Arrival, Identity, Later, Reception
from hive.session.record import Contribution, Made, Record
from hive.session.rounds import ACCEPTED, REJECTED, STALEST, Pace, Rounds, Verdict
from hive.session.schema import Member, PeerState
from hive.session.standing import RECENT, Standing, believed_tokens, least_seconds
from hive.session.uploads import Uploads, Wanted

FAREWELL_SECONDS = 10.0  # for peers to hear that the run is over
STATUS_SECONDS = 5.0  # between status messages; a peer that hears nothing for long reconnects
REMEMBERED_UPDATES = 16  # rounds that a returning peer may have missed and still catch up with
MOST_WAITING = 256  # messages for one peer
SNAPSHOT_EVERY = 10  # rounds for each part of the weights
EVALUATION_SHARE = 0.25  # of the time may go into evaluations while the run goes on
RETRY_SECONDS = 2.0  # until what could not be written is tried again
MOST_WINDOWS = 1 << 40  # then the peers' windows begin again at the first
LOSS_FACTOR = 4.0  # times the loss of pure guessing, ln(vocabulary), is no loss but a breakdown
MOST_FETCHES = 3  # times that a connection may begin to fetch the same thing
MOST_TRANSFERS = 2  # to one peer, waiting or on their way; an honest one asks for the next later
LINES, LINES_RATE = 100, 1.0  # of each kind in the log: at once, and a second in the long run
UPDATES, EVALUATIONS = "updates", "evaluations"  # lanes


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
    fetched: Counter[str] = field(default_factory=Counter)  # how often, by name
    laps: Deque[Tuple[int, float]] = field(  # characters and seconds of its latest updates
        default_factory=lambda: deque(maxlen=RECENT))

    @property
    def peer(self) -> str:
        return self.identity.peer

    @property
    def speed(self) -> float:
        """Characters per second while it trains, as it measured them; 0 before its first update.
        Over as many updates as the hive's own speed, so that the two can be compared."""
        seconds = sum(seconds for _, seconds in self.laps)
        return sum(characters for characters, _ in self.laps) / max(seconds, 1e-3)


class Delivery(NamedTuple):
    """An update that is completely there, while it is being added."""

    link: Link
    said: messages.Offer
    size: int
    tokens: int
    stale: int  # rounds that it came late


class Combined(Protocol):
    """What the slow work "combine" makes of the updates: `learning.outer.Committed` is one."""

    @property
    def codec(self) -> str: ...
    @property
    def update(self) -> bytes: ...
    @property
    def base(self) -> str: ...
    @property
    def weights(self) -> Any: ...
    @property
    def result(self) -> str: ...


class Measurement(NamedTuple):
    """An evaluation that is being made."""

    version: int
    step: int
    began: float


class Work(NamedTuple):
    """What the end of slow work leads to."""

    then: Callable[[Any], None]
    unwritable: Callable[[Unwritable], None]
    rejected: Callable[[GltchError], None]


class Writing(NamedTuple):
    """What has to be written, sooner or later, and what that leads to."""

    name: str  # for people
    lane: str
    what: str
    values: Tuple[Any, ...]
    then: Callable[[], None]


class CoordinatorSession:
    def __init__(self, job: Job, ledger: Ledger, weights: Any, weights_hash: str, *,
                 parameters: int, update_bytes: Callable[[int], int], token: Callable[[], str],
                 pack_weights: Callable[[Any], bytes], text: Callable[[], bytes], key: str = "",
                 pace: Optional[Pace] = None, least: int = 1, eval_every: Optional[int] = None):
        self.job, self.ledger, self.eval_every = job, ledger, eval_every
        self.described = job.as_json()  # once, for all welcomes
        self.parameters, self.pack_weights = parameters, pack_weights
        self.now = Moment(0.0, 0.0)
        self.effects: List[CoordinatorEffect] = []
        self.ending = self.over = False  # the run is; nothing follows any more
        # who is there
        self.reception = Reception(job, ledger, token, key)
        self.links: Dict[int, Link] = {}  # who is proved
        self.arriving: Dict[int, Arrival] = {}  # of these, who has no welcome yet
        self.peers: Dict[str, Link] = {}  # the others
        self.asked: Counter[str] = Counter()  # by peer: characters since its work last counted
        # the run
        version, _, self.step = ledger.head()
        past = ledger.history()
        self.standing = Standing(ledger.contributors(), ledger.reasons(), past)
        self.seconds = sum(row["committed"] - row["opened"] for row in past)  # spent training
        self.windows = self.standing.tokens // job.config.block_size % MOST_WINDOWS
        self.loss = past[-1]["loss"] if past else math.nan
        evaluations = ledger.evaluations()
        self.val_loss = evaluations[-1][1] if evaluations else math.nan
        self.best = min((loss for _, loss in evaluations), default=math.inf)
        self.evaluated = evaluations[-1][0] if evaluations else -1
        self.finished = (job.limits.reached(self.step, version, self.seconds)
                         or self._good_enough(self.best))
        # the round
        self.fragments = len(Fragments(parameters, job.sync.fragments))
        self.rounds = Rounds(version, weights_hash, pace or Pace(), least, self.fragments)
        self.update_bytes = update_bytes  # by the number of the round
        self.uploads = Uploads(max(map(update_bytes, range(1, self.fragments + 1))))
        self.contributions: List[Contribution] = []  # since the last round closed
        self.adding: Dict[str, Delivery] = {}  # by peer
        self.committing = False
        self.opened: Optional[float] = None  # the round began
        self.stirred = True  # something happened that may open or close a round
        self._begin_round(version, weights, weights_hash)
        self.library = Library(job.text, text, REMEMBERED_UPDATES)  # what peers may fetch
        # slow work, and what is said of it
        self.ticket = 0
        self.works: Dict[int, Work] = {}
        self.retries: Deque[Tuple[float, Writing]] = deque()  # the earliest first
        self.unwritten: Dict[str, str] = {}  # what waits until it can be written, and why
        self.snapshot_due = self.saving = False
        self.measuring: Optional[Measurement] = None
        self.log = Log(LINES, LINES_RATE)
        # what is due when
        self.status_at = self.round_at = self.patience = math.inf
        self.evaluation_at = -math.inf

    # What its host tells

    def begin(self, now: Moment) -> List[CoordinatorEffect]:
        self.status_at = now.steady + STATUS_SECONDS
        return self._react(now)

    def connected(self, link: int, address: str, now: Moment) -> List[CoordinatorEffect]:
        return self._react(now, self._challenge, link, address)

    def heard(self, link: int, message: Message, now: Moment, waiting: int = 0,
              blobs: int = 0) -> List[CoordinatorEffect]:
        """`waiting`: how many messages the link has not taken yet; `blobs`: also those that it has
        taken a part of."""
        return self._react(now, self._attempt, link, self._hear, link, message, waiting, blobs)

    def chunk(self, link: int, content: bytes, now: Moment,
              waiting: int = 0) -> List[CoordinatorEffect]:
        return self._react(now, self._attempt, link, self._take_chunk, link, content, waiting)

    def broken(self, link: int, reason: str, now: Moment) -> List[CoordinatorEffect]:
        """It sent what is no message of the protocol."""
        return self._react(now, self._refuse, link, reason)

    def admitted(self, link: int, now: Moment) -> List[CoordinatorEffect]:
        """Who is proved has got a place."""
        return self._react(now, self._write_down, link)

    def lost(self, link: int, now: Moment) -> List[CoordinatorEffect]:
        return self._react(now, self._leave, link)

    def done(self, ticket: int, result: Any, now: Moment) -> List[CoordinatorEffect]:
        return self._react(now, self.works.pop(ticket).then, result)

    def failed(self, ticket: int, error: GltchError, now: Moment) -> List[CoordinatorEffect]:
        work = self.works.pop(ticket)
        if isinstance(error, Unwritable):
            return self._react(now, work.unwritable, error)
        return self._react(now, work.rejected, error)

    def wake(self, now: Moment) -> List[CoordinatorEffect]:
        return self._react(now)

    def stop(self, now: Moment) -> List[CoordinatorEffect]:
        """Keep what there is, and end; the run may go on some day."""
        return self._react(now, self._stop)

    @property
    def deadline(self) -> float:
        """When `wake` wants to be called."""
        if self.over:
            return math.inf
        retry = self.retries[0][0] if self.retries else math.inf
        evaluation = self.evaluation_at if self._evaluation_waits() else math.inf
        return min(self.reception.deadline, retry, evaluation, self.round_at, self.status_at,
                   self.patience)

    # How it answers

    def _react(self, now: Moment, act: Optional[Callable[..., None]] = None,
               *values: Any) -> List[CoordinatorEffect]:
        self.now = now
        if act:
            act(*values)
        if not self.over:
            self._follow_up()
        effects, self.effects = self.effects, []
        return effects

    def _attempt(self, number: int, act: Callable[..., None], *values: Any) -> None:
        """The one place where what goes wrong in a conversation has its consequences."""
        try:
            act(*values)
        except ProtocolError as error:
            self._refuse(number, str(error))
        except Later as error:
            self._close(number, 1013, str(error))
        except Unwritable:  # a round that cannot be written says so by itself
            self._turn_away(number)
        except GltchError as error:  # the record is damaged
            self._fail(error)

    def _refuse(self, number: int, reason: str) -> None:
        link, stranger = self.links.get(number), self.reception.strangers.get(number)
        who = link.identity.name if link else stranger.address if stranger else ""
        if who:  # or it is gone already
            self._say("refused", f"{who}: {reason}")
            self._send(number, "refused", reason=reason)
            self._close(number, 1008)

    def _turn_away(self, number: int) -> None:
        self._close(number, 1013, "The coordinator's disk takes nothing just now.")

    def _close(self, number: int, code: int, reason: str = "") -> None:
        if number in self.links or number in self.reception.strangers:  # or it is gone already
            self.effects.append(Close(number, code, reason))
            self._leave(number)

    def _send(self, number: int, kind: str, **values: Any) -> None:
        self.effects.append(Send(number, {"type": kind, **values}))

    def _send_all(self, kind: str, **values: Any) -> None:
        message = {"type": kind, **values}  # one, so that it need not be packed for each
        self.effects += [Send(link.number, message) for link in self.peers.values()]

    def _tell(self, kind: str, **fields: Any) -> None:
        self.effects.append(Event(kind, fields))

    def _say(self, kind: str, text: str) -> None:
        """A line in the log, unless there were too many of this kind lately."""
        line = self.log.line(kind, text, self.now.steady)
        if line is not None:
            self.effects.append(Say(kind, line))

    def _fail(self, error: Exception) -> None:
        self.effects.append(Fail(error))
        self.over = True

    # Slow work

    def _ask(self, lane: str, what: str, *values: Any, then: Callable[[Any], None],
             unwritable: Optional[Callable[[Unwritable], None]] = None,
             rejected: Optional[Callable[[GltchError], None]] = None) -> None:
        self.ticket += 1
        self.works[self.ticket] = Work(then, unwritable or self._fail, rejected or self._fail)
        self.effects.append(Do(self.ticket, lane, what, values))

    def _write(self, writing: Writing) -> None:
        """Have something written; while the disk does not take it, try again and again."""
        self._ask(writing.lane, writing.what, *writing.values, then=partial(self._written, writing),
                  unwritable=partial(self._try_later, writing))

    def _written(self, writing: Writing, _: None) -> None:
        if self.unwritten.pop(writing.name, ""):
            self._say("goes on", f"the {writing.name} is written")
        writing.then()

    def _try_later(self, writing: Writing, error: Unwritable) -> None:
        reason = f"{error} The run goes on when there is room."
        if self.unwritten.get(writing.name) != reason:
            self.unwritten[writing.name] = reason
            self._say("waiting", reason)
        self.retries.append((self.now.steady + RETRY_SECONDS, writing))

    # What is due now

    def _follow_up(self) -> None:
        self._time_out_strangers()
        self._retry()
        self._send_status()
        if self.stirred or self.now.steady >= self.round_at:
            self._see_to_the_round()
        self._combine()
        if self._evaluation_waits() and self.now.steady >= self.evaluation_at:
            self._evaluate()
        if self.finished:
            self._wind_up()

    def _time_out_strangers(self) -> None:
        for number in self.reception.too_late(self.now.steady):
            self._close(number, 1008, "The handshake took too long.")

    def _retry(self) -> None:
        while self.retries and self.retries[0][0] <= self.now.steady:
            self._write(self.retries.popleft()[1])

    def _send_status(self) -> None:
        if self.now.steady < self.status_at:
            return
        self.status_at = self.now.steady + STATUS_SECONDS
        self._send_all("status", version=self.rounds.version, peers=len(self.peers),
                       loss=finite(self.loss), val_loss=finite(self.val_loss))
        self._call_next()  # somebody may have stalled

    def _see_to_the_round(self) -> None:
        self.stirred = False
        if not self.finished:
            self._hand_out_tasks()
            if self.rounds.close(self.now.steady):
                self._tell("closed", version=self.rounds.version)
        deadline = self.rounds.deadline
        self.round_at = deadline if deadline > self.now.steady else math.inf

    def _stop(self) -> None:
        self.over = True
        self._ask(UPDATES, "snapshot", then=lambda _: self._finish(""))

    # The end of the run

    def _wind_up(self) -> None:
        """One thing after the other: the last commit, evaluation and snapshot, farewell."""
        if self.rounds.closed or self.measuring:
            return
        if self.evaluated != self.rounds.version:
            self._evaluate()
        elif not self.ending:
            self.ending = True
            self._tell("finished", reason=self.finished)
            self._write(Writing("snapshot", UPDATES, "snapshot", (), self._say_farewell))
        elif self.patience <= self.now.steady or self.patience < math.inf and not self.peers:
            self._finish(self.finished)

    def _say_farewell(self) -> None:
        self.patience = self.now.steady + FAREWELL_SECONDS
        self._send_all("finished", reason=self.finished)

    def _finish(self, reason: str) -> None:
        self.effects.append(Finish(reason))
        self.over = True

    # Peers come

    def _challenge(self, number: int, address: str) -> None:
        challenge = self.reception.challenge(number, address, self.now.steady)
        self.effects.append(Send(number, challenge))

    def _on_hello(self, number: int, hello: Any) -> None:
        here = [link.identity for link in self.links.values()]
        arrival = self.reception.meet(number, hello, here, self.standing.contributors,
                                      self.now.steady)
        self.arriving[number] = arrival
        self.links[number] = Link(number, arrival.identity, self.now.unix, self.now.steady)
        self.effects.append(Proved(number))

    def _write_down(self, number: int) -> None:
        """It has a place; its identity has to be known when it comes back."""
        if number in self.arriving:
            (peer, name, device, _), _, token_hash, _ = self.arriving[number]
            self._ask(UPDATES, "remember_peer", peer, name, token_hash, device, self.now.unix,
                      then=lambda _: self._attempt(number, self._enter, number),
                      unwritable=lambda _: self._turn_away(number))

    def _enter(self, number: int) -> None:
        """From now on it takes part. A connection of the same process that was not yet found dead
        makes way."""
        if number not in self.arriving:
            return  # it did not wait
        (peer, name, device, _), token, _, proof = self.arriving.pop(number)
        counted = self.ledger.last_counted(peer)
        if peer in self.peers:
            self._close(self.peers[peer].number, 1000)
        link = self.peers[peer] = self.links[number]
        self.standing.join(peer, name, device, self.now.unix)
        self.rounds.join(peer)
        self._tell("joined", peer=self.about(link))
        self._say("joined", f"{name} ({device})")
        self._send(number, "welcome", proof=proof, peer=peer, name=name, token=token,
                   counted=counted, job=self.described)

    def _leave(self, number: int) -> None:
        self.reception.strangers.pop(number, None)
        self.arriving.pop(number, None)
        link = self.links.pop(number, None)
        if link is None or self.peers.get(link.peer) is not link:
            return
        del self.peers[link.peer]
        self.rounds.leave(link.peer)
        self.uploads.leave(link.peer)
        self._call_next()
        self._tell("left", peer=link.peer)
        waits = not (self.peers or self.finished or self.over)
        self._say("left", f"{link.identity.name}" + waits * "; nobody is left, the run waits")
        self.stirred = True

    # What they say

    def _hear(self, number: int, said: Message, waiting: int, blobs: int) -> None:
        if number in self.reception.strangers:
            self._on_hello(number, said)
            return
        link = self._speaker(number, waiting)
        if link is None:
            return
        answers: Dict[str, Callable[[Link, Any], None]] = {  # unpacked, so of their kind
            "ready": self._on_ready, "offer": self._on_offer,
            "fetch": partial(self._on_fetch, blobs), "progress": self._on_progress,
            "goodbye": self._on_goodbye}
        kind = said["type"]
        demand(kind in answers, f"A peer does not send {kind} messages.")
        answers[kind](link, said)

    def _take_chunk(self, number: int, content: bytes, waiting: int) -> None:
        demand(number not in self.reception.strangers, "A control message was expected.")
        link = self._speaker(number, waiting)
        if link is not None:
            self._on_chunk(link, content)

    def _speaker(self, number: int, waiting: int) -> Optional[Link]:
        """None: this connection was closed, and what still comes from it is of no interest."""
        demand(number not in self.arriving, "A peer waits for its welcome.")
        demand(waiting < MOST_WAITING, "The peer asks for more than it takes.")
        return self.links.get(number)

    def _on_ready(self, link: Link, said: messages.Ready) -> None:
        """The peer holds these weights. If they are old it gets what is missing."""
        link.batch_size = said["batch_size"]
        version, weights = said["version"], said["weights"]
        if weights and self.rounds.ready(link.peer, version, weights):
            self.stirred = True
            return
        near = 0 < self.rounds.version - version <= REMEMBERED_UPDATES
        missed = self._missed(version) if near else []
        if near and weights == self.ledger.at(version)[0] and (
                sum(one.bytes for one in missed) < 4 * self.parameters):
            counted = self.ledger.last_counted(link.peer)
            for one in missed:
                if one.update not in self.library:
                    self._remember(one.update, self.ledger.update(one.number)[1])
                self.effects.append(Send(link.number, commit_message(one, counted == one.number)))
            return
        self._tell_version(link)

    def _missed(self, version: int) -> List[Made]:
        """The rounds after this one. The newest may be on the disk before this session knows: it is
        told to all at once."""
        return [one for one in self.ledger.updates_since(version)
                if one.number <= self.rounds.version]

    def _tell_version(self, link: Link) -> None:
        """Offer the newest weights as a whole."""
        self.library.offer_weights(self.rounds.weights, partial(self.pack_weights, self.weights))
        self._send(link.number, "version", version=self.rounds.version,
                   weights=self.rounds.weights, step=self.step,
                   counted=self.ledger.last_counted(link.peer))

    def _on_fetch(self, blobs: int, link: Link, said: messages.Fetch) -> None:
        blob, offset = said["blob"], said["offset"]
        found = self.library.find(blob)
        if found is None:  # it took so long that this is history; it will ask for what is new
            self._send(link.number, "gone", blob=blob)
            return
        demand(offset <= len(found.content), "A transfer cannot begin behind its end.")
        link.fetched[blob] += 1
        demand(link.fetched[blob] <= MOST_FETCHES, "The peer asks for the same again and again.")
        demand(blobs < MOST_TRANSFERS, "The peer asks for more than it takes.")
        self.effects.append(SendBlob(link.number, found.what, blob, found.content, offset))

    def _on_progress(self, link: Link, said: messages.Progress) -> None:
        link.steps = said["steps"]

    def _on_goodbye(self, link: Link, said: Message) -> None:
        self._close(link.number, 1000)

    def _remember(self, blob: str, content: bytes) -> None:
        for old in self.library.remember(blob, content):
            for link in self.peers.values():
                link.fetched.pop(old, None)

    # Updates arrive

    def _on_offer(self, link: Link, said: messages.Offer) -> None:
        if link.peer in self.adding:
            return  # it reconnected; the verdict comes when it is reached
        if (link.peer in self.rounds.delivered
                or self.ledger.last_counted(link.peer) > said["version"]):
            # It reconnected before it heard; the commit will tell, or is already on its way.
            self._send_verdict(link, said, Verdict(ACCEPTED))
            return
        now = self.now.steady
        verdict = self.rounds.offer(link.peer, said["version"], said["weights"], said["steps"], now)
        wrong = self._implausible(said)
        if verdict.verdict == ACCEPTED and wrong:
            verdict = Verdict(REJECTED, wrong)
            self.rounds.withdraw(link.peer)
        if verdict.verdict != ACCEPTED:
            self._judge(link, said, verdict)
            return
        link.offer = said
        wanted = Wanted(said["version"], said["update"], said["bytes"])
        receiver = self.uploads.begin(link.peer, wanted, now)
        if receiver is not None:
            self._receive(link, said, receiver)

    def _implausible(self, said: messages.Offer) -> str:
        """What no honest peer would offer, in words; empty if there is nothing."""
        loss, most = said["loss"], LOSS_FACTOR * math.log(max(2, len(self.job.characters)))
        if loss is not None and loss > most:
            return f"A loss of {loss:.4g} nats is far above guessing: training broke down."
        size = self.update_bytes(said["version"] + 1)
        if said["bytes"] != size:
            return f"An update of this hive has {size:,} bytes, not {said['bytes']:,}."
        return ""

    def _receive(self, link: Link, said: messages.Offer, receiver: Receiver) -> None:
        """Let it send its update, from where an interrupted transfer stopped."""
        self._send(link.number, "send", blob=receiver.blob, offset=len(receiver.content))
        if receiver.complete:
            self._deliver(link, said, receiver)

    def _call_next(self) -> None:
        """Those who wait with an update may send it when others have done so."""
        for peer, receiver in self.uploads.turns(self.now.steady):
            self._send(self.peers[peer].number, "send", blob=receiver.blob, offset=0)

    def _on_chunk(self, link: Link, content: bytes) -> None:
        receiver = self.uploads.add(link.peer, content, self.now.steady)
        if receiver is None or link.offer is None:
            raise ProtocolError("A chunk came that belongs to no transfer.")
        self._tell("transfer", peer=link.peer, direction="up", content="update",
                   bytes=len(content))
        if receiver.complete:
            self._deliver(link, link.offer, receiver)

    def _deliver(self, link: Link, said: messages.Offer, receiver: Receiver) -> None:
        """The whole update is there: it counts if the round is open and the outer step admits it.
        """
        link.offer = None
        self.uploads.drop(link.peer)
        self._call_next()
        content = receiver.result()
        now = self.now.steady
        stale = self.rounds.version - said["version"]
        verdict = self.rounds.deliver(link.peer, said["version"], said["weights"], said["steps"],
                                      now)
        if verdict.verdict != ACCEPTED:
            self._judge(link, said, verdict)
            return
        self.opened = now if self.opened is None else self.opened
        tokens = self._believed(link, said)
        weight = tokens / (1 + stale)  # what starts from old weights fits the new ones less
        delivery = self.adding[link.peer] = Delivery(link, said, len(content), tokens, stale)
        self._ask(UPDATES, "add", said["codec"], content, weight, said["steps"],
                  then=partial(self._count, delivery), rejected=partial(self._reject, delivery))

    def _believed(self, link: Link, said: messages.Offer) -> int:
        """Characters that it trained on, as far as it was asked to and had the time for it. What it
        carried over from updates that came too late was asked for earlier."""
        made = said["steps"] * link.batch_size * self.job.config.block_size
        claimed = min(said["tokens"], max(made, self.asked[link.peer]))
        return believed_tokens(claimed, self.now.steady - link.counted_at, self.parameters)

    def _count(self, delivery: Delivery, weight: float) -> None:
        """It was added, with this weight, to what the round will commit."""
        link, said, size, tokens, stale = delivery
        del self.adding[link.peer]
        loss = math.nan if said["loss"] is None else said["loss"]
        least = least_seconds(tokens, self.parameters)
        link.laps.append((tokens, max(said["seconds"], least)))
        self.asked.pop(link.peer, None)
        self.reception.please(link.peer)
        self.contributions.append(Contribution(
            link.peer, link.identity.name, said["steps"], tokens, loss, weight, size, "counted",
            f"{stale} rounds late" if stale else ""))
        self._send_verdict(link, said, Verdict(ACCEPTED))
        self.stirred = True

    def _reject(self, delivery: Delivery, error: GltchError) -> None:
        """It was not added: it would do the weights no good."""
        link, said, *_ = delivery
        del self.adding[link.peer]
        self.rounds.reject(link.peer)
        self.stirred = True
        current = self.peers.get(link.peer, link)  # it may have another connection by now
        self._attempt(current.number, self._judge, current, said, Verdict(REJECTED, str(error)))

    def _judge(self, link: Link, said: messages.Offer, verdict: Verdict) -> None:
        """Tell a peer, and write down, that its update does not count. Raises ProtocolError when
        that was one too many."""
        self.uploads.drop(link.peer)
        once = [c for c in self.contributions
                if (c.peer, c.verdict) != (link.peer, verdict.verdict)]
        self.contributions = [*once, Contribution(
            link.peer, link.identity.name, said["steps"], said["tokens"], math.nan, 0.0, 0,
            verdict.verdict, verdict.reason)]
        self.standing.refuse(link.peer, verdict.verdict, verdict.reason, self.now.unix)
        self._tell("refused", peer=link.peer, verdict=verdict.verdict, reason=verdict.reason)
        self._send_verdict(link, said, verdict)
        if verdict.verdict == REJECTED:
            self._say("rejected", f"{link.identity.name}: {verdict.reason}")
            pause = self.reception.disappoint(link.peer, verdict.reason, self.now.steady)
            if link.number in self.links:  # or it did not wait for the verdict
                self.effects.append(Pause(link.number, pause))

    def _send_verdict(self, link: Link, said: messages.Offer, verdict: Verdict) -> None:
        current = self.peers.get(link.peer)  # it may be gone, or have another connection by now
        if current:
            self._send(current.number, "verdict", version=said["version"],
                       verdict=verdict.verdict, reason=verdict.reason)

    # Rounds

    def _begin_round(self, version: int, weights: Any, name: str) -> None:
        self.weights = weights
        self.total = self.job.limits.total(self.step, version, self.seconds)
        self.rounds.open_round(version, name,
                               self.job.sync.quota(self.step, self.total, self.job.recipe),
                               self.total and max(1, self.total - self.step))
        self.opened = None
        self.uploads.forget(version - STALEST)
        self.stirred = True

    def _hand_out_tasks(self) -> None:
        before = self.rounds.plan
        tasks = self.rounds.tasks(self.now.steady)
        plan = self.rounds.plan
        if plan is not None and plan is not before:  # also when nobody made it and all begin again
            self.opened = self.now.steady
            self._tell("opened", version=self.rounds.version, quota=plan.quota,
                       seconds=plan.seconds)
        for peer, task in tasks.items():
            link = self.peers[peer]
            link.steps = 0
            self._send(link.number, "train", version=task.version, weights=self.rounds.weights,
                       step=self.step, total=self.total, quota=task.quota, seconds=task.seconds,
                       window=self.windows)
            self.windows = (self.windows + task.quota * link.batch_size) % MOST_WINDOWS
            self.asked[peer] += task.quota * link.batch_size * self.job.config.block_size

    def _combine(self) -> None:
        """Once the round is closed and everything that was delivered in it has been added."""
        if self.rounds.closed and not self.adding and not self.committing:
            self.committing = True
            self._ask(UPDATES, "combine", then=self._keep)

    def _keep(self, committed: Optional[Combined]) -> None:
        """Have the round written down; None: nothing of it could be used, it goes on."""
        if committed is None:
            self.committing, self.stirred = False, True
            self.rounds.reopen()
            return
        contributions, self.contributions = tuple(self.contributions), []
        counted = [c for c in contributions if c.verdict == "counted"]
        self.loss = weighted_mean((c.loss, c.weight) for c in counted if math.isfinite(c.loss))
        step = self.step + max(1, round(weighted_mean((c.steps, c.weight) for c in counted)))
        record = Record(self.rounds.version + 1, committed.base, committed.result, committed.codec,
                        committed.update, step, self.loss, self.now.unix - self._length(),
                        self.now.unix, contributions)
        self._write(Writing("round", UPDATES, "keep", (record, committed),
                            partial(self._commit, record, committed.weights)))

    def _length(self) -> float:
        """Seconds of the round so far, at most as long as it was planned: a machine that slept did
        not train, and the clock on the wall may be set."""
        passed = 0.0 if self.opened is None else self.now.steady - self.opened
        return min(passed, self.rounds.longest)

    def _commit(self, record: Record, weights: Any) -> None:
        """The round is on the disk, so peers may hear that their updates counted: those who are
        here now; whoever comes later hears it from the ledger, which knows nothing sooner."""
        self.committing = False
        self.standing.count(record)
        self.step, self.seconds = record.step, self.seconds + record.committed - record.opened
        name = protocol.name_of(record.update)  # once, not for every peer
        self._remember(name, record.update)
        counted = {c.peer for c in record.contributions if c.verdict == "counted"}
        made = Made(record.number, record.codec, record.result, name, len(record.update),
                    record.step)
        said = {each: commit_message(made, each) for each in (False, True)}
        for link in self.peers.values():
            if link.peer in counted:
                link.counted_at = self.now.steady
            link.fetched.pop(name, None)  # an update may be the same as an earlier one
            self.effects.append(Send(link.number, said[link.peer in counted]))
        self.finished = self.finished or self.job.limits.reached(self.step, record.number,
                                                                 self.seconds)
        self._begin_round(record.number, weights, record.result)
        self._tell(
            "committed", version=record.number, step=record.step, total=self.total,
            loss=record.loss, opened=record.opened, committed=record.committed,
            contributions=[{
                "peer": c.peer, "name": c.name, "steps": c.steps, "tokens": c.tokens,
                "loss": c.loss, "bytes": c.bytes, "verdict": c.verdict, "reason": c.reason,
            } for c in record.contributions])
        self.snapshot_due = self.snapshot_due or record.number % (
            SNAPSHOT_EVERY * self.fragments) == 0
        self._snapshot()

    def _snapshot(self) -> None:
        """While the peers train. It only shortens the way back after a restart: when it cannot be
        written, the next round tries again."""
        def saved(_: None) -> None:
            self.saving = self.snapshot_due = False

        def not_saved(error: Unwritable) -> None:
            self.saving = False
            self._say("snapshot", f"{error} The next round tries again.")

        if self.snapshot_due and not self.saving:
            self.saving = True
            self._ask(UPDATES, "snapshot", then=saved, unwritable=not_saved)

    # Evaluation

    def _evaluation_waits(self) -> bool:
        """Are there weights to measure that have not been measured?"""
        version, every = self.rounds.version, self.eval_every
        return (not self.measuring and not self.finished and version != self.evaluated
                and (every is None or version > 0 and version % every == 0))

    def _evaluate(self) -> None:
        """Validation loss, a sample and a checkpoint of the weights as they are now."""
        self.measuring = Measurement(self.rounds.version, self.step, self.now.steady)
        self._ask(EVALUATIONS, "evaluate", self.weights, self.rounds.version, self.step,
                  then=partial(self._keep_evaluation, self.measuring))

    def _keep_evaluation(self, about: Measurement, result: Tuple[float, float, str, Any]) -> None:
        self.val_loss, seconds, text, state = result
        names = ["best.pt", "last.pt"] if self.val_loss < self.best else ["last.pt"]
        checkpoint = Writing("checkpoint", EVALUATIONS, "keep_checkpoint", (state, names),
                             partial(self._end_evaluation, about, text))
        self._write(Writing("evaluation", EVALUATIONS, "keep_evaluation",
                            (about.version, self.val_loss, seconds, text),
                            partial(self._write, checkpoint)))

    def _end_evaluation(self, about: Measurement, text: str) -> None:
        self.measuring, self.evaluated = None, about.version
        self.best = min(self.best, self.val_loss)
        self._tell("evaluated", version=about.version, step=about.step, val_loss=self.val_loss,
                   best_val_loss=self.best, text=text)
        self.finished = self.finished or self._good_enough(self.val_loss)
        if self.eval_every is None:  # so that evaluations take no more than a share of the time
            share = EVALUATION_SHARE if self.job.limits.target_loss is None else 1.0
            self.evaluation_at = self.now.steady + (self.now.steady - about.began) * (1 / share - 1)
        self.stirred = True

    def _good_enough(self, val_loss: float) -> str:
        target = self.job.limits.target_loss
        if target is None or not val_loss <= target:
            return ""
        return f"the target loss of {target:g} is reached, with {val_loss:.4f}"

    # What others may know

    def doing(self, link: Link) -> Tuple[PeerState, int, int]:
        """(state, steps done, of how many)."""
        plan = self.rounds.plan
        return self.rounds.members[link.peer].state, link.steps, plan.quota if plan else 0

    def about(self, link: Link) -> Member:
        """A peer, for the dashboard."""
        known = self.standing.contributors[link.peer]
        state, steps, quota = self.doing(link)
        return {
            "peer": link.peer, "name": link.identity.name, "device": link.identity.device,
            "kind": known["kind"], "state": state, "steps": steps, "quota": quota,
            "speed": link.speed, "joined": link.joined, "share": self.standing.share(link.peer),
            "tokens": known["tokens"], "counted": known["counted"], "late": known["late"],
            "rejected": known["rejected"], "reason": known["reason"]}


def commit_message(made: Made, counted: bool) -> Message:
    return {"type": "commit", "version": made.number, "weights": made.result, "codec": made.codec,
            "step": made.step, "update": made.update, "bytes": made.bytes, "counted": counted}


def weighted_mean(pairs: Iterable[Tuple[float, float]]) -> float:
    """Mean of (value, weight) pairs, NaN when there are none."""
    known = list(pairs)
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else math.nan


def finite(value: float) -> Optional[float]:
    return value if abs(value) <= 1e6 else None  # JSON knows no NaN
