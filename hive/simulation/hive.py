"""A hive in virtual time: the sessions' hosts, the connections between them, what came of it.

The sessions, the journal, the outer step, codecs, error feedback and inner training are the hive's
own; only sockets, clocks and the disk are played.
"""
from __future__ import annotations

import itertools
import math
import random
from collections import Counter, OrderedDict, deque
from dataclasses import asdict
from functools import partial
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from gltch_2_7m import GltchError, require
from hive.books import Books
from hive.evaluator import Prober
from hive.journal import Journal
from hive.learning.codec import digest, from_bytes, to_bytes
from hive.learning.outer import Committed, apply_update
from hive.learning.worker import Learner
from hive.session import effects
from hive.session.coordinator_session import CoordinatorSession
from hive.session.effects import Do
from hive.session.job import Job, Limits
from hive.session.patience import Patience
from hive.session.peer_session import PeerSession
from hive.session.protocol import CHUNK_BYTES, Message, name_of, pack, told, unpack
from hive.session.record import Record
from hive.session.rounds import LATE, REJECTED
from hive.session.trust import Outcome, Trial
from hive.simulation.account import Account
from hive.simulation.attackers import Attacker, Companions, attackers_of
from hive.simulation.host import Happening, Host
from hive.simulation.settings import Settings
from hive.simulation.table import Row, Summary
from hive.simulation.virtual import UNNOTICED_SECONDS, Clock, Piece, Wire

STRAGGLING = 10.0  # times slower than the others
NEWCOMER_ROUNDS = 4  # until the first newcomer, and between two
JITTER = 0.05  # by which a peer's speed differs from round to round (standard deviation, log)
USUAL_PARAMETERS = 2_708_736  # whose transfers the default links are made for
PROBE_SECONDS = 0.05  # that the coordinator takes to try an update
MADE = 16  # weights that peers share
CLOSED = "closed"  # the last thing that travels on a connection that ends in order


class Connection:
    """A WebSocket between a peer and the coordinator."""

    def __init__(self, number: int, peer: PeerHost, coordinator: CoordinatorHost):
        self.number, self.peer = number, peer
        self.deaf_until = 0.0  # the coordinator hears nothing of it before
        chunk = peer.hive.chunk_bytes if peer.hive.strict else None
        self.up, self.down = (Wire(peer.clock, rate, peer.latency, partial(arrive, self), chunk)
                              for rate, arrive in ((peer.up, coordinator.arrive),
                                                   (peer.down, peer.arrive)))

    def cut(self) -> None:
        self.up.cut()
        self.down.cut()


def packed(item: Union[str, Message]) -> str:
    return item if isinstance(item, str) else pack(item["type"], **item)


