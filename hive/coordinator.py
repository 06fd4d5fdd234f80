"""The coordinator's side of every conversation, and the rounds they make up.

Sockets and clocks meet the pure parts here: `rounds` decides when, `outer` computes, `journal`
remembers, `protocol` checks what comes in. Everything slow runs in two worker threads, one for the
updates, in order, and one for evaluations.
"""
from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import math
import secrets
import time
from collections import Counter, OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Tuple, Union

import torch
from torch import Tensor

from gltch_2_7m import (
    GLTCH,
    Corpus,
    GltchError,
    Progress,
    Runtime,
    Unwritable,
    evaluate,
    generate,
    pick_precision,
    save_checkpoint,
)
from hive import protocol
from hive.codec import CODECS, from_bytes, to_bytes, unflatten
from hive.door import household, is_local
from hive.events import Events
from hive.job import Job, nats
from hive.journal import Contribution, Journal, Record
from hive.outer import (
    REMEMBERED,
    Committed,
    Outer,
    Rejected,
    apply_update,
    believed_tokens,
    least_seconds,
)
from hive.protocol import ProtocolError, Receiver, pack, unpack
from hive.rounds import ACCEPTED, REJECTED, STALEST, Pace, Rounds, Verdict
from hive.standing import RECENT, Standing, flops_per_character, kind_of
from hive.throttle import Bucket
from hive.uploads import Uploads, Wanted

TEXT = "text.txt"  # the run's text, in its folder: a restart and the peers need no other file
HANDSHAKE_SECONDS = 20.0
FAREWELL_SECONDS = 10.0  # for peers to hear that the run is over
STATUS_SECONDS = 5.0  # between status messages; a peer that hears nothing for long reconnects
REMEMBERED_UPDATES = 16  # rounds that a returning peer may have missed and still catch up with
MOST_WAITING = 256  # messages for one peer
SNAPSHOT_EVERY = 10  # rounds
PEER_SECONDS, MEASURED_SECONDS = 0.05, 1.0  # between two looks for the dashboard's events
EVALUATION_SHARE = 0.25  # of the time may go into evaluations while the run goes on
RETRY_SECONDS = 2.0  # until what could not be written is tried again
MOST_WINDOWS = 1 << 40  # then the peers' windows begin again at the first
LOSS_FACTOR = 4.0  # times the loss of pure guessing, ln(vocabulary), is no loss but a breakdown
MOST_REJECTED = 8  # updates of a peer in a row, then it has to leave
BARRED_SECONDS = 600.0  # for so long
MOST_FETCHES = 3  # times that a connection may begin to fetch the same thing
MOST_TRANSFERS = 2  # to one peer, waiting or on their way; an honest one asks for the next later
COOLING_SECONDS = 0.25  # before a peer is heard again, for each of its rejected updates in a row
NEW_PEERS, NEW_PEERS_RATE = 128, 16.0  # that were never here: at once, and a second afterwards
NEW_PER_ADDRESS, NEW_PER_ADDRESS_RATE = 64, 2.0  # ... from one address, but not from this machine
MOST_ADDRESSES = 4096  # that this is remembered of
LINES, LINES_RATE = 100, 1.0  # of each kind in the log: at once, and a second in the long run


# --------------------------------------------------------------------------------------------------
# One connected peer
# --------------------------------------------------------------------------------------------------

# A control message, or (what it is, blob, content, offset).
Sending = Union[str, Tuple[str, str, bytes, int]]
Transferred = Callable[["Link", str, str, int], None]  # (link, up or down, what it is, bytes)


class Later(Exception):
    """Not now: the peer may come back, and does so by itself."""


@dataclass
class Link:
    """A peer's connection: what it said about itself, and what is on its way to it."""

    socket: Any
    peer: str
    name: str
    device: str
    process: str  # random, made by the peer's process: a new connection of it replaces the old
    joined: float = field(default_factory=time.time)
    outbox: asyncio.Queue[Sending] = field(default_factory=asyncio.Queue)
    fetched: Counter[str] = field(default_factory=Counter)  # how often, by name
    transfers: int = 0  # blobs in the outbox or on their way: what is not read stays in memory
    batch_size: int = 1
    offer: Optional[Dict[str, Any]] = None
    counted_at: float = field(default_factory=time.monotonic)  # when its work last counted
    laps: Deque[Tuple[int, float]] = field(  # characters and seconds of its latest updates
        default_factory=lambda: deque(maxlen=RECENT))
    steps: int = 0  # of its task done so far
    up: int = 0
    down: int = 0  # bytes on the wire

    @property
    def speed(self) -> float:
        """Characters per second while it trains, as it measured them; 0 before its first update.
        Over as many updates as the hive's own speed, so that the two can be compared."""
        seconds = sum(seconds for _, seconds in self.laps)
        return sum(characters for characters, _ in self.laps) / max(seconds, 1e-3)

    @property
    def latency(self) -> Optional[float]:
        """Seconds for a ping and its answer, None before the first."""
        return self.socket.latency or None

    def send(self, kind: str, **values: Any) -> None:
        self.outbox.put_nowait(pack(kind, **values))

    async def write(self, transferred: Transferred) -> None:
        """Send what is in the outbox, in order; one message at a time keeps pings moving."""
        while True:
            item = await self.outbox.get()
            if isinstance(item, str):
                await self.put(item)
                continue
            what, blob, content, offset = item
            await self.put(pack("blob", blob=blob, bytes=len(content), offset=offset))
            for chunk in protocol.chunks(blob, content, offset):
                await self.put(chunk)
                transferred(self, "down", what, len(chunk))
            self.transfers -= 1

    async def put(self, message: Union[str, bytes]) -> None:
        self.down += len(message)
        await self.socket.send(message)


