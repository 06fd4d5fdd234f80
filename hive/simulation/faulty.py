"""A hive that can be broken: hosts that die and sleep, and what must hold of them all the same."""
from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any, Callable, Dict, List, Literal, NamedTuple, Optional, Sequence, Set, Union

import torch

from gltch_2_7m import GltchError, Unwritable, require
from hive.journal import Journal
from hive.learning.codec import decode, digest
from hive.learning.outer import Committed
from hive.session import effects
from hive.session.about import Identity
from hive.session.conversation import MOST_KEPT
from hive.session.coordinator_session import MOST_WAITING
from hive.session.effects import Do, Moment
from hive.session.job import Job
from hive.session.library import REMEMBERED_UPDATES
from hive.session.peer_session import PeerSession
from hive.session.protocol import MESSAGE_BYTES, ProtocolError, name_of
from hive.session.record import Record
from hive.session.supply import MOST_TRANSFERS, MOST_UNASKED
from hive.session.uploads import BUDGET_BYTES
from hive.simulation.damage import Damage
from hive.simulation.disk import Disk
from hive.simulation.hive import Connection, CoordinatorHost, PeerHost, Simulation
from hive.simulation.host import BEGINNING, Happening
from hive.simulation.settings import Settings
from hive.simulation.tasks import SyntheticTask
from hive.simulation.trouble import Trouble
from hive.simulation.truth import Lot, Truth, must
from hive.simulation.virtual import UNNOTICED_SECONDS

RESTART_SECONDS = 60.0  # until somebody starts a peer again that was turned away for good
MEASURED = 8  # in one run of this many a message takes as long as it is, not as one of 250 bytes
ENDLESS = 1_000_000  # rounds
OVERLAPPING = 0.3  # of the runs train on while updates travel
WITHOUT_CACHE = "killed without its cache"
WITHOUT_TEXT = 0.3  # of the runs begin with peers that do not have it
TWO_AT_LEAST = 0.3  # of the runs have no round before two peers are there
AMONG_ATTACKERS = 5  # peers, as fewer could not tell who of them is honest
ALIKE = ("collude", "copy")  # attackers whose updates are those of others, byte for byte


class Killed(Exception):
    """A process ended between two effects."""

    def __init__(self, why: str = "killed"):
        super().__init__(why)
        self.why = why


class Task(SyntheticTask):
    """With the same noise in every run, which is most of the work of making one."""

    all_noise = torch.randn(1_000_003, generator=torch.Generator().manual_seed(1))

    def __init__(self, count: int, recipe: Dict[str, Any]):
        super().__init__(count, recipe, noise=1)
        self.noise = self.all_noise


class FaultSettings(Settings):
    def make_task(self) -> SyntheticTask:
        return Task(self.parameters, self.recipe)


