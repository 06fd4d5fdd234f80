"""Faults by the thousand: the hive's own sessions in virtual time, broken in every way, by a seed.

    python -m hive.simulate --faults --seed 7                one run, of a mixture that 7 draws
    python -m hive.simulate --faults --seed 0 --seeds 1000

A run has a few peers with tiny weights, a few kinds of fault at a few moments, and a quiet end.
What must hold is looked at after every event. A failure is told with its seed, the smallest mixture
of faults that still leads to it, and what happened last.
"""
from __future__ import annotations

import contextlib
import json
import math
import random
import sqlite3
import time
from collections import Counter, deque
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Deque, Dict, FrozenSet, List, Optional, Set, Tuple, Union

import torch

from gltch_2_7m import GltchError, Unwritable
from hive.books import applying
from hive.journal import FOR_NOW, Journal, Memory
from hive.learning.codec import decode, digest
from hive.learning.outer import Committed
from hive.learning.worker import Work
from hive.session import effects
from hive.session.coordinator_session import MOST_TRANSFERS, MOST_WAITING, REMEMBERED_UPDATES
from hive.session.effects import Do, Moment
from hive.session.peer_session import MOST_KEPT, Identity, PeerSession
from hive.session.protocol import MESSAGE_BYTES, ProtocolError, name_of, unpack
from hive.session.record import Record
from hive.simulate import (
    BEGINNING,
    CLOSED,
    Connection,
    CoordinatorHost,
    PeerHost,
    Settings,
    Simulation,
    packed,
)
from hive.simulation.tasks import SyntheticTask, SyntheticWorker
from hive.simulation.virtual import Piece

UNNOTICED_SECONDS = 45.0  # until a connection that fell silent is found dead
RESTART_SECONDS = 60.0  # until somebody starts a peer again that was turned away for good
PATIENCE = 1800.0  # virtual seconds in which all must be well again, once faults stop
LATEST = 30  # events that a failure tells
PACKED = 8  # one of so many runs packs its messages for real
HANDSHAKE = ("challenge", "hello", "welcome")
MOST_PEERS = 6  # with clones
MOST_EVENTS = 500_000  # of a run that never ends; an hour asleep is 200,000 of the others
ENDLESS = 1_000_000  # rounds
LAST_FAULT = 900  # events before it, at most
SHORT = 0.3  # of these in a run of a few rounds, so that it is not over before


class Violation(Exception):
    """Something that must always hold does not."""


class Killed(Exception):
    """A process ended between two effects."""

    def __init__(self, why: str = "killed"):
        super().__init__(why)
        self.why = why


@dataclass(eq=False)
class Lot:
    """The tokens of one training, and what became of them."""

    tokens: int
    fate: str = ""  # counted, or the name of what they were lost by; empty: they are carried


class Task(SyntheticTask):
    """With the same noise in every run, which is most of the work of making one."""

    all_noise = torch.randn(1_000_003, generator=torch.Generator().manual_seed(1))

    def __init__(self, count: int, recipe: Dict[str, Any]):
        super().__init__(count, recipe, noise=1)
        self.noise = self.all_noise


class FaultSettings(Settings):
    def make_task(self) -> SyntheticTask:
        return Task(self.parameters, self.recipe)


class Database:
    """The journal's SQLite connection, whose disk may be full at any statement that writes."""

    def __init__(self, hive: Trial, real: sqlite3.Connection):
        self.hive, self.real = hive, real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def execute(self, sql: str, values: Tuple[Any, ...] = ()) -> sqlite3.Cursor:
        kind = sql.split(None, 1)[0]
        if kind in ("BEGIN", "INSERT", "UPDATE", "COMMIT") and self.hive.is_full() and (
                self.hive.dice.random() < self.hive.fullness):
            self.hive.cover(f"disk full at {kind}")
            raise sqlite3.OperationalError(self.hive.dice.choice(FOR_NOW[:2]))
        return self.real.execute(sql, values)


class Reopened(Journal):
    """What a process that was started again finds: what was written, and nothing remembered."""

    def __init__(self, hive: Trial, before: Journal):
        self.before = before
        super().__init__(None)
        before.close()
        self.files = before.files
        self._db = Database(hive, self._db)  # type: ignore[assignment]

    def _connect(self, held: contextlib.ExitStack) -> sqlite3.Connection:
        db = super()._connect(held)
        self.before._db.backup(db)
        return db


class Shelf(Memory):
    """Where snapshots lie: full from some file on, as long as the disk is."""

    def __init__(self, hive: Trial):
        super().__init__()
        self.hive = hive

    def write(self, name: str, *parts: bytes) -> None:
        if self.hive.is_full() and self.hive.dice.random() < 0.5:
            self.hive.cover("disk full at a snapshot")
            raise Unwritable("The disk is full.")
        super().write(name, *parts)

    def remove(self, name: str) -> None:
        if name in self.files and self.hive.is_full():
            self.hive.cover("a snapshot could not be removed")
            raise Unwritable("The disk is gone.")
        super().remove(name)


