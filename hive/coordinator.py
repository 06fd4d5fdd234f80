"""The host of the coordinator's session: sockets, worker threads, clocks and files around it.

This file tells the session what happens and does what it answers, in order; it holds no rule of
the conversation. Three worker threads do what is slow: with updates, evaluations and trials.
"""
from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import secrets
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from gltch_2_7m import Corpus, GltchError, Progress
from hive.books import Books
from hive.evaluator import Evaluator, Prober, core_seconds
from hive.journal import Journal
from hive.learning.codec import to_bytes
from hive.learning.probe import TextGround
from hive.network.outbox import Connection
from hive.network.sockets import Frame, Socket
from hive.orders import make_place, taken
from hive.session import effects, protocol
from hive.session.coordinator_session import CoordinatorSession
from hive.session.effects import Lane, Moment, Work
from hive.session.events import Events
from hive.session.job import Job, nats
from hive.session.links import Link
from hive.session.protocol import Message, ProtocolError, pack, unpack
from hive.session.rounds import Pace
from hive.session.schema import Peer, Traffic
from hive.session.work import EVALUATIONS, PROBES, UPDATES
from hive.text import TEXT, given_bytes

ORDER_SECONDS = 0.5  # between two looks for what its owner wants


class Coordinator:
    """A run: its session, and everything that a session does not know. Books, evaluator and prober
    belong to one worker thread each; the journal takes turns by itself."""

    def __init__(self, job: Job, journal: Journal, corpus: Corpus, folder: Path, *, key: str = "",
                 pace: Optional[Pace] = None, least: int = 1, combination: str = "mean"):
        self.job, self.journal, self.folder, self.key = job, journal, folder, key
        self.books = Books(job, journal, secrets.randbits(63), combination=combination)
        evaluator = Evaluator(job, journal, corpus, folder)
        ground = TextGround(job.config, corpus.train, corpus.validation, job.recipe.seed)
        self.prober = Prober(ground, self.books.outer.fragments, core_seconds)
        weights = self.books.outer.weights
        self.session = CoordinatorSession(
            job, journal, weights, self.books.outer.hash, parameters=len(weights),
            update_bytes=self.books.update_bytes, token=functools.partial(secrets.token_hex, 32),
            pack_weights=to_bytes, text=functools.partial(given_bytes, job, folder / TEXT), key=key,
            pace=pace, least=least, probing=True)
        self.events = Events(secrets.token_hex(8), time.time)
        self.progress = Progress()
        self.connections: Dict[int, Connection] = {}
        self.numbers = itertools.count(1)  # for connections
        self.bytes_up = self.bytes_down = 0  # of connections that are gone
        self.lanes = {lane: ThreadPoolExecutor(1, lane) for lane in (UPDATES, EVALUATIONS, PROBES)}
        self.over: Future[None] = Future()
        self.packed: Dict[int, str] = {}  # messages of one answer, by their identity in memory
        self.timer: Optional[asyncio.TimerHandle] = None
        self.due = math.inf  # when the timer goes off
        self.doing: Dict[type, Callable[..., None]] = {
            effects.Send: self.send, effects.SendBlob: self.send_blob, effects.Do: self.do,
            effects.Proved: self.admit, effects.Close: self.close, effects.Pause: self.pause,
            effects.Event: self.tell, effects.Say: self.say, effects.Finish: self.finish,
            effects.Fail: self.fail}
        self.tasks: Dict[Work, Callable[..., Any]] = {
            "remember_peer": journal.remember_peer, "add": self.books.outer.add,
            "combine": self.books.combine, "keep": self.books.keep,
            "undo": self.books.undo, "probe": self.prober.probe,
            "snapshot": self.books.snapshot, "evaluate": evaluator.evaluate,
            "keep_evaluation": evaluator.keep_evaluation,
            "keep_checkpoint": evaluator.keep_checkpoint}

    # Telling the session what happens

    async def run(self) -> None:
        """Until the run is over. If cancelled, it keeps what there is first."""
        over = asyncio.wrap_future(self.over)
        make_place(self.folder)
        listening = asyncio.ensure_future(self.listen_to_owner())
        self.watch(listening)
        try:
            self.follow(self.session.begin)
            try:
                await asyncio.shield(over)
            except asyncio.CancelledError:
                self.follow(self.session.stop)
                await over
                raise
        finally:
            self.prober.stopped = True
            listening.cancel()
            if self.timer:
                self.timer.cancel()

    async def listen_to_owner(self) -> None:
        while True:
            for order in taken(self.folder):
                self.say("order", f"{order.kind} {order.value}")
                self.follow(self.session.ordered, *order)
            await asyncio.sleep(ORDER_SECONDS)

    async def serve(self, socket: Socket) -> None:
        """One connection, from its first message to its last."""
        from websockets.exceptions import ConnectionClosed
        number = next(self.numbers)
        connection = self.connections[number] = Connection(socket)
        try:
            self.react(self.session.connected, number, socket.address)
            async for message in socket:
                connection.up += len(message)
                if connection.deaf_until > time.monotonic():
                    await asyncio.sleep(connection.deaf_until - time.monotonic())
                if connection.closing:
                    break
                self.hear(number, connection, message)
        except ConnectionClosed:
            pass  # the usual end; the session says who it was
        except Exception:  # our mistake; it costs this connection, and nobody else would report it
            self.say("mistake", traceback.format_exc().rstrip())
            raise
        finally:
            self.follow(self.session.lost, number)
            try:
                await connection.gone()
            finally:
                del self.connections[number]
                self.bytes_up += connection.up
                self.bytes_down += connection.down

    def hear(self, number: int, connection: Connection, message: Frame) -> None:
        waiting, blobs = connection.waiting, connection.blobs
        if isinstance(message, bytes):
            self.react(functools.partial(self.session.chunk, waiting=waiting), number, message)
            return
        try:
            said = unpack(message)
        except ProtocolError as error:
            self.react(self.session.broken, number, str(error))
        else:
            self.react(functools.partial(self.session.heard, waiting=waiting, blobs=blobs), number,
                       said)

    def react(self, told: Callable[..., List[Any]], *values: Any) -> None:
        """Tell the session what happened, and do all that it answers, also if a part fails."""
        with contextlib.ExitStack() as doing:  # in the opposite order
            doing.callback(self.set_timer)
            doing.callback(self.packed.clear)
            for effect in reversed(told(*values, now())):
                doing.callback(self.doing[type(effect)], *effect)

    def follow(self, told: Callable[..., List[Any]], *values: Any) -> None:
        """The same where nobody else would notice an exception."""
        try:
            self.react(told, *values)
        except Exception as error:
            self.fail(error)

    def set_timer(self) -> None:
        if self.session.deadline != self.due:
            self.due = self.session.deadline
            if self.timer:
                self.timer.cancel()
            if self.due < math.inf:
                self.timer = asyncio.get_running_loop().call_later(
                    max(0.0, self.due - time.monotonic()), self.wake)

    def wake(self) -> None:
        self.due = math.inf
        self.follow(self.session.wake)

    def ended(self, ticket: int, work: asyncio.Future[Any]) -> None:
        error = None if work.cancelled() else work.exception()
        if isinstance(error, GltchError):
            self.follow(self.session.failed, ticket, error)
        elif error:
            self.fail(error)
        elif not work.cancelled():
            self.follow(self.session.done, ticket, work.result())

    # Doing what it answers

    def send(self, link: int, message: Message) -> None:
        if id(message) not in self.packed:  # once, however many hear it
            self.packed[id(message)] = pack(message["type"], **message)
        self.connections[link].send(self.packed[id(message)])

    def send_blob(self, link: int, what: str, blob: str, content: bytes, offset: int) -> None:
        self.connections[link].send_blob(protocol.chunks(blob, content, offset),
                                         functools.partial(self.sent, link, what))

    def pause(self, link: int, seconds: float) -> None:
        self.connections[link].deaf_until = time.monotonic() + seconds

    def admit(self, link: int) -> None:
        from websockets.exceptions import ConnectionClosed
        try:
            self.connections[link].socket.proved()
        except ConnectionClosed:  # there was no place for it
            answer = self.session.lost
        else:
            answer = self.session.admitted
        asyncio.get_running_loop().call_soon(self.follow, answer, link)

    def close(self, link: int, code: int, reason: str, last: Optional[Message]) -> None:
        word = pack(last["type"], **last) if last else None
        self.connections[link].close(code, reason, word)

    def do(self, ticket: int, lane: Lane, what: Work, values: Tuple[Any, ...]) -> None:
        asyncio.get_running_loop().run_in_executor(
            self.lanes[lane], self.tasks[what], *values
        ).add_done_callback(functools.partial(self.ended, ticket))

    def tell(self, kind: str, fields: Dict[str, Any]) -> None:
        if kind == "joined":
            fields = {"peer": self.about(self.session.links.peers[fields["peer"]["peer"]])}
        self.events.add(kind, **fields)
        if kind == "committed":
            self.show(fields)

    def say(self, kind: str, text: str) -> None:
        self.progress.say(f"{kind:<10}{text}")

    def finish(self, reason: str) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self.over.done():
            self.over.set_exception(error)

    def watch(self, task: asyncio.Future[Any]) -> None:
        """If this task fails, the run ends too."""
        def ended(_: asyncio.Future[Any]) -> None:
            error = None if task.cancelled() else task.exception()
            if error:
                self.fail(error)

        task.add_done_callback(ended)

    # What is shown

    def show(self, committed: Dict[str, Any]) -> None:
        """A round, on one line."""
        session, step, total = self.session, committed["step"], committed["total"]
        counted = [one for one in committed["contributions"] if one["verdict"] == "counted"]
        seconds = committed["committed"] - committed["opened"]  # 0: it began before a restart
        done = f"{step:,}/{total:,}" if total else f"{step:,}"
        self.progress.line(
            step / total if total else 0.0,
            f"after round {committed['version']:,}  step {done}  loss {nats(committed['loss'])}  "
            f"val {nats(session.evaluation.val_loss)}  "
            + (f"{sum(one['tokens'] for one in counted) / seconds:,.0f} chars/s  "
               if seconds else "") + f"{len(counted)} of {len(session.links.peers)} peers",
            always=bool(session.run.finished))

    def sent(self, number: int, what: str, size: int) -> None:
        link = self.session.links.proved[number]
        self.events.add("transfer", peer=link.peer, direction="down", content=what, bytes=size)

    def about(self, link: Link) -> Peer:
        connection = self.connections[link.number]
        return {**self.session.about(link), "bytes_up": connection.up,
                "bytes_down": connection.down, "latency": connection.latency}

    def transferred(self) -> Traffic:
        """Bytes on the wire, since the coordinator was started."""
        there = self.connections.values()
        return {"bytes_up": self.bytes_up + sum(one.up for one in there),
                "bytes_down": self.bytes_down + sum(one.down for one in there)}


def now() -> Moment:
    return Moment(time.monotonic(), time.time())