class Coordinator(CoordinatorHost):
    """Dies between two effects, finds the disk full, and has its clock set."""

    hive: FaultyHive

    def __init__(self, hive: FaultyHive, journal: Journal):
        super().__init__(hive, journal)
        self.trouble, self.truth = hive.trouble, hive.truth
        self.fuse = -1  # effects until it dies
        self.dies_when_kept = False
        self.added: List[str] = []  # updates in the open round
        self.combined: List[str] = []  # in the one that is being written down
        self.network = Damage(self.trouble, self.take)
        self.largest = max(map(self.books.update_bytes,
                               range(1, hive.sync.fragments + 1)))  # bytes of an update
        self.reported: Dict[int, int] = {}  # by connection: the version its peer said it holds
        self.slow_work.update({"add": self.add, "combine": self.combine, "undo": self.undo,
                               "keep_checkpoint": self.keep_checkpoint})

    def moment(self) -> Moment:
        return Moment(self.clock.now, BEGINNING + self.clock.now + self.hive.set_by)

    def tell(self, what: Happening, *values: Any, **more: Any) -> None:
        self.trouble.note("coordinator", what, values)
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
            link = self.session.links.proved.get(effect.link)
            self.truth.check_said(effect.message, link.peer if link else "")
            self.check_version(effect)
        super().carry_out(effect)
        if isinstance(effect, (effects.Send, effects.SendBlob)):
            self.check_outbox(effect.link)

    def die(self) -> None:
        """All is gone but the journal."""
        self.trouble.cover("coordinator killed")
        self.telling, self.session, self.kept = False, None, None
        self.calls.clear()
        self.lanes.clear()
        for connection in self.connections.values():
            connection.cut()
            if self.trouble.dice.random() < 0.5:  # or it just falls silent
                self.hive.notice(connection)
        self.connections.clear()
        self.hive.is_down()

    def arrive(self, connection: Connection, item: Any) -> None:
        self.network.arrive(connection, item)

    def take(self, connection: Connection, item: Any) -> None:
        if connection.number in self.connections:
            try:
                super().arrive(connection, item)
            except ProtocolError as error:
                self.tell("broken", connection.number, str(error))

    def accept(self, connection: Connection) -> None:
        if any(other.peer is connection.peer for other in self.connections.values()):
            self.trouble.cover("second connection of a peer")
        super().accept(connection)

    # What must hold

    def admit(self, proved: effects.Proved) -> None:
        if self.trouble.crowd.random() < self.trouble.crowded:
            self.trouble.cover("no place for a peer")
            self.close(effects.Close(proved.link, 1013, "All places are taken."))
            self.tell("lost", proved.link)
        else:
            super().admit(proved)

    def check(self) -> None:
        """Places and memory belong to those who are there."""
        session, there = self.session, len(self.connections)
        if not session:  # it was killed
            return
        early = session.intake.early
        must(early.keys() <= session.links.peers.keys(), "an update is kept of a peer that is gone")
        must(all(len(mine) <= self.hive.sync.in_flight for mine in early.values())
             and sum(len(one.content) for mine in early.values() for one in mine.values())
             <= BUDGET_BYTES, "too much is kept of updates that wait")
        for mine in early.values():
            must(session.run.finished or all(map(session.rounds.waits, mine)),
                 "an update is kept that has nothing to wait for")
            must(all(version < session.rounds.version + self.hive.sync.in_flight
                     for version in mine), "an update is kept whose round is far away")
            self.trouble.covered["an event while an early update waits"] += bool(mine)
        must(len(session.links.proved) + len(session.reception.strangers) <= there,
             "connections that are gone are remembered")
        must(len(session.work.under_way) <= 4 * there + 8, "too much slow work is under way")
        peers, uploads = session.links.peers.keys(), session.uploads
        must(session.rounds.members.keys() == peers, "a round waits for somebody who is gone")
        must(session.links.arriving.keys() <= session.links.proved.keys(),
             "a welcome is kept for somebody who is gone")
        must(uploads.queue.keys() <= peers, "somebody who is gone waits for a place")
        must(all(peer in peers for peer, one in uploads.begun.items() if one.connected),
             "somebody who is gone holds a place")
        kept = sum(len(one.receiver.content) for one in uploads.begun.values())
        must(len(uploads.begun) <= self.hive.places and kept <= self.hive.places * self.largest,
             "too much is kept of uploads")

    def check_version(self, effect: effects.Send) -> None:
        holds = self.reported.get(effect.link, 0)  # all hear of a return, also those who just came
        must(effect.message["type"] != "version" or effect.message["version"] >= holds,
             "a peer is offered older weights than it holds")

    def check_outbox(self, link: int) -> None:
        """What waits until a peer takes it."""
        connection = self.connections.get(link)
        if connection:
            down = connection.down
            largest = max(4 * len(self.hive.task.start), self.largest, len(self.hive.text))
            most = MOST_TRANSFERS * largest + MOST_UNASKED * self.largest
            said = down.waiting - down.blobs
            must(said <= MOST_WAITING + REMEMBERED_UPDATES
                 and down.blobs <= MOST_TRANSFERS + MOST_UNASKED
                 and down.bytes <= most + said * self.hive.message_limit,
                 "too much waits for a peer")

    # Slow work

    def seconds_of(self, do: Do) -> float:
        """So that it can die, and hear something else, while it works."""
        return super().seconds_of(do) + self.hive.work_seconds

    def tell_end(self, how: Literal["done", "failed"], ticket: int, result: Any) -> None:
        """The thread that worked goes on at once; the session hears of the end a little later."""
        if self.hive.gap:
            self.trouble.covered["a while between the end of work and its news"] += 1
            self.clock.after(self.hive.gap, self.tell_end_now, how, ticket, result)
        else:
            super().tell_end(how, ticket, result)

    def tell_end_now(self, how: Literal["done", "failed"], ticket: int, result: Any) -> None:
        if self.session:  # it was not killed in between
            self.tell(how, ticket, result)

    def keep_checkpoint(self, state: Dict[str, Any], names: List[str]) -> None:
        if self.hive.disk.full:
            self.trouble.cover("disk full at a checkpoint")
            raise Unwritable("The disk is full.")

    def add(self, codec: str, content: bytes, weight: float, steps: int, by: str, late: bool
            ) -> float:
        counting = self.books.outer.add(codec, content, weight, steps, by, late)
        if counting:
            self.added.append(name_of(content))
        else:
            self.trouble.cover("an update of a peer that is set aside")
        return counting

    def combine(self) -> Optional[Committed]:
        committed = self.books.combine()
        if committed:
            left_out = {name_of(one.content) for one in committed.brought if not one.weight}
            self.trouble.covered["an update left out of its round"] += len(
                left_out.intersection(self.added))
            self.added, self.combined = [], [one for one in self.added if one not in left_out]
        return committed

    def undo(self, version: int) -> Committed:
        self.trouble.cover("a round undone")
        self.added, self.combined = [], []
        return self.books.undo(version)

    def keep(self, record: Record, committed: Committed) -> None:
        super().keep(record, committed)
        must(not self.added, "an update was added between the round's end and its record")
        self.truth.kept(record, self.combined, committed.weights)
        if self.dies_when_kept:
            self.trouble.cover("killed after the round was written, before anybody heard")
            raise Killed

    def work(self, do: Do) -> None:
        try:
            super().work(do)
        except Killed:
            if self.telling:
                raise
            self.die()


