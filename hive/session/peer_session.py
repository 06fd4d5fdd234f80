"""The peer's side of the conversation: what it says, what it holds, and what it waits for.

One session lives as long as its process and goes through any number of connections. It takes what
it is told in the order in which it was said, one after the other; what comes while it fetches or
works waits in a bounded inbox.
"""
from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial, wraps
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Tuple, Union

from gltch_2_7m import GltchError, require
from hive.learning.codec import CODECS
from hive.learning.fragments import Fragments
from hive.network.words import shown
from hive.session import effects, messages, protocol
from hive.session.effects import Moment, PeerEffect
from hive.session.job import Job
from hive.session.protocol import Message, ProtocolError, Receiver, demand
from hive.session.rounds import ACCEPTED, LATE, REJECTED

SILENCE_SECONDS = 45.0  # without a word from the coordinator: the connection is dead
PROGRESS_SECONDS = 1.0  # between two reports from within a round
MOST_KEPT = 256  # messages that wait while this peer trains or fetches
LATER = ("version", "commit", "train", "send", "verdict", "status", "finished")  # may wait
REASON = 1000  # characters of what the coordinator gives as a reason, at most
MOST_FAILURES = 3  # rounds in a row whose loss was not finite


class Identity(NamedTuple):
    """As whom a hive knows this peer."""

    token: Optional[str]  # None: not yet
    name: str


class Held(NamedTuple):
    """The hive's weights, as this peer has them."""

    version: int
    hash: str  # their SHA-256
    weights: Any


NOTHING = Held(0, "", None)


@dataclass
class Pending:
    """An update on its way: nobody knows yet whether it counts."""

    version: int  # of the weights it starts from
    weights: str  # their SHA-256
    codec: str
    update: bytes
    work: Any  # learning.worker.Work; with the tokens of earlier updates that did not count
    offered: float = -math.inf  # when this was last told, or sent; inf while it is being sent
    sent: bool = False  # since it was offered

    def __post_init__(self) -> None:
        self.blob = protocol.name_of(self.update)


class Network(NamedTuple):
    """What was built for a job."""

    parameters: int
    codec: str  # of its updates
    fragments: Fragments  # of its weights
    sequences: int  # in a step of this peer


class Wanted(NamedTuple):
    """A blob that was asked for on this connection."""

    blob: str
    limit: int  # bytes, at most
    since: float  # steady seconds
    then: Callable[[Optional[bytes]], None]  # None: the coordinator no longer has it


class Working(NamedTuple):
    """Slow work that the session waits for."""

    what: str
    then: Callable[[Any], None]


@dataclass
class Figures:
    """For the progress line."""

    peers: int = 1
    loss: float = math.nan
    val_loss: float = math.nan
    speed: float = 0.0  # characters a second


class Phase(Enum):
    AWAY = "no connection, or one that is given up"
    JOINING = "until the network is built"
    TAKING_PART = "it was welcome: from now on a new start may mend what goes wrong"


def told(happened: Callable[..., None]) -> Callable[..., List[PeerEffect]]:
    """What a host calls: the last argument is the time, and the answer what is to be done, in this
    order. The one place where a broken rule ends a conversation."""
    @wraps(happened)
    def react(session: PeerSession, *values: Any) -> List[PeerEffect]:
        session.now = values[-1]
        try:
            happened(session, *values)
        except GltchError as error:
            session.partial = None  # whatever was wrong, it is not gone on with
            passing = session.phase is not Phase.JOINING and isinstance(error, ProtocolError)
            session.close(effects.Leave(str(error)) if passing else effects.Refuse(str(error)))
        answer, session.effects = session.effects, []
        return answer
    return react


