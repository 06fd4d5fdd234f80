"""What the dashboard's port answers: a fixed list of pages, facts as JSON, weights, live events.

Read-only: all it knows comes from a `Source`, and nothing that is asked here can change the run.
docs/api.md lists the addresses. Whatever takes longer than a moment runs in a worker thread.
"""
from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import math
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Dict,
    Iterable,
    Optional,
    Protocol,
)

from gltch_2_7m import GltchError
from hive.dashboard.downloads import Full, Shelf, Snapshot, Stored, open_stored
from hive.dashboard.metrics import metrics
from hive.dashboard.peer_file import peer_file
from hive.network.answers import (
    COMPILES,
    REASONS,
    Query,
    Refusal,
    Reply,
    as_refusal,
    demand,
    the_only,
)
from hive.network.door import Door, Places, file_limit
from hive.session.events import Events, finite
from hive.session.schema import Everybody, State

if TYPE_CHECKING:  # without websockets, a sentence still says what is missing
    from websockets.http11 import Request, Response

    from hive.network.guest import Guest

HERE = Path(__file__).resolve().parent.parent  # hive/
FILES = {  # address: file and content type
    "/": ("index.html", "text/html"), "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/join_colab.ipynb": ("join_colab.ipynb", "application/json"),
    "/page/peer/kernels.wasm": ("page/peer/kernels.wasm", "application/wasm"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in (
        "hive", *(f"page/{name}" for name in (
            "page", "state", "connection", "figures", "peers", "contributors", "samples", "join",
            "dom", "format", "network/network", "network/scene", "network/layout",
            "network/picture", "network/readout", "loss/chart", "loss/plot", "loss/history",
            "loss/curve", "loss/scale", "chat/chat", "chat/transcript", "chat/time",
            "chat/engine", "chat/worker", "chat/model", "chat/shelf", "chat/weights",
            "inside/inside", "inside/chances", "inside/heads", "inside/marked", "inside/shade",
            "inside/progress", "inside/surprise", "inside/tip",
            "tab/contribution", "tab/form", "tab/guest", "tab/means", "tab/reload", "tab/tab",
            "tab/trainer",
            "peer/cache", "peer/codec", "peer/conversation", "peer/crew", "peer/download",
            "peer/errands", "peer/errors", "peer/feedback", "peer/fragments", "peer/job",
            "peer/kernels", "peer/learner", "peer/network", "peer/offers", "peer/optimizer",
            "peer/outer", "peer/patience", "peer/peer", "peer/protocol", "peer/session",
            "peer/sha256", "peer/text", "peer/trainee", "peer/training_worker", "peer/update",
            "peer/uplink", "peer/windows", "peer/words", "peer/worker", "peer/workers")))}}
WORKERS = ("/page/peer/worker.js", "/page/peer/training_worker.js")  # that compile the kernels
EVENTS, PEERS = "/api/events", "/hive"  # WebSockets
PEER_FILE = "/peer.pyz"
REQUEST_SECONDS = 20.0  # for an answer to leave, on top of what its size takes
DOWNLOAD_SECONDS, SLOWEST = 1800.0, 50_000  # at most; bytes per second expected
MOST_PAGES = 64  # that listen to the events
MOST_DOWNLOADS = 16  # at a time; each holds a file and a piece of it
MOST_WAITING = 64  # requests for the worker thread; a slow one takes a tenth of a second
TRAVELLING_BYTES = 64 << 20  # of answers in memory, on their way to slow readers
EVENTS_SECONDS = 0.05  # between two messages with events
FAREWELL_SECONDS = 2.0  # for the pages to hear how it ended
BUSY = "Too many ask at once, or you do; try again in a moment."


class Source(Protocol):
    """Where the facts come from. `state`, `peers` and `snapshot` are asked in the event loop and
    answer at once, the others in a worker thread. Each raises GltchError for what is not there."""

    events: Events
    folder: Path

    def state(self) -> State: ...
    def peers(self) -> Everybody: ...
    def snapshot(self, version: Optional[int]) -> Snapshot: ...
    def history(self, first: Optional[int], last: Optional[int], points: int
                ) -> Dict[str, Any]: ...
    def samples(self, limit: int) -> Dict[str, Any]: ...
    def round(self, number: int) -> Dict[str, Any]: ...