class CoordinatorHost(Host):
    """The coordinator's side: its journal, its outer step, its connections."""

    def __init__(self, hive: Simulation, journal: Journal):
        super().__init__(hive.clock)
        self.hive, self.journal = hive, journal
        self.connections: Dict[int, Connection] = {}
        self.doing.update({
            effects.Send: self.send, effects.SendBlob: self.send_blob, effects.Close: self.close,
            effects.Proved: self.admit, effects.Event: self.show, effects.Fail: self.fail,
            effects.Say: lambda said: None, effects.Finish: self.finish,
            effects.Pause: self.pause})
        self.books = Books(hive.job, journal, looking=not hive.settings.undefended)
        self.slow_work.update({
            "remember_peer": journal.remember_peer, "add": self.books.outer.add,
            "combine": self.books.combine, "keep": self.keep, "undo": self.books.undo,
            "probe": self.probe, "snapshot": self.books.snapshot,
            "evaluate": self.evaluate,
            "keep_evaluation": lambda version, loss, seconds, text:
                journal.add_evaluation(version, loss, seconds),
            "keep_checkpoint": lambda state, names: None})
        weights = self.books.outer.weights
        self.session = CoordinatorSession(
            hive.job, journal, weights, self.books.outer.hash, parameters=len(weights),
            update_bytes=self.books.update_bytes,
            token=hive.token, pack_weights=to_bytes, text=lambda: hive.text,
            pace=hive.settings.make_pace(), least=hive.least, eval_every=hive.settings.eval_every,
            probing=not hive.settings.undefended, places=hive.places)
        self.prober = Prober(hive.task.ground(), self.books.outer.fragments, lambda: 0.0)
        self.kept: Optional[Record] = None  # a round that is not shown yet
        self.finished = ""

    def tell(self, what: Happening, *values: Any, **more: Any) -> None:
        super().tell(what, *values, **more)
        if self.kept and not self.telling:
            record, self.kept = self.kept, None
            self.hive.after_round(record)

    # Connections

    def accept(self, connection: Connection) -> None:
        self.connections[connection.number] = connection
        self.tell("connected", connection.number, connection.peer.address)

    def arrive(self, connection: Connection, item: Any) -> None:
        number, waiting = connection.number, connection.down.waiting
        if self.clock.now < connection.deaf_until:
            self.clock.at(connection.deaf_until, self.arrive, connection, item)
        elif item == CLOSED:
            self.lose(connection)
        elif isinstance(item, Piece):
            self.hive.bytes["up"] += item.end - item.begin
            self.tell("chunk", number, item.message, waiting=waiting)
        else:
            said = unpack(item) if isinstance(item, str) else item
            self.tell("heard", number, said, waiting=waiting, blobs=connection.down.blobs)

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
            connection.down.send_blob(blob.what, blob.blob, blob.content, blob.offset)

    def admit(self, proved: effects.Proved) -> None:
        self.tell("admitted", proved.link)

    def close(self, closing: effects.Close) -> None:
        connection = self.connections.pop(closing.link, None)
        if connection:
            connection.up.cut()
            connection.down.drop_waiting()
            if closing.last:
                self.hive.send(connection.down, closing.last)
            connection.down.send(CLOSED)

    def pause(self, pause: effects.Pause) -> None:
        connection = self.connections.get(pause.link)
        if connection:
            connection.deaf_until = self.clock.now + pause.seconds

    # Slow work

    def seconds_of(self, do: Do) -> float:
        if do.what == "probe":
            return PROBE_SECONDS * (1 + len(do.values[-1]))
        return self.hive.commit_seconds if do.what == "combine" else 0.0

    def probe(self, number: int, before: Tensor, after: Tensor, trials: Sequence[Trial]) -> Outcome:
        seconds = PROBE_SECONDS * (1 + len(trials))
        if self.hive.settings.train == "synthetic":  # there are no windows of a text
            trials = [one._replace(given=None) for one in trials]
        return self.prober.probe(number, before, after, trials)._replace(seconds=seconds)

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