class Coordinator(CoordinatorHost):
    """Dies between two effects, finds the disk full, and has its clock set."""

    hive: Trial

    def __init__(self, hive: Trial, journal: Journal):
        super().__init__(hive, journal)
        self.fuse = -1  # effects until it dies
        self.dies_when_kept = False
        self.added: List[str] = []  # updates in the open round
        self.combined: List[str] = []  # in the one that is being written down
        self.held_back: Dict[Connection, Any] = {}
        self.reported: Dict[int, int] = {}  # by connection: the version its peer said it holds
        self.slow_work["keep_checkpoint"] = self.keep_checkpoint
        self.session.uploads.places = hive.places

    def moment(self) -> Moment:
        return Moment(self.clock.now, BEGINNING + self.clock.now + self.hive.set_by)

    def tell(self, what: str, *values: Any, **more: Any) -> None:
        self.hive.note("coordinator", what, values)
        self.hive.touched[self] = None
        if what == "heard" and values[1]["type"] == "ready":
            self.reported[values[0]] = values[1]["version"]
        try:
            super().tell(what, *values, **more)
        except Killed:
            self.die()

    def carry_out(self, effect: Any) -> None:
        self.fuse -= 1
        if self.fuse == 0:
            raise Killed
        if isinstance(effect, effects.Send):
            self.hive.check_said(effect, self.session.links.get(effect.link))
            self.check_version(effect)
        super().carry_out(effect)
        if isinstance(effect, (effects.Send, effects.SendBlob)):
            self.check_outbox(effect.link)

    def die(self) -> None:
        """All is gone but the journal."""
        self.hive.cover("coordinator killed")
        self.telling, self.session, self.kept = False, None, None
        self.calls.clear()
        self.lanes.clear()
        for connection in self.connections.values():
            connection.cut()
            if self.hive.dice.random() < 0.5:  # or it just falls silent
                self.hive.notice(connection)
        self.connections.clear()
        self.hive.is_down()

    def arrive(self, connection: Connection, item: Any) -> None:
        for one in self.hive.disturbed(connection, item, self.held_back, self.take):
            self.take(connection, one)

    def take(self, connection: Connection, item: Any) -> None:
        if connection.number in self.connections:
            try:
                super().arrive(connection, item)
            except ProtocolError as error:
                self.tell("broken", connection.number, str(error))

    def accept(self, connection: Connection) -> None:
        if any(other.peer is connection.peer for other in self.connections.values()):
            self.hive.cover("second connection of a peer")
        super().accept(connection)

    # What must hold

    def check(self) -> None:
        """Places and memory belong to those who are there."""
        session, must, there = self.session, self.hive.must, len(self.connections)
        if not session:  # it was killed
            return
        must(len(session.links) + len(session.reception.strangers) <= there,
             "connections that are gone are remembered")
        must(len(session.works) <= 4 * there + 8, "too much slow work is under way")
        peers, uploads = session.peers.keys(), session.uploads
        must(session.rounds.members.keys() == peers, "a round waits for somebody who is gone")
        must(session.arriving.keys() <= session.links.keys(),
             "a welcome is kept for somebody who is gone")
        must(uploads.queue.keys() <= peers, "somebody who is gone waits for a place")
        must(all(peer in peers for peer, one in uploads.begun.items() if one.connected),
             "somebody who is gone holds a place")
        kept = sum(len(one.receiver.content) for one in uploads.begun.values())
        must(len(uploads.begun) <= uploads.places and kept <= uploads.size * uploads.places,
             "too much is kept of uploads")

    def check_version(self, effect: effects.Send) -> None:
        self.hive.must(effect.message["type"] != "version" or
                       effect.message["version"] >= self.reported[effect.link],
                       "a peer is offered older weights than it holds")

    def check_outbox(self, link: int) -> None:
        """What waits until a peer takes it."""
        connection = self.connections.get(link)
        if connection:
            down, must = connection.down, self.hive.must
            most = MOST_TRANSFERS * max(4 * self.session.parameters, self.session.uploads.size)
            said = len(down.moving) - down.pieces
            must(said <= MOST_WAITING + REMEMBERED_UPDATES and down.blobs <= MOST_TRANSFERS
                 and down.bytes <= most + said * self.hive.message_limit,
                 "too much waits for a peer")

    # Slow work

    def seconds_of(self, do: Do) -> float:
        """So that it can die, and hear something else, while it works."""
        return super().seconds_of(do) + self.hive.work_seconds

    def tell_end(self, how: str, ticket: int, result: Any) -> None:
        """The thread that worked goes on at once; the session hears of the end a little later."""
        if self.hive.gap:
            self.hive.covered["a while between the end of work and its news"] += 1
            self.clock.after(self.hive.gap, self.tell_end_now, how, ticket, result)
        else:
            super().tell_end(how, ticket, result)

    def tell_end_now(self, how: str, ticket: int, result: Any) -> None:
        if self.session:  # it was not killed in between
            self.tell(how, ticket, result)

    def keep_checkpoint(self, state: Dict[str, Any], names: List[str]) -> None:
        if self.hive.is_full():
            self.hive.cover("disk full at a checkpoint")
            raise Unwritable("The disk is full.")

    def add(self, codec: str, content: bytes, weight: float, steps: int) -> float:
        counting = super().add(codec, content, weight, steps)
        self.added.append(name_of(content))
        return counting

    def combine(self) -> Optional[Committed]:
        committed = super().combine()
        if committed:
            self.added, self.combined = [], self.added
        return committed

    def keep(self, record: Record, committed: Committed) -> None:
        super().keep(record, committed)
        self.hive.must(not self.added, "an update was added between the round's end and its record")
        self.hive.kept(record, self.combined, committed.weights)
        if self.dies_when_kept:
            self.hive.cover("killed after the round was written, before anybody heard")
            raise Killed

    def work(self, do: Do) -> None:
        try:
            super().work(do)
        except Killed:
            if self.telling:
                raise
            self.die()


