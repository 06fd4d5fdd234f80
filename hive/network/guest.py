"""A connection to either port, from the moment it is accepted: what it may send, and how fast.

websockets does the protocol. What it leaves open is here: the door decides who may stay before
anything is read, requests are bounded in time and size, floods are seen off, and a long answer
leaves in pieces. TLS begins here too, so that the door also sees connections that never finish its
handshake.
"""
from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import ssl
from concurrent.futures import Executor
from typing import Any, AsyncIterator, Awaitable, Callable, List, Optional, Set

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State

from hive.network.answers import PIECE_BYTES, File, Reply, as_refusal
from hive.network.door import Door
from hive.network.throttle import Bucket

REQUEST_SECONDS = 20.0  # for a request to arrive, and TLS before it
REQUEST_BYTES = 16 * 1024  # ours are below 1 kB; browsers and proxies add a few
SLICE_BYTES = 4096  # looked at in one go: as many pings as can do no harm before they are counted
SMALL_BYTES = 1024  # frames below cost a token: they cost us more than the sender
STRANGER_FRAMES, STRANGER_RATE = 30.0, 1.0  # one message is all it takes to show who one is
STRANGER_BYTES, STRANGER_SPEED = 16 * 1024.0, 100.0  # unfinished messages are held in memory
PEER_FRAMES, PEER_RATE = 2000.0, 500.0  # a peer sends about ten small messages a round
UNREAD_COST = 50.0  # tokens for a ping while what we sent is not read: answers would pile up
MOST_FRAGMENTS = 1024  # of one message; peers send none, but a proxy may
LAST_SECONDS = 2.0  # to hear why one is seen off
BACKLOG = 128  # connections that wait, in the system, to be accepted
CONTROL = (Opcode.PING, Opcode.PONG, Opcode.CLOSE)