class PeerHost(Host):
    """One simulated peer over all its connections."""

    def __init__(self, hive: Simulation, number: int, slow: bool):
        super().__init__(hive.clock)
        self.attack = ""  # of which kind; empty: it is honest
        self.attacker: Optional[Attacker] = None
        self.hive, settings = hive, hive.settings
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
            effects.End: self.end,
            effects.Say: lambda said: None})
        self.slow_work.update({
            "text": lambda job: hive.text, "begin": self.begin, "apply": self.apply,
            "whole": self.whole, "task": self.task, "take": self.make_update, "settle": self.settle,
            "forget": self.forget, "load": lambda weights: self.learner.load(weights),
            "rebase": lambda weights, part: self.learner.rebase(weights, part)})
        self.session = self.new_session()
        self.built: Optional[Learner] = None  # for a job
        self.connection: Optional[Connection] = None
        self.patience = Patience()
        self.step_due: Optional[float] = None  # when the step that is being made is done
        self.lap = self.step_seconds  # of the steps of this task
        self.mail: Deque[Tuple[Connection, Any]] = deque()  # what came during a step
        self.opening = False  # it is being read
        self.ended = ""  # why it does not come back
        self.account = Account()

    def new_session(self) -> PeerSession:
        return PeerSession(self.name, token=self.token, device="CPU simulated",
                           process=self.token())

    def token(self) -> str:
        return f"{self.rng.getrandbits(256):064x}"

    @property
    def learner(self) -> Learner:
        assert self.built is not None, "it has no job yet"
        return self.built

    @property
    def counted(self) -> List[int]:
        """The latest rounds in which updates of this peer counted, by what is written down."""
        journal, (token, name) = self.hive.coordinator.journal, self.session.identity
        known = {token_hash: peer for peer, token_hash in journal.identities(name)}
        return journal.counted(known.get(name_of((token or "").encode()), ""))

    @property
    def carried(self) -> int:
        """Tokens that have not counted yet; whether they did, this peer may not have heard."""
        session, rounds, fragments = self.session, self.counted, self.session.network.fragments
        unheard: int = sum(one.work.tokens for one in session.offers.updates
                           if one.counted_in(rounds, fragments))
        return self.kept_tokens - unheard

    # Connections

    def connect(self) -> None:
        if self.connection or self.ended:
            return
        self.connection = self.hive.dial(self)
        self.account.connect(self.clock.now)
        self.tell("connected")

    def arrive(self, connection: Connection, item: Any) -> None:
        """A peer in the middle of a step listens after it."""
        if self.step_due is not None:
            self.mail.append((connection, item))
        else:
            self.open(connection, item)
            self.catch_up()

    def open(self, connection: Connection, item: Any) -> None:
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
            self.tell("heard", unpack(item) if isinstance(item, str) else item)

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
            self.account.hang_up(self.clock.now)

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
            message = self.attacker.says(said.message) if self.attacker else said.message
            self.hive.send(self.connection.up, message)

    def upload(self, upload: effects.Upload) -> None:
        if self.connection:
            out = self.connection.up.send_blob("update", upload.blob, upload.content, upload.offset)
            self.clock.at(out, self.uploaded, self.connection, upload.blob)

    def uploaded(self, connection: Connection, blob: str) -> None:
        if connection is self.connection:
            self.tell("uploaded", blob)

    # Slow work

    def begin(self, job: Job, text: bytes) -> int:
        worker: Any = self.hive.task.worker(self.rng.randrange(2**31))
        count = len(self.hive.task.start)
        if self.attack:
            worker = self.attacker = Attacker(worker, self.attack, self.hive.companions,
                                              self.rng.randrange(2**31))
        self.built = Learner(worker, job.sync, count)
        return count

    def apply(self, weights: Tensor, codec: str, update: bytes, part: slice) -> Tuple[Tensor, str]:
        self.hive.commits_received += 1
        held = self.session.held
        made = self.hive.once((held.hash, codec, update, part.start),
                              lambda: apply_update(weights, codec, update, part))
        if self.attacker:
            self.attacker.saw(held.version + 1, part, weights[part] - made[0][part])
        self.hive.disagreements += made[1] != self.hive.coordinator.journal.at(held.version + 1)[0]
        return made

    def whole(self, content: bytes) -> Tuple[Tensor, str]:
        return self.hive.once((content,), lambda: from_bytes(content))

    def settle(self, counted: bool, part: slice) -> None:
        self.learner.feedback.settle(counted, part)
        if counted:
            self.account.count(self.kept_tokens)
        else:
            self.account.lose(self.kept_tokens)

    def forget(self, parts: List[slice]) -> None:
        self.learner.feedback.forget(parts)
        self.account.lose(self.kept_tokens)

    @property
    def kept_tokens(self) -> int:
        """Carried, as its session sees it."""
        return int(self.session.carried + self.session.progress.tokens)

    # Training: one step after the other

    def tell(self, what: Happening, *values: Any, **more: Any) -> None:
        super().tell(what, *values, **more)
        if not self.session.training:
            self.step_due = None
            self.open_mail()
        elif self.step_due is None and not self.telling:
            self.step_due = self.clock.now + self.lap
            self.clock.at(self.step_due, self.step, self.step_due)

    def task(self, step: int, total: Optional[int], window: int) -> None:
        self.learner.worker.begin(step, total, window)
        self.lap = self.step_seconds * self.rng.lognormvariate(0, self.jitter)

    def step(self, due: float) -> None:
        if due != self.step_due:
            return  # it was given up
        self.step_due, worker = None, self.learner.worker
        try:
            loss = self.make_step()
        except GltchError as error:
            self.tell("broke_down", error)
            self.account.lose(self.kept_tokens)
            return
        self.account.step(worker.tokens, self.lap)
        self.tell("stepped", worker.tokens, loss, self.lap)
        self.open_mail()
        self.catch_up()

    def catch_up(self) -> None:
        self.tell("caught_up")

    def open_mail(self) -> None:
        if self.opening:
            return  # what a letter leads to
        self.opening = True
        while self.mail:
            self.open(*self.mail.popleft())
        self.opening = False

    def ring(self, session: Any) -> None:
        if self.step_due is None:
            super().ring(session)
        else:
            self.alarm = math.inf  # it is set anew after the step

    def make_step(self) -> float:
        loss: float = self.learner.worker.step()
        return loss

    def make_update(self, part: slice, steps: int) -> bytes:
        return self.learner.take(part, steps)