class PeerSession:
    """One peer over all its connections.

    `token` makes 64 random hexadecimal digits, `recall` tells as whom the peer was known to a hive
    before. `server` is how the coordinator is called in lines for people.
    """

    def __init__(self, name: str, *, token: Callable[[], str], key: str = "", device: str = "",
                 text: Optional[str] = None, process: Optional[str] = None,
                 batch_size: Optional[int] = None, server: str = "the hive",
                 recall: Callable[[str], Optional[Identity]] = lambda hive: None):
        self.asked_name, self.key, self.device, self.text = name, key, device, text
        self.batch_size, self.server = batch_size, server
        self.make_token, self.recall = token, recall
        self.process = process or token()
        self.hive, self.identity = "", Identity(None, name)
        self.job: Optional[Job] = None  # that the network is built for
        self.described: Any = None  # the same, as the coordinator told it
        self.network = Network(0, "", Fragments(0, 1), 0)
        self.joined = False  # ever
        self.held = NOTHING
        self.moved = False  # the network's weights are no longer those of the hive
        self.pending: Optional[Pending] = None
        self.carried = 0  # tokens whose update has not counted yet
        self.failures = 0
        self.partial: Optional[Receiver] = None  # a download, also one that was interrupted
        self.wanted: Optional[Wanted] = None
        self.figures = Figures()
        # this connection
        self.phase, self.settled = Phase.AWAY, False
        self.awaited: Tuple[str, ...] = ()  # kinds of message that are answered at once
        self.nonces = "", ""  # the coordinator's, this peer's
        self.inbox: Deque[Message] = deque()
        self.heard_at = self.told_at = -math.inf  # steady seconds
        # work and effects
        self.now = Moment(0.0, 0.0)
        self.tickets = 0
        self.work: Dict[int, Working] = {}
        self.effects: List[PeerEffect] = []

    @property
    def deadline(self) -> float:
        """When `wake` wants to be called, in steady seconds. Who works may not have listened."""
        if self.phase is Phase.AWAY or self.work:
            return math.inf
        return self.heard_at + SILENCE_SECONDS

    # Effects

    def tell(self, kind: str, **values: Any) -> None:
        self.effects.append(effects.Tell({"type": kind, **values}))

    def say(self, kind: str, text: str) -> None:
        self.effects.append(effects.Say(kind, text))

    def do(self, what: str, *values: Any, then: Optional[Callable[[Any], None]] = None) -> None:
        self.tickets += 1
        if then:
            self.work[self.tickets] = Working(what, then)
        self.effects.append(effects.Do(self.tickets, "work", what, values))

    def part(self) -> None:
        """What was on its way goes on with the next connection; work for this one is forgotten."""
        if self.training:
            self.effects.append(effects.StopTraining())
        self.phase, self.wanted, self.awaited = Phase.AWAY, None, ()
        self.work = {ticket: one for ticket, one in self.work.items()
                     if one.what not in ("text", "begin")}

    def close(self, effect: PeerEffect) -> None:
        """The last effect of a conversation."""
        self.part()
        self.effects.append(effect)

    @property
    def training(self) -> bool:
        return any(one.what == "train" for one in self.work.values())

    # A connection begins and ends

    @told
    def connected(self, now: Moment) -> None:
        self.phase, self.settled, self.awaited = Phase.JOINING, False, ("challenge",)
        self.inbox.clear()
        self.heard_at = now.steady

    def on_challenge(self, challenge: messages.Challenge) -> None:
        """Show that this peer has the key, and as whom it was here before."""
        if challenge["hive"] != self.hive:
            self.hive = challenge["hive"]
            self.identity = self.recall(self.hive) or Identity(None, self.asked_name)
        require(challenge["locked"] or not self.key, "This hive needs no key: leave it out, or "
                "check that this is the hive you meant.")
        self.nonces = nonce, own = challenge["nonce"], self.make_token()
        token = self.identity.token
        self.tell("hello", protocol=protocol.VERSION, nonce=own, name=self.identity.name,
                  proof=protocol.proof(self.key, "peer", nonce, own), device=self.device,
                  process=self.process, text=self.text,
                  token=token and protocol.possession(protocol.name_of(token.encode()), nonce, own))
        protocol.check_versions(protocol.VERSION, challenge["protocol"])
        self.awaited = ("welcome",)

    def on_welcome(self, welcome: messages.Welcome) -> None:
        """Check that the coordinator has the key, and learn what is trained."""
        protocol.check_welcome(welcome, self.key, *self.nonces)
        name = protocol.clean_name(welcome["name"], self.identity.name)
        self.identity = self.identity._replace(name=name)
        if welcome["token"]:  # a new identity; otherwise this peer is the one it was
            self.identity = Identity(welcome["token"], name)
            self.effects.append(effects.Keep(welcome["token"], name))
        if self.job is None or self.described != welcome["job"]:
            self.described = welcome["job"]
            self.begin(Job.from_json(welcome["job"]), NOTHING)
            return
        if self.pending and welcome["token"]:  # offered by another peer, it might count twice
            self.say("given up", "an update, because another process is the peer that made it")
            self.give_up_update()
        if self.pending and welcome["counted"] > self.pending.version:
            self.settle(counted=True)
        self.take_part()

    def begin(self, job: Job, held: Held) -> None:
        """Get the text, from the cache if it was here before, and build the network anew."""
        self.job = None
        self.do("text", job, then=partial(self.on_text, job, held))

    def on_text(self, job: Job, held: Held, content: Optional[bytes]) -> None:
        if content is None:
            self.fetch(job.text, job.text_bytes, partial(self.build, job, held))
        else:
            self.build(job, held, content)

    def build(self, job: Job, held: Held, content: Optional[bytes]) -> None:
        self.do("begin", job, content or b"", then=partial(self.built, job, held))

    def built(self, job: Job, held: Held, parameters: int) -> None:
        self.job, self.held = job, held
        self.network = Network(parameters, job.sync.up, Fragments(parameters, job.sync.fragments),
                               self.batch_size or job.recipe.batch_size)
        self.pending, self.carried, self.moved = None, 0, False
        self.say("network", f"{shown(job.size, 20)}: {parameters:,} parameters; "
                 f"{shown(job.mode, 20)}, {self.network.sequences} sequences a step")
        if self.phase is Phase.JOINING:
            self.take_part()
        else:  # after training broke down
            self.load()
            self.report()

    def take_part(self) -> None:
        self.phase, self.joined = Phase.TAKING_PART, True
        self.say("joined", f"{self.server} as {self.identity.name}")
        if self.pending:
            self.make_offer()
        else:
            self.report()

    @told
    def lost(self, now: Moment) -> None:
        """The connection is gone; perhaps because the run is over."""
        finished: List[Any] = [said for said in self.inbox if said["type"] == "finished"]
        self.inbox.clear()
        self.part()
        if finished:
            self.on_finished(finished[0])

    @told
    def stop(self, now: Moment) -> None:
        """Somebody wants this peer to go."""
        if self.phase is Phase.TAKING_PART:
            self.tell("goodbye")

    @told
    def wake(self, now: Moment) -> None:
        if now.steady >= self.deadline:
            self.close(effects.Leave("the coordinator has gone silent"))

    # Words

    @told
    def heard(self, said: Message, now: Moment) -> None:
        """Answer what was waited for; the rest comes in its turn."""
        kind, self.heard_at = said["type"], now.steady
        if self.phase is Phase.AWAY:
            return  # it was said to a conversation that is over
        if kind == "refused":
            raise ProtocolError(shown(said["reason"], REASON))
        if kind in self.awaited:
            self.awaited = ()
            getattr(self, f"on_{kind}")(said)
        else:
            self.keep(said)
        self.take_turns()
        if self.training and self.over():
            self.effects.append(effects.StopTraining())

    def keep(self, said: Message) -> None:
        """For its turn. Of what is said while this peer is busy, the newest status and not too much
        else."""
        demand(said["type"] in LATER, f"A coordinator does not send {said['type']} messages now.")
        if said["type"] == "status":
            self.inbox = deque(one for one in self.inbox if one["type"] != "status")
        demand(len(self.inbox) < MOST_KEPT, "The coordinator says more than it hears.")
        self.inbox.append(said)

    def take_turns(self) -> None:
        """Answer what was said, one after the other, until something takes time."""
        while self.inbox and self.phase is Phase.TAKING_PART and not self.work and not self.wanted:
            said = self.inbox.popleft()
            # Where there is something to do, the connection is a good one.
            if said["type"] not in ("status", "finished") and not self.settled:
                self.settled = True
                self.effects.append(effects.Settled())
            getattr(self, f"on_{said['type']}")(said)

    def over(self) -> bool:
        """Was it said that the round is over, or the run?"""
        return any(said["type"] in ("commit", "finished") for said in self.inbox)

    @told
    def broken(self, error: ProtocolError, now: Moment) -> None:
        """What came was no message at all."""
        if self.phase is not Phase.AWAY:
            raise error

    # Work

    @told
    def done(self, ticket: int, result: Any, now: Moment) -> None:
        self.heard_at = now.steady
        one = self.work.pop(ticket, None)
        if one:
            one.then(result)
            self.take_turns()

    @told
    def failed(self, ticket: int, error: GltchError, now: Moment) -> None:
        """Training may break down a few times: it begins again from the hive's weights."""
        self.heard_at = now.steady
        one, job = self.work.pop(ticket, None), self.job
        self.failures += 1
        if one is None or one.what != "train" or self.failures >= MOST_FAILURES:
            raise error
        self.say("trouble", f"{error} Starting again from the hive's weights.")
        self.job = None
        if job and self.phase is Phase.TAKING_PART:
            self.begin(job, self.held)

    # Downloads

    def fetch(self, blob: str, limit: int, then: Callable[[Optional[bytes]], None]) -> None:
        """Ask for a blob, or for the rest of one that was interrupted."""
        if self.partial and self.partial.blob != blob:
            self.partial = None
        self.wanted, self.awaited = Wanted(blob, limit, self.now.steady, then), (
            "blob", "gone")
        self.tell("fetch", blob=blob, offset=len(self.partial.content) if self.partial else 0)

    def on_blob(self, said: messages.Blob) -> None:
        wanted = self.asked(said["blob"])
        if self.partial is None:
            self.partial = Receiver(wanted.blob, said["bytes"], wanted.limit)
        demand(said["bytes"] == self.partial.size, "The coordinator changed the size of a transfer "
               "that was interrupted.")
        self.arrive(wanted, self.partial)

    def on_gone(self, said: messages.Gone) -> None:
        wanted, self.wanted, self.partial = self.asked(said["blob"]), None, None
        wanted.then(None)

    def asked(self, blob: str) -> Wanted:
        if self.wanted is None or blob != self.wanted.blob:
            raise ProtocolError("The coordinator answers another question.")
        return self.wanted

    @told
    def chunk(self, content: bytes, now: Moment) -> None:
        """It goes where it belongs, whatever else this peer is doing."""
        self.heard_at = now.steady
        if self.phase is Phase.AWAY:
            return
        if self.wanted is None or self.awaited or self.partial is None:
            raise ProtocolError("A chunk came that nobody asked for.")
        self.partial.add(content)
        self.arrive(self.wanted, self.partial)
        self.take_turns()

    def arrive(self, wanted: Wanted, receiver: Receiver) -> None:
        if not receiver.complete:
            return
        self.wanted = self.partial = None
        if self.pending:  # while this peer fetched, it listened to nothing else
            self.pending.offered += self.now.steady - wanted.since
        wanted.then(receiver.result())

    # The weights

    def report(self) -> None:
        """Tell which weights this peer holds; the coordinator sends a task or what is missing."""
        if self.phase is Phase.TAKING_PART:
            self.tell("ready", version=self.held.version, weights=self.held.hash or None,
                      batch_size=self.network.sequences)

    def on_version(self, said: messages.Version) -> None:
        """The weights as a whole: at the start, or after too long an absence."""
        self.fetch(said["weights"], 4 * self.network.parameters, partial(self.take_whole, said))

    def take_whole(self, said: messages.Version, content: Optional[bytes]) -> None:
        if content is None:
            self.report()  # there are newer ones
            return
        demand(len(content) == 4 * self.network.parameters,
               "The weights have another size than the network.")
        if self.pending and said["counted"] > self.pending.version:
            self.settle(counted=True)
        self.do("whole", content, then=partial(self.hold_whole, said))

    def hold_whole(self, said: messages.Version, result: Tuple[Any, str]) -> None:
        self.hold(said, result)
        if self.pending:
            self.make_offer()

    def on_commit(self, said: messages.Commit) -> None:
        """A round is over: take its update, and tell that it is in."""
        if said["version"] <= self.held.version:
            return
        if said["version"] != self.held.version + 1 or not self.held.hash:
            self.report()  # something was missed
            return
        demand(said["codec"] in CODECS, "The coordinator uses an unknown codec.")
        size = CODECS[said["codec"]].size(self.network.fragments.values(said["version"]))
        self.fetch(said["update"], size, partial(self.take_update, said, size))

    def take_update(self, said: messages.Commit, size: int, content: Optional[bytes]) -> None:
        if content is None:
            self.report()
            return
        demand(len(content) == size, "The update has another size than its codec makes.")
        if said["counted"]:
            self.settle(counted=True)
        self.do("apply", self.held.weights, said["codec"], content,
                self.network.fragments.of_round(said["version"]), then=partial(self.hold, said))

    def hold(self, said: Union[messages.Version, messages.Commit], result: Tuple[Any, str]) -> None:
        """From now on these are the weights, if they are bit for bit what they should be."""
        weights, digest = result
        if digest == said["weights"]:
            self.held = Held(said["version"], digest, weights)
            self.load()
        else:
            self.held = NOTHING  # never train from weights that nobody else has
        if not self.pending:  # otherwise first hear what becomes of the last update
            self.report()

    def load(self) -> None:
        self.do("load", self.held.weights)
        self.moved = False

    # Training, and what becomes of it

    def on_train(self, said: messages.Train) -> None:
        """Train from the weights of this round and offer what comes out."""
        if (said["version"], said["weights"]) != self.held[:2] or self.pending:
            return
        if self.moved:  # an update from these weights did not count
            self.load()
        self.moved = True
        task = {"step": said["step"], "total": said["total"], "quota": said["quota"],
                "seconds": said["seconds"], "window": said["window"]}
        self.do("train", task, self.held.weights,
                self.network.fragments.of_round(self.held.version + 1),
                then=partial(self.trained, self.held, self.network.codec))

    @told
    def stepped(self, steps: int, loss: float, now: Moment) -> None:
        """So many steps of the task are made: stop, or tell where this peer is, now and then."""
        self.figures.loss = loss
        if self.over():
            self.effects.append(effects.StopTraining())
        elif self.phase is Phase.TAKING_PART and now.steady - self.told_at > PROGRESS_SECONDS:
            self.told_at = now.steady
            self.tell("progress", version=self.held.version, steps=steps)

    def trained(self, held: Held, codec: str, result: Tuple[Any, bytes]) -> None:
        work, update = result
        self.failures, self.figures.speed = 0, work.tokens / max(work.seconds, 1e-9)
        self.carried += work.tokens
        self.pending = Pending(held.version, held.hash, codec, update,
                               replace(work, tokens=self.carried))
        if not any(said["type"] == "finished" for said in self.inbox):
            self.make_offer()

    def make_offer(self) -> None:
        if not self.pending or self.phase is not Phase.TAKING_PART:
            return  # it is offered as soon as it is
        self.pending.offered, self.pending.sent = self.now.steady, False
        work = self.pending.work
        self.tell("offer", version=self.pending.version, weights=self.pending.weights,
                  codec=self.pending.codec, update=self.pending.blob,
                  bytes=len(self.pending.update), steps=work.steps, tokens=work.tokens,
                  seconds=work.seconds, loss=work.loss if math.isfinite(work.loss) else None)

    def on_send(self, said: messages.Send) -> None:
        """Upload the offered update, from where an interrupted transfer stopped."""
        if self.pending and not self.pending.sent and said["blob"] == self.pending.blob:
            self.pending.offered, self.pending.sent = math.inf, True
            self.effects.append(effects.Upload(said["blob"], self.pending.update, said["offset"]))

    @told
    def uploaded(self, blob: str, now: Moment) -> None:
        """All of it is on the wire."""
        self.heard_at = now.steady
        if self.pending and self.pending.sent and self.pending.blob == blob:
            self.pending.offered = now.steady

    def on_verdict(self, said: messages.Verdict) -> None:
        """An accepted update counts with the commit; a late one comes again with the next."""
        demand(said["verdict"] in (ACCEPTED, LATE, REJECTED), "There is no such verdict.")
        if (said["verdict"] == ACCEPTED or not self.pending
                or said["version"] != self.pending.version):
            return
        if said["verdict"] == REJECTED:
            self.say("rejected", shown(said["reason"], REASON))
            self.give_up_update()
        else:
            self.settle(counted=False)
        self.report()

    def give_up_update(self) -> None:
        """And all that it carried: none of it may come again."""
        self.settle(counted=False)
        self.do("forget")
        self.carried = 0

    def settle(self, counted: bool) -> None:
        self.do("settle", counted)
        self.pending = None
        if counted:
            self.carried = 0

    def on_status(self, said: messages.Status) -> None:
        if self.pending and self.now.steady - self.pending.offered > SILENCE_SECONDS:
            self.make_offer()  # nobody ever said what became of it
        self.figures.peers = said["peers"]
        self.figures.val_loss = math.nan if said["val_loss"] is None else said["val_loss"]

    def on_finished(self, said: messages.Finished) -> None:
        self.close(effects.End(shown(said["reason"], REASON)))