class Made(NamedTuple):
    """An update: its SHA-256, which nonsense may have in common, and what went into it."""

    blob: str
    lots: List[Lot]


class Peer(PeerHost):
    """Dies between two effects, falls asleep, computes nonsense, and keeps the books."""

    hive: FaultyHive

    def __init__(self, hive: FaultyHive, number: int, original: Optional[Peer] = None):
        self.trouble, self.truth = hive.trouble, hive.truth
        self.kept: Optional[Identity] = original.kept if original else None
        self.has_text: bool = original.has_text if original else not hive.text
        super().__init__(hive, number, slow=False)
        self.slow_work["text"] = self.read_text
        self.fuse = -1
        self.asleep = self.set_by = self.full_until = 0.0
        self.nonsense = self.breakdown = False  # of the next training
        self.cache_dies = False  # when it does
        self.lots: List[Lot] = []  # not settled
        self.sent: Dict[int, Made] = {}  # updates on their way, by where their part begins
        self.left_behind: Set[Lot] = set()  # in those that no error feedback keeps any more
        self.untaken = 0  # tokens of which no update was made yet
        self.moves = torch.zeros(len(hive.task.start))  # since then, as a sum
        self.held: Any = None  # what was checked
        self.refused = ""  # an update that just turned out not to count
        self.changed = False  # the error feedback, since the last check
        self.network = Damage(self.trouble, self.take)
        self.up, self.down = (self.rng.choice((2e3, 1e4, 1e5)) for _ in range(2))
        self.doing[effects.Keep] = self.keep
        self.doing[effects.Refuse] = self.turned_away

    def new_session(self) -> PeerSession:
        process = self.token()
        return PeerSession(self.name, token=self.token, device="CPU simulated", process=process,
                           recall=lambda hive: self.kept)

    def keep(self, keep: effects.Keep) -> None:
        if self.clock.now < self.full_until:
            self.trouble.cover("a peer's cache could not be written")
        else:
            self.kept = Identity(keep.token, keep.name)

    def moment(self) -> Moment:
        return Moment(self.clock.now, BEGINNING + self.clock.now + self.set_by)

    def tell(self, what: Happening, *values: Any, **more: Any) -> None:
        self.trouble.note(self.name, what, values)
        self.hive.touched[self] = None
        try:
            super().tell(what, *values, **more)
        except Killed as killed:
            self.die(killed.why)

    def carry_out(self, effect: Any) -> None:
        self.fuse -= 1
        if self.fuse == 0:
            raise Killed(WITHOUT_CACHE if self.cache_dies else "killed")
        super().carry_out(effect)

    def die(self, why: str) -> None:
        """The process is gone, and with it what it did not upload; it is started again."""
        self.trouble.cover(f"peer {why}")
        if self.cache_dies:
            self.kept, self.has_text, self.cache_dies = None, not self.hive.text, False
        self.telling, self.step_due, self.alarm = False, None, math.inf
        self.calls.clear()
        for lane in self.lanes.values():
            lane.clear()
        if self.connection:
            self.cut(self.trouble.noticed(), at_once=False)
            self.hang_up()
        self.lose(self.lots, why)
        self.lose_untaken(why)
        self.sent.clear()
        self.refused = ""  # it may have been about to give up everything, under a new name
        self.session = self.new_session()
        away = self.rng.uniform(0.0, RESTART_SECONDS)
        if not self.attack:  # which may be turned away again and again
            self.trouble.until(self.clock.now + away)
        self.clock.after(away, self.connect)

    def turned_away(self, refuse: effects.Refuse) -> None:
        self.trouble.note(self.name, "turned away", (refuse.reason,))
        self.hang_up()
        raise Killed("turned away")

    def lose(self, lots: List[Lot], why: str) -> None:
        for lot in lots:
            lot.fate = lot.fate or why
        self.lots = [lot for lot in self.lots if lot not in lots]

    def lose_untaken(self, why: str) -> None:
        self.truth.lot(self.untaken, why)
        self.untaken = 0

    def lose_all_but_travelling(self, why: str) -> None:
        travelling = self.travelling
        self.lose([lot for lot in self.lots if lot not in travelling], why)

    @property
    def travelling(self) -> Set[Lot]:
        """What is in updates whose fate nobody knows."""
        return {lot for one in self.session.offers.parts for lot in self.sent[one.start].lots}

    def read_text(self, job: Job) -> Optional[bytes]:
        return self.hive.text if self.has_text else None

    # Connections

    def hang_up(self) -> None:
        begun = self.session.download.partial
        if self.connection and begun and begun.blob == name_of(self.hive.text):
            self.trouble.cover("text that broke off on its way")
        super().hang_up()

    def cut(self, coordinator: float, at_once: bool) -> None:
        """The connection breaks. The coordinator finds it dead after this many seconds; this peer
        hears it at once or never, and then it is for its session to miss the coordinator."""
        connection, host = self.connection, self.hive.coordinator
        assert connection is not None
        if any(wire.amid for wire in (connection.up, connection.down)):
            self.trouble.cover("cut amid a message or chunk")
        connection.cut()
        self.clock.after(coordinator, host.lose, connection)
        if at_once:
            self.notice(connection)
        self.trouble.until(self.clock.now + UNNOTICED_SECONDS)

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
        self.network.arrive(connection, item)

    def take(self, connection: Connection, item: Any) -> None:
        super().arrive(connection, item)

    def open(self, connection: Connection, item: Any) -> None:
        try:
            super().open(connection, item)
        except ProtocolError as error:
            self.tell("broken", error)

    def say(self, said: effects.Tell) -> None:
        super().say(said)
        if said.message["type"] == "offer":
            part = self.session.network.part_of(said.message["version"])
            must(said.message["tokens"] == sum(lot.tokens for lot in self.sent[part.start].lots),
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

    def step(self, due: float) -> None:
        if not self.sleeps(self.step, due):
            super().step(due)

    def uploaded(self, connection: Connection, blob: str) -> None:
        if not self.sleeps(self.uploaded, connection, blob):
            super().uploaded(connection, blob)

    # The books

    def begin(self, job: Job, text: bytes) -> int:
        must(text == self.hive.text, f"{self.name} trains on another text")
        if not self.has_text:
            self.trouble.cover("text fetched by a peer")
            self.has_text = self.clock.now >= self.full_until
        must(not self.untaken, f"{self.name} builds its network anew and forgets what it trained")
        self.moves.zero_()
        return super().begin(job, text)

    def task(self, step: int, total: Optional[int], window: int) -> None:
        super().task(step, total, window)
        worker, held = self.learner.worker, self.session.held.weights
        travelling = self.session.offers.parts
        must(all(torch.equal(worker.anchor[part], held[part])
                 for part in self.session.network.fragments.parts if part not in travelling)
             and (self.hive.sync.overlap or torch.equal(worker.weights, held)),
             f"{self.name} does not train from the hive's weights")

    def make_step(self) -> float:
        if self.breakdown:
            self.breakdown = False
            self.trouble.cover("training broke down")
            self.lose_all_but_travelling("training broke down")
            self.lose_untaken("training broke down")
            self.left_behind = self.travelling
            raise GltchError("The loss became nan.")
        worker = self.learner.worker
        before = worker.weights
        loss = super().make_step()
        self.moves += before - worker.weights
        self.untaken += worker.tokens
        self.truth.trained += worker.tokens
        return loss

    def make_update(self, part: slice, steps: int) -> bytes:
        self.changed = True
        nonsense, self.nonsense = self.nonsense, False
        if nonsense:
            self.trouble.cover("an update of nonsense")
            self.learner.feedback.residual.fill_(math.nan)
            self.moves.fill_(math.nan)
        update = super().make_update(part, steps)
        self.lots.append(self.truth.lot(self.untaken))
        self.untaken, travelling = 0, self.travelling
        made = Made(name_of(update), [lot for lot in self.lots if lot not in travelling])
        self.sent[part.start] = made
        self.truth.made(*made, self.name)
        return update

    def settle(self, counted: bool, part: slice) -> None:
        self.changed = True
        codec, update = self.learner.feedback.sent.get(part.start, ("", b""))
        blob, made_of = self.sent.pop(part.start)
        if counted:
            mistaken = blob not in self.truth.counted
            must(not mistaken or self.truth.cloned, "a peer was told that an update "
                           "counted which is not in the journal")
            for lot in made_of if mistaken else ():
                lot.fate = lot.fate or "taken for those of another process with the same token"
            self.lots = [lot for lot in self.lots if lot not in made_of]
            if codec:  # otherwise training broke down
                moves = self.moves[part]
                moves -= decode(codec, update, len(moves))
        else:
            self.refused = blob
            self.lose([lot for lot in made_of if lot in self.left_behind], "training broke down")
        super().settle(counted, part)

    def forget(self, parts: List[slice]) -> None:
        self.changed = True
        super().forget(parts)
        self.refused = ""  # whether it counts does not matter any more
        self.lose_all_but_travelling("rejected")
        for part in parts:
            self.moves[part] = self.learner.worker.moved(self.learner.worker.anchor, part)

    def check(self) -> None:
        session = self.session
        if self.refused:
            must(bool(self.attack) or self.refused not in self.truth.counted,
                 f"{self.name} was told that an update did not count which is in the journal")
            self.truth.refused.add(self.refused)
            self.refused = ""
        if session.held is not self.held:
            self.held = session.held
            if self.held.hash:
                known = self.truth.journal.at(self.held.version)[0]
                must(digest(self.held.weights) == self.held.hash == known,
                     f"{self.name} holds other weights than the journal")
        carried = sum(lot.tokens for lot in self.lots)
        must(session.carried == carried,
             f"{self.name} carries {session.carried} tokens and should carry {carried}")
        must(len(session.talk.inbox) <= MOST_KEPT, "an inbox is too full")
        must(len(session.offers.updates) <= self.hive.sync.in_flight,
             "too many updates are on their way")
        begun = session.download.partial
        must(begun is None or len(begun.content) <= max(4 * len(self.moves), len(self.hive.text)),
             "a download is too long")
        if self.changed and not session.work.under_way:
            self.changed = False
            if not self.attack:  # which sends something else than it trained
                self.check_moves()

    def check_moves(self) -> None:
        if self.session.network.built:  # otherwise it is about to begin anew
            worker = self.learner.worker
            kept = self.learner.feedback.residual + worker.moved(worker.anchor)
            must(torch.allclose(kept, self.moves, atol=1e-4, equal_nan=True),
                 f"{self.name}'s error feedback is not what was trained and never counted")


class FaultyHive(Simulation):
    """A few peers with tiny weights; the seed says how many, how fast, and with which codec."""

    coordinator: Coordinator
    peers: List[Peer]  # type: ignore[assignment]
    task: SyntheticTask
    chunk_bytes = 32
    places: int
    message_bytes: Optional[int] = 250

    def __init__(self, seed: int, folder: Optional[Path] = None, attackers: Sequence[str] = ()):
        self.trouble = Trouble(seed)
        self.disk = Disk(self.trouble, folder)
        self.down, self.set_by = False, 0.0
        self.unhurried = False  # are steps long, so that an hour is not a thousand rounds?
        self.touched: Dict[Union[Coordinator, Peer], None] = {}  # in order, since the last check
        draw = self.trouble.dice
        # from the end of the coordinator's work to its news
        self.gap = self.trouble.more.choice((0.0, 0.0, 0.0, 0.0, 0.02, 0.7, 2.0))
        codec, peers = draw.choice(("fp32", "q4", "q2", "top64")), draw.randint(2, 4)
        self.work_seconds = draw.choice((0.0, 0.0, 0.02, 0.5))  # of all the coordinator's slow work
        self.places = draw.choice((1, 2, 4))  # for updates on their way; those that find none wait
        rounds, parameters = draw.choice((12, ENDLESS)), draw.choice((24, 200))
        ways = random.Random(f"{seed} ways to synchronize")  # came later: the rest is drawn as ever
        overlap = ways.random() < OVERLAPPING
        fragments = ways.choice((1, 2, 3)) if overlap else 1
        in_flight = ways.randint(1, fragments) if overlap else 1
        least = 2 if random.Random(f"{seed} least").random() < TWO_AT_LEAST else 1
        library = random.Random(f"{seed} text")
        if library.random() < WITHOUT_TEXT:
            self.text = bytes(library.choices(b"ab", k=library.randint(1, 4000)))
        super().__init__(FaultSettings(
            attackers=tuple(attackers), peers=AMONG_ATTACKERS if attackers else peers,
            min_peers=least, rounds=rounds, parameters=parameters * fragments,
            spread=0.5, step_seconds=2.0, inner_steps=2, round_seconds=10.0, codec=codec,
            eval_every=3, commit_seconds=draw.choice((0.0, 0.3)), latency=0.05,
            sync="diloco", overlap=overlap, fragments=fragments, in_flight=in_flight,
            recipe={"seed": seed, "batch_size": 8, "learning_rate": 0.01}), strict=True,
            clock=self.trouble.clock)
        if seed % MEASURED == 0:
            self.message_bytes = None
        self.message_limit = self.message_bytes or MESSAGE_BYTES
        kinds = [peer.attack for peer in self.peers]
        require(sum(kind in ALIKE for kind in kinds) <= 1, "Under faults updates are told apart by "
                f"their bytes: let at most one of {AMONG_ATTACKERS} peers {' or '.join(ALIKE)}.")
        self.truth.claims = "inflate" not in kinds
        self.truth.liars = {peer.name for peer in self.peers if peer.attack}

    def open_journal(self) -> Journal:
        journal = self.disk.open_journal()
        self.truth = Truth(self.trouble, journal)
        return journal

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

    def is_down(self) -> None:
        self.down = True
        seconds = self.trouble.dice.uniform(0.1, 90.0)
        self.trouble.until(self.clock.now + seconds)
        self.clock.after(seconds, self.restart)

    def restart(self) -> None:
        self.trouble.note("fault", "coordinator started again")
        self.down, truth = False, self.truth
        truth.restarts += 1
        try:
            truth.journal = self.disk.opened_again(truth.journal)
        except Unwritable:  # it says so and ends, and somebody starts it again
            if self.disk.folder:
                truth.journal = Journal(self.disk.folder, read_only=True)
            self.is_down()
            return
        self.coordinator = Coordinator(self, truth.journal)
        outer = self.coordinator.books.outer
        must(digest(outer.weights) == outer.hash == truth.journal.head()[1] and (
            truth.latest is None or torch.equal(outer.weights, truth.latest)),
            "a restart does not give the weights of the last round")
        self.coordinator.tell("begin")

    def check(self) -> None:
        """What must hold of those who were told something since the last check."""
        for host in self.touched:
            host.check()
        self.touched.clear()