class Simulation:
    """The clock, the hosts and the table of results.

    `run` goes through a whole run. `peers`, `coordinator` and the rest are there to look at in
    between. `strict`: messages and chunks are packed, cut and unpacked for real."""

    chunk_bytes = CHUNK_BYTES
    message_bytes: Optional[int] = None  # that a packed message counts as; None: its length
    places: Optional[int] = None  # for updates on their way; None: what memory is kept for
    text = b""  # as peers fetch it that do not have it; all have what is trained on

    def __init__(self, settings: Settings, strict: bool = False, clock: Optional[Clock] = None):
        torch.set_num_threads(settings.threads)
        self.settings, self.sync = settings, settings.make_sync()
        self.strict = strict
        self.task = settings.make_task()
        self.seed = self.task.recipe.seed
        self.rng = random.Random(f"{self.seed} hive")
        self.tokens_rng = random.Random(f"{self.seed} tokens")
        self.clock = clock or Clock()
        self.numbers = itertools.count(1)  # of connections
        self.commit_seconds = 0.0 if settings.lockstep else settings.commit_seconds
        self.least = settings.peers if settings.lockstep else settings.min_peers
        limits = Limits(settings.steps, settings.rounds, settings.minutes, settings.target_loss
                        ).or_steps(self.task.reference)
        self.job = Job(self.token()[:16], settings.size, settings.sync, self.task.config,
                       self.task.recipe, self.sync, limits, self.task.alphabet, name_of(self.text),
                       len(self.text))
        journal = self.open_journal()
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
        kinds = attackers_of(settings.attacks, settings.peers)
        self.companions = Companions(self.seed)
        self.peers = [self.make_peer(number, number in slow) for number in range(settings.peers)]
        for peer, kind in zip(reversed(self.peers), kinds):
            peer.attack = kind
        self.newcomers = deque(self.peers[:settings.newcomers])  # who has not come yet

    def open_journal(self) -> Journal:
        return Journal(None)

    def make_coordinator(self, journal: Journal) -> CoordinatorHost:
        return CoordinatorHost(self, journal)

    def make_peer(self, number: int, slow: bool) -> PeerHost:
        return PeerHost(self, number, slow)

    def token(self) -> str:
        return f"{self.tokens_rng.getrandbits(256):064x}"

    def run(self, on_round: Optional[Callable[[Row], None]] = None) -> Summary:
        """Until the run is over, and its end measured. Raises GltchError when training breaks down.
        """
        self.on_round = on_round
        self.coordinator.tell("begin")
        for peer in self.peers[len(self.newcomers):]:
            peer.connect()
        while not self.over:
            assert self.clock.step(), "nothing is left to happen: the hive stands still"
        return self.summary()

    @property
    def over(self) -> bool:
        session = self.coordinator.session
        return (bool(session.run.finished)
                and session.evaluation.evaluated == session.rounds.version)

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
        require(left or bool(self.coordinator.session.run.finished), "No peer is left: training "
                f"breaks down on all of them; use a lower --learning-rate. {reason}")

    def send(self, wire: Wire, message: Message) -> None:
        """Packed for real, or handed across as it is."""
        if self.strict:
            text = packed(message)
            wire.send(text, len(text) if self.message_bytes is None else self.message_bytes)
        else:
            wire.send(message)

    # The table

    def after_round(self, record: Record) -> None:
        """A round is committed: write its row, and let some peers come and others vanish."""
        session = self.coordinator.session
        counted = [c for c in record.contributions if c.verdict == "counted"]
        self.tokens_counted += sum(c.tokens for c in counted)
        self.updates["counted"] += len(counted)
        self.updates["stale"] += sum(bool(c.reason) for c in counted)
        for verdict in (LATE, REJECTED):
            self.updates[verdict] += self.refused[verdict]
        up, down, weights = (self.bytes[way] - self.before[way] for way in self.bytes)
        self.before = dict(self.bytes)
        measured = session.evaluation.evaluated == record.number
        self.rows.append(Row(
            record.number, record.step, round(self.clock.now, 3), len(counted), self.refused[LATE],
            self.refused[REJECTED], told(record.loss),
            told(session.evaluation.val_loss) if measured else None, up, down + weights,
            sum(peer.connection is not None for peer in self.peers)))
        self.refused.clear()
        if self.on_round:
            self.on_round(self.rows[-1])
        if self.newcomers and record.number % NEWCOMER_ROUNDS == 0:
            self.newcomers.popleft().connect()
        length = record.committed - record.opened
        for peer in self.peers:
            if peer.connection and self.rng.random() < self.settings.churn:
                away = length * self.rng.uniform(0.5, 3.0)
                self.clock.after(self.rng.uniform(0.0, length), peer.vanish, away)

    def tokens(self) -> Dict[str, int]:
        """What became of every token that was trained on; the last three add up to the first."""
        return {"trained": sum(peer.account.trained for peer in self.peers),
                "counted": self.tokens_counted,
                "carried": sum(peer.carried for peer in self.peers),
                "lost": sum(peer.account.lost for peer in self.peers)}

    def aside(self) -> Dict[str, int]:
        """Who was ever set aside, by name, and in which round first."""
        known = self.coordinator.session.standing.contributors
        first: Dict[str, int] = {}
        for number in range(1, self.coordinator.session.rounds.version + 1):
            for one in self.coordinator.journal.judgements(number):
                if one["kind"] == "aside":
                    first.setdefault(known[one["peer"]]["name"], number)
        return first

    def summary(self) -> Summary:
        count, total, session = len(self.task.start), self.bytes, self.coordinator.session
        now = self.clock.now
        connected = sum(peer.account.seconds_connected(now) for peer in self.peers)
        return Summary(
            session.run.finished, session.rounds.version, session.run.step, round(now, 3),
            told(session.run.loss), told(session.evaluation.val_loss), told(self.start_loss),
            sum(peer.account.training for peer in self.peers) / max(connected, 1e-9),
            total["up"] / count / max(1, self.updates["counted"]),
            total["down"] / count / max(1, self.commits_received), total["weights"], self.updates,
            self.tokens(), self.interrupted, self.disagreements, self.aside(), asdict(self.sync))


def simulate(settings: Settings, on_round: Optional[Callable[[Row], None]] = None) -> Summary:
    """A whole run; `on_round` sees each committed round. Raises GltchError when it cannot go on."""
    return Simulation(settings).run(on_round)