class Web:
    """The dashboard's port. `names` are the names it answers to besides the obvious ones, and
    `peers` takes over a WebSocket at /hive, that of the page itself only if `browsers` may join."""

    def __init__(self, source: Source, names: Iterable[str] = (),
                 peers: Optional[Callable[[Guest], Awaitable[None]]] = None,
                 door: Optional[Door] = None, browsers: bool = True):
        self.source, self.serve_peer, self.browsers = source, peers, browsers
        self.latest_state, self.state_until = Reply("", b""), -math.inf
        own = socket.gethostname().lower()
        self.names = {"localhost", own, f"{own}.local", *(name.lower() for name in names)}
        self.pages: Dict[Guest, int] = {}  # and the number of the last event each was sent
        self.door = door or Door(file_limit())
        self.seats = Places(self.door, MOST_PAGES)
        self.downloads = Places(self.door, MOST_DOWNLOADS)
        self.travelling = Places(self.door, TRAVELLING_BYTES)
        self.waiting = Places(self.door, MOST_WAITING)
        self.shelf = Shelf(source.folder)
        self.reading = ThreadPoolExecutor(1, "web")
        self.making = ThreadPoolExecutor(1, "weights")
        self.sending = ThreadPoolExecutor(1, "downloads")

    # One request

    async def answer(self, connection: Guest, request: Request) -> Optional[Response]:
        """For websockets' `process_request`: a response, or None to open a WebSocket."""
        from websockets.datastructures import Headers
        from websockets.http11 import Response
        try:
            reply = await self.find(connection, request)
            if reply is None:
                return None
            self.reserve(self.travelling, connection, len(reply.content))
        except Refusal as error:
            reply = as_refusal(error.status, str(error))
        patience = REQUEST_SECONDS + reply.size / SLOWEST
        if reply.file and not connection.head_only:
            return await connection.send_file(reply, reply.file, patience, self.sending)
        connection.close_timeout = patience  # it bounds how long the answer may take
        return Response(reply.status, REASONS[reply.status], Headers(reply.all_headers),
                        b"" if connection.head_only else reply.content)

    def reserve(self, places: Places, connection: Guest, count: int = 1, sentence: str = BUSY
                ) -> None:
        """Until the connection is gone."""
        demand(places.take(connection, connection.address, count), 503, sentence)
        connection.when_gone.append(lambda: places.free(connection))

    async def find(self, connection: Guest, request: Request) -> Optional[Reply]:
        path, _, fields = request.path.partition("?")
        query, origin = Query(fields), the_only(request.headers, "Origin")
        host = the_only(request.headers, "Host") or ""
        own = origin in (f"http://{host}", f"https://{host}")
        if path == PEERS and self.serve_peer:
            demand(origin is None or own and self.knows(host), 403,
                   "Peers join here, not web pages of other sites.")
            demand(origin is None or self.browsers, 403, "This hive takes no browsers.")
            return None  # a stranger still, until it proves that it has the key
        demand(connection.visits(), 503, BUSY)
        demand(self.knows(host), 421, f"This dashboard is not known as {host[:100]!r}: start it "
               "with --allow-host and that name if it should be.")
        if path == EVENTS:
            demand(origin is None or own, 403, "The events are not for pages of other sites.")
            demand((the_only(request.headers, "Upgrade") or "").lower() == "websocket", 426,
                   "The events come over a WebSocket.")
            query.number("since", 0)  # says when it makes no sense
            self.reserve(self.seats, connection,
                         sentence="Too many pages are open; try again later.")
            return None
        answers = {"/api/state": self.state, "/api/history": self.history,
                   "/api/peers": self.peers, "/api/samples": self.samples,
                   "/metrics": self.metrics, "/healthz": self.health}
        if path in answers:
            return await answers[path](connection, query)
        if path.startswith("/api/rounds/"):
            return await self.round(connection, path[len("/api/rounds/"):])
        if path == "/model.safetensors":
            known = the_only(request.headers, "If-None-Match") or ""
            return await self.weights(connection, query, known)
        if path in ("/last.pt", "/best.pt"):
            return await self.checkpoint(connection, self.source.folder / path[1:])
        if path == PEER_FILE:
            return Reply("application/zip", await self.read(connection, peer_file))
        demand(path in FILES, 404, "There is nothing here.")
        name, kind = FILES[path]
        return Reply(f"{kind}; charset=utf-8", await self.read(
            connection, (HERE / name).read_bytes), headers=COMPILES if path in WORKERS else {})

    def knows(self, host: str) -> bool:
        """Is this one of our names? Another site could make its own name point to this machine to
        read the page (DNS rebinding). An address in digits is safe."""
        found = re.fullmatch(r"(\[[^][]*\]|[^][:]*)(:\d*)?", host)
        name = found.group(1).strip("[]").rstrip(".").lower() if found else ""
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name in self.names or any(
                name.endswith(known) for known in self.names if known.startswith("."))

    async def read(self, connection: Guest, task: Callable[..., Any], *values: Any) -> Any:
        """Off the event loop. Something that is not there becomes a 404."""
        demand(self.waiting.take(connection, connection.address), 503, BUSY)
        try:
            return await asyncio.get_running_loop().run_in_executor(self.reading, task, *values)
        except GltchError as error:
            raise Refusal(404, str(error)) from None
        except FileNotFoundError:
            raise Refusal(404, "There is nothing here yet.") from None
        finally:
            self.waiting.free(connection)

    # The addresses

    async def state(self, connection: Guest, query: Query) -> Reply:
        """Describing a large hive takes a while: at most a tenth of the time is spent on it."""
        began = time.monotonic()
        if began >= self.state_until:
            self.latest_state = as_json(self.source.state())
            self.state_until = began + 10 * (time.monotonic() - began)
        return self.latest_state

    async def peers(self, connection: Guest, query: Query) -> Reply:
        return as_json(self.source.peers())

    async def history(self, connection: Guest, query: Query) -> Reply:
        first, last = query.number("from", 0), query.number("to", 0)
        points = query.number("points", 1, 5000)
        return as_json(await self.read(connection, self.source.history, first, last,
                                       points or 600))

    async def samples(self, connection: Guest, query: Query) -> Reply:
        limit = query.number("limit", 1, 100) or 20
        return as_json(await self.read(connection, self.source.samples, limit))

    async def round(self, connection: Guest, number: str) -> Reply:
        demand(number.isdecimal() and len(number) < 16, 404, "A round has a number.")
        return as_json(await self.read(connection, self.source.round, int(number)))

    async def health(self, connection: Guest, query: Query) -> Reply:
        return Reply("text/plain; charset=utf-8", b"ok\n")

    async def metrics(self, connection: Guest, query: Query) -> Reply:
        return Reply("text/plain; version=0.0.4; charset=utf-8", metrics(self.source.state()))

    async def weights(self, connection: Guest, query: Query, known: str) -> Reply:
        try:
            snapshot = self.source.snapshot(query.number("round", 0))
        except GltchError as error:
            raise Refusal(404, str(error)) from None
        tag = {"ETag": f'W/"{snapshot.name}"'}  # weak: the validation loss may still be added
        if f'"{snapshot.name}"' in known:
            return Reply("application/octet-stream", b"", 304, tag)
        self.begin_download(connection)
        try:
            file = await asyncio.get_running_loop().run_in_executor(
                self.making, self.make, snapshot, connection)
        except GltchError as error:
            raise Refusal(500, str(error)) from None
        except OSError as error:  # no room on the disk
            raise Refusal(503, f"The weights could not be written down: {error.strerror}."
                          ) from None
        except Full:
            raise Refusal(503, "Others download so much that there is no room for more; try again "
                          "later.") from None
        return Reply("application/octet-stream", headers=tag, file=file)

    def make(self, snapshot: Snapshot, connection: Guest) -> Stored:
        """In the worker thread; a second request for the same weights finds them there."""
        demand(connection in self.downloads.taken, 503, "Nobody waits for this any more.")
        return self.shelf.find(snapshot)

    async def checkpoint(self, connection: Guest, path: Path) -> Reply:
        self.begin_download(connection)
        return Reply("application/octet-stream",
                     file=await self.read(connection, open_stored, path))

    def begin_download(self, connection: Guest) -> None:
        self.reserve(self.downloads, connection, sentence="Others are downloading just now, or you "
                     "are; try again in a moment.")

    async def stop(self) -> None:
        """Tell the pages how it ended; slow readers and downloads do not delay that."""
        patience = time.monotonic() + FAREWELL_SECONDS
        while time.monotonic() < patience and any(
                seq < self.source.events.seq for seq in self.pages.values()):
            await asyncio.sleep(EVENTS_SECONDS)
        deaf = [page for page, seq in self.pages.items() if seq < self.source.events.seq]
        for connection in [*self.downloads.taken, *deaf]:
            connection.abort()

    # WebSockets

    async def converse(self, connection: Guest) -> None:
        asked = connection.request.path if connection.request else ""
        path, _, fields = asked.partition("?")
        if path == EVENTS:
            await self.follow(connection, Query(fields))
        elif self.serve_peer:
            await self.serve_peer(connection)

    async def follow(self, page: Guest, query: Query) -> None:
        """Tell a page everything that happens, until it leaves."""
        from websockets.exceptions import ConnectionClosed
        session, seq = query.text("session"), query.number("since", 0)
        listening = asyncio.ensure_future(page.recv())
        self.pages[page] = -1
        try:
            while not listening.done():
                events = self.source.events
                batch = events.since(session, -1 if seq is None else seq)
                if batch is None:
                    batch = self.state_event(events)
                session, seq = events.session, events.seq
                if batch != "[]":
                    await page.send(batch)
                self.pages[page] = seq
                await asyncio.wait([listening], timeout=EVENTS_SECONDS)
            if not listening.exception():
                await page.close(1008, "A page only listens.")
        except ConnectionClosed:
            pass  # it left
        finally:
            del self.pages[page]
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def state_event(self, events: Events) -> str:
        state = {"seq": events.seq, "at": events.clock(), "type": "state", **self.source.state()}
        return f"[{json.dumps(finite(state), allow_nan=False)}]"


def as_json(value: Any) -> Reply:
    content = json.dumps(finite(value), allow_nan=False, separators=(",", ":")).encode()
    return Reply("application/json", content)


@contextlib.asynccontextmanager
async def pages(web: Web, tls: Optional[ssl.SSLContext] = None, **settings: Any
                ) -> AsyncIterator[int]:
    """Open the dashboard's port. Gives its number."""
    from hive.network.guest import listen
    async with listen(web.converse, web.door, tls, process_request=web.answer,
                      open_timeout=DOWNLOAD_SECONDS, **settings) as number:
        try:
            yield number
        finally:
            await web.stop()
