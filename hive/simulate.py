#!/usr/bin/env python3
"""A whole hive in one process and in virtual time: no sockets, and hundreds of peers in seconds.

    python -m hive.simulate --peers 200 --churn 0.3 --stragglers 0.2
    python -m hive.simulate --train real --size 1m --peers 8 --rounds 100 --data my.txt
    python -m hive.simulate --train real --lockstep --peers 4 --steps 250 --sync sparse

The sessions, the journal, the outer step, codecs, error feedback and inner training are the hive's
own; only sockets, clocks and the disk are played. Each round prints a line of JSON, the last line
sums up. The same arguments print the same lines.
"""
from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import sys
from collections import Counter, OrderedDict, deque
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Tuple, Union

if __package__ in (None, ""):  # started as a script: the package is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import hive  # noqa: F401  (quiets what PyTorch says while it is imported)

import torch
from torch import Tensor

from gltch_2_7m import (
    PRESETS,
    Config,
    GltchError,
    Parser,
    TrainConfig,
    is_number,
    option,
    require,
)
from hive.books import Books
from hive.journal import Journal
from hive.learning.codec import CODECS, ErrorFeedback, digest, from_bytes, to_bytes
from hive.learning.outer import Committed, apply_update
from hive.learning.sync import SYNCS, Sync
from hive.learning.worker import Work
from hive.session import effects
from hive.session.coordinator_session import CoordinatorSession, finite
from hive.session.effects import Do, Moment
from hive.session.job import Job, Limits
from hive.session.patience import Patience
from hive.session.peer_session import PeerSession
from hive.session.protocol import CHUNK_BYTES, Message, name_of, pack, unpack
from hive.session.record import Record
from hive.session.rounds import LATE, REJECTED, Pace
from hive.simulation.tasks import RealTask, SyntheticTask, steps_that_fit
from hive.simulation.virtual import Clock, Piece, Wire