class Peer(PeerHost):
    """Dies between two effects, falls asleep, computes nonsense, and keeps the books."""

    hive: Trial
    worker: SyntheticWorker

    def __init__(self, hive: Trial, number: int, original: Optional[Peer] = None):
        self.kept: Optional[Identity] = original.kept if original else None
        super().__init__(hive, number, slow=False)
        self.fuse = -1
        self.asleep = self.set_by = self.full_until = 0.0
        self.nonsense = self.breakdown = False  # of the next training
        self.lots: List[Lot] = []  # not settled
        self.moves = torch.zeros(len(hive.task.start))  # since then, as a sum
        self.held: Any = None  # what was checked
        self.refused = ""  # an update that just turned out not to count
        self.changed = False  # the error feedback, since the last check
        self.held_back: Dict[Connection, Any] = {}
        self.up, self.down = (self.rng.choice((2e3, 1e4, 1e5)) for _ in range(2))
        self.doing[effects.Keep] = self.keep
        self.doing[effects.Refuse] = self.turned_away

    def new_session(self) -> PeerSession:
        process = self.token()
        return PeerSession(self.name, token=self.token, device="CPU simulated", process=process,
                           recall=lambda hive: self.kept)

    def keep(self, keep: effects.Keep) -> None:
        if self.clock.now < self.full_until:
            self.hive.cover("a peer's cache could not be written")
        else:
            self.kept = Identity(keep.token, keep.name)

    def moment(self) -> Moment:
        return Moment(self.clock.now, BEGINNING + self.clock.now + self.set_by)

    def tell(self, what: str, *values: Any, **more: Any) -> None:
        self.hive.note(self.name, what, values)
        self.hive.touched[self] = None
        try:
            super().tell(what, *values, **more)
        except Killed as killed:
            self.die(killed.why)

    def carry_out(self, effect: Any) -> None:
        self.fuse -= 1
        if self.fuse == 0:
            raise Killed
        super().carry_out(effect)

    def die(self, why: str) -> None:
        """The process is gone, and with it what it did not upload; it is started again."""
        self.hive.cover(f"peer {why}")
        self.telling, self.training, self.alarm = False, None, math.inf
        self.calls.clear()
        for lane in self.lanes.values():
            lane.clear()
        if self.connection:
            self.cut(self.hive.noticed(), at_once=False)
            self.hang_up()
        self.lose_unsettled(why)
        self.session = self.new_session()
        away = self.rng.uniform(0.0, RESTART_SECONDS)
        self.hive.until(self.clock.now + away)
        self.clock.after(away, self.connect)

    def turned_away(self, refuse: effects.Refuse) -> None:
        self.hive.note(self.name, "turned away", (refuse.reason,))
        self.hang_up()
        raise Killed("turned away")

    def lose_unsettled(self, why: str = "rejected") -> None:
        for lot in self.lots:
            lot.fate = lot.fate or why
        self.lots = []
        self.moves.zero_()

    # Connections

    def cut(self, coordinator: float, at_once: bool) -> None:
        """The connection breaks. The coordinator finds it dead after so many seconds; this peer is
        told at once or never, and then it is for its session to miss the coordinator."""
        connection, host = self.connection, self.hive.coordinator
        assert connection is not None
        if any(wire.amid for wire in (connection.up, connection.down)):
            self.hive.cover("cut amid a message or chunk")
        connection.cut()
        self.clock.after(coordinator, host.lose, connection)
        if at_once:
            self.notice(connection)
        self.hive.until(self.clock.now + UNNOTICED_SECONDS)

    def notice(self, connection: Connection) -> None:
        if self.sleeps(self.notice, connection) or connection is not self.connection:
            return
        self.hang_up()
        self.tell("lost")
        self.come_back()

    def connect(self) -> None:
        if self.sleeps(self.connect) or self.connection:
            return
        if self.hive.down:
            self.come_back()
        else:
            super().connect()

    def arrive(self, connection: Connection, item: Any) -> None:
        if self.sleeps(self.arrive, connection, item):
            return
        for one in self.hive.disturbed(connection, item, self.held_back, self.take):
            self.take(connection, one)

    def take(self, connection: Connection, item: Any) -> None:
        try:
            super().arrive(connection, item)
        except ProtocolError as error:
            self.tell("broken", error)

    def say(self, said: effects.Tell) -> None:
        super().say(said)
        if said.message["type"] == "offer" and said.message["update"] not in self.hive.nonsense:
            lots = self.hive.made_of[said.message["update"]]
            self.hive.must(said.message["tokens"] == sum(lot.tokens for lot in lots),
                           "an update is offered with other tokens than went into it")

    # Sleep

    def sleeps(self, again: Callable[..., None], *values: Any) -> bool:
        """A process that is stopped does everything later."""
        if self.clock.now < self.asleep:
            self.clock.at(self.asleep, again, *values)
            return True
        return False

    def ring(self, session: Any) -> None:
        if self.clock.now < self.asleep and self.alarm == self.clock.now:
            self.alarm = self.asleep
        if not self.sleeps(self.ring, session):
            super().ring(session)

    def trained_enough(self, training: Any) -> None:
        if not self.sleeps(self.trained_enough, training):
            super().trained_enough(training)

    def uploaded(self, connection: Connection, blob: str) -> None:
        if not self.sleeps(self.uploaded, connection, blob):
            super().uploaded(connection, blob)

    # The books

    def begin(self, job: Any, text: bytes) -> int:
        self.lose_unsettled("training broke down")
        return super().begin(job, text)

    def train(self, task: Dict[str, Any], weights: torch.Tensor, part: slice
              ) -> Tuple[Work, bytes]:
        if self.breakdown:
            self.breakdown, self.training = False, None
            self.hive.cover("training broke down")
            raise GltchError("The loss became nan.")
        self.hive.must(torch.equal(self.worker.distance, weights - self.hive.task.place),
                       f"{self.name} does not train from the hive's weights")
        self.changed = True
        nonsense, self.nonsense = self.nonsense, False
        if nonsense:
            self.hive.cover("an update of nonsense")
            self.feedback.residual.fill_(math.nan)
            self.moves.fill_(math.nan)
        work, update = super().train(task, weights, part)
        if nonsense:
            self.hive.nonsense.add(name_of(update))
        self.lots.append(Lot(work.tokens))
        self.hive.made_of[name_of(update)] = list(self.lots)
        self.hive.by[name_of(update)] = self
        self.moves += self.worker.moved(weights)
        return work, update

    def settle(self, counted: bool) -> None:
        self.changed = True
        codec, update, _ = self.feedback.sent
        blob = name_of(update)
        if not codec:
            pass  # it is told again
        elif counted:
            mistaken = blob not in self.hive.counted
            self.hive.must(not mistaken or self.hive.cloned, "a peer was told that an update "
                           "counted which is not in the journal")
            for lot in self.hive.made_of[blob] if mistaken else ():
                lot.fate = lot.fate or "taken for those of another process with the same token"
            self.lots = [lot for lot in self.lots if lot not in self.hive.made_of[blob]]
            self.moves -= decode(codec, update, len(self.moves))
        else:
            self.refused = blob
        super().settle(counted)

    def forget(self) -> None:
        self.changed = True
        super().forget()
        self.refused = ""  # whether it counts does not matter any more
        self.lose_unsettled("rejected")

    def check(self) -> None:
        must, session = self.hive.must, self.session
        if self.refused:
            must(self.refused not in self.hive.counted, f"{self.name} was told that an update did "
                 "not count which is in the journal")
            self.hive.refused_updates.add(self.refused)
            self.refused = ""
        if session.held is not self.held:
            self.held = session.held
            if self.held.hash:
                known = self.hive.journal.at(self.held.version)[0]
                must(digest(self.held.weights) == self.held.hash == known,
                     f"{self.name} holds other weights than the journal")
        must(session.carried == sum(lot.tokens for lot in self.lots),
             f"{self.name} carries {session.carried} tokens and should carry "
             f"{sum(lot.tokens for lot in self.lots)}")
        must(len(session.inbox) <= MOST_KEPT, "an inbox is too full")
        must(session.partial is None or len(session.partial.content) <= 4 * len(self.moves),
             "a download is too long")
        if self.changed and not session.pending and not session.work:
            self.changed = False
            residual = self.feedback.residual if session.job else self.moves
            must(torch.allclose(residual, self.moves, atol=1e-4, equal_nan=True),
                 f"{self.name}'s error feedback is not what was trained and never counted")