class Guest(ServerConnection):
    """One connection. `address` says who it is: behind a trusted proxy, the forwarded address."""

    def __init__(self, *values: Any, door: Door, tls: Optional[ssl.SSLContext],
                 here: Set[Guest], **settings: Any):
        super().__init__(*values, **settings)
        self.door, self.tls, self.here = door, tls, here
        self.wire: Any = None  # below TLS
        self.address = "?"
        self.head_only = False  # the request was HEAD
        self.begun = self.leaving = False
        self.line: Any = None  # where to read and write, once TLS has begun
        self.head = bytearray()  # of the request, until it is complete
        self.bucket = Bucket(STRANGER_FRAMES, STRANGER_RATE)
        self.bytes: Optional[Bucket] = Bucket(STRANGER_BYTES, STRANGER_SPEED)
        self.fragments = 0  # of the message that is arriving
        self.securing: Optional[asyncio.Task[None]] = None  # TLS; a task lives while it has a name
        self.deadline: Optional[asyncio.TimerHandle] = None  # when it is cut off
        self.when_gone: List[Callable[[], object]] = []

    # It comes

    def connection_made(self, transport: Any) -> None:
        self.wire = transport
        self.address = (transport.get_extra_info("peername") or ("?",))[0]
        self.here.add(self)
        self.give(REQUEST_SECONDS)
        for other in self.door.come(self, self.address):
            other.abort()
        if self.tls:
            self.securing = self.loop.create_task(self.secure(self.tls))
        else:
            self.line = transport

    async def secure(self, tls: ssl.SSLContext) -> None:
        try:
            transport = await self.loop.start_tls(
                self.wire, self, tls, server_side=True, ssl_handshake_timeout=REQUEST_SECONDS)
        except (OSError, asyncio.TimeoutError):  # no TLS, another idea of it, or already gone
            transport = None
        if transport is None or self.wire.is_closing():
            self.abort()
            self.gone()
            return
        self.line = transport
        early, self.head = bytes(self.head), bytearray()  # it came with the end of TLS' handshake
        if early:
            self.data_received(early)

    def begin(self, request: bytes) -> None:
        """It has asked for something, and only now does websockets hear of it: a connection that
        says nothing costs no task and no handshake."""
        super().connection_made(self.line)
        self.begun = True
        super().data_received(request)

    def eof_received(self) -> None:
        if self.begun:
            super().eof_received()

    def give(self, seconds: Optional[float]) -> None:
        """Cut it off after these; None: it may stay."""
        if self.deadline:
            self.deadline.cancel()
        self.deadline = None if seconds is None else self.loop.call_later(seconds, self.abort)

    def abort(self) -> None:
        self.wire.abort()

    # It goes

    def connection_lost(self, error: Optional[Exception]) -> None:
        self.gone()
        if self.begun:
            super().connection_lost(error)

    def gone(self) -> None:
        self.give(None)  # the deadline would keep this connection, and its answer, in memory
        self.door.leave(self)
        self.here.discard(self)
        for call in self.when_gone:
            call()
        self.when_gone.clear()

    def see_off(self, last_words: bytes = b"") -> None:
        """Say a last thing, read nothing more, and be rid of it soon."""
        self.leaving = True
        self.line.pause_reading()
        if last_words:
            self.line.write(last_words)
            if self.line.can_write_eof():
                self.line.write_eof()
        self.give(LAST_SECONDS)

    def fail(self, code: int, reason: str) -> None:
        self.protocol.fail(code, reason)
        self.send_data()
        self.see_off()

    # It shows who it is

    def proved(self) -> None:
        """It has the key: a peer from now on. Raises ConnectionClosed when there is no room."""
        if self.door.join(self, self.address):
            self.bucket, self.bytes = Bucket(PEER_FRAMES, PEER_RATE), None
            return
        reason = "This hive has no place for another peer now; try again later."
        self.fail(1013, reason)
        raise ConnectionClosedError(None, Close(1013, reason))

    def visits(self) -> bool:
        """It asked for something. Is there room for the answer?"""
        return self.door.visit(self, self.address)

    # It says something

    def data_received(self, data: bytes) -> None:
        if self.leaving:
            return
        if self.begun:
            if self.state is not State.CONNECTING:  # until it is answered it has nothing to say
                self.read_frames(data)
            return
        searched = max(0, len(self.head) - 3)
        self.head += data
        if self.line and not self.head[:1].isupper():  # TLS, perhaps, whose head has no end
            self.refuse(400, "This is no HTTP request.")
        elif self.line and self.head.find(b"\r\n\r\n", searched) >= 0:
            head, self.head = bytes(self.head), bytearray()
            self.read_request(head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        elif len(self.head) > REQUEST_BYTES:
            self.refuse(431, "The request is too long.") if self.line else self.abort()

    def read_request(self, head: bytes) -> None:
        """websockets 13 knows only GET, newer ones do not mind what else it says."""
        line = re.match(rb"([A-Z]{1,20})( [^ \r\n]+ HTTP/1\.[01]\r\n)", head)
        if not line or len(head) > REQUEST_BYTES:
            self.refuse(*(431, "The request is too long.") if line else (
                400, "This is no HTTP request."))
        elif line.group(1) not in (b"GET", b"HEAD"):
            self.refuse(405, "Only GET and HEAD are answered.")
        else:
            self.head_only = line.group(1) == b"HEAD"
            self.begin(b"GET" + head[line.end(1):])

    def refuse(self, status: int, sentence: str) -> None:
        reply = as_refusal(status, sentence)
        self.see_off(reply.head() + reply.content)

    def process_event(self, event: Any) -> None:
        if self.request is None:
            self.give(None)
            self.comes_for(self.door.who(self.address, ", ".join(
                event.headers.get_all("X-Forwarded-For"))))
        elif self.leaving or not self.allowed(event):
            return
        super().process_event(event)

    def comes_for(self, address: str) -> None:
        if address != self.address:
            self.address = address
            self.door.forget(self)
            for other in self.door.come(self, address):
                other.abort()

    def read_frames(self, data: bytes) -> None:
        """In slices: 256 KiB, which may come at once, could be 40,000 pings."""
        if self.bytes and not self.bytes.take(len(data), self.loop.time()):
            self.fail(1009, "That is more than a stranger has to say.")
        for start in range(0, len(data), SLICE_BYTES):
            if self.leaving:
                return
            super().data_received(data[start: start + SLICE_BYTES])

    def allowed(self, frame: Frame) -> bool:
        """Large frames are free, many small ones are a flood."""
        if frame.opcode not in CONTROL:
            self.fragments = 0 if frame.fin else self.fragments + 1
            if self.fragments > MOST_FRAGMENTS:
                self.fail(1008, "A message came in too many pieces.")
                return False
        if frame.opcode in CONTROL or len(frame.data) < SMALL_BYTES:
            cost = UNREAD_COST if self.paused and frame.opcode is Opcode.PING else 1.0
            if not self.bucket.take(cost, self.loop.time()):
                self.fail(1008, "Too many small messages came at once.")
                return False
        return True

    # It is answered

    async def send_file(self, reply: Reply, file: File, patience: float, threads: Executor
                        ) -> Response:
        """Send an answer piece by piece, as fast as it is taken and within a time. Gives what
        websockets takes for an answer."""
        until = self.loop.time() + patience
        self.transport.write(reply.head())
        try:
            for start in range(0, file.size, PIECE_BYTES):
                piece = await self.loop.run_in_executor(threads, file.piece, start)
                if self.transport.is_closing():
                    break
                self.transport.write(piece)
                await asyncio.wait_for(self.drain(), until - self.loop.time())
        except (OSError, asyncio.TimeoutError):  # it left, or takes too long
            self.abort()
        except asyncio.CancelledError:  # longer than any answer may take; websockets 13 would wait
            self.abort()
            raise
        return Sent(reply.status, "", Headers())


class Sent(Response):
    """An answer that has already left."""

    def serialize(self) -> bytes:
        return b""


@contextlib.asynccontextmanager
async def listen(handler: Callable[[Guest], Awaitable[None]], door: Door,
                 tls: Optional[ssl.SSLContext] = None, **settings: Any) -> AsyncIterator[int]:
    """Open a port for guests. Gives its number."""
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # we say ourselves what matters
    here: Set[Guest] = set()
    arrive: Any = functools.partial(Guest, door=door, tls=tls, here=here)
    handle: Any = handler  # it only ever gets what `arrive` makes
    async with serve(handle, create_connection=arrive, compression=None, server_header=None,
                     backlog=door.accepted, **settings) as server:
        for listening in server.sockets:  # asyncio has one number for accepting and for waiting
            with listening.dup() as same:
                same.listen(BACKLOG)
        try:
            yield list(server.sockets)[0].getsockname()[1]
        finally:
            for guest in list(here):  # websockets tells the others; these would only delay the end
                if not guest.begun or guest.state is State.CONNECTING:
                    guest.abort()