# --------------------------------------------------------------------------------------------------
# The coordinator
# --------------------------------------------------------------------------------------------------

class Coordinator:
    """The event loop's side of a run. All fields belong to the event loop; the worker threads only
    touch `outer`, `journal` and the evaluation model, each from one thread."""

    def __init__(self, job: Job, journal: Journal, corpus: Corpus, folder: Path, *, key: str = "",
                 pace: Optional[Pace] = None, least: int = 1):
        self.job, self.journal, self.corpus, self.folder = job, journal, corpus, folder
        self.key, self.vocabulary = key, job.vocabulary
        version, _, self.step = journal.head()
        weights = from_bytes(journal.weights_at(version, apply_bytes))
        usual = job.sync.inner_steps * job.recipe.batch_size * job.config.block_size
        self.outer = Outer(weights, job.sync, usual)
        known, state = journal.newest_extra()
        self.outer.recover(state, (journal.update(n) for n in range(known + 1, version + 1)),
                           (weight for weight, _ in reversed(journal.recent_weights(REMEMBERED))))
        self.rounds = Rounds(version, self.outer.hash, pace or Pace(), least)
        past = journal.history()
        self.standing = Standing(journal.contributors(), journal.reasons(), past)
        self.seconds = sum(row["committed"] - row["opened"] for row in past)  # spent training
        self.windows = self.standing.tokens // job.config.block_size % MOST_WINDOWS
        self.loss = past[-1]["loss"] if past else math.nan
        evaluations = journal.evaluations()
        self.val_loss = evaluations[-1][1] if evaluations else math.nan
        self.best = min((loss for _, loss in evaluations), default=math.inf)
        self.evaluated = evaluations[-1][0] if evaluations else -1
        self.events = Events(secrets.token_hex(8))
        self.links: Dict[str, Link] = {}
        self.uploads = Uploads(CODECS[job.sync.up].size(len(weights)))
        self.asked: Counter[str] = Counter()  # by peer: characters since its work last counted
        self.rejections: Counter[str] = Counter()  # by peer: in a row
        self.barred: Dict[str, float] = {}  # by peer: until when (monotonic)
        self.newcomers = Bucket(NEW_PEERS, NEW_PEERS_RATE)
        self.newcomers_of: OrderedDict[str, Bucket] = OrderedDict()  # by address
        self.lines: Dict[str, Bucket] = {}  # of the log, by their kind
        self.unsaid: Counter[str] = Counter()  # lines of a kind that were too many
        self.unwritten: Dict[str, str] = {}  # what waits until it can be written, and why
        self.snapshot_due = False
        self.contributions: List[Contribution] = []  # since the last round closed
        self.opened: Optional[float] = None  # the round began (monotonic)
        self.blobs: OrderedDict[str, bytes] = OrderedDict()  # updates that peers may fetch
        self.whole = "", b""  # the newest weights that were asked for, and their name
        self.text = b""
        self.bytes_up = self.bytes_down = 0  # of links that are gone
        self.finished = (job.limits.reached(self.step, version, self.seconds)
                         or self.good_enough(self.best))
        self.wake: asyncio.Event  # made in the event loop
        self.failure: Optional[GltchError] = None  # of a conversation, and not the peer's fault
        self.updates = ThreadPoolExecutor(1, "updates")
        self.evaluations = ThreadPoolExecutor(1, "evaluations")
        self.model = GLTCH(job.config)  # to evaluate
        device = torch.device("cpu")
        self.runtime = Runtime(device, pick_precision("auto", device))
        self.progress = Progress()
        self.saving: Optional[asyncio.Future[None]] = None  # the latest snapshot
        self.begin_round(version, weights, self.outer.hash)

    # Running

    def begin_round(self, version: int, weights: Tensor, name: str) -> None:
        self.weights = weights  # `outer` is already ahead while a round is being written down
        self.total = self.job.limits.total(self.step, version, self.seconds)
        self.rounds.open_round(version, name,
                               self.job.sync.quota(self.step, self.total, self.job.recipe),
                               self.total and max(1, self.total - self.step))
        self.opened = None
        self.uploads.forget(version - STALEST)

    async def work(self, task: Callable[..., Any], *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.updates, task, *values)

    async def run(self) -> None:
        """Rounds until the run is over, then the last evaluation."""
        self.wake = asyncio.Event()
        background = [asyncio.ensure_future(task()) for task in (
            self.send_status, self.evaluate_forever, self.publish)]
        for task in background:
            task.add_done_callback(lambda _: self.wake.set())
        try:
            while not self.finished:
                self.hand_out_tasks()
                if self.rounds.close(time.monotonic()):
                    self.events.add("closed", version=self.rounds.version)
                    await self.commit()
                    continue
                left = self.rounds.deadline - time.monotonic()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.wake.wait(), left if 0 < left < 3600 else 3600)
                self.wake.clear()
                for task in background:
                    if task.done():
                        task.result()  # raises what went wrong there
                if self.failure:
                    raise self.failure
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
        await self.measure(self.rounds.version)
        self.events.add("finished", reason=self.finished)
        await self.write("snapshot", self.updates, self.snapshot)
        for link in self.links.values():
            link.send("finished", reason=self.finished)
        patience = time.monotonic() + FAREWELL_SECONDS
        while self.links and time.monotonic() < patience:  # they leave when they have heard it
            await asyncio.sleep(0.05)

    def hand_out_tasks(self) -> None:
        before = self.rounds.plan
        tasks = self.rounds.tasks(time.monotonic())
        if self.rounds.plan is not before:  # also when nobody made it and all begin again
            self.opened = time.monotonic()
            assert self.rounds.plan is not None
            self.events.add("opened", version=self.rounds.version,
                            quota=self.rounds.plan.quota, seconds=self.rounds.plan.seconds)
        for peer, task in tasks.items():
            link = self.links[peer]
            link.steps = 0
            link.send("train", version=task.version, weights=self.rounds.weights, step=self.step,
                      total=self.total, quota=task.quota, seconds=task.seconds,
                      window=self.windows)
            self.windows = (self.windows + task.quota * link.batch_size) % MOST_WINDOWS
            self.asked[peer] += task.quota * link.batch_size * self.job.config.block_size

    async def write(self, what: str, where: ThreadPoolExecutor, task: Callable[..., None],
                    *values: Any) -> None:
        """Have something written; while the disk does not take it, try again and again."""
        while True:
            try:
                await asyncio.get_running_loop().run_in_executor(where, task, *values)
            except Unwritable as error:
                reason = f"{error} The run goes on when there is room."
                if self.unwritten.get(what) != reason:
                    self.unwritten[what] = reason
                    self.progress.say(f"waiting   {reason}")
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if self.unwritten.pop(what, ""):
                    self.progress.say(f"goes on   the {what} is written")
                return

    async def commit(self) -> None:
        """Combine what was delivered, write it down, and only then tell the peers."""
        if self.saving:
            await self.saving  # raises what went wrong there
        committed = await self.work(self.combine)
        if committed is None:
            self.rounds.reopen()
            return
        contributions, self.contributions = self.contributions, []
        counted = [c for c in contributions if c.verdict == "counted"]
        tokens = sum(c.tokens for c in counted)
        self.loss = weighted_mean((c.loss, c.weight) for c in counted if math.isfinite(c.loss))
        step = self.step + max(1, round(weighted_mean((c.steps, c.weight) for c in counted)))
        now = time.time()
        record = Record(self.rounds.version + 1, committed.base, committed.result, committed.codec,
                        committed.update, step, self.loss, now - self.length(), now,
                        tuple(contributions))
        await self.write("round", self.updates, self.keep, record, committed)
        self.standing.count(record)
        self.step, self.seconds = step, self.seconds + record.committed - record.opened
        name = protocol.name_of(committed.update)  # once, not for every peer
        self.remember(name, committed.update)
        peers = {c.peer for c in counted}
        words = {each: commit_words(record.number, committed.codec, committed.result, name,
                                    len(committed.update), step, each) for each in (False, True)}
        for link in self.links.values():
            if link.peer in peers:
                link.counted_at = time.monotonic()
            link.outbox.put_nowait(words[link.peer in peers])
        self.finished = self.finished or self.job.limits.reached(step, record.number, self.seconds)
        self.begin_round(record.number, committed.weights, committed.result)
        self.events.add(
            "committed", version=record.number, step=step, total=self.total,
            loss=record.loss, opened=record.opened, committed=now,
            contributions=[{
                "peer": c.peer, "name": c.name, "steps": c.steps, "tokens": c.tokens,
                "loss": c.loss, "bytes": c.bytes, "verdict": c.verdict, "reason": c.reason,
            } for c in contributions])
        self.snapshot_due = self.snapshot_due or record.number % SNAPSHOT_EVERY == 0
        if self.snapshot_due:  # while the peers train
            self.saving = asyncio.ensure_future(self.try_snapshot())
        self.show(len(counted), tokens, record)

    def length(self) -> float:
        """Seconds of the round so far, at most as long as it was planned: a machine that slept did
        not train, and the clock on the wall may be set."""
        passed = 0.0 if self.opened is None else time.monotonic() - self.opened
        return min(passed, self.rounds.longest)

    def combine(self) -> Optional[Committed]:
        """In the worker thread, after all updates that were delivered before."""
        return self.outer.step() if self.outer.weight else None

    def keep(self, record: Record, committed: Committed) -> None:
        """In the worker thread: the round is durable when this returns."""
        self.journal.commit(record)
        self.outer.accept(committed)

    async def try_snapshot(self) -> None:
        """It only shortens the way back after a restart: the next round may try again."""
        try:
            await self.work(self.snapshot)
            self.snapshot_due = False
        except Unwritable as error:
            self.progress.say(f"snapshot  {error} The next round tries again.")

    def snapshot(self) -> None:
        self.journal.snapshot(self.journal.last, to_bytes(self.outer.weights), self.outer.state())

    def show(self, peers: int, tokens: int, record: Record) -> None:
        seconds = max(record.committed - record.opened, 1e-9)
        done = f"{self.step:,}/{self.total:,}" if self.total else f"{self.step:,}"
        self.progress.line(
            self.step / self.total if self.total else 0.0,
            f"round {record.number:,}  step {done}  loss {nats(self.loss)}  "
            f"val {nats(self.val_loss)}  {tokens / seconds:,.0f} chars/s  "
            f"{peers} of {len(self.links)} peers",
            always=bool(self.finished))

    # Evaluation

    async def evaluate_forever(self) -> None:
        """Measure the newest weights whenever there are new ones, in a share of the time."""
        while True:
            version = self.rounds.version
            if version == self.evaluated:
                await asyncio.sleep(0.05)
                continue
            began = time.monotonic()
            await self.measure(version)
            share = EVALUATION_SHARE if self.job.limits.target_loss is None else 1.0
            await asyncio.sleep((time.monotonic() - began) * (1 / share - 1))

    async def measure(self, version: int) -> None:
        """Validation loss, a sample and a checkpoint of the weights as they are now."""
        if version == self.evaluated:
            return
        step = self.step
        job = asyncio.get_running_loop().run_in_executor(
            self.evaluations, self.examine, self.weights, version, step)
        self.val_loss, seconds, text, state = await job
        names = ["best.pt", "last.pt"] if self.val_loss < self.best else ["last.pt"]
        await self.write("evaluation", self.evaluations, self.keep_evaluation, version,
                         self.val_loss, seconds, text)
        await self.write("checkpoint", self.evaluations, self.keep_checkpoint, state, names)
        self.evaluated, self.best = version, min(self.best, self.val_loss)
        self.events.add("evaluated", version=version, step=step, val_loss=self.val_loss,
                        best_val_loss=self.best, text=text)
        self.finished = self.finished or self.good_enough(self.val_loss)
        self.wake.set()

    def good_enough(self, val_loss: float) -> str:
        target = self.job.limits.target_loss
        if target is None or not val_loss <= target:
            return ""
        return f"the target loss of {target:g} is reached, with {val_loss:.4f}"

    def examine(self, weights: Tensor, version: int, step: int
                ) -> Tuple[float, float, str, Dict[str, Any]]:
        """In the evaluation thread: validation loss, seconds it took, a sample, a checkpoint."""
        began = time.monotonic()
        unflatten(weights, self.model)
        self.model.eval()
        loss = evaluate(self.model, self.corpus.validation, self.runtime)
        seconds = time.monotonic() - began
        text = "".join(generate(self.model, self.vocabulary, "", 200, seed=version))
        return loss, seconds, text, checkpoint(self.job, self.model, step, loss, self.folder)

    def keep_evaluation(self, version: int, loss: float, seconds: float, text: str) -> None:
        self.journal.add_evaluation(version, loss, seconds)
        self.journal.add_sample(version, text)

    def keep_checkpoint(self, state: Dict[str, Any], names: List[str]) -> None:
        for name in names:
            try:
                save_checkpoint(self.folder / name, state)
            except GltchError as error:  # on Windows also while somebody reads it
                raise Unwritable(str(error)) from error

    # Peers come

    async def serve(self, socket: Any) -> None:
        """One connection, from its first message to its last."""
        from websockets.exceptions import ConnectionClosed
        name = socket.address
        try:
            link = await self.handshake(socket)
            name = link.name
            try:
                await self.converse(link)
            finally:
                self.leave(link)  # before the last words: it may not read them
        except ConnectionClosed:
            pass  # the usual end; `leave` tells who it was
        except asyncio.TimeoutError:
            await socket.close(1008, "The handshake took too long.")
        except ProtocolError as error:
            reason = str(error)
            self.say("refused", f"{name}: {reason}")
            with contextlib.suppress(ConnectionClosed):
                await socket.send(pack("refused", reason=reason))
                await socket.close(1008)
        except Later as error:
            await socket.close(1013, str(error))
        except Unwritable:  # a round that cannot be written says so by itself
            await socket.close(1013, "The coordinator's disk takes nothing just now.")
        except GltchError as error:  # the journal is damaged: end the run
            self.failure = error
            self.wake.set()

    def say(self, kind: str, text: str) -> None:
        """A line in the log, unless there were too many of this kind lately."""
        bucket = self.lines.setdefault(kind, Bucket(LINES, LINES_RATE))
        if not bucket.take(1, time.monotonic()):
            self.unsaid[kind] += 1
            return
        unsaid = self.unsaid.pop(kind, 0)
        more = f" (and {unsaid:,} more since the last such line)" if unsaid else ""
        self.progress.say(f"{kind:<10}{text}{more}")

    async def handshake(self, socket: Any) -> Link:
        """Who is it, does it have the key, and may it take part?"""
        nonce = protocol.make_token()
        await socket.send(pack("challenge", protocol=protocol.VERSION, hive=self.job.hive,
                               nonce=nonce, locked=bool(self.key)))
        raw = await asyncio.wait_for(socket.recv(), HANDSHAKE_SECONDS)
        hello = self.read(raw)
        protocol.demand(hello["type"] == "hello", "The first message must be a hello.")
        name = protocol.clean_name(hello["name"], "peer")
        try:
            protocol.check_hello(hello, self.key, nonce)
            protocol.demand(hello["text"] in (None, self.job.text), "The peer brought another text "
                            "than the one this hive trains on: leave out --data, and it gets the "
                            "right one.")
            peer, name, token, token_hash = self.identify(hello, name, nonce)
            self.check_record(peer, socket.address)
        except ProtocolError as error:
            raise ProtocolError(f"{name}: {error}") from None
        socket.proved()
        link = Link(socket, peer, name, protocol.clean_name(hello["device"], "unknown"),
                    hello["process"])
        proof = protocol.proof(self.key, "coordinator", nonce, hello["nonce"])
        welcome = pack("welcome", proof=proof, peer=peer, name=name, token=token,
                       counted=self.journal.last_counted(peer), job=self.job.as_json())
        await self.work(self.journal.remember_peer, peer, name, token_hash, link.device,
                        time.time())
        other = self.links.get(peer)
        if other and other.process != link.process:  # it came while this was written down
            raise Later("Another process uses this identity.")
        self.enter(link)
        link.outbox.put_nowait(welcome)
        return link

    def check_record(self, peer: str, address: str) -> None:
        """Raises ProtocolError for a peer whose updates were all rejected lately, and Later for too
        many new ones."""
        now = time.monotonic()
        until = self.barred.get(peer, now)
        protocol.demand(until <= now, f"{MOST_REJECTED} updates of this peer in a row could not be "
                        f"used; it may come back in {(until - now) / 60:.0f} minutes.")
        self.barred.pop(peer, None)
        if peer not in self.standing.contributors:
            home = household(address)
            of_address = self.newcomers_of.setdefault(
                home, Bucket(NEW_PER_ADDRESS, NEW_PER_ADDRESS_RATE))
            self.newcomers_of.move_to_end(home)
            while len(self.newcomers_of) > MOST_ADDRESSES:
                self.newcomers_of.popitem(last=False)
            within = is_local(address) or of_address.take(1, now)
            if not within or not self.newcomers.take(1, now):
                raise Later("Too many new peers come just now.")

    def enter(self, link: Link) -> None:
        """From now on it takes part. A connection of the same process that was not yet found dead
        makes way."""
        old = self.links.get(link.peer)
        if old:
            self.leave(old)
            self.closing = asyncio.ensure_future(old.socket.close(1000))
        self.links[link.peer] = link
        self.standing.join(link.peer, link.name, link.device, time.time())
        self.rounds.join(link.peer)
        self.events.add("joined", peer=self.about(link))
        self.say("joined", f"{link.name} ({link.device})")

    def identify(self, hello: Dict[str, Any], name: str, nonce: str
                 ) -> Tuple[str, str, Optional[str], str]:
        """(peer, name, token, its SHA-256). Who shows that it has the token of an identity of this
        name gets that back, unless another process is using it now; others get a new one."""
        for peer, token_hash in self.journal.identities(name) if hello["token"] else ():
            expected = protocol.possession(token_hash, nonce, hello["nonce"])
            if hmac.compare_digest(expected, hello["token"]):
                using = self.links.get(peer)
                if using is None or using.process == hello["process"]:
                    return peer, name, None, token_hash  # it has the token already
                break
        taken = {link.name for link in self.links.values()}
        number, free = 2, name
        while free in taken:
            free = f"{name[: protocol.NAME_LENGTH - 5]}-{number}"
            number += 1
        token = protocol.make_token()
        return secrets.token_hex(8), free, token, hashlib.sha256(token.encode()).hexdigest()

    def leave(self, link: Link) -> None:
        if self.links.get(link.peer) is link:
            del self.links[link.peer]
            self.rounds.leave(link.peer)
            self.uploads.leave(link.peer)
            self.call_next()
            self.bytes_up += link.up
            self.bytes_down += link.down
            self.events.add("left", peer=link.peer)
            waits = "" if self.links or self.finished else "; nobody is left, the run waits"
            self.say("left", f"{link.name}{waits}")
            self.wake.set()

    # What they say

    @staticmethod
    def read(message: Union[str, bytes]) -> Dict[str, Any]:
        protocol.demand(isinstance(message, str), "A control message was expected.")
        return unpack(str(message))

    async def converse(self, link: Link) -> None:
        writer = asyncio.ensure_future(link.write(self.transferred))
        answers = {"ready": self.on_ready, "offer": self.on_offer, "fetch": self.on_fetch,
                   "progress": self.on_progress}
        try:
            async for message in link.socket:
                if self.links.get(link.peer) is not link:
                    break  # it has a newer connection
                protocol.demand(link.outbox.qsize() < MOST_WAITING,
                                "The peer asks for more than it takes.")
                link.up += len(message)
                if isinstance(message, bytes):
                    await self.on_chunk(link, message)
                    continue
                said = unpack(message)
                if said["type"] == "goodbye":
                    break
                protocol.demand(said["type"] in answers,
                                f"A peer does not send {said['type']} messages.")
                await answers[said["type"]](link, said)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def on_ready(self, link: Link, said: Dict[str, Any]) -> None:
        """The peer holds these weights. If they are old it gets what is missing."""
        link.batch_size = said["batch_size"]
        version, weights = said["version"], said["weights"]
        if weights and self.rounds.ready(link.peer, version, weights):
            self.wake.set()
            return
        near = 0 < self.rounds.version - version <= REMEMBERED_UPDATES
        missed = self.journal.updates_since(version) if near else []
        if near and weights == self.journal.at(version)[0] and (
                sum(size for *_, size, _ in missed) < 4 * len(self.weights)):
            counted = self.journal.last_counted(link.peer)
            for number, codec, result, name, size, step in missed:
                if name not in self.blobs:
                    self.remember(name, self.journal.update(number)[1])
                link.outbox.put_nowait(commit_words(number, codec, result, name, size, step,
                                                    counted == number))
            return
        self.tell_version(link)

    def tell_version(self, link: Link) -> None:
        """Offer the newest weights as a whole."""
        if self.whole[0] != self.rounds.weights:  # one copy, however many download it
            self.whole = self.rounds.weights, to_bytes(self.weights)
        link.send("version", version=self.rounds.version, weights=self.rounds.weights,
                  step=self.step, counted=self.journal.last_counted(link.peer))

    async def on_fetch(self, link: Link, said: Dict[str, Any]) -> None:
        blob, offset = said["blob"], said["offset"]
        what, content = "update", self.blobs.get(blob)
        if blob == self.job.text:
            self.text = self.text or (self.folder / TEXT).read_bytes()
            what, content = "text", self.text
        elif blob == self.whole[0]:
            what, content = "weights", self.whole[1]
        if content is None:  # it took so long that this is history; it will ask for what is new
            link.send("gone", blob=blob)
            return
        protocol.demand(offset <= len(content), "A transfer cannot begin behind its end.")
        link.fetched[blob] += 1
        protocol.demand(link.fetched[blob] <= MOST_FETCHES, "The peer asks for the same again and "
                        "again.")
        link.transfers += 1
        protocol.demand(link.transfers <= MOST_TRANSFERS, "The peer asks for more than it takes.")
        link.outbox.put_nowait((what, blob, content, offset))

    async def on_progress(self, link: Link, said: Dict[str, Any]) -> None:
        link.steps = said["steps"]

    def remember(self, blob: str, content: bytes) -> None:
        self.blobs[blob] = content
        self.blobs.move_to_end(blob)
        while len(self.blobs) > REMEMBERED_UPDATES:
            old, _ = self.blobs.popitem(last=False)
            for link in self.links.values():
                link.fetched.pop(old, None)

    # Updates arrive

    async def on_offer(self, link: Link, said: Dict[str, Any]) -> None:
        if (link.peer in self.rounds.delivered
                or self.journal.last_counted(link.peer) > said["version"]):
            # It reconnected before it heard; the commit will tell, or is already on its way.
            link.send("verdict", version=said["version"], verdict=ACCEPTED, reason="")
            return
        now = time.monotonic()
        verdict = self.rounds.offer(link.peer, said["version"], said["weights"], said["steps"], now)
        wrong = self.implausible(said)
        if verdict.verdict == ACCEPTED and wrong:
            verdict = Verdict(REJECTED, wrong)
            self.rounds.withdraw(link.peer)
        if verdict.verdict != ACCEPTED:
            await self.judge(link, said, verdict)
            return
        link.offer = said
        receiver = self.uploads.begin(link.peer, Wanted(said["version"], said["update"]), now)
        if receiver is not None:
            await self.receive(link, receiver)

    def implausible(self, said: Dict[str, Any]) -> str:
        """What no honest peer would offer, in words; empty if there is nothing."""
        loss, most = said["loss"], LOSS_FACTOR * math.log(max(2, len(self.job.characters)))
        if loss is not None and loss > most:
            return f"A loss of {loss:.4g} nats is far above guessing: training broke down."
        if said["bytes"] != self.uploads.size:
            return f"An update of this hive has {self.uploads.size:,} bytes, not {said['bytes']:,}."
        return ""

    async def receive(self, link: Link, receiver: Receiver) -> None:
        """Let it send its update, from where an interrupted transfer stopped."""
        link.send("send", blob=receiver.blob, offset=len(receiver.content))
        if receiver.complete:
            await self.deliver(link, receiver)

    def call_next(self) -> None:
        """Those who wait with an update may send it when others have done so."""
        for peer, receiver in self.uploads.turns(time.monotonic()):
            self.links[peer].send("send", blob=receiver.blob, offset=0)

    async def on_chunk(self, link: Link, message: bytes) -> None:
        receiver = self.uploads.add(link.peer, message, time.monotonic())
        protocol.demand(link.offer is not None and receiver is not None,
                        "A chunk came that belongs to no transfer.")
        assert receiver is not None
        self.transferred(link, "up", "update", len(message))
        if receiver.complete:
            await self.deliver(link, receiver)

    async def deliver(self, link: Link, receiver: Receiver) -> None:
        """The whole update is there: it counts if the round is open and `outer` admits it."""
        said, link.offer = link.offer, None
        assert said is not None
        self.uploads.drop(link.peer)
        self.call_next()
        content = receiver.result()
        now = time.monotonic()
        stale = self.rounds.version - said["version"]
        verdict = self.rounds.deliver(link.peer, said["version"], said["weights"], said["steps"],
                                      now)
        if verdict.verdict != ACCEPTED:
            await self.judge(link, said, verdict)
            return
        self.opened = now if self.opened is None else self.opened
        tokens = self.believed(link, said, now)
        weight = tokens / (1 + stale)  # what starts from old weights fits the new ones less
        try:
            weight = await self.work(self.outer.add, said["codec"], content, weight, said["steps"])
        except Rejected as error:
            self.rounds.reject(link.peer)
            await self.judge(link, said, Verdict(REJECTED, str(error)))
        else:
            loss = math.nan if said["loss"] is None else said["loss"]
            least = least_seconds(tokens, len(self.weights))
            link.laps.append((tokens, max(said["seconds"], least)))
            self.asked.pop(link.peer, None)
            self.rejections.pop(link.peer, None)
            self.contributions.append(Contribution(
                link.peer, link.name, said["steps"], tokens, loss, weight, len(content),
                "counted", f"{stale} rounds late" if stale else ""))
            link.send("verdict", version=said["version"], verdict=ACCEPTED, reason="")
        self.wake.set()

    def believed(self, link: Link, said: Dict[str, Any], now: float) -> int:
        """Characters that it trained on, as far as it was asked to and had the time for it. What it
        carried over from updates that came too late was asked for earlier."""
        made = said["steps"] * link.batch_size * self.job.config.block_size
        claimed = min(said["tokens"], max(made, self.asked[link.peer]))
        return believed_tokens(claimed, now - link.counted_at, len(self.weights))

    async def judge(self, link: Link, said: Dict[str, Any], verdict: Verdict) -> None:
        """Tell a peer, and write down, that its update does not count. The more were rejected in a
        row, the longer until it is heard again. Raises ProtocolError when it was one too many."""
        self.uploads.drop(link.peer)
        once = [c for c in self.contributions
                if (c.peer, c.verdict) != (link.peer, verdict.verdict)]
        self.contributions = [*once, Contribution(
            link.peer, link.name, said["steps"], said["tokens"], math.nan, 0.0, 0,
            verdict.verdict, verdict.reason)]
        self.standing.refuse(link.peer, verdict.verdict, verdict.reason, time.time())
        self.events.add("refused", peer=link.peer, verdict=verdict.verdict, reason=verdict.reason)
        link.send("verdict", version=said["version"], verdict=verdict.verdict,
                  reason=verdict.reason)
        if verdict.verdict == REJECTED:
            self.say("rejected", f"{link.name}: {verdict.reason}")
            self.rejections[link.peer] += 1
            if self.rejections[link.peer] >= MOST_REJECTED:
                self.barred[link.peer] = time.monotonic() + BARRED_SECONDS
                self.rejections.pop(link.peer)
                raise ProtocolError(f"{MOST_REJECTED} updates in a row could not be used. The "
                                    f"latest: {verdict.reason}")
            await asyncio.sleep(COOLING_SECONDS * self.rejections[link.peer])

    # What others may know

    async def send_status(self) -> None:
        while True:
            words = pack("status", version=self.rounds.version, peers=len(self.links),
                         loss=finite(self.loss), val_loss=finite(self.val_loss))
            for link in self.links.values():
                link.outbox.put_nowait(words)
            self.call_next()  # somebody may have stalled
            await asyncio.sleep(STATUS_SECONDS)

    def transferred(self, link: Link, direction: str, content: str, size: int) -> None:
        self.events.add("transfer", peer=link.peer, direction=direction, content=content,
                        bytes=size)

    async def publish(self) -> None:
        """Tell the pages what peers do as it changes, and once a second what was measured."""
        told: Dict[str, Tuple[str, int, int]] = {}
        measured = -math.inf
        while True:
            doing = {peer: self.doing(link) for peer, link in self.links.items()}
            for peer, (state, steps, quota) in doing.items():
                if told.get(peer) != doing[peer]:
                    self.events.add("peer", peer=peer, state=state, steps=steps, quota=quota)
            told = doing
            now = time.monotonic()
            if now - measured >= MEASURED_SECONDS:
                measured = now
                self.events.add("measured", **self.measured(), peers={
                    peer: [link.speed, link.up, link.down, link.latency,
                           *(self.standing.contributors[peer][field] for field in
                             ("tokens", "counted", "late", "rejected"))]
                    for peer, link in self.links.items()})
            await asyncio.sleep(PEER_SECONDS)

    def doing(self, link: Link) -> Tuple[str, int, int]:
        plan = self.rounds.plan
        return self.rounds.members[link.peer].state, link.steps, plan.quota if plan else 0

    def about(self, link: Link) -> Dict[str, Any]:
        """A peer, for the dashboard."""
        known = self.standing.contributors[link.peer]
        state, steps, quota = self.doing(link)
        return {
            "peer": link.peer, "name": link.name, "device": link.device,
            "kind": kind_of(link.device), "state": state, "steps": steps, "quota": quota,
            "speed": link.speed, "bytes_up": link.up, "bytes_down": link.down,
            "latency": link.latency, "joined": link.joined,
            "share": self.standing.share(link.peer),
            **{field: known[field] for field in ("tokens", "counted", "late", "rejected",
                                                 "reason")}}

    def measured(self) -> Dict[str, Any]:
        """The numbers of the run that change all the time."""
        standing, speed = self.standing, self.standing.speed if self.links else 0.0
        plan = self.rounds.plan if self.links else None  # a round that nobody makes waits
        paused = self.unwritten.get("round", "")
        phase = ("paused" if paused else "finished" if self.finished
                 else "committing" if self.rounds.closed else "training" if plan else "waiting")
        fastest = max(self.links.values(), key=lambda link: link.speed, default=None)
        if fastest and not fastest.speed:  # nobody has delivered yet
            fastest = None
        left = self.rounds.train_until - time.monotonic()
        return {
            "phase": phase, "paused": paused, "version": self.rounds.version, "step": self.step,
            "total": self.total,
            "round": plan and {"quota": plan.quota, "seconds": plan.seconds,
                               "left": max(0.0, left)},
            "seconds": self.seconds, "tokens": standing.tokens, "speed": speed,
            "remaining": plan and standing.remaining(self.total and self.total - self.step),
            "flops": speed * flops_per_character(self.job.config),
            "fastest": fastest and {"name": fastest.name, "speed": fastest.speed},
            "speedup": fastest and speed / fastest.speed,
            "bytes_up": self.bytes_up + sum(link.up for link in self.links.values()),
            "bytes_down": self.bytes_down + sum(link.down for link in self.links.values())}

    def state(self) -> Dict[str, Any]:
        """What the dashboard shows: measured, never invented."""
        contributors = self.standing.contributors.values()
        return {
            **self.measured(), "finished": self.finished, "started": self.standing.started,
            "loss": self.loss, "val_loss": self.val_loss, "best_val_loss": self.best,
            "evaluated": self.evaluated,
            "updates": {verdict: sum(about[verdict] for about in contributors)
                        for verdict in ("counted", "late", "rejected")},
            "peers": [self.about(link) for link in self.links.values()]}