STRAGGLING = 10.0  # times slower than the others
JITTER = 0.05  # by which a peer's speed differs from round to round (standard deviation, log)
UNNOTICED_SECONDS = 40.0  # until a connection that just falls silent is found dead
USUAL_PARAMETERS = 2_708_736  # whose transfers the default links are made for
BEGINNING = 1.7e9  # unix seconds
MADE = 16  # weights that peers share
CLOSED = "closed"  # the last thing that travels on a connection that ends in order


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Settings:
    """One simulated run. Raises GltchError for a value that makes no sense."""

    peers: int = option(16, int, "how many take part")
    rounds: Optional[int] = option(None, int, "end after so many rounds")
    steps: Optional[int] = option(None, int, "end after so many steps")
    minutes: Optional[float] = option(None, float, "end after so much virtual time")
    target_loss: Optional[float] = option(None, float, "end when val_loss is this low")
    lockstep: bool = option(False, bool, "equal peers, no transfer times, every peer makes all "
                            "steps of every round: what the algorithm does, undisturbed")
    churn: float = option(0.0, float, "probability per round that a peer vanishes for a while")
    stragglers: float = option(0.0, float, "share of the peers that are ten times slower")
    spread: float = option(0.3, float, "of speeds and links (standard deviation of the logarithm)")
    step_seconds: float = option(0.5, float, "virtual time of a step on a middling peer")
    uplink: Optional[float] = option(None, float, "MB/s (default: 1; synthetic: as much less as "
                                     "its vector is smaller than GLTCH-2.7M)")
    downlink: Optional[float] = option(None, float, "MB/s (default: 5; synthetic: likewise)")
    latency: float = option(0.05, float, "seconds one way")
    commit_seconds: float = option(0.1, float, "that the coordinator takes to end a round")
    round_seconds: float = option(60.0, float, "the longest a round trains")
    min_peers: int = option(1, int, "wait for so many before a round")
    train: str = option("synthetic", str, "what is trained", ("synthetic", "real"))
    parameters: int = option(20_000, int, "of the synthetic vector")
    size: str = option("2.7m", str, "of the real network", tuple(PRESETS))
    dropout: Optional[float] = option(None, float, "of the real network")
    sync: str = option("diloco", str, "how peers stay together", tuple(SYNCS))
    codec: Optional[str] = option(None, str, "of the updates, both ways (default: by --sync)",
                                  tuple(CODECS))
    fragments: int = option(1, int, "parts of the weights; each round changes one")
    inner_steps: Optional[int] = option(None, int, "steps of every round; with "
                                        "--most-inner-steps, of the first rounds")
    most_inner_steps: Optional[int] = option(None, int, "steps of the last rounds")
    outer_lr: Optional[float] = option(None, float, "outer learning rate (default: by --sync)")
    outer_momentum: Optional[float] = option(None, float, "(default: by --sync)")
    beta: Optional[float] = option(None, float, "what error feedback keeps (default: by --sync)")
    eval_every: int = option(10, int, "rounds between evaluations")
    threads: int = option(1, int, "of PyTorch")
    data: Tuple[str, ...] = ()  # files of the real text
    recipe: Dict[str, Any] = field(default_factory=dict)  # what of the TrainConfig is not default
    network: Optional[Config] = None  # instead of a size

    def __post_init__(self) -> None:
        def must(name: str, holds: bool, what: str) -> None:
            value = getattr(self, name)
            require(value is None or is_number(value) and math.isfinite(value) and holds,
                    f"{name.replace('_', '-')} must be {what}, not {value!r}.")

        for name in ("peers", "rounds", "steps", "min_peers", "parameters", "fragments",
                     "inner_steps", "most_inner_steps", "eval_every", "threads"):
            value = getattr(self, name)
            must(name, type(value) is int and value >= 1, "a whole number of at least 1")
        for name in ("minutes", "step_seconds", "uplink", "downlink", "round_seconds", "outer_lr"):
            must(name, (getattr(self, name) or 0) > 0, "a number above 0")
        for name in ("spread", "latency", "commit_seconds"):
            must(name, getattr(self, name) >= 0, "a number of at least 0")
        for name in ("churn", "stragglers"):
            must(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        must("outer_momentum", 0 <= (self.outer_momentum or 0) < 1, "at least 0 and below 1")
        must("beta", 0 <= (self.beta or 0) <= 1, "from 0 to 1")
        for f in fields(self):
            value, choices = getattr(self, f.name), f.metadata.get("choices")
            require(not choices or value is None or value in choices,
                    f"{f.name} must be one of {', '.join(choices or ())}, not {value!r}.")
        require(self.min_peers <= self.peers, f"With {self.peers} peers no round would ever begin: "
                f"min-peers is {self.min_peers}.")
        require(not self.lockstep or self.churn == self.stragglers == 0, "In lockstep all peers are"
                " equal and always there: leave out churn and stragglers, or lockstep.")

    def make_sync(self) -> Sync:
        """The preset with what was set by hand."""
        inner, most = self.inner_steps, self.most_inner_steps or self.inner_steps
        values: Dict[str, Any] = {"inner_steps": inner, "most_inner_steps": most,
                                  "up": self.codec, "down": self.codec, "beta": self.beta,
                                  "outer_lr": self.outer_lr, "outer_momentum": self.outer_momentum,
                                  "fragments": self.fragments}
        given = {name: value for name, value in values.items() if value is not None}
        return replace(SYNCS[self.sync], **given)

    def make_task(self) -> Union[RealTask, SyntheticTask]:
        if self.train == "real":
            return RealTask(self.size, self.data, self.recipe, self.network, self.dropout)
        return SyntheticTask(self.parameters, self.recipe)

    def make_pace(self) -> Pace:
        fixed = self.inner_steps is not None and self.most_inner_steps is None
        if self.lockstep:
            return Pace(seconds=1e9, fixed=True)
        return Pace(self.round_seconds, fixed=fixed)


# --------------------------------------------------------------------------------------------------
# Hosts
# --------------------------------------------------------------------------------------------------

class Host:
    """Tells a session what happens, one thing at a time, and carries out what it answers."""

    session: Any

    def __init__(self, hive: Simulation):
        self.hive, self.clock = hive, hive.clock
        self.calls: Deque[Tuple[str, Tuple[Any, ...], Dict[str, Any]]] = deque()
        self.telling = False
        self.alarm = math.inf  # when the clock wakes the session
        self.lanes: Dict[str, Deque[Do]] = {}
        self.doing: Dict[type, Callable[[Any], None]] = {effects.Do: self.line_up}
        self.slow_work: Dict[str, Callable[..., Any]] = {}

    def moment(self) -> Moment:
        return Moment(self.clock.now, BEGINNING + self.clock.now)

    def tell(self, what: str, *values: Any, **more: Any) -> None:
        self.calls.append((what, values, more))
        if self.telling:
            return
        self.telling = True
        while self.calls:
            what, values, more = self.calls.popleft()
            for effect in getattr(self.session, what)(*values, self.moment(), **more):
                self.carry_out(effect)
        self.telling = False
        self.set_alarm()

    def carry_out(self, effect: Any) -> None:
        self.doing[type(effect)](effect)

    def set_alarm(self) -> None:
        if self.session.deadline < self.alarm:
            self.alarm = max(self.clock.now, self.session.deadline)
            self.clock.at(self.alarm, self.ring, self.session)

    def ring(self, session: Any) -> None:
        if session is not self.session or self.clock.now != self.alarm:
            return  # the alarm was set to an earlier time since
        self.alarm = math.inf
        if session.deadline <= self.clock.now:
            self.tell("wake")
        else:
            self.set_alarm()

    # Slow work: one after the other in each lane

    def line_up(self, do: Do) -> None:
        lane = self.lanes.setdefault(do.lane, deque())
        lane.append(do)
        if len(lane) == 1:
            self.start(do)

    def start(self, do: Do) -> None:
        seconds = self.seconds_of(do)
        if seconds:
            self.clock.after(seconds, self.work, do)
        else:
            self.work(do)

    def seconds_of(self, do: Do) -> float:
        return 0.0

    def work(self, do: Do) -> None:
        """Do it, tell the result, go on with what is next in its lane."""
        lane = self.lanes.get(do.lane)
        if not lane or lane[0] is not do:
            return  # who wanted it is gone
        try:
            result = self.slow_work[do.what](*do.values)
        except GltchError as error:
            self.tell_end("failed", do.ticket, error)
        else:
            self.tell_end("done", do.ticket, result)
        if lane and lane[0] is do:
            lane.popleft()
            if lane:
                self.start(lane[0])

    def tell_end(self, how: str, ticket: int, result: Any) -> None:
        self.tell(how, ticket, result)


class Connection:
    """A WebSocket between a peer and the coordinator."""

    def __init__(self, number: int, peer: PeerHost, coordinator: CoordinatorHost):
        self.number, self.peer = number, peer
        chunk = peer.hive.chunk_bytes if peer.hive.strict else None
        self.up, self.down = (Wire(peer.clock, rate, peer.latency, partial(arrive, self), chunk)
                              for rate, arrive in ((peer.up, coordinator.arrive),
                                                   (peer.down, peer.arrive)))

    def cut(self) -> None:
        self.up.cut()
        self.down.cut()


def packed(item: Union[str, Message]) -> str:
    return item if isinstance(item, str) else pack(item["type"], **{
        name: value for name, value in item.items() if name != "type"})


def received(item: Union[str, Message]) -> Message:
    return unpack(item) if isinstance(item, str) else item


class CoordinatorHost(Host):
    """The coordinator's side: its journal, its outer step, its connections."""

    def __init__(self, hive: Simulation, journal: Journal):
        super().__init__(hive)
        self.journal = journal
        self.connections: Dict[int, Connection] = {}
        self.paused: Dict[int, float] = {}  # connections that are not heard, and until when
        self.doing.update({
            effects.Send: self.send, effects.SendBlob: self.send_blob, effects.Close: self.close,
            effects.Proved: self.admit, effects.Event: self.show, effects.Fail: self.fail,
            effects.Say: lambda said: None, effects.Finish: self.finish,
            effects.Pause: self.pause})
        self.books = Books(hive.job, journal)
        self.slow_work.update({
            "remember_peer": journal.remember_peer, "add": self.add, "combine": self.combine,
            "keep": self.keep, "snapshot": self.books.snapshot, "evaluate": self.evaluate,
            "keep_evaluation": lambda version, loss, seconds, text:
                journal.add_evaluation(version, loss, seconds),
            "keep_checkpoint": lambda state, names: None})
        weights = self.books.outer.weights
        self.session = CoordinatorSession(
            hive.job, journal, weights, self.books.outer.hash, parameters=len(weights),
            update_bytes=self.books.update_bytes,
            token=hive.token, pack_weights=to_bytes, text=lambda: b"",
            pace=hive.settings.make_pace(), least=hive.least, eval_every=hive.settings.eval_every)
        self.kept: Optional[Record] = None  # a round that is not shown yet
        self.finished = ""

    def tell(self, what: str, *values: Any, **more: Any) -> None:
        super().tell(what, *values, **more)
        if self.kept and not self.telling:
            record, self.kept = self.kept, None
            self.hive.after_round(record)

    # Connections

    def accept(self, connection: Connection) -> None:
        self.connections[connection.number] = connection
        self.tell("connected", connection.number, connection.peer.address)

    def arrive(self, connection: Connection, item: Any) -> None:
        number, waiting = connection.number, len(connection.down.moving)
        if number in self.paused:
            if self.clock.now < self.paused[number]:
                self.clock.at(self.paused[number], self.arrive, connection, item)
                return
            del self.paused[number]
        if item == CLOSED:
            self.lose(connection)
        elif isinstance(item, Piece):
            self.hive.bytes["up"] += item.end - item.begin
            self.tell("chunk", number, item.message, waiting=waiting)
        else:
            self.tell("heard", number, received(item), waiting=waiting,
                      blobs=connection.down.blobs)

    def lose(self, connection: Connection) -> None:
        """It ended, or was found dead."""
        if self.connections.pop(connection.number, None):
            connection.cut()
            self.tell("lost", connection.number)

    def send(self, said: effects.Send) -> None:
        connection = self.connections.get(said.link)
        if connection:
            self.hive.send(connection.down, said.message)

    def send_blob(self, blob: effects.SendBlob) -> None:
        connection = self.connections.get(blob.link)
        if connection:
            self.send(effects.Send(blob.link, {"type": "blob", "blob": blob.blob,
                                               "bytes": len(blob.content), "offset": blob.offset}))
            connection.down.send_blob(blob.what, blob.blob, blob.content, blob.offset)

    def admit(self, proved: effects.Proved) -> None:
        self.tell("admitted", proved.link)

    def close(self, closing: effects.Close) -> None:
        connection = self.connections.pop(closing.link, None)
        if connection:
            connection.up.cut()
            connection.down.send(CLOSED)

    def pause(self, pause: effects.Pause) -> None:
        self.paused[pause.link] = self.clock.now + pause.seconds

    # Slow work

    def seconds_of(self, do: Do) -> float:
        return self.hive.commit_seconds if do.what == "combine" else 0.0

    def add(self, codec: str, content: bytes, weight: float, steps: int) -> float:
        return self.books.outer.add(codec, content, weight, steps)

    def combine(self) -> Optional[Committed]:
        return self.books.combine()

    def keep(self, record: Record, committed: Committed) -> None:
        self.books.keep(record, committed)
        self.kept = record

    def evaluate(self, weights: Tensor, version: int, step: int
                 ) -> Tuple[float, float, str, Dict[str, Any]]:
        return self.hive.task.measure(weights), 0.0, "", {}

    # What is seen

    def show(self, event: effects.Event) -> None:
        if event.kind == "refused":
            self.hive.refused[event.fields["verdict"]] += 1

    def fail(self, failed: effects.Fail) -> None:
        raise failed.error

    def finish(self, finish: effects.Finish) -> None:
        self.finished = finish.reason


@dataclass
class Training:
    """What a peer's worker is doing until the clock says that it is done."""

    do: Do
    began: float
    step_seconds: float
    steps: int

    @property
    def end(self) -> float:
        return self.began + self.steps * self.step_seconds


class PeerHost(Host):
    """One simulated peer over all its connections."""

    def __init__(self, hive: Simulation, number: int, slow: bool):
        super().__init__(hive)
        settings = hive.settings
        self.name, self.address = f"peer-{number}", f"host-{number}"
        self.rng = random.Random(f"{hive.seed} {self.name}")
        spread = 0.0 if settings.lockstep else settings.spread
        usual = len(hive.task.start) / USUAL_PARAMETERS if settings.train == "synthetic" else 1.0
        links = (settings.uplink or 1.0 * usual, settings.downlink or 5.0 * usual)
        slower, *faster = (self.rng.lognormvariate(0, spread) for _ in range(3))
        self.step_seconds = settings.step_seconds * slower * (STRAGGLING if slow else 1.0)
        self.up, self.down = (1e6 * rate * more for rate, more in zip(links, faster))  # bytes/s
        self.latency, self.jitter = settings.latency, JITTER
        if settings.lockstep:
            self.up = self.down = math.inf
            self.latency = self.jitter = 0.0
        self.doing.update({
            effects.Tell: self.say, effects.Upload: self.upload, effects.Keep: lambda kept: None,
            effects.Settled: self.settled, effects.Leave: self.leave, effects.Refuse: self.end,
            effects.End: self.end, effects.StopTraining: self.stop_training,
            effects.Say: lambda said: None})
        self.slow_work.update({
            "text": lambda name: b"", "begin": self.begin, "apply": self.apply,
            "whole": self.whole, "load": self.load, "train": self.train, "settle": self.settle,
            "forget": self.forget})
        self.session = self.new_session()
        self.connection: Optional[Connection] = None
        self.patience = Patience()
        self.training: Optional[Training] = None
        self.ended = ""  # why it does not come back
        # what is measured
        self.since = 0.0  # when it last connected
        self.connected = 0.0  # seconds, until it last vanished
        self.trained = self.lost = 0  # tokens
        self.unsettled = 0  # of these, what no update is known to have brought in
        self.seconds = 0.0  # spent training

    def new_session(self) -> PeerSession:
        return PeerSession(self.name, token=self.token, device="CPU simulated",
                           process=self.token())

    def token(self) -> str:
        return f"{self.rng.getrandbits(256):064x}"

    @property
    def last_counted(self) -> int:
        """The round in which an update of this peer last counted, by what is written down."""
        journal, (token, name) = self.hive.coordinator.journal, self.session.identity
        known = {token_hash: peer for peer, token_hash in journal.identities(name)}
        return journal.last_counted(known.get(name_of((token or "").encode()), ""))

    @property
    def carried(self) -> int:
        """Tokens that have not counted yet; whether they did, this peer may not have heard."""
        pending = self.session.pending
        return 0 if pending and self.last_counted > pending.version else self.session.carried

    # Connections

    def connect(self) -> None:
        if self.connection or self.ended:
            return
        self.connection = self.hive.dial(self)
        self.since = self.clock.now
        self.tell("connected")

    def arrive(self, connection: Connection, item: Any) -> None:
        if connection is not self.connection:
            return
        if item == CLOSED:
            self.hang_up()
            self.tell("lost")
            self.come_back()
        elif isinstance(item, Piece):
            way = "weights" if item.what == "weights" else "down"
            self.hive.bytes[way] += item.end - item.begin
            self.tell("chunk", item.message)
        else:
            self.tell("heard", received(item))

    def vanish(self, away: float) -> None:
        """The connection breaks, noticed at once by this peer and sometimes by the coordinator."""
        connection = self.connection
        if connection is None:
            return
        self.hive.interrupted += connection.up.interrupted
        connection.cut()
        self.clock.after(self.hive.rng.choice((0.0, UNNOTICED_SECONDS)),
                         self.hive.coordinator.lose, connection)
        self.hang_up()
        self.tell("lost")
        self.clock.after(away, self.connect)

    def hang_up(self) -> None:
        if self.connection:
            self.connection.down.cut()
            self.connection.up.send(CLOSED)
            self.connection = None
            self.connected += self.clock.now - self.since

    def come_back(self) -> None:
        self.clock.after(self.patience.next(self.rng.uniform), self.connect)

    def leave(self, leave: effects.Leave) -> None:
        self.hang_up()
        self.tell("lost")
        self.come_back()

    def settled(self, settled: effects.Settled) -> None:
        self.patience = Patience()

    def end(self, end: Union[effects.End, effects.Refuse]) -> None:
        self.ended = end.reason
        self.hang_up()
        self.hive.one_less(end.reason)

    def say(self, said: effects.Tell) -> None:
        if self.connection:
            self.hive.send(self.connection.up, said.message)

    def upload(self, upload: effects.Upload) -> None:
        if self.connection:
            out = self.connection.up.send_blob("update", upload.blob, upload.content, upload.offset)
            self.clock.at(out, self.uploaded, self.connection, upload.blob)

    def uploaded(self, connection: Connection, blob: str) -> None:
        if connection is self.connection:
            self.tell("uploaded", blob)

    # Slow work

    def begin(self, job: Job, text: bytes) -> int:
        self.lose_unsettled()
        self.job = job
        self.worker = self.hive.task.worker(self.rng.randrange(2**31))
        self.feedback = ErrorFeedback(len(self.hive.task.start), job.sync.beta)
        return len(self.feedback.residual)

    def apply(self, weights: Tensor, codec: str, update: bytes, part: slice) -> Tuple[Tensor, str]:
        self.hive.commits_received += 1
        return self.hive.once((self.session.held.hash, codec, update, part.start),
                              lambda: apply_update(weights, codec, update, part))

    def whole(self, content: bytes) -> Tuple[Tensor, str]:
        return self.hive.once((content,), lambda: from_bytes(content))

    def load(self, weights: Tensor) -> None:
        self.worker.load(weights)

    def settle(self, counted: bool) -> None:
        self.feedback.settle(counted)
        if counted:
            self.unsettled = 0

    def forget(self) -> None:
        self.feedback.forget()
        self.lose_unsettled()

    def lose_unsettled(self) -> None:
        self.lost, self.unsettled = self.lost + self.unsettled, 0

    # Training takes as long as its steps

    def start(self, do: Do) -> None:
        if do.what != "train":
            super().start(do)
            return
        task, *_ = do.values
        step_seconds = self.step_seconds * self.rng.lognormvariate(0, self.jitter)
        steps = steps_that_fit(task["quota"], task["seconds"], step_seconds)
        self.training = Training(do, self.clock.now, step_seconds, steps)
        self.clock.at(self.training.end, self.trained_enough, self.training)

    def stop_training(self, stop: effects.StopTraining) -> None:
        """After the step that is being made."""
        training = self.training
        if training:
            made = math.ceil((self.clock.now - training.began) / training.step_seconds)
            if max(1, made) < training.steps:
                training.steps = max(1, made)
                self.clock.at(training.end, self.trained_enough, training)

    def trained_enough(self, training: Training) -> None:
        if training is self.training and self.clock.now >= training.end:
            self.work(training.do)

    def train(self, task: Dict[str, Any], weights: Tensor, part: slice) -> Tuple[Work, bytes]:
        training, self.training = self.training, None
        assert training is not None
        work = self.worker.work(task, training.steps, training.step_seconds)
        self.trained, self.unsettled = self.trained + work.tokens, self.unsettled + work.tokens
        self.seconds += work.seconds
        moved = self.worker.moved(weights, part)
        return work, self.feedback.encode(self.job.sync.up, moved, part)


# --------------------------------------------------------------------------------------------------
# The hive, and its table of results
# --------------------------------------------------------------------------------------------------

class Row(NamedTuple):
    """A committed round, as it is printed."""

    round: int
    step: int
    seconds: float  # virtual, since the beginning
    counted: int  # updates
    late: int
    rejected: int
    loss: Optional[float]
    val_loss: Optional[float]  # None: not measured after this round
    bytes_up: int  # of updates and weights, in this round, all peers together
    bytes_down: int
    peers: int  # connected


class Summary(NamedTuple):
    """A whole run."""

    finished: str  # why it ended
    rounds: int
    step: int
    seconds: float  # virtual
    loss: Optional[float]  # of the last round
    val_loss: Optional[float]  # at the end
    start_loss: Optional[float]  # the same before the first round
    training: float  # share of the time that connected peers spent training
    up_per_parameter: float  # bytes, for each counted update
    down_per_parameter: float  # bytes, for each committed update that a peer received
    weights_bytes: int  # of whole weights, for peers that are new or were away for long
    updates: Dict[str, int]  # counted, and stale of these: of an earlier round; late, rejected
    tokens: Dict[str, int]  # trained = counted + carried (not yet counted) + lost
    interrupted: int  # uploads that broke off in the middle
    disagreements: int  # times a peer's weights had another hash than the hive's
    sync: Dict[str, Any]


class Simulation:
    """The clock, the hosts and the table of results.

    `run` goes through a whole run. `peers`, `coordinator` and the rest are there to look at in
    between. `strict`: messages and chunks are packed, cut and unpacked for real."""

    chunk_bytes = CHUNK_BYTES
    message_bytes = 0  # of a control message that is not packed

    def __init__(self, settings: Settings, strict: bool = False):
        torch.set_num_threads(settings.threads)
        self.settings, self.sync = settings, settings.make_sync()
        self.strict = self.packs = strict
        self.task = settings.make_task()
        self.seed = self.task.recipe.seed
        self.rng = random.Random(f"{self.seed} hive")
        self.tokens_rng = random.Random(f"{self.seed} tokens")
        self.clock = Clock()
        self.numbers = itertools.count(1)  # of connections
        self.commit_seconds = 0.0 if settings.lockstep else settings.commit_seconds
        self.least = settings.peers if settings.lockstep else settings.min_peers
        limits = Limits(settings.steps, settings.rounds, settings.minutes, settings.target_loss)
        if replace(limits, target_loss=None) == Limits():
            limits = replace(limits, steps=self.task.reference)
        self.job = Job(self.token()[:16], settings.size, settings.sync, self.task.config,
                       self.task.recipe, self.sync, limits, self.task.alphabet, self.task.text, 0)
        journal = Journal(None)
        journal.start(self.job.as_json(), to_bytes(self.task.start))
        self.made: OrderedDict[Any, Tuple[Tensor, str]] = OrderedDict()  # the latest weights
        # what is measured
        self.bytes = {"up": 0, "down": 0, "weights": 0}  # weights: as a whole
        self.before = dict(self.bytes)  # this round
        self.updates = {"counted": 0, "stale": 0, LATE: 0, REJECTED: 0}
        self.refused: Counter[str] = Counter()  # in this round
        self.commits_received = self.disagreements = self.tokens_counted = self.interrupted = 0
        self.start_loss = self.task.measure(self.task.start)
        self.rows: List[Row] = []
        self.on_round: Optional[Callable[[Row], None]] = None
        self.coordinator = self.make_coordinator(journal)
        slow = set(self.rng.sample(range(settings.peers),
                                   round(settings.stragglers * settings.peers)))
        self.peers = [self.make_peer(number, number in slow) for number in range(settings.peers)]

    def make_coordinator(self, journal: Journal) -> CoordinatorHost:
        return CoordinatorHost(self, journal)

    def make_peer(self, number: int, slow: bool) -> PeerHost:
        return PeerHost(self, number, slow)

    def token(self) -> str:
        return f"{self.tokens_rng.getrandbits(256):064x}"

    def run(self, on_round: Optional[Callable[[Row], None]] = None) -> Summary:
        """Until the run is over. Raises GltchError when training breaks down."""
        self.on_round = on_round
        self.coordinator.tell("begin")
        for peer in self.peers:
            peer.connect()
        while not self.coordinator.session.finished:
            assert self.clock.step(), "nothing is left to happen: the hive stands still"
        return self.summary()

    def dial(self, peer: PeerHost) -> Connection:
        connection = Connection(next(self.numbers), peer, self.coordinator)
        self.coordinator.accept(connection)
        return connection

    def once(self, key: Any, make: Callable[[], Tensor]) -> Tuple[Tensor, str]:
        """Weights and their SHA-256. Peers that compute the same share what comes out, unless the
        run is a strict one: a thousand peers need not have a thousand copies."""
        if key not in self.made or self.strict:
            weights = make()
            self.made[key] = weights, digest(weights)
            if len(self.made) > MADE:
                self.made.popitem(last=False)
        return self.made[key]

    def one_less(self, reason: str) -> None:
        """A peer has ended for good."""
        left = any(not peer.ended for peer in self.peers)
        require(left or bool(self.coordinator.session.finished), "No peer is left: training breaks "
                f"down on all of them; use a lower --learning-rate. {reason}")

    def send(self, wire: Wire, message: Message) -> None:
        """Packed for real, or handed across as it is."""
        if self.packs:
            text = packed(message)
            wire.send(text, len(text))
        else:
            wire.send(message, self.message_bytes)

    # The table

    def after_round(self, record: Record) -> None:
        """A round is committed: write its row, and let some peers vanish."""
        session = self.coordinator.session
        counted = [c for c in record.contributions if c.verdict == "counted"]
        self.tokens_counted += sum(c.tokens for c in counted)
        self.updates["counted"] += len(counted)
        self.updates["stale"] += sum(bool(c.reason) for c in counted)
        for verdict in (LATE, REJECTED):
            self.updates[verdict] += self.refused[verdict]
        up, down, weights = (self.bytes[way] - self.before[way] for way in self.bytes)
        self.before = dict(self.bytes)
        measured = session.evaluated == record.number
        self.rows.append(Row(
            record.number, record.step, round(self.clock.now, 3), len(counted), self.refused[LATE],
            self.refused[REJECTED], finite(record.loss),
            finite(session.val_loss) if measured else None, up, down + weights,
            sum(peer.connection is not None for peer in self.peers)))
        self.refused.clear()
        if self.on_round:
            self.on_round(self.rows[-1])
        length = record.committed - record.opened
        for peer in self.peers:
            if peer.connection and self.rng.random() < self.settings.churn:
                away = length * self.rng.uniform(0.5, 3.0)
                self.clock.after(self.rng.uniform(0.0, length), peer.vanish, away)

    def tokens(self) -> Dict[str, int]:
        """What became of every token that was trained on; the last three add up to the first."""
        return {"trained": sum(peer.trained for peer in self.peers),
                "counted": self.tokens_counted,
                "carried": sum(peer.carried for peer in self.peers),
                "lost": sum(peer.lost for peer in self.peers)}

    def summary(self) -> Summary:
        count, total, session = len(self.task.start), self.bytes, self.coordinator.session
        now = self.clock.now
        connected = sum(peer.connected + (now - peer.since if peer.connection else 0.0)
                        for peer in self.peers)
        return Summary(
            session.finished, session.rounds.version, session.step, round(now, 3),
            finite(session.loss), finite(session.val_loss), finite(self.start_loss),
            sum(peer.seconds for peer in self.peers) / max(connected, 1e-9),
            total["up"] / count / max(1, self.updates["counted"]),
            total["down"] / count / max(1, self.commits_received), total["weights"], self.updates,
            self.tokens(), self.interrupted, self.disagreements, asdict(self.sync))


def simulate(settings: Settings, on_round: Optional[Callable[[Row], None]] = None) -> Summary:
    """A whole run; `on_round` sees each committed round. Raises GltchError when it cannot go on."""
    return Simulation(settings).run(on_round)


# --------------------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------------------

RECIPE_OPTIONS = ("batch_size", "optimizer", "learning_rate", "embedding_learning_rate",
                  "head_learning_rate", "weight_decay", "warmup", "cooldown", "seed", "device",
                  "precision")


def show(result: Union[Row, Summary]) -> None:
    values = result._asdict()
    print(json.dumps(values if isinstance(result, Row) else {"summary": values}), flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="simulate.py", allow_abbrev=False)
    parser.lead = (__doc__ or "").split("\n\n")[1] + "\n\n"
    for kind in (Settings, TrainConfig):
        for f in fields(kind):
            if not f.metadata or kind is TrainConfig and f.name not in RECIPE_OPTIONS:
                continue
            flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
            if f.metadata["kind"] is bool:
                parser.add_argument(flag, action="store_true", help=text)
                continue
            if kind is Settings and f.default is not None:
                text += f" (default: {f.default})"
            parser.add_argument(flag, type=f.metadata["kind"], help=text,
                                choices=f.metadata["choices"],
                                metavar=None if f.metadata["choices"] else "X")
    parser.add_argument("--data", nargs="+", metavar="PATH", help="the real text")
    parser.add_argument("--faults", action="store_true",
                        help="instead: break the hive in every way, by --seed (see faults.py)")
    parser.add_argument("--seeds", type=int, default=1, metavar="X",
                        help="with --faults: so many runs, from --seed on (default: 1)")
    return parser


def settings_from(args: argparse.Namespace) -> Settings:
    given = {name: value for name, value in vars(args).items()
             if value is not None and name not in ("faults", "seeds")}
    recipe = {name: given.pop(name) for name in RECIPE_OPTIONS if name in given}
    return Settings(**{**given, "data": tuple(given.get("data", ()))}, recipe=recipe)


def main(argv: Optional[List[str]] = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if args.faults:
            from hive.simulation.faults import main as play
            return play(args.seed or 0, args.seeds)
        summary = simulate(settings_from(args), show)
        show(summary)
    except KeyboardInterrupt:
        print("simulate.py: stopped", file=sys.stderr)
        return 130
    except (GltchError, OSError) as error:
        print(f"simulate.py: error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