class Damaged(Piece):
    """With a bit that is not what was sent, in the header or in the content."""

    def at(self, dice: random.Random) -> Damaged:
        self.damaged = flipped(super().message, dice)
        return self

    @property
    def message(self) -> bytes:
        return self.damaged


def flipped(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def is_plausible(sent: str, came: str) -> bool:
    """Is it a message with another number, or of another conversation? Nothing in the protocol
    tells that from the one that was sent."""
    try:
        changed = unpack(came)
    except ProtocolError:
        return False
    return changed["type"] in HANDSHAKE or any(
        value != changed[name] and not isinstance(value, str)
        for name, value in unpack(sent).items())


class Trial(Simulation):
    """One run under the faults of a seed, but for those of some kinds."""

    coordinator: Coordinator
    peers: List[Peer]  # type: ignore[assignment]
    task: SyntheticTask
    chunk_bytes, message_bytes = 32, 250

    def __init__(self, seed: int, without: FrozenSet[str] = frozenset()):
        self.dice = random.Random(f"faults {seed}")
        draw = self.dice
        self.more = random.Random(f"more faults {seed}")  # came later, and changes no draw above
        # from the end of the coordinator's work to its news
        self.gap = self.more.choice((0.0, 0.0, 0.0, 0.0, 0.02, 0.7))
        self.down, self.set_by, self.calm_at = False, 0.0, 0.0
        self.full_until = self.fullness = 0.0
        self.covered: Counter[str] = Counter()
        self.touched: Dict[Union[Coordinator, Peer], None] = {}  # in order, since the last check
        self.events: Deque[Tuple[float, str, str, Tuple[Any, ...]]] = deque(maxlen=LATEST)
        self.made_of: Dict[str, List[Lot]] = {}  # by SHA-256: what went into it
        self.by: Dict[str, Peer] = {}
        self.counted: Dict[str, int] = {}  # the round
        self.refused_updates: Set[str] = set()
        self.nonsense: Set[str] = set()  # updates that may be equal to another's
        self.counted_peers: Dict[int, Set[str]] = {}  # by round
        self.last_round: Dict[Peer, int] = {}
        self.disturbances: Counter[str] = Counter()  # still to come
        self.latest: Optional[torch.Tensor] = None  # weights, as written down last
        self.restarts = 0
        codec, peers = draw.choice(("fp32", "q4", "q2", "top64")), draw.randint(2, 4)
        self.work_seconds = draw.choice((0.0, 0.0, 0.02, 0.5))  # of all the coordinator's slow work
        self.places = draw.choice((1, 2, 4))  # for updates on their way; who finds none waits
        super().__init__(FaultSettings(
            peers=peers, rounds=draw.choice((12, ENDLESS)), parameters=draw.choice((24, 200)),
            spread=0.5, step_seconds=2.0, inner_steps=2, round_seconds=10.0, codec=codec,
            eval_every=3, commit_seconds=draw.choice((0.0, 0.3)), latency=0.05,
            recipe={"seed": seed, "batch_size": 8, "learning_rate": 0.01}), strict=True)
        self.packs = seed % PACKED == 0
        self.message_limit = MESSAGE_BYTES if self.packs else self.message_bytes
        self.journal = self.coordinator.journal
        self.journal._db = Database(self, self.journal._db)  # type: ignore[assignment]
        shelf = Shelf(self)
        shelf.files = {name: self.journal.files.read(name) or b""
                       for name in self.journal.files.names()}
        self.journal.files = shelf
        drawn = draw.sample(sorted(FAULTS), draw.randint(1, 4))
        plan = sorted((draw.randrange(40, LAST_FAULT), kind)
                      for kind in drawn for _ in range(draw.randint(1, 4)))
        short = 1.0 if self.settings.rounds == ENDLESS else SHORT
        self.plan = [(round(number * short), kind) for number, kind in plan
                     if kind not in without]
        self.kinds = {kind for _, kind in self.plan}

    def make_coordinator(self, journal: Journal) -> Coordinator:
        return Coordinator(self, journal)

    def make_peer(self, number: int, slow: bool) -> Peer:
        return Peer(self, number)

    def one_less(self, reason: str) -> None:
        pass

    def notice(self, connection: Connection) -> None:
        for peer in self.peers:
            if peer is connection.peer:
                peer.notice(connection)

    # What is told of it

    def note(self, who: str, what: str, values: Tuple[Any, ...] = ()) -> None:
        self.events.append((self.clock.now, who, what, values))

    def cover(self, fault: str) -> None:
        self.covered[fault] += 1
        self.note("fault", fault)

    def story(self) -> List[str]:
        """The last events, a line each."""
        return [f"{moment:10.3f}  {who:<12} {what:<10} {', '.join(map(brief, values))}"
                for moment, who, what, values in self.events]

    def must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(otherwise)

    def until(self, moment: float) -> None:
        """A fault lasts until then."""
        self.calm_at = max(self.calm_at, moment)

    def noticed(self) -> float:
        return self.dice.choice((0.0, UNNOTICED_SECONDS))

    def is_full(self) -> bool:
        """Has the disk no room for a file? It may have for a row now and then."""
        return self.clock.now < self.full_until

    # The run

    def play(self) -> None:
        """Raises Violation."""
        self.coordinator.tell("begin")
        for peer in self.peers:
            peer.connect()
        number, quiet = 0, 0.0
        while not self.is_well(quiet):
            number += 1
            while self.plan and self.plan[0][0] <= number:
                _, kind = self.plan.pop(0)
                if not self.down:
                    FAULTS[kind](self)
            if not self.plan and not quiet and self.clock.now >= self.calm_at and not self.down:
                self.disturbances.clear()
                quiet, self.quiet_from = self.clock.now + PATIENCE, self.coordinator.journal.last
            self.must(not quiet or self.clock.now < quiet,
                      f"{PATIENCE:g} s after the last fault not every peer counts again")
            self.must(number < MOST_EVENTS, "there is no end of events")
            self.must(self.clock.step(), "nothing is left to happen")
            self.check()
        self.must(not self.plan, "the run was over before its faults")
        self.check_journal()

    def is_well(self, quiet: float) -> bool:
        """Has every peer's update counted since the faults stopped, or is the run over?"""
        if self.coordinator.finished:
            return True
        return bool(quiet) and all(self.last_round.get(peer, 0) > self.quiet_from
                                   for peer in self.peers if not peer.ended)

    def is_down(self) -> None:
        self.down = True
        seconds = self.dice.uniform(0.1, 90.0)
        self.until(self.clock.now + seconds)
        self.clock.after(seconds, self.restart)

    def restart(self) -> None:
        self.note("fault", "coordinator started again")
        self.down, self.restarts = False, self.restarts + 1
        self.journal = Reopened(self, self.journal)
        self.coordinator = Coordinator(self, self.journal)
        outer = self.coordinator.books.outer
        self.must(digest(outer.weights) == outer.hash == self.journal.head()[1] and (
            self.latest is None or torch.equal(outer.weights, self.latest)),
            "a restart does not give the weights of the last round")
        self.coordinator.tell("begin")

    # What must hold

    def check(self) -> None:
        """Of those who were told something since the last check."""
        for host in self.touched:
            host.check()
        self.touched.clear()

    def check_said(self, effect: effects.Send, link: Any) -> None:
        """Nobody hears of a round that is not written down."""
        said = effect.message
        if said["type"] in ("commit", "version"):
            last = self.journal.last
            self.must(said["version"] <= last and
                      self.journal.at(said["version"])[0] == said["weights"],
                      "a round was told that is not in the journal")
        if said["type"] == "commit" and said["counted"]:
            self.must(link.peer in self.counted_peers.get(said["version"], ()),
                      "a peer was told that it counted in a round in which it did not")

    def kept(self, record: Record, updates: List[str], weights: torch.Tensor) -> None:
        """A round is written down, of these updates."""
        self.latest = weights
        counted = [c for c in record.contributions if c.verdict == "counted"]
        self.must(len(counted) == len(updates), "the journal counts other updates than were added")
        self.counted_peers[record.number] = {c.peer for c in counted}
        tokens = 0
        for blob in updates:
            self.must(blob in self.by, "an update counted that nobody made")
            self.must(blob not in self.counted, "an update counted twice")
            self.must(blob not in self.refused_updates, "an update counted that was refused before")
            self.counted[blob] = record.number
            self.last_round[self.by[blob]] = record.number
            for lot in self.made_of[blob]:
                self.must(lot.fate in ("", "killed", "killed without its cache", "turned away")
                          or lot.fate == "rejected" and self.cloned,
                          f"tokens counted that were {lot.fate} before")
                lot.fate = "counted"
                tokens += lot.tokens
        claimed = sum(c.tokens for c in counted)
        # A coordinator that was started again has not seen how long these were trained on.
        self.must(claimed <= tokens and (claimed == tokens or self.restarts > 0 or self.cloned),
                  f"{claimed} tokens were written down, and {tokens} counted")
        for c in counted:
            if c.reason:
                self.cover("update that came rounds late")

    cloned = False

    def check_journal(self) -> None:
        last = list(self.journal.verify(applying(self.job)))[-1]
        self.must(last == self.journal.last, "the journal ends early")
        held = {lot for peer in self.peers for lot in peer.lots}
        for lots in self.made_of.values():
            for lot in lots:
                self.must(bool(lot.fate) or lot in held, "tokens vanished")

    # What is done to what arrives

    def disturbed(self, connection: Connection, item: Any, held_back: Dict[Connection, Any],
                  arrive: Callable[[Connection, Any], None]) -> List[Any]:
        items = [item]
        if item == CLOSED:
            return items
        if connection in held_back:
            items.append(held_back.pop(connection))
            self.cover("out of order")
        elif self.disturbances["out of order"]:
            self.disturbances["out of order"] -= 1
            held_back[connection] = item
            self.clock.after(1.0, self.let_go, connection, item, held_back, arrive)
            return []
        if self.disturbances["twice"]:
            self.disturbances["twice"] -= 1
            self.cover("twice")
            items.append(item)
        if self.disturbances["bit flipped"]:
            self.disturbances["bit flipped"] -= 1
            items[0] = self.with_a_bit_flipped(item)
        return items

    def with_a_bit_flipped(self, item: Any) -> Any:
        """Anywhere in a chunk or message, but so that somebody could notice."""
        if isinstance(item, Piece):
            self.cover("bit flipped in a chunk")
            return Damaged(*item).at(self.dice)
        self.cover("bit flipped in a message")
        sent = came = packed(item)
        while came == sent or is_plausible(sent, came):
            came = flipped(sent.encode(), self.dice).decode(errors="replace")
        return came

    def let_go(self, connection: Connection, item: Any, held_back: Dict[Connection, Any],
               arrive: Callable[[Connection, Any], None]) -> None:
        """Nothing came that it could have come after."""
        if held_back.get(connection) is item:
            del held_back[connection]
            arrive(connection, item)

    def somebody(self) -> Peer:
        return self.dice.choice(self.peers)


# --------------------------------------------------------------------------------------------------
# The kinds of fault
# --------------------------------------------------------------------------------------------------

def cut(hive: Trial) -> None:
    """Sometimes one direction breaks a little earlier than the other."""
    peer, (by_peer, by_coordinator) = hive.somebody(), (hive.noticed(), hive.noticed())
    connection = peer.connection
    if connection is None:
        return
    hive.cover(f"cut, noticed after {by_peer:g} s by the peer, {by_coordinator:g} s by the "
               "coordinator")
    if hive.dice.random() < 0.3:
        hive.cover("cut, one direction first")
        hive.dice.choice((connection.up, connection.down)).cut()
        seconds = hive.dice.uniform(0.0, 5.0)
        hive.until(hive.clock.now + seconds + UNNOTICED_SECONDS)
        hive.clock.after(seconds, finish_cut, peer, connection, by_coordinator, not by_peer)
    else:
        peer.cut(by_coordinator, not by_peer)


def finish_cut(peer: Peer, connection: Connection, coordinator: float, at_once: bool) -> None:
    if connection is peer.connection:
        peer.cut(coordinator, at_once)


def cut_all(hive: Trial) -> None:
    """And all come back at the same moment."""
    hive.cover("all back at once")
    for peer in hive.peers:
        if peer.connection:
            peer.cut(hive.noticed(), at_once=False)
            peer.hang_up()
            peer.tell("lost")
        hive.clock.after(3.0, peer.connect)


def kill_peer(hive: Trial) -> None:
    hive.somebody().fuse = hive.dice.randint(1, 12)


def kill_peer_and_cache(hive: Trial) -> None:
    """Sometimes because its disk is full, and then there is no cache for a while."""
    peer = hive.somebody()
    peer.kept = None
    if hive.more.random() < 0.3:
        peer.full_until = hive.clock.now + 300.0
    peer.die("killed without its cache")


def kill_coordinator(hive: Trial) -> None:
    hive.coordinator.fuse = hive.dice.randint(1, 40)


def kill_when_kept(hive: Trial) -> None:
    hive.coordinator.dies_when_kept = True


def clone(hive: Trial) -> None:
    """Somebody starts a second process with the same identity."""
    if len(hive.peers) == MOST_PEERS:
        return
    hive.cover("two processes with one token")
    hive.cloned = True
    peer = Peer(hive, len(hive.peers), hive.somebody())
    hive.peers.append(peer)
    peer.connect()


def fill_disk(hive: Trial) -> None:
    hive.full_until = hive.clock.now + hive.dice.uniform(0.5, 60.0)
    hive.fullness = hive.dice.choice((0.03, 0.3, 1.0))  # of rows
    hive.until(hive.full_until)


def disturb(kind: str, hive: Trial) -> None:
    hive.disturbances[kind] += hive.dice.randint(1, 3)


def set_clock_of_peer(hive: Trial) -> None:
    hive.cover("clock of a peer set by a day")
    hive.somebody().set_by += hive.dice.choice((-86400.0, 86400.0))


def set_clock_of_coordinator(hive: Trial) -> None:
    hive.cover("clock of the coordinator set by a day")
    hive.set_by += hive.dice.choice((-86400.0, 86400.0))


def suspend(hive: Trial) -> None:
    """One, some or all, for minutes or an hour; the coordinator finds them dead or not."""
    seconds = hive.dice.choice((90.0, 150.0, 240.0, 3600.0))
    peers = hive.dice.sample(hive.peers, hive.dice.choice((1, 1, 2, len(hive.peers))))
    who = {1: "a peer", len(hive.peers): "all peers"}.get(len(peers), "some peers")
    hive.cover(f"{who} suspended for {'minutes' if seconds < 3600.0 else 'an hour'}")
    for peer in peers:
        sleep(hive, peer, seconds)
        if peer.connection and hive.dice.random() < 0.5:
            peer.cut(UNNOTICED_SECONDS, at_once=False)


def doze(hive: Trial) -> None:
    hive.cover("peer suspended for some rounds")
    sleep(hive, hive.somebody(), hive.dice.uniform(2.0, 60.0))


def sleep(hive: Trial, peer: Peer, seconds: float) -> None:
    peer.asleep = max(peer.asleep, hive.clock.now + seconds)
    hive.until(peer.asleep)


def nonsense(hive: Trial) -> None:
    hive.somebody().nonsense = True


def breakdown(hive: Trial) -> None:
    hive.somebody().breakdown = True


FAULTS: Dict[str, Callable[[Trial], None]] = {
    "cut": cut, "all back at once": cut_all, "peer killed": kill_peer,
    "peer and cache killed": kill_peer_and_cache, "coordinator killed": kill_coordinator,
    "coordinator killed after a commit": kill_when_kept, "two processes": clone,
    "disk full": fill_disk, "clock of a peer": set_clock_of_peer,
    "clock of the coordinator": set_clock_of_coordinator, "suspended": suspend, "late": doze,
    "nonsense": nonsense, "breakdown": breakdown,
    **{kind: partial(disturb, kind) for kind in ("bit flipped", "twice", "out of order")}}


# --------------------------------------------------------------------------------------------------
# Many runs
# --------------------------------------------------------------------------------------------------

EXPECTED = (  # to have happened in a thousand runs
    "a peer suspended for an hour", "a peer suspended for minutes",
    "a peer's cache could not be written", "a while between the end of work and its news",
    "all back at once",
    "all peers suspended for an hour", "all peers suspended for minutes", "an update of nonsense",
    "bit flipped in a chunk", "bit flipped in a message",
    "clock of a peer set by a day", "clock of the coordinator set by a day", "coordinator killed",
    *(f"cut, noticed after {peer:g} s by the peer, {coordinator:g} s by the coordinator"
      for peer in (0, 45) for coordinator in (0, 45)),
    "cut amid a message or chunk", "cut, one direction first",
    "disk full at BEGIN", "disk full at COMMIT", "disk full at INSERT", "disk full at a checkpoint",
    "disk full at a snapshot",
    "killed after the round was written, before anybody heard", "out of order", "peer killed",
    "peer killed without its cache", "peer suspended for some rounds", "peer turned away",
    "second connection of a peer", "some peers suspended for an hour",
    "some peers suspended for minutes", "training broke down", "twice",
    "two processes with one token", "update that came rounds late")


class Failure(Exception):
    """What went wrong with a seed, as text."""


def brief(value: Any) -> str:
    """A value as it is shown among the last events."""
    if isinstance(value, dict) and "type" in value:
        said = (f"{name} {brief(item)}" for name, item in value.items() if name != "type")
        return f"{value['type']}: {', '.join(said)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(brief, value))})"
    if isinstance(value, (bytes, torch.Tensor)):
        return f"{len(value)} {'bytes' if isinstance(value, bytes) else 'values'}"
    if isinstance(value, str) and len(value) == 64:
        return value[:8]
    return "..." if isinstance(value, dict) else str(value)


def play(seed: int, without: FrozenSet[str] = frozenset()) -> Trial:
    """Raises Failure."""
    trial = Trial(seed, without)
    try:
        trial.play()
    except Exception as error:
        last = f"seed {seed}: {type(error).__name__}: {error}"
        raise Failure("\n".join([*trial.story(), last])) from error
    return trial


def smallest(seed: int) -> FrozenSet[str]:
    """The kinds of fault without which a seed that fails still does."""
    without: FrozenSet[str] = frozenset()
    for kind in sorted(Trial(seed).kinds):
        try:
            play(seed, without | {kind})
        except Failure:
            without |= {kind}
    return without


def explain(seed: int, failure: Failure) -> str:
    """The last events of the smallest mixture that fails."""
    without = smallest(seed)
    kinds = Trial(seed).kinds - without
    try:
        play(seed, without)
    except Failure as smaller:
        failure = smaller
    return f"{failure}\nsmallest mixture: {', '.join(sorted(kinds)) or 'no fault at all'}"


def main(first: int, count: int) -> int:
    began, covered = time.process_time(), Counter[str]()
    for seed in range(first, first + count):
        try:
            covered += play(seed).covered
        except Failure as failure:
            print(explain(seed, failure))
            return 1
    print(json.dumps({"seeds": [first, first + count - 1], "covered": dict(sorted(
        covered.items())), "seconds": round(time.process_time() - began, 1)}))
    return 0