def require_announceable(job: Job) -> None:
    """Raises GltchError for a run that no welcome message could describe."""
    try:
        pack("welcome", proof="0" * 64, peer="0" * 64, name="0" * protocol.NAME_LENGTH,
             token="0" * 64, counted=2**53, job=job.as_json())
    except ProtocolError:
        raise GltchError(f"The text has {len(job.characters):,} different characters, more than a "
                         "message to a peer can name: leave out what is not text.") from None


def commit_words(number: int, codec: str, result: str, update: str, size: int, step: int,
                 counted: bool) -> str:
    return pack("commit", version=number, weights=result, codec=codec, step=step, update=update,
                bytes=size, counted=counted)


def weighted_mean(pairs: Iterable[Tuple[float, float]]) -> float:
    """Mean of (value, weight) pairs, NaN when there are none."""
    known = list(pairs)
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else math.nan


def finite(value: float) -> Optional[float]:
    return value if abs(value) <= 1e6 else None  # JSON knows no NaN


def apply_bytes(weights: bytes, codec: str, update: bytes) -> bytes:
    return to_bytes(apply_update(from_bytes(weights), codec, update))


def checkpoint(job: Job, model: GLTCH, step: int, val_loss: float,
               folder: Path) -> Dict[str, Any]:
    """A finished network that `gltch_2_7m.py sample` and the others open."""
    return {"config": asdict(job.config), "recipe": asdict(job.recipe),
            "vocabulary": job.characters, "text": job.text,
            "paths": [str((folder / TEXT).resolve())], "step": step, "val_loss": val_loss,
            "ema": model.state_dict()}
